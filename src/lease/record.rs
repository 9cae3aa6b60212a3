//! What the store holds: one small document.

use crate::base::{Epoch, Site};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The version of the document that this program writes and reads.
pub const FORMAT: u32 = 1;

/// A record larger than this is not ours.
const BYTES_MAX: usize = 64 * 1024;

/// Who may write, and since which heartbeat. It is replaced, never deleted: a released record
/// keeps its epoch, or the next holder would start again at 1 and old tokens would look new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`].
    pub format: u32,
    /// The pair of sites it belongs to; two pairs on one address must not take each other's.
    pub cluster_id: String,
    /// Fencing token: raised by one with every acquisition.
    pub epoch: Epoch,
    /// The site that may write, or that did last if the record is released.
    pub owner: Site,
    /// The state directory of the holder.
    pub owner_instance: String,
    /// Whether the owner holds it or gave it back.
    pub state: Tenure,
    /// Where the pair stands.
    pub phase: Phase,
    /// Counts the writes of the record.
    pub heartbeat: u64,
    /// Fresh in every write: it alone tells whose write landed.
    pub nonce: Nonce,
    /// Whether silence lets the cloud take over. In the record, so that two sites cannot disagree.
    pub authority: Authority,
    /// How long after its last renewal a silent holder is given up.
    pub ttl_ms: u64,
    /// The holder's wall clock at the renewal, for display; nothing compares it.
    pub renewed_at_ms: u64,
    /// The boot of the holder's machine, for display and for the search of a cause.
    pub boot_id: String,
    /// Why the last acquisition or release happened.
    pub reason: String,
}

/// Whether the owner still holds the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tenure {
    /// Held.
    Active,
    /// Given back by its owner, who had stopped to write before; anybody may take the next epoch.
    Released,
}

/// Where the pair stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The local site writes.
    Normal,
    /// The cloud writes.
    FailedOver,
    /// The way home has begun.
    FailingBack,
}

impl Phase {
    /// As in the record and in `SHOW LEASE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Normal => "normal",
            Phase::FailedOver => "failed_over",
            Phase::FailingBack => "failing_back",
        }
    }
}

/// What silence of the holder means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Authority {
    /// Users arrive through the internet: a silent holder stops after the TTL, and the other takes over.
    Internet,
    /// Users are in the building: a running holder goes on, silence proves nothing.
    Local,
}

impl Authority {
    /// As in the record and in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Authority::Internet => "internet",
            Authority::Local => "local",
        }
    }
}

/// A number no other write carries: the run of the process (random) and a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce {
    /// Random, chosen when the process started.
    pub run: u64,
    /// Counts the writes of that run.
    pub count: u64,
}

impl Serialize for Nonce {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&format!("{:016x}{:016x}", self.run, self.count))
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let wrong = || de::Error::custom("a nonce has 32 hexadecimal digits");
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let half = |part: &str| u64::from_str_radix(part, 16).map_err(|_| wrong());
        Ok(Nonce { run: half(&text[..16])?, count: half(&text[16..])? })
    }
}

/// What the store calls one state of the record: an ETag, a generation, a counter. Opaque.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(pub String);

/// Bytes in the store that are not a record of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by a program that knows more.
    #[error("the lease record has format {0}, this program knows {FORMAT}; run the newer program")]
    Format(u32),
    /// Not the document at all, or half of it.
    #[error("the lease record is damaged ({0}); restore it, or remove it and start with the lease rebuilt")]
    Damaged(String),
}

impl Record {
    /// Reads what the store returned. Never panics, whatever the bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Header {
            format: u32,
        }
        let damaged = |e: serde_json::Error| RecordError::Damaged(e.to_string());
        if bytes.len() > BYTES_MAX {
            return Err(RecordError::Damaged(format!("{} bytes", bytes.len())));
        }
        let header: Header = serde_json::from_slice(bytes).map_err(damaged)?;
        if header.format != FORMAT {
            return Err(RecordError::Format(header.format));
        }
        let record: Record = serde_json::from_slice(bytes).map_err(damaged)?;
        if record.epoch == Epoch::NONE || record.epoch.0 > i64::MAX as u64 {
            return Err(RecordError::Damaged(format!("epoch {}", record.epoch)));
        }
        if record.ttl_ms == 0 || record.ttl_ms > 86_400_000 {
            return Err(RecordError::Damaged(format!("ttl_ms {}", record.ttl_ms)));
        }
        Ok(record)
    }

    /// The bytes to store.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a record has only texts and numbers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> Record {
        Record {
            format: FORMAT,
            cluster_id: "7123".into(),
            epoch: Epoch(7),
            owner: Site::Cloud,
            owner_instance: "ab".into(),
            state: Tenure::Active,
            phase: Phase::FailedOver,
            heartbeat: 3,
            nonce: Nonce { run: 1, count: u64::MAX },
            authority: Authority::Internet,
            ttl_ms: 30_000,
            renewed_at_ms: 1,
            boot_id: "b".into(),
            reason: "why".into(),
        }
    }

    #[test]
    fn a_record_survives_the_store() {
        let bytes = record().to_bytes();
        assert_eq!(Record::parse(&bytes), Ok(record()));
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains("\"nonce\": \"0000000000000001ffffffffffffffff\""), "{text}");
        assert!(
            text.contains("\"phase\": \"failed_over\"") && text.contains("\"owner\": \"cloud\""),
            "{text}"
        );
    }

    #[test]
    fn half_a_record_is_never_a_record() {
        let bytes = record().to_bytes();
        for end in 0..bytes.len() {
            assert!(Record::parse(&bytes[..end]).is_err(), "{end}");
        }
        assert_eq!(Record::parse(br#"{"format":2,"new":true}"#), Err(RecordError::Format(2)));
        let zero = Record { epoch: Epoch(0), ..record() };
        assert!(Record::parse(&zero.to_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..400) {
            Record::parse(&bytes).ok();
            let mut good = record().to_bytes();
            let at = at % good.len();
            for byte in bytes {
                good[at] = byte;
                Record::parse(&good).ok();
            }
        }
    }
}
