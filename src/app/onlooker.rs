//! Whether the server that does not write is there.
//!
//! The controller probes the writer; of the other one it asks only when it is needed. An operator
//! wants to know before that.

use super::world::World;
use crate::base::Site;
use crate::health;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks. A connection that says nothing: it costs the cloud next to nothing.
const EVERY: Duration = Duration::from_secs(5);

/// Looks at the cloud for as long as it is not the writer; runs until it is dropped.
///
/// The local server needs none: when it is not the writer its return is waited for.
pub async fn look_on(world: Arc<World>) {
    let Some(cloud) = world.server(Site::Cloud) else { return };
    loop {
        if world.routes.map().writer != Site::Cloud {
            let timeout = world.config.load().failover.probe_timeout;
            let outcome = health::reach(&cloud.party().endpoint.address, timeout).await;
            // A switch may have begun meanwhile, whose probes know better.
            if world.routes.map().writer != Site::Cloud {
                cloud.set_up(outcome == health::Outcome::Up);
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}
