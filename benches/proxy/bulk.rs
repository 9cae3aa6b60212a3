//! Much data one way: how fast it passes, what it costs, and whether memory grows with it.

use crate::arguments::Arguments;
use crate::client::Client;
use crate::load::median;
use crate::process;
use crate::report::{Figure, Measured, Row};
use crate::scenario::Bulk;
use crate::server::Server;
use crate::targets::{Login, Mode, Running, Target, Way};
use anyhow::Context;
use std::time::Instant;

/// What the client reads at once.
const CLIENT_BUFFER: usize = 1 << 20;
/// What is copied in.
const COPY_IN_BYTES: u64 = 500_000_000;

/// One turn of one target.
#[derive(Debug, Clone, Copy)]
struct Turn {
    rate: f64,
    /// CPU seconds of the proxy for a gigabyte.
    cpu: Option<f64>,
}

/// A target and its client.
struct Under {
    running: Running,
    client: Client,
    memory_before: Option<u64>,
}

/// Measures all targets, in turns.
pub fn measure(
    server: &Server,
    bulk: Bulk,
    targets: &[Target],
    arguments: &Arguments,
) -> anyhow::Result<Measured> {
    let mut buffer = vec![0; CLIENT_BUFFER];
    let mut all = Vec::new();
    for target in targets {
        all.push(begin(server, *target, &mut buffer).with_context(|| target.name())?);
    }
    let mut turns: Vec<Vec<Turn>> = vec![Vec::new(); all.len()];
    for round in 0..arguments.rounds as usize {
        for place in 0..all.len() {
            let number = (round + place) % all.len();
            let turn = take_turn(&mut all[number], bulk, &mut buffer);
            turns[number].push(turn.with_context(|| targets[number].name())?);
        }
    }
    Ok(summary(targets, &turns, &all))
}

fn begin(server: &Server, target: Target, buffer: &mut [u8]) -> anyhow::Result<Under> {
    let running = Running::start(server, target, Login::Trust)?;
    let mut client = running.client()?;
    client.query("SELECT 1", buffer)?;
    let memory_before = running.pid().and_then(process::rss_kb);
    if let Some(pid) = running.pid() {
        process::forget_peak(pid);
    }
    Ok(Under { running, client, memory_before })
}

fn take_turn(under: &mut Under, bulk: Bulk, buffer: &mut [u8]) -> anyhow::Result<Turn> {
    if matches!(bulk, Bulk::In) {
        under.client.query("TRUNCATE copied", buffer)?;
    }
    let cpu = || under.running.pid().and_then(process::cpu);
    let before = cpu();
    let started = Instant::now();
    let bytes = match bulk {
        Bulk::Out(query) => under.client.query(query, buffer)?,
        Bulk::In => under.client.copy_in("COPY copied FROM STDIN", COPY_IN_BYTES, buffer)?,
    } as f64;
    let seconds = started.elapsed().as_secs_f64();
    let spent = cpu().zip(before).map(|(after, before)| after.saturating_sub(before));
    Ok(Turn { rate: bytes / 1e6 / seconds, cpu: spent.map(|spent| spent.as_secs_f64() * 1e9 / bytes) })
}

fn summary(targets: &[Target], turns: &[Vec<Turn>], all: &[Under]) -> Measured {
    let find = |wanted: Target| targets.iter().position(|target| *target == wanted).map(|n| &turns[n]);
    let floor = find(Target::Floor(Way::Tcp));
    let bouncer = find(Target::PgBouncer(Way::Tcp, Mode::Session));
    let rows = targets.iter().zip(turns).zip(all).map(|((target, own), under)| {
        let against = |others: Option<&Vec<Turn>>| {
            median(own.iter().zip(others?).filter_map(|(own, other)| Some(own.cpu? / other.cpu?)))
        };
        let growth = under.running.pid().and_then(process::peak_kb).zip(under.memory_before);
        Row {
            target: *target,
            figures: vec![
                Figure::new("MB/s", median(own.iter().map(|turn| turn.rate)), 0),
                Figure::new("CPU s/GB", median(own.iter().filter_map(|turn| turn.cpu)), 2),
                Figure::new("CPU/pgb", against(bouncer), 2),
                Figure::new("CPU/floor", against(floor), 2),
                Figure::new("RSS before MB", under.memory_before.map(|kb| kb as f64 / 1e3), 1),
                Figure::new("growth kB", growth.map(|(peak, before)| peak as f64 - before as f64), 0),
            ],
        }
    });
    Measured { rows: rows.collect() }
}
