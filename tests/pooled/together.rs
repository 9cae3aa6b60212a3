//! Messages of the server that the proxy reads in one piece, though it has not sent them in one.

use crate::raw::Raw;
use crate::stage::{PATIENCE, proxy_at, server};
use cloud_mirror::lab::eventually_true;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// What the server has answered to a question of ours and `app` has not got yet.
type Held = Arc<Mutex<Option<Vec<u8>>>>;

/// Words of the question.
const QUESTION: &[u8] = b"pg_my_temp_schema";

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|it| it == part)
}

/// What may go on, now that the server has sent more.
fn release(held: &mut Option<Vec<u8>>, more: &[u8], last: &[u8]) -> Vec<u8> {
    let Some(before) = held.take() else { return more.to_vec() };
    let all = [&before, more].concat();
    if has(&all, last) {
        return all;
    }
    *held = Some(all);
    Vec::new()
}

/// Carries one connection. Behind a question of ours, it holds the server's bytes until `last` is among them.
async fn carry(mut proxy: TcpStream, port: u16, last: &[u8], held: Held) -> std::io::Result<()> {
    let mut first = vec![0; 4096];
    let read = proxy.read(&mut first).await?;
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    server.write_all(&first[..read]).await?;
    if !has(&first[..read], b"user\0app\0") {
        return copy_bidirectional(&mut proxy, &mut server).await.map(|_| ());
    }
    let (mut asked, mut answered) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        tokio::select! {
            read = proxy.read(&mut asked) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                if has(&asked[..read], QUESTION) {
                    held.lock().unwrap().get_or_insert_default();
                }
                server.write_all(&asked[..read]).await?;
            }
            read = server.read(&mut answered) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                let together = release(&mut held.lock().unwrap(), &answered[..read], last);
                proxy.write_all(&together).await?;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_that_comes_with_the_end_of_our_question_reaches_its_client() {
    let server = server().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (port, held) = (listener.local_addr().unwrap().port(), Held::default());
    let (to, holds) = (server.port(), held.clone());
    tokio::spawn(async move {
        while let Ok((proxy, _)) = listener.accept().await {
            tokio::spawn(carry(proxy, to, b"together\0behind\0", holds.clone()));
        }
    });
    let url = server.url("postgres", "shop").replace(&format!(":{to}/"), &format!(":{port}/"));
    let proxy = proxy_at(&url, &[("pool.mode", "auto"), ("pool.size", "1")]).await;
    let mut client = Raw::log_in(proxy.port()).await;
    client.query("listen together").await;
    let is_over = || held.lock().unwrap().as_ref().is_some_and(|held| held.ends_with(b"Z\0\0\0\x05I"));
    eventually_true(PATIENCE, "the question is over", is_over).await;
    server.sql("shop", "notify together, 'behind'").await.unwrap();
    let (tag, body) = client.message().await;
    assert_eq!((tag, &body[4..]), (b'A', b"together\0behind\0".as_slice()));
    assert_eq!(client.value("select 1").await, "1");
    proxy.stop().await;
}
