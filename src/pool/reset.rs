//! Making a link as good as new.

use crate::sys::{Detached, Socket};
use crate::wire::frame::{HEADER, Head, head};
use bytes::{Buf, BytesMut};
use socket2::SockRef;
use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long a server may take to forget a session.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends `DISCARD ALL` and waits until the server is idle again. The settings are then those of
/// the link's start-up ("DISCARD"). Any surprise is an error: the link is closed.
pub async fn reset(stream: &mut Socket) -> io::Result<()> {
    tokio::time::timeout(PATIENCE, discard_all(stream)).await?
}

async fn discard_all(stream: &mut Socket) -> io::Result<()> {
    stream.write_all(b"Q\0\0\0\x10DISCARD ALL\0").await?;
    stream.flush().await?;
    let mut bytes = BytesMut::with_capacity(512);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Head::Frame { tag, total } = head(&bytes) {
            if bytes.len() < total {
                break;
            }
            match tag {
                b'Z' if bytes.get(HEADER) == Some(&b'I') && bytes.len() == total => return Ok(()),
                b'C' | b'S' | b'N' | b'A' => bytes.advance(total),
                _ => return Err(io::Error::other("the server did not discard the session's state")),
            }
        }
        if bytes.len() > 64 << 10 {
            return Err(io::Error::other("too long an answer to DISCARD ALL"));
        }
    }
}

/// Whether a link that lay idle is still connected and has been told nothing since.
pub fn is_silent(stream: &Detached) -> bool {
    let mut byte = [MaybeUninit::uninit(); 1];
    let peeked = match stream {
        Detached::Tcp(tcp) | Detached::TlsClient(_, tcp) | Detached::TlsServer(_, tcp) => {
            SockRef::from(tcp).peek(&mut byte)
        }
        Detached::Unix(unix) => SockRef::from(unix).peek(&mut byte),
    };
    matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
