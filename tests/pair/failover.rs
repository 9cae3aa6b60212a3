//! The main job, end to end.

use crate::fixture::Pair;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn the_same_connection_writes_on_in_the_cloud_after_the_local_server_is_killed() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    pair.mirror_is("following").await;
    client.execute("insert into t (v) values ('before')", &[]).await.unwrap();
    pair.caught_up().await;
    pair.local.kill9().unwrap();
    let killed = Instant::now();
    // A statement that is sent before the link has ended is in flight; this one is not.
    pair.is_noticed().await;
    client.execute("insert into t (v) values ('after')", &[]).await.unwrap_or_else(|error| {
        panic!("{error:?}\n{}", pair.proxy.log());
    });
    let stall = killed.elapsed();
    println!("first write after kill -9: {} ms", stall.as_millis());
    assert!(stall < Duration::from_secs(2), "{stall:?}\n{}", pair.proxy.log());
    let rows = pair.cloud.value("shop", "select string_agg(v, ',' order by id) from t").await.unwrap();
    assert_eq!(rows, "before,after");
}
