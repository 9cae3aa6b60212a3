//! How far a bootstrap has come, for whoever watches.

use tokio::sync::watch;

/// What a bootstrap is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// Checks, roles, publications, the slot.
    #[default]
    Preparing,
    /// Tables are made and their rows copied.
    Copying,
    /// Indexes, constraints, triggers, statistics.
    Finishing,
}

/// How far it has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// What it is doing.
    pub stage: Stage,
    /// Bytes copied, on the scale of `bytes_total`.
    pub bytes_done: u64,
    /// Size of the tables when the slot was made; 0 before.
    pub bytes_total: u64,
    /// Open transactions, with their pids, that the slot is waiting for.
    pub held_up_by: Vec<String>,
}

/// Writes the progress.
pub(super) struct Meter {
    progress: watch::Sender<Progress>,
}

impl Meter {
    pub(super) fn new(progress: watch::Sender<Progress>) -> Self {
        progress.send_replace(Progress::default());
        Self { progress }
    }

    pub(super) fn held_up(&self, by: Vec<String>) {
        self.progress.send_if_modified(|p| {
            let is_new = p.held_up_by != by;
            p.held_up_by = by;
            is_new
        });
    }

    pub(super) fn stage(&self, stage: Stage) {
        self.progress.send_modify(|p| p.stage = stage);
    }

    pub(super) fn total(&self, bytes: u64) {
        self.progress.send_modify(|p| (p.bytes_total, p.bytes_done) = (bytes, 0));
    }

    pub(super) fn add(&self, bytes: u64) {
        self.progress.send_modify(|p| p.bytes_done = (p.bytes_done + bytes).min(p.bytes_total));
    }
}
