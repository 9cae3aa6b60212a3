//! Restarts that are no failures.

use crate::failover::LONG_GRACE;
use crate::fixture::Pair;
use crate::load::Load;
use cloud_mirror::lab::{StopMode, eventually};
use std::time::{Duration, Instant};

async fn survives(mode: StopMode) {
    // A restart takes as long as it takes.
    let pair = Pair::start_with(&LONG_GRACE).await;
    pair.mirror_is("following").await;
    let load = Load::start(&pair.proxy.url("app", "app-secret", "shop"), 4);
    eventually(
        Duration::from_secs(60),
        async || if load.count() > 50 { Ok(()) } else { Err("no rows".into()) },
    )
    .await;
    pair.local.restart(mode).await.unwrap();
    let back = Instant::now();
    let count = load.count();
    eventually(Duration::from_secs(60), async || {
        if load.count() > count + 20 { Ok(()) } else { Err(pair.proxy.log().into()) }
    })
    .await;
    let resumed = back.elapsed();
    let seen = load.stop().await;
    println!(
        "{mode:?}: served again {} ms after the server accepted; errors {:?}",
        resumed.as_millis(),
        seen.errors
    );
    seen.only_documented();
    let status = pair.proxy.status().await.unwrap();
    assert_eq!(
        (status["writer"].as_str(), status["lease"]["epoch"].as_u64()),
        (Some("local"), Some(1)),
        "{status:#}"
    );
    let rows = pair.local.query("shop", "select v from t").await.unwrap();
    let there: std::collections::HashSet<u64> =
        rows.iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect();
    assert!(seen.acknowledged.iter().all(|(n, _)| there.contains(n)), "an acknowledged row is gone");
    assert_eq!(there.len(), rows.len(), "a row is there twice");
    pair.caught_up().await;
    pair.both_sides_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_restart_of_the_local_server_is_waited_for() {
    survives(StopMode::Fast).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immediate_restart_of_the_local_server_is_waited_for() {
    survives(StopMode::Immediate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_proxy_comes_back_with_the_next_epoch_and_loses_nothing() {
    let pair = Pair::start().await;
    pair.mirror_is("following").await;
    let load = Load::start(&pair.proxy.url("app", "app-secret", "shop"), 4);
    for round in 1..=3 {
        let count = load.count();
        eventually(Duration::from_secs(60), async || {
            if load.count() > count + 50 { Ok(()) } else { Err(pair.proxy.log().into()) }
        })
        .await;
        pair.proxy.kill9();
        pair.proxy.start().await.unwrap();
        pair.epoch_is(round + 1).await;
    }
    let seen = load.stop().await;
    let rows = pair.local.query("shop", "select v from t").await.unwrap();
    let there: std::collections::HashSet<u64> =
        rows.iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect();
    assert!(seen.acknowledged.iter().all(|(n, _)| there.contains(n)), "an acknowledged row is gone");
    pair.mirror_is("following").await;
    pair.caught_up().await;
    pair.both_sides_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_stop_that_lasts_longer_than_the_grace_fails_over() {
    let pair = Pair::start_with(&[("CLOUD_MIRROR__FAILOVER__RESTART_GRACE", "2s")]).await;
    pair.mirror_is("following").await;
    let client = pair.client().await;
    // Not `execute`: behind it the driver closes its statement, which may be unanswered at the stop.
    client.batch_execute("insert into t (v) values ('1')").await.unwrap();
    pair.caught_up().await;
    let stopped = Instant::now();
    pair.local.stop(StopMode::Fast).await.unwrap();
    client.execute("insert into t (v) values ('2')", &[]).await.unwrap_or_else(|error| {
        panic!("{error:?}\n{}", pair.proxy.log());
    });
    let stall = stopped.elapsed();
    println!("first write {} ms after an orderly stop with 2 s of grace", stall.as_millis());
    assert!(stall >= Duration::from_secs(2), "it did not wait: {stall:?}");
    assert_eq!(pair.cloud.value("shop", "select count(*) from t").await.unwrap(), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn case_64_a_frozen_server_is_given_up_and_fenced_when_it_thaws() {
    let pair = Pair::start_with(&[("CLOUD_MIRROR__FAILOVER__PROBE_TIMEOUT", "1s")]).await;
    pair.mirror_is("following").await;
    let client = pair.client().await;
    // Not `execute`: behind it the driver closes its statement, which may be unanswered at the stop.
    client.batch_execute("insert into t (v) values ('1')").await.unwrap();
    pair.caught_up().await;
    pair.local.freeze().unwrap();
    // In flight when the server froze: its outcome is not known, and it is said so.
    let error = client.execute("insert into t (v) values ('2')", &[]).await.unwrap_err();
    let code = error.code().map(|code| code.code().to_owned());
    assert!(code.as_deref() == Some("08007") || error.is_closed(), "{error:?}\n{}", pair.proxy.log());
    pair.writer_is("cloud").await;
    let client = pair.client().await;
    client.execute("insert into t (v) values ('3')", &[]).await.unwrap();
    pair.local.thaw();
    eventually(Duration::from_secs(60), async || {
        let status = pair.proxy.status().await?;
        if status["upstreams"][0]["role"] == "fenced" { Ok(()) } else { Err(format!("{status:#}").into()) }
    })
    .await;
    assert_eq!(
        pair.cloud.value("shop", "select string_agg(v, ',' order by v) from t where v <> '2'").await.unwrap(),
        "1,3"
    );
}
