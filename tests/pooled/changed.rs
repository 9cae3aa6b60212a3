//! Tables that change under prepared statements. A client that was told of a result reads the rows by it: it
//! hears what the server says directly, also where its statement is made on a connection only then.

use crate::raw::{Message, Raw, bind, close, describe, describe_portal, execute, parse, query, shown, sync};
use crate::stage::{one_connection, server};

const MODES: [&str; 3] = ["transaction", "auto", "statement"];

/// What one client does.
enum Turn {
    /// Messages, and a Sync behind them.
    Batch(Vec<Vec<u8>>),
    /// A simple query.
    Query(&'static str),
    /// The owner does this meanwhile.
    Owner(&'static str),
    /// Another client does this.
    Other(Vec<Vec<u8>>),
    /// Another client does `DISCARD ALL`: what comes next finds a connection without statements.
    Moved,
}

/// Types of messages, the rows, and what errors say but for the place in the server's source.
fn essence(messages: &[Message]) -> String {
    let mut said = String::new();
    for (tag, body) in messages.iter().filter(|(tag, _)| !matches!(tag, b'S' | b'N')) {
        said.push(*tag as char);
        match tag {
            b'T' | b'D' | b'Z' | b'C' => said += &format!("({})", body.escape_ascii()),
            b'E' => {
                let is_aborted = body.windows(6).any(|field| field == b"C25P02");
                let fields = body.split(|byte| *byte == 0).map(String::from_utf8_lossy);
                let shown = fields.filter(|field| field.starts_with(['S', 'V', 'C', 'M', 'R']));
                let mut shown: Vec<_> = shown.collect();
                // In a failed transaction a Parse of ours is refused instead of the client's Bind.
                shown.retain(|field| !is_aborted || !field.starts_with('R'));
                said += &format!("({})", shown.join(" "));
            }
            _ => {}
        }
    }
    said + "\n"
}

async fn talk(port: u16, turns: &[Turn]) -> String {
    let mut client = Raw::log_in(port).await;
    let mut other = Raw::log_in(port).await;
    let mut said = String::new();
    for turn in turns {
        match turn {
            Turn::Batch(parts) => {
                client.send(&[parts.concat(), sync()].concat()).await;
                said += &essence(&client.answers(1).await);
            }
            Turn::Query(text) => said += &essence(&client.query(text).await),
            Turn::Owner(text) => {
                server().await.sql("shop", text).await.unwrap();
            }
            Turn::Other(parts) => {
                other.send(&[parts.concat(), sync()].concat()).await;
                other.answers(1).await;
            }
            Turn::Moved => {
                other.query("discard all").await;
            }
        }
    }
    said
}

/// The same directly, where the client keeps its connection, and in each mode.
async fn check(modes: &[&str], table: &'static str, turns: &[Turn]) -> String {
    let made = format!("create table {table} (a int, b text); insert into {table} values (1, 'one')");
    let make = format!("drop table if exists {table}; {made}; alter table {table} owner to app");
    let server = server().await;
    server.sql("shop", &make).await.unwrap();
    let oid = async || {
        let mut raw = Raw::log_in(server.port()).await;
        let oid = raw.value(&format!("select '{table}'::regclass::oid")).await.parse::<u32>().unwrap();
        oid.to_be_bytes().escape_ascii().to_string()
    };
    let table_oid = oid().await;
    let expected = talk(server.port(), turns).await.replace(&table_oid, "oid");
    for mode in modes {
        server.sql("shop", &make).await.unwrap();
        let table_oid = oid().await;
        let proxy = one_connection(mode).await;
        let said = talk(proxy.port(), turns).await.replace(&table_oid, "oid");
        assert_eq!(said, expected, "{mode}");
    }
    expected
}

fn ask(name: &str) -> Turn {
    Turn::Batch(vec![bind(name, &[]), execute()])
}

const CHANGED: &str = "C0A000 Mcached plan must not change result type";

/// Case 37 of the list of protocol cases.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_told_of_a_result_hears_that_it_has_changed_and_prepares_anew() {
    let changes = [
        "alter table changed_1 add c int default 7",
        "alter table changed_1 drop column b",
        "alter table changed_1 alter a type bigint",
        "alter table changed_1 rename a to c",
        "alter table changed_1 alter b type varchar(7)",
    ];
    for change in changes {
        let turns = [
            Turn::Batch(vec![parse("s", "select * from changed_1"), describe("s")]),
            ask("s"),
            Turn::Owner(change),
            Turn::Moved,
            ask("s"),
            // It goes on failing until it is prepared anew.
            Turn::Moved,
            ask("s"),
            ask("s"),
            Turn::Batch(vec![close("s"), parse("s", "select * from changed_1"), describe("s")]),
            ask("s"),
            Turn::Moved,
            ask("s"),
            Turn::Batch(vec![parse("t", "select * from changed_1"), describe("t")]),
            ask("t"),
        ];
        let said = check(&MODES, "changed_1", &turns).await;
        assert_eq!(said.matches(CHANGED).count(), 3, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_of_any_number_of_columns_is_compared() {
    // More than 100 kB of description.
    const WIDEN: &str = "do $$ begin execute (select 'alter table changed_10 '
        || string_agg(format('add %I text', repeat('c', 55) || n), ', ') from generate_series(1, 1500) n); end $$";
    let text = "select * from changed_10";
    for (change, changed) in [("alter table changed_10 alter a type bigint", 2), ("analyze changed_10", 0)] {
        let turns = [
            Turn::Owner(WIDEN),
            Turn::Batch(vec![parse("s", text), describe("s")]),
            ask("s"),
            Turn::Owner(change),
            Turn::Moved,
            ask("s"),
            Turn::Moved,
            ask("s"),
            Turn::Batch(vec![parse("", text), describe("")]),
            ask(""),
        ];
        let said = check(&MODES, "changed_10", &turns).await;
        assert_eq!(said.matches(CHANGED).count(), changed, "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_description_of_a_portal_counts_as_well() {
    // As JDBC does it: described with the first execution.
    let turns = [
        Turn::Batch(vec![
            parse("s", "select * from changed_2"),
            bind("s", &[]),
            describe_portal(),
            execute(),
        ]),
        Turn::Moved,
        ask("s"),
        Turn::Owner("alter table changed_2 add c int"),
        Turn::Moved,
        ask("s"),
        Turn::Batch(vec![close("s"), parse("u", "select * from changed_2"), bind("u", &[])]),
        Turn::Batch(vec![bind("u", &[]), describe_portal(), execute()]),
        Turn::Moved,
        ask("u"),
    ];
    let said = check(&MODES, "changed_2", &turns).await;
    assert_eq!(said.matches(CHANGED).count(), 1, "{said}");
}

/// PostgreSQL holds the statement without a name to its result as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_without_a_name_is_held_to_what_was_told_of_it() {
    let text = "select * from changed_8";
    let describes = || Turn::Batch(vec![parse("", text), describe("")]);
    let turns = [
        describes(),
        Turn::Moved,
        // As lib/pq does it: one batch describes, the next one executes.
        ask(""),
        ask(""),
        describes(),
        Turn::Owner("alter table changed_8 add c int default 7"),
        Turn::Moved,
        ask(""),
        Turn::Moved,
        ask(""),
        ask(""),
        // Prepared anew it is another one.
        describes(),
        ask(""),
        Turn::Moved,
        ask(""),
        // Another client has made the same text, behind the change.
        Turn::Owner("alter table changed_8 drop column c"),
        Turn::Other(vec![parse("", text), describe(""), bind("", &[]), execute()]),
        ask(""),
        describes(),
        ask(""),
        // Nobody has been told of this one.
        Turn::Batch(vec![parse("", text)]),
        Turn::Moved,
        ask(""),
        Turn::Batch(vec![bind("", &[]), describe_portal(), execute()]),
        // What has a name is another one, though it has the same text.
        describes(),
        Turn::Batch(vec![parse("s", text), describe("s")]),
        Turn::Moved,
        ask("s"),
        ask(""),
    ];
    let said = check(&["transaction", "auto"], "changed_8", &turns).await;
    assert_eq!(said.matches(CHANGED).count(), 4, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_transaction_the_error_ends_it() {
    let change = |then| {
        vec![
            Turn::Batch(vec![parse("s", "select * from changed_3"), describe("s")]),
            Turn::Batch(vec![parse("n", "select 5"), describe("n")]),
            Turn::Moved,
            Turn::Query("begin"),
            ask("n"),
            Turn::Query(then),
            Turn::Batch(vec![bind("n", &[]), execute(), bind("s", &[]), execute(), parse("u", "select 6")]),
            ask("n"),
            ask("s"),
            Turn::Query("rollback"),
            // What was skipped is not there.
            ask("u"),
            ask("n"),
        ]
    };
    // What was rolled back has not changed anything.
    let mut turns = change("alter table changed_3 add c int");
    turns.extend([ask("s"), Turn::Moved, ask("s")]);
    let said = check(&["transaction", "auto"], "changed_3", &turns).await;
    assert_eq!(said.matches(CHANGED).count(), 1, "{said}");
    let mut turns = change("select 1");
    turns.insert(2, Turn::Owner("alter table changed_3 add c int"));
    turns.extend([
        ask("s"),
        Turn::Batch(vec![close("s"), parse("s", "select * from changed_3"), describe("s")]),
        Turn::Query("begin"),
        ask("s"),
        Turn::Query("commit"),
        Turn::Moved,
        ask("s"),
    ]);
    let said = check(&["transaction", "auto"], "changed_3", &turns).await;
    assert_eq!(said.matches(CHANGED).count(), 2, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_changed_is_answered_in_its_place() {
    let many = || {
        Turn::Batch(vec![
            bind("n", &[]),
            execute(),
            bind("s", &[]),
            execute(),
            parse("v", "select 'v'"),
            bind("w", &[]),
            execute(),
            bind("v", &[]),
            execute(),
            close("v"),
        ])
    };
    let turns = [
        Turn::Batch(vec![parse("s", "select * from changed_4"), describe("s")]),
        Turn::Batch(vec![parse("n", "select 5 as n"), describe("n")]),
        Turn::Batch(vec![parse("w", "update changed_4 set a = a"), describe("w")]),
        many(),
        Turn::Moved,
        many(),
        many(),
        Turn::Moved,
        ask("s"),
        Turn::Owner("alter table changed_4 add constraint c check (a > 0), alter b set default 'x'"),
        Turn::Moved,
        many(),
        Turn::Owner("drop table changed_4"),
        Turn::Moved,
        many(),
        ask("n"),
    ];
    let said = check(&MODES, "changed_4", &turns).await;
    assert_eq!(said.matches("C42P01").count(), 1, "{said}");
}

/// A statement that many have, on many connections: whoever prepares anew gets the new result, and nobody
/// fails for ever.
#[tokio::test(flavor = "multi_thread")]
async fn all_clients_of_a_statement_come_through() {
    let server = server().await;
    for mode in MODES {
        let make = "drop table if exists changed_5; create table changed_5 (a int, b text); \
                    insert into changed_5 values (1, 'one'); alter table changed_5 owner to app";
        server.sql("shop", make).await.unwrap();
        let proxy = crate::stage::proxy(&[("pool.mode", mode), ("pool.size", "4")]).await;
        let prepare = |name: &str| [parse(name, "select * from changed_5"), describe(name), sync()].concat();
        let row = [bind("s", &[]), execute(), sync()].concat();
        let mut clients = Vec::new();
        for _ in 0..12 {
            let mut client = Raw::log_in(proxy.port()).await;
            client.send(&prepare("s")).await;
            client.answers(1).await;
            clients.push(client);
        }
        for client in &mut clients {
            client.send(&row).await;
        }
        for client in &mut clients {
            assert!(essence(&client.answers(1).await).starts_with("2D(\\x00\\x02"));
        }
        server.sql("shop", "alter table changed_5 add c int default 7").await.unwrap();
        for round in 0..6 {
            for client in &mut clients {
                client.send(&row).await;
            }
            for client in &mut clients {
                let said = essence(&client.answers(1).await);
                match round {
                    // Nobody has prepared anew.
                    0 => assert!(said.contains(CHANGED), "{mode}: {said}"),
                    _ if said.contains(CHANGED) => {}
                    _ => assert!(said.starts_with("2D(\\x00\\x03"), "{mode}, round {round}: {said}"),
                }
                if !said.contains(CHANGED) {
                    continue;
                }
                assert!(round < 4, "{mode}: it fails for ever");
                client.send(&[close("s"), prepare("s")].concat()).await;
                let said = client.answers(1).await;
                assert!(said.iter().all(|(tag, _)| *tag != b'E'), "{mode}: {}", shown(&said));
            }
        }
    }
}

/// Who prepares for the first time what others have made on the connection before the change hears of it once.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_client_hears_it_once_at_most() {
    let server = server().await;
    let make = "drop table if exists changed_7; create table changed_7 (a int); \
                insert into changed_7 values (1); alter table changed_7 owner to app";
    for mode in MODES {
        server.sql("shop", make).await.unwrap();
        let proxy = one_connection(mode).await;
        let prepare = [parse("s", "select * from changed_7"), describe("s"), sync()].concat();
        let mut first = Raw::log_in(proxy.port()).await;
        first.send(&prepare).await;
        first.answers(1).await;
        server.sql("shop", "alter table changed_7 add b int").await.unwrap();
        let mut heard = 0;
        for _ in 0..3 {
            let mut client = Raw::log_in(proxy.port()).await;
            client.send(&prepare).await;
            let said = essence(&client.answers(1).await);
            heard += said.matches(CHANGED).count();
            if said.contains(CHANGED) {
                client.send(&[close("s"), prepare.clone()].concat()).await;
                client.answers(1).await;
            }
            client.send(&[bind("s", &[]), execute(), sync()].concat()).await;
            let said = essence(&client.answers(1).await);
            assert!(said.starts_with("2D(\\x00\\x02"), "{mode}: {said}");
        }
        assert!(heard <= 1, "{mode}: {heard}");
    }
}

/// Who is told of the result with every execution is never asked to prepare anew by us.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_each_time_goes_on() {
    for mode in MODES {
        let server = server().await;
        let make = "drop table if exists changed_6; create table changed_6 (a int); \
                    insert into changed_6 values (1); alter table changed_6 owner to app";
        server.sql("shop", make).await.unwrap();
        let proxy = one_connection(mode).await;
        let mut client = Raw::log_in(proxy.port()).await;
        let mut other = Raw::log_in(proxy.port()).await;
        client.send(&[parse("s", "select * from changed_6"), sync()].concat()).await;
        client.answers(1).await;
        for columns in 1..4 {
            client.send(&[bind("s", &[]), describe_portal(), execute(), sync()].concat()).await;
            let said = essence(&client.answers(1).await);
            assert!(said.starts_with(&format!("2T(\\x00\\x0{columns}")), "{mode}: {said}");
            assert!(said.contains(&format!("D(\\x00\\x0{columns}")), "{mode}: {said}");
            server.sql("shop", &format!("alter table changed_6 add c{columns} int")).await.unwrap();
            other.send(&query("discard all")).await;
            other.answers(1).await;
        }
    }
}
