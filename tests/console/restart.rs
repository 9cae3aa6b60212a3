//! Restarts that no client notices: two poolers on one port, and sockets of the service manager.

use super::running::{PATIENCE, psql_at, said, server};
use cloud_mirror::lab::{Proxy, eventually};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use tokio::io::AsyncBufReadExt;
use tokio_postgres::NoTls;

/// A pooler that shares `port` with others.
async fn sharing(port: u16) -> Proxy {
    let url = server().await.url("postgres", "shop");
    let at = format!("127.0.0.1:{port}");
    let program = Path::new(env!("CARGO_BIN_EXE_cloud-mirror"));
    let arguments = ["--local", url.as_str(), "--listen", at.as_str()];
    let proxy = Proxy::new(program, &arguments).unwrap().variable("CLOUD_MIRROR__LISTEN__REUSE_PORT", "true");
    proxy.start().await.unwrap();
    proxy
}

/// A port that nobody listens on; it stays ours until the first pooler has it as well.
fn free_port() -> (socket2::Socket, u16) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    (socket, port)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_poolers_on_one_port_are_restarted_one_after_the_other() {
    let (_held, port) = free_port();
    let (first, second) = tokio::join!(sharing(port), sharing(port));
    let url = format!("postgres://app:app-secret@127.0.0.1:{port}/shop");
    let done = AtomicU32::new(0);
    let stop = std::sync::atomic::AtomicBool::new(false);
    // An application that connects, works a little, and connects again: not one failure.
    let application = async || {
        while !stop.load(Relaxed) {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("a log-in");
            let connection = tokio::spawn(connection);
            for _ in 0..5 {
                client.query_one("SELECT 1", &[]).await.expect("a statement");
            }
            drop(client);
            connection.await.unwrap().expect("an end in order");
            done.fetch_add(1, Relaxed);
        }
    };
    let some_more = async || {
        let before = done.load(Relaxed);
        eventually(PATIENCE, async || match done.load(Relaxed) {
            now if now > before + 6 => Ok(()),
            now => Err(now.into()),
        })
        .await;
    };
    let operator = async {
        some_more().await;
        for proxy in [&first, &second] {
            // It may end before psql has left.
            let (out, errors) = said(psql_at(proxy, port, &["SHUTDOWN WAIT_FOR_CLIENTS"])).await;
            assert_eq!(out, "SHUTDOWN\n", "{errors}");
            let status = eventually(PATIENCE, async || proxy.ended().ok_or_else(|| "it runs".into())).await;
            assert!(status.success(), "{}", proxy.log());
            some_more().await;
            proxy.start().await.unwrap();
            some_more().await;
        }
        stop.store(true, Relaxed);
    };
    tokio::join!(application(), application(), operator);
}

#[tokio::test]
async fn a_pair_does_not_share_its_port() {
    let url = server().await.url("postgres", "shop");
    let program = Path::new(env!("CARGO_BIN_EXE_cloud-mirror"));
    let arguments = ["--local", url.as_str(), "--cloud", "postgres://a@127.0.0.1:1/b"];
    let proxy = Proxy::new(program, &arguments).unwrap().variable("CLOUD_MIRROR__LISTEN__REUSE_PORT", "true");
    let error = proxy.start().await.unwrap_err().to_string();
    assert!(error.contains("two proxies cannot hold one lease"), "{error}");
}

/// Makes sockets, hands them over as systemd does, and becomes the program.
const ACTIVATE: &str = "import os, socket, sys\n\
tcp = socket.create_server(('127.0.0.1', 0))\n\
unix = socket.socket(socket.AF_UNIX); unix.bind(sys.argv[1] + '/.s.PGSQL.6432'); unix.listen()\n\
print(tcp.getsockname()[1], flush=True)\n\
fds = [os.dup(tcp.fileno()), os.dup(unix.fileno())]\n\
os.dup2(fds[0], 3); os.dup2(fds[1], 4)\n\
os.environ.update(LISTEN_FDS='2', LISTEN_PID=str(os.getpid()), NOTIFY_SOCKET=sys.argv[1] + '/notify')\n\
os.execv(sys.argv[2], sys.argv[2:])\n";

/// The kind of timer that runs for a socket of this machine: 2 is keepalive.
fn timer_of(local: u16, remote: u16) -> Option<u8> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let [local, remote] = [local, remote].map(|port| format!(":{port:04X}"));
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut found = fields.filter(|line| line[1].ends_with(&local) && line[2].ends_with(&remote));
    found.next()?[5].split(':').next()?.parse().ok()
}

#[tokio::test]
async fn sockets_of_the_service_manager_are_used_and_it_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let manager = tokio::net::UnixDatagram::bind(at("notify")).unwrap();
    let url = server().await.url("postgres", "shop");
    let program = env!("CARGO_BIN_EXE_cloud-mirror");
    let mut child = tokio::process::Command::new("python3")
        .args(["-c", ACTIVATE, &directory.path().display().to_string(), program, "run", "--local", &url])
        .args(["--listen", "127.0.0.1:1", "--http", "off", "--state-dir", &at("state")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let port: u16 = lines.next_line().await.unwrap().unwrap().parse().unwrap();
    // The socket is there before the program: these wait in its queue.
    let early = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let url = format!("postgres://app:app-secret@127.0.0.1:{port}/shop");
    let (client, connection) =
        tokio::time::timeout(PATIENCE, tokio_postgres::connect(&url, NoTls)).await.unwrap().unwrap();
    tokio::spawn(connection);
    client.simple_query("SELECT 1").await.unwrap();
    assert_eq!(timer_of(port, early.local_addr().unwrap().port()), Some(2), "keepalive");
    let mut config = tokio_postgres::Config::new();
    config.host_path(directory.path()).port(6432).user("app").password("app-secret").dbname("shop");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client.simple_query("SELECT 1").await.unwrap();
    let mut told = [0; 256];
    let length = tokio::time::timeout(PATIENCE, manager.recv(&mut told)).await.unwrap().unwrap();
    assert_eq!(&told[..length], b"READY=1");
    let pid = nix::unistd::Pid::from_raw(child.id().unwrap().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    let length = tokio::time::timeout(PATIENCE, manager.recv(&mut told)).await.unwrap().unwrap();
    assert!(told[..length].starts_with(b"RELOADING=1\nMONOTONIC_USEC="));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert!(status.success());
    assert!(Path::new(&at(".s.PGSQL.6432")).exists(), "the file is the manager's");
}
