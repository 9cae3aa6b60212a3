//! Connections that are held for clients that are silent.

use crate::raw::Raw;
use crate::stage::{PATIENCE, admin, proxy, rows};
use cloud_mirror::lab::{Proxy, eventually, that};

async fn reported(proxy: &Proxy) -> (bool, usize) {
    let metrics = proxy.get("/metrics").await.unwrap();
    let lines = proxy.log().matches("session.pinned_idle").count();
    (metrics.contains(&format!("cloud_mirror_pins_reported_total {lines}\n")), lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_that_keeps_a_connection_is_reported_once_and_kept() {
    let proxy = proxy(&[("pool.mode", "auto"), ("pool.pinned_idle_report", "200ms")]).await;
    let watching = admin(&proxy).await;
    let pinned = async || {
        let clients = rows(&watching, "SHOW CLIENTS").await;
        clients.iter().map(|row| row.get("pinned").unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let mut keeps = Raw::log_in(proxy.port()).await;
    let mut free = Raw::log_in(proxy.port()).await;
    keeps.query("listen news").await;
    free.query("select 1").await;
    eventually(PATIENCE, async || that(pinned().await, |seen| *seen == ["listen,idle", ""])).await;
    eventually(PATIENCE, async || that(reported(&proxy).await, |seen| *seen == (true, 1))).await;
    // It is the same to go on and be silent again; a transaction that is left open is something else.
    keeps.query("select 1").await;
    free.query("begin").await;
    eventually(PATIENCE, async || that(pinned().await, |seen| *seen == ["listen,idle", "transaction,idle"]))
        .await;
    eventually(PATIENCE, async || that(reported(&proxy).await, |seen| *seen == (true, 2))).await;
    let metrics = proxy.get("/metrics").await.unwrap();
    assert!(metrics.contains("pool_pinned_idle_clients{database=\"shop\",user=\"app\"} 2.0"), "{metrics}");
    let log = proxy.log();
    assert!(log.contains("pinned=\"listen\"") && log.contains("pinned=\"transaction\""), "{log}");
    free.query("commit").await;
    keeps.query("unlisten *").await;
    eventually(PATIENCE, async || that(pinned().await, |seen| *seen == ["", ""])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_that_keeps_a_connection_is_sent_away_where_it_is_configured() {
    let keys = [("pool.mode", "auto"), ("pool.user.app.pinned_idle_timeout", "300ms")];
    let proxy = proxy(&keys).await;
    let mut keeps = Raw::log_in(proxy.port()).await;
    let mut free = Raw::log_in(proxy.port()).await;
    free.query("select 1").await;
    keeps.query("create temp table kept (n int)").await;
    let (tag, body) = keeps.message().await;
    let said = String::from_utf8_lossy(&body);
    assert!(tag == b'E' && said.contains("57P05") && said.contains("pinned-idle timeout"), "{said}");
    assert_eq!(free.value("select 2").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_too_long_to_be_made_again_is_named_as_a_tie_until_it_is_closed() {
    for mode in ["auto", "transaction"] {
        let proxy = proxy(&[("pool.mode", mode)]).await;
        let watching = admin(&proxy).await;
        let pinned = async || {
            let clients = rows(&watching, "SHOW CLIENTS").await;
            clients.iter().map(|row| row.get("pinned").unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        let url = proxy.url("app", "app-secret", "shop");
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let text = format!("select 1 /* {} */", "long".repeat(50_000));
        let statement = client.prepare(&text).await.unwrap();
        eventually(PATIENCE, async || that(pinned().await, |seen| *seen == ["long_statement"])).await;
        drop(statement);
        client.batch_execute("select 1").await.unwrap();
        eventually(PATIENCE, async || that(pinned().await, |seen| *seen == [""])).await;
    }
}
