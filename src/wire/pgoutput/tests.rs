use super::*;
use proptest::prelude::*;

/// Writes messages as the manual describes them.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn new(kind: u8) -> Self {
        Self(vec![kind])
    }
    fn u8(mut self, v: u8) -> Self {
        self.0.push(v);
        self
    }
    fn u16(mut self, v: u16) -> Self {
        self.0.extend(v.to_be_bytes());
        self
    }
    fn u32(mut self, v: u32) -> Self {
        self.0.extend(v.to_be_bytes());
        self
    }
    fn u64(mut self, v: u64) -> Self {
        self.0.extend(v.to_be_bytes());
        self
    }
    fn text(mut self, v: &str) -> Self {
        self.0.extend(v.as_bytes());
        self.u8(0)
    }
    fn tuple(mut self, values: &[Value<'_>]) -> Self {
        self = self.u16(values.len() as u16);
        for value in values {
            self = match value {
                Value::Null => self.u8(b'n'),
                Value::Unchanged => self.u8(b'u'),
                Value::Text(b) => self.u8(b't').bytes(b),
                Value::Binary(b) => self.u8(b'b').bytes(b),
            };
        }
        self
    }
    fn bytes(mut self, b: &[u8]) -> Self {
        self = self.u32(b.len() as u32);
        self.0.extend(b);
        self
    }
    fn decode(self) -> Result<Message, DecodeError> {
        decode(&self.0.into())
    }
}

#[test]
fn a_transaction_is_read_as_the_manual_describes_it() {
    let begin = Writer::new(b'B').u64(0x10).u64(5).u32(77).decode();
    let expected = Begin { commit_lsn: Lsn(0x10), committed_at: PgTime(5), xid: 77 };
    assert_eq!(begin, Ok(Message::Begin(expected)));
    let commit = Writer::new(b'C').u8(0).u64(0x10).u64(0x20).u64(6).decode();
    let expected = Commit { commit_lsn: Lsn(0x10), end_lsn: Lsn(0x20), committed_at: PgTime(6) };
    assert_eq!(commit, Ok(Message::Commit(expected)));
    assert_eq!(
        Writer::new(b'O').u64(9).text("far").decode(),
        Ok(Message::Origin { lsn: Lsn(9), name: "far".into() })
    );
    assert_eq!(
        Writer::new(b'Y').u32(16400).text("app").text("mood").decode(),
        Ok(Message::Type { oid: 16400, schema: "app".into(), name: "mood".into() })
    );
    assert_eq!(
        Writer::new(b'T').u32(2).u8(3).u32(1).u32(2).decode(),
        Ok(Message::Truncate { relations: vec![1, 2], cascade: true, restart_identity: true })
    );
    assert_eq!(
        Writer::new(b'M').u8(1).u64(4).text("p").bytes(b"hello").decode(),
        Ok(Message::Message {
            is_transactional: true,
            lsn: Lsn(4),
            prefix: "p".into(),
            content: Bytes::from_static(b"hello")
        })
    );
}

#[test]
fn a_relation_without_a_schema_is_of_the_catalog() {
    let message = Writer::new(b'R')
        .u32(16384)
        .text("")
        .text("t")
        .u8(b'd')
        .u16(2)
        .u8(1)
        .text("id")
        .u32(23)
        .u32(u32::MAX)
        .u8(0)
        .text("name")
        .u32(25)
        .u32(u32::MAX)
        .decode();
    let Ok(Message::Relation(r)) = message else { panic!("{message:?}") };
    assert_eq!((r.schema.as_str(), r.identity), ("pg_catalog", Identity::Default));
    assert_eq!(r.columns.iter().map(|c| c.is_key).collect::<Vec<_>>(), [true, false]);
    assert_eq!(r.columns[1].type_modifier, -1);
}

#[test]
fn rows_keep_null_unchanged_text_and_binary_apart() {
    let values = [Value::Null, Value::Unchanged, Value::Text(b""), Value::Binary(b"\x00\x01")];
    let row = Tuple::of(&values);
    assert_eq!(Writer::new(b'I').u32(1).u8(b'N').tuple(&values).decode(), {
        Ok(Message::Insert { relation: 1, new: row.clone() })
    });
    assert_eq!(row.values().collect::<Vec<_>>(), values);
    let key = [Value::Binary(b"k")];
    assert_eq!(
        Writer::new(b'U').u32(1).u8(b'K').tuple(&key).u8(b'N').tuple(&values).decode(),
        Ok(Message::Update { relation: 1, old: Old::Key(Tuple::of(&key)), new: row.clone() })
    );
    assert_eq!(
        Writer::new(b'U').u32(1).u8(b'N').tuple(&values).decode(),
        Ok(Message::Update { relation: 1, old: Old::Absent, new: row })
    );
    assert_eq!(
        Writer::new(b'D').u32(1).u8(b'O').tuple(&key).decode(),
        Ok(Message::Delete { relation: 1, old: Old::Full(Tuple::of(&key)) })
    );
}

#[test]
fn a_stray_stream_abort_of_version_18_is_no_error() {
    assert_eq!(Writer::new(b'A').u32(1).u32(2).decode(), Ok(Message::Stray(b'A')));
}

#[test]
fn broken_messages_are_refused() {
    let check = |w: Writer| assert!(w.decode().is_err());
    check(Writer::default());
    check(Writer::new(b'?'));
    check(Writer::new(b'B').u64(1));
    check(Writer::new(b'B').u64(1).u64(1).u32(1).u8(0));
    check(Writer::new(b'T').u32(u32::MAX).u8(0).u32(1));
    check(Writer::new(b'I').u32(1).u8(b'N').u16(1).u8(b't').u32(u32::MAX));
    check(Writer::new(b'I').u32(1).u8(b'N').u16(9));
    check(Writer::new(b'D').u32(1).u8(b'N').tuple(&[]));
    check(Writer::new(b'Y').u32(1).u8(0xff).u8(0).u8(0));
    check(Writer::new(b'M').u8(0).u64(0).text("p").u32(7));
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes.into());
    }

    #[test]
    fn garbage_behind_a_known_type_never_panics(
        kind in proptest::sample::select(b"BCORYIUDTMSEcA".to_vec()),
        relation in any::<u32>(),
        form in proptest::sample::select(b"NKO".to_vec()),
        bytes in proptest::collection::vec(proptest::sample::select(b"\0\x01\x02ntub\xff".to_vec()), 0..60),
    ) {
        let message = Writer(vec![kind]).u32(relation).u8(form);
        let message: Bytes = [message.0, bytes].concat().into();
        if let Ok(Message::Insert { new, .. } | Message::Update { new, .. }) = decode(&message) {
            prop_assert_eq!(new.values().count(), new.len());
        }
    }

    #[test]
    fn every_row_survives_the_round_trip(
        row in proptest::collection::vec((0..4u8, proptest::collection::vec(any::<u8>(), 0..20)), 0..20)
    ) {
        let values: Vec<Value<'_>> = row.iter().map(|(kind, bytes)| match kind {
            0 => Value::Null,
            1 => Value::Unchanged,
            2 => Value::Text(bytes),
            _ => Value::Binary(bytes),
        }).collect();
        let message = Writer::new(b'I').u32(3).u8(b'N').tuple(&values).decode();
        prop_assert_eq!(&message, &Ok(Message::Insert { relation: 3, new: Tuple::of(&values) }));
        let row = Tuple::of(&values);
        prop_assert_eq!(row.values().collect::<Vec<_>>(), values);
    }
}
