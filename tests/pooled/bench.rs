//! pgbench with more clients than connections.

use crate::stage::{proxy, server};
use std::process::Stdio;
use tokio::process::Command;

async fn pgbench(port: u16, arguments: &[&str]) -> String {
    let server = server().await;
    let done = Command::new(server.bindir().join("pgbench"))
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "app"])
        .args(arguments)
        .env("PGPASSWORD", "app-secret")
        .arg("shop")
        .stdin(Stdio::null())
        .output();
    let done =
        tokio::time::timeout(std::time::Duration::from_secs(300), done).await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(!said.contains("ERROR"), "{said}");
    said
}

/// In one test: it counts connections, and uses the processors alone.
#[tokio::test(flavor = "multi_thread")]
async fn many_clients_share_few_connections_in_every_protocol() {
    let server = server().await;
    pgbench(server.port(), &["-i", "-q"]).await;
    for mode in ["transaction", "auto"] {
        let proxy = proxy(&[("pool.mode", mode), ("pool.size", "4")]).await;
        for protocol in ["simple", "extended", "prepared"] {
            for script in [&["-S"][..], &[]] {
                // A thread each: pgbench stands still while it prepares, also with those who have a connection.
                let load = ["-n", "-M", protocol, "-c", "24", "-j", "24", "-t", "40"];
                let said = pgbench(proxy.port(), &[&load[..], script].concat()).await;
                assert!(said.contains("960/960"), "{said}");
            }
        }
        let counted = proxy.get("/metrics").await.unwrap();
        let probes = counted.lines().find(|line| line.contains("links_probed") && !line.starts_with('#'));
        let probes: f64 = probes.expect("it is counted").rsplit(' ').next().unwrap().parse().unwrap();
        // Of 5,760 transactions and more: the catalogue is asked, and nothing else.
        assert!(probes <= 10.0, "{mode}: {probes}");
        let most =
            "select count(*) from pg_stat_activity where usename = 'app' and application_name = 'pgbench'";
        let count: u32 = server.value("shop", most).await.unwrap().parse().unwrap();
        assert!(count <= 4, "{count} connections");
    }
}
