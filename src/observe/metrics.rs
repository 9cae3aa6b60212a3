//! Status and counters in the text format of OpenMetrics, for Prometheus.
//!
//! Everything is written from one snapshot when it is asked for, so no two values contradict each
//! other and nothing has to be kept up to date. Names begin with `cloud_mirror_`, end in their
//! base unit, and labels come from closed sets and from names in the configuration.

pub use super::metrics_pools::Pools;

use super::Counters;
use super::status::{MirrorStatus, Status};
use crate::base::Site;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;

/// The media type of [`render`]'s text.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every state a mirror can have, as the label `state`.
const STATES: &[&str] = &["Bootstrapping", "Following", "Degraded", "Disconnected", "Promoted", "Failed"];
/// Every role a server can have, as the label `role`.
const ROLES: &[&str] = &["writer", "mirror", "fenced", "unknown"];

/// All metrics as they are now.
pub fn render(status: &Status, counters: &Counters, pools: Pools) -> String {
    let mut registry = Registry::with_prefix("cloud_mirror");
    registry.register_collector(Box::new(Snapshot { status: status.clone(), counted: counters.list() }));
    registry.register_collector(Box::new(pools));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("a String takes everything");
    text
}

#[derive(Debug)]
struct Snapshot {
    status: Status,
    counted: Vec<(&'static str, u64)>,
}

type Labels<'a> = &'a [(&'static str, &'a str)];

impl Collector for Snapshot {
    fn encode(&self, mut to: DescriptorEncoder) -> Result<(), fmt::Error> {
        let status = &self.status;
        let to = &mut to;
        gauge(
            to,
            "build_info",
            "Always 1; the label says which version runs",
            &[("version", status.version)],
            1.0,
        )?;
        gauge(to, "clients", "Clients connected", &[], status.clients as f64)?;
        gauge(to, "servers", "Connections to servers", &[], status.servers as f64)?;
        gauge(
            to,
            "holding",
            "Whether clients are held until a switch is over",
            &[],
            flag(status.is_holding),
        )?;
        let writers = [Site::Local, Site::Cloud].map(|site| (site, flag(status.writer == Some(site))));
        family(
            to,
            "writer",
            "Whether writes go to this site",
            writers.iter().map(|(site, value)| (vec![("site", site.as_str())], *value)),
        )?;
        self.upstreams(to)?;
        self.mirrors(to)?;
        self.lease(to)?;
        for (name, value) in &self.counted {
            let metric = to.encode_descriptor(name, &help(name), None, MetricType::Counter)?;
            ConstCounter::new(*value).encode(metric)?;
        }
        Ok(())
    }
}

impl Snapshot {
    fn upstreams(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let all = &self.status.upstreams;
        family(
            to,
            "upstream_up",
            "Whether the last probe of the server was answered",
            all.iter().map(|up| (vec![("upstream", up.upstream.as_str())], flag(up.is_up))),
        )?;
        let roles = all.iter().flat_map(|up| {
            ROLES.iter().map(move |role| {
                (vec![("upstream", up.upstream.as_str()), ("role", *role)], flag(up.role == *role))
            })
        });
        family(to, "upstream_role", "Which role the server has", roles)?;
        family(
            to,
            "fenced",
            "Whether the server is fenced",
            all.iter().map(|up| (vec![("upstream", up.upstream.as_str())], flag(up.role == "fenced"))),
        )
    }

    fn mirrors(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let all = &self.status.mirrors;
        let states = all.iter().flat_map(|mirror| {
            let word = mirror.state.word();
            STATES.iter().map(move |state| {
                (vec![("mirror", mirror.mirror.as_str()), ("state", *state)], flag(word == *state))
            })
        });
        family(to, "status", "Which state the mirror is in", states)?;
        let mut each = |name: &str, help: &str, value: &dyn Fn(&MirrorStatus) -> Option<f64>| {
            let values = all
                .iter()
                .filter_map(|mirror| Some((vec![("mirror", mirror.mirror.as_str())], value(mirror)?)));
            family(to, name, help, values)
        };
        each(
            "replication_lag_seconds",
            "Age of the oldest change that is not applied; absent when unknown",
            &|m| m.lag_ms.map(|ms| ms as f64 / 1000.0),
        )?;
        each(
            "replication_lag_bytes",
            "Bytes of the source's log not yet applied; absent when unknown",
            &|m| m.lag_bytes.map(|bytes| bytes as f64),
        )?;
        each("applied_lsn", "Position in the source's log up to which everything is applied", &|m| {
            m.last_applied.map(|lsn| lsn.0 as f64)
        })?;
        each("promotable", "Whether the mirror may become the writer", &|m| Some(flag(m.is_promotable)))?;
        each("bootstrap_done_bytes", "Bytes of the first copy that are done", &|m| {
            Some(m.bytes_done as f64)
        })?;
        each("bootstrap_size_bytes", "Bytes of the first copy in all", &|m| Some(m.bytes_total as f64))?;
        each("warnings", "Warnings in the mirror's status", &|m| Some(m.warnings.len() as f64))?;
        let mut counted = |name: &str, help: &str, value: fn(&MirrorStatus) -> u64| {
            let mut metric = to.encode_descriptor(name, help, None, MetricType::Counter)?;
            for mirror in all {
                let labels = [("mirror", mirror.mirror.as_str())];
                ConstCounter::new(value(mirror)).encode(metric.encode_family(&labels)?)?;
            }
            Ok::<(), fmt::Error>(())
        };
        counted("rows_applied", "Row changes applied since the start", |m| m.rows_applied)?;
        counted("transactions_applied", "Source transactions applied since the start", |m| {
            m.transactions_applied
        })?;
        counted("rows_not_followed", "Row changes in tables without identity", |m| m.rows_not_followed)
    }

    fn lease(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(lease) = &self.status.lease else { return Ok(()) };
        gauge(to, "lease_epoch", "The present epoch", &[], lease.epoch.0 as f64)?;
        gauge(to, "lease_held", "Whether this process may acknowledge writes", &[], flag(lease.is_held))?;
        if let Some(ms) = lease.deadline_ms {
            gauge(
                to,
                "lease_expiry_seconds",
                "Time left unless the lease is renewed",
                &[],
                ms as f64 / 1000.0,
            )?;
        }
        gauge(to, "lease_ttl_seconds", "How long a renewal lasts", &[], lease.ttl_ms as f64 / 1000.0)?;
        let help = "Whether the last attempt to read or write the lease failed";
        gauge(to, "lease_failing", help, &[], flag(lease.problem.is_some()))
    }
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn gauge(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    labels: Labels<'_>,
    value: f64,
) -> fmt::Result {
    let mut metric = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
    match labels {
        [] => ConstGauge::new(value).encode(metric),
        labels => one(&mut metric, labels, value),
    }
}

fn family<'a>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (Vec<(&'static str, &'a str)>, f64)>,
) -> fmt::Result {
    let mut metric = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        one(&mut metric, &labels, value)?;
    }
    Ok(())
}

fn one(metric: &mut MetricEncoder<'_>, labels: Labels<'_>, value: f64) -> fmt::Result {
    ConstGauge::new(value).encode(metric.encode_family(&labels)?)
}

/// What a counter counts. One that is not listed is called by its name, so that a new counter
/// needs no change here to be seen; the test keeps the list whole.
fn help(name: &str) -> String {
    let known = HELP.iter().find(|(counter, _)| *counter == name);
    known.map_or_else(|| name.replace('_', " "), |(_, help)| (*help).to_owned())
}

const HELP: &[(&str, &str)] = &[
    ("connections_accepted", "Connections accepted, cancel requests included"),
    ("logins_failed", "Log-ins refused"),
    ("clients_refused", "Log-ins refused because a limit of clients was reached"),
    ("clients_accepted", "Clients welcomed"),
    ("clients_left", "Clients that have left or were sent away"),
    ("cancels_forwarded", "Cancel requests passed on"),
    ("holds", "Statements and log-ins held because there was no writer"),
    ("sessions_moved", "Sessions that went on with another server, unseen by their clients"),
    ("sessions_ended", "Sessions ended with 57P01 because their state could not move"),
    ("transactions_aborted", "Transactions refused with 40001 after their server was lost"),
    ("outcomes_unknown", "Sessions ended with 08007: a statement was in flight when its server was lost"),
    ("statements_refused", "Statements and log-ins refused with 57P03"),
    (
        "links_prepared",
        "Connections on which settings had to be made, or that had to be cleaned, before a statement",
    ),
    ("links_probed", "Times a server was asked what a session has left on its connection"),
    ("states_given_up", "Times a client was warned that something does not outlive its transaction"),
    ("pins_reported", "Times a client was reported that was silent while something held a connection for it"),
    ("commands_answered", "Commands of cloud-mirror answered"),
    ("failovers", "Times the cloud was made the writer because the local server was gone"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Moment;
    use crate::observe::clients::{ClientOrigin, ClientState, Clients};
    use crate::observe::count;
    use crate::observe::status::sample;
    use crate::observe::traffic::{Carrier, Traffic};
    use std::time::Duration;

    #[test]
    fn every_counter_says_what_it_counts() {
        for (name, _) in Counters::default().list() {
            assert!(HELP.iter().any(|(known, _)| *known == name), "{name} has no help");
        }
    }

    fn pools() -> Pools {
        let (clients, traffic) = (Clients::default(), Traffic::default());
        let waiting = clients.enter(ClientOrigin::of_test());
        waiting.facts().set_state(ClientState::Waiting, Moment(1_000_000_000));
        let meter = traffic.meter(b"shop", "app", Carrier::Data(0));
        meter.queries.add(2);
        meter.query_us.add(30_250);
        meter.query.record(Duration::from_micros(250));
        meter.query.record(Duration::from_millis(30));
        meter.checkout.record_shared(Duration::from_millis(3));
        let now = Moment(3_500_000_000);
        Pools { clients: clients.list(), links: Vec::new(), traffic: traffic.list(), now }
    }

    #[test]
    fn a_snapshot_becomes_metrics() {
        let counters = Counters::default();
        count(&counters.failovers);
        let text = render(&sample(), &counters, pools());
        let expected = include_str!("metrics_sample.txt");
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/observe/metrics_sample.txt");
            std::fs::write(path, &text).unwrap();
            return;
        }
        assert_eq!(text, expected);
    }
}
