//! `auto` mode: sessions keep what they have made, and connections are shared all the same.

use crate::raw::{Raw, bind, execute, parse, shown, sync};
use crate::stage::{PATIENCE, admin, one_connection, proxy, rows, server};

/// What a session makes, the answer that it finds then, and what takes it away.
const STATE: &[(&str, &str, &str, &str)] = &[
    ("create temp table mine (v int)", "select count(*) from mine", "0", "drop table mine"),
    (
        "select pg_advisory_lock(99)",
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
        "1",
        "select pg_advisory_unlock(99)",
    ),
    ("listen news", "select * from pg_listening_channels()", "news", "unlisten *"),
    ("begin; declare c scroll cursor with hold for select 7; commit", "fetch first from c", "7", "close c"),
    ("prepare p as select 8", "execute p", "8", "deallocate p"),
    (
        "do $$ begin create temp table hidden (v int); end $$",
        "select count(*) from hidden",
        "0",
        "drop table hidden",
    ),
    ("do $$ begin execute 'prepare q as select 9'; end $$", "execute q", "9", "discard all"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_session_finds_what_it_has_made_and_gives_the_connection_back_without_it() {
    let proxy = proxy(&[("pool.mode", "auto"), ("pool.size", "2")]).await;
    let mut other = Raw::log_in(proxy.port()).await;
    let mut client = Raw::log_in(proxy.port()).await;
    for (make, ask, answer, undo) in STATE {
        client.query(make).await;
        let pid = client.value("select pg_backend_pid()").await;
        for _ in 0..3 {
            assert_ne!(other.value("select pg_backend_pid()").await, pid, "{make}");
            assert_eq!(client.value(ask).await, *answer, "{make}");
        }
        client.query(undo).await;
        // A block may have advanced a sequence, for whose value its client is given time to ask.
        for _ in 0..17 {
            client.query("select 1").await;
        }
        // Both take the connection that was given back last.
        let free = client.value("select pg_backend_pid()").await;
        assert_eq!(other.value("select pg_backend_pid()").await, free, "{make}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_made_in_functions_go_with_their_session() {
    let proxy = one_connection("auto").await;
    let sql = "create or replace function set_tenant(t text) returns void language sql as
               $$ select set_config('my.tenant', t, false) $$";
    server().await.sql("shop", sql).await.unwrap();
    let (mut a, mut b) = (Raw::log_in(proxy.port()).await, Raw::log_in(proxy.port()).await);
    a.query("select set_tenant('a')").await;
    b.query("select set_tenant('b')").await;
    for round in 0..20 {
        assert_eq!(a.value("show my.tenant").await, format!("a{}", if round == 0 { "" } else { "x" }));
        assert_eq!(b.value("show my.tenant").await, "b");
        a.query("select set_tenant('ax')").await;
    }
    a.query("begin").await;
    a.query("select set_tenant('lost')").await;
    a.query("rollback").await;
    b.query("select 1").await;
    assert_eq!(a.value("show my.tenant").await, "ax");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_statement_asks_the_server_once_when_it_is_harmless() {
    let proxy = one_connection("auto").await;
    let sql = "create or replace function harmless(n int) returns int language sql as 'select n + 1'";
    server().await.sql("shop", sql).await.unwrap();
    let mut client = Raw::log_in(proxy.port()).await;
    client.send(&[parse("s", "select harmless($1)"), sync()].concat()).await;
    client.answers(1).await;
    for n in 0..100 {
        client.send(&[bind("s", &[&n.to_string()]), execute(), sync()].concat()).await;
        let said = shown(&client.answers(1).await);
        assert!(said.contains(&(n + 1).to_string()), "{said}");
    }
    let counted = proxy.get("/metrics").await.unwrap();
    let probes = counted.lines().find(|line| line.contains("links_probed") && !line.starts_with('#'));
    let probes: f64 = probes.expect("it is counted").rsplit(' ').next().unwrap().parse().unwrap();
    assert!((1.0..=12.0).contains(&probes), "{probes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_reaches_its_client_while_the_server_is_asked_what_is_left() {
    let proxy = one_connection("auto").await;
    let (locker, connection) =
        tokio_postgres::connect(&server().await.url("postgres", "shop"), tokio_postgres::NoTls)
            .await
            .unwrap();
    tokio::spawn(connection);
    let mut client = Raw::log_in(proxy.port()).await;
    let pid = rows(&admin(&proxy).await, "SHOW SERVERS").await[0].get("remote_pid").unwrap().to_owned();
    // The question reads this table: its answer waits, and the notification comes in front of its end.
    locker.batch_execute("begin; lock table pg_catalog.pg_language in access exclusive mode").await.unwrap();
    client.query("listen heard").await;
    let asked = format!(
        "select count(*) from pg_locks where pid = {pid} and not granted and relation = 'pg_language'::regclass"
    );
    cloud_mirror::lab::eventually(PATIENCE, async || {
        let waiting = locker.query_one(&asked, &[]).await?.get::<_, i64>(0);
        if waiting > 0 { Ok(()) } else { Err("nobody asks".into()) }
    })
    .await;
    server().await.sql("shop", "notify heard, 'in between'").await.unwrap();
    locker.batch_execute("rollback").await.unwrap();
    let (tag, body) = client.message().await;
    assert_eq!((tag, &body[4..]), (b'A', b"heard\0in between\0".as_slice()));
    assert_eq!(client.value("select 1").await, "1");
}
