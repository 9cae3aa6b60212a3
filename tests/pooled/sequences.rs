//! The last values of sequences belong to their session, though no statement says who will ask.

use crate::raw::{Raw, bind, execute, parse, shown, sync};
use crate::stage::{one_connection, proxy, server};
use cloud_mirror::lab::Proxy;

/// A table with a sequence, one without, and a proxy with so many connections. A user of its own, because
/// what its clients ask for is remembered.
async fn tables(name: &str) {
    let sql = format!(
        "create sequence {name}_s; create table {name}_numbered (n serial, i int generated always as identity);
         create table {name}_plain (n int);
         grant all on all sequences in schema public to app; grant all on {name}_numbered, {name}_plain to app"
    );
    server().await.sql("shop", &sql).await.unwrap();
}

/// Enough statements that advance sequences without a question for a proxy to expect none.
async fn be_silent(client: &mut Raw, name: &str) {
    for _ in 0..260 {
        client.query(&format!("insert into {name}_numbered default values")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_finds_its_last_value_when_it_asks_for_the_first_time() {
    tables("first").await;
    for question in ["select currval('first_s')", "select lastval()"] {
        for protocol in ["simple", "extended"] {
            let proxy = proxy(&[("pool.mode", "auto"), ("pool.size", "2")]).await;
            let (mut a, mut b) = (Raw::log_in(proxy.port()).await, Raw::log_in(proxy.port()).await);
            b.query("select nextval('first_s')").await;
            b.query("discard all").await;
            let mine = a.value("select nextval('first_s')").await;
            for _ in 0..3 {
                b.query("select nextval('first_s')").await;
                b.query("discard all").await;
            }
            let asked = match protocol {
                "simple" => a.value(question).await,
                _ => {
                    a.send(&[parse("", question), bind("", &[]), execute(), sync()].concat()).await;
                    shown(&a.answers(1).await)
                }
            };
            assert!(asked.contains(&mine), "{question}, {protocol}: {asked} and not {mine}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_or_an_identity_is_asked_for_like_a_call() {
    tables("hidden").await;
    let proxy = proxy(&[("pool.mode", "auto"), ("pool.size", "2")]).await;
    let (mut a, mut b) = (Raw::log_in(proxy.port()).await, Raw::log_in(proxy.port()).await);
    for _ in 0..3 {
        let row = a.value("insert into hidden_numbered default values returning n || ',' || i").await;
        b.query("insert into hidden_numbered default values").await;
        let asked = "select currval('hidden_numbered_n_seq') || ',' || currval('hidden_numbered_i_seq')";
        assert_eq!(a.value(asked).await, row);
        // The one who asks keeps its connection.
        let pid = a.value("select pg_backend_pid()").await;
        assert_ne!(b.value("select pg_backend_pid()").await, pid);
        a.query("discard all").await;
    }
}

/// What has been learned is the proxy's: a user's and a database's.
async fn pid_of(client: &mut Raw) -> String {
    client.value("select pg_backend_pid()").await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_asks_shares_connections_soon() {
    tables("silent").await;
    let proxy = proxy(&[("pool.mode", "auto"), ("pool.size", "2")]).await;
    let (mut a, mut b) = (Raw::log_in(proxy.port()).await, Raw::log_in(proxy.port()).await);
    a.query("insert into silent_numbered default values").await;
    assert_ne!(pid_of(&mut b).await, pid_of(&mut a).await, "it is not known yet whether it asks");
    be_silent(&mut a, "silent").await;
    a.query("insert into silent_numbered default values").await;
    let pid = pid_of(&mut a).await;
    assert_eq!(pid_of(&mut b).await, pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_go_on_loses_its_value_to_those_who_wait_and_is_told() {
    tables("waited").await;
    let proxy = one_connection("auto").await;
    let (mut a, mut b) = (Raw::log_in(proxy.port()).await, Raw::log_in(proxy.port()).await);
    a.query("select nextval('waited_s')").await;
    // Else it would wait for longer than it has patience.
    b.query("select nextval('waited_s')").await;
    let said = shown(&a.query("select lastval()").await);
    assert!(said.contains("55000"), "{said}");
}

/// The question comes where nothing can be done any more but to refuse it.
async fn asks_late(proxy: &Proxy, name: &str, protocol: &str) -> String {
    let (mut a, mut b) = (Raw::log_in(proxy.port()).await, Raw::log_in(proxy.port()).await);
    be_silent(&mut a, name).await;
    b.query(&format!("begin; insert into {name}_plain values (1)")).await;
    let said = match protocol {
        "simple" => shown(&b.query("select lastval()").await),
        _ => {
            b.send(&[parse("s", "select lastval()"), bind("s", &[]), execute(), sync()].concat()).await;
            shown(&b.answers(1).await)
        }
    };
    b.query("rollback").await;
    // Once it is known that clients ask, they always find their own.
    b.query("begin").await;
    let mine = b.value(&format!("select nextval('{name}_s')")).await;
    b.query(&format!("insert into {name}_plain values (1)")).await;
    assert_eq!(b.value("select lastval()").await, mine);
    b.query("commit").await;
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clients_value_is_never_the_answer() {
    tables("never").await;
    for protocol in ["simple", "extended"] {
        let proxy = one_connection("auto").await;
        let said = asks_late(&proxy, "never", protocol).await;
        assert!(said.contains("55000"), "{protocol}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_keeps_something_in_its_back_end_keeps_the_connection() {
    let server = server().await;
    let there = format!("host=127.0.0.1 port={} dbname=shop user=app", server.port());
    let sql = format!(
        "create extension dblink; grant execute on all functions in schema public to app;
         create function calls_it() returns text language plpgsql as
         $$ begin return dblink_connect_u('hidden', '{there}'); end $$"
    );
    server.sql("shop", &sql).await.unwrap();
    let proxy = proxy(&[("pool.mode", "auto"), ("pool.size", "2")]).await;
    let mut b = Raw::log_in(proxy.port()).await;
    for connect in [format!("select dblink_connect_u('hidden', '{there}')"), "select calls_it()".to_owned()] {
        let mut a = Raw::log_in(proxy.port()).await;
        a.query(&connect).await;
        let pid = pid_of(&mut a).await;
        for _ in 0..20 {
            assert_eq!(a.value("select array_to_string(dblink_get_connections(), ',')").await, "hidden");
            assert_ne!(pid_of(&mut b).await, pid);
        }
        drop(a);
        let mut next = Raw::log_in(proxy.port()).await;
        assert_eq!(next.value("select coalesce(dblink_get_connections()::text, '')").await, "");
        b.query("discard all").await;
    }
}
