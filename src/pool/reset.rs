//! Making a link as good as new.

use crate::sys::{Resting, Socket};
use crate::wire::frame::{HEADER, Head, cstring, head};
use bytes::{Buf, BytesMut};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long a server may take to forget a session.
const PATIENCE: Duration = Duration::from_secs(5);

/// Two statements: the second asks for what the first leaves behind, the temporary schema that a
/// back end has once it has made anything temporary. A new session has none.
const STATEMENTS: &[u8] = b"Q\0\0\0\x10DISCARD ALL\0Q\0\0\0\x2aSELECT pg_catalog.pg_my_temp_schema()\0";

/// A setting that the server has reported, by name and value.
pub type Reported = (Box<[u8]>, Box<[u8]>);

/// How long a link that lay idle may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Sends `DISCARD ALL` and waits until the server is idle again. The settings are then those of
/// the link's start-up ("DISCARD"). Any surprise is an error: the link is closed.
///
/// `before` was reported when the link was opened, `reported` since. What does not come back with
/// the reset has been changed for all sessions, and clients that are told `before` would be told
/// what is not so: that is a surprise too.
pub async fn reset(
    stream: &mut Socket,
    before: &[(Vec<u8>, Vec<u8>)],
    mut reported: Vec<Reported>,
) -> io::Result<()> {
    tokio::time::timeout(PATIENCE, discard_all(stream, &mut reported)).await??;
    let is_known =
        |(name, value): &Reported| before.iter().any(|(known, old)| **known == **name && **old == **value);
    if reported.iter().all(is_known) {
        Ok(())
    } else {
        Err(io::Error::other("a setting was changed for all sessions"))
    }
}

async fn discard_all(stream: &mut Socket, reported: &mut Vec<Reported>) -> io::Result<()> {
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
                b'S' => note(&bytes[HEADER..total], reported),
                b'C' | b'N' | b'A' => {}
                _ => return Err(io::Error::other("the server did not discard the session's state")),
            }
            bytes.advance(total);
        }
        if bytes.len() > 64 << 10 {
            return Err(io::Error::other("too long an answer to DISCARD ALL"));
        }
    }
}

fn note(body: &[u8], reported: &mut Vec<Reported>) {
    if let Some((name, rest)) = cstring(body)
        && let Some((value, _)) = cstring(rest)
    {
        reported.retain(|(known, _)| **known != *name);
        reported.push((name.into(), value.into()));
    }
}

/// Asks a link that lay idle for a while whether its server still answers, by an empty query; `None`
/// when it does not.
pub async fn checked(stream: Resting) -> Option<Resting> {
    if !stream.is_silent() {
        return None;
    }
    let mut socket = stream.attach().ok()?;
    match tokio::time::timeout(ANSWER_WITHIN, empty_query(&mut socket)).await {
        Ok(Ok(())) => Some(Resting::here(socket)),
        Ok(Err(_)) | Err(_) => None,
    }
}

async fn empty_query(stream: &mut Socket) -> io::Result<()> {
    stream.write_all(b"Q\0\0\0\x05\0").await?;
    stream.flush().await?;
    // EmptyQueryResponse and ReadyForQuery outside a transaction.
    let mut answer = [0; 11];
    stream.read_exact(&mut answer).await?;
    match &answer == b"I\0\0\0\x04Z\0\0\0\x05I" {
        true => Ok(()),
        false => Err(io::Error::other("not the answer to an empty query")),
    }
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
