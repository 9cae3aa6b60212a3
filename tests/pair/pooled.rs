//! A failover below the pooled modes.

use crate::fixture::Pair;
use cloud_mirror::lab::eventually;
use std::time::Duration;

fn code(error: &tokio_postgres::Error) -> String {
    error.code().map_or_else(|| format!("{error:?}"), |code| code.code().to_owned())
}

/// What every client of the pooled modes may expect; the caller adds what is special to its mode.
async fn killed_under(mode: &str, before: impl AsyncFn(&Pair), after: impl AsyncFn(&Pair)) {
    let keys = [("CLOUD_MIRROR__POOL__MODE", mode), ("CLOUD_MIRROR__POOL__SIZE", "3")];
    let pair = Pair::start_with(&keys).await;
    pair.mirror_is("following").await;
    let (idle, mut within, prepared) = (pair.client().await, pair.client().await, pair.client().await);
    idle.batch_execute("set my.tenant = 'idle'").await.unwrap();
    let insert = prepared.prepare("insert into t (v) values ($1)").await.unwrap();
    prepared.execute(&insert, &[&"before"]).await.unwrap();
    before(&pair).await;
    pair.caught_up().await;
    let transaction = within.transaction().await.unwrap();
    // Not `execute`: behind it the driver closes its statement, which may be unanswered at the kill.
    transaction.batch_execute("insert into t (v) values ('lost')").await.unwrap();
    pair.local.kill9().unwrap();
    pair.is_noticed().await;
    // Held until the cloud writes, on a link of its own there.
    prepared.execute(&insert, &[&"after"]).await.unwrap_or_else(|error| {
        panic!("{error:?}\n{}", pair.proxy.log());
    });
    let tenant = idle.query_one("select current_setting('my.tenant')", &[]).await.unwrap();
    assert_eq!(tenant.get::<_, String>(0), "idle");
    let lost = transaction.execute("insert into t (v) values ('lost')", &[]).await.unwrap_err();
    assert_eq!(code(&lost), "40001", "{}", pair.proxy.log());
    transaction.rollback().await.unwrap();
    within.execute("insert into t (v) values ('again')", &[]).await.unwrap();
    after(&pair).await;
    let rows = pair.cloud.value("shop", "select string_agg(v, ',' order by id) from t").await.unwrap();
    assert_eq!(rows, "before,after,again");
    pair.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_transaction_mode_go_on_in_the_cloud() {
    killed_under("transaction", async |_| {}, async |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_auto_mode_go_on_in_the_cloud_unless_something_ties_them() {
    let tied = tokio::sync::OnceCell::new();
    let before = async |pair: &Pair| {
        let client = pair.client().await;
        client.batch_execute("create temp table mine (v int)").await.unwrap();
        tied.set(client).unwrap();
    };
    let after = async |_: &Pair| {
        let client: &tokio_postgres::Client = tied.get().unwrap();
        eventually(Duration::from_secs(60), async || match client.batch_execute("select 1").await {
            Err(error) if code(&error) == "57P01" || error.is_closed() => Ok(()),
            other => Err(format!("{other:?}").into()),
        })
        .await;
    };
    killed_under("auto", before, after).await;
}
