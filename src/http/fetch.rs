//! One GET over plain HTTP from a proxy on this machine.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// The whole of a request, looking up and connecting included.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest answer that is read.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug)]
pub enum FetchError {
    /// Nobody is there, or it is too slow.
    Unreachable(io::Error),
    /// Somebody is there, but it is no proxy of ours.
    Strange(String),
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FetchError::Unreachable(error) => error.fmt(f),
            FetchError::Strange(what) => f.write_str(what),
        }
    }
}

impl From<io::Error> for FetchError {
    fn from(error: io::Error) -> Self {
        FetchError::Unreachable(error)
    }
}

/// The body of a successful answer to `GET path`.
pub fn get(address: &str, path: &str) -> Result<String, FetchError> {
    let deadline = Instant::now() + PATIENCE;
    let mut socket = connect(address, deadline)?;
    // HTTP/1.0: the answer ends with the connection and has no chunks.
    write!(socket, "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        socket.set_read_timeout(Some(left(deadline)?))?;
        match socket.read(&mut buffer)? {
            0 => break,
            n => answer.extend_from_slice(&buffer[..n]),
        }
        if answer.len() > ANSWER_MAX {
            return Err(FetchError::Strange(format!("the answer is longer than {ANSWER_MAX} bytes")));
        }
    }
    let strange = || FetchError::Strange("the answer is no HTTP".to_owned());
    let answer = String::from_utf8(answer).map_err(|_| strange())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(strange)?;
    let line = head.lines().next().unwrap_or_default();
    let code = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)).ok_or_else(strange)?;
    match code {
        "200" => Ok(body.to_owned()),
        code => Err(FetchError::Strange(format!("the answer is {code}: {}", body.trim()))),
    }
}

fn connect(address: &str, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(deadline)?) {
            Ok(socket) => {
                socket.set_write_timeout(Some(left(deadline)?))?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A timeout of zero would mean none.
fn left(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}
