//! Connections for our own SQL: probes, catalogs, fences, apply.

use super::endpoint::{Address, Endpoint, Login, Proof};
use super::tls::TlsMode;
use crate::config::{ChannelBinding, SslNegotiation};
use std::time::Duration;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// A `tokio-postgres` client whose connection task has been spawned on the current runtime and
/// ends with the client.
pub type Control = Client;

/// Connects to `database` with settings under which values have one text form only
/// (`replication.md`, trap 33), `search_path` empty and no timeouts of the role in force.
///
/// `application_name` shows up in `pg_stat_activity`; every connection of ours is called
/// `cloud-mirror …`. Fails when the server is not reached and logged in to within `timeout`.
pub async fn connect(
    endpoint: &Endpoint,
    login: &Login,
    database: &str,
    application_name: &str,
    timeout: Duration,
) -> Result<Control, ControlError> {
    connect_with(endpoint, login, database, SESSION_OPTIONS, application_name, timeout).await
}

pub(super) async fn connect_with(
    endpoint: &Endpoint,
    login: &Login,
    database: &str,
    options: &str,
    application_name: &str,
    timeout: Duration,
) -> Result<Control, ControlError> {
    let at = || endpoint.address.to_string();
    let mut config = Config::new();
    config
        .user(login.user.as_str())
        .dbname(database)
        .application_name(application_name)
        .connect_timeout(timeout)
        .keepalives_idle(Duration::from_secs(10))
        .tcp_user_timeout(Duration::from_secs(20))
        .options(options);
    match &login.proof {
        Proof::None => {}
        Proof::Password(password) => {
            config.password(password.expose());
        }
        Proof::ScramKeys { .. } | Proof::Md5Hash(_) => return Err(ControlError::NoPassword { at: at() }),
    }
    match &endpoint.address {
        Address::Tcp { host, port } => {
            config.host(host).port(*port);
        }
        Address::Unix { directory, port } => {
            config.host_path(directory).port(*port);
        }
    }
    let tls = endpoint.tls_in_use();
    config.ssl_mode(match endpoint.tls.mode() {
        _ if tls.is_none() => SslMode::Disable,
        TlsMode::Disable => SslMode::Disable,
        TlsMode::Prefer => SslMode::Prefer,
        TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
    });
    config.ssl_negotiation(match endpoint.tls.negotiation() {
        SslNegotiation::Direct if tls.is_some() => tokio_postgres::config::SslNegotiation::Direct,
        SslNegotiation::Direct | SslNegotiation::Postgres => tokio_postgres::config::SslNegotiation::Postgres,
    });
    config.channel_binding(match endpoint.tls.binding() {
        _ if tls.is_none() => tokio_postgres::config::ChannelBinding::Disable,
        ChannelBinding::Disable => tokio_postgres::config::ChannelBinding::Disable,
        ChannelBinding::Prefer => tokio_postgres::config::ChannelBinding::Prefer,
        ChannelBinding::Require => tokio_postgres::config::ChannelBinding::Require,
    });
    let connected = match tls {
        Some(tls) => {
            let tls = MakeRustlsConnect::new(tls.as_ref().clone());
            tokio::time::timeout(timeout, config.connect(tls)).await.map(|done| done.map(spawned))
        }
        None => tokio::time::timeout(timeout, config.connect(NoTls)).await.map(|done| done.map(spawned)),
    };
    match connected {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(source)) => Err(ControlError::Connect { at: at(), source }),
        Err(_) => Err(ControlError::Timeout { at: at(), timeout }),
    }
}

/// The settings of our own sessions: one text form for each value, no hidden names, no timeouts.
pub const SESSION_OPTIONS: &str = "-c search_path= -c DateStyle=ISO -c IntervalStyle=postgres \
    -c extra_float_digits=3 -c bytea_output=hex -c TimeZone=UTC -c lc_monetary=C \
    -c client_encoding=UTF8 -c statement_timeout=0 -c lock_timeout=0 \
    -c idle_in_transaction_session_timeout=0 -c default_transaction_read_only=off \
    -c default_transaction_isolation=read\\ committed -c row_security=off";

fn spawned<S, T>((client, connection): (Client, tokio_postgres::Connection<S, T>)) -> Client
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    // Whoever uses the client sees the same error from its next call, so it is not reported here.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client
}

/// Why there is no control connection.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The server refused or could not be reached.
    #[error("cannot connect to {at}: {}", describe(source))]
    Connect {
        /// Address of the server.
        at: String,
        /// What the driver says; `as_db_error` has the server's own words.
        #[source]
        source: tokio_postgres::Error,
    },
    /// No answer in time.
    #[error("cannot connect to {at}: no answer within {timeout:?}")]
    Timeout {
        /// Address of the server.
        at: String,
        /// How long we waited.
        timeout: Duration,
    },
    /// Keys of a client's exchange do not log our own connections in.
    #[error("cannot connect to {at}: no password to log in with")]
    NoPassword {
        /// Address of the server.
        at: String,
    },
}

impl ControlError {
    /// Whether nobody listens there, or hung up without a word.
    pub fn is_refused(&self) -> bool {
        use std::io::ErrorKind;
        let ControlError::Connect { source, .. } = self else { return false };
        if source.is_closed() {
            return true;
        }
        let io = std::error::Error::source(source).and_then(|inner| inner.downcast_ref::<std::io::Error>());
        io.is_some_and(|io| {
            matches!(
                io.kind(),
                ErrorKind::ConnectionRefused
                    | ErrorKind::NotFound
                    | ErrorKind::ConnectionReset
                    | ErrorKind::UnexpectedEof
                    | ErrorKind::BrokenPipe
            )
        })
    }

    /// Whether the server has no database of that name.
    pub fn is_no_database(&self) -> bool {
        self.code().is_some_and(|code| code == "3D000")
    }

    /// Whether the server was reached and TLS is the obstacle: it has none, or a certificate that
    /// does not satisfy us.
    pub fn is_tls(&self) -> bool {
        // The driver tells the kind of its errors in words only.
        let ControlError::Connect { source, .. } = self else { return false };
        source.to_string().starts_with("error performing TLS handshake") && !self.is_refused()
    }

    /// Whether the server could not be reached at all: it said nothing about us.
    pub fn is_unreachable(&self) -> bool {
        match self {
            ControlError::Connect { .. } if self.is_tls() => false,
            ControlError::Connect { .. } => self.code().is_none_or(|code| matches!(code, "57P03" | "57P01")),
            ControlError::Timeout { .. } => true,
            ControlError::NoPassword { .. } => false,
        }
    }

    /// The server's SQLSTATE, where it gave one.
    pub fn code(&self) -> Option<&str> {
        match self {
            ControlError::Connect { source, .. } => source.code().map(|code| code.code()),
            ControlError::Timeout { .. } | ControlError::NoPassword { .. } => None,
        }
    }
}

/// An error of the driver with the server's own words, which its `Display` leaves out.
pub fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => {
            let mut text = format!("{} (SQLSTATE {})", db.message(), db.code().code());
            if let Some(detail) = db.detail() {
                text += &format!("; {detail}");
            }
            if let Some(hint) = db.hint() {
                text += &format!("; {hint}");
            }
            text
        }
        None => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(inner) = source {
                text += &format!(": {inner}");
                source = inner.source();
            }
            text
        }
    }
}
