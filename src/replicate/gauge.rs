//! Positions and lag of a running stream. Pure, but for the lock around it.

use crate::base::{Lsn, Moment};
use crate::wire::pgoutput::PgTime;
use std::collections::VecDeque;
use std::time::Duration;

/// A position of the source that was not reached for so long counts as lag, even though nothing
/// of it has been sent yet: the walsender is still decoding.
const UNSEEN_AFTER: Duration = Duration::from_secs(3);
/// Positions of the source kept for that.
const SAMPLES_MAX: usize = 120;

/// What is known of a stream at one moment. The positions are the source's.
#[derive(Debug, Default)]
pub struct Gauge {
    received: Lsn,
    applied: Lsn,
    flushed: Lsn,
    /// Received and not applied: position of the last commit of a batch, and the time of its first.
    pending: VecDeque<(Lsn, PgTime)>,
    /// The source's clock, and when it said so.
    clock: Option<(PgTime, Moment)>,
    samples: VecDeque<(Lsn, Moment)>,
    rows: u64,
    transactions: u64,
}

/// The three positions a walsender wants to hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Positions {
    /// Received.
    pub written: Lsn,
    /// Durable on the target.
    pub flushed: Lsn,
    /// Visible on the target.
    pub applied: Lsn,
}

impl Gauge {
    /// A stream that starts where `applied` is already durable on the target.
    pub fn new(applied: Lsn) -> Gauge {
        Gauge { received: applied, applied, flushed: applied, ..Gauge::default() }
    }

    /// What to tell the walsender.
    pub fn positions(&self) -> Positions {
        Positions { written: self.received, flushed: self.flushed, applied: self.applied }
    }

    /// A piece of the stream came, up to `end`, sent at `sent_at` by the source's clock.
    pub fn on_data(&mut self, end: Lsn, sent_at: PgTime, now: Moment) {
        self.received = self.received.max(end);
        self.clock = Some((sent_at, now));
    }

    /// A keepalive came: nothing is left up to `end`. Where all that came is durable too, that
    /// position may be forgotten by the source; else it would keep the log of tables and
    /// databases that are not mirrored. `is_between` says that no transaction is half received.
    pub fn on_keepalive(&mut self, end: Lsn, is_between: bool, sent_at: PgTime, now: Moment) {
        self.on_data(end, sent_at, now);
        if is_between && self.pending.is_empty() && self.applied == self.flushed {
            self.applied = self.applied.max(end);
            self.flushed = self.applied;
        }
        self.forget_samples();
    }

    /// A batch was handed to the applier: it commits up to `commit`, its first commit was at
    /// `committed_at`.
    pub fn on_queued(&mut self, commit: Lsn, committed_at: PgTime) {
        if self.pending.back().is_none_or(|(last, _)| *last != commit) {
            self.pending.push_back((commit, committed_at));
        }
    }

    /// Everything up to `end` is visible on the target.
    pub fn on_applied(&mut self, end: Lsn, rows: u64, transactions: u64) {
        self.applied = self.applied.max(end);
        self.rows += rows;
        self.transactions += transactions;
        while self.pending.front().is_some_and(|(commit, _)| *commit < end) {
            self.pending.pop_front();
        }
        self.forget_samples();
    }

    /// Everything applied so far is durable on the target.
    pub fn on_flushed(&mut self) {
        self.flushed = self.applied;
    }

    /// The source's log was at `at` just now.
    pub fn on_source_position(&mut self, at: Lsn, now: Moment) {
        if at > self.applied && self.samples.back().is_none_or(|(last, _)| *last < at) {
            if self.samples.len() == SAMPLES_MAX {
                // The oldest says how long it lasts; the one behind it is the least missed.
                self.samples.remove(1);
            }
            self.samples.push_back((at, now));
        }
    }

    fn forget_samples(&mut self) {
        while self.samples.front().is_some_and(|(at, _)| *at <= self.applied) {
            self.samples.pop_front();
        }
    }

    /// Age of the oldest change that is not applied, by the source's clock; 0 when there is none,
    /// `None` before the source has said its time.
    pub fn lag_ms(&self, now: Moment) -> Option<u64> {
        let (clock, heard) = self.clock?;
        let since = now.since(heard);
        let source_now = PgTime(clock.0.saturating_add(i64::try_from(since.as_micros()).unwrap_or(i64::MAX)));
        let pending = self.pending.front().map_or(0, |(_, at)| source_now.ms_since(*at));
        let unseen = self.samples.front().map_or(Duration::ZERO, |(_, at)| now.since(*at));
        let unseen = if unseen >= UNSEEN_AFTER { unseen.as_millis() as u64 } else { 0 };
        Some(pending.max(unseen))
    }

    /// Bytes of the source's log that are known and not applied.
    pub fn lag_bytes(&self) -> u64 {
        let known = self.samples.back().map_or(self.received, |(at, _)| self.received.max(*at));
        known.bytes_since(self.applied).unwrap_or(0)
    }

    /// Whether everything up to `target` is applied.
    pub fn has_reached(&self, target: Lsn) -> bool {
        self.applied >= target
    }

    /// Whether it has got past `start`.
    pub fn has_moved_from(&self, start: Lsn) -> bool {
        self.applied > start
    }

    /// Received and visible rows and transactions, for the status.
    pub fn counts(&self) -> (u64, u64) {
        (self.rows, self.transactions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment(ms * 1_000_000)
    }

    #[test]
    fn lag_is_zero_when_nothing_waits_and_counts_by_the_sources_clock() {
        let mut g = Gauge::new(Lsn(10));
        assert_eq!(g.lag_ms(at(0)), None);
        g.on_keepalive(Lsn(20), true, PgTime(1_000_000), at(0));
        assert_eq!(g.lag_ms(at(60_000)), Some(0));
        assert_eq!(g.positions().flushed, Lsn(20));
        g.on_data(Lsn(30), PgTime(2_000_000), at(1000));
        g.on_queued(Lsn(25), PgTime(1_990_000));
        assert_eq!(g.lag_ms(at(1500)), Some(510));
        g.on_applied(Lsn(30), 1, 1);
        assert_eq!(g.lag_ms(at(1500)), Some(0));
        assert_eq!(g.positions(), Positions { written: Lsn(30), flushed: Lsn(20), applied: Lsn(30) });
    }

    #[test]
    fn a_keepalive_is_acknowledged_only_when_all_before_it_is_durable() {
        let mut g = Gauge::new(Lsn(10));
        g.on_queued(Lsn(15), PgTime(0));
        g.on_keepalive(Lsn(20), true, PgTime(0), at(0));
        assert_eq!(g.positions().flushed, Lsn(10));
        g.on_applied(Lsn(16), 1, 1);
        g.on_keepalive(Lsn(21), true, PgTime(0), at(0));
        assert_eq!(g.positions().flushed, Lsn(10));
        g.on_flushed();
        g.on_keepalive(Lsn(22), false, PgTime(0), at(0));
        assert_eq!(g.positions().flushed, Lsn(16));
        g.on_keepalive(Lsn(22), true, PgTime(0), at(0));
        assert_eq!(g.positions().flushed, Lsn(22));
    }

    #[test]
    fn a_source_that_decodes_for_long_shows_as_lag_though_nothing_came() {
        let mut g = Gauge::new(Lsn(10));
        g.on_keepalive(Lsn(10), true, PgTime(0), at(0));
        g.on_source_position(Lsn(50), at(1000));
        g.on_source_position(Lsn(90), at(2000));
        assert_eq!(g.lag_ms(at(2000)), Some(0));
        assert_eq!(g.lag_ms(at(9000)), Some(8000));
        assert_eq!(g.lag_bytes(), 80);
        g.on_keepalive(Lsn(60), true, PgTime(0), at(9000));
        assert_eq!(g.lag_ms(at(9000)), Some(7000));
        g.on_keepalive(Lsn(90), true, PgTime(0), at(9000));
        assert_eq!((g.lag_ms(at(9000)), g.lag_bytes()), (Some(0), 0));
    }
}
