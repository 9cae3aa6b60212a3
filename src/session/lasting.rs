//! What a statement leaves in its session besides rows, found by a glance at its text.
//!
//! The glance looks for a few words; only where one stands is the text split into tokens. What functions
//! of the database do inside is not seen.

use super::memory::Tie;
use crate::sql::footprint::{Footprint, footprint};
use crate::sql::lex::{LexError, Lexer, Token};
use memchr::memmem::Finder;
use std::sync::LazyLock;

/// As people and libraries write them; other mixtures of case are not seen.
const WORDS: [&str; 6] = ["temp", "TEMP", "advisory_lock", "ADVISORY_LOCK", "set_config", "SET_CONFIG"];

static FINDERS: LazyLock<[Finder<'static>; WORDS.len()]> = LazyLock::new(|| WORDS.map(Finder::new));

/// What the statement may leave behind that cannot be made again on another server.
#[inline]
pub fn lasting(text: &[u8]) -> Option<Tie> {
    if FINDERS.iter().all(|finder| finder.find(text).is_none()) { None } else { tie_of(text) }
}

fn tie_of(text: &[u8]) -> Option<Tie> {
    let found = footprint(text);
    if found.has(Footprint::TEMPORARY) {
        Some(Tie::Temporary)
    } else if found.has(Footprint::ADVISORY_LOCK) {
        Some(Tie::AdvisoryLock)
    } else if found.has(Footprint::SETTING) && sets_beyond_transaction(text).unwrap_or(true) {
        Some(Tie::UnseenChange)
    } else {
        None
    }
}

/// Whether some `set_config(…)` has another last argument than `true`.
fn sets_beyond_transaction(text: &[u8]) -> Result<bool, LexError> {
    let mut lexer = Lexer::new(text);
    let (mut depth, mut begun, mut last) = (0_usize, Vec::new(), None);
    while let Some(token) = lexer.next_token()? {
        match token {
            Token::Symbol(b'(') => {
                depth += 1;
                if last.is_some_and(|last: Token<'_>| last.is_word("SET_CONFIG")) {
                    begun.push(depth);
                }
            }
            Token::Symbol(b')') => {
                if begun.last() == Some(&depth) {
                    begun.pop();
                    if !last.is_some_and(|last| last.is_word("TRUE")) {
                        return Ok(true);
                    }
                }
                depth = depth.saturating_sub(1);
            }
            _ => {}
        }
        last = Some(token);
    }
    Ok(!begun.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_made_again_is_seen() {
        for (text, expected) in [
            ("SELECT 1", None),
            ("select temperature from template where note = 'temp'", None),
            ("insert into temp values (1)", None),
            ("CREATE TEMP TABLE t (a int)", Some(Tie::Temporary)),
            ("/* x */ create temporary view v as select 1", Some(Tie::Temporary)),
            ("select 1 as a into temp t", Some(Tie::Temporary)),
            ("create temp table t (a int) on commit drop", None),
            ("select pg_advisory_lock(1)", Some(Tie::AdvisoryLock)),
            ("SELECT PG_TRY_ADVISORY_LOCK(1, 2)", Some(Tie::AdvisoryLock)),
            ("select pg_advisory_xact_lock(1), 'advisory_lock'", None),
            ("select set_config('a.b', 'c', false)", Some(Tie::UnseenChange)),
            ("select set_config('a.b', $1, true)", None),
            ("select set_config('a.b', (f(1)), true), set_config('c', 'd', $1)", Some(Tie::UnseenChange)),
            ("select 'set_config'", None),
        ] {
            assert_eq!(lasting(text.as_bytes()), expected, "{text}");
        }
    }
}
