//! The way home, and the loop of failing over and coming home.

use crate::failover::LONG_GRACE;
use crate::fixture::Pair;
use crate::load::Load;
use cloud_mirror::lab::eventually;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// `kill -9` of the local server under load, then home again, `rounds` times.
async fn rounds(rounds: usize) {
    let pair = Pair::start_with(&LONG_GRACE).await;
    let mut stalls = Vec::new();
    let mut acknowledged: HashSet<u64> = HashSet::new();
    for round in 1..=rounds {
        pair.mirror_is("following").await;
        let load = Load::start_at(&pair.proxy.url("app", "app-secret", "shop"), 4, round as u64 * 1_000_000);
        eventually(
            Duration::from_secs(60),
            async || if load.count() > 200 { Ok(()) } else { Err("no rows".into()) },
        )
        .await;
        let applied = pair.applied_rows().await;
        pair.local.kill9().unwrap();
        let killed = Instant::now();
        pair.writer_is("cloud").await;
        let count = load.count();
        eventually(Duration::from_secs(60), async || {
            if load.count() > count + 50 { Ok(()) } else { Err(pair.proxy.log().into()) }
        })
        .await;
        let seen = load.stop().await;
        seen.only_documented();
        // Orphans of the dead server acknowledge what they were doing; then comes the silence.
        let stall = seen.stall_after(killed);
        stalls.push(stall);
        let rows = pair.cloud.query("shop", "select v from t").await.unwrap();
        let there: HashSet<u64> = rows.iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect();
        assert_eq!(there.len(), rows.len(), "round {round}: a row is there twice");
        let missing: Vec<u64> = applied.iter().filter(|n| !there.contains(n)).copied().collect();
        assert!(missing.is_empty(), "round {round}: applied on the mirror and gone: {missing:?}");
        let kept: Vec<u64> = acknowledged.iter().filter(|n| !there.contains(n)).copied().collect();
        assert!(kept.is_empty(), "round {round}: rows of earlier rounds are gone: {kept:?}");
        let lost = seen.acknowledged.iter().filter(|(n, _)| !there.contains(n)).count();
        println!(
            "round {round}: first write {} ms after kill -9, lost tail {lost} of {}, errors {:?}",
            stall.as_millis(),
            seen.acknowledged.len(),
            seen.errors
        );
        acknowledged = there;
        pair.local.children_gone().await.unwrap();
        pair.local.start().await.unwrap();
        pair.go_home().await;
    }
    pair.mirror_is("following").await;
    pair.caught_up().await;
    pair.both_sides_equal().await;
    stalls.sort();
    let p50 = stalls[stalls.len() / 2];
    println!(
        "{rounds} rounds: stall p50 {} ms, max {} ms",
        p50.as_millis(),
        stalls.last().unwrap().as_millis()
    );
    // How quick it is, the campaign measures: beside other tests, and without optimisation, all that is said is
    // that no restart was waited for.
    let bar = Duration::from_secs(if cfg!(debug_assertions) { 30 } else { 2 });
    assert!(*stalls.last().unwrap() < bar, "{stalls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_failovers_and_the_way_home_between_them() {
    rounds(2).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: 20 failovers"]
async fn twenty_failovers_and_the_way_home_between_them() {
    rounds(20).await;
}
