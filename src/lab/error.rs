//! What can go wrong in the lab.

use crate::base::Retry;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a person without PostgreSQL types. The file keeps Debian from starting a server of its
/// own (`/etc/postgresql-common/createcluster.d` is read before `createcluster.conf` exists).
pub const APT_LINE: &str = "sudo sh -c 'mkdir -p /etc/postgresql-common/createcluster.d && \
    echo create_main_cluster = false >/etc/postgresql-common/createcluster.d/no-main-cluster.conf && \
    apt-get update && apt-get install -y postgresql postgresql-contrib'";

/// Why the lab could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server programs on this machine.
    #[error("no PostgreSQL server programs found ({searched}); install them with:\n{APT_LINE}")]
    NoPostgres {
        /// Where we looked.
        searched: String,
    },
    /// We are root, PostgreSQL refuses to run as root, and there is nobody to run it as.
    #[error("PostgreSQL does not run as root and there is no user `postgres` to run it as")]
    NoUser,
    /// A file or directory.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried: "create", "read".
        what: &'static str,
        /// Which one.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A program failed or did not start.
    #[error("{program} failed: {output}")]
    Program {
        /// Its name.
        program: String,
        /// What it wrote, or why it did not start.
        output: String,
    },
    /// The server ended while it was starting.
    #[error("the server did not start; its log ends with:\n{log}")]
    Start {
        /// The end of its log.
        log: String,
    },
    /// Somebody else listens on the port.
    #[error("port {port} is taken")]
    PortTaken {
        /// Which port.
        port: u16,
    },
    /// No port could be reserved.
    #[error("no free port between {first} and {last}")]
    NoPort {
        /// First port tried.
        first: u16,
        /// Last port tried.
        last: u16,
    },
    /// The server is not running.
    #[error("the server is not running")]
    NotRunning,
    /// The server runs already.
    #[error("the server is running already")]
    Running,
    /// It took too long.
    #[error("{what} took longer than {limit:?}; the server's log ends with:\n{log}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
        /// The end of the server's log.
        log: String,
    },
    /// A statement or a login failed.
    #[error("{}", crate::backend::control::describe(.0))]
    Sql(#[from] tokio_postgres::Error),
}

impl Error {
    /// Whether the same call may be made again.
    pub fn retry(&self) -> Retry {
        match self {
            Error::NoPostgres { .. } | Error::NoUser | Error::Running | Error::NotRunning => Retry::Never,
            Error::PortTaken { .. } | Error::NoPort { .. } | Error::Start { .. } => Retry::Safe,
            Error::File { .. } | Error::Program { .. } | Error::Timeout { .. } | Error::Sql(_) => {
                Retry::Unknown
            }
        }
    }

    /// For `map_err`: `what` names the act, `path` its object.
    pub(super) fn file(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::File { what, path, source }
    }
}
