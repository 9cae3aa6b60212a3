//! What a source holds that a mirror does not carry, or carries in its own way: said, never
//! skipped in silence.

use super::capabilities::Capabilities;
use super::error::{Doing, Error, Problem};
use crate::backend::control::Control;

/// One kind of object: how to find it, how to speak of it.
struct Kind {
    /// Selects names, of which a few are shown.
    sql: &'static str,
    one: &'static str,
    many: &'static str,
    /// What becomes of it.
    so: &'static str,
}

const USER_SCHEMA: &str = "n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'cloud_mirror')
    AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')";

const CLASSES: [(&str, Kind); 6] = [
    (
        "c.relkind IN ('r', 'p') AND c.relpersistence = 'u'",
        Kind {
            sql: "",
            one: "unlogged table",
            many: "unlogged tables",
            so: "made on the mirror, and stay empty there",
        },
    ),
    (
        "c.relkind = 'm'",
        Kind {
            sql: "",
            one: "materialised view",
            many: "materialised views",
            so: "filled once by the bootstrap: REFRESH them after a promotion",
        },
    ),
    (
        "c.relkind = 'f'",
        Kind {
            sql: "",
            one: "foreign table",
            many: "foreign tables",
            so: "made, and their rows stay where they are",
        },
    ),
    (
        "c.relkind IN ('r', 'p') AND c.relforcerowsecurity",
        Kind {
            sql: "",
            one: "table with forced row security",
            many: "tables with forced row security",
            so: "a login on the target without BYPASSRLS cannot write them",
        },
    ),
    (
        "c.relkind = 'S' AND c.relpersistence = 'u'",
        Kind { sql: "", one: "unlogged sequence", many: "unlogged sequences", so: "polled like the others" },
    ),
    (
        "c.relkind = 'p' AND NOT EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhparent = c.oid)",
        Kind {
            sql: "",
            one: "partitioned table without partitions",
            many: "partitioned tables without partitions",
            so: "partitions made later are not mirrored yet",
        },
    ),
];

const OTHERS: [Kind; 4] = [
    Kind {
        sql: "SELECT oid::text FROM pg_largeobject_metadata",
        one: "large object",
        many: "large objects",
        so: "not carried: logical decoding does not see them",
    },
    Kind {
        sql: "SELECT evtname::text FROM pg_event_trigger WHERE evtname !~ '^cloud_mirror'
              AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = pg_event_trigger.oid AND d.deptype = 'e')",
        one: "event trigger",
        many: "event triggers",
        so: "not made on the mirror",
    },
    Kind {
        sql: "SELECT subname::text FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
        one: "subscription",
        many: "subscriptions",
        so: "not made on the mirror: what they bring in is mirrored as rows",
    },
    Kind {
        sql: "SELECT format('%s (%s)', extname, array_length(extconfig, 1)) FROM pg_extension WHERE extconfig IS NOT NULL",
        one: "extension with tables of its own",
        many: "extensions with tables of their own",
        so: "the rows in those tables are not carried",
    },
];

/// Names all of it.
pub(in crate::replicate) async fn warnings(source: &Control) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for (filter, kind) in &CLASSES {
        let sql = format!(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE {filter} AND {USER_SCHEMA} ORDER BY 1"
        );
        found.extend(warning(source, &sql, kind).await?);
    }
    for kind in &OTHERS {
        found.extend(warning(source, kind.sql, kind).await?);
    }
    found.push(
        "changes of the schema (CREATE, ALTER, DROP, GRANT, COMMENT) are not carried yet: run them on both sides".to_owned(),
    );
    Ok(found)
}

async fn warning(source: &Control, sql: &str, kind: &Kind) -> Result<Option<String>, Error> {
    let rows = source.query(sql, &[]).await.doing("look for what is not carried")?;
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok((!names.is_empty())
        .then(|| format!("{} ({}): {}", counted(names.len(), kind.one, kind.many), some(&names), kind.so)))
}

/// What the target's login cannot make, and what would change the mirror's rows behind our back.
pub(super) async fn problems(source: &Control, to: &Capabilities) -> Result<Vec<Problem>, Error> {
    let mut found = Vec::new();
    // A rule rewrites the statements with which changes are applied.
    let letters = if to.can_be_replica { "'A', 'R'" } else { "'O', 'A', 'R'" };
    let rows = source
        .query(
            &format!(
                "SELECT format('%I on %s', r.rulename, r.ev_class::regclass) FROM pg_rewrite r
                 JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.relkind IN ('r', 'p') AND r.ev_enabled IN ({letters}) AND {USER_SCHEMA}"
            ),
            &[],
        )
        .await
        .doing("look for rules")?;
    if !rows.is_empty() {
        let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        found.push(Problem::new(
            format!(
                "{} would rewrite what is applied to the mirror ({})",
                counted(names.len(), "rule", "rules"),
                some(&names)
            ),
            "write them as triggers, or ALTER TABLE … ENABLE RULE without ALWAYS or REPLICA",
        ));
    }
    if to.is_superuser {
        return Ok(found);
    }
    const SUPERUSER_ONLY: &str = "
        WITH o(classid, objid) AS (
            SELECT 'pg_proc'::regclass::oid, p.oid FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE NOT l.lanpltrusted AND l.lanname <> 'sql'
            UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass::oid, oid FROM pg_foreign_data_wrapper
            UNION ALL SELECT 'pg_opclass'::regclass::oid, oid FROM pg_opclass
            UNION ALL SELECT 'pg_opfamily'::regclass::oid, oid FROM pg_opfamily
            UNION ALL SELECT 'pg_language'::regclass::oid, oid FROM pg_language
            UNION ALL SELECT 'pg_am'::regclass::oid, oid FROM pg_am
            UNION ALL SELECT 'pg_type'::regclass::oid, oid FROM pg_type WHERE typtype = 'b' AND typelem = 0
        )
        SELECT i.type || ' ' || i.identity FROM o CROSS JOIN LATERAL pg_identify_object(o.classid, o.objid, 0) i
        WHERE o.objid >= 16384 AND NOT EXISTS (SELECT 1 FROM pg_depend d
            WHERE d.classid = o.classid AND d.objid = o.objid AND d.deptype IN ('e', 'i'))
        ORDER BY 1";
    let rows = source.query(SUPERUSER_ONLY, &[]).await.doing("look for what only a superuser can make")?;
    if !rows.is_empty() {
        let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        found.push(Problem::new(
            format!(
                "{} of the source can only be made by a superuser ({})",
                counted(names.len(), "object", "objects"),
                some(&names)
            ),
            "give the login of a superuser on the target, or drop them on the source",
        ));
    }
    Ok(found)
}

/// `1 table`, `7 tables`.
pub(super) fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// The first few names.
pub(super) fn some(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(", and {} more", names.len() - SHOWN);
    }
    text
}
