//! Tables for people, JSON for programs, and the bars.

use crate::process;
use crate::scenario::{Kind, Scenario};
use crate::targets::{Target, Way, pgbouncer};
use anyhow::Context;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::process::Command;

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
        let bouncer = if targets.iter().any(|target| target.is_pgbouncer()) { version() } else { None };
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
        let ours = Target::Ours(Way::Tcp);
        for (scenario, measured) in &self.measured {
            let mut bar = |name: &str, is_held: fn(f64) -> bool, hoped: &str| {
                if let Some(value) = measured.figure(ours, name) {
                    let verdict = if is_held(value) { "held" } else { "MISSED" };
                    lines.push(format!("{verdict:6}  {}: {name} {value:.2}, bar {hoped}", scenario.name));
                }
            };
            match &scenario.kind {
                Kind::Load(load) if load.protocol == "prepared" && load.clients > 1 => {
                    bar("CPU/pgb", |ratio| ratio <= 1.0, "at most 1.00");
                    bar("tps/pgb", |ratio| ratio >= 1.0, "at least 1.00");
                }
                Kind::Load(_) => {}
                Kind::Bulk => bar("growth kB", |kb| kb < 1024.0, "below 1,024"),
                Kind::Idle { .. } => {
                    bar("connected +MB", |mb| mb < 10.0, "below 10");
                    bar("used +MB", |mb| mb < 10.0, "below 10");
                }
            }
        }
        lines.join("\n")
    }
}

fn version() -> Option<String> {
    let output = Command::new(pgbouncer()?).arg("-V").output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}
