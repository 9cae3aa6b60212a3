//! Who may come in how: rules as in `pg_hba.conf`, and maps of names as in `pg_ident.conf`.
//!
//! `tokens` divides a file into fields, `entry` makes rules of them, `ident` maps; rules in our own
//! file (`[[auth.rules]]`) go the same way. Matching is done where clients are: in the room `auth`.

mod entry;
mod ident;
#[cfg(test)]
mod tests;
mod tokens;

pub use ident::{IdentEntry, IdentMaps};

use super::problem::Origin;
use super::reader::Problems;
use regex::Regex;
use std::net::IpAddr;
use std::path::Path;

/// A line of `pg_hba.conf`, or an entry of `[[auth.rules]]`. The first that fits decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Where it stands.
    pub at: Origin,
    /// How the client came.
    pub connection: Connection,
    /// To which database.
    pub databases: Vec<DatabasePattern>,
    /// As whom.
    pub users: Vec<UserPattern>,
    /// From where; of no meaning for `local`.
    pub addresses: Vec<AddressPattern>,
    /// What it has to show.
    pub method: AuthMethod,
    /// `map=`: the map in the ident file between names of the outside and roles.
    pub map: Option<String>,
    /// `clientcert=`: the certificate that is wanted besides.
    pub certificate: WantedCertificate,
    /// `clientname=`: which name in a certificate counts.
    pub name: CertificateName,
}

/// First field of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// `local`: by Unix socket.
    Local,
    /// `host`: by TCP.
    Host,
    /// `hostssl`: by TCP, in TLS.
    HostSsl,
    /// `hostnossl`: by TCP, in clear text.
    HostNoSsl,
    /// `hostgssenc`: never, since we do not speak GSSAPI.
    Never,
}

/// One of the databases of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabasePattern {
    /// `all`
    All,
    /// `sameuser`
    SameUser,
    /// `samerole`, `samegroup`: the client's role is a member of the role with the database's name.
    SameRole,
    /// `replication`: physical replication, in no database.
    Replication,
    /// This one.
    Name(String),
    /// `/regular expression`
    Matches(Pattern),
}

/// One of the users of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserPattern {
    /// `all`
    All,
    /// This role.
    Name(String),
    /// `+role`: this role, or a member of it.
    MemberOf(String),
    /// `/regular expression`
    Matches(Pattern),
}

/// One of the addresses of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressPattern {
    /// `all`
    All,
    /// `192.0.2.0/24`, or an address with a mask of its own.
    Network {
        /// The address.
        ip: IpAddr,
        /// The bits of it that count.
        mask: IpAddr,
    },
    /// `samehost`: an address of this machine.
    SameHost,
    /// `samenet`: an address of a network that this machine is in.
    SameNet,
}

impl AddressPattern {
    /// Whether `ip` lies in the network `address`/`mask`; of another family it never does.
    pub fn lies_in(ip: IpAddr, address: IpAddr, mask: IpAddr) -> bool {
        match (ip, address, mask) {
            (IpAddr::V4(ip), IpAddr::V4(address), IpAddr::V4(mask)) => {
                (ip.to_bits() ^ address.to_bits()) & mask.to_bits() == 0
            }
            (IpAddr::V6(ip), IpAddr::V6(address), IpAddr::V6(mask)) => {
                (ip.to_bits() ^ address.to_bits()) & mask.to_bits() == 0
            }
            _ => false,
        }
    }
}

/// How a client proves itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// Not at all.
    Trust,
    /// It cannot.
    Reject,
    /// By SCRAM-SHA-256.
    ScramSha256,
    /// By md5, or by SCRAM-SHA-256 where a verifier of that is known.
    Md5,
    /// By its password in clear text.
    Password,
    /// By its certificate alone.
    Certificate,
    /// By its user of the operating system.
    Peer,
}

impl AuthMethod {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            AuthMethod::Trust => "trust",
            AuthMethod::Reject => "reject",
            AuthMethod::ScramSha256 => "scram-sha-256",
            AuthMethod::Md5 => "md5",
            AuthMethod::Password => "password",
            AuthMethod::Certificate => "cert",
            AuthMethod::Peer => "peer",
        }
    }
}

/// Which certificate of the client a rule wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WantedCertificate {
    /// None.
    #[default]
    None,
    /// `clientcert=verify-ca`: any that our authority has signed.
    Signed,
    /// `clientcert=verify-full`: one that also names the role, through the map if there is one.
    Named,
}

/// Which name in a certificate is compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CertificateName {
    /// `clientname=CN`: the subject's common name.
    #[default]
    Common,
    /// `clientname=DN`: the whole subject, as in RFC 2253.
    Distinguished,
    /// `clientname=SAN`: any of its alternative names. PostgreSQL does not have this one.
    Alternative,
}

/// A regular expression, equal to others of the same text.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Reads one; the error is for the operator.
    pub fn new(text: &str) -> Result<Self, String> {
        Regex::new(text).map(Pattern).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
            // The last line says what is wrong; those before it draw where.
            other => other.to_string().lines().last().unwrap_or_default().trim().to_owned(),
        })
    }

    /// The expression itself.
    pub fn regex(&self) -> &Regex {
        &self.0
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

/// Reads a small text file.
pub(super) type ReadFile<'a> = &'a dyn Fn(&Path) -> Result<String, String>;

/// What a rule may ask for is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Means {
    /// There is an authority for certificates of clients.
    pub has_client_ca: bool,
}

/// The rules of a file in the syntax of `pg_hba.conf`; `None` when there are mistakes, which are
/// noted. `at` names the file.
pub(super) fn read_file(
    path: &Path,
    at: &Origin,
    read: ReadFile<'_>,
    means: Means,
    problems: &Problems,
) -> Option<Vec<Rule>> {
    let lines = tokens::read(path, "auth.hba_file", at, read, problems)?;
    let rules: Vec<_> = lines.iter().map(|line| entry::rule(line, means, problems)).collect();
    rules.into_iter().collect()
}

/// The maps of a file in the syntax of `pg_ident.conf`; `None` when there are mistakes.
pub(super) fn read_ident(
    path: &Path,
    at: &Origin,
    read: ReadFile<'_>,
    problems: &Problems,
) -> Option<IdentMaps> {
    let lines = tokens::read(path, "auth.ident_file", at, read, problems)?;
    let entries: Vec<_> = lines.iter().map(|line| ident::entry(line, problems)).collect();
    entries.into_iter().collect::<Option<Vec<_>>>().map(IdentMaps)
}

pub(super) use entry::{Written, network, written};
