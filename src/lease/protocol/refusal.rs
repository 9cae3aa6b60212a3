//! Why the lease is not ours, in words that say what to do.

use crate::base::{Epoch, Site};

/// Why a wish cannot be granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The record is gone, or this is the wrong store.
    #[error(
        "there is no lease record, but epoch {known} was in use: if the store is the wrong one, correct it; if the record was removed, start once with --rebuild-lease, which makes it again at the next epoch"
    )]
    RecordMissing {
        /// The highest epoch known from fence rows or from an earlier read.
        known: Epoch,
    },
    /// The record was rolled back.
    #[error(
        "the lease record is at epoch {found}, but epoch {known} was in use: an old record was restored; put the newer one back, or remove it and start once with --rebuild-lease"
    )]
    EpochFell {
        /// In the record.
        found: Epoch,
        /// The highest epoch known from fence rows or from an earlier read.
        known: Epoch,
    },
    /// The record belongs to other sites.
    #[error(
        "the lease record belongs to another pair of sites (cluster {theirs}, ours is {ours}): choose another place for the lease"
    )]
    OtherCluster {
        /// In the record.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// There are bytes that are no record; never treated as an absent one.
    #[error("{0}")]
    Corrupt(String),
    /// A running holder may be cut off and still serve its users.
    #[error(
        "the lease is held by another instance ({instance}) at the site {site} with authority local: it goes on however long it is silent; release it there"
    )]
    HeldByAuthority {
        /// The owner.
        site: Site,
        /// Its instance.
        instance: String,
    },
    /// Silence never moves ownership from the cloud to the local site.
    #[error("the cloud holds the lease (instance {instance}): the way home is a failback, not a takeover")]
    HeldByCloud {
        /// The instance that holds it.
        instance: String,
    },
    /// Our own lease is for the other site.
    #[error("the lease is ours for the site {site}; it has to be released there first")]
    NotReleased {
        /// The owner in the record.
        site: Site,
    },
    /// The lease to be released is not ours.
    #[error("the lease is not ours to release: instance {instance} at the site {site} holds it")]
    NotOurs {
        /// The owner.
        site: Site,
        /// Its instance.
        instance: String,
    },
    /// Two processes with one identity.
    #[error(
        "another process writes the lease as this instance: the state directory was cloned; stop one of them and remove the file `instance` from its state directory"
    )]
    Cloned,
}

/// How a lease ended that we held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// It was not renewed in time.
    #[error("it was not renewed in time")]
    Expired,
    /// Somebody else's record is in the store.
    #[error("instance {instance} at the site {site} took it at epoch {epoch}")]
    Taken {
        /// The new owner.
        site: Site,
        /// Its instance.
        instance: String,
        /// Its epoch.
        epoch: Epoch,
    },
    /// The record cannot be used any more.
    #[error("{0}")]
    Refused(Refusal),
}
