//! Settings go with their client, and nobody else finds what a client leaves behind.

use crate::raw::{Raw, shown};
use crate::stage::{one_connection, proxy, server};

#[tokio::test(flavor = "multi_thread")]
async fn each_client_finds_its_own_settings() {
    for mode in ["transaction", "auto"] {
        its_own_settings(mode).await;
    }
}

async fn its_own_settings(mode: &str) {
    let proxy = one_connection(mode).await;
    let mut a = Raw::log_in_with(proxy.port(), &["application_name", "a"]).await;
    let mut b = Raw::log_in_with(proxy.port(), &["application_name", "b"]).await;
    a.query("set work_mem = '5MB'").await;
    a.query("set timezone = 'Asia/Tokyo'").await;
    a.query("set my.tenant = 'a''s' -- comment").await;
    b.query("set my.tenant = 'b'").await;
    b.query("select set_config('DateStyle', 'German', false)").await;
    for _ in 0..3 {
        let all = "select concat_ws(',', current_setting('work_mem'), current_setting('timezone'), \
                   current_setting('my.tenant'), current_setting('datestyle'), \
                   current_setting('application_name'))";
        assert_eq!(a.value(all).await, "5MB,Asia/Tokyo,a's,ISO, MDY,a");
        let there = b.value(all).await;
        assert!(there.starts_with("4MB,") && there.ends_with(",b,German, DMY,b"), "{there}");
    }
    a.query("reset my.tenant").await;
    assert_eq!(b.value("show my.tenant").await, "b");
    assert_eq!(a.value("select coalesce(current_setting('my.tenant', true), '')").await, "");
    assert_eq!(a.value("show work_mem").await, "5MB");
    a.query("reset all").await;
    assert_eq!(a.value("show work_mem").await, "4MB");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rolled_back_is_not_set() {
    let proxy = one_connection("transaction").await;
    let mut a = Raw::log_in(proxy.port()).await;
    let mut b = Raw::log_in(proxy.port()).await;
    a.query("begin").await;
    a.query("set my.x = 'lost'").await;
    a.query("set timezone = 'Asia/Tokyo'").await;
    a.query("rollback").await;
    a.query("begin").await;
    a.query("set local my.x = 'local'").await;
    a.query("commit").await;
    b.query("select 1").await;
    assert_eq!(a.value("select coalesce(current_setting('my.x', true), '')").await, "");
    assert_ne!(a.value("show timezone").await, "Asia/Tokyo");
    a.query("begin; set my.x = 'kept'; commit").await;
    b.query("select 1").await;
    assert_eq!(b.value("select coalesce(current_setting('my.x', true), '')").await, "");
}

/// What a client can leave behind: how, and a question whose answer is another one then.
const LEAVINGS: &[(&str, &str)] = &[
    ("set search_path = pg_catalog", "show search_path"),
    ("set role pg_monitor", "select current_user"),
    ("set work_mem = '7MB'", "show work_mem"),
    ("set application_name = 'thief'", "show application_name"),
    ("set my.tenant = 'secret'", "select coalesce(current_setting('my.tenant', true), '')"),
    ("set default_transaction_read_only = on", "show default_transaction_read_only"),
    ("set statement_timeout = '77s'", "show statement_timeout"),
    ("update pg_settings set setting = '7MB' where name = 'work_mem'", "show work_mem"),
    ("set timezone = 'Asia/Tokyo'", "show timezone"),
    ("set client_encoding = 'LATIN1'", "show client_encoding"),
    (
        "set session characteristics as transaction isolation level serializable",
        "show default_transaction_isolation",
    ),
    ("begin; set my.many = '1'; set work_mem = '9MB'; commit", "show work_mem"),
    (
        "select set_config('my.config', 'secret', false)",
        "select coalesce(current_setting('my.config', true), '')",
    ),
    (
        "do $$ begin perform set_config('my.hidden', 'secret', false); end $$",
        "select coalesce(current_setting('my.hidden', true), '')",
    ),
    ("select hide_in_function()", "select coalesce(current_setting('my.function', true), '')"),
    ("prepare p as select 1", "select count(*) from pg_prepared_statements where name = 'p'"),
    (
        "do $$ begin execute 'prepare q as select 1'; end $$",
        "select count(*) from pg_prepared_statements where name = 'q'",
    ),
    ("listen news", "select count(*) from pg_listening_channels()"),
    ("declare c cursor with hold for select 1", "select count(*) from pg_cursors"),
    (
        "create temp table mine (v int)",
        "select count(*) from pg_class where relname = 'mine' and pg_table_is_visible(oid)",
    ),
    (
        "select 1 as v into temp table chosen",
        "select count(*) from pg_class where relname = 'chosen' and pg_table_is_visible(oid)",
    ),
    (
        "begin; set local search_path = pg_temp; create table by_path (v int); commit",
        "select count(*) from pg_class where relname = 'by_path' and relnamespace = pg_my_temp_schema()",
    ),
    (
        "create table \"pg_temp\".quoted (v int)",
        "select count(*) from pg_class where relname = 'quoted' and pg_table_is_visible(oid)",
    ),
    (
        "create temp table kept (v int); create temp table dropped (v int) on commit drop",
        "select count(*) from pg_class where relname = 'kept' and pg_table_is_visible(oid)",
    ),
    (
        "do $$ begin create temp table in_do (v int); end $$",
        "select count(*) from pg_class where relname = 'in_do' and pg_table_is_visible(oid)",
    ),
    (
        "select pg_advisory_lock(4711)",
        "select count(*) from pg_locks where locktype = 'advisory' and objid = 4711 and pid = pg_backend_pid()",
    ),
    (
        "do $$ begin perform pg_advisory_lock(4712); end $$",
        "select count(*) from pg_locks where locktype = 'advisory' and objid = 4712 and pid = pg_backend_pid()",
    ),
    (
        "select nextval('numbers')",
        "select case when exists (select from pg_sequences where sequencename = 'numbers') then 'there' end",
    ),
];

async fn make_objects() {
    static MADE: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let make = async || {
        let server = server().await;
        server
            .sql(
                "shop",
                "create sequence numbers; grant all on numbers to app; grant pg_monitor to app;
                 create function hide_in_function() returns text language sql volatile as
                 $$ select set_config('my.function', 'secret', false) $$",
            )
            .await
            .unwrap();
    };
    MADE.get_or_init(make).await;
}

async fn nothing_is_left(mode: &str, leaves: bool) {
    make_objects().await;
    // In `auto` mode whoever ties the one connection keeps it: the other needs another one.
    let size = if mode == "auto" { "2" } else { "1" };
    let proxy = proxy(&[("pool.mode", mode), ("pool.size", size)]).await;
    for (leave, ask) in LEAVINGS {
        let mut fresh = Raw::log_in(proxy.port()).await;
        let clean = fresh.value(ask).await;
        let mut thief = Raw::log_in(proxy.port()).await;
        let said = thief.query(leave).await;
        assert!(!said.iter().any(|(tag, _)| *tag == b'E'), "{leave}: {}", shown(&said));
        if leaves {
            drop(thief);
            assert_eq!(fresh.value(ask).await, clean, "{leave}");
            let mut next = Raw::log_in(proxy.port()).await;
            assert_eq!(next.value(ask).await, clean, "{leave}");
        } else {
            assert_eq!(fresh.value(ask).await, clean, "{leave}");
            thief.query("select 1").await;
            assert_eq!(fresh.value(ask).await, clean, "{leave}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_finds_what_a_client_leaves_that_stays() {
    nothing_is_left("transaction", false).await;
    nothing_is_left("auto", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_finds_what_a_client_leaves_that_goes() {
    nothing_is_left("transaction", true).await;
    nothing_is_left("auto", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_once_what_will_not_last() {
    let proxy = one_connection("transaction").await;
    let mut client = Raw::log_in(proxy.port()).await;
    let warns = |said: &[crate::raw::Message]| said.iter().filter(|(tag, _)| *tag == b'N').count();
    for (statement, word) in [
        ("create temp table mine (v int)", "a temporary table"),
        ("listen news", "LISTEN"),
        ("prepare p as select 1", "PREPARE"),
        ("declare c cursor with hold for select 1", "WITH HOLD"),
        ("select pg_advisory_lock(1)", "advisory lock"),
    ] {
        let said = client.query(statement).await;
        assert_eq!(warns(&said), 1, "{}", shown(&said));
        assert!(shown(&said).contains(word), "{}", shown(&said));
        // Before ReadyForQuery, where drivers look for it.
        assert_eq!(said.last().unwrap().0, b'Z');
        assert_eq!(warns(&client.query(statement).await), 0, "{statement}");
    }
    for harmless in ["begin; create temp table gone (v int) on commit drop; commit", "select 1"] {
        assert_eq!(warns(&client.query(harmless).await), 0, "{harmless}");
    }
}

/// Through one connection, another client's value would be the answer.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_value_of_a_sequence_is_nobody_elses() {
    make_objects().await;
    for mode in ["transaction", "auto"] {
        let proxy = one_connection(mode).await;
        let (mut a, mut b) = (Raw::log_in(proxy.port()).await, Raw::log_in(proxy.port()).await);
        for _ in 0..2 {
            a.query("select nextval('numbers')").await;
            let said = shown(&b.query("select lastval()").await);
            assert!(said.contains("55000"), "{mode}: {said}");
            b.query("discard all").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_made_among_other_statements_go_with_their_client() {
    for mode in ["transaction", "auto"] {
        let proxy = one_connection(mode).await;
        let mut a = Raw::log_in(proxy.port()).await;
        let mut b = Raw::log_in(proxy.port()).await;
        let shown = "select concat_ws(',', current_setting('work_mem'), current_setting('my.x', true))";
        a.query("begin; set work_mem = '5MB'; set my.x = 'a;b'; set local my.x = 'local'; commit").await;
        a.query("set work_mem = '6MB'; select 1 / 0").await;
        assert_eq!(b.value(shown).await.trim_end_matches(','), "4MB", "{mode}");
        assert_eq!(a.value(shown).await, "5MB,a;b", "{mode}");
        // As the pool of asyncpg does it between two of its users.
        a.query("select pg_advisory_unlock_all();\nclose all;\nunlisten *;\nreset all;").await;
        assert_eq!(b.value(shown).await.trim_end_matches(','), "4MB", "{mode}");
        assert_eq!(a.value(shown).await.trim_end_matches(','), "4MB", "{mode}");
    }
}

/// As JDBC makes them, one by one.
#[tokio::test(flavor = "multi_thread")]
async fn session_characteristics_are_settings_of_their_own() {
    let shown = "select concat_ws(',', current_setting('default_transaction_isolation'), \
                 current_setting('default_transaction_read_only'), current_setting('default_transaction_deferrable'))";
    for mode in ["transaction", "auto"] {
        let proxy = one_connection(mode).await;
        let mut a = Raw::log_in(proxy.port()).await;
        let mut b = Raw::log_in(proxy.port()).await;
        for (made, expected) in [
            (
                "set session characteristics as transaction isolation level serializable",
                "serializable,off,off",
            ),
            ("set session characteristics as transaction read only", "serializable,on,off"),
            ("set session characteristics as transaction read write, deferrable", "serializable,off,on"),
            ("reset default_transaction_isolation", "read committed,off,on"),
            ("set default_transaction_deferrable = off", "read committed,off,off"),
        ] {
            a.query(made).await;
            assert_eq!(b.value(shown).await, "read committed,off,off", "{mode}");
            assert_eq!(a.value(shown).await, expected, "{mode}, {made}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_draws_the_numbers_that_another_has_chosen() {
    let mut direct = Raw::log_in(server().await.port()).await;
    direct.query("set seed = 0.5").await;
    let chosen = direct.value("select random()").await;
    for (mode, size) in [("transaction", "1"), ("auto", "2")] {
        let proxy = proxy(&[("pool.mode", mode), ("pool.size", size)]).await;
        for way in [
            "select setseed(0.5)",
            "set seed = 0.5",
            "do $$ begin perform setseed(0.5); end $$",
            "set seed to 0.5",
        ] {
            let mut chooser = Raw::log_in(proxy.port()).await;
            chooser.query(way).await;
            if mode == "auto" && !way.starts_with("do") {
                assert_eq!(chooser.value("select random()").await, chosen, "{way}");
                chooser.query("set seed = 0.5").await;
            }
            drop(chooser);
            let mut next = Raw::log_in(proxy.port()).await;
            assert_ne!(next.value("select random()").await, chosen, "{mode}, {way}");
        }
    }
}
