//! Bytes to [`Message`].

use super::{Begin, Column, Commit, Identity, Message, Old, PgTime, Relation, Tuple};
use crate::base::Lsn;
use bytes::Bytes;

/// Bytes that are no message of protocol version 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a pgoutput message: {what} (type {kind:?}, {length} bytes)")]
pub struct DecodeError {
    what: &'static str,
    kind: char,
    length: usize,
}

/// Decodes one message, the content of one XLogData. Rows and messages keep slices of `bytes`.
pub fn decode(bytes: &Bytes) -> Result<Message, DecodeError> {
    let mut r = Reader { bytes, at: 0 };
    let message = r.message()?;
    match message {
        Message::Stray(_) => Ok(message),
        _ if r.at == bytes.len() => Ok(message),
        _ => Err(r.wrong("bytes behind the end")),
    }
}

struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    fn message(&mut self) -> Result<Message, DecodeError> {
        Ok(match self.u8()? {
            b'B' => Message::Begin(Begin {
                commit_lsn: self.lsn()?,
                committed_at: self.time()?,
                xid: self.u32()?,
            }),
            b'C' => {
                let _flags = self.u8()?;
                Message::Commit(Commit {
                    commit_lsn: self.lsn()?,
                    end_lsn: self.lsn()?,
                    committed_at: self.time()?,
                })
            }
            b'O' => Message::Origin { lsn: self.lsn()?, name: self.text()? },
            b'R' => Message::Relation(self.relation()?),
            b'Y' => Message::Type { oid: self.u32()?, schema: self.text()?, name: self.text()? },
            b'I' => {
                let relation = self.u32()?;
                self.expect(b'N')?;
                Message::Insert { relation, new: self.tuple()? }
            }
            b'U' => {
                let relation = self.u32()?;
                let old = match self.u8()? {
                    b'K' => Old::Key(self.tuple()?),
                    b'O' => Old::Full(self.tuple()?),
                    b'N' => return Ok(Message::Update { relation, old: Old::Absent, new: self.tuple()? }),
                    _ => return Err(self.wrong("an update without a new row")),
                };
                self.expect(b'N')?;
                Message::Update { relation, old, new: self.tuple()? }
            }
            b'D' => {
                let relation = self.u32()?;
                let old = match self.u8()? {
                    b'K' => Old::Key(self.tuple()?),
                    b'O' => Old::Full(self.tuple()?),
                    _ => return Err(self.wrong("a delete without an old row")),
                };
                Message::Delete { relation, old }
            }
            b'T' => {
                let count = self.u32()? as usize;
                let flags = self.u8()?;
                if count > self.left() / 4 {
                    return Err(self.wrong("more tables than bytes"));
                }
                let relations = (0..count).map(|_| self.u32()).collect::<Result<_, _>>()?;
                Message::Truncate { relations, cascade: flags & 1 != 0, restart_identity: flags & 2 != 0 }
            }
            b'M' => {
                let is_transactional = self.u8()? & 1 != 0;
                let lsn = self.lsn()?;
                let prefix = self.text()?;
                let length = self.u32()? as usize;
                Message::Message { is_transactional, lsn, prefix, content: self.slice(length)? }
            }
            // Stream Start/Stop/Commit/Abort/Prepare, Begin Prepare, Prepare, Commit Prepared,
            // Rollback Prepared: all of them need an option that we do not set.
            kind @ (b'S' | b'E' | b'c' | b'A' | b'p' | b'b' | b'P' | b'K' | b'r') => Message::Stray(kind),
            _ => return Err(self.wrong("unknown type")),
        })
    }

    fn relation(&mut self) -> Result<Relation, DecodeError> {
        let oid = self.u32()?;
        let mut schema = self.text()?;
        if schema.is_empty() {
            schema.push_str("pg_catalog");
        }
        let name = self.text()?;
        let identity = match self.u8()? {
            b'd' => Identity::Default,
            b'n' => Identity::Nothing,
            b'f' => Identity::Full,
            b'i' => Identity::Index,
            _ => return Err(self.wrong("unknown replica identity")),
        };
        let count = self.u16()?;
        let mut columns = Vec::with_capacity(usize::from(count).min(self.left() / 10));
        for _ in 0..count {
            columns.push(Column {
                is_key: self.u8()? & 1 != 0,
                name: self.text()?,
                type_oid: self.u32()?,
                type_modifier: self.u32()?.cast_signed(),
            });
        }
        Ok(Relation { oid, schema, name, identity, columns })
    }

    fn tuple(&mut self) -> Result<Tuple, DecodeError> {
        let columns = self.u16()?;
        let rest = self.bytes.slice(self.at..);
        let (tuple, length) = Tuple::check(columns, &rest).ok_or_else(|| self.wrong("a broken row"))?;
        self.at += length;
        Ok(tuple)
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let found = self.bytes[self.at..].first_chunk::<N>().copied();
        let found = found.ok_or_else(|| self.wrong("it ends too early"))?;
        self.at += N;
        Ok(found)
    }

    fn slice(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        if length > self.left() {
            return Err(self.wrong("it ends too early"));
        }
        let slice = self.bytes.slice(self.at..self.at + length);
        self.at += length;
        Ok(slice)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[b]| b)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        self.array().map(|b| Lsn(u64::from_be_bytes(b)))
    }

    fn time(&mut self) -> Result<PgTime, DecodeError> {
        self.array().map(|b| PgTime(i64::from_be_bytes(b)))
    }

    fn text(&mut self) -> Result<String, DecodeError> {
        let rest = &self.bytes[self.at..];
        let end = memchr::memchr(0, rest).ok_or_else(|| self.wrong("a text without an end"))?;
        let text = std::str::from_utf8(&rest[..end]).map_err(|_| self.wrong("a name that is not UTF-8"))?;
        let text = text.to_owned();
        self.at += end + 1;
        Ok(text)
    }

    fn expect(&mut self, kind: u8) -> Result<(), DecodeError> {
        if self.u8()? == kind { Ok(()) } else { Err(self.wrong("a row of another kind")) }
    }

    fn wrong(&self, what: &'static str) -> DecodeError {
        let kind = self.bytes.first().map_or('-', |b| char::from(*b));
        DecodeError { what, kind, length: self.bytes.len() }
    }
}
