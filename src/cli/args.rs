//! What can be typed.

use crate::app::ConfigSource;
use crate::config::Flag;
use anyhow::Context;
use clap::{ArgAction, Args, Parser, Subcommand};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Stands in front of your PostgreSQL, mirrors it to the cloud and fails over to it.
#[derive(Debug, Parser)]
#[command(name = "cloud-mirror", version, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 degraded, \
4 this site may not write, 5 nobody answers.")]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy (SIGHUP reads the configuration again, SIGTERM drains and stops)
    Run(Settings),
    /// Find every mistake in the configuration, then probe both servers
    Check {
        #[command(flatten)]
        settings: Settings,
        /// Check the configuration only, probe nothing
        #[arg(long)]
        offline: bool,
    },
    /// Translate a configuration of PgBouncer, and say what has no counterpart
    Import(ImportArguments),
    /// Show what the running proxy says of itself
    Status(StatusArguments),
    /// Bring the data home from the cloud after a failover, with the app stopped
    Failback {
        #[command(flatten)]
        settings: Settings,
        /// Give up what only the local database has: it is renamed, not dropped
        #[arg(long, required = true)]
        discard_local: bool,
    },
    /// Show a failover and the way home on two servers of its own
    Demo(super::demo::DemoArguments),
}

/// Where the configuration comes from. Options override environment variables
/// (CLOUD_MIRROR__SECTION__KEY), which override the file.
#[derive(Debug, Default, Args)]
pub struct Settings {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "CLOUD_MIRROR_CONFIG")]
    config: Option<PathBuf>,
    /// PgBouncer's configuration instead (ini), with PgBouncer's signals
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pgbouncer: Option<PathBuf>,
    /// Local server and the database to mirror: postgres://user:password@host:port/database
    #[arg(long, value_name = "URL")]
    local: Option<String>,
    /// Server in the cloud and the empty database to copy to
    #[arg(long, value_name = "URL")]
    cloud: Option<String>,
    /// Where the lease is kept
    #[arg(long, value_name = "file:DIR")]
    lease: Option<String>,
    /// Where clients connect, 127.0.0.1:6432 if not given; may be repeated
    #[arg(long, value_name = "HOST:PORT", action = ArgAction::Append)]
    listen: Vec<String>,
    /// Directory for a Unix socket for clients
    #[arg(long, value_name = "DIR")]
    unix_socket_dir: Option<PathBuf>,
    /// Health, status and metrics, 127.0.0.1:8432 if not given; "off" for none
    #[arg(long, value_name = "HOST:PORT")]
    http: Option<String>,
    /// Make the record of the lease again, for one start after it was lost
    #[arg(long)]
    rebuild_lease: bool,
    /// When a client's server connection is given back
    #[arg(long, value_name = "auto|session|transaction|statement")]
    pool_mode: Option<String>,
    /// Most connections to one server; without it the server's own limit counts
    #[arg(long, value_name = "N")]
    pool_size: Option<String>,
    /// How clients prove who they are
    #[arg(long, value_name = "scram-sha-256|md5|password|cert|trust|hba")]
    auth: Option<String>,
    /// What must survive a restart; created with mode 0700
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Overwrite the passwords of roles that exist in the cloud with another one
    #[arg(long)]
    replace_role_passwords: bool,
}

impl Settings {
    /// The same as places to load from. Paths become absolute here, where the working directory is
    /// the one of whoever typed them. Fails when that directory is gone.
    pub fn source(self) -> anyhow::Result<ConfigSource> {
        let mut flags = Vec::new();
        let mut put = |name, key, value: Option<String>| {
            flags.extend(value.map(|value| Flag { name, key: Cow::Borrowed(key), value: Some(value) }));
        };
        put("--local", "upstream.local.url", self.local);
        put("--cloud", "upstream.cloud.url", self.cloud);
        put("--lease", "lease.store", self.lease.map(|lease| absolute_store(&lease)).transpose()?);
        for address in self.listen {
            put("--listen", "listen.tcp", Some(address));
        }
        let directory = self.unix_socket_dir.as_deref().map(absolute).transpose()?;
        put("--unix-socket-dir", "listen.unix_socket_dir", directory);
        put("--http", "http.listen", self.http);
        put("--pool-mode", "pool.mode", self.pool_mode);
        put("--pool-size", "pool.size", self.pool_size);
        put("--auth", "auth.type", self.auth);
        if self.rebuild_lease {
            put("--rebuild-lease", "lease.rebuild", Some("true".to_owned()));
        }
        put("--state-dir", "site.state_dir", self.state_dir.as_deref().map(absolute).transpose()?);
        if self.replace_role_passwords {
            put("--replace-role-passwords", "mirror.*.replace_role_passwords", Some("true".to_owned()));
        }
        let file = self.config.as_deref().map(std::path::absolute).transpose();
        let file = file.context("cannot find out in which directory this is")?;
        let pgbouncer = self.pgbouncer.as_deref().map(std::path::absolute).transpose();
        let pgbouncer = pgbouncer.context("cannot find out in which directory this is")?;
        Ok(ConfigSource { file, pgbouncer, flags })
    }
}

fn absolute(path: &Path) -> anyhow::Result<String> {
    let path = std::path::absolute(path).with_context(|| format!("cannot use {}", path.display()))?;
    path.into_os_string().into_string().map_err(|path| anyhow::anyhow!("{path:?} is not UTF-8"))
}

/// Only what follows `file:` is a path.
fn absolute_store(store: &str) -> anyhow::Result<String> {
    match store.strip_prefix("file:") {
        Some(path) if !path.is_empty() => {
            let path = path.strip_prefix("//").unwrap_or(path);
            Ok(format!("file:{}", absolute(Path::new(path))?))
        }
        _ => Ok(store.to_owned()),
    }
}

/// Options of `import`.
#[derive(Debug, Args)]
pub struct ImportArguments {
    /// PgBouncer's configuration (ini)
    #[arg(value_name = "PGBOUNCER.INI")]
    pub file: PathBuf,
    /// Where to write, with mode 0600; else to standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Options of `status`.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// The document itself, as JSON
    #[arg(long)]
    pub json: bool,
    /// Where the proxy answers HTTP; else what the configuration says
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<String>,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "CLOUD_MIRROR_CONFIG")]
    pub config: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_hold_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_become_keys() {
        let typed = [
            "cloud-mirror",
            "run",
            "--local",
            "postgres://a@b/c",
            "--listen",
            "127.0.0.1:1",
            "--listen",
            "127.0.0.1:2",
            "--lease",
            "file:lease",
            "--pool-size",
            "5",
            "--replace-role-passwords",
            "--rebuild-lease",
        ];
        let Command::Run(settings) = Arguments::try_parse_from(typed).unwrap().command else { panic!() };
        let source = settings.source().unwrap();
        let config = source.load().unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!((config.listen.tcp.len(), config.pool.size), (2, Some(5)));
        assert!(config.lease.rebuild);
        let here = std::env::current_dir().unwrap();
        assert_eq!(config.lease.store.to_string(), format!("file:{}", here.join("lease").display()));
    }

    #[test]
    fn going_home_names_what_it_gives_up() {
        let typed = ["cloud-mirror", "failback", "--local", "postgres://a@b/c"];
        let error = Arguments::try_parse_from(typed).unwrap_err().to_string();
        assert!(error.contains("--discard-local"), "{error}");
    }
}
