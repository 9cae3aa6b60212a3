//! What bodies of functions say is read when they have changed, whoever has changed them, and not otherwise.

use crate::raw::{Raw, shown};
use crate::stage::{PATIENCE, one_connection, proxy, proxy_at, server};
use cloud_mirror::lab::{eventually, that};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

/// Words of each question of ours, and of those that read bodies.
const WORDS: [&[u8]; 2] = [b"pg_my_temp_schema", br"set_config\s*"];

/// How often they came by.
type Counts = Arc<[AtomicUsize; 2]>;

async fn carry(proxy: TcpStream, port: u16, counts: Counts) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", port)).await?;
    let ((mut asks, mut hears), (mut answers, mut takes)) = (proxy.into_split(), server.into_split());
    tokio::spawn(async move { copy(&mut answers, &mut hears).await });
    let (mut all, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let read = asks.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        // It may be cut anywhere.
        let times = |all: &[u8], words: &[u8]| all.windows(words.len()).filter(|it| *it == words).count();
        let before = WORDS.map(|words| times(&all, words));
        all.extend_from_slice(&buffer[..read]);
        for ((count, words), before) in counts.iter().zip(WORDS).zip(before) {
            count.fetch_add(times(&all, words) - before, Ordering::SeqCst);
        }
        takes.write_all(&buffer[..read]).await?;
    }
}

/// A port that leads to the server, and what has come by there.
async fn counted() -> (u16, Counts) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (port, counts) = (listener.local_addr().unwrap().port(), Counts::default());
    let (to, all) = (server().await.port(), counts.clone());
    tokio::spawn(async move {
        while let Ok((proxy, _)) = listener.accept().await {
            tokio::spawn(carry(proxy, to, all.clone()));
        }
    });
    (port, counts)
}

async fn database(name: &str, sql: &str) {
    let server = server().await;
    server.create_database(name).await.unwrap();
    server.sql(name, &format!("grant all on schema public to public; {sql}")).await.unwrap();
}

async fn client(port: u16, database: &str) -> Raw {
    Raw::log_in_with(port, &["database", database]).await
}

const ONE: &str = "create function one() returns int language plpgsql as 'begin return 1; end'";

#[tokio::test(flavor = "multi_thread")]
async fn the_bodies_of_functions_are_read_once_for_many_statements() {
    let server = server().await;
    database("bodies", ONE).await;
    let (port, counts) = counted().await;
    let url = server.url("postgres", "shop").replace(&format!(":{}/", server.port()), &format!(":{port}/"));
    let proxy = proxy_at(&url, &[("pool.mode", "auto"), ("pool.size", "1")]).await;
    let mut client = client(proxy.port(), "bodies").await;
    let count = || counts.each_ref().map(|count| count.load(Ordering::SeqCst));
    for n in 0..20 {
        assert_eq!(client.value(&format!("select one() as c_{n}")).await, "1");
        // The catalogue has changed, and not what was read of it.
        client.query(&format!("create temp table t_{n} (n int); drop table t_{n}")).await;
    }
    let [questions, bodies] = count();
    // Those of the catalogue are others, twice.
    assert!(questions >= 20 && bodies <= 3, "{questions} questions, {bodies} times bodies");
    // Somebody else changes one.
    server.sql("bodies", &ONE.replace("create", "create or replace")).await.unwrap();
    assert_eq!(client.value("select one() as d").await, "1");
    client.query("select one() as e").await;
    let [_, more] = count();
    assert!((1..=2).contains(&(more - bodies)), "{bodies} and {more} times bodies");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_others_replace_is_known_by_its_new_body() {
    let server = server().await;
    let sets = |name: &str| {
        format!(
            "create or replace function puts(t text) returns text language plpgsql as \
             $$ begin return set_config('{name}', t, false); end $$"
        )
    };
    database("replaced", &sets("my.first")).await;
    let proxy = one_connection("auto").await;
    let (mut a, mut b) = (client(proxy.port(), "replaced").await, client(proxy.port(), "replaced").await);
    for (round, name) in ["my.first", "my.second", "your.third", "my.first"].into_iter().enumerate() {
        server.sql("replaced", &sets(name)).await.unwrap();
        // Not the same statement: one that was harmless a moment ago is asked about later.
        a.query(&format!("select puts('a') as \"{name}\"")).await;
        b.query(&format!("select puts('b') as \"{name}\"")).await;
        for _ in 0..2 {
            assert_eq!(a.value(&format!("show {name}")).await, "a", "{name} in {round}");
            assert_eq!(b.value(&format!("show {name}")).await, "b", "{name} in {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_comes_to_keep_something_ties_from_then_on() {
    let server = server().await;
    let calls = |body: &str| {
        format!(
            "create or replace function reaches() returns text language plpgsql as $$ begin {body} end $$"
        )
    };
    database("reaching", &calls("return 'nothing';")).await;
    let proxy = proxy(&[("pool.mode", "auto"), ("pool.size", "2")]).await;
    let mut a = client(proxy.port(), "reaching").await;
    assert_eq!(a.value("select reaches() as first").await, "nothing");
    let there = format!("host=127.0.0.1 port={} dbname=shop user=app", server.port());
    let sql = format!(
        "create extension dblink; grant execute on all functions in schema public to app;
         create function reaches_it() returns text language sql as
         $$ select dblink_connect_u('hidden', '{there}') $$;
         create function goes_on() returns text language sql begin atomic select reaches_it(); end"
    );
    server.sql("reaching", &sql).await.unwrap();
    server.sql("reaching", &calls("return goes_on ();")).await.unwrap();
    assert_eq!(a.value("select reaches() as second").await, "OK");
    let pid = a.value("select pg_backend_pid()").await;
    let mut b = client(proxy.port(), "reaching").await;
    for _ in 0..20 {
        assert_ne!(b.value("select pg_backend_pid()").await, pid);
        let said = shown(&a.query("select array_to_string(dblink_get_connections(), ',')").await);
        assert!(said.contains("hidden"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_timeout_does_not_end_what_we_ask() {
    let server = server().await;
    database("patient", ONE).await;
    let proxy = one_connection("auto").await;
    let mut client = client(proxy.port(), "patient").await;
    let pid = client.value("select pg_backend_pid()").await;
    client.query("set statement_timeout = '50ms'").await;
    let locker = server.client("patient").await.unwrap();
    locker.batch_execute(&ONE.replace("create", "create or replace")).await.unwrap();
    // Bodies are read with this table: the answer waits.
    locker.batch_execute("begin; lock table pg_catalog.pg_language in access exclusive mode").await.unwrap();
    client.query("select one() as later").await;
    let waits = format!(
        "select count(*) from pg_stat_activity where pid = {pid} and wait_event_type = 'Lock'
         and clock_timestamp() - query_start > '1 s'"
    );
    let waits = async || that(locker.query_one(&waits, &[]).await?.get::<_, i64>(0), |count| *count == 1);
    eventually(PATIENCE, waits).await;
    locker.batch_execute("rollback").await.unwrap();
    let mut other = self::client(proxy.port(), "patient").await;
    assert_eq!(other.value("select pg_backend_pid()").await, pid);
    assert_eq!(client.value("show statement_timeout").await, "50ms");
}

/// A statement that does nothing in one database may do something in another one.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_harmless_in_one_database_is_not_so_in_another() {
    let does = |body: &str| {
        format!("create function does() returns void language plpgsql as $$ begin {body} end $$")
    };
    database("harmless", &does("null;")).await;
    database("harmful", &does("perform set_config('my.tenant', 'mine', false);")).await;
    let proxy = one_connection("auto").await;
    let mut harmless = client(proxy.port(), "harmless").await;
    for _ in 0..6 {
        harmless.query("select does()").await;
    }
    let mut harmful = client(proxy.port(), "harmful").await;
    let mut other = client(proxy.port(), "harmful").await;
    // The catalogue is not asked about now.
    other.query("select 1").await;
    harmful.query("select does()").await;
    other.query("select 1").await;
    assert_eq!(harmful.value("show my.tenant").await, "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_finds_what_a_function_keeps_and_its_client_is_told() {
    let there = format!("host=127.0.0.1 port={} dbname=shop user=app", server().await.port());
    let sql = "create extension dblink; grant execute on all functions in schema public to app;
               create function calls_it(t text) returns text language plpgsql as
               $$ begin return dblink_connect_u('hidden', t); end $$";
    database("keeping", sql).await;
    for mode in ["transaction", "statement"] {
        let proxy = one_connection(mode).await;
        let mut other = client(proxy.port(), "keeping").await;
        // What there is, is known.
        other.query("select 1").await;
        for function in ["dblink_connect_u('hidden', ", "calls_it("] {
            let mut keeper = client(proxy.port(), "keeping").await;
            for warnings in [1, 0] {
                let said = keeper.query(&format!("select {function}'{there}')")).await;
                assert!(shown(&said).contains("OK"), "{mode}: {}", shown(&said));
                assert_eq!(said.iter().filter(|(tag, _)| *tag == b'N').count(), warnings, "{mode}");
                let found = other.value("select coalesce(dblink_get_connections()::text, '')").await;
                assert_eq!(found, "", "{mode}");
            }
        }
    }
}
