//! What the console shows, compared with itself, with the clients and with the server.

use crate::stage::{Mode, ROLE, Stage};
use crate::{PATIENCE, polite};
use cloud_mirror::lab::{Instead, eventually};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_postgres::{Client, Error, SimpleQueryMessage, SimpleQueryRow};

/// Between two looks while everybody plays.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the console says of the clients' pool.
#[derive(Debug, Default)]
pub struct Pools {
    pub clients: u64,
    pub waiting: u64,
    pub active: u64,
    pub servers: u64,
    /// Clients whose connection is held by something they have made.
    pub pinned: Vec<String>,
}

/// What the server says of the clients' role.
#[derive(Debug)]
struct ServerSide {
    sessions: u64,
    in_transaction: u64,
}

async fn rows(console: &Client, text: &str) -> Result<Vec<SimpleQueryRow>, Error> {
    let rows = console.simple_query(text).await?.into_iter();
    Ok(rows
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) if row.get("user") == Some(ROLE) => Some(row),
            _ => None,
        })
        .collect())
}

fn sum(rows: &[SimpleQueryRow], columns: &[&str]) -> u64 {
    let number = |row: &SimpleQueryRow, name: &&str| -> u64 { row.get(name).unwrap().parse().unwrap() };
    rows.iter().flat_map(|row| columns.iter().map(move |name| number(row, name))).sum()
}

const CLIENTS: [&str; 2] = ["cl_active", "cl_waiting"];
const SERVERS: [&str; 5] = ["sv_active", "sv_idle", "sv_used", "sv_tested", "sv_login"];

async fn pools(console: &Client) -> Result<Pools, Error> {
    let pools = rows(console, "SHOW POOLS").await?;
    let clients = rows(console, "SHOW CLIENTS").await?;
    let pinned = clients.iter().filter_map(|row| row.get("pinned")).filter(|pinned| !pinned.is_empty());
    Ok(Pools {
        clients: sum(&pools, &CLIENTS),
        waiting: sum(&pools, &["cl_waiting"]),
        active: sum(&pools, &["sv_active"]),
        servers: sum(&pools, &SERVERS),
        pinned: pinned.map(str::to_owned).collect(),
    })
}

/// The numbers by which a table names its rows: none is ever used again.
async fn ids(console: &Client, text: &str) -> Result<BTreeSet<String>, Error> {
    Ok(rows(console, text).await?.iter().map(|row| row.get("id").unwrap().to_owned()).collect())
}

/// Looks while everybody plays: sums and limits are right at every moment.
pub async fn look_until(stage: Arc<Stage>, end: Instant) {
    let console = stage.console_client().await;
    while Instant::now() < end {
        let look = timeout(PATIENCE, look(&stage, &console)).await.expect("the console answers at any time");
        look.unwrap_or_else(|error| panic!("the console does not answer: {error:?}\n{}", stage.proxy.log()));
        stage.looks.fetch_add(1, Ordering::Relaxed);
        sleep_until(Instant::now() + LOOK_EVERY).await;
    }
}

async fn look(stage: &Stage, console: &Client) -> Result<(), Error> {
    let before = (ids(console, "SHOW CLIENTS").await?, ids(console, "SHOW SERVERS").await?);
    let pools = rows(console, "SHOW POOLS").await?;
    let after = (ids(console, "SHOW CLIENTS").await?, ids(console, "SHOW SERVERS").await?);
    let (clients, servers) = (sum(&pools, &CLIENTS), sum(&pools, &SERVERS));
    for (what, seen, before, after) in
        [("clients", clients, before.0, after.0), ("servers", servers, before.1, after.1)]
    {
        // Who is there before and after was there in between; others may have come and gone.
        let stayed = before.intersection(&after).count() as u64;
        assert!(stayed <= seen, "SHOW POOLS has {seen} {what}, but {before:?} and then {after:?}");
    }
    let limit = stage.mode.pool_size();
    assert!(servers <= limit, "{servers} of at most {limit} servers\n{}", stage.story().await);
    Ok(())
}

/// Everybody holds still: the console, the clients and the server tell the same story. How many clients are
/// connected, and the console's part of it.
pub async fn all_is_so(stage: &Stage, clients: &[polite::Client]) -> (u64, Pools) {
    let console = stage.console_client().await;
    // Who was cut off at the last moment may hear of it in this one.
    let connected = || clients.iter().filter(|client| client.is_connected()).count() as u64;
    let telling = eventually(PATIENCE, async || {
        let pools = pools(&console).await?;
        let connected = connected();
        let shown = format!("{connected} clients are connected, the console shows {pools:?}");
        if pools.clients != connected || pools.waiting != 0 {
            return Err(Instead::from(shown));
        }
        let server = server_side(stage).await?;
        if pools.servers != server.sessions {
            return Err(format!("{shown}, the server has {server:?}").into());
        }
        if server.in_transaction != 0 {
            return Err(format!("transactions are open: {server:?}").into());
        }
        let most = match stage.mode {
            Mode::Session => connected,
            // Nobody does anything.
            Mode::Transaction | Mode::Statement => 0,
            Mode::Auto => pools.pinned.len() as u64,
        };
        match pools.active <= most {
            true => Ok((connected, pools)),
            false => Err(format!("connections are in use by nobody: {shown}").into()),
        }
    });
    // Before it gives up by itself, with less to say.
    match timeout(PATIENCE - Duration::from_secs(2), telling).await {
        Ok(told) => told,
        Err(_) => {
            let connected = connected();
            let last = (pools(&console).await, server_side(stage).await.map_err(|_| "no answer"));
            panic!("{connected} clients are connected, at last {last:?}\n{}", stage.story().await);
        }
    }
}

/// Nobody is there: what can be closed goes, here and on the server.
pub async fn nothing_stays(stage: &Stage) {
    let console = stage.console_client().await;
    console.simple_query("RECONNECT").await.unwrap();
    let closing = eventually(PATIENCE, async || {
        let (shown, server) = (pools(&console).await?, server_side(stage).await?);
        match (shown.servers, server.sessions) {
            (0, 0) => Ok(()),
            _ => Err(format!("there are still {shown:?} and {server:?}").into()),
        }
    });
    if timeout(PATIENCE - Duration::from_secs(2), closing).await.is_err() {
        panic!("something stays\n{}", stage.story().await);
    }
}

async fn server_side(stage: &Stage) -> Result<ServerSide, Instead> {
    let text = "SELECT count(*), count(*) FILTER (WHERE xact_start IS NOT NULL)
        FROM pg_stat_activity WHERE usename = 'app'";
    let rows = stage.cluster.query("postgres", text).await?;
    let number = |at: usize| rows[0][at].as_deref().unwrap_or("0").parse::<u64>();
    Ok(ServerSide { sessions: number(0)?, in_transaction: number(1)? })
}
