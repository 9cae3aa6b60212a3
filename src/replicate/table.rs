//! A table of the source and its copy on the target, matched column by column.

use super::error::Error;
use super::form;
use crate::backend::control::Control;
use crate::wire::pgoutput::{Identity, Relation, Tuple, Value};
use crate::wire::replication::ValueForm;
use postgres_protocol::escape::escape_identifier;
use std::sync::Arc;
use tokio_postgres::types::{Oid, Type};

/// A source table bound to the target's table of the same name.
#[derive(Debug)]
pub struct Table {
    /// What the source says of it.
    pub source: Arc<Relation>,
    /// Schema and name, quoted.
    pub name: String,
    /// The target's columns, in the source's order.
    pub columns: Vec<TargetColumn>,
    /// How a row is found on the target.
    pub key: Key,
}

/// How rows of a table are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// By these columns (positions in the source's order), which are unique and not null.
    Columns(Vec<usize>),
    /// By all values: the table has no key and REPLICA IDENTITY FULL. Of equal rows, one is meant.
    WholeRow,
    /// Not at all: rows are only inserted.
    None,
}

/// How one column's values are sent in a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// Not at all: a large value that the update left alone, or no part of the key.
    Absent,
    /// Not sent, but known to be null: the row is found by `IS NULL`.
    Null,
    /// As text, converted by the target.
    Text,
    /// As its type's binary form.
    Binary,
}

/// A column of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetColumn {
    /// Quoted.
    pub name: String,
    /// Its type, qualified and quoted.
    pub type_name: String,
    /// Its type here.
    pub type_oid: Oid,
    /// The type of arrays of it, qualified and quoted; `None` when it is an array itself: an array
    /// of arrays is one array of more dimensions, and `unnest` takes it apart to the last element.
    pub array_name: Option<String>,
    /// How its values come in this stream; NULL goes along with either form.
    pub usual_form: Form,
    /// `GENERATED ALWAYS AS IDENTITY`: may be inserted when overridden, never set.
    pub is_always: bool,
    /// The operator that an index uses to compare for equality, qualified.
    pub equals: String,
}

/// Everything about the target's table that matters for applying, one row per column of the
/// source. Types may live in any schema, so all is qualified.
const COLUMNS: &str = "
SELECT w.name, a.attname IS NOT NULL AS exists, a.attgenerated <> '' AS is_generated,
       a.attidentity = 'a' AS is_always, a.atttypid AS type_oid,
       pg_catalog.quote_ident(tn.nspname) || '.' || pg_catalog.quote_ident(t.typname) AS type_name,
       pg_catalog.quote_ident(an.nspname) || '.' || pg_catalog.quote_ident(at.typname) AS array_name,
       t.typsend <> 0 AS has_send,
       (SELECT pg_catalog.format('OPERATOR(%I.%s)', opn.nspname, op.oprname)
          FROM pg_catalog.pg_opclass oc
          JOIN pg_catalog.pg_am am ON am.oid = oc.opcmethod AND am.amname = 'btree'
          JOIN pg_catalog.pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3
               AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
          JOIN pg_catalog.pg_operator op ON op.oid = ao.amopopr
          JOIN pg_catalog.pg_namespace opn ON opn.oid = op.oprnamespace
         WHERE oc.opcdefault
           AND oc.opcintype = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END) AS equals,
       EXISTS (SELECT FROM pg_catalog.pg_index i
                WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate AND i.indisvalid
                  AND a.attnum = ANY (i.indkey)) AS in_primary
  FROM pg_catalog.unnest($3::pg_catalog.text[]) WITH ORDINALITY AS w(name, n)
  JOIN pg_catalog.pg_namespace n ON n.nspname = $1
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = $2 AND c.relkind = 'r'
  LEFT JOIN pg_catalog.pg_attribute a
         ON a.attrelid = c.oid AND a.attname = w.name AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace
  LEFT JOIN pg_catalog.pg_type at ON at.oid = t.typarray
  LEFT JOIN pg_catalog.pg_namespace an ON an.oid = at.typnamespace
 ORDER BY w.n";

const EXISTS: &str = "
SELECT c.relkind::pg_catalog.text,
       (SELECT pg_catalog.count(*)::pg_catalog.int4 FROM pg_catalog.pg_index i
         CROSS JOIN LATERAL pg_catalog.unnest(i.indkey) k
         WHERE i.indrelid = c.oid AND i.indisprimary)
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND c.relname = $2";

impl Table {
    /// Looks the table up on the target. Fails with `Drift` when the target lacks the table or
    /// one of its columns, which is what a schema change on the source looks like from here.
    pub async fn load(target: &Control, source: Arc<Relation>, form: ValueForm) -> Result<Table, Error> {
        let drift = |what: String| Error::Drift {
            table: format!("{}.{}", source.schema, source.name),
            what,
            fix: "make the same change on the mirror, or drop the mirror and create it again",
        };
        let found = target
            .query_typed_opt(EXISTS, &[(&source.schema, Type::TEXT), (&source.name, Type::TEXT)])
            .await
            .map_err(Error::target("look for a table"))?;
        let Some(found) = found else {
            return Err(drift("the mirror has no such table".to_owned()));
        };
        if found.get::<_, &str>(0) != "r" {
            return Err(drift("it is no ordinary table on the mirror".to_owned()));
        }
        let primary_size: i32 = found.get(1);
        if form == ValueForm::Binary
            && form::of_table(target, &source.schema, &source.name).await? == ValueForm::Text
        {
            return Err(Error::NeedsText);
        }
        let names: Vec<&str> = source.columns.iter().map(|c| c.name.as_str()).collect();
        let rows = target
            .query_typed(
                COLUMNS,
                &[(&source.schema, Type::TEXT), (&source.name, Type::TEXT), (&names, Type::TEXT_ARRAY)],
            )
            .await
            .map_err(Error::target("look at a table"))?;
        let mut columns = Vec::with_capacity(rows.len());
        let mut primary = Vec::new();
        for (n, row) in rows.iter().enumerate() {
            let name: &str = row.get("name");
            if !row.get::<_, bool>("exists") {
                return Err(drift(format!("the mirror has no column {name}")));
            }
            if row.get("is_generated") {
                return Err(drift(format!("the column {name} is generated on the mirror only")));
            }
            if row.get("in_primary") {
                primary.push(n);
            }
            let equals: Option<String> = row.get("equals");
            columns.push(TargetColumn {
                name: escape_identifier(name),
                type_name: row.get("type_name"),
                type_oid: row.get("type_oid"),
                array_name: row.get("array_name"),
                usual_form: match form {
                    ValueForm::Binary if row.get("has_send") => Form::Binary,
                    ValueForm::Binary | ValueForm::Text => Form::Text,
                },
                is_always: row.get("is_always"),
                equals: equals.unwrap_or_else(|| "OPERATOR(pg_catalog.=)".to_owned()),
            });
        }
        let has_primary = primary_size > 0 && primary.len() as i32 == primary_size;
        let key = Key::choose(&source, if has_primary { Some(primary) } else { None });
        let name = format!("{}.{}", escape_identifier(&source.schema), escape_identifier(&source.name));
        Ok(Table { source, name, columns, key })
    }

    /// Whether an update from `old` to `new` changes the key. A key column that is not sent because
    /// it is large has not changed.
    pub fn moves_key(&self, old: &Tuple, new: &Tuple) -> bool {
        let Key::Columns(key) = &self.key else { return false };
        let pairs = old.values().zip(new.values()).enumerate();
        pairs.filter(|(n, _)| key.contains(n)).any(|(_, (o, n))| n != Value::Unchanged && o != n)
    }

    /// For messages: schema and name, unquoted.
    pub fn plain_name(&self) -> String {
        format!("{}.{}", self.source.schema, self.source.name)
    }

    /// The key's values in `row`, one after the other, as bytes that are equal exactly for the
    /// same row of the source: the source stores what it sends.
    pub fn key_bytes(&self, row: &Tuple) -> Option<Vec<u8>> {
        let Key::Columns(key) = &self.key else { return None };
        let mut bytes = Vec::with_capacity(16);
        let mut wanted = key.iter().peekable();
        for (n, value) in row.values().enumerate() {
            if wanted.next_if(|k| **k == n).is_none() {
                continue;
            }
            let (Value::Text(value) | Value::Binary(value)) = value else { return None };
            bytes.extend_from_slice(&(value.len() as u32).to_be_bytes());
            bytes.extend_from_slice(value);
        }
        Some(bytes)
    }

    /// The key's values for a person.
    pub fn describe_key(&self, row: &Tuple) -> String {
        let columns: Vec<usize> = match &self.key {
            Key::Columns(key) => key.clone(),
            Key::WholeRow | Key::None => (0..self.columns.len().min(8)).collect(),
        };
        let values: Vec<Value<'_>> = row.values().collect();
        let shown: Vec<String> = columns
            .iter()
            .filter_map(|n| {
                let value = describe_value(self.source.columns[*n].type_oid, values.get(*n)?);
                Some(format!("{}={value}", self.source.columns[*n].name))
            })
            .collect();
        shown.join(", ")
    }
}

impl Key {
    /// `primary` holds the columns of the target's primary key, if the source has all of them.
    fn choose(source: &Relation, primary: Option<Vec<usize>>) -> Key {
        let flagged: Vec<usize> = (0..source.columns.len()).filter(|n| source.columns[*n].is_key).collect();
        match (source.identity, primary) {
            // A table with a key may have FULL for the sake of other readers.
            (Identity::Full, Some(primary)) => Key::Columns(primary),
            (Identity::Full, None) => Key::WholeRow,
            (Identity::Default | Identity::Index | Identity::Nothing, _) if flagged.is_empty() => Key::None,
            (Identity::Default | Identity::Index | Identity::Nothing, _) => Key::Columns(flagged),
        }
    }
}

fn describe_value(type_oid: Oid, value: &Value<'_>) -> String {
    let bytes = match value {
        Value::Null => return "NULL".to_owned(),
        Value::Unchanged => return "(unchanged)".to_owned(),
        Value::Text(bytes) => return shortened(&String::from_utf8_lossy(bytes)),
        Value::Binary(bytes) => *bytes,
    };
    match (Type::from_oid(type_oid), bytes.len()) {
        (Some(Type::INT2 | Type::INT4 | Type::INT8), 1..=8) => {
            let sign = if bytes[0] & 0x80 == 0 { 0 } else { -1i64 };
            bytes.iter().fold(sign, |n, b| n << 8 | i64::from(*b)).to_string()
        }
        (Some(Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME), _) => {
            shortened(&String::from_utf8_lossy(bytes))
        }
        _ => shortened(&bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

/// Tables for the tests of the rooms that plan and write statements.
#[cfg(test)]
pub mod fixture {
    use super::*;
    use crate::wire::pgoutput::Column;

    /// Table `name` of int4 columns `names`, those in `key` being its identity.
    pub fn table(name: &str, names: &[&str], key: &[usize]) -> Table {
        let columns = names.iter().enumerate().map(|(n, name)| Column {
            is_key: key.contains(&n),
            name: (*name).to_owned(),
            type_oid: 23,
            type_modifier: -1,
        });
        let source = Relation {
            oid: name.bytes().map(u32::from).sum(),
            schema: "s".to_owned(),
            name: name.to_owned(),
            identity: Identity::Default,
            columns: columns.collect(),
        };
        let columns = names.iter().map(|name| TargetColumn {
            name: escape_identifier(name),
            type_name: "pg_catalog.int4".to_owned(),
            type_oid: 23,
            array_name: Some("pg_catalog._int4".to_owned()),
            usual_form: Form::Text,
            is_always: false,
            equals: "OPERATOR(pg_catalog.=)".to_owned(),
        });
        let columns = columns.collect();
        let key = Key::choose(&source, None);
        Table { source: Arc::new(source), name: format!("s.\"{name}\""), columns, key }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_to_a_person() {
        assert_eq!(describe_value(23, &Value::Binary(&[0, 0, 1, 0])), "256");
        assert_eq!(describe_value(20, &Value::Binary(&[0xff; 8])), "-1");
        assert_eq!(describe_value(25, &Value::Binary(b"ab")), "ab");
        assert_eq!(describe_value(2950, &Value::Binary(b"ab")), "6162");
        assert!(shortened(&"ü".repeat(100)).ends_with("..."));
    }

    #[test]
    fn keys_of_two_columns_do_not_run_into_each_other() {
        let t = fixture::table("t", &["a", "b"], &[0, 1]);
        let key = |a: &[u8], b: &[u8]| t.key_bytes(&Tuple::of(&[Value::Text(a), Value::Text(b)]));
        assert_ne!(key(b"1", b"23"), key(b"12", b"3"));
        assert_eq!(key(b"1", b"23"), key(b"1", b"23"));
        assert_eq!(t.key_bytes(&Tuple::of(&[Value::Null, Value::Text(b"1")])), None);
    }
}
