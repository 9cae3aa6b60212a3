//! What a statement may leave behind in its session, as far as its text says.
//!
//! A name with a parenthesis behind it is taken for a call of a function. Functions of PostgreSQL
//! that change nothing ([`super::harmless`]) are clean; a few are known for what they leave behind;
//! all others are suspect: only the server knows what they did. What triggers, rules and defaults
//! call is not in the text; that there may be some is ([`Footprint::TOUCHES`]).

use super::harmless;
use super::lex::{Lexer, Token};
use std::ops::{BitOr, BitOrAssign};

/// A set of things that may be left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Footprint(u16);

impl Footprint {
    /// Nothing.
    pub const CLEAN: Footprint = Footprint(0);
    /// Something may be left behind: ask the server.
    pub const SUSPECT: Footprint = Footprint(1);
    /// A temporary table, view or sequence.
    pub const TEMPORARY: Footprint = Footprint(1 << 1);
    /// An advisory lock of the session.
    pub const ADVISORY_LOCK: Footprint = Footprint(1 << 2);
    /// The seed of `random()`.
    pub const SEED: Footprint = Footprint(1 << 3);
    /// A library loaded by LOAD.
    pub const LIBRARY: Footprint = Footprint(1 << 4);
    /// A setting, by a function.
    pub const SETTING: Footprint = Footprint(1 << 5);
    /// It asks for the last value of a sequence in this session.
    pub const LAST_VALUE: Footprint = Footprint(1 << 6);
    /// It may advance a sequence, whose value the session may ask for then.
    pub const ADVANCES: Footprint = Footprint(1 << 7);
    /// It asks for what its back end has counted, or how that is shown.
    pub const STATISTICS: Footprint = Footprint(1 << 8);
    /// It is about tables or views, or makes some: triggers, rules, defaults and policies may call functions
    /// that it does not name.
    pub const TOUCHES: Footprint = Footprint(1 << 9);
    /// It changes or deletes rows of a table: its triggers and rules may do more than it says.
    pub const WRITES: Footprint = Footprint(1 << 10);
    /// It may ask for the last value of a sequence in what is not read of it, or makes what does.
    pub const MAY_ASK: Footprint = Footprint(1 << 11);
    /// It computes something: operators, casts, domains, and functions that have the names of PostgreSQL's own, may be
    /// those of users.
    pub const COMPUTES: Footprint = Footprint(1 << 12);

    /// It keeps something in its server process that no reset takes away.
    pub const KEEPS: Footprint = Footprint(1 << 13);

    /// Both, in a constant.
    #[must_use]
    pub const fn or(self, other: Footprint) -> Footprint {
        Footprint(self.0 | other.0)
    }

    /// Whether nothing can be left behind that another session would find, if nobody's last values of
    /// sequences are asked for without care.
    pub fn is_clean(self) -> bool {
        let harmless = Footprint::ADVANCES
            .or(Footprint::TOUCHES)
            .or(Footprint::WRITES)
            .or(Footprint::MAY_ASK)
            .or(Footprint::COMPUTES);
        self.without(harmless) == Footprint::CLEAN
    }

    /// Whether there is nothing at all in it.
    pub fn is_empty(self) -> bool {
        self == Footprint::CLEAN
    }

    /// Whether some of `other` is in it.
    pub fn has(self, other: Footprint) -> bool {
        self.0 & other.0 != 0
    }

    /// The first of what is known to be in it, for people.
    pub fn what(self) -> &'static str {
        match self {
            it if it.has(Footprint::TEMPORARY) => "a temporary table",
            it if it.has(Footprint::ADVISORY_LOCK) => "an advisory lock of the session",
            it if it.has(Footprint::SEED) => "the seed of random()",
            it if it.has(Footprint::LIBRARY) => "a loaded library",
            it if it.has(Footprint::KEEPS) => "what a function keeps in its server process",
            _ => "the state of the session",
        }
    }

    /// Without `other`.
    #[must_use]
    pub fn without(self, other: Footprint) -> Footprint {
        Footprint(self.0 & !other.0)
    }
}

impl BitOr for Footprint {
    type Output = Footprint;

    fn bitor(self, other: Footprint) -> Footprint {
        Footprint(self.0 | other.0)
    }
}

impl BitOrAssign for Footprint {
    fn bitor_assign(&mut self, other: Footprint) {
        self.0 |= other.0;
    }
}

/// Reads a whole text, of one or more statements.
pub fn footprint(text: &[u8]) -> Footprint {
    let mut scan = Scan::default();
    let mut lexer = Lexer::new(text);
    loop {
        match lexer.next_token() {
            Ok(Some(token)) => scan.on_token(token),
            Ok(None) => return scan.all_found(),
            // What cannot be split may be anything.
            Err(_) => return scan.all_found() | Footprint::SUSPECT | Footprint::MAY_ASK,
        }
    }
}

/// Whether what may be a statement names a function that asks for the last value of a sequence.
pub fn names_last_value(text: &[u8]) -> bool {
    let is_name =
        |word: &[u8]| word.eq_ignore_ascii_case(b"lastval") || word.eq_ignore_ascii_case(b"currval");
    // Both have it as their fifth letter, and few texts have many.
    memchr::memchr2_iter(b'v', b'V', text).filter_map(|at| text.get(at.checked_sub(4)?..at + 3)).any(is_name)
}

/// A number for all texts that differ only in their constants, white space and comments. Texts that
/// cannot be split stand for themselves.
pub fn shape(text: &[u8]) -> u64 {
    let mut lexer = Lexer::new(text);
    let mut hash = Hash::default();
    loop {
        match lexer.next_token() {
            Ok(Some(Token::Word(word))) => {
                hash.put(b'w');
                word.iter().for_each(|byte| hash.put(byte.to_ascii_lowercase()));
            }
            Ok(Some(Token::Quoted(name))) => {
                hash.put(b'q');
                name.iter().for_each(|byte| hash.put(*byte));
            }
            Ok(Some(Token::Symbol(symbol))) => hash.put(symbol),
            Ok(Some(Token::Text(constant))) if constant.starts_with(b"$") => {
                // The body of a DO is what it does.
                constant.iter().for_each(|byte| hash.put(*byte));
            }
            Ok(Some(Token::Text(_) | Token::Number(_))) => hash.put(0xff),
            Ok(None) => return hash.0,
            Err(_) => {
                text.iter().for_each(|byte| hash.put(*byte));
                return hash.0;
            }
        }
    }
}

/// FNV-1a.
struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Hash(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    fn put(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
}

/// What the tokens so far say.
#[derive(Default)]
struct Scan<'a> {
    /// By the statements before this one.
    earlier: Footprint,
    found: Footprint,
    /// The tokens before this one, the last first.
    last: Option<Token<'a>>,
    before: Option<Token<'a>>,
    third: Option<Token<'a>>,
    fourth: Option<Token<'a>>,
    first: First,
    /// Some constant may be a statement that asks for the last value of a sequence.
    is_asked_in_constants: bool,
}

/// What the statement begins with.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum First {
    /// Nothing has come yet.
    #[default]
    Open,
    Create,
    Set,
    Other,
}

impl<'a> Scan<'a> {
    fn on_token(&mut self, token: Token<'a>) {
        match token {
            Token::Symbol(b';') => {
                *self = Scan { earlier: self.all_found(), ..Scan::default() };
                return;
            }
            Token::Symbol(b'(') => self.on_parenthesis(),
            Token::Symbol(b'.') if self.last.is_some_and(is_temporary_schema) => {
                self.found |= Footprint::TEMPORARY;
            }
            Token::Word(word) => self.on_word(word, token),
            Token::Quoted(b"pg_settings") => self.on_view_of_settings(),
            Token::Text(constant) => self.is_asked_in_constants |= names_last_value(constant),
            _ => {}
        }
        // What is made from now on may be temporary without a word.
        if self.first == First::Set && is_temporary_schema(token) {
            self.found |= Footprint::SUSPECT;
        }
        if self.first == First::Open {
            if let Token::Word(word) = token {
                self.found |= match harmless::is_of_session(word) {
                    false => Footprint::TOUCHES.or(Footprint::COMPUTES),
                    true if token.is_word("SELECT") || token.is_word("VALUES") => Footprint::COMPUTES,
                    true => Footprint::CLEAN,
                };
            }
            self.first = match token {
                _ if token.is_word("CREATE") => First::Create,
                _ if token.is_word("SET") => First::Set,
                _ => First::Other,
            };
        }
        (self.fourth, self.third) = (self.third, self.before);
        (self.before, self.last) = (self.last, Some(token));
    }

    /// Constants count where something is called that may execute them.
    fn all_found(&self) -> Footprint {
        let found = self.earlier | self.found;
        match self.first {
            _ if !self.is_asked_in_constants => found,
            First::Create => found | Footprint::MAY_ASK,
            _ if found.has(Footprint::SUSPECT) => found | Footprint::LAST_VALUE,
            First::Open | First::Set | First::Other => found,
        }
    }

    fn on_word(&mut self, word: &[u8], token: Token<'a>) {
        self.on_write(word, token);
        if self.first == First::Open {
            match word.first().map(u8::to_ascii_uppercase) {
                Some(b'D') if token.is_word("DO") => self.found |= Footprint::SUSPECT,
                Some(b'C') if token.is_word("CALL") => self.found |= Footprint::SUSPECT,
                Some(b'E') if token.is_word("EXECUTE") => self.found |= Footprint::SUSPECT,
                Some(b'L') if token.is_word("LOAD") => self.found |= Footprint::LIBRARY,
                Some(b'C') if token.is_word("COPY") => self.found |= Footprint::ADVANCES,
                // ALTER TABLE ADD numbers the rows that are there.
                Some(b'A') if token.is_word("ALTER") => self.found |= Footprint::ADVANCES,
                _ => {}
            }
            return;
        }
        match word.first().map(u8::to_ascii_uppercase) {
            Some(b'I') => return self.on_into(token),
            Some(b'S') if self.first == First::Set && token.is_word("SEED") => {
                return self.found |= Footprint::SEED;
            }
            Some(b'P') if token.is_word("PG_SETTINGS") => return self.on_view_of_settings(),
            Some(b'P' | b'S') => return self.on_statistics(word),
            // UPDATE t SET c = DEFAULT.
            Some(b'D') if token.is_word("DEFAULT") => return self.found |= Footprint::ADVANCES,
            Some(b'D') => return self.on_commit_drop(token),
            Some(b'F') if token.is_word("FROM") => return self.found |= Footprint::TOUCHES,
            Some(b'T') if matches!(word, [_, b'E' | b'e', b'M' | b'm', b'P' | b'p', ..]) => {}
            _ => return,
        }
        let is_temporary = token.is_word("TEMP") || token.is_word("TEMPORARY");
        let is_made = self.first == First::Create
            && ["CREATE", "REPLACE", "LOCAL", "GLOBAL"].iter().any(|before| self.last_is(before));
        // INSERT INTO and MERGE INTO name a table that is there.
        let is_verb = |word: Token<'_>| word.is_word("INSERT") || word.is_word("MERGE");
        let is_selected_into = self.last_is("INTO") && !self.before.is_some_and(is_verb);
        if is_temporary && (is_made || is_selected_into) {
            self.found |= Footprint::TEMPORARY;
        }
    }

    /// FOR UPDATE locks.
    fn on_write(&mut self, word: &[u8], token: Token<'a>) {
        let is_write = match word.first().map(u8::to_ascii_uppercase) {
            Some(b'U') => token.is_word("UPDATE") && !self.last_is("FOR") && !self.last_is("KEY"),
            Some(b'D') => token.is_word("DELETE"),
            Some(b'T') => token.is_word("TRUNCATE"),
            _ => false,
        };
        if is_write {
            self.found |= Footprint::WRITES;
        }
    }

    /// What is inserted may have a number of its own, by its column's default.
    fn on_into(&mut self, token: Token<'a>) {
        if token.is_word("INTO") && (self.last_is("INSERT") || self.last_is("MERGE")) {
            self.found |= Footprint::ADVANCES;
        }
    }

    /// Who updates it sets something ("pg_settings").
    fn on_view_of_settings(&mut self) {
        if self.found.has(Footprint::WRITES) {
            self.found |= Footprint::SETTING;
        }
    }

    /// Functions, views and a setting that are about the counters of a back end.
    fn on_statistics(&mut self, word: &[u8]) {
        const NAMES: [&[u8]; 4] =
            [b"pg_stat_force_next_flush", b"pg_stat_get_xact_", b"pg_stat_xact_", b"stats_fetch_consistency"];
        let begins =
            |name: &&[u8]| word.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name));
        if word.len() > 12 && NAMES.iter().any(begins) {
            self.found |= Footprint::STATISTICS;
        }
    }

    /// `ON COMMIT DROP`: the table goes with its transaction.
    fn on_commit_drop(&mut self, token: Token<'a>) {
        let is = |token: Option<Token<'a>>, word| token.is_some_and(|token| token.is_word(word));
        if token.is_word("DROP") && is(self.last, "COMMIT") && is(self.before, "ON") {
            self.found = self.found.without(Footprint::TEMPORARY);
        }
    }

    fn last_is(&self, word: &str) -> bool {
        self.last.is_some_and(|last| last.is_word(word))
    }

    fn on_parenthesis(&mut self) {
        let (name, is_quoted) = match self.last {
            Some(Token::Word(name)) => (name, false),
            Some(Token::Quoted(name)) => (name, true),
            _ => return,
        };
        let is_qualified = self.before == Some(Token::Symbol(b'.'));
        let (schema, before) = if is_qualified { (self.third, self.fourth) } else { (None, self.before) };
        if let Some(Token::Word(before)) = before
            && harmless::is_before_name(before)
        {
            return;
        }
        if !is_qualified && !is_quoted && harmless::is_keyword(name) {
            return;
        }
        let is_ours_to_know = match schema {
            None => !is_qualified,
            Some(schema) => schema.is_word("PG_CATALOG"),
        };
        self.found |= if is_ours_to_know { harmless::of_function(name) } else { Footprint::SUSPECT };
    }
}

/// However it is written: as a name, or as a constant in SET.
fn is_temporary_schema(token: Token<'_>) -> bool {
    token.is_word("PG_TEMP") || matches!(token, Token::Quoted(b"pg_temp") | Token::Text(b"'pg_temp'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Footprint) {
        let tables = Footprint::TOUCHES | Footprint::WRITES | Footprint::COMPUTES;
        assert_eq!(footprint(text.as_bytes()).without(tables), expected, "{text}");
    }

    #[test]
    fn ordinary_statements_leave_nothing_behind() {
        for text in [
            "",
            "select abalance from pgbench_accounts where aid = $1",
            "SELECT count(*), max(a.b) FROM t WHERE x IN (1, 2) AND (y OR z) AND lower(name) LIKE 'a%'",
            "insert into t (a, b) values (1, 'x'), (2, 'f(x)') on conflict (a) do update set b = excluded.b",
            "insert into s.t(a) select coalesce(x, 0) from u join v using (id) returning a",
            "update t set v = (select 1), w = now() - interval '1 day' where exists (select 1)",
            "with x as (select 1), y as materialized (select 2) select * from x, y",
            "select row_number() over (partition by a order by b), sum(x) filter (where y) from t",
            "select a::numeric(10,2), cast(b as varchar(20)), extract(epoch from c), array(select 1) from t",
            "select /* f(x) */ -- g(y)\n 1",
            "select pg_catalog.now()",
            "select * from t as a(x, y)",
            "begin; select 1; commit",
            "explain (analyze) select 1",
            "copy t (a, b) from stdin",
            "select pg_advisory_xact_lock(1)",
            "create table t (a int primary key, b numeric(5,2) default 0, unique (a), check (b > 0))",
            "create temp table t (a int) on commit drop",
            "delete from t where id = any($1)",
            "select nextval('s')",
        ] {
            assert!(footprint(text.as_bytes()).is_clean(), "{text}");
        }
    }

    #[test]
    fn what_may_advance_a_sequence_is_told() {
        for text in [
            "insert into t values (1)",
            "with x as (insert into t values (1) returning a) select a from x",
            "merge into t using s on true when not matched then insert values (1)",
            "copy t from stdin",
            "select nextval('s')",
            "select setval('s', 3)",
            "update t set a = default where b = 1",
            "alter table t add b serial",
        ] {
            check(text, Footprint::ADVANCES);
        }
        check("select into from t", Footprint::CLEAN);
        check("update t set a = 1", Footprint::CLEAN);
    }

    #[test]
    fn what_may_call_functions_without_a_word_is_told() {
        let touches = |text: &str| footprint(text.as_bytes()).has(Footprint::TOUCHES);
        for text in
            ["select a from t", "insert into t values (1)", "update t set a = 1", "delete from t", "table t"]
        {
            assert!(touches(text), "{text}");
        }
        for text in [
            "fetch c",
            "create table t (a int)",
            "select 1; copy t from stdin",
            "with x as (select 1) table x",
        ] {
            assert!(touches(text), "{text}");
        }
        let computes = |text: &str| footprint(text.as_bytes()).has(Footprint::COMPUTES);
        assert!(["select 1", "values (2)", "table t"].into_iter().all(computes));
        assert!(!["begin", "Commit", "set a = 1", "show a", ""].into_iter().any(computes));
        for text in
            ["select 1", "begin", "Commit", "set a = 1", "show a", "savepoint s", "; rollback to s", ""]
        {
            assert!(!touches(text), "{text}");
        }
    }

    #[test]
    fn what_changes_rows_is_told() {
        for text in ["update t set a = 1", "with x as (delete from t returning *) table x", "Truncate t"] {
            assert!(footprint(text.as_bytes()).has(Footprint::WRITES), "{text}");
        }
        for text in ["select * from t for update", "select 1 for no key update", "select deleted from t"] {
            assert!(!footprint(text.as_bytes()).has(Footprint::WRITES), "{text}");
        }
    }

    #[test]
    fn questions_in_constants_count_where_they_may_be_executed() {
        let asks = Footprint::SUSPECT | Footprint::LAST_VALUE;
        check("do $$ begin perform Lastval(); end $$", asks);
        check("select query_to_xml('select currval(''s'')', true, true, '')", asks);
        check("select 'lastval()'", Footprint::CLEAN);
        for (text, names) in
            [("LastVal", true), ("vvcurrVALv", true), ("val", false), ("lastva", false), ("", false)]
        {
            assert_eq!(names_last_value(text.as_bytes()), names, "{text}");
        }
        check("select f('x'); select 'lastval()'", Footprint::SUSPECT | Footprint::LAST_VALUE);
        let made = footprint(b"create function f() returns int language sql as 'select lastval()'");
        assert!(made.has(Footprint::MAY_ASK) && !made.has(Footprint::LAST_VALUE));
    }

    #[test]
    fn who_looks_at_counters_of_a_back_end_is_told() {
        for text in [
            "SET LOCAL stats_fetch_consistency = snapshot",
            "select Pg_stat_force_next_flush()",
            "select * from pg_stat_xact_user_tables",
            "select pg_stat_get_xact_tuples_inserted(1)",
        ] {
            assert!(footprint(text.as_bytes()).has(Footprint::STATISTICS), "{text}");
        }
        check("select * from pg_stat_user_tables, pg_stat_activity", Footprint::CLEAN);
    }

    #[test]
    fn what_is_known_is_named_and_what_is_not_is_suspect() {
        check("select f(1)", Footprint::SUSPECT);
        check("select s.now()", Footprint::SUSPECT);
        check("select \"F\" (1)", Footprint::SUSPECT);
        check("select now(), my_function()", Footprint::SUSPECT);
        check("do $$ begin end $$", Footprint::SUSPECT);
        check("call p()", Footprint::SUSPECT);
        check("select 'unfinished", Footprint::SUSPECT | Footprint::MAY_ASK);
        check("select 1; create temp table t (a int)", Footprint::TEMPORARY);
        check("CREATE OR REPLACE TEMPORARY VIEW v AS SELECT 1", Footprint::TEMPORARY);
        check("create local temp sequence s", Footprint::TEMPORARY);
        check(
            "create temp table t (a int); create temp table u (a int) on commit drop",
            Footprint::TEMPORARY,
        );
        check("select 1 into temp t", Footprint::TEMPORARY);
        check("select * into temporary table t from u", Footprint::TEMPORARY);
        check("create table pg_temp.t (a int)", Footprint::TEMPORARY);
        check("create table \"pg_temp\".t (a int)", Footprint::TEMPORARY);
        check("set search_path = pg_temp, public", Footprint::SUSPECT);
        check("set schema 'pg_temp'", Footprint::SUSPECT);
        check("update pg_catalog.pg_settings set setting = '1' where name = 'x'", Footprint::SETTING);
        check("select setting from pg_settings", Footprint::CLEAN);
        check("select pg_replication_origin_session_setup('o')", Footprint::KEEPS);
        check(
            "select * from pg_create_logical_replication_slot('s', 'test_decoding', true)",
            Footprint::KEEPS,
        );
        check("select pg_advisory_lock(1)", Footprint::ADVISORY_LOCK);
        check("select pg_try_advisory_lock_shared(1)", Footprint::ADVISORY_LOCK);
        check("select setseed(0.5)", Footprint::SEED);
        check("set local seed to 0.5", Footprint::SEED);
        check("update t set seed = 0.5", Footprint::CLEAN);
        check("select set_config('a.b', 'c', false)", Footprint::SETTING);
        check("load 'auto_explain'", Footprint::LIBRARY);
        check("select lastval()", Footprint::LAST_VALUE);
        check("select temp from t", Footprint::CLEAN);
        check("insert into temp values (1)", Footprint::ADVANCES);
    }

    #[test]
    fn texts_of_one_shape_differ_in_constants_only() {
        let of = |text: &str| shape(text.as_bytes());
        assert_eq!(of("select f(1, 'a') -- x"), of("SELECT  f(22,\n'it''s')"));
        for other in ["select g(1, 'a')", "select f(1)", "select \"f\"(1, 'a')", "select f(a, 'a')"] {
            assert_ne!(of("select f(1, 'a')"), of(other), "{other}");
        }
        assert_ne!(of("do $$ a $$"), of("do $$ b $$"));
        assert_ne!(of("select 'a"), of("select 'b"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
            let _ = (footprint(&text), shape(&text));
        }
    }
}
