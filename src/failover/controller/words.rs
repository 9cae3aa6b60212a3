//! What the controller is told and what it wishes.

use crate::base::{Epoch, OpId, Site};
use crate::lease::{Held, Phase, Tenure};
use crate::observe::events::Level;
use std::time::Duration;

/// How the controller is set up. Fixed for the life of the process, but for what RELOAD changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whether there is a second site.
    pub sites: Sites,
    /// How long an orderly restart may take before it counts as a death.
    pub restart_grace: Duration,
    /// How long clients are held before they are refused with 57P03. It has to outlast the grace
    /// and the promotion after it, hence 30 s.
    pub hold_timeout: Duration,
    /// Pause between two probes of a writer that nobody complains about.
    pub probe_interval: Duration,
    /// Pause between two probes of a writer that is suspected or down.
    pub suspect_interval: Duration,
    /// How long one probe is waited for.
    pub probe_timeout: Duration,
    /// How many refused probes in a row make a dead server.
    pub probe_misses: u32,
    /// How long a server may give no answer at all before it counts as dead. Longer than a few
    /// refused probes: silence may be a full backlog or a stopped disk that goes on in a moment.
    pub silence_max: Duration,
    /// How long a fence is waited for.
    pub fence_timeout: Duration,
    /// How long the mirrors may take to apply what they have received.
    pub queue_timeout: Duration,
    /// How long a promotion, or the reading of facts, is waited for before it is tried again.
    pub step_timeout: Duration,
    /// How long the lease is waited for before it is asked for again.
    pub lease_timeout: Duration,
    /// Pause after a step that failed.
    pub retry_pause: Duration,
    /// Pause before facts that need a person are looked at again.
    pub stuck_pause: Duration,
}

/// Whether there is a second site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sites {
    /// A plain proxy: no lease, no gate to open or close, nowhere to go.
    LocalOnly,
    /// Local and cloud share a lease.
    Pair,
}

impl Settings {
    /// The defaults.
    pub fn new(sites: Sites) -> Self {
        Self {
            sites,
            restart_grace: Duration::from_secs(10),
            hold_timeout: Duration::from_secs(30),
            probe_interval: Duration::from_secs(1),
            suspect_interval: Duration::from_millis(100),
            probe_timeout: Duration::from_secs(1),
            probe_misses: 3,
            silence_max: Duration::from_secs(5),
            fence_timeout: Duration::from_secs(3),
            queue_timeout: Duration::from_secs(30),
            step_timeout: Duration::from_secs(15),
            lease_timeout: Duration::from_secs(5),
            retry_pause: Duration::from_secs(1),
            stuck_pause: Duration::from_secs(5),
        }
    }
}

/// What the controller is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The process is ready to act. The first event; clients are not let through before its end.
    Started,
    /// The facts on both sides and in the store.
    FactsRead {
        /// Of [`Effect::ReadFacts`].
        op: OpId,
        /// What was found.
        facts: Facts,
    },
    /// A connection to a server broke or could not be made. Not for links of a former life of
    /// the server (`NextLife`), nor for those that we cut ourselves.
    LinkBroken {
        /// To which.
        site: Site,
        /// What it said last.
        evidence: Evidence,
    },
    /// A probe ended.
    Probed {
        /// Of [`Effect::Probe`].
        op: OpId,
        /// The server.
        site: Site,
        /// What it said.
        outcome: ProbeOutcome,
    },
    /// The lease is held, or held longer.
    LeaseHeld {
        /// Of [`Effect::AcquireLease`]; `None` for a renewal.
        op: Option<OpId>,
        /// The proof.
        held: Held,
    },
    /// The lease cannot be had or given back.
    LeaseRefused {
        /// Of [`Effect::AcquireLease`] or [`Effect::ReleaseLease`].
        op: OpId,
        /// Why, and what to do.
        why: String,
    },
    /// The lease is given back.
    LeaseReleased {
        /// Of [`Effect::ReleaseLease`].
        op: OpId,
        /// The epoch that ended.
        epoch: Epoch,
    },
    /// The lease was held and is not any more.
    LeaseLost {
        /// The epoch that ended.
        epoch: Epoch,
        /// How.
        why: String,
    },
    /// A fence ended.
    Fenced {
        /// Of [`Effect::Fence`].
        op: OpId,
        /// How.
        outcome: FenceOutcome,
    },
    /// A claim ended.
    Claimed {
        /// Of [`Effect::Claim`].
        op: OpId,
        /// How.
        outcome: ClaimOutcome,
    },
    /// The mirrors applied what they had, or could not.
    QueueFinished {
        /// Of [`Effect::FinishQueue`].
        op: OpId,
        /// `Err` in words.
        outcome: Result<(), String>,
    },
    /// A promotion ended.
    Promoted {
        /// Of [`Effect::Promote`].
        op: OpId,
        /// `Err` in words; it may be half done, and running it again does the rest.
        outcome: Result<(), String>,
    },
    /// Which mirrors may be promoted changed.
    MirrorsReported {
        /// All, or which not.
        promotable: Promotable,
    },
    /// An operator wishes that the cloud becomes the writer.
    PromoteRequested {
        /// Comes back in [`Effect::Answer`].
        request: OpId,
        /// Whether to go on where the local server does not say that it is fenced.
        insistence: Insistence,
    },
    /// The old writer came back and was fenced again ([`Effect::WatchReturn`]).
    Returned {
        /// Which.
        site: Site,
        /// What was found there, for the event.
        detail: String,
    },
    /// The way home has begun: somebody else acts until it ends.
    FailbackBegan,
    /// The way home is over, or given up: the facts say who owns now.
    FailbackEnded,
    /// The process is about to end. The lease is not released.
    Stopping,
    /// Settings that changed by RELOAD.
    Reloaded {
        /// The new ones; `sites` does not change.
        settings: Settings,
    },
    /// Time has passed.
    Tick,
}

/// What a session saw of the end of a connection ("Error and Notice Message Fields", field `R`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// End of file or reset, without a word.
    Eof,
    /// 57P01 from `secure_read` or another routine that notices the end of the postmaster.
    PostmasterDied,
    /// 57P01 from `ProcessInterrupts`: an orderly stop, or one session terminated.
    AdminStop,
    /// 57P01 or 57P02 from `quickdie`: an immediate stop, or the crash of a sibling.
    CrashRestart,
    /// A new connection was refused or not answered.
    ConnectFailed,
}

/// What a probe (a new connection and `SELECT 1`) said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// It answers. Also any error but 57P03: a server that says "password" or "too many" is alive.
    Up,
    /// 57P03: it starts, stops or recovers.
    StartingUp,
    /// Nobody listens (connection refused, no such socket) or it hung up without a word.
    Refused,
    /// No answer in time.
    TimedOut,
    /// We could not even try (no file descriptors): tells nothing of the server.
    Unable {
        /// In words.
        why: String,
    },
}

/// How a fence ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FenceOutcome {
    /// All databases are shut, empty twice, and their fence rows say so.
    Done,
    /// Nobody listens there: its backends are gone or will be.
    Refused,
    /// No answer.
    Silent,
    /// 57P03: it starts, stops or recovers. Nobody can write there, but soon somebody might.
    NotReady,
    /// The server answers, but is not known to be fenced.
    Failed {
        /// In words.
        why: String,
    },
}

/// How a claim ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The fence rows are open at the epoch.
    Done,
    /// The server is not reached.
    Unreachable,
    /// A newer epoch was there. It must not be written to.
    Stale {
        /// In words.
        why: String,
    },
    /// It answered with an error.
    Failed {
        /// In words.
        why: String,
    },
}

/// Whether an operator accepts what cannot be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insistence {
    /// Only with a verified fence, or where nobody listens.
    Verified,
    /// Also where the local server gives no answer and where its queue cannot be read to the end.
    Force,
}

/// Whether all mirrors of the pair may be promoted: they go together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Promotable {
    /// Each has reached Following.
    All,
    /// These have not.
    Missing {
        /// Their names.
        names: Vec<String>,
    },
    /// There is no mirror.
    NoMirrors,
    /// The cloud has not been asked yet.
    Unknown,
}

/// How far a mirror has to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upto {
    /// What has been received: the source is dead.
    Received,
    /// The end of the source's log: it is alive and fenced.
    SourceEnd,
}

/// What is durable about the pair, read anew at each start: nothing of it is kept in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What the store holds.
    pub lease: LeaseFact,
    /// Fence rows of the local databases.
    pub local: FenceFact,
    /// Fence rows of the cloud's databases.
    pub cloud: FenceFact,
    /// By the progress rows on the cloud.
    pub promotable: Promotable,
    /// By the progress rows on the cloud.
    pub promoted: Promoted,
}

/// What the lease's store holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseFact {
    /// No record.
    Nothing,
    /// A record.
    Record {
        /// The epoch.
        epoch: Epoch,
        /// Who holds it, or did.
        owner: Site,
        /// Held or given back.
        state: Tenure,
    },
    /// It cannot be used, and why.
    Refused(String),
    /// The store did not answer.
    Unreadable(String),
}

/// The fence rows of one side, over all its mirrored databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceFact {
    /// The server is not reached.
    Unreachable,
    /// No row in any of them.
    Absent,
    /// The highest epoch; fenced if any is.
    Row {
        /// The highest epoch.
        epoch: Epoch,
        /// Open or fenced.
        state: Fencing,
    },
}

/// Whether a side says that it is shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fencing {
    /// All databases are open.
    Open,
    /// At least one is fenced.
    Fenced,
}

/// Whether the cloud's databases were promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promoted {
    /// Every mirror's progress row says `promoted`.
    All,
    /// At least one does not.
    NotAll,
    /// The cloud is not reached.
    Unknown,
}

/// What the controller wishes. Effects are carried out in this order; those with an `op` answer
/// by an event, now or later. [`Effect::Fence`], [`Effect::Claim`] and [`Effect::Promote`] of one
/// site run one at a time: a newer one ends the one before, waits until its connections are
/// closed, and starts then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Read the lease record, the fence rows and the progress rows.
    ReadFacts {
        /// Comes back in [`Event::FactsRead`].
        op: OpId,
    },
    /// Connect to a server as we would for a client and ask `SELECT 1`, within `probe_timeout`.
    Probe {
        /// Comes back in [`Event::Probed`].
        op: OpId,
        /// The server.
        site: Site,
    },
    /// The suspicion was unfounded: sessions may pass on the 57P01 or 57P02 they withheld.
    Absolve {
        /// The server that lives.
        site: Site,
    },
    /// Let statements wait.
    Hold,
    /// Statements have waited too long: refuse them and new ones with 57P03.
    Refuse {
        /// For clients and the status.
        reason: String,
    },
    /// Let statements through; ends `Hold` and `Refuse`.
    LetGo,
    /// Open the gate until the deadline, or move the deadline.
    OpenGate(Held),
    /// Shut the gate at once.
    CloseGate,
    /// Cut all connections to a server's databases, whatever they are doing.
    DropLinks {
        /// The server.
        site: Site,
    },
    /// Tell the lease that this epoch was in use.
    EpochKnown {
        /// From a fence row.
        epoch: Epoch,
    },
    /// Take the lease.
    AcquireLease {
        /// Comes back in [`Event::LeaseHeld`] or [`Event::LeaseRefused`].
        op: OpId,
        /// For which site.
        site: Site,
        /// The phase to write.
        phase: Phase,
        /// Why, for the record.
        reason: String,
    },
    /// Give the lease back.
    ReleaseLease {
        /// Comes back in [`Event::LeaseReleased`] or [`Event::LeaseRefused`].
        op: OpId,
        /// Why, for the record.
        reason: String,
    },
    /// Fence all mirrored databases of a server.
    Fence {
        /// Comes back in [`Event::Fenced`].
        op: OpId,
        /// The server.
        site: Site,
        /// For the fence rows.
        epoch: Epoch,
    },
    /// Open the mirrored databases of the writer at our epoch: lift a fence of the same or an
    /// older epoch, raise the fence row. The gate opens after it.
    Claim {
        /// Comes back in [`Event::Claimed`].
        op: OpId,
        /// The writer.
        site: Site,
        /// Ours.
        epoch: Epoch,
    },
    /// Let all mirrors apply what they have, then stop them.
    FinishQueue {
        /// Comes back in [`Event::QueueFinished`].
        op: OpId,
        /// How far.
        upto: Upto,
    },
    /// Promote all mirrors at the epoch: progress, fence row, sequences, door. Where a promotion
    /// was done before, raise its epoch only.
    Promote {
        /// Comes back in [`Event::Promoted`].
        op: OpId,
        /// Ours.
        epoch: Epoch,
    },
    /// Replace the map: this site writes, under this epoch.
    SwapRoute {
        /// The writer.
        writer: Site,
        /// Its epoch.
        epoch: Epoch,
    },
    /// The writer's server died and is back: links to its former life are void.
    NextLife {
        /// The server.
        site: Site,
    },
    /// Try to connect to a server without pause, fence it within 100 ms of its accepting
    /// connections, each time, and report [`Event::Returned`]. Wished again, the epoch is replaced.
    WatchReturn {
        /// The server.
        site: Site,
        /// For the fence rows.
        epoch: Epoch,
    },
    /// End [`Effect::WatchReturn`]. No fence of it may be under way when the next effect starts.
    EndWatch {
        /// The server.
        site: Site,
    },
    /// Let the mirrors run at this epoch: raise it in their progress rows, start or restart them.
    StartMirrors {
        /// The epoch.
        epoch: Epoch,
    },
    /// Tell the operator.
    Answer {
        /// Of [`Event::PromoteRequested`].
        request: OpId,
        /// The new epoch, or why not.
        outcome: Result<Epoch, String>,
    },
    /// Write to the journal.
    Record {
        /// How urgent.
        level: Level,
        /// `failover.fact`.
        name: &'static str,
        /// Values and words.
        detail: String,
    },
}
