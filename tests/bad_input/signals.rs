//! SIGHUP with a mistake in the file, and SIGTERM with clients.

use crate::stage::{PATIENCE, client, local, proxy, writes};
use cloud_mirror::lab::{eventually, that};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_with_a_mistake_changes_nothing() {
    let local = local("replica").await;
    let config = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let right = "[[auth.users]]\nname = \"guest\"\npassword = \"one\"\n";
    std::fs::write(config.path(), right).unwrap();
    local.create_role("guest", "one", "").await.unwrap();
    let file = config.path().display().to_string();
    let proxy = proxy(&local, None, &["--config", &file]);
    proxy.start().await.unwrap();
    let url = |password: &str| proxy.url("guest", password, "shop");
    let gets_in = async |password: &str| {
        let done = tokio_postgres::connect(&url(password), tokio_postgres::NoTls).await;
        done.map(|_| ()).map_err(|error| error.to_string())
    };
    eventually(PATIENCE, async || Ok(gets_in("one").await?)).await;

    let reload = async |text: &str, words: &str| {
        std::fs::write(config.path(), text).unwrap();
        let before = proxy.log().len();
        proxy.signal(Signal::SIGHUP);
        eventually(PATIENCE, async || that(proxy.log()[before..].to_owned(), |log| log.contains(words)))
            .await;
    };
    // One mistake among changes that would be right: none of them is made.
    let broken = right.replace("\"one\"", "\"two\"") + "[pool]\nsice = 5\n[log]\nlevel = \"loud\"\n";
    reload(&broken, "pool.sice: unknown key (did you mean \"size\"?)").await;
    assert!(proxy.log().contains("log.level"), "all mistakes at once: {}", proxy.log());
    assert!(proxy.log().contains("app.reload_failed"), "{}", proxy.log());
    gets_in("one").await.unwrap();
    assert!(gets_in("two").await.is_err());
    std::fs::remove_file(config.path()).unwrap();
    let before = proxy.log().len();
    proxy.signal(Signal::SIGHUP);
    let words = "No such file or directory";
    eventually(PATIENCE, async || that(proxy.log()[before..].to_owned(), |log| log.contains(words))).await;
    gets_in("one").await.unwrap();

    // Put right, it is in force; the server has the new password by then.
    local.sql("postgres", "alter role guest password 'two'").await.unwrap();
    reload(&right.replace("\"one\"", "\"two\""), "app.reloaded").await;
    gets_in("two").await.unwrap();
    assert!(gets_in("one").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_stop_ends_idle_clients_at_once_and_lets_transactions_finish() {
    let local = local("replica").await;
    let proxy = proxy(&local, None, &[]).variable("CLOUD_MIRROR__FAILOVER__DRAIN_TIMEOUT", "15s");
    proxy.start().await.unwrap();
    writes(&proxy).await;
    let (idle, idle_end) = watched(&proxy).await;
    let (busy, busy_end) = watched(&proxy).await;
    let (stuck, stuck_end) = watched(&proxy).await;
    idle.simple_query("select 1").await.unwrap();
    busy.batch_execute("begin; insert into t (v) values ('finished')").await.unwrap();
    stuck.batch_execute("begin; insert into t (v) values ('never')").await.unwrap();

    let began = Instant::now();
    proxy.signal(Signal::SIGTERM);
    assert_eq!(idle_end.await.unwrap(), "57P01");
    assert!(!stuck_end.is_finished(), "{:?}", began.elapsed());
    // No new clients, but those in a transaction go on.
    let error = client(&proxy).await.expect_err("nobody is let in");
    let is_told = error.as_db_error().is_none_or(|error| error.code().code() == "57P01");
    assert!(is_told, "{error:?}");
    busy.batch_execute("insert into t (v) values ('finished')").await.unwrap();
    busy.batch_execute("commit").await.unwrap();
    assert_eq!(busy_end.await.unwrap(), "57P01");
    assert!(!stuck_end.is_finished(), "{:?}", began.elapsed());
    // The one that does not end is ended.
    let status = eventually(PATIENCE, async || proxy.ended().ok_or("it still runs".into())).await;
    let took = began.elapsed();
    assert!(status.success(), "{status}\n{}", proxy.log());
    assert!(took >= Duration::from_secs(15), "{took:?}\n{}", proxy.log());
    stuck_end.await.unwrap();
    assert!(proxy.log().contains("app.drain_timed_out"), "{}", proxy.log());
    eventually(PATIENCE, async || {
        let open =
            local.value("shop", "select count(*) from pg_stat_activity where state ~ 'transaction'").await?;
        that(open, |open| open == "0")
    })
    .await;
    let rows = local.value("shop", "select string_agg(v, ',' order by id) from t").await.unwrap();
    assert_eq!(rows, "x,finished,finished");
    assert!(
        !proxy.directory().join(format!(".s.PGSQL.{}", proxy.port())).exists(),
        "the socket's file is gone"
    );
}

/// A client, and the SQLSTATE its connection ends with.
async fn watched(
    proxy: &cloud_mirror::lab::Proxy,
) -> (tokio_postgres::Client, tokio::task::JoinHandle<String>) {
    let url = proxy.url("app", "app-secret", "shop");
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    let end = tokio::spawn(async move {
        match tokio::time::timeout(PATIENCE, connection).await.expect("it ends") {
            Ok(()) => "closed".to_owned(),
            Err(error) => error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned()),
        }
    });
    (client, end)
}
