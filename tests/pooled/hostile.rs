//! State that no text names: triggers, defaults, views, rules and procedures leave it behind. Nobody else finds
//! it, and in `auto` mode its own session does.

use crate::raw::{Raw, bind, execute, parse, shown, sync};
use crate::stage::{new_server, proxy, proxy_before, server};

const OBJECTS: &str = "
    create table h_set (n int); create table h_lock (n int); create table h_temp (n int);
    create table h_late (n int); create table h_role (n int); create table h_rule (n int);
    create function h_sets() returns trigger language plpgsql as
        $$ begin perform set_config('my.trigger', 'secret', false); return new; end $$;
    create trigger h before insert on h_set for each row execute function h_sets();
    create function h_locks() returns trigger language plpgsql as
        $$ begin perform pg_advisory_lock(5101); return null; end $$;
    create trigger h after update or insert on h_lock for each statement execute function h_locks();
    create function h_makes() returns trigger language plpgsql as
        $$ begin execute 'create temp table if not exists h_hidden (v int)'; return null; end $$;
    create trigger h after insert on h_temp for each statement execute function h_makes();
    create function h_sets_late() returns trigger language plpgsql as
        $$ begin perform set_config('my.late', 'secret', false); return null; end $$;
    create constraint trigger h after insert on h_late deferrable initially deferred
        for each row execute function h_sets_late();
    create function h_sets_role() returns trigger language plpgsql as
        $$ begin set role pg_monitor; return new; end $$;
    create trigger h before insert on h_role for each row execute function h_sets_role();
    create function h_inner() returns int language plpgsql as
        $$ begin perform set_config('work_mem', '9MB', false); return 1; end $$;
    create function h_outer() returns int language plpgsql as $$ begin return h_inner(); end $$;
    create table h_default (n int default h_outer());
    create function h_path() returns text language sql as
        $$ select set_config('search_path', 'pg_catalog, public', false) $$;
    create view h_view as select h_path() as path;
    create function h_listens() returns int language plpgsql as
        $$ begin execute 'listen h_news'; return 1; end $$;
    create rule h as on insert to h_rule do also select h_listens();
    create procedure h_commits() language plpgsql as
        $$ begin perform set_config('my.procedure', 'secret', false); commit;
           perform set_config('my.lost', 'secret', false); rollback; end $$;
    create function h_prepares() returns int language plpgsql as
        $$ begin execute 'prepare h_p as select 1'; return 1; end $$;
    create function h_holds() returns int language plpgsql as
        $$ begin execute 'declare h_c cursor with hold for select 1'; return 1; end $$;
    grant all on all tables in schema public to app; grant pg_monitor to app;
";

const SETTING: &str = "select coalesce(nullif(current_setting('my.trigger', true), ''), 'none')";
const LATE: &str = "select coalesce(nullif(current_setting('my.late', true), ''), 'none')";
const PROCEDURE: &str = "select coalesce(nullif(current_setting('my.procedure', true), ''), 'none')";
const LOST: &str = "select coalesce(nullif(current_setting('my.lost', true), ''), 'none')";
const LOCKED: &str = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()";
const CHANNELS: &str = "select count(*) from pg_listening_channels()";
const TEMP: &str = "select count(*) from pg_class where relname = 'h_hidden' and pg_table_is_visible(oid)";
const PREPARED: &str = "select count(*) from pg_prepared_statements where from_sql";
const CURSORS: &str = "select count(*) from pg_cursors where is_holdable";

/// What is done, a question, its answer for everybody else, and for the session itself.
const TRICKS: &[(&str, &str, &str, &str)] = &[
    ("insert into h_set values (1)", SETTING, "none", "secret"),
    ("insert into h_lock values (1)", LOCKED, "0", "1"),
    ("insert into h_temp values (1)", TEMP, "0", "1"),
    ("begin; insert into h_late values (1); commit", LATE, "none", "secret"),
    ("insert into h_role values (1)", "select current_user", "app", "pg_monitor"),
    ("insert into h_default default values", "show work_mem", "4MB", "9MB"),
    ("select * from h_view", "show search_path", "\"$user\", public", "pg_catalog, public"),
    ("insert into h_rule values (1)", CHANNELS, "0", "1"),
    ("call h_commits()", PROCEDURE, "none", "secret"),
    ("call h_commits()", LOST, "none", "none"),
    ("select h_prepares()", PREPARED, "0", "1"),
    ("select h_holds()", CURSORS, "0", "1"),
    ("copy h_set from stdin", SETTING, "none", "none"),
    ("begin; savepoint s; insert into h_set values (1); rollback to s; commit", SETTING, "none", "none"),
    ("begin; listen gone; rollback", CHANNELS, "0", "0"),
    ("begin; listen gone; unlisten gone; commit", CHANNELS, "0", "0"),
    ("do $$ begin perform pg_advisory_lock(7); perform pg_advisory_unlock(7); end $$", LOCKED, "0", "0"),
    ("set plan_cache_mode = force_custom_plan", "show plan_cache_mode", "auto", "force_custom_plan"),
    ("set session characteristics as transaction read only", "show transaction_read_only", "off", "on"),
    ("set extra.setting = 'x'", "select coalesce(current_setting('extra.setting', true), '')", "", "x"),
    (
        "begin; set session authorization app; set role pg_monitor; commit",
        "select current_user",
        "app",
        "pg_monitor",
    ),
];

async fn plays(client: &mut Raw, trick: &str) {
    let said = if trick.starts_with("copy") {
        client.send(&crate::raw::query(trick)).await;
        client.message().await;
        // CopyFail: the trigger has not run.
        client.send(b"f\0\0\0\x06x\0").await;
        client.answers(1).await;
        return;
    } else {
        client.query(trick).await
    };
    assert!(!said.iter().any(|(tag, _)| *tag == b'E'), "{trick}: {}", shown(&said));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_finds_what_code_that_nobody_has_named_leaves_behind() {
    // Of its own: with such code in their database, the statements of other tests would be suspect.
    let server = new_server().await;
    server.sql("shop", OBJECTS).await.unwrap();
    for (mode, size) in [("transaction", "1"), ("auto", "2")] {
        let proxy = proxy_before(&server, &[("pool.mode", mode), ("pool.size", size)]).await;
        for (trick, question, others, own) in TRICKS {
            let mut client = Raw::log_in(proxy.port()).await;
            let mut other = Raw::log_in(proxy.port()).await;
            plays(&mut client, trick).await;
            for _ in 0..2 {
                assert_eq!(other.value(question).await, *others, "{mode}: {trick}");
                if mode == "auto" {
                    assert_eq!(client.value(question).await, *own, "{mode}: {trick}");
                }
            }
            drop(client);
            assert_eq!(other.value(question).await, *others, "{mode}: {trick}, and left");
            let mut next = Raw::log_in(proxy.port()).await;
            assert_eq!(next.value(question).await, *others, "{mode}: {trick}, and left");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_survive_a_transaction_is_gone_for_the_very_next_statement() {
    let proxy = proxy(&[("pool.mode", "transaction"), ("pool.size", "1")]).await;
    let mut client = Raw::log_in(proxy.port()).await;
    for number in 0..20 {
        // Behind a CREATE the catalogue is asked, while the client speaks on.
        client.query(&format!("create temp table brief_{number} (v int)")).await;
        let said = shown(&client.query(&format!("insert into brief_{number} values (1)")).await);
        assert!(said.contains("42P01"), "{number}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_a_snapshot_and_a_large_object_are_their_sessions_own() {
    let direct = async |client: &mut Raw| {
        let mut said = Vec::new();
        client.query("select setseed(0.5)").await;
        for _ in 0..3 {
            said.push(client.value("select random()").await);
        }
        said
    };
    let expected = direct(&mut Raw::log_in(server().await.port()).await).await;
    let proxy = proxy(&[("pool.mode", "auto"), ("pool.size", "2")]).await;
    let (mut a, mut b) = (Raw::log_in(proxy.port()).await, Raw::log_in(proxy.port()).await);
    a.query("select setseed(0.5)").await;
    for value in expected {
        b.query("select random()").await;
        assert_eq!(a.value("select random()").await, value);
    }
    a.query("begin isolation level repeatable read").await;
    let snapshot = a.value("select pg_export_snapshot()").await;
    b.query("begin isolation level repeatable read").await;
    let said = b.query(&format!("set transaction snapshot '{snapshot}'")).await;
    assert!(!shown(&said).contains("SERROR"), "{}", shown(&said));
    b.query("commit").await;
    let descriptor = a.value("select lo_open(lo_create(0), 131072)").await;
    b.query("select 1").await;
    assert_eq!(a.value(&format!("select lowrite({descriptor}, 'abc')")).await, "3");
    a.query("rollback").await;
}

/// A text of more than 32 kB is not kept: its statement is where it was made, or nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_statement_without_a_name_is_never_somebody_elses() {
    let long = format!("select 'mine' /* {} */", "x".repeat(100_000));
    let ask = [bind("", &[]), execute(), sync()].concat();
    for mode in ["auto", "transaction"] {
        let proxy = proxy(&[("pool.mode", mode), ("pool.size", "2")]).await;
        let (mut a, mut b) = (Raw::log_in(proxy.port()).await, Raw::log_in(proxy.port()).await);
        let theirs = [parse("", "select 'theirs'"), ask.clone()].concat();
        for round in 0..3 {
            a.send(&[parse("", &long), sync()].concat()).await;
            a.answers(1).await;
            b.send(&theirs).await;
            b.answers(1).await;
            // As PQprepare and PQexecPrepared do it.
            a.send(&ask).await;
            let said = shown(&a.answers(1).await);
            assert!(said.contains("mine"), "{mode}, {round}: {said}");
            // Who has executed it once gives its connection back.
            b.send(&theirs).await;
            b.answers(1).await;
            a.send(&ask).await;
            let said = shown(&a.answers(1).await);
            assert!(!said.contains("theirs"), "{mode}, {round}: {said}");
            assert!(said.contains("mine") || said.contains("26000"), "{mode}, {round}: {said}");
        }
    }
}
