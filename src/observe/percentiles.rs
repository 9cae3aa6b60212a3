//! How long things took in each pool, in the words of `/status`.
//!
//! The meters are added up when somebody asks, never by those who carry.

use super::histogram::Latencies;
use super::metrics::Pools;
use super::status::Status;
use serde::Serialize;

/// The document of `/status`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Document {
    /// What SHOW and the CLI show.
    #[serde(flatten)]
    pub status: Status,
    /// What has passed since the start, by database and user.
    pub pools: Vec<PoolStatus>,
}

/// What has passed through one pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolStatus {
    /// The database, as clients name it.
    pub database: String,
    /// The user, as clients name it.
    pub user: String,
    /// Statements.
    pub queries: u64,
    /// Transactions, also those of a single statement.
    pub transactions: u64,
    /// From a statement to its answer.
    pub query: Percentiles,
    /// From the first statement of a transaction to its end.
    pub transaction: Percentiles,
    /// How long clients waited for a connection.
    pub client_wait: Percentiles,
    /// How long it took to find a connection or to open one.
    pub checkout: Percentiles,
}

/// Durations that a share of all did not exceed, in microseconds and to a sixteenth; `None` of nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// How many there were.
    pub count: u64,
    /// One half.
    pub p50_us: Option<u64>,
    /// 90 of 100.
    pub p90_us: Option<u64>,
    /// 99 of 100.
    pub p99_us: Option<u64>,
    /// 999 of 1000.
    pub p999_us: Option<u64>,
    /// All.
    pub max_us: Option<u64>,
}

impl Percentiles {
    fn of(latencies: &Latencies) -> Self {
        let share = |share| {
            let found = latencies.quantile(share)?;
            Some(u64::try_from(found.as_micros()).unwrap_or(u64::MAX))
        };
        Self {
            count: latencies.count(),
            p50_us: share(0.5),
            p90_us: share(0.9),
            p99_us: share(0.99),
            p999_us: share(0.999),
            max_us: share(1.0),
        }
    }
}

/// The whole document.
pub fn document(status: Status, pools: &Pools) -> Document {
    let pools = pools.traffic.iter().map(|(name, traffic)| PoolStatus {
        database: String::from_utf8_lossy(&name.database).into_owned(),
        user: name.user.clone(),
        queries: traffic.counts.queries,
        transactions: traffic.counts.transactions,
        query: Percentiles::of(&traffic.query),
        transaction: Percentiles::of(&traffic.transaction),
        client_wait: Percentiles::of(&traffic.wait),
        checkout: Percentiles::of(&traffic.checkout),
    });
    Document { status, pools: pools.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::status::sample;
    use crate::observe::traffic::{Carrier, Traffic};
    use std::time::Duration;

    #[test]
    fn percentiles_stand_beside_the_status() {
        let traffic = Traffic::default();
        let meter = traffic.meter(b"shop", "app", Carrier::Data(0));
        for ms in 1..=1000 {
            meter.queries.add(1);
            meter.query.record(Duration::from_millis(ms));
        }
        let pools = Pools { traffic: traffic.list(), ..Pools::default() };
        let document = serde_json::to_value(document(sample(), &pools)).unwrap();
        assert_eq!(document["state"], "steady");
        let pool = &document["pools"][0];
        assert_eq!((&pool["database"], &pool["user"]), (&"shop".into(), &"app".into()));
        assert_eq!((&pool["queries"], &pool["query"]["count"]), (&1000.into(), &1000.into()));
        for (name, ms) in
            [("p50_us", 500), ("p90_us", 900), ("p99_us", 990), ("p999_us", 999), ("max_us", 1000)]
        {
            let found = pool["query"][name].as_u64().unwrap();
            assert!((ms * 1000..=ms * 1070).contains(&found), "{name}: {found}");
        }
        assert!(pool["client_wait"]["p50_us"].is_null());
    }
}
