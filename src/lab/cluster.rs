//! A real PostgreSQL server with a life of its own.

use super::builder::ClusterBuilder;
use super::server::{Server, Stage, StopMode};
use super::{Error, PASSWORD, SUPERUSER};
use crate::backend::tls::ServerTls;
use crate::backend::{Address, Endpoint, Login, Party, Proof};
use crate::base::{DatabaseName, RoleName, Secret, Site};
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// For a start, with recovery, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(120);

/// For a stop or for the end of orphans.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// For one of our own statements.
const SQL_LIMIT: Duration = Duration::from_secs(120);

/// Between two looks at a process.
const PAUSE: Duration = Duration::from_millis(5);

/// A PostgreSQL server of the system's binaries in a directory of its own; ends when dropped, also
/// by a panic, and when our process is killed.
///
/// TCP on 127.0.0.1 asks for SCRAM, the Unix socket for what the builder said. All methods take
/// `&self`: share it in an `Arc`.
#[derive(Debug)]
pub struct Cluster {
    server: Server,
    settings: Mutex<BTreeMap<String, String>>,
    hba: Mutex<Vec<String>>,
    passwords: Mutex<HashMap<String, String>>,
}

impl Cluster {
    /// Describes a server to be; end with [`ClusterBuilder::start`].
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::new()
    }

    pub(super) fn new(server: Server, settings: BTreeMap<String, String>, hba: Vec<String>) -> Cluster {
        let passwords = HashMap::from([(SUPERUSER.to_owned(), PASSWORD.to_owned())]);
        Cluster {
            server,
            settings: Mutex::new(settings),
            hba: Mutex::new(hba),
            passwords: Mutex::new(passwords),
        }
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    // Life and death

    /// Starts the server and waits until it lets us in. After [`Cluster::kill9`] orphans may still
    /// hold the shared memory: then it is tried again until they are gone.
    pub async fn start(&self) -> Result<(), Error> {
        let end = Instant::now() + START_LIMIT;
        loop {
            let before = self.server.spawn()?;
            match self.become_ready(end).await {
                Err(Error::Start { .. }) => {}
                other => return other,
            }
            let log = self.server.log_after(before);
            let is_held_up = ["is still in use", "Is another postmaster", "Is another postgres"];
            if log.contains("could not bind") || log.contains("could not create any TCP/IP sockets") {
                return Err(Error::PortTaken { port: self.port() });
            }
            if !is_held_up.iter().any(|words| log.contains(words)) || Instant::now() > end {
                return Err(Error::Start { log: self.server.log_end() });
            }
            tokio::time::sleep(10 * PAUSE).await;
        }
    }

    async fn become_ready(&self, end: Instant) -> Result<(), Error> {
        while Instant::now() < end {
            match self.server.stage() {
                Stage::Ended => return Err(Error::Start { log: self.server.log_end() }),
                Stage::Starting => {}
                // The port may be a stranger's: only a login proves that it is our server.
                Stage::Ready => match self.client("postgres").await {
                    Ok(_) => return Ok(()),
                    Err(Error::Sql(e)) if e.as_db_error().is_none_or(|e| e.code().code() == "57P03") => {}
                    // A fence has taken LOGIN from the superuser, and ended who was logging in:
                    // the server takes connections all the same.
                    Err(Error::Sql(e))
                        if e.code().is_some_and(|code| matches!(code.code(), "28000" | "57P01")) =>
                    {
                        return Ok(());
                    }
                    Err(other) => return Err(other),
                },
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(Error::Timeout { what: "starting", limit: START_LIMIT, log: self.server.log_end() })
    }

    /// `SIGKILL` to the postmaster alone, which is gone on return; its children notice by
    /// themselves and end a little later ([`Cluster::children_gone`]).
    pub fn kill9(&self) -> Result<(), Error> {
        self.server.kill9()
    }

    /// Waits until no process of the server is left.
    pub async fn children_gone(&self) -> Result<(), Error> {
        let end = Instant::now() + STOP_LIMIT;
        while !self.server.processes().is_empty() {
            if Instant::now() > end {
                return Err(self.timeout("the end of the server's children"));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// An orderly (or immediate) stop; returns when the server is gone.
    pub async fn stop(&self, mode: StopMode) -> Result<(), Error> {
        self.server.request_stop(mode)?;
        let end = Instant::now() + STOP_LIMIT;
        while self.server.postmaster().is_some() {
            if Instant::now() > end {
                return Err(self.timeout("stopping"));
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.children_gone().await
    }

    /// Stops and starts, as `pg_ctl restart -m MODE` does.
    pub async fn restart(&self, mode: StopMode) -> Result<(), Error> {
        self.stop(mode).await?;
        self.start().await
    }

    /// Stops every process of the server where it stands (`SIGSTOP`): connections stay open and
    /// nothing answers.
    pub fn freeze(&self) -> Result<(), Error> {
        self.server.freeze()
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) {
        self.server.thaw();
    }

    /// Whether the postmaster lives.
    pub fn is_running(&self) -> bool {
        self.server.postmaster().is_some()
    }

    /// The postmaster's process id, while it lives.
    pub fn pid(&self) -> Option<i32> {
        self.server.postmaster().map(nix::unistd::Pid::as_raw)
    }

    /// How many processes the server has, orphans included.
    pub fn process_count(&self) -> usize {
        self.server.processes().len()
    }

    // Standbys

    /// A streaming standby of this server, made by `pg_basebackup`, with default settings.
    pub async fn standby(&self) -> Result<Cluster, Error> {
        self.standby_with(Cluster::builder()).await
    }

    /// The same with settings of its own; its programs are those of the primary.
    pub async fn standby_with(&self, builder: ClusterBuilder) -> Result<Cluster, Error> {
        let standby = builder.standby_of(self).await?;
        standby.passwords().extend(self.passwords().clone());
        Ok(standby)
    }

    /// Makes a standby a primary and waits until it is one.
    pub async fn promote(&self) -> Result<(), Error> {
        self.sql("postgres", "SELECT pg_promote()").await
    }

    // Configuration

    /// Changes a setting in `postgresql.conf`; takes effect at the next [`Cluster::reload`] or
    /// start.
    pub fn configure(&self, name: &str, value: impl ToString) -> Result<(), Error> {
        lock(&self.settings).insert(name.to_lowercase(), value.to_string());
        self.write_configuration()
    }

    /// Puts a line before all others of `pg_hba.conf`; takes effect at the next reload or start.
    pub fn add_hba(&self, line: impl Into<String>) -> Result<(), Error> {
        lock(&self.hba).insert(0, line.into());
        self.write_configuration()
    }

    /// Has the server read its files again.
    pub fn reload(&self) -> Result<(), Error> {
        self.server.signal(Signal::SIGHUP)
    }

    pub(super) fn write_configuration(&self) -> Result<(), Error> {
        let mut text = "# Written by the lab.\n".to_owned();
        for (name, value) in lock(&self.settings).iter() {
            let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
        }
        let _ = writeln!(text, "port = {}", self.port());
        let _ = writeln!(text, "unix_socket_directories = '{}'", self.socket_dir().display());
        self.server.write("postgresql.conf", &text)?;
        self.server.write("pg_hba.conf", &(lock(&self.hba).join("\n") + "\n"))
    }

    // Where and who

    /// The TCP port on 127.0.0.1, and the number in the socket's name.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// The directory of the Unix socket.
    pub fn socket_dir(&self) -> &Path {
        &self.server.place().socket
    }

    /// The data directory; only root and the server's user may look inside.
    pub fn data_dir(&self) -> &Path {
        &self.server.place().data
    }

    /// The directory of the programs it runs.
    pub fn bindir(&self) -> &Path {
        self.server.programs().bindir()
    }

    /// All that the server has logged.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// A URL over TCP, with the password if the user is the superuser or was made by
    /// [`Cluster::create_role`].
    pub fn url(&self, user: &str, database: &str) -> String {
        let password =
            self.passwords().get(user).map(|word| format!(":{}", quoted(word))).unwrap_or_default();
        format!("postgres://{}{password}@127.0.0.1:{}/{}", quoted(user), self.port(), quoted(database))
    }

    /// A database here with the superuser's login, over TCP without TLS.
    pub fn party(&self, site: Site, database: &str) -> Party {
        let host = "127.0.0.1".to_owned();
        Party {
            site,
            endpoint: Endpoint {
                address: Address::Tcp { host, port: self.port() },
                tls: ServerTls::disabled(),
            },
            login: Login {
                user: RoleName::new(SUPERUSER).expect("a constant name is a name"),
                proof: Proof::Password(Secret::new(PASSWORD)),
            },
            database: DatabaseName::new(database).expect("the caller names a database"),
        }
    }

    // SQL as the superuser

    /// A client logged in as the superuser; its connection runs as a task of this runtime.
    pub async fn client(&self, database: &str) -> Result<Client, Error> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port()).user(SUPERUSER).password(PASSWORD).dbname(database);
        config.application_name("lab");
        let limit = Duration::from_secs(60);
        let connecting = tokio::time::timeout(limit, config.connect(NoTls)).await;
        let (client, connection) = connecting.map_err(|_| Error::Timeout {
            what: "a login",
            limit,
            log: self.server.log_end(),
        })??;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(client)
    }

    /// Runs statements on a connection of its own.
    pub async fn sql(&self, database: &str, text: &str) -> Result<(), Error> {
        self.query(database, text).await.map(drop)
    }

    /// Runs statements on a connection of its own and returns all their rows as texts.
    pub async fn query(&self, database: &str, text: &str) -> Result<Vec<Vec<Option<String>>>, Error> {
        let client = self.client(database).await?;
        let messages = tokio::time::timeout(SQL_LIMIT, client.simple_query(text))
            .await
            .map_err(|_| self.timeout("a statement"))??;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(rows.map(|row| (0..row.len()).map(|n| row.get(n).map(str::to_owned)).collect()).collect())
    }

    /// The first column of the first row as a text; empty for NULL or no row.
    pub async fn value(&self, database: &str, text: &str) -> Result<String, Error> {
        let first = self.query(database, text).await?.into_iter().next();
        Ok(first.and_then(|row| row.into_iter().next().flatten()).unwrap_or_default())
    }

    /// Makes an empty database.
    pub async fn create_database(&self, name: &str) -> Result<(), Error> {
        self.sql("postgres", &format!("CREATE DATABASE {}", identifier(name))).await
    }

    /// Makes a role that can log in with `password`; `options` as in CREATE ROLE (`"CREATEDB"`).
    pub async fn create_role(&self, name: &str, password: &str, options: &str) -> Result<(), Error> {
        let word = password.replace('\'', "''");
        let text = format!("CREATE ROLE {} LOGIN PASSWORD '{word}' {options}", identifier(name));
        self.sql("postgres", &text).await?;
        self.passwords().insert(name.to_owned(), password.to_owned());
        Ok(())
    }

    fn passwords(&self) -> MutexGuard<'_, HashMap<String, String>> {
        lock(&self.passwords)
    }

    fn timeout(&self, what: &'static str) -> Error {
        Error::Timeout { what, limit: STOP_LIMIT, log: self.server.log_end() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Percent-encodes what a part of a URL may not hold.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn urls_hold_any_password() {
        assert_eq!(super::quoted("a b/ü@:"), "a%20b%2F%C3%BC%40%3A");
    }
}
