//! Clients that stop anywhere: in the middle of a packet, of a batch, of a COPY, of an answer.

use crate::stage::{DATABASE, ROLE, Stage};
use rand::RngExt;
use rand::rngs::SmallRng;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// How long an answer is read that may never come.
const READING: Duration = Duration::from_millis(20);

pub async fn play_until(stage: Arc<Stage>, mut random: SmallRng, end: Instant) {
    while Instant::now() < end {
        // Refused while the server restarts, or cut off: all the same to this client.
        let _ = hang_up(&stage, &mut random).await;
        stage.hang_ups.fetch_add(1, Ordering::Relaxed);
    }
}

async fn hang_up(stage: &Stage, random: &mut SmallRng) -> std::io::Result<()> {
    let mut socket = TcpStream::connect(("127.0.0.1", stage.proxy.port())).await?;
    let startup = startup();
    if random.random_range(0..6) == 0 {
        let cut = random.random_range(0..startup.len());
        return socket.write_all(&startup[..cut]).await;
    }
    socket.write_all(&startup).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"Z\0\0\0\x05I") {
        if timeout(Duration::from_secs(5), socket.read_buf(&mut answer))
            .await
            .map_or(0, |read| read.unwrap_or(0))
            == 0
        {
            return Ok(());
        }
    }
    let talk = talk(random.random_range(0..TALKS));
    let cut = random.random_range(0..=talk.len());
    socket.write_all(&talk[..cut]).await?;
    if random.random() {
        let _ = timeout(READING, socket.read_buf(&mut answer)).await;
    }
    if random.random() {
        // The end as a reset, with what was not read thrown away.
        socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
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

const TALKS: usize = 8;

fn talk(number: usize) -> Vec<u8> {
    let parse = message(b'P', b"s\0INSERT INTO scratch VALUES ($1::int)\0\0\0");
    let bind = message(b'B', b"\0s\0\0\0\0\x01\0\0\0\x017\0\0");
    let execute = message(b'E', b"\0\0\0\0\0");
    let sync = message(b'S', b"");
    let rows = message(b'd', &b"1\n2\n3\n".repeat(500));
    match number {
        0 => [query("BEGIN"), query("INSERT INTO scratch VALUES (1)")].concat(),
        1 => [parse, bind, execute].concat(),
        2 => [parse, bind, execute, sync].concat().repeat(20),
        3 => [query("COPY scratch FROM STDIN"), rows.repeat(20)].concat(),
        4 => query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"),
        5 => [parse, message(b'H', b""), bind, query("SELECT 1"), sync].concat(),
        6 => [
            query("SET search_path = nowhere; SET soak.who = 'rude'"),
            query("LISTEN rude"),
            query("SELECT pg_sleep(0.02)"),
        ]
        .concat(),
        _ => [
            query("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT"),
            query("PREPARE mine AS SELECT 1"),
            b"\xffgarbage".to_vec(),
        ]
        .concat(),
    }
}
