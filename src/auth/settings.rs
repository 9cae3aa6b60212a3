//! What an authenticator is made of.

use super::plan::StoredPassword;
use super::rules;
use crate::base::{RoleName, Secret};
use crate::config::hba::{AuthMethod, IdentMaps, Rule};
use crate::wire::scram::Verifier;
use std::collections::HashSet;
use std::time::Duration;

/// A role whose secret is configured rather than read from the server.
#[derive(Debug, Clone)]
pub struct StaticUser {
    /// The role.
    pub name: RoleName,
    /// Its secret.
    pub secret: StaticSecret,
}

/// What is configured of a static user.
#[derive(Debug, Clone)]
pub enum StaticSecret {
    /// The password: it also logs in upstream, by whatever method the server asks for.
    Password(Secret),
    /// A verifier: upstream the recovered key logs in.
    Verifier(Verifier),
    /// `md5` and a hash: it also logs in upstream, where the server asks for md5.
    Md5(Secret),
}

impl From<StaticSecret> for StoredPassword {
    fn from(secret: StaticSecret) -> Self {
        match secret {
            StaticSecret::Password(password) => StoredPassword::Plain(password),
            StaticSecret::Verifier(verifier) => StoredPassword::Scram(verifier),
            StaticSecret::Md5(hash) => StoredPassword::Md5(hash),
        }
    }
}

/// What an [`Authenticator`](super::Authenticator) is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How clients prove themselves where there are no rules.
    pub method: AuthMethod,
    /// Who may come in how. `None`: everybody, by `method`.
    pub rules: Option<Vec<Rule>>,
    /// Maps between names of the outside and roles.
    pub maps: IdentMaps,
    /// Roles with configured secrets; they come before what the server says.
    pub static_users: Vec<StaticUser>,
    /// Roles that may change things on the console.
    pub admin_users: HashSet<String>,
    /// Roles that may look at everything on the console.
    pub stats_users: HashSet<String>,
    /// The user id that the console lets in over the Unix socket without a password: our own.
    pub console_uid: Option<u32>,
    /// Time for a client to prove itself (PostgreSQL's `authentication_timeout`).
    pub timeout: Duration,
    /// Time for one answer of the writer about a role.
    pub lookup_timeout: Duration,
    /// How long a log-in waits for a writer when nothing is known of its role.
    pub hold_timeout: Duration,
    /// How long what the writer has said of a role is used without asking again.
    pub cache: Duration,
    /// What the salts of roles that do not exist are made from, so that they stay the same;
    /// `None` for new ones with each process.
    pub mock_secret: Option<[u8; 32]>,
}

impl Settings {
    pub(super) fn effective_rules(&self) -> Vec<Rule> {
        self.rules.clone().unwrap_or_else(|| rules::everyone(self.method))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            method: AuthMethod::ScramSha256,
            rules: None,
            maps: IdentMaps::default(),
            static_users: Vec::new(),
            admin_users: HashSet::new(),
            stats_users: HashSet::new(),
            console_uid: None,
            timeout: Duration::from_secs(60),
            lookup_timeout: Duration::from_secs(2),
            hold_timeout: Duration::from_secs(30),
            cache: Duration::ZERO,
            mock_secret: None,
        }
    }
}
