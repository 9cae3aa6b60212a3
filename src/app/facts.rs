//! What is durable about the pair: the fence rows and the progress rows.

use super::server::Server;
use super::world::World;
use crate::base::{DatabaseName, Epoch};
use crate::catalog::{self, fence, progress};
use crate::failover::controller::{FenceFact, Fencing, LeaseFact, Promotable, Promoted};
use crate::lease::protocol::Found;
use std::time::Duration;

/// How long one database may take to tell its rows.
const PATIENCE: Duration = Duration::from_secs(2);

/// The fence rows of a site, over all its mirrored databases.
pub async fn fences(server: &Server, databases: &[DatabaseName]) -> FenceFact {
    let mut found: Option<(Epoch, Fencing)> = None;
    for database in databases {
        let row = match read(server, database, async |client| fence::read(client).await).await {
            Reading::Rows(row) => row,
            Reading::NoDatabase => continue,
            Reading::Unreachable => return FenceFact::Unreachable,
        };
        let Some(row) = row else { continue };
        let state = if row.state == fence::State::Fenced { Fencing::Fenced } else { Fencing::Open };
        found = Some(match found {
            None => (row.epoch, state),
            Some((epoch, Fencing::Fenced)) => (epoch.max(row.epoch), Fencing::Fenced),
            Some((epoch, Fencing::Open)) => (epoch.max(row.epoch), state),
        });
    }
    found.map_or(FenceFact::Absent, |(epoch, state)| FenceFact::Row { epoch, state })
}

/// What the progress rows in the cloud say.
pub async fn progress(world: &World, server: &Server) -> (Promotable, Promoted) {
    let entries = world.mirrors.list();
    if entries.is_empty() {
        return (Promotable::NoMirrors, Promoted::NotAll);
    }
    let mut names = Vec::new();
    let mut promoted = Promoted::All;
    for entry in entries {
        let name = &entry.name;
        let row = match read(server, &entry.target, async |client| progress::read(client, name).await).await {
            Reading::Rows(row) => row,
            Reading::NoDatabase => None,
            Reading::Unreachable => return (Promotable::Unknown, Promoted::Unknown),
        };
        match row.map(|row| row.phase) {
            Some(progress::Phase::Promoted) => {}
            Some(progress::Phase::Following) => promoted = Promoted::NotAll,
            Some(progress::Phase::Bootstrapping | progress::Phase::Streaming) | None => {
                promoted = Promoted::NotAll;
                names.push(name.to_string());
            }
        }
    }
    let promotable = if names.is_empty() { Promotable::All } else { Promotable::Missing { names } };
    (promotable, promoted)
}

/// What a look at the record found, in the controller's words.
pub fn lease(found: Found) -> LeaseFact {
    match found {
        Found::Nothing => LeaseFact::Nothing,
        Found::Record(record) => {
            LeaseFact::Record { epoch: record.epoch, owner: record.owner, state: record.state }
        }
        Found::Refused(why) => LeaseFact::Refused(why.to_string()),
        Found::Unreadable { why } => LeaseFact::Unreadable(why),
    }
}

enum Reading<T> {
    Rows(Option<T>),
    NoDatabase,
    Unreachable,
}

async fn read<T>(
    server: &Server,
    database: &DatabaseName,
    rows: impl AsyncFnOnce(&tokio_postgres::Client) -> Result<Option<T>, catalog::Error>,
) -> Reading<T> {
    let reading = async {
        let client = match server.party_at(database).control("cloud-mirror facts", PATIENCE).await {
            Ok(client) => client,
            Err(error) => {
                return if error.is_no_database() { Reading::NoDatabase } else { Reading::Unreachable };
            }
        };
        rows(&client).await.map_or(Reading::Unreachable, Reading::Rows)
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap_or(Reading::Unreachable)
}
