//! One server for all tests of this binary, and a proxy for each.

use cloud_mirror::lab::{Cluster, Proxy};
use std::time::Duration;
use tokio::sync::{Mutex, OnceCell};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

static SERVER: OnceCell<Cluster> = OnceCell::const_new();
static STARTING: Mutex<()> = Mutex::const_new(());

/// The server, which lives as long as this process. Role `app` with database `shop`.
pub async fn server() -> &'static Cluster {
    SERVER.get_or_init(new_server).await
}

/// Another one like it.
pub async fn new_server() -> Cluster {
    // For proxies that ask for no password and so have none to show.
    let builder = Cluster::builder()
        .setting("max_connections", 300)
        .hba("local all app trust")
        .hba("host all app 127.0.0.1/32 trust");
    let server = builder.start().await.expect("a server starts");
    server.create_role("app", "app-secret", "").await.unwrap();
    server.create_database("shop").await.unwrap();
    server.sql("shop", "grant all on schema public to app").await.unwrap();
    server
}

/// A proxy before it that lets everyone in, with these keys of its configuration. They start one
/// at a time: each looks after its control role.
pub async fn proxy(keys: &[(&str, &str)]) -> Proxy {
    proxy_before(server().await, keys).await
}

/// The same before another server.
pub async fn proxy_before(server: &Cluster, keys: &[(&str, &str)]) -> Proxy {
    proxy_at(&server.url("postgres", "shop"), keys).await
}

/// The same with the server's URL.
pub async fn proxy_at(url: &str, keys: &[(&str, &str)]) -> Proxy {
    let _one = STARTING.lock().await;
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_cloud-mirror"));
    let mut proxy = Proxy::new(program, &["--local", url]).unwrap();
    for (key, value) in [("auth.type", "trust")].iter().chain(keys) {
        let name = format!("CLOUD_MIRROR__{}", key.replace('.', "__").to_uppercase());
        proxy = proxy.variable(&name, value);
    }
    proxy.start().await.unwrap();
    proxy
}

/// One connection for all.
pub async fn one_connection(mode: &str) -> Proxy {
    proxy(&[("pool.mode", mode), ("pool.size", "1")]).await
}

/// A client.
pub async fn connect(proxy: &Proxy, user: &str, database: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(&proxy.url(user, "x", database), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The console.
pub async fn admin(proxy: &Proxy) -> Client {
    connect(proxy, "postgres", "pgbouncer").await
}

/// What a table of the console has about `app`.
pub async fn rows(admin: &Client, text: &str) -> Vec<SimpleQueryRow> {
    let rows = admin.simple_query(text).await.unwrap().into_iter();
    rows.filter_map(|message| match message {
        SimpleQueryMessage::Row(row) if row.get("user") == Some("app") => Some(row),
        _ => None,
    })
    .collect()
}
