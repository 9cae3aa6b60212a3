//! Clients that stop anywhere: in the middle of a packet, of a batch, of a COPY, of an answer, in line, and
//! while they are cancelled.

use crate::stage::{DATABASE, ROLE, Stage};
use rand::RngExt;
use rand::rngs::SmallRng;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// How long an answer is read that may never come.
const READING: Duration = Duration::from_millis(20);
/// How long this client waits to be let in.
const WAITING: Duration = Duration::from_secs(5);

pub async fn play_until(stage: Arc<Stage>, mut random: SmallRng, end: Instant) {
    while Instant::now() < end {
        // Refused while the server restarts, or cut off: all the same to this client.
        let _ = hang_up(&stage, &mut random, end).await;
        stage.hang_ups.fetch_add(1, Ordering::Relaxed);
    }
}

async fn hang_up(stage: &Stage, random: &mut SmallRng, end: Instant) -> io::Result<()> {
    let mut socket = TcpStream::connect(("127.0.0.1", stage.proxy.port())).await?;
    let manner = random.random_range(0..20);
    match manner {
        // In the start-up packet, or at a question before it.
        0 => {
            let startup = startup();
            socket.write_all(&startup[..random.random_range(0..startup.len())]).await?;
        }
        1 => {
            let request: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, random.random_range(46..50)];
            socket.write_all(&request[..random.random_range(4..=8)]).await?;
            read_a_little(&mut socket).await;
        }
        // While it is let in, with a statement on its heels.
        2 => {
            let all = [startup(), talk(random.random_range(0..TALKS))].concat();
            socket.write_all(&all[..random.random_range(startup().len()..=all.len())]).await?;
        }
        _ => {
            let Some(key) = log_in(&mut socket, end).await? else { return Ok(()) };
            if manner < 6 {
                in_a_cancel(stage, &mut socket, &key, random).await?;
            } else {
                let talk = talk(random.random_range(0..TALKS));
                // As often the whole of it as cut off.
                let length = if random.random() { talk.len() } else { random.random_range(0..=talk.len()) };
                socket.write_all(&talk[..length]).await?;
            }
        }
    }
    if random.random() {
        read_a_little(&mut socket).await;
    }
    match random.random_range(0..4) {
        // Sends no more, and listens a little longer.
        0 => {
            socket.shutdown().await?;
            read_a_little(&mut socket).await;
        }
        // The end as a reset, with what was not read thrown away.
        1 => socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO))?,
        2 => socket.write_all(b"X\0\0\0\x04").await?,
        _ => {}
    }
    Ok(())
}

async fn read_a_little(socket: &mut TcpStream) {
    let _ = timeout(READING, socket.read(&mut [0; 2048])).await;
}

/// Process id and secret of the client; `None` when it is not let in.
async fn log_in(socket: &mut TcpStream, end: Instant) -> io::Result<Option<Vec<u8>>> {
    socket.write_all(&startup()).await?;
    let mut answer = Vec::new();
    // Who still waits when the others hold still leaves.
    let until = end.min(Instant::now() + WAITING);
    while !answer.ends_with(b"Z\0\0\0\x05I") {
        match tokio::time::timeout_at(until, socket.read_buf(&mut answer)).await {
            Ok(Ok(1..)) => {}
            Ok(_) | Err(_) => return Ok(None),
        }
    }
    // BackendKeyData stands right before ReadyForQuery.
    let key = answer.len().checked_sub(6 + 8).and_then(|at| answer.get(at..at + 8));
    Ok(key.map(<[u8]>::to_vec))
}

/// Cancels, and leaves without waiting for anything.
async fn in_a_cancel(
    stage: &Stage,
    socket: &mut TcpStream,
    key: &[u8],
    random: &mut SmallRng,
) -> io::Result<()> {
    stage.note("left in a cancel");
    let text = ["SELECT pg_sleep(1)", "SELECT 1", "BEGIN; SELECT pg_sleep(1)", "COPY scratch FROM STDIN"];
    let statement = query(text[random.random_range(0..text.len())]);
    socket.write_all(&statement).await?;
    if random.random() {
        read_a_little(socket).await;
    }
    let request = [&[0, 0, 0, 16, 4, 210, 22, 46], key].concat();
    for _ in 0..random.random_range(1..4) {
        let mut cancel = TcpStream::connect(("127.0.0.1", stage.proxy.port())).await?;
        let cut = if random.random_range(0..4) == 0 { random.random_range(0..16) } else { 16 };
        cancel.write_all(&request[..cut]).await?;
        if random.random() {
            read_a_little(&mut cancel).await;
        }
    }
    Ok(())
}

fn startup() -> Vec<u8> {
    let body = format!("user\0{ROLE}\0database\0{DATABASE}\0\0");
    let mut packet = (body.len() as u32 + 8).to_be_bytes().to_vec();
    packet.extend_from_slice(&[0, 3, 0, 0]);
    packet.extend_from_slice(body.as_bytes());
    packet
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

fn query(text: &str) -> Vec<u8> {
    message(b'Q', &[text.as_bytes(), b"\0"].concat())
}

const TALKS: usize = 13;

fn talk(number: usize) -> Vec<u8> {
    let parse = message(b'P', b"s\0INSERT INTO scratch VALUES ($1::int)\0\0\0");
    let bind = message(b'B', b"\0s\0\0\0\0\x01\0\0\0\x017\0\0");
    let execute = message(b'E', b"\0\0\0\0\0");
    let sync = message(b'S', b"");
    let flush = message(b'H', b"");
    let rows = message(b'd', &b"1\n2\n3\n".repeat(500));
    match number {
        0 => [query("BEGIN"), query("INSERT INTO scratch VALUES (1)")].concat(),
        1 => [parse, bind, execute].concat(),
        2 => [parse, bind, execute, sync].concat().repeat(20),
        3 => [query("COPY scratch FROM STDIN"), rows.repeat(20)].concat(),
        4 => query("SELECT repeat('x', 1000) FROM generate_series(1, 20000)"),
        5 => [parse, flush, bind, query("SELECT 1"), sync].concat(),
        6 => [
            query("SET search_path = nowhere; SET soak.who = 'rude'"),
            query("LISTEN rude"),
            query("SELECT pg_sleep(0.02)"),
        ]
        .concat(),
        7 => [
            query("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT"),
            query("PREPARE mine AS SELECT 1"),
            b"\xffgarbage".to_vec(),
        ]
        .concat(),
        // A portal that has more rows.
        8 => {
            let parse = message(b'P', b"\0SELECT generate_series(1, 1000)\0\0\0");
            let bind = message(b'B', b"p\0\0\0\0\0\0\0\0");
            let some = message(b'E', b"p\0\0\0\0\x03");
            [parse, bind, some.clone(), flush, some].concat()
        }
        9 => query("COPY (SELECT repeat('y', 1000) FROM generate_series(1, 20000)) TO STDOUT"),
        // A transaction that has failed, and a batch of which the rest is skipped.
        10 => [query("BEGIN"), query("SELECT 1/0"), parse, bind, execute].concat(),
        // COPY in the extended protocol, and its end without its Sync.
        11 => {
            let copy = message(b'P', b"\0COPY scratch FROM STDIN\0\0\0");
            let bind = message(b'B', b"\0\0\0\0\0\0\0\0");
            [copy, bind, execute, flush, rows, message(b'c', b"")].concat()
        }
        _ => [
            query(
                "SELECT pg_advisory_lock_shared(4711); CREATE TEMP TABLE rude (n int); SELECT setseed(0.5)",
            ),
            query(
                "SELECT set_config('soak.who', 'ruder', false); SET ROLE none; SET timezone = 'Asia/Tokyo'",
            ),
        ]
        .concat(),
    }
}
