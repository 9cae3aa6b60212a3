//! A console's answer as messages of the protocol ("Message Formats").
//!
//! Bytes into a buffer, nothing else; the order of messages and ReadyForQuery are the caller's.
//! They are built by pgwire, which never reads anything here.

use super::{Column, ConsoleError, ConsoleReply, ConsoleRows, Kind};
use bytes::{BufMut, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::data::{DataRow, FieldDescription, NoData, RowDescription};
use pgwire::messages::response::{CommandComplete, ErrorResponse, NoticeResponse};

/// How the client wants values ("Formats and Format Codes").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As text.
    Text,
    /// As the type's send function writes it.
    Binary,
}

impl Format {
    /// From a format code of Bind.
    pub fn from_code(code: i16) -> Option<Self> {
        match code {
            0 => Some(Format::Text),
            1 => Some(Format::Binary),
            _ => None,
        }
    }

    /// The format of column `index` under the codes of a Bind: none means text, one is for all.
    pub fn of_column(formats: &[Format], index: usize) -> Self {
        match formats {
            [] => Format::Text,
            [one] => *one,
            many => many.get(index).copied().unwrap_or(Format::Text),
        }
    }

    fn code(self) -> i16 {
        match self {
            Format::Text => 0,
            Format::Binary => 1,
        }
    }
}

fn put(out: &mut BytesMut, message: &impl Message) {
    message.encode(out).expect("encoding into memory does not fail");
}

/// The whole answer to a simple Query, without ReadyForQuery.
pub fn put_reply(out: &mut BytesMut, reply: &ConsoleReply) {
    if let Ok(rows) = reply
        && !rows.columns.is_empty()
    {
        put_row_description(out, rows.columns, &[]);
    }
    put_result(out, reply, &[]);
}

/// What Execute is answered: rows, notices and the tag, or the error.
pub fn put_result(out: &mut BytesMut, reply: &ConsoleReply, formats: &[Format]) {
    match reply {
        Ok(rows) => put_whole(out, rows, formats),
        Err(error) => put_error(out, "ERROR", error),
    }
}

/// The rest of an answer: its rows, its notices and the tag.
pub fn put_whole(out: &mut BytesMut, rows: &ConsoleRows, formats: &[Format]) {
    put_rows(out, rows, formats);
    for notice in &rows.notices {
        put_notice(out, notice);
    }
    put_tag(out, &rows.tag);
}

/// RowDescription, or NoData when there are no columns: what Describe is answered.
pub fn put_row_description(out: &mut BytesMut, columns: &[Column], formats: &[Format]) {
    if columns.is_empty() {
        return put(out, &NoData::new());
    }
    let fields = columns.iter().enumerate().map(|(index, column)| {
        let format = Format::of_column(formats, index).code();
        FieldDescription::new(column.name.to_owned(), 0, 0, column.kind.oid(), column.kind.size(), -1, format)
    });
    put(out, &RowDescription::new(fields.collect()));
}

/// One DataRow for each row.
pub fn put_rows(out: &mut BytesMut, rows: &ConsoleRows, formats: &[Format]) {
    let mut data = BytesMut::new();
    for row in &rows.rows {
        data.clear();
        for (index, (column, value)) in rows.columns.iter().zip(row).enumerate() {
            match value {
                None => data.put_i32(-1),
                Some(value) => put_value(&mut data, column.kind, value, Format::of_column(formats, index)),
            }
        }
        put(out, &DataRow::new(data.clone(), rows.columns.len() as i16));
    }
}

fn put_value(out: &mut BytesMut, kind: Kind, value: &str, format: Format) {
    match (format, kind) {
        (Format::Text, _) | (Format::Binary, Kind::Text) => {
            out.put_i32(value.len() as i32);
            out.put_slice(value.as_bytes());
        }
        (Format::Binary, Kind::Int4) => {
            let number: i32 = value.parse().expect("an int4 column holds a number");
            out.put_i32(4);
            out.put_i32(number);
        }
        (Format::Binary, Kind::Numeric) => put_numeric(out, value),
        (Format::Binary, Kind::Bytea) => {
            let digits = value.strip_prefix("\\x").expect("a bytea column holds hexadecimal digits");
            out.put_i32((digits.len() / 2) as i32);
            for pair in digits.as_bytes().chunks_exact(2) {
                let digit = |byte: u8| char::from(byte).to_digit(16).expect("a hexadecimal digit") as u8;
                out.put_u8(digit(pair[0]) << 4 | digit(pair[1]));
            }
        }
        (Format::Binary, Kind::Int8) => {
            let number: i64 = value.parse().expect("an int8 column holds a number");
            out.put_i32(8);
            out.put_i64(number);
        }
        (Format::Binary, Kind::Bool) => {
            out.put_i32(1);
            out.put_u8(u8::from(value == "t"));
        }
    }
}

/// `numeric_send`: digits to the base of 10,000, the weight of the first one, sign and scale.
fn put_numeric(out: &mut BytesMut, value: &str) {
    let mut rest: u128 = value.parse().expect("a numeric column holds a whole number");
    let mut digits = Vec::new();
    while rest > 0 {
        digits.push((rest % 10_000) as u16);
        rest /= 10_000;
    }
    let weight = digits.len().saturating_sub(1) as i16;
    out.put_i32(8 + 2 * digits.len() as i32);
    out.put_i16(digits.len() as i16);
    out.put_i16(weight);
    out.put_u16(0);
    out.put_u16(0);
    for digit in digits.iter().rev() {
        out.put_u16(*digit);
    }
}

/// NoticeResponse of severity NOTICE.
pub fn put_notice(out: &mut BytesMut, text: &str) {
    let fields = vec![
        (b'S', "NOTICE".to_owned()),
        (b'V', "NOTICE".to_owned()),
        (b'C', "00000".to_owned()),
        (b'M', clean(text)),
    ];
    put(out, &NoticeResponse::new(fields));
}

/// CommandComplete.
pub fn put_tag(out: &mut BytesMut, tag: &str) {
    put(out, &CommandComplete::new(tag.to_owned()));
}

/// ErrorResponse; `severity` is `ERROR` or `FATAL`.
pub fn put_error(out: &mut BytesMut, severity: &str, error: &ConsoleError) {
    let mut fields = vec![
        (b'S', severity.to_owned()),
        (b'V', severity.to_owned()),
        (b'C', clean(&error.code)),
        (b'M', clean(&error.message)),
    ];
    fields.extend(error.detail.as_deref().map(|detail| (b'D', clean(detail))));
    fields.extend(error.hint.as_deref().map(|hint| (b'H', clean(hint))));
    fields.extend(error.position.map(|position| (b'P', position.to_string())));
    put(out, &ErrorResponse::new(fields));
}

/// A zero byte would end the field and start another one.
fn clean(text: &str) -> String {
    text.replace('\0', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::admin::Command;

    fn lease_row() -> ConsoleReply {
        let row = ["7", "local", "normal", "t", "1", "internet", "2", "x", "y"];
        let mut row: Vec<_> = row.iter().map(|v| Some((*v).to_owned())).collect();
        row.push(None);
        Ok(ConsoleRows::shown(&Command::ShowLease, vec![row]))
    }

    #[test]
    fn values_are_sent_in_the_format_that_was_asked_for() {
        let mut text = BytesMut::new();
        put_result(&mut text, &lease_row(), &[]);
        assert!(text.starts_with(b"D\0\0\0\x47\0\x0a\0\0\0\x017\0\0\0\x05local"), "{text:?}");
        assert!(text.ends_with(b"\xff\xff\xff\xffC\0\0\0\x09SHOW\0"), "{text:?}");
        let mut binary = BytesMut::new();
        put_result(&mut binary, &lease_row(), &[Format::Binary]);
        assert_eq!(&binary[7..19], b"\0\0\0\x08\0\0\0\0\0\0\0\x07");
        let mut described = BytesMut::new();
        put_row_description(&mut described, lease_row().unwrap().columns, &[]);
        assert_eq!(&described[5..15], b"\0\x0aepoch\0\0\0");
    }

    #[test]
    fn every_kind_has_its_binary_form() {
        let binary = |kind, value: &str| {
            let mut out = BytesMut::new();
            put_value(&mut out, kind, value, Format::Binary);
            out.to_vec()
        };
        assert_eq!(binary(Kind::Int4, "-2"), b"\0\0\0\x04\xff\xff\xff\xfe");
        assert_eq!(binary(Kind::Bytea, "\\x01ff"), b"\0\0\0\x02\x01\xff");
        assert_eq!(binary(Kind::Numeric, "0"), b"\0\0\0\x08\0\0\0\0\0\0\0\0");
        // 1 2345 6789: three digits, the first one counts 10,000 squared.
        let digits = b"\0\x03\0\x02\0\0\0\0\0\x01\x09\x29\x1a\x85";
        assert_eq!(binary(Kind::Numeric, "123456789"), [b"\0\0\0\x0e".as_slice(), digits].concat());
    }

    #[test]
    fn a_zero_byte_does_not_make_a_field_of_its_own() {
        let mut out = BytesMut::new();
        put_error(&mut out, "ERROR", &ConsoleError::new("XX000", "a\0Hb").with_hint("c"));
        assert_eq!(&out[5..], b"SERROR\0VERROR\0CXX000\0Ma Hb\0Hc\0\0");
    }
}
