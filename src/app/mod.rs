//! Builds the rooms and connects their channels; does nothing else.
//!
//! [`source`] gets the configuration from where the operator keeps it and gets it again at a
//! reload; [`convert`] turns its plain types into those of the rooms. What [`run`], [`check`] and
//! [`failback`] promise to the command line stands with each.

pub mod convert;
pub mod source;

pub use source::ConfigSource;

use crate::config::Config;

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
pub fn run(_config: Config, _source: ConfigSource) -> anyhow::Result<Exit> {
    anyhow::bail!("this build has no proxy in it yet")
}

/// Probes both servers with what `config` says and prints what is missing. Blocks.
pub fn check(_config: &Config) -> anyhow::Result<Exit> {
    anyhow::bail!("this build cannot probe servers yet; --offline checks the configuration alone")
}

/// Brings the data home after a failover, giving up what the local database has: renames it,
/// copies the cloud's, makes `local` the owner at the next epoch and mirrors anew. Blocks.
pub fn failback(_config: Config) -> anyhow::Result<Exit> {
    anyhow::bail!("this build has no way home yet")
}
