//! Runs to SQL: the text of a statement and where its parameters come from. Pure.
//!
//! Every name is qualified, since `search_path` is empty. A statement for many rows takes one
//! array per column; one for a single row takes plain values.

use super::plan::{Act, Row, Run};
use super::table::{Form, Key, Table};
use crate::wire::pgoutput::{Tuple, Value};
use bytes::{BufMut, Bytes, BytesMut};
use std::fmt::Write;
use tokio_postgres::types::Oid;

/// How many rows a statement takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arity {
    /// One.
    One,
    /// Any number, as arrays.
    Many,
}

/// What tells two statements for the same table apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    /// What it does.
    pub act: Act,
    /// How many rows it takes.
    pub arity: Arity,
    /// Forms of the new values.
    pub new_forms: Vec<Form>,
    /// Forms of the old values.
    pub old_forms: Vec<Form>,
}

impl Shape {
    /// The statement a run is best applied with.
    pub fn of(run: &Run) -> Shape {
        let is_array = |n: usize, forms: &[Form]| {
            forms.get(n) == Some(&Form::Binary) && run.table.columns[n].array_name.is_none()
        };
        let has_array =
            (0..run.table.columns.len()).any(|n| is_array(n, &run.new_forms) || is_array(n, &run.old_forms));
        let arity = match run.act {
            _ if run.rows.len() == 1 || run.table.columns.is_empty() || has_array => Arity::One,
            Act::Rekey | Act::Rewrite => Arity::One,
            _ if run.table.key == Key::WholeRow && run.act != Act::Insert => Arity::One,
            Act::Insert | Act::Update | Act::Delete => Arity::Many,
        };
        Shape { act: run.act, arity, new_forms: run.new_forms.clone(), old_forms: run.old_forms.clone() }
    }
}

/// Where one parameter comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Source {
    is_new: bool,
    column: usize,
    /// Type of the elements, for an array.
    element: Oid,
}

/// A statement: its text, and how to fill it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The text; empty when there is nothing to do on the target.
    pub sql: String,
    parameters: Vec<Source>,
}

/// Text has one OID everywhere ("pg_type.dat").
const TEXT_OID: Oid = 25;

impl Statement {
    /// Writes the statement for a table.
    pub fn write(table: &Table, shape: &Shape) -> Statement {
        let mut w = Writer { table, shape, parameters: Vec::new() };
        let sql = match (shape.act, shape.arity) {
            (Act::Insert, _) => w.insert(),
            (Act::Update, Arity::Many) => w.update_many(),
            (Act::Delete, Arity::Many) => w.delete_many(),
            (Act::Update | Act::Rekey, _) => w.update_one(),
            (Act::Delete, Arity::One) => {
                let found = w.found_by();
                format!("DELETE FROM ONLY {} AS t WHERE {found}", table.name)
            }
            (Act::Rewrite, _) => w.rewrite(),
        };
        Statement { sql, parameters: w.parameters }
    }

    /// The parameters for one row, each as the bytes of its value.
    pub fn values(&self, row: &Row) -> Vec<Option<Bytes>> {
        let mut values = Vec::with_capacity(self.parameters.len());
        self.each(row, |_, value| values.push(value.map(Bytes::copy_from_slice)));
        values
    }

    /// The parameters for many rows, each as the bytes of an array ("array_recv").
    pub fn arrays(&self, rows: &[Row]) -> Vec<Option<Bytes>> {
        let header = |source: &Source| {
            let mut array = BytesMut::with_capacity(20 + rows.len() * 12);
            array.put_i32(1);
            array.put_i32(0);
            array.put_u32(source.element);
            array.put_i32(i32::try_from(rows.len()).expect("a run is bounded by the batch"));
            array.put_i32(1);
            array
        };
        let mut arrays: Vec<BytesMut> = self.parameters.iter().map(header).collect();
        for row in rows {
            self.each(row, |n, value| match value {
                Some(value) => {
                    arrays[n].put_u32(u32::try_from(value.len()).expect("a value is under 1 GB"));
                    arrays[n].put_slice(value);
                }
                None => {
                    arrays[n].put_i32(-1);
                    arrays[n][7] = 1;
                }
            });
        }
        arrays.into_iter().map(|array| Some(array.freeze())).collect()
    }

    /// Hands over each parameter's value. Parameters are in the order of the columns, for old and
    /// for new values, so each row is walked once.
    fn each(&self, row: &Row, mut take: impl FnMut(usize, Option<&[u8]>)) {
        let mut old = row.old.iter().flat_map(Tuple::values).enumerate();
        let mut new = row.new.iter().flat_map(Tuple::values).enumerate();
        for (n, source) in self.parameters.iter().enumerate() {
            let wanted = |(column, _): &(usize, Value<'_>)| *column == source.column;
            let found = if source.is_new { new.find(wanted) } else { old.find(wanted) };
            take(
                n,
                match found {
                    Some((_, Value::Text(bytes) | Value::Binary(bytes))) => Some(bytes),
                    Some((_, Value::Null | Value::Unchanged)) | None => None,
                },
            );
        }
    }
}

struct Writer<'a> {
    table: &'a Table,
    shape: &'a Shape,
    parameters: Vec<Source>,
}

impl Writer<'_> {
    fn insert(&mut self) -> String {
        let columns = self.sent();
        if columns.is_empty() {
            return format!("INSERT INTO {} DEFAULT VALUES", self.table.name);
        }
        let names = self.names(&columns);
        let values: Vec<String> = columns.iter().map(|n| self.value(true, *n)).collect();
        let values = values.join(", ");
        let name = &self.table.name;
        // Set-returning functions in a select list run in step, and do not take composite values
        // apart as they do in FROM.
        match self.shape.arity {
            Arity::Many => format!("INSERT INTO {name} ({names}) OVERRIDING SYSTEM VALUE SELECT {values}"),
            Arity::One => {
                format!("INSERT INTO {name} ({names}) OVERRIDING SYSTEM VALUE VALUES ({values})")
            }
        }
    }

    fn update_many(&mut self) -> String {
        let mut list = String::new();
        let mut conditions = Vec::new();
        for n in self.key() {
            let value = self.value(false, n);
            let at = conditions.len();
            let _ = write!(list, "{}{value} AS k{at}", if at == 0 { "" } else { ", " });
            conditions.push(self.equal(n, &format!("s.k{at}")));
        }
        let mut set = Vec::new();
        for n in self.set() {
            let value = self.value(true, n);
            let at = set.len();
            let _ = write!(list, ", {value} AS c{at}");
            set.push(format!("{} = s.c{at}", self.table.columns[n].name));
        }
        if set.is_empty() {
            return self.nothing();
        }
        format!(
            "UPDATE ONLY {} AS t SET {} FROM (SELECT {list}) AS s WHERE {}",
            self.table.name,
            set.join(", "),
            conditions.join(" AND ")
        )
    }

    fn delete_many(&mut self) -> String {
        let mut list = Vec::new();
        let mut conditions = Vec::new();
        for n in self.key() {
            let at = list.len();
            let value = self.value(false, n);
            list.push(format!("{value} AS k{at}"));
            conditions.push(self.equal(n, &format!("s.k{at}")));
        }
        format!(
            "DELETE FROM ONLY {} AS t USING (SELECT {}) AS s WHERE {}",
            self.table.name,
            list.join(", "),
            conditions.join(" AND ")
        )
    }

    fn update_one(&mut self) -> String {
        let columns = self.set();
        if columns.is_empty() {
            return self.nothing();
        }
        let set: Vec<String> = columns
            .iter()
            .map(|n| {
                let value = self.value(true, *n);
                format!("{} = {value}", self.table.columns[*n].name)
            })
            .collect();
        let found = self.found_by();
        format!("UPDATE ONLY {} AS t SET {} WHERE {found}", self.table.name, set.join(", "))
    }

    /// Values that are not sent are taken from the row that goes.
    fn rewrite(&mut self) -> String {
        let found = self.found_by();
        let all: Vec<usize> = (0..self.table.columns.len()).collect();
        let names = self.names(&all);
        let values: Vec<String> = all
            .iter()
            .map(|n| match self.shape.new_forms[*n] {
                Form::Absent | Form::Null => format!("gone.{}", self.table.columns[*n].name),
                Form::Text | Form::Binary => self.value(true, *n),
            })
            .collect();
        format!(
            "WITH gone AS (DELETE FROM ONLY {0} AS t WHERE {found} RETURNING t.*) \
             INSERT INTO {0} ({names}) OVERRIDING SYSTEM VALUE SELECT {1} FROM gone",
            self.table.name,
            values.join(", ")
        )
    }

    /// Every column is part of the key: the update changed nothing that is stored.
    fn nothing(&mut self) -> String {
        self.parameters.clear();
        String::new()
    }

    fn found_by(&mut self) -> String {
        match &self.table.key {
            Key::Columns(_) | Key::None => {
                let conditions: Vec<String> = self
                    .key()
                    .into_iter()
                    .map(|n| {
                        let value = self.value(false, n);
                        self.equal(n, &value)
                    })
                    .collect();
                conditions.join(" AND ")
            }
            Key::WholeRow => self.whole_row(),
        }
    }

    /// Exactly one of the rows that look alike. Text forms are compared, because not every type
    /// has equality, and for some (numeric, float, citext) equal values look different; where the
    /// type is known to have a plain equality that is asked first, so that an index can help.
    fn whole_row(&mut self) -> String {
        let mut conditions = Vec::new();
        for n in 0..self.table.columns.len() {
            let column = format!("o.{}", self.table.columns[n].name);
            match self.shape.old_forms[n] {
                Form::Absent => {}
                Form::Null => conditions.push(format!("{column} IS NULL")),
                Form::Text | Form::Binary => {
                    let value = self.value(false, n);
                    let column_def = &self.table.columns[n];
                    if has_plain_equality(column_def.type_oid) {
                        conditions.push(format!("{column} {} {value}", column_def.equals));
                    } else {
                        conditions.push(format!(
                            "({column})::pg_catalog.text COLLATE \"C\" OPERATOR(pg_catalog.=) ({value})::pg_catalog.text"
                        ));
                    }
                }
            }
        }
        if conditions.is_empty() {
            conditions.push("true".to_owned());
        }
        format!(
            "t.ctid OPERATOR(pg_catalog.=) (SELECT o.ctid FROM ONLY {} AS o WHERE {} LIMIT 1)",
            self.table.name,
            conditions.join(" AND ")
        )
    }

    fn key(&self) -> Vec<usize> {
        match &self.table.key {
            Key::Columns(key) => key.clone(),
            Key::WholeRow | Key::None => Vec::new(),
        }
    }

    /// Columns whose new values are sent.
    fn sent(&self) -> Vec<usize> {
        let is_sent = |n: &usize| matches!(self.shape.new_forms[*n], Form::Text | Form::Binary);
        (0..self.table.columns.len()).filter(is_sent).collect()
    }

    /// Columns an update sets: those sent, without the key unless it moves (so that the row stays
    /// a heap-only tuple) and without `GENERATED ALWAYS` identities, which cannot be set.
    fn set(&self) -> Vec<usize> {
        let key = if self.shape.act == Act::Update { self.key() } else { Vec::new() };
        let columns = &self.table.columns;
        self.sent().into_iter().filter(|n| !key.contains(n) && !columns[*n].is_always).collect()
    }

    fn names(&self, columns: &[usize]) -> String {
        let names: Vec<&str> = columns.iter().map(|n| self.table.columns[*n].name.as_str()).collect();
        names.join(", ")
    }

    fn equal(&self, n: usize, value: &str) -> String {
        let column = &self.table.columns[n];
        format!("t.{} {} {value}", column.name, column.equals)
    }

    /// An expression for a value of column `n`; adds its parameter.
    fn value(&mut self, is_new: bool, n: usize) -> String {
        let column = &self.table.columns[n];
        let forms = if is_new { &self.shape.new_forms } else { &self.shape.old_forms };
        let is_text = forms[n] == Form::Text;
        let element = if is_text { TEXT_OID } else { column.type_oid };
        self.parameters.push(Source { is_new, column: n, element });
        let p = self.parameters.len();
        match (self.shape.arity, is_text, &column.array_name) {
            (Arity::Many, false, Some(array)) => format!("pg_catalog.unnest(${p}::{array})"),
            (Arity::Many, _, _) => {
                format!("pg_catalog.unnest(${p}::pg_catalog._text)::{}", column.type_name)
            }
            (Arity::One, false, _) => format!("${p}::{}", column.type_name),
            (Arity::One, true, _) => format!("(${p}::pg_catalog.text)::{}", column.type_name),
        }
    }
}

/// Types whose `=` holds for identical values only.
fn has_plain_equality(oid: Oid) -> bool {
    use tokio_postgres::types::Type;
    let plain = [
        Type::BOOL,
        Type::INT2,
        Type::INT4,
        Type::INT8,
        Type::OID,
        Type::UUID,
        Type::BYTEA,
        Type::DATE,
        Type::TIMESTAMP,
        Type::TIMESTAMPTZ,
    ];
    plain.iter().any(|t| t.oid() == oid)
}

#[cfg(test)]
#[path = "statement_tests.rs"]
mod tests;
