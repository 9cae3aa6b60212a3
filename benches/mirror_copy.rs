//! The first copy against the server's own (`CREATE SUBSCRIPTION`), on the same servers in the
//! same run. `cargo bench --bench mirror_copy [-- ROWS [ROUNDS]]` prints rows per second, and the CPU that our
//! process spends on it.

use cloud_mirror::base::{Epoch, MirrorName, Site};
use cloud_mirror::lab::{Cluster, Durability};
use cloud_mirror::observe::events::Events;
use cloud_mirror::replicate::MirrorSpec;
use cloud_mirror::replicate::bootstrap::{self, Progress};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const TABLE: &str =
    "CREATE TABLE narrow (id bigint PRIMARY KEY, a int NOT NULL, b timestamptz NOT NULL, c text NOT NULL)";

#[tokio::main]
async fn main() {
    let mut numbers = std::env::args().filter_map(|a| a.parse::<u64>().ok());
    let rows = numbers.next().unwrap_or(5_000_000);
    let rounds = numbers.next().unwrap_or(2);
    let start = || Cluster::builder().durability(Durability::Full).setting("max_wal_size", "8GB").start();
    let (local, cloud) = (start().await.unwrap(), start().await.unwrap());
    local.create_database("shop").await.unwrap();
    local.sql("shop", TABLE).await.unwrap();
    let fill = format!(
        "INSERT INTO narrow SELECT n, n % 1000, now(), md5(n::text) FROM generate_series(1, {rows}) n"
    );
    local.sql("shop", &fill).await.unwrap();
    local.sql("shop", "VACUUM ANALYZE narrow").await.unwrap();
    local.sql("shop", "CREATE PUBLICATION native FOR TABLE narrow").await.unwrap();
    println!("{rows} rows, {} bytes", local.value("shop", "SELECT pg_table_size('narrow')").await.unwrap());
    for round in 1..=rounds {
        native(round, &local, &cloud, rows).await;
        ours(round, &local, &cloud, rows).await;
    }
}

async fn native(round: u64, local: &Cluster, cloud: &Cluster, rows: u64) {
    cloud.create_database("native").await.unwrap();
    cloud.sql("native", TABLE).await.unwrap();
    let url = local.url("postgres", "shop");
    let began = Instant::now();
    cloud
        .sql("native", &format!("CREATE SUBSCRIPTION s CONNECTION '{url}' PUBLICATION native"))
        .await
        .unwrap();
    while cloud.value("native", "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel").await.unwrap()
        != "t"
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    report(round, "native", rows, began.elapsed(), None);
    cloud.sql("native", "DROP SUBSCRIPTION s").await.unwrap();
    cloud.sql("postgres", "DROP DATABASE native WITH (FORCE)").await.unwrap();
    for server in [local, cloud] {
        server.sql("postgres", "CHECKPOINT").await.unwrap();
    }
}

async fn ours(round: u64, local: &Cluster, cloud: &Cluster, rows: u64) {
    cloud.create_database("shop").await.unwrap();
    let spec = MirrorSpec {
        name: MirrorName::new("cloud").unwrap(),
        source: local.party(Site::Local, "shop"),
        target: cloud.party(Site::Cloud, "shop"),
        replace_role_passwords: false,
        full_identity: cloud_mirror::config::FullIdentity::None,
    };
    let events = Events::default();
    let (progress, _) = watch::channel(Progress::default());
    let (began, cpu) = (Instant::now(), cpu());
    let ready = bootstrap::run(&spec, Epoch(1), progress, &events).await.unwrap();
    assert_eq!(ready.rows, rows);
    report(round, "cloud-mirror", rows, began.elapsed(), Some(self::cpu() - cpu));
    for event in events.list().iter().filter(|e| e.name == "bootstrap.rows_copied") {
        println!("         of it {}", event.detail);
    }
    bootstrap::drop_mirror(&spec).await.unwrap();
    cloud.sql("postgres", "DROP DATABASE shop WITH (FORCE)").await.unwrap();
    for server in [local, cloud] {
        server.sql("postgres", "CHECKPOINT").await.unwrap();
    }
}

fn report(round: u64, who: &str, rows: u64, took: Duration, cpu: Option<Duration>) {
    let speed = rows as f64 / took.as_secs_f64() / 1000.0;
    let cpu = cpu.map_or(String::new(), |c| format!(", our CPU {:.2} s", c.as_secs_f64()));
    println!("round {round}: {who:>12} {:.2} s, {speed:.0} k rows/s{cpu}", took.as_secs_f64());
}

/// User and system time of this process, children not counted ("proc(5), /proc/pid/stat").
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after = stat.rsplit(") ").next().unwrap();
    let ticks: u64 = after.split(' ').skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}
