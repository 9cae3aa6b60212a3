//! Proxies side by side: the server itself, PgBouncer and ours, in one run on one machine.
//!
//! Throughput depends on what else the machine does, the CPU seconds that a proxy spends on a
//! hundred thousand transactions hardly do: read those first, and compare along a line only.
//! Targets take turns (A B C, B C A, …) and every figure is a median over the rounds; a ratio is
//! the median of the ratios within each round. `docs/performance.md` has the method and numbers.
//!
//! Start reading in [`run`]; `scenario.rs` says what is measured, `targets.rs` on whom.

mod arguments;
mod bulk;
mod client;
mod idle;
mod load;
mod process;
mod report;
mod scenario;
mod server;
mod targets;

use anyhow::Context;
use arguments::Arguments;
use clap::Parser;
use report::Report;
use scenario::{Kind, Scenario};
use server::Server;
use std::process::ExitCode;
use std::time::Instant;
use targets::Target;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for scenario in Scenario::all() {
            println!("{:12} {}", scenario.name, scenario.title);
        }
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let started = Instant::now();
    cloud_mirror::sys::raise_open_files();
    let scenarios = arguments.scenarios()?;
    let targets = arguments.targets()?;
    let server = Server::start(arguments.other.clone())?;
    let mut report = Report::new(server.version(), &targets);
    println!("{}", report.heading());
    for scenario in &scenarios {
        let fitting: Vec<Target> = targets.iter().copied().filter(|target| scenario.fits(*target)).collect();
        let measured = match &scenario.kind {
            Kind::Load(load) => load::measure(&server, load, &fitting, arguments),
            Kind::Bulk(bulk) => bulk::measure(&server, *bulk, &fitting, arguments),
            Kind::Idle { clients } => idle::measure(&server, *clients, &fitting),
        };
        let measured = measured.with_context(|| scenario.name.clone())?;
        println!("\n{}: {}\n{}", scenario.name, scenario.title, measured.table());
        report.add(scenario, measured);
        if let Some(path) = &arguments.json {
            report.save(path)?;
        }
    }
    println!("\n{}", report.verdict());
    println!("{:.0} s, load average now {}", started.elapsed().as_secs_f64(), process::load_average());
    Ok(())
}
