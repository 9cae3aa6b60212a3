//! One server, one proxy in front of it, and what both say.

use cloud_mirror::lab::{Cluster, Instead, Proxy, SUPERUSER, SocketAuth};
use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::timeout;
use tokio_postgres::{NoTls, SimpleQueryMessage, SimpleQueryRow};

/// The role of all clients.
pub const ROLE: &str = "app";
/// Their database.
pub const DATABASE: &str = "shop";
/// How long one part of a story may take.
const SHOWING: Duration = Duration::from_secs(5);
/// Server connections in the pooled modes: fewer than clients.
const POOL_SIZE: u64 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Session,
    Transaction,
    Auto,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Mode::Session => "session",
            Mode::Transaction => "transaction",
            Mode::Auto => "auto",
        }
    }
}

pub struct Stage {
    pub mode: Mode,
    pub cluster: Cluster,
    pub proxy: Proxy,
    /// Rows that were acknowledged.
    acknowledged: Mutex<HashSet<i64>>,
    next: AtomicU64,
    pub steps: AtomicU64,
    pub losses: AtomicU64,
    pub hang_ups: AtomicU64,
    pub troubles: AtomicU64,
}

/// What SHOW POOLS says of the clients' pool.
#[derive(Debug, Default)]
pub struct Pools {
    pub clients: u64,
    pub waiting: u64,
    pub active: u64,
    pub servers: u64,
    /// Clients whose link is held by something they have made.
    pub pinned: Vec<String>,
}

/// What the server says of the clients' role.
#[derive(Debug)]
pub struct ServerSide {
    pub sessions: u64,
    pub in_transaction: u64,
}

impl Stage {
    pub async fn set(mode: Mode) -> Stage {
        let cluster = Cluster::builder()
            .socket_auth(SocketAuth::Trust)
            .hba("host all all 127.0.0.1/32 trust")
            .setting("max_connections", 60)
            .start()
            .await
            .unwrap();
        cluster.create_role(ROLE, ROLE, "").await.unwrap();
        cluster.create_database(DATABASE).await.unwrap();
        let tables = "CREATE TABLE ledger (id bigint PRIMARY KEY, who int); CREATE TABLE scratch (n int);
            GRANT ALL ON ledger, scratch TO app; GRANT CREATE ON SCHEMA public TO app";
        cluster.sql(DATABASE, tables).await.unwrap();
        let url = cluster.url(SUPERUSER, DATABASE);
        let size = POOL_SIZE.to_string();
        let mut arguments = vec!["--local", &url, "--auth", "trust", "--pool-mode", mode.word()];
        if mode != Mode::Session {
            arguments.extend(["--pool-size", &size]);
        }
        let proxy = Proxy::new(Path::new(env!("CARGO_BIN_EXE_cloud-mirror")), &arguments).unwrap();
        let proxy = proxy.variable("CLOUD_MIRROR__AUTH__ADMIN_USERS", SUPERUSER);
        proxy.start().await.unwrap();
        Stage {
            mode,
            cluster,
            proxy,
            acknowledged: Mutex::default(),
            next: AtomicU64::new(1),
            steps: AtomicU64::new(0),
            losses: AtomicU64::new(0),
            hang_ups: AtomicU64::new(0),
            troubles: AtomicU64::new(0),
        }
    }

    pub fn url(&self) -> String {
        self.proxy.url(ROLE, ROLE, DATABASE)
    }

    /// A number that nobody else gets.
    pub fn number(&self) -> i64 {
        self.next.fetch_add(1, Ordering::Relaxed).cast_signed()
    }

    pub fn acknowledge(&self, id: i64) {
        self.acknowledged.lock().unwrap().insert(id);
    }

    /// Every acknowledged row is there.
    pub async fn nothing_is_lost(&self) {
        let rows = self.cluster.query(DATABASE, "SELECT id FROM ledger").await.unwrap();
        let there: HashSet<i64> = rows.iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect();
        let acknowledged = self.acknowledged.lock().unwrap();
        let lost: Vec<&i64> = acknowledged.difference(&there).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    }

    /// Runs a statement on the console.
    pub async fn console(&self, text: &str) -> Result<Vec<SimpleQueryRow>, tokio_postgres::Error> {
        let url = self.proxy.url(SUPERUSER, SUPERUSER, "pgbouncer");
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
        tokio::spawn(connection);
        let rows = client.simple_query(text).await?;
        Ok(rows
            .into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            })
            .collect())
    }

    /// All that can be seen, for a failure.
    pub async fn story(&self) -> String {
        let mut story = self.proxy.log();
        for text in ["SHOW POOLS", "SHOW CLIENTS", "SHOW SERVERS"] {
            story += &format!("\n{text}\n");
            match timeout(SHOWING, self.console(text)).await {
                Ok(Ok(rows)) => {
                    for row in rows {
                        let cells = (0..row.len()).map(|at| row.get(at).unwrap_or("-"));
                        story += &format!("{}\n", cells.collect::<Vec<_>>().join(" "));
                    }
                }
                other => story += &format!("{other:?}"),
            }
        }
        let sessions = "SELECT pid, state, wait_event, backend_start, state_change, left(query, 60)
            FROM pg_stat_activity WHERE usename = 'app'";
        story + &format!("\n{:?}", timeout(SHOWING, self.cluster.query("postgres", sessions)).await)
    }

    pub async fn pools(&self) -> Result<Pools, Instead> {
        let mut pools = Pools::default();
        for row in self.console("SHOW POOLS").await? {
            let number = |name: &str| row.get(name).unwrap_or("0").parse::<u64>();
            if row.get("user") != Some(ROLE) {
                continue;
            }
            pools.waiting += number("cl_waiting")?;
            pools.clients += number("cl_active")? + number("cl_waiting")?;
            pools.active += number("sv_active")?;
            for name in ["sv_active", "sv_idle", "sv_used", "sv_tested", "sv_login"] {
                pools.servers += number(name)?;
            }
        }
        for row in self.console("SHOW CLIENTS").await? {
            let pinned = row.get("pinned").unwrap_or_default();
            if row.get("user") == Some(ROLE) && !pinned.is_empty() {
                pools.pinned.push(pinned.to_owned());
            }
        }
        let most = if self.mode == Mode::Session { 60 } else { POOL_SIZE };
        assert!(pools.servers <= most, "{pools:?} of at most {most} servers");
        Ok(pools)
    }

    pub async fn server_side(&self) -> Result<ServerSide, Instead> {
        let text = "SELECT count(*), count(*) FILTER (WHERE xact_start IS NOT NULL)
            FROM pg_stat_activity WHERE usename = 'app'";
        let rows = self.cluster.query("postgres", text).await?;
        let number = |at: usize| rows[0][at].as_deref().unwrap_or("0").parse::<u64>();
        Ok(ServerSide { sessions: number(0)?, in_transaction: number(1)? })
    }

    /// What the proxy has in memory.
    pub fn memory_kb(&self) -> u64 {
        let pid = self.proxy.pid().expect("it runs");
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("Linux says so")
    }

    pub fn counts(&self) -> impl fmt::Display {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "{} steps, {} connections lost to trouble, {} hang-ups, {} troubles",
            of(&self.steps),
            of(&self.losses),
            of(&self.hang_ups),
            of(&self.troubles)
        )
    }
}
