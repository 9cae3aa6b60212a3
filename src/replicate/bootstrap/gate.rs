//! A private Unix socket through which `pg_dump` and `pg_restore` reach a server over our own
//! connector: they need no password and no TLS settings, and when this process is killed their
//! sessions end with it, so that nobody goes on filling a target that is being emptied.

use super::error::Error;
use crate::backend::{self, Link, Party};
use crate::wire::frame::cstring;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

/// The number in the socket's name.
pub(super) const PORT: u16 = 5432;
/// Longest start-up packet PostgreSQL takes ("MAX_STARTUP_PACKET_LENGTH").
const STARTUP_MAX: usize = 10_000;
/// Protocol 3.0.
const PROTOCOL: u32 = 196_608;

/// The open gate; closes, with all sessions in it, when dropped.
pub(super) struct Gate {
    directory: PathBuf,
    accepting: JoinHandle<()>,
}

impl Gate {
    /// Opens a gate to `party` in `directory`, which only we may enter.
    pub(super) fn open(party: &Party, directory: &Path, within: Duration) -> Result<Self, Error> {
        std::fs::create_dir(directory)
            .map_err(|source| Error::File { path: directory.to_owned(), source })?;
        let path = backend::Address::socket_path(directory, PORT);
        let listener = UnixListener::bind(&path).map_err(|source| Error::File { path, source })?;
        let party = party.clone();
        let accepting = tokio::spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let party = party.clone();
                sessions.spawn(async move {
                    // The program says what it saw of a failure; here it would be said twice.
                    let _ = session(client, &party, within).await;
                });
                while sessions.try_join_next().is_some() {}
            }
        });
        Ok(Self { directory: directory.to_owned(), accepting })
    }

    /// For `host=`.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One session of one program: its start-up parameters, our log-in, then bytes both ways.
async fn session(mut client: UnixStream, party: &Party, within: Duration) -> std::io::Result<()> {
    let Some(parameters) = timeout(within, startup(&mut client)).await?? else { return Ok(()) };
    let mut all = vec![("database".to_owned(), party.database.as_str().to_owned())];
    all.extend(parameters.into_iter().filter(|(name, _)| name != "user" && name != "database"));
    match backend::connect(&party.endpoint, &party.login, &all, within).await {
        Err(refused) => client.write_all(&refusal(&refused.to_string())).await,
        Ok(mut link) => {
            client.write_all(&welcome(&link)).await?;
            client.write_all(&link.leftover).await?;
            tokio::io::copy_bidirectional(&mut client, &mut link.stream).await.map(|_| ())
        }
    }
}

/// Start-up parameters; `None` for a cancel request, which these programs only send when they
/// are interrupted, and then we are ending too.
async fn startup(client: &mut UnixStream) -> std::io::Result<Option<Vec<(String, String)>>> {
    loop {
        let length = client.read_u32().await? as usize;
        let protocol = client.read_u32().await?;
        if !(8..=STARTUP_MAX).contains(&length) {
            return Ok(None);
        }
        let mut body = vec![0; length - 8];
        client.read_exact(&mut body).await?;
        match protocol {
            PROTOCOL => return Ok(parameters(&body)),
            // SSLRequest and GSSENCRequest: no.
            80_877_103 | 80_877_104 => client.write_all(b"N").await?,
            _ => return Ok(None),
        }
    }
}

fn parameters(mut body: &[u8]) -> Option<Vec<(String, String)>> {
    let mut all = Vec::new();
    loop {
        let (name, rest) = cstring(body)?;
        if name.is_empty() {
            return Some(all);
        }
        let (value, rest) = cstring(rest)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        all.push((text(name), text(value)));
        body = rest;
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() + 4) as u32;
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

fn welcome(link: &Link) -> Vec<u8> {
    let mut bytes = message(b'R', &0u32.to_be_bytes());
    for (name, value) in &link.parameters {
        bytes.extend(message(b'S', &[name.as_slice(), b"\0", value, b"\0"].concat()));
    }
    bytes.extend(message(b'K', &[&link.pid.to_be_bytes()[..], &link.secret].concat()));
    bytes.extend(message(b'Z', b"I"));
    bytes
}

fn refusal(why: &str) -> Vec<u8> {
    let body = format!("SFATAL\0VFATAL\0C08006\0M{}\0\0", why.replace('\0', " "));
    message(b'E', body.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_up_parameters_are_pairs_and_garbage_is_none() {
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        assert_eq!(
            parameters(b"user\0a\0options\0-c x=1\0\0"),
            Some(vec![pair("user", "a"), pair("options", "-c x=1")])
        );
        assert_eq!(parameters(b"\0"), Some(vec![]));
        assert_eq!(parameters(b"user\0a"), None);
        assert_eq!(parameters(b""), None);
    }
}
