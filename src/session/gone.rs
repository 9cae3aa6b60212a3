//! Noticing that a client leaves while its statement waits for a link.
//!
//! What it sends meanwhile is kept, up to a bound. One that sends no more has left: whether it only shut
//! its writing side cannot be told, and a line full of statements of clients that are gone would keep
//! the others from their turn. Nothing of the statement was sent, so nothing of it is executed.

use crate::sys::Socket;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// Beyond this nothing is read ahead, and the end of the stream is noticed later.
const KEPT_MAX: usize = 32 << 10;

/// `Ready` when the client has left. What it sends is put behind `client_in`.
pub fn poll_gone(client: &mut Socket, client_in: &mut Vec<u8>, cx: &mut Context<'_>) -> Poll<()> {
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
    std::future::poll_fn(|cx| poll_gone(client, client_in, cx)).await;
}
