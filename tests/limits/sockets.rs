//! `[tcp]` on the sockets themselves, as the kernel shows them and as it uses them; and `server_login_retry`.

use crate::stage::{Raw, TRUST, client_of, proxy_at, server};
use cloud_mirror::lab::{Proxy, eventually, eventually_true, that};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// A hop before a server that does something to the connections of `app`, and to no others: those that look
/// after the server see nothing.
struct Hop {
    port: u16,
    /// When connections of `app` came, and from which ports.
    arrivals: Arc<Mutex<Vec<(Instant, u16)>>>,
    /// They are closed at once.
    refuses: Arc<AtomicBool>,
    /// What they send is not read any more.
    is_deaf: Arc<AtomicBool>,
}

impl Hop {
    async fn before(server: u16) -> Hop {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let hop = Hop {
            port: listener.local_addr().unwrap().port(),
            arrivals: Arc::default(),
            refuses: Arc::default(),
            is_deaf: Arc::default(),
        };
        let (arrivals, refuses) = (hop.arrivals.clone(), hop.refuses.clone());
        let is_deaf = hop.is_deaf.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (arrivals, refuses, is_deaf) = (arrivals.clone(), refuses.clone(), is_deaf.clone());
                tokio::spawn(async move { carry(client, server, &arrivals, &refuses, &is_deaf).await });
            }
        });
        hop
    }

    async fn proxy(&self, url: &str, server: u16, keys: &[(&str, &str)]) -> Proxy {
        let keys: Vec<_> = [TRUST].iter().chain(keys).copied().collect();
        proxy_at(&url.replace(&format!(":{server}/"), &format!(":{}/", self.port)), &keys).await
    }
}

async fn carry(
    mut client: TcpStream,
    server: u16,
    arrivals: &Mutex<Vec<(Instant, u16)>>,
    refuses: &AtomicBool,
    is_deaf: &AtomicBool,
) -> Option<()> {
    let mut first = vec![0; 4096];
    let read = client.read(&mut first).await.ok()?;
    let is_app = first[..read].windows(9).any(|bytes| bytes == b"user\0app\0");
    if is_app {
        let port = client.peer_addr().ok()?.port();
        arrivals.lock().unwrap().push((Instant::now(), port));
        if refuses.load(Ordering::SeqCst) {
            return None;
        }
    }
    let mut server = TcpStream::connect(("127.0.0.1", server)).await.ok()?;
    server.write_all(&first[..read]).await.ok()?;
    if !is_app {
        copy_bidirectional(&mut client, &mut server).await.ok()?;
        return Some(());
    }
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let asks = async {
        loop {
            let read = from_client.read(&mut first).await.ok().filter(|read| *read > 0)?;
            if is_deaf.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            to_server.write_all(&first[..read]).await.ok()?;
        }
    };
    tokio::select! {
        done = asks => done,
        _ = copy(&mut from_server, &mut to_client) => None,
    }
}

/// The timer of a socket of this machine, as `/proc/net/tcp` shows it: its kind (2 is keepalive) and how long it
/// still runs.
fn timer(local: u16, remote: u16) -> Option<(u8, Duration)> {
    let port = |address: &str| u16::from_str_radix(address.split_once(':')?.1, 16).ok();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if port(fields[1]) != Some(local) || port(fields[2]) != Some(remote) {
            return None;
        }
        let (kind, ticks) = fields[5].split_once(':')?;
        // In hundredths of a second, whatever the kernel counts.
        let left = Duration::from_millis(10 * u64::from_str_radix(ticks, 16).ok()?);
        Some((u8::from_str_radix(kind, 16).ok()?, left))
    })
}

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn keepalive_is_on_by_default_and_as_it_is_configured() {
    let seconds = Duration::from_secs;
    // What the timers of a client's socket and of a link's may show at most, and at least.
    let cases = [
        (vec![], Some([seconds(60), seconds(10), Duration::ZERO])),
        (vec![("tcp.keepidle", "1000s")], Some([seconds(1000), seconds(1000), seconds(500)])),
        (vec![("tcp.keepalive", "false")], None),
    ];
    let server = server().await;
    for (keys, expected) in cases {
        let hop = Hop::before(server.port()).await;
        let proxy = hop.proxy(&server.url("postgres", "shop"), server.port(), &keys).await;
        let mut client = Raw::log_in(&proxy, "app", "shop").await;
        client.query("select 1").await;
        client.until(b'Z').await;
        let from = client.socket.local_addr().unwrap().port();
        let link = hop.arrivals.lock().unwrap().last().unwrap().1;
        for (at, (local, remote)) in [(proxy.port(), from), (link, hop.port)].into_iter().enumerate() {
            eventually(PATIENCE, async || {
                that(timer(local, remote), |shown| match (&expected, shown) {
                    (Some(longest), Some((2, left))) => *left <= longest[at] && *left >= longest[2],
                    (None, Some((0, _))) => true,
                    _ => false,
                })
            })
            .await;
        }
    }
}

/// Who gives up a peer that takes nothing any more is ended; who does not is not, though it has waited for longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_is_given_up_where_it_is_configured() {
    let server = server().await;
    let keys = [TRUST, ("tcp.user_timeout", "0s")];
    let proxy = proxy_at(&server.url("postgres", "shop"), &keys).await;
    let admin = client_of(&proxy, "postgres", "pgbouncer").await.unwrap();
    let ports = async || {
        let rows = admin.simple_query("show clients").await.unwrap();
        let port = |row: &tokio_postgres::SimpleQueryRow| row.get("port").unwrap().parse::<u16>().unwrap();
        let rows = rows.iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(port(row)),
            _ => None,
        });
        rows.collect::<Vec<u16>>()
    };
    let mut clients = Vec::new();
    for timeout in ["0", "1000"] {
        admin.simple_query(&format!("set tcp_user_timeout = {timeout}")).await.unwrap();
        let mut client = Raw::log_in(&proxy, "app", "shop").await;
        // More than all buffers hold, and nobody reads it.
        client.query("select repeat('x', 100000) from generate_series(1, 1000)").await;
        clients.push(client);
    }
    let [patient, other] = [0, 1].map(|at: usize| clients[at].socket.local_addr().unwrap().port());
    eventually(PATIENCE, async || that(ports().await, |there| !there.contains(&other))).await;
    assert!(ports().await.contains(&patient));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_nothing_is_given_up_where_it_is_configured() {
    let server = server().await;
    server.sql("shop", "create table taken (a text); grant all on taken to app").await.unwrap();
    let hop = Hop::before(server.port()).await;
    let proxy =
        hop.proxy(&server.url("postgres", "shop"), server.port(), &[("tcp.user_timeout", "0s")]).await;
    let admin = client_of(&proxy, "postgres", "pgbouncer").await.unwrap();
    let mut sending = Vec::new();
    let mut clients = Vec::new();
    for timeout in ["0", "1000"] {
        admin.simple_query(&format!("set tcp_user_timeout = {timeout}")).await.unwrap();
        let mut client = Raw::log_in(&proxy, "app", "shop").await;
        client.query("copy taken from stdin").await;
        client.until(b'G').await;
        clients.push(client);
    }
    hop.is_deaf.store(true, Ordering::SeqCst);
    let data = "x".repeat(1000) + "\n";
    let message = [b"d", &(data.len() as u32 + 4).to_be_bytes()[..], data.as_bytes()].concat().repeat(50_000);
    for client in clients {
        // It ends when the proxy does not take any more, because it has hung up.
        let mut socket = client.socket;
        let message = message.clone();
        sending.push(tokio::spawn(async move { socket.write_all(&message).await }));
    }
    let [patient, other] = [0, 1];
    eventually_true(PATIENCE, "who waits for the other server is sent away", || sending[other].is_finished())
        .await;
    assert!(!sending[patient].is_finished());
    sending.iter().for_each(tokio::task::JoinHandle::abort);
}

/// How long it takes until a log-in that the server has refused is tried again, so many times.
async fn pauses(key: &[(&str, &str)], count: usize) -> Vec<Duration> {
    let server = server().await;
    let hop = Hop::before(server.port()).await;
    hop.refuses.store(true, Ordering::SeqCst);
    let proxy = hop.proxy(&server.url("postgres", "shop"), server.port(), key).await;
    let mut client = Raw::connect(&proxy).await;
    client.start_up("app", "shop").await;
    let tried = || hop.arrivals.lock().unwrap().len();
    eventually(PATIENCE, async || that(tried(), |tried| *tried > count)).await;
    let arrivals: Vec<Instant> = hop.arrivals.lock().unwrap().iter().map(|(at, _)| *at).collect();
    // It is let in as soon as it can be.
    hop.refuses.store(false, Ordering::SeqCst);
    client.until(b'Z').await;
    arrivals.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_to_the_server_is_tried_again_as_often_as_is_configured() {
    let often = pauses(&[], 8).await;
    let seldom = pauses(&[("pool.server_login_retry", "3s")], 2).await;
    assert!(seldom.iter().all(|pause| *pause >= Duration::from_secs(3)), "{seldom:?}");
    assert!(often.iter().any(|pause| *pause < Duration::from_secs(3)), "{often:?}");
}
