//! One long result: how fast it passes, what it costs, and whether memory grows with it.

use crate::process;
use crate::report::{Figure, Measured, Row};
use crate::server::Server;
use crate::targets::{Running, Target};
use anyhow::Context;
use std::time::Instant;

/// A gigabyte, in a million rows.
const RESULT: &str = "SELECT repeat('x', 1000) FROM generate_series(1, 1000000)";

/// What the client reads at once.
const CLIENT_BUFFER: usize = 1 << 20;

/// Measures each target once.
pub fn measure(server: &Server, targets: &[Target]) -> anyhow::Result<Measured> {
    let mut rows = Vec::new();
    for target in targets {
        rows.push(one(server, *target).with_context(|| target.name())?);
    }
    Ok(Measured { rows })
}

fn one(server: &Server, target: Target) -> anyhow::Result<Row> {
    let running = Running::start(server, target)?;
    let mut client = running.client()?;
    let mut buffer = vec![0; CLIENT_BUFFER];
    client.query("SELECT 1", &mut buffer)?;
    let pid = running.pid();
    let memory_before = pid.and_then(process::rss_kb);
    if let Some(pid) = pid {
        process::forget_peak(pid);
    }
    let cpu_before = pid.and_then(process::cpu);
    let started = Instant::now();
    let bytes = client.query(RESULT, &mut buffer)? as f64;
    let seconds = started.elapsed().as_secs_f64();
    let cpu = pid.and_then(process::cpu).zip(cpu_before).map(|(after, before)| after - before);
    let growth = pid.and_then(process::peak_kb).zip(memory_before);
    Ok(Row {
        target,
        figures: vec![
            Figure::new("MB/s", Some(bytes / 1e6 / seconds), 0),
            Figure::new("CPU s/GB", cpu.map(|cpu| cpu.as_secs_f64() * 1e9 / bytes), 2),
            Figure::new("RSS before MB", memory_before.map(|kb| kb as f64 / 1e3), 1),
            Figure::new("growth kB", growth.map(|(peak, before)| peak as f64 - before as f64), 0),
        ],
    })
}
