//! What is known of the roles, kept in the state directory.
//!
//! A log-in asks the writer. Where it cannot be asked (it is dead and its clients are held; or it
//! is the cloud, whose login may not read `pg_authid`) the role gets in by what the local server
//! last said of it, also after a restart of the proxy.

use super::world::World;
use crate::auth::{MayLogIn, Role, StoredPassword};
use crate::backend::control::describe;
use crate::base::{Moment, RoleName, Site};
use crate::serve::Front;
use crate::sys;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// File in the state directory, mode 0600: verifiers are as good as passwords to guess from.
const FILE: &str = "roles.json";
/// Between two looks at the local server.
const EVERY: Duration = Duration::from_secs(10);
/// After a look that brought news, or none.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// For one look.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Known {
    name: RoleName,
    password: Option<String>,
    /// Seconds of Unix time.
    valid_until: Option<f64>,
}

/// Tells the front what the file knows, then keeps the file up to date while local is the writer.
pub async fn keep(world: Arc<World>, front: Arc<Front>) {
    let mut known = read(&world);
    front.authenticator.load().remember(known.iter().filter_map(role));
    loop {
        let mut pause = AGAIN_AFTER;
        if world.routes.map().writer == Site::Local && world.local.is_up() {
            match ask(&world).await {
                Ok(now) if now != known => {
                    front.authenticator.load().remember(now.iter().filter_map(role));
                    write(&world, &now);
                    known = now;
                }
                Ok(_) => pause = EVERY,
                Err(error) => tracing::debug!(event = "app.roles_not_read", error),
            }
        }
        tokio::time::sleep(pause).await;
    }
}

fn read(world: &World) -> Vec<Known> {
    let parsed = match world.state_dir.read(FILE) {
        Ok(Some(bytes)) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
        Ok(None) => return Vec::new(),
        Err(error) => Err(error.to_string()),
    };
    // It is made anew as soon as the local server can be asked.
    parsed.unwrap_or_else(|error| {
        tracing::warn!(event = "app.roles_file_unreadable", error);
        Vec::new()
    })
}

fn write(world: &World, known: &[Known]) {
    let bytes = serde_json::to_vec(known).expect("texts can be written");
    if let Err(error) = world.state_dir.write(FILE, &bytes) {
        tracing::warn!(event = "app.roles_file_not_written", %error);
    }
}

async fn ask(world: &World) -> Result<Vec<Known>, String> {
    let asking = async {
        let client = world.local.party().control("cloud-mirror roles", PATIENCE).await;
        let client = client.map_err(|error| error.to_string())?;
        let query = "SELECT rolname::text, rolpassword, extract(epoch FROM rolvaliduntil)::float8 \
            FROM pg_catalog.pg_authid WHERE rolcanlogin ORDER BY 1";
        let rows = client.query(query, &[]).await.map_err(|error| describe(&error))?;
        let known = rows.iter().filter_map(|row| {
            let valid_until: Option<f64> = row.get(2);
            Some(Known {
                name: RoleName::new(row.get::<_, String>(0)).ok()?,
                password: row.get(1),
                // `infinity` is no end.
                valid_until: valid_until.filter(|until| until.is_finite()),
            })
        });
        Ok(known.collect())
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err("no answer".to_owned()))
}

fn role(known: &Known) -> Option<(RoleName, Role)> {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    let valid_until = match known.valid_until {
        None => Moment::NEVER,
        Some(until) if until <= wall => Moment(0),
        Some(until) => {
            Duration::try_from_secs_f64(until - wall).map_or(Moment::NEVER, |left| sys::now() + left)
        }
    };
    let password = StoredPassword::parse(known.password.as_deref());
    Some((known.name.clone(), Role { password, valid_until, may_log_in: MayLogIn::Yes }))
}
