//! What an operator has stopped.

use std::collections::BTreeSet;

/// Whether statements are stopped for all databases at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Halt {
    /// They are not.
    #[default]
    None,
    /// No client gets a link; whoever has one keeps it until it is given back (`PAUSE`).
    Paused,
    /// Nobody's statements are sent, links or not (`SUSPEND`).
    Suspended,
}

/// Who may come in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Entry {
    /// Everyone.
    #[default]
    Open,
    /// Clients of the console only: the process ends when the others have left
    /// (`SHUTDOWN WAIT_FOR_CLIENTS`).
    ConsoleOnly,
    /// The same, and clients that wait for a link are sent away
    /// (`SHUTDOWN WAIT_FOR_SERVERS`).
    NobodyWaits,
}

/// Stopped by command, apart from what the controller decides: a switch neither needs nor lifts
/// it. Databases are named as clients name them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Halts {
    /// All databases.
    pub all: Halt,
    /// These databases are paused (`PAUSE db`, `KILL`).
    pub paused: BTreeSet<Vec<u8>>,
    /// These take no new clients (`DISABLE db`).
    pub disabled: BTreeSet<Vec<u8>>,
    /// New clients.
    pub entry: Entry,
}

/// How a client comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By TCP.
    Tcp,
    /// Through a Unix socket, which stays open for the console until the end.
    Unix,
}

/// Why a client is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoEntry {
    /// `DISABLE`.
    #[error("database \"{database}\" is disabled")]
    Disabled {
        /// As the client named it.
        database: String,
    },
    /// `SHUTDOWN` with a wait.
    #[error("the proxy is shutting down")]
    ShuttingDown,
}

impl Halts {
    /// Whether clients of `database` get links.
    pub fn gives_links(&self, database: &[u8]) -> bool {
        self.all == Halt::None && !self.paused.contains(database)
    }

    /// Whether a new client of `database` is let in. Who comes by TCP while the process ends has
    /// connected before: nobody listens there any more.
    pub fn lets_in(&self, database: &[u8], way: Way) -> Result<(), NoEntry> {
        if self.disabled.contains(database) {
            return Err(NoEntry::Disabled { database: String::from_utf8_lossy(database).into_owned() });
        }
        match (self.entry, way) {
            (Entry::Open, _) | (Entry::ConsoleOnly, Way::Tcp) => Ok(()),
            (Entry::ConsoleOnly, Way::Unix) | (Entry::NobodyWaits, _) => Err(NoEntry::ShuttingDown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_database_stops_no_other_one() {
        let mut halts = Halts { paused: [b"shop".to_vec()].into(), ..Halts::default() };
        assert!(!halts.gives_links(b"shop") && halts.gives_links(b"stock"));
        assert_eq!(halts.lets_in(b"shop", Way::Tcp), Ok(()));
        halts.all = Halt::Paused;
        assert!(!halts.gives_links(b"stock"));
    }

    #[test]
    fn disabled_and_ending_are_told_apart() {
        let mut halts = Halts { disabled: [b"shop".to_vec()].into(), ..Halts::default() };
        let disabled = NoEntry::Disabled { database: "shop".to_owned() };
        let lets_in = |halts: &Halts, database: &[u8]| halts.lets_in(database, Way::Unix);
        assert_eq!((lets_in(&halts, b"shop"), lets_in(&halts, b"stock")), (Err(disabled), Ok(())));
        assert!(halts.gives_links(b"shop"));
        halts.entry = Entry::ConsoleOnly;
        assert_eq!(lets_in(&halts, b"stock"), Err(NoEntry::ShuttingDown));
        assert_eq!(halts.lets_in(b"stock", Way::Tcp), Ok(()));
        halts.entry = Entry::NobodyWaits;
        assert_eq!(halts.lets_in(b"stock", Way::Tcp), Err(NoEntry::ShuttingDown));
    }
}
