//! Last values of sequences that are asked for, or made, without a word in the statement: in functions,
//! defaults, views and triggers. Directly it is the session's own value or `55000`; through the proxy it is
//! never anybody else's, and never an older one.

use crate::raw::{Message, Raw, bind, execute, parse, query, shown, sync};
use crate::stage::{one_connection, proxy, server};

/// A database of its own: what is in the catalogue, and what its clients ask for, is remembered for it.
async fn database(name: &str, sql: &str) {
    let server = server().await;
    server.create_database(name).await.unwrap();
    let common = "create sequence s start 7001; create sequence other; create table plain (n int); \
                  create table numbered (n serial, v int); insert into plain values (1);";
    server.sql(name, &format!("{common} {sql}")).await.unwrap();
    let grants = "grant all on schema public to app; grant all on all tables in schema public to app; \
                  grant all on all sequences in schema public to app";
    server.sql(name, grants).await.unwrap();
}

async fn client(port: u16, database: &str) -> Raw {
    Raw::log_in_with(port, &["database", database]).await
}

/// Enough statements that advance sequences without a question for a proxy to expect none.
async fn be_silent(client: &mut Raw) {
    // A value counts as forgotten behind more of them in a row.
    for _ in 0..26 {
        client.send(&query("select nextval('other')").repeat(10)).await;
        client.answers(10).await;
    }
}

fn is_refused(said: &[Message]) -> bool {
    shown(said).contains("55000")
}

/// Ways to ask for the last value of `s`, each a statement, and what has to be there for it.
const QUESTIONS: [(&str, &str); 7] = [
    ("create function f() returns bigint language sql as 'select lastval()'", "select f()"),
    (
        "create function f() returns bigint language plpgsql as \
         'begin return CURRVAL(''s''); end'",
        "select f()",
    ),
    ("create function f() returns bigint language sql begin atomic select lastval(); end", "select f()"),
    ("create table asks (a bigint default lastval(), b int)", "insert into asks (b) values (1) returning a"),
    ("create view asks as select currval('s') from plain", "select * from asks"),
    (
        "create table asks (a bigint);
         create function fills() returns trigger language plpgsql as
         'begin new.a := lastval(); return new; end';
         create trigger fills before insert on asks for each row execute function fills()",
        "insert into asks values (0) returning a",
    ),
    ("", "do $$ begin raise notice '%', lastval(); end $$"),
];

#[tokio::test(flavor = "multi_thread")]
async fn another_clients_value_is_never_the_answer_of_a_function() {
    for (at, (made, question)) in QUESTIONS.into_iter().enumerate() {
        let name = format!("unseen_{at}");
        database(&name, made).await;
        let proxy = one_connection("auto").await;
        let (mut a, mut b) = (client(proxy.port(), &name).await, client(proxy.port(), &name).await);
        be_silent(&mut a).await;
        // What was suspect at the beginning is taken away now.
        b.query("select 1").await;
        a.query("select nextval('s')").await;
        let said = b.query(question).await;
        assert!(is_refused(&said), "{question}: {}", shown(&said));
        // Who asks in so many words keeps its connection.
        b.query("discard all").await;
        // In its own transaction everybody finds its own.
        a.query("select nextval('s')").await;
        a.query("discard all").await;
        b.query("begin").await;
        let mine = b.value("select nextval('s')").await;
        let said = shown(&b.query(question).await);
        assert!(said.contains(&mine), "{question}: {said} and not {mine}");
        b.query("commit").await;
        // Who has failed once is not expected to be silent any more.
        let mine = b.value("select nextval('s')").await;
        let said = shown(&b.query(question).await);
        assert!(said.contains(&mine), "{question}: {said} and not {mine}");
    }
}

/// Ways to advance `s` without a word of it, each a statement, and what has to be there for it.
const ADVANCES: [(&str, &str); 5] = [
    (
        "create function log(t text) returns bigint language sql as 'insert into numbered (v) values (1) returning n'",
        "select log('x'::text)",
    ),
    ("create view advances as select nextval('s') from plain", "select * from advances"),
    (
        "create function logs() returns trigger language plpgsql as \
         'begin insert into numbered (v) values (new.n); return new; end';
         create trigger logs after update on plain for each row execute function logs()",
        "update plain set n = 2",
    ),
    (
        "create function logs() returns trigger language plpgsql as \
         'begin perform nextval(''s''); return old; end';
         create trigger logs after delete on plain for each row execute function logs()",
        "with gone as (delete from plain returning n) select n from gone",
    ),
    (
        "create rule logs as on update to plain do also insert into numbered (v) values (new.n)",
        "update plain set n = 2",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trigger_has_counted_is_not_the_answer_either() {
    for (at, (made, statement)) in ADVANCES.into_iter().enumerate() {
        let name = format!("advances_{at}");
        database(&name, made).await;
        let proxy = one_connection("auto").await;
        let (mut a, mut b) = (client(proxy.port(), &name).await, client(proxy.port(), &name).await);
        for is_silent in [true, false] {
            if is_silent {
                be_silent(&mut a).await;
            }
            // What was suspect before the catalogue was asked is taken away now.
            for client in [&mut a, &mut b] {
                client.query("select 1").await;
            }
            a.query(statement).await;
            let said = b.query("select lastval()").await;
            assert!(is_refused(&said), "{statement}: {}", shown(&said));
            b.query("discard all").await;
        }
    }
}

/// A client that holds this one of two connections, which are both free.
async fn holder(port: u16, database: &str, pid: &str) -> Raw {
    let mut one = client(port, database).await;
    one.query("begin").await;
    if pid_of(&mut one).await == pid {
        return one;
    }
    let mut other = client(port, database).await;
    other.query("begin").await;
    assert_eq!(pid_of(&mut other).await, pid);
    one.query("commit").await;
    other
}

async fn pid_of(client: &mut Raw) -> String {
    client.value("select pg_backend_pid()::text").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_value_of_its_own_is_not_the_answer() {
    let asks = "create function f() returns bigint language sql as 'select currval(''s'')'";
    database("older", asks).await;
    let proxy = proxy(&[("pool.mode", "auto"), ("pool.size", "2")]).await;
    let (mut a, mut b) = (client(proxy.port(), "older").await, client(proxy.port(), "older").await);
    be_silent(&mut a).await;
    // Both connections are there.
    a.query("begin").await;
    let one = pid_of(&mut a).await;
    b.query("begin").await;
    a.query("commit").await;
    a.query("select nextval('s')").await;
    b.query("commit").await;
    let mut holds = holder(proxy.port(), "older", &one).await;
    let newer = a.value("select nextval('s') || ',' || pg_backend_pid()").await;
    let (_, other) = newer.split_once(',').unwrap();
    assert_ne!(one, other);
    holds.query("commit").await;
    let _holds = holder(proxy.port(), "older", other).await;
    let said = a.query("select f()").await;
    assert!(is_refused(&said), "{} behind {newer}", shown(&said));
}

#[tokio::test(flavor = "multi_thread")]
async fn however_it_is_asked() {
    let long = format!("select lastval() /* {} */", "x".repeat(100_000));
    let longer = format!("/* {} */ select lastval()", "x".repeat(100_000));
    let lastval = [&2559u32.to_be_bytes()[..], &[0; 4], &[0, 0]].concat();
    let call = [b"F", &(lastval.len() as u32 + 4).to_be_bytes()[..], &lastval].concat();
    let ways: Vec<(&str, Vec<u8>, usize)> = vec![
        ("a long query", query(&long), 1),
        ("behind what is read of a query", query(&longer), 1),
        ("a long statement", [parse("", &longer), bind("", &[]), execute(), sync()].concat(), 1),
        (
            "EXECUTE of what the protocol has prepared",
            [parse("s", "select lastval()"), sync(), query("execute s")].concat(),
            2,
        ),
        ("a call of a function", call, 1),
        ("a text that is executed", query("select query_to_xml('select lastval()', true, true, '')"), 1),
        (
            "a parameter that is executed",
            [
                parse("", "select query_to_xml($1, true, true, '')"),
                bind("", &["select lastval()"]),
                execute(),
                sync(),
            ]
            .concat(),
            1,
        ),
        ("DO", query("do $$ begin raise notice '%', lastval(); end $$"), 1),
        (
            "what is made only now",
            query(
                "create function pg_temp.f() returns bigint language sql as 'select lastval()'; select pg_temp.f()",
            ),
            1,
        ),
    ];
    let proxy = one_connection("auto").await;
    for (at, (way, sent, endings)) in ways.into_iter().enumerate() {
        for is_open in [false, true] {
            let name = format!("however_{at}_{is_open}");
            database(&name, "").await;
            let (mut a, mut b) = (client(proxy.port(), &name).await, client(proxy.port(), &name).await);
            be_silent(&mut a).await;
            b.query("select 1").await;
            a.query("select nextval('s')").await;
            if is_open {
                b.query("begin").await;
                b.query("insert into plain values (1)").await;
            }
            b.send(&sent).await;
            let said = b.answers(endings).await;
            assert!(is_refused(&said), "{way}, {is_open}: {}", shown(&said));
            assert!(!said.iter().any(|(tag, _)| *tag == b'D' || *tag == b'N'), "{way}: {}", shown(&said));
            b.query("rollback").await;
            // It is known now that clients ask: everybody finds its own, and the connection is in order.
            b.query("begin").await;
            let mine = b.value("select nextval('s')").await;
            assert_eq!(b.value("select lastval()").await, mine, "{way}");
            b.query("commit").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_comes_by_is_known_at_once() {
    database("comes_by", "").await;
    let proxy = proxy(&[("pool.mode", "auto"), ("pool.size", "2")]).await;
    let (mut a, mut b) = (client(proxy.port(), "comes_by").await, client(proxy.port(), "comes_by").await);
    be_silent(&mut a).await;
    b.query("begin").await;
    b.query("create function f() returns bigint language sql as 'select lastval()'").await;
    // Whoever is asked now does not know of it.
    for _ in 0..3 {
        a.query("alter table plain alter n set default 1").await;
        a.query("select nextval('s')").await;
    }
    b.query("commit").await;
    let mut c = client(proxy.port(), "comes_by").await;
    for client in [&mut b, &mut c] {
        let said = client.query("select f()").await;
        assert!(is_refused(&said), "{}", shown(&said));
    }
}

/// What the server calls itself depends on nothing in the catalogue: it is found in what it has parsed.
#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_sets_something_sets_it_for_nobody_else() {
    let made = "create view sets as select set_config('my.view', 'secret', false) as value;
                create function sets() returns text language sql \
                begin atomic select set_config('my.view', 'secret', false); end;
                create view calls as select sets()";
    database("leaves", made).await;
    let proxy = one_connection("auto").await;
    let (mut a, mut b) = (client(proxy.port(), "leaves").await, client(proxy.port(), "leaves").await);
    let asked = "select coalesce(current_setting('my.view', true), '')";
    for view in ["sets", "calls"] {
        for client in [&mut a, &mut b] {
            client.query("select 1").await;
        }
        assert_eq!(a.value(&format!("select * from {view}")).await, "secret");
        assert_eq!(b.value(asked).await, "", "{view}");
    }
}

/// Functions that ask, and handle the error: nobody hears of it.
const QUIET: [(&str, &str); 3] = [
    (
        "create function f() returns bigint language plpgsql as
         'begin return currval(''s''); exception when others then return -1; end'",
        "select f()",
    ),
    (
        "create function inner_one() returns bigint language sql as 'select lastval()';
         create function f() returns bigint language plpgsql as
         'begin return inner_one(); exception when object_not_in_prerequisite_state then return -1; end'",
        "select f()",
    ),
    (
        "create view asks as select lastval() as v;
         create function f() returns bigint language plpgsql as
         'begin return (select v from asks); exception when others then return -1; end'",
        "select f()",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_hides_the_error_finds_the_value_all_the_same() {
    for (at, (made, question)) in QUIET.into_iter().enumerate() {
        let name = format!("quiet_{at}");
        database(&name, made).await;
        let proxy = proxy(&[("pool.mode", "auto"), ("pool.size", "2")]).await;
        let (mut a, mut b) = (client(proxy.port(), &name).await, client(proxy.port(), &name).await);
        be_silent(&mut a).await;
        b.query("select 1").await;
        let mine = a.value("select nextval('s')").await;
        // Others take what is free.
        for _ in 0..2 {
            b.query("select nextval('other')").await;
        }
        assert_eq!(a.value(question).await, mine, "{question}");
    }
}
