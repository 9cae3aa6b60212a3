//! What lasts too long is ended, with the code that says so.

use crate::stage::{PATIENCE, Raw, TRUST, field, new_server, proxy, server, shown};
use cloud_mirror::lab::{Cluster, eventually, that};
use std::time::{Duration, Instant};

/// The code and the message a session ends with.
async fn end(client: &mut Raw) -> (String, String) {
    let seen = client.rest().await;
    let Some((b'E', body)) = seen.last() else { panic!("{:?}", shown(&seen)) };
    assert_eq!(field(body, b'S'), "FATAL");
    (field(body, b'C'), field(body, b'M'))
}

async fn nothing_runs(server: &Cluster, mark: &str) {
    let running = format!(
        "select count(*) from pg_stat_activity where query like '%{mark}%' and pid <> pg_backend_pid() \
         and state <> 'idle'"
    );
    eventually(PATIENCE, async || {
        that(server.value("postgres", &running).await.unwrap(), |count| count == "0")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_takes_too_long_is_cancelled_and_its_session_ended() {
    let server = server().await;
    let keys = [TRUST, ("pool.query_timeout", "2s"), ("pool.user.other.query_timeout", "0s")];
    let proxy = proxy(&server, &keys).await;
    let mut client = Raw::log_in(&proxy, "app", "shop").await;
    client.query("select pg_sleep(0.1)").await;
    client.until(b'Z').await;
    let began = Instant::now();
    client.query("select pg_sleep(300) /* too long */").await;
    let (code, message) = end(&mut client).await;
    let took = began.elapsed();
    assert_eq!((code.as_str(), message.as_str()), ("08007", "terminating connection due to query timeout"));
    assert!(took >= Duration::from_secs(2), "{took:?}");
    nothing_runs(&server, "/* too long */").await;
    // Another user's word comes first; silence is no statement.
    let mut other = Raw::log_in(&proxy, "other", "shop").await;
    other.query("select pg_sleep(2.5)").await;
    other.until(b'Z').await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_and_silences_have_postgresqls_own_codes() {
    let server = server().await;
    let keys = [
        TRUST,
        ("pool.transaction_timeout", "3s"),
        ("pool.database.stock.idle_transaction_timeout", "300ms"),
        ("pool.user.other.client_idle_timeout", "400ms"),
    ];
    let proxy = proxy(&server, &keys).await;
    let mut long = Raw::log_in(&proxy, "app", "shop").await;
    let mut silent = Raw::log_in(&proxy, "app", "stock").await;
    let mut idle = Raw::log_in(&proxy, "other", "shop").await;
    for client in [&mut long, &mut silent] {
        client.query("begin").await;
        client.until(b'Z').await;
    }
    let expected = "terminating connection due to idle-in-transaction timeout";
    let (code, message) = end(&mut silent).await;
    assert_eq!((code.as_str(), message.as_str()), ("25P03", expected));
    let (code, message) = end(&mut idle).await;
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("57P05", "terminating connection due to idle-session timeout")
    );
    // Never silent, and open for too long all the same.
    let ended = async {
        loop {
            long.query("select pg_sleep(0.02)").await;
            match long.message().await {
                Some((b'E', body)) => return field(&body, b'C'),
                Some((b'Z', _)) | None => panic!("it ended without a word"),
                Some(_) => {}
            }
            loop {
                match long.message().await {
                    Some((b'E', body)) => return field(&body, b'C'),
                    Some((b'Z', _)) => break,
                    Some(_) => {}
                    None => panic!("it ended without a word"),
                }
            }
        }
    };
    let code = tokio::time::timeout(PATIENCE, ended).await.expect("it ends");
    assert_eq!(code, "25P04");
    let open = "select count(*) from pg_stat_activity where state like 'idle in%'";
    eventually(PATIENCE, async || that(server.value("postgres", open).await.unwrap(), |count| count == "0"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_takes_too_long_is_given_up_and_meets_nobody_else() {
    let server = new_server().await;
    let proxy = proxy(&server, &[TRUST, ("pool.cancel_wait_timeout", "300ms")]).await;
    let mut client = Raw::connect(&proxy).await;
    client.start_up("app", "shop").await;
    let welcome = client.until(b'Z').await;
    let (_, key) = welcome.iter().find(|(tag, _)| *tag == b'K').expect("a cancel key");
    client.query("select pg_sleep(300) /* cancelled late */").await;
    let running = "select count(*) from pg_stat_activity where query like '%cancelled late */'
        and pid <> pg_backend_pid() and state = 'active'";
    eventually(PATIENCE, async || that(server.value("postgres", running).await?, |count| count == "1")).await;
    server.freeze().unwrap();
    let mut cancel = Raw::connect(&proxy).await;
    let began = Instant::now();
    cancel.send(&[&[0, 0, 0, 16, 4, 210, 22, 46], key.as_slice()].concat()).await;
    assert_eq!(cancel.rest().await, []);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(8), "{took:?}");
    server.thaw();
    // It is still in the server's queue: it comes, and nobody else gets the connection meanwhile.
    let seen = client.until(b'Z').await;
    assert!(
        seen.iter().any(|(tag, body)| *tag == b'E' && field(body, b'C') == "57014"),
        "{:?}",
        shown(&seen)
    );
    client.send(b"X\0\0\0\x04").await;
    let left = "select count(*) from pg_stat_activity where usename = 'app'";
    eventually(PATIENCE, async || that(server.value("postgres", left).await?, |count| count == "0")).await;
}
