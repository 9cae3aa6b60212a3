//! Small things every table needs.

use super::Error;
use crate::base::Epoch;
use tokio_postgres::Error as PgError;
use tokio_postgres::error::SqlState;

/// An identifier in quotes, for statements that take no parameters.
pub fn identifier(name: &str) -> String {
    postgres_protocol::escape::escape_identifier(name)
}

/// A string constant, safe under either setting of `standard_conforming_strings`.
pub fn literal(text: &str) -> String {
    // A leading space comes with the E'' form, which is harmless where constants stand.
    postgres_protocol::escape::escape_literal(text)
}

/// The epoch as SQL's bigint. Epochs count holders: 2^63 of them are not reached.
pub(super) fn bigint(epoch: Epoch) -> i64 {
    i64::try_from(epoch.0).expect("epochs stay below 2^63")
}

/// The epoch in a row.
pub(super) fn epoch(table: &'static str, value: i64) -> Result<Epoch, Error> {
    match u64::try_from(value) {
        Ok(value) => Ok(Epoch(value)),
        Err(_) => Err(Error::Corrupt { table, found: format!("epoch {value}") }),
    }
}

/// Whether the table does not exist: our schema has never been made here, or was removed.
pub(super) fn is_missing(error: &PgError) -> bool {
    matches!(error.code(), Some(code) if *code == SqlState::UNDEFINED_TABLE || *code == SqlState::INVALID_SCHEMA_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_stay_inside_the_constant() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\b").trim_start(), r"E'a\\b'");
        assert_eq!(identifier(r#"we"ird"#), r#""we""ird""#);
    }

    #[test]
    fn a_negative_epoch_is_reported_not_wrapped() {
        assert!(matches!(epoch("fence", -1), Err(Error::Corrupt { table: "fence", .. })));
        assert_eq!(epoch("fence", 7).ok(), Some(Epoch(7)));
    }
}
