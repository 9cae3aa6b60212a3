//! The messages we say ourselves, as a server does ("Message Formats").
//!
//! Each function appends one whole message. Texts may come from anywhere: a zero byte in one
//! becomes a space, since it would end the text on the wire.

use super::report::Report;
use super::startup::{Negotiation, Refusal};
use bytes::{BufMut, BytesMut};
use std::borrow::Cow;
use std::fmt;

/// How bad it is (field `S` and `V`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed, the connection goes on.
    Error,
    /// The connection ends.
    Fatal,
    /// Went on despite a surprise.
    Warning,
    /// Good to know.
    Notice,
}

impl Severity {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
            Severity::Warning => "WARNING",
            Severity::Notice => "NOTICE",
        }
    }
}

/// An error or notice of our own. The message is short, lower case, without a full stop; detail
/// and hint are sentences ("Error Message Style Guide").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// How bad.
    pub severity: Severity,
    /// SQLSTATE.
    pub code: &'static str,
    /// Field `M`.
    pub message: Cow<'static, str>,
    /// Field `D`.
    pub detail: Option<Cow<'static, str>>,
    /// Field `H`.
    pub hint: Option<Cow<'static, str>>,
}

impl Complaint {
    /// A complaint without detail and hint.
    pub fn new(severity: Severity, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { severity, code, message: message.into(), detail: None, hint: None }
    }

    /// `ERROR`: the connection goes on.
    pub fn error(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Severity::Error, code, message)
    }

    /// `FATAL`: the connection ends behind it.
    pub fn fatal(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Severity::Fatal, code, message)
    }

    /// The same with a detail.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What a refused start-up packet is answered with; `None` where nothing is said.
    pub fn from_startup(refusal: &Refusal) -> Option<Complaint> {
        match refusal {
            Refusal::Hangup(_) => None,
            Refusal::Told { code, message, detail, hint } => Some(Complaint {
                severity: Severity::Fatal,
                code,
                message: message.clone().into(),
                detail: detail.map(Cow::Borrowed),
                hint: hint.map(Cow::Borrowed),
            }),
        }
    }

    /// Appends an ErrorResponse, or a NoticeResponse for warnings and notices.
    pub fn put(&self, buf: &mut BytesMut) {
        let tag = match self.severity {
            Severity::Error | Severity::Fatal => b'E',
            Severity::Warning | Severity::Notice => b'N',
        };
        frame(buf, tag, |buf| {
            let severity = self.severity.as_str();
            for (kind, value) in [
                (b'S', Some(severity)),
                (b'V', Some(severity)),
                (b'C', Some(self.code)),
                (b'M', Some(&*self.message)),
                (b'D', self.detail.as_deref()),
                (b'H', self.hint.as_deref()),
            ] {
                if let Some(value) = value {
                    buf.put_u8(kind);
                    text(buf, value.as_bytes());
                }
            }
            buf.put_u8(0);
        });
    }

    /// The message alone in a buffer of its own.
    pub fn to_bytes(&self) -> BytesMut {
        let mut buf = BytesMut::new();
        self.put(&mut buf);
        buf
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (SQLSTATE {})", self.severity.as_str(), self.message, self.code)
    }
}

/// A server's error, passed on unchanged.
pub fn error_report(buf: &mut BytesMut, report: &Report) {
    frame(buf, b'E', |buf| buf.put_slice(report.body()));
}

/// A server's notice, passed on unchanged.
pub fn notice_report(buf: &mut BytesMut, report: &Report) {
    frame(buf, b'N', |buf| buf.put_slice(report.body()));
}

/// AuthenticationOk.
pub fn authentication_ok(buf: &mut BytesMut) {
    frame(buf, b'R', |buf| buf.put_i32(0));
}

/// AuthenticationCleartextPassword.
pub fn authentication_cleartext(buf: &mut BytesMut) {
    frame(buf, b'R', |buf| buf.put_i32(3));
}

/// AuthenticationMD5Password.
pub fn authentication_md5(buf: &mut BytesMut, salt: [u8; 4]) {
    frame(buf, b'R', |buf| {
        buf.put_i32(5);
        buf.put_slice(&salt);
    });
}

/// AuthenticationSASL with the mechanisms we offer.
pub fn authentication_sasl(buf: &mut BytesMut, mechanisms: &[&str]) {
    frame(buf, b'R', |buf| {
        buf.put_i32(10);
        for mechanism in mechanisms {
            text(buf, mechanism.as_bytes());
        }
        buf.put_u8(0);
    });
}

/// AuthenticationSASLContinue.
pub fn authentication_sasl_continue(buf: &mut BytesMut, data: &[u8]) {
    frame(buf, b'R', |buf| {
        buf.put_i32(11);
        buf.put_slice(data);
    });
}

/// AuthenticationSASLFinal.
pub fn authentication_sasl_final(buf: &mut BytesMut, data: &[u8]) {
    frame(buf, b'R', |buf| {
        buf.put_i32(12);
        buf.put_slice(data);
    });
}

/// NegotiateProtocolVersion. The version is the whole number, as servers send it, although the
/// manual speaks of the minor version.
pub fn negotiate_protocol_version(buf: &mut BytesMut, negotiation: &Negotiation) {
    frame(buf, b'v', |buf| {
        buf.put_i32(3 << 16 | i32::from(negotiation.minor));
        buf.put_i32(count(negotiation.unknown.len()));
        for name in &negotiation.unknown {
            text(buf, name);
        }
    });
}

/// ParameterStatus.
pub fn parameter_status(buf: &mut BytesMut, name: &[u8], value: &[u8]) {
    frame(buf, b'S', |buf| {
        text(buf, name);
        text(buf, value);
    });
}

/// BackendKeyData; `secret` has 4 bytes under protocol 3.0, up to 256 under 3.2.
pub fn backend_key_data(buf: &mut BytesMut, pid: i32, secret: &[u8]) {
    frame(buf, b'K', |buf| {
        buf.put_i32(pid);
        buf.put_slice(secret);
    });
}

/// What ReadyForQuery says about the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// `I`: in none.
    Idle,
    /// `T`: in one.
    Open,
    /// `E`: in a failed one.
    Failed,
}

impl TransactionStatus {
    /// As on the wire.
    pub fn as_byte(self) -> u8 {
        match self {
            TransactionStatus::Idle => b'I',
            TransactionStatus::Open => b'T',
            TransactionStatus::Failed => b'E',
        }
    }

    /// From the wire; `None` for anything else.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(TransactionStatus::Idle),
            b'T' => Some(TransactionStatus::Open),
            b'E' => Some(TransactionStatus::Failed),
            _ => None,
        }
    }
}

/// ReadyForQuery.
pub fn ready_for_query(buf: &mut BytesMut, status: TransactionStatus) {
    frame(buf, b'Z', |buf| buf.put_u8(status.as_byte()));
}

/// Type of a column of ours; values are always sent as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// `text`
    Text,
    /// `bool`
    Bool,
    /// `int4`
    Int4,
    /// `int8`
    Int8,
    /// `float8`
    Float8,
    /// `timestamptz`
    Timestamptz,
}

impl ColumnType {
    /// Object id in pg_type and size there.
    pub fn oid_and_size(self) -> (u32, i16) {
        match self {
            ColumnType::Text => (25, -1),
            ColumnType::Bool => (16, 1),
            ColumnType::Int4 => (23, 4),
            ColumnType::Int8 => (20, 8),
            ColumnType::Float8 => (701, 8),
            ColumnType::Timestamptz => (1184, 8),
        }
    }
}

/// RowDescription of columns that belong to no table, in text format.
pub fn row_description(buf: &mut BytesMut, columns: &[(&str, ColumnType)]) {
    frame(buf, b'T', |buf| {
        buf.put_i16(short_count(columns.len()));
        for (name, kind) in columns {
            let (oid, size) = kind.oid_and_size();
            text(buf, name.as_bytes());
            buf.put_u32(0); // table
            buf.put_i16(0); // its column
            buf.put_u32(oid);
            buf.put_i16(size);
            buf.put_i32(-1); // type modifier
            buf.put_i16(0); // text format
        }
    });
}

/// DataRow; `None` is NULL.
pub fn data_row<V: AsRef<[u8]>>(buf: &mut BytesMut, values: &[Option<V>]) {
    frame(buf, b'D', |buf| {
        buf.put_i16(short_count(values.len()));
        for value in values {
            match value {
                Some(value) => {
                    buf.put_i32(count(value.as_ref().len()));
                    buf.put_slice(value.as_ref());
                }
                None => buf.put_i32(-1),
            }
        }
    });
}

/// CommandComplete.
pub fn command_complete(buf: &mut BytesMut, tag: &str) {
    frame(buf, b'C', |buf| text(buf, tag.as_bytes()));
}

/// ParameterDescription.
pub fn parameter_description(buf: &mut BytesMut, types: &[u32]) {
    frame(buf, b't', |buf| {
        buf.put_i16(short_count(types.len()));
        types.iter().for_each(|oid| buf.put_u32(*oid));
    });
}

/// ParseComplete.
pub fn parse_complete(buf: &mut BytesMut) {
    frame(buf, b'1', |_| {});
}

/// BindComplete.
pub fn bind_complete(buf: &mut BytesMut) {
    frame(buf, b'2', |_| {});
}

/// CloseComplete.
pub fn close_complete(buf: &mut BytesMut) {
    frame(buf, b'3', |_| {});
}

/// NoData.
pub fn no_data(buf: &mut BytesMut) {
    frame(buf, b'n', |_| {});
}

/// EmptyQueryResponse.
pub fn empty_query_response(buf: &mut BytesMut) {
    frame(buf, b'I', |_| {});
}

/// PortalSuspended.
pub fn portal_suspended(buf: &mut BytesMut) {
    frame(buf, b's', |_| {});
}

/// A header, what `body` appends, and the length that it turned out to have.
fn frame(buf: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    buf.put_u8(tag);
    let start = buf.len();
    buf.put_i32(0);
    body(buf);
    let length = count(buf.len() - start);
    buf[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn text(buf: &mut BytesMut, bytes: &[u8]) {
    let start = buf.len();
    buf.put_slice(bytes);
    if bytes.contains(&0) {
        buf[start..].iter_mut().filter(|b| **b == 0).for_each(|b| *b = b' ');
    }
    buf.put_u8(0);
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or_else(|_| panic!("a message of ours with {n} bytes or items"))
}

fn short_count(n: usize) -> i16 {
    i16::try_from(n).unwrap_or_else(|_| panic!("a row of ours with {n} columns"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres_protocol::message::backend::Message;

    fn built(build: impl FnOnce(&mut BytesMut)) -> BytesMut {
        let mut buf = BytesMut::new();
        build(&mut buf);
        buf
    }

    #[test]
    fn our_messages_are_read_by_another_implementation() {
        let check = |build: &dyn Fn(&mut BytesMut), is_it: fn(&Message) -> bool| {
            let mut buf = built(build);
            let shown = format!("{buf:?}");
            let message = Message::parse(&mut buf).ok().flatten().expect(&shown);
            assert!(is_it(&message) && buf.is_empty(), "{shown}");
        };
        check(&authentication_ok, |m| matches!(m, Message::AuthenticationOk));
        check(&authentication_cleartext, |m| matches!(m, Message::AuthenticationCleartextPassword));
        check(&|b| authentication_sasl(b, &["SCRAM-SHA-256"]), |m| {
            matches!(m, Message::AuthenticationSasl(_))
        });
        check(
            &|b| authentication_sasl_continue(b, b"r=x"),
            |m| matches!(m, Message::AuthenticationSaslContinue(c) if c.data() == b"r=x"),
        );
        check(
            &|b| authentication_sasl_final(b, b"v=x"),
            |m| matches!(m, Message::AuthenticationSaslFinal(c) if c.data() == b"v=x"),
        );
        check(
            &|b| parameter_status(b, b"a", b"b"),
            |m| matches!(m, Message::ParameterStatus(p) if p.name().ok() == Some("a") && p.value().ok() == Some("b")),
        );
        check(
            &|b| backend_key_data(b, 5, &[0, 0, 0, 6]),
            |m| matches!(m, Message::BackendKeyData(k) if k.process_id() == 5),
        );
        check(
            &|b| ready_for_query(b, TransactionStatus::Failed),
            |m| matches!(m, Message::ReadyForQuery(z) if z.status() == b'E'),
        );
        check(&|b| row_description(b, &[("a", ColumnType::Text), ("b", ColumnType::Int8)]), |m| {
            matches!(m, Message::RowDescription(_))
        });
        check(
            &|b| data_row(b, &[Some("x"), None]),
            |m| matches!(m, Message::DataRow(row) if row.buffer() == b"\0\0\0\x01x\xff\xff\xff\xff"),
        );
        check(
            &|b| command_complete(b, "SHOW"),
            |m| matches!(m, Message::CommandComplete(c) if c.tag().ok() == Some("SHOW")),
        );
        check(&|b| parameter_description(b, &[25]), |m| matches!(m, Message::ParameterDescription(_)));
        check(&parse_complete, |m| matches!(m, Message::ParseComplete));
        check(&bind_complete, |m| matches!(m, Message::BindComplete));
        check(&close_complete, |m| matches!(m, Message::CloseComplete));
        check(&no_data, |m| matches!(m, Message::NoData));
        check(&empty_query_response, |m| matches!(m, Message::EmptyQueryResponse));
        check(&portal_suspended, |m| matches!(m, Message::PortalSuspended));
    }

    #[test]
    fn a_complaint_has_its_fields_and_survives_a_zero_byte() {
        let complaint = Complaint::fatal("28P01", "wrong\0word").detail("Why.").hint("Do this.");
        let bytes = complaint.to_bytes().freeze();
        assert_eq!(bytes[0], b'E');
        let report = Report::new(bytes.slice(5..));
        assert_eq!(
            (report.severity(), report.code(), report.message(), report.detail(), report.hint()),
            ("FATAL".into(), "28P01".into(), "wrong word".into(), "Why.".into(), "Do this.".into())
        );
        assert_eq!(built(|b| error_report(b, &report)), bytes, "passing on changes nothing");
        assert_eq!(Complaint::new(Severity::Warning, "01000", "x").to_bytes()[0], b'N');
    }

    #[test]
    fn negotiation_names_the_version_and_the_unknown_extensions() {
        let negotiation = Negotiation { minor: 2, unknown: vec![b"_pq_.a".to_vec()] };
        let expected = b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.a\0";
        assert_eq!(&built(|b| negotiate_protocol_version(b, &negotiation))[..], expected);
    }
}
