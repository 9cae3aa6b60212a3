//! Changes to runs: which rows go together into one statement, and in which order. Pure.
//!
//! A batch becomes visible as a whole, so only two things matter: the last image of each row, and
//! that no statement fails that would not fail one by one. Where no trigger and no foreign key
//! fires on the target ([`Grouping::Commuting`]), changes of different tables commute, and so do
//! changes of different rows of one table. Unique values that move between rows are the
//! exception: then a statement fails, and the caller tries again with [`Grouping::OneByOne`],
//! which is what the source did.

use super::assemble::Change;
use super::error::Error;
use super::table::{Form, Key, Table};
use crate::wire::pgoutput::{Old, Tuple, Value};
use std::collections::HashMap;
use std::sync::Arc;

/// How freely changes may be put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// Only the order of the changes of one row matters.
    Commuting,
    /// Neighbours of the same kind go together, nothing is moved: foreign keys and triggers fire.
    InOrder,
    /// One statement per change.
    OneByOne,
}

/// What a statement does to its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// Inserts them.
    Insert,
    /// Sets their values; the key stays.
    Update,
    /// Sets their values and the key.
    Rekey,
    /// Deletes each and inserts it again: the way to give a `GENERATED ALWAYS` column a value.
    Rewrite,
    /// Deletes them.
    Delete,
}

/// One row of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What it is found by; `None` for an insert.
    pub old: Option<Tuple>,
    /// Its values; `None` for a delete.
    pub new: Option<Tuple>,
}

/// Rows that one kind of statement can take.
#[derive(Debug)]
pub struct Run {
    /// The table.
    pub table: Arc<Table>,
    /// What is done.
    pub act: Act,
    /// Forms of the new values; empty for a delete.
    pub new_forms: Vec<Form>,
    /// Forms of the old values; empty for an insert.
    pub old_forms: Vec<Form>,
    /// The rows, each found by another key.
    pub rows: Vec<Row>,
}

/// One step on the target.
#[derive(Debug)]
pub enum Step {
    /// Rows of one table.
    Run(Run),
    /// Empties tables with one command.
    Truncate {
        /// Which.
        tables: Vec<Arc<Table>>,
        /// Restart their sequences.
        restart_identity: bool,
    },
}

/// How far back a run is looked for that takes another row.
const LOOK_BACK: usize = 16;

/// Plans the changes of a batch in the order of the source. `table_of` knows every table in it.
pub fn plan<'a>(
    changes: impl Iterator<Item = &'a Change>,
    grouping: Grouping,
    mut table_of: impl FnMut(&Arc<crate::wire::pgoutput::Relation>) -> Arc<Table>,
) -> Result<Vec<Step>, Error> {
    let mut planner = Planner { grouping, tables: Vec::new(), by_oid: HashMap::new(), steps: Vec::new() };
    for change in changes {
        match change {
            Change::Insert { table, new } => planner.insert(table_of(table), new),
            Change::Update { table, old, new } => planner.update(table_of(table), old, new)?,
            Change::Delete { table, old } => planner.delete(table_of(table), old)?,
            Change::Truncate { tables, restart_identity } => {
                planner.flush();
                let tables = tables.iter().map(&mut table_of).collect();
                planner.steps.push(Step::Truncate { tables, restart_identity: *restart_identity });
            }
        }
    }
    planner.flush();
    Ok(planner.steps)
}

struct Planner {
    grouping: Grouping,
    tables: Vec<Pending>,
    by_oid: HashMap<u32, usize>,
    steps: Vec<Step>,
}

/// What is planned for one table and not yet a step.
struct Pending {
    table: Arc<Table>,
    runs: Vec<Run>,
    /// Runs before this one take no further row: something that does not commute came later.
    floor: usize,
    /// By key: the run and the row in it that touched it last.
    touched: HashMap<Vec<u8>, (usize, usize)>,
}

impl Planner {
    fn insert(&mut self, table: Arc<Table>, new: &Tuple) {
        let key = table.key_bytes(new);
        let new_forms = new_forms(&table, new);
        let row = Row { old: None, new: Some(new.clone()) };
        self.place(table, Act::Insert, key, new_forms, Vec::new(), row);
    }

    fn update(&mut self, table: Arc<Table>, old: &Old, new: &Tuple) -> Result<(), Error> {
        let new_forms = new_forms(&table, new);
        let has_always_outside_key = table
            .columns
            .iter()
            .enumerate()
            .any(|(n, c)| c.is_always && !matches!(&table.key, Key::Columns(key) if key.contains(&n)));
        match &table.key {
            Key::None => Err(no_identity(&table)),
            Key::WholeRow => {
                let Old::Full(old) = old else { return Err(no_identity(&table)) };
                let act = if has_always_outside_key { Act::Rewrite } else { Act::Update };
                let old_forms = old_forms(&table, old);
                let row = Row { old: Some(old.clone()), new: Some(new.clone()) };
                self.place(table, act, None, new_forms, old_forms, row);
                Ok(())
            }
            Key::Columns(key) => {
                let found_by = match old {
                    Old::Absent => new,
                    Old::Key(old) | Old::Full(old) => old,
                };
                let old_key = table.key_bytes(found_by).ok_or_else(|| no_identity(&table))?;
                let is_moved = table.moves_key(found_by, new);
                let key_is_always = key.iter().any(|n| table.columns[*n].is_always);
                let act = match (is_moved, has_always_outside_key) {
                    (_, true) => Act::Rewrite,
                    (true, false) if key_is_always => Act::Rewrite,
                    (true, false) => Act::Rekey,
                    (false, false) => Act::Update,
                };
                let old_forms = old_forms(&table, found_by);
                let row = Row { old: Some(found_by.clone()), new: Some(new.clone()) };
                let key = if is_moved { None } else { Some(old_key) };
                self.place(table, act, key, new_forms, old_forms, row);
                Ok(())
            }
        }
    }

    fn delete(&mut self, table: Arc<Table>, old: &Old) -> Result<(), Error> {
        let found_by = match (&table.key, old) {
            (Key::None, _) | (_, Old::Absent) | (Key::WholeRow, Old::Key(_)) => {
                return Err(no_identity(&table));
            }
            (Key::WholeRow | Key::Columns(_), Old::Full(old)) | (Key::Columns(_), Old::Key(old)) => old,
        };
        let key = table.key_bytes(found_by);
        if key.is_none() && table.key != Key::WholeRow {
            return Err(no_identity(&table));
        }
        let old_forms = old_forms(&table, found_by);
        let row = Row { old: Some(found_by.clone()), new: None };
        self.place(table, Act::Delete, key, Vec::new(), old_forms, row);
        Ok(())
    }

    /// Puts one row into the earliest run that may take it, or into a new one. Without a `key` it
    /// cannot be told from other rows, so nothing is moved across it.
    fn place(
        &mut self,
        table: Arc<Table>,
        act: Act,
        key: Option<Vec<u8>>,
        new_forms: Vec<Form>,
        old_forms: Vec<Form>,
        row: Row,
    ) {
        let index = self.pending(&table);
        if self.grouping != Grouping::Commuting && self.tables.len() > 1 {
            // Another table came before: what is planned for it goes first.
            let last = self.tables.swap_remove(index);
            self.flush();
            self.by_oid.insert(table.source.oid, 0);
            self.tables.push(last);
        }
        let index = self.by_oid[&table.source.oid];
        let pending = &mut self.tables[index];
        let can_join = match (self.grouping, &key, act) {
            (Grouping::OneByOne, _, _) => false,
            // Rows without identity can be inserted together, but nothing else.
            (_, None, Act::Insert) => true,
            (_, None, _) | (_, _, Act::Rekey | Act::Rewrite) => false,
            (_, Some(_), Act::Insert | Act::Update | Act::Delete) => true,
        };
        let new_run = |rows| Run {
            table: table.clone(),
            act,
            new_forms: new_forms.clone(),
            old_forms: old_forms.clone(),
            rows,
        };
        if !can_join {
            pending.runs.push(new_run(vec![row]));
            pending.floor = pending.runs.len();
            pending.touched.clear();
            return;
        }
        if self.grouping == Grouping::InOrder {
            pending.floor = pending.runs.len().saturating_sub(1);
        }
        let touched = key.as_ref().and_then(|key| pending.touched.get(key)).copied();
        if let Some((run, row_index)) = touched
            && run >= pending.floor
            && fold(&mut pending.runs[run], row_index, act, &new_forms, &row)
        {
            return;
        }
        let first = touched.map_or(0, |(run, _)| run + 1).max(pending.floor);
        let first = first.max(pending.runs.len().saturating_sub(LOOK_BACK));
        let takes = |r: &Run| r.act == act && r.new_forms == new_forms && r.old_forms == old_forms;
        let found = pending.runs[first..].iter().position(takes).map(|n| first + n);
        let run = found.unwrap_or_else(|| {
            pending.runs.push(new_run(Vec::new()));
            pending.runs.len() - 1
        });
        pending.runs[run].rows.push(row);
        if let Some(key) = key {
            pending.touched.insert(key, (run, pending.runs[run].rows.len() - 1));
        }
    }

    fn pending(&mut self, table: &Arc<Table>) -> usize {
        if let Some(index) = self.by_oid.get(&table.source.oid) {
            if Arc::ptr_eq(&self.tables[*index].table, table) {
                return *index;
            }
            // The table changed its shape in the middle of the batch.
            self.flush();
        }
        let pending = Pending { table: table.clone(), runs: Vec::new(), floor: 0, touched: HashMap::new() };
        self.tables.push(pending);
        self.by_oid.insert(table.source.oid, self.tables.len() - 1);
        self.tables.len() - 1
    }

    fn flush(&mut self) {
        self.by_oid.clear();
        for pending in self.tables.drain(..) {
            self.steps.extend(pending.runs.into_iter().map(Step::Run));
        }
    }
}

/// Lets a later image of a row replace an earlier one of the same batch; `false` when it cannot.
fn fold(run: &mut Run, index: usize, act: Act, new_forms: &[Form], row: &Row) -> bool {
    let foldable = match (run.act, act) {
        (Act::Update | Act::Insert, Act::Update) => run.new_forms == new_forms,
        _ => false,
    };
    if foldable {
        run.rows[index].new.clone_from(&row.new);
    }
    foldable
}

fn new_forms(table: &Table, row: &Tuple) -> Vec<Form> {
    row.values()
        .zip(&table.columns)
        .map(|(value, column)| match value {
            Value::Unchanged => Form::Absent,
            Value::Text(_) => Form::Text,
            Value::Binary(_) => Form::Binary,
            Value::Null => column.usual_form,
        })
        .collect()
}

fn old_forms(table: &Table, row: &Tuple) -> Vec<Form> {
    let form = |(n, value): (usize, Value<'_>)| match (&table.key, value) {
        (Key::Columns(key), _) if !key.contains(&n) => Form::Absent,
        (_, Value::Unchanged) => Form::Absent,
        (_, Value::Null) => Form::Null,
        (_, Value::Text(_)) => Form::Text,
        (_, Value::Binary(_)) => Form::Binary,
    };
    row.values().enumerate().map(form).collect()
}

fn no_identity(table: &Table) -> Error {
    Error::Drift {
        table: table.plain_name(),
        what: "the source sent an update or a delete without the identity of its row".to_owned(),
        fix: "give the table a primary key or REPLICA IDENTITY FULL, then drop the mirror and create it again",
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
