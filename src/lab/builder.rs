//! How a server is to be, before it is started.

use super::cluster::Cluster;
use super::place::{Place, Port, ServerUser};
use super::server::Server;
use super::{Error, Programs, SUPERUSER, template};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Who may use the Unix socket; TCP always asks for a password (SCRAM).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketAuth {
    /// The operating system's user of the same name, as Debian sets it up.
    Peer,
    /// Everybody as anybody.
    Trust,
    /// Who knows the password.
    Scram,
}

/// Whether commits outlive a crash of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// `fsync` off and, where there is room, the files in memory: outlives `kill -9`, not a power
    /// cut. For tests.
    KillOnly,
    /// `fsync` on and the files on disk, as a real server. For measurements.
    Full,
}

/// Settings of a server to be. See [`Cluster::builder`].
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    programs: Option<PathBuf>,
    port: Option<u16>,
    socket_auth: SocketAuth,
    durability: Durability,
    settings: Vec<(String, String)>,
    hba: Vec<String>,
    initdb_arguments: Vec<String>,
    tls: Option<(String, String)>,
}

/// Ports are reserved among labs; a stranger may still come first between our look and the start.
const PORT_ATTEMPTS: u32 = 5;

impl ClusterBuilder {
    pub(super) fn new() -> ClusterBuilder {
        ClusterBuilder {
            programs: None,
            port: None,
            socket_auth: SocketAuth::Scram,
            durability: Durability::KillOnly,
            settings: Vec::new(),
            hba: Vec::new(),
            initdb_arguments: vec!["--locale=C.UTF-8".to_owned()],
            tls: None,
        }
    }

    /// Takes the programs in this directory instead of the machine's default version.
    #[must_use]
    pub fn bindir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.programs = Some(directory.into());
        self
    }

    /// Listens on this TCP port instead of a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// One line of `postgresql.conf`; stands after ours and therefore wins.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.settings.push((name.into(), value.to_string()));
        self
    }

    /// One line of `pg_hba.conf`; stands before ours and therefore wins.
    #[must_use]
    pub fn hba(mut self, line: impl Into<String>) -> Self {
        self.hba.push(line.into());
        self
    }

    /// Who may use the Unix socket (`Scram` unless said).
    #[must_use]
    pub fn socket_auth(mut self, auth: SocketAuth) -> Self {
        self.socket_auth = auth;
        self
    }

    /// Whether commits outlive more than `kill -9` (`KillOnly` unless said).
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Offers TLS with this certificate and key, both PEM.
    #[must_use]
    pub fn tls(mut self, certificate: impl Into<String>, key: impl Into<String>) -> Self {
        self.tls = Some((certificate.into(), key.into()));
        self
    }

    /// One more argument for `initdb`, such as `--locale=de_DE.UTF-8` or `--data-checksums`.
    #[must_use]
    pub fn initdb(mut self, argument: impl Into<String>) -> Self {
        self.initdb_arguments.push(argument.into());
        self
    }

    /// Makes the server and waits until it lets us in.
    pub async fn start(self) -> Result<Cluster, Error> {
        let programs = Programs::find(self.programs.as_deref())?;
        let user = ServerUser::find()?;
        for _ in 0..PORT_ATTEMPTS {
            let port = self.reserve()?;
            let server = Server::new(Place::make(user, self.durability)?, programs.clone(), user, port)?;
            template::copy_into(server.place(), &programs, user, &self.initdb_arguments).await?;
            match self.finish(server).await {
                Err(Error::PortTaken { .. }) if self.port.is_none() => {}
                other => return other,
            }
        }
        self.reserve().and_then(|port| Err(Error::PortTaken { port: port.number() }))
    }

    /// Makes a standby of `primary` with `pg_basebackup` and waits until it lets us in.
    pub(super) async fn standby_of(self, primary: &Cluster) -> Result<Cluster, Error> {
        let programs = primary.server().programs().clone();
        let user = ServerUser::find()?;
        for _ in 0..PORT_ATTEMPTS {
            let port = self.reserve()?;
            let server = Server::new(Place::make(user, self.durability)?, programs.clone(), user, port)?;
            let mut backup = user.command(&programs.path("pg_basebackup"));
            backup.args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"]);
            backup.arg("-d").arg(primary.url(SUPERUSER, "postgres")).arg("-D").arg(&server.place().data);
            template::run("pg_basebackup", backup).await?;
            match self.clone().finish(server).await {
                Err(Error::PortTaken { .. }) if self.port.is_none() => {}
                other => return other,
            }
        }
        self.reserve().and_then(|port| Err(Error::PortTaken { port: port.number() }))
    }

    fn reserve(&self) -> Result<Port, Error> {
        self.port.map_or_else(Port::reserve, Port::exactly)
    }

    async fn finish(&self, server: Server) -> Result<Cluster, Error> {
        if let Some((certificate, key)) = &self.tls {
            server.write("server.crt", certificate)?;
            server.write("server.key", key)?;
        }
        let cluster = Cluster::new(server, self.all_settings(), self.all_hba());
        cluster.write_configuration()?;
        cluster.start().await?;
        Ok(cluster)
    }

    fn all_settings(&self) -> BTreeMap<String, String> {
        let on = if self.durability == Durability::Full { "on" } else { "off" };
        let mut all: BTreeMap<String, String> = [
            ("listen_addresses", "127.0.0.1"),
            ("fsync", on),
            ("full_page_writes", on),
            ("wal_level", "logical"),
            ("max_wal_senders", "20"),
            ("max_replication_slots", "20"),
            ("max_connections", "100"),
            ("max_wal_size", "512MB"),
            ("log_line_prefix", "%m [%p] %q%u@%d %a "),
            ("logging_collector", "off"),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
            // In the data directory and therefore removed with it; /dev/shm would keep the
            // segments of killed servers.
            ("dynamic_shared_memory_type", "mmap"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        if self.tls.is_some() {
            all.insert("ssl".to_owned(), "on".to_owned());
        }
        all.extend(self.settings.iter().map(|(name, value)| (name.to_lowercase(), value.clone())));
        all
    }

    fn all_hba(&self) -> Vec<String> {
        let socket = match self.socket_auth {
            SocketAuth::Peer => "peer",
            SocketAuth::Trust => "trust",
            SocketAuth::Scram => "scram-sha-256",
        };
        let ours = ["all", "replication"].into_iter().flat_map(|database| {
            [
                format!("local {database} all {socket}"),
                format!("host {database} all 127.0.0.1/32 scram-sha-256"),
                format!("host {database} all ::1/128 scram-sha-256"),
            ]
        });
        self.hba.iter().cloned().chain(ours).collect()
    }
}
