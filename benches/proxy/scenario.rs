//! What is measured.

use crate::targets::Target;

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
    /// One result of a gigabyte.
    Bulk,
    /// Clients that do nothing.
    Idle {
        /// How many.
        clients: usize,
    },
}

/// What pgbench does.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// `-M`.
    pub protocol: &'static str,
    /// `-c`.
    pub clients: u32,
    /// Whether each transaction has a connection of its own (`-C`).
    pub reconnects: bool,
}

impl Scenario {
    /// All of them, in the order of the report.
    pub fn all() -> Vec<Scenario> {
        let mut all = Vec::new();
        for protocol in ["simple", "extended", "prepared"] {
            for clients in [1, 8, 64] {
                let many = if clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") };
                all.push(Scenario {
                    name: format!("{protocol}-{clients}"),
                    title: format!("select-only, {protocol} protocol, {many}"),
                    kind: Kind::Load(Load { protocol, clients, reconnects: false }),
                    is_default: clients == 8 || protocol == "prepared",
                });
            }
        }
        all.push(Scenario {
            name: "connect".to_owned(),
            title: "select-only, a connection for each transaction, 4 clients".to_owned(),
            kind: Kind::Load(Load { protocol: "simple", clients: 4, reconnects: true }),
            is_default: true,
        });
        all.push(Scenario {
            name: "bulk".to_owned(),
            title: "one result of 1 GB in rows of 1,000 bytes, 1 client".to_owned(),
            kind: Kind::Bulk,
            is_default: true,
        });
        all.push(Scenario {
            name: "idle".to_owned(),
            title: "1,000 clients that are connected and idle".to_owned(),
            kind: Kind::Idle { clients: 1000 },
            is_default: true,
        });
        all
    }

    /// Whether it says anything about this target.
    pub fn fits(&self, target: Target) -> bool {
        match self.kind {
            Kind::Load(_) | Kind::Bulk => true,
            Kind::Idle { .. } => target != Target::Direct,
        }
    }
}
