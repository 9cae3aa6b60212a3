//! Finding and running `pg_dump` and `pg_restore`.

use super::error::Error;
use super::gate::{self, Gate};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

/// Where both programs are, and their major version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Programs {
    directory: PathBuf,
    pub major: u32,
}

/// Longest text of a program that is kept.
const TEXT_MAX: usize = 16 * 1024;

/// The oldest pair that can read a server of `major`: the nearer to the server, the less of what
/// it writes is unknown to an older target. `None` when there is no such pair.
pub(super) async fn find(major: u32) -> Option<Programs> {
    let mut found: Vec<Programs> = Vec::new();
    for directory in candidates() {
        if let (Some(dump), Some(restore)) =
            (version(&directory.join("pg_dump")).await, version(&directory.join("pg_restore")).await)
            && dump == restore
        {
            found.push(Programs { directory, major: dump });
        }
    }
    found.into_iter().filter(|p| p.major >= major).min_by_key(|p| p.major)
}

/// Debian's `/usr/bin/pg_dump` is a wrapper that chooses a version by its own rules, so the
/// versions' own directories come first.
fn candidates() -> Vec<PathBuf> {
    let mut all = Vec::new();
    for (parent, below) in [("/usr/lib/postgresql", "bin"), ("/usr/local/lib/postgresql", "bin")] {
        if let Ok(entries) = std::fs::read_dir(parent) {
            all.extend(entries.flatten().map(|e| e.path().join(below)));
        }
    }
    if let Ok(entries) = std::fs::read_dir("/usr") {
        let is_pgdg = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("pgsql-"));
        all.extend(entries.flatten().map(|e| e.path()).filter(|p| is_pgdg(p)).map(|p| p.join("bin")));
    }
    if let Some(path) = std::env::var_os("PATH") {
        all.extend(std::env::split_paths(&path));
    }
    all.retain(|directory| directory.join("pg_dump").is_file());
    all
}

async fn version(program: &Path) -> Option<u32> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(Duration::from_secs(10), command.output()).await.ok()?.ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`
fn parse_version(text: &str) -> Option<u32> {
    let number = text.split(") ").nth(1)?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// What a program said.
pub(super) struct Said {
    pub is_success: bool,
    pub out: String,
    /// Its messages, cut to a bounded length.
    pub err: String,
}

impl Programs {
    /// Runs one of the two; through `gate` if it talks to a server.
    pub(super) async fn run(
        &self,
        program: &'static str,
        arguments: &[String],
        gate: Option<(&Gate, &str)>,
        within: Duration,
    ) -> Result<Said, Error> {
        let failed = |why: String| Error::Program { program, why };
        let mut command = Command::new(self.directory.join(program));
        // Nothing of the caller's PG… variables, passwords or language.
        command.env_clear().env("LC_ALL", "C").env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        if let Some((gate, application_name)) = gate {
            command
                .env("PGHOST", gate.directory())
                .env("PGPORT", gate::PORT.to_string())
                .env("PGUSER", "cloud-mirror")
                .env("PGAPPNAME", application_name)
                .env("PGOPTIONS", OPTIONS);
        }
        let output = timeout(within, command.output())
            .await
            .map_err(|_| failed(format!("it did not end within {within:?}")))?
            .map_err(|e| failed(e.to_string()))?;
        let err = String::from_utf8_lossy(&output.stderr);
        let cut = err.char_indices().nth(TEXT_MAX).map_or(err.len(), |(at, _)| at);
        Ok(Said {
            is_success: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: err[..cut].to_owned(),
        })
    }
}

/// A role's own timeouts and read-only default would end a long index build or stop the restore.
const OPTIONS: &str = "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 \
                       -c default_transaction_read_only=off -c row_security=off";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_the_programs_print() {
        assert_eq!(parse_version("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_version("pg_restore (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_version("pg_dump: command not found"), None);
    }
}
