//! Noticing that a client leaves while its statement waits for a link.
//!
//! What it sends meanwhile is kept, up to a bound. One that sends no more may still read, or has left: that
//! cannot be told. It keeps its place for a while, as without us; longer not, for a line full of
//! statements of clients that are gone would keep the others from their turn. Nothing of the statement was
//! sent, so nothing of it is executed then.

use crate::sys::Socket;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Beyond this nothing is read ahead, and the end of the stream is noticed later.
const KEPT_MAX: usize = 32 << 10;

/// How long a client that sends no more keeps its place.
const PATIENCE: Duration = Duration::from_secs(3);

/// A client that waits. Empty until it sends no more.
#[derive(Debug, Default)]
pub struct Watch(Option<Pin<Box<Sleep>>>);

impl Watch {
    /// `Ready` when the client has left. What it sends is put behind `client_in`.
    pub fn poll(&mut self, client: &mut Socket, client_in: &mut Vec<u8>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.is_none() {
            ready!(poll_end(client, client_in, cx));
        }
        self.0.get_or_insert_with(|| Box::pin(sleep(PATIENCE))).as_mut().poll(cx)
    }

    /// It waits no more.
    pub fn end(&mut self) {
        self.0 = None;
    }
}

fn poll_end(client: &mut Socket, client_in: &mut Vec<u8>, cx: &mut Context<'_>) -> Poll<()> {
    while client_in.len() < KEPT_MAX {
        let mut chunk = [0; 4096];
        let mut buffer = ReadBuf::new(&mut chunk);
        let read = ready!(Pin::new(&mut *client).poll_read(cx, &mut buffer));
        if read.is_err() || buffer.filled().is_empty() {
            return Poll::Ready(());
        }
        client_in.extend_from_slice(buffer.filled());
    }
    Poll::Pending
}

/// Waits until the client has left.
pub async fn gone(client: &mut Socket, client_in: &mut Vec<u8>) {
    let mut watch = Watch::default();
    std::future::poll_fn(|cx| watch.poll(client, client_in, cx)).await;
}
