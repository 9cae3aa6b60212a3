//! `kill -9` of the proxy at random moments, while it makes the first copy and while it streams.

use crate::fixture::Pair;
use cloud_mirror::lab::eventually;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Any numbers will do, as long as a failure can be told from which.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// TPC-B-like changes go to the local server directly, so that they go on while the proxy is dead.
async fn survives(kills: usize, seed: u64) {
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let pair = Pair::servers(&[]).await;
    let bench = |arguments: &[&str]| {
        let mut command = Command::new(pair.local.bindir().join("pgbench"));
        command.args(arguments).args([
            "-h",
            "127.0.0.1",
            "-p",
            &pair.local.port().to_string(),
            "-U",
            "app",
            "shop",
        ]);
        command
            .env("PGPASSWORD", "app-secret")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.kill_on_drop(true);
        command
    };
    assert!(bench(&["-i", "-q", "-s", "3"]).status().await.unwrap().success());
    let mut load = bench(&["-c", "2", "-T", "600", "-n", "-R", "200"]).spawn().unwrap();
    for kill in 1..=kills {
        pair.proxy.spawn().unwrap();
        // Every other time it lives long enough to stream.
        if kill % 2 == 0 {
            pair.mirror_is("following").await;
        }
        let moment = Duration::from_millis(dice.roll(1500));
        tokio::time::sleep(moment).await;
        pair.proxy.kill9();
        println!("kill {kill} after {moment:?}");
    }
    pair.proxy.start().await.unwrap();
    pair.mirror_is("following").await;
    load.kill().await.unwrap();
    // The server ends the sessions of a client that was killed when it next reads from them.
    eventually(Duration::from_secs(60), async || {
        let busy =
            "select count(*) from pg_stat_activity where usename = 'app' and application_name = 'pgbench'";
        match pair.local.value("shop", busy).await.unwrap().as_str() {
            "0" => Ok(()),
            some => Err(some.to_owned().into()),
        }
    })
    .await;
    pair.caught_up().await;
    for table in ["pgbench_accounts", "pgbench_branches", "pgbench_history", "pgbench_tellers"] {
        let hash = format!("select count(*), sum(hashtextextended(r::text, 0)::numeric) from {table} r");
        let (local, cloud) = (pair.local.query("shop", &hash).await, pair.cloud.query("shop", &hash).await);
        assert_eq!(local.unwrap(), cloud.unwrap(), "{table}, seed {seed}\n{}", pair.proxy.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_kills_of_the_proxy_leave_both_sides_equal() {
    survives(2, u64::from_ne_bytes(cloud_mirror::sys::random_bytes())).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: 20 kills of the proxy"]
async fn twenty_kills_of_the_proxy_leave_both_sides_equal() {
    survives(20, u64::from_ne_bytes(cloud_mirror::sys::random_bytes())).await;
}
