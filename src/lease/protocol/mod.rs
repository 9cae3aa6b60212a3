//! The pure machine of the lease: `step(now, event) -> effects`.
//!
//! The rules, each checked by breaking it in `tests/sim`:
//! - The deadline counts from before the write was sent, and only a write that is *known* to be
//!   stored moves it. No answer, an error and a conflict all mean "unknown: read it back and
//!   compare the nonces". All writes that may still land are kept with their time.
//! - Past the deadline nothing is renewed: the epoch is over, and the right is acquired anew at the next one.
//! - The holder of another instance is given up only after its record stood still for its whole
//!   TTL and a margin, on our own clock, since *we* first saw that version.
//! - Silence moves ownership from local to cloud only; a silent cloud keeps it.
//! - The record is replaced, never deleted; its epoch never falls; where it seems to have, nobody acquires.
//!
//! A process with the instance of the record's owner takes the lease at once, because it holds the
//! exclusive lock on the state directory of that instance: its predecessor has ended. When a record of our
//! own instance appears that this run did not write, the directory was cloned, and we stop.

mod decide;
mod machine;
mod refusal;
#[cfg(test)]
pub(crate) mod tests;

use crate::base::{Epoch, Moment, OpId, Site};
use crate::lease::{Authority, Phase, Record, Timing, Version};

pub use machine::Machine;
pub use refusal::{Loss, Refusal};

/// Who we are and how we keep time. Fixed for the life of the process.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The pair of sites; a record of another pair is refused.
    pub cluster_id: String,
    /// The state directory (`sys::file::StateDir::instance`), locked for this process.
    pub instance: String,
    /// The boot of this machine, for display.
    pub boot_id: String,
    /// Random number of this run of the process, the first half of its nonces.
    pub run: u64,
    /// The policy we write into the record.
    pub authority: Authority,
    /// The durations.
    pub timing: Timing,
    /// What to do when the record is gone though an epoch was in use.
    pub rebuild: Rebuild,
}

/// Whether a missing record is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rebuild {
    /// Refuse and say how to rebuild it.
    Refuse,
    /// An operator said so: make it again after the highest epoch known.
    Allow,
}

/// Proof of a stored lease. Only [`Machine`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    epoch: Epoch,
    site: Site,
    deadline: Moment,
}

impl Held {
    /// The epoch that is held.
    pub fn epoch(self) -> Epoch {
        self.epoch
    }

    /// The site that may write.
    pub fn site(self) -> Site {
        self.site
    }

    /// The first moment at which it may not any more, unless renewed.
    pub fn deadline(self) -> Moment {
        self.deadline
    }
}

/// Names one request to the store; a new one replaces the one before, whose answer is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What the machine is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Read the record and report what is there; changes nothing.
    Look {
        /// Comes back in [`Report::Looked`].
        op: OpId,
    },
    /// Take the lease for a site, and keep it until told otherwise. Goes on until it is held or
    /// refused; replaces an earlier wish.
    Acquire {
        /// Comes back in [`Report::Held`] or [`Report::Refused`].
        op: OpId,
        /// For which site.
        site: Site,
        /// The phase to write.
        phase: Phase,
        /// Why, for the record.
        reason: String,
    },
    /// Give the lease back. The gate must be shut and the writer fenced before: from here on we
    /// do not hold it, whatever the store says. Goes on until it is released or refused.
    Release {
        /// Comes back in [`Report::Released`] or [`Report::Refused`].
        op: OpId,
        /// Why, for the record.
        reason: String,
    },
    /// An epoch that is known to have been in use, from a fence row.
    EpochKnown {
        /// The epoch.
        epoch: Epoch,
    },
    /// The store answered a read.
    ReadEnded {
        /// Which.
        request: RequestId,
        /// What it said.
        answer: ReadAnswer,
    },
    /// The store answered a write.
    WriteEnded {
        /// Which.
        request: RequestId,
        /// What it said.
        answer: WriteAnswer,
    },
    /// Time has passed.
    Tick,
}

/// What a read said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadAnswer {
    /// There certainly is no record.
    Absent,
    /// The record.
    Found {
        /// Its version.
        version: Version,
        /// Its content.
        record: Box<Record>,
    },
    /// Something is there that is no record.
    Corrupt {
        /// What is wrong with it.
        why: String,
    },
    /// No answer, or an error.
    Failed {
        /// In words.
        why: String,
    },
}

/// What a write said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteAnswer {
    /// It is stored under this version.
    Stored {
        /// The new version.
        version: Version,
    },
    /// The record was not the expected one. It may be our own earlier attempt.
    Conflict,
    /// It may have happened.
    Unknown {
        /// In words.
        why: String,
    },
}

/// What the machine wishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Read the record; abandon an earlier request.
    Read {
        /// Comes back with the answer.
        request: RequestId,
    },
    /// Store the record if the present version is `base` (`None`: if there is no record).
    /// The executor only adds `renewed_at_ms`. Abandon an earlier request.
    Write {
        /// Comes back with the answer.
        request: RequestId,
        /// The expected version.
        base: Option<Version>,
        /// The new content.
        record: Box<Record>,
    },
    /// Tell the controller.
    Report(Report),
}

/// What the controller learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The record as it was read for a `Look`.
    Looked {
        /// Of the look.
        op: OpId,
        /// What was there.
        found: Found,
    },
    /// The lease is held: acquired (`op` of the wish) or renewed (`None`).
    Held {
        /// Of the acquisition.
        op: Option<OpId>,
        /// Until when.
        held: Held,
    },
    /// The wish cannot be granted; it is dropped. Asking again reads again.
    Refused {
        /// Of the wish.
        op: OpId,
        /// Why, and what to do.
        why: Refusal,
    },
    /// The lease was given back and nobody had taken it before.
    Released {
        /// Of the wish.
        op: OpId,
        /// The epoch that ended.
        epoch: Epoch,
    },
    /// It was held and is not any more.
    Lost {
        /// The epoch that ended.
        epoch: Epoch,
        /// How.
        why: Loss,
    },
}

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// No record, and no epoch was ever in use.
    Nothing,
    /// The record.
    Record(Box<Record>),
    /// It cannot be used, and why.
    Refused(Refusal),
    /// The store did not answer; ask again.
    Unreadable {
        /// In words.
        why: String,
    },
}

/// Where the machine stands, for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is wished.
    Resting,
    /// On the way to the lease; `until` if a foreign record has to stand still until then.
    Acquiring {
        /// For which site.
        site: Site,
        /// End of the wait.
        until: Option<Moment>,
    },
    /// Held.
    Holding(Held),
    /// On the way out.
    Releasing,
}

/// What can be shown of the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Where the machine stands.
    pub standing: Standing,
    /// The record as last read or written.
    pub record: Option<Record>,
    /// What the last request to the store said, if it failed.
    pub problem: Option<String>,
}
