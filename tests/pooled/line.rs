//! Clients that wait in line.

use crate::raw::Raw;
use crate::stage::{PATIENCE, one_connection, server};
use cloud_mirror::lab::eventually;
use tokio_postgres::NoTls;

fn query(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len() + 5).unwrap();
    [b"Q", &length.to_be_bytes()[..], text.as_bytes(), b"\0"].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_in_two_steps_takes_no_connection_from_others() {
    for mode in ["session", "transaction", "auto"] {
        let proxy = one_connection(mode).await;
        for _ in 0..10 {
            let mut leaves = Raw::log_in(proxy.port()).await;
            leaves.send(&query("select pg_sleep(0.1)")).await;
            // Its end is passed on to the server, and then there is nobody for the answer.
            leaves.end().await;
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            leaves.reset();
            let mut next = Raw::log_in(proxy.port()).await;
            for _ in 0..3 {
                assert_eq!(next.value("select 'mine'").await, "mine", "{mode}");
            }
            next.send(b"X\0\0\0\x04").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_the_line_is_not_executed_and_keeps_nobody_waiting() {
    let server = server().await;
    server
        .sql("shop", "create table if not exists left_line (n int); grant all on left_line to app")
        .await
        .unwrap();
    let proxy = one_connection("transaction").await;
    let connect = async || {
        let url = proxy.url("app", "x", "shop");
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    };
    let mut leaving = Vec::new();
    for _ in 0..20 {
        leaving.push(Raw::log_in(proxy.port()).await);
    }
    let busy = connect().await;
    busy.batch_execute("begin; insert into left_line values (0)").await.unwrap();
    for mut leaves in leaving {
        leaves.send(&query("insert into left_line values (1)")).await;
    }
    let left = async || {
        let status = proxy.status().await?;
        match status["clients"].as_u64() {
            Some(1) => Ok(()),
            other => Err(format!("{other:?} clients").into()),
        }
    };
    eventually(PATIENCE, left).await;
    busy.batch_execute("commit").await.unwrap();
    connect().await.batch_execute("insert into left_line values (2)").await.unwrap();
    let rows = "select string_agg(n::text, ' ' order by n) from left_line";
    assert_eq!(server.value("shop", rows).await.unwrap(), "0 2");
}
