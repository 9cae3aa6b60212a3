//! Where a server is and as whom to log in.

use super::tls::TlsMode;
use crate::base::{DatabaseName, RoleName, Secret, Site};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A way to reach a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host name or IP address, looked up at every connect, and a port.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// The directory of a Unix socket and the port in its name (`.s.PGSQL.<port>`).
    Unix {
        /// Directory that holds the socket.
        directory: PathBuf,
        /// Number in the socket's name.
        port: u16,
    },
}

impl Address {
    /// Path of the socket file, for `Unix`.
    pub fn socket_path(directory: &Path, port: u16) -> PathBuf {
        directory.join(format!(".s.PGSQL.{port}"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix { directory, port } => {
                write!(f, "{}", Self::socket_path(directory, *port).display())
            }
        }
    }
}

/// One server: its address and how its connections are encrypted. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// How to encrypt; ignored on Unix sockets, as libpq does.
    pub tls: Arc<super::tls::ServerTls>,
}

impl Endpoint {
    /// The TLS configuration a connection to here starts with; `None` on Unix sockets and, under
    /// `prefer`, on loopback.
    pub fn tls_in_use(&self) -> Option<Arc<rustls::ClientConfig>> {
        match &self.address {
            Address::Unix { .. } => None,
            Address::Tcp { host, .. } if self.tls.mode() == TlsMode::Prefer && is_loopback(host) => None,
            Address::Tcp { .. } => self.tls.config(),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// How a role proves itself to a server.
#[derive(Clone)]
pub enum Proof {
    /// Nothing to offer: `trust`, `peer` or a client certificate must do.
    None,
    /// A password, for SCRAM, md5 or clear text.
    Password(Secret),
    /// `md5` and the hash of password and name, as servers keep it: answers a demand for md5.
    Md5Hash(Secret),
    /// What is left of a client's SCRAM exchange with us: proves the password without knowing it
    /// (RFC 5802, ClientKey). Works for SCRAM only, and only where the verifier is the same.
    ScramKeys {
        /// ClientKey, 32 bytes.
        client_key: [u8; 32],
        /// ServerKey of the verifier, 32 bytes: the server has to prove itself too.
        server_key: [u8; 32],
    },
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Proof::None => "None",
            Proof::Password(_) => "Password(***)",
            Proof::Md5Hash(_) => "Md5Hash(***)",
            Proof::ScramKeys { .. } => "ScramKeys(***)",
        })
    }
}

/// A role and its proof.
#[derive(Debug, Clone)]
pub struct Login {
    /// The role.
    pub user: RoleName,
    /// How it proves itself.
    pub proof: Proof,
}

/// A database on a server of one site, and how we ourselves log in to it.
#[derive(Debug, Clone)]
pub struct Party {
    /// Which site the server belongs to.
    pub site: Site,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Our own role there (the control role once it exists).
    pub login: Login,
    /// The database.
    pub database: DatabaseName,
}

impl Party {
    /// The same server and role, another database.
    #[must_use]
    pub fn with_database(&self, database: DatabaseName) -> Party {
        Party { database, ..self.clone() }
    }

    /// A connection for our own SQL; see [`super::control::connect`].
    pub async fn control(
        &self,
        application_name: &str,
        timeout: Duration,
    ) -> Result<super::control::Control, super::control::ControlError> {
        self.control_with(super::control::SESSION_OPTIONS, application_name, timeout).await
    }

    /// The same with other start-up `options`: for SQL that is not our own.
    pub async fn control_with(
        &self,
        options: &str,
        application_name: &str,
        timeout: Duration,
    ) -> Result<super::control::Control, super::control::ControlError> {
        let (endpoint, login) = (&self.endpoint, &self.login);
        super::control::connect_with(
            endpoint,
            login,
            self.database.as_str(),
            options,
            application_name,
            timeout,
        )
        .await
    }
}
