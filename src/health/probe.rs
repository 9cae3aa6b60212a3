//! Asking a server whether it lives.

use crate::backend::{self, Address, Error, Link, Party};
use crate::wire::report::Report;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

/// What a server said to a new connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It answered our question.
    Up,
    /// 57P03: it starts or recovers.
    StartingUp,
    /// 57P03: it stops.
    ShuttingDown,
    /// It lives, but does not let us in or does not answer as it should: a password, a fence, too
    /// many clients, TLS. The text says which.
    Denied(String),
    /// Nobody listens, or it hung up without a word.
    Refused,
    /// No answer in time, or no way there.
    TimedOut,
    /// We could not even try, such as being out of file descriptors: tells nothing of the server.
    Unable(String),
}

/// Connects anew, logs in and runs `SELECT 1`, all within `timeout`.
pub async fn probe(party: &Party, timeout: Duration) -> Outcome {
    let deadline = Instant::now() + timeout;
    let parameters = [("database", party.database.as_str()), ("application_name", "cloud-mirror probe")];
    let link = match backend::connect(&party.endpoint, &party.login, &parameters, timeout).await {
        Ok(link) => link,
        Err(error) => return of_error(&error),
    };
    match timeout_at(deadline, question(link)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => of_io(&error),
        Err(_) => Outcome::TimedOut,
    }
}

/// Connects to the socket and says nothing: whether somebody listens there, at a tenth of the
/// cost of [`probe`]. `Up` is no proof of more than that.
pub async fn reach(address: &Address, timeout: Duration) -> Outcome {
    let connected = async {
        match address {
            Address::Unix { directory, port } => {
                UnixStream::connect(Address::socket_path(directory, *port)).await.map(drop)
            }
            Address::Tcp { host, port } => TcpStream::connect((host.as_str(), *port)).await.map(drop),
        }
    };
    match tokio::time::timeout(timeout, connected).await {
        Ok(Ok(())) => Outcome::Up,
        Ok(Err(error)) => of_io(&error),
        Err(_) => Outcome::TimedOut,
    }
}

/// Runs `SELECT 1` by simple protocol and reads to its end.
async fn question(mut link: Link) -> io::Result<Outcome> {
    const SELECT_1: &[u8] = b"Q\0\0\0\x0dSELECT 1\0";
    const TERMINATE: &[u8] = b"X\0\0\0\x04";
    link.stream.write_all(SELECT_1).await?;
    link.stream.flush().await?;
    let mut bytes = link.leftover;
    loop {
        while let Some((tag, body)) = take_message(&mut bytes)? {
            match tag {
                b'E' => return Ok(of_report(&Report::new(body))),
                b'Z' => {
                    // Politeness: without it the server logs a connection reset.
                    link.stream.write_all(TERMINATE).await.ok();
                    link.stream.flush().await.ok();
                    return Ok(Outcome::Up);
                }
                _ => {}
            }
        }
        if link.stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// A whole message, if there is one. All that is awaited is short; what is not is no PostgreSQL.
fn take_message(bytes: &mut bytes::BytesMut) -> io::Result<Option<(u8, bytes::Bytes)>> {
    const LONGEST: usize = 64 * 1024;
    let Some(&[tag, a, b, c, d]) = bytes.first_chunk::<5>() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if !(4..=LONGEST).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not the protocol of PostgreSQL"));
    }
    if bytes.len() < 1 + length {
        return Ok(None);
    }
    let message = bytes.split_to(1 + length).freeze();
    Ok(Some((tag, message.slice(5..))))
}

fn of_report(report: &Report) -> Outcome {
    match report.code().as_ref() {
        // The two share code and routine; a translated message counts as the first.
        "57P03" if report.message().contains("shutting down") => Outcome::ShuttingDown,
        "57P03" => Outcome::StartingUp,
        // Its end has begun between our log-in and our question.
        "57P01" | "57P02" => Outcome::Refused,
        _ => Outcome::Denied(report.to_string()),
    }
}

fn of_error(error: &Error) -> Outcome {
    match error {
        Error::Server { report, .. } => of_report(report),
        Error::Connect { source, .. } | Error::Lost { source, .. } => of_io(source),
        Error::Timeout { .. } => Outcome::TimedOut,
        other => Outcome::Denied(other.to_string()),
    }
}

fn of_io(error: &io::Error) -> Outcome {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused
        | ErrorKind::NotFound
        | ErrorKind::UnexpectedEof
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe => Outcome::Refused,
        // A Unix socket whose queue is full says "would block": somebody is there and is stuck.
        ErrorKind::TimedOut
        | ErrorKind::WouldBlock
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable => Outcome::TimedOut,
        ErrorKind::InvalidData => Outcome::Denied(error.to_string()),
        _ => Outcome::Unable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;

    #[test]
    fn a_message_is_taken_whole_and_a_wild_length_is_refused() {
        let mut bytes = BytesMut::from(&b"Z\0\0\0\x05IT\0\0\0"[..]);
        assert_eq!(take_message(&mut bytes).unwrap(), Some((b'Z', bytes::Bytes::from_static(b"I"))));
        assert_eq!(take_message(&mut bytes).unwrap(), None);
        for wild in [&b"Z\0\0\0\x03"[..], b"Z\xff\xff\xff\xff"] {
            assert!(take_message(&mut BytesMut::from(wild)).is_err());
        }
    }

    #[test]
    fn what_the_system_says_is_told_apart() {
        let check = |errno: i32, expected: &str| {
            let outcome = format!("{:?}", of_io(&io::Error::from_raw_os_error(errno)));
            assert!(outcome.starts_with(expected), "{errno}: {outcome}");
        };
        use nix::libc;
        check(libc::ECONNREFUSED, "Refused");
        check(libc::ENOENT, "Refused");
        check(libc::ECONNRESET, "Refused");
        check(libc::EAGAIN, "TimedOut");
        check(libc::ETIMEDOUT, "TimedOut");
        check(libc::EHOSTUNREACH, "TimedOut");
        check(libc::EMFILE, "Unable");
        check(libc::EACCES, "Unable");
    }
}
