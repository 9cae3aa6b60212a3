//! The unmodified `pgbouncer_exporter` of Prometheus: what it asks, in its order, on one connection
//! that speaks as lib/pq does, and what it makes of the answers (`collector.go`). An answer that it
//! cannot use means `up 0`.

use super::running::{PATIENCE, client, proxy};
use cloud_mirror::lab::{Proxy, eventually, that};
use std::collections::{BTreeMap, BTreeSet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// A value as lib/pq hands it to `database/sql`: bytes for every type that it does not decode.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Null,
    Int(i64),
    Text(String),
    Bytes(String),
    Other(u32),
}

impl Value {
    fn decode(oid: u32, bytes: Option<&[u8]>) -> Value {
        let Some(bytes) = bytes else { return Value::Null };
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        match oid {
            20 | 21 | 23 => Value::Int(text.parse().unwrap()),
            25 | 1043 => Value::Text(text),
            1700 => Value::Bytes(text),
            oid => Value::Other(oid),
        }
    }

    /// `dbToFloat64`; `None` is an error.
    fn number(&self) -> Option<f64> {
        match self {
            Value::Null => Some(f64::NAN),
            Value::Int(number) => Some(*number as f64),
            Value::Text(text) | Value::Bytes(text) => text.parse().ok(),
            Value::Other(_) => None,
        }
    }

    /// A label's value; bytes become `<invalid>`.
    fn label(&self) -> Option<String> {
        match self {
            Value::Null => Some(String::new()),
            Value::Int(number) => Some(number.to_string()),
            Value::Text(text) => Some(text.clone()),
            Value::Bytes(_) | Value::Other(_) => None,
        }
    }
}

/// The answer to a query.
struct Rows {
    columns: Vec<(String, u32)>,
    rows: Vec<Vec<Value>>,
}

impl Rows {
    fn column<'a>(&self, row: &'a [Value], name: &str) -> &'a Value {
        let index = self.columns.iter().position(|(known, _)| known == name);
        &row[index.unwrap_or_else(|| panic!("no column {name}"))]
    }
}

/// One connection, as lib/pq opens it.
struct LibPq(UnixStream);

impl LibPq {
    async fn connect(proxy: &Proxy) -> LibPq {
        let path = proxy.directory().join(format!(".s.PGSQL.{}", proxy.port()));
        let mut socket = UnixStream::connect(path).await.unwrap();
        let mut body = 196_608u32.to_be_bytes().to_vec();
        for text in [
            "client_encoding",
            "UTF8",
            "datestyle",
            "ISO, MDY",
            "extra_float_digits",
            "2",
            "user",
            "stats",
            "database",
            "pgbouncer",
        ] {
            body.extend(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        socket.write_all(&[&(body.len() as u32 + 4).to_be_bytes()[..], &body].concat()).await.unwrap();
        let mut this = LibPq(socket);
        loop {
            match this.message().await {
                (b'Z', _) => return this,
                (b'R' | b'S' | b'K' | b'N', _) => {}
                (tag, body) => panic!("{} {}", tag as char, body.escape_ascii()),
            }
        }
    }

    async fn message(&mut self) -> (u8, Vec<u8>) {
        let tag = self.0.read_u8().await.unwrap();
        let length = self.0.read_u32().await.unwrap() as usize;
        let mut body = vec![0; length - 4];
        self.0.read_exact(&mut body).await.unwrap();
        (tag, body)
    }

    /// A query without arguments goes by the simple protocol.
    async fn query(&mut self, text: &str) -> Result<Rows, String> {
        let message = [b"Q", &(text.len() as u32 + 5).to_be_bytes()[..], text.as_bytes(), b"\0"].concat();
        self.0.write_all(&message).await.unwrap();
        let mut rows = Rows { columns: Vec::new(), rows: Vec::new() };
        let mut error = None;
        loop {
            match self.message().await {
                (b'T', body) => rows.columns = described(&body),
                (b'D', body) => {
                    let row = data(&body);
                    assert_eq!(row.len(), rows.columns.len());
                    let typed = rows.columns.iter().zip(row);
                    rows.rows.push(typed.map(|((_, oid), value)| Value::decode(*oid, value)).collect());
                }
                (b'E', body) => error = Some(body.escape_ascii().to_string()),
                (b'Z', _) => return error.map_or(Ok(rows), Err),
                (b'C' | b'N', _) => {}
                (tag, _) => panic!("{}", tag as char),
            }
        }
    }
}

fn described(body: &[u8]) -> Vec<(String, u32)> {
    let count = u16::from_be_bytes([body[0], body[1]]);
    let mut rest = &body[2..];
    let column = |_| {
        let end = rest.iter().position(|byte| *byte == 0).unwrap();
        let name = String::from_utf8(rest[..end].to_vec()).unwrap();
        let field = &rest[end + 1..];
        let oid = u32::from_be_bytes([field[6], field[7], field[8], field[9]]);
        assert_eq!(field[16..18], [0, 0], "text format");
        rest = &field[18..];
        (name, oid)
    };
    (0..count).map(column).collect()
}

fn data(body: &[u8]) -> Vec<Option<&[u8]>> {
    let count = u16::from_be_bytes([body[0], body[1]]);
    let mut rest = &body[2..];
    let value = |_| {
        let (length, behind) = rest.split_first_chunk::<4>().unwrap();
        let length = i32::from_be_bytes(*length);
        let Ok(length) = usize::try_from(length) else {
            rest = behind;
            return None;
        };
        let (value, behind) = behind.split_at(length);
        rest = behind;
        Some(value)
    };
    (0..count).map(value).collect()
}

/// Its maps: a table, the columns that are labels, and those that are numbers.
const MAPS: [(&str, &[&str], &[&str]); 3] = [
    (
        "databases",
        &["name", "host", "port", "database", "force_user", "pool_mode"],
        &["pool_size", "reserve_pool_size", "max_connections", "current_connections", "paused", "disabled"],
    ),
    (
        "stats_totals",
        &["database"],
        &[
            "query_count",
            "query_time",
            "bytes_received",
            "bytes_sent",
            "wait_time",
            "xact_count",
            "xact_time",
            "client_parse_count",
            "server_parse_count",
            "bind_count",
            "server_assignment_count",
        ],
    ),
    (
        "pools",
        &["database", "user"],
        &[
            "cl_active",
            "cl_active_cancel_req",
            "cl_waiting",
            "cl_waiting_cancel_req",
            "sv_active",
            "sv_active_cancel",
            "sv_being_canceled",
            "sv_idle",
            "sv_used",
            "sv_tested",
            "sv_login",
            "maxwait",
        ],
    ),
];

const LISTS: [&str; 11] = [
    "databases",
    "users",
    "pools",
    "free_clients",
    "used_clients",
    "login_clients",
    "free_servers",
    "used_servers",
    "dns_names",
    "dns_zones",
    "dns_queries",
];

/// One scrape: the series with their values; an error where it says `up 0` or `<invalid>`.
async fn scrape(proxy: &Proxy) -> Result<BTreeMap<String, f64>, String> {
    let mut db = LibPq::connect(proxy).await;
    let mut series = BTreeMap::new();
    db.query("SHOW STATS").await?;
    let version = db.query("SHOW VERSION;").await?;
    if version.columns.len() != 1 || version.columns[0].0 != "version" {
        return Err("show version didn't return version column".to_owned());
    }
    assert_eq!(version.rows.len(), 1);
    let lists = db.query("SHOW LISTS;").await?;
    assert_eq!(lists.columns.len(), 2);
    for row in &lists.rows {
        let name = row[0].label().ok_or("a list has no name")?;
        let items = row[1].number().ok_or_else(|| format!("list {name} is no number"))?;
        if LISTS.contains(&name.as_str()) {
            series.insert(format!("pgbouncer_list_{name}"), items);
        }
    }
    let config = db.query("SHOW CONFIG;").await?;
    assert_eq!(config.columns.len(), 4);
    for row in &config.rows {
        let key = row[0].label().ok_or("a setting has no name")?;
        assert!(matches!(row[3], Value::Text(_)), "changeable is scanned into a string");
        if ["max_client_conn", "max_user_connections"].contains(&key.as_str()) {
            series.insert(format!("pgbouncer_config_{key}"), row[1].number().ok_or("no number")?);
        }
    }
    let clients = db.query("SHOW CLIENTS;").await?;
    for row in &clients.rows {
        let labels = ["database", "user", "application_name", "state"];
        let labels = labels.map(|name| clients.column(row, name).label().expect("a text"));
        *series.entry(format!("pgbouncer_client_connections{labels:?}")).or_default() += 1.0;
    }
    for (table, labels, numbers) in MAPS {
        let rows = db.query(&format!("SHOW {table};")).await?;
        for row in &rows.rows {
            let mut values = Vec::new();
            for label in labels {
                let value = rows.column(row, label);
                values.push(value.label().ok_or_else(|| format!("{table}.{label} is <invalid>"))?);
            }
            for number in numbers {
                let value = rows.column(row, number).number();
                let value = value.ok_or_else(|| format!("{table}.{number} cannot be parsed"))?;
                series.insert(format!("pgbouncer_{table}_{number}{values:?}"), value);
            }
        }
    }
    Ok(series)
}

#[tokio::test]
async fn the_exporter_is_up_and_has_every_series() {
    let proxy = proxy(&[("auth.stats_users", "stats"), ("pool.max_client_conn", "250")]).await;
    let shop = client(&proxy, "shop").await.unwrap();
    for _ in 0..10 {
        shop.simple_query("SELECT 1").await.unwrap();
    }
    // The last answer is counted behind its way to the client.
    let queries = "pgbouncer_stats_totals_query_count[\"shop\"]";
    let series = eventually(PATIENCE, async || {
        that(scrape(&proxy).await?, |series| series.get(queries).is_some_and(|count| *count >= 10.0))
    })
    .await;
    let tables: BTreeSet<&str> = series.keys().map(|name| name.split('[').next().unwrap()).collect();
    for (table, _, numbers) in MAPS {
        for number in numbers {
            assert!(
                tables.contains(format!("pgbouncer_{table}_{number}").as_str()),
                "{table} {number}: {series:#?}"
            );
        }
    }
    for list in LISTS {
        assert!(tables.contains(format!("pgbouncer_list_{list}").as_str()), "{list}");
    }
    let of = |start: &str, names: &[&str]| {
        let found = series.iter().find(|(name, _)| {
            name.starts_with(&format!("{start}[")) && names.iter().all(|part| name.contains(part))
        });
        *found.unwrap_or_else(|| panic!("no {start} {names:?}: {series:#?}")).1
    };
    assert_eq!(series["pgbouncer_config_max_client_conn"], 250.0);
    assert_eq!(series["pgbouncer_config_max_user_connections"], 0.0);
    assert_eq!(series["pgbouncer_list_used_clients"], 1.0);
    assert_eq!(of("pgbouncer_client_connections", &["shop", "app"]), 1.0);
    assert_eq!(of("pgbouncer_pools_cl_active", &["shop", "app"]), 1.0);
    assert_eq!(of("pgbouncer_pools_sv_active", &["shop", "app"]), 1.0);
    assert_eq!(of("pgbouncer_databases_current_connections", &["shop"]), 1.0);
    assert_eq!(of("pgbouncer_databases_paused", &["shop"]), 0.0);
    assert!(of("pgbouncer_stats_totals_query_count", &["shop"]) >= 10.0);
    assert!(of("pgbouncer_stats_totals_xact_count", &["shop"]) >= 10.0);
    assert!(of("pgbouncer_stats_totals_bytes_sent", &["shop"]) > 100.0);
    // Not one of the numbers is missing.
    assert!(series.values().all(|value| !value.is_nan()), "{series:#?}");
}
