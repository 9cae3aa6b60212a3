//! What the operator wrote → a checked, immutable [`Config`].
//!
//! Pure: [`load()`] is given the file's text, the environment, the command line and a way to read
//! secret files, and returns either a whole configuration or every mistake at once, each with its
//! place and what to write instead. [`diff()`] says what a reload may change in a running process.
//! This room opens nothing, creates nothing and knows no other room.
//!
//! Start reading in [`load()`]; the shape of each section is in `sections`.

mod databases;
mod diff;
pub mod hba;
mod lease;
mod listen;
mod load;
mod mirrors;
mod model;
pub mod pgbouncer;
mod pool;
mod problem;
mod reader;
mod tcp;
mod tree;
mod units;
mod upstream;
mod url;
mod userlist;
mod users;

pub use databases::{Database, Databases, Others};
pub use diff::{Changes, diff};
pub use load::{File, Flag, Machine, Sources, load};
pub use model::{
    Auth, AuthQuery, AuthType, Authority, ChannelBinding, ClientCertificates, ClientTls, Config, Credential,
    Failover, FullIdentity, Host, Http, LeaseConfig, LeaseStore, Listen, ListenAddress, Log, LogFormat,
    LogLevel, Mirror, MirrorMode, SiteConfig, SslMode, SslNegotiation, StaticUser, TrustedProxy, Upstream,
};
pub use pool::{Pool, PoolMode, PoolTable, Rules};
pub use problem::{ConfigErrors, Origin, Problem};
pub use tcp::{Tcp, Tuning};

/// Every environment variable that overrides a key begins so: `CLOUD_MIRROR__POOL__SIZE`.
pub const VARIABLE_PREFIX: &str = "CLOUD_MIRROR__";

#[cfg(test)]
mod broken_tests;
#[cfg(test)]
mod tests;
