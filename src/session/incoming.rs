//! Bytes that were read and could not pass: they stand in front of those that are read next.

use super::outgoing::empty;
use crate::sys::Socket;
use std::io;
use std::task::{Context, Poll, ready};

/// Moves what was kept to the front of the scratch buffer.
pub(super) fn take_carry(carry: &mut Vec<u8>, scratch: &mut [u8]) -> usize {
    let length = carry.len();
    scratch[..length].copy_from_slice(carry);
    empty(carry);
    length
}

/// Reads behind what was kept. `None` at the end of the stream. When nothing can be read now, what
/// was kept stays where it is.
pub(super) fn read_in(
    stream: &mut Socket,
    carry: &mut Vec<u8>,
    scratch: &mut [u8],
    cx: &mut Context<'_>,
) -> Poll<io::Result<Option<usize>>> {
    let kept = carry.len();
    let fresh = ready!(stream.poll_recv(cx, &mut scratch[kept..]))?;
    if fresh == 0 {
        return Poll::Ready(Ok(None));
    }
    scratch[..kept].copy_from_slice(carry);
    empty(carry);
    Poll::Ready(Ok(Some(kept + fresh)))
}
