//! The main job, end to end.

use crate::fixture::Pair;
use crate::load::Load;
use cloud_mirror::lab::eventually;
use std::time::{Duration, Instant};

/// A crash that was taken for a restart would be waited for so long.
pub const LONG_GRACE: [(&str, &str); 2] =
    [("CLOUD_MIRROR__FAILOVER__RESTART_GRACE", "120s"), ("CLOUD_MIRROR__FAILOVER__HOLD_TIMEOUT", "180s")];

#[tokio::test(flavor = "multi_thread")]
async fn the_same_connection_writes_on_in_the_cloud_after_the_local_server_is_killed() {
    let pair = Pair::start_with(&LONG_GRACE).await;
    let client = pair.client().await;
    pair.mirror_is("following").await;
    // Not `execute`: behind it the driver closes its statement, which may be unanswered at the kill.
    client.batch_execute("insert into t (v) values ('before')").await.unwrap();
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
    // How quick it is, the campaign measures; a restart was not waited for.
    assert!(stall < Duration::from_secs(30), "{stall:?}\n{}", pair.proxy.log());
    let rows = pair.cloud.value("shop", "select string_agg(v, ',' order by id) from t").await.unwrap();
    assert_eq!(rows, "before,after");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_no_mirrored_row_is_lost_and_the_old_server_comes_back_fenced() {
    let pair = Pair::start().await;
    pair.mirror_is("following").await;
    let load = Load::start(&pair.proxy.url("app", "app-secret", "shop"), 4);
    eventually(
        Duration::from_secs(60),
        async || if load.count() > 200 { Ok(()) } else { Err("no rows".into()) },
    )
    .await;
    pair.local.kill9().unwrap();
    let killed = Instant::now();
    pair.writer_is("cloud").await;
    let switched = Instant::now();
    let count = load.count();
    eventually(Duration::from_secs(60), async || {
        if load.count() > count + 50 { Ok(()) } else { Err(pair.proxy.log().into()) }
    })
    .await;
    let seen = load.stop().await;
    println!("stall {} ms, errors {:?}", seen.stall_after(killed).as_millis(), seen.errors);
    seen.only_documented();
    let rows = pair.cloud.query("shop", "select v, id from t").await.unwrap();
    let there: std::collections::HashSet<u64> =
        rows.iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect();
    assert_eq!(there.len(), rows.len(), "a row is there twice");
    let lost: Vec<u64> =
        seen.acknowledged.iter().filter(|(n, _)| !there.contains(n)).map(|(n, _)| *n).collect();
    println!("lost tail: {} of {} rows", lost.len(), seen.acknowledged.len());
    // Orphans of the dead server acknowledge what they are doing, and a client may hear of it late.
    let late: Vec<_> = lost.iter().filter(|n| seen.sent[n] > switched).collect();
    assert!(late.is_empty(), "written after the switch and lost: {late:?}");
    // The old server comes back, and nobody gets in.
    pair.local.start().await.unwrap();
    eventually(Duration::from_secs(60), async || {
        let status = pair.proxy.status().await?;
        if status["upstreams"][0]["role"] == "fenced" && status["upstreams"][0]["needs"].is_string() {
            return Ok(());
        }
        Err(format!("{status:#}").into())
    })
    .await;
    let direct = pair.local.url("app", "shop").replace("lab", "app-secret");
    let refused = tokio_postgres::connect(&direct, tokio_postgres::NoTls).await.err().expect("it is fenced");
    assert!(refused.code().is_some(), "{refused:?}");
    // A restarted proxy goes on with the cloud.
    pair.proxy.kill9();
    pair.proxy.start().await.unwrap();
    pair.writer_is("cloud").await;
    let client = pair.client().await;
    client.execute("insert into t (v) values ('0')", &[]).await.unwrap();
    client.batch_execute("create table made_in_the_cloud (id int)").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_promotes_the_mirror_and_nothing_is_lost() {
    let pair = Pair::start().await;
    pair.mirror_is("following").await;
    let client = pair.client().await;
    for n in 0..100 {
        client.execute("insert into t (v) values ($1)", &[&n.to_string()]).await.unwrap();
    }
    let url = pair.proxy.url(cloud_mirror::lab::SUPERUSER, cloud_mirror::lab::PASSWORD, "shop");
    let (operator, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    operator
        .batch_execute("ALTER DATABASE cloud PROMOTE")
        .await
        .unwrap_or_else(|error| panic!("{error:?}\n{}", pair.proxy.log()));
    client.execute("insert into t (v) values ('100')", &[]).await.unwrap();
    assert_eq!(pair.cloud.value("shop", "select count(*) from t").await.unwrap(), "101");
    let shown = client.query_one("SHOW MIRROR STATUS", &[]).await.unwrap();
    assert_eq!(
        (shown.get::<_, String>(0).as_str(), shown.get::<_, String>(1).as_str()),
        ("cloud", "Promoted")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_goes_away_changes_nothing_for_clients() {
    let pair = Pair::start().await;
    pair.mirror_is("following").await;
    let client = pair.client().await;
    pair.cloud.kill9().unwrap();
    pair.mirror_is("disconnected").await;
    for n in 0..10 {
        client.execute("insert into t (v) values ($1)", &[&n.to_string()]).await.unwrap();
    }
    pair.cloud.start().await.unwrap();
    pair.mirror_is("following").await;
    pair.caught_up().await;
    pair.both_sides_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_login_that_is_no_superuser_serves_new_log_ins_also_after_a_restart_of_the_proxy() {
    let pair = Pair::start_as_owner().await;
    pair.mirror_is("following").await;
    let client = pair.client().await;
    client.batch_execute("insert into t (v) values ('before')").await.unwrap();
    pair.caught_up().await;
    pair.local.create_role("late", "late-secret", "in role app").await.unwrap();
    // The mirror looks at the roles every ten seconds, and so does the proxy.
    eventually(Duration::from_secs(60), async || {
        let there = pair
            .cloud
            .value("shop", "select count(*) from pg_auth_members where member = to_regrole('late')")
            .await?;
        let known =
            std::fs::read_to_string(pair.proxy.directory().join("state/roles.json")).unwrap_or_default();
        if there == "1" && known.contains("late") {
            Ok(())
        } else {
            Err(format!("{there} {}", known.len()).into())
        }
    })
    .await;
    pair.local.kill9().unwrap();
    pair.writer_is("cloud").await;
    client.execute("insert into t (v) values ('after')", &[]).await.unwrap();
    // Who owned the database may make tables there, as before.
    client.batch_execute("create table made_in_the_cloud (id int)").await.unwrap();
    pair.proxy.kill9();
    pair.proxy.start().await.unwrap();
    pair.writer_is("cloud").await;
    for (user, password) in [("app", "app-secret"), ("late", "late-secret")] {
        let url = pair.proxy.url(user, password, "shop");
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
            .await
            .unwrap_or_else(|error| panic!("{user}: {error:?}\n{}", pair.proxy.log()));
        tokio::spawn(connection);
        let count: i64 = client.query_one("select count(*) from t", &[]).await.unwrap().get(0);
        assert_eq!(count, 2);
    }
}
