//! How a server reads the text of a statement: in which time zone, by which order of day and month, in which encoding.
//!
//! PostgreSQL reads the constants of a statement when it parses it, and holds on to what it has read and to the types
//! that it has found for the parameters. So a text is one statement only for clients that read it alike, as the
//! link is set when they prepare it. Where that is not certain yet, or the text says `'today'`, it is a statement
//! of its own, which nobody else gets.

use super::Pooled;
use super::ask::Side;
use super::statements::Statement;
use crate::pool::Reports;
use crate::sql::footprint::Footprint;
use crate::sql::lex::{Lexer, Token};
use crate::sys::hash;
use std::rc::Rc;

/// Settings by which constants are read, as servers report them.
const REPORTED: [&[u8]; 5] =
    [b"client_encoding", b"DateStyle", b"IntervalStyle", b"TimeZone", b"standard_conforming_strings"];

/// Those that servers do not report, in lower case, and where names are looked for.
const UNREPORTED: [&str; 6] =
    ["array_nulls", "backslash_quote", "lc_monetary", "search_path", "transform_null_equals", "xmloption"];

/// Dates and times that are another one each time they are read ("Special Date/Time Inputs").
const OF_TODAY: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

/// Whether a setting that is reported counts.
pub fn is_reported(name: &[u8]) -> bool {
    REPORTED.contains(&name)
}

/// Whether another one does, by its name in lower case.
pub fn is_unreported(name: &str) -> bool {
    UNREPORTED.contains(&name)
}

/// A number on this thread for all links that have reported the same.
pub fn of_reports(reports: &Reports) -> u64 {
    reports.iter().filter(|(name, _)| is_reported(name)).fold(0, |all, setting| all ^ hash(setting))
}

/// Whether a constant of the text may mean another time whenever it is read.
pub fn reads_clock(text: &[u8]) -> bool {
    let mut lexer = Lexer::new(text);
    loop {
        match lexer.next_token() {
            Ok(Some(Token::Text(constant))) if names_today(constant) => return true,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return false,
        }
    }
}

/// Whether a text that calls functions may change how constants are read, by the name of a setting in it. What
/// functions do inside is known when the server has told it.
pub fn may_change(text: &[u8], footprint: Footprint) -> bool {
    if !footprint.has(Footprint::SETTING.or(Footprint::SUSPECT)) {
        return false;
    }
    let mut words = text.split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
    let is_named = |word: &[u8]| REPORTED.iter().any(|name| word.eq_ignore_ascii_case(name));
    // A parameter may be the name.
    words.any(is_named) || memchr::memmem::find(text, b"($").is_some()
}

fn names_today(constant: &[u8]) -> bool {
    let mut words = constant.split(|byte| !byte.is_ascii_alphabetic());
    words.any(|word| OF_TODAY.iter().any(|it| word.eq_ignore_ascii_case(it.as_bytes())))
}

impl Pooled {
    /// How a text is read that is sent to the link now; `None` where that is not certain.
    pub(super) fn reading(&self, side: &Side<'_>) -> Option<u64> {
        let is_moving = !side.ledger.is_quiet()
            && (side.has.has_news || side.memory.awaits_change(side.ledger) || self.may_read_otherwise);
        let is_open = self.changes_catalogue || side.memory.stages(is_unreported);
        let here = side.has.reading ^ self.settings.reading();
        (!is_moving && !is_open).then(|| here.wrapping_add(self.group.habits.catalogue.alterations()))
    }

    /// What the client means by a name. Where the link lacks it, it is made as its text is read there now, for the
    /// parameters that the client sends, and must not be taken for what others read otherwise.
    pub(super) fn as_read_now(
        &mut self,
        name: &[u8],
        statement: Rc<Statement>,
        side: &mut Side<'_>,
    ) -> Rc<Statement> {
        let reading = self.reading(side);
        if statement.reading.is_none() || statement.reading == reading {
            return statement;
        }
        let id = statement.id;
        let is_there = match name {
            b"" => side.has.unnamed == Some(id),
            _ => side.has.statements.uses(id),
        };
        if is_there {
            return statement;
        }
        let statement = statement.read_anew(reading, self.names.types(name));
        self.names.read_anew(name, &statement);
        statement
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_name_such_a_setting_may_change_it() {
        let may = |text: &str| may_change(text.as_bytes(), crate::sql::footprint::footprint(text.as_bytes()));
        assert!(may("select set_config('timezone', 'UTC', true)"));
        assert!(may("select set_config($1, $2, true)"));
        assert!(may("do $$ begin set local DateStyle = 'SQL'; end $$"));
        assert!(!may("select set_config('app.tenant', $1, true)"));
        assert!(!may("select f(1)") && !may("select 'timezone'"));
    }

    #[test]
    fn constants_of_today_are_found() {
        for text in
            ["select 'now'::timestamptz", "select date ' Today '", "select '{tomorrow,\"yesterday 10:00\"}'"]
        {
            assert!(reads_clock(text.as_bytes()), "{text}");
        }
        for text in ["select now()", "select 'known', today -- 'now'", "select 'x", "", "select '2020-01-01'"]
        {
            assert!(!reads_clock(text.as_bytes()), "{text}");
        }
    }
}
