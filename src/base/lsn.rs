//! A position in the write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A position in the write-ahead log of one server ("pg_lsn Type"). Positions of two servers
/// must never be compared; the type cannot see that, so names say whose position it is.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Position 0/0, which PostgreSQL never uses for a record ("InvalidXLogRecPtr").
    pub const ZERO: Lsn = Lsn(0);

    /// Bytes of log from `earlier` up to this position; `None` when `earlier` is ahead, which is
    /// a fact to report and not a number.
    pub fn bytes_since(self, earlier: Lsn) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// A text that is not `hex/hex`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a log position: {0:?}")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseLsnError(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(wrong)?;
        let half = |part: &str| {
            if part.is_empty() || part.len() > 8 || part.starts_with('+') {
                return Err(wrong());
            }
            u32::from_str_radix(part, 16).map_err(|_| wrong())
        };
        Ok(Lsn(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_as_postgresql_writes_it() {
        assert_eq!("16/B374D848".parse(), Ok(Lsn(0x16_B374_D848)));
        assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
        for wrong in ["", "/", "1/", "/1", "1", "1/2/3", "g/0", "123456789/0", "+1/0"] {
            assert!(wrong.parse::<Lsn>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_applied_position_ahead_of_the_sent_one_is_no_number() {
        assert_eq!(Lsn(5).bytes_since(Lsn(3)), Some(2));
        assert_eq!(Lsn(3).bytes_since(Lsn(5)), None);
    }
}
