//! What becomes of sessions when their server is lost. The test plays the controller.

use crate::fixture::{Fixture, Options};
use crate::wire;
use cloud_mirror::auth::Method;
use cloud_mirror::base::{Epoch, Moment, Site};
use cloud_mirror::config::{Pool, PoolMode};
use cloud_mirror::lab::{SocketAuth, StopMode};
use cloud_mirror::pool::Settings;
use cloud_mirror::route::Door;
use cloud_mirror::session::Verdict;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

async fn pair() -> Fixture {
    pair_with(Settings::default()).await
}

async fn pair_in(mode: PoolMode) -> Fixture {
    let limits = Pool { mode, ..Pool::default() };
    pair_with(Settings { limits, ..Settings::default() }).await
}

async fn pair_with(pool: Settings) -> Fixture {
    let f = Fixture::start(Options {
        with_cloud: true,
        judge: Arc::new(|_| Verdict::Lost),
        pool,
        ..Options::default()
    })
    .await;
    for (cluster, database) in [(&f.local, "shop"), (f.cloud.as_ref().unwrap(), "shop_copy")] {
        cluster.sql(database, "create table t (v text); grant all on t to app").await.unwrap();
    }
    f
}

/// Kills the local server and makes the cloud the writer.
fn fail_over(f: &Fixture) {
    f.shared.routes.gate().close();
    f.shared.routes.change(|map| map.door = Door::Holding);
    f.local.kill9().unwrap();
    f.shared.routes.change(|map| {
        map.door = Door::Open;
        map.writer = Site::Cloud;
        map.epoch = Epoch(2);
    });
    f.shared.routes.gate().open_until(Moment::NEVER);
}

/// Waits until a client's `pg_sleep(300)` has begun.
async fn eventually_asleep(f: &Fixture) {
    cloud_mirror::lab::eventually(Duration::from_secs(60), async || {
        let busy = f.local.value("shop", "select count(*) from pg_stat_activity where query = 'select pg_sleep(300)' and state = 'active'").await.unwrap();
        if busy == "1" { Ok(()) } else { Err(busy.into()) }
    })
    .await;
}

fn code(error: &tokio_postgres::Error) -> String {
    error.code().map_or_else(|| format!("{error:?}"), |code| code.code().to_owned())
}

/// A value of an enumeration.
#[derive(Debug)]
struct Label(&'static str);

impl ToSql for Label {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut bytes::BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// The number of a type that a user has made is another one in the cloud, or another type's.
#[tokio::test(flavor = "multi_thread")]
async fn case_65_parameters_of_types_that_users_have_made_find_their_types_in_the_cloud() {
    for mode in [PoolMode::Session, PoolMode::Transaction, PoolMode::Auto] {
        let f = pair_in(mode).await;
        let make = "create type mood as enum ('happy', 'sad'); create table moods (m mood); grant all on moods to app";
        f.local.sql("shop", make).await.unwrap();
        let cloud = f.cloud.as_ref().unwrap();
        cloud
            .sql("shop_copy", "create type other as enum ('this', 'that'); create table more ()")
            .await
            .unwrap();
        cloud.sql("shop_copy", make).await.unwrap();
        let client = f.client().await;
        let asked = client.prepare("select $1::mood").await.unwrap();
        let mood = asked.params()[0].clone();
        assert!(mood.oid() >= 16_384);
        let insert = client.prepare_typed("insert into moods values ($1)", &[mood]).await.unwrap();
        client.execute(&insert, &[&Label("happy")]).await.unwrap();
        fail_over(&f);
        client.execute(&insert, &[&Label("sad")]).await.unwrap();
        let there = cloud.value("shop_copy", "select string_agg(m::text, ',') from moods").await.unwrap();
        assert_eq!(there, "sad", "{mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_65_an_idle_session_goes_on_in_the_cloud_with_its_settings_and_statements() {
    for mode in [PoolMode::Session, PoolMode::Auto] {
        let f = pair_in(mode).await;
        let client = f.client().await;
        client.batch_execute("set my.tenant = '42'").await.unwrap();
        let insert = client.prepare("insert into t values ($1)").await.unwrap();
        client.execute(&insert, &[&"before"]).await.unwrap();
        fail_over(&f);
        client.execute(&insert, &[&"after"]).await.unwrap();
        let row =
            client.query_one("select current_setting('my.tenant'), current_database()", &[]).await.unwrap();
        assert_eq!((row.get::<_, String>(0), row.get::<_, String>(1)), ("42".into(), "shop_copy".into()));
        let there = f.cloud.as_ref().unwrap().value("shop_copy", "select string_agg(v, ',') from t").await;
        assert_eq!(there.unwrap(), "after");
        assert_eq!(f.counted("sessions_moved"), 1, "{mode:?}");
    }
}

/// In `auto` mode a client may keep its connection over many transactions: what it has set in them must not
/// be lost with it, and what it has not committed must not come back.
#[tokio::test(flavor = "multi_thread")]
async fn case_65_settings_that_were_made_on_a_kept_connection_go_on_in_the_cloud() {
    for mode in [PoolMode::Session, PoolMode::Auto] {
        let f = pair_in(mode).await;
        let client = f.client().await;
        // It may ask for the last value of a sequence from now on.
        client.batch_execute("insert into t values ('before')").await.unwrap();
        client.batch_execute("set my.tenant = '42'").await.unwrap();
        client.batch_execute("set timezone = 'Asia/Tokyo'").await.unwrap();
        client.batch_execute("begin").await.unwrap();
        client.batch_execute("set my.tenant = '43'").await.unwrap();
        client.batch_execute("set timezone = 'Europe/Rome'").await.unwrap();
        fail_over(&f);
        let error = client.batch_execute("select 1").await.unwrap_err();
        assert_eq!(code(&error), "40001", "{mode:?}");
        client.batch_execute("rollback").await.unwrap();
        let ask = "select current_setting('my.tenant') || current_setting('timezone') || current_database()";
        let row = client.query_one(ask, &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), "42Asia/Tokyoshop_copy", "{mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_59_nothing_reaches_a_server_under_an_epoch_that_is_over() {
    let f = pair().await;
    let client = f.client().await;
    client.batch_execute("insert into t values ('first')").await.unwrap();
    // The old server lives, and so does the link to it.
    f.shared.routes.change(|map| {
        map.writer = Site::Cloud;
        map.epoch = Epoch(2);
    });
    client.batch_execute("insert into t values ('second')").await.unwrap();
    let rows = "select string_agg(v, ',') from t";
    assert_eq!(f.local.value("shop", rows).await.unwrap(), "first");
    assert_eq!(f.cloud.as_ref().unwrap().value("shop_copy", rows).await.unwrap(), "second");
}

#[tokio::test(flavor = "multi_thread")]
async fn case_61_a_transaction_without_commit_is_aborted_and_the_connection_kept() {
    let f = pair().await;
    let mut client = f.client().await;
    let transaction = client.transaction().await.unwrap();
    // Not `execute`: behind it the driver closes its statement, which may be unanswered at the kill.
    transaction.batch_execute("insert into t values ('lost')").await.unwrap();
    fail_over(&f);
    let error = transaction.execute("insert into t values ('more')", &[]).await.unwrap_err();
    assert_eq!(code(&error), "40001");
    let error = transaction.batch_execute("select 1").await.unwrap_err();
    assert_eq!(code(&error), "25P02");
    transaction.rollback().await.unwrap();
    client.execute("insert into t values ('again')", &[]).await.unwrap();
    assert_eq!(
        f.cloud.as_ref().unwrap().value("shop_copy", "select string_agg(v, ',') from t").await.unwrap(),
        "again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_a_lost_transaction_is_an_error_and_nothing_like_success() {
    let f = pair().await;
    let clients = [f.client().await, f.client().await, f.client().await];
    for client in &clients {
        client.batch_execute("begin").await.unwrap();
        client.batch_execute("insert into t values ('lost')").await.unwrap();
    }
    let [simple, extended, told] = &clients;
    let commit = extended.prepare("commit").await.unwrap();
    fail_over(&f);
    // Nobody has told them yet: few drivers look at a tag that says ROLLBACK.
    let error = simple.batch_execute("commit").await.unwrap_err();
    assert_eq!(code(&error), "40001");
    let error = extended.execute(&commit, &[]).await.unwrap_err();
    assert_eq!(code(&error), "40001");
    // As in PostgreSQL the transaction is over, and once it was told a COMMIT is a ROLLBACK.
    assert_eq!(code(&told.batch_execute("select 1").await.unwrap_err()), "40001");
    assert_eq!(code(&told.batch_execute("commit; select 2").await.unwrap_err()), "25P02");
    told.batch_execute("commit").await.unwrap();
    for client in &clients {
        assert_eq!(client.query_one("select count(*) from t", &[]).await.unwrap().get::<_, i64>(0), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_behind_a_rollback_in_one_text_is_executed() {
    let f = pair().await;
    let client = f.client().await;
    client.batch_execute("begin; insert into t values ('lost')").await.unwrap();
    fail_over(&f);
    client.batch_execute("rollback; insert into t values ('kept')").await.unwrap();
    let rows = client.query_one("select string_agg(v, ',') from t", &[]).await.unwrap();
    assert_eq!(rows.get::<_, String>(0), "kept");
}

/// What we ask a server ourselves behind a statement is nobody's statement.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_of_ours_in_flight_ends_no_session() {
    let f = pair_in(PoolMode::Auto).await;
    // It reads this table.
    let lock = f.local.client("shop").await.unwrap();
    lock.batch_execute("begin; lock table pg_catalog.pg_language in access exclusive mode").await.unwrap();
    let client = f.client().await;
    client.batch_execute("insert into t values ('before')").await.unwrap();
    cloud_mirror::lab::eventually(Duration::from_secs(60), async || {
        let waiting =
            "select count(*) from pg_locks where not granted and relation = 'pg_language'::regclass";
        let count: i64 = lock.query_one(waiting, &[]).await?.get(0);
        if count == 1 { Ok(()) } else { Err(format!("{count} questions wait").into()) }
    })
    .await;
    fail_over(&f);
    client.batch_execute("insert into t values ('after')").await.unwrap();
    let there = f.cloud.as_ref().unwrap().value("shop_copy", "select string_agg(v, ',') from t").await;
    assert_eq!(there.unwrap(), "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn case_60_a_statement_in_flight_ends_the_session_with_08007() {
    let f = pair().await;
    let client = f.client().await;
    let sleeping = tokio::spawn(async move { client.batch_execute("select pg_sleep(300)").await });
    eventually_asleep(&f).await;
    fail_over(&f);
    let ended = tokio::time::timeout(Duration::from_secs(60), sleeping).await.expect("it is told");
    assert_eq!(code(&ended.unwrap().unwrap_err()), "08007");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_still_sending_hears_the_last_words() {
    let f = Fixture::start(Options {
        with_cloud: true,
        judge: Arc::new(|_| Verdict::Lost),
        method: Method::Trust,
        socket_auth: SocketAuth::Trust,
        ..Options::default()
    })
    .await;
    let mut stream = wire::connected(&f).await;
    stream.write_all(&wire::message(b'Q', b"select pg_sleep(300)\0")).await.unwrap();
    eventually_asleep(&f).await;
    // More than all buffers on the way hold: the proxy has not read it when it ends the session.
    let (mut reading, mut writing) = stream.into_split();
    let sending = tokio::spawn(async move {
        let query = wire::message(b'Q', &[&[b' '; 100_000][..], b"\0"].concat());
        for _ in 0..300 {
            writing.write_all(&query).await?;
        }
        Ok::<_, std::io::Error>(())
    });
    fail_over(&f);
    let mut said = vec![];
    let closed = tokio::time::timeout(Duration::from_secs(60), reading.read_to_end(&mut said)).await;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("08007"), "{said}");
    closed.expect("it is closed").expect("in order");
    // A driver that writes before it reads would stumble over a reset and never read the reason.
    sending.await.unwrap().expect("the connection is not reset while it sends");
}

#[tokio::test(flavor = "multi_thread")]
async fn case_63_state_that_cannot_move_ends_the_session_with_57p01() {
    let statements = [
        "listen news",
        "prepare p as select 1",
        "begin; declare c cursor with hold for select 1; commit",
        "create temp table t (a int)",
        "select pg_advisory_lock(1)",
        "select set_config('my.tenant', '42', false)",
    ];
    for mode in [PoolMode::Session, PoolMode::Auto] {
        let f = pair_in(mode).await;
        let mut clients = vec![];
        for statement in statements {
            let client = f.client().await;
            client.batch_execute(statement).await.unwrap();
            clients.push((statement, client));
        }
        let client = f.client().await;
        // More than is kept of one statement.
        let _long = client.prepare(&format!("select 1 /* {} */", "long".repeat(50_000))).await.unwrap();
        clients.push(("a long statement", client));
        fail_over(&f);
        for (statement, client) in clients {
            match client.query_one("select current_setting('my.tenant', true)", &[]).await {
                // In `auto` mode it can move as soon as the server has said what was set.
                Ok(row) if mode == PoolMode::Auto && statement.contains("set_config") => {
                    assert_eq!(row.get::<_, Option<String>>(0).as_deref(), Some("42"));
                }
                Ok(_) => panic!("{mode:?}: the session goes on after {statement}"),
                Err(error) => {
                    assert!(code(&error) == "57P01" || error.is_closed(), "{statement}: {error:?}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_50_a_terminated_back_end_is_reported_as_it_was_while_the_server_lives() {
    let f = Fixture::start(Options::default()).await;
    let (client, connection) = tokio_postgres::connect(&f.url(), tokio_postgres::NoTls).await.unwrap();
    let ended = tokio::spawn(connection);
    // Not `query_one`: behind it the driver closes its statement, and the report would be the answer to that.
    let told = client.simple_query("select pg_backend_pid()").await.unwrap();
    let pid = told.iter().find_map(|it| match it {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let pid = pid.expect("a process id");
    f.local.sql("postgres", &format!("select pg_terminate_backend({pid})")).await.unwrap();
    let error = tokio::time::timeout(Duration::from_secs(60), ended).await.unwrap().unwrap().unwrap_err();
    assert_eq!(code(&error), "57P01");
    let message = error.as_db_error().unwrap().message().to_owned();
    assert_eq!(message, "terminating connection due to administrator command");
}

#[tokio::test(flavor = "multi_thread")]
async fn case_58_a_session_is_held_over_an_orderly_restart() {
    for mode in [PoolMode::Session, PoolMode::Auto] {
        let f = pair_in(mode).await;
        let client = f.client().await;
        client.batch_execute("set my.tenant = '42'").await.unwrap();
        f.shared.routes.change(|map| map.door = Door::Holding);
        f.local.restart(StopMode::Fast).await.unwrap();
        let asking = client.query_one("select current_setting('my.tenant')", &[]);
        let opening = async {
            cloud_mirror::lab::eventually_true(Duration::from_secs(60), "a client is held", || {
                f.counted("holds") > 0
            })
            .await;
            f.shared.routes.change(|map| {
                map.door = Door::Open;
                map.life += 1;
            });
        };
        let (row, ()) = tokio::join!(asking, opening);
        assert_eq!(row.unwrap().get::<_, String>(0), "42");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_door_refuses_statements_with_57p03_and_keeps_the_session() {
    let f = pair().await;
    let client = f.client().await;
    f.shared.routes.change(|map| {
        map.door = Door::Closed { reason: "no mirror can be promoted".into() };
        map.life += 1;
    });
    let error = client.execute("insert into t values ('x')", &[]).await.unwrap_err();
    assert_eq!(code(&error), "57P03");
    let error = client.batch_execute("insert into t values ('x')").await.unwrap_err();
    assert_eq!(code(&error), "57P03");
    let error = tokio_postgres::connect(&f.url(), tokio_postgres::NoTls).await.err().unwrap();
    assert_eq!(code(&error), "57P03");
    // Commands of ours still work.
    assert_eq!(client.query("SHOW EVENTS", &[]).await.unwrap().len(), 1);
    f.shared.routes.change(|map| map.door = Door::Open);
    client.execute("insert into t values ('x')", &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_64_nothing_is_acknowledged_past_the_deadline() {
    let f = pair().await;
    let client = f.client().await;
    // Until then it is not acknowledged.
    let lock = f.local.client("shop").await.unwrap();
    lock.batch_execute("begin; lock table t in exclusive mode").await.unwrap();
    let writing = tokio::spawn(async move { client.batch_execute("insert into t values ('x')").await });
    cloud_mirror::lab::eventually(Duration::from_secs(60), async || {
        let busy = f
            .local
            .value(
                "shop",
                "select count(*) from pg_stat_activity where query ~ '^insert' and wait_event_type = 'Lock'",
            )
            .await
            .unwrap();
        if busy == "1" { Ok(()) } else { Err(busy.into()) }
    })
    .await;
    f.shared.routes.gate().close();
    lock.batch_execute("rollback").await.unwrap();
    let error = writing.await.unwrap().unwrap_err();
    assert_eq!(code(&error), "08007");
    // The row is there; nobody was told so.
    assert_eq!(f.local.value("shop", "select count(*) from t").await.unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_a_mirror_is_named_after_a_failover() {
    let f = pair().await;
    f.local.create_database("other").await.unwrap();
    fail_over(&f);
    let url = format!("postgres://app:app-secret@127.0.0.1:{}/other", f.port);
    let error = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.err().unwrap();
    let message = error.as_db_error().expect("our words").message().to_owned();
    assert!(message.contains("\"other\" has no mirror"), "{message}");
}
