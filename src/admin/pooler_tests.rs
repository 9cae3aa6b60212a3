use super::*;
use crate::base::{Epoch, Moment, RoleName, Site};
use crate::config::{File, Machine, Sources, load};
use crate::observe::clients::{ClientOrigin, Clients};
use crate::observe::links::{LinkOrigin, Links};
use crate::sql::admin::Command;
use crate::sql::console::columns;
use crate::sql::pooler;
use std::fmt::Write;
use std::sync::Arc;
use std::time::SystemTime;

const CONFIG: &str = "[upstream.local]\nurl = \"postgres://postgres@db:5432/shop\"\n\
    [listen]\ntcp = \"127.0.0.1:6432\"\n[auth]\nadmin_users = [\"boss\"]\n\
    [pool]\nsize = 30\n[pool.database.shop]\nsize = 7\n[pool.user.app]\nmax_user_connections = 3\nsize = 5\n";

fn config() -> Config {
    let (read_file, variables) = (|_: &std::path::Path| Ok(String::new()), BTreeMap::new());
    let file = Some(File { name: "c.toml".to_owned(), text: CONFIG.to_owned() });
    let sources =
        Sources { file, variables: &variables, flags: &[], machine: Machine::Root, read_file: &read_file };
    load(&sources).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Three clients of one database, of which one waits, and two links.
fn sample() -> Pooler {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let (clients, links) = (Clients::default(), Links::default());
    let client = |user: &str, peer| {
        let origin = ClientOrigin {
            database: b"shop".as_slice().into(),
            user: RoleName::new(user).unwrap(),
            peer,
            local: Peer::Tcp("127.0.0.1:6432".parse().unwrap()),
            tls: None,
            connected_at: at,
            application_name: "psql".to_owned(),
            replication: None,
        };
        // Leaked: the list is looked at and thrown away.
        Box::leak(Box::new(clients.enter(origin))).facts().clone()
    };
    let link = |pid| {
        let origin = LinkOrigin {
            site: Site::Local,
            epoch: Epoch(1),
            database: b"shop".to_vec(),
            user: "app".to_owned(),
            address: "db:5432".to_owned(),
            pid,
            tls: Some("TLSv1.3".to_owned()),
            connected_at: at,
            replication: None,
        };
        Box::leak(Box::new(links.enter(origin))).facts().clone()
    };
    let tcp = |port| Peer::Tcp(([192, 0, 2, 7], port).into());
    let now = Moment(60_000_000_000);
    let first = client("app", tcp(50_001));
    first.set_state(ClientState::Running, now);
    first.set_request_at(Moment(59_000_000_000));
    first.set_link(Some((1, 4711)));
    first.set_ties(5);
    let second = client("app", tcp(50_002));
    second.set_state(ClientState::Waiting, Moment(57_500_000_000));
    client("boss", Peer::Unix { uid: Some(0) }).set_application_name(b"report");
    let active = link(4711);
    active.set_client(Some(1), now);
    link(4712).set_state(LinkState::Idle);
    let total = Counts {
        server_assignments: 4,
        transactions: 20,
        queries: 40,
        received_bytes: 1_000,
        sent_bytes: 2_000,
        transaction_time: Duration::from_micros(200),
        query_time: Duration::from_micros(120),
        wait_time: Duration::from_micros(40),
        client_parses: 3,
        server_parses: 2,
        binds: 30,
        client_logins: 5,
    };
    let before = Counts { transactions: 10, queries: 20, query_time: Duration::from_micros(20), ..total };
    Pooler {
        config: Arc::new(config()),
        clients: clients.list(),
        logging_in: 1,
        links: links.list(),
        counts: vec![DatabaseCounts {
            database: b"shop".to_vec(),
            total,
            before,
            period: Duration::from_secs(2),
        }],
        halted: Halted::No,
        paused: [b"stock".to_vec()].into(),
        disabled: BTreeSet::new(),
        now,
        at,
    }
}

#[test]
fn every_table_has_its_columns_and_true_values() {
    let pooler = sample();
    let mut text = String::new();
    for table in Table::ALL.iter().filter(|table| **table != Table::Config) {
        let columns = columns(&Command::Pooler(pooler::Pooler::Show(*table)));
        writeln!(text, "SHOW {}", table.word()).unwrap();
        for row in rows(*table, &pooler) {
            assert_eq!(row.len(), columns.len(), "{}", table.word());
            let values: Vec<String> = columns
                .iter()
                .zip(row)
                .map(|(column, value)| format!("{}={}", column.name, value.as_deref().unwrap_or("NULL")))
                .collect();
            writeln!(text, "  {}", values.join(" ")).unwrap();
        }
    }
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/pooler_sample.txt"), &text).unwrap();
        return;
    }
    assert_eq!(text, include_str!("pooler_sample.txt"));
}

#[test]
fn settings_are_shown_in_pgbouncers_units_and_then_in_ours() {
    let rows = rows(Table::Config, &sample());
    let find = |key: &str| {
        let row =
            rows.iter().find(|row| row[0].as_deref() == Some(key)).unwrap_or_else(|| panic!("no {key}"));
        row[1..].iter().map(|value| value.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(find("max_client_conn"), "10000 100 yes");
    assert_eq!(find("max_user_connections"), "0 0 yes");
    assert_eq!(find("default_pool_size"), "30 20 yes");
    assert_eq!(find("server_idle_timeout"), "600 600 yes");
    assert_eq!(find("server_lifetime"), "3600 3600 yes");
    assert_eq!(find("max_prepared_statements"), "200 200 yes");
    assert_eq!(find("listen_port"), "6432 6432 no");
    assert_eq!(find("listen_addr"), "127.0.0.1  no");
    assert_eq!(find("pool.size"), "30 NULL yes");
    assert_eq!(find("listen.tcp"), "127.0.0.1:6432 NULL no");
    assert!(rows.iter().all(|row| row[0].as_deref() != Some("dns_max_ttl")));
}
