//! Builds the rooms, connects their channels, and carries the controller's wishes to them.
//!
//! [`start()`] makes a [`Running`] process of a checked configuration: the state directory, our
//! login on both servers, the routes, the lease's keeper, the mirrors, listeners and surfaces.
//! `driver` feeds the controller and hands its effects to `carry`; everything that decides lives
//! in the rooms below. [`source`] gets the configuration from where the operator keeps it, and
//! again at a reload; [`convert`] and `settings` turn its plain types into those of the rooms.

mod averages;
mod carry;
mod check;
pub mod convert;
mod driver;
mod facts;
mod failback;
mod front;
mod halt;
mod mirrors;
mod onlooker;
mod operator;
mod roles;
mod running;
mod server;
mod settings;
mod setup;
mod signals;
pub mod source;
mod suspicions;
mod world;

pub use check::check;
pub use failback::failback;
pub use operator::Desk;
pub use running::{Running, start};
pub use setup::StartError;
pub use source::ConfigSource;

use crate::config::Config;
use signals::Habits;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, or all is well.
    Ok,
    /// It did not work.
    Failed,
    /// The command line, the configuration, or a server's settings have to be changed first.
    Usage,
    /// It works, but not as well as it should.
    Degraded,
    /// This site may not write.
    NotLeader,
    /// Nobody answers.
    Unreachable,
}

impl Exit {
    /// The code of the process.
    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Degraded => 3,
            Exit::NotLeader => 4,
            Exit::Unreachable => 5,
        }
    }
}

/// Runs the proxy until it is told to stop (SIGTERM, SIGINT). Reads `source` again at SIGHUP.
/// Blocks: it makes its own runtimes.
pub fn run(config: Config, source: ConfigSource) -> anyhow::Result<Exit> {
    crate::sys::raise_open_files();
    let runtime = control_runtime()?;
    let habits = if source.pgbouncer.is_some() { Habits::PgBouncer } else { Habits::Own };
    let exit = runtime.block_on(async {
        match start(config, Some(source)).await {
            Ok(running) => {
                running.announce();
                signals::run_until_signal(running, habits).await?;
                Ok(Exit::Ok)
            }
            Err(error) => {
                eprintln!("cloud-mirror: {error}");
                Ok(error.exit())
            }
        }
    });
    // Nothing that is still under way holds the end up.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    exit
}

/// The runtime for everything but the relaying of statements.
fn control_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("control").enable_all().build()
}
