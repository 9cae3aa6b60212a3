//! Tables for people, JSON for programs, and the bars.

use crate::process;
use crate::scenario::{Kind, Scenario, Script};
use crate::targets::{Mode, Target, Way, pgbouncer_version};
use anyhow::Context;
use serde_json::{Map, Value, json};
use std::path::Path;

/// One number of a table.
#[derive(Debug, Clone)]
pub struct Figure {
    name: &'static str,
    value: Option<f64>,
    decimals: usize,
}

impl Figure {
    /// A number that is shown with so many decimals; `None` where there is none.
    pub fn new(name: &'static str, value: Option<f64>, decimals: usize) -> Figure {
        Figure { name, value, decimals }
    }

    fn text(&self) -> String {
        self.value.map_or("-".to_owned(), |value| format!("{value:.*}", self.decimals))
    }
}

/// What was measured on one target.
#[derive(Debug, Clone)]
pub struct Row {
    /// On whom.
    pub target: Target,
    /// The numbers, the same ones for all targets of a scenario.
    pub figures: Vec<Figure>,
}

/// What was measured in one scenario.
#[derive(Debug, Clone)]
pub struct Measured {
    /// One for each target.
    pub rows: Vec<Row>,
}

impl Measured {
    /// Aligned columns.
    pub fn table(&self) -> String {
        let Some(first) = self.rows.first() else { return "nothing to measure".to_owned() };
        let mut lines: Vec<Vec<String>> = vec![vec!["target".to_owned()]];
        lines[0].extend(first.figures.iter().map(|figure| figure.name.to_owned()));
        for row in &self.rows {
            let mut line = vec![row.target.name().to_owned()];
            line.extend(row.figures.iter().map(Figure::text));
            lines.push(line);
        }
        let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
        let text = lines.iter().map(|line| {
            let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
                0 => format!("  {cell:width$}"),
                _ => format!("  {cell:>width$}"),
            });
            cells.collect::<String>()
        });
        text.collect::<Vec<_>>().join("\n")
    }

    fn figure(&self, target: Target, name: &str) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.target == target)?;
        row.figures.iter().find(|figure| figure.name == name)?.value
    }

    fn to_json(&self) -> Value {
        let figures = |row: &Row| -> Map<String, Value> {
            row.figures.iter().map(|figure| (figure.name.to_owned(), json!(figure.value))).collect()
        };
        let rows: Map<String, Value> =
            self.rows.iter().map(|row| (row.target.name().to_owned(), figures(row).into())).collect();
        rows.into()
    }
}

/// Everything that was measured.
#[derive(Debug)]
pub struct Report {
    machine: String,
    server: String,
    bouncer: String,
    measured: Vec<(Scenario, Measured)>,
}

impl Report {
    /// Nothing yet.
    pub fn new(server: &str, targets: &[Target]) -> Report {
        let bouncer =
            if targets.iter().any(|target| target.is_pgbouncer()) { pgbouncer_version() } else { None };
        Report {
            machine: process::machine(),
            server: server.to_owned(),
            bouncer: bouncer.unwrap_or_else(|| "no PgBouncer".to_owned()),
            measured: Vec::new(),
        }
    }

    /// Machine and versions.
    pub fn heading(&self) -> String {
        format!("{}, PostgreSQL {}, {}", self.machine, self.server, self.bouncer)
    }

    /// Adds a scenario.
    pub fn add(&mut self, scenario: &Scenario, measured: Measured) {
        self.measured.push((scenario.clone(), measured));
    }

    /// Writes everything to a file.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let scenarios: Map<String, Value> = self
            .measured
            .iter()
            .map(|(scenario, measured)| (scenario.name.clone(), measured.to_json()))
            .collect();
        let all = json!({
            "machine": self.machine, "postgresql": self.server, "pgbouncer": self.bouncer,
            "scenarios": scenarios,
        });
        std::fs::write(path, format!("{all:#}\n")).with_context(|| path.display().to_string())
    }

    /// The bars, and whether they held in this run.
    pub fn verdict(&self) -> String {
        let mut lines = Vec::new();
        for (scenario, measured) in &self.measured {
            for (target, name, bar) in bars(scenario) {
                if let Some(value) = measured.figure(target, name) {
                    let (is_held, bar) = match bar {
                        Bar::Most(most) => (value <= most, format!("at most {most:.2}")),
                        Bar::Least(least) => (value >= least, format!("at least {least:.2}")),
                    };
                    let verdict = if is_held { "held" } else { "MISSED" };
                    let target = target.name();
                    lines.push(format!(
                        "{verdict:6}  {}, {target}: {name} {value:.2}, bar {bar}",
                        scenario.name
                    ));
                }
            }
        }
        lines.join("\n")
    }
}

/// How good a figure has to be.
#[derive(Debug, Clone, Copy)]
enum Bar {
    Most(f64),
    Least(f64),
}

/// What we ask of ourselves in a scenario.
fn bars(scenario: &Scenario) -> Vec<(Target, &'static str, Bar)> {
    use Bar::{Least, Most};
    let ours = |way, mode| Target::Ours(way, mode);
    let (tcp, unix) = (ours(Way::Tcp, Mode::Session), ours(Way::Unix, Mode::Session));
    let pooled = |name: &'static str, by_tcp: f64, by_unix: f64| {
        [Mode::Transaction, Mode::Auto].into_iter().flat_map(move |mode| {
            [(ours(Way::Tcp, mode), name, Most(by_tcp)), (ours(Way::Unix, mode), name, Most(by_unix))]
        })
    };
    match &scenario.kind {
        Kind::Load(load) if load.reconnects => vec![(tcp, "CPU/pgb", Most(1.0))],
        Kind::Load(load) if load.script == Script::TpcB => pooled("CPU/pgb", 0.85, 0.85).collect(),
        Kind::Load(load) if load.clients > 1 => {
            let mut bars = vec![
                (tcp, "CPU/pgb", Most(1.0)),
                (tcp, "CPU/floor", Most(1.1)),
                (tcp, "tps/pgb", Least(1.0)),
                (unix, "CPU/pgb", Most(0.8)),
            ];
            if load.protocol == "prepared" {
                bars.extend(pooled("CPU/pgb", 0.85, 0.70));
            }
            bars
        }
        Kind::Load(_) => vec![(tcp, "added/floor", Most(1.1))],
        Kind::Bulk(_) => vec![
            (tcp, "CPU/pgb", Most(0.65)),
            (tcp, "CPU/floor", Most(1.3)),
            (tcp, "growth kB", Most(1024.0)),
        ],
        Kind::Idle { .. } => [tcp, ours(Way::Tcp, Mode::Transaction), ours(Way::Tcp, Mode::Auto)]
            .map(|target| (target, "kB/client", Most(4.0)))
            .to_vec(),
    }
}
