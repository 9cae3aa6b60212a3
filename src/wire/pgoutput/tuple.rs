//! The values of one row, as received.

use bytes::Bytes;
use std::fmt;

/// A row: `columns` values in the order of its [`super::Relation`]. Its structure has been
/// checked, so walking it cannot fail.
#[derive(Clone, PartialEq, Eq)]
pub struct Tuple {
    columns: u16,
    body: Bytes,
}

/// One value of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// A large value that the update did not touch; it is not sent.
    Unchanged,
    /// The type's text form.
    Text(&'a [u8]),
    /// The form of the type's send function.
    Binary(&'a [u8]),
}

impl Value<'_> {
    /// Bytes of the value itself; 0 for one without.
    pub fn size(&self) -> usize {
        match self {
            Value::Null | Value::Unchanged => 0,
            Value::Text(bytes) | Value::Binary(bytes) => bytes.len(),
        }
    }
}

impl Tuple {
    /// Checks that `bytes` starts with `columns` values; returns the tuple and how many bytes it
    /// takes ("Message Formats, TupleData").
    pub(super) fn check(columns: u16, bytes: &Bytes) -> Option<(Tuple, usize)> {
        let mut at = 0usize;
        for _ in 0..columns {
            match bytes.get(at)? {
                b'n' | b'u' => at += 1,
                b't' | b'b' => {
                    let length = bytes.get(at + 1..at + 5)?;
                    let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
                    at = at.checked_add(5)?.checked_add(length)?;
                    if at > bytes.len() {
                        return None;
                    }
                }
                _ => return None,
            }
        }
        Some((Tuple { columns, body: bytes.slice(..at) }, at))
    }

    /// How many values.
    pub fn len(&self) -> usize {
        usize::from(self.columns)
    }

    /// Whether it has no value at all (a table without columns).
    pub fn is_empty(&self) -> bool {
        self.columns == 0
    }

    /// Bytes held.
    pub fn size(&self) -> usize {
        self.body.len()
    }

    /// The values in order.
    pub fn values(&self) -> Values<'_> {
        Values { rest: &self.body }
    }

    /// A row made by hand, for tests of the rooms above.
    pub fn of(values: &[Value<'_>]) -> Tuple {
        let mut body = Vec::new();
        for value in values {
            let (kind, bytes) = match value {
                Value::Null => (b'n', None),
                Value::Unchanged => (b'u', None),
                Value::Text(bytes) => (b't', Some(bytes)),
                Value::Binary(bytes) => (b'b', Some(bytes)),
            };
            body.push(kind);
            if let Some(bytes) = bytes {
                body.extend_from_slice(
                    &u32::try_from(bytes.len()).expect("a value is under 1 GB").to_be_bytes(),
                );
                body.extend_from_slice(bytes);
            }
        }
        let columns = u16::try_from(values.len()).expect("a table has at most 1600 columns");
        Tuple { columns, body: body.into() }
    }
}

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.values()).finish()
    }
}

/// Walks a [`Tuple`].
pub struct Values<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        // `check` saw every length, so the patterns below always match for a tuple's own bytes.
        let (&kind, rest) = self.rest.split_first()?;
        let mut bytes = || {
            let (length, rest) = rest.split_first_chunk::<4>()?;
            let length = u32::from_be_bytes(*length) as usize;
            let (bytes, rest) = rest.split_at_checked(length)?;
            self.rest = rest;
            Some(bytes)
        };
        match kind {
            b't' => bytes().map(Value::Text),
            b'b' => bytes().map(Value::Binary),
            b'n' => {
                self.rest = rest;
                Some(Value::Null)
            }
            _ => {
                self.rest = rest;
                Some(Value::Unchanged)
            }
        }
    }
}
