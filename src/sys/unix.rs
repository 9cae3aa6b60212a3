//! A Unix socket that wakes its reader only for what there is to read.

use super::socket::Peer;
use super::straight;
use nix::sys::socket::sockopt::{PeerCredentials, SndBuf};
use nix::sys::socket::{getsockopt, setsockopt};
use std::io::{self, IoSlice, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::task::coop;

/// What a socket that was full is asked to hold from then on at least, in bytes; the kernel counts twice as much for
/// its own needs, and keeps to `net.core.wmem_max`.
const ROOM: usize = 512 << 10;

/// The kernel tells whoever watches a Unix socket for writing of every message that the other side
/// has taken in. `tokio::net::UnixStream` always watches for both, so that a relay was woken for
/// nothing up to once in a statement. This one watches for reading; a write is simply tried, and
/// watched for only from when the socket is full until something is read again. Once it was full it is
/// made to hold more, so that a stream does not stop at every few messages.
#[derive(Debug)]
pub struct UnixSocket {
    reads: AsyncFd<UnixStream>,
    /// A second descriptor of the same socket, since it was full.
    writes: Option<Box<AsyncFd<UnixStream>>>,
    /// Somebody waits for room: the watch must stay.
    awaits_room: bool,
}

impl UnixSocket {
    /// Takes a socket that does not block into the current runtime.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        Ok(Self { reads: watched(stream, Interest::READABLE)?, writes: None, awaits_room: false })
    }

    /// Connects to the socket at `path`.
    pub async fn connect(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::new(tokio::net::UnixStream::connect(path).await?.into_std()?)
    }

    /// Takes it out of its runtime.
    pub fn into_std(self) -> UnixStream {
        self.reads.into_inner()
    }

    /// The socket itself.
    pub(super) fn get_ref(&self) -> &UnixStream {
        self.reads.get_ref()
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        Peer::Unix { uid: getsockopt(self.reads.get_ref(), PeerCredentials).ok().map(|cred| cred.uid()) }
    }

    /// See [`super::Socket::poll_recv`].
    pub(super) fn poll_recv(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = ready!(straight::poll_recv(&self.reads, cx, room));
        if !self.awaits_room {
            self.writes = None;
        }
        Poll::Ready(read)
    }

    /// See [`super::Socket::poll_send`].
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_out(cx, bytes.len(), |stream| straight::try_send(stream, bytes))
    }

    /// Writes once; `write` has `len` bytes. Less is taken only when there is no room for more.
    fn poll_out(
        &mut self,
        cx: &mut Context<'_>,
        len: usize,
        write: impl Fn(&mut &UnixStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let Some(writes) = &mut self.writes else {
                match write(&mut self.reads.get_ref()) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.watch_for_room()?,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    done => return Poll::Ready(done),
                }
                continue;
            };
            self.awaits_room = true;
            let mut ready = ready!(writes.poll_write_ready(cx))?;
            match write(&mut self.reads.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => {
                    if matches!(done, Ok(n) if n < len) {
                        ready.clear_ready();
                    }
                    self.awaits_room = false;
                    return Poll::Ready(done);
                }
            }
        }
    }

    fn watch_for_room(&mut self) -> io::Result<()> {
        let stream = self.reads.get_ref();
        if getsockopt(stream, SndBuf).is_ok_and(|held| held < ROOM) {
            // The system gives what it allows; where that is not more, less is held.
            let _ = setsockopt(stream, SndBuf, &ROOM);
        }
        let second = stream.try_clone()?;
        self.writes = Some(Box::new(watched(second, Interest::WRITABLE)?));
        Ok(())
    }
}

// The constructor is deprecated because a type may lie about its descriptor, and replaced by an
// `unsafe` one; a `UnixStream` has one descriptor, which is its own, as long as it lives.
#[allow(deprecated)]
fn watched(stream: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    AsyncFd::with_interest(stream, interest)
}

impl AsyncRead for UnixSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let turn = ready!(coop::poll_proceed(cx));
        let n = ready!(self.poll_recv(cx, buf.initialize_unfilled()))?;
        turn.made_progress();
        buf.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for UnixSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_out(cx, buf.len(), |stream| stream.write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        self.get_mut().poll_out(cx, len, |stream| stream.write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.reads.get_ref().shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn pair() -> (UnixSocket, UnixSocket) {
        let (one, other) = UnixStream::pair().unwrap();
        let socket = |stream: UnixStream| {
            stream.set_nonblocking(true).unwrap();
            UnixSocket::new(stream).unwrap()
        };
        (socket(one), socket(other))
    }

    #[tokio::test]
    async fn far_more_than_the_socket_holds_arrives_whole_and_in_order() {
        let (mut from, mut to) = pair();
        let sent: Vec<u8> = (0..4_000_000u32).map(|n| (n % 251) as u8).collect();
        let copy = sent.clone();
        let writing = tokio::spawn(async move {
            from.write_all(&copy).await.unwrap();
            from.shutdown().await.unwrap();
            from
        });
        let mut received = Vec::new();
        to.read_to_end(&mut received).await.unwrap();
        assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
        let mut from = writing.await.unwrap();
        assert!(from.writes.is_some(), "the socket was never full");
        // The other direction is still open.
        to.write_all(b"answer").await.unwrap();
        drop(to);
        let mut answer = Vec::new();
        from.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        assert!(from.writes.is_none(), "it is still watched for writing");
    }

    #[tokio::test]
    async fn a_writer_that_waits_for_room_is_woken_though_something_was_read_meanwhile() {
        let (one, mut other) = pair();
        let (mut reads, mut writes) = tokio::io::split(one);
        let (is_full, mut full) = tokio::sync::watch::channel(false);
        let writing = tokio::spawn(async move {
            let bytes = vec![0; 4 << 20];
            let mut all = std::pin::pin!(writes.write_all(&bytes));
            let at_first = std::future::poll_fn(|cx| Poll::Ready(all.as_mut().poll(cx))).await;
            assert!(at_first.is_pending());
            is_full.send_replace(true);
            all.await
        });
        full.wait_for(|is_full| *is_full).await.unwrap();
        other.write_all(b"x").await.unwrap();
        reads.read_u8().await.unwrap();
        let mut bytes = vec![0; 4 << 20];
        let taking = other.read_exact(&mut bytes);
        tokio::time::timeout(std::time::Duration::from_secs(10), taking).await.expect("all arrives").unwrap();
        writing.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_reader_is_woken_for_what_comes_later() {
        let (mut one, mut other) = pair();
        for n in 0..100u8 {
            let (echoed, ()) = tokio::join!(other.read_u8(), async { one.write_u8(n).await.unwrap() });
            assert_eq!(echoed.unwrap(), n);
        }
    }

    #[tokio::test]
    async fn it_says_who_is_at_the_other_end() {
        let (one, _other) = pair();
        assert_eq!(one.peer(), Peer::Unix { uid: Some(nix::unistd::geteuid().as_raw()) });
    }
}
