//! PgBouncer's own commands, which the console understands as they are. Pure.
//!
//! They are ours on the console's connection only: `SHOW POOLS` and `PAUSE` in a session go to the
//! server. A name of a database is taken as it is written, quoted or not, as PgBouncer takes it.

use super::admin::CommandError;
use super::lex::{Lexer, Token};
use crate::base::sqlstate;

/// A command of PgBouncer's console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pooler {
    /// `SHOW` of one of its tables.
    Show(Table),
    /// `PAUSE [db]`: returns when every link is closed.
    Pause {
        /// One database, or all.
        database: Option<String>,
    },
    /// `RESUME [db]`.
    Resume {
        /// One database, or all at once.
        database: Option<String>,
    },
    /// `KILL [db]`: cuts clients and links.
    Kill {
        /// One database, or all.
        database: Option<String>,
    },
    /// `RECONNECT [db]`: links are closed when they are given back.
    Reconnect {
        /// One database, or all.
        database: Option<String>,
    },
    /// `WAIT_CLOSE [db]`: returns when RECONNECT has reached every link.
    WaitClose {
        /// One database, or all.
        database: Option<String>,
    },
    /// `DISABLE db`: no new clients.
    Disable {
        /// Which database.
        database: String,
    },
    /// `ENABLE db`.
    Enable {
        /// Which database.
        database: String,
    },
    /// `KILL_CLIENT id`.
    KillClient {
        /// As `SHOW CLIENTS` shows it.
        id: u64,
    },
    /// `SUSPEND`: nobody's statements are sent.
    Suspend,
    /// `SHUTDOWN`
    Shutdown(Shutdown),
    /// `SET key = value`
    Set {
        /// One of PgBouncer's keys, or one of ours (`pool.size`).
        key: String,
        /// Without quotes.
        value: String,
    },
}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// At once.
    Immediate,
    /// When every server is given back; clients that wait for one are sent away.
    WaitForServers,
    /// When every client has left.
    WaitForClients,
}

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident $word:literal,)*) => {
        /// What `SHOW` shows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Table {
            $($(#[$doc])* $name,)*
        }

        impl Table {
            /// All of them.
            pub const ALL: &[Table] = &[$(Table::$name,)*];

            /// The word behind `SHOW`.
            pub fn word(self) -> &'static str {
                match self {
                    $(Table::$name => $word,)*
                }
            }
        }
    };
}

tables! {
    /// Sockets that have bytes to be looked at.
    ActiveSockets "ACTIVE_SOCKETS",
    /// Client connections.
    Clients "CLIENTS",
    /// Settings.
    Config "CONFIG",
    /// Databases.
    Databases "DATABASES",
    /// Cached names.
    DnsHosts "DNS_HOSTS",
    /// Cached zones.
    DnsZones "DNS_ZONES",
    /// File descriptors.
    Fds "FDS",
    /// How many there are of everything.
    Lists "LISTS",
    /// Memory.
    Mem "MEM",
    /// Other processes that cancels are passed to.
    Peers "PEERS",
    /// Connections to those.
    PeerPools "PEER_POOLS",
    /// One row for each database and user.
    Pools "POOLS",
    /// Prepared statements; PgBouncer has no such table.
    Prepared "PREPARED",
    /// Links.
    Servers "SERVERS",
    /// Client connections and links.
    Sockets "SOCKETS",
    /// Active, paused or suspended.
    State "STATE",
    /// Counts and averages of each database.
    Stats "STATS",
    /// Averages alone.
    StatsAverages "STATS_AVERAGES",
    /// Counts alone.
    StatsTotals "STATS_TOTALS",
    /// Counts and averages of all databases.
    Totals "TOTALS",
    /// Users.
    Users "USERS",
}

impl Pooler {
    /// Whether it changes something, so that only `auth.admin_users` may give it.
    pub fn is_change(&self) -> bool {
        match self {
            // Shows where bytes of others can be read.
            Pooler::Show(table) => *table == Table::Fds,
            Pooler::Pause { .. }
            | Pooler::Resume { .. }
            | Pooler::Kill { .. }
            | Pooler::Reconnect { .. }
            | Pooler::WaitClose { .. }
            | Pooler::Disable { .. }
            | Pooler::Enable { .. }
            | Pooler::KillClient { .. }
            | Pooler::Suspend
            | Pooler::Shutdown(_)
            | Pooler::Set { .. } => true,
        }
    }

    /// Whether it returns only when others have done something, however long that takes.
    pub fn waits(&self) -> bool {
        matches!(
            self,
            Pooler::Pause { .. }
                | Pooler::WaitClose { .. }
                | Pooler::Suspend
                | Pooler::Shutdown(Shutdown::Immediate)
        )
    }

    /// The command without its arguments, as in its tag.
    pub fn words(&self) -> &'static str {
        match self {
            Pooler::Show(_) => "SHOW",
            Pooler::Pause { .. } => "PAUSE",
            Pooler::Resume { .. } => "RESUME",
            Pooler::Kill { .. } => "KILL",
            Pooler::Reconnect { .. } => "RECONNECT",
            Pooler::WaitClose { .. } => "WAIT_CLOSE",
            Pooler::Disable { .. } => "DISABLE",
            Pooler::Enable { .. } => "ENABLE",
            Pooler::KillClient { .. } => "KILL_CLIENT",
            Pooler::Suspend => "SUSPEND",
            Pooler::Shutdown(_) => "SHUTDOWN",
            Pooler::Set { .. } => "SET",
        }
    }
}

/// What follows these words has to be one of them.
const SHUTDOWN: &str = "Write SHUTDOWN, SHUTDOWN WAIT_FOR_SERVERS or SHUTDOWN WAIT_FOR_CLIENTS.";
const HELP: &str = "SHOW HELP lists the commands of this console.";
const KILL_CLIENT: &str = "Write KILL_CLIENT id, with the id of SHOW CLIENTS.";

/// Settings of a client that drivers make at their start; they have no effect here.
const OF_CLIENTS: &[&str] = &[
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "local",
    "lock_timeout",
    "names",
    "role",
    "row_security",
    "search_path",
    "session",
    "standard_conforming_strings",
    "statement_timeout",
    "time",
    "timezone",
    "transaction",
];

/// Reads a whole text typed on the console. `Ok(None)` means that it is none of these.
pub fn parse(text: &[u8]) -> Result<Option<Pooler>, CommandError> {
    let Some(words) = Words::of(text) else { return Ok(None) };
    let Some((first, first_at)) = words.word(0) else { return Ok(None) };
    let first = first.to_ascii_uppercase();
    if first == "SET" {
        return set(text, &words);
    }
    let argument = || words.name(1);
    let database = || argument().map(|name| name.filter(|name| !name.is_empty()));
    let required = || match database()? {
        Some(name) => Ok(name),
        None => Err(words.error(first_at, "a database is required", Some(HELP))),
    };
    let command = match first.as_str() {
        "SHOW" | "SELECT" => {
            let Some((second, _)) = words.word(1) else { return Ok(None) };
            let found = Table::ALL.iter().find(|table| table.word().eq_ignore_ascii_case(&second));
            let Some(table) = found else { return Ok(None) };
            if words.dotted(2) {
                return Ok(None);
            }
            Pooler::Show(*table)
        }
        "PAUSE" => Pooler::Pause { database: database()? },
        "RESUME" => Pooler::Resume { database: database()? },
        "KILL" => Pooler::Kill { database: database()? },
        "RECONNECT" => Pooler::Reconnect { database: database()? },
        "WAIT_CLOSE" => Pooler::WaitClose { database: database()? },
        "DISABLE" => Pooler::Disable { database: required()? },
        "ENABLE" => Pooler::Enable { database: required()? },
        "KILL_CLIENT" => match argument()?.map(|id| id.parse()) {
            Some(Ok(id)) => Pooler::KillClient { id },
            _ => return Err(words.error(first_at, "invalid client id supplied", Some(KILL_CLIENT))),
        },
        "SUSPEND" => {
            words.end(1)?;
            Pooler::Suspend
        }
        "SHUTDOWN" => match words.word(1) {
            None => Pooler::Shutdown(Shutdown::Immediate),
            Some((how, _)) if how.eq_ignore_ascii_case("WAIT_FOR_SERVERS") => {
                Pooler::Shutdown(Shutdown::WaitForServers)
            }
            Some((how, _)) if how.eq_ignore_ascii_case("WAIT_FOR_CLIENTS") => {
                Pooler::Shutdown(Shutdown::WaitForClients)
            }
            Some((how, at)) => {
                let message = format!("syntax error at or near \"{how}\"");
                return Err(words.error(at, message, Some(SHUTDOWN)));
            }
        },
        _ => return Ok(None),
    };
    words.end(2)?;
    Ok(Some(command))
}

/// `SET key = value` or `SET key TO value`, if the key is none of a client's own.
fn set(text: &[u8], words: &Words<'_>) -> Result<Option<Pooler>, CommandError> {
    let Some((key, _)) = words.word(1) else { return Ok(None) };
    let mut key = key.to_ascii_lowercase();
    if OF_CLIENTS.contains(&key.as_str()) {
        return Ok(None);
    }
    let mut next = 2;
    while words.dotted(next) {
        let Some((part, _)) = words.word(next + 1) else { return Ok(None) };
        key = format!("{key}.{}", part.to_ascii_lowercase());
        next += 2;
    }
    let is_equals = match words.tokens.get(next) {
        Some((Token::Symbol(b'='), _, _)) => true,
        Some((token, _, _)) => token.is_word("TO"),
        None => false,
    };
    let usage = Some("Write SET key = value.");
    let Some((_, _, value_at)) = words.tokens.get(next).filter(|_| is_equals) else {
        let at = words.tokens.get(next).map_or(text.len(), |(_, at, _)| *at);
        return Err(words.error(at, "the key has no value", usage));
    };
    let value = String::from_utf8_lossy(&text[*value_at..]);
    let value = value.trim().trim_end_matches(';').trim_end();
    let unquoted = |quote: char| {
        let inner = value.strip_prefix(quote)?.strip_suffix(quote)?;
        Some(inner.replace(&format!("{quote}{quote}"), &quote.to_string()))
    };
    let value = unquoted('\'').or_else(|| unquoted('"')).unwrap_or_else(|| value.to_owned());
    if value.contains(';') {
        return Err(words.error(*value_at, "one command at a time", usage));
    }
    Ok(Some(Pooler::Set { key, value }))
}

/// The tokens of one statement, each with where it begins and ends.
struct Words<'a> {
    tokens: Vec<(Token<'a>, usize, usize)>,
    end_at: usize,
}

/// More than any of these commands has.
const TOKENS_MAX: usize = 12;

impl<'a> Words<'a> {
    /// `None` for what cannot be split.
    fn of(text: &'a [u8]) -> Option<Self> {
        let mut lexer = Lexer::new(text);
        let mut tokens = Vec::new();
        loop {
            lexer.skip_blank().ok()?;
            let at = lexer.position();
            match lexer.next_token().ok()? {
                None => return Some(Self { tokens, end_at: text.len() }),
                Some(Token::Symbol(b';')) if tokens.is_empty() => {}
                Some(_) if tokens.len() == TOKENS_MAX => return Some(Self { tokens, end_at: text.len() }),
                Some(token) => tokens.push((token, at, lexer.position())),
            }
        }
    }

    /// The word at `index`, with where it begins; nothing for the statement's end.
    fn word(&self, index: usize) -> Option<(String, usize)> {
        match self.tokens.get(index)? {
            (Token::Word(word), at, _) => Some((String::from_utf8_lossy(word).into_owned(), *at)),
            _ => None,
        }
    }

    /// The name at `index`: a word, a number or quoted.
    fn name(&self, index: usize) -> Result<Option<String>, CommandError> {
        let Some((token, at, _)) = self.tokens.get(index) else { return Ok(None) };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match token {
            Token::Word(word) | Token::Number(word) => Ok(Some(text(word))),
            Token::Quoted(name) => Ok(Some(text(name).replace("\"\"", "\""))),
            Token::Symbol(b';') => Ok(None),
            Token::Text(_) | Token::Symbol(_) => Err(self.unexpected(index, *at)),
        }
    }

    fn dotted(&self, index: usize) -> bool {
        matches!(self.tokens.get(index), Some((Token::Symbol(b'.'), _, _)))
    }

    /// Nothing but semicolons from `index` on.
    fn end(&self, index: usize) -> Result<(), CommandError> {
        // An argument that was left out may be a semicolon.
        for (offset, (token, at, _)) in self.tokens.iter().enumerate().skip(index) {
            if *token != Token::Symbol(b';') {
                return Err(self.unexpected(offset, *at));
            }
        }
        Ok(())
    }

    fn unexpected(&self, index: usize, at: usize) -> CommandError {
        let shown = match self.tokens.get(index) {
            Some((Token::Symbol(byte), _, _)) => char::from(*byte).to_string(),
            Some((
                Token::Word(bytes) | Token::Quoted(bytes) | Token::Text(bytes) | Token::Number(bytes),
                _,
                _,
            )) => String::from_utf8_lossy(bytes).into_owned(),
            None => return self.error(self.end_at, "syntax error at end of input", Some(HELP)),
        };
        self.error(at, format!("syntax error at or near \"{shown}\""), Some(HELP))
    }

    fn error(&self, at: usize, message: impl Into<String>, hint: Option<&'static str>) -> CommandError {
        CommandError { code: sqlstate::SYNTAX_ERROR, message: message.into(), hint, at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<Pooler>) {
        assert_eq!(parse(text.as_bytes()), Ok(expected), "{text}");
    }

    fn some(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    #[test]
    fn every_table_is_shown_by_its_name() {
        for table in Table::ALL {
            check(&format!("SHOW {}", table.word()), Some(Pooler::Show(*table)));
            check(&format!("show {};", table.word().to_lowercase()), Some(Pooler::Show(*table)));
        }
        check("SELECT pools", Some(Pooler::Show(Table::Pools)));
        check(" /* dashboards */ show stats ; ", Some(Pooler::Show(Table::Stats)));
        check("SHOW pools.x", None);
        check("SHOW client_encoding", None);
        check("SHOW", None);
        check("SELECT 1", None);
        check("", None);
    }

    #[test]
    fn names_are_taken_as_they_are_written() {
        check("PAUSE", Some(Pooler::Pause { database: None }));
        check("pause;", Some(Pooler::Pause { database: None }));
        check("PAUSE Shop", Some(Pooler::Pause { database: some("Shop") }));
        check("PAUSE \"my-\"\"db\";", Some(Pooler::Pause { database: some("my-\"db") }));
        check("RESUME 2024", Some(Pooler::Resume { database: some("2024") }));
        check("KILL shop", Some(Pooler::Kill { database: some("shop") }));
        check("RECONNECT", Some(Pooler::Reconnect { database: None }));
        check("WAIT_CLOSE shop", Some(Pooler::WaitClose { database: some("shop") }));
        check("DISABLE shop", Some(Pooler::Disable { database: "shop".to_owned() }));
        check("ENABLE shop", Some(Pooler::Enable { database: "shop".to_owned() }));
        check("KILL_CLIENT 12", Some(Pooler::KillClient { id: 12 }));
        check("SUSPEND", Some(Pooler::Suspend));
        check("SHUTDOWN", Some(Pooler::Shutdown(Shutdown::Immediate)));
        check("shutdown wait_for_servers", Some(Pooler::Shutdown(Shutdown::WaitForServers)));
        check("SHUTDOWN WAIT_FOR_CLIENTS;", Some(Pooler::Shutdown(Shutdown::WaitForClients)));
    }

    #[test]
    fn set_changes_settings_of_the_proxy_and_not_those_of_a_client() {
        let set = |key: &str, value: &str| Some(Pooler::Set { key: key.to_owned(), value: value.to_owned() });
        check("SET default_pool_size = 30", set("default_pool_size", "30"));
        check("SET pool.size TO '30';", set("pool.size", "30"));
        check("set Server_Idle_Timeout=5m", set("server_idle_timeout", "5m"));
        check("SET auth.admin_users = \"a b\"", set("auth.admin_users", "a b"));
        check("SET extra_float_digits = 3", None);
        check("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", None);
        check("SET TIME ZONE 'UTC'", None);
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        #[track_caller]
        fn wrong(text: &str, message: &str, at: usize) {
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!((error.code, error.message.as_str(), error.at), ("42601", message, at), "{text}");
        }
        wrong("PAUSE a b", "syntax error at or near \"b\"", 8);
        wrong("PAUSE 'a'", "syntax error at or near \"'a'\"", 6);
        wrong("DISABLE;", "a database is required", 0);
        wrong("KILL_CLIENT all", "invalid client id supplied", 0);
        wrong("SHUTDOWN now", "syntax error at or near \"now\"", 9);
        wrong("SHOW POOLS NOW", "syntax error at or near \"NOW\"", 11);
        wrong("SUSPEND shop", "syntax error at or near \"shop\"", 8);
        wrong("SET pool_mode", "the key has no value", 13);
    }
}
