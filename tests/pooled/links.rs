//! What is shown of connections that nobody uses, and cancels that meet what we ask of a server ourselves.

use crate::raw::{Raw, query, shown};
use crate::stage::{PATIENCE, admin, connect, new_server, one_connection, proxy, proxy_before, rows, server};
use cloud_mirror::lab::{eventually, that};
use tokio_postgres::{Client, NoTls};

/// State and client of each connection to the server.
async fn servers(admin: &Client) -> Vec<(String, String)> {
    let rows = rows(admin, "SHOW SERVERS").await.into_iter();
    rows.map(|row| (row.get("state").unwrap().to_owned(), row.get("link").unwrap_or_default().to_owned()))
        .collect()
}

/// Waits until one connection is shown, idle and nobody's.
async fn one_idle(admin: &Client) {
    let expected = [("idle".to_owned(), String::new())];
    eventually(PATIENCE, async || that(servers(admin).await, |seen| *seen == expected)).await;
    eventually(PATIENCE, async || {
        let pools = rows(admin, "SHOW POOLS").await;
        let seen = ["sv_active", "sv_idle"].map(|name| pools[0].get(name).map(str::to_owned));
        that(seen, |seen| *seen == [Some("0".to_owned()), Some("1".to_owned())])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_nobody_uses_is_shown_idle() {
    // Opened for the log-in of a client that has asked for nothing yet.
    let proxy = one_connection("transaction").await;
    let watching = admin(&proxy).await;
    let quiet = Raw::log_in(proxy.port()).await;
    one_idle(&watching).await;
    drop(quiet);

    // Left behind while the server was asked what is on it.
    let proxy = one_connection("auto").await;
    let watching = admin(&proxy).await;
    for _ in 0..3 {
        let mut leaves = Raw::log_in(proxy.port()).await;
        leaves.query("select pg_advisory_lock(77)").await;
        leaves.send(b"X\0\0\0\x04").await;
        eventually(PATIENCE, async || that(rows(&watching, "SHOW CLIENTS").await.len(), |count| *count == 0))
            .await;
        one_idle(&watching).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_server_has_closed_is_not_shown() {
    for mode in ["session", "transaction"] {
        let proxy = proxy(&[("pool.mode", mode)]).await;
        let watching = admin(&proxy).await;
        let mut client = Raw::log_in(proxy.port()).await;
        let pid = client.value("select pg_backend_pid()").await;
        client.send(b"X\0\0\0\x04").await;
        one_idle(&watching).await;
        let end = format!("select pg_terminate_backend({pid})");
        assert_eq!(server().await.value("postgres", &end).await.unwrap(), "t", "{mode}");
        eventually(PATIENCE, async || that(servers(&watching).await, Vec::is_empty)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_client_has_left_in_a_statement_is_shown_without_it() {
    let proxy = one_connection("transaction").await;
    let watching = admin(&proxy).await;
    let mut leaves = Raw::log_in(proxy.port()).await;
    leaves.send(&query("select pg_sleep(600) /* left alone */")).await;
    let running = "select pid from pg_stat_activity where query like '%left alone */' and usename = 'app'";
    let pid = eventually(PATIENCE, async || Ok(server().await.value("postgres", running).await?)).await;
    leaves.reset();
    let expected = [("active".to_owned(), String::new())];
    eventually(PATIENCE, async || that(servers(&watching).await, |seen| *seen == expected)).await;
    let counted = "pool_servers{database=\"shop\",user=\"app\",state=\"ending\"} 1.0";
    eventually(PATIENCE, async || that(proxy.get("/metrics").await?, |text| text.contains(counted))).await;
    server().await.value("postgres", &format!("select pg_cancel_backend({pid})")).await.unwrap();
    eventually(PATIENCE, async || that(servers(&watching).await, Vec::is_empty)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_cancel_that_meets_our_question_ties_nobody() {
    let server = server().await;
    // The question reads this table: its answer waits.
    let locker = server.client("shop").await.unwrap();
    locker.batch_execute("begin; lock table pg_catalog.pg_language in access exclusive mode").await.unwrap();
    let proxy = one_connection("auto").await;
    let watching = admin(&proxy).await;
    let client = connect(&proxy, "app", "shop").await;
    let pid = rows(&watching, "SHOW SERVERS").await[0].get("remote_pid").unwrap().to_owned();
    client.batch_execute("select set_config('my.own', 'kept', false)").await.unwrap();
    // Other tests' connections are asked as well.
    let asking = format!(
        "select count(*) from pg_locks where pid = {pid} and not granted and relation = 'pg_language'::regclass"
    );
    let asks = async || that(locker.query_one(&asking, &[]).await?.get::<_, i64>(0), |count| *count == 1);
    eventually(PATIENCE, asks).await;
    client.cancel_token().cancel_query(NoTls).await.unwrap();
    let cancelled = "cloud_mirror_links_probed_total 2";
    eventually(PATIENCE, async || that(proxy.get("/metrics").await?, |text| text.contains(cancelled))).await;
    locker.batch_execute("rollback").await.unwrap();
    // The first question is over, and the second one with it, or soon. Where the end of the cancel was not seen by
    // then, the connection is closed.
    let is_free = |seen: &Vec<(String, String)>| {
        seen.iter().all(|(state, client)| state == "idle" && client.is_empty())
    };
    eventually(PATIENCE, async || that(servers(&watching).await, is_free)).await;
    let pinned: Vec<_> = rows(&watching, "SHOW CLIENTS").await;
    assert_eq!(pinned[0].get("pinned").unwrap_or_default(), "");
    let own: String = client.query_one("select current_setting('my.own')", &[]).await.unwrap().get(0);
    assert_eq!(own, "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_cancelled_before_it_is_sent_is_refused_and_no_more() {
    // Of its own: the lock below holds up every log-in.
    let server = new_server().await;
    server.sql("shop", "create role seldom; grant seldom to app").await.unwrap();
    let proxy = proxy_before(&server, &[("pool.mode", "transaction"), ("pool.size", "2")]).await;
    let clients = [(); 3].map(|()| connect(&proxy, "app", "shop"));
    let [client, first, second] =
        <[Client; 3]>::try_from(futures_util::future::join_all(clients).await).unwrap();
    // What the server is asked behind the first statement of all is over with the second.
    client.batch_execute("select 1").await.unwrap();
    client.batch_execute("set role seldom").await.unwrap();
    // The other connection has never heard of that role, and cannot look it up.
    first.batch_execute("begin").await.unwrap();
    second.batch_execute("begin").await.unwrap();
    second.batch_execute("commit").await.unwrap();
    let locks = server.client("shop").await.unwrap();
    locks.batch_execute("begin; lock table pg_authid in access exclusive mode").await.unwrap();
    let waiting = async {
        let blocked = "select count(*) from pg_locks where not granted and relation = 'pg_authid'::regclass";
        let blocks = async || that(locks.query_one(blocked, &[]).await?.get::<_, i64>(0), |count| *count > 0);
        eventually(PATIENCE, blocks).await;
        client.cancel_token().cancel_query(NoTls).await.unwrap();
    };
    let (refused, ()) = tokio::join!(client.simple_query("select 'not executed'"), waiting);
    let refused = refused.unwrap_err();
    let refused = refused.as_db_error().unwrap_or_else(|| panic!("{refused:?}"));
    assert_eq!((refused.severity(), refused.code().code()), ("ERROR", "57014"), "{refused:?}");
    locks.batch_execute("rollback").await.unwrap();
    let role: String = client.query_one("select current_user::text", &[]).await.unwrap().get(0);
    assert_eq!(role, "seldom");
    first.batch_execute("commit").await.unwrap();
    let [role, other] = ["select current_user::text"; 2];
    let seen = [first.query_one(role, &[]).await.unwrap(), second.query_one(other, &[]).await.unwrap()];
    assert!(seen.iter().all(|row| row.get::<_, String>(0) == "app"), "{seen:?}");
    assert!(shown(&Raw::log_in(proxy.port()).await.query("select 1").await).contains("SELECT 1"));
}
