//! Simple queries and function calls.

use crate::raw::message::*;
use crate::raw::stage::{self, ALL, KEEPING, app, same};
use crate::raw::{Cut, Step, converse};
use crate::{send, then_settled};
use cloud_mirror::lab::eventually;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn case_22_several_statements_in_one_query() {
    let texts = [
        "select 1; select 2; select 3",
        "select 1; select 1/0; select 3",
        "create table case22 (a int); insert into case22 values (1); select 1/0",
        "select * from case22",
        "begin; create table case22 (a int); commit; select 1/0",
        "insert into case22 values (2); rollback; drop table case22; select 'end'",
    ];
    let queries: Vec<_> = texts.iter().map(|text| query(text)).collect();
    same(ALL, &send(&queries), &then_settled("TDCTDCTDCZTDCEZCCEZEZCCCEZCNCCTDCZ")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_23_empty_queries() {
    let queries = [query(""), query(" "), query(";;"), query("-- nothing"), query("; select 1;")];
    same(ALL, &send(&queries), &then_settled("IZIZIZIZTDCZ")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_24_tags_do_not_tell_what_became_of_a_transaction() {
    let texts = ["begin", "begin", "select 1/0", "commit", "commit", "select 1"];
    let queries: Vec<_> = texts.iter().map(|text| query(text)).collect();
    let heard = same(ALL, &send(&queries), &then_settled("CZNCZEZCZNCZTDCZ")).await;
    let statuses: Vec<u8> = heard.frames.iter().filter(|f| f.tag == b'Z').map(|f| f.body[0]).collect();
    assert_eq!(statuses, b"TTEIIIII");
}

#[tokio::test(flavor = "multi_thread")]
async fn case_25_a_failed_transaction_keeps_its_link() {
    for mode in ALL {
        let pids = "select pg_backend_pid()";
        let steps: Vec<Step> =
            ["begin", pids, "savepoint a", "select 1/0", "select 1", "rollback to a", pids, "commit"]
                .iter()
                .flat_map(|text| [Step::Send(query(text)), Step::Await(b"Z")])
                .collect();
        let heard = converse(&stage::through(*mode).await, &app(), &steps, Cut::Whole).await.unwrap();
        assert_eq!(heard.tags(), "CZTDCZCZEZEZCZTDCZCZ");
        let pids: Vec<_> = heard.frames.iter().filter(|f| f.tag == b'D').map(|f| &f.body).collect();
        assert_eq!(pids[0], pids[1], "{mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_26_a_function_call_ends_as_a_query_does() {
    let add = 177;
    let calls = [
        function_call(add, &[Some("2"), Some("3")]),
        function_call(add, &[None, Some("3")]),
        function_call(add, &[Some("2"), Some("x")]),
        function_call(4_000_000, &[]),
        query("begin"),
        function_call(add, &[Some("2"), Some("3")]),
        function_call(add, &[Some("2"), Some("x")]),
        query("rollback"),
    ];
    same(ALL, &send(&calls), &then_settled("VZVZEZEZCZVZEZCZ")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_27_notices_and_settings_between_and_before_answers() {
    let texts = [
        "do $$ begin raise notice 'one'; raise notice 'two'; end $$",
        "set application_name = 'case 27'",
        "set time zone 'Asia/Tokyo'; reset time zone; select 1",
        "drop table if exists case27",
        "set datestyle = 'German'; select 1/0",
    ];
    let queries: Vec<_> = texts.iter().map(|text| query(text)).collect();
    // Settings are told in front of ReadyForQuery, and one that is what it was is not.
    same(ALL, &send(&queries), &then_settled("NNCZCSZCCTDCZNCZCEZ")).await;
}

/// A notification comes to a client that is idle.
#[tokio::test(flavor = "multi_thread")]
async fn case_27_a_notification_while_idle() {
    let server = stage::server().await;
    for mode in KEEPING {
        let steps = [
            Step::Send(query("listen case27")),
            Step::Await(b"Z"),
            Step::Await(b"A"),
            Step::Send(query("select 1")),
            Step::Await(b"Z"),
        ];
        let place = stage::through(*mode).await;
        let listening = tokio::spawn(async move { converse(&place, &app(), &steps, Cut::Whole).await });
        // Until it is heard: when the client begins to listen cannot be seen from outside.
        eventually(Duration::from_secs(60), async || {
            server.sql("shop", "notify case27, 'heard'").await?;
            if listening.is_finished() { Ok(()) } else { Err("it was not heard".into()) }
        })
        .await;
        let heard = listening.await.unwrap().unwrap();
        assert_eq!(heard.tags().replace('A', ""), "CZTDCZ", "{mode:?}");
        assert!(heard.frames[2].body.ends_with(b"case27\0heard\0"), "{:?}", heard.frames);
    }
}
