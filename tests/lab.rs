//! The lab itself: what its servers, its proxy and its patience promise.

use cloud_mirror::base::{Retry, Site};
use cloud_mirror::lab::{
    Cluster, Direction, Durability, Error, FaultProxy, Port, Proxy, SUPERUSER, SocketAuth, StopMode,
    eventually, eventually_true, that,
};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::{Client, NoTls};

const SOON: Duration = Duration::from_secs(60);

async fn server() -> Cluster {
    Cluster::builder().start().await.expect("the server starts")
}

/// A client as an application makes it.
async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(client)
}

#[tokio::test]
async fn a_server_starts_answers_and_leaves_nothing_behind() {
    let server = server().await;
    server.create_database("shop").await.unwrap();
    server.create_role("app user", "p@ss/w:rd", "CREATEDB").await.unwrap();
    server.sql("shop", "CREATE TABLE t (n int); INSERT INTO t VALUES (1), (NULL)").await.unwrap();
    let rows = server.query("shop", "SELECT n FROM t ORDER BY n NULLS LAST").await.unwrap();
    assert_eq!(rows, [[Some("1".to_owned())], [None]]);
    assert_eq!(server.value("shop", "SHOW wal_level").await.unwrap(), "logical");

    let app = connect(&server.url("app user", "shop")).await.expect("the URL has the password");
    assert_eq!(app.query_one("SELECT current_user::text", &[]).await.unwrap().get::<_, &str>(0), "app user");
    let control = server.party(Site::Local, "shop").control("cloud-mirror test", SOON).await.unwrap();
    assert_eq!(control.query_one("SELECT count(*) FROM public.t", &[]).await.unwrap().get::<_, i64>(0), 2);

    let root = server.data_dir().parent().unwrap().to_owned();
    let (port, pid) = (server.port(), server.pid().unwrap());
    assert!(root.is_dir());
    drop(server);
    assert!(!root.exists(), "the directory is removed");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "the process is reaped");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err());
}

#[tokio::test]
async fn two_servers_have_two_identities() {
    let (one, other) = tokio::join!(server(), server());
    let ask = "SELECT system_identifier FROM pg_control_system()";
    assert_ne!(one.value("postgres", ask).await.unwrap(), other.value("postgres", ask).await.unwrap());
    assert_ne!(one.port(), other.port());
}

#[tokio::test]
async fn committed_rows_outlive_kill_9_and_the_server_starts_again_at_once() {
    let server = server().await;
    server.sql("postgres", "CREATE TABLE t (n int)").await.unwrap();
    for n in 0..3 {
        // A busy backend does not notice the death of its postmaster before its statement ends,
        // and keeps the shared memory until then.
        server.sql("postgres", &format!("INSERT INTO t VALUES ({n})")).await.unwrap();
        let busy = server.client("postgres").await.unwrap();
        let statement = tokio::spawn(async move { busy.simple_query("SELECT pg_sleep(2)").await });
        eventually(SOON, async || {
            let ask = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(2)'";
            that(server.value("postgres", ask).await?, |n| n == "1")
        })
        .await;
        server.kill9().unwrap();
        assert!(!server.is_running());
        assert!(matches!(server.kill9(), Err(Error::NotRunning)));
        server.start().await.expect("orphans are waited for");
        assert_eq!(server.value("postgres", "SELECT count(*) FROM t").await.unwrap(), (n + 1).to_string());
        let _ = statement.await;
    }
    server.kill9().unwrap();
    server.children_gone().await.unwrap();
    assert_eq!(server.process_count(), 0);
}

#[tokio::test]
async fn stops_are_told_apart_and_a_restart_keeps_the_port() {
    let server = server().await;
    let port = server.port();
    for (mode, words) in [
        (StopMode::Smart, "received smart shutdown request"),
        (StopMode::Fast, "received fast shutdown request"),
        (StopMode::Immediate, "received immediate shutdown request"),
    ] {
        server.restart(mode).await.unwrap();
        assert!(server.log().contains(words), "{}", server.log());
        assert_eq!(server.value("postgres", "SHOW port").await.unwrap(), port.to_string());
    }
    assert!(matches!(server.start().await, Err(Error::Running)));
    server.stop(StopMode::Fast).await.unwrap();
    assert_eq!(server.process_count(), 0);
}

#[tokio::test]
async fn a_frozen_server_keeps_its_connections_and_answers_when_thawed() {
    let server = server().await;
    let client = server.client("postgres").await.unwrap();
    server.freeze().unwrap();
    let mut answer = std::pin::pin!(client.simple_query("SELECT 1"));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut answer).await;
    assert!(early.is_err(), "a frozen server answered: {early:?}");
    server.thaw();
    tokio::time::timeout(SOON, answer).await.expect("it goes on").unwrap();
}

#[tokio::test]
async fn a_frozen_server_can_be_killed_and_dropped() {
    let server = server().await;
    let _client = server.client("postgres").await.unwrap();
    server.freeze().unwrap();
    server.kill9().unwrap();
    assert!(server.process_count() > 0, "its frozen children cannot notice");
    let root = server.data_dir().parent().unwrap().to_owned();
    drop(server);
    assert!(!root.exists());
}

#[tokio::test]
async fn settings_and_hba_lines_win_over_the_defaults_and_can_change() {
    let server = Cluster::builder()
        .setting("wal_level", "replica")
        .setting("my.text", "it's")
        .durability(Durability::Full)
        .socket_auth(SocketAuth::Trust)
        .hba("host shut all 127.0.0.1/32 reject")
        .start()
        .await
        .unwrap();
    for (name, value) in [("wal_level", "replica"), ("my.text", "it's"), ("fsync", "on")] {
        assert_eq!(server.value("postgres", &format!("SHOW {name}")).await.unwrap(), value);
    }
    server.create_database("shut").await.unwrap();
    let refused = server.sql("shut", "SELECT 1").await.unwrap_err();
    assert!(refused.to_string().contains("pg_hba.conf rejects connection"), "{refused}");

    let mut by_socket = tokio_postgres::Config::new();
    by_socket.host_path(server.socket_dir()).port(server.port()).user("postgres").dbname("shut");
    by_socket.connect(NoTls).await.map(drop).expect("the socket trusts everybody");

    server.configure("work_mem", "7MB").unwrap();
    server.add_hba("host shut all 127.0.0.1/32 scram-sha-256").unwrap();
    server.reload().unwrap();
    eventually(SOON, async || that(server.value("shut", "SHOW work_mem").await?, |v| v == "7MB")).await;
}

#[tokio::test]
async fn a_standby_follows_and_can_be_promoted() {
    let primary = server().await;
    primary.create_role("app", "secret", "").await.unwrap();
    primary.sql("postgres", "CREATE TABLE t (n int)").await.unwrap();
    let standby = primary.standby().await.unwrap();
    primary.sql("postgres", "INSERT INTO t VALUES (7)").await.unwrap();
    eventually(SOON, async || that(standby.value("postgres", "SELECT n FROM t").await?, |v| v == "7")).await;
    assert!(connect(&standby.url("app", "postgres")).await.is_ok(), "roles and passwords are the same");
    primary.kill9().unwrap();
    standby.promote().await.unwrap();
    standby.sql("postgres", "INSERT INTO t VALUES (8)").await.unwrap();
}

#[tokio::test]
async fn a_missing_postgresql_is_one_line_to_type() {
    let error = Cluster::builder().bindir("/nowhere").start().await.unwrap_err();
    assert!(matches!(error, Error::NoPostgres { .. }), "{error:?}");
    assert_eq!(error.retry(), Retry::Never);
    let text = error.to_string();
    assert!(text.contains("apt-get install -y postgresql"), "{text}");
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[tokio::test]
async fn a_server_that_cannot_start_shows_its_log() {
    let error = Cluster::builder().setting("shared_buffers", "plenty").start().await.unwrap_err();
    assert!(matches!(error, Error::Start { .. }), "{error:?}");
    assert!(error.to_string().contains("shared_buffers"), "{error}");
}

#[tokio::test]
async fn a_reserved_port_is_reserved_once() {
    let port = Port::reserve().unwrap();
    assert!(matches!(Port::exactly(port.number()), Err(Error::PortTaken { .. })));
    let number = port.number();
    drop(port);
    Port::exactly(number).expect("free again");
}

/// Not a test of its own: the process that the next test kills.
#[tokio::test]
#[ignore = "run by a_killed_harness_leaves_nothing_behind in a process of its own"]
async fn harness_to_be_killed() {
    if std::env::var_os("LAB_HARNESS_TO_BE_KILLED").is_none() {
        return;
    }
    let server = server().await;
    let _busy = server.client("postgres").await.unwrap();
    let frozen = self::server().await;
    frozen.freeze().unwrap();
    for one in [&server, &frozen] {
        println!("left {} {}", one.pid().unwrap(), one.data_dir().parent().unwrap().display());
    }
    let url = server.url(SUPERUSER, "postgres");
    let proxy = Proxy::new(Path::new(env!("CARGO_BIN_EXE_cloud-mirror")), &["--local", &url]).unwrap();
    proxy.start().await.unwrap();
    println!("left {} {}", proxy.pid().unwrap(), proxy.directory().display());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_harness_leaves_nothing_behind() {
    use std::io::{BufRead, BufReader};
    let mut harness = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "harness_to_be_killed"])
        .env("LAB_HARNESS_TO_BE_KILLED", "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(harness.stdout.take().unwrap()).lines();
    let left: Vec<(String, String)> = lines
        .map_while(Result::ok)
        .filter_map(|line| {
            let mut words = line.split("left ").nth(1)?.split(' ').map(str::to_owned);
            Some((words.next()?, words.next()?))
        })
        .take(3)
        .collect();
    assert_eq!(left.len(), 3, "the harness has started two servers and a proxy");
    harness.kill().unwrap();
    harness.wait().unwrap();
    for (pid, root) in left {
        eventually_true(SOON, "the process and its files are gone", || {
            let process = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let runs = process.contains("postgres") || process.contains("cloud-mirror");
            !runs && !Path::new(&root).exists()
        })
        .await;
    }
}

/// A listener that sends back what it receives.
async fn echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = socket.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    address
}

async fn say(socket: &mut TcpStream, text: &str) -> std::io::Result<String> {
    socket.write_all(text.as_bytes()).await?;
    let mut back = vec![0; text.len()];
    tokio::time::timeout(SOON, socket.read_exact(&mut back)).await.expect("an answer or an error")?;
    Ok(String::from_utf8(back).unwrap())
}

async fn is_silent(socket: &mut TcpStream) -> bool {
    let mut byte = [0];
    tokio::time::timeout(Duration::from_millis(200), socket.read(&mut byte)).await.is_err()
}

#[tokio::test]
async fn a_healthy_hop_passes_everything_and_each_half_close() {
    let proxy = FaultProxy::start(echo().await).await.unwrap();
    let mut socket = TcpStream::connect(proxy.address()).await.unwrap();
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let (mut from, mut to) = socket.split();
    let (received, ()) = tokio::join!(
        async {
            let mut received = Vec::new();
            from.read_to_end(&mut received).await.unwrap();
            received
        },
        async {
            to.write_all(&sent).await.unwrap();
            to.shutdown().await.unwrap();
        }
    );
    assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    drop(socket);
    eventually_true(SOON, "the connection is gone", || proxy.connections() == 0).await;
}

#[tokio::test]
async fn a_cut_closes_and_refuses_until_healed() {
    let proxy = FaultProxy::start(echo().await).await.unwrap();
    let mut socket = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(say(&mut socket, "hello").await.unwrap(), "hello");
    proxy.cut().await;
    assert_eq!(proxy.connections(), 0);
    assert!(say(&mut socket, "hello?").await.is_err());
    let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    proxy.heal().await;
    let mut socket = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(say(&mut socket, "again").await.unwrap(), "again");
}

#[tokio::test]
async fn a_black_hole_accepts_and_says_nothing_until_healed() {
    let proxy = FaultProxy::start(echo().await).await.unwrap();
    let mut old = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(say(&mut old, "hello").await.unwrap(), "hello");
    proxy.blackhole().await;
    let mut new = TcpStream::connect(proxy.address()).await.unwrap();
    for socket in [&mut old, &mut new] {
        socket.write_all(b"anyone?").await.unwrap();
        assert!(is_silent(socket).await);
    }
    proxy.heal().await;
    for socket in [&mut old, &mut new] {
        assert_eq!(say(socket, "!").await.unwrap(), "a", "what was stalled arrives first");
    }
}

#[tokio::test]
async fn half_open_lets_one_direction_through() {
    let (heard, mut hear) = tokio::sync::mpsc::channel(8);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut byte = [0];
        while socket.read_exact(&mut byte).await.is_ok() {
            heard.send(byte[0]).await.unwrap();
            socket.write_all(&byte).await.unwrap();
        }
    });
    let proxy = FaultProxy::start(target).await.unwrap();
    let mut socket = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(say(&mut socket, "a").await.unwrap(), "a");
    assert_eq!(hear.recv().await, Some(b'a'));

    proxy.half_open(Direction::ToClient).await;
    socket.write_all(b"b").await.unwrap();
    assert_eq!(hear.recv().await, Some(b'b'), "the server hears");
    assert!(is_silent(&mut socket).await, "the client does not");

    proxy.half_open(Direction::ToServer).await;
    let mut byte = [0];
    socket.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"b", "the client hears what was stalled");
    socket.write_all(b"c").await.unwrap();
    assert!(is_silent(&mut socket).await);
    assert!(hear.try_recv().is_err(), "the server does not hear");
}

#[tokio::test]
async fn latency_delays_each_direction_and_keeps_the_rate() {
    let proxy = FaultProxy::start(echo().await).await.unwrap();
    let mut socket = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(say(&mut socket, "x").await.unwrap(), "x");
    proxy.latency(Duration::from_millis(200)).await;
    let begin = Instant::now();
    assert_eq!(say(&mut socket, "x").await.unwrap(), "x");
    assert!(begin.elapsed() >= Duration::from_millis(400), "{:?}", begin.elapsed());
    // 40 chunks one after the other would take 40 × 400 ms if each waited for the last.
    let begin = Instant::now();
    let text = "y".repeat(40 * 16 * 1024);
    assert_eq!(say(&mut socket, &text).await.unwrap().len(), text.len());
    assert!(begin.elapsed() < Duration::from_secs(12), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn reset_after_counts_bytes_and_ends_with_rst() {
    let proxy = FaultProxy::start(echo().await).await.unwrap();
    let mut socket = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(say(&mut socket, "warm").await.unwrap(), "warm");
    proxy.reset_after(Direction::ToClient, 3).await;
    socket.write_all(b"12345").await.unwrap();
    let mut received = Vec::new();
    let error = tokio::time::timeout(SOON, socket.read_to_end(&mut received)).await.unwrap().unwrap_err();
    assert_eq!((received.as_slice(), error.kind()), (&b"123"[..], std::io::ErrorKind::ConnectionReset));
    proxy.heal().await;
    let mut socket = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(say(&mut socket, "fine").await.unwrap(), "fine");
    proxy.reset().await;
    let error = tokio::time::timeout(SOON, socket.read(&mut [0])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_database_is_reached_through_the_hop() {
    let server = server().await;
    let proxy = FaultProxy::before(server.port()).await.unwrap();
    let url =
        server.url("postgres", "postgres").replace(&server.port().to_string(), &proxy.port().to_string());
    let client = connect(&url).await.unwrap();
    client.simple_query("SELECT 1").await.unwrap();
    proxy.cut().await;
    assert!(client.simple_query("SELECT 1").await.unwrap_err().is_closed());
}
