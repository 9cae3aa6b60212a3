//! Who may take what: questions about one sight of the store, without memory of requests.

use super::{Rebuild, Refusal, Setup};
use crate::base::{Epoch, Moment, Site};
use crate::lease::{Authority, Record, Tenure, Version};

/// What the store held when we last knew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Absent,
    Present { version: Version, record: Box<Record> },
}

impl Content {
    pub(super) fn version(&self) -> Option<&Version> {
        match self {
            Content::Absent => None,
            Content::Present { version, .. } => Some(version),
        }
    }

    pub(super) fn record(&self) -> Option<&Record> {
        match self {
            Content::Absent => None,
            Content::Present { record, .. } => Some(record),
        }
    }
}

/// A content and since when we know that it stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sight {
    pub(super) content: Content,
    /// When an answer first showed this version: its writer had sent it before.
    pub(super) since: Moment,
}

/// Whether the lease may be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Take {
    /// From `from` on, at `epoch`, if the store still holds what we saw.
    From {
        from: Moment,
        epoch: Epoch,
    },
    Refused(Refusal),
}

/// Whether a record can belong to our history at all; `known` is the highest epoch seen.
pub(super) fn check_history(setup: &Setup, known: Epoch, content: &Content) -> Result<(), Refusal> {
    match content.record() {
        Some(record) if record.cluster_id != setup.cluster_id => {
            Err(Refusal::OtherCluster { theirs: record.cluster_id.clone(), ours: setup.cluster_id.clone() })
        }
        Some(record) if record.epoch < known => Err(Refusal::EpochFell { found: record.epoch, known }),
        None if known > Epoch::NONE && setup.rebuild == Rebuild::Refuse => {
            Err(Refusal::RecordMissing { known })
        }
        _ => Ok(()),
    }
}

/// May we take the lease for `site`? The sight has passed [`check_history`].
pub(super) fn may_take(setup: &Setup, known: Epoch, sight: &Sight, site: Site) -> Take {
    let Some(record) = sight.content.record() else {
        // The first epoch ever, or the one after everything known when an operator rebuilds.
        return Take::From { from: Moment::default(), epoch: known.next() };
    };
    let epoch = record.epoch.next();
    let at_once = Take::From { from: Moment::default(), epoch };
    let is_ours = record.owner_instance == setup.instance;
    let instance = || record.owner_instance.clone();
    match (record.state, is_ours) {
        (Tenure::Released, _) => at_once,
        (Tenure::Active, true) if record.owner == site => at_once,
        (Tenure::Active, true) => Take::Refused(Refusal::NotReleased { site: record.owner }),
        (Tenure::Active, false) => match (record.authority, record.owner, site) {
            (Authority::Local, owner, _) => {
                Take::Refused(Refusal::HeldByAuthority { site: owner, instance: instance() })
            }
            (Authority::Internet, Site::Cloud, Site::Local) => {
                Take::Refused(Refusal::HeldByCloud { instance: instance() })
            }
            (Authority::Internet, Site::Local, _) | (Authority::Internet, Site::Cloud, Site::Cloud) => {
                let ttl = std::time::Duration::from_millis(record.ttl_ms);
                Take::From { from: setup.timing.expiry(sight.since, ttl), epoch }
            }
        },
    }
}
