//! COPY.

use crate::raw::message::*;
use crate::raw::stage::{self, ALL, Mode, app, same};
use crate::raw::{Cut, Step, converse};
use crate::{send, then_settled};
use cloud_mirror::lab::eventually;
use std::time::Duration;

/// Makes a table; the message empties it.
async fn table(name: &str) -> Vec<u8> {
    let make = format!("create table {name} (a int primary key, b text); alter table {name} owner to app");
    stage::server().await.sql("shop", &make).await.unwrap();
    query(&format!("truncate {name}"))
}

fn begin(text: &str) -> Vec<u8> {
    [parse("", text, &[]), bind("", "", &[]), execute("", 0)].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn case_42_sync_and_flush_are_ignored_while_copy_reads() {
    let empty = table("c42").await;
    let messages = [
        empty.clone(),
        begin("copy c42 from stdin"),
        sync(),
        copy_data("1\ta\n"),
        sync(),
        flush(),
        copy_data("2\tb\n"),
        sync(),
        copy_done(),
        sync(),
        query("copy c42 from stdin"),
        sync(),
        copy_data("3\tc\n"),
        copy_done(),
        query("select count(*) from c42"),
    ];
    same(ALL, &send(&messages), &then_settled("CZ12GCZGCZTDCZ")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_43_what_comes_behind_an_error_in_copy() {
    let empty = table("c43").await;
    // The client goes on for a while, as it does not know yet.
    let late = [copy_data("2\tb\n"), copy_data("3\tc\n"), copy_done()].concat();
    let steps = [
        Step::Send([empty.clone(), query("copy c43 from stdin")].concat()),
        Step::Await(b"G"),
        Step::Send(copy_data("x\ta\n").repeat(3)),
        Step::Send(late.clone()),
        Step::Await(b"E"),
        Step::Send(late.clone()),
        Step::Send(query("select count(*) from c43")),
        Step::Settle,
    ];
    same(ALL, &steps, &then_settled("CZGEZTDCZ")).await;
    let extended = [
        Step::Send([empty.clone(), begin("copy c43 from stdin"), sync()].concat()),
        Step::Await(b"G"),
        Step::Send([copy_data("x\ta\n"), late.clone()].concat()),
        Step::Await(b"E"),
        Step::Send([late, sync(), query("select count(*) from c43")].concat()),
        Step::Settle,
    ];
    same(ALL, &extended, &then_settled("CZ12GEZTDCZ")).await;
}

/// Since version 14 the server then ends the connection; before, the message was used up.
#[tokio::test(flavor = "multi_thread")]
async fn case_43_what_has_no_place_in_copy_ends_it() {
    let empty = table("c43p").await;
    for offence in [query("select 'no place'"), begin("select 'no place'"), function_call(177, &[])] {
        let simple =
            [empty.clone(), query("copy c43p from stdin"), offence.clone(), query("select 'behind'")];
        same(ALL, &send(&simple), "CZGEE").await;
        let extended =
            [empty.clone(), begin("copy c43p from stdin"), sync(), copy_data("1\ta\n"), offence, sync()];
        same(ALL, &send(&extended), "CZ12GEE").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_44_copy_fail() {
    let empty = table("c44").await;
    let messages = [
        empty.clone(),
        query("copy c44 from stdin"),
        copy_data("1\ta\n"),
        copy_fail("changed my mind"),
        begin("copy c44 from stdin"),
        copy_data("1\ta\n"),
        copy_fail("once more"),
        sync(),
        query("select count(*) from c44"),
    ];
    let heard = same(ALL, &send(&messages), &then_settled("CZGEZ12GEZTDCZ")).await;
    let errors = heard.frames.iter().filter(|f| f.tag == b'E');
    assert!(errors.clone().count() == 2);
    for error in errors {
        let words = error.body.escape_ascii().to_string();
        assert!(words.contains("57014") && words.contains("COPY from stdin failed"), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_45_a_client_that_goes_away_while_copy_reads() {
    let server = stage::server().await;
    server.sql("shop", "create table case45 (a int); grant all on case45 to app").await.unwrap();
    for mode in ALL {
        for last in [Step::HangUp, Step::HalfClose] {
            let steps = [
                Step::Send(query("set application_name = 'case 45'")),
                Step::Await(b"Z"),
                Step::Send(query("copy case45 from stdin")),
                Step::Await(b"G"),
                Step::Send(copy_data("1\n2\n")),
                last,
            ];
            converse(&stage::through(*mode).await, &app(), &steps, Cut::Whole).await.unwrap();
            eventually(Duration::from_secs(60), async || {
                let count = "select count(*) from pg_stat_activity where application_name = 'case 45'";
                match server.value("postgres", count).await?.as_str() {
                    "0" => Ok(()),
                    other => Err(format!("{other} back ends still copy").into()),
                }
            })
            .await;
            assert_eq!(server.value("shop", "select count(*) from case45").await.unwrap(), "0");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_46_copy_in_both_directions() {
    let server = stage::server().await;
    server.sql("shop", "create table case46 (a int)").await.unwrap();
    server.sql("shop", "select pg_create_logical_replication_slot('case46', 'test_decoding')").await.unwrap();
    let startup = startup(&[("user", "app"), ("database", "shop"), ("replication", "database")]);
    for _ in 0..2 {
        let steps = [
            Step::Send(query("START_REPLICATION SLOT case46 LOGICAL 0/0")),
            Step::Await(b"W"),
            // A keepalive, or a change.
            Step::Await(b"d"),
            Step::Send(copy_done()),
            Step::Await(b"c"),
            Step::Await(b"Z"),
            Step::Send(query("IDENTIFY_SYSTEM")),
            Step::Await(b"Z"),
        ];
        let place = stage::through(Mode::Session).await;
        let talking = converse(&place, &startup, &steps, Cut::Whole);
        let inserting = server.sql("shop", "insert into case46 values (1)");
        let (heard, inserted) = tokio::join!(talking, inserting);
        inserted.unwrap();
        let tags = heard.unwrap().tags();
        let tags = tags.replace('d', "");
        assert!(tags.starts_with("Wc") && tags.ends_with("ZTDCZ"), "{tags}");
    }
    server.sql("shop", "select pg_drop_replication_slot('case46')").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_47_copy_among_several_statements() {
    let empty = table("c47").await;
    let messages = [
        empty.clone(),
        query("select 1; copy c47 from stdin; select 2; copy c47 from stdin; select count(*) from c47"),
        copy_data("1\ta\n"),
        copy_done(),
        copy_data("2\tb\n"),
        copy_done(),
        query("copy c47 from stdin; select 'never'; copy c47 from stdin"),
        copy_data("1\tagain\n"),
        copy_done(),
        copy_done(),
        query("copy c47 to stdout; select 1; copy c47 to stdout"),
    ];
    same(ALL, &send(&messages), &then_settled("CZTDCGCTDCGCTDCZGEZHddcCTDCHddcCZ")).await;
}
