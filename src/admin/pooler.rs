//! The pooler → PgBouncer's tables. Pure.
//!
//! What has no meaning here is 0, NULL or an empty table, never an invented number: there is no
//! cache of names, no peer, no slab of memory, and file descriptors are nobody's business.

use crate::config::pgbouncer;
use crate::config::{Config, Host, Others, PoolMode};
use crate::observe::clients::{ClientFacts, ClientState};
use crate::observe::links::{LinkFacts, LinkState};
use crate::observe::pooler::{Counts, DatabaseCounts, Halted, Pooler, PreparedStatement};
use crate::observe::time::console as utc;
use crate::session::pooled::ties::Ties;
use crate::sql::pooler::Table;
use crate::sys::Peer;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::time::Duration;

type Row = Vec<Option<String>>;

/// The rows of a table, in the order of its columns.
pub(super) fn rows(table: Table, pooler: &Pooler) -> Vec<Row> {
    match table {
        Table::Clients => pooler.clients.iter().map(|client| of_client(pooler, client)).collect(),
        Table::Servers => pooler.links.iter().map(|link| of_link(pooler, link)).collect(),
        Table::Sockets => sockets(pooler, |_| true, |_| true),
        Table::ActiveSockets => sockets(
            pooler,
            |client| client.state() == ClientState::Running,
            |link| link.state() != LinkState::Idle,
        ),
        Table::Pools => pools(pooler),
        Table::Databases => databases(pooler),
        Table::Users => users(pooler),
        Table::Lists => lists(pooler),
        Table::Config => settings(&pooler.config),
        Table::State => state(pooler.halted),
        Table::Stats => pooler.counts.iter().map(|counts| stats(counts, Of::Both)).collect(),
        Table::StatsTotals => pooler.counts.iter().map(|counts| stats(counts, Of::Totals)).collect(),
        Table::StatsAverages => pooler.counts.iter().map(|counts| stats(counts, Of::Averages)).collect(),
        Table::Totals => totals(&pooler.counts),
        Table::DnsHosts
        | Table::DnsZones
        | Table::Fds
        | Table::Mem
        | Table::Peers
        | Table::PeerPools
        | Table::Prepared => Vec::new(),
    }
}

/// The rows of `SHOW PREPARED`.
pub(super) fn prepared(statements: Vec<PreparedStatement>) -> Vec<Row> {
    let row = |it: PreparedStatement| vec![Some(it.name), Some(it.text), int4(it.used_by), some(it.bytes)];
    statements.into_iter().map(row).collect()
}

fn some(value: impl Display) -> Option<String> {
    Some(value.to_string())
}

/// Larger numbers than `int4` holds are cut off at its end: they occur only as nonsense.
fn int4(value: impl TryInto<i32>) -> Option<String> {
    some(value.try_into().unwrap_or(i32::MAX))
}

fn name(bytes: &[u8]) -> Option<String> {
    some(String::from_utf8_lossy(bytes))
}

/// Seconds, and the microseconds of the last one.
fn wait(time: Duration) -> [Option<String>; 2] {
    [int4(time.as_secs()), int4(time.subsec_micros())]
}

/// Address and port; a Unix socket has the port of its name.
fn address(peer: &Peer, socket_port: u16) -> [Option<String>; 2] {
    match peer {
        Peer::Tcp(address) => [some(address.ip()), int4(address.port())],
        Peer::Unix { .. } => [some("unix"), int4(socket_port)],
        Peer::Unknown => [None, None],
    }
}

/// `host:port`, or the path of a Unix socket, which ends in its port.
fn server_address(text: &str) -> [Option<String>; 2] {
    let (host, port) = match text.strip_prefix('/') {
        Some(path) => ("unix", path.rsplit_once('.').map(|(_, port)| port)),
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    [some(host), port.and_then(|port| port.parse::<u16>().ok()).and_then(int4)]
}

/// PgBouncer's word for the start-up parameter `replication`.
fn replication(value: Option<&str>) -> Option<String> {
    some(match value.map(str::to_ascii_lowercase).as_deref() {
        None | Some("off" | "false" | "no" | "0" | "") => "none",
        Some("database") => "logical",
        Some(_) => "physical",
    })
}

fn waiting_time(pooler: &Pooler, client: &ClientFacts) -> Duration {
    match client.state() {
        ClientState::Waiting => pooler.now.since(client.since()),
        ClientState::Idle | ClientState::Running | ClientState::InTransaction => Duration::ZERO,
    }
}

fn client_state(client: &ClientFacts) -> &'static str {
    match (client.state(), client.link()) {
        (ClientState::Waiting, _) => "waiting",
        (_, Some(_)) => "active",
        (_, None) => "idle",
    }
}

fn of_client(pooler: &Pooler, client: &ClientFacts) -> Row {
    let mut row = client_row(pooler, client, client_state(client));
    row.push(pinned(pooler, client));
    row
}

/// What holds a server with its client in the pooled modes, besides the statement that runs.
fn pinned(pooler: &Pooler, client: &ClientFacts) -> Option<String> {
    let after = pooler.config.pool.pinned_idle_report;
    let is_idle =
        client.idle_pins() != 0 && after.is_some_and(|after| pooler.now.since(client.since()) >= after);
    let is_replicating = replication(client.origin.replication.as_deref()).is_some_and(|it| it != "none");
    let ties = Ties::from(client.ties()).to_string();
    let names = [
        (client.state() == ClientState::InTransaction).then_some("transaction"),
        is_replicating.then_some("replication"),
        Some(ties.as_str()).filter(|ties| !ties.is_empty()),
        is_idle.then_some("idle"),
    ];
    let names: Vec<&str> = names.into_iter().flatten().collect();
    (!names.is_empty()).then(|| names.join(","))
}

fn client_row(pooler: &Pooler, client: &ClientFacts, state: &str) -> Row {
    let origin = &client.origin;
    let port = pooler.config.listen.socket_port();
    let [addr, addr_port] = address(&origin.peer, port);
    let [local, local_port] = address(&origin.local, port);
    let [seconds, micros] = wait(waiting_time(pooler, client));
    vec![
        some("C"),
        some(origin.user.as_str()),
        name(&origin.database),
        replication(origin.replication.as_deref()),
        some(state),
        addr,
        addr_port,
        local,
        local_port,
        some(utc(origin.connected_at)),
        Some(match client.request_at().0 {
            0 => utc(origin.connected_at),
            _ => utc(pooler.wall(client.request_at())),
        }),
        seconds,
        micros,
        int4(0),
        some(format_args!("client-{}", client.id)),
        Some(client.link().map(|(link, _)| format!("server-{link}")).unwrap_or_default()),
        int4(0),
        Some(origin.tls.clone().unwrap_or_default()),
        some(client.application_name()),
        int4(client.prepared()),
        int4(client.id),
    ]
}

fn of_link(pooler: &Pooler, link: &LinkFacts) -> Row {
    link_row(pooler, link, link_state(link))
}

fn link_state(link: &LinkFacts) -> &'static str {
    match link.state() {
        LinkState::Idle => "idle",
        LinkState::Active | LinkState::Ending => "active",
        LinkState::Tested => "tested",
    }
}

fn link_row(pooler: &Pooler, link: &LinkFacts, state: &str) -> Row {
    let origin = &link.origin;
    let [addr, port] = server_address(&origin.address);
    let client = link.client().and_then(|id| pooler.clients.iter().find(|client| client.id == id));
    vec![
        some("S"),
        some(origin.user.as_str()),
        name(&origin.database),
        replication(origin.replication.as_deref()),
        some(state),
        addr,
        port,
        None,
        None,
        some(utc(origin.connected_at)),
        Some(match link.request_at().0 {
            0 => utc(origin.connected_at),
            _ => utc(pooler.wall(link.request_at())),
        }),
        int4(0),
        int4(0),
        int4(i32::from(link.is_close_needed())),
        some(format_args!("server-{}", link.id)),
        Some(link.client().map(|id| format!("client-{id}")).unwrap_or_default()),
        some(origin.pid),
        Some(origin.tls.clone().unwrap_or_default()),
        Some(client.map(|client| client.application_name()).unwrap_or_default()),
        int4(link.prepared()),
        int4(link.id),
    ]
}

/// Clients and links with seven columns about buffers, of which an idle session has none.
fn sockets(
    pooler: &Pooler,
    clients: impl Fn(&ClientFacts) -> bool,
    links: impl Fn(&LinkFacts) -> bool,
) -> Vec<Row> {
    let clients = pooler.clients.iter().filter(|client| clients(client)).map(|client| {
        let state = if client.state() == ClientState::Waiting { "cl_waiting" } else { "cl_active" };
        client_row(pooler, client, state)
    });
    let links = pooler.links.iter().filter(|link| links(link)).map(|link| {
        let state = match link.state() {
            LinkState::Idle => "sv_idle",
            LinkState::Active | LinkState::Ending => "sv_active",
            LinkState::Tested => "sv_tested",
        };
        link_row(pooler, link, state)
    });
    clients
        .chain(links)
        .map(|mut row| {
            row.extend(std::iter::repeat_n(int4(0), 7));
            row
        })
        .collect()
}

/// What one pool has.
#[derive(Default)]
struct Pool {
    active: usize,
    waiting: usize,
    max_wait: Duration,
    servers_active: usize,
    servers_idle: usize,
    servers_tested: usize,
}

fn pools(pooler: &Pooler) -> Vec<Row> {
    let row = |((database, user), pool): (&(Vec<u8>, String), &Pool)| {
        let [maxwait, maxwait_us] = wait(pool.max_wait);
        let mode = pooler.config.pool.rules(database, user).mode;
        vec![
            name(database),
            some(user),
            int4(pool.active),
            int4(pool.waiting),
            // A cancel is forwarded on a connection of its own, at once.
            int4(0),
            int4(0),
            int4(pool.servers_active),
            int4(0),
            int4(0),
            int4(pool.servers_idle),
            int4(0),
            int4(pool.servers_tested),
            int4(0),
            maxwait,
            maxwait_us,
            some(mode.as_str()),
            None,
        ]
    };
    by_pool(pooler).iter().map(row).collect()
}

fn by_pool(pooler: &Pooler) -> BTreeMap<(Vec<u8>, String), Pool> {
    let mut pools: BTreeMap<(Vec<u8>, String), Pool> = BTreeMap::new();
    for client in &pooler.clients {
        let key = (client.origin.database.to_vec(), client.origin.user.to_string());
        let pool = pools.entry(key).or_default();
        match client.state() {
            ClientState::Waiting => pool.waiting += 1,
            ClientState::Idle | ClientState::Running | ClientState::InTransaction => pool.active += 1,
        }
        pool.max_wait = pool.max_wait.max(waiting_time(pooler, client));
    }
    for link in &pooler.links {
        let pool = pools.entry((link.origin.database.clone(), link.origin.user.clone())).or_default();
        match link.state() {
            LinkState::Idle => pool.servers_idle += 1,
            LinkState::Active | LinkState::Ending => pool.servers_active += 1,
            LinkState::Tested => pool.servers_tested += 1,
        }
    }
    pools
}

fn database_names(pooler: &Pooler) -> BTreeSet<Vec<u8>> {
    let config = &pooler.config;
    let mut names: BTreeSet<Vec<u8>> = config.pool.databases.keys().map(|name| name.clone().into()).collect();
    names.extend(config.databases.named.keys().map(|name| name.clone().into()));
    if config.databases.others == Others::Served {
        names.insert(config.local.database.as_str().into());
    }
    names.extend(config.mirrors.iter().map(|mirror| mirror.database.as_str().into()));
    names.extend(pooler.clients.iter().map(|client| client.origin.database.to_vec()));
    names.extend(pooler.links.iter().map(|link| link.origin.database.clone()));
    names.extend(pooler.counts.iter().map(|counts| counts.database.clone()));
    names.extend(pooler.paused.iter().cloned());
    names.extend(pooler.disabled.iter().cloned());
    names
}

fn databases(pooler: &Pooler) -> Vec<Row> {
    let config = &pooler.config;
    let host = match &config.local.host {
        Host::Tcp(host) => host.clone(),
        Host::Unix(directory) => directory.display().to_string(),
    };
    let row = |database: Vec<u8>| {
        let rules = config.pool.rules(&database, "");
        let text = String::from_utf8_lossy(&database);
        let own = config.pool.databases.get(text.as_ref());
        let listed = config.databases.named.get(text.as_ref());
        let links = pooler.links.iter().filter(|link| link.origin.database == database).count();
        let clients = pooler.clients.iter().filter(|client| *client.origin.database == *database).count();
        vec![
            name(&database),
            some(&host),
            int4(config.local.port),
            Some(listed.map_or_else(|| text.to_string(), |listed| listed.name.to_string())),
            listed.and_then(|listed| listed.login.as_ref()).map(|(user, _)| user.to_string()),
            // As there, 0 is no limit.
            int4(rules.size.unwrap_or(0)),
            int4(rules.min_size),
            int4(rules.reserve_size),
            int4(rules.server_lifetime.as_secs()),
            own.and_then(|own| own.mode).map(|mode| PoolMode::as_str(mode).to_owned()),
            None,
            int4(rules.max_db_connections.unwrap_or(0)),
            int4(links),
            int4(rules.max_db_client_connections.unwrap_or(0)),
            int4(clients),
            int4(i32::from(pooler.paused.contains(&database))),
            int4(i32::from(pooler.disabled.contains(&database))),
        ]
    };
    database_names(pooler).into_iter().map(row).collect()
}

fn user_names(pooler: &Pooler) -> BTreeSet<String> {
    let config = &pooler.config;
    let mut names: BTreeSet<String> = config.pool.users.keys().cloned().collect();
    names.extend(config.auth.users.iter().map(|user| user.name.to_string()));
    names.extend(pooler.clients.iter().map(|client| client.origin.user.to_string()));
    names.extend(pooler.links.iter().map(|link| link.origin.user.clone()));
    names
}

fn users(pooler: &Pooler) -> Vec<Row> {
    let pool = &pooler.config.pool;
    let row = |user: String| {
        let rules = pool.rules(b"", &user);
        let own = pool.users.get(&user);
        // As there: right-aligned where it is set, empty where it is not.
        let size = |value: Option<u32>| Some(value.map(|size| format!("{size:9}")).unwrap_or_default());
        let links = pooler.links.iter().filter(|link| link.origin.user == user).count();
        let clients = pooler.clients.iter().filter(|client| client.origin.user.as_str() == user).count();
        vec![
            some(&user),
            size(own.and_then(|own| own.size)),
            size(own.and_then(|own| own.reserve_size)),
            own.and_then(|own| own.mode).map(|mode| PoolMode::as_str(mode).to_owned()),
            int4(rules.max_user_connections.unwrap_or(0)),
            int4(links),
            int4(rules.max_user_client_connections.unwrap_or(0)),
            int4(clients),
        ]
    };
    user_names(pooler).into_iter().map(row).collect()
}

fn lists(pooler: &Pooler) -> Vec<Row> {
    let lists = [
        ("databases", database_names(pooler).len() as u64),
        ("users", user_names(pooler).len() as u64),
        ("peers", 0),
        ("pools", by_pool(pooler).len() as u64),
        ("peer_pools", 0),
        // Nothing is kept of who has left.
        ("free_clients", 0),
        ("used_clients", pooler.clients.len() as u64),
        ("login_clients", pooler.logging_in),
        ("free_servers", 0),
        ("used_servers", pooler.links.len() as u64),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ];
    lists.into_iter().map(|(list, items)| vec![some(list), int4(items)]).collect()
}

/// PgBouncer's keys that mean something here with its defaults, then all of ours.
fn settings(config: &Config) -> Vec<Row> {
    let row = |setting: pgbouncer::Setting| {
        let changeable = if setting.is_changeable { "yes" } else { "no" };
        vec![Some(setting.key), setting.value, setting.default, some(changeable)]
    };
    pgbouncer::settings(config).into_iter().map(row).collect()
}

fn state(halted: Halted) -> Vec<Row> {
    let row = |key: &str, is_so: bool| vec![some(key), some(if is_so { "yes" } else { "no" })];
    vec![
        row("active", halted == Halted::No),
        row("paused", halted == Halted::Paused),
        row("suspended", halted == Halted::Suspended),
    ]
}

/// Which half of SHOW STATS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Both,
    Totals,
    Averages,
}

/// In the order of the columns; times in microseconds.
fn numbers(counts: &Counts) -> [u64; 12] {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    [
        counts.server_assignments,
        counts.transactions,
        counts.queries,
        counts.received_bytes,
        counts.sent_bytes,
        micros(counts.transaction_time),
        micros(counts.query_time),
        micros(counts.wait_time),
        counts.client_parses,
        counts.server_parses,
        counts.binds,
        counts.client_logins,
    ]
}

/// Counts by second; times by transaction, statement and assignment.
fn averages(total: &Counts, before: &Counts, period: Duration) -> [u64; 12] {
    let (total, before) = (numbers(total), numbers(before));
    let grown: Vec<u64> = total.iter().zip(before).map(|(now, then)| now.saturating_sub(then)).collect();
    let by_second = |value: u64| match period.as_micros() {
        0 => 0,
        micros => u64::try_from(u128::from(value) * 1_000_000 / micros).unwrap_or(u64::MAX),
    };
    let mut averages = [0; 12];
    for (index, average) in averages.iter_mut().enumerate() {
        *average = match index {
            5 => grown[5].checked_div(grown[1]).unwrap_or(0),
            6 => grown[6].checked_div(grown[2]).unwrap_or(0),
            7 => grown[7].checked_div(grown[0]).unwrap_or(0),
            _ => by_second(grown[index]),
        };
    }
    averages
}

fn stats(counts: &DatabaseCounts, of: Of) -> Row {
    let mut row = vec![name(&counts.database)];
    if of != Of::Averages {
        row.extend(numbers(&counts.total).map(some));
    }
    if of != Of::Totals {
        row.extend(averages(&counts.total, &counts.before, counts.period).map(some));
    }
    row
}

/// The names of SHOW TOTALS, without `total_` and `avg_`.
const TOTALS: [&str; 12] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
];

fn totals(counts: &[DatabaseCounts]) -> Vec<Row> {
    let sum = |pick: fn(&DatabaseCounts) -> &Counts| {
        counts.iter().map(pick).fold(Counts::default(), |sum, counts| sum.plus(counts))
    };
    let (total, before) = (sum(|counts| &counts.total), sum(|counts| &counts.before));
    let period = counts.iter().map(|counts| counts.period).max().unwrap_or_default();
    let rows = |start: &'static str, values: [u64; 12]| {
        let row = move |(name, value)| vec![some(format_args!("{start}_{name}")), some(value)];
        TOTALS.iter().zip(values).map(row)
    };
    rows("total", numbers(&total)).chain(rows("avg", averages(&total, &before, period))).collect()
}

#[cfg(test)]
#[path = "pooler_tests.rs"]
mod tests;
