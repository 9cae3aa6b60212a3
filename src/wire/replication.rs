//! What wraps the decoded changes, and what we answer ("Streaming Replication Protocol").

use super::pgoutput::PgTime;
use crate::base::{Lsn, SlotName};
use bytes::Bytes;

/// The content of one CopyData message from a walsender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A piece of the stream: one message of the output plugin.
    Data {
        /// Where it starts in the publisher's log.
        start: Lsn,
        /// End of the log as the walsender knows it; for logical decoding the same as `start`.
        end: Lsn,
        /// The publisher's clock when it was sent.
        sent_at: PgTime,
        /// The message.
        content: Bytes,
    },
    /// A sign of life.
    Keepalive {
        /// Everything up to here has been sent, or holds nothing for us.
        end: Lsn,
        /// The publisher's clock when it was sent.
        sent_at: PgTime,
        /// Whether it wants an answer at once; without it the walsender gives up after
        /// `wal_sender_timeout`.
        wants_reply: bool,
    },
}

/// A CopyData that no walsender sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a message of a walsender: {length} bytes of type {kind:?}")]
pub struct FrameError {
    kind: char,
    length: usize,
}

/// Reads the content of one CopyData.
pub fn frame(bytes: Bytes) -> Result<Frame, FrameError> {
    let wrong = || FrameError { kind: bytes.first().map_or('-', |b| char::from(*b)), length: bytes.len() };
    let u64_at = |at: usize| bytes.get(at..)?.first_chunk().copied().map(u64::from_be_bytes);
    let time_at = |at: usize| u64_at(at).map(|t| PgTime(t.cast_signed()));
    let found = match bytes.first() {
        Some(b'w') => (|| {
            let (start, end, sent_at) = (Lsn(u64_at(1)?), Lsn(u64_at(9)?), time_at(17)?);
            Some(Frame::Data { start, end, sent_at, content: bytes.slice(25..) })
        })(),
        Some(b'k') if bytes.len() == 18 => (|| {
            let (end, sent_at) = (Lsn(u64_at(1)?), time_at(9)?);
            Some(Frame::Keepalive { end, sent_at, wants_reply: bytes[17] != 0 })
        })(),
        _ => None,
    };
    found.ok_or_else(wrong)
}

/// Whether a status update asks the walsender to answer at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Not needed.
    No,
    /// It shall send a keepalive: the way to see that it lives and where it is.
    Wanted,
}

/// A "standby status update" as a whole CopyData message. `flushed` is forgotten by the
/// publisher: it must be durable on the subscriber before.
pub fn status_update(
    written: Lsn,
    flushed: Lsn,
    applied: Lsn,
    now: PgTime,
    answer: Answer,
) -> [u8; STATUS_UPDATE_SIZE] {
    let mut m = [0; STATUS_UPDATE_SIZE];
    m[0] = b'd';
    m[1..5].copy_from_slice(&(STATUS_UPDATE_SIZE as u32 - 1).to_be_bytes());
    m[5] = b'r';
    m[6..14].copy_from_slice(&written.0.to_be_bytes());
    m[14..22].copy_from_slice(&flushed.0.to_be_bytes());
    m[22..30].copy_from_slice(&applied.0.to_be_bytes());
    m[30..38].copy_from_slice(&now.0.to_be_bytes());
    m[38] = u8::from(answer == Answer::Wanted);
    m
}

/// Type, length, and 34 bytes of content.
pub const STATUS_UPDATE_SIZE: usize = 39;

/// Whether values come in the form of the send functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueForm {
    /// Text for all.
    Text,
    /// Binary for each type that has a send function.
    Binary,
}

/// The command that asks who the server is.
pub const IDENTIFY_SYSTEM: &str = "IDENTIFY_SYSTEM";

/// The command that makes a logical slot for `pgoutput` and exports the snapshot it starts at. The
/// snapshot lives until the next command on the same connection.
pub fn create_slot(slot: &SlotName) -> String {
    format!("CREATE_REPLICATION_SLOT {slot} LOGICAL pgoutput (SNAPSHOT 'export')")
}

/// The command that starts the stream behind `from`, or behind what the slot has confirmed,
/// whichever is later. Publications must have been created before the slot.
pub fn start(slot: &SlotName, from: Lsn, publications: &[String], form: ValueForm) -> String {
    // The option is a list of identifiers inside a string: quoted twice.
    let names: Vec<String> = publications.iter().map(|p| format!("\"{}\"", p.replace('"', "\"\""))).collect();
    let names = names.join(",").replace('\'', "''");
    let binary = match form {
        ValueForm::Text => "",
        ValueForm::Binary => ", binary 'true'",
    };
    format!(
        "START_REPLICATION SLOT {slot} LOGICAL {from} \
         (proto_version '1', publication_names '{names}', messages 'true'{binary})"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn data_and_keepalives_are_read() {
        let mut data = vec![b'w'];
        data.extend(1u64.to_be_bytes());
        data.extend(2u64.to_be_bytes());
        data.extend(3u64.to_be_bytes());
        data.extend(b"xyz");
        let content = Bytes::from_static(b"xyz");
        let expected = Frame::Data { start: Lsn(1), end: Lsn(2), sent_at: PgTime(3), content };
        assert_eq!(frame(data.into()), Ok(expected));
        let mut keepalive = vec![b'k'];
        keepalive.extend(7u64.to_be_bytes());
        keepalive.extend(8u64.to_be_bytes());
        keepalive.push(1);
        let expected = Frame::Keepalive { end: Lsn(7), sent_at: PgTime(8), wants_reply: true };
        assert_eq!(frame(keepalive.into()), Ok(expected));
        assert!(frame(Bytes::from_static(b"k")).is_err());
        assert!(frame(Bytes::from_static(b"w1234567")).is_err());
        assert!(frame(Bytes::new()).is_err());
    }

    #[test]
    fn the_three_positions_stay_apart_in_an_update() {
        let m = status_update(Lsn(3), Lsn(1), Lsn(2), PgTime(-4), Answer::Wanted);
        assert_eq!(&m[..6], b"d\0\0\0\x26r");
        assert_eq!(m[13], 3);
        assert_eq!(m[21], 1);
        assert_eq!(m[29], 2);
        assert_eq!(i64::from_be_bytes(m[30..38].try_into().unwrap()), -4);
        assert_eq!(m[38], 1);
    }

    #[test]
    fn names_of_publications_are_quoted_twice() {
        let slot = SlotName::new("s").unwrap();
        let command = start(&slot, Lsn(0x16_B374_D848), &["a'b\"c".into(), "d".into()], ValueForm::Binary);
        assert_eq!(
            command,
            "START_REPLICATION SLOT s LOGICAL 16/B374D848 (proto_version '1', \
             publication_names '\"a''b\"\"c\",\"d\"', messages 'true', binary 'true')"
        );
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = frame(bytes.into());
        }
    }
}
