//! What programs see that know nothing of a proxy.

use crate::fixture::{Fixture, Options, session_mode};
use cloud_mirror::config;
use cloud_mirror::lab::{SocketAuth, eventually};
use cloud_mirror::pool::Settings;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn psql_sees_what_it_would_see_directly() {
    let f = Fixture::start(Options::default()).await;
    assert_eq!(f.psql("select current_user, current_database()").await, "app|shop\n");
    f.psql("create table t (id int primary key, v text)").await;
    f.psql("insert into t select g, repeat('x', 100) from generate_series(1, 10000) g").await;
    assert_eq!(f.psql("select count(*) from t").await, "10000\n");
    assert!(f.program("psql", &["-X", "-c", "\\d t"]).await.contains("t_pkey"));
    let copied = f.psql("copy t to stdout").await;
    assert_eq!(copied.lines().count(), 10_000);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), copied).unwrap();
    let copy = format!("\\copy t from '{}'", file.path().display());
    f.psql("truncate t").await;
    f.psql(&copy).await;
    assert_eq!(f.psql("select count(*), sum(id) from t").await, "10000|50005000\n");
    assert!(f.program("pg_dump", &["-t", "t"]).await.contains("CREATE TABLE public.t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn start_up_parameters_go_through() {
    let f = Fixture::start(Options::default()).await;
    let url = format!(
        "{}?options=-c%20my.tenant%3D7%20-c%20search_path%3Dpg_catalog&application_name=cash",
        f.url()
    );
    let shown = f
        .program(
            "psql",
            &["-XAtq", &url, "-c", "show my.tenant", "-c", "show search_path", "-c", "show application_name"],
        )
        .await;
    assert_eq!(shown, "7\npg_catalog\ncash\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn case_58_a_login_error_keeps_the_servers_words() {
    let f = Fixture::start(Options::default()).await;
    let failure = |url: String| async move {
        let error = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.err().expect("it is refused");
        let db = error.as_db_error().expect("the server's words").clone();
        (db.code().code().to_owned(), db.message().to_owned())
    };
    let at = format!("127.0.0.1:{}", f.port);
    let (code, message) = failure(format!("postgres://app:app-secret@{at}/nowhere")).await;
    assert_eq!((code.as_str(), message.as_str()), ("3D000", "database \"nowhere\" does not exist"));
    let (code, message) = failure(format!("postgres://app:wrong@{at}/shop")).await;
    assert_eq!(code, "28P01");
    assert_eq!(message, "password authentication failed for user \"app\"");
    let (code, _) = failure(format!("postgres://app:app-secret@{at}/shop?options=-c%20no_such=1")).await;
    assert_eq!(code, "42704");
    let (code, _) = failure(format!("postgres://app:app-secret@{at}/shop?options=-c%20work_mem=lots")).await;
    assert_eq!(code, "22023");
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_runs_in_all_three_protocols_over_tcp_and_unix_sockets() {
    let f = Fixture::start(Options { socket_auth: SocketAuth::Trust, ..Options::default() }).await;
    f.program("pgbench", &["-i", "-q", "-s", "1"]).await;
    for protocol in ["simple", "extended", "prepared"] {
        let shown = f.program("pgbench", &["-c", "8", "-j", "2", "-t", "100", "-M", protocol]).await;
        assert!(shown.contains("number of transactions actually processed: 800/800"), "{shown}");
        let directory = f.socket_dir.display().to_string();
        let shown =
            f.program("pgbench", &["-h", &directory, "-S", "-c", "4", "-t", "200", "-M", protocol]).await;
        assert!(shown.contains("number of failed transactions: 0"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_used_again_clean() {
    let f = Fixture::start(Options::default()).await;
    let first = f.client().await;
    let pid: i32 = first.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    first.batch_execute("set search_path = nowhere; prepare p as select 1; listen x").await.unwrap();
    drop(first);
    let idle = |wanted: u64| {
        let pool = &f.shared.pool;
        eventually(Duration::from_secs(60), async move || match pool.count() {
            (0, idle) if idle == wanted => Ok(()),
            other => Err(format!("{other:?}").into()),
        })
    };
    idle(1).await;
    let second = f.client().await;
    let ask = "select pg_backend_pid(), current_setting('search_path'),
        not exists (select from pg_prepared_statements where from_sql) and pg_my_temp_schema() = 0";
    let row = second.query_one(ask, &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), pid);
    assert_eq!(row.get::<_, String>(1), "\"$user\", public");
    assert!(row.get::<_, bool>(2));
    // A back end keeps its temporary schema for life, and a new session has none: it is not used again.
    second.batch_execute("create temp table tt (a int)").await.unwrap();
    drop(second);
    idle(0).await;
    let third = f.client().await;
    let row = third.query_one(ask, &[]).await.unwrap();
    assert_ne!(row.get::<_, i32>(0), pid);
    assert!(row.get::<_, bool>(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_size_makes_clients_wait_for_their_turn() {
    let limits = config::Pool {
        size: Some(2),
        query_wait_timeout: Duration::from_millis(300),
        ..session_mode().limits
    };
    let pool = Settings { limits, ..Settings::default() };
    let f = Fixture::start(Options { pool, ..Options::default() }).await;
    let (one, _two) = (f.client().await, f.client().await);
    let error = tokio_postgres::connect(&f.url(), tokio_postgres::NoTls).await.err().expect("both are taken");
    assert_eq!(error.code().map(|code| code.code()), Some("53300"));
    drop(one);
    eventually(Duration::from_secs(60), async || {
        tokio_postgres::connect(&f.url(), tokio_postgres::NoTls)
            .await
            .map(|_| ())
            .map_err(|e| e.to_string().into())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_the_back_end_also_when_its_client_hangs_up_at_once() {
    let f = Fixture::start(Options::default()).await;
    let client = f.client().await;
    let token = client.cancel_token();
    let sleeping = tokio::spawn(async move { client.batch_execute("select pg_sleep(300)").await });
    eventually(Duration::from_secs(60), async || {
        let busy = f.local.value("shop", "select count(*) from pg_stat_activity where query ~ 'pg_sleep\\(300' and state = 'active' and pid <> pg_backend_pid()").await.unwrap();
        if busy == "1" { Ok(()) } else { Err(busy.into()) }
    })
    .await;
    token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    let error =
        tokio::time::timeout(Duration::from_secs(60), sleeping).await.expect("it ends").unwrap().unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("57014"));
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_and_large_objects_pass() {
    let f = Fixture::start(Options::default()).await;
    let shown = f.program("psql", &["-XAtq", "-c", "listen news", "-c", "notify news, 'hello'"]).await;
    assert!(shown.contains("Asynchronous notification \"news\" with payload \"hello\""), "{shown}");
    let file = tempfile::NamedTempFile::new().unwrap();
    let content = vec![7u8; 3 << 20];
    std::fs::write(file.path(), &content).unwrap();
    let back = tempfile::NamedTempFile::new().unwrap();
    let import = format!("\\lo_import '{}'", file.path().display());
    let export = format!("\\lo_export :LASTOID '{}'", back.path().display());
    f.program("psql", &["-Xq", "-c", &import, "-c", &export]).await;
    assert_eq!(std::fs::read(back.path()).unwrap(), content);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_ours_are_answered_in_any_session_by_both_protocols() {
    for pool in [session_mode(), Settings::default()] {
        let f = Fixture::start(Options { pool, ..Options::default() }).await;
        assert_eq!(f.psql("SHOW EVENTS").await, "7|||test.happened|app\n");
        let client = f.client().await;
        for _ in 0..2 {
            let row = client.query_one("show events", &[]).await.unwrap();
            assert_eq!(row.get::<_, i64>(0), 7);
            assert_eq!(row.get::<_, String>(3), "test.happened");
            let plain: i32 = client.query_one("select $1::int4 + 1", &[&41]).await.unwrap().get(0);
            assert_eq!(plain, 42);
        }
        // A prepared command next to prepared statements of the server, inside a transaction.
        let ours = client.prepare("SHOW EVENTS").await.unwrap();
        let theirs = client.prepare("select 5").await.unwrap();
        client.batch_execute("begin").await.unwrap();
        let (a, b) = tokio::join!(client.query(&ours, &[]), client.query(&theirs, &[]));
        assert_eq!(a.unwrap().len(), 1);
        assert_eq!(b.unwrap()[0].get::<_, i32>(0), 5);
        client.batch_execute("rollback").await.unwrap();
        let error = client.query("SHOW DATABASE MIRROR STATUS", &[]).await.unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("42601"), "{error:?}");
        assert_eq!(client.query_one("select 1", &[]).await.unwrap().get::<_, i32>(0), 1);
        // The statement without a name is now the server's and now ours.
        for _ in 0..2 {
            let plain = client.query_typed("select 6", &[]).await.unwrap();
            assert_eq!(plain[0].get::<_, i32>(0), 6);
            assert_eq!(client.query_typed("show events", &[]).await.unwrap().len(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_nobody_uses_make_room_for_a_client_that_needs_another_one() {
    let f = Fixture::start(Options::default()).await;
    f.local.sql("postgres", "alter role app connection limit 2").await.unwrap();
    for n in 0..8 {
        // Another parameter, so another link.
        let url = format!("{}?application_name=job-{n}", f.url());
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
            .await
            .unwrap_or_else(|error| panic!("job {n}: {error:?}"));
        let connection = tokio::spawn(connection);
        client.batch_execute("select 1").await.unwrap();
        drop(client);
        connection.await.unwrap().unwrap();
    }
    // Clients that are there keep their place, and the server's word is passed on.
    let clients = [f.client().await, f.client().await];
    let error = tokio_postgres::connect(&f.url(), tokio_postgres::NoTls).await.err().unwrap();
    assert_eq!(error.code().unwrap().code(), "53300");
    drop(clients);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_nobody_uses_any_more_can_be_dropped() {
    let f = Fixture::start(Options::default()).await;
    f.local.sql("postgres", "create database short owner app").await.unwrap();
    let url = format!("postgres://app:app-secret@127.0.0.1:{}/short", f.port);
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute("create table t (v int)").await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
    eventually(Duration::from_secs(60), async || match f.shared.pool.count() {
        (0, 1) => Ok(()),
        other => Err(format!("{other:?}").into()),
    })
    .await;
    f.client().await.batch_execute("drop database short").await.unwrap();
}
