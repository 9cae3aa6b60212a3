//! What a client of the console sends, read from bytes that nobody has checked ("Message Formats").
//! Pure.

use crate::sql::console::frames::Format;
use crate::wire::frame::cstring;

/// The longest message the console takes: its commands are short.
pub(super) const MESSAGE_MAX: usize = 64 * 1024;

/// A statement or a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Statement,
    Portal,
}

/// A message from a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frontend<'a> {
    Query {
        text: &'a [u8],
    },
    Parse {
        name: &'a [u8],
        text: &'a [u8],
    },
    Bind {
        portal: &'a [u8],
        statement: &'a [u8],
        values: u16,
        formats: Vec<Format>,
    },
    Describe {
        target: Target,
        name: &'a [u8],
    },
    Execute {
        portal: &'a [u8],
        rows_max: usize,
    },
    Close {
        target: Target,
        name: &'a [u8],
    },
    Flush,
    Sync,
    Terminate,
    FunctionCall,
    /// Part of a COPY that never began; the server ignores them, too.
    Copy,
}

/// Why a message cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("invalid frontend message type {0}")]
    UnknownType(u8),
    #[error("invalid message format")]
    Body,
}

/// Reads the body of a message of type `tag`.
pub(super) fn read(tag: u8, body: &[u8]) -> Result<Frontend<'_>, Malformed> {
    let message = match tag {
        b'Q' => Frontend::Query { text: last_cstring(body)? },
        b'P' => read_parse(body)?,
        b'B' => read_bind(body)?,
        b'D' | b'C' => {
            let (target, name) = match body.split_first() {
                Some((b'S', name)) => (Target::Statement, last_cstring(name)?),
                Some((b'P', name)) => (Target::Portal, last_cstring(name)?),
                _ => return Err(Malformed::Body),
            };
            match tag {
                b'D' => Frontend::Describe { target, name },
                _ => Frontend::Close { target, name },
            }
        }
        b'E' => {
            let (portal, rest) = cstring(body).ok_or(Malformed::Body)?;
            let rows = i32::from_be_bytes(rest.try_into().map_err(|_| Malformed::Body)?);
            // Zero and less mean all of them.
            let rows_max = usize::try_from(rows).ok().filter(|rows| *rows > 0).unwrap_or(usize::MAX);
            Frontend::Execute { portal, rows_max }
        }
        b'H' => empty(body, Frontend::Flush)?,
        b'S' => empty(body, Frontend::Sync)?,
        b'X' => Frontend::Terminate,
        b'F' => Frontend::FunctionCall,
        b'd' | b'c' | b'f' => Frontend::Copy,
        other => return Err(Malformed::UnknownType(other)),
    };
    Ok(message)
}

fn empty<'a>(body: &[u8], message: Frontend<'a>) -> Result<Frontend<'a>, Malformed> {
    body.is_empty().then_some(message).ok_or(Malformed::Body)
}

/// A text that fills the rest of the message.
fn last_cstring(body: &[u8]) -> Result<&[u8], Malformed> {
    match cstring(body) {
        Some((text, [])) => Ok(text),
        _ => Err(Malformed::Body),
    }
}

fn read_parse(body: &[u8]) -> Result<Frontend<'_>, Malformed> {
    let (name, rest) = cstring(body).ok_or(Malformed::Body)?;
    let (text, rest) = cstring(rest).ok_or(Malformed::Body)?;
    let mut rest = Rest(rest);
    let types = usize::from(rest.u16()?);
    rest.skip(types * 4)?;
    rest.end()?;
    Ok(Frontend::Parse { name, text })
}

fn read_bind(body: &[u8]) -> Result<Frontend<'_>, Malformed> {
    let (portal, rest) = cstring(body).ok_or(Malformed::Body)?;
    let (statement, rest) = cstring(rest).ok_or(Malformed::Body)?;
    let mut rest = Rest(rest);
    let value_formats = usize::from(rest.u16()?);
    rest.skip(value_formats * 2)?;
    let values = rest.u16()?;
    for _ in 0..values {
        let length = rest.i32()?;
        match usize::try_from(length) {
            Ok(length) => rest.skip(length)?,
            Err(_) if length == -1 => {}
            Err(_) => return Err(Malformed::Body),
        }
    }
    let count = usize::from(rest.u16()?);
    if rest.0.len() != count * 2 {
        return Err(Malformed::Body);
    }
    let mut formats = Vec::with_capacity(count);
    for _ in 0..count {
        let code = i16::from_be_bytes(rest.take()?);
        formats.push(Format::from_code(code).ok_or(Malformed::Body)?);
    }
    Ok(Frontend::Bind { portal, statement, values, formats })
}

/// What is left of a body.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(Malformed::Body)?;
        self.0 = tail;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.take().map(u16::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, Malformed> {
        self.take().map(i32::from_be_bytes)
    }

    fn skip(&mut self, count: usize) -> Result<(), Malformed> {
        self.0 = self.0.get(count..).ok_or(Malformed::Body)?;
        Ok(())
    }

    fn end(&self) -> Result<(), Malformed> {
        self.0.is_empty().then_some(()).ok_or(Malformed::Body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_drivers_send_them() {
        assert_eq!(read(b'Q', b"SHOW x\0"), Ok(Frontend::Query { text: b"SHOW x" }));
        assert_eq!(read(b'P', b"s\0t\0\0\x01\0\0\0\x17"), Ok(Frontend::Parse { name: b"s", text: b"t" }));
        assert_eq!(
            read(b'B', b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x01a\xff\xff\xff\xff\0\x02\0\0\0\x01"),
            Ok(Frontend::Bind {
                portal: b"p",
                statement: b"s",
                values: 2,
                formats: vec![Format::Text, Format::Binary]
            })
        );
        assert_eq!(read(b'D', b"Sx\0"), Ok(Frontend::Describe { target: Target::Statement, name: b"x" }));
        assert_eq!(read(b'C', b"P\0"), Ok(Frontend::Close { target: Target::Portal, name: b"" }));
        assert_eq!(read(b'E', b"\0\0\0\0\0"), Ok(Frontend::Execute { portal: b"", rows_max: usize::MAX }));
        assert_eq!(read(b'E', b"\0\0\0\0\x02"), Ok(Frontend::Execute { portal: b"", rows_max: 2 }));
        assert_eq!(read(b'S', b""), Ok(Frontend::Sync));
    }

    #[test]
    fn claims_that_do_not_hold_are_refused() {
        for (tag, body) in [
            (b'Q', b"".as_slice()),
            (b'Q', b"SHOW"),
            (b'Q', b"a\0b\0"),
            (b'P', b"s\0t"),
            (b'P', b"s\0t\0"),
            (b'P', b"s\0t\0\xff\xff"),
            (b'P', b"s\0t\0\0\0x"),
            (b'B', b"\0\0\0\0"),
            (b'B', b"\0\0\0\0\0\x01\x7f\xff\xff\xff"),
            (b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"),
            (b'B', b"\0\0\0\0\0\0\0\x01\0\x02"),
            (b'B', b"\0\0\0\0\0\0\xff\xff"),
            (b'D', b""),
            (b'D', b"X\0"),
            (b'E', b"\0\0\0"),
            (b'S', b"x"),
        ] {
            assert_eq!(read(tag, body), Err(Malformed::Body), "{} {body:?}", char::from(tag));
        }
        assert_eq!(read(b'z', b""), Err(Malformed::UnknownType(b'z')));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            tag in proptest::sample::select(b"QPBDCEHSXFdcf".to_vec()),
            body in proptest::collection::vec(proptest::prop_oneof![0..3u8, proptest::prelude::any::<u8>()], 0..40),
        ) {
            let _ = read(tag, &body);
        }
    }
}
