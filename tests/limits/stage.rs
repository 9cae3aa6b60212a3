//! One server for all tests of this binary, and a proxy for each.

// Each module uses a part of it.
#![allow(dead_code)]

use cloud_mirror::lab::{Cluster, Proxy};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Clients that speak for themselves have no password.
pub const TRUST: (&str, &str) = ("auth.type", "trust");

static SERVER: OnceCell<Cluster> = OnceCell::const_new();
static TURN: Mutex<()> = Mutex::const_new(());

/// The server, which lives as long as this process, for one test at a time: two proxies before one
/// server would change the password of the control role under each other.
pub struct Turn {
    server: &'static Cluster,
    _turn: MutexGuard<'static, ()>,
}

impl std::ops::Deref for Turn {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.server
    }
}

/// Waits for one's turn at the server. Keep it as long as the proxy.
pub async fn server() -> Turn {
    let turn = TURN.lock().await;
    Turn { server: SERVER.get_or_init(new_server).await, _turn: turn }
}

/// Role `app` with databases `shop` and `stock`, and role `other`. For tests that stop or freeze it.
pub async fn new_server() -> Cluster {
    // For proxies that ask for no password and so have none to show.
    let builder = Cluster::builder()
        .setting("max_connections", 300)
        .hba("local all app,other trust")
        .hba("host all app,other 127.0.0.1/32 trust");
    let server = builder.start().await.expect("a server starts");
    server.create_role("app", "app-secret", "").await.unwrap();
    server.create_role("other", "other-secret", "").await.unwrap();
    for database in ["shop", "stock"] {
        server.create_database(database).await.unwrap();
        server.sql(database, "grant all on schema public to app, other").await.unwrap();
    }
    server
}

/// A proxy before a server, with keys of its configuration such as `pool.size`; it has started.
pub async fn proxy(server: &Cluster, keys: &[(&str, &str)]) -> Proxy {
    proxy_at(&server.url("postgres", "shop"), keys).await
}

/// The same before whatever is at a URL.
pub async fn proxy_at(url: &str, keys: &[(&str, &str)]) -> Proxy {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_cloud-mirror"));
    let mut proxy = Proxy::new(program, &["--local", url]).unwrap();
    // At a log-in, in most of these tests, a client gets a connection or waits for it.
    for (key, value) in [("pool.mode", "session")].iter().chain(keys) {
        let name = format!("CLOUD_MIRROR__{}", key.replace('.', "__").to_uppercase());
        proxy = proxy.variable(&name, value);
    }
    proxy.start().await.unwrap();
    proxy
}

/// A client of `app` at `shop`.
pub async fn client(proxy: &Proxy) -> tokio_postgres::Client {
    client_of(proxy, "app", "shop").await.unwrap()
}

/// Any client; its password is its name with `-secret`.
pub async fn client_of(
    proxy: &Proxy,
    user: &str,
    database: &str,
) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let url = proxy.url(user, &format!("{user}-secret"), database);
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Code, message, detail and hint of a refusal.
pub fn words(error: &tokio_postgres::Error) -> [String; 4] {
    let error = error.as_db_error().unwrap_or_else(|| panic!("not the proxy's word: {error:?}"));
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    [error.code().code().to_owned(), error.message().to_owned(), text(error.detail()), text(error.hint())]
}

/// A client that speaks for itself, message by message.
pub struct Raw {
    pub socket: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    /// Connects, and no more.
    pub async fn connect(proxy: &Proxy) -> Raw {
        let socket = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        Raw { socket, read: Vec::new() }
    }

    /// Logs in at a proxy that trusts everyone.
    pub async fn log_in(proxy: &Proxy, user: &str, database: &str) -> Raw {
        let mut raw = Raw::connect(proxy).await;
        raw.start_up(user, database).await;
        raw.until(b'Z').await;
        raw
    }

    /// Sends the start-up message.
    pub async fn start_up(&mut self, user: &str, database: &str) {
        self.send(&start_up(user, database)).await;
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// A simple query.
    pub async fn query(&mut self, text: &str) {
        let length = i32::try_from(text.len() + 5).unwrap();
        self.send(&[b"Q", &length.to_be_bytes()[..], text.as_bytes(), b"\0"].concat()).await;
    }

    /// The next message; `None` at the end of the connection.
    pub async fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        let work = async {
            loop {
                if let [tag, a, b, c, d, ..] = self.read[..] {
                    let total = u32::from_be_bytes([a, b, c, d]) as usize + 1;
                    if self.read.len() >= total {
                        let rest = self.read.split_off(total);
                        let message = std::mem::replace(&mut self.read, rest);
                        return Some((tag, message[5..].to_vec()));
                    }
                }
                match self.socket.read_buf(&mut self.read).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, work).await.expect("an answer")
    }

    /// Everything up to and with a message of this type; panics when the connection ends before.
    pub async fn until(&mut self, tag: u8) -> Vec<(u8, Vec<u8>)> {
        let mut seen = Vec::new();
        loop {
            let Some(message) = self.message().await else {
                panic!("no {:?} but {:?}", tag as char, shown(&seen));
            };
            let is_last = message.0 == tag;
            seen.push(message);
            if is_last {
                return seen;
            }
        }
    }

    /// Everything up to the end of the connection.
    pub async fn rest(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut seen = Vec::new();
        while let Some(message) = self.message().await {
            seen.push(message);
        }
        seen
    }
}

/// A start-up message.
pub fn start_up(user: &str, database: &str) -> Vec<u8> {
    start_up_with(&[("user", user), ("database", database), ("application_name", "raw")])
}

/// The same with these parameters.
pub fn start_up_with(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = 196_608i32.to_be_bytes().to_vec();
    for text in parameters.iter().flat_map(|(name, value)| [name, value]) {
        body.extend(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = i32::try_from(body.len() + 4).unwrap();
    [&length.to_be_bytes()[..], &body].concat()
}

/// Messages for a person.
pub fn shown(messages: &[(u8, Vec<u8>)]) -> Vec<String> {
    messages.iter().map(|(tag, body)| format!("{} {}", *tag as char, body.escape_ascii())).collect()
}

/// The field of an error or a notice.
pub fn field(body: &[u8], name: u8) -> String {
    let found = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&name));
    found.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).unwrap_or_default()
}
