//! How sessions are ended from outside.

use crate::stage::{PATIENCE, Raw, TRUST, field, proxy, server, shown};
use cloud_mirror::lab::eventually;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn who_is_busy_for_longer_than_the_drain_is_told_why_it_is_cut() {
    let server = server().await;
    let proxy = proxy(&server, &[TRUST, ("failover.drain_timeout", "1s")]).await;
    let mut busy = Raw::log_in(&proxy, "app", "shop").await;
    let mut open = Raw::log_in(&proxy, "app", "shop").await;
    open.query("begin").await;
    open.until(b'Z').await;
    busy.query("select pg_sleep(60) /* drained */").await;
    let running =
        "select count(*) from pg_stat_activity where query like '%/* drained */' and state = 'active'
        and pid <> pg_backend_pid()";
    eventually(PATIENCE, async || match server.value("postgres", running).await {
        Ok(count) if count == "1" => Ok(()),
        seen => Err(format!("{seen:?}").into()),
    })
    .await;
    let stopped = Instant::now();
    proxy.signal(nix::sys::signal::Signal::SIGTERM);
    for client in [&mut open, &mut busy] {
        let seen = client.rest().await;
        let [(b'E', body)] = seen.as_slice() else { panic!("{:?}", shown(&seen)) };
        assert_eq!((field(body, b'S'), field(body, b'C')), ("FATAL".into(), "57P01".into()));
        assert!(field(body, b'M').contains("shutting down"), "{}", field(body, b'M'));
    }
    assert!(stopped.elapsed() >= Duration::from_secs(1), "they were given no time");
    eventually(PATIENCE, async || proxy.ended().ok_or("it still runs".into())).await;
}
