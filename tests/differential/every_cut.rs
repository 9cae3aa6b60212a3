//! A few conversations, cut at each of their bytes.

use crate::raw::Step;
use crate::raw::message::*;
use crate::raw::stage::Mode;
use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_at_any_byte_changes_nothing() {
    let stage = Stage::start(Mode::Session, 1).await;
    let batches = [
        query("select 1; select 2"),
        parse("s", "select $1::int4", &[]),
        bind("", "s", &[Some("42")]),
        describe_portal(""),
        execute("", 0),
        sync(),
        parse("", "select broken syntax here", &[]),
        bind("", "", &[]),
        query("select 'skipped'"),
        sync(),
        query("set my.x = '1'"),
        function_call(177, &[Some("2"), Some("3")]),
    ]
    .concat();
    stage.compare_at_every_cut(&[Step::Send(batches), Step::Settle]).await;
    let copies = [
        query("copy t from stdin"),
        copy_data("7\tseven\t\\N\n"),
        sync(),
        copy_done(),
        parse("", "copy t from stdin", &[]),
        bind("", "", &[]),
        execute("", 0),
        sync(),
        copy_data("8\teight\t1\n"),
        query("select 'an offence'"),
        sync(),
        query("select count(*) from t"),
    ]
    .concat();
    stage.compare_at_every_cut(&[Step::Send(copies), Step::Settle]).await;
}
