//! One server for all tests of a binary, and before it one proxy for each mode, as their users run
//! them.

use super::{Cut, Heard, Place, Step, compare, converse, message::startup};
use cloud_mirror::lab::{Cluster, Proxy, SUPERUSER};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use tokio::sync::OnceCell;

/// How links change hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Session,
    Transaction,
    Auto,
    Statement,
}

impl Mode {
    /// The key of the configuration that chooses it.
    pub fn key(self) -> (&'static str, &'static str) {
        let name = match self {
            Mode::Session => "session",
            Mode::Transaction => "transaction",
            Mode::Auto => "auto",
            Mode::Statement => "statement",
        };
        ("pool.mode", name)
    }
}

/// Every mode that takes every statement.
pub const ALL: &[Mode] = &[Mode::Session, Mode::Transaction, Mode::Auto];
/// The modes in which a session keeps what it has made, as a direct connection does.
pub const KEEPING: &[Mode] = &[Mode::Session, Mode::Auto];

static SERVER: OnceCell<Cluster> = OnceCell::const_new();
static SESSION: OnceCell<Proxy> = OnceCell::const_new();
static TRANSACTION: OnceCell<Proxy> = OnceCell::const_new();
static AUTO: OnceCell<Proxy> = OnceCell::const_new();
static STATEMENT: OnceCell<Proxy> = OnceCell::const_new();

/// The server: lets `app` in without a password, has database `shop`. Lives as long as this process.
pub async fn server() -> &'static Cluster {
    let start = async || {
        let builder = Cluster::builder()
            .setting("max_connections", 200)
            .setting("wal_level", "logical")
            .hba("local all,replication app trust")
            .hba("host all,replication app 127.0.0.1/32 trust");
        let server = builder.start().await.expect("a server starts");
        server.create_role("app", "app-secret", "replication").await.unwrap();
        make_database(&server, "shop").await;
        server
    };
    SERVER.get_or_init(start).await
}

/// A database in which `app` may make things.
pub async fn make_database(server: &Cluster, name: &str) {
    server.create_database(name).await.unwrap();
    server.sql(name, "grant all on schema public to app").await.unwrap();
}

/// A proxy that is not started yet.
pub fn new_proxy(server: &Cluster, keys: &[(&str, &str)]) -> Proxy {
    let url = server.url(SUPERUSER, "shop");
    let mut proxy = Proxy::new(Path::new(env!("CARGO_BIN_EXE_cloud-mirror")), &["--local", &url]).unwrap();
    for (key, value) in keys {
        let name = format!("CLOUD_MIRROR__{}", key.replace('.', "__").to_uppercase());
        proxy = proxy.variable(&name, value);
    }
    proxy
}

/// The proxy of a mode, which asks for no password.
pub async fn proxy(mode: Mode) -> &'static Proxy {
    let start = async || {
        // Fewer links than there are clients at a time.
        let keys = [("auth.type", "trust"), mode.key(), ("pool.size", "3")];
        let used = if mode == Mode::Session { 2 } else { 3 };
        let proxy = new_proxy(server().await, &keys[..used]);
        proxy.start().await.unwrap();
        ends_with_us(&proxy);
        proxy
    };
    match mode {
        Mode::Session => SESSION.get_or_init(start).await,
        Mode::Transaction => TRANSACTION.get_or_init(start).await,
        Mode::Auto => AUTO.get_or_init(start).await,
        Mode::Statement => STATEMENT.get_or_init(start).await,
    }
}

/// What is `static` is never dropped: a shell sees the end of our process, and ends the proxy.
#[allow(clippy::zombie_processes, reason = "it outlives us")]
fn ends_with_us(proxy: &Proxy) {
    let script = r#"read -r word; kill -9 "$1"; rm -rf -- "$2""#;
    let (pid, directory) = (proxy.pid().unwrap().to_string(), proxy.directory().display().to_string());
    let mut watcher = Command::new("/bin/sh")
        .args(["-c", script, "sh", &pid, &directory])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::mem::forget(watcher.stdin.take());
}

/// Where the server listens.
pub async fn direct() -> Place {
    Place::Tcp(server().await.port())
}

/// Where the proxy of a mode listens.
pub async fn through(mode: Mode) -> Place {
    Place::Tcp(proxy(mode).await.port())
}

/// The start-up packet of `app` at `shop`.
pub fn app() -> Vec<u8> {
    startup(&[("user", "app"), ("database", "shop")])
}

/// Holds a conversation at the server and through the proxy in these modes, cut in two ways; the
/// answers have to be the same, and have these types. Gives the server's.
pub async fn same(modes: &[Mode], steps: &[Step], tags: &str) -> Heard {
    let direct = converse(&direct().await, &app(), steps, Cut::Whole).await.unwrap();
    assert_eq!(direct.tags(), tags, "directly: {:#?}", direct.frames);
    let expected = compare::comparable(&direct);
    let sent: usize = steps.iter().map(Step::length).sum();
    for mode in modes {
        for cut in [Cut::Whole, Cut::Every(if sent < 5_000 { 7 } else { 4_099 })] {
            let found = converse(&through(*mode).await, &app(), steps, cut).await;
            let found = found.unwrap_or_else(|error| panic!("{mode:?} {cut:?}: {error}"));
            if let Some(difference) = compare::difference(&expected, &compare::comparable(&found)) {
                panic!("{mode:?} {cut:?}: {difference}");
            }
        }
    }
    direct
}
