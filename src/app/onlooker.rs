//! Whether a server that the controller does not probe is there.
//!
//! The controller probes the writer; of the other server it asks only when it is needed, and of
//! both of them nothing while it waits for a person. An operator wants to know all the same.

use super::world::World;
use crate::base::Site;
use crate::health;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks. A connection that says nothing: it costs a server next to nothing.
const EVERY: Duration = Duration::from_secs(5);

/// Looks at every server that is not the writer; runs until it is dropped.
pub async fn look_on(world: Arc<World>) {
    loop {
        for site in [Site::Local, Site::Cloud] {
            look(&world, site).await;
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn look(world: &World, site: Site) {
    let Some(server) = world.server(site) else { return };
    let is_looked_at = || world.seen().writer == Some(site);
    if is_looked_at() {
        return;
    }
    let timeout = world.config.load().failover.probe_timeout;
    let outcome = health::reach(&server.party().endpoint.address, timeout).await;
    // It may have become the writer meanwhile, whose probes know better.
    if !is_looked_at() {
        server.set_up(outcome == health::Outcome::Up);
    }
}
