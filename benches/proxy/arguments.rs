//! What the person at the terminal asks for.

use crate::scenario::Scenario;
use crate::targets::Target;
use anyhow::bail;
use clap::Parser;
use std::path::PathBuf;

/// Proxies side by side.
#[derive(Debug, Parser)]
#[command(name = "proxy", about = "The server, PgBouncer and Cloud Mirror side by side")]
pub struct Arguments {
    /// What to measure, separated by commas; `all`, or a beginning such as `prepared`.
    #[arg(short, long, value_delimiter = ',')]
    scenarios: Vec<String>,
    /// On whom, separated by commas: direct, floor, pgbouncer, ours, each of the last three also with
    /// `-unix`, the last two with `-tx`, ours with `-auto`; the environment variable PGBOUNCER names
    /// another PgBouncer than the installed one.
    #[arg(short, long, value_delimiter = ',')]
    targets: Vec<String>,
    /// How often each target has its turn.
    #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Seconds of load in each turn.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Another build of the proxy to measure beside this one.
    #[arg(long, value_name = "BINARY")]
    pub other: Option<PathBuf>,
    /// Everything measured is written to this file, too.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Lists the scenarios.
    #[arg(long)]
    pub list: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    /// The scenarios asked for, or those of the short run.
    pub fn scenarios(&self) -> anyhow::Result<Vec<Scenario>> {
        let all = Scenario::all();
        if self.scenarios.is_empty() {
            return Ok(all.into_iter().filter(|scenario| scenario.is_default).collect());
        }
        let is_wanted = |scenario: &Scenario, word: &str| word == "all" || scenario.name.starts_with(word);
        for word in &self.scenarios {
            if !all.iter().any(|scenario| is_wanted(scenario, word)) {
                bail!("there is no scenario {word:?}; --list shows them");
            }
        }
        let wanted = |scenario: &Scenario| self.scenarios.iter().any(|word| is_wanted(scenario, word));
        Ok(all.into_iter().filter(wanted).collect())
    }

    /// The targets asked for that are here; says what is missing.
    pub fn targets(&self) -> anyhow::Result<Vec<Target>> {
        for word in &self.targets {
            if !Target::ALL.iter().any(|target| target.name() == word) {
                bail!("there is no target {word:?}");
            }
        }
        let is_wanted = |target: &Target| {
            self.targets.is_empty() || self.targets.iter().any(|word| word == target.name())
        };
        let mut targets: Vec<Target> = Target::ALL.into_iter().filter(is_wanted).collect();
        if self.other.is_none() {
            targets.retain(|target| *target != Target::Other);
        }
        if crate::targets::floor_program().is_none() {
            targets.retain(|target| !matches!(target, Target::Floor(_)));
            println!("there is no C compiler, and so no floor: `apt-get install gcc`");
        }
        if crate::targets::pgbouncer().is_none() {
            targets.retain(|target| !target.is_pgbouncer());
            println!("PgBouncer is not installed and left out: `apt-get install pgbouncer`");
        }
        Ok(targets)
    }
}
