use super::*;
use crate::replicate::table::fixture;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn row(values: &[Option<&str>]) -> Tuple {
    let values: Vec<Value<'_>> =
        values.iter().map(|v| v.map_or(Value::Unchanged, |v| Value::Text(v.as_bytes()))).collect();
    Tuple::of(&values)
}

struct World(Vec<Arc<Table>>);

impl World {
    fn new() -> World {
        World(vec![
            Arc::new(fixture::table("a", &["id", "v"], &[0])),
            Arc::new(fixture::table("b", &["id", "v"], &[0])),
        ])
    }

    fn insert(&self, t: usize, id: &str, v: &str) -> Change {
        Change::Insert { table: self.0[t].source.clone(), new: row(&[Some(id), Some(v)]) }
    }

    fn update(&self, t: usize, id: &str, v: &str) -> Change {
        Change::Update { table: self.0[t].source.clone(), old: Old::Absent, new: row(&[Some(id), Some(v)]) }
    }

    fn rekey(&self, t: usize, id: &str, to: &str, v: &str) -> Change {
        let old = Old::Key(Tuple::of(&[Value::Text(id.as_bytes()), Value::Null]));
        Change::Update { table: self.0[t].source.clone(), old, new: row(&[Some(to), Some(v)]) }
    }

    fn delete(&self, t: usize, id: &str) -> Change {
        let old = Old::Key(Tuple::of(&[Value::Text(id.as_bytes()), Value::Null]));
        Change::Delete { table: self.0[t].source.clone(), old }
    }

    fn truncate(&self, t: usize) -> Change {
        Change::Truncate { tables: vec![self.0[t].source.clone()], restart_identity: false }
    }

    fn plan(&self, changes: &[Change], grouping: Grouping) -> Vec<Step> {
        let of = |r: &Arc<crate::wire::pgoutput::Relation>| {
            self.0.iter().find(|t| Arc::ptr_eq(&t.source, r)).unwrap().clone()
        };
        plan(changes.iter(), grouping, of).unwrap()
    }

    /// `a:Update*3` and so on.
    fn shape(&self, changes: &[Change], grouping: Grouping) -> Vec<String> {
        self.plan(changes, grouping)
            .iter()
            .map(|step| match step {
                Step::Run(run) => format!("{}:{:?}*{}", run.table.source.name, run.act, run.rows.len()),
                Step::Truncate { tables, .. } => format!("truncate*{}", tables.len()),
            })
            .collect()
    }
}

#[test]
fn changes_of_different_tables_and_rows_go_together() {
    let w = World::new();
    let changes = [
        w.update(0, "1", "x"),
        w.insert(1, "1", "x"),
        w.update(0, "2", "x"),
        w.insert(1, "2", "x"),
        w.update(0, "1", "y"),
        w.delete(1, "9"),
        w.insert(1, "3", "x"),
    ];
    let shape = w.shape(&changes, Grouping::Commuting);
    assert_eq!(shape, ["a:Update*2", "b:Insert*3", "b:Delete*1"]);
    let Step::Run(run) = &w.plan(&changes, Grouping::Commuting)[0] else { panic!() };
    assert_eq!(run.rows[0].new, Some(row(&[Some("1"), Some("y")])), "the last image wins");
}

#[test]
fn one_row_keeps_the_order_of_its_changes() {
    let w = World::new();
    let changes =
        [w.delete(0, "1"), w.insert(0, "1", "x"), w.delete(0, "1"), w.insert(0, "1", "y"), w.delete(0, "2")];
    let shape = w.shape(&changes, Grouping::Commuting);
    assert_eq!(shape, ["a:Delete*2", "a:Insert*1", "a:Delete*1", "a:Insert*1"]);
}

#[test]
fn an_update_folds_into_the_insert_of_its_row() {
    let w = World::new();
    let changes = [w.insert(0, "1", "x"), w.insert(0, "2", "x"), w.update(0, "1", "y")];
    assert_eq!(w.shape(&changes, Grouping::Commuting), ["a:Insert*2"]);
}

#[test]
fn a_value_that_was_not_sent_does_not_replace_one_that_was() {
    let w = World::new();
    let table = w.0[0].source.clone();
    let partial = Change::Update { table, old: Old::Absent, new: row(&[Some("1"), None]) };
    let changes = [w.update(0, "1", "x"), partial, w.update(0, "1", "z")];
    assert_eq!(w.shape(&changes, Grouping::Commuting), ["a:Update*1", "a:Update*1", "a:Update*1"]);
}

#[test]
fn nothing_moves_across_a_new_key_or_a_truncation() {
    let w = World::new();
    let changes = [
        w.update(0, "1", "x"),
        w.rekey(0, "2", "1000", "x"),
        w.update(0, "3", "x"),
        w.truncate(1),
        w.update(0, "4", "x"),
    ];
    let shape = w.shape(&changes, Grouping::Commuting);
    assert_eq!(shape, ["a:Update*1", "a:Rekey*1", "a:Update*1", "truncate*1", "a:Update*1"]);
}

#[test]
fn where_foreign_keys_fire_only_neighbours_go_together() {
    let w = World::new();
    let changes = [
        w.insert(0, "1", "x"),
        w.insert(0, "2", "x"),
        w.insert(1, "1", "x"),
        w.insert(0, "3", "x"),
        w.update(0, "7", "x"),
        w.insert(0, "4", "x"),
    ];
    let shape = w.shape(&changes, Grouping::InOrder);
    assert_eq!(shape, ["a:Insert*2", "b:Insert*1", "a:Insert*1", "a:Update*1", "a:Insert*1"]);
    assert_eq!(w.shape(&changes, Grouping::OneByOne).len(), 6);
}

#[test]
fn a_change_without_identity_is_an_error_and_no_guess() {
    let table = Arc::new(fixture::table("n", &["v"], &[]));
    let change = Change::Update { table: table.source.clone(), old: Old::Absent, new: row(&[Some("1")]) };
    let planned = plan([change].iter(), Grouping::Commuting, |_| table.clone());
    assert!(matches!(planned, Err(Error::Drift { .. })));
}

/// By table and key: the row.
type State = BTreeMap<(String, Vec<u8>), Tuple>;

/// What a target would hold after these steps; fails as a unique key or a missing row would.
fn apply(steps: &[Step]) -> Result<State, String> {
    let mut state = State::new();
    for step in steps {
        let run = match step {
            Step::Run(run) => run,
            Step::Truncate { tables, .. } => {
                state.retain(|(name, _), _| tables.iter().all(|t| t.source.name != *name));
                continue;
            }
        };
        for row in &run.rows {
            let name = run.table.source.name.clone();
            let key = |row: &Tuple| (name.clone(), run.table.key_bytes(row).unwrap());
            if let Some(old) = &row.old {
                state.remove(&key(old)).ok_or(format!("no row for {run:?}"))?;
            }
            if let Some(new) = &row.new
                && state.insert(key(new), new.clone()).is_some()
            {
                return Err(format!("twice: {run:?}"));
            }
        }
    }
    Ok(state)
}

proptest! {
    #[test]
    fn however_grouped_the_same_rows_result(
        wishes in proptest::collection::vec((0usize..2, 0u8..6, 0u8..5, 0u8..6), 1..60)
    ) {
        // A history that a source could have had.
        let w = World::new();
        let mut there = std::collections::BTreeSet::new();
        let mut changes = Vec::new();
        for (n, (t, id, wish, other)) in wishes.into_iter().enumerate() {
            let (id, v) = (id.to_string(), n.to_string());
            let is_there = there.contains(&(t, id.clone()));
            match wish {
                0 | 1 if !is_there => {
                    there.insert((t, id.clone()));
                    changes.push(w.insert(t, &id, &v));
                }
                0 | 1 => changes.push(w.update(t, &id, &v)),
                2 if is_there => {
                    there.remove(&(t, id.clone()));
                    changes.push(w.delete(t, &id));
                }
                3 if is_there && !there.contains(&(t, other.to_string())) => {
                    there.remove(&(t, id.clone()));
                    there.insert((t, other.to_string()));
                    changes.push(w.rekey(t, &id, &other.to_string(), &v));
                }
                4 if other == 0 => {
                    there.retain(|(table, _)| *table != t);
                    changes.push(w.truncate(t));
                }
                _ => {}
            }
        }
        let expected = apply(&w.plan(&changes, Grouping::OneByOne)).unwrap();
        for grouping in [Grouping::Commuting, Grouping::InOrder] {
            let found = apply(&w.plan(&changes, grouping));
            prop_assert_eq!(found.as_ref(), Ok(&expected), "{:?}", grouping);
        }
    }
}
