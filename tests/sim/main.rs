//! The lease and the controller in thousands of histories that nobody would type by hand: one thread,
//! no real time, everything from one seed.
//!
//! A history has one proxy that acts for both sites (its lease machine and its controller are the
//! product's own), often a second instance that contends for the lease, a store, two servers, and a network
//! that loses, delays and repeats. Processes crash and sleep, clocks drift, servers die, freeze and restart,
//! operators promote, people delete records. After each step the [`oracle`] looks for two open gates, a
//! falling epoch, an acknowledgement from a fenced side. Then the faults stop, and the site has to settle.
//!
//! `SIM_SEEDS=100000 cargo test --profile quick --test sim` runs a campaign, `SIM_SEED=17` replays one history with its
//! last 40 events (`SIM_EVENTS=400` for more). [`Mutant`] breaks one rule at a time; each must be caught.

mod clock;
mod faults;
mod oracle;
mod process;
mod servers;
mod store;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use world::{Failure, Kind, Mutant, Summary, World};

/// Histories of one ordinary run.
const HISTORIES: u64 = 3_000;

/// A mutant that survives this many histories is a hole in the simulation.
const HISTORIES_PER_MUTANT: u64 = 3_000;

fn run(seed: u64, mutant: Mutant) -> Result<Summary, Failure> {
    // A machine's own assertion is a find too.
    let history = move |is_traced| {
        std::panic::catch_unwind(|| World::new(seed, mutant, is_traced).run())
            .unwrap_or_else(|panic| Err(Failure::from_panic(seed, panic)))
    };
    // Writing the events down costs more than living through them: only a failed history is told.
    history(false).map_err(|failure| history(true).err().unwrap_or(failure))
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is not a number")))
}

#[test]
fn no_history_has_two_open_gates_and_every_one_settles() {
    if let Some(seed) = number("SIM_SEED") {
        match run(seed, Mutant::None) {
            Ok(summary) => return println!("seed {seed}: {summary:?}"),
            Err(failure) => panic!("{failure}"),
        }
    }
    let histories = number("SIM_SEEDS").unwrap_or(HISTORIES);
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let work = || {
        let mut sum = Summary::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= histories {
                return sum;
            }
            match run(seed, Mutant::None) {
                Ok(summary) => sum.add(&summary),
                Err(failure) => panic!("{failure}"),
            }
        }
    };
    let sum = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().fold(Summary::default(), |mut sum, worker| {
            sum.add(&worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            sum
        })
    });
    println!("{histories} histories: {sum:?}");
    // A simulation in which nothing happens proves nothing.
    assert!(sum.switches > histories / 10, "{sum:?}");
    assert!(sum.takeovers > histories / 20, "{sum:?}");
    assert!(sum.expiries > histories / 10, "{sum:?}");
    assert!(sum.acknowledged > histories * 10, "{sum:?}");
}

#[test]
fn every_broken_rule_is_caught() {
    let mut survivors = Vec::new();
    for mutant in Mutant::ALL {
        let caught = (0..HISTORIES_PER_MUTANT).find_map(|seed| {
            let world = move || World::new(seed, mutant, false).run();
            match std::panic::catch_unwind(world) {
                // A mutant that hangs has not shown yet what it breaks.
                Ok(Ok(_) | Err(Failure { kind: Kind::Liveness, .. })) => None,
                Ok(Err(Failure { kind: Kind::Safety, why, .. })) => Some((seed, why)),
                Err(_) => Some((seed, "an assertion of the machine".to_owned())),
            }
        });
        match caught {
            Some((seed, why)) => println!("{mutant:?}: caught in history {seed}: {why}"),
            None => survivors.push(mutant),
        }
    }
    assert_eq!(survivors, [], "these survived {HISTORIES_PER_MUTANT} histories each");
}
