//! The map that everybody reads.

use super::{Gate, RouteMap};
use crate::base::{Epoch, Site};
use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// The current [`RouteMap`], its version and the gate. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Routes(Arc<Table>);

#[derive(Debug)]
struct Table {
    map: ArcSwap<RouteMap>,
    version: AtomicU64,
    gate: Gate,
    changing: Mutex<()>,
    changes: watch::Sender<u64>,
}

impl Routes {
    /// Starts with `map` and a shut gate.
    pub fn new(map: RouteMap) -> Self {
        let version = map.version;
        Self(Arc::new(Table {
            map: ArcSwap::from_pointee(map),
            version: AtomicU64::new(version),
            gate: Gate::closed(),
            changing: Mutex::new(()),
            changes: watch::channel(version).0,
        }))
    }

    /// Version of the map: one atomic load, for every dispatch.
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    /// The map as it is now.
    pub fn map(&self) -> Arc<RouteMap> {
        self.0.map.load_full()
    }

    /// The gate.
    pub fn gate(&self) -> &Gate {
        &self.0.gate
    }

    /// Wakes at every change of the map.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Waits until the map leads elsewhere than to this site, in this epoch and life: links of that
    /// kind are void then.
    pub async fn leave(&self, way: (Site, Epoch, u64)) {
        let mut changes = self.changes();
        // The sender lives as long as we do.
        let _ = changes.wait_for(|_| self.map().way() != way).await;
    }

    /// Replaces the map by what `change` makes of it, under the next version.
    pub fn change(&self, change: impl FnOnce(&mut RouteMap)) {
        let _one_at_a_time = self.0.changing.lock().expect("no change of the map panics");
        let mut map = RouteMap::clone(&self.0.map.load());
        change(&mut map);
        map.version = self.version() + 1;
        let version = map.version;
        // The map first: whoever sees the new version must find the new map.
        self.0.map.store(Arc::new(map));
        self.0.version.store(version, Ordering::Release);
        self.0.changes.send_replace(version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::tls::ServerTls;
    use crate::backend::{Address, Endpoint, Upstream};
    use crate::base::DatabaseName;
    use crate::route::{Door, NoRoute};

    fn upstream(port: u16) -> Arc<Upstream> {
        let address = Address::Tcp { host: "127.0.0.1".into(), port };
        Arc::new(Upstream { endpoints: vec![Endpoint { address, tls: ServerTls::disabled() }] })
    }

    fn named(database: &str) -> Arc<[u8]> {
        database.as_bytes().into()
    }

    fn routes() -> Routes {
        let name = |n: &str| DatabaseName::new(n).unwrap();
        Routes::new(RouteMap {
            cloud: Some(upstream(2)),
            mirrored: Arc::new([(name("shop"), name("shop_copy"))].into()),
            ..RouteMap::alone(upstream(1))
        })
    }

    #[test]
    fn a_switch_changes_site_database_and_version_at_once() {
        let routes = routes();
        let before = routes.map().resolve(&named("shop")).unwrap();
        assert_eq!((before.site, &*before.database), (Site::Local, b"shop".as_slice()));
        routes.change(|map| {
            map.writer = Site::Cloud;
            map.epoch = Epoch(2);
        });
        assert_eq!(routes.version(), 2);
        let after = routes.map().resolve(&named("shop")).unwrap();
        assert_eq!((after.site, after.epoch), (Site::Cloud, Epoch(2)));
        assert_eq!(&*after.database, b"shop_copy");
    }

    #[tokio::test]
    async fn a_way_ends_with_its_epoch_and_its_life_and_not_with_the_door() {
        let routes = routes();
        let way = routes.map().way();
        let ends = async |change: fn(&mut RouteMap)| {
            let left = routes.leave(routes.map().way());
            routes.change(change);
            tokio::time::timeout(std::time::Duration::from_millis(20), left).await.is_ok()
        };
        assert!(!ends(|map| map.door = Door::Holding).await);
        assert!(ends(|map| map.life += 1).await);
        assert!(ends(|map| map.epoch = Epoch(2)).await);
        assert!(ends(|map| map.writer = Site::Cloud).await);
        routes.leave(way).await;
    }

    #[test]
    fn a_database_without_a_mirror_is_named_after_a_switch() {
        let routes = routes();
        assert!(routes.map().resolve(&named("other")).is_ok());
        routes.change(|map| map.writer = Site::Cloud);
        let missing = routes.map().resolve(&named("other")).unwrap_err();
        assert_eq!(missing, NoRoute::NotMirrored { database: "other".into() });
    }
}
