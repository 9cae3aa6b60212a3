//! Clients of every manner and trouble of every kind, for a while: nothing hangs, leaks or grows, and
//! nobody gets another's answer.
//!
//! Rounds of some seconds; between them everybody holds still and what the proxy shows has to be what
//! the clients and the server know. `SOAK_SECONDS` is the length of each mode's run, `SOAK_SEED` repeats
//! its choices.

mod polite;
mod rude;
mod stage;
mod trouble;

use cloud_mirror::lab::{Instead, eventually};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use stage::{Mode, Stage};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// Clients that speak the protocol well.
const POLITE: usize = 12;
/// Clients that hang up anywhere.
const RUDE: usize = 4;
/// Between two looks.
const ROUND: Duration = Duration::from_secs(5);
/// The longest anything may take, a restart of the server included.
const PATIENCE: Duration = Duration::from_secs(20);
/// What memory may grow from the end of the second round to the last, in kB.
const GROWTH_KB: u64 = 16 << 10;

fn length(default: u64) -> Duration {
    let seconds = std::env::var("SOAK_SECONDS").ok().map(|text| text.parse().unwrap());
    Duration::from_secs(seconds.unwrap_or(default))
}

async fn soak(mode: Mode, length: Duration) {
    let seed: u64 = std::env::var("SOAK_SEED").ok().map_or_else(rand::random, |text| text.parse().unwrap());
    println!("{mode:?}: SOAK_SEED={seed}");
    let stage = Arc::new(Stage::set(mode).await);
    let started = Instant::now();
    let (mut rounds, mut warm) = (0, None);
    let mut polite = Vec::new();
    for number in 0..POLITE {
        polite.push(polite::Client::new(
            stage.clone(),
            number,
            SmallRng::seed_from_u64(seed.wrapping_add(number as u64)),
        ));
    }
    while started.elapsed() < length {
        let end = Instant::now() + ROUND;
        let mut tasks = Vec::new();
        for mut client in polite.drain(..) {
            tasks.push(tokio::spawn(async move {
                client.play_until(end).await;
                client
            }));
        }
        let mut others = Vec::new();
        for number in 0..RUDE {
            let random = SmallRng::seed_from_u64(seed ^ (rounds * 31 + number as u64));
            others.push(tokio::spawn(rude::play_until(stage.clone(), random, end)));
        }
        let random = SmallRng::seed_from_u64(seed.wrapping_mul(rounds + 1));
        others.push(tokio::spawn(trouble::make_until(stage.clone(), random, end)));
        sleep_until(end).await;
        for task in tasks {
            let client = timeout(PATIENCE, task).await.unwrap_or_else(|_| panic!("{}", stage.proxy.log()));
            polite.push(client.unwrap());
        }
        for other in others {
            timeout(PATIENCE, other).await.unwrap_or_else(|_| panic!("{}", stage.proxy.log())).unwrap();
        }
        let connected = polite.iter().filter(|client| client.is_connected()).count();
        all_is_as_shown(&stage, connected as u64).await;
        rounds += 1;
        if rounds == 2 {
            warm = Some(stage.memory_kb());
        }
    }
    let memory = stage.memory_kb();
    for client in polite {
        client.leave().await;
    }
    all_is_as_shown(&stage, 0).await;
    let done = stage.counts();
    println!("{mode:?}: {rounds} rounds, {done}, memory {memory} kB after {warm:?}");
    stage.nothing_is_lost().await;
    if let Some(warm) = warm {
        assert!(memory < warm + GROWTH_KB, "memory grew from {warm} to {memory} kB");
    }
}

/// Everybody holds still: the console, the clients and the server tell the same story.
async fn all_is_as_shown(stage: &Stage, connected: u64) {
    if std::env::var("SOAK_BLIND").is_ok() {
        return;
    }
    eventually(PATIENCE, async || {
        let pools = stage.pools().await?;
        let shown = format!("{connected} clients are connected, the console shows {pools:?}");
        if pools.clients != connected || pools.waiting != 0 {
            return Err(Instead::from(shown));
        }
        let server = stage.server_side().await?;
        if pools.servers != server.sessions {
            return Err(format!("{shown}, the server has {server:?}").into());
        }
        if server.in_transaction != 0 {
            return Err(format!("transactions are open: {server:?}").into());
        }
        let most = match stage.mode {
            Mode::Session => connected,
            // Nobody does anything.
            Mode::Transaction => 0,
            Mode::Auto => pools.pinned.len() as u64,
        };
        match pools.active <= most {
            true => Ok(()),
            false => Err(format!("links are in use by nobody: {shown}").into()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: 20 s of mixed clients and trouble"]
async fn session_mode_for_a_while() {
    soak(Mode::Session, length(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: 20 s of mixed clients and trouble"]
async fn transaction_mode_for_a_while() {
    soak(Mode::Transaction, length(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: 20 s of mixed clients and trouble"]
async fn auto_mode_for_a_while() {
    soak(Mode::Auto, length(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: 30 minutes of mixed clients and trouble"]
async fn all_modes_for_long() {
    for mode in [Mode::Session, Mode::Transaction, Mode::Auto] {
        soak(mode, length(600)).await;
    }
}
