//! A connected stream that can be moved between runtimes.

use super::straight;
use super::unix::UnixSocket;
use crate::config::Tuning;
use bytes::{Buf, Bytes};
use socket2::{SockRef, TcpKeepalive};
use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

/// A connection to a client or to a server. On TCP and Unix sockets reading and writing costs one
/// match; TLS keeps its state in a box.
///
/// A tokio socket belongs to the runtime it was made in. Links are made on the control runtime and used
/// on that of a data thread: [`Socket::detach`] takes the socket out of the one, [`Detached::attach`] puts
/// it into the other. What TLS has buffered travels along.
///
/// Whoever writes has to flush: a TLS write that would block is kept in TLS and counts as written,
/// and the first write after `attach` always would. On TCP and Unix sockets flushing is free.
#[derive(Debug)]
pub enum Socket {
    /// Clear text over TCP.
    Tcp(TcpStream),
    /// Clear text over a Unix socket.
    Unix(UnixSocket),
    /// TLS in which we are the client: a link to a server.
    TlsClient(Box<client::TlsStream<Carrier>>),
    /// TLS in which we are the server: a client's connection.
    TlsServer(Box<server::TlsStream<Carrier>>),
}

/// A [`Socket`] that belongs to no runtime. `Send`, and of no use until it is attached.
#[derive(Debug)]
pub enum Detached {
    /// Clear text over TCP.
    Tcp(std::net::TcpStream),
    /// Clear text over a Unix socket.
    Unix(std::os::unix::net::UnixStream),
    /// The TLS state, its carrier emptied, and the carrier's socket.
    TlsClient(Box<client::TlsStream<Carrier>>, std::net::TcpStream),
    /// The TLS state, its carrier emptied, and the carrier's socket.
    TlsServer(Box<server::TlsStream<Carrier>>, std::net::TcpStream),
}

/// Who is at the other end, for logs and `pg_stat_activity`-like listings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Address and port.
    Tcp(SocketAddr),
    /// A process of this machine, with its user id where the kernel tells.
    Unix {
        /// Effective user id of the process that connected.
        uid: Option<u32>,
    },
    /// The connection is broken already.
    Unknown,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix { uid: Some(uid) } => write!(f, "unix socket (uid {uid})"),
            Peer::Unix { uid: None } => f.write_str("unix socket"),
            Peer::Unknown => f.write_str("unknown peer"),
        }
    }
}

impl Socket {
    /// Takes the socket out of the current runtime. Fails only when the socket cannot be
    /// deregistered; the connection is closed then.
    pub fn detach(self) -> io::Result<Detached> {
        Ok(match self {
            Socket::Tcp(tcp) => Detached::Tcp(tcp.into_std()?),
            Socket::Unix(unix) => Detached::Unix(unix.into_std()),
            Socket::TlsClient(mut tls) => {
                let tcp = tls.get_mut().0.take()?.into_std()?;
                Detached::TlsClient(tls, tcp)
            }
            Socket::TlsServer(mut tls) => {
                let tcp = tls.get_mut().0.take()?.into_std()?;
                Detached::TlsServer(tls, tcp)
            }
        })
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        match self.tcp() {
            Some(tcp) => tcp.peer_addr().map_or(Peer::Unknown, Peer::Tcp),
            None => match self {
                Socket::Unix(unix) => unix.peer(),
                Socket::Tcp(_) | Socket::TlsClient(_) | Socket::TlsServer(_) => Peer::Unknown,
            },
        }
    }

    /// Which address of ours the other end has connected to.
    pub fn local(&self) -> Peer {
        match self.tcp() {
            Some(tcp) => tcp.local_addr().map_or(Peer::Unknown, Peer::Tcp),
            None => Peer::Unix { uid: None },
        }
    }

    /// The version of TLS and the cipher, where what passes is encrypted.
    pub fn tls_in_use(&self) -> Option<String> {
        let common: &rustls::CommonState = match self {
            Socket::Tcp(_) | Socket::Unix(_) => return None,
            Socket::TlsClient(tls) => tls.get_ref().1,
            Socket::TlsServer(tls) => tls.get_ref().1,
        };
        let version = common.protocol_version()?.as_str()?.replace('_', ".");
        let suite = common.negotiated_cipher_suite()?.suite();
        Some(format!("{version}/{}", suite.as_str().unwrap_or("unknown")))
    }

    /// Whether what passes is encrypted.
    pub fn is_encrypted(&self) -> bool {
        match self {
            Socket::Tcp(_) | Socket::Unix(_) => false,
            Socket::TlsClient(_) | Socket::TlsServer(_) => true,
        }
    }

    /// Sends small writes at once; nothing to do on Unix sockets.
    pub fn set_nodelay(&self) -> io::Result<()> {
        self.tcp().map_or(Ok(()), |tcp| tcp.set_nodelay(true))
    }

    /// Says when the other end is given up; nothing to do on Unix sockets.
    pub fn tune(&self, tuning: &Tuning) -> io::Result<()> {
        self.tcp().map_or(Ok(()), |tcp| tune(&SockRef::from(tcp), tuning))
    }

    /// Reads once into `room`: how many bytes, 0 at the end of the stream. For a caller that bounds by itself
    /// how often it reads in one poll; a socket that always has more never makes it wait.
    #[inline]
    pub fn poll_recv(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Socket::Tcp(tcp) => straight::poll_recv(tcp, cx, room),
            Socket::Unix(unix) => unix.poll_recv(cx, room),
            Socket::TlsClient(_) | Socket::TlsServer(_) => {
                let mut buffer = ReadBuf::new(room);
                ready!(Pin::new(self).poll_read(cx, &mut buffer))?;
                Poll::Ready(Ok(buffer.filled().len()))
            }
        }
    }

    /// Writes once: how many of the bytes were taken. For a caller that bounds by itself how much it writes
    /// in one poll.
    #[inline]
    pub fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Socket::Tcp(tcp) => straight::poll_send(tcp, cx, bytes),
            Socket::Unix(unix) => unix.poll_send(cx, bytes),
            Socket::TlsClient(_) | Socket::TlsServer(_) => Pin::new(self).poll_write(cx, bytes),
        }
    }

    /// The TCP socket underneath, for socket options.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Socket::Tcp(tcp) => Some(tcp),
            Socket::Unix(_) => None,
            Socket::TlsClient(tls) => tls.get_ref().0.tcp.as_ref(),
            Socket::TlsServer(tls) => tls.get_ref().0.tcp.as_ref(),
        }
    }
}

impl Detached {
    /// Puts the socket into the current runtime. Panics outside a tokio runtime, as tokio does.
    pub fn attach(self) -> io::Result<Socket> {
        Ok(match self {
            Detached::Tcp(tcp) => Socket::Tcp(TcpStream::from_std(tcp)?),
            Detached::Unix(unix) => Socket::Unix(UnixSocket::new(unix)?),
            Detached::TlsClient(mut tls, tcp) => {
                tls.get_mut().0.tcp = Some(TcpStream::from_std(tcp)?);
                Socket::TlsClient(tls)
            }
            Detached::TlsServer(mut tls, tcp) => {
                tls.get_mut().0.tcp = Some(TcpStream::from_std(tcp)?);
                Socket::TlsServer(tls)
            }
        })
    }
}

/// Says when the other end of a TCP socket is given up. Said of a listening socket, it holds for all
/// that it accepts: Linux hands these options down, as it does `TCP_NODELAY`.
pub fn tune(socket: &SockRef<'_>, tuning: &Tuning) -> io::Result<()> {
    socket.set_keepalive(tuning.keepalive.is_some())?;
    if let Some((idle, interval, count)) = tuning.keepalive {
        let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(count);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    socket.set_tcp_user_timeout(tuning.user_timeout)
}

/// The TCP socket under a TLS stream: it can be taken out while the TLS state stays, which
/// `tokio_rustls` streams do not offer, and it may have read some bytes of the handshake before
/// it was known to be one.
#[derive(Debug)]
pub struct Carrier {
    tcp: Option<TcpStream>,
    already_read: Bytes,
}

impl Carrier {
    /// A carrier that yields `already_read` before it reads the socket.
    pub fn new(tcp: TcpStream, already_read: Bytes) -> Self {
        Self { tcp: Some(tcp), already_read }
    }

    fn take(&mut self) -> io::Result<TcpStream> {
        self.tcp.take().ok_or_else(taken)
    }

    fn pinned(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.tcp.as_mut().map(Pin::new).ok_or_else(taken)
    }
}

fn taken() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the socket is detached")
}

impl AsyncRead for Carrier {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.already_read.is_empty() {
            let n = self.already_read.len().min(buf.remaining());
            buf.put_slice(&self.already_read[..n]);
            self.already_read.advance(n);
            return Poll::Ready(Ok(()));
        }
        self.pinned()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.pinned()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.pinned()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned()?.poll_shutdown(cx)
    }
}

macro_rules! each {
    ($self:expr, $inner:ident => $call:expr) => {
        match $self.get_mut() {
            Socket::Tcp($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            Socket::Unix($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            Socket::TlsClient($inner) => {
                let $inner = Pin::new($inner.as_mut());
                $call
            }
            Socket::TlsServer($inner) => {
                let $inner = Pin::new($inner.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => inner.poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, inner => inner.poll_write(cx, buf))
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, inner => inner.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => inner.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => inner.poll_shutdown(cx))
    }
}
