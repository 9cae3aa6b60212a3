//! A crowd at the door, and a server that stops answering, hurt only those who wait for them.

use crate::stage::{PATIENCE, Raw, TRUST, new_server, proxy, proxy_at, server};
use cloud_mirror::lab::{FaultProxy, Proxy, eventually, that};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Resident memory of the proxy.
fn memory_kb(proxy: &Proxy) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid().unwrap())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The last byte of what a connection that asks to log in is told: `Z` and its status, or an error.
async fn knock(proxy: &Proxy) -> std::io::Result<u8> {
    let mut socket = TcpStream::connect(("127.0.0.1", proxy.port())).await?;
    let body = b"\0\x03\0\0user\0app\0database\0shop\0\0";
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    socket.write_all(&[&length[..], body].concat()).await?;
    let mut answer = Vec::new();
    loop {
        let mut part = [0; 1024];
        let read = socket.read(&mut part).await?;
        answer.extend_from_slice(&part[..read]);
        if read == 0 || answer.ends_with(b"Z\0\0\0\x05I") {
            return Ok(*answer.iter().rev().nth(5).unwrap_or(&0));
        }
    }
}

/// A client that works all the while; the longest that one of its statements took, and how many.
async fn work(mut client: Raw, stop: Arc<AtomicUsize>) -> (Duration, u32) {
    let (mut longest, mut count) = (Duration::ZERO, 0);
    while stop.load(Ordering::Relaxed) == 0 {
        let began = Instant::now();
        client.query("select 1").await;
        client.until(b'Z').await;
        longest = longest.max(began.elapsed());
        count += 1;
    }
    (longest, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_connections_at_once_leave_the_others_their_turn() {
    const CROWD: usize = 5000;
    let server = server().await;
    let keys =
        [TRUST, ("pool.size", "20"), ("pool.max_client_conn", "200"), ("pool.query_wait_timeout", "1m")];
    let proxy = proxy(&server, &keys).await;
    let stop = Arc::new(AtomicUsize::new(0));
    let worker = tokio::spawn(work(Raw::log_in(&proxy, "app", "shop").await, stop.clone()));
    let before = memory_kb(&proxy);
    let (proxy, outcomes) = (Arc::new(proxy), Arc::new([const { AtomicUsize::new(0) }; 3]));
    // As many at a time as this process may have open.
    let (turns, began) = (Arc::new(Semaphore::new(1500)), Instant::now());
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..CROWD {
        let (proxy, outcomes, turns) = (proxy.clone(), outcomes.clone(), turns.clone());
        crowd.spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            let outcome = match knock(&proxy).await {
                Ok(b'Z') => 0,
                Ok(_) => 1,
                Err(_) => 2,
            };
            outcomes[outcome].fetch_add(1, Ordering::Relaxed);
        });
    }
    while crowd.join_next().await.is_some() {}
    let took = began.elapsed();
    stop.store(1, Ordering::Relaxed);
    let (longest, count) = worker.await.unwrap();
    let seen: Vec<usize> = outcomes.iter().map(|outcome| outcome.load(Ordering::Relaxed)).collect();
    let grown = memory_kb(&proxy).saturating_sub(before);
    println!(
        "{CROWD} connections in {took:?}: {seen:?} let in, refused, broken; one client did {count} statements \
         meanwhile, the longest {longest:?}; memory grew by {grown} kB"
    );
    assert_eq!((seen[0] + seen[1], seen[2]), (CROWD, 0), "everybody gets an answer");
    assert!(seen[0] >= 200, "{seen:?}");
    // Their turn comes while the crowd is served, and not behind it.
    assert!(longest < Duration::from_secs(2).max(took / 3), "{longest:?} of {took:?}");
    assert!(grown < 100_000, "{grown} kB");
    // Nothing is left of them.
    eventually(PATIENCE, async || that(proxy.status().await?, |status| status["clients"] == 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_answering_holds_up_only_those_who_need_it() {
    let server = new_server().await;
    let hop = FaultProxy::start(([127, 0, 0, 1], server.port()).into()).await.unwrap();
    let url =
        server.url("postgres", "shop").replace(&format!(":{}/", server.port()), &format!(":{}/", hop.port()));
    let keys = [TRUST, ("pool.server_connect_timeout", "1s"), ("failover.hold_timeout", "180s")];
    let proxy = proxy_at(&url, &keys).await;
    let mut held = Raw::log_in(&proxy, "app", "shop").await;
    hop.blackhole().await;
    // New clients wait for it, many of them; the console answers at once all the same.
    let crowd: Vec<_> = {
        let mut crowd = Vec::new();
        for _ in 0..100 {
            let mut client = Raw::connect(&proxy).await;
            client.start_up("app", "stock").await;
            crowd.push(client);
        }
        crowd
    };
    for _ in 0..5 {
        let began = Instant::now();
        let mut console = Raw::log_in(&proxy, "postgres", "mirror").await;
        console.query("show version").await;
        console.until(b'Z').await;
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
        proxy.get("/livez").await.unwrap();
    }
    hop.heal().await;
    // Those that waited get in; who was linked before goes on.
    for mut client in crowd.into_iter().take(3) {
        client.until(b'Z').await;
    }
    held.query("select 1").await;
    let seen = held.until(b'Z').await;
    assert!(seen.iter().any(|(tag, _)| *tag == b'C'), "{:?}", crate::stage::shown(&seen));
}

#[tokio::test(flavor = "multi_thread")]
async fn held_clients_go_on_when_their_server_is_back() {
    // Sooner than by trying again every now and then.
    go_on_within(Duration::from_secs(8), Duration::from_secs(15)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: measures"]
async fn held_clients_go_on_within_half_a_second_of_a_restart() {
    go_on_within(Duration::from_millis(500), Duration::from_secs(3)).await;
}

async fn go_on_within(first_within: Duration, last_within: Duration) {
    let server = new_server().await;
    let proxy = proxy(&server, &[TRUST]).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(Raw::log_in(&proxy, "app", "shop").await);
    }
    server.stop(cloud_mirror::lab::StopMode::Fast).await.unwrap();
    for client in &mut clients {
        client.query("select 1").await;
    }
    server.start().await.unwrap();
    let back = Instant::now();
    let (mut first, mut last) = (Duration::MAX, Duration::ZERO);
    for client in &mut clients {
        let seen = client.until(b'Z').await;
        assert!(seen.iter().any(|(tag, _)| *tag == b'C'), "{:?}", crate::stage::shown(&seen));
        first = first.min(back.elapsed());
        last = last.max(back.elapsed());
    }
    println!("40 held clients went on {first:?} to {last:?} after the server accepted connections");
    assert!(first < first_within && last < last_within, "{first:?} to {last:?}");
}
