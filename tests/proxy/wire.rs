//! Raw bytes, in any cut.

use crate::fixture::{Fixture, Options};
use cloud_mirror::auth::Method;
use cloud_mirror::lab::SocketAuth;
use cloud_mirror::pool::Settings;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn options() -> Options {
    Options { method: Method::Trust, socket_auth: SocketAuth::Trust, ..Options::default() }
}

fn startup() -> Vec<u8> {
    let body = b"\0\x03\0\0user\0app\0database\0shop\0\0";
    let mut bytes = (body.len() as u32 + 4).to_be_bytes().to_vec();
    bytes.extend(body);
    bytes
}

pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

async fn read_until(stream: &mut TcpStream, bytes: &mut Vec<u8>, endings: usize) {
    let reading = async {
        loop {
            let found = frames(bytes).iter().filter(|(tag, _)| *tag == b'Z').count();
            if found >= endings {
                return;
            }
            let mut more = [0; 65536];
            let n = stream.read(&mut more).await.unwrap();
            assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(bytes));
            bytes.extend_from_slice(&more[..n]);
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reading).await.expect("an answer");
}

/// Whole messages: type and body.
fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = vec![];
    while bytes.len() >= 5 {
        let total = 1 + u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
        if bytes.len() < total {
            break;
        }
        frames.push((bytes[0], bytes[5..total].to_vec()));
        bytes = &bytes[total..];
    }
    frames
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_is_told_the_real_process_id_and_a_secret_of_ours() {
    let f = Fixture::start(options()).await;
    let mut stream = TcpStream::connect(("127.0.0.1", f.port)).await.unwrap();
    stream.write_all(&startup()).await.unwrap();
    let mut welcome = vec![];
    read_until(&mut stream, &mut welcome, 1).await;
    let frames_in = frames(&welcome);
    let (_, key) = frames_in.iter().find(|(tag, _)| *tag == b'K').expect("BackendKeyData");
    assert_eq!(key.len(), 8);
    let pid = u32::from_be_bytes([key[0], key[1], key[2], key[3]]);
    let count = format!("select count(*) from pg_stat_activity where pid = {pid} and usename = 'app'");
    assert_eq!(f.local.value("postgres", &count).await.unwrap(), "1");
}

pub async fn connected(f: &Fixture) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", f.port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(&startup()).await.unwrap();
    let mut welcome = vec![];
    read_until(&mut stream, &mut welcome, 1).await;
    stream
}

fn conversation() -> Vec<u8> {
    let mut bytes = message(b'Q', b"select 1; select 2\0");
    bytes.extend(message(b'P', b"s\0select $1::int4\0\0\0"));
    bytes.extend(message(b'B', b"\0s\0\0\0\0\x01\0\0\0\x0242\0\0"));
    bytes.extend(message(b'D', b"P\0"));
    bytes.extend(message(b'E', b"\0\0\0\0\0"));
    bytes.extend(message(b'S', b""));
    bytes.extend(message(b'P', b"\0select broken syntax here\0\0\0"));
    bytes.extend(message(b'B', b"\0\0\0\0\0\0\0\0"));
    bytes.extend(message(b'S', b""));
    bytes.extend(message(b'Q', b"set my.x = '1'\0"));
    bytes.extend(message(b'P', b"\0SHOW EVENTS\0\0\0"));
    bytes.extend(message(b'B', b"\0\0\0\0\0\0\0\0"));
    bytes.extend(message(b'D', b"P\0"));
    bytes.extend(message(b'E', b"\0\0\0\0\0"));
    bytes.extend(message(b'S', b""));
    bytes.extend(message(b'Q', b"select 'end'\0"));
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn any_cut_of_the_client_bytes_gives_the_same_answers() {
    let conversation = conversation();
    let mut expected: Option<Vec<(u8, Vec<u8>)>> = None;
    let pooled = Fixture::start(Options { pool: Settings::default(), ..options() }).await;
    let session = Fixture::start(options()).await;
    let sizes = [conversation.len(), 1, 2, 3, 5, 7, 11, 64];
    for (f, size) in [session, pooled].iter().flat_map(|f| sizes.map(|size| (f, size))) {
        let mut stream = connected(f).await;
        for piece in conversation.chunks(size) {
            stream.write_all(piece).await.unwrap();
        }
        let mut answers = vec![];
        read_until(&mut stream, &mut answers, 6).await;
        let answers = frames(&answers);
        let tags: String = answers.iter().map(|(tag, _)| *tag as char).collect();
        assert_eq!(tags, "TDCTDCZ12TDCZEZCZ12TDCZTDCZ", "pieces of {size}");
        let expected = expected.get_or_insert(answers.clone());
        assert_eq!(*expected, answers, "pieces of {size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_much_larger_than_the_buffer_streams_through() {
    let f = Fixture::start(options()).await;
    let mut stream = connected(&f).await;
    stream.write_all(&message(b'Q', b"select repeat('x', 50000000)\0")).await.unwrap();
    let mut answers = vec![];
    read_until(&mut stream, &mut answers, 1).await;
    assert!(answers.len() > 50_000_000);
    let mut big = b"select length('".to_vec();
    big.extend(std::iter::repeat_n(b'y', 20_000_000));
    big.extend(b"')\0");
    stream.write_all(&message(b'Q', &big)).await.unwrap();
    let mut answers = vec![];
    read_until(&mut stream, &mut answers, 1).await;
    assert!(frames(&answers).iter().any(|(tag, body)| *tag == b'D' && body.ends_with(b"20000000")));
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_in_front_of_terminate_are_executed() {
    let f = Fixture::start(options()).await;
    f.local.sql("shop", "create table t (v int); grant all on t to app").await.unwrap();
    let mut stream = connected(&f).await;
    let mut bytes = message(b'Q', b"insert into t select 1 from pg_sleep(0.3)\0");
    bytes.extend(message(b'X', b""));
    stream.write_all(&bytes).await.unwrap();
    drop(stream);
    cloud_mirror::lab::eventually(Duration::from_secs(60), async || {
        let rows = f.local.value("shop", "select count(*) from t").await.unwrap();
        if rows == "1" { Ok(()) } else { Err(rows.into()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_closed_client_gets_its_answer() {
    let f = Fixture::start(options()).await;
    let mut stream = connected(&f).await;
    stream.write_all(&message(b'Q', b"select 'late' from pg_sleep(0.3)\0")).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answers = vec![];
    tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answers)).await.unwrap().unwrap();
    let tags: String = frames(&answers).iter().map(|(tag, _)| *tag as char).collect();
    assert_eq!(tags, "TDCZ");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_protocol_are_refused_and_harm_nobody() {
    let f = Fixture::start(options()).await;
    for garbage in
        [&b"Q\0\0\0\x02"[..], b"Q\xff\xff\xff\xff", b"\0\0\0\0\x04", b"z\0\0\0\x04", b"p\0\0\0\x05x", b"X"]
    {
        let mut stream = connected(&f).await;
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answers = vec![];
        let reading = stream.read_to_end(&mut answers);
        tokio::time::timeout(Duration::from_secs(60), reading).await.expect("it is closed").unwrap();
        if garbage.len() >= 5 {
            let text = String::from_utf8_lossy(&answers).into_owned();
            assert!(text.contains("08P01"), "{garbage:?}: {text}");
        }
    }
    assert_eq!(f.psql("select 1").await, "1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_in_with_an_extra_sync_and_pipelined_batches_leaves_the_session_clean() {
    let f = Fixture::start(options()).await;
    f.local.sql("shop", "create table t (v int); grant all on t to app").await.unwrap();
    let mut stream = connected(&f).await;
    let mut bytes = message(b'P', b"\0copy t from stdin\0\0\0");
    bytes.extend(message(b'B', b"\0\0\0\0\0\0\0\0"));
    bytes.extend(message(b'E', b"\0\0\0\0\0"));
    bytes.extend(message(b'S', b""));
    bytes.extend(message(b'd', b"1\n2\n"));
    bytes.extend(message(b'c', b""));
    bytes.extend(message(b'S', b""));
    bytes.extend(message(b'Q', b"select count(*) from t\0"));
    bytes.extend(message(b'X', b""));
    stream.write_all(&bytes).await.unwrap();
    let mut answers = vec![];
    stream.read_to_end(&mut answers).await.unwrap();
    let tags: String = frames(&answers).iter().map(|(tag, _)| *tag as char).collect();
    assert_eq!(tags, "12GCZTDCZ");
}
