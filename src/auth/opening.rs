//! From a fresh connection to its start-up packet.

use super::approach::{Approach, Channel};
use super::client_tls::ClientEncryption;
use super::proxied::{TrustedProxies, source_of};
use crate::base::sqlstate;
use crate::sys::{Peer, Socket};
use crate::wire::message::Complaint;
use crate::wire::proxy::ProxyError;
use crate::wire::startup::{Opening, Refusal, Request, Startup};
use bytes::{Bytes, BytesMut};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What a client turned out to want.
#[derive(Debug)]
pub enum Opened {
    /// A session.
    Session {
        /// The connection, encrypted where that was agreed.
        socket: Socket,
        /// How it came.
        approach: Approach,
        /// What it asks for.
        startup: Startup,
        /// What it has sent behind the start-up packet already.
        buffered: BytesMut,
    },
    /// A cancel. Forward it even when the client hangs up, then drop the socket: the client
    /// waits for that, and gets no other answer.
    Cancel {
        /// The connection.
        socket: Socket,
        /// Process id that we gave out.
        pid: i32,
        /// Key that we gave out.
        secret: Vec<u8>,
    },
}

/// Why a connection was not opened. The client has been told what it may know; this is for the
/// log.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Hung up without a word: not our protocol.
    #[error("{0}")]
    NotOurs(&'static str),
    /// Refused, and told why.
    #[error("{0}")]
    Refused(Complaint),
    /// The handshake failed.
    #[error("TLS handshake with a client failed: {0}")]
    Tls(#[source] io::Error),
    /// A load balancer that has to say for whom it connects did not.
    #[error("{peer}: {source}")]
    Proxied {
        /// Who.
        peer: Peer,
        /// What is wrong.
        #[source]
        source: ProxyError,
    },
    /// The client went away before it had said what it wants.
    #[error("the client went away: {0}")]
    Gone(#[source] io::Error),
    /// The client took too long.
    #[error("no start-up packet within {0:?}")]
    Timeout(Duration),
}

/// Reads what the client wants, doing TLS on the way as `encryption` says, within `timeout`. One of
/// `proxies` says first for whom it connects.
pub async fn open(
    socket: Socket,
    encryption: &ClientEncryption,
    proxies: &TrustedProxies,
    timeout: Duration,
) -> Result<Opened, OpenError> {
    tokio::time::timeout(timeout, opened(socket, encryption, proxies))
        .await
        .unwrap_or(Err(OpenError::Timeout(timeout)))
}

async fn opened(
    mut socket: Socket,
    encryption: &ClientEncryption,
    proxies: &TrustedProxies,
) -> Result<Opened, OpenError> {
    let mut approach = Approach::in_clear(socket.peer());
    if proxies.include(approach.peer) {
        approach.peer = source_of(&mut socket).await?;
    }
    let mut opening = Opening::new();
    let mut buf = [0; 1024];
    loop {
        let n = socket.read(&mut buf).await.map_err(OpenError::Gone)?;
        if n == 0 {
            return Err(OpenError::Gone(io::ErrorKind::UnexpectedEof.into()));
        }
        let request = match opening.push(&buf[..n]) {
            Ok(None) => continue,
            Ok(Some(request)) => request,
            Err(Refusal::Hangup(why)) => return Err(OpenError::NotOurs(why)),
            Err(refusal @ Refusal::Told { .. }) => {
                let complaint = Complaint::from_startup(&refusal).expect("Told has words");
                return Err(refuse(socket, complaint).await);
            }
        };
        match (request, encryption.tls(), socket) {
            (Request::Ssl, Some(tls), Socket::Tcp(mut tcp)) => {
                tcp.write_all(b"S").await.map_err(OpenError::Gone)?;
                socket = tls.accept_asked(tcp).await.map_err(OpenError::Tls)?;
                approach.channel = Channel::Tls(Box::new(tls.channel(&socket)));
                opening = Opening::inside_tls();
            }
            (Request::Ssl | Request::GssEnc, _, mut clear) => {
                clear.write_all(b"N").await.map_err(OpenError::Gone)?;
                opening.declined();
                socket = clear;
            }
            (Request::DirectTls, Some(tls), Socket::Tcp(tcp)) => {
                let already_read = Bytes::from(opening.into_rest());
                socket = tls.accept_direct(tcp, already_read).await.map_err(OpenError::Tls)?;
                approach.channel = Channel::Tls(Box::new(tls.channel(&socket)));
                opening = Opening::inside_tls();
            }
            (Request::DirectTls, _, _) => {
                return Err(OpenError::NotOurs("direct TLS, but TLS is not configured"));
            }
            (Request::Cancel { pid, secret }, _, socket) => {
                return Ok(Opened::Cancel { socket, pid, secret });
            }
            (Request::Start(startup), _, socket) => {
                return match (encryption, &socket) {
                    (ClientEncryption::Required(_), Socket::Tcp(_)) => {
                        let complaint =
                            Complaint::fatal(sqlstate::INVALID_AUTHORIZATION, "this server requires TLS")
                                .hint("Set sslmode=require, or a stricter mode, in the connection string.");
                        Err(refuse(socket, complaint).await)
                    }
                    _ => {
                        let buffered = BytesMut::from(opening.into_rest().as_slice());
                        Ok(Opened::Session { socket, approach, startup, buffered })
                    }
                };
            }
        }
    }
}

async fn refuse(mut socket: Socket, complaint: Complaint) -> OpenError {
    // Whether the client still hears it changes nothing.
    let _ = socket.write_all(&complaint.to_bytes()).await;
    let _ = socket.shutdown().await;
    OpenError::Refused(complaint)
}
