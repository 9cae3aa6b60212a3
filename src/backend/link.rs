//! The raw, logged-in connection that a session relays over.

use super::endpoint::Endpoint;
use crate::sys::Socket;
use crate::wire::report::Report;
use bytes::{Bytes, BytesMut};

/// A connection that has been logged in and has said ReadyForQuery.
#[derive(Debug)]
pub struct Link {
    /// The socket, registered with the runtime that connected it.
    pub stream: Socket,
    /// What ParameterStatus reported during the log-in, in its order. Later reports replace.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
    /// The back end's process id; 0 when the server sent no BackendKeyData.
    pub pid: i32,
    /// The back end's cancel key: 4 bytes today, up to 256 under protocol 3.2.
    pub secret: Vec<u8>,
    /// The first warnings that came during the log-in (a collation mismatch, for example).
    pub notices: Vec<Report>,
    /// What the server sent behind ReadyForQuery already; the relay has to look at it first.
    pub leftover: BytesMut,
    /// Where we are connected.
    pub endpoint: Endpoint,
}

impl Link {
    /// The value last reported for a parameter.
    pub fn parameter(&self, name: &str) -> Option<&[u8]> {
        self.parameters.iter().rev().find(|(n, _)| n == name.as_bytes()).map(|(_, value)| value.as_slice())
    }

    pub(super) fn set_parameter(&mut self, body: &Bytes) -> Option<()> {
        let end = memchr::memchr(0, body)?;
        let (name, rest) = (&body[..end], &body[end + 1..]);
        let value = &rest[..memchr::memchr(0, rest)?];
        match self.parameters.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value.to_vec(),
            None => self.parameters.push((name.to_vec(), value.to_vec())),
        }
        Some(())
    }
}
