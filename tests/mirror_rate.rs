//! How fast a mirror drains a backlog: `cargo test --profile quick --test mirror_rate -- --ignored --nocapture`.

mod stream;

use std::time::Instant;
use stream::{Pair, following, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn the_backlog_of_a_pgbench_run_is_drained() {
    let pair = Pair::start().await;
    pair.pgbench(&["-i", "-q", "-s", "10"]).await;
    // Its history has no key: inserts only, as in pgbench.
    let mirror = pair.mirror();
    following(&mirror).await;
    mirror.stop().await;
    pair.pgbench(&["-n", "-c", "8", "-j", "2", "-t", "10000", "-M", "prepared"]).await;
    let before = (cpu_seconds(), server_seconds(&pair.local), server_seconds(&pair.cloud));
    let began = Instant::now();
    let mirror = pair.mirror();
    until(&mirror, |s| s.transactions_applied > 0).await;
    let first = began.elapsed();
    until(&mirror, |s| s.transactions_applied >= 80_000).await;
    let took = began.elapsed() - first;
    let cpu = cpu_seconds() - before.0;
    let servers = (server_seconds(&pair.local) - before.1, server_seconds(&pair.cloud) - before.2);
    let status = mirror.status().borrow().clone();
    let rate = |n: u64| n as f64 / took.as_secs_f64();
    println!(
        "backlog: {} tx, {} rows in {took:?} (+{first:?} to the first): {:.0} tx/s, {:.0} rows/s, cpu s: mirror {cpu:.2}, source {:.2}, target {:.2}",
        status.transactions_applied,
        status.rows_applied,
        rate(status.transactions_applied),
        rate(status.rows_applied),
        servers.0,
        servers.1,
    );
    pair.assert_equal().await;
    let began = Instant::now();
    pair.sql("UPDATE pgbench_accounts SET abalance = abalance + 1").await;
    println!("1M-row UPDATE: {:?} on the source", began.elapsed());
    let committed = Instant::now();
    pair.caught_up().await;
    println!("1M-row UPDATE: on the mirror {:?} after the commit, rss {} kB", committed.elapsed(), rss_kb());
    pair.assert_equal().await;
    pair.pgbench(&["-n", "-c", "8", "-j", "2", "-T", "10", "-M", "prepared"]).await;
    let ended = Instant::now();
    let lag = mirror.status().borrow().lag_ms;
    pair.caught_up().await;
    println!("after 10 s of TPC-B: lag {lag:?} ms at the end, caught up after {:?}", ended.elapsed());
    pair.assert_equal().await;
    pair.assert_no_errors();
}

fn cpu_seconds() -> f64 {
    seconds_of("self", None).unwrap()
}

/// User and system time of a process, if its parent is `parent`.
fn seconds_of(pid: &str, parent: Option<i32>) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    if parent.is_some_and(|parent| fields[1] != parent.to_string()) {
        return None;
    }
    Some((fields[11].parse::<f64>().ok()? + fields[12].parse::<f64>().ok()?) / 100.0)
}

/// Of the server's children that are alive.
fn server_seconds(server: &cloud_mirror::lab::Cluster) -> f64 {
    let processes =
        std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().into_string().ok());
    processes.filter_map(|pid| seconds_of(&pid, server.pid())).sum()
}

fn rss_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
