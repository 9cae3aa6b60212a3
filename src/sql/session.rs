//! What a session has to notice in its statements: SET and RESET, to make them again on another
//! server, and where transactions begin and end.

use super::lex::{LexError, Lexer, Token, is_space, is_word_part};

/// The class of a statement by its first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peek {
    /// `SET`: ask [`single_set`] what it sets.
    Set,
    /// `RESET`: ask [`single_set`].
    Reset,
    /// `DISCARD`.
    Discard,
    /// `BEGIN` or `START`.
    Begin,
    /// `COMMIT` or `END`; also `COMMIT PREPARED`.
    Commit,
    /// `ROLLBACK` or `ABORT`; also `ROLLBACK TO` a savepoint and `ROLLBACK PREPARED`.
    Rollback,
    /// May be a command of ours: ask [`super::admin::parse`]. Or it may concern other connections than its own.
    AdminCandidate,
    /// Anything else, and nothing.
    Other,
}

/// Reads the first word of a text, behind white space, comments and empty statements.
///
/// Only the first statement counts: of `SET a = 1; SELECT 2` it says `Set`.
#[inline]
pub fn peek(text: &[u8]) -> Peek {
    match text.first() {
        // What nearly every statement begins with, decided without a call.
        Some(b'I' | b'i' | b'U' | b'u' | b'W' | b'w' | b'V' | b'v') => Peek::Other,
        Some(b'S' | b's') if matches!(text.get(2), Some(b'L' | b'l')) => Peek::Other,
        Some(byte) if is_space(*byte) || matches!(byte, b'-' | b'/' | b';') => peek_behind_blank(text),
        Some(_) => class_of(text),
        None => Peek::Other,
    }
}

fn peek_behind_blank(text: &[u8]) -> Peek {
    let mut lexer = Lexer::new(text);
    loop {
        if lexer.skip_blank().is_err() {
            return Peek::Other;
        }
        let rest = &text[lexer.position()..];
        if rest.first() != Some(&b';') {
            return class_of(rest);
        }
        // The semicolon itself: cannot fail.
        let _ = lexer.next_token();
    }
}

/// `text` begins with the word.
fn class_of(text: &[u8]) -> Peek {
    const LONGEST: usize = "ROLLBACK".len();
    let length = text.iter().take(LONGEST + 1).take_while(|b| is_word_part(**b)).count();
    let word = &text[..length];
    let is = |keyword: &[u8]| word.eq_ignore_ascii_case(keyword);
    match word.first().map(u8::to_ascii_uppercase) {
        Some(b'S') if is(b"SET") => Peek::Set,
        Some(b'S') if is(b"START") => Peek::Begin,
        Some(b'S') if is(b"SHOW") => Peek::AdminCandidate,
        Some(b'R') if is(b"RESET") => Peek::Reset,
        Some(b'R') if is(b"ROLLBACK") => Peek::Rollback,
        Some(b'D') if is(b"DISCARD") => Peek::Discard,
        Some(b'D') if is(b"DROP") => Peek::AdminCandidate,
        Some(b'B') if is(b"BEGIN") => Peek::Begin,
        Some(b'C') if is(b"COMMIT") => Peek::Commit,
        Some(b'C') if is(b"CREATE") => Peek::AdminCandidate,
        Some(b'E') if is(b"END") => Peek::Commit,
        Some(b'A') if is(b"ABORT") => Peek::Rollback,
        Some(b'A') if is(b"ALTER") => Peek::AdminCandidate,
        Some(b'M') if is(b"MIRROR") => Peek::AdminCandidate,
        _ => Peek::Other,
    }
}

/// What a SET or RESET reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A setting, by its name in lower case; `TIME ZONE`, `NAMES`, `SCHEMA`, `SEED`, `XML OPTION`
    /// stand under the setting they mean.
    Setting(String),
    /// `ROLE`.
    Role,
    /// `SESSION AUTHORIZATION`, which also resets the role.
    SessionAuthorization,
    /// `SESSION CHARACTERISTICS AS TRANSACTION …`: the defaults of later transactions, as settings and their
    /// values. Nothing where they cannot be told.
    Characteristics(Vec<(&'static str, &'static str)>),
    /// `TRANSACTION …`: the running transaction only.
    Transaction,
    /// `CONSTRAINTS …`: the running transaction only.
    Constraints,
    /// `RESET ALL`: every setting, but neither role nor session authorization.
    All,
}

/// How long it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Until the session ends, once its transaction commits.
    Session,
    /// Until the transaction ends.
    Transaction,
}

/// Which of the two it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `SET`.
    Set,
    /// `RESET`.
    Reset,
}

/// A text that is one SET or RESET and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetStatement {
    /// `SET` or `RESET`.
    pub action: Action,
    /// What it reaches.
    pub target: Target,
    /// How long it lasts.
    pub scope: Scope,
}

/// Recognises a text that is exactly one SET or RESET statement, so that the same text can be sent
/// to another server. `None` for everything else, for several statements and for whatever cannot
/// be split with certainty.
pub fn single_set(text: &[u8]) -> Option<SetStatement> {
    read_set(text).ok().flatten()
}

/// The statements of a text that is sent as one, without the semicolons between them; each gives one
/// CommandComplete. `None` where they cannot be told apart with certainty.
pub fn divide(text: &[u8]) -> Option<Vec<&[u8]>> {
    let mut lexer = Lexer::new(text);
    let (mut depth, mut begin, mut statements) = (0_usize, None, Vec::new());
    loop {
        lexer.skip_blank().ok()?;
        let at = lexer.position();
        match lexer.next_token().ok()? {
            None => {
                statements.extend(begin.map(|begin| &text[begin..]));
                return Some(statements);
            }
            Some(Token::Symbol(b';')) if depth == 0 => {
                statements.extend(begin.take().map(|begin: usize| &text[begin..at]));
            }
            Some(token) => {
                match token {
                    Token::Symbol(b'(') => depth += 1,
                    Token::Symbol(b')') => depth = depth.saturating_sub(1),
                    // The body of a function may follow, with semicolons of its own.
                    _ if token.is_word("ATOMIC") => return None,
                    _ => {}
                }
                begin.get_or_insert(at);
            }
        }
    }
}

fn read_set(text: &[u8]) -> Result<Option<SetStatement>, LexError> {
    let mut lexer = Lexer::new(text);
    let first = loop {
        match lexer.next_token()? {
            Some(Token::Symbol(b';')) => {}
            Some(token) => break token,
            None => return Ok(None),
        }
    };
    let statement = if first.is_word("SET") {
        read_target_of_set(&mut lexer)?
    } else if first.is_word("RESET") {
        read_target_of_reset(&mut lexer)?
    } else {
        None
    };
    let Some(statement) = statement else { return Ok(None) };
    let mut is_ended = false;
    while let Some(token) = lexer.next_token()? {
        match token {
            Token::Symbol(b';') => is_ended = true,
            _ if is_ended => return Ok(None),
            _ => {}
        }
    }
    Ok(Some(statement))
}

fn read_target_of_set(lexer: &mut Lexer<'_>) -> Result<Option<SetStatement>, LexError> {
    let mut scope = Scope::Session;
    let Some(mut word) = lexer.next_token()? else { return Ok(None) };
    if word.is_word("LOCAL") || word.is_word("SESSION") {
        if word.is_word("LOCAL") {
            scope = Scope::Transaction;
        }
        let Some(next) = lexer.next_token()? else { return Ok(None) };
        if word.is_word("SESSION") && next.is_word("CHARACTERISTICS") {
            let target = Target::Characteristics(modes(lexer.clone())?);
            return Ok(Some(SetStatement { action: Action::Set, target, scope }));
        }
        if next.is_word("AUTHORIZATION") && word.is_word("SESSION") {
            let target = Target::SessionAuthorization;
            return Ok(Some(SetStatement { action: Action::Set, target, scope }));
        }
        word = next;
    }
    let target = if word.is_word("TRANSACTION") {
        scope = Scope::Transaction;
        Some(Target::Transaction)
    } else if word.is_word("CONSTRAINTS") {
        scope = Scope::Transaction;
        Some(Target::Constraints)
    } else {
        target(word, lexer)?
    };
    Ok(target.map(|target| SetStatement { action: Action::Set, target, scope }))
}

/// What a transaction can be, the setting that is the default of it, and the value ("SET TRANSACTION").
const MODES: [(&[&str], &str, &str); 8] = [
    (&["ISOLATION", "LEVEL", "SERIALIZABLE"], "default_transaction_isolation", "serializable"),
    (&["ISOLATION", "LEVEL", "REPEATABLE", "READ"], "default_transaction_isolation", "repeatable read"),
    (&["ISOLATION", "LEVEL", "READ", "COMMITTED"], "default_transaction_isolation", "read committed"),
    (&["ISOLATION", "LEVEL", "READ", "UNCOMMITTED"], "default_transaction_isolation", "read uncommitted"),
    (&["READ", "ONLY"], "default_transaction_read_only", "on"),
    (&["READ", "WRITE"], "default_transaction_read_only", "off"),
    (&["DEFERRABLE"], "default_transaction_deferrable", "on"),
    (&["NOT", "DEFERRABLE"], "default_transaction_deferrable", "off"),
];

/// The modes of `AS TRANSACTION mode [, …]`, `lexer` standing in front of it.
fn modes(mut lexer: Lexer<'_>) -> Result<Vec<(&'static str, &'static str)>, LexError> {
    let mut words = Vec::new();
    while let Some(token) = lexer.next_token()?.filter(|token| *token != Token::Symbol(b';')) {
        words.extend((token != Token::Symbol(b',')).then_some(token));
    }
    let is = |words: &[Token<'_>], expected: &[&str]| {
        words.len() >= expected.len() && words.iter().zip(expected).all(|(token, word)| token.is_word(word))
    };
    let mut modes = Vec::new();
    let mut rest = words.get(2..).filter(|_| is(&words, &["AS", "TRANSACTION"])).unwrap_or_default();
    while !rest.is_empty() {
        let Some((words, name, value)) = MODES.iter().find(|(words, ..)| is(rest, words)) else {
            return Ok(Vec::new());
        };
        modes.push((*name, *value));
        rest = &rest[words.len()..];
    }
    Ok(modes)
}

fn read_target_of_reset(lexer: &mut Lexer<'_>) -> Result<Option<SetStatement>, LexError> {
    let Some(word) = lexer.next_token()? else { return Ok(None) };
    let target = if word.is_word("ALL") { Some(Target::All) } else { target(word, lexer)? };
    Ok(target.map(|target| SetStatement { action: Action::Reset, target, scope: Scope::Session }))
}

/// What both SET and RESET can name.
fn target(word: Token<'_>, lexer: &mut Lexer<'_>) -> Result<Option<Target>, LexError> {
    if word.is_word("ROLE") {
        return Ok(Some(Target::Role));
    }
    if word.is_word("SESSION") {
        // SET SESSION SESSION AUTHORIZATION, SET LOCAL SESSION AUTHORIZATION
        let next = lexer.next_token()?;
        let is_authorization = next.is_some_and(|token| token.is_word("AUTHORIZATION"));
        return Ok(is_authorization.then_some(Target::SessionAuthorization));
    }
    Ok(setting(word, lexer)?.map(Target::Setting))
}

/// The name of a setting that begins with `word`; words with a syntax of their own become the
/// setting that they change ("SET").
fn setting(word: Token<'_>, lexer: &mut Lexer<'_>) -> Result<Option<String>, LexError> {
    let Some(mut name) = name_of(word) else { return Ok(None) };
    let special = match name.as_str() {
        "time" => Some(("ZONE", "timezone")),
        "xml" => Some(("OPTION", "xmloption")),
        "names" => Some(("", "client_encoding")),
        "schema" => Some(("", "search_path")),
        _ => None,
    };
    if let (Some((second, setting)), Token::Word(_)) = (special, word) {
        let mut ahead = lexer.clone();
        let next = ahead.next_token()?;
        // `SET names = 'x'` would be a setting of that name.
        let is_plain = match next {
            Some(Token::Symbol(b'=' | b'.')) => true,
            Some(token) => token.is_word("TO"),
            None => false,
        };
        if !is_plain && second.is_empty() {
            return Ok(Some(setting.to_owned()));
        }
        if !second.is_empty() && next.is_some_and(|token| token.is_word(second)) {
            *lexer = ahead;
            return Ok(Some(setting.to_owned()));
        }
    }
    loop {
        let mut ahead = lexer.clone();
        if ahead.next_token()? != Some(Token::Symbol(b'.')) {
            return Ok(Some(name));
        }
        let Some(part) = ahead.next_token()?.and_then(name_of) else { return Ok(None) };
        name.push('.');
        name.push_str(&part);
        *lexer = ahead;
    }
}

/// Names of settings are compared without regard to case, quoted or not ("Setting Parameters").
fn name_of(token: Token<'_>) -> Option<String> {
    match token {
        Token::Word(bytes) | Token::Quoted(bytes) => {
            Some(String::from_utf8_lossy(bytes).to_ascii_lowercase().replace("\"\"", "\""))
        }
        Token::Text(_) | Token::Number(_) | Token::Symbol(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_says_the_class() {
        #[track_caller]
        fn check(text: &str, expected: Peek) {
            assert_eq!(peek(text.as_bytes()), expected, "{text:?}");
        }
        for text in [
            "",
            " ",
            "SELECT 1",
            "select",
            "sel",
            "INSERT",
            "setting",
            "SETS",
            "set_config('a')",
            "(SELECT 1)",
            "\"SET\"",
            "'SET'",
            "-SET",
            "/SET",
            "/* SET",
            "-- SET",
            "STARTED",
            "ENDS",
            "COMMITTED",
            "rollbacks",
            "set$",
            "setä",
            "1",
            ";",
            "VALUES (1)",
            "WITH x AS (SELECT 1) SELECT 1",
            "SAVEPOINT a",
            "release a",
        ] {
            check(text, Peek::Other);
        }
        check("SET a=1", Peek::Set);
        check("set\ta=1", Peek::Set);
        check("/* a /* b */ */ -- c\n ;; seT/**/a=1", Peek::Set);
        check("SET", Peek::Set);
        check("Reset all", Peek::Reset);
        check("DISCARD ALL", Peek::Discard);
        check("begin;", Peek::Begin);
        check("START TRANSACTION", Peek::Begin);
        check("COMMIT", Peek::Commit);
        check("end", Peek::Commit);
        check("rollback to a", Peek::Rollback);
        check("ABORT", Peek::Rollback);
        check("SHOW x", Peek::AdminCandidate);
        check("drop table x", Peek::AdminCandidate);
        check("ALTER DATABASE x", Peek::AdminCandidate);
        check("create database x", Peek::AdminCandidate);
        check("mirror database x", Peek::AdminCandidate);
    }

    #[test]
    fn one_set_statement_is_told_from_all_else() {
        let yes = |action, target, scope| Some(SetStatement { action, target, scope });
        let name = |name: &str| Target::Setting(name.to_owned());
        #[track_caller]
        fn check(text: &str, expected: Option<SetStatement>) {
            assert_eq!(single_set(text.as_bytes()), expected, "{text}");
        }
        use {Action::Reset, Action::Set, Scope::Session, Scope::Transaction};
        check("SET a = 1", yes(Set, name("a"), Session));
        check(" set /* x */ Work_Mem to '1MB' ; ; -- end", yes(Set, name("work_mem"), Session));
        check("SET SESSION a.B = 'x;y'", yes(Set, name("a.b"), Session));
        check("SET \"My\".x = $$a;b$$;", yes(Set, name("my.x"), Session));
        check("SET search_path = a, \"b;c\", E'd\\';e'", yes(Set, name("search_path"), Session));
        check("SET LOCAL a = 1", yes(Set, name("a"), Transaction));
        check("SET TIME ZONE 'UTC'", yes(Set, name("timezone"), Session));
        check("SET LOCAL TIME ZONE LOCAL", yes(Set, name("timezone"), Transaction));
        check("SET NAMES 'LATIN1'", yes(Set, name("client_encoding"), Session));
        check("SET NAMES", yes(Set, name("client_encoding"), Session));
        check("SET SCHEMA 'x'", yes(Set, name("search_path"), Session));
        check("SET XML OPTION DOCUMENT", yes(Set, name("xmloption"), Session));
        check("SET SEED TO 0.5", yes(Set, name("seed"), Session));
        check("SET ROLE x", yes(Set, Target::Role, Session));
        check("SET LOCAL ROLE NONE", yes(Set, Target::Role, Transaction));
        check("SET SESSION ROLE x", yes(Set, Target::Role, Session));
        check("SET SESSION AUTHORIZATION x", yes(Set, Target::SessionAuthorization, Session));
        check("SET SESSION SESSION AUTHORIZATION x", yes(Set, Target::SessionAuthorization, Session));
        check("SET LOCAL SESSION AUTHORIZATION x", yes(Set, Target::SessionAuthorization, Transaction));
        check("SET TRANSACTION READ ONLY", yes(Set, Target::Transaction, Transaction));
        check("SET CONSTRAINTS ALL DEFERRED", yes(Set, Target::Constraints, Transaction));
        check(
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            yes(Set, Target::Characteristics(vec![("default_transaction_read_only", "on")]), Session),
        );
        check("RESET ALL", yes(Reset, Target::All, Session));
        check("reset Work_mem;", yes(Reset, name("work_mem"), Session));
        check("RESET my.x", yes(Reset, name("my.x"), Session));
        check("RESET ROLE", yes(Reset, Target::Role, Session));
        check("RESET SESSION AUTHORIZATION", yes(Reset, Target::SessionAuthorization, Session));
        check("RESET TIME ZONE", yes(Reset, name("timezone"), Session));
        for text in [
            "",
            "SET",
            "RESET",
            "SET 'a' = 1",
            "SELECT 1",
            "SET a = 1; SELECT 1",
            "SET a = 1; SET b = 2",
            "BEGIN; SET a = 1",
            "SET a = 'x",
            "SET a = 'x\\'; DROP TABLE y; --'",
            "SET a = $x$ ;",
            "SET a = 1 /* open",
            "SETS a = 1",
            "SET LOCAL",
            "SET a.",
        ] {
            check(text, None);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60)) {
            let _ = peek(&text);
            let _ = single_set(&[b"SET ", text.as_slice()].concat());
        }
    }

    #[test]
    fn texts_are_divided_into_statements() {
        let check = |text: &str, expected: Option<&[&str]>| {
            let found = divide(text.as_bytes());
            let expected = expected.map(|all| all.iter().map(|it| it.as_bytes()).collect::<Vec<_>>());
            assert_eq!(found, expected, "{text}");
        };
        check("", Some(&[]));
        check(" ; ;", Some(&[]));
        check("select 1", Some(&["select 1"]));
        check("select ';' ; -- ;\n set a = 1;", Some(&["select ';' ", "set a = 1"]));
        check(
            "create rule r as on insert to t do (a; b); reset all",
            Some(&["create rule r as on insert to t do (a; b)", "reset all"]),
        );
        check("do $$ begin; end $$; select 2", Some(&["do $$ begin; end $$", "select 2"]));
        check("create function f() begin atomic select 1; end; select 2", None);
        check("select 'x", None);
    }
}
