//! Clients of every manner and trouble of every kind, for a while: nothing hangs, leaks or grows, and
//! nobody gets another's answer.
//!
//! Rounds of some seconds, in which what the console shows is looked at all the time; between them everybody
//! holds still, and what it shows has to be what the clients and the server know. `SOAK_SECONDS` is the
//! length of each mode's run, `SOAK_SEED` repeats its choices.

mod cancel;
mod polite;
mod recorded;
mod rude;
mod shown;
mod stage;
mod trouble;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use stage::{Mode, Stage};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// Clients that speak the protocol well.
const POLITE: usize = 12;
/// Clients that hang up anywhere.
const RUDE: usize = 5;
/// Every so many rounds there is no trouble: clients that hang up are all there is, and nobody may notice.
const CALM: u64 = 3;
/// Between two looks at who holds still.
const ROUND: Duration = Duration::from_secs(3);
/// The longest anything may take, a restart of the server included.
const PATIENCE: Duration = Duration::from_secs(60);
/// Rounds after which everything has its size.
const WARM: u64 = 2;
/// What memory may grow from then on, in kB: about twice what differs from round to round.
const GROWTH_KB: u64 = 16 << 10;
/// The same for open files that are neither a client's nor a server's.
const GROWTH_FILES: u64 = 12;

/// What is compared from round to round.
#[derive(Debug, Clone, Copy)]
struct Size {
    memory_kb: u64,
    files: u64,
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

async fn soak(mode: Mode, seconds: u64, seed: u64) {
    let length = Duration::from_secs(number("SOAK_SECONDS").unwrap_or(seconds));
    let seed = number("SOAK_SEED").unwrap_or(seed);
    println!("{mode:?}: SOAK_SEED={seed} SOAK_SECONDS={}", length.as_secs());
    let stage = Arc::new(Stage::set(mode).await);
    let started = Instant::now();
    let (mut rounds, mut warm, mut last) = (0, None, None);
    let client = |number: usize| {
        let random = SmallRng::seed_from_u64(seed.wrapping_add(number as u64));
        polite::Client::new(stage.clone(), number, random)
    };
    let mut polite: Vec<_> = (0..POLITE).map(client).collect();
    while started.elapsed() < length {
        polite = play_round(&stage, polite, seed, rounds).await;
        let (connected, shown) = shown::all_is_so(&stage, &polite).await;
        rounds += 1;
        let files = stage.files().saturating_sub(connected + shown.servers);
        let size = Size { memory_kb: stage.memory_kb(), files };
        if rounds == WARM {
            warm = Some(size);
        }
        last = Some(size);
    }
    for client in polite {
        client.leave().await;
    }
    shown::all_is_so(&stage, &[]).await;
    shown::nothing_stays(&stage).await;
    println!("{mode:?}: {rounds} rounds, {}, {last:?} after {warm:?}", stage.counts());
    stage.nothing_is_lost().await;
    stage.has_had_everything();
    if let (Some(warm), Some(last)) = (warm, last) {
        assert!(last.memory_kb < warm.memory_kb + GROWTH_KB, "memory grew: {last:?} after {warm:?}");
        assert!(last.files < warm.files + GROWTH_FILES, "open files grew: {last:?} after {warm:?}");
    }
}

/// Some seconds of everything at once; returns when nobody does anything.
async fn play_round(
    stage: &Arc<Stage>,
    polite: Vec<polite::Client>,
    seed: u64,
    round: u64,
) -> Vec<polite::Client> {
    let end = Instant::now() + ROUND;
    let mut tasks = Vec::new();
    for mut client in polite {
        tasks.push(tokio::spawn(async move {
            client.play_until(end).await;
            client
        }));
    }
    let mut others = vec![tokio::spawn(shown::look_until(stage.clone(), end))];
    for number in 0..RUDE {
        let random = SmallRng::seed_from_u64(seed ^ (round * 31 + number as u64 + 1));
        others.push(tokio::spawn(rude::play_until(stage.clone(), random, end)));
    }
    stage.set_calm(round.is_multiple_of(CALM));
    if !stage.is_calm() {
        let random = SmallRng::seed_from_u64(seed.wrapping_mul(round + 1));
        others.push(tokio::spawn(trouble::make_until(stage.clone(), random, end)));
    }
    sleep_until(end).await;
    for other in others {
        match timeout(PATIENCE, other).await {
            Ok(done) => done.unwrap(),
            Err(_) => panic!("somebody does not end\n{}", stage.story().await),
        }
    }
    let mut polite = Vec::new();
    for task in tasks {
        match timeout(PATIENCE, task).await {
            Ok(client) => polite.push(client.unwrap()),
            Err(_) => panic!("a client does not end\n{}", stage.story().await),
        }
    }
    polite
}

/// Of each mode, in `make test`.
const SHORT: u64 = 15;
/// Its choices: the same each time, so that a failure is one that can be looked at.
const SEED: u64 = 20_261_120;

#[tokio::test(flavor = "multi_thread")]
async fn session_mode_for_a_while() {
    soak(Mode::Session, SHORT, SEED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_mode_for_a_while() {
    soak(Mode::Transaction, SHORT, SEED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_mode_for_a_while() {
    soak(Mode::Auto, SHORT, SEED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statement_mode_for_a_while() {
    soak(Mode::Statement, SHORT, SEED).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: 30 minutes of mixed clients and trouble"]
async fn all_modes_for_long() {
    for mode in [Mode::Session, Mode::Transaction, Mode::Auto, Mode::Statement] {
        soak(mode, 450, rand::random()).await;
    }
}
