//! How a client came.

use crate::sys::Peer;
use crate::wire::certificate::Names;
use std::sync::Arc;

/// From where, and through what.
#[derive(Debug, Clone)]
pub struct Approach {
    /// The other end; behind a load balancer that says so, the client itself.
    pub peer: Peer,
    /// Whether others can read along.
    pub channel: Channel,
}

impl Approach {
    /// In clear text.
    pub fn in_clear(peer: Peer) -> Self {
        Self { peer, channel: Channel::Clear }
    }

    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self.channel, Channel::Tls(_))
    }

    /// The hash that SCRAM can be bound to.
    pub(super) fn end_point(&self) -> Option<&[u8]> {
        match &self.channel {
            Channel::Tls(tls) => tls.end_point.as_deref(),
            Channel::Clear => None,
        }
    }

    /// The names in the client's certificate, if it has shown one; we have checked who signed it.
    pub(super) fn certificate(&self) -> Option<&Names> {
        match &self.channel {
            Channel::Tls(tls) => tls.certificate.as_ref(),
            Channel::Clear => None,
        }
    }
}

/// What lies between the client and us.
#[derive(Debug, Clone)]
pub enum Channel {
    /// Nothing: TCP in clear text, or a Unix socket.
    Clear,
    /// TLS.
    Tls(Box<TlsChannel>),
}

/// What is known of a TLS channel.
#[derive(Debug, Clone, Default)]
pub struct TlsChannel {
    /// The hash of our certificate, where it has one.
    pub end_point: Option<Arc<[u8]>>,
    /// Whom the client's certificate names.
    pub certificate: Option<Names>,
}
