//! What a text means on the console's own connection, where no server can answer. Pure.
//!
//! Drivers and psql say more than our commands: they begin transactions, set parameters and ask for
//! settings. Those are answered as an empty server would, so that every driver can be used here.

use crate::base::sqlstate;
use crate::sql::admin::{self, Command, Place};
use crate::sql::console::{Column, ConsoleError, ConsoleRows, Kind, columns};
use crate::sql::lex::{Lexer, Token};
use crate::sql::session::{Peek, peek};

/// A statement as the console understands it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    /// For [`super::Console`].
    Command(Command),
    /// Nothing, or comments.
    Empty,
    /// Accepted without effect; the tag it is answered with.
    Accepted(&'static str),
    /// Opens a transaction block.
    Begin,
    /// Ends a transaction block.
    End(EndTag),
    /// `SHOW` of a setting: the index in [`SETTINGS`].
    Setting(usize),
    /// `SELECT 1`, by which pools see whether a connection lives.
    One,
}

/// How a transaction block was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndTag {
    Commit,
    Rollback,
}

/// Settings that drivers ask for, and their values here.
const SETTINGS: &[(&str, &str)] = &[
    ("client_encoding", "UTF8"),
    ("server_encoding", "UTF8"),
    ("server_version", SERVER_VERSION),
    ("server_version_num", "150000"),
    ("standard_conforming_strings", "on"),
    ("datestyle", "ISO, MDY"),
    ("intervalstyle", "postgres"),
    ("timezone", "UTC"),
    ("integer_datetimes", "on"),
    ("is_superuser", "off"),
    ("in_hot_standby", "off"),
    ("search_path", ""),
    ("max_identifier_length", "63"),
    ("transaction_isolation", "read committed"),
    ("default_transaction_isolation", "read committed"),
    ("transaction_read_only", "off"),
    ("default_transaction_read_only", "off"),
    ("extra_float_digits", "1"),
    ("application_name", ""),
];

/// Drivers read a number at the start of it and refuse or limit themselves below 9.
pub(super) const SERVER_VERSION: &str = concat!("15.0 (cloud-mirror ", env!("CARGO_PKG_VERSION"), ")");

static SETTING_COLUMNS: [Column; SETTINGS.len()] = {
    let mut columns = [Column { name: "", kind: Kind::Text }; SETTINGS.len()];
    let mut index = 0;
    while index < SETTINGS.len() {
        columns[index] = Column { name: SETTINGS[index].0, kind: Kind::Text };
        index += 1;
    }
    columns
};

impl Statement {
    /// Reads one statement; an error is what the client is answered.
    pub fn read(text: &[u8]) -> Result<Self, ConsoleError> {
        match admin::parse(text, Place::Console) {
            Ok(Some(command)) => return Ok(Statement::Command(command)),
            Ok(None) => {}
            Err(error) => return Err(ConsoleError::from_command(&error, text)),
        }
        if pieces(text).len() > 1 {
            let message = "cannot insert multiple commands into a prepared statement";
            return Err(ConsoleError::new(sqlstate::SYNTAX_ERROR, message));
        }
        Ok(match peek(text) {
            Peek::Set => Statement::Accepted("SET"),
            Peek::Reset => Statement::Accepted("RESET"),
            Peek::Discard => Statement::Accepted("DISCARD ALL"),
            Peek::Begin => Statement::Begin,
            Peek::Commit => Statement::End(EndTag::Commit),
            Peek::Rollback => Statement::End(EndTag::Rollback),
            Peek::AdminCandidate | Peek::Other => return read_rest(text),
        })
    }

    /// The columns of its answer.
    pub fn columns(&self) -> &'static [Column] {
        match self {
            Statement::Command(command) => columns(command),
            Statement::Setting(index) => std::slice::from_ref(&SETTING_COLUMNS[*index]),
            Statement::One => ONE,
            Statement::Empty | Statement::Accepted(_) | Statement::Begin | Statement::End(_) => &[],
        }
    }
}

const ONE: &[Column] = &[Column { name: "?column?", kind: Kind::Int8 }];

/// The answer to `SELECT 1`.
pub(super) fn show_one() -> ConsoleRows {
    ConsoleRows {
        columns: ONE,
        rows: vec![vec![Some("1".to_owned())]],
        tag: "SELECT 1".into(),
        notices: Vec::new(),
    }
}

/// The statements of a text, each with the byte at which it begins; empty ones are left out. A
/// text that cannot be split is one piece.
pub(super) fn pieces(text: &[u8]) -> Vec<(usize, &[u8])> {
    let mut pieces = Vec::new();
    let (mut lexer, mut start, mut is_empty) = (Lexer::new(text), 0, true);
    loop {
        match lexer.next_token() {
            Ok(Some(Token::Symbol(b';'))) => {
                if !is_empty {
                    pieces.push((start, &text[start..lexer.position()]));
                }
                (start, is_empty) = (lexer.position(), true);
            }
            Ok(Some(_)) => is_empty = false,
            Ok(None) => break,
            Err(_) => return vec![(0, text)],
        }
    }
    if !is_empty {
        pieces.push((start, &text[start..]));
    }
    pieces
}

/// The answer to `SHOW` of the setting with this index.
pub(super) fn show_setting(index: usize) -> ConsoleRows {
    ConsoleRows {
        columns: std::slice::from_ref(&SETTING_COLUMNS[index]),
        rows: vec![vec![Some(SETTINGS[index].1.to_owned())]],
        tag: "SHOW".into(),
        notices: Vec::new(),
    }
}

fn read_rest(text: &[u8]) -> Result<Statement, ConsoleError> {
    let mut words = Vec::new();
    let mut lexer = Lexer::new(text);
    while let Some(token) = lexer.next_token().map_err(|_| not_ours())? {
        match token {
            Token::Symbol(b';') => {}
            // More than any statement here has.
            _ if words.len() == 5 => break,
            token => words.push(token),
        }
    }
    let word = |token: &Token<'_>| match token {
        Token::Word(word) | Token::Quoted(word) => String::from_utf8_lossy(word).to_lowercase(),
        _ => String::new(),
    };
    match words.as_slice() {
        [] => Ok(Statement::Empty),
        [first, ..] if first.is_word("DEALLOCATE") => Ok(Statement::Accepted("DEALLOCATE")),
        // How pools clean a connection and see whether it lives.
        [first, ..] if first.is_word("UNLISTEN") => Ok(Statement::Accepted("UNLISTEN")),
        [first, second] if first.is_word("CLOSE") && second.is_word("ALL") => {
            Ok(Statement::Accepted("CLOSE CURSOR ALL"))
        }
        [first, Token::Number(b"1")] if first.is_word("SELECT") => Ok(Statement::One),
        [first, second, Token::Symbol(b'('), Token::Symbol(b')')]
            if first.is_word("SELECT") && second.is_word("pg_advisory_unlock_all") =>
        {
            Ok(Statement::Accepted("SELECT 1"))
        }
        [first, second, rest @ ..] if first.is_word("SHOW") => {
            let name = match rest {
                [] => word(second),
                // SHOW TRANSACTION ISOLATION LEVEL, SHOW TIME ZONE
                _ if second.is_word("TRANSACTION") => "transaction_isolation".to_owned(),
                _ if second.is_word("TIME") => "timezone".to_owned(),
                _ => return Err(not_ours()),
            };
            match SETTINGS.iter().position(|(known, _)| *known == name) {
                Some(index) => Ok(Statement::Setting(index)),
                None => Err(ConsoleError::new(
                    sqlstate::UNDEFINED_OBJECT,
                    format!("unrecognized configuration parameter \"{name}\""),
                )
                .with_hint("SHOW HELP lists the commands of this console.")),
            }
        }
        _ => Err(not_ours()),
    }
}

fn not_ours() -> ConsoleError {
    ConsoleError::new(sqlstate::NOT_SUPPORTED, "this is the console of cloud-mirror, which runs no SQL")
        .with_hint("SHOW HELP lists its commands; connect to another database for SQL.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drivers_say_besides_is_understood() {
        #[track_caller]
        fn check(text: &str, expected: Statement) {
            assert_eq!(Statement::read(text.as_bytes()), Ok(expected), "{text}");
        }
        check("", Statement::Empty);
        check(" ; -- nothing", Statement::Empty);
        check("SHOW MIRROR STATUS", Statement::Command(Command::ShowMirrorStatus));
        check("show version;", Statement::Command(Command::ShowVersion));
        check("SET extra_float_digits = 3", Statement::Accepted("SET"));
        check("RESET ALL;", Statement::Accepted("RESET"));
        check("DISCARD ALL", Statement::Accepted("DISCARD ALL"));
        check("DEALLOCATE \"_pg3_0\"", Statement::Accepted("DEALLOCATE"));
        check("BEGIN ISOLATION LEVEL SERIALIZABLE", Statement::Begin);
        check("CLOSE ALL", Statement::Accepted("CLOSE CURSOR ALL"));
        check("UNLISTEN *;", Statement::Accepted("UNLISTEN"));
        check("select pg_advisory_unlock_all()", Statement::Accepted("SELECT 1"));
        check("select 1;", Statement::One);
        check("COMMIT", Statement::End(EndTag::Commit));
        check("rollback;", Statement::End(EndTag::Rollback));
        for (text, name) in [
            ("SHOW client_encoding", "client_encoding"),
            ("show \"DateStyle\";", "datestyle"),
            ("SHOW TRANSACTION ISOLATION LEVEL", "transaction_isolation"),
            ("SHOW TIME ZONE", "timezone"),
        ] {
            let statement = Statement::read(text.as_bytes()).unwrap();
            assert_eq!(statement.columns()[0].name, name, "{text}");
            let Statement::Setting(index) = statement else { panic!("{text}") };
            assert_eq!(show_setting(index).rows.len(), 1);
        }
    }

    #[test]
    fn a_text_falls_into_its_statements() {
        #[track_caller]
        fn check(text: &str, expected: &[(usize, &str)]) {
            let expected: Vec<_> = expected.iter().map(|(at, piece)| (*at, piece.as_bytes())).collect();
            assert_eq!(pieces(text.as_bytes()), expected, "{text}");
        }
        check("", &[]);
        check(" ; -- a\n;", &[]);
        check("a", &[(0, "a")]);
        check("a;b ;", &[(0, "a;"), (2, "b ;")]);
        check("a';';b /* ; */", &[(0, "a';';"), (5, "b /* ; */")]);
        check("a; 'b", &[(0, "a; 'b")]);
    }

    #[test]
    fn everything_else_is_refused_with_a_hint() {
        #[track_caller]
        fn check(text: &str, code: &str, message: &str) {
            let error = Statement::read(text.as_bytes()).expect_err(text);
            assert_eq!((error.code.as_str(), error.message.as_str()), (code, message), "{text}");
        }
        let no_sql = "this is the console of cloud-mirror, which runs no SQL";
        check("SELECT 2", "0A000", no_sql);
        check("SELECT 1 + 1", "0A000", no_sql);
        check("SELECT pg_catalog.version()", "0A000", no_sql);
        check("DROP TABLE x", "0A000", no_sql);
        check("SHOW a b c", "0A000", no_sql);
        check("'", "0A000", no_sql);
        check("SHOW work_mem", "42704", "unrecognized configuration parameter \"work_mem\"");
        check("BEGIN; SHOW LEASE", "42601", "cannot insert multiple commands into a prepared statement");
        check(
            "SHOW LEASE; BEGIN",
            "42601",
            "a command of cloud-mirror must be the only statement of its message",
        );
    }
}
