//! Limits of connections to the server: who waits for what, and what the reserve is for.

use crate::stage::{
    PATIENCE, Raw, TRUST, client, client_of, field, new_server, proxy, server, shown, start_up_with, words,
};
use cloud_mirror::lab::{Cluster, StopMode, eventually, that};
use std::time::{Duration, Instant};

const HINT: &str = "Try again later, keep transactions shorter, or raise the limit.";

/// Back ends of clients.
async fn back_ends(server: &Cluster, condition: &str) -> String {
    let sql =
        format!("select count(*) from pg_stat_activity where usename in ('app', 'other') and {condition}");
    // A connection of its own: one that the test before has left may end with that test's runtime.
    let url = server.url("postgres", "postgres");
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let count: i64 = client.query_one(&sql, &[]).await.unwrap().get(0);
    connection.abort();
    count.to_string()
}

/// Ends the back ends of another test's proxy: one in the middle of a statement does not notice that its
/// client is gone.
async fn gone(server: &Cluster) {
    eventually(PATIENCE, async || {
        // In this order: the planner may look at its conditions in any.
        let theirs = "case when usename in ('app', 'other') then pg_terminate_backend(pid) end";
        let ended = back_ends(server, theirs).await;
        that(ended, |count| count == "0")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_limit_of_connections_is_named_to_who_waits_in_vain() {
    let server = server().await;
    let keys = [
        ("pool.query_wait_timeout", "1s"),
        ("pool.size", "2"),
        ("pool.database.shop.max_db_connections", "3"),
        ("pool.user.other.max_user_connections", "1"),
    ];
    let proxy = proxy(&server, &keys).await;
    let refusal = async |user: &str, database: &str| {
        words(&client_of(&proxy, user, database).await.expect_err("there is no room"))
    };
    let message = "no connection to the server was free within 1 s";
    let first = client(&proxy).await;
    let _second = client(&proxy).await;
    assert_eq!(refusal("app", "shop").await, ["53300", message, "pool.size is 2.", HINT]);
    let other = client_of(&proxy, "other", "shop").await.unwrap();
    assert_eq!(refusal("other", "stock").await, ["53300", message, "max_user_connections is 1.", HINT]);
    drop(other);
    // Another user's idle connection makes room where the database is full.
    let _fourth = eventually(PATIENCE, async || Ok(client_of(&proxy, "other", "shop").await?)).await;
    drop(first);
    let enters = async || client_of(&proxy, "app", "shop").await;
    eventually(PATIENCE, async || Ok(enters().await?.simple_query("select 1").await?)).await;
    eventually(PATIENCE, async || {
        let count = back_ends(&server, "datname = 'shop'").await.parse::<u32>().unwrap();
        that(count, |count| *count <= 3)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reserve_is_opened_for_who_has_waited_and_closed_first_come_first_served() {
    let server = server().await;
    let keys = [TRUST, ("pool.size", "1"), ("pool.reserve_size", "1"), ("pool.reserve_timeout", "500ms")];
    gone(&server).await;
    let proxy = proxy(&server, &keys).await;
    let first = Raw::log_in(&proxy, "app", "shop").await;
    let began = Instant::now();
    let second = Raw::log_in(&proxy, "app", "shop").await;
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    // There is one in reserve: the next ones wait, and are served in their order.
    let mut waiting = Vec::new();
    for name in ["third", "fourth", "fifth"] {
        let mut client = Raw::connect(&proxy).await;
        client.start_up("app", "shop").await;
        eventually(PATIENCE, async || {
            let waiting = format!("state=\"waiting\"}} {}.0", waiting.len() + 1);
            that(proxy.get("/metrics").await?, |text| text.contains(&waiting))
        })
        .await;
        waiting.push((name, client));
    }
    drop((first, second));
    let mut order = Vec::new();
    for (name, client) in &mut waiting {
        client.until(b'Z').await;
        order.push(*name);
        assert!(back_ends(&server, "true").await.parse::<u32>().unwrap() <= 2);
        client.send(b"X\0\0\0\x04").await;
    }
    assert_eq!(order, ["third", "fourth", "fifth"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_open_and_closed_when_they_are_old_or_unused() {
    let server = server().await;
    let keys = [
        TRUST,
        ("pool.min_size", "3"),
        ("pool.server_idle_timeout", "1s"),
        ("pool.database.stock.min_size", "0"),
        ("pool.database.stock.server_lifetime", "1s"),
        ("pool.server_check_delay", "0s"),
    ];
    gone(&server).await;
    let proxy = proxy(&server, &keys).await;
    drop(Raw::log_in(&proxy, "app", "shop").await);
    let open = async |database: &str, expected: &str| {
        eventually(PATIENCE, async || {
            that(back_ends(&server, &format!("datname = '{database}'")).await, |count| count == expected)
        })
        .await;
    };
    open("shop", "3").await;
    drop(Raw::log_in(&proxy, "app", "stock").await);
    open("stock", "0").await;
    // Those that are kept are not closed, however long nobody uses them, and a new one replaces each
    // that is lost. What was checked works.
    open("shop", "3").await;
    let killed = "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'app'";
    server.value("postgres", killed).await.unwrap();
    let mut client = Raw::log_in(&proxy, "app", "shop").await;
    client.query("select 1").await;
    let seen = client.until(b'Z').await;
    assert!(seen.iter().all(|(tag, _)| *tag != b'E'), "{:?}", shown(&seen));
    drop(client);
    open("shop", "3").await;
    let metrics = proxy.get("/metrics").await.unwrap();
    let kept = "cloud_mirror_pool_servers{database=\"shop\",user=\"app\",state=\"idle\"} 3.0";
    eventually(PATIENCE, async || that(proxy.get("/metrics").await?, |text| text.contains(kept))).await;
    assert!(metrics.contains("cloud_mirror_pool_servers"), "{metrics}");
}

/// Whose connection lay ready counts as much as who has opened one.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_open_from_when_that_is_wanted() {
    let server = server().await;
    gone(&server).await;
    let proxy = proxy(&server, &[TRUST]).await;
    let idle = "cloud_mirror_pool_servers{database=\"shop\",user=\"app\",state=\"idle\"}";
    let kept = async |count: u32| {
        let line = format!("{idle} {count}.0");
        eventually(PATIENCE, async || that(proxy.get("/metrics").await?, |text| text.contains(&line))).await;
    };
    drop(Raw::log_in(&proxy, "app", "shop").await);
    kept(1).await;
    let admin = client_of(&proxy, "postgres", "pgbouncer").await.unwrap();
    admin.simple_query("set min_pool_size = 3").await.unwrap();
    drop(Raw::log_in(&proxy, "app", "shop").await);
    kept(3).await;
}

/// Replication is for one client: what is kept open is for the others.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_open_is_not_opened_for_replication() {
    let server = server().await;
    gone(&server).await;
    server.sql("postgres", "alter role app replication").await.unwrap();
    let proxy = proxy(&server, &[TRUST, ("pool.min_size", "2")]).await;
    let kept = async |expected: &str, since: &str| {
        let ordinary = format!("backend_type = 'client backend' and backend_start > '{since}'");
        eventually(PATIENCE, async || that(back_ends(&server, &ordinary).await, |count| count == expected))
            .await;
    };
    drop(Raw::log_in(&proxy, "app", "shop").await);
    kept("2", "-infinity").await;
    let mut replica = Raw::connect(&proxy).await;
    let parameters = [("user", "app"), ("database", "shop"), ("replication", "database")];
    replica.send(&start_up_with(&parameters)).await;
    replica.until(b'Z').await;
    let killed = "select clock_timestamp()::text from (select count(pg_terminate_backend(pid))
         from pg_stat_activity where usename = 'app' and backend_type = 'client backend') killed";
    let since = server.value("postgres", killed).await.unwrap();
    // The one that replicates counts.
    kept("1", &since).await;
    server.sql("postgres", "alter role app noreplication").await.unwrap();
}

/// Nobody has to come first after the server was away.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_open_over_a_restart() {
    let server = new_server().await;
    let proxy = proxy(&server, &[TRUST, ("pool.min_size", "2")]).await;
    let kept = async || {
        eventually(PATIENCE, async || that(back_ends(&server, "true").await, |count| count == "2")).await;
    };
    drop(Raw::log_in(&proxy, "app", "shop").await);
    kept().await;
    server.restart(StopMode::Fast).await.unwrap();
    kept().await;
}

/// A connection that lay ready has what was set when it was opened.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_for_a_role_by_who_leaves_at_once_counts_for_who_comes_next() {
    let server = server().await;
    let proxy = proxy(&server, &[TRUST]).await;
    let mut setting = Raw::log_in(&proxy, "app", "shop").await;
    let mut first = Raw::log_in(&proxy, "app", "shop").await;
    first.send(b"X\0\0\0\x04").await;
    first.rest().await;
    let idle = "cloud_mirror_pool_servers{database=\"shop\",user=\"app\",state=\"idle\"} 1.0";
    eventually(PATIENCE, async || that(proxy.get("/metrics").await?, |text| text.contains(idle))).await;
    let text = b"alter role app set work_mem = '7MB'\0";
    let query = [b"Q", &(text.len() as u32 + 4).to_be_bytes()[..], text].concat();
    setting.send(&[&query[..], b"X\0\0\0\x04"].concat()).await;
    setting.rest().await;
    let mut next = Raw::log_in(&proxy, "app", "shop").await;
    next.query("show work_mem").await;
    let seen = next.until(b'Z').await;
    server.sql("postgres", "alter role app reset work_mem").await.unwrap();
    assert!(seen.iter().any(|(tag, row)| *tag == b'D' && row.ends_with(b"7MB")), "{:?}", shown(&seen));
}

/// What nobody waits for takes nobody's connection away.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_kept_open_do_not_drive_out_each_other() {
    let server = server().await;
    gone(&server).await;
    let keys = [TRUST, ("pool.min_size", "1"), ("pool.database.shop.max_db_connections", "1")];
    let proxy = proxy(&server, &keys).await;
    let back_end = async |user: &str, database: &str, other_than: &str| {
        let sql = format!(
            "select coalesce(min(pid), 0) from pg_stat_activity
             where datname = '{database}' and usename = '{user}'"
        );
        let fact = async || {
            let pid = server.value("postgres", &sql).await.unwrap();
            that(pid, |pid| pid != "0" && pid != other_than)
        };
        eventually(PATIENCE, fact).await
    };
    for (user, database) in [("app", "stock"), ("app", "shop"), ("other", "shop")] {
        drop(Raw::log_in(&proxy, user, database).await);
    }
    let (shop, mut stock) = (back_end("other", "shop", "").await, back_end("app", "stock", "").await);
    // Each time it is replaced, all pools were looked at.
    for _ in 0..3 {
        server.value("postgres", &format!("select pg_terminate_backend({stock})")).await.unwrap();
        stock = back_end("app", "stock", &stock).await;
    }
    assert_eq!(back_end("other", "shop", "").await, shop);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_loses_its_server_is_refused_and_goes_on() {
    let server = server().await;
    let keys = [TRUST, ("pool.size", "1"), ("pool.query_wait_timeout", "1s"), ("pool.mode", "transaction")];
    let proxy = proxy(&server, &keys).await;
    let mut holds = Raw::log_in(&proxy, "app", "shop").await;
    let mut waits = Raw::log_in(&proxy, "app", "shop").await;
    holds.query("begin").await;
    holds.until(b'Z').await;
    waits.query("select 'not executed'").await;
    let seen = waits.message().await.expect("an answer");
    assert_eq!(seen.0, b'E', "{:?}", shown(std::slice::from_ref(&seen)));
    assert_eq!(field(&seen.1, b'C'), "53300");
    assert_eq!(field(&seen.1, b'D'), "pool.size is 1. The statement was not executed.");
    holds.query("commit").await;
    holds.until(b'Z').await;
}
