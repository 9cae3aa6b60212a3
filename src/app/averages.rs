//! What was counted some time ago, for averages (PgBouncer's `stats_period`).

use crate::base::Moment;
use crate::observe::pooler::{Counts, DatabaseCounts};
use crate::observe::traffic::Traffic;
use crate::sys;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

/// Between two looks. Averages are over the last one to two of these.
pub const PERIOD: Duration = Duration::from_secs(60);

/// The counts of the last two looks.
#[derive(Debug)]
pub struct Averages(Mutex<[Look; 2]>);

#[derive(Debug, Clone)]
struct Look {
    at: Moment,
    counts: BTreeMap<Vec<u8>, Counts>,
}

impl Default for Averages {
    /// Before the first look, averages are over the time since the start.
    fn default() -> Self {
        let start = Look { at: sys::now(), counts: BTreeMap::new() };
        Self(Mutex::new([start.clone(), start]))
    }
}

impl Averages {
    /// Takes a look; call it every [`PERIOD`].
    pub fn look(&self, traffic: &Traffic) {
        let look = Look { at: sys::now(), counts: traffic.by_database() };
        let mut looks = self.0.lock().expect("no holder of the looks panics");
        looks.swap(0, 1);
        looks[1] = look;
    }

    /// What was counted for each database, and what it was a while ago.
    pub fn counts(&self, traffic: &Traffic) -> Vec<DatabaseCounts> {
        let looks = self.0.lock().expect("no holder of the looks panics");
        let (before, period) = (&looks[0].counts, sys::now().since(looks[0].at));
        let databases = traffic.by_database().into_iter();
        databases
            .map(|(database, total)| {
                let before = before.get(&database).copied().unwrap_or_default();
                DatabaseCounts { database, total, before, period }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::traffic::Carrier;

    #[test]
    fn averages_begin_at_the_look_before_the_last() {
        let (averages, traffic) = (Averages::default(), Traffic::default());
        let meter = traffic.meter(b"shop", "app", Carrier::Data(0));
        let seen = || {
            let [shop] = averages.counts(&traffic).try_into().unwrap();
            (shop.before.queries, shop.total.queries)
        };
        meter.queries.add(1);
        assert_eq!(seen(), (0, 1));
        averages.look(&traffic);
        meter.queries.add(1);
        assert_eq!(seen(), (0, 2));
        averages.look(&traffic);
        meter.queries.add(1);
        assert_eq!(seen(), (1, 3));
    }
}
