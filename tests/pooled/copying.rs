//! COPY that is cancelled while its client goes on sending: whether a Sync before the data was ignored shows only
//! in what comes back, and everything has to come back at its place.

use crate::raw::{Message, Raw, bind, close, execute, parse, query, sync};
use crate::stage::{PATIENCE, one_connection, server};
use cloud_mirror::lab::eventually;

/// Types of messages, with the codes of errors.
fn essence(messages: &[Message]) -> String {
    let mut said = String::new();
    for (tag, body) in messages.iter().filter(|(tag, _)| !matches!(tag, b'S' | b'N')) {
        said.push(*tag as char);
        if *tag == b'E' {
            let code = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&b'C'));
            said += &String::from_utf8_lossy(code.unwrap_or_default());
        }
    }
    said
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

/// Copies `rows`, is cancelled, and sends the rest of its conversation at once.
async fn talk(port: u16, table: &str, rows: u64, rest: &[Vec<u8>]) -> String {
    let server = server().await;
    let mut client = Raw::log_in(port).await;
    client.query(&format!("drop table if exists {table}; create table {table} (n int)")).await;
    let copy = format!("copy {table} from stdin");
    client.send(&[parse("s", &copy), parse("t", "select 1"), sync()].concat()).await;
    client.answers(1).await;
    client.send(&[bind("s", &[]), execute(), sync()].concat()).await;
    assert_eq!(essence(&client.messages(2).await), "2G");
    for _ in 0..rows {
        client.send(&message(b'd', b"1\n")).await;
    }
    let cancel = format!(
        "select pg_cancel_backend(pid) from pg_stat_progress_copy join pg_stat_activity using (pid)
        where relid = '{table}'::regclass and tuples_processed = {rows} and wait_event = 'ClientRead'"
    );
    eventually(PATIENCE, async || {
        let cancelled = server.query("shop", &cancel).await.map_err(|error| error.to_string())?;
        if cancelled.is_empty() { Err("it has not read them".into()) } else { Ok(()) }
    })
    .await;
    // It looks up only when it has read something.
    let last = [message(b'd', b"1\n"), message(b'f', b"no more\0"), sync()].concat();
    client.send(&[last, rest.concat(), query("select 7")].concat()).await;
    let endings = 2 + rest.iter().filter(|part| part.ends_with(&sync())).count();
    let said = essence(&client.answers(endings).await);
    said + " " + &client.value("select count(*) from pg_prepared_statements where from_sql").await
}

async fn check(table: &str, rows: u64, rest: &[Vec<u8>]) {
    let expected = talk(server().await.port(), table, rows, rest).await;
    for mode in ["session", "auto", "transaction"] {
        let proxy = one_connection(mode).await;
        assert_eq!(talk(proxy.port(), table, rows, rest).await, expected, "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_behind_a_cancelled_copy_is_answered_at_its_place() {
    for rows in [0, 1, 5] {
        check("copying_1", rows, &[[close("s"), sync()].concat()]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parse_behind_a_cancelled_copy_is_answered_at_its_place() {
    for rows in [0, 1, 5] {
        let batch = [parse("u", "select 1"), bind("u", &[]), execute(), close("t"), sync()].concat();
        check("copying_2", rows, &[batch.clone(), [bind("u", &[]), execute(), sync()].concat()]).await;
    }
}
