//! Arguments and exit codes.
//!
//! Reads the command line, gets the configuration, calls [`app`] and turns the outcome
//! into an exit code. Never talks to a server itself; `status` asks the running proxy over HTTP.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done, or all is well |
//! | 1 | it did not work; the last line says why |
//! | 2 | the command line, the configuration or a server's settings have to be changed first |
//! | 3 | it works, but degraded |
//! | 4 | this site may not write (its lease is not held) |
//! | 5 | nobody answers |

mod args;
mod demo;
mod import;
mod paint;
mod status;

use crate::app::{self, ConfigSource, Exit};
use crate::config::Config;
use crate::observe::logs;
use args::{Arguments, Command};
use clap::Parser;
use std::process::ExitCode;

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    // Before anything makes a TLS configuration: rustls would otherwise not know which provider.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return failed(&anyhow::anyhow!("a TLS provider is installed already"));
    }
    // Ends the process itself for --help, --version (0) and mistakes (2).
    let arguments = Arguments::parse();
    match dispatch(arguments.command) {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("cloud-mirror: {error:#}");
    ExitCode::from(Exit::Failed.code())
}

fn dispatch(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Run(settings) => {
            let source = settings.source()?;
            with_config(&source, |config| {
                logs::start(&config.log);
                import::tell(&source)?;
                app::run(config, source.clone())
            })
        }
        Command::Check { settings, offline } => with_config(&settings.source()?, |config| {
            logs::start(&config.log);
            match offline {
                true => Ok(Exit::Ok),
                false => app::check(&config),
            }
            .inspect(|exit| {
                if offline && *exit == Exit::Ok {
                    println!("The configuration has no mistakes; nothing was probed.");
                }
            })
        }),
        Command::Failback { settings, discard_local: _ } => with_config(&settings.source()?, |config| {
            logs::start(&config.log);
            app::failback(config)
        }),
        Command::Import(asked) => import::run(&asked),
        Command::Status(asked) => status::run(asked),
        Command::Demo(asked) => demo::run(asked),
    }
}

/// Goes on with a configuration that has no mistakes, or shows all of them.
fn with_config(
    source: &ConfigSource,
    go_on: impl FnOnce(Config) -> anyhow::Result<Exit>,
) -> anyhow::Result<Exit> {
    match source.load() {
        Ok(config) => go_on(config),
        Err(errors) => {
            eprintln!("{errors}");
            Ok(Exit::Usage)
        }
    }
}
