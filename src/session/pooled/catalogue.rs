//! What statements may do without a word, by the catalogue of their database: what triggers, rules, views,
//! defaults, policies, operators and functions call, those that have the names of PostgreSQL's own among them.
//!
//! It is asked for once a minute, and after changes that come by here; until it has answered, anything may be
//! there. As reading it may take long, it is asked for its version first ([`VERSION`]): most changes are of other
//! things, such as temporary tables. Bodies of functions are read as texts; what the server keeps parsed, as the numbers
//! of functions in it.

use super::functions::Functions;
use crate::base::Moment;
use crate::sql::harmless::KEYWORDS;
use crate::sql::quote::quote_literal;
use std::ops::BitOr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// For how long the catalogue's word counts.
const FRESH: Duration = Duration::from_secs(60);

/// A set of things that can be done without a word in a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unseen(u8);

impl Unseen {
    /// Something that a session keeps is left behind.
    pub const LEAVES: Unseen = Unseen(1);
    /// Somebody asks for the last value of a sequence.
    pub const ASKS: Unseen = Unseen(1 << 1);
    /// Rows that are changed or deleted advance a sequence.
    pub const ADVANCES_BY_WRITES: Unseen = Unseen(1 << 2);
    /// Anything else, such as a view, does.
    pub const ADVANCES: Unseen = Unseen(1 << 3);
    /// A function that asks for the last value of a sequence, or calls one that does, handles errors: that
    /// it was refused is not heard.
    pub const ASKS_IN_SILENCE: Unseen = Unseen(1 << 4);

    /// As the server counts it.
    pub fn from_answer(bits: u8) -> Unseen {
        Unseen(bits & 0x1f)
    }

    /// Whether some of `other` is in it.
    pub fn has(self, other: Unseen) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Unseen {
    type Output = Unseen;

    fn bitor(self, other: Unseen) -> Unseen {
        Unseen(self.0 | other.0)
    }
}

/// What was in a version of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// As the server says it.
    pub version: Box<str>,
    /// What is there.
    pub unseen: Unseen,
}

/// Versions of functions are numbered for the whole process.
static ERAS: AtomicU64 = AtomicU64::new(1);

/// See the module.
#[derive(Debug)]
pub struct Catalogue {
    unseen: AtomicU8,
    asked: Mutex<Asked>,
    /// The number of the version of its functions.
    era: AtomicU64,
    /// How often something in it was altered.
    alterations: AtomicU64,
}

#[derive(Debug, Default)]
struct Asked {
    /// `None` when something has changed since.
    at: Option<Moment>,
    /// How often something has changed.
    changes: u64,
    /// What it has said last.
    known: Option<Known>,
    /// The version of its functions, and what their bodies have said, if that was not too much.
    version: Box<str>,
    functions: Arc<Functions>,
}

/// Somebody's turn to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    changes: u64,
}

impl Default for Catalogue {
    fn default() -> Self {
        Self {
            unseen: u8::MAX.into(),
            asked: Mutex::default(),
            era: ERAS.fetch_add(1, Ordering::Relaxed).into(),
            alterations: AtomicU64::default(),
        }
    }
}

impl Catalogue {
    const ABOUT_SEQUENCES: Unseen = Unseen(
        Unseen::ASKS.0 | Unseen::ADVANCES.0 | Unseen::ADVANCES_BY_WRITES.0 | Unseen::ASKS_IN_SILENCE.0,
    );

    /// Whether some of it is there, or may be.
    pub fn has(&self, unseen: Unseen) -> bool {
        Unseen(self.unseen.load(Ordering::Relaxed)).has(unseen)
    }

    /// Whether it is the caller's turn to ask, and what was there the last time.
    pub fn turn(&self, now: Moment) -> Option<(Turn, Option<Known>)> {
        let mut asked = self.asked.lock().expect("no holder of the catalogue panics");
        let is_due = asked.at.is_none_or(|at| now.since(at) > FRESH);
        is_due.then(|| {
            asked.at = Some(now);
            (Turn { changes: asked.changes }, asked.known.clone())
        })
    }

    /// It was asked. What has changed meanwhile is not in the answer.
    pub fn says(&self, turn: Turn, known: Known) {
        let mut asked = self.asked.lock().expect("no holder of the catalogue panics");
        if asked.changes == turn.changes {
            self.unseen.store(known.unseen.0, Ordering::Relaxed);
        }
        asked.known = Some(known);
    }

    /// What the bodies of its functions have said last.
    pub fn functions(&self) -> Arc<Functions> {
        self.asked.lock().expect("no holder of the catalogue panics").functions.clone()
    }

    /// They say this now.
    pub fn has_functions(&self, functions: Functions) {
        let mut asked = self.asked.lock().expect("no holder of the catalogue panics");
        if asked.version != functions.version {
            asked.version = functions.version.clone();
            self.era.store(ERAS.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        }
        asked.functions = functions.remembered().unwrap_or_default();
    }

    /// A number of the version of its functions, and of no other database's.
    pub fn era(&self) -> u64 {
        self.era.load(Ordering::Relaxed)
    }

    /// A number of what names and parameters mean, as far as it was altered here.
    pub fn alterations(&self) -> u64 {
        self.alterations.load(Ordering::Relaxed)
    }

    /// What a column, a type or a function is may be another one from now on.
    pub fn was_altered(&self) {
        self.alterations.fetch_add(1, Ordering::Relaxed);
    }

    /// A transaction that has changed something is over: until it was asked, last values of sequences may be
    /// asked for and made anywhere. To take every statement for one that leaves something behind would cost
    /// everybody a question for each CREATE.
    pub fn has_changed(&self) {
        let mut asked = self.asked.lock().expect("no holder of the catalogue panics");
        asked.at = None;
        asked.changes += 1;
        self.unseen.fetch_or(Self::ABOUT_SEQUENCES.0, Ordering::Relaxed);
    }
}

/// The version of all that [`question`] reads, an expression: a sum over rows, without what is long in them. What a temporary
/// table makes is not among it, unless it has defaults or checks.
pub const VERSION: &str = "(SELECT pg_catalog.count(*)::text || ' ' || COALESCE(pg_catalog.sum( \
     pg_catalog.hashint8extended(id::bigint << 32 | version, 0)), 0)::text FROM ( \
     SELECT oid AS id, xmin::text::bigint AS version FROM pg_catalog.pg_proc WHERE oid >= 16384 \
     UNION ALL SELECT oid, xmin::text::bigint FROM pg_catalog.pg_rewrite WHERE oid >= 16384 \
     UNION ALL SELECT oid, xmin::text::bigint FROM pg_catalog.pg_trigger \
     UNION ALL SELECT oid, xmin::text::bigint FROM pg_catalog.pg_policy \
     UNION ALL SELECT oid, xmin::text::bigint FROM pg_catalog.pg_constraint WHERE oid >= 16384 AND conbin IS NOT NULL \
     UNION ALL SELECT oid, xmin::text::bigint FROM pg_catalog.pg_attrdef WHERE oid >= 16384 \
     UNION ALL SELECT oid, xmin::text::bigint FROM pg_catalog.pg_type WHERE oid >= 16384 AND typdefaultbin IS NOT NULL \
     UNION ALL SELECT objid, refobjid::bigint FROM pg_catalog.pg_depend \
     WHERE refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass) AS versions)";

/// One row: `c`, the version of what was read, and an [`Unseen`].
pub fn question() -> String {
    let keywords: Vec<String> = KEYWORDS.iter().map(|word| quote_literal(word)).collect();
    QUESTION.replace("$version", VERSION).replace("$keywords", &keywords.join(","))
}

const QUESTION: &str = r#"WITH RECURSIVE mine AS MATERIALIZED (SELECT p.oid, p.proname::text, pg_catalog.lower(p.proname) AS name, p.prosrc,
     p.prosqlbody::text AS tree, l.lanname NOT IN ('sql', 'plpgsql') AS is_unread
     FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
     WHERE p.oid >= 16384 AND l.lanname NOT IN ('internal', 'c')),
     calls AS MATERIALIZED (SELECT words.oid AS caller, mine.oid AS called FROM mine JOIN (SELECT DISTINCT mine.oid,
     pg_catalog.lower(word[1]) AS word FROM mine, LATERAL pg_catalog.regexp_matches(prosrc, '\w+', 'g') AS word) AS words
     ON words.word = mine.name
     UNION SELECT mine.oid, called.oid FROM mine, mine AS called
     WHERE called.proname !~ '^\w+$' AND pg_catalog.strpos(mine.prosrc, called.proname) > 0
     UNION SELECT objid, refobjid FROM pg_catalog.pg_depend
     WHERE classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND refclassid = classid),
     reached AS (SELECT refobjid AS oid, CASE classid WHEN 'pg_catalog.pg_trigger'::pg_catalog.regclass THEN 'write'
     WHEN 'pg_catalog.pg_attrdef'::pg_catalog.regclass THEN 'insert' ELSE 'read' END AS by
     FROM pg_catalog.pg_depend WHERE refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND classid <> refclassid
     UNION SELECT calls.called, reached.by FROM reached JOIN calls ON calls.caller = reached.oid),
     unseen AS MATERIALIZED (SELECT mine.*, reached.by FROM reached JOIN mine USING (oid)),
     shadows AS (SELECT oid FROM pg_catalog.pg_proc WHERE oid >= 16384 AND pg_catalog.lower(proname)
     IN (SELECT proname::text FROM pg_catalog.pg_proc WHERE oid < 16384
     UNION ALL SELECT pg_catalog.unnest(ARRAY[$keywords]))
     UNION SELECT calls.called FROM shadows JOIN calls ON calls.caller = shadows.oid),
     named AS MATERIALIZED (SELECT mine.* FROM shadows JOIN mine USING (oid)),
     asking AS (SELECT oid FROM mine WHERE prosrc ~* 'lastval|currval' OR tree ~ ':funcid (1575|2559) '
     UNION SELECT calls.caller FROM asking JOIN calls ON calls.called = asking.oid),
     handling AS (SELECT oid FROM mine WHERE is_unread OR prosrc ~* '\mexception\s+when\M'),
     trees AS MATERIALIZED (SELECT * FROM (
     SELECT 'read' AS by, ev_action::text AS tree FROM pg_catalog.pg_rewrite WHERE ev_class >= 16384
     UNION ALL SELECT 'read', polqual::text FROM pg_catalog.pg_policy
     UNION ALL SELECT 'write', polwithcheck::text FROM pg_catalog.pg_policy
     UNION ALL SELECT 'write', tgqual::text FROM pg_catalog.pg_trigger
     UNION ALL SELECT 'write', conbin::text FROM pg_catalog.pg_constraint WHERE oid >= 16384
     UNION ALL SELECT 'insert', adbin::text FROM pg_catalog.pg_attrdef WHERE oid >= 16384
     UNION ALL SELECT 'insert', typdefaultbin::text FROM pg_catalog.pg_type WHERE oid >= 16384
     UNION ALL SELECT 'call', tree FROM mine) AS trees
     WHERE tree ~ ':funcid (1574|1575|1576|1599|1765|2078|2559|288[0-9]) ')
     SELECT 'c', $version, CASE WHEN EXISTS (SELECT FROM (SELECT is_unread, tree, prosrc FROM unseen UNION ALL
     SELECT is_unread, tree, prosrc FROM named) AS mine WHERE is_unread OR tree ~ ':funcid (1599|2078|288[0-9]) '
     OR prosrc ~* $re$set_config|advisory_lock|setseed|\mlisten\M|\mprepare\M|\mload\M|with\s+hold|\mtemp(orary)?\M|dblink|(^|;|\mbegin|\mthen|\melse|\mloop)\s*set\s+(?!local|constraints|transaction)|'\s*set\s+(?!local)$re$)
     OR EXISTS (SELECT FROM trees WHERE by <> 'call' AND tree ~ ':funcid (1599|2078|288[0-9]) ')
     THEN 1 ELSE 0 END
     + CASE WHEN EXISTS (SELECT FROM mine WHERE prosrc ~* 'lastval|currval')
     OR EXISTS (SELECT FROM trees WHERE tree ~ ':funcid (1575|2559) ') THEN 2 ELSE 0 END
     + CASE WHEN EXISTS (SELECT FROM asking JOIN handling USING (oid))
     OR EXISTS (SELECT FROM handling) AND EXISTS (SELECT FROM trees WHERE by <> 'call' AND tree ~ ':funcid (1575|2559) ')
     THEN 16 ELSE 0 END
     + COALESCE((SELECT pg_catalog.bit_or(CASE by WHEN 'write' THEN 4 WHEN 'read' THEN 8 ELSE 0 END) FROM (
     SELECT by FROM (SELECT by, is_unread, tree, prosrc FROM unseen UNION ALL SELECT 'read', is_unread, tree, prosrc FROM named) AS mine
     WHERE is_unread OR tree ~ ':funcid (1574|1576|1765) |:commandType [35] '
     OR prosrc ~* $re$nextval|setval|\minsert\M|\mmerge\M|\mcopy\M$re$
     UNION ALL SELECT by FROM trees WHERE tree ~ ':funcid (1574|1576|1765) '
     UNION ALL SELECT 'write' FROM pg_catalog.pg_rewrite WHERE ev_class >= 16384 AND ev_type <> '1'
     UNION ALL SELECT 'write' FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
     JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang WHERE p.oid >= 16384 AND l.lanname = 'c'
     ) AS advances), 0)"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_asked_by_one_and_again_when_it_has_changed() {
        let catalogue = Catalogue::default();
        let now = Moment::default() + FRESH;
        assert!(catalogue.has(Unseen::LEAVES) && catalogue.has(Unseen::ASKS));
        let known = |unseen| Known { version: "1 2".into(), unseen };
        let (turn, nothing) = catalogue.turn(now).unwrap();
        assert_eq!((nothing, catalogue.turn(now)), (None, None));
        catalogue.says(turn, known(Unseen::ASKS));
        assert!(catalogue.has(Unseen::ASKS) && !catalogue.has(Unseen::LEAVES | Unseen::ADVANCES));
        assert_eq!(catalogue.turn(now + FRESH), None);
        let (turn, last) = catalogue.turn(now + FRESH + FRESH).unwrap();
        assert_eq!(last, Some(known(Unseen::ASKS)));
        // What was asked before the change does not tell of it.
        catalogue.has_changed();
        catalogue.says(turn, known(Unseen::default()));
        assert!(catalogue.has(Unseen::ADVANCES));
        assert!(catalogue.turn(now).is_some());
    }
}
