//! One server, one proxy in front of it, and what both say.

use cloud_mirror::lab::{Cluster, Proxy, SUPERUSER, SocketAuth};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

/// The role of all clients.
pub const ROLE: &str = "app";
/// Their database.
pub const DATABASE: &str = "shop";
/// How long one part of a story may take.
const SHOWING: Duration = Duration::from_secs(20);
/// How long the proxy may take to let a console in.
const ENTRY: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Session,
    Transaction,
    Auto,
    Statement,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Mode::Session => "session",
            Mode::Transaction => "transaction",
            Mode::Auto => "auto",
            Mode::Statement => "statement",
        }
    }

    /// Server connections: fewer than clients, so that some wait, at their log-in or with a statement.
    pub fn pool_size(self) -> u64 {
        match self {
            Mode::Session => 14,
            Mode::Transaction | Mode::Auto | Mode::Statement => 6,
        }
    }

    /// Whether a client may have transactions of several statements.
    pub fn has_blocks(self) -> bool {
        self != Mode::Statement
    }

    /// Whether what a session makes is there with its next transaction.
    pub fn keeps_state(self) -> bool {
        matches!(self, Mode::Session | Mode::Auto)
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
    pub looks: AtomicU64,
    is_calm: AtomicBool,
    /// What has happened, and how often.
    kinds: Mutex<BTreeMap<&'static str, u64>>,
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
        let size = mode.pool_size().to_string();
        let pool = ["--pool-mode", mode.word(), "--pool-size", &size];
        let arguments = [&["--local", &url, "--auth", "trust"], &pool[..]].concat();
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
            looks: AtomicU64::new(0),
            is_calm: AtomicBool::new(true),
            kinds: Mutex::default(),
        }
    }

    /// Whether nothing is to go wrong in this round.
    pub fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }

    pub fn set_calm(&self, is_calm: bool) {
        self.is_calm.store(is_calm, Ordering::Relaxed);
    }

    /// Remembers that this has happened.
    pub fn note(&self, kind: &'static str) {
        *self.kinds.lock().unwrap().entry(kind).or_default() += 1;
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

    /// A connection to the console.
    pub async fn console_client(&self) -> Client {
        let url = self.proxy.url(SUPERUSER, SUPERUSER, "pgbouncer");
        let connecting = timeout(ENTRY, tokio_postgres::connect(&url, NoTls)).await;
        let (client, connection) = match connecting {
            Ok(connected) => connected.unwrap_or_else(|error| panic!("{error:?}\n{}", self.proxy.log())),
            Err(_) => panic!("the console does not open\n{}", self.proxy.log()),
        };
        tokio::spawn(connection);
        client
    }

    /// Runs a statement on the console.
    pub async fn console(&self, text: &str) -> Result<Vec<SimpleQueryRow>, tokio_postgres::Error> {
        let rows = self.console_client().await.simple_query(text).await?.into_iter();
        Ok(rows
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

    /// It was not quiet by mistake.
    pub fn has_had_everything(&self) {
        for counter in [&self.steps, &self.hang_ups, &self.troubles, &self.looks] {
            assert!(counter.load(Ordering::Relaxed) > 0, "{}", self.counts());
        }
    }

    /// What the proxy has in memory.
    pub fn memory_kb(&self) -> u64 {
        let pid = self.proxy.pid().expect("it runs");
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("Linux says so")
    }

    /// Files and sockets that the proxy has open.
    pub fn files(&self) -> u64 {
        let pid = self.proxy.pid().expect("it runs");
        std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64
    }

    pub fn counts(&self) -> impl fmt::Display {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "{} steps, {} connections lost to trouble, {} hang-ups, {} troubles, {} looks: {:?}",
            of(&self.steps),
            of(&self.losses),
            of(&self.hang_ups),
            of(&self.troubles),
            of(&self.looks),
            self.kinds.lock().unwrap()
        )
    }
}
