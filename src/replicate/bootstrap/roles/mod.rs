//! Roles come before everything else: objects belong to them, and after a promotion the same user
//! and password have to work.
//!
//! `read` takes them from catalogs, `plan` decides (pure), [`sync`] acts: once in a
//! bootstrap and then on a timer, so that a password changed on the source is the mirror's too.

mod plan;
mod read;
mod sync;

pub(super) use plan::{OnConflict, plan};
pub(super) use read::{named, of_database};
pub use sync::{Memory, Synced, sync};
pub(super) use sync::{apply, existing};

use crate::base::Secret;
use std::collections::{BTreeMap, BTreeSet};

/// A role as `pg_authid` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Role {
    pub name: String,
    pub is_superuser: bool,
    pub inherits: bool,
    pub creates_roles: bool,
    pub creates_databases: bool,
    pub logs_in: bool,
    pub replicates: bool,
    pub bypasses_row_security: bool,
    /// -1 when there is none.
    pub connection_limit: i32,
    pub valid_until: Option<String>,
    pub verifier: Verifier,
    pub settings: BTreeSet<Setting>,
    /// Whether it owns something in the database.
    pub is_owner: bool,
}

/// What a server knows instead of a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verifier {
    /// The role has no password.
    None,
    /// `SCRAM-SHA-256$…` or `md5…`.
    Known(Secret),
    /// We may not read it.
    Unreadable,
}

/// One `ALTER ROLE … SET`, or `ALTER DATABASE … SET`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Setting {
    /// `IN DATABASE` ours.
    pub in_database: bool,
    pub name: String,
    pub value: String,
}

/// `member` has `role`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Membership {
    pub role: String,
    pub member: String,
    pub is_admin: bool,
    /// `None` before PostgreSQL 16.
    pub inherits: Option<bool>,
    /// `None` before PostgreSQL 16.
    pub may_set: Option<bool>,
}

/// Roles and what ties them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Roles {
    pub roles: BTreeMap<String, Role>,
    /// Of members among `roles`.
    pub memberships: BTreeSet<Membership>,
    pub database_settings: BTreeSet<Setting>,
}
