//! Which PostgreSQL this machine has.

use super::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory with `postgres`, `initdb`, `pg_basebackup`, `psql`, `pgbench` of one version.
#[derive(Debug, Clone)]
pub struct Programs {
    bindir: PathBuf,
    version: String,
}

impl Programs {
    /// Looks in `wanted`, else in `PG_BINDIR`, where `pg_config` points to, and in the newest
    /// `/usr/lib/postgresql/*/bin`. A directory that is named but holds no server is an error, so
    /// that a test never runs against another version than the one asked for.
    pub fn find(wanted: Option<&Path>) -> Result<Programs, Error> {
        let named = wanted.map(Path::to_owned).or_else(|| std::env::var_os("PG_BINDIR").map(PathBuf::from));
        let candidates = match named {
            Some(bindir) => vec![bindir],
            None => usual_places(),
        };
        let searched = || {
            let names: Vec<_> = candidates.iter().map(|p| p.display().to_string()).collect();
            if names.is_empty() {
                "no pg_config, no /usr/lib/postgresql".to_owned()
            } else {
                names.join(", ")
            }
        };
        candidates
            .iter()
            .find(|dir| dir.join("postgres").is_file() && dir.join("initdb").is_file())
            .map(|dir| dir.to_owned())
            .and_then(|bindir| Some(Programs { version: version(&bindir)?, bindir }))
            .ok_or_else(|| Error::NoPostgres { searched: searched() })
    }

    /// The path of one program.
    pub fn path(&self, program: &str) -> PathBuf {
        self.bindir.join(program)
    }

    /// The directory.
    pub fn bindir(&self) -> &Path {
        &self.bindir
    }

    /// What `postgres --version` prints.
    pub fn version(&self) -> &str {
        &self.version
    }
}

fn usual_places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        let bindir = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() && !bindir.is_empty() {
            places.push(PathBuf::from(bindir));
        }
    }
    let mut installed: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    installed.sort();
    places.extend(installed.into_iter().rev().map(|(_, bindir)| bindir));
    places
}

fn version(bindir: &Path) -> Option<String> {
    let output = Command::new(bindir.join("postgres")).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
