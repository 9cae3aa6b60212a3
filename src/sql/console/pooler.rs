//! The columns of PgBouncer's tables: names, order and types as its version 1.25 sends them
//! (`admin.c`, `stats.c`). Dashboards and exporters look them up by name and type.

use super::{Column, Kind, int4, int8, text};
use crate::sql::pooler::Table;

const fn numeric(name: &'static str) -> Column {
    Column { name, kind: Kind::Numeric }
}

const fn bytea(name: &'static str) -> Column {
    Column { name, kind: Kind::Bytea }
}

const POOLS: &[Column] = &[
    text("database"),
    text("user"),
    int4("cl_active"),
    int4("cl_waiting"),
    int4("cl_active_cancel_req"),
    int4("cl_waiting_cancel_req"),
    int4("sv_active"),
    int4("sv_active_cancel"),
    int4("sv_being_canceled"),
    int4("sv_idle"),
    int4("sv_used"),
    int4("sv_tested"),
    int4("sv_login"),
    int4("maxwait"),
    int4("maxwait_us"),
    text("pool_mode"),
    text("load_balance_hosts"),
];

const STATS: &[Column] = &[
    text("database"),
    numeric("total_server_assignment_count"),
    numeric("total_xact_count"),
    numeric("total_query_count"),
    numeric("total_received"),
    numeric("total_sent"),
    numeric("total_xact_time"),
    numeric("total_query_time"),
    numeric("total_wait_time"),
    numeric("total_client_parse_count"),
    numeric("total_server_parse_count"),
    numeric("total_bind_count"),
    numeric("total_client_login_count"),
    numeric("avg_server_assignment_count"),
    numeric("avg_xact_count"),
    numeric("avg_query_count"),
    numeric("avg_recv"),
    numeric("avg_sent"),
    numeric("avg_xact_time"),
    numeric("avg_query_time"),
    numeric("avg_wait_time"),
    numeric("avg_client_parse_count"),
    numeric("avg_server_parse_count"),
    numeric("avg_bind_count"),
    numeric("avg_client_login_count"),
];

/// The columns of a table of totals, the last four named so.
const fn stats(
    client_parse_count: &'static str,
    server_parse_count: &'static str,
    bind_count: &'static str,
    client_login_count: &'static str,
) -> [Column; 13] {
    [
        text("database"),
        numeric("server_assignment_count"),
        numeric("xact_count"),
        numeric("query_count"),
        numeric("bytes_received"),
        numeric("bytes_sent"),
        numeric("xact_time"),
        numeric("query_time"),
        numeric("wait_time"),
        numeric(client_parse_count),
        numeric(server_parse_count),
        numeric(bind_count),
        numeric(client_login_count),
    ]
}

const STATS_TOTALS: &[Column] =
    &stats("client_parse_count", "server_parse_count", "bind_count", "client_login_count");

/// The names are PgBouncer's: the first eight without `avg_`.
const STATS_AVERAGES: &[Column] =
    &stats("avg_client_parse_count", "avg_server_parse_count", "avg_bind_count", "avg_client_login_count");

const TOTALS: &[Column] = &[text("name"), numeric("value")];

const SERVERS: &[Column] = &sockets();
const CLIENTS: [Column; 22] = with(sockets(), [text("pinned")]);
const SOCKETS: [Column; 28] = with(
    sockets(),
    [
        int4("recv_pos"),
        int4("pkt_pos"),
        int4("pkt_remain"),
        int4("send_pos"),
        int4("send_remain"),
        int4("pkt_avail"),
        int4("send_avail"),
    ],
);

const fn sockets() -> [Column; 21] {
    [
        text("type"),
        text("user"),
        text("database"),
        text("replication"),
        text("state"),
        text("addr"),
        int4("port"),
        text("local_addr"),
        int4("local_port"),
        text("connect_time"),
        text("request_time"),
        int4("wait"),
        int4("wait_us"),
        int4("close_needed"),
        text("ptr"),
        text("link"),
        int4("remote_pid"),
        text("tls"),
        text("application_name"),
        int4("prepared_statements"),
        int4("id"),
    ]
}

/// Appends `more` to `first`.
const fn with<const A: usize, const B: usize, const C: usize>(
    first: [Column; A],
    more: [Column; B],
) -> [Column; C] {
    assert!(A + B == C);
    let mut all = [first[0]; C];
    let mut index = 0;
    while index < C {
        all[index] = if index < A { first[index] } else { more[index - A] };
        index += 1;
    }
    all
}

const DATABASES: &[Column] = &[
    text("name"),
    text("host"),
    int4("port"),
    text("database"),
    text("force_user"),
    int4("pool_size"),
    int4("min_pool_size"),
    int4("reserve_pool_size"),
    int4("server_lifetime"),
    text("pool_mode"),
    text("load_balance_hosts"),
    int4("max_connections"),
    int4("current_connections"),
    int4("max_client_connections"),
    int4("current_client_connections"),
    int4("paused"),
    int4("disabled"),
];

const USERS: &[Column] = &[
    text("name"),
    text("pool_size"),
    text("reserve_pool_size"),
    text("pool_mode"),
    int4("max_user_connections"),
    int4("current_connections"),
    int4("max_user_client_connections"),
    int4("current_client_connections"),
];

const LISTS: &[Column] = &[text("list"), int4("items")];
const CONFIG: &[Column] = &[text("key"), text("value"), text("default"), text("changeable")];
const STATE: &[Column] = &[text("key"), text("value")];
const MEM: &[Column] = &[text("name"), int4("size"), int4("used"), int4("free"), int4("memtotal")];
const DNS_HOSTS: &[Column] = &[text("hostname"), int8("ttl"), text("addrs")];
const DNS_ZONES: &[Column] = &[text("zonename"), int8("serial"), int4("count")];
const PEERS: &[Column] = &[int4("peer_id"), text("host"), int4("port"), int4("pool_size")];
const PEER_POOLS: &[Column] = &[
    int4("peer_id"),
    int4("cl_active_cancel_req"),
    int4("cl_waiting_cancel_req"),
    int4("sv_active_cancel"),
    int4("sv_login"),
];
const FDS: &[Column] = &[
    int4("fd"),
    text("task"),
    text("user"),
    text("database"),
    text("addr"),
    int4("port"),
    int8("cancel"),
    int4("link"),
    text("client_encoding"),
    text("std_strings"),
    text("datestyle"),
    text("timezone"),
    text("password"),
    bytea("scram_client_key"),
    bytea("scram_server_key"),
];

/// Ours: each statement text once, in every server's memory under its name.
const PREPARED: &[Column] = &[text("name"), text("statement"), int4("used_by"), int8("memory_used")];

/// The columns of a table.
pub(super) fn columns(table: Table) -> &'static [Column] {
    match table {
        Table::ActiveSockets | Table::Sockets => &SOCKETS,
        Table::Clients => &CLIENTS,
        Table::Config => CONFIG,
        Table::Databases => DATABASES,
        Table::DnsHosts => DNS_HOSTS,
        Table::DnsZones => DNS_ZONES,
        Table::Fds => FDS,
        Table::Lists => LISTS,
        Table::Mem => MEM,
        Table::Peers => PEERS,
        Table::PeerPools => PEER_POOLS,
        Table::Pools => POOLS,
        Table::Prepared => PREPARED,
        Table::Servers => SERVERS,
        Table::State => STATE,
        Table::Stats => STATS,
        Table::StatsAverages => STATS_AVERAGES,
        Table::StatsTotals => STATS_TOTALS,
        Table::Totals => TOTALS,
        Table::Users => USERS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The types of a table in PgBouncer's own notation: s text, i int4, q int8, N numeric, b bytea.
    fn types(table: Table) -> String {
        let letter = |column: &Column| match column.kind {
            Kind::Text => 's',
            Kind::Int4 => 'i',
            Kind::Int8 => 'q',
            Kind::Numeric => 'N',
            Kind::Bytea => 'b',
            Kind::Bool => '?',
        };
        columns(table).iter().map(letter).collect()
    }

    #[test]
    fn the_types_are_those_of_pgbouncer_1_25() {
        for (table, expected) in [
            (Table::Pools, "ssiiiiiiiiiiiiiss"),
            (Table::Databases, "ssissiiiissiiiiii"),
            (Table::Users, "ssssiiii"),
            // T is text on the wire.
            (Table::Servers, "ssssssisissiiississii"),
            (Table::Clients, "ssssssisissiiississiis"),
            (Table::Sockets, "ssssssisissiiississiiiiiiiii"),
            (Table::Fds, "issssiqisssssbb"),
            (Table::Lists, "si"),
            (Table::Config, "ssss"),
            (Table::State, "ss"),
            (Table::Mem, "siiii"),
            (Table::DnsHosts, "sqs"),
            (Table::DnsZones, "sqi"),
            (Table::Peers, "isii"),
            (Table::PeerPools, "iiiii"),
            (Table::Totals, "sN"),
            (Table::Stats, "sNNNNNNNNNNNNNNNNNNNNNNNN"),
            (Table::StatsTotals, "sNNNNNNNNNNNN"),
            (Table::StatsAverages, "sNNNNNNNNNNNN"),
        ] {
            assert_eq!(types(table), expected, "{}", table.word());
        }
    }
}
