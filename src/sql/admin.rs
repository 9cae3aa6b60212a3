//! Recognises our own commands.
//!
//! A text is ours only when PostgreSQL could not run it: either its grammar refuses it, or it
//! would ask for a setting that does not exist. Everything else, and everything unclear, is
//! `Ok(None)` and goes to the server unchanged.

use super::lex::{LexError, Lexer, Token, is_space};
use super::pooler::{self, Pooler};
use crate::base::{DatabaseName, MirrorName, sqlstate};

/// A command of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `SHOW MIRROR STATUS`: one row per mirror.
    ShowMirrorStatus,
    /// `SHOW DATABASE MIRROR STATUS FOR m`: one row.
    ShowDatabaseMirrorStatus {
        /// Which mirror.
        mirror: MirrorName,
    },
    /// `SHOW LEASE`: one row, or none where no lease is kept.
    ShowLease,
    /// `SHOW EVENTS`: the last changes of state, oldest first.
    ShowEvents,
    /// `SHOW HELP`: all commands.
    ShowHelp,
    /// `SHOW VERSION`, on the console only.
    ShowVersion,
    /// `MIRROR DATABASE m FROM d [MODE = async]`.
    MirrorDatabase {
        /// The mirror's name, and of its database on the upstream `cloud`.
        mirror: MirrorName,
        /// The database to copy.
        source: DatabaseName,
    },
    /// `DROP MIRROR m`.
    DropMirror {
        /// Which mirror.
        mirror: MirrorName,
    },
    /// `ALTER DATABASE m PROMOTE`.
    Promote {
        /// Which mirror.
        mirror: MirrorName,
    },
    /// `RELOAD`, on the console only: reads the configuration again.
    Reload,
    /// One of PgBouncer's, on the console only.
    Pooler(Pooler),
}

impl Command {
    /// Whether it changes something, so that only `auth.admin_users` may give it.
    pub fn is_change(&self) -> bool {
        match self {
            Command::MirrorDatabase { .. }
            | Command::DropMirror { .. }
            | Command::Promote { .. }
            | Command::Reload => true,
            Command::Pooler(pooler) => pooler.is_change(),
            Command::ShowMirrorStatus
            | Command::ShowDatabaseMirrorStatus { .. }
            | Command::ShowLease
            | Command::ShowEvents
            | Command::ShowHelp
            | Command::ShowVersion => false,
        }
    }

    /// The command's words without its arguments, as in an error or a command tag.
    pub fn words(&self) -> &'static str {
        match self {
            Command::ShowMirrorStatus => "SHOW MIRROR STATUS",
            Command::ShowDatabaseMirrorStatus { .. } => "SHOW DATABASE MIRROR STATUS",
            Command::ShowLease => "SHOW LEASE",
            Command::ShowEvents => "SHOW EVENTS",
            Command::ShowHelp => "SHOW HELP",
            Command::ShowVersion => "SHOW VERSION",
            Command::MirrorDatabase { .. } => "MIRROR DATABASE",
            Command::DropMirror { .. } => "DROP MIRROR",
            Command::Promote { .. } => "ALTER DATABASE",
            Command::Reload => "RELOAD",
            Command::Pooler(pooler) => pooler.words(),
        }
    }
}

/// All commands as `SHOW HELP` lists them: how each is written, what it does, who may give it.
pub const HELP: &[(&str, &str, &str)] = &[
    ("SHOW MIRROR STATUS", "state, lag and progress of every mirror", "everyone"),
    ("SHOW DATABASE MIRROR STATUS FOR mirror", "state, lag and progress of one mirror", "everyone"),
    ("SHOW LEASE", "who may write, in which epoch and until when", "everyone"),
    ("SHOW EVENTS", "the last changes of state, oldest first", "everyone"),
    ("SHOW HELP", "this list", "everyone"),
    ("SHOW VERSION", "version of cloud-mirror (on the database mirror only)", "everyone"),
    (
        "MIRROR DATABASE mirror FROM database [MODE = async]",
        "copies a database to database \"mirror\" of the upstream cloud and keeps it equal",
        "auth.admin_users",
    ),
    ("DROP MIRROR mirror", "stops mirroring; the copy stays", "auth.admin_users"),
    ("ALTER DATABASE mirror PROMOTE", "makes the cloud the writer in a new epoch", "auth.admin_users"),
    ("RELOAD", "reads the configuration again (on the database mirror only)", "auth.admin_users"),
];

/// PgBouncer's commands in the same form. All of them are for the database `mirror` only.
pub const POOLER_HELP: &[(&str, &str, &str)] = &[
    ("SHOW CLIENTS|SERVERS|SOCKETS|ACTIVE_SOCKETS", "who is connected", "auth.stats_users"),
    ("SHOW POOLS|DATABASES|USERS|LISTS", "what there is, with its limits", "auth.stats_users"),
    ("SHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS", "what was counted", "auth.stats_users"),
    ("SHOW CONFIG|STATE|PREPARED", "settings, pauses, prepared statements", "auth.stats_users"),
    ("SHOW MEM|PEERS|PEER_POOLS|DNS_HOSTS|DNS_ZONES", "nothing: there is none of it", "auth.stats_users"),
    ("SHOW FDS", "nothing: file descriptors are not handed out", "auth.admin_users"),
    ("SET key = value", "changes a setting until the configuration is read again", "auth.admin_users"),
    ("PAUSE [db]", "gives out no more servers, and returns when all are closed", "auth.admin_users"),
    ("RESUME [db]", "goes on after PAUSE, KILL or SUSPEND", "auth.admin_users"),
    ("SUSPEND", "sends nobody's statements", "auth.admin_users"),
    ("DISABLE db, ENABLE db", "refuses or allows new clients", "auth.admin_users"),
    ("RECONNECT [db]", "closes servers as soon as they are given back", "auth.admin_users"),
    ("WAIT_CLOSE [db]", "returns when RECONNECT has reached every server", "auth.admin_users"),
    ("KILL [db]", "cuts clients and servers, and pauses", "auth.admin_users"),
    ("KILL_CLIENT id", "cuts one client", "auth.admin_users"),
    ("SHUTDOWN", "ends the process at once", "auth.admin_users"),
    ("SHUTDOWN WAIT_FOR_SERVERS", "pauses, and ends when all servers are closed", "auth.admin_users"),
    ("SHUTDOWN WAIT_FOR_CLIENTS", "takes no new clients, and ends when all have left", "auth.admin_users"),
];

/// Where a text was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A session with a server behind it: what is not ours goes there.
    Session,
    /// The database `mirror`, which has nothing behind it: `SHOW VERSION` and `RELOAD` are ours too.
    Console,
}

/// A text that is ours but not written as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CommandError {
    /// SQLSTATE.
    pub code: &'static str,
    /// Short, in PostgreSQL's style.
    pub message: String,
    /// How the command is written.
    pub hint: Option<&'static str>,
    /// Byte at which the reading stopped, from 0.
    pub at: usize,
}

/// Whether [`parse`] may find a command in a session's text: looks at its first bytes only.
///
/// Stands on the way of every statement, so it errs towards `true` (a leading comment, every
/// `DROP`) and costs a few nanoseconds when the answer is `false`.
#[inline]
pub fn may_be(text: &[u8]) -> bool {
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        if !is_space(*first) {
            break;
        }
        rest = tail;
    }
    let begins = |word: &[u8]| rest.len() >= word.len() && rest[..word.len()].eq_ignore_ascii_case(word);
    match rest.first() {
        Some(b's' | b'S') => begins(b"SHOW"),
        Some(b'm' | b'M') => begins(b"MIRROR"),
        Some(b'd' | b'D') => begins(b"DROP"),
        Some(b'a' | b'A') => begins(b"ALTER"),
        Some(b'-') => rest.get(1) == Some(&b'-'),
        Some(b'/') => rest.get(1) == Some(&b'*'),
        Some(b';') => true,
        _ => false,
    }
}

/// Reads a whole text (of a Query or Parse message, without its zero byte).
///
/// `Ok(None)` means that it is not ours. An error means that it is ours and cannot be carried out
/// as written.
pub fn parse(text: &[u8], place: Place) -> Result<Option<Command>, CommandError> {
    let mut lexer = Lexer::new(text);
    // A text that cannot even be split before it is known to be ours is the server's to judge.
    let Ok(first) = first_token(&mut lexer) else { return Ok(None) };
    let Some(first) = first else { return Ok(None) };
    let mut words = Words { lexer, at: 0, usage: "" };
    if first.is_word("SHOW") {
        match (words.show(place)?, place) {
            (None, Place::Console) => Ok(pooler::parse(text)?.map(Command::Pooler)),
            (command, _) => Ok(command),
        }
    } else if first.is_word("MIRROR") {
        words.mirror_database().map(Some)
    } else if first.is_word("DROP") {
        words.drop_mirror()
    } else if first.is_word("ALTER") {
        words.promote()
    } else if first.is_word("RELOAD") && place == Place::Console {
        words.usage = "RELOAD takes no arguments.";
        words.end().map(|()| Some(Command::Reload))
    } else if place == Place::Console {
        Ok(pooler::parse(text)?.map(Command::Pooler))
    } else {
        Ok(None)
    }
}

/// The first token behind empty statements.
fn first_token<'a>(lexer: &mut Lexer<'a>) -> Result<Option<Token<'a>>, LexError> {
    loop {
        match lexer.next_token()? {
            Some(Token::Symbol(b';')) => {}
            token => return Ok(token),
        }
    }
}

/// The rest of a command.
struct Words<'a> {
    lexer: Lexer<'a>,
    /// Where the token read last begins.
    at: usize,
    usage: &'static str,
}

const SHOW_MIRROR: &str = "Write SHOW MIRROR STATUS.";
const SHOW_DATABASE: &str = "Write SHOW DATABASE MIRROR STATUS FOR mirror.";
const MIRROR: &str = "Write MIRROR DATABASE mirror FROM database [MODE = async].";
const DROP: &str = "Write DROP MIRROR mirror.";
const PROMOTE: &str = "Write ALTER DATABASE mirror PROMOTE.";

impl<'a> Words<'a> {
    /// `SHOW a.b` is always a setting, whatever `a` is; `SHOW a` never is for our words.
    fn show(&mut self, place: Place) -> Result<Option<Command>, CommandError> {
        let Ok(Some(second)) = self.try_next() else { return Ok(None) };
        if second.is_word("MIRROR") {
            self.usage = SHOW_MIRROR;
            if self.next_is_dot() {
                return Ok(None);
            }
            self.word("STATUS")?;
            return self.end().map(|()| Some(Command::ShowMirrorStatus));
        }
        if second.is_word("DATABASE") {
            match self.try_next() {
                Ok(Some(third)) if third.is_word("MIRROR") => {}
                _ => return Ok(None),
            }
            self.usage = SHOW_DATABASE;
            self.word("STATUS")?;
            self.word("FOR")?;
            let mirror = self.mirror_name()?;
            return self.end().map(|()| Some(Command::ShowDatabaseMirrorStatus { mirror }));
        }
        let command = if second.is_word("LEASE") {
            self.usage = "SHOW LEASE takes no arguments.";
            Command::ShowLease
        } else if second.is_word("EVENTS") {
            self.usage = "SHOW EVENTS takes no arguments.";
            Command::ShowEvents
        } else if second.is_word("HELP") {
            self.usage = "SHOW HELP takes no arguments.";
            Command::ShowHelp
        } else if second.is_word("VERSION") && place == Place::Console {
            self.usage = "SHOW VERSION takes no arguments.";
            Command::ShowVersion
        } else {
            return Ok(None);
        };
        if self.next_is_dot() {
            return Ok(None);
        }
        self.end().map(|()| Some(command))
    }

    fn mirror_database(&mut self) -> Result<Command, CommandError> {
        self.usage = MIRROR;
        self.word("DATABASE")?;
        let mirror = self.mirror_name()?;
        self.word("FROM")?;
        let at = self.start_of_next();
        let source = self.name()?;
        let source = DatabaseName::new(source).map_err(|e| self.bad_name(e, at))?;
        if let Some(option) = self.next()? {
            if !option.is_word("MODE") {
                if option == Token::Symbol(b';') {
                    self.nothing_more()?;
                    return Ok(Command::MirrorDatabase { mirror, source });
                }
                return Err(self.unexpected(Some(option)));
            }
            let mut value = self.next()?;
            if value == Some(Token::Symbol(b'=')) {
                value = self.next()?;
            }
            let at = self.at;
            let mode = match value {
                Some(Token::Word(word) | Token::Quoted(word)) => word,
                Some(Token::Text(text)) if text[0] == b'\'' => &text[1..text.len() - 1],
                other => return Err(self.unexpected(other)),
            };
            if mode.eq_ignore_ascii_case(b"sync") {
                return Err(CommandError {
                    code: sqlstate::NOT_SUPPORTED,
                    message: "mode \"sync\" is not available yet".to_owned(),
                    hint: Some("Write MODE = async."),
                    at,
                });
            }
            if !mode.eq_ignore_ascii_case(b"async") {
                return Err(CommandError {
                    code: sqlstate::INVALID_PARAMETER,
                    message: format!("unrecognized mode: \"{}\"", String::from_utf8_lossy(mode)),
                    hint: Some("Write MODE = async."),
                    at,
                });
            }
        }
        self.end()?;
        Ok(Command::MirrorDatabase { mirror, source })
    }

    fn drop_mirror(&mut self) -> Result<Option<Command>, CommandError> {
        match self.try_next() {
            Ok(Some(second)) if second.is_word("MIRROR") => {}
            _ => return Ok(None),
        }
        self.usage = DROP;
        let mirror = self.mirror_name()?;
        self.end()?;
        Ok(Some(Command::DropMirror { mirror }))
    }

    /// `ALTER DATABASE x` is the server's unless `PROMOTE` follows: the server knows no option of
    /// that name ("ALTER DATABASE").
    fn promote(&mut self) -> Result<Option<Command>, CommandError> {
        match self.try_next() {
            Ok(Some(second)) if second.is_word("DATABASE") => {}
            _ => return Ok(None),
        }
        self.usage = PROMOTE;
        let at = self.start_of_next();
        let Ok(Some(name @ (Token::Word(_) | Token::Quoted(_)))) = self.try_next() else {
            return Ok(None);
        };
        match self.try_next() {
            Ok(Some(third)) if third.is_word("PROMOTE") => {}
            _ => return Ok(None),
        }
        self.end()?;
        let name = self.text_of(name, at)?;
        let mirror = MirrorName::new(name).map_err(|e| self.bad_name(e, at))?;
        Ok(Some(Command::Promote { mirror }))
    }

    fn start_of_next(&mut self) -> usize {
        // An error comes back from the next token as well.
        let _ = self.lexer.skip_blank();
        self.lexer.position()
    }

    fn try_next(&mut self) -> Result<Option<Token<'a>>, LexError> {
        self.lexer.skip_blank()?;
        self.at = self.lexer.position();
        self.lexer.next_token()
    }

    fn next(&mut self) -> Result<Option<Token<'a>>, CommandError> {
        self.try_next().map_err(|error| CommandError {
            code: sqlstate::SYNTAX_ERROR,
            message: error.to_string(),
            hint: Some(self.usage),
            at: self.at,
        })
    }

    fn next_is_dot(&mut self) -> bool {
        let mut ahead = self.lexer.clone();
        matches!(ahead.next_token(), Ok(Some(Token::Symbol(b'.'))))
    }

    fn word(&mut self, expected: &str) -> Result<(), CommandError> {
        match self.next()? {
            Some(token) if token.is_word(expected) => Ok(()),
            other => Err(self.unexpected(other)),
        }
    }

    fn mirror_name(&mut self) -> Result<MirrorName, CommandError> {
        let at = self.start_of_next();
        let name = self.name()?;
        MirrorName::new(name).map_err(|e| self.bad_name(e, at))
    }

    fn name(&mut self) -> Result<String, CommandError> {
        match self.next()? {
            Some(token @ Token::Word(_)) if RESERVED.iter().any(|word| token.is_word(word)) => {
                Err(self.unexpected(Some(token)))
            }
            Some(token @ (Token::Word(_) | Token::Quoted(_))) => self.text_of(token, self.at),
            other => Err(self.unexpected(other)),
        }
    }

    /// The name that a token stands for: without quotes in lower case, as PostgreSQL folds it.
    fn text_of(&self, token: Token<'a>, at: usize) -> Result<String, CommandError> {
        let (bytes, is_quoted) = match token {
            Token::Word(bytes) => (bytes, false),
            Token::Quoted(bytes) => (bytes, true),
            other => return Err(self.unexpected(Some(other))),
        };
        let text = std::str::from_utf8(bytes).map_err(|_| CommandError {
            code: sqlstate::SYNTAX_ERROR,
            message: "a name in a command of cloud-mirror must be UTF-8".to_owned(),
            hint: Some(self.usage),
            at,
        })?;
        Ok(if is_quoted { text.replace("\"\"", "\"") } else { text.to_ascii_lowercase() })
    }

    /// A semicolon or nothing, and nothing behind it.
    fn end(&mut self) -> Result<(), CommandError> {
        match self.next()? {
            None => Ok(()),
            Some(Token::Symbol(b';')) => self.nothing_more(),
            Some(token) => Err(self.unexpected(Some(token))),
        }
    }

    fn nothing_more(&mut self) -> Result<(), CommandError> {
        loop {
            match self.next()? {
                None => return Ok(()),
                Some(Token::Symbol(b';')) => {}
                Some(_) => {
                    return Err(CommandError {
                        code: sqlstate::SYNTAX_ERROR,
                        message: "a command of cloud-mirror must be the only statement of its message"
                            .to_owned(),
                        hint: Some("Send it on its own."),
                        at: self.at,
                    });
                }
            }
        }
    }

    fn unexpected(&self, token: Option<Token<'_>>) -> CommandError {
        let message = match token {
            None => "syntax error at end of input".to_owned(),
            Some(token) => {
                let shown = match token {
                    Token::Word(bytes) | Token::Quoted(bytes) | Token::Text(bytes) | Token::Number(bytes) => {
                        String::from_utf8_lossy(bytes).into_owned()
                    }
                    Token::Symbol(byte) => char::from(byte).to_string(),
                };
                format!("syntax error at or near \"{shown}\"")
            }
        };
        CommandError { code: sqlstate::SYNTAX_ERROR, message, hint: Some(self.usage), at: self.at }
    }

    fn bad_name(&self, error: crate::base::NameError, at: usize) -> CommandError {
        CommandError { code: sqlstate::SYNTAX_ERROR, message: error.to_string(), hint: Some(self.usage), at }
    }
}

/// Our own keywords are names only in quotes.
const RESERVED: &[&str] = &["FROM", "FOR", "MODE", "PROMOTE", "STATUS"];

#[cfg(test)]
#[path = "admin_tests.rs"]
mod tests;
