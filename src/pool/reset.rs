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

/// Two statements: the second asks for what the first leaves behind, the temporary schema that a
/// back end has once it has made anything temporary. A new session has none.
const STATEMENTS: &[u8] = b"Q\0\0\0\x10DISCARD ALL\0Q\0\0\0\x2aSELECT pg_catalog.pg_my_temp_schema()\0";

/// Sends `DISCARD ALL` and waits until the server is idle again. The settings are then those of
/// the link's start-up ("DISCARD"). Any surprise is an error: the link is closed.
pub async fn reset(stream: &mut Socket) -> io::Result<()> {
    tokio::time::timeout(PATIENCE, discard_all(stream)).await?
}

async fn discard_all(stream: &mut Socket) -> io::Result<()> {
    stream.write_all(STATEMENTS).await?;
    stream.flush().await?;
    let mut bytes = BytesMut::with_capacity(512);
    let mut endings = 0;
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Head::Frame { tag, total } = head(&bytes) {
            if bytes.len() < total {
                break;
            }
            match tag {
                b'Z' if bytes.get(HEADER) == Some(&b'I') => {
                    endings += 1;
                    if endings == 2 && bytes.len() == total {
                        return Ok(());
                    }
                }
                b'D' if endings == 1 && &bytes[HEADER..total] == b"\0\x01\0\0\0\x010" => {}
                b'D' => return Err(io::Error::other("the session keeps a temporary schema")),
                b'T' if endings == 1 => {}
                b'C' | b'S' | b'N' | b'A' => {}
                _ => return Err(io::Error::other("the server did not discard the session's state")),
            }
            bytes.advance(total);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statements_have_their_lengths() {
        let mut rest = STATEMENTS;
        while let Head::Frame { total, .. } = head(rest) {
            assert_eq!(rest.get(total - 1), Some(&0));
            rest = &rest[total..];
        }
        assert!(rest.is_empty());
    }
}
