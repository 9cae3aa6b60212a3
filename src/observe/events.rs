//! The last state changes, for `SHOW EVENTS` and `/status`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// How many events are kept.
const KEPT: usize = 512;

/// How urgent an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// A change of state.
    Info,
    /// Went on despite a surprise.
    Warn,
    /// Somebody should look.
    Error,
}

/// One thing that happened: `room.fact` in the past tense and its values.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Event {
    /// Counts from 1; a gap at the start of a listing means that older ones were dropped.
    pub number: u64,
    /// Wall clock, for display only.
    #[serde(serialize_with = "super::time::as_text")]
    pub at: SystemTime,
    /// How urgent.
    pub level: Level,
    /// `room.fact`, for example `failover.promoted`.
    pub name: &'static str,
    /// `key=value` pairs and words for a person.
    pub detail: String,
}

/// The journal every room writes to. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Events(Arc<Mutex<Journal>>);

#[derive(Debug, Default)]
struct Journal {
    count: u64,
    last: VecDeque<Event>,
}

impl Events {
    /// Keeps an event and logs it once (`tracing`, field `event`).
    pub fn record(&self, level: Level, name: &'static str, detail: impl Into<String>) {
        let detail = detail.into();
        match level {
            Level::Info => tracing::info!(event = name, "{detail}"),
            Level::Warn => tracing::warn!(event = name, "{detail}"),
            Level::Error => tracing::error!(event = name, "{detail}"),
        }
        let mut journal = self.0.lock().expect("no holder of the journal panics");
        journal.count += 1;
        let number = journal.count;
        if journal.last.len() == KEPT {
            journal.last.pop_front();
        }
        journal.last.push_back(Event { number, at: SystemTime::now(), level, name, detail });
    }

    /// The kept events, oldest first.
    pub fn list(&self) -> Vec<Event> {
        self.0.lock().expect("no holder of the journal panics").last.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_drops_the_oldest_and_keeps_counting() {
        let events = Events::default();
        for n in 0..KEPT + 3 {
            events.record(Level::Info, "test.counted", format!("n={n}"));
        }
        let list = events.list();
        assert_eq!(list.len(), KEPT);
        assert_eq!(list[0].number, 4);
        assert_eq!(list.last().unwrap().detail, format!("n={}", KEPT + 2));
    }
}
