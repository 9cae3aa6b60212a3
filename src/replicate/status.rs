//! What is published of a mirror, put together from what its parts know. Pure.

use super::gauge::Gauge;
use super::source::Facts;
use super::spec::MirrorSpec;
use crate::base::Moment;
use crate::observe::status::{MirrorState, MirrorStatus};

/// From this lag on an asynchronous mirror counts as degraded.
pub const DEGRADED_AFTER_MS: u64 = 5_000;

/// The status of a mirror of which nothing is known yet.
pub fn unknown(spec: &MirrorSpec) -> MirrorStatus {
    MirrorStatus {
        mirror: spec.name.clone(),
        mode: "async",
        state: MirrorState::Disconnected { reason: "not connected yet".to_owned() },
        is_promotable: false,
        source_cluster: spec.source.site,
        source_database: spec.source.database.clone(),
        target_database: spec.target.database.clone(),
        last_applied: None,
        flushed: None,
        received: None,
        lag_ms: None,
        lag_bytes: None,
        bytes_done: 0,
        bytes_total: 0,
        rows_applied: 0,
        transactions_applied: 0,
        rows_not_followed: 0,
        warnings: Vec::new(),
    }
}

/// What the streaming parts know at one moment.
pub struct Streaming<'a> {
    /// Positions and lag.
    pub gauge: &'a Gauge,
    /// What the source said of itself.
    pub facts: &'a Facts,
    /// Rows of tables without identity that were changed since the bootstrap.
    pub rows_not_followed: u64,
    /// Counts of the streams before this one.
    pub earlier: (u64, u64),
    /// Warnings that stay.
    pub standing: &'a [String],
}

/// Writes the state of a running stream into the status.
pub fn publish(status: &mut MirrorStatus, streaming: &Streaming<'_>, now: Moment) {
    let gauge = streaming.gauge;
    let positions = gauge.positions();
    let lag_ms = gauge.lag_ms(now);
    status.state = match lag_ms {
        Some(lag_ms) if lag_ms > DEGRADED_AFTER_MS => MirrorState::Degraded { lag_ms },
        // The state before the first catch-up: changes arrive, but it may not be promoted yet.
        _ if !status.is_promotable => MirrorState::Degraded { lag_ms: lag_ms.unwrap_or(0) },
        _ => MirrorState::Following,
    };
    status.last_applied = Some(positions.applied);
    status.flushed = Some(positions.flushed);
    status.received = Some(positions.written);
    status.lag_ms = lag_ms;
    status.lag_bytes = Some(gauge.lag_bytes());
    let (rows, transactions) = gauge.counts();
    status.rows_applied = streaming.earlier.0 + rows;
    status.transactions_applied = streaming.earlier.1 + transactions;
    status.rows_not_followed = streaming.rows_not_followed;
    status.warnings = warnings(streaming.facts, streaming.standing);
}

fn warnings(facts: &Facts, standing: &[String]) -> Vec<String> {
    let mut warnings = standing.to_vec();
    if !facts.inserts_only.is_empty() {
        warnings.push(format!(
            "updates and deletes are not followed in tables without a primary key or replica identity: {}",
            facts.inserts_only.join(", ")
        ));
    }
    warnings.extend(facts.slot.clone());
    if !facts.holding_up.is_empty() {
        warnings.push(format!(
            "the slot keeps {} MiB of the source's log back: {}",
            facts.kept_bytes >> 20,
            facts.holding_up.join("; ")
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Lsn;
    use crate::wire::pgoutput::PgTime;

    #[test]
    fn a_mirror_that_never_caught_up_is_not_following() {
        let spec = super::super::spec::fixture();
        let mut status = unknown(&spec);
        let mut gauge = Gauge::new(Lsn(1));
        gauge.on_keepalive(Lsn(2), true, PgTime(0), Moment(0));
        let facts = Facts::default();
        let streaming =
            Streaming { gauge: &gauge, facts: &facts, rows_not_followed: 0, earlier: (1, 2), standing: &[] };
        publish(&mut status, &streaming, Moment(0));
        assert_eq!(status.state, MirrorState::Degraded { lag_ms: 0 });
        status.is_promotable = true;
        publish(&mut status, &streaming, Moment(0));
        assert_eq!(status.state, MirrorState::Following);
        assert_eq!((status.rows_applied, status.transactions_applied), (1, 2));
    }

    #[test]
    fn five_seconds_late_is_degraded() {
        let spec = super::super::spec::fixture();
        let mut status = unknown(&spec);
        status.is_promotable = true;
        let mut gauge = Gauge::new(Lsn(1));
        gauge.on_data(Lsn(5), PgTime(6_000_000), Moment(0));
        gauge.on_queued(Lsn(4), PgTime(0));
        let facts = Facts { inserts_only: vec!["public.log".into()], ..Facts::default() };
        let streaming =
            Streaming { gauge: &gauge, facts: &facts, rows_not_followed: 3, earlier: (0, 0), standing: &[] };
        publish(&mut status, &streaming, Moment(0));
        assert_eq!(status.state, MirrorState::Degraded { lag_ms: 6000 });
        assert!(status.warnings.iter().any(|w| w.contains("public.log")), "{:?}", status.warnings);
    }
}
