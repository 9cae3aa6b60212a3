//! What the others tell: events, metrics and the status document.
//!
//! Rooms publish here; this room reaches into none of them and decides nothing. [`status`] holds
//! the words in which the state is reported (SHOW, `/status`, `cloud-mirror status`); [`events`]
//! keeps the last state changes for `SHOW EVENTS`; [`counters`] counts what happens to sessions;
//! [`clients`] and [`links`] list who is connected; [`metrics`] writes status and counters for Prometheus,
//! [`percentiles`] adds to `/status` how long things took, [`logs`] begins the log. [`Facts`] is where the surfaces (console, HTTP) ask for all of it; `app`
//! answers.

pub mod clients;
pub mod counters;
pub mod events;
pub mod histogram;
pub mod links;
pub mod logs;
pub mod metrics;
mod metrics_pools;
pub mod percentiles;
pub mod pooler;
pub mod status;
pub mod time;
pub mod traffic;

pub use counters::{Counters, count};

/// What the surfaces ask the running process. Answers come from memory, at once.
pub trait Facts: Send + Sync + 'static {
    /// The state, as of now.
    fn status(&self) -> status::Status;

    /// The last changes of state, oldest first.
    fn events(&self) -> Vec<events::Event>;

    /// What was counted since the start.
    fn counters(&self) -> std::sync::Arc<Counters>;

    /// The pooler, for the console's tables.
    fn pooler(&self) -> pooler::Pooler;

    /// The pools, as the metrics show them.
    fn pools(&self) -> metrics::Pools;

    /// Whether a write may be acknowledged at this moment: the gate is open and its deadline,
    /// compared with the clock now, has not passed.
    fn may_write_now(&self) -> bool;

    /// Whether new clients are let in: everything is up and no stop has begun.
    fn accepts_clients(&self) -> bool;
}
