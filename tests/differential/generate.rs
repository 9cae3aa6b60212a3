//! Conversations that follow from a number.

use crate::raw::Step;
use crate::raw::message::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What a conversation may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// Everything.
    SessionState,
    /// Nothing that has to live longer than its transaction, but for settings and statements
    /// prepared by the protocol.
    TransactionState,
    /// Nothing either that leaves a transaction open.
    Statements,
}

/// A part of a conversation, which can be left out without changing what the others are.
#[derive(Debug, Clone, PartialEq)]
pub struct Episode {
    pub name: &'static str,
    pub steps: Vec<Step>,
}

/// Statements without parameters, right and wrong. `t` has rows 1 to 5, `child` refers to it by a
/// deferred constraint.
const STATEMENTS: &[&str] = &[
    "select 1",
    "select id, v from t order by id",
    "select id, v, n, null from t where id > 3 order by id",
    "select 1 where false",
    "values (1, null), (2, 'b')",
    "table t order by id",
    "insert into t values (10, 'ten', 1.50) on conflict do nothing returning *",
    "insert into t select g, 'g' || g from generate_series(20, 25) g on conflict do nothing",
    "update t set v = v || 'x' where id = 1 returning v",
    "delete from t where id = 2",
    "select count(*) from generate_series(1, 3000)",
    "select g, repeat('r', g) from generate_series(1, 60) g",
    "explain (costs off) select * from t",
    "show standard_conforming_strings",
    "",
    " ; ",
    "-- nothing but a comment",
    "/* a /* nested */ comment */ select 'c'",
    "create table if not exists c1 (a int primary key)",
    "drop table if exists c1",
    "drop table if exists not_there",
    "lock table t in share mode",
    "do $$ begin raise notice 'noted'; raise warning 'warned'; end $$",
    "truncate child",
    "analyze t",
    "select pg_typeof(1::int8), 'ünï 🐘'",
    "select set_config('my.x', 'local', true)",
    "select nullif(current_setting('my.x', true), '')",
    "vacuum t",
    "notify c, 'heard by nobody or by me'",
    // Errors, each of another kind.
    "selec",
    "select 1/0",
    "select 1/0 from t",
    "select * from nowhere",
    "select 1, 1/(id - 3) from t order by id",
    "insert into t values (1, 'again')",
    "insert into child values (1, 99)",
    "insert into t values ('x')",
    "do $$ begin raise exception 'raised' using errcode = 'P0099', detail = 'd', hint = 'h'; end $$",
    "set nonsense = 1",
    "call nothing()",
    "select 'open",
    "fetch 1 from no_cursor",
    "deallocate not_there",
    "rollback to savepoint not_there",
    "release not_there",
    "set transaction isolation level serializable",
    "set constraints all immediate",
    "select pg_cancel_backend(pg_backend_pid())",
];

/// Statements about the session.
const SESSION: &[&str] = &[
    "set work_mem = '5MB'",
    "set search_path = pg_catalog, public",
    "set local work_mem = '6MB'",
    "set time zone 'Europe/Berlin'",
    "set datestyle = 'German'",
    "set application_name = 'differs'",
    "set client_encoding = 'LATIN1'",
    "set my.x = 'y'",
    "set session my.x to default",
    "set intervalstyle = 'iso_8601'",
    "set default_transaction_isolation = 'repeatable read'",
    "set statement_timeout = '20s'",
    "select set_config('my.y', 'set', false)",
    "select set_config('timezone', 'Asia/Tokyo', false)",
    "reset work_mem",
    "reset time zone",
    "reset all",
    "show work_mem",
    "show search_path",
    "show time zone",
    "show application_name",
    "execute s1",
    "execute s2",
    "explain (costs off) execute s1",
    "select '2024-02-29'::date, interval '1 day 2 hours', nullif(current_setting('my.x', true), '')",
];

/// Statements whose effect a transaction does not end.
const LASTING: &[&str] = &[
    "discard all",
    "discard plans",
    "discard temp",
    "deallocate all",
    "prepare q1 as select 1",
    "prepare q1 (int) as select $1 + 1",
    "execute q1",
    "execute q1 (5)",
    "deallocate q1",
    "listen c",
    "unlisten c",
    "unlisten *",
    "declare held cursor with hold for select id from t order by id",
    "fetch 2 from held",
    "close held",
    "close all",
    "create temp table tt (a int)",
    "insert into tt values (1)",
    "select * from tt",
    "drop table if exists tt",
    "select pg_advisory_lock(7)",
    "select pg_advisory_unlock(7)",
    "select pg_advisory_unlock_all()",
    "set session characteristics as transaction read only",
    "set session characteristics as transaction read write",
    "set default_transaction_read_only = on",
    "set default_transaction_read_only = off",
    "load 'plpgsql'",
    "select setseed(0.5), round(random()::numeric, 6)",
    "select setseed(0.5); select random() < 2",
    "select nextval('sq')",
    "insert into counted (v) values (1), (2)",
    "update counted set v = v + 1",
    "select lastval()",
    "select currval('sq')",
    "select last_of_all()",
    "do $$ begin raise notice '%', lastval(); end $$",
];

/// Statements with parameters and how many they have.
const PARAMETRIC: &[(&str, usize)] = &[
    ("select $1::int4 + $2::int4", 2),
    ("select $1", 1),
    ("select $1::text, length($1)", 1),
    ("insert into t values ($1, $2) on conflict (id) do update set v = excluded.v returning id", 2),
    ("select * from t where id = $1", 1),
    ("select g from generate_series(1, $1::int) g", 1),
    ("update t set n = $1 where id = 4", 1),
    ("select $1::bytea", 1),
    ("select $1::nothing", 1),
];

const VALUES: &[Option<&str>] =
    &[Some("1"), Some("5"), Some("30"), Some("0"), Some("abc"), Some(""), None, Some("2147483648")];

const NAMES: &[&str] = &["", "", "", "s1", "s2"];
const PORTALS: &[&str] = &["", "", "", "p1"];

struct Maker {
    random: StdRng,
    allowed: Allowed,
}

/// A conversation.
pub fn conversation(seed: u64, allowed: Allowed) -> Vec<Episode> {
    let mut maker = Maker { random: StdRng::seed_from_u64(seed), allowed };
    let count = maker.random.random_range(1..8);
    let mut episodes: Vec<Episode> = (0..count).flat_map(|_| maker.episode()).collect();
    if maker.one_in(3) {
        for episode in &mut episodes {
            pipeline(episode);
        }
    }
    if maker.one_in(6) {
        episodes.push(maker.last_words());
    }
    episodes
}

/// Sends everything without waiting in between, and waits once.
fn pipeline(episode: &mut Episode) {
    if episode.steps.contains(&Step::Cancel) {
        return;
    }
    let mut sent = Vec::new();
    for step in episode.steps.drain(..) {
        if let Step::Send(bytes) = step {
            sent.extend(bytes);
        }
    }
    episode.steps = vec![Step::Send(sent), Step::Settle];
}

impl Maker {
    fn one_in(&mut self, n: u32) -> bool {
        self.random.random_range(0..n) == 0
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.random.random_range(0..all.len())]
    }

    fn statement(&mut self) -> &'static str {
        let lasting = if self.allowed == Allowed::SessionState { 3 } else { 0 };
        match self.random.random_range(0..14 + lasting) {
            0..=11 => self.pick(STATEMENTS),
            12 | 13 => self.pick(SESSION),
            _ => self.pick(LASTING),
        }
    }

    fn episode(&mut self) -> Vec<Episode> {
        let one = |name, steps| vec![Episode { name, steps }];
        let may_begin = self.allowed != Allowed::Statements;
        match self.random.random_range(0..22) {
            0..=3 => one("simple", self.simple()),
            4 | 5 => one("several statements", self.several()),
            6..=9 => one("batch", self.batch()),
            10 => one("copy in", self.copy_in()),
            11 => one("copy in by a batch", self.copy_in_by_batch()),
            12 => one("copy out", self.copy_out()),
            13 => one("function call", self.function()),
            14..=16 if may_begin => self.transaction(),
            17 if may_begin => one("cursor", self.cursor()),
            18 => one("portal with a row limit", self.row_limit()),
            19 => one("large", self.large()),
            20 if self.one_in(2) => one("cancel", self.cancel()),
            20 => one("queries in a row", self.in_a_row()),
            _ => one("odd", self.odd()),
        }
    }

    fn ask(text: &str) -> Vec<Step> {
        vec![Step::Send(query(text)), Step::Await(b"Z")]
    }

    fn simple(&mut self) -> Vec<Step> {
        let text = self.statement();
        Self::ask(text)
    }

    fn several(&mut self) -> Vec<Step> {
        let count = self.random.random_range(2..6);
        let words: &[&str] = match self.allowed {
            Allowed::Statements => &["commit", "rollback", "savepoint a", "rollback to a", "end"],
            _ => &["begin", "commit", "rollback", "savepoint a", "rollback to a", "release a", "end"],
        };
        // A setting among other statements is not kept where links change hands.
        let may_set = self.allowed == Allowed::SessionState;
        let texts: Vec<&str> = (0..count)
            .map(|_| if self.one_in(4) { self.pick(words) } else { self.statement() })
            .filter(|text| !text.contains("'open") && !text.starts_with("--"))
            .filter(|text| may_set || !SESSION.contains(text))
            .collect();
        Self::ask(&texts.join("; "))
    }

    fn in_a_row(&mut self) -> Vec<Step> {
        let count = self.random.random_range(2..9);
        let bytes: Vec<u8> = (0..count).flat_map(|_| query(self.statement())).collect();
        vec![Step::Send(bytes), Step::Settle]
    }

    fn parse(&mut self) -> Vec<u8> {
        let name = self.pick(NAMES);
        if self.one_in(2) {
            return parse(name, self.statement(), &[]);
        }
        let (text, parameters) = self.pick(PARAMETRIC);
        let types: &[u32] = match self.random.random_range(0..5) {
            0 => &[23],
            1 => &[25, 0],
            2 => &[0, 25],
            _ => &[],
        };
        parse(name, text, &types[..types.len().min(parameters)])
    }

    fn bind(&mut self) -> Vec<u8> {
        let count = self.random.random_range(0..3);
        let values: Vec<Option<&[u8]>> = (0..count).map(|_| self.pick(VALUES).map(str::as_bytes)).collect();
        let formats: &[u16] = match self.random.random_range(0..8) {
            0 => &[0],
            1 => &[1],
            2 => &[0, 1],
            _ => &[],
        };
        let results: &[u16] = match self.random.random_range(0..6) {
            0 => &[1],
            1 => &[0],
            _ => &[],
        };
        let (portal, statement) = (self.pick(PORTALS), self.pick(NAMES));
        bind_as(portal, statement, formats, &values, results)
    }

    fn execute(&mut self) -> Vec<u8> {
        let rows_max = if self.one_in(4) { self.random.random_range(1..4) } else { 0 };
        execute("p1", rows_max)
    }

    fn extended(&mut self) -> Vec<u8> {
        match self.random.random_range(0..13) {
            0 | 1 => self.parse(),
            2 | 3 => self.bind(),
            4 => describe_statement(self.pick(NAMES)),
            // PostgreSQL 15 crashes where these name the portal that a failed Query has left behind.
            5 => describe_portal("p1"),
            6 | 7 => self.execute(),
            8 => close_statement(self.pick(NAMES)),
            9 => close_portal(self.pick(PORTALS)),
            10 => [self.parse(), bind("", "", &[Some("7")]), execute("", 0)].concat(),
            _ => {
                let text = self.statement();
                let name = self.pick(NAMES);
                [parse(name, text, &[]), bind("", name, &[]), describe_portal(""), execute("", 0)].concat()
            }
        }
    }

    fn batch(&mut self) -> Vec<Step> {
        let count = self.random.random_range(1..7);
        let mut bytes = Vec::new();
        let mut steps = Vec::new();
        for _ in 0..count {
            bytes.extend(self.extended());
            match self.random.random_range(0..12) {
                0 => bytes.extend(flush()),
                1 => bytes.extend(sync()),
                2 => bytes.extend(query(self.statement())),
                3 => steps.push(Step::Send(std::mem::take(&mut bytes))),
                _ => {}
            }
        }
        bytes.extend(sync());
        steps.push(Step::Send(bytes));
        steps.push(Step::Settle);
        steps
    }

    /// What may come while COPY reads.
    fn copy_stream(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..self.random.random_range(0..6) {
            bytes.extend(match self.random.random_range(0..15) {
                0..=7 => copy_data(&format!("{}\tcopied\t\\N\n", self.random.random_range(100..100_000))),
                8 => copy_data("1\tduplicate\t\\N\n"),
                9 => copy_data("x\twrong\t\\N\n"),
                10 => copy_data("777\thalf a r"),
                11 => copy_data(""),
                12 => sync(),
                13 => flush(),
                // No place for it here.
                _ => match self.random.random_range(0..3) {
                    0 => query("select 'in the middle of copy'"),
                    1 => parse("", "select 'in the middle of copy'", &[]),
                    _ => close_statement(""),
                },
            });
        }
        bytes
    }

    fn copy_end(&mut self) -> Vec<u8> {
        match self.random.random_range(0..8) {
            0 => copy_fail("the client has changed its mind"),
            1 => [copy_done(), copy_done()].concat(),
            2 => vec![],
            _ => copy_done(),
        }
    }

    fn copy_in(&mut self) -> Vec<Step> {
        let text = self.pick(&[
            "copy t from stdin",
            "copy t (id, v, n) from stdin",
            "copy nowhere from stdin",
            "copy t from stdin; select 'behind copy'",
            "select 'before copy'; copy t from stdin; copy t from stdin; select 'behind both'",
            "copy child from stdin",
        ]);
        let mut stream = self.copy_stream();
        stream.extend(self.copy_end());
        vec![Step::Send(query(text)), Step::Await(b"GZ"), Step::Send(stream), Step::Settle]
    }

    fn copy_in_by_batch(&mut self) -> Vec<Step> {
        let text = self.pick(&["copy t from stdin", "copy nowhere from stdin", "copy child from stdin"]);
        let mut begin = [parse("", text, &[]), bind("", "", &[]), execute("", 0)].concat();
        begin.extend(if self.one_in(4) { flush() } else { sync() });
        let mut stream = self.copy_stream();
        stream.extend(self.copy_end());
        stream.extend(sync());
        if self.one_in(3) {
            stream.extend(query("select 'behind'"));
        }
        vec![Step::Send(begin), Step::Await(b"GE"), Step::Send(stream), Step::Settle]
    }

    fn copy_out(&mut self) -> Vec<Step> {
        let text = self.pick(&[
            "copy (select * from t order by id) to stdout",
            "copy (select g, repeat('x', 100) from generate_series(1, 2000) g) to stdout (format csv)",
            "copy t to stdout (format binary)",
            "copy (select 1/(id - 3) from t order by id) to stdout",
            "copy nowhere to stdout",
        ]);
        if self.one_in(2) {
            return Self::ask(text);
        }
        vec![Step::Send(extended(text)), Step::Await(b"Z")]
    }

    fn function(&mut self) -> Vec<Step> {
        // int4pl, int4div, nothing.
        let (oid, arguments): (u32, &[Option<&str>]) = match self.random.random_range(0..5) {
            0 => (177, &[Some("2"), Some("3")]),
            1 => (177, &[Some("2"), None]),
            2 => (154, &[Some("2"), Some("0")]),
            3 => (177, &[Some("2")]),
            _ => (4, &[]),
        };
        vec![Step::Send(function_call(oid, arguments)), Step::Await(b"Z")]
    }

    fn transaction(&mut self) -> Vec<Episode> {
        let begin = self.pick(&[
            "begin",
            "start transaction isolation level serializable",
            "begin read only",
            "begin; select 'in it'",
        ]);
        let mut episodes = vec![Episode { name: "begin", steps: Self::ask(begin) }];
        for _ in 0..self.random.random_range(1..5) {
            let inside = match self.random.random_range(0..8) {
                0 => Episode { name: "savepoint", steps: Self::ask("savepoint a") },
                1 => Episode { name: "back", steps: Self::ask("rollback to savepoint a") },
                2 => Episode { name: "batch", steps: self.batch() },
                3 => Episode { name: "copy in", steps: self.copy_in() },
                4 => Episode { name: "row limit", steps: self.row_limit() },
                _ => Episode { name: "simple", steps: self.simple() },
            };
            episodes.push(inside);
        }
        let ends = ["commit", "commit", "rollback", "end", "commit and chain", "rollback; select 'after'"];
        if !self.one_in(8) {
            episodes.push(Episode { name: "end", steps: Self::ask(self.pick(&ends)) });
        }
        episodes
    }

    fn cursor(&mut self) -> Vec<Step> {
        let mut steps = Self::ask("begin");
        for text in [
            "declare k scroll cursor for select g from generate_series(1, 20) g",
            self.pick(&["fetch 3 from k", "fetch backward 2 from k", "move 5 in k", "fetch all from k"]),
            self.pick(&["fetch 3 from k", "fetch last from k", "select 1/0", "close k"]),
            self.pick(&["fetch 1 from k", "close k", "close not_there"]),
            self.pick(&["commit", "rollback"]),
        ] {
            steps.extend(Self::ask(text));
        }
        steps
    }

    fn row_limit(&mut self) -> Vec<Step> {
        let text = "select g from generate_series(1, 7) g";
        let portal = "p1";
        let mut bytes = [parse("", text, &[]), bind(portal, "", &[]), execute(portal, 3)].concat();
        match self.random.random_range(0..4) {
            0 => bytes.extend([flush(), execute(portal, 2), sync()].concat()),
            1 => bytes.extend([sync(), execute(portal, 2), sync()].concat()),
            2 => {
                bytes.extend([execute(portal, 3), close_portal(portal), execute(portal, 0), sync()].concat())
            }
            _ => bytes.extend([execute(portal, 0), query("select 'ends the batch'"), sync()].concat()),
        }
        vec![Step::Send(bytes), Step::Settle]
    }

    fn large(&mut self) -> Vec<Step> {
        let size = self.pick(&[8_000, 33_000, 66_000, 140_000, 1_000_000]);
        let filling = "f".repeat(size);
        let mut steps = match self.random.random_range(0..5) {
            0 => Self::ask(&format!("select repeat('r', {size})")),
            1 => Self::ask(&format!("select length('{filling}')")),
            2 => Self::ask(&format!("selec '{filling}'")),
            3 => {
                let name = self.pick(NAMES);
                let text = format!("select /* {filling} */ 1");
                let mut bytes = [parse(name, &text, &[]), bind("", name, &[]), execute("", 0)].concat();
                if name.is_empty() {
                    // In the pooled modes it is there for its first batch only.
                    bytes.extend(close_statement(""));
                }
                bytes.extend(sync());
                vec![Step::Send(bytes), Step::Settle]
            }
            _ => {
                let parse = parse("", "select length($1), $1", &[25]);
                let bytes = [parse, bind("", "", &[Some(&filling)]), execute("", 0), sync()].concat();
                vec![Step::Send(bytes), Step::Settle]
            }
        };
        if self.one_in(3) {
            // Skipped, large or not.
            let wrong = [bind("", "not_there", &[]), bind("", "", &[Some(&filling)]), query(&filling)];
            steps.extend([Step::Send([wrong.concat(), sync()].concat()), Step::Settle]);
        }
        steps
    }

    fn cancel(&mut self) -> Vec<Step> {
        let text = "do $$ begin raise notice 'it runs'; perform pg_sleep(60); end $$";
        let sent = if self.one_in(2) { query(text) } else { extended(text) };
        vec![Step::Send(sent), Step::Await(b"NE"), Step::Cancel, Step::Settle]
    }

    fn odd(&mut self) -> Vec<Step> {
        let bytes = match self.random.random_range(0..10) {
            0 => sync().repeat(3),
            1 => flush().repeat(2),
            2 => [copy_data("nobody reads this"), copy_done(), copy_fail("x"), sync()].concat(),
            3 => [parse("s1", "select 1", &[]), parse("s1", "select 2", &[]), sync()].concat(),
            4 => [bind("", "not_there", &[]), sync(), describe_statement("not_there"), sync()].concat(),
            5 => message(b'D', b"Xname\0"),
            6 => [message(b'P', b"no zero"), sync()].concat(),
            7 => [message(b'B', b"\0\0\0\x05"), sync()].concat(),
            8 => [message(b'Q', b"select 'no zero'"), sync()].concat(),
            _ => [message(b'E', b""), message(b'C', b""), sync()].concat(),
        };
        vec![Step::Send(bytes), Step::Settle]
    }

    /// What ends a connection.
    fn last_words(&mut self) -> Episode {
        let endings = if self.allowed == Allowed::Statements { 7 } else { 9 };
        let steps = match self.random.random_range(0..endings) {
            0 => vec![Step::Send(message(b'z', b"no such type"))],
            1 => vec![Step::Send(message(b'p', b"no password is asked for\0"))],
            2 => vec![Step::Send(b"Q\0\0\0\x03".to_vec())],
            3 => vec![Step::Send([query("select 'before'"), b"Q\xff\xff\xff\xff".to_vec()].concat())],
            4 => vec![Step::Send(query("select 'half closed'")), Step::HalfClose],
            5 => vec![Step::Send([query("insert into t values (51, 'kept')"), terminate()].concat())],
            6 => vec![
                Step::Send(query("copy t from stdin")),
                Step::Await(b"GZ"),
                Step::Send(copy_data("52\tlost\t\\N\n")),
                Step::HalfClose,
            ],
            7 => vec![
                Step::Send([query("begin"), query("insert into t values (50, 'lost')")].concat()),
                Step::HalfClose,
            ],
            _ => vec![
                Step::Send(query("begin; insert into t values (53, 'lost')")),
                Step::Await(b"Z"),
                Step::HangUp,
            ],
        };
        Episode { name: "last words", steps }
    }
}
