//! Sessions whose statements must not be sent, or whose link is lost at a bad moment. The test plays
//! the controller.

use crate::fixture::{Fixture, Options};
use cloud_mirror::auth::Method;
use cloud_mirror::backend::tls::ServerTls;
use cloud_mirror::backend::{Address, Endpoint, Upstream};
use cloud_mirror::base::{Epoch, Moment, Site};
use cloud_mirror::config::Pool;
use cloud_mirror::lab::{SocketAuth, eventually, eventually_true};
use cloud_mirror::pool::Settings;
use cloud_mirror::route::Door;
use cloud_mirror::session::Verdict;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn code(error: &tokio_postgres::Error) -> String {
    error.code().map_or_else(|| format!("{error:?}"), |code| code.code().to_owned())
}

async fn one_server() -> Fixture {
    let f = Fixture::start(Options { judge: Arc::new(|_| Verdict::Lost), ..Options::default() }).await;
    f.local.sql("shop", "create table t (v text); grant all on t to app").await.unwrap();
    f
}

fn close(f: &Fixture) {
    f.shared.routes.change(|map| map.door = Door::Closed { reason: "the writer is not available".into() });
}

fn open(f: &Fixture) {
    f.shared.routes.change(|map| map.door = Door::Open);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_door_refuses_sessions_that_still_have_their_link() {
    let f = one_server().await;
    let client = f.client().await;
    client.batch_execute("create temp table mine (v int)").await.unwrap();
    close(&f);
    let refused =
        tokio::time::timeout(Duration::from_secs(60), client.batch_execute("insert into t values ('x')"));
    assert_eq!(code(&refused.await.expect("it is told").unwrap_err()), "57P03");
    open(&f);
    // On the same link: what it has made is there.
    client.batch_execute("insert into mine values (1); insert into t values ('y')").await.unwrap();
    assert_eq!(f.local.value("shop", "select string_agg(v, ',') from t").await.unwrap(), "y");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_door_aborts_a_transaction_that_still_has_its_link() {
    let f = one_server().await;
    let client = f.client().await;
    client.batch_execute("begin; insert into t values ('lost')").await.unwrap();
    close(&f);
    let refused =
        tokio::time::timeout(Duration::from_secs(60), client.batch_execute("insert into t values ('x')"));
    assert_eq!(code(&refused.await.expect("it is told").unwrap_err()), "40001");
    let committed = client.simple_query("commit").await.unwrap();
    assert_eq!(committed.len(), 1);
    open(&f);
    client.batch_execute("insert into t values ('y')").await.unwrap();
    assert_eq!(f.local.value("shop", "select string_agg(v, ',') from t").await.unwrap(), "y");
}

#[tokio::test(flavor = "multi_thread")]
async fn our_commands_are_answered_while_statements_are_held() {
    let f = one_server().await;
    let client = f.client().await;
    f.shared.routes.change(|map| map.door = Door::Holding);
    for _ in 0..2 {
        let asked = tokio::time::timeout(Duration::from_secs(60), client.query("SHOW EVENTS", &[]));
        assert_eq!(asked.await.expect("an answer").unwrap().len(), 1);
    }
    let held = client.batch_execute("insert into t values ('x')");
    let opening = async {
        eventually_true(Duration::from_secs(60), "the statement is held", || f.counted("holds") > 0).await;
        open(&f);
    };
    let (held, ()) = tokio::join!(held, opening);
    held.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_is_not_refused_for_a_gate_that_was_shut_before() {
    let f = Fixture::start(Options { hold_timeout: Duration::from_millis(100), ..Options::default() }).await;
    let listening = f.client().await;
    listening.batch_execute("listen news").await.unwrap();
    let other = f.client().await;
    f.shared.routes.gate().close();
    // The server says something to a session that has not asked.
    f.local.sql("shop", "notify news").await.unwrap();
    for _ in 0..3 {
        let refused = other.batch_execute("select 1").await.unwrap_err();
        assert_eq!(code(&refused), "57P03");
    }
    f.shared.routes.gate().open_until(Moment::NEVER);
    open(&f);
    listening.batch_execute("select 1").await.unwrap();
    other.batch_execute("select 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_of_a_lost_transaction_does_not_come_back() {
    let f = one_server().await;
    let client = f.client().await;
    let next_life = || f.shared.routes.change(|map| map.life += 1);
    client.batch_execute("begin").await.unwrap();
    client.batch_execute("set my.tenant = 'lost'").await.unwrap();
    next_life();
    assert_eq!(code(&client.batch_execute("select 1").await.unwrap_err()), "40001");
    client.batch_execute("rollback").await.unwrap();
    client.batch_execute("select 1").await.unwrap();
    next_life();
    let row = client.query_one("select coalesce(current_setting('my.tenant', true), '')", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_does_not_wait_for_a_server_that_was_switched_away_from() {
    // The old server would be waited for so long.
    let limits = Pool { server_connect_timeout: Duration::from_secs(600), ..Pool::default() };
    let pool = Settings { limits, ..Settings::default() };
    let f = Fixture::start(Options { with_cloud: true, pool, ..Options::default() }).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp { host: "127.0.0.1".into(), port: silent.local_addr().unwrap().port() };
    let endpoint = Endpoint { address, tls: ServerTls::disabled() };
    f.shared.routes.change(|map| map.local = Arc::new(Upstream { endpoints: vec![endpoint] }));
    let url = f.url();
    let logging_in =
        tokio::spawn(async move { tokio_postgres::connect(&url, tokio_postgres::NoTls).await.map(drop) });
    let accepted = tokio::time::timeout(Duration::from_secs(60), silent.accept()).await.unwrap();
    f.shared.routes.change(|map| {
        map.writer = Site::Cloud;
        map.epoch = Epoch(2);
    });
    let done = tokio::time::timeout(Duration::from_secs(60), logging_in).await;
    done.expect("it does not wait for the old server").unwrap().unwrap();
    drop(accepted);
}

fn raw_options() -> Options {
    Options {
        method: Method::Trust,
        socket_auth: SocketAuth::Trust,
        judge: Arc::new(|_| Verdict::Lost),
        ..Options::default()
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Whole messages up to `tag`.
async fn read_to(stream: &mut TcpStream, tag: u8) -> Vec<(u8, Vec<u8>)> {
    let reading = async {
        let mut frames = Vec::new();
        loop {
            let kind = stream.read_u8().await.expect("a message");
            let length = stream.read_u32().await.unwrap() as usize;
            let mut body = vec![0; length - 4];
            stream.read_exact(&mut body).await.unwrap();
            frames.push((kind, body));
            if kind == tag {
                return frames;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reading).await.expect("an answer")
}

/// A raw connection, and its cancel key.
async fn connected(f: &Fixture, parameters: &[u8]) -> (TcpStream, (i32, Vec<u8>)) {
    let mut body = b"\0\x03\0\0user\0app\0database\0shop\0".to_vec();
    body.extend(parameters);
    body.push(0);
    let mut stream = TcpStream::connect(("127.0.0.1", f.port)).await.unwrap();
    stream.write_u32(body.len() as u32 + 4).await.unwrap();
    stream.write_all(&body).await.unwrap();
    let welcome = read_to(&mut stream, b'Z').await;
    let (_, key) = welcome.iter().find(|(tag, _)| *tag == b'K').expect("BackendKeyData");
    let pid = i32::from_be_bytes(key[..4].try_into().unwrap());
    (stream, (pid, key[4..].to_vec()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_ours_in_the_middle_of_copy_is_the_servers_to_refuse() {
    let f = Fixture::start(raw_options()).await;
    f.local.sql("shop", "create table t (v text); grant all on t to app").await.unwrap();
    for is_pipelined in [false, true] {
        let (mut stream, _) = connected(&f, b"").await;
        let copy = message(b'Q', b"copy t from stdin\0");
        let ours = message(b'Q', b"SHOW EVENTS\0");
        if is_pipelined {
            stream.write_all(&[copy, ours].concat()).await.unwrap();
        } else {
            stream.write_all(&copy).await.unwrap();
            read_to(&mut stream, b'G').await;
            stream.write_all(&ours).await.unwrap();
        }
        // The server has lost its place among the messages, and ends the session.
        let answers = read_to(&mut stream, b'E').await;
        let text = String::from_utf8_lossy(&answers.last().unwrap().1).into_owned();
        assert!(text.contains("08P01") && text.contains("COPY"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_with_a_cancel_on_its_way_is_not_used_again() {
    let f = Fixture::start(raw_options()).await;
    for (is_cancelled, idle) in [(true, 0), (false, 1)] {
        let (mut stream, (pid, secret)) = connected(&f, b"").await;
        // The session has begun once it answers.
        stream.write_all(&message(b'Q', b"select 1\0")).await.unwrap();
        read_to(&mut stream, b'Z').await;
        let cancel = f.shared.cancels.find(pid, &secret).expect("a target");
        let cancel = is_cancelled.then_some(cancel);
        stream.write_all(&message(b'X', b"")).await.unwrap();
        eventually(Duration::from_secs(60), async || match f.shared.pool.count() {
            (0, found) if found == idle => Ok(()),
            other => Err(format!("{other:?}").into()),
        })
        .await;
        drop(cancel);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_connection_does_not_move() {
    let f = Fixture::start(raw_options()).await;
    f.local.sql("postgres", "alter role app replication").await.unwrap();
    let (mut stream, _) = connected(&f, b"replication\0database\0").await;
    stream.write_all(&message(b'Q', b"IDENTIFY_SYSTEM\0")).await.unwrap();
    read_to(&mut stream, b'Z').await;
    f.shared.routes.change(|map| map.life += 1);
    let last = read_to(&mut stream, b'E').await;
    let text = String::from_utf8_lossy(&last.last().unwrap().1).into_owned();
    assert!(text.contains("57P01") && text.contains("replication"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warning_that_a_function_raises_ends_nothing() {
    let f = Fixture::start(Options { judge: Arc::new(|s| panic!("{s:?}")), ..Options::default() }).await;
    let client = f.client().await;
    let raise = "do $$ begin raise warning 'x' using errcode = '57P01'; end $$";
    client.batch_execute(raise).await.unwrap();
    client.batch_execute("select 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_waits_can_be_cancelled() {
    let f = one_server().await;
    for is_linked in [true, false] {
        let client = f.client().await;
        client.batch_execute("select 1").await.unwrap();
        f.shared.routes.change(|map| {
            map.door = Door::Holding;
            map.life += u64::from(!is_linked);
        });
        let token = client.cancel_token();
        let held = f.counted("holds");
        let waiting = client.batch_execute("insert into t values ('x')");
        let cancelling = async {
            eventually_true(Duration::from_secs(60), "it waits", || f.counted("holds") > held).await;
            token.cancel_query(tokio_postgres::NoTls).await.unwrap();
        };
        let both = async { tokio::join!(waiting, cancelling).0 };
        let waited = tokio::time::timeout(Duration::from_secs(60), both).await.expect("it is told");
        assert_eq!(code(&waited.unwrap_err()), "57014");
        open(&f);
        client.batch_execute("insert into t values ('y')").await.unwrap();
    }
    assert_eq!(f.local.value("shop", "select string_agg(v, ',') from t").await.unwrap(), "y,y");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_sends_every_session_away_at_the_end_of_its_transaction() {
    let f = Fixture::start(raw_options()).await;
    let next_life = || f.shared.routes.change(|map| map.life += 1);
    let query = |text: &str| message(b'Q', format!("{text}\0").as_bytes());
    // One whose transaction was lost, and one that has no link any more and waits for one.
    let (mut lost, _) = connected(&f, b"").await;
    lost.write_all(&query("begin")).await.unwrap();
    read_to(&mut lost, b'Z').await;
    next_life();
    lost.write_all(&query("select 1")).await.unwrap();
    let refused = read_to(&mut lost, b'Z').await;
    assert!(String::from_utf8_lossy(&refused[0].1).contains("40001"));
    f.shared.routes.change(|map| map.door = Door::Holding);
    let held = f.counted("holds");
    let (mut unlinked, _) = {
        open(&f);
        let connected = connected(&f, b"").await;
        f.shared.routes.change(|map| map.door = Door::Holding);
        next_life();
        connected
    };
    unlinked.write_all(&query("select 1")).await.unwrap();
    eventually_true(Duration::from_secs(60), "it waits", || f.counted("holds") > held).await;
    open(&f);
    read_to(&mut unlinked, b'Z').await;
    // One that is idle, one that is held with its link, one in a transaction, one with half a message.
    let (mut idle, _) = connected(&f, b"").await;
    let (mut waiting, _) = connected(&f, b"").await;
    let (mut busy, _) = connected(&f, b"").await;
    let (mut half, _) = connected(&f, b"").await;
    busy.write_all(&query("begin")).await.unwrap();
    read_to(&mut busy, b'Z').await;
    half.write_all(b"Q\0\0").await.unwrap();
    let held = f.counted("holds");
    f.shared.routes.change(|map| map.door = Door::Holding);
    waiting.write_all(&query("select 1")).await.unwrap();
    unlinked.write_all(&query("select 1")).await.unwrap();
    eventually_true(Duration::from_secs(60), "two wait", || f.counted("holds") > held + 1).await;
    f.shared.routes.change(|map| map.is_draining = true);
    for stream in [&mut idle, &mut waiting, &mut unlinked, &mut half] {
        let last = read_to(stream, b'E').await;
        assert!(String::from_utf8_lossy(&last.last().unwrap().1).contains("57P01"));
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }
    open(&f);
    for stream in [&mut busy, &mut lost] {
        stream.write_all(&query("commit")).await.unwrap();
        let answers = read_to(stream, b'E').await;
        let tags: String = answers.iter().map(|(tag, _)| *tag as char).collect();
        assert_eq!(tags, "CZE", "{answers:?}");
    }
    eventually_true(Duration::from_secs(60), "all have left", || {
        f.counted("clients_accepted") == f.counted("clients_left")
    })
    .await;
}
