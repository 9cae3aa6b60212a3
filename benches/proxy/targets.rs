//! On whom is measured: each target listens on a port and, but for the server, is a process.

use crate::client::Client;
use crate::server::{DATABASE, ROLE, Server, TCP_ROLE};
use anyhow::{Context, bail};
use cloud_mirror::lab::Port;
use nix::unistd::{User, chown, geteuid};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a proxy may take to let the first client in.
const START_WITHIN: Duration = Duration::from_secs(30);

/// A way to reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The server itself.
    Direct,
    /// PgBouncer in session mode.
    PgBouncer(Way),
    /// The binary of this package.
    Ours(Way),
    /// Another build of it (`--other`), by TCP.
    Other,
}

/// How a proxy reaches the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By 127.0.0.1.
    Tcp,
    /// By its Unix socket.
    Unix,
}

impl Target {
    /// In the order of the report.
    pub const ALL: [Target; 6] = [
        Target::Direct,
        Target::PgBouncer(Way::Tcp),
        Target::PgBouncer(Way::Unix),
        Target::Ours(Way::Tcp),
        Target::Ours(Way::Unix),
        Target::Other,
    ];

    /// For `--targets` and the report.
    pub fn name(self) -> &'static str {
        match self {
            Target::Direct => "direct",
            Target::PgBouncer(Way::Tcp) => "pgbouncer",
            Target::PgBouncer(Way::Unix) => "pgbouncer-unix",
            Target::Ours(Way::Tcp) => "ours",
            Target::Ours(Way::Unix) => "ours-unix",
            Target::Other => "other",
        }
    }

    /// Whether it is a PgBouncer.
    pub fn is_pgbouncer(self) -> bool {
        matches!(self, Target::PgBouncer(_))
    }

    /// The role that clients log in as.
    pub fn role(self) -> &'static str {
        match self {
            Target::PgBouncer(Way::Tcp) | Target::Ours(Way::Tcp) | Target::Other => TCP_ROLE,
            Target::Direct | Target::PgBouncer(Way::Unix) | Target::Ours(Way::Unix) => ROLE,
        }
    }
}

/// PgBouncer's program, if it is installed.
pub fn pgbouncer() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    places.map(|place| place.join("pgbouncer")).find(|program| program.is_file())
}

/// A target that takes clients; its process ends when this is dropped.
pub struct Running {
    /// Which.
    pub target: Target,
    /// On 127.0.0.1.
    pub port: u16,
    child: Option<Child>,
    // Before the directory: the process writes there to its end.
    directory: TempDir,
    _reservation: Option<Port>,
}

impl Running {
    /// Starts a target and waits until it answers a query.
    pub fn start(server: &Server, target: Target) -> anyhow::Result<Running> {
        let directory = tempfile::Builder::new().prefix("cloud-mirror-bench-").tempdir()?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let (port, reservation, command) = match target {
            Target::Direct => (server.port(), None, None),
            Target::PgBouncer(way) => {
                let port = Port::reserve()?;
                let command = bouncer_command(server, way, port.number(), directory.path())?;
                (port.number(), Some(port), Some(command))
            }
            Target::Ours(_) | Target::Other => {
                let port = Port::reserve()?;
                let binary = match target {
                    Target::Other => server.other.as_deref().context("--other names no binary")?,
                    _ => Path::new(env!("CARGO_BIN_EXE_cloud-mirror")),
                };
                let command = our_command(binary, server, port.number(), directory.path());
                (port.number(), Some(port), Some(command))
            }
        };
        let log = File::create(directory.path().join("log"))?;
        let child = match command {
            None => None,
            Some(mut command) => {
                command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
                Some(command.spawn().with_context(|| format!("cannot run {command:?}"))?)
            }
        };
        let mut running = Running { target, port, child, directory, _reservation: reservation };
        running.wait().with_context(|| running.log_end())?;
        Ok(running)
    }

    /// Its process, unless it is the server.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// A client of it.
    pub fn client(&self) -> anyhow::Result<Client> {
        Client::connect(self.port, self.target.role(), DATABASE)
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + START_WITHIN;
        loop {
            match self.client().and_then(|mut client| client.query("SELECT 1", &mut [0; 4096])) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error.context("it does not answer")),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                bail!("{} has ended: {status}", self.target.name());
            }
        }
    }

    fn log_end(&self) -> String {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn bouncer_command(server: &Server, way: Way, port: u16, directory: &Path) -> anyhow::Result<Command> {
    let host = match way {
        Way::Tcp => "127.0.0.1".to_owned(),
        Way::Unix => server.socket_dir().display().to_string(),
    };
    let users = directory.join("users.txt");
    fs::write(&users, format!("\"{ROLE}\" \"\"\n\"{TCP_ROLE}\" \"\"\n"))?;
    let settings = directory.join("pgbouncer.ini");
    let server_port = server.port();
    fs::write(
        &settings,
        format!(
            "[databases]\n\
             {DATABASE} = host={host} port={server_port} dbname={DATABASE}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             listen_backlog = 1024\n\
             auth_type = trust\n\
             auth_file = {}\n\
             pool_mode = session\n\
             max_client_conn = 2000\n\
             default_pool_size = 1200\n\
             log_connections = 0\n\
             log_disconnections = 0\n\
             server_tls_sslmode = disable\n\
             ignore_startup_parameters = extra_float_digits\n",
            users.display()
        ),
    )?;
    let mut command = Command::new(pgbouncer().context("PgBouncer is not installed")?);
    command.arg("-q").arg(&settings);
    // It refuses to run as root.
    if geteuid().is_root() {
        let user = User::from_name("postgres")?.context("there is no user postgres")?;
        for path in [directory, &users, &settings] {
            chown(path, Some(user.uid), Some(user.gid))?;
        }
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    Ok(command)
}

fn our_command(binary: &Path, server: &Server, port: u16, directory: &Path) -> Command {
    let mut command = Command::new(binary);
    command.args(["run", "--local", &server.url(), "--listen", &format!("127.0.0.1:{port}")]);
    command.args(["--http", "off", "--auth", "trust"]);
    command.arg("--state-dir").arg(directory.join("state"));
    command.arg("--lease").arg(format!("file:{}", directory.join("lease").display()));
    command
}
