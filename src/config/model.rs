//! The configuration itself: plain types of our own, all of them checked.

use super::databases::Databases;
use super::hba::{IdentMaps, Rule};
use super::pool::Pool;
use super::tcp::Tcp;
use crate::base::{DatabaseName, MirrorName, RoleName, Secret, Site};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A whole configuration. Nothing in it is unchecked, and nothing changes it: a reload makes
/// another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[site]`
    pub site: SiteConfig,
    /// `[listen]`
    pub listen: Listen,
    /// `[upstream.local]`
    pub local: Upstream,
    /// `[upstream.cloud]`; without it this is a plain proxy.
    pub cloud: Option<Upstream>,
    /// `[databases]`
    pub databases: Databases,
    /// `[pool]`
    pub pool: Pool,
    /// `[tcp]`
    pub tcp: Tcp,
    /// `[auth]`
    pub auth: Auth,
    /// `[mirror.<name>]`, in the order of their names; empty exactly when there is no cloud.
    pub mirrors: Vec<Mirror>,
    /// `[lease]`
    pub lease: LeaseConfig,
    /// `[failover]`
    pub failover: Failover,
    /// `[http]`
    pub http: Http,
    /// `[log]`
    pub log: Log,
}

/// `[site]`: which of the two this process stands at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteConfig {
    /// `name`; only `local` until a proxy can run in the cloud.
    pub name: Site,
    /// `state_dir`: what must survive a restart; its lock says that one process uses it.
    pub state_dir: PathBuf,
}

/// `[listen]`: where clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// `tcp`; may be empty when there is a socket directory.
    pub tcp: Vec<ListenAddress>,
    /// `unix_socket_dir`: the socket in it is named after the port of the first address.
    pub unix_socket_dir: Option<PathBuf>,
    /// `reuse_port`: other processes may listen on the same TCP addresses.
    pub reuse_port: bool,
    /// `backlog`: connections that wait to be accepted.
    pub backlog: u32,
    /// `tls`, `tls_cert`, `tls_key`
    pub tls: ClientTls,
    /// `tls_client_ca`, `tls_client_cert`: certificates of clients.
    pub client_certificates: ClientCertificates,
    /// `proxy_protocol`: load balancers that say for whom they connect; empty: nobody is asked.
    pub proxies: Vec<TrustedProxy>,
}

/// Whether clients may or must show a certificate of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked for.
    #[default]
    Ignored,
    /// Who shows one must have it from these authorities, a PEM file.
    Allowed(PathBuf),
    /// The same, and nobody gets TLS without.
    Required(PathBuf),
}

/// Who may send a PROXY protocol header, and then must.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrustedProxy {
    /// Whoever connects from this network.
    Network {
        /// An address of it.
        ip: IpAddr,
        /// The bits that count.
        mask: IpAddr,
    },
    /// Whoever connects to our Unix socket.
    Unix,
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrustedProxy::Unix => f.write_str("unix"),
            TrustedProxy::Network { ip: IpAddr::V4(ip), mask: IpAddr::V4(mask) } => {
                write!(f, "{ip}/{}", mask.to_bits().count_ones())
            }
            TrustedProxy::Network { ip, mask: IpAddr::V6(mask) } => {
                write!(f, "{ip}/{}", mask.to_bits().count_ones())
            }
            TrustedProxy::Network { ip, mask } => write!(f, "{ip} {mask}"),
        }
    }
}

impl Listen {
    /// The number in the socket's name (`.s.PGSQL.<port>`).
    pub fn socket_port(&self) -> u16 {
        self.tcp.first().map_or(6432, |address| address.port)
    }
}

/// A host and a port to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    /// A name or an address, without brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

impl ListenAddress {
    /// Whether only this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// TLS towards clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientTls {
    /// SSLRequest is answered N.
    Disable,
    /// Clients choose.
    Allow {
        /// PEM file with the chain.
        cert: PathBuf,
        /// PEM file with the key.
        key: PathBuf,
    },
    /// Clients on TCP without TLS are refused.
    Require {
        /// PEM file with the chain.
        cert: PathBuf,
        /// PEM file with the key.
        key: PathBuf,
    },
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A host name or address.
    Tcp(String),
    /// The directory of a Unix socket.
    Unix(PathBuf),
}

/// libpq's `sslmode`, without `allow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never encrypt.
    Disable,
    /// Encrypt where offered, trust anyone.
    Prefer,
    /// Always encrypt, trust anyone.
    Require,
    /// Also check who signed the certificate.
    VerifyCa,
    /// Also check the name.
    VerifyFull,
}

impl SslMode {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }
}

/// How TLS begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SslNegotiation {
    /// By asking the server first.
    #[default]
    Postgres,
    /// At once; PostgreSQL 17 and later.
    Direct,
}

/// libpq's `channel_binding`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where the server offers it.
    #[default]
    Prefer,
    /// A server that does not prove itself so is refused.
    Require,
}

/// `[upstream.<name>]`: a PostgreSQL server, the database of the mirror on it and our first login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// `host`
    pub host: Host,
    /// `port`
    pub port: u16,
    /// `user`
    pub user: RoleName,
    /// `password`, `password_file` or `password_env`
    pub password: Option<Secret>,
    /// `dbname`
    pub database: DatabaseName,
    /// `sslmode`
    pub sslmode: SslMode,
    /// `sslrootcert`: PEM file with the authorities to trust.
    pub sslrootcert: Option<PathBuf>,
    /// `sslcert` and `sslkey`: PEM files with a certificate and its key to show to the server.
    pub sslcert: Option<(PathBuf, PathBuf)>,
    /// `sslnegotiation`
    pub sslnegotiation: SslNegotiation,
    /// `channel_binding`
    pub channel_binding: ChannelBinding,
    /// `unix_socket_dir`: a second way to the same server, tried first for clients.
    pub unix_socket_dir: Option<PathBuf>,
}

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthType {
    /// SCRAM-SHA-256 with the server's own verifiers and the static users.
    ScramSha256,
    /// Not at all.
    Trust,
    /// md5 where a hash or a password is known, SCRAM-SHA-256 where a verifier is.
    Md5,
    /// The password in clear text.
    Password,
    /// A certificate that names the role.
    Certificate,
    /// As `rules` say.
    Rules,
}

/// `[auth]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// `type`
    pub kind: AuthType,
    /// `hba_file` and `rules`, in this order; the first that fits decides.
    pub rules: Vec<Rule>,
    /// `ident_file`
    pub maps: IdentMaps,
    /// `users` and those of `file`: known without asking a server.
    pub users: Vec<StaticUser>,
    /// `query` and what belongs to it.
    pub query: Option<AuthQuery>,
    /// `cache`: how long what a server has said of a role is used without asking again.
    pub cache: Duration,
    /// `admin_users`: who may give commands that change something.
    pub admin_users: Vec<RoleName>,
    /// `stats_users`: who may look at everything on the console.
    pub stats_users: Vec<RoleName>,
}

/// Who is asked for secrets, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthQuery {
    /// `query`: `$1` is the role; the answer's two columns are the role and its secret.
    pub text: String,
    /// `query_user`, if it is not our own role there.
    pub login: Option<(RoleName, Option<Secret>)>,
    /// `query_dbname`, if it is not the database of the upstream.
    pub database: Option<DatabaseName>,
}

/// An entry of `[[auth.users]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticUser {
    /// `name`
    pub name: RoleName,
    /// `password`, `password_file`, `password_env` or `verifier`
    pub credential: Credential,
}

/// What is known of a static user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// The password itself.
    Password(Secret),
    /// `SCRAM-SHA-256$…` as in `pg_authid.rolpassword`.
    Verifier(Secret),
    /// `md5…` as in `pg_authid.rolpassword`.
    Md5(Secret),
}

/// Whether a COMMIT waits for the mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirrorMode {
    /// It does not.
    Async,
}

/// Which tables without a key get REPLICA IDENTITY FULL.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FullIdentity {
    /// None: their updates and deletions are not followed.
    #[default]
    None,
    /// Every one.
    All,
    /// These, as `schema.table`.
    Tables(Vec<String>),
}

impl FullIdentity {
    /// Whether this table gets one.
    pub fn includes(&self, schema: &str, table: &str) -> bool {
        match self {
            FullIdentity::None => false,
            FullIdentity::All => true,
            FullIdentity::Tables(names) => {
                names.iter().any(|name| name.split_once('.') == Some((schema, table)))
            }
        }
    }
}

/// `[mirror.<name>]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The name in the section's head.
    pub name: MirrorName,
    /// `database`: what is copied, as clients name it.
    pub database: DatabaseName,
    /// `target_database` on the upstream `cloud`.
    pub target_database: DatabaseName,
    /// `mode`
    pub mode: MirrorMode,
    /// `full_identity`
    pub full_identity: FullIdentity,
    /// `replace_role_passwords`: overwrite the verifiers of roles that exist in the cloud.
    pub replace_role_passwords: bool,
}

/// Where the lease record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseStore {
    /// A directory on this machine.
    File(PathBuf),
}

impl fmt::Display for LeaseStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LeaseStore::File(directory) => write!(f, "file:{}", directory.display()),
        }
    }
}

/// Whose users decide when the two sites cannot see each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// Those who arrive through DNS.
    Internet,
}

/// `[lease]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseConfig {
    /// `store`
    pub store: LeaseStore,
    /// `ttl`: how long a holder may go on without a renewal.
    pub ttl: Duration,
    /// `authority`
    pub authority: Authority,
    /// `rebuild`: make a lost record again after the highest epoch known.
    pub rebuild: bool,
}

/// `[failover]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    /// `restart_grace`: how long an orderly restart of the local server may take.
    pub restart_grace: Duration,
    /// `hold_timeout`: how long a client's query waits for a switch.
    pub hold_timeout: Duration,
    /// `drain_timeout`: how long a stop waits for open transactions.
    pub drain_timeout: Duration,
    /// `probe_interval`: pause between probes of a healthy server.
    pub probe_interval: Duration,
    /// `probe_timeout`: when a probe counts as missed.
    pub probe_timeout: Duration,
    /// `probe_misses`: how many in a row mean that the server is gone.
    pub probe_misses: u32,
}

/// `[http]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// `listen`; `None` is `"off"`.
    pub listen: Option<ListenAddress>,
}

/// Shape of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for a person.
    Text,
    /// An object for a machine.
    Json,
}

/// Least urgent message that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Wakes a person.
    Error,
    /// Went on despite a surprise.
    Warn,
    /// Changes of state.
    Info,
    /// Each connection.
    Debug,
    /// Each message.
    Trace,
}

impl LogLevel {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// `format`
    pub format: LogFormat,
    /// `level`
    pub level: LogLevel,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_identity_is_given_to_whom_it_names() {
        assert!(!FullIdentity::None.includes("public", "log"));
        assert!(FullIdentity::All.includes("public", "log"));
        let some = FullIdentity::Tables(vec!["public.log".to_owned()]);
        assert!(some.includes("public", "log"));
        assert!(!some.includes("public", "logs") && !some.includes("other", "log"));
    }
}
