//! Errors and notices as a server words them.

use bytes::Bytes;
use std::borrow::Cow;
use std::fmt;

/// Body of an ErrorResponse or NoticeResponse, kept as it came so that it can be passed on
/// unchanged ("Error and Notice Message Fields").
#[derive(Clone, PartialEq, Eq)]
pub struct Report {
    body: Bytes,
}

impl Report {
    /// Takes the bytes behind tag and length. Fields that are cut off are left out when read.
    pub fn new(body: Bytes) -> Self {
        Self { body }
    }

    /// The body, to be sent on behind a tag and a length.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// All fields in their order: type byte and text in the server's encoding.
    pub fn fields(&self) -> impl Iterator<Item = (u8, &[u8])> {
        let mut rest = self.body.as_ref();
        std::iter::from_fn(move || {
            let (&kind, after) = rest.split_first().filter(|(kind, _)| **kind != 0)?;
            let end = memchr::memchr(0, after)?;
            rest = &after[end + 1..];
            Some((kind, &after[..end]))
        })
    }

    /// One field's text; empty when the server did not send it.
    pub fn field(&self, kind: u8) -> Cow<'_, str> {
        self.fields()
            .find(|(k, _)| *k == kind)
            .map_or(Cow::Borrowed(""), |(_, text)| String::from_utf8_lossy(text))
    }

    /// `ERROR`, `FATAL`, `PANIC`, `WARNING`, …: field `V`, which is never translated, or `S` from
    /// servers before 9.6.
    pub fn severity(&self) -> Cow<'_, str> {
        match self.field(b'V') {
            severity if severity.is_empty() => self.field(b'S'),
            severity => severity,
        }
    }

    /// SQLSTATE.
    pub fn code(&self) -> Cow<'_, str> {
        self.field(b'C')
    }

    /// The message.
    pub fn message(&self) -> Cow<'_, str> {
        self.field(b'M')
    }

    /// The detail, or empty.
    pub fn detail(&self) -> Cow<'_, str> {
        self.field(b'D')
    }

    /// The hint, or empty.
    pub fn hint(&self) -> Cow<'_, str> {
        self.field(b'H')
    }

    /// The function of the server that reported; never translated.
    pub fn routine(&self) -> Cow<'_, str> {
        self.field(b'R')
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (SQLSTATE {})", self.severity(), self.message(), self.code())?;
        for (label, text) in [("DETAIL", self.detail()), ("HINT", self.hint())] {
            if !text.is_empty() {
                write!(f, "; {label}: {text}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Report({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_are_read_by_type_and_the_body_is_kept() {
        let body = Bytes::from_static(b"SFATAL\0VFATAL\0C3D000\0Mno such database\0RInitPostgres\0\0");
        let report = Report::new(body.clone());
        assert_eq!(report.code(), "3D000");
        assert_eq!(report.severity(), "FATAL");
        assert_eq!(report.routine(), "InitPostgres");
        assert_eq!(report.hint(), "");
        assert_eq!(report.to_string(), "FATAL: no such database (SQLSTATE 3D000)");
        assert_eq!(report.body(), &body);
    }

    #[test]
    fn a_report_that_is_cut_off_has_the_fields_before_the_cut() {
        let report = Report::new(Bytes::from_static(b"C3D000\0Mno such"));
        assert_eq!(report.code(), "3D000");
        assert_eq!(report.message(), "");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let report = Report::new(bytes.into());
            let _ = (report.to_string(), report.fields().count());
        }
    }
}
