//! The extended protocol.

use crate::raw::message::*;
use crate::raw::stage::{self, ALL, Mode, app, same};
use crate::raw::{Cut, Step, converse};
use crate::{send, then_settled};

/// Parse, Bind and Execute of unnamed ones.
fn run(text: &str) -> Vec<u8> {
    [parse("", text, &[]), bind("", "", &[]), execute("", 0)].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn case_28_one_ready_for_query_for_each_sync_query_and_call() {
    let messages = [
        run("select 1"),
        sync(),
        sync(),
        query("select 2"),
        run("select 3"),
        run("select 4"),
        sync(),
        function_call(177, &[Some("1"), Some("1")]),
        run("select 5"),
        query("select 6"),
    ];
    same(ALL, &send(&messages), &then_settled("12DCZZTDCZ12DC12DCZVZ12DCTDCZ")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_29_everything_up_to_sync_is_skipped_after_an_error() {
    let large = "x".repeat(100_000);
    let messages = [
        run("select 1/0"),
        query("select 'skipped'"),
        run("select 'skipped'"),
        bind("", "", &[Some(&large)]),
        query(&large),
        function_call(177, &[Some("1"), Some("1")]),
        flush(),
        copy_data("skipped"),
        sync(),
        query("select 'not skipped'"),
    ];
    same(ALL, &send(&messages), &then_settled("1EZTDCZ")).await;
}

/// The server knows nothing of the command that has failed: what follows it must not reach the server.
#[tokio::test(flavor = "multi_thread")]
async fn case_29_so_it_is_behind_a_command_of_the_proxys_own() {
    let large = "x".repeat(100_000);
    let messages = [
        query("select 'before'"),
        parse("", "SHOW MIRROR NONSENSE", &[]),
        query("select 'skipped'"),
        run("select 'skipped'"),
        bind("", "", &[Some(&large)]),
        query(&large),
        parse("", &large, &[]),
        query("SHOW LEASE"),
        function_call(177, &[Some("1"), Some("1")]),
        flush(),
        copy_data(&large),
        sync(),
        query("select 'not skipped'"),
        // In a batch that the server knows of.
        run("select 'first'"),
        parse("", "SHOW MIRROR NONSENSE", &[]),
        query(&large),
        sync(),
        run("select 'not skipped'"),
        sync(),
    ];
    for mode in ALL {
        for cut in [Cut::Whole, Cut::Every(4_099), Cut::Every(33_333)] {
            let heard = converse(&stage::through(*mode).await, &app(), &send(&messages), cut).await.unwrap();
            assert_eq!(heard.tags(), then_settled("TDCZEZTDCZ12DCEZ12DCZ"), "{mode:?} {cut:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_30_flush_brings_answers_and_no_ready_for_query() {
    let steps = [
        Step::Send([parse("", "select $1::int", &[]), describe_statement(""), flush()].concat()),
        Step::Await(b"T"),
        Step::Send([bind("", "", &[Some("7")]), execute("", 0), flush()].concat()),
        Step::Await(b"C"),
        Step::Send([bind("p", "", &[Some("8")]), execute("p", 0), flush()].concat()),
        Step::Await(b"C"),
        Step::Send([execute("p", 0), sync()].concat()),
        Step::Settle,
    ];
    same(ALL, &steps, &then_settled("1tT2DC2DCCZ")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_31_sync_of_an_idle_client() {
    let steps = [Step::Send(sync()), Step::Await(b"Z"), Step::Send(sync()), Step::Await(b"Z")];
    same(ALL, &steps, "ZZ").await;
    let after = [Step::Send(query("select 1")), Step::Await(b"Z"), Step::Send(sync()), Step::Await(b"Z")];
    same(ALL, &after, "TDCZZ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_32_closing_what_does_not_exist_succeeds_in_its_place() {
    let messages = [
        parse("s", "select 1", &[]),
        close_statement("not there"),
        bind("", "s", &[]),
        close_portal("not there"),
        execute("", 0),
        close_statement("s"),
        close_statement("s"),
        sync(),
    ];
    same(ALL, &send(&messages), &then_settled("1323DC33Z")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_32_a_close_at_the_front_of_a_batch_is_answered_behind_the_batch_before() {
    let steps = [
        Step::Send([parse("s", "select 1", &[]), sync()].concat()),
        Step::Await(b"Z"),
        // The failure is heard before the Sync is sent, and the Close is sent before that is answered.
        Step::Send([execute("not there", 0), flush()].concat()),
        Step::Await(b"E"),
        Step::Send([sync(), close_statement("s")].concat()),
        Step::Await(b"Z"),
        Step::Send([parse("t", "select 2", &[]), bind("", "t", &[]), execute("", 0), sync()].concat()),
        Step::Settle,
    ];
    same(ALL, &steps, &then_settled("1ZEZ312DCZ")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_33_parse_complete_comes_in_its_place() {
    let messages = [
        parse("s", "select $1::int", &[]),
        sync(),
        bind("", "s", &[Some("1")]),
        execute("", 0),
        parse("u", "select 'u'", &[]),
        bind("", "u", &[]),
        execute("", 0),
        close_statement("u"),
        parse("u", "select 'again'", &[]),
        bind("", "u", &[]),
        execute("", 0),
        sync(),
    ];
    same(ALL, &send(&messages), &then_settled("1Z2DC12DC312DCZ")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_34_a_statement_that_was_not_parsed_does_not_exist() {
    let messages = [
        parse("a", "selec", &[]),
        parse("b", "select 'b'", &[]),
        sync(),
        bind("", "a", &[]),
        sync(),
        bind("", "b", &[]),
        sync(),
        // The names are free.
        parse("a", "select 'a'", &[]),
        parse("b", "select 'b'", &[]),
        bind("", "a", &[]),
        execute("", 0),
        sync(),
    ];
    same(ALL, &send(&messages), &then_settled("EZEZEZ112DCZ")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_35_names_that_are_taken_or_unknown() {
    let messages = [
        parse("s", "select 1", &[]),
        sync(),
        parse("s", "select 2", &[]),
        query("select 'skipped'"),
        sync(),
        bind("", "not there", &[]),
        sync(),
        describe_statement("not there"),
        sync(),
        execute("not there", 0),
        sync(),
        bind("", "s", &[]),
        execute("", 0),
        sync(),
    ];
    let heard = same(ALL, &send(&messages), &then_settled("1ZEZEZEZEZ2DCZ")).await;
    let codes: Vec<String> =
        heard.frames.iter().filter(|f| f.tag == b'E').map(|f| f.body.escape_ascii().to_string()).collect();
    for (code, words) in
        [("C42P05", &codes[0]), ("C26000", &codes[1]), ("C26000", &codes[2]), ("C34000", &codes[3])]
    {
        assert!(words.contains(code), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_36_a_query_that_is_refused_as_a_message_replaces_nothing() {
    let messages = [
        run("select 'first'"),
        sync(),
        message(b'Q', b"select 'no zero'"),
        message(b'Q', b"select 'too long'\0\0"),
        bind("", "", &[]),
        execute("", 0),
        sync(),
    ];
    same(ALL, &send(&messages), &then_settled("12DCZEZEZ2DCZ")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_36_what_has_no_name_is_replaced() {
    let messages = [
        run("select 'first'"),
        sync(),
        // The unnamed statement outlives Sync, the portal does not.
        bind("", "", &[]),
        execute("", 0),
        sync(),
        execute("", 0),
        sync(),
        // A simple Query takes both away.
        parse("", "select 'second'", &[]),
        sync(),
        query("select 'simple'"),
        bind("", "", &[]),
        sync(),
        parse("", "selec", &[]),
        sync(),
        bind("", "", &[]),
        sync(),
    ];
    same(ALL, &send(&messages), &then_settled("12DCZ2DCZEZ1ZTDCZEZEZEZ")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_36_a_batch_that_fails_does_not_touch_what_the_next_one_has_made() {
    // The Parse behind the Sync is sent before the failure is heard of, its Bind after that.
    let failing = [execute("not there", 0), query("select 'skipped'"), sync()].concat();
    let steps = [
        Step::Send([failing.clone(), parse("", "select $1::int", &[])].concat()),
        Step::Await(b"Z"),
        Step::Send([bind("", "", &[Some("1")]), execute("", 0), sync()].concat()),
        Step::Await(b"Z"),
        Step::Send([parse("", "selec", &[]), sync(), failing, parse("", "select 2", &[])].concat()),
        Step::Await(b"Z"),
        Step::Await(b"Z"),
        Step::Send([bind("", "", &[]), execute("", 0), sync()].concat()),
        // A Close that is skipped has closed nothing.
        Step::Send([execute("not there", 0), close_statement(""), sync()].concat()),
        Step::Send(
            [bind("", "", &[]), execute("", 0), close_statement(""), bind("", "", &[]), sync()].concat(),
        ),
        Step::Settle,
    ];
    same(ALL, &steps, &then_settled("EZ12DCZEZEZ12DCZEZ2DC3EZ")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_35_errors_tell_the_names_that_the_client_has_given() {
    let messages = [
        parse("first", "select 1", &[]),
        sync(),
        // Closed behind the Bind that fails, and before that is known.
        bind("", "first", &[Some("1"), Some("2")]),
        close_statement("first"),
        sync(),
        // Two names of one statement.
        parse("second", "select 1", &[]),
        parse("third", "select 1", &[]),
        parse("fourth", "select 1", &[]),
        sync(),
        bind("", "third", &[Some("1")]),
        bind("", "second", &[Some("1")]),
        sync(),
        bind("", "second", &[]),
        bind("", "fourth", &[Some("1")]),
        sync(),
        bind("", "second", &[Some("1")]),
        sync(),
        // A text of the client's that looks like a name of ours.
        query("select \"cm_1\""),
    ];
    same(ALL, &send(&messages), &then_settled("1ZEZ111ZEZ2EZEZEZ")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_37_a_statement_whose_result_changes_its_type() {
    let server = stage::server().await;
    for mode in ALL {
        server
            .sql(
                "shop",
                "drop table if exists case37; create table case37 (a int); grant all on case37 to app",
            )
            .await
            .unwrap();
        let ask = || [bind("", "s", &[]), execute("", 0), sync()].concat();
        let steps = [
            Step::Send([parse("s", "select * from case37", &[]), ask()].concat()),
            Step::Await(b"Z"),
            Step::Send(query("begin; set local role none; commit")),
            Step::Await(b"Z"),
        ];
        let mut all = steps.to_vec();
        all.extend([Step::Send(ask()), Step::Await(b"Z"), Step::Send(ask()), Step::Await(b"Z")]);
        let changed = [Step::Send(query("alter table case37 add b int")), Step::Await(b"Z")];
        server.sql("shop", "alter table case37 owner to app").await.unwrap();
        all.splice(4..4, changed);
        let heard = converse(&stage::through(*mode).await, &app(), &all, Cut::Whole).await.unwrap();
        // As without us: the error, and the statement goes on failing until it is parsed anew. A link that
        // changes hands may just have parsed it.
        let again = heard.tags().replace('N', "");
        assert!(again.starts_with("12CZCCCZCZ"), "{mode:?}: {again}");
        if *mode != Mode::Session && !again.contains('E') {
            continue;
        }
        assert!(
            again.ends_with("EZEZ") || *mode != Mode::Session && again.contains("EZ2"),
            "{mode:?}: {again}"
        );
        let words = heard.frames.iter().find(|f| f.tag == b'E').unwrap().body.escape_ascii().to_string();
        assert!(
            words.contains("0A000") && words.contains("cached plan must not change result type"),
            "{words}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_38_a_portal_is_read_in_portions() {
    let text = "select g from generate_series(1, 5) g";
    let messages = [
        parse("", text, &[]),
        bind("p", "", &[]),
        execute("p", 2),
        execute("p", 2),
        flush(),
        execute("p", 2),
        sync(),
        query("begin"),
        parse("", text, &[]),
        bind("p", "", &[]),
        execute("p", 2),
        sync(),
        query("select 'between'"),
        execute("p", 2),
        sync(),
        query("commit"),
        execute("p", 2),
        sync(),
    ];
    same(ALL, &send(&messages), &then_settled("12DDsDDsDCZCZ12DDsZTDCZDDsZCZEZ")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_39_more_statements_than_are_kept_in_one_pipeline() {
    let mut messages = Vec::new();
    let mut tags = String::new();
    for n in 0..300 {
        messages.push(parse(&format!("s{n}"), &format!("select {n}"), &[]));
        tags.push('1');
    }
    messages.push(sync());
    tags.push('Z');
    for n in [0, 299, 150, 0] {
        messages.extend([bind("", &format!("s{n}"), &[]), execute("", 0)]);
        tags.push_str("2DC");
    }
    messages.extend([
        run("select 1/0"),
        bind("", "s1", &[]),
        sync(),
        bind("", "s1", &[]),
        execute("", 0),
        sync(),
    ]);
    tags.push_str("1EZ2DCZ");
    same(ALL, &send(&messages), &then_settled(&tags)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_40_discard_all_and_deallocate_all_forget_statements() {
    for forget in
        ["discard all", "deallocate all", "select 1; deallocate all; select 2", "DEALLOCATE PREPARE ALL"]
    {
        let steps = [
            Step::Send([parse("s", "select 1", &[]), sync()].concat()),
            Step::Await(b"Z"),
            Step::Send(query(forget)),
            Step::Await(b"Z"),
            Step::Send([bind("", "s", &[]), sync()].concat()),
            Step::Await(b"Z"),
            Step::Send([parse("s", "select 2", &[]), bind("", "s", &[]), execute("", 0), sync()].concat()),
            Step::Await(b"Z"),
        ];
        let tags = if forget.starts_with("select") { "TDCCTDC" } else { "C" };
        same(ALL, &steps, &format!("1Z{tags}ZEZ12DCZ")).await;
    }
}

/// In the pooled modes they do not: what PREPARE has made keeps its name to itself.
#[tokio::test(flavor = "multi_thread")]
async fn case_41_execute_finds_what_the_protocol_has_prepared() {
    let mut messages = vec![
        parse("x", "select $1::int + 1", &[]),
        parse("X y", "select 'in quotes'", &[]),
        // Not there any more on a link that keeps 200.
        sync(),
    ];
    let mut tags = "11Z".to_owned();
    for n in 0..250 {
        messages.push(parse(&format!("s{n}"), &format!("select {n}"), &[]));
        tags.push('1');
    }
    messages.extend([
        sync(),
        query("execute x(41)"),
        query("/* again */ EXECUTE X (41); select 'behind'"),
        query("execute \"X y\""),
        query("begin"),
        query("execute s0"),
        query("execute s1"),
        query("execute x"),
        query("execute s1"),
        query("rollback"),
        query("execute nobody"),
        query("execute \"x y\""),
        bind("", "x", &[Some("1")]),
        execute("", 0),
        sync(),
        // In a batch, which the server skips.
        bind("", "nobody", &[]),
        query("execute s2"),
        sync(),
        query("execute s249"),
    ]);
    tags.push_str("ZTDCZTDCTDCZTDCZCZTDCZTDCZEZEZCZEZEZ2DCZEZTDCZ");
    same(ALL, &send(&messages), &then_settled(&tags)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_41_so_does_execute_by_the_protocol_and_in_explain() {
    let run = |name: &str| [bind("", name, &[]), execute("", 0)].concat();
    let messages = [
        parse("x", "select $1::int + 1 as n", &[]),
        parse("y", "select 'why'", &[]),
        sync(),
        query("explain (costs off) execute x(41)"),
        query("EXPLAIN (analyze, costs off, timing off, summary off) EXECUTE \"y\""),
        query("explain execute nobody"),
        // Without a name, and with one.
        parse("", "execute x(41)", &[]),
        describe_statement(""),
        run(""),
        run(""),
        sync(),
        run(""),
        parse("e", "execute y", &[]),
        describe_statement("e"),
        sync(),
        run("e"),
        run("e"),
        parse("", "explain (costs off) execute y", &[]),
        describe_statement(""),
        run(""),
        sync(),
        // The name means what it means when it is executed.
        close_statement("y"),
        run("e"),
        sync(),
        parse("y", "select 'because'", &[]),
        run("e"),
        sync(),
        run("e"),
        parse("", "execute x", &[]),
        run(""),
        sync(),
        parse("", "execute nobody", &[]),
        run(""),
        sync(),
        parse("gone", "select * from no_such_table", &[]),
        parse("", "execute gone", &[]),
        run(""),
        sync(),
        // In a transaction that has failed.
        query("begin; select 1/0"),
        run("e"),
        sync(),
        query("rollback"),
        query("begin"),
        query("create temp table made on commit drop as execute x(1)"),
        query("table made"),
        run("e"),
        sync(),
        query("rollback"),
    ];
    let tags = "11ZTDCZTDCZEZ1tT2DC2DCZ2DC1tTZ2DC2DC1tT2DCZ32EZ12DCZ2DC12EZ12EZEZCEZEZCZCZCZTDCZ2DCZCZ";
    same(ALL, &send(&messages), &then_settled(tags)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_41_prepare_and_parse_share_their_names() {
    let messages = [
        query("prepare x as select 'by sql'"),
        bind("", "x", &[]),
        execute("", 0),
        sync(),
        parse("x", "select 'by protocol'", &[]),
        sync(),
        query("deallocate x"),
        parse("x", "select 'by protocol'", &[]),
        sync(),
        query("execute x"),
        query("deallocate x"),
        bind("", "x", &[]),
        sync(),
    ];
    same(&[Mode::Session], &send(&messages), &then_settled("CZ2DCZEZCZ1ZTDCZCZEZ")).await;
}
