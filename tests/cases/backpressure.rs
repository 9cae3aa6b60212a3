//! Clients that read slowly, or not at all.

use crate::framing::{logged_in, memory_kb};
use crate::raw::message::*;
use crate::raw::stage;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Everything that has to happen while somebody does not read.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reads until an answer has ended.
async fn until_ready(stream: &mut tokio::net::TcpStream) {
    let mut tail = Vec::new();
    while !tail.windows(5).any(|five| five == b"Z\0\0\0\x05") {
        let keep = tail.len().saturating_sub(5);
        tail.drain(..keep);
        assert!(stream.read_buf(&mut tail).await.unwrap() > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_stops_its_server_and_nobody_else() {
    for mode in stage::ALL {
        one_does_not_read(*mode).await;
    }
}

async fn one_does_not_read(mode: stage::Mode) {
    let server = stage::server().await;
    let proxy = stage::new_proxy(server, &[("auth.type", "trust"), mode.key()]);
    proxy.start().await.unwrap();
    let before_kb = memory_kb(&proxy);
    let mut slow = Vec::new();
    for _ in 0..5 {
        let mut stream = logged_in(proxy.port()).await;
        stream.write_all(&query("select repeat('s', 1000) from generate_series(1, 200000)")).await.unwrap();
        slow.push(stream);
    }
    let waits = "select count(*) from pg_stat_activity where wait_event = 'ClientWrite' and query ~ 'repeat'";
    cloud_mirror::lab::eventually(PATIENCE, async || match server.value("postgres", waits).await?.as_str() {
        "5" => Ok(()),
        other => Err(format!("{other} of 5 servers wait").into()),
    })
    .await;
    let mut quick = logged_in(proxy.port()).await;
    for _ in 0..100 {
        quick.write_all(&query("select 1")).await.unwrap();
        let answered = tokio::time::timeout(PATIENCE, until_ready(&mut quick)).await;
        answered.unwrap_or_else(|_| panic!("{mode:?}: it waits for those who do not read"));
    }
    let grown_kb = memory_kb(&proxy).saturating_sub(before_kb);
    assert!(grown_kb < 20 << 10, "{mode:?}: {grown_kb} kB for what nobody reads");
    // Who reads at last gets everything.
    let mut length = 0u64;
    let mut sink = vec![0; 1 << 20];
    let stream = &mut slow[0];
    while length < 200_000 * 1011 {
        let n = tokio::time::timeout(PATIENCE, stream.read(&mut sink)).await.unwrap().unwrap();
        assert!(n > 0);
        length += n as u64;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_directions_at_once_never_wait_for_each_other() {
    for mode in stage::ALL {
        both_directions_at_once(*mode).await;
    }
}

async fn both_directions_at_once(mode: stage::Mode) {
    let port = stage::proxy(mode).await.port();
    let stream = logged_in(port).await;
    let (mut reader, mut writer) = stream.into_split();
    // 50 MB of statements, whose answers are longer than any buffer, before the first is read.
    let one = query(&format!("select repeat('a', 10000) /* {} */", "p".repeat(9_900)));
    let count = 50_000_000 / one.len();
    let (sent, mut is_sent) = tokio::sync::oneshot::channel();
    let writing = tokio::spawn(async move {
        for _ in 0..count {
            writer.write_all(&one).await.unwrap();
        }
        let _ = sent.send(());
        writer
    });
    // Nothing is read as long as anything can be sent; PostgreSQL itself stops here, too.
    let _ = tokio::time::timeout(Duration::from_millis(500), &mut is_sent).await;
    let (mut endings, mut length) = (0, 0u64);
    let mut bytes = Vec::with_capacity(1 << 20);
    while endings < count {
        let read = tokio::time::timeout(PATIENCE, reader.read_buf(&mut bytes)).await.expect("it goes on");
        assert!(read.unwrap() > 0);
        let mut at = 0;
        while let Some(&[tag, a, b, c, d]) = bytes[at..].first_chunk::<5>() {
            let total = 1 + u32::from_be_bytes([a, b, c, d]) as usize;
            if bytes.len() < at + total {
                break;
            }
            endings += usize::from(tag == b'Z');
            length += total as u64;
            at += total;
        }
        bytes.drain(..at);
    }
    writing.await.unwrap();
    assert!(length > 10_000 * count as u64);
}
