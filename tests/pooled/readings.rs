//! PostgreSQL reads the constants of a statement and finds the types of its parameters when the statement is
//! prepared. Clients that prepare the same text but read it otherwise do not get each other's.

use crate::raw::{Message, Raw, bind, describe, execute, message, parse, query, shown, sync};
use crate::stage::{one_connection, proxy, server};

/// What two clients set, and a text that each of them prepares then.
const READINGS: [(&str, &str, &str); 9] = [
    (
        "set timezone = 'UTC'",
        "set timezone = 'Asia/Tokyo'",
        "select extract(epoch from timestamptz '2020-01-01 00:00')",
    ),
    ("set datestyle = 'ISO, MDY'", "set datestyle = 'ISO, DMY'", "select '01/02/2020'::date"),
    (
        "set intervalstyle = 'postgres'",
        "set intervalstyle = 'sql_standard'",
        "select interval '-1 2:03:04' < interval '-1 day'",
    ),
    ("set standard_conforming_strings = off", "select 1", "select length('a\\\\b')"),
    ("set client_encoding = 'LATIN1'", "set client_encoding = 'UTF8'", "select octet_length('ä')"),
    (
        "set array_nulls = off",
        "select 1",
        "select array_length('{null}'::text[], 1), ('{null}'::text[])[1] is null",
    ),
    ("set transform_null_equals = on", "select 1", "select 1 = null"),
    ("set search_path = numbers", "set search_path = words", "select v from of_either where v = $1"),
    (
        "begin; set local timezone = 'UTC'",
        "set timezone = 'Asia/Tokyo'",
        "select '2020-01-01 00:00'::timestamptz > '2019-12-31 20:00+00'",
    ),
];

fn prepared(text: &str, value: &str) -> Vec<u8> {
    let values: &[&str] = if text.contains("$1") { &[value] } else { &[] };
    [parse("s", text), describe("s"), bind("s", values), execute(), sync()].concat()
}

/// What is told besides settings.
async fn says(client: &mut Raw, bytes: &[u8], ready: usize) -> String {
    client.send(bytes).await;
    let said: Vec<Message> =
        client.answers(ready).await.into_iter().filter(|(tag, _)| *tag != b'S').collect();
    shown(&said)
}

async fn both_read(port: u16, (one, other, text): (&str, &str, &str)) -> [String; 3] {
    let (mut a, mut b) = (Raw::log_in(port).await, Raw::log_in(port).await);
    // The first one may open a transaction, and has the connection then.
    says(&mut b, &query(other), 1).await;
    says(&mut a, &query(one), 1).await;
    let first = says(&mut a, &prepared(text, "1"), 1).await;
    says(&mut a, &query("commit"), 1).await;
    let second = says(&mut b, &prepared(text, "x"), 1).await;
    // In the same breath as what is set.
    let mut c = Raw::log_in(port).await;
    let third = says(&mut c, &[query(other), prepared(text, "x")].concat(), 2).await;
    [first, second, third]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_has_its_text_as_it_reads_it() {
    let server = server().await;
    let made = "create schema numbers create table of_either (v int); create schema words create table of_either (v text);
                insert into numbers.of_either values (1); insert into words.of_either values ('x');
                grant all on schema numbers, words to app; grant all on numbers.of_either, words.of_either to app";
    server.sql("shop", made).await.unwrap();
    for reading in READINGS {
        let expected = both_read(server.port(), reading).await;
        for mode in ["transaction", "auto"] {
            let proxy = one_connection(mode).await;
            assert_eq!(both_read(proxy.port(), reading).await, expected, "{mode}, {reading:?}");
        }
    }
}

/// On another connection a text is read as its client reads it by then, and nobody else gets that.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_otherwise_now_spoils_it_for_nobody() {
    const TEXT: &str = "select extract(epoch from timestamptz '2020-01-01 00:00')::int";
    const RUN: fn() -> Vec<u8> = || [bind("s", &[]), execute(), sync()].concat();
    for mode in ["transaction", "auto"] {
        let proxy = proxy(&[("pool.mode", mode), ("pool.size", "2")]).await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = Raw::log_in(proxy.port()).await;
            client.query("set timezone = 'UTC'").await;
            clients.push(client);
        }
        let [a, b, holder] = &mut clients[..] else { panic!("three") };
        for client in [&mut *a, &mut *b] {
            client.send(&[parse("s", TEXT), sync()].concat()).await;
            client.answers(1).await;
        }
        a.query("set timezone = 'Asia/Tokyo'").await;
        holder.query("begin").await;
        a.send(&RUN()).await;
        a.answers(1).await;
        b.send(&RUN()).await;
        let said = shown(&b.answers(1).await);
        assert!(said.contains("1577836800"), "{mode}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn today_is_another_day_for_who_prepares_it_later() {
    for mode in ["transaction", "auto"] {
        let proxy = one_connection(mode).await;
        let (mut a, mut b) = (Raw::log_in(proxy.port()).await, Raw::log_in(proxy.port()).await);
        let text = prepared("select 'now'::timestamptz", "");
        a.send(&text).await;
        a.answers(1).await;
        let before = a.value("select clock_timestamp()").await;
        b.send(&text).await;
        b.answers(1).await;
        let said = says(&mut b, &[bind("s", &[]), execute(), sync()].concat(), 1).await;
        let now =
            said.split('"').find(|part| part.contains("20")).unwrap_or_else(|| panic!("{said}")).to_owned();
        let now = &now[now.find("20").unwrap()..];
        assert_eq!(a.value(&format!("select '{now}'::timestamptz >= '{before}'")).await, "t", "{mode}");
    }
}

/// Who prepares a text behind the change finds the types of today, also where others have prepared it before.
#[tokio::test(flavor = "multi_thread")]
async fn parameters_have_the_types_of_columns_as_they_are_now() {
    let changes = [
        "alter table retyped alter a type text",
        "drop table retyped; create table retyped (a date)",
        "begin; drop table retyped; create table retyped (a text); commit",
    ];
    for mode in ["transaction", "auto"] {
        let proxy = one_connection(mode).await;
        for change in changes {
            let mut changer = Raw::log_in(proxy.port()).await;
            changer.query("drop table if exists retyped; create table retyped (a int)").await;
            let ask = [parse("s", "insert into retyped values ($1)"), describe("s"), sync()].concat();
            let mut early = Raw::log_in(proxy.port()).await;
            says(&mut early, &ask, 1).await;
            let said = shown(&changer.query(change).await);
            assert!(!said.contains("ERROR"), "{said}");
            let expected = says(&mut Raw::log_in(server().await.port()).await, &ask, 1).await;
            let found = says(&mut Raw::log_in(proxy.port()).await, &ask, 1).await;
            assert_eq!(found, expected, "{mode}, {change}");
        }
    }
}

/// Who was told the types of its parameters sends them so, wherever they have come to.
#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_what_their_client_was_told() {
    const PID: &str = "select pg_backend_pid()";
    for (mode, kind) in
        [("transaction", "bigint"), ("transaction", "real"), ("auto", "bigint"), ("auto", "real")]
    {
        let proxy = proxy(&[("pool.mode", mode), ("pool.size", "2")]).await;
        let mut changer = Raw::log_in(proxy.port()).await;
        changer.query("drop table if exists widened; create table widened (a int)").await;
        let (mut client, mut one, mut other) = (
            Raw::log_in(proxy.port()).await,
            Raw::log_in(proxy.port()).await,
            Raw::log_in(proxy.port()).await,
        );
        client.query("begin").await;
        let here = client.value(PID).await;
        client.send(&[parse("s", "insert into widened values ($1)"), describe("s"), sync()].concat()).await;
        assert!(shown(&client.answers(1).await).contains("\\u{17}"), "{mode}");
        client.query("commit").await;
        changer.query(&format!("alter table widened alter a type {kind}")).await;
        // Its connection is another one now.
        one.query("begin").await;
        other.query("begin").await;
        let is_here = one.value(PID).await == here;
        if is_here { &mut other } else { &mut one }.query("commit").await;
        let five = message(b'B', b"\0s\0\0\x01\0\x01\0\x01\0\0\0\x04\0\0\0\x05\0\0");
        let said = says(&mut client, &[five, execute(), sync()].concat(), 1).await;
        assert!(said.contains("INSERT 0 1"), "{mode}, {kind}: {said}");
        assert_eq!(client.value("select a from widened").await, "5", "{mode}, {kind}");
    }
}

/// What a pipeline sets for its transaction, as programs do that name a tenant, is no reason to share less.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_sets_something_else_shares_its_statements() {
    let proxy = one_connection("transaction").await;
    let text = "select 'shared' as by_tenants";
    for _ in 0..3 {
        let mut client = Raw::log_in(proxy.port()).await;
        let sets =
            [parse("", "select set_config('app.tenant', 'a', true)"), bind("", &[]), execute()].concat();
        let said = says(&mut client, &[sets, prepared(text, "")].concat(), 1).await;
        assert!(said.contains("shared"), "{said}");
    }
    let count = format!(
        "select count(*) from pg_prepared_statements where statement = '{}'",
        text.replace('\'', "''")
    );
    assert_eq!(Raw::log_in(proxy.port()).await.value(&count).await, "1");
}
