//! A mirror whose process, source or target dies goes on where it was: nothing lost, nothing twice.

mod stream;

use cloud_mirror::base::{Epoch, Site};
use cloud_mirror::lab::{Cluster, FaultProxy, Instead, StopMode, eventually};
use cloud_mirror::observe::status::MirrorState;
use cloud_mirror::replicate::{Error, Mirror};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use stream::{EPOCH, Pair, SOON, following, until};

const BANK: &str = "
    CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
    INSERT INTO account SELECT n, 1000 FROM generate_series(1, 50) n;
    CREATE TABLE transfer (id bigserial PRIMARY KEY, a int, b int, amount int, note text);";

/// Transfers between accounts until it is stopped; survives the death of the server.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(pair: &Arc<Pair>) -> Load {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let worker = |n: u64| {
            let (pair, stop, acknowledged) = (pair.clone(), stop.clone(), acknowledged.clone());
            tokio::spawn(async move {
                let mut turn = n;
                while !stop.load(Ordering::Relaxed) {
                    let Ok(client) = pair.local.client("shop").await else { continue };
                    loop {
                        turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let (a, b, amount) = (turn >> 33, turn >> 41, turn % 100);
                        let sql = format!(
                            "BEGIN; UPDATE account SET balance = balance - {amount} WHERE id = least({0}, {1});
                             UPDATE account SET balance = balance + {amount} WHERE id = greatest({0}, {1});
                             INSERT INTO transfer (a, b, amount, note) VALUES ({0}, {1}, {amount}, repeat('x', {amount}));
                             DELETE FROM transfer WHERE id % 17 = 3 AND id < {2} AND a = {0}; COMMIT",
                            a % 50 + 1, b % 50 + 1, turn % 5000
                        );
                        if client.batch_execute(&sql).await.is_err() || stop.load(Ordering::Relaxed) {
                            break;
                        }
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        };
        let tasks = (1..=3).map(worker).collect();
        Load { stop, acknowledged, tasks }
    }

    /// Waits until `more` transfers were acknowledged from now on.
    async fn go_on(&self, more: u64) {
        let target = self.acknowledged.load(Ordering::Relaxed) + more;
        eventually(SOON, async || {
            let done = self.acknowledged.load(Ordering::Relaxed);
            if done >= target { Ok(()) } else { Err(Instead::from(format!("{done} of {target}"))) }
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

async fn bank() -> Arc<Pair> {
    let pair = Arc::new(Pair::start().await);
    pair.sql(BANK).await;
    pair
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_in_the_stream_goes_on_where_it_was() {
    let pair = bank().await;
    let mut mirror = pair.mirror();
    following(&mirror).await;
    let load = Load::start(&pair);
    for round in 0..8 {
        load.go_on(20 + 13 * round).await;
        // Dropped, as by kill -9: no last words to anybody.
        drop(mirror);
        load.go_on(20).await;
        mirror = pair.mirror();
        if round % 2 == 0 {
            following(&mirror).await;
        }
    }
    load.end().await;
    pair.assert_equal().await;
    pair.assert_no_errors();
    assert_eq!(pair.cloud_value("SELECT sum(balance) FROM account").await, "50000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_dies_gets_what_it_missed() {
    let pair = bank().await;
    let mirror = pair.mirror();
    following(&mirror).await;
    let load = Load::start(&pair);
    for _ in 0..2 {
        load.go_on(100).await;
        pair.cloud.kill9().unwrap();
        until(&mirror, |s| matches!(s.state, MirrorState::Disconnected { .. })).await;
        load.go_on(50).await;
        pair.cloud.start().await.unwrap();
        following(&mirror).await;
    }
    load.end().await;
    pair.assert_equal().await;
    pair.assert_no_errors();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_dies_and_returns_is_followed_again() {
    let pair = bank().await;
    let mirror = pair.mirror();
    following(&mirror).await;
    let load = Load::start(&pair);
    for round in 0..2 {
        load.go_on(100).await;
        if round == 0 {
            pair.local.kill9().unwrap();
        } else {
            pair.local.stop(StopMode::Fast).await.unwrap();
        }
        until(&mirror, |s| matches!(s.state, MirrorState::Disconnected { .. })).await;
        pair.local.children_gone().await.unwrap();
        pair.local.start().await.unwrap();
        following(&mirror).await;
    }
    load.end().await;
    pair.assert_equal().await;
    pair.assert_no_errors();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_mirror_has_all_that_was_received_and_says_how_far_it_is() {
    let pair = bank().await;
    let mirror = pair.mirror();
    following(&mirror).await;
    let load = Load::start(&pair);
    load.go_on(200).await;
    load.end().await;
    pair.caught_up().await;
    let rows = pair.local.value("shop", "SELECT count(*) || ' ' || sum(amount) FROM transfer").await.unwrap();
    pair.local.kill9().unwrap();
    let mut status = mirror.status();
    let finished = mirror.finish(SOON).await.unwrap();
    assert_eq!(pair.cloud_value("SELECT count(*) || ' ' || sum(amount) FROM transfer").await, rows);
    let row = pair.cloud_value("SELECT lsn::text FROM cloud_mirror.progress").await;
    assert_eq!(finished.applied.to_string(), row);
    finished.promoted();
    status.wait_for(|s| s.state == MirrorState::Promoted).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn finishing_after_the_connection_was_lost_finds_the_same() {
    let pair = bank().await;
    let mirror = pair.mirror();
    following(&mirror).await;
    pair.sql("INSERT INTO transfer (a) VALUES (1)").await;
    pair.caught_up().await;
    pair.local.kill9().unwrap();
    until(&mirror, |s| matches!(s.state, MirrorState::Disconnected { .. })).await;
    let finished = mirror.finish(SOON).await.unwrap();
    assert_eq!(
        finished.applied.to_string(),
        pair.cloud_value("SELECT lsn::text FROM cloud_mirror.progress").await
    );
    assert_eq!(pair.cloud_value("SELECT count(*) FROM transfer").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_never_followed_is_not_finished() {
    let pair = bank().await;
    pair.local.kill9().unwrap();
    let mirror = pair.mirror();
    until(&mirror, |s| matches!(&s.state, MirrorState::Disconnected { reason } | MirrorState::Failed { reason } if reason != "not connected yet")).await;
    let finished = mirror.finish(Duration::from_secs(10)).await;
    assert!(matches!(finished, Err(Error::NotFollowing)), "{finished:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_applier_of_a_stale_epoch_writes_nothing_more() {
    let pair = bank().await;
    let mirror = pair.mirror();
    following(&mirror).await;
    pair.cloud.sql("shop", "UPDATE cloud_mirror.progress SET epoch = 7").await.unwrap();
    pair.sql("INSERT INTO transfer (a) VALUES (1)").await;
    let status = until(&mirror, |s| matches!(s.state, MirrorState::Failed { .. })).await;
    let MirrorState::Failed { reason } = status.state else { unreachable!() };
    assert!(reason.contains("epoch 1 is stale"), "{reason}");
    assert_eq!(pair.cloud_value("SELECT count(*) FROM transfer").await, "0");
    // The holder of the newer epoch goes on.
    let newer = Mirror::start(pair.spec.clone(), Epoch(8), pair.events.clone());
    following(&newer).await;
    pair.assert_equal().await;
    assert_eq!(pair.cloud_value("SELECT count(*) FROM transfer").await, "1");
    // And an older one does not even begin.
    let older = Mirror::start(pair.spec.clone(), EPOCH, pair.events.clone());
    until(&older, |s| matches!(&s.state, MirrorState::Failed { reason } if reason.contains("stale"))).await;
    following(&newer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walsender_that_an_earlier_process_left_behind_is_ended() {
    let mut pair = Pair::start().await;
    pair.sql(BANK).await;
    let cable = FaultProxy::before(pair.local.port()).await.unwrap();
    let direct = pair.spec.clone();
    if let cloud_mirror::backend::Address::Tcp { port, .. } = &mut pair.spec.source.endpoint.address {
        *port = cable.port();
    }
    let mirror = pair.mirror();
    following(&mirror).await;
    cable.blackhole().await;
    drop(mirror);
    let again = Mirror::start(direct, EPOCH, pair.events.clone());
    following(&again).await;
    pair.sql("INSERT INTO transfer (a) VALUES (1)").await;
    pair.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_busy_for_long_does_not_cost_the_connection() {
    let local = Cluster::builder().setting("wal_sender_timeout", "6s");
    let pair = Pair::with(local).await;
    pair.sql(BANK).await;
    let mirror = pair.mirror();
    following(&mirror).await;
    let mut blocker = pair.cloud.client("shop").await.unwrap();
    let lock = blocker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE transfer IN EXCLUSIVE MODE").await.unwrap();
    // More than the queues hold, so that the socket is not read either.
    for _ in 0..30 {
        pair.sql(
            "INSERT INTO transfer (a, note) SELECT n, repeat('y', 1000) FROM generate_series(1, 1000) n",
        )
        .await;
    }
    until(&mirror, |s| matches!(s.state, MirrorState::Degraded { lag_ms } if lag_ms > 14_000)).await;
    lock.rollback().await.unwrap();
    following(&mirror).await;
    pair.assert_equal().await;
    let started = pair.events.list().iter().filter(|e| e.name == "replicate.streaming").count();
    assert_eq!(started, 1, "{:#?}", pair.events.list());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_another_or_has_lost_its_slot_needs_a_person() {
    let pair = bank().await;
    let mirror = pair.mirror();
    following(&mirror).await;
    mirror.stop().await;
    let other = Cluster::builder().start().await.unwrap();
    other.create_database("shop").await.unwrap();
    let mut spec = pair.spec.clone();
    spec.source = other.party(Site::Local, "shop");
    let mirror = Mirror::start(spec, EPOCH, pair.events.clone());
    until(
        &mirror,
        |s| matches!(&s.state, MirrorState::Failed { reason } if reason.contains("system identifier")),
    )
    .await;
    mirror.stop().await;
    pair.sql("SELECT pg_drop_replication_slot('cloud_mirror_cloud')").await;
    let mirror = pair.mirror();
    until(&mirror, |s| matches!(&s.state, MirrorState::Failed { reason } if reason.contains("slot cloud_mirror_cloud") && reason.contains("create it again"))).await;
}
