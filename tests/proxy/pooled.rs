//! Pooled modes with more than one data thread.

use crate::fixture::{Fixture, Options};
use cloud_mirror::config::{Pool, PoolMode};
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
