//! What the bodies of a database's functions say that concerns a session's end: names of applications' settings,
//! and which functions reach one that may keep something in its back end.
//!
//! To read all bodies may take tens of milliseconds. So each question of ours asks for their *version*, a
//! sum over the rows of `pg_proc` without their bodies, whoever has changed them; only where it is another one
//! than the last time, a second question reads them, and tells the version of what it has read.

use super::probe::collect_calls;
use crate::sql::footprint::Footprint;
use crate::sys::Map;
use std::sync::Arc;

/// So much of what the bodies say is remembered; where there is more, it is read for each question.
const NAMES_MAX: usize = 16_384;

/// What the bodies of one version say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Functions {
    /// As the server says it; empty when nothing is known.
    pub version: Box<str>,
    /// Names of settings of applications, in lower case.
    pub settings: Vec<Box<str>>,
    /// Names of functions that may keep something in their back end, or call one.
    keeping: Map<Box<str>, ()>,
}

impl Functions {
    /// Of a version about which nothing is known yet.
    pub fn of(version: &str) -> Self {
        Self { version: version.into(), ..Self::default() }
    }

    /// Some body makes this setting.
    pub fn makes(&mut self, setting: &str) {
        self.settings.push(setting.into());
    }

    /// This function may keep something.
    pub fn keeps(&mut self, name: &str) {
        self.keeping.insert(name.into(), ());
    }

    /// Whether one of these may keep something.
    pub fn some_keep(&self, calls: &[Box<str>]) -> bool {
        calls.iter().any(|name| self.keeping.contains_key(name))
    }

    /// What calling the functions that a text names may keep, as far as they are known.
    pub fn kept_by(&self, text: &[u8]) -> Footprint {
        if self.keeping.is_empty() {
            return Footprint::CLEAN;
        }
        let mut calls = Vec::new();
        collect_calls(text, &mut calls);
        if self.some_keep(&calls) { Footprint::KEEPS } else { Footprint::CLEAN }
    }

    /// To be remembered, if it is not too much.
    pub fn remembered(self) -> Option<Arc<Self>> {
        (self.settings.len() + self.keeping.len() <= NAMES_MAX).then(|| Arc::new(self))
    }
}

/// The version, an expression. `xmin` tells each change of a row from any other one.
pub const VERSION: &str = "(SELECT pg_catalog.count(*)::text || ' ' || COALESCE(pg_catalog.sum( \
     pg_catalog.hashint8extended(p.oid::bigint << 32 | p.xmin::text::bigint, 0)), 0)::text \
     FROM pg_catalog.pg_proc AS p WHERE p.oid >= 16384)";

/// Rows of a kind, a name and a value: `v` with the version, `s` with settings and what they are here, `f` with
/// functions that may keep something. Those are written neither in SQL nor in PL/pgSQL, and declared
/// neither free of side effects nor fit for parallel workers, which "may not access backend-local state"
/// ("Parallel Labeling for Functions and Aggregates"); and whatever has their names in front of a parenthesis. What stands for
/// [`VERSION`] is of the same snapshot.
pub fn question() -> String {
    QUESTION.replace("$version", VERSION)
}

const QUESTION: &str = r#"WITH RECURSIVE mine AS MATERIALIZED (SELECT p.oid, p.proname::text,
     pg_catalog.lower(p.proname) AS name, p.prosrc, l.lanname IN ('sql', 'plpgsql') AS is_read,
     l.lanname NOT IN ('sql', 'plpgsql') AND p.provolatile = 'v' AND p.proparallel <> 's' AS keeps, l.lanname <> 'c' AS is_text
     FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
     WHERE p.oid >= 16384 AND l.lanname <> 'internal'),
     calls AS MATERIALIZED (SELECT words.oid AS caller, mine.oid AS called FROM mine JOIN (SELECT DISTINCT mine.oid,
     pg_catalog.lower(word[1]) AS word FROM mine, LATERAL pg_catalog.regexp_matches(prosrc, '(\w+)"?\s*\(', 'g') AS word
     WHERE is_read AND (SELECT pg_catalog.bool_or(keeps) FROM mine)) AS words ON words.word = mine.name
     UNION SELECT mine.oid, called.oid FROM mine, mine AS called
     WHERE mine.is_read AND called.proname !~ '^\w+$' AND pg_catalog.strpos(mine.prosrc, called.proname) > 0
     UNION SELECT objid, refobjid FROM pg_catalog.pg_depend
     WHERE classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND refclassid = classid),
     keeping AS (SELECT oid FROM mine WHERE keeps UNION SELECT calls.caller FROM keeping JOIN calls ON calls.called = keeping.oid)
     SELECT 'v', $version, ''
     UNION ALL SELECT 's', name, COALESCE(pg_catalog.current_setting(name, true), '') FROM
     (SELECT DISTINCT pg_catalog.lower(found[1]) AS name FROM mine, LATERAL pg_catalog.regexp_matches(prosrc,
     $re$(?:set_config\s*\(\s*'+|\mset\s+(?:session\s+)?)"?([a-z_][a-z0-9_]*\.[a-z0-9_.]+)$re$, 'gi') AS found WHERE is_text) AS names
     UNION ALL SELECT DISTINCT 'f', proname, '' FROM keeping JOIN mine USING (oid)"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bodies_say_is_remembered_within_bounds() {
        let mut functions = Functions::of("1 2");
        functions.makes("my.tenant");
        functions.keeps("dblink_connect");
        let calls = |name: &str| [Box::from("f"), Box::from(name)];
        assert!(functions.some_keep(&calls("dblink_connect")));
        let kept = |text: &str| functions.kept_by(text.as_bytes());
        assert_eq!(kept("select Dblink_Connect('a', 'b')"), Footprint::KEEPS);
        assert_eq!(kept("select f('dblink_connect')"), Footprint::CLEAN);
        assert!(!functions.some_keep(&calls("Dblink_Connect")) && !functions.some_keep(&[]));
        let functions = functions.remembered().unwrap();
        assert_eq!((&*functions.version, functions.settings.len()), ("1 2", 1));
        let mut many = Functions::of("3 4");
        (0..=NAMES_MAX).for_each(|n| many.keeps(&n.to_string()));
        assert_eq!(many.remembered(), None);
        assert!(question().contains(VERSION));
    }
}
