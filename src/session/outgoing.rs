//! What goes out of a session to one side.

use crate::sys::Socket;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;

/// What a socket has not taken yet.
#[derive(Debug, Default)]
pub struct Outgoing {
    rest: Vec<u8>,
    /// TLS holds bytes that the socket did not take.
    is_unflushed: bool,
    /// Some of it came from the other side and was not made by us.
    pub(super) holds_answers: bool,
}

impl Outgoing {
    /// Whether everything is on its way.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty() && !self.is_unflushed
    }

    /// Adds bytes to be written next.
    pub fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
    }

    /// Forgets what was not written.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Writes a region at once and keeps what the socket does not take.
    pub fn pass(&mut self, stream: &mut Socket, mut bytes: &[u8], cx: &mut Context<'_>) -> io::Result<()> {
        if !self.is_empty() {
            self.holds_answers |= !bytes.is_empty();
            self.push(bytes);
            return Ok(());
        }
        while !bytes.is_empty() {
            match stream.poll_send(cx, bytes) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => bytes = &bytes[n..],
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.holds_answers = true;
                    self.push(bytes);
                    return Ok(());
                }
            }
        }
        match self.flush(stream, cx) {
            Poll::Ready(done) => done,
            Poll::Pending => {
                self.holds_answers = true;
                Ok(())
            }
        }
    }

    /// Writes out what was kept.
    pub fn write(&mut self, stream: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut done = 0;
        while done < self.rest.len() {
            match stream.poll_send(cx, &self.rest[done..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => done += n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.rest.drain(..done);
                    return Poll::Pending;
                }
            }
        }
        empty(&mut self.rest);
        let flushed = self.flush(stream, cx);
        self.holds_answers &= flushed.is_pending();
        flushed
    }

    /// Only TLS keeps bytes of its own.
    fn flush(&mut self, stream: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match stream {
            Socket::Tcp(_) | Socket::Unix(_) => Poll::Ready(Ok(())),
            Socket::TlsClient(_) | Socket::TlsServer(_) => {
                let flushed = Pin::new(stream).poll_flush(cx);
                self.is_unflushed = flushed.is_pending();
                flushed
            }
        }
    }
}

/// An idle session keeps no buffer.
pub(super) fn empty(buffer: &mut Vec<u8>) {
    if buffer.capacity() > 64 {
        *buffer = Vec::new();
    } else {
        buffer.clear();
    }
}
