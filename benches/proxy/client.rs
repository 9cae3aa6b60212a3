//! A client that speaks just enough of the protocol: log-in without a password, simple queries.

use anyhow::{Context, bail, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// The longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection.
pub struct Client {
    stream: TcpStream,
}

impl Client {
    /// Connects to 127.0.0.1 and logs in.
    pub fn connect(port: u16, user: &str, database: &str) -> anyhow::Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = Client { stream };
        let body = format!("user\0{user}\0database\0{database}\0\0");
        let mut startup = (body.len() as u32 + 8).to_be_bytes().to_vec();
        startup.extend_from_slice(&[0, 3, 0, 0]);
        startup.extend_from_slice(body.as_bytes());
        client.stream.write_all(&startup)?;
        client.read_until_ready(&mut [0; 4096])?;
        Ok(client)
    }

    /// Runs a simple query and returns how many bytes came back. `buffer` is what is read into.
    pub fn query(&mut self, text: &str, buffer: &mut [u8]) -> anyhow::Result<u64> {
        let mut message = vec![b'Q'];
        message.extend_from_slice(&(text.len() as u32 + 5).to_be_bytes());
        message.extend_from_slice(text.as_bytes());
        message.push(0);
        self.stream.write_all(&message)?;
        self.read_until_ready(buffer)
    }

    /// Copies about `total` bytes in, in rows of 100 bytes; returns how many were sent.
    pub fn copy_in(&mut self, text: &str, total: u64, buffer: &mut [u8]) -> anyhow::Result<u64> {
        let mut message = vec![b'Q'];
        message.extend_from_slice(&(text.len() as u32 + 5).to_be_bytes());
        message.extend_from_slice(text.as_bytes());
        message.push(0);
        self.stream.write_all(&message)?;
        // CopyInResponse for one column.
        let mut response = [0; 10];
        self.stream.read_exact(&mut response)?;
        ensure!(response[0] == b'G', "the server answered: {}", String::from_utf8_lossy(&response));
        let row = [[b'x'; 99].as_slice(), b"\n"].concat();
        let rows = row.repeat(640);
        let mut chunk = vec![b'd'];
        chunk.extend_from_slice(&(rows.len() as u32 + 4).to_be_bytes());
        chunk.extend_from_slice(&rows);
        let mut sent = 0;
        while sent < total {
            self.stream.write_all(&chunk)?;
            sent += chunk.len() as u64;
        }
        self.stream.write_all(b"c\0\0\0\x04")?;
        self.read_until_ready(buffer)?;
        Ok(sent)
    }

    /// Reads up to and with ReadyForQuery; bodies are thrown away.
    fn read_until_ready(&mut self, buffer: &mut [u8]) -> anyhow::Result<u64> {
        let (mut total, mut skip, mut header, mut have) = (0, 0, [0; 5], 0);
        let mut error = None;
        loop {
            let read = self.stream.read(buffer).context("no answer")?;
            ensure!(read > 0, "the connection was closed: {}", error.unwrap_or_default());
            total += read as u64;
            let mut rest = &buffer[..read];
            while !rest.is_empty() {
                if skip > 0 {
                    let n = rest.len().min(skip);
                    rest = &rest[n..];
                    skip -= n;
                } else {
                    let n = rest.len().min(5 - have);
                    header[have..have + n].copy_from_slice(&rest[..n]);
                    have += n;
                    rest = &rest[n..];
                    if have < 5 {
                        continue;
                    }
                    have = 0;
                    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
                    skip = length.checked_sub(4).context("a message of impossible length")?;
                    if header[0] == b'E' {
                        let text = &rest[..skip.min(rest.len())];
                        error = Some(String::from_utf8_lossy(text).replace('\0', " "));
                    }
                }
                if header[0] == b'Z' && skip == 0 && have == 0 {
                    match error {
                        Some(error) => bail!("the server answered: {error}"),
                        None => return Ok(total),
                    }
                }
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.stream.write_all(b"X\0\0\0\x04");
    }
}
