//! What a session notices in the text of a statement, before it is sent.

use super::memory::Change;
use crate::sql::lex::{Lexer, Token};
use crate::sql::session::{Action, Scope, Target, divide, single_set};
use std::ops::BitOrAssign;

/// What a text is to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// May be a command of ours: the whole text decides.
    Candidate,
    /// May change what the session has made on its server: ask [`change_of`].
    Changing,
    /// Nothing to notice.
    Plain,
}

/// Looks at the first word only. `text` may be cut off.
#[inline]
pub fn notice(text: &[u8]) -> Notice {
    use crate::sql::session::Peek;
    match crate::sql::session::peek(text) {
        Peek::AdminCandidate => Notice::Candidate,
        Peek::Set | Peek::Reset => Notice::Changing,
        Peek::Other if may_be_de(text) => Notice::Changing,
        Peek::Other | Peek::Discard | Peek::Begin | Peek::Commit | Peek::Rollback => Notice::Plain,
    }
}

/// Which links are in the way of a statement, or will be out of date behind it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Concerned {
    /// None.
    #[default]
    None,
    /// Those to this database of the server.
    Database(Box<str>),
    /// Those of this role.
    Role(Box<str>),
    /// All: the text does not say it with certainty.
    All,
}

impl BitOrAssign for Concerned {
    fn bitor_assign(&mut self, other: Concerned) {
        match (&*self, other) {
            (_, Concerned::None) => {}
            (Concerned::None, other) => *self = other,
            (known, other) if *known == other => {}
            (_, _) => *self = Concerned::All,
        }
    }
}

/// Longer texts are not read to their ends.
const STATEMENT_MAX: usize = 8192;
/// A longer name is cut by the server.
const NAME_MAX: usize = 63;

/// Which links the statement concerns: a database that is dropped, renamed or copied must have no other sessions, and
/// what is set for a database or a role counts from the start of a session.
pub fn concerned_links(text: &[u8]) -> Concerned {
    let mut lexer = Lexer::new(text);
    let mut next = || lexer.next_token().ok().flatten();
    let Some(first) = next() else { return Concerned::None };
    if first.is_word("CREATE") {
        let is_database = next().is_some_and(|word| word.is_word("DATABASE"));
        let template = || template(text, lexer).map_or(Concerned::All, Concerned::Database);
        return if is_database { template() } else { Concerned::None };
    }
    if !first.is_word("DROP") && !first.is_word("ALTER") {
        return Concerned::None;
    }
    match next() {
        Some(word) if word.is_word("DATABASE") => {
            named(text, lexer).map_or(Concerned::All, Concerned::Database)
        }
        Some(word) if word.is_word("ROLE") || word.is_word("USER") => {
            named(text, lexer).map_or(Concerned::All, Concerned::Role)
        }
        _ => Concerned::None,
    }
}

/// The only name in a statement, `lexer` standing in front of it; `None` where it is not alone or not certain.
fn named(text: &[u8], mut lexer: Lexer<'_>) -> Option<Box<str>> {
    if text.len() > STATEMENT_MAX {
        return None;
    }
    let mut token = lexer.next_token().ok()??;
    let mut next = lexer.next_token().ok()?;
    if token.is_word("IF") && next.is_some_and(|word| word.is_word("EXISTS")) {
        token = lexer.next_token().ok()??;
        next = lexer.next_token().ok()?;
    }
    // Those who mean themselves, or everybody; USER MAPPING is about something else.
    let name = plain(token).filter(|_| !FOR_OTHERS.iter().any(|word| token.is_word(word)))?;
    // `U&"…"`, a list, or another statement behind this one.
    if !matches!(next, None | Some(Token::Word(_) | Token::Symbol(b';'))) {
        return None;
    }
    while let Some(token) = next {
        let was_end = token == Token::Symbol(b';');
        next = lexer.next_token().ok()?;
        if was_end && next.is_some() {
            return None;
        }
    }
    Some(name)
}

/// The database that CREATE DATABASE copies, `lexer` standing behind these words; `None` where it is not certain.
fn template(text: &[u8], mut lexer: Lexer<'_>) -> Option<Box<str>> {
    if text.len() > STATEMENT_MAX {
        return None;
    }
    lexer.next_token().ok()??;
    while let Some(option) = lexer.next_token().ok()? {
        if option.is_word("TEMPLATE") {
            let mut token = lexer.next_token().ok()??;
            if token == Token::Symbol(b'=') {
                token = lexer.next_token().ok()??;
            }
            return if token.is_word("DEFAULT") { break } else { plain(token) };
        }
    }
    Some("template1".into())
}

/// A name as the server understands it. What it makes of other bytes than these depends on encodings.
fn plain(token: Token<'_>) -> Option<Box<str>> {
    let name = match token {
        Token::Word(word) => word.to_ascii_lowercase(),
        Token::Quoted(inner) if !inner.contains(&b'"') => inner.to_vec(),
        Token::Text([b'\'', inner @ .., b'\'']) if !inner.contains(&b'\'') => inner.to_vec(),
        _ => return None,
    };
    let name = String::from_utf8(name).ok().filter(|name| name.is_ascii() && name.len() <= NAME_MAX)?;
    Some(name.into())
}

/// Words that are no name of a role.
const FOR_OTHERS: [&str; 5] = ["ALL", "CURRENT_ROLE", "CURRENT_USER", "SESSION_USER", "MAPPING"];

/// DEALLOCATE and DECLARE, and DELETE, which [`change_of`] then sorts out.
fn may_be_de(text: &[u8]) -> bool {
    matches!(text.first_chunk::<4>(), Some([b'D' | b'd', b'E' | b'e', b'A' | b'a' | b'C' | b'c', _]))
}

/// What the statement will change if it succeeds; `None` when that is nothing, or when the text
/// does not say it with certainty.
pub fn change_of(text: &[u8]) -> Option<Change> {
    if let Some(set) = single_set(text) {
        let name: Box<str> = match set.target {
            // It is where a sequence of numbers begins, not where it is.
            Target::Setting(name) if name == "seed" => return Some(Change::SetForTransaction),
            Target::Setting(name) => name.into(),
            Target::Role => "role".into(),
            Target::SessionAuthorization => "session authorization".into(),
            Target::Characteristics(modes) => return characteristics(&modes),
            Target::Transaction | Target::Constraints => return Some(Change::SetForTransaction),
            Target::All => return Some(Change::ResetAll),
        };
        return match (set.action, set.scope) {
            (Action::Set, Scope::Transaction) => Some(Change::SetForTransaction),
            (Action::Set, Scope::Session) => {
                let text = std::str::from_utf8(text).ok()?.into();
                Some(Change::Set { name, text })
            }
            (Action::Reset, _) => Some(Change::Reset { name }),
        };
    }
    let mut lexer = Lexer::new(text);
    let first = lexer.next_token().ok()??;
    if first.is_word("DEALLOCATE") {
        return deallocated(&mut lexer);
    }
    if first.is_word("DECLARE") {
        return declared(&mut lexer);
    }
    None
}

/// Each is a setting of its own, that SET and RESET find by its name.
fn characteristics(modes: &[(&str, &str)]) -> Option<Change> {
    let of = |(name, value): &(&str, &str)| ((*name).into(), format!("SET {name} = '{value}'").into());
    (!modes.is_empty()).then(|| Change::SetSeveral(modes.iter().map(of).collect()))
}

/// What each of several statements in one text will change. Nothing where none changes anything, where
/// there is but one, and where the text does not say it with certainty.
pub fn changes_of(text: &[u8]) -> Vec<Option<Change>> {
    let is_several = |text: &[u8]| memchr::memchr(b';', text.trim_ascii_end()).is_some();
    let statements = if is_several(text) { divide(text).unwrap_or_default() } else { Vec::new() };
    if statements.len() < 2 {
        return Vec::new();
    }
    // A name that is deallocated among others would have to be the server's.
    let of = |text: &&[u8]| change_of(text).filter(|it| !matches!(it, Change::Deallocate { .. }));
    let changes: Vec<_> = statements.iter().map(of).collect();
    if changes.iter().all(Option::is_none) { Vec::new() } else { changes }
}

/// `DEALLOCATE [PREPARE] name`, alone in its text.
fn deallocated(lexer: &mut Lexer<'_>) -> Option<Change> {
    let mut token = lexer.next_token().ok()??;
    if token.is_word("PREPARE") {
        token = lexer.next_token().ok()??;
    }
    let name: Box<[u8]> = match token {
        // Not quoted: PostgreSQL folds it to lower case, as it did when it was prepared so.
        Token::Word(word) => word.to_ascii_lowercase().into(),
        Token::Quoted(inner) if !inner.contains(&b'"') => inner.into(),
        _ => return None,
    };
    match lexer.next_token().ok()? {
        None => Some(Change::Deallocate { name }),
        Some(Token::Symbol(b';')) => match lexer.next_token().ok()? {
            None => Some(Change::Deallocate { name }),
            Some(_) => None,
        },
        Some(_) => None,
    }
}

/// A DECLARE without the word HOLD before its query ends with its transaction. `WITHOUT HOLD` is
/// taken for a hold too: rare, and the careful side.
fn declared(lexer: &mut Lexer<'_>) -> Option<Change> {
    loop {
        let token = lexer.next_token().ok()??;
        if token.is_word("HOLD") {
            return None;
        }
        if token.is_word("FOR") {
            return Some(Change::DeclareForTransaction);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_say_what_they_change() {
        let set = |name: &str, text: &str| Some(Change::Set { name: name.into(), text: text.into() });
        let several = |settings: &[(&str, &str)]| {
            let settings = settings.iter().map(|(name, text)| ((*name).into(), (*text).into()));
            Some(Change::SetSeveral(settings.collect()))
        };
        let deallocate = |name: &str| Some(Change::Deallocate { name: name.as_bytes().into() });
        for (text, expected) in [
            ("SET search_path = a, b", set("search_path", "SET search_path = a, b")),
            ("set session My.Tenant to 'x';", set("my.tenant", "set session My.Tenant to 'x';")),
            ("SET LOCAL work_mem = 1", Some(Change::SetForTransaction)),
            ("RESET work_mem", Some(Change::Reset { name: "work_mem".into() })),
            ("RESET ALL", Some(Change::ResetAll)),
            (
                "set session characteristics as transaction isolation level repeatable read, read only not deferrable;",
                several(&[
                    (
                        "default_transaction_isolation",
                        "SET default_transaction_isolation = 'repeatable read'",
                    ),
                    ("default_transaction_read_only", "SET default_transaction_read_only = 'on'"),
                    ("default_transaction_deferrable", "SET default_transaction_deferrable = 'off'"),
                ]),
            ),
            ("set session characteristics as transaction read", None),
            ("set session characteristics read only", None),
            ("SET SEED TO 0.5", Some(Change::SetForTransaction)),
            ("SET a = 1; SET b = 2", None),
            ("DEALLOCATE s1", deallocate("s1")),
            ("deallocate prepare \"S 1\" ;", deallocate("S 1")),
            ("DEALLOCATE s1; SELECT 1", None),
            ("DECLARE c CURSOR FOR SELECT 1", Some(Change::DeclareForTransaction)),
            ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", None),
            ("DELETE FROM t", None),
            ("", None),
        ] {
            assert_eq!(change_of(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn each_of_several_statements_says_what_it_changes() {
        let kinds = |text: &str| {
            let changes = changes_of(text.as_bytes());
            let kind = |change: &Option<Change>| match change {
                None => "-",
                Some(Change::Set { .. }) => "set",
                Some(Change::SetForTransaction) => "local",
                Some(Change::Reset { .. }) => "reset",
                Some(Change::ResetAll) => "all",
                Some(other) => panic!("{other:?}"),
            };
            changes.iter().map(kind).collect::<Vec<_>>().join(" ")
        };
        for (text, expected) in [
            ("select 1", ""),
            ("set a = 1;", ""),
            ("select 1; select 2", ""),
            ("select pg_advisory_unlock_all(); close all; unlisten *; reset all;", "- - - all"),
            ("set a = 1; ; set local b = 2; reset c", "set local reset"),
            ("deallocate a; set b = 1", "- set"),
            ("set a = 'x", ""),
        ] {
            assert_eq!(kinds(text), expected, "{text}");
        }
    }

    #[test]
    fn statements_about_databases_and_roles_concern_links() {
        let database = |name: &str| Concerned::Database(name.into());
        let role = |name: &str| Concerned::Role(name.into());
        for (text, expected) in [
            ("DROP DATABASE Shop", database("shop")),
            ("drop database if exists \"Shop 2\" with (force);", database("Shop 2")),
            ("alter database a rename to b", database("a")),
            ("ALTER DATABASE a SET work_mem = '1MB' ; -- done", database("a")),
            ("DROP DATABASE if", database("if")),
            ("ALTER ROLE a IN DATABASE b SET work_mem = 1", role("a")),
            ("alter user a password 'x; y'", role("a")),
            ("DROP USER a", role("a")),
            ("DROP ROLE a, b", Concerned::All),
            ("ALTER ROLE ALL SET work_mem = 1", Concerned::All),
            ("ALTER ROLE current_user SET work_mem = 1", Concerned::All),
            ("ALTER USER MAPPING FOR a SERVER b OPTIONS (SET user 'c')", Concerned::All),
            ("DROP DATABASE U&\"a\"", Concerned::All),
            ("DROP DATABASE \"a\"\"b\"", Concerned::All),
            ("DROP DATABASE \u{e4}", Concerned::All),
            ("ALTER ROLE a SET b = 1; ALTER ROLE c SET b = 1", Concerned::All),
            ("ALTER ROLE a SET b = 'x", Concerned::All),
            ("DROP DATABASE", Concerned::All),
            ("create database a owner = b Template  C encoding 'UTF8'", database("c")),
            ("CREATE DATABASE a WITH TEMPLATE = \"C 1\";", database("C 1")),
            ("create database template template 'c'", database("c")),
            ("CREATE DATABASE a", database("template1")),
            ("CREATE DATABASE a TEMPLATE DEFAULT", database("template1")),
            ("CREATE DATABASE a TEMPLATE U&\"c\"", Concerned::All),
            ("CREATE DATABASE a TEMPLATE", Concerned::All),
            ("CREATE TABLE a (template int)", Concerned::None),
            ("DROP TABLE database", Concerned::None),
            ("ALTER TABLE a", Concerned::None),
            ("SHOW database", Concerned::None),
            ("", Concerned::None),
            ("DROP 'x", Concerned::None),
        ] {
            assert_eq!(concerned_links(text.as_bytes()), expected, "{text}");
        }
        let long = format!("DROP DATABASE {}", "a".repeat(64));
        assert_eq!(concerned_links(long.as_bytes()), Concerned::All);
        let long = format!("DROP DATABASE a /* {} */", "a".repeat(STATEMENT_MAX));
        assert_eq!(concerned_links(long.as_bytes()), Concerned::All);
    }

    #[test]
    fn several_statements_concern_what_one_of_them_does() {
        let mut all = Concerned::None;
        for (text, expected) in [
            ("select 1", Concerned::None),
            ("drop database a", Concerned::Database("a".into())),
            ("select 1", Concerned::Database("a".into())),
            ("alter database a set b = 1", Concerned::Database("a".into())),
            ("drop role a", Concerned::All),
            ("select 1", Concerned::All),
        ] {
            all |= concerned_links(text.as_bytes());
            assert_eq!(all, expected, "{text}");
        }
    }

    #[test]
    fn ordinary_statements_are_plain_by_their_first_word() {
        for text in ["SELECT 1", "insert into t", "DELETE FROM t", "", "BEGIN", "/* c */ update t"] {
            assert_eq!(notice(text.as_bytes()), Notice::Plain, "{text}");
        }
        for text in ["SET a = 1", "RESET a", "DEALLOCATE a", "declare c cursor"] {
            assert_eq!(notice(text.as_bytes()), Notice::Changing, "{text}");
        }
        assert_eq!(notice(b"SHOW MIRROR STATUS"), Notice::Candidate);
    }
}
