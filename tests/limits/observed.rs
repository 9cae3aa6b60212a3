//! What is counted is what happened.

use crate::stage::{PATIENCE, Raw, TRUST, proxy, server};
use cloud_mirror::lab::{Proxy, eventually, that};
use std::collections::BTreeMap;

/// The values of one pool in the metrics, by their names.
async fn counted(proxy: &Proxy, labels: &str) -> BTreeMap<String, f64> {
    let text = proxy.get("/metrics").await.unwrap();
    let lines = text.lines().filter(|line| line.contains(labels));
    let pairs = lines.filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.strip_prefix("cloud_mirror_")?.replace(labels, ""), value.parse().ok()?))
    });
    pairs.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_bytes_and_times_of_a_pool_add_up() {
    let server = server().await;
    let proxy = proxy(&server, &[TRUST]).await;
    let mut client = Raw::log_in(&proxy, "app", "shop").await;
    let (mut sent, mut got) = (0, 0);
    for text in ["select 1", "begin", "select pg_sleep(0.05)", "commit", "select 1/0", "select 1; select 2"] {
        client.query(text).await;
        sent += text.len() + 6;
        got += client.until(b'Z').await.iter().map(|(_, body)| body.len() + 5).sum::<usize>();
    }
    // Parse, Bind, Execute and Sync, twice in one go.
    let batch = b"P\0\0\0\x10\0select 1\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04";
    client.send(&[&batch[..], batch].concat()).await;
    sent += 2 * batch.len();
    for _ in 0..2 {
        got += client.until(b'Z').await.iter().map(|(_, body)| body.len() + 5).sum::<usize>();
    }
    let labels = "{database=\"shop\",user=\"app\"}";
    // The last answer is counted behind its way to the client, its time at the end.
    let seen = eventually(PATIENCE, async || {
        that(counted(&proxy, labels).await, |seen| {
            seen.get("pool_queries_total") == Some(&8.0)
                && seen.get("query_duration_seconds_count").is_some_and(|count| *count >= 7.0)
        })
    })
    .await;
    let value = |name: &str| seen.get(name).copied().unwrap_or_else(|| panic!("no {name} in {seen:#?}"));
    assert_eq!(value("pool_transactions_total"), 6.0);
    assert_eq!(
        (value("pool_received_bytes_total"), value("pool_sent_bytes_total")),
        (sent as f64, got as f64)
    );
    assert_eq!((value("pool_client_parses_total"), value("pool_binds_total")), (2.0, 2.0));
    assert_eq!((value("pool_client_logins_total"), value("pool_server_assignments_total")), (1.0, 1.0));
    // Two that are pipelined are timed as one, unless the server has answered the first one meanwhile.
    let (timed, queries) =
        (value("transaction_duration_seconds_count"), value("query_duration_seconds_count"));
    assert!((5.0..=6.0).contains(&timed) && (7.0..=8.0).contains(&queries), "{timed} and {queries}");
    let (query, transaction) =
        (value("query_duration_seconds_sum"), value("transaction_duration_seconds_sum"));
    assert!((0.05..60.0).contains(&query) && transaction >= query, "{query} s in {transaction} s");
    assert_eq!(value("client_wait_seconds_count"), 1.0);
    assert!(value("checkout_seconds_sum") > 0.0);

    // The same in PgBouncer's words, and what the client does now.
    client.query("begin").await;
    client.until(b'Z').await;
    let (admin, connection) =
        tokio_postgres::connect(&proxy.url("postgres", "", "pgbouncer"), tokio_postgres::NoTls)
            .await
            .unwrap();
    tokio::spawn(connection);
    eventually(PATIENCE, async || {
        let rows = admin.simple_query("show stats_totals").await?;
        let shop = rows.iter().find_map(|row| match row {
            tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("shop") => Some(row),
            _ => None,
        });
        let shop = shop.expect("the database is listed");
        let seen = ["xact_count", "query_count"].map(|name| shop.get(name).map(str::to_owned));
        that(seen, |seen| *seen == [Some("6".to_owned()), Some("9".to_owned())])
    })
    .await;
    let rows = admin.simple_query("show clients").await.unwrap();
    let states: Vec<_> = rows
        .iter()
        .filter_map(|row| match row {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some((row.get("user"), row.get("database"), row.get("application_name")))
            }
            _ => None,
        })
        .collect();
    assert_eq!(states, [(Some("app"), Some("shop"), Some("raw"))]);
    let gauge = "cloud_mirror_pool_clients{database=\"shop\",user=\"app\",state=\"in_transaction\"} 1.0";
    eventually(PATIENCE, async || that(proxy.get("/metrics").await?, |text| text.contains(gauge))).await;
}
