//! What holds a link with its client in `auto` mode.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// A set of ties; its bits are what `SHOW CLIENTS` tells under `pinned`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ties(u32);

impl Ties {
    /// Nothing.
    pub const NONE: Ties = Ties(0);
    /// A temporary table, view or sequence.
    pub const TEMPORARY: Ties = Ties(1);
    /// An advisory lock of the session.
    pub const ADVISORY_LOCK: Ties = Ties(1 << 1);
    /// LISTEN.
    pub const LISTEN: Ties = Ties(1 << 2);
    /// A cursor WITH HOLD.
    pub const CURSOR: Ties = Ties(1 << 3);
    /// A statement prepared by SQL.
    pub const PREPARE: Ties = Ties(1 << 4);
    /// The seed of `random()`.
    pub const SEED: Ties = Ties(1 << 5);
    /// A library loaded by LOAD.
    pub const LIBRARY: Ties = Ties(1 << 6);
    /// It asks for the last values of sequences.
    pub const LAST_VALUE: Ties = Ties(1 << 7);
    /// A prepared statement too long to be made again.
    pub const LONG_STATEMENT: Ties = Ties(1 << 8);
    /// Something that could not be found out.
    pub const UNKNOWN: Ties = Ties(1 << 9);
    /// A function was called that may keep something in its back end, and no question of ours finds it.
    pub const FUNCTION: Ties = Ties(1 << 10);
    /// It compares what its back end has counted.
    pub const STATISTICS: Ties = Ties(1 << 11);
    /// It may ask for the value of a sequence: the link stays unless others need it.
    pub const SEQUENCE: Ties = Ties(1 << 12);

    /// Those that DISCARD ALL does not undo: the link is closed when its client leaves, and ties it until
    /// then.
    pub const OF_BACK_END: Ties =
        Ties(Self::SEED.0 | Self::LIBRARY.0 | Self::FUNCTION.0 | Self::STATISTICS.0);
    /// Those that only the end of the session, or DISCARD, undoes.
    pub const LASTING: Ties = Ties(Self::LAST_VALUE.0 | Self::OF_BACK_END.0);

    const NAMES: [(Ties, &str, &str); 13] = [
        (Ties::TEMPORARY, "temp_table", "The session had temporary tables."),
        (Ties::ADVISORY_LOCK, "advisory_lock", "The session had advisory locks."),
        (Ties::LISTEN, "listen", "The session was listening for notifications."),
        (Ties::CURSOR, "cursor", "The session had a cursor declared WITH HOLD."),
        (Ties::PREPARE, "prepare", "The session had statements prepared with PREPARE."),
        (Ties::SEED, "setseed", "The session had set the seed of random()."),
        (Ties::LIBRARY, "load", "The session had loaded a library."),
        (Ties::LAST_VALUE, "last_value", "The session asked for the last values of sequences."),
        (Ties::LONG_STATEMENT, "long_statement", "The session had prepared more than is kept."),
        (Ties::UNKNOWN, "unknown", "The session had state that could not be found out."),
        (Ties::FUNCTION, "function", "The session had called a function that may keep something."),
        (Ties::STATISTICS, "statistics", "The session compared what its server process had counted."),
        (Ties::SEQUENCE, "sequence", "The session had advanced a sequence."),
    ];

    /// The first bits, as the server's answer counts them: in the order of the constants, up to
    /// [`Ties::PREPARE`].
    pub fn from_answer(bits: u32) -> Ties {
        Ties(bits & 0x1f)
    }

    /// As a number.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether some of `other` is in it.
    pub fn has(self, other: Ties) -> bool {
        self.0 & other.0 != 0
    }

    /// Those in both.
    #[must_use]
    pub fn and(self, other: Ties) -> Ties {
        Ties(self.0 & other.0)
    }

    /// Why a session with it cannot move, for the DETAIL of its end.
    pub fn reason(self) -> Option<&'static str> {
        Self::NAMES.iter().find(|(tie, ..)| self.has(*tie)).map(|(.., reason)| *reason)
    }
}

impl From<u32> for Ties {
    fn from(bits: u32) -> Self {
        Ties(bits)
    }
}

impl BitOr for Ties {
    type Output = Ties;

    fn bitor(self, other: Ties) -> Ties {
        Ties(self.0 | other.0)
    }
}

impl BitOrAssign for Ties {
    fn bitor_assign(&mut self, other: Ties) {
        self.0 |= other.0;
    }
}

/// Names, joined by commas; nothing for none.
impl fmt::Display for Ties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Self::NAMES.iter().filter(|(tie, ..)| self.has(*tie));
        for (index, (_, name, _)) in names.enumerate() {
            write!(f, "{}{name}", if index > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_have_names_and_reasons() {
        assert_eq!((Ties::LISTEN | Ties::TEMPORARY).to_string(), "temp_table,listen");
        assert_eq!(Ties::NONE.to_string(), "");
        assert_eq!(Ties::NONE.reason(), None);
        for bit in 0..13 {
            let tie = Ties::from(1 << bit);
            assert!(tie.reason().is_some() && !tie.to_string().is_empty(), "{bit}");
        }
        assert_eq!(Ties::from_answer(0xff), Ties::from(0x1f));
    }
}
