//! Headers, lengths and sizes.

use crate::raw::message::*;
use crate::raw::stage::{self, ALL, app, same};
use crate::raw::{Cut, Place, Step, converse};
use crate::{send, then_settled};
use cloud_mirror::lab::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Resident memory, in kB.
pub fn memory_kb(proxy: &Proxy) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid().unwrap())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A logged-in connection.
pub async fn logged_in(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(&app()).await.unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"Z\0\0\0\x05I") {
        assert!(stream.read_buf(&mut said).await.unwrap() > 0, "{}", said.escape_ascii());
    }
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn case_17_a_length_that_cannot_be_ends_the_connection_with_08p01() {
    for mode in ALL {
        let place = stage::through(*mode).await;
        for length in [0u32, 3, 0x4000_0000, u32::MAX] {
            let bad = [b"Q", &length.to_be_bytes()[..], b"garbage"].concat();
            let heard = converse(&place, &app(), &[Step::Send(bad)], Cut::Whole).await.unwrap();
            assert_eq!(heard.tags(), "E", "{length}: {:?}", heard.frames);
            let words = heard.frames[0].body.escape_ascii().to_string();
            assert!(words.contains("FATAL") && words.contains("08P01"), "{words}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_17_a_claimed_length_is_not_allocated() {
    for mode in ALL {
        let proxy = stage::new_proxy(stage::server().await, &[("auth.type", "trust"), mode.key()]);
        proxy.start().await.unwrap();
        let mut claims = Vec::new();
        for tag in b"QPBdF".iter().cycle().take(50) {
            let mut stream = logged_in(proxy.port()).await;
            // Nearly 1 GiB, of which a little comes.
            stream
                .write_all(&[&[*tag][..], &0x3fff_ff00u32.to_be_bytes(), &[b'a'; 3000]].concat())
                .await
                .unwrap();
            claims.push(stream);
        }
        // Who logs in now is served behind them.
        drop(logged_in(proxy.port()).await);
        let used_kb = memory_kb(&proxy);
        assert!(used_kb < 100 << 10, "{mode:?}: {used_kb} kB");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_18_messages_without_a_body() {
    let steps = send(&[sync(), flush(), copy_done(), sync(), flush(), query("select 1")]);
    same(ALL, &steps, &then_settled("ZZTDCZ")).await;
}

/// Reads one answer without keeping it; says how long it was, and the most memory that the proxy
/// used meanwhile.
async fn swallow(proxy: &Proxy, text: &str) -> (u64, u64) {
    let mut stream = logged_in(proxy.port()).await;
    stream.write_all(&query(text)).await.unwrap();
    let (mut length, mut most_kb, mut tail) = (0, 0, Vec::new());
    let mut sink = vec![0; 1 << 20];
    while !tail.starts_with(b"Z\0\0\0\x05") {
        let n = stream.read(&mut sink).await.unwrap();
        assert!(n > 0, "closed");
        length += n as u64;
        // The last message may come in two pieces.
        tail.extend_from_slice(&sink[n.saturating_sub(6)..n]);
        tail.drain(..tail.len().saturating_sub(6));
        most_kb = most_kb.max(memory_kb(proxy));
    }
    (length, most_kb)
}

#[tokio::test(flavor = "multi_thread")]
async fn case_19_a_row_of_200_mb_costs_a_buffer() {
    for mode in ALL {
        let proxy = stage::new_proxy(stage::server().await, &[("auth.type", "trust"), mode.key()]);
        proxy.start().await.unwrap();
        let (length, used_kb) = swallow(&proxy, "select repeat('x', 200000000)").await;
        assert!(length > 200_000_000);
        assert!(used_kb < 100 << 10, "{mode:?}: {used_kb} kB");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: a row of 1 GB"]
async fn case_19_a_row_of_1_gb_costs_a_buffer() {
    for mode in ALL {
        let proxy = stage::new_proxy(stage::server().await, &[("auth.type", "trust"), mode.key()]);
        proxy.start().await.unwrap();
        let (length, used_kb) = swallow(&proxy, "select repeat('x', 1073741700)").await;
        eprintln!("{mode:?}: a row of {length} bytes, at most {used_kb} kB");
        assert!(length > 1_073_741_000);
        assert!(used_kb < 100 << 10, "{mode:?}: {used_kb} kB");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_20_an_unknown_type_from_the_client_ends_the_connection() {
    // Those of the server's direction, of log-ins, and of nobody. What came before is answered.
    for tag in *b"zpRTD1\0v" {
        let bad = if tag == b'D' { message(b'y', b"") } else { message(tag, b"body\0") };
        same(ALL, &[Step::Send([query("select 'before'"), bad].concat())], "TDCZE").await;
    }
}

/// A server of a later time.
#[tokio::test(flavor = "multi_thread")]
async fn case_20_an_unknown_type_from_the_server_is_passed_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = stage::server().await;
    // Everything as the real server says it, with a message of an unknown type behind each 'C'.
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let upstream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = upstream.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            tokio::spawn(async move {
                let mut more = vec![0; 64 << 10];
                while let Ok(n) = from_server.read(&mut more).await {
                    if n == 0 || to_client.write_all(&with_unknown(&more[..n])).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let url = format!("postgres://postgres:lab@127.0.0.1:{port}/shop");
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_cloud-mirror"));
    let proxy =
        Proxy::new(program, &["--local", &url]).unwrap().variable("CLOUD_MIRROR__AUTH__TYPE", "trust");
    proxy.start().await.unwrap();
    let steps = [Step::Send(query("select 'marked'")), Step::Await(b"Z")];
    let heard = converse(&Place::Tcp(proxy.port()), &app(), &steps, Cut::Whole).await.unwrap();
    assert_eq!(heard.tags(), "TDC~Z", "{:?}", heard.frames);
}

/// Puts a message of type `~` behind the tag of `select 'marked'`'s answer.
fn with_unknown(bytes: &[u8]) -> Vec<u8> {
    let mark = b"marked";
    let complete = b"C\0\0\0\x0dSELECT 1\0";
    let at = bytes.windows(mark.len()).position(|w| w == mark);
    let end =
        at.and_then(|at| bytes[at..].windows(complete.len()).position(|w| w == complete).map(|c| at + c));
    match end {
        Some(end) => {
            let (head, tail) = bytes.split_at(end + complete.len());
            [head, b"~\0\0\0\x08what", tail].concat()
        }
        None => bytes.to_vec(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_21_many_messages_in_one_read_and_many_reads_for_one_message() {
    let many: Vec<u8> = (0..2000).flat_map(|n| query(&format!("select {n}"))).collect();
    let tags = "TDCZ".repeat(2000);
    same(ALL, &[Step::Send(many), Step::Settle], &then_settled(&tags)).await;
    let long = query(&format!("select length('{}')", "l".repeat(300_000)));
    for mode in ALL {
        let steps = [Step::Send(long.clone()), Step::Await(b"Z")];
        let heard = converse(&stage::through(*mode).await, &app(), &steps, Cut::Every(997)).await.unwrap();
        assert_eq!(heard.tags(), "TDCZ");
        assert!(heard.frames[1].body.ends_with(b"300000"));
    }
}
