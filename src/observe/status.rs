//! The words in which the state is reported: one document for SHOW, `/status`, the CLI and metrics.

use crate::base::{DatabaseName, Epoch, Lsn, MirrorName, Site};
use serde::Serialize;
use std::time::SystemTime;

/// The state of one mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum MirrorState {
    /// The first copy is being made; `bytes_total` is estimated at its start and 0 before.
    Bootstrapping {
        /// Bytes copied so far, on the scale of `bytes_total`.
        bytes_done: u64,
        /// Size of the tables under the snapshot.
        bytes_total: u64,
    },
    /// Changes arrive and the lag is below the bound of the mode.
    Following,
    /// Changes arrive, but late.
    Degraded {
        /// Age of the oldest change that is not applied, in ms by the publisher's clock.
        lag_ms: u64,
    },
    /// One of the two servers is not reached; it will be tried again.
    Disconnected {
        /// What the last attempt said.
        reason: String,
    },
    /// The mirror is the writer now.
    Promoted,
    /// Needs a person.
    Failed {
        /// What happened and what to do.
        reason: String,
    },
}

impl MirrorState {
    /// The word in the column `status`.
    pub fn word(&self) -> &'static str {
        match self {
            MirrorState::Bootstrapping { .. } => "Bootstrapping",
            MirrorState::Following => "Following",
            MirrorState::Degraded { .. } => "Degraded",
            MirrorState::Disconnected { .. } => "Disconnected",
            MirrorState::Promoted => "Promoted",
            MirrorState::Failed { .. } => "Failed",
        }
    }
}

/// All that is known of one mirror.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MirrorStatus {
    /// Its name.
    pub mirror: MirrorName,
    /// `async` (or, later, `sync`).
    pub mode: &'static str,
    /// What it does at the moment.
    pub state: MirrorState,
    /// Whether it has reached `Following` since its bootstrap: only such a mirror is promoted.
    pub is_promotable: bool,
    /// The site it is copied from.
    pub source_cluster: Site,
    /// The database it is copied from, as clients name it.
    pub source_database: DatabaseName,
    /// The database it is copied to.
    pub target_database: DatabaseName,
    /// Position in the source's log up to which everything is applied on the target.
    pub last_applied: Option<Lsn>,
    /// Position in the source's log up to which everything is durable on the target.
    pub flushed: Option<Lsn>,
    /// Position in the source's log up to which we have received.
    pub received: Option<Lsn>,
    /// Age of the oldest change not applied, in ms; 0 when there is nothing to apply; `None` when
    /// it cannot be known (disconnected or not yet streaming).
    pub lag_ms: Option<u64>,
    /// Bytes of the source's log not yet applied.
    pub lag_bytes: Option<u64>,
    /// Bytes of the first copy done.
    pub bytes_done: u64,
    /// Bytes of the first copy in all.
    pub bytes_total: u64,
    /// Rows inserted, updated, deleted and truncations applied since the process started.
    pub rows_applied: u64,
    /// Source transactions applied since the process started.
    pub transactions_applied: u64,
    /// Rows the source changed in tables without identity, which the mirror cannot follow.
    pub rows_not_followed: u64,
    /// What a person should know: what is not carried, what holds things up.
    pub warnings: Vec<String>,
}

/// The lease as this process sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeaseStatus {
    /// Where the record is, without credentials.
    pub store: String,
    /// The present epoch.
    pub epoch: Epoch,
    /// The owner in the record, if one was read.
    pub owner: Option<Site>,
    /// `normal`, `failed_over` or `failing_back`.
    pub phase: &'static str,
    /// Whether this process may acknowledge writes now.
    pub is_held: bool,
    /// Milliseconds until it may not, unless renewed.
    pub deadline_ms: Option<u64>,
    /// `internet` or `local`.
    pub authority: &'static str,
    /// Time to live of a renewal, in ms.
    pub ttl_ms: u64,
    /// When the record was last renewed, by the holder's wall clock, for display.
    #[serde(serialize_with = "super::time::as_optional_text")]
    pub renewed_at: Option<SystemTime>,
    /// What the last attempt to read or write the record said, if it failed.
    pub problem: Option<String>,
}

/// One server as the probes see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UpstreamStatus {
    /// Which.
    pub upstream: Site,
    /// Its address.
    pub address: String,
    /// `writer`, `mirror`, `fenced` or `unknown`.
    pub role: &'static str,
    /// Whether the last probe was answered.
    pub is_up: bool,
    /// What it needs from a person, if anything.
    pub needs: Option<String>,
}

/// The whole document.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Version of the program.
    pub version: &'static str,
    /// One sentence for a person.
    pub summary: String,
    /// State of the controller, one word.
    pub state: String,
    /// The site that writes, if one may.
    pub writer: Option<Site>,
    /// Whether clients are held until a switch is over.
    pub is_holding: bool,
    /// Clients connected.
    pub clients: u64,
    /// Connections to servers.
    pub servers: u64,
    /// The lease, if the proxy keeps one.
    pub lease: Option<LeaseStatus>,
    /// The servers.
    pub upstreams: Vec<UpstreamStatus>,
    /// The mirrors.
    pub mirrors: Vec<MirrorStatus>,
}

/// A document with something in every part, for the snapshots of those who show it.
#[cfg(test)]
pub(crate) fn sample() -> Status {
    let mirror = |name: &str, state| MirrorStatus {
        mirror: MirrorName::new(name).unwrap(),
        mode: "async",
        state,
        is_promotable: true,
        source_cluster: Site::Local,
        source_database: DatabaseName::new("shop").unwrap(),
        target_database: DatabaseName::new("shop_copy").unwrap(),
        last_applied: Some(Lsn(0x1_0000_00A8)),
        flushed: Some(Lsn(0x1_0000_00A8)),
        received: Some(Lsn(0x1_0000_0100)),
        lag_ms: Some(1_250),
        lag_bytes: Some(88),
        bytes_done: 4_096,
        bytes_total: 4_096,
        rows_applied: 12,
        transactions_applied: 3,
        rows_not_followed: 0,
        warnings: Vec::new(),
    };
    let reason = "connection refused".to_owned();
    Status {
        version: "0.1.0",
        summary: "local writes, 1 of 2 mirrors follows".to_owned(),
        state: "steady".to_owned(),
        writer: Some(Site::Local),
        is_holding: false,
        clients: 8,
        servers: 5,
        lease: Some(LeaseStatus {
            store: "file:/var/lib/cloud-mirror/lease".to_owned(),
            epoch: Epoch(7),
            owner: Some(Site::Local),
            phase: "normal",
            is_held: true,
            deadline_ms: Some(21_500),
            authority: "internet",
            ttl_ms: 30_000,
            renewed_at: Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_767_225_599_007)),
            problem: None,
        }),
        upstreams: vec![
            UpstreamStatus {
                upstream: Site::Local,
                address: "localhost:5432".to_owned(),
                role: "writer",
                is_up: true,
                needs: None,
            },
            UpstreamStatus {
                upstream: Site::Cloud,
                address: "db.example.com:5432".to_owned(),
                role: "mirror",
                is_up: false,
                needs: Some("be reachable".to_owned()),
            },
        ],
        mirrors: vec![
            mirror("cloud", MirrorState::Following),
            MirrorStatus {
                lag_ms: None,
                lag_bytes: None,
                is_promotable: false,
                last_applied: None,
                rows_not_followed: 4,
                warnings: vec![
                    "large objects are not carried".to_owned(),
                    "table public.log has no key".to_owned(),
                ],
                ..mirror("stock", MirrorState::Disconnected { reason })
            },
        ],
    }
}
