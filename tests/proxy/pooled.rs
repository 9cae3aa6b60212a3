//! Pooled modes with more than one data thread.

use crate::fixture::{Fixture, Options};
use cloud_mirror::config::{Pool, PoolMode};
use cloud_mirror::lab::eventually;
use cloud_mirror::pool::Settings;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn threads_share_the_only_connection() {
    let limits = Pool { mode: PoolMode::Transaction, size: Some(1), ..Pool::default() };
    let pool = Settings { limits, ..Settings::default() };
    let f = Fixture::start(Options { pool, data_threads: 2, ..Options::default() }).await;
    let clients = [f.client().await, f.client().await, f.client().await, f.client().await];
    // One after the other: whoever has the connection lies still when the next one wants it.
    let one_by_one = async {
        for round in 0..3 {
            for client in &clients {
                let row = client.query_one("select $1::int4 + 1", &[&round]).await.unwrap();
                assert_eq!(row.get::<_, i32>(0), round + 1);
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), one_by_one).await.expect("nobody waits for an idle thread");
    // And all at the same time.
    let tasks = clients.map(|client| {
        tokio::spawn(async move {
            for round in 0..50 {
                let row = client.query_one("select $1::int4 + 1", &[&round]).await.unwrap();
                assert_eq!(row.get::<_, i32>(0), round + 1);
            }
        })
    });
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(60), task).await.expect("nobody starves").unwrap();
    }
}

async fn auto_on_two_threads() -> Fixture {
    let limits = Pool { mode: PoolMode::Auto, ..Pool::default() };
    let pool = Settings { limits, ..Settings::default() };
    Fixture::start(Options { pool, data_threads: 2, ..Options::default() }).await
}

/// Without a limit of ours that of the server counts. A client that has been welcomed is not sent away
/// because of it while others use connections that it can have behind them.
#[tokio::test(flavor = "multi_thread")]
async fn threads_share_the_connections_of_a_server_that_is_full() {
    let f = auto_on_two_threads().await;
    f.local.sql("postgres", "alter role app connection limit 2").await.unwrap();
    let mut clients = vec![];
    for _ in 0..8 {
        clients.push(f.client().await);
    }
    // Those of one thread have them all, and then lie still.
    for of_thread in [0, 1] {
        for client in clients.iter().skip(of_thread).step_by(2).take(2) {
            client.batch_execute("begin").await.unwrap();
        }
        let other = clients[1 - of_thread].query_one("select 1", &[]);
        let ending = async {
            tokio::task::yield_now().await;
            for client in clients.iter().skip(of_thread).step_by(2).take(2) {
                client.batch_execute("commit").await.unwrap();
            }
        };
        let (asked, ()) =
            tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(other, ending) })
                .await
                .expect("nobody starves");
        asked.unwrap();
    }
    // More work than a full server is asked for room at a stretch.
    let until = std::time::Instant::now() + Duration::from_secs(5);
    let tasks = clients.into_iter().map(|client| {
        tokio::spawn(async move {
            while std::time::Instant::now() < until {
                client.batch_execute("begin; select pg_sleep(0.01); commit").await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        tokio::time::timeout(Duration::from_secs(60), task).await.expect("nobody starves").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_nobody_uses_make_room_at_a_server_that_is_full() {
    let f = auto_on_two_threads().await;
    f.local.sql("postgres", "alter role app connection limit 2").await.unwrap();
    let mut connected = vec![];
    for n in 0..6 {
        // Another parameter, so another connection; the clients stay.
        let url = format!("{}?options=-c%20geqo_threshold%3D{}", f.url(), 10 + n);
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
            .await
            .unwrap_or_else(|error| panic!("client {n}: {error:?}"));
        tokio::spawn(connection);
        client.batch_execute("select 1").await.unwrap();
        connected.push(client);
    }
    for (n, client) in connected.iter().enumerate() {
        let row = client.query_one("show geqo_threshold", &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), (10 + n).to_string());
    }
}

/// A client is welcomed without a connection for as long as the server would let it in.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_welcomed_to_a_database_that_is_gone() {
    let f = auto_on_two_threads().await;
    f.local.sql("postgres", "create database short owner app").await.unwrap();
    let url = format!("postgres://app:app-secret@127.0.0.1:{}/short", f.port);
    let connect = async || {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok::<_, tokio_postgres::Error>(client)
    };
    let code = |error: tokio_postgres::Error| error.code().map(|code| code.code().to_owned());
    let gone = Some("3D000".to_owned());
    connect().await.unwrap().batch_execute("select 1").await.unwrap();
    f.client().await.batch_execute("drop database short").await.unwrap();
    assert_eq!(code(connect().await.expect_err("it is refused")), gone);
    // Behind the back of the proxy the first one is still welcomed.
    f.local.sql("postgres", "create database short owner app").await.unwrap();
    connect().await.unwrap().batch_execute("select 1").await.unwrap();
    f.local.sql("postgres", "drop database short with (force)").await.unwrap();
    let finds_out = connect().await.unwrap();
    // Its link may still be on its way to the end.
    eventually(Duration::from_secs(60), async || match finds_out.batch_execute("select 1").await {
        Err(_) if finds_out.is_closed() => Ok(()),
        other => Err(format!("{other:?}").into()),
    })
    .await;
    assert_eq!(code(connect().await.expect_err("it is refused")), gone);
}
