//! Prepared statements: what PostgreSQL answers directly is what it answers through few connections
//! that many clients share.

use crate::raw::{Raw, bind, close, describe, execute, flush, parse, query, shown, sync};
use crate::stage::{one_connection, server};

/// A part of a conversation: what is sent, and how many messages are awaited then: those up to so
/// many ReadyForQuery, or so many messages where there is none.
enum Turn {
    Ready(Vec<u8>, usize),
    Messages(Vec<u8>, usize),
}

async fn talk(raw: &mut Raw, turns: &[Turn]) -> String {
    let mut said = String::new();
    for turn in turns {
        let answers = match turn {
            Turn::Ready(bytes, count) => {
                raw.send(bytes).await;
                raw.answers(*count).await
            }
            Turn::Messages(bytes, count) => {
                raw.send(bytes).await;
                raw.messages(*count).await
            }
        };
        said += &shown(&answers);
        said += "--\n";
    }
    said
}

/// The same conversation directly and through one connection that another client uses in between.
async fn check(turns: &[Turn]) {
    let server = server().await;
    let expected = talk(&mut Raw::log_in(server.port()).await, turns).await;
    for mode in ["transaction", "auto"] {
        let proxy = one_connection(mode).await;
        let mut other = Raw::log_in(proxy.port()).await;
        other.send(&[parse("s", "select 'other'"), parse("", "select 'unnamed'"), sync()].concat()).await;
        other.answers(1).await;
        let mut client = Raw::log_in(proxy.port()).await;
        let mut said = String::new();
        for turn in turns {
            said += &talk(&mut client, std::slice::from_ref(turn)).await;
            if said.ends_with("Z \"I\"\n--\n") {
                let rows = [bind("s", &[]), execute(), sync()].concat();
                other.send(&rows).await;
                let rows = other.answers(1).await;
                assert!(shown(&rows).contains("other"), "{}", shown(&rows));
                other.send(&[parse("", "select 'unnamed'"), sync()].concat()).await;
                other.answers(1).await;
            }
        }
        assert_eq!(said, expected);
    }
}

fn batch(parts: &[Vec<u8>]) -> Turn {
    Turn::Ready([parts.concat(), sync()].concat(), 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_statement_is_there_in_every_transaction() {
    check(&[
        batch(&[parse("s", "select $1::int + 1")]),
        batch(&[bind("s", &["1"]), execute()]),
        batch(&[describe("s"), bind("s", &["2"]), execute(), bind("s", &["3"]), execute()]),
        batch(&[parse("t", "select 'a' || $1"), describe("t"), bind("t", &["b"]), execute()]),
        batch(&[bind("s", &["4"]), execute(), bind("t", &["c"]), execute()]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_use_one_text_and_made_up_answers_stand_at_their_place() {
    // The other client has prepared this very text: our Parse is not passed on.
    check(&[
        batch(&[parse("mine", "select 'other'"), bind("mine", &[]), execute()]),
        batch(&[bind("mine", &[]), parse("again", "select 'other'"), execute(), close("mine")]),
        batch(&[bind("mine", &[]), execute()]),
        batch(&[
            close("again"),
            close("nothing"),
            parse("again", "select 'other'"),
            bind("again", &[]),
            execute(),
        ]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_is_answered_though_nothing_was_sent_to_the_server() {
    check(&[
        Turn::Messages([parse("mine", "select 'other'"), flush()].concat(), 1),
        Turn::Messages([bind("mine", &[]), flush()].concat(), 1),
        Turn::Messages([parse("more", "select 'other'"), close("more"), flush()].concat(), 2),
        Turn::Ready([execute(), sync()].concat(), 1),
    ])
    .await;
}

/// Case 35 of the list of protocol cases.
#[tokio::test(flavor = "multi_thread")]
async fn taken_and_unknown_names_are_refused_in_the_servers_words() {
    check(&[
        batch(&[parse("s", "select 1")]),
        batch(&[parse("s", "select 2")]),
        batch(&[bind("s", &[]), execute()]),
        batch(&[bind("none", &[]), execute()]),
        batch(&[describe("none")]),
        batch(&[parse("s", "select 3"), bind("s", &[]), execute()]),
        batch(&[bind("cm_1", &[]), execute()]),
        batch(&[bind("s", &[]), execute()]),
    ])
    .await;
}

/// Case 34.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_error_has_skipped_was_not_prepared() {
    check(&[
        batch(&[parse("a", "select wrong"), parse("b", "select 1"), parse("c", "select 'other'")]),
        batch(&[bind("a", &[]), execute()]),
        batch(&[bind("b", &[]), execute()]),
        batch(&[bind("c", &[]), execute()]),
        batch(&[parse("a", "select 5"), bind("a", &[]), execute()]),
        batch(&[bind("a", &[]), close("a"), parse("b", "select wrong"), close("a")]),
        batch(&[bind("a", &[]), execute()]),
        Turn::Ready(
            [parse("d", "select wrong"), sync(), parse("d", "select 6"), bind("d", &[]), execute(), sync()]
                .concat(),
            2,
        ),
        batch(&[bind("d", &[]), execute()]),
        // A close that was skipped.
        batch(&[bind("none", &[]), close("d")]),
        batch(&[bind("d", &[]), execute()]),
    ])
    .await;
}

/// Case 36.
#[tokio::test(flavor = "multi_thread")]
async fn the_statement_without_a_name_is_the_clients_own() {
    check(&[
        batch(&[parse("", "select 'mine'")]),
        batch(&[bind("", &[]), execute()]),
        batch(&[describe(""), bind("", &[]), execute()]),
        Turn::Ready(query("select 1"), 1),
        batch(&[bind("", &[]), execute()]),
        batch(&[parse("", "select 'again'"), bind("", &[]), execute()]),
        batch(&[close("")]),
        batch(&[bind("", &[]), execute()]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_work_in_transactions_and_failed_ones() {
    check(&[
        Turn::Ready(query("begin"), 1),
        batch(&[parse("s", "select 'other'"), bind("s", &[]), execute()]),
        Turn::Ready(query("select wrong"), 1),
        batch(&[parse("t", "select 'other'")]),
        batch(&[bind("s", &[]), execute()]),
        Turn::Ready(query("rollback"), 1),
        batch(&[bind("s", &[]), execute()]),
        batch(&[bind("t", &[]), execute()]),
        batch(&[parse("t", "select 'other'"), bind("t", &[]), execute()]),
    ])
    .await;
}

/// Case 40.
#[tokio::test(flavor = "multi_thread")]
async fn deallocating_all_deallocates_all() {
    check(&[
        batch(&[parse("s", "select 1"), parse("t", "select 2")]),
        Turn::Ready(query("deallocate all"), 1),
        batch(&[bind("s", &[]), execute()]),
        batch(&[parse("s", "select 3"), bind("s", &[]), execute()]),
        Turn::Ready(query("discard all"), 1),
        batch(&[bind("s", &[]), execute()]),
        batch(&[parse("s", "select 4"), bind("s", &[]), execute()]),
        batch(&[parse("", "deallocate all"), bind("", &[]), execute()]),
        batch(&[bind("s", &[]), execute()]),
    ])
    .await;
}

/// Case 40 by name, as psycopg does when it has prepared too much.
#[tokio::test(flavor = "multi_thread")]
async fn deallocating_by_sql_knows_the_names_of_the_protocol() {
    check(&[
        batch(&[parse("_pg3_0", "select 1"), parse("S 2", "select 2"), parse("s3", "select 3")]),
        Turn::Ready(query("deallocate \"_pg3_0\""), 1),
        batch(&[bind("_pg3_0", &[]), execute()]),
        batch(&[parse("", "DEALLOCATE \"S 2\""), bind("", &[]), execute()]),
        batch(&[bind("S 2", &[]), execute()]),
        Turn::Ready(query("begin"), 1),
        Turn::Ready(query("deallocate prepare s3"), 1),
        Turn::Ready(query("rollback"), 1),
        batch(&[bind("s3", &[]), execute()]),
        Turn::Ready(query("deallocate none"), 1),
        batch(&[parse("s3", "select 4"), bind("s3", &[]), execute()]),
        batch(&[parse("", "DEALLOCATE s3"), bind("wrong", &[]), execute()]),
        batch(&[bind("s3", &[]), execute()]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_statements_make_room_for_each_other() {
    let proxy = one_connection("transaction").await;
    let mut client = Raw::log_in(proxy.port()).await;
    let name = |n: usize| format!("s{n}");
    for n in 0..450 {
        client.send(&[parse(&name(n), &format!("select {n}")), sync()].concat()).await;
        client.answers(1).await;
    }
    for n in (0..450).rev().chain(0..450) {
        client.send(&[bind(&name(n), &[]), execute(), sync()].concat()).await;
        let said = shown(&client.answers(1).await);
        assert!(said.contains(&format!("\\u{{{:x}}}{n}", n.to_string().len())), "{n}: {said}");
    }
    // Errors in the middle of a batch leave what was skipped as it was.
    for n in 0..450 {
        client.send(&[bind("none", &[]), bind(&name(n), &[]), execute(), sync()].concat()).await;
        assert!(shown(&client.answers(1).await).contains("26000"));
        client.send(&[bind(&name((n * 7) % 450), &[]), execute(), sync()].concat()).await;
        assert!(!shown(&client.answers(1).await).contains("C26000"));
    }
    let count = client.value("select count(*) from pg_prepared_statements").await;
    assert!(count.parse::<u32>().unwrap() <= 202, "{count}");
}

/// Settings are made by simple queries, which drop the statement without a name.
#[tokio::test(flavor = "multi_thread")]
async fn the_statement_without_a_name_outlives_what_is_done_for_its_client() {
    for mode in ["transaction", "auto"] {
        let proxy = one_connection(mode).await;
        let mut a = Raw::log_in_with(proxy.port(), &["application_name", "a"]).await;
        let mut b = Raw::log_in_with(proxy.port(), &["application_name", "b"]).await;
        a.send(&[parse("", "select 'mine'"), sync()].concat()).await;
        a.answers(1).await;
        for _ in 0..3 {
            b.send(&[bind("none", &[]), sync()].concat()).await;
            b.answers(1).await;
            a.send(&[bind("", &[]), execute(), sync()].concat()).await;
            let said = shown(&a.answers(1).await);
            assert!(said.contains("mine"), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_no_more_statements_than_are_allowed() {
    let keys = [("pool.mode", "transaction"), ("pool.size", "1"), ("pool.max_prepared_statements", "3")];
    let proxy = crate::stage::proxy(&keys).await;
    let mut client = Raw::log_in(proxy.port()).await;
    for n in 0..10 {
        client.send(&[parse(&format!("s{n}"), &format!("select 'it is {n}'")), sync()].concat()).await;
        client.answers(1).await;
    }
    for n in [0, 9, 5, 0, 1, 2, 3, 4] {
        client.send(&[bind(&format!("s{n}"), &[]), execute(), sync()].concat()).await;
        let rows = shown(&client.answers(1).await);
        assert!(rows.contains(&format!("it is {n}")), "{rows}");
    }
    client.send(&query("select count(*) || ' are there' from pg_prepared_statements")).await;
    let rows = shown(&client.answers(1).await);
    assert!(rows.contains("3 are there"), "{rows}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_transaction_is_ended_by_a_statement_that_the_link_has_already() {
    // As JDBC does it, which gives every statement that it prepares a name that is new.
    let end = |name| batch(&[parse(name, "rollback"), bind(name, &[]), execute()]);
    let other = |name| batch(&[parse(name, "select 5"), bind(name, &[]), execute()]);
    let fails = || Turn::Ready(query("begin; select 1 / 0"), 1);
    check(&[
        end("a"),
        other("b"),
        fails(),
        other("c"),
        end("d"),
        other("c"),
        fails(),
        // What fails before it keeps the server from reading any of it.
        batch(&[parse("e", "select"), bind("nothing", &[]), parse("f", "rollback"), parse("g", "select 5")]),
        end("f"),
        other("g"),
        batch(&[bind("a", &[]), execute(), bind("b", &[]), execute(), bind("f", &[]), execute()]),
    ])
    .await;
}

#[tokio::test]
async fn execute_finds_a_statement_that_is_too_long_to_be_made_again() {
    for mode in ["auto", "transaction", "statement"] {
        let proxy = one_connection(mode).await;
        let mut client = Raw::log_in(proxy.port()).await;
        let text = format!("select 7 /* {} */", "long".repeat(20_000));
        client.send(&[parse("s1", &text), sync()].concat()).await;
        client.answers(1).await;
        for text in ["execute s1", "explain execute s1"] {
            client.send(&query(text)).await;
            let answers = client.answers(1).await;
            assert!(answers.iter().any(|(tag, _)| *tag == b'D'), "{mode}, {text}: {}", shown(&answers));
        }
        client.send(&[parse("s2", "execute s1"), bind("s2", &[]), execute(), sync()].concat()).await;
        let answers = client.answers(1).await;
        assert!(answers.iter().any(|(tag, _)| *tag == b'D'), "{mode}: {}", shown(&answers));
    }
}

/// Directly, settings are told at the end of a batch, behind everything in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_setting_is_told_behind_answers_that_are_made_up() {
    let sets = "select set_config('timezone', 'Asia/Tokyo', false)";
    let notices = "do $$ begin raise notice 'it'; end $$";
    check(&[
        batch(&[parse("t", sets), bind("t", &[]), execute(), close("t")]),
        batch(&[parse("n", notices)]),
        batch(&[parse("u", "select 1"), close("u"), bind("n", &[]), execute(), close("n")]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_skipped_without_a_name_is_still_there_under_another() {
    check(&[
        batch(&[parse("s", "select 1")]),
        // The error skips the Parse of the same text.
        batch(&[parse("wrong", "selec"), parse("", "select 1")]),
        batch(&[parse("t", "select 1"), bind("t", &[]), execute(), close("t")]),
    ])
    .await;
}
