//! A client's socket that remembers what went over it last, for the story of a failure.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Reads and writes that are remembered.
const PIECES: usize = 60;
/// Bytes of each that are shown.
const SHOWN: usize = 500;

/// What went over a socket last.
#[derive(Clone)]
pub struct Tape {
    since: Instant,
    pieces: Arc<Mutex<VecDeque<String>>>,
}

impl Tape {
    fn record(&self, way: &str, bytes: &[u8]) {
        let mut pieces = self.pieces.lock().unwrap();
        if pieces.len() == PIECES {
            pieces.pop_front();
        }
        let shown = bytes[..bytes.len().min(SHOWN)].escape_ascii();
        pieces.push_back(format!("{:?} {way} {} bytes: {shown}", self.since.elapsed(), bytes.len()));
    }
}

impl fmt::Display for Tape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces.lock().unwrap().iter().try_for_each(|piece| writeln!(f, "{piece}"))
    }
}

/// The socket.
pub struct Recorded {
    socket: TcpStream,
    tape: Tape,
}

impl Recorded {
    pub async fn connect(port: u16) -> io::Result<Recorded> {
        let socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket.set_nodelay(true)?;
        Ok(Recorded { socket, tape: Tape { since: Instant::now(), pieces: Arc::default() } })
    }

    pub fn tape(&self) -> Tape {
        self.tape.clone()
    }
}

impl AsyncRead for Recorded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        self.tape.record("<-", &buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, bytes))?;
        self.tape.record("->", &bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
