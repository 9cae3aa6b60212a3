//! pgbench against each target in turn.

use crate::arguments::Arguments;
use crate::process;
use crate::report::{Figure, Measured, Row};
use crate::scenario::{Load, Script};
use crate::server::{DATABASE, PASSWORD, Server};
use crate::targets::{Login, Mode, Running, Target, Way};
use anyhow::{Context, ensure};
use std::path::Path;
use std::process::Command;

/// One turn of one target.
#[derive(Debug, Clone, Copy)]
struct Turn {
    tps: f64,
    /// CPU seconds of the proxy for 100,000 transactions.
    cpu: Option<f64>,
    /// Of one client's transactions, microseconds.
    median_latency: Option<f64>,
}

/// Measures all targets, in turns.
pub fn measure(
    server: &Server,
    load: &Load,
    targets: &[Target],
    arguments: &Arguments,
) -> anyhow::Result<Measured> {
    let mut running = Vec::new();
    for target in targets {
        let target = Running::start(server, *target, load.login).with_context(|| target.name())?;
        let warm_up = if load.reconnects { "20" } else { "200" };
        pgbench(server, load, &target, &["-t", warm_up], None)?;
        running.push(target);
    }
    let mut turns: Vec<Vec<Turn>> = vec![Vec::new(); running.len()];
    for round in 0..arguments.rounds as usize {
        for place in 0..running.len() {
            let number = (round + place) % running.len();
            let turn = take_turn(server, load, &running[number], arguments.seconds);
            turns[number].push(turn.with_context(|| targets[number].name())?);
        }
    }
    Ok(summary(targets, &turns))
}

fn take_turn(server: &Server, load: &Load, target: &Running, seconds: u32) -> anyhow::Result<Turn> {
    let cpu = || target.pid().and_then(process::cpu);
    let before = cpu();
    let log = if load.clients == 1 { Some(tempfile::tempdir()?) } else { None };
    let log = log.as_ref().map(|directory| directory.path());
    let (transactions, tps) = pgbench(server, load, target, &["-T", &seconds.to_string()], log)?;
    let spent = cpu().zip(before).map(|(after, before)| after.saturating_sub(before));
    let cpu = spent.map(|spent| spent.as_secs_f64() * 1e5 / transactions);
    Ok(Turn { tps, cpu, median_latency: log.map(median_of_log).transpose()?.flatten() })
}

/// The third column of pgbench's log is a transaction's time in microseconds.
fn median_of_log(directory: &Path) -> anyhow::Result<Option<f64>> {
    let mut times = Vec::new();
    for file in std::fs::read_dir(directory)? {
        let text = std::fs::read_to_string(file?.path())?;
        times.extend(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok()));
    }
    Ok(median(times.into_iter()))
}

/// Transactions and their number per second; a line for each in a file in `log`.
fn pgbench(
    server: &Server,
    load: &Load,
    target: &Running,
    limit: &[&str],
    log: Option<&Path>,
) -> anyhow::Result<(f64, f64)> {
    let mut command = Command::new(server.program("pgbench"));
    command.args(["-n", "-M", load.protocol, "-c", &load.clients.to_string()]);
    if load.script == Script::SelectOnly {
        command.arg("-S");
    }
    command.args(["-j", &load.clients.min(2).to_string()]).args(limit);
    command.args(["-h", "127.0.0.1", "-p", &target.port.to_string(), "-U", target.target.role(), DATABASE]);
    command.env("PGGSSENCMODE", "disable").env("PGPASSWORD", PASSWORD);
    command.env("PGSSLMODE", if load.login == Login::Tls { "require" } else { "disable" });
    if load.reconnects {
        command.arg("-C");
    }
    if let Some(log) = log {
        command.arg("--log").current_dir(log);
    }
    let done = command.output().context("cannot run pgbench")?;
    let (out, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ensure!(done.status.success() && !errors.contains("aborted"), "pgbench: {errors}");
    let number = |start: &str| {
        let text = out.lines().find_map(|line| line.strip_prefix(start))?;
        text.split([' ', '/']).next()?.parse::<f64>().ok()
    };
    let transactions = number("number of transactions actually processed: ");
    transactions.zip(number("tps = ")).with_context(|| format!("pgbench printed {out}"))
}

fn summary(targets: &[Target], turns: &[Vec<Turn>]) -> Measured {
    let find = |wanted: Target| targets.iter().position(|target| *target == wanted).map(|n| &turns[n]);
    let (direct, floor) = (find(Target::Direct), find(Target::Floor(Way::Tcp)));
    let bouncer = |mode| find(Target::PgBouncer(Way::Tcp, mode));
    let rows = targets.iter().zip(turns).map(|(target, own)| {
        let against = |others: Option<&Vec<Turn>>, figure: fn(&Turn) -> Option<f64>| {
            median(own.iter().zip(others?).filter_map(|(own, other)| Some(figure(own)? / figure(other)?)))
        };
        let cpus = || own.iter().filter_map(|turn| turn.cpu);
        // Like with like, where there is a like.
        let peer = match target.mode() {
            Some(Mode::Transaction | Mode::Auto) => bouncer(Mode::Transaction),
            Some(Mode::Session) | None => None,
        };
        let peer = peer.or_else(|| bouncer(Mode::Session));
        // What the way through this one adds, against what the way through the relay does.
        let added = || {
            let turns = own.iter().zip(direct?).zip(floor?);
            median(turns.filter_map(|((own, direct), floor)| {
                let direct = direct.median_latency?;
                Some((own.median_latency? - direct) / (floor.median_latency? - direct))
            }))
        };
        let mut figures = vec![
            Figure::new("tps", median(own.iter().map(|turn| turn.tps)), 0),
            Figure::new("tps/direct", against(direct, |turn| Some(turn.tps)), 2),
            Figure::new("tps/pgb", against(peer, |turn| Some(turn.tps)), 2),
            Figure::new("CPU s/100k", median(cpus()), 2),
            Figure::new("least", cpus().reduce(f64::min), 2),
            Figure::new("CPU/pgb", against(peer, |turn| turn.cpu), 2),
            Figure::new("CPU/floor", against(floor, |turn| turn.cpu), 2),
        ];
        if own.iter().any(|turn| turn.median_latency.is_some()) {
            figures.push(Figure::new("p50 us", median(own.iter().filter_map(|t| t.median_latency)), 0));
            figures.push(Figure::new("added/floor", added(), 2));
        }
        Row { target: *target, figures }
    });
    Measured { rows: rows.collect() }
}

/// The middle one.
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}
