//! PgBouncer's commands on a running proxy, given with psql.

use cloud_mirror::lab::{Cluster, Proxy, StopMode, eventually};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Child;
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

static SERVER: OnceCell<Cluster> = OnceCell::const_new();

/// The server of this binary, with databases `shop` and `stock` and role `app`.
pub async fn server() -> &'static Cluster {
    SERVER
        .get_or_init(|| async {
            let server = Cluster::builder().setting("max_connections", 200).start().await.unwrap();
            server.create_role("app", "app-secret", "").await.unwrap();
            for database in ["shop", "stock"] {
                server.create_database(database).await.unwrap();
            }
            server
        })
        .await
}

/// A proxy in front of it that has started.
pub async fn proxy(keys: &[(&str, &str)]) -> Proxy {
    let url = server().await.url("postgres", "shop");
    let mut proxy = Proxy::new(Path::new(env!("CARGO_BIN_EXE_cloud-mirror")), &["--local", &url]).unwrap();
    // What PAUSE and RECONNECT wait for depends on who keeps a server.
    for (key, value) in [("pool.mode", "session")].iter().chain(keys) {
        proxy = proxy.variable(&format!("CLOUD_MIRROR__{}", key.replace('.', "__").to_uppercase()), value);
    }
    proxy.start().await.unwrap();
    proxy
}

/// A client of `app`.
pub async fn client(proxy: &Proxy, database: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) =
        tokio_postgres::connect(&proxy.url("app", "app-secret", database), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// psql on the console, over the Unix socket, where our own user needs no password.
pub fn psql(proxy: &Proxy, commands: &[&str]) -> Child {
    psql_at(proxy, proxy.port(), commands)
}

/// The same where another address than the proxy's own is its first.
pub fn psql_at(proxy: &Proxy, port: u16, commands: &[&str]) -> Child {
    let programs = cloud_mirror::lab::Programs::find(None).expect("PostgreSQL is installed");
    let mut psql = tokio::process::Command::new(programs.path("psql"));
    psql.args(["-X", "-A", "-t", "-U", "operator", "-d", "pgbouncer", "-p", &port.to_string()]);
    psql.arg("-h").arg(proxy.directory());
    for command in commands {
        psql.args(["-c", command]);
    }
    psql.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    psql.spawn().unwrap()
}

/// What psql printed: its output and its errors.
pub async fn said(child: Child) -> (String, String) {
    let done = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("psql ends").unwrap();
    (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
}

/// One command, answered without an error.
pub async fn console(proxy: &Proxy, command: &str) -> String {
    let (out, errors) = said(psql(proxy, &[command])).await;
    assert!(errors.lines().all(|line| line.starts_with("NOTICE:")), "{command}: {errors}");
    out.trim_end().to_owned()
}

/// The error of one command.
async fn refused(proxy: &Proxy, command: &str) -> String {
    said(psql(proxy, &[command])).await.1
}

async fn state_is(proxy: &Proxy, expected: &str) {
    eventually(PATIENCE, async || {
        let state = console(proxy, "SHOW STATE").await;
        if state.contains(expected) { Ok(()) } else { Err(state.into()) }
    })
    .await;
}

#[tokio::test]
async fn pause_returns_when_the_last_client_has_left_and_resume_lets_the_next_one_in() {
    let proxy = proxy(&[]).await;
    let shop = client(&proxy, "shop").await.unwrap();
    let stock = client(&proxy, "stock").await.unwrap();
    let pid: i32 = shop.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let mut pausing = psql(&proxy, &["PAUSE shop"]);
    eventually(PATIENCE, async || {
        let databases = console(&proxy, "SHOW DATABASES").await;
        let row = databases.lines().find(|line| line.starts_with("shop|")).unwrap_or_default().to_owned();
        if row.ends_with("|1|0") { Ok(()) } else { Err(databases.into()) }
    })
    .await;
    // Who has a server keeps it, and other databases do not notice.
    shop.simple_query("SELECT 1").await.unwrap();
    drop(client(&proxy, "stock").await.unwrap());
    assert!(pausing.try_wait().unwrap().is_none(), "a client still has its server");
    let waiting = tokio::spawn({
        let url = proxy.url("app", "app-secret", "shop");
        async move { tokio_postgres::connect(&url, NoTls).await.map(|_| ()) }
    });
    drop(shop);
    assert_eq!(said(pausing).await, ("PAUSE\n".to_owned(), String::new()));
    assert!(!waiting.is_finished());
    let links = format!("SELECT count(*)::int FROM pg_stat_activity WHERE pid = {pid}");
    // Closed by us; its back end may take a moment to end.
    eventually(PATIENCE, async || match stock.query_one(&links, &[]).await.unwrap().get::<_, i32>(0) {
        0 => Ok(()),
        left => Err(left.into()),
    })
    .await;
    assert!(refused(&proxy, "RESUME stock").await.contains("database stock is not paused"));
    assert!(refused(&proxy, "RESUME").await.contains("pooler is not paused/suspended"));
    console(&proxy, "RESUME shop").await;
    tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_waiting_pause_is_cancelled_and_resumes() {
    let proxy = proxy(&[]).await;
    let held = client(&proxy, "shop").await.unwrap();
    let pausing = psql(&proxy, &["PAUSE"]);
    state_is(&proxy, "paused|yes").await;
    assert!(refused(&proxy, "PAUSE").await.contains("already suspended/paused"));
    let pid = nix::unistd::Pid::from_raw(pausing.id().unwrap().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let (_, errors) = said(pausing).await;
    assert!(errors.contains("canceling statement due to user request"), "{errors}");
    state_is(&proxy, "active|yes").await;
    drop(client(&proxy, "shop").await.unwrap());
    held.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn disable_reconnect_and_kill_do_what_they_say() {
    let proxy = proxy(&[]).await;
    console(&proxy, "DISABLE stock").await;
    let error = client(&proxy, "stock").await.map(|_| ()).unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!((error.code().code(), error.message()), ("55000", "database \"stock\" is disabled"));
    console(&proxy, "ENABLE stock").await;
    let stock = client(&proxy, "stock").await.unwrap();

    let pid = async |client: &Client| -> i32 {
        client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
    };
    let before = pid(&stock).await;
    console(&proxy, "RECONNECT stock").await;
    let closing = psql(&proxy, &["WAIT_CLOSE stock"]);
    assert_eq!(pid(&stock).await, before, "a session keeps its server");
    drop(stock);
    assert_eq!(said(closing).await.0, "WAIT_CLOSE\n");
    let stock = client(&proxy, "stock").await.unwrap();
    assert_ne!(pid(&stock).await, before);

    let shop = client(&proxy, "shop").await.unwrap();
    console(&proxy, "KILL stock").await;
    eventually(PATIENCE, async || if stock.is_closed() { Ok(()) } else { Err("it lives".into()) }).await;
    shop.simple_query("SELECT 1").await.unwrap();
    console(&proxy, "RESUME stock").await;
    let stock = client(&proxy, "stock").await.unwrap();
    let clients = console(&proxy, "SHOW CLIENTS").await;
    let row = clients.lines().find(|line| line.contains("|stock|")).unwrap_or_else(|| panic!("{clients}"));
    let id = row.split('|').nth(20).unwrap();
    console(&proxy, &format!("KILL_CLIENT {id}")).await;
    eventually(PATIENCE, async || if stock.is_closed() { Ok(()) } else { Err("it lives".into()) }).await;
    assert!(refused(&proxy, "KILL_CLIENT 4711").await.contains("client not found"));
}

#[tokio::test]
async fn suspend_holds_every_statement_until_its_admin_resumes_or_leaves() {
    let proxy = proxy(&[]).await;
    let shop = client(&proxy, "shop").await.unwrap();
    shop.simple_query("BEGIN").await.unwrap();
    let busy = client(&proxy, "shop").await.unwrap();
    let busy = tokio::spawn(async move { busy.simple_query("SELECT pg_sleep(1)").await.map(|_| ()) });
    eventually(PATIENCE, async || {
        let active = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(1)'";
        match server().await.value("postgres", active).await.unwrap().as_str() {
            "1" => Ok(()),
            other => Err(other.into()),
        }
    })
    .await;
    let (mut console, connection) = console_client(&proxy).await;
    console.simple_query("SUSPEND").await.unwrap();
    let active =
        "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(1)' AND state = 'active'";
    assert_eq!(server().await.value("postgres", active).await.unwrap(), "0", "it waits for what was sent");
    let answered = tokio::time::timeout(PATIENCE, busy).await;
    answered.expect("what was sent has been answered").unwrap().unwrap();
    let waiting = tokio::spawn(async move {
        shop.simple_query("COMMIT").await.unwrap();
        shop
    });
    let new = tokio::spawn({
        let url = proxy.url("app", "app-secret", "shop");
        async move { tokio_postgres::connect(&url, NoTls).await.map(|_| ()) }
    });
    assert!(console_error(&mut console, "PAUSE").await.contains("already suspended/paused"));
    state_is(&proxy, "suspended|yes").await;
    assert!(!waiting.is_finished() && !new.is_finished());
    console.simple_query("RESUME").await.unwrap();
    let shop = waiting.await.unwrap();
    new.await.unwrap().unwrap();
    console.simple_query("SUSPEND").await.unwrap();
    drop(console);
    connection.await.unwrap();
    shop.simple_query("SELECT 1").await.unwrap();
}

/// A console of our own.
async fn console_client(proxy: &Proxy) -> (Client, tokio::task::JoinHandle<()>) {
    let mut config = tokio_postgres::Config::new();
    config.host_path(proxy.directory()).port(proxy.port()).user("operator").dbname("pgbouncer");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    (client, tokio::spawn(async move { drop(connection.await) }))
}

async fn console_error(console: &mut Client, command: &str) -> String {
    let error = console.simple_query(command).await.unwrap_err();
    error.as_db_error().unwrap().message().to_owned()
}

#[tokio::test]
async fn prepared_statements_are_shown_with_their_texts() {
    let proxy = proxy(&[("pool.mode", "transaction"), ("pool.size", "1")]).await;
    let (one, two) = (client(&proxy, "shop").await.unwrap(), client(&proxy, "shop").await.unwrap());
    let text = "SELECT 'prepared twice'";
    let (first, second) = (one.prepare(text).await.unwrap(), two.prepare(text).await.unwrap());
    let shown = console(&proxy, "SHOW PREPARED").await;
    let row = shown.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{shown}")).to_owned();
    assert!(row.starts_with("cm_") && row.contains(&format!("|{text}|2|")), "{row}");
    drop((first, second));
}

#[tokio::test]
async fn set_changes_a_setting_until_the_next_reload() {
    let proxy = proxy(&[]).await;
    let shown = async |key: &str| {
        let config = console(&proxy, "SHOW CONFIG").await;
        let row =
            config.lines().find(|line| line.starts_with(&format!("{key}|"))).unwrap_or_default().to_owned();
        row.split('|').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(shown("default_pool_size").await, "0");
    assert_eq!(console(&proxy, "SET default_pool_size = 7").await, "SET default_pool_size=7");
    assert_eq!((shown("default_pool_size").await, shown("pool.size").await), ("7".into(), "7".into()));
    console(&proxy, "SET server_idle_timeout = 90").await;
    assert_eq!(
        (shown("default_pool_size").await, shown("server_idle_timeout").await),
        ("7".into(), "90".into())
    );
    console(&proxy, "SET default_pool_size = 0").await;
    assert_eq!(shown("pool.size").await, "unlimited");
    assert!(refused(&proxy, "SET pool.sice = 3").await.contains("did you mean"));
    assert!(refused(&proxy, "SET max_clients = 3").await.contains("unrecognized configuration parameter"));
    let error = refused(&proxy, "SET max_client_conn = 0").await;
    assert!(error.contains("0 is out of range"), "{error}");
    console(&proxy, "RELOAD").await;
    assert_eq!(shown("server_idle_timeout").await, "600");
}

#[tokio::test]
async fn shutdown_waits_for_clients_or_for_nobody() {
    let proxy = proxy(&[]).await;
    let shop = client(&proxy, "shop").await.unwrap();
    console(&proxy, "SHUTDOWN WAIT_FOR_CLIENTS").await;
    eventually(PATIENCE, async || match tokio::net::TcpStream::connect(("127.0.0.1", proxy.port())).await {
        Ok(_) => Err("it listens".into()),
        Err(_) => Ok(()),
    })
    .await;
    // The console stays, and so does who was there before.
    shop.simple_query("SELECT 1").await.unwrap();
    assert!(console(&proxy, "SHOW CLIENTS").await.contains("|shop|"));
    assert!(refused(&proxy, "RESUME").await.contains("shutting down"));
    assert!(proxy.ended().is_none());
    drop(shop);
    let status = eventually(PATIENCE, async || proxy.ended().ok_or_else(|| "it runs".into())).await;
    assert!(status.success(), "{}", proxy.log());

    proxy.start().await.unwrap();
    let shop = client(&proxy, "shop").await.unwrap();
    let (_, errors) = said(psql(&proxy, &["SHUTDOWN"])).await;
    assert!(errors.contains("terminating connection due to administrator command"), "{errors}");
    let status = eventually(PATIENCE, async || proxy.ended().ok_or_else(|| "it runs".into())).await;
    assert!(status.success(), "{}", proxy.log());
    eventually(PATIENCE, async || if shop.is_closed() { Ok(()) } else { Err("it lives".into()) }).await;
}

#[tokio::test]
async fn databases_have_names_users_and_settings_of_their_own() {
    for mode in ["session", "transaction"] {
        names_users_and_settings(mode).await;
    }
}

async fn names_users_and_settings(mode: &str) {
    let keys = [
        ("pool.mode", mode),
        ("databases.reports", "shop"),
        ("databases.legacy.name", "stock"),
        ("databases.legacy.user", "app"),
        ("databases.legacy.password", "app-secret"),
    ];
    let proxy = proxy(&keys).await;
    let value =
        async |client: &Client, text: &str| -> String { client.query_one(text, &[]).await.unwrap().get(0) };
    let reports = client(&proxy, "reports").await.unwrap();
    assert_eq!(value(&reports, "SELECT current_database()::text").await, "shop");
    let url = server().await.url("postgres", "legacy");
    let url = url.replace(&format!(":{}/", server().await.port()), &format!(":{}/", proxy.port()));
    let (legacy, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(value(&legacy, "SELECT current_user || ' ' || current_database()").await, "app stock");
    let error = client(&proxy, "shop").await.map(|_| ()).unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!((error.code().code(), error.message()), ("3D000", "database \"shop\" does not exist"));
    let databases = console(&proxy, "SHOW DATABASES").await;
    let row =
        databases.lines().find(|line| line.starts_with("legacy|")).unwrap_or_else(|| panic!("{databases}"));
    assert!(row.contains("|stock|app|"), "{row}");
    assert_eq!(databases.lines().count(), 2, "{databases}");
}

/// A pgbench of four clients; how it ended and what it said.
async fn pgbench(proxy: &Proxy, seconds: u32) -> std::process::Output {
    let programs = cloud_mirror::lab::Programs::find(None).expect("PostgreSQL is installed");
    let script = proxy.directory().join("script.sql");
    std::fs::write(&script, "BEGIN;\nSELECT 1;\nSELECT pg_sleep(0.002);\nCOMMIT;\n").unwrap();
    let mut pgbench = tokio::process::Command::new(programs.path("pgbench"));
    // A thread each: pgbench stands still while it prepares.
    pgbench
        .args(["-n", "-c", "4", "-j", "4", "-T", &seconds.to_string(), "-M", "prepared", "-f"])
        .arg(&script);
    pgbench.args(["-h", "127.0.0.1", "-p", &proxy.port().to_string(), "-U", "app", "shop"]);
    pgbench.env("PGPASSWORD", "app-secret").stdin(Stdio::null()).kill_on_drop(true);
    pgbench.output().await.unwrap()
}

#[tokio::test]
async fn a_server_is_restarted_under_pause_and_no_client_notices() {
    let server = Cluster::builder().start().await.unwrap();
    server.create_role("app", "app-secret", "").await.unwrap();
    server.create_database("shop").await.unwrap();
    let url = server.url("postgres", "shop");
    let program = Path::new(env!("CARGO_BIN_EXE_cloud-mirror"));
    let arguments = ["--local", url.as_str(), "--pool-mode", "transaction", "--pool-size", "2"];
    let proxy = Proxy::new(program, &arguments).unwrap();
    proxy.start().await.unwrap();
    let working = async {
        eventually(PATIENCE, async || {
            let clients = console(&proxy, "SHOW CLIENTS").await;
            if clients.lines().count() == 4 { Ok(()) } else { Err(clients.into()) }
        })
        .await;
        console(&proxy, "PAUSE").await;
        let links = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'";
        eventually(PATIENCE, async || match server.value("postgres", links).await.unwrap().as_str() {
            "0" => Ok(()),
            left => Err(left.into()),
        })
        .await;
        server.restart(StopMode::Fast).await.unwrap();
        console(&proxy, "RESUME").await;
    };
    let (done, ()) = tokio::join!(pgbench(&proxy, 6), working);
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}\n{}", proxy.log());
    assert!(said.contains("number of failed transactions: 0 (0.000%)"), "{said}");
}
