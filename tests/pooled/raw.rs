//! A client that speaks message by message, and what the server says to it directly.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// See the module.
pub struct Raw {
    socket: TcpStream,
    read: Vec<u8>,
}

/// One message: type and body.
pub type Message = (u8, Vec<u8>);

impl Raw {
    /// Logs in as `app` at `shop`, without a password.
    pub async fn log_in(port: u16) -> Raw {
        Self::log_in_with(port, &[]).await
    }

    /// The same with start-up parameters.
    pub async fn log_in_with(port: u16, parameters: &[&str]) -> Raw {
        let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let mut raw = Raw { socket, read: Vec::new() };
        let mut body = 196_608i32.to_be_bytes().to_vec();
        let database: &[&str] = if parameters.contains(&"database") { &[] } else { &["database", "shop"] };
        for text in ["user", "app"].iter().chain(database).chain(parameters) {
            body.extend(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        let length = i32::try_from(body.len() + 4).unwrap();
        raw.send(&[&length.to_be_bytes()[..], &body].concat()).await;
        raw.answers(1).await;
        raw
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// Sends no more.
    pub async fn end(&mut self) {
        self.socket.shutdown().await.unwrap();
    }

    /// Breaks the connection: the other side cannot take it for one that still reads.
    pub fn reset(self) {
        socket2::SockRef::from(&self.socket).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }

    /// The next message.
    pub async fn message(&mut self) -> Message {
        let reading = async {
            loop {
                if let Some(head) = self.read.first_chunk::<5>() {
                    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize + 1;
                    if self.read.len() >= length {
                        let rest = self.read.split_off(length);
                        let message = std::mem::replace(&mut self.read, rest);
                        return (message[0], message[5..].to_vec());
                    }
                }
                let n = self.socket.read_buf(&mut self.read).await.unwrap();
                assert!(n > 0, "the connection has ended after {:?}", String::from_utf8_lossy(&self.read));
            }
        };
        tokio::time::timeout(crate::stage::PATIENCE, reading).await.expect("an answer")
    }

    /// All messages up to so many ReadyForQuery.
    pub async fn answers(&mut self, ready: usize) -> Vec<Message> {
        let mut all = Vec::new();
        let mut seen = 0;
        while seen < ready {
            let message = self.message().await;
            seen += usize::from(message.0 == b'Z');
            all.push(message);
        }
        all
    }

    /// So many messages.
    pub async fn messages(&mut self, count: usize) -> Vec<Message> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(self.message().await);
        }
        all
    }

    /// A simple query and its answers.
    pub async fn query(&mut self, text: &str) -> Vec<Message> {
        self.send(&query(text)).await;
        self.answers(1).await
    }

    /// The first column of the first row of a simple query.
    pub async fn value(&mut self, text: &str) -> String {
        let answers = self.query(text).await;
        let row =
            answers.iter().find(|(tag, _)| *tag == b'D').unwrap_or_else(|| panic!("{}", shown(&answers)));
        match i32::from_be_bytes([row.1[2], row.1[3], row.1[4], row.1[5]]) {
            -1 => "NULL".to_owned(),
            length => String::from_utf8(row.1[6..6 + length as usize].to_vec()).unwrap(),
        }
    }
}

pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

pub fn query(text: &str) -> Vec<u8> {
    message(b'Q', &[text.as_bytes(), b"\0"].concat())
}

pub fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', &[name.as_bytes(), b"\0", text.as_bytes(), b"\0\0\0"].concat())
}

/// Bind of the portal without a name, with text parameters.
pub fn bind(name: &str, values: &[&str]) -> Vec<u8> {
    let mut body = [b"\0", name.as_bytes(), b"\0\0\0"].concat();
    body.extend((values.len() as u16).to_be_bytes());
    for value in values {
        body.extend((value.len() as u32).to_be_bytes());
        body.extend(value.as_bytes());
    }
    body.extend(b"\0\0");
    message(b'B', &body)
}

pub fn describe(name: &str) -> Vec<u8> {
    message(b'D', &[b"S", name.as_bytes(), b"\0"].concat())
}

/// Describe of the portal without a name.
pub fn describe_portal() -> Vec<u8> {
    message(b'D', b"P\0")
}

pub fn execute() -> Vec<u8> {
    message(b'E', b"\0\0\0\0\0")
}

pub fn close(name: &str) -> Vec<u8> {
    message(b'C', &[b"S", name.as_bytes(), b"\0"].concat())
}

pub fn sync() -> Vec<u8> {
    message(b'S', b"")
}

pub fn flush() -> Vec<u8> {
    message(b'H', b"")
}

/// Messages for people, one a line.
pub fn shown(messages: &[Message]) -> String {
    let line = |(tag, body): &Message| format!("{} {:?}\n", *tag as char, String::from_utf8_lossy(body));
    messages.iter().map(line).collect()
}
