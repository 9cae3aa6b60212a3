//! Clients that are connected and do nothing: what they cost in memory and CPU.

use crate::process;
use crate::report::{Figure, Measured, Row};
use crate::server::Server;
use crate::targets::{Login, Running, Target};
use anyhow::Context;
use std::time::{Duration, Instant};

/// How long nothing is done while the CPU is watched.
const QUIET: Duration = Duration::from_secs(1);

/// Measures each target once, with `clients` clients.
pub fn measure(server: &Server, clients: usize, targets: &[Target]) -> anyhow::Result<Measured> {
    let mut rows = Vec::new();
    for target in targets {
        rows.push(one(server, clients, *target).with_context(|| target.name())?);
    }
    Ok(Measured { rows })
}

fn one(server: &Server, count: usize, target: Target) -> anyhow::Result<Row> {
    let running = Running::start(server, target, Login::Trust)?;
    let pid = running.pid().context("only a proxy's memory is measured")?;
    let memory = || process::rss_kb(pid).map(|kb| kb as f64);
    let cpu = || process::cpu(pid).map(|cpu| cpu.as_secs_f64());
    let (empty, started) = (memory(), Instant::now());
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(running.client()?);
    }
    let seconds = started.elapsed().as_secs_f64();
    let connected = memory();
    for client in &mut clients {
        client.query("SELECT 1", &mut [0; 4096])?;
    }
    let used = memory();
    // Not a wait for a fact: nothing is what should happen in this time.
    let before = cpu();
    std::thread::sleep(QUIET);
    let quiet = cpu().zip(before).map(|(after, before)| 100.0 * (after - before) / QUIET.as_secs_f64());
    let above = |then: Option<f64>| then.zip(empty).map(|(then, empty)| then - empty);
    Ok(Row {
        target,
        figures: vec![
            Figure::new("empty MB", empty.map(|kb| kb / 1e3), 1),
            Figure::new("connected +MB", above(connected).map(|kb| kb / 1e3), 1),
            Figure::new("used +MB", above(used).map(|kb| kb / 1e3), 1),
            Figure::new("kB/client", above(used).map(|kb| kb / count as f64), 2),
            Figure::new("connects/s", Some(count as f64 / seconds), 0),
            Figure::new("idle CPU %", quiet, 2),
        ],
    })
}
