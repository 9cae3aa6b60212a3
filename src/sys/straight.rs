//! Reading and writing where each call counts: for the relay.
//!
//! A call through the C library in a program of several threads first says that the thread may be cancelled, and
//! then that it may not, with two locked instructions each time; rustix asks the kernel directly. And tokio's own
//! `poll_read` keeps a budget, which the relay does itself ([`super::Socket::poll_recv`]).

use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

/// A socket that is registered with the runtime, and what the runtime knows of it.
pub(super) trait Registered {
    /// Runs `io` if the socket may be ready for it; `WouldBlock` makes the runtime wait for news.
    fn try_io<T>(&self, interest: Interest, io: impl FnOnce() -> io::Result<T>) -> io::Result<T>;
    /// Waits until there may be something to read.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl Registered for TcpStream {
    fn try_io<T>(&self, interest: Interest, io: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        TcpStream::try_io(self, interest, io)
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }
}

impl<S: AsFd + std::os::fd::AsRawFd> Registered for AsyncFd<S> {
    fn try_io<T>(&self, interest: Interest, io: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        AsyncFd::try_io(self, interest, |_| io())
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The guard would clear what it has found; `try_io` does when it finds nothing.
        self.poll_read_ready(cx).map_ok(drop)
    }
}

/// Reads once into `room`. 0 at the end of the stream.
pub(super) fn poll_recv<S: Registered + AsFd>(
    socket: &S,
    cx: &mut Context<'_>,
    room: &mut [u8],
) -> Poll<io::Result<usize>> {
    loop {
        let mut read = None;
        let tried = socket.try_io(Interest::READABLE, || {
            let n = again(|| recv(socket, &mut *room, RecvFlags::empty()).map(|(_, n)| n))?;
            read = Some(n);
            // Less than there was room for was all there is: as if the next call had said so.
            if 0 < n && n < room.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match (read, tried) {
            (Some(n), _) => return Poll::Ready(Ok(n)),
            (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                return Poll::Ready(Err(error));
            }
            (None, _) => ready!(socket.poll_readable(cx))?,
        }
    }
}

/// Writes once, as much as the socket takes; `WouldBlock` when that is nothing.
pub(super) fn try_send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    again(|| send(&socket, bytes, SendFlags::NOSIGNAL))
}

/// The same, where the runtime knows that nothing would be taken.
pub(super) fn poll_send(socket: &TcpStream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        match socket.try_io(Interest::WRITABLE, || try_send(socket, bytes)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(socket.poll_write_ready(cx))?,
            done => return Poll::Ready(done),
        }
    }
}

fn again<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}
