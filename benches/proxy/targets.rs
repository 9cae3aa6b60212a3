//! On whom is measured: each target listens on a port and, but for the server, is a process.

use crate::client::Client;
use crate::server::{DATABASE, ROLE, Server, TCP_ROLE};
use anyhow::{Context, bail};
use cloud_mirror::lab::{Port, SUPERUSER};
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
    /// A relay that knows nothing of the protocol: what the kernel's part costs.
    Floor(Way),
    /// PgBouncer.
    PgBouncer(Way, Mode),
    /// The binary of this package.
    Ours(Way, Mode),
    /// Another build of it (`--other`), by TCP, in session mode.
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

/// When a proxy gives a server connection back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// When the client leaves.
    Session,
    /// At the end of a transaction.
    Transaction,
    /// When nothing ties it.
    Auto,
}

/// How clients log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// Without a proof.
    Trust,
    /// By SCRAM-SHA-256, the verifiers in a file.
    Scram,
    /// By SCRAM-SHA-256, the verifiers asked for at the server at each log-in.
    ScramAsked,
    /// Without a proof, over TLS.
    Tls,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Mode::Session => "session",
            Mode::Transaction => "transaction",
            Mode::Auto => "auto",
        }
    }

    /// Server connections: as many as there are clients, or few.
    fn pool_size(self) -> u32 {
        match self {
            Mode::Session => 1200,
            Mode::Transaction | Mode::Auto => 20,
        }
    }
}

impl Target {
    /// In the order of the report.
    pub const ALL: [Target; 14] = [
        Target::Direct,
        Target::Floor(Way::Tcp),
        Target::Floor(Way::Unix),
        Target::PgBouncer(Way::Tcp, Mode::Session),
        Target::PgBouncer(Way::Unix, Mode::Session),
        Target::PgBouncer(Way::Tcp, Mode::Transaction),
        Target::PgBouncer(Way::Unix, Mode::Transaction),
        Target::Ours(Way::Tcp, Mode::Session),
        Target::Ours(Way::Unix, Mode::Session),
        Target::Ours(Way::Tcp, Mode::Transaction),
        Target::Ours(Way::Unix, Mode::Transaction),
        Target::Ours(Way::Tcp, Mode::Auto),
        Target::Ours(Way::Unix, Mode::Auto),
        Target::Other,
    ];

    /// For `--targets` and the report.
    pub fn name(self) -> &'static str {
        match self {
            Target::Direct => "direct",
            Target::Floor(Way::Tcp) => "floor",
            Target::Floor(Way::Unix) => "floor-unix",
            Target::PgBouncer(Way::Tcp, Mode::Session) => "pgbouncer",
            Target::PgBouncer(Way::Unix, Mode::Session) => "pgbouncer-unix",
            Target::PgBouncer(Way::Tcp, _) => "pgbouncer-tx",
            Target::PgBouncer(Way::Unix, _) => "pgbouncer-tx-unix",
            Target::Ours(Way::Tcp, Mode::Session) => "ours",
            Target::Ours(Way::Unix, Mode::Session) => "ours-unix",
            Target::Ours(Way::Tcp, Mode::Transaction) => "ours-tx",
            Target::Ours(Way::Unix, Mode::Transaction) => "ours-tx-unix",
            Target::Ours(Way::Tcp, Mode::Auto) => "ours-auto",
            Target::Ours(Way::Unix, Mode::Auto) => "ours-auto-unix",
            Target::Other => "other",
        }
    }

    /// Whether it is a PgBouncer.
    pub fn is_pgbouncer(self) -> bool {
        matches!(self, Target::PgBouncer(..))
    }

    /// When it gives server connections back; `None` for what has none to give.
    pub fn mode(self) -> Option<Mode> {
        match self {
            Target::Direct | Target::Floor(_) => None,
            Target::PgBouncer(_, mode) | Target::Ours(_, mode) => Some(mode),
            Target::Other => Some(Mode::Session),
        }
    }

    /// The role that clients log in as.
    pub fn role(self) -> &'static str {
        match self {
            Target::Floor(Way::Tcp)
            | Target::PgBouncer(Way::Tcp, _)
            | Target::Ours(Way::Tcp, _)
            | Target::Other => TCP_ROLE,
            Target::Direct
            | Target::Floor(Way::Unix)
            | Target::PgBouncer(Way::Unix, _)
            | Target::Ours(Way::Unix, _) => ROLE,
        }
    }
}

/// PgBouncer's program: the one that `PGBOUNCER` names, or the installed one.
pub fn pgbouncer() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("PGBOUNCER") {
        return Some(PathBuf::from(named));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    places.map(|place| place.join("pgbouncer")).find(|program| program.is_file())
}

/// `PgBouncer 1.25.2`.
pub fn pgbouncer_version() -> Option<String> {
    let output = Command::new(pgbouncer()?).arg("-V").output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

/// Whether it keeps prepared statements in transaction mode, as it does since 1.21.
pub fn pgbouncer_prepares() -> bool {
    let version = pgbouncer_version().unwrap_or_default();
    let number = |part: Option<&str>| part.and_then(|part| part.parse::<u32>().ok()).unwrap_or(0);
    let mut parts = version.rsplit(' ').next().unwrap_or_default().split('.');
    (number(parts.next()), number(parts.next())) >= (1, 21)
}

/// Compiles the relay; `None` without a C compiler.
pub fn floor_program() -> Option<PathBuf> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/proxy/epoll_relay.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("epoll-relay");
    let compiled = Command::new("cc").args(["-O2", "-o"]).arg(&program).arg(source).status();
    compiled.is_ok_and(|status| status.success()).then_some(program)
}

/// A target that takes clients; its process ends when this is dropped.
pub struct Running {
    /// Which.
    pub target: Target,
    /// How its clients log in.
    pub login: Login,
    /// On 127.0.0.1.
    pub port: u16,
    child: Option<Child>,
    // Before the directory: the process writes there to its end.
    directory: TempDir,
    _reservation: Option<Port>,
}

impl Running {
    /// Starts a target and waits until it answers a query.
    pub fn start(server: &Server, target: Target, login: Login) -> anyhow::Result<Running> {
        let directory = tempfile::Builder::new().prefix("cloud-mirror-bench-").tempdir()?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let (port, reservation, command) = match target {
            Target::Direct => (server.port(), None, None),
            Target::Floor(way) => {
                let port = Port::reserve()?;
                let mut command = Command::new(floor_program().context("there is no C compiler")?);
                command.arg(port.number().to_string());
                match way {
                    Way::Tcp => command.args(["127.0.0.1", &server.port().to_string()]),
                    Way::Unix => command.arg(server.socket_dir().join(format!(".s.PGSQL.{}", server.port()))),
                };
                (port.number(), Some(port), Some(command))
            }
            Target::PgBouncer(way, mode) => {
                let port = Port::reserve()?;
                let command = bouncer_command(server, way, mode, login, port.number(), directory.path())?;
                (port.number(), Some(port), Some(command))
            }
            Target::Ours(..) | Target::Other => {
                let port = Port::reserve()?;
                let binary = match target {
                    Target::Other => server.other.as_deref().context("--other names no binary")?,
                    _ => Path::new(env!("CARGO_BIN_EXE_cloud-mirror")),
                };
                let mode = target.mode().unwrap_or(Mode::Session);
                let command = our_command(binary, server, mode, login, port.number(), directory.path())?;
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
        let mut running = Running { target, login, port, child, directory, _reservation: reservation };
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

    fn answers(&self) -> anyhow::Result<()> {
        if matches!(self.login, Login::Scram | Login::ScramAsked) {
            // What is measured speaks it; here it is enough that somebody listens.
            std::net::TcpStream::connect(("127.0.0.1", self.port))?;
            return Ok(());
        }
        self.client()?.query("SELECT 1", &mut [0; 4096]).map(|_| ())
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + START_WITHIN;
        loop {
            match self.answers() {
                Ok(()) => return Ok(()),
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

fn bouncer_command(
    server: &Server,
    way: Way,
    mode: Mode,
    login: Login,
    port: u16,
    directory: &Path,
) -> anyhow::Result<Command> {
    let host = match way {
        Way::Tcp => "127.0.0.1".to_owned(),
        Way::Unix => server.socket_dir().display().to_string(),
    };
    let users = write_users(server, login, directory)?;
    let settings = directory.join("pgbouncer.ini");
    let server_port = server.port();
    let auth = match login {
        Login::Trust | Login::Tls => "trust",
        Login::Scram | Login::ScramAsked => "scram-sha-256",
    };
    let mut text = format!(
        "[databases]\n\
         {DATABASE} = host={host} port={server_port} dbname={DATABASE}\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         listen_backlog = 1024\n\
         auth_type = {auth}\n\
         auth_file = {}\n\
         pool_mode = {}\n\
         max_client_conn = 6000\n\
         default_pool_size = {}\n\
         log_connections = 0\n\
         log_disconnections = 0\n\
         server_tls_sslmode = disable\n\
         ignore_startup_parameters = extra_float_digits\n",
        users.display(),
        mode.word(),
        mode.pool_size(),
    );
    if login == Login::ScramAsked {
        text += &format!("auth_user = {SUPERUSER}\n");
    }
    if pgbouncer_prepares() {
        text += "max_prepared_statements = 200\n";
    }
    let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    if login == Login::Tls {
        text += &format!(
            "client_tls_sslmode = allow\nclient_tls_cert_file = {}\nclient_tls_key_file = {}\n",
            cert.display(),
            key.display()
        );
    }
    fs::write(&cert, server.certificate())?;
    fs::write(&key, server.key())?;
    fs::write(&settings, text)?;
    let mut command = Command::new(pgbouncer().context("PgBouncer is not installed")?);
    command.arg("-q").arg(&settings);
    // It refuses to run as root.
    if geteuid().is_root() {
        let user = User::from_name("postgres")?.context("there is no user postgres")?;
        for path in [directory, &users, &settings, &cert, &key] {
            chown(path, Some(user.uid), Some(user.gid))?;
        }
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    Ok(command)
}

/// A file in PgBouncer's form. It has the roles of the clients only where they are not asked for.
fn write_users(server: &Server, login: Login, directory: &Path) -> anyhow::Result<PathBuf> {
    let path = directory.join("users.txt");
    let secret = server.verifier();
    let text = match login {
        Login::ScramAsked => format!("\"{SUPERUSER}\" \"\"\n"),
        Login::Trust | Login::Scram | Login::Tls => {
            format!("\"{ROLE}\" \"{secret}\"\n\"{TCP_ROLE}\" \"{secret}\"\n")
        }
    };
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(path)
}

fn our_command(
    binary: &Path,
    server: &Server,
    mode: Mode,
    login: Login,
    port: u16,
    directory: &Path,
) -> anyhow::Result<Command> {
    let mut command = Command::new(binary);
    command.args(["run", "--local", &server.url(), "--listen", &format!("127.0.0.1:{port}")]);
    command.args(["--http", "off", "--pool-mode", mode.word()]);
    if mode != Mode::Session {
        command.args(["--pool-size", &mode.pool_size().to_string()]);
    }
    command.args(match login {
        Login::Trust | Login::Tls => ["--auth", "trust"],
        Login::Scram | Login::ScramAsked => ["--auth", "scram-sha-256"],
    });
    if login == Login::Scram {
        command.env("CLOUD_MIRROR__AUTH__FILE", write_users(server, login, directory)?);
    }
    if login == Login::Tls {
        let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
        fs::write(&cert, server.certificate())?;
        fs::write(&key, server.key())?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        command.env("CLOUD_MIRROR__LISTEN__TLS", "allow");
        command.env("CLOUD_MIRROR__LISTEN__TLS_CERT", cert).env("CLOUD_MIRROR__LISTEN__TLS_KEY", key);
    }
    command.arg("--state-dir").arg(directory.join("state"));
    command.arg("--lease").arg(format!("file:{}", directory.join("lease").display()));
    Ok(command)
}
