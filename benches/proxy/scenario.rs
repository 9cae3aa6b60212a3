//! What is measured.

use crate::targets::{Login, Mode, Target, pgbouncer_prepares};

/// One thing to measure.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// For `--scenarios` and the report.
    pub name: String,
    /// In words.
    pub title: String,
    /// How.
    pub kind: Kind,
    /// Whether it belongs to the short run.
    pub is_default: bool,
}

/// Ways of measuring.
#[derive(Debug, Clone)]
pub enum Kind {
    /// pgbench for some seconds.
    Load(Load),
    /// Much data on one connection.
    Bulk(Bulk),
    /// Clients that do nothing.
    Idle {
        /// How many.
        clients: usize,
    },
}

/// What pgbench does.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Which transaction.
    pub script: Script,
    /// `-M`.
    pub protocol: &'static str,
    /// `-c`.
    pub clients: u32,
    /// Whether each transaction has a connection of its own (`-C`).
    pub reconnects: bool,
    /// How clients log in.
    pub login: Login,
}

/// pgbench's own transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// `-S`: one SELECT by key.
    SelectOnly,
    /// TPC-B-like: seven statements.
    TpcB,
}

/// Some hundred megabytes one way.
#[derive(Debug, Clone, Copy)]
pub enum Bulk {
    /// What this query returns.
    Out(&'static str),
    /// COPY FROM STDIN.
    In,
}

impl Scenario {
    /// All of them, in the order of the report.
    pub fn all() -> Vec<Scenario> {
        let mut all = Vec::new();
        let mut add = |name: String, title: String, is_default: bool, kind: Kind| {
            all.push(Scenario { name, title, kind, is_default });
        };
        let plain = Load {
            script: Script::SelectOnly,
            protocol: "simple",
            clients: 4,
            reconnects: false,
            login: Login::Trust,
        };
        for protocol in ["simple", "extended", "prepared"] {
            for clients in [1, 8, 64] {
                let many = if clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") };
                let title = format!("select-only, {protocol} protocol, {many}");
                let is_default = clients == 8 || protocol == "prepared";
                let load = Load { protocol, clients, ..plain };
                add(format!("{protocol}-{clients}"), title, is_default, Kind::Load(load));
            }
        }
        let load = Load { script: Script::TpcB, protocol: "prepared", clients: 8, ..plain };
        add("tpcb-8".into(), "TPC-B-like, prepared protocol, 8 clients".into(), true, Kind::Load(load));
        for (name, login, how) in [
            ("connect", Login::Trust, "without a password"),
            ("connect-scram", Login::Scram, "by SCRAM-SHA-256, verifiers in a file"),
            ("connect-scram-asked", Login::ScramAsked, "by SCRAM-SHA-256, verifiers asked for each time"),
            ("connect-tls", Login::Tls, "over TLS"),
        ] {
            let title = format!("select-only, a connection for each transaction {how}, 4 clients");
            let load = Load { reconnects: true, login, ..plain };
            add(name.into(), title, login == Login::Trust, Kind::Load(load));
        }
        for (name, query, what, is_default) in [
            ("bulk", "SELECT repeat('x', 1000) FROM generate_series(1, 500000)", "rows of 1,000 bytes", true),
            (
                "bulk-100",
                "SELECT repeat('x', 100) FROM generate_series(1, 2000000)",
                "rows of 100 bytes",
                false,
            ),
            ("bulk-10k", "SELECT repeat('x', 10000) FROM generate_series(1, 50000)", "rows of 10 kB", false),
            (
                "copy-out",
                "COPY (SELECT repeat('x', 100) FROM generate_series(1, 3000000)) TO STDOUT",
                "COPY out, rows of 100 bytes",
                false,
            ),
        ] {
            add(name.into(), format!("{what}, 1 client"), is_default, Kind::Bulk(Bulk::Out(query)));
        }
        add("copy-in".into(), "COPY in, rows of 100 bytes, 1 client".into(), false, Kind::Bulk(Bulk::In));
        for (name, clients) in [("idle", 1000), ("idle-5000", 5000)] {
            let title = format!("{clients} clients that are connected and idle");
            add(name.into(), title, clients == 1000, Kind::Idle { clients });
        }
        all
    }

    /// Whether it says anything about this target.
    pub fn fits(&self, target: Target) -> bool {
        let is_proxy = target.mode().is_some();
        let is_pooled = target.mode().is_some_and(|mode| mode != Mode::Session);
        match &self.kind {
            Kind::Load(load) if load.reconnects => {
                is_proxy && !is_pooled || target == Target::Direct && load.login == Login::Trust
            }
            Kind::Load(load) => {
                let is_lost = target.is_pgbouncer() && is_pooled && !pgbouncer_prepares();
                !(is_lost && load.protocol == "prepared")
            }
            Kind::Bulk(_) => !is_pooled,
            // Each client has a server in session mode.
            Kind::Idle { clients } => is_proxy && (is_pooled || *clients <= 1000),
        }
    }
}
