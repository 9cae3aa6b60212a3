//! What happens to servers and proxies in the course of a year, each second.

use crate::PATIENCE;
use crate::stage::{Mode, Stage};
use cloud_mirror::lab::{SUPERUSER, StopMode};
use futures_util::pin_mut;
use nix::sys::signal::Signal;
use rand::RngExt;
use rand::rngs::SmallRng;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_postgres::NoTls;

pub async fn make_until(stage: Arc<Stage>, mut random: SmallRng, end: Instant) {
    loop {
        // Not a wait for anything: the pace of trouble.
        sleep_until(Instant::now() + Duration::from_millis(random.random_range(100..600))).await;
        if Instant::now() >= end {
            return;
        }
        stage.troubles.fetch_add(1, Ordering::Relaxed);
        match random.random_range(0..20) {
            0..6 => {
                let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'
                    ORDER BY random() LIMIT 1";
                // The server may be on its way down or up.
                let _ = stage.cluster.sql("postgres", end).await;
            }
            6..10 => stage.proxy.signal(Signal::SIGHUP),
            10..14 => pause(&stage).await,
            14..17 => drop(stage.console("RECONNECT").await.unwrap()),
            17 => stage.cluster.restart(StopMode::Immediate).await.unwrap(),
            18 => stage.cluster.restart(StopMode::Fast).await.unwrap(),
            _ => {
                let kill = "SELECT pid FROM pg_stat_activity WHERE usename = 'app' ORDER BY random() LIMIT 1";
                if let Ok(pid) = stage.cluster.value("postgres", kill).await
                    && let Ok(pid) = pid.parse()
                {
                    // The server takes a killed back end for a crash: all its siblings are ended.
                    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
                    until_up(&stage).await;
                }
            }
        }
    }
}

/// Nothing else is asked of a server that recovers.
async fn until_up(stage: &Stage) {
    let up = async {
        while stage.cluster.value("postgres", "SELECT 1").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, up).await.expect("the server recovers");
}

/// In session mode PAUSE waits for clients to leave, which these do not: there it is given up, as by ^C.
async fn pause(stage: &Stage) {
    let url = stage.proxy.url(SUPERUSER, SUPERUSER, "pgbouncer");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let patience = if stage.mode == Mode::Session { Duration::from_millis(200) } else { PATIENCE };
    let paused = client.simple_query("PAUSE");
    pin_mut!(paused);
    match timeout(patience, &mut paused).await {
        Ok(paused) => {
            paused.unwrap();
            client.simple_query("RESUME").await.unwrap();
        }
        Err(_) => {
            assert_eq!(stage.mode, Mode::Session, "PAUSE does not end\n{}", stage.proxy.log());
            client.cancel_token().cancel_query(NoTls).await.unwrap();
            // Cancelled, or just done.
            if timeout(PATIENCE, &mut paused).await.expect("an answer").is_ok() {
                client.simple_query("RESUME").await.unwrap();
            }
        }
    }
}
