//! How many clients are let in, and what the others are told.

use crate::stage::{self, PATIENCE, Raw, TRUST, client, client_of, field, proxy, server, words};
use cloud_mirror::lab::{Proxy, eventually, that};
use nix::sys::signal::Signal;
use std::time::Duration;

async fn refusal(proxy: &Proxy, user: &str, database: &str) -> [String; 4] {
    words(&client_of(proxy, user, database).await.expect_err("there is no room"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_limit_of_clients_is_named_to_who_is_refused() {
    let keys = [
        ("pool.max_client_conn", "4"),
        ("pool.database.shop.max_db_client_connections", "2"),
        ("pool.user.other.max_user_client_connections", "1"),
    ];
    let server = server().await;
    let proxy = proxy(&server, &keys).await;
    let first = client(&proxy).await;
    let _second = client_of(&proxy, "other", "shop").await.unwrap();
    let hint = "Close connections that are not used, or raise the limit.";
    assert_eq!(
        refusal(&proxy, "app", "shop").await,
        ["53300", "too many connections for database \"shop\"", "Its max_db_client_connections is 2.", hint]
    );
    assert_eq!(
        refusal(&proxy, "other", "stock").await,
        ["53300", "too many connections for role \"other\"", "Its max_user_client_connections is 1.", hint]
    );
    let _third = client_of(&proxy, "app", "stock").await.unwrap();
    let _fourth = client_of(&proxy, "app", "stock").await.unwrap();
    assert_eq!(
        refusal(&proxy, "app", "stock").await,
        ["53300", "sorry, too many clients already", "pool.max_client_conn is 4.", hint]
    );
    // The console has room, and a client that leaves makes some.
    client_of(&proxy, "app", "mirror").await.unwrap();
    let refused = "cloud_mirror_clients_refused_total 3";
    eventually(PATIENCE, async || that(proxy.get("/metrics").await?, |text| text.contains(refused))).await;
    drop(first);
    let enters = async || client_of(&proxy, "app", "shop").await;
    eventually(PATIENCE, async || Ok(enters().await?.simple_query("select 1").await?)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_told_so_and_served_in_turn() {
    let server = server().await;
    let proxy = proxy(&server, &[TRUST, ("pool.size", "1"), ("pool.query_wait_notify", "200ms")]).await;
    let first = Raw::log_in(&proxy, "app", "shop").await;
    let mut second = Raw::connect(&proxy).await;
    second.start_up("app", "shop").await;
    let seen = second.until(b'N').await;
    let [(b'R', ok), (b'N', notice)] = seen.as_slice() else { panic!("{:?}", stage::shown(&seen)) };
    assert_eq!(ok.as_slice(), [0; 4], "AuthenticationOk");
    assert_eq!((field(notice, b'S'), field(notice, b'C')), ("NOTICE".into(), "00000".into()));
    assert_eq!(field(notice, b'M'), "no connection to the server is free yet, waiting for one");
    let mut third = Raw::connect(&proxy).await;
    third.start_up("app", "shop").await;
    third.until(b'N').await;
    // One that hangs up while it waits keeps nobody back.
    let mut gone = Raw::connect(&proxy).await;
    gone.start_up("app", "shop").await;
    gone.until(b'N').await;
    drop(gone);
    drop(first);
    let seen = second.until(b'Z').await;
    assert!(seen.iter().all(|(tag, _)| *tag != b'R'), "it is welcomed once: {:?}", stage::shown(&seen));
    second.query("select 'served'").await;
    second.until(b'Z').await;
    drop(second);
    third.until(b'Z').await;
    drop(third);
    Raw::log_in(&proxy, "app", "shop").await;
}

/// More than is kept of what comes too early, and at once: nothing of it is lost, and nobody is in its way.
#[tokio::test(flavor = "multi_thread")]
async fn who_says_much_before_it_is_let_in_is_answered_then() {
    let server = server().await;
    let proxy = proxy(&server, &[TRUST, ("pool.size", "1"), ("pool.query_wait_notify", "200ms")]).await;
    let first = Raw::log_in(&proxy, "app", "shop").await;
    let mut second = Raw::connect(&proxy).await;
    let text = format!("select length('{}')", "x".repeat(200_000));
    let query = [b"Q", &(text.len() as u32 + 5).to_be_bytes()[..], text.as_bytes(), b"\0"].concat();
    second.send(&[stage::start_up("app", "shop"), query].concat()).await;
    // By then it has been read as far as it will be.
    second.until(b'N').await;
    drop(first);
    second.until(b'Z').await;
    let seen = second.until(b'Z').await;
    assert!(
        seen.iter().any(|(tag, row)| *tag == b'D' && row.ends_with(b"200000")),
        "{:?}",
        stage::shown(&seen)
    );
}

/// Nobody is in the way of an operator because of having no connection yet.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_to_be_let_in_can_be_sent_away() {
    let server = server().await;
    let proxy = proxy(&server, &[TRUST, ("pool.size", "1"), ("pool.query_wait_notify", "200ms")]).await;
    let admin = client_of(&proxy, "postgres", "pgbouncer").await.unwrap();
    let _first = Raw::log_in(&proxy, "app", "shop").await;
    let mut second = Raw::connect(&proxy).await;
    second.start_up("app", "shop").await;
    second.until(b'N').await;
    admin.simple_query("kill shop").await.unwrap();
    let seen = second.rest().await;
    let [(b'E', killed)] = seen.as_slice() else { panic!("{:?}", stage::shown(&seen)) };
    let message = "terminating connection due to administrator command";
    assert_eq!([b'S', b'C', b'M'].map(|name| field(killed, name)), ["FATAL", "57P01", message]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_with_a_statement_is_told_so_once() {
    let server = server().await;
    let keys = [TRUST, ("pool.mode", "transaction"), ("pool.size", "1"), ("pool.query_wait_notify", "200ms")];
    let proxy = proxy(&server, &keys).await;
    let mut first = Raw::log_in(&proxy, "app", "shop").await;
    let mut second = Raw::log_in(&proxy, "app", "shop").await;
    let (admin, connection) =
        tokio_postgres::connect(&proxy.url("postgres", "", "pgbouncer"), tokio_postgres::NoTls)
            .await
            .unwrap();
    tokio::spawn(connection);
    // In line, and while an operator gives no connections to anybody.
    for round in ["busy", "paused"] {
        match round {
            "busy" => {
                first.query("begin").await;
                first.until(b'Z').await;
            }
            _ => drop(admin.simple_query("PAUSE").await.unwrap()),
        }
        second.query("select 'served'").await;
        let seen = second.until(b'N').await;
        let [(b'N', notice)] = seen.as_slice() else { panic!("{round}: {:?}", stage::shown(&seen)) };
        assert_eq!((field(notice, b'S'), field(notice, b'C')), ("NOTICE".into(), "00000".into()), "{round}");
        assert_eq!(field(notice, b'M'), "no connection to the server is free yet, waiting for one");
        // Nothing tells that it would be told again but time.
        let again = tokio::time::timeout(Duration::from_millis(600), second.message()).await;
        assert!(again.is_err(), "{round}: {again:?}");
        match round {
            "busy" => {
                first.query("commit").await;
                first.until(b'Z').await;
            }
            _ => {
                // It goes on waiting, for a server that does not answer yet.
                server.freeze().unwrap();
                admin.simple_query("RESUME").await.unwrap();
                let again = tokio::time::timeout(Duration::from_millis(900), second.message()).await;
                server.thaw();
                assert!(again.is_err(), "{round}: {again:?}");
            }
        }
        let tags: Vec<_> = second.until(b'Z').await.into_iter().map(|(tag, _)| tag).collect();
        assert_eq!(tags, b"TDCZ", "{round}");
    }
}

/// The columns of one row of a console's table.
async fn shown(admin: &tokio_postgres::Client, command: &str, columns: &[&str]) -> Vec<String> {
    let rows = admin.simple_query(command).await.unwrap();
    let row = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = row.unwrap_or_else(|| panic!("{command} shows nothing"));
    columns.iter().map(|column| row.get(*column).unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_with_a_statement_is_shown_as_waiting_and_not_as_idle() {
    let server = server().await;
    let keys = [
        TRUST,
        ("pool.mode", "transaction"),
        ("pool.size", "1"),
        ("pool.user.other.client_idle_timeout", "1s"),
    ];
    let proxy = proxy(&server, &keys).await;
    let admin = client_of(&proxy, "postgres", "pgbouncer").await.unwrap();
    let counts = async |expected: [&str; 2]| {
        eventually(PATIENCE, async || {
            let columns = ["cl_active", "cl_waiting"];
            that(shown(&admin, "show pools", &columns).await, |seen| *seen == expected)
        })
        .await;
    };
    // Without a pause, so that it is never idle; it waits for longer than it may be idle.
    let mut first = Raw::connect(&proxy).await;
    first.start_up("other", "shop").await;
    first.query("select pg_sleep(2.5)").await;
    let is_running =
        "select count(*) from pg_stat_activity where query like '%sleep(2.5)' and state = 'active'";
    eventually(PATIENCE, async || that(server.value("postgres", is_running).await?, |count| count == "1"))
        .await;
    let mut second = Raw::connect(&proxy).await;
    second.start_up("other", "shop").await;
    second.query("select 'served'").await;
    counts(["1", "1"]).await;
    for _ in 0..2 {
        second.until(b'Z').await;
    }
    drop((first, second));

    let mut first = Raw::log_in(&proxy, "app", "shop").await;
    let mut second = Raw::log_in(&proxy, "app", "shop").await;
    first.query("begin").await;
    first.until(b'Z').await;
    second.query("select 1").await;
    counts(["1", "1"]).await;
    first.query("commit").await;
    first.until(b'Z').await;
    second.until(b'Z').await;
    counts(["2", "0"]).await;
    admin.simple_query("PAUSE").await.unwrap();
    second.query("select 1").await;
    counts(["1", "1"]).await;
    first.query("select 1").await;
    counts(["0", "2"]).await;
    assert_eq!(shown(&admin, "show clients", &["state"]).await, ["waiting"]);
    admin.simple_query("RESUME").await.unwrap();
    for client in [&mut first, &mut second] {
        client.until(b'Z').await;
    }
    counts(["2", "0"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_can_be_changed_while_clients_are_connected() {
    let config = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let write = |most: u32| std::fs::write(config.path(), format!("[pool]\nmax_client_conn = {most}\n"));
    write(1).unwrap();
    let server = server().await;
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_cloud-mirror"));
    let (url, path) = (server.url("postgres", "shop"), config.path().display().to_string());
    let proxy = Proxy::new(program, &["--local", &url, "--config", &path]).unwrap();
    proxy.start().await.unwrap();
    let _first = client(&proxy).await;
    assert_eq!(refusal(&proxy, "app", "shop").await[2], "pool.max_client_conn is 1.");
    write(2).unwrap();
    proxy.signal(Signal::SIGHUP);
    eventually(PATIENCE, async || that(proxy.log(), |log| log.contains("pool.max_client_conn is in force")))
        .await;
    let _second = client(&proxy).await;
    assert_eq!(refusal(&proxy, "app", "shop").await[2], "pool.max_client_conn is 2.");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_log_in_is_sent_away() {
    let server = server().await;
    let proxy = proxy(&server, &[("pool.client_login_timeout", "2s")]).await;
    let mut silent = Raw::connect(&proxy).await;
    assert_eq!(silent.rest().await, []);
    // The same when it does not prove who it is.
    let mut halfway = Raw::connect(&proxy).await;
    halfway.start_up("app", "shop").await;
    let seen = halfway.rest().await;
    assert_eq!(seen.first().map(|(tag, _)| *tag), Some(b'R'), "{:?}", stage::shown(&seen));
    let enters = async || client_of(&proxy, "app", "shop").await;
    eventually(PATIENCE, async || Ok(enters().await?.simple_query("select 1").await?)).await;
}
