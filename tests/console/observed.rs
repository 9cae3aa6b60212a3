//! How long things took, in `/status`, and Prometheus' exporter for PgBouncer itself.

use super::running::{PATIENCE, client, proxy};
use cloud_mirror::lab::eventually;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use tokio::process::Command;

#[tokio::test]
async fn the_status_has_percentiles_of_each_pool() {
    let proxy = proxy(&[("pool.mode", "transaction"), ("pool.size", "1")]).await;
    let (shop, other) = (client(&proxy, "shop").await.unwrap(), client(&proxy, "shop").await.unwrap());
    for _ in 0..90 {
        shop.simple_query("select 1").await.unwrap();
    }
    for _ in 0..5 {
        // One of them waits for the other.
        let slow = "begin; select pg_sleep(0.1); select pg_sleep(0.1); commit";
        let (one, two) = tokio::join!(shop.simple_query(slow), other.simple_query(slow));
        one.unwrap();
        two.unwrap();
    }
    // The last answer is counted behind its way to the client.
    let pool = eventually(PATIENCE, async || {
        let status = proxy.status().await.map_err(|error| error.to_string())?;
        let pools = status["pools"].as_array().ok_or("no pools")?;
        let pool = pools.iter().find(|pool| pool["database"] == "shop" && pool["user"] == "app");
        let pool = pool.filter(|pool| pool["query"]["count"].as_u64().is_some_and(|count| count >= 100));
        pool.cloned().ok_or_else(|| format!("{status:#}").into())
    })
    .await;
    let of = |what: &str, name: &str| {
        pool[what][name].as_u64().unwrap_or_else(|| panic!("{what} {name}: {pool:#}"))
    };
    assert!(of("query", "count") >= 100 && of("transaction", "count") >= 100, "{pool:#}");
    assert!(of("query", "p50_us") < 100_000 && of("query", "p99_us") >= 200_000, "{pool:#}");
    assert!(of("transaction", "p50_us") <= of("transaction", "p99_us"), "{pool:#}");
    assert!(of("client_wait", "count") >= 5 && of("client_wait", "max_us") >= 100_000, "{pool:#}");
    assert!(of("checkout", "count") >= 1, "{pool:#}");
    assert!(pool["queries"].as_u64().unwrap() >= 100, "{pool:#}");
}

/// Every series that `pgbouncer_exporter` 0.10.2 makes of PgBouncer 1.25.
const SERIES: [&str; 39] = [
    "cached_dns_names",
    "cached_dns_zones",
    "config_max_client_connections",
    "config_max_user_connections",
    "databases",
    "databases_current_connections",
    "databases_disabled",
    "databases_max_connections",
    "databases_paused",
    "databases_pool_size",
    "free_clients",
    "free_servers",
    "in_flight_dns_queries",
    "login_clients",
    "pools",
    "pools_client_active_cancel_connections",
    "pools_client_active_connections",
    "pools_client_maxwait_seconds",
    "pools_client_waiting_cancel_connections",
    "pools_client_waiting_connections",
    "pools_server_active_cancel_connections",
    "pools_server_active_connections",
    "pools_server_being_canceled_connections",
    "pools_server_idle_connections",
    "pools_server_login_connections",
    "pools_server_testing_connections",
    "pools_server_used_connections",
    "stats_client_wait_seconds_total",
    "stats_queries_duration_seconds_total",
    "stats_queries_pooled_total",
    "stats_received_bytes_total",
    "stats_sent_bytes_total",
    "stats_server_in_transaction_seconds_total",
    "stats_sql_transactions_pooled_total",
    "up",
    "used_clients",
    "used_servers",
    "users",
    "version_info",
];

#[tokio::test]
#[ignore = "campaign: needs pgbouncer_exporter"]
async fn pgbouncer_exporter_itself_is_up_and_has_every_series() {
    let program =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/drivers/exporter/pgbouncer_exporter");
    assert!(program.exists(), "there is no {}; make it with xtask/drivers.sh", program.display());
    for mode in ["session", "transaction", "auto"] {
        let proxy = proxy(&[("auth.admin_users", "app"), ("pool.mode", mode)]).await;
        let shop = client(&proxy, "shop").await.unwrap();
        for _ in 0..10 {
            shop.simple_query("SELECT 1").await.unwrap();
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("{}?sslmode=disable", proxy.url("app", "app-secret", "pgbouncer"));
        let mut exporter = Command::new(&program)
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg(format!("--pgBouncer.connectionString={url}"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let text = eventually(PATIENCE, async || {
            let address = format!("127.0.0.1:{port}");
            let asked =
                tokio::task::spawn_blocking(move || cloud_mirror::http::fetch::get(&address, "/metrics"));
            Ok(asked.await?.map_err(|error| error.to_string())?)
        })
        .await;
        exporter.kill().await.unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix("pgbouncer_"));
        let lines: Vec<&str> = lines.filter(|line| !line.starts_with("exporter_")).collect();
        let found: BTreeSet<&str> = lines.iter().map(|line| line.split(['{', ' ']).next().unwrap()).collect();
        assert_eq!(found, BTreeSet::from(SERIES), "{text}");
        assert!(lines.contains(&"up 1"), "{text}");
        assert!(!lines.iter().any(|line| line.ends_with("NaN") || line.contains("<invalid>")), "{text}");
        let queries =
            lines.iter().find_map(|it| it.strip_prefix("stats_queries_pooled_total{database=\"shop\"} "));
        assert!(queries.unwrap().parse::<f64>().unwrap() >= 10.0, "{text}");
    }
}
