//! From a fresh connection to its start-up packet.

use super::approach::{Approach, Channel};
use super::client_tls::{ClientEncryption, ClientTls};
use super::proxied::{TrustedProxies, source_of};
use crate::base::sqlstate;
use crate::sys::{Peer, Socket};
use crate::wire::message::Complaint;
use crate::wire::proxy::ProxyError;
use crate::wire::startup::{Opening, Refusal, Request, Startup};
use bytes::{Bytes, BytesMut};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

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

/// Reads what the client at `peer` wants within `timeout`, doing TLS on the way as `encryption` says. One of
/// `proxies` says first for whom it connects.
pub async fn open(
    socket: Socket,
    peer: Peer,
    encryption: &ClientEncryption,
    proxies: &TrustedProxies,
    timeout: Duration,
) -> Result<Opened, OpenError> {
    let opening = opened(socket, peer, encryption, proxies);
    tokio::time::timeout(timeout, opening).await.unwrap_or(Err(OpenError::Timeout(timeout)))
}

/// The next thing that the client asks for.
async fn next(socket: &mut Socket, opening: &mut Opening) -> Result<Request, OpenError> {
    match std::future::poll_fn(|cx| poll_request(socket, opening, cx)).await.map_err(OpenError::Gone)? {
        Ok(request) => Ok(request),
        Err(Refusal::Hangup(why)) => Err(OpenError::NotOurs(why)),
        Err(refusal @ Refusal::Told { .. }) => {
            let complaint = Complaint::from_startup(&refusal).expect("Told has words");
            Err(refuse(socket, complaint).await)
        }
    }
}

/// Reads until it is known. Who says nothing yet keeps no buffer.
fn poll_request(
    socket: &mut Socket,
    opening: &mut Opening,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Result<Request, Refusal>>> {
    let mut bytes = [MaybeUninit::uninit(); 1024];
    loop {
        let mut buffer = ReadBuf::uninit(&mut bytes);
        ready!(Pin::new(&mut *socket).poll_read(cx, &mut buffer))?;
        if buffer.filled().is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some(request) = opening.push(buffer.filled()).transpose() {
            return Poll::Ready(Ok(request));
        }
    }
}

async fn opened(
    mut socket: Socket,
    peer: Peer,
    encryption: &ClientEncryption,
    proxies: &TrustedProxies,
) -> Result<Opened, OpenError> {
    let mut approach = Approach::in_clear(peer);
    if proxies.include(approach.peer) {
        approach.peer = source_of(&mut socket).await?;
    }
    let mut opening = Opening::new();
    loop {
        let request = next(&mut socket, &mut opening).await?;
        let is_tcp = matches!(socket, Socket::Tcp(_));
        match (request, encryption.tls().filter(|_| is_tcp)) {
            // In boxes: a handshake takes more room than all the rest of a log-in.
            (Request::Ssl, Some(tls)) => return Box::pin(encrypted(socket, approach, tls, None)).await,
            (Request::DirectTls, Some(tls)) => {
                let already_read = Bytes::from(opening.into_rest());
                return Box::pin(encrypted(socket, approach, tls, Some(already_read))).await;
            }
            (Request::DirectTls, None) => {
                return Err(OpenError::NotOurs("direct TLS, but TLS is not configured"));
            }
            (Request::Ssl | Request::GssEnc, _) => {
                socket.write_all(b"N").await.map_err(OpenError::Gone)?;
                opening.declined();
            }
            (Request::Cancel { pid, secret }, _) => return Ok(Opened::Cancel { socket, pid, secret }),
            (Request::Start(startup), _) => {
                if is_tcp && matches!(encryption, ClientEncryption::Required(_)) {
                    let complaint =
                        Complaint::fatal(sqlstate::INVALID_AUTHORIZATION, "this server requires TLS")
                            .hint("Set sslmode=require, or a stricter mode, in the connection string.");
                    return Err(refuse(&mut socket, complaint).await);
                }
                let buffered = BytesMut::from(opening.into_rest().as_slice());
                return Ok(Opened::Session { socket, approach, startup, buffered });
            }
        }
    }
}

/// The handshake, and what the client wants inside TLS. `already_read` is what a direct one began
/// with; `None` where the client asked first.
async fn encrypted(
    socket: Socket,
    mut approach: Approach,
    tls: &ClientTls,
    already_read: Option<Bytes>,
) -> Result<Opened, OpenError> {
    let Socket::Tcp(mut tcp) = socket else { return Err(OpenError::NotOurs("TLS is for TCP only")) };
    let mut socket = match already_read {
        Some(already_read) => tls.accept_direct(tcp, already_read).await,
        None => {
            tcp.write_all(b"S").await.map_err(OpenError::Gone)?;
            tls.accept_asked(tcp).await
        }
    }
    .map_err(OpenError::Tls)?;
    approach.channel = Channel::Tls(Box::new(tls.channel(&socket)));
    let mut opening = Opening::inside_tls();
    match next(&mut socket, &mut opening).await? {
        Request::Cancel { pid, secret } => Ok(Opened::Cancel { socket, pid, secret }),
        Request::Start(startup) => {
            let buffered = BytesMut::from(opening.into_rest().as_slice());
            Ok(Opened::Session { socket, approach, startup, buffered })
        }
        Request::Ssl | Request::GssEnc | Request::DirectTls => {
            Err(OpenError::NotOurs("encryption was asked for inside TLS"))
        }
    }
}

async fn refuse(socket: &mut Socket, complaint: Complaint) -> OpenError {
    // Whether the client still hears it changes nothing.
    let _ = socket.write_all(&complaint.to_bytes()).await;
    let _ = socket.shutdown().await;
    OpenError::Refused(complaint)
}
