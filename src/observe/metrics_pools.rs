//! The pools' part of the metrics: who is connected, what was counted, how long it took.

use super::clients::{ClientFacts, ClientState};
use super::histogram::Latencies;
use super::links::{LinkFacts, LinkState};
use super::pooler::Counts;
use super::traffic::{PoolName, PoolTraffic};
use crate::base::Moment;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Ends of the histograms' buckets.
const ENDS: [Duration; 15] = [
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];

/// See the module.
#[derive(Debug, Default)]
pub struct Pools {
    /// Who is connected.
    pub clients: Vec<Arc<ClientFacts>>,
    /// Links to servers.
    pub links: Vec<Arc<LinkFacts>>,
    /// What was counted for each pool since the start.
    pub traffic: Vec<(PoolName, PoolTraffic)>,
    /// When this was seen.
    pub now: Moment,
}

type Counted<'a> = (&'a str, &'a str, fn(&Counts) -> u64);
type Timed<'a> = (&'a str, &'a str, fn(&PoolTraffic) -> &Latencies, Option<fn(&Counts) -> Duration>);

const COUNTED: [Counted<'_>; 9] = [
    ("pool_server_assignments", "Times that a client was given a connection", |c| c.server_assignments),
    ("pool_transactions", "Transactions, also those of a single statement", |c| c.transactions),
    ("pool_queries", "Statements", |c| c.queries),
    ("pool_received_bytes", "Bytes from clients", |c| c.received_bytes),
    ("pool_sent_bytes", "Bytes from servers", |c| c.sent_bytes),
    ("pool_client_parses", "Statements prepared by clients", |c| c.client_parses),
    ("pool_server_parses", "Statements prepared on servers", |c| c.server_parses),
    ("pool_binds", "Prepared statements bound", |c| c.binds),
    ("pool_client_logins", "Clients that have logged in", |c| c.client_logins),
];

const TIMED: [Timed<'_>; 4] = [
    ("query_duration_seconds", "From a statement to its answer", |t| &t.query, Some(|c| c.query_time)),
    (
        "transaction_duration_seconds",
        "From the first statement of a transaction to its end",
        |t| &t.transaction,
        Some(|c| c.transaction_time),
    ),
    ("client_wait_seconds", "How long clients waited for a connection", |t| &t.wait, Some(|c| c.wait_time)),
    ("checkout_seconds", "How long it took to find a connection or to open one", |t| &t.checkout, None),
];

/// Every state of a client, as the label `state`.
const CLIENT_STATES: [(ClientState, &str); 4] = [
    (ClientState::Idle, "idle"),
    (ClientState::Running, "running"),
    (ClientState::InTransaction, "in_transaction"),
    (ClientState::Waiting, "waiting"),
];
/// Every state of a link, as the label `state`.
const LINK_STATES: [(LinkState, &str); 4] = [
    (LinkState::Idle, "idle"),
    (LinkState::Active, "active"),
    (LinkState::Tested, "tested"),
    (LinkState::Ending, "ending"),
];

type PoolKey = (String, String);

impl Pools {
    fn gauge(
        to: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        values: impl Iterator<Item = (PoolKey, Option<&'static str>, f64)>,
    ) -> fmt::Result {
        let mut metric = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for ((database, user), state, value) in values {
            let mut labels = vec![("database", database.as_str()), ("user", user.as_str())];
            labels.extend(state.map(|state| ("state", state)));
            ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn clients(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut states: BTreeMap<PoolKey, [u32; CLIENT_STATES.len()]> = BTreeMap::new();
        let mut waits: BTreeMap<PoolKey, Duration> = BTreeMap::new();
        let mut pinned: BTreeMap<PoolKey, u32> = BTreeMap::new();
        for client in &self.clients {
            let origin = &client.origin;
            let pool = (text(&origin.database), origin.user.to_string());
            let state = client.state();
            let place = CLIENT_STATES.iter().position(|(known, _)| *known == state).expect("all are listed");
            states.entry(pool.clone()).or_default()[place] += 1;
            *pinned.entry(pool.clone()).or_default() +=
                u32::from(client.idle_pins() & client.reported_pins() != 0);
            let wait = waits.entry(pool).or_default();
            if state == ClientState::Waiting {
                *wait = (*wait).max(self.now.since(client.since()));
            }
        }
        let counts = states.iter().flat_map(|(pool, counts)| {
            let each = CLIENT_STATES.iter().zip(counts);
            each.map(move |((_, word), count)| (pool.clone(), Some(*word), f64::from(*count)))
        });
        Self::gauge(to, ("pool_clients", "Clients by what they do"), counts)?;
        let pinned = pinned.into_iter().map(|(pool, count)| (pool, None, f64::from(count)));
        let help = "Clients that are silent while something holds a connection for them, and were reported";
        Self::gauge(to, ("pool_pinned_idle_clients", help), pinned)?;
        let waits = waits.into_iter().map(|(pool, wait)| (pool, None, wait.as_secs_f64()));
        let help = "How long the client that waits longest for a connection has waited";
        Self::gauge(to, ("pool_client_maxwait_seconds", help), waits)
    }

    fn links(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut states: BTreeMap<PoolKey, [u32; LINK_STATES.len()]> = BTreeMap::new();
        for link in &self.links {
            let pool = (text(&link.origin.database), link.origin.user.clone());
            let state = link.state();
            let place = LINK_STATES.iter().position(|(known, _)| *known == state).expect("all are listed");
            states.entry(pool).or_default()[place] += 1;
        }
        let counts = states.iter().flat_map(|(pool, counts)| {
            let each = LINK_STATES.iter().zip(counts);
            each.map(move |((_, word), count)| (pool.clone(), Some(*word), f64::from(*count)))
        });
        Self::gauge(to, ("pool_servers", "Connections to servers by what they do"), counts)
    }
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

impl Collector for Pools {
    fn encode(&self, mut to: DescriptorEncoder) -> Result<(), fmt::Error> {
        let to = &mut to;
        self.clients(to)?;
        self.links(to)?;
        let names = self.traffic.iter().map(|(name, traffic)| (text(&name.database), &name.user, traffic));
        let pools: Vec<_> = names.collect();
        for (name, help, value) in COUNTED {
            let mut metric = to.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (database, user, traffic) in &pools {
                let labels = [("database", database.as_str()), ("user", user.as_str())];
                ConstCounter::new(value(&traffic.counts)).encode(metric.encode_family(&labels)?)?;
            }
        }
        for (name, help, latencies, sum) in TIMED {
            let mut metric = to.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for (database, user, traffic) in &pools {
                let labels = [("database", database.as_str()), ("user", user.as_str())];
                let latencies = latencies(traffic);
                let (buckets, count) = buckets(latencies);
                let sum = sum.map_or_else(|| latencies.sum(), |sum| sum(&traffic.counts)).as_secs_f64();
                metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}

/// Counts of each bucket by itself, and of all.
fn buckets(latencies: &Latencies) -> (Vec<(f64, u64)>, u64) {
    let (count, mut below) = (latencies.count(), 0);
    let mut buckets = Vec::with_capacity(ENDS.len() + 1);
    for end in ENDS {
        let within = latencies.within(end);
        buckets.push((end.as_secs_f64(), within - below));
        below = within;
    }
    buckets.push((f64::INFINITY, count - below));
    (buckets, count)
}
