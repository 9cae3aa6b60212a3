//! What happens to servers and proxies in the course of a year, each second.

use crate::PATIENCE;
use crate::stage::{DATABASE, Mode, ROLE, Stage};
use cloud_mirror::lab::StopMode;
use futures_util::pin_mut;
use nix::sys::signal::Signal;
use rand::RngExt;
use rand::rngs::SmallRng;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_postgres::{Client, Error, NoTls};

pub async fn make_until(stage: Arc<Stage>, mut random: SmallRng, end: Instant) {
    loop {
        pause_for(random.random_range(50..400)).await;
        if Instant::now() >= end {
            return;
        }
        stage.troubles.fetch_add(1, Ordering::Relaxed);
        let trouble = trouble(&stage, &mut random);
        if timeout(2 * PATIENCE, trouble).await.is_err() {
            panic!("trouble does not end\n{}", stage.story().await);
        }
    }
}

/// Not a wait for anything: the pace of trouble.
async fn pause_for(ms: u64) {
    sleep_until(Instant::now() + Duration::from_millis(ms)).await;
}

async fn trouble(stage: &Stage, random: &mut SmallRng) {
    match random.random_range(0..26) {
        0..5 => {
            stage.note("end of a back end");
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'
                ORDER BY random() LIMIT 1";
            // The server may be on its way down or up.
            let _ = stage.cluster.sql("postgres", end).await;
        }
        5..8 => {
            stage.note("reload by signal");
            stage.proxy.signal(Signal::SIGHUP);
        }
        8..11 => pause(stage, random.random_range(0..100)).await,
        11..13 => command(stage, "RECONNECT").await,
        13 => command(stage, "RELOAD").await,
        // In session mode most clients would find no place.
        14 if stage.mode != Mode::Session => {
            // Fewer, until the next reload.
            command(stage, "SET default_pool_size = 5").await;
        }
        15..17 => kill_client(stage).await,
        17 => kill_database(stage, random.random_range(0..50)).await,
        18 => suspend(stage, random.random_range(0..100)).await,
        19 => {
            let console = stage.console_client().await;
            must(stage, &console, &format!("DISABLE {DATABASE}")).await;
            pause_for(random.random_range(0..50)).await;
            must(stage, &console, &format!("ENABLE {DATABASE}")).await;
        }
        20 => {
            stage.note("frozen server");
            if stage.cluster.freeze().is_ok() {
                pause_for(random.random_range(50..400)).await;
                stage.cluster.thaw();
            }
        }
        21 => {
            stage.note("immediate restart");
            stage.cluster.restart(StopMode::Immediate).await.unwrap();
        }
        22 => {
            stage.note("fast restart");
            stage.cluster.restart(StopMode::Fast).await.unwrap();
        }
        23 => {
            stage.note("killed back end");
            let kill = "SELECT pid FROM pg_stat_activity WHERE usename = 'app' ORDER BY random() LIMIT 1";
            if let Ok(pid) = stage.cluster.value("postgres", kill).await
                && let Ok(pid) = pid.parse()
            {
                // The server takes a killed back end for a crash: all its siblings are ended.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
                until_up(stage).await;
            }
        }
        _ => {
            // One reload of the server's settings, which it reports to everybody.
            stage.note("server reload");
            let style = ["ISO, MDY", "ISO, DMY"][random.random_range(0..2)];
            if stage.cluster.configure("datestyle", style).is_ok() {
                let _ = stage.cluster.reload();
            }
        }
    }
}

async fn must(stage: &Stage, console: &Client, text: &str) {
    let word = ["DISABLE", "ENABLE", "RECONNECT", "RELOAD", "SET", "RESUME", "KILL", "SUSPEND"]
        .into_iter()
        .find(|word| text.starts_with(word));
    stage.note(word.expect("a command of ours"));
    if let Err(error) = console.simple_query(text).await {
        panic!("{text}: {error:?}\n{}", stage.proxy.log());
    }
}

async fn command(stage: &Stage, text: &str) {
    must(stage, &stage.console_client().await, text).await;
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
async fn pause(stage: &Stage, ms: u64) {
    stage.note("PAUSE");
    let console = stage.console_client().await;
    let patience = match stage.mode {
        Mode::Session => Duration::from_millis(200),
        // Less than anybody waits who is held up by it.
        Mode::Auto => PATIENCE / 10,
        Mode::Transaction | Mode::Statement => PATIENCE,
    };
    let paused = console.simple_query("PAUSE");
    pin_mut!(paused);
    match timeout(patience, &mut paused).await {
        Ok(paused) => {
            paused.unwrap();
            // Nobody has a connection now.
            pause_for(ms).await;
            must(stage, &console, "RESUME").await;
        }
        Err(_) => {
            // A client of auto mode that keeps something keeps its connection.
            let may_wait = matches!(stage.mode, Mode::Session | Mode::Auto);
            assert!(may_wait, "PAUSE does not end\n{}", stage.story().await);
            console.cancel_token().cancel_query(NoTls).await.unwrap();
            // Cancelled, or just done.
            if timeout(PATIENCE, &mut paused).await.expect("an answer").is_ok() {
                must(stage, &console, "RESUME").await;
            }
        }
    }
}

async fn kill_client(stage: &Stage) {
    let console = stage.console_client().await;
    let rows = console.simple_query("SHOW CLIENTS").await.unwrap();
    let ids = rows.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) if row.get("user") == Some(ROLE) => row.get("id"),
        _ => None,
    });
    // The one that came last: somebody rude, perhaps.
    let Some(id) = ids.last() else { return };
    stage.note("KILL_CLIENT");
    let killed: Result<_, Error> = console.simple_query(&format!("KILL_CLIENT {id}")).await;
    // It may have left meanwhile.
    if let Err(error) = killed {
        assert_eq!(error.code().map(|code| code.code()), Some("42704"), "{error:?}");
    }
}

async fn kill_database(stage: &Stage, ms: u64) {
    let console = stage.console_client().await;
    must(stage, &console, &format!("KILL {DATABASE}")).await;
    pause_for(ms).await;
    must(stage, &console, &format!("RESUME {DATABASE}")).await;
}

async fn suspend(stage: &Stage, ms: u64) {
    let console = stage.console_client().await;
    must(stage, &console, "SUSPEND").await;
    pause_for(ms).await;
    must(stage, &console, "RESUME").await;
}
