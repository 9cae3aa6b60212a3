use super::*;
use crate::replicate::table::fixture;

fn shape(act: Act, arity: Arity, new: &[Form], old: &[Form]) -> Shape {
    Shape { act, arity, new_forms: new.to_vec(), old_forms: old.to_vec() }
}

fn check(table: &Table, shape: &Shape, expected: &str) {
    assert_eq!(Statement::write(table, shape).sql, expected);
}

use Form::{Absent, Binary, Null, Text};

#[test]
fn rows_are_inserted_as_arrays_or_one_by_one() {
    let t = fixture::table("t", &["id", "v"], &[0]);
    check(
        &t,
        &shape(Act::Insert, Arity::Many, &[Binary, Text], &[]),
        "INSERT INTO s.\"t\" (\"id\", \"v\") OVERRIDING SYSTEM VALUE SELECT \
         pg_catalog.unnest($1::pg_catalog._int4), pg_catalog.unnest($2::pg_catalog._text)::pg_catalog.int4",
    );
    check(
        &t,
        &shape(Act::Insert, Arity::One, &[Binary, Text], &[]),
        "INSERT INTO s.\"t\" (\"id\", \"v\") OVERRIDING SYSTEM VALUE VALUES \
         ($1::pg_catalog.int4, ($2::pg_catalog.text)::pg_catalog.int4)",
    );
}

#[test]
fn an_update_sets_what_was_sent_and_not_the_key() {
    let t = fixture::table("t", &["id", "v", "w"], &[0]);
    check(
        &t,
        &shape(Act::Update, Arity::Many, &[Binary, Binary, Absent], &[Binary, Absent, Absent]),
        "UPDATE ONLY s.\"t\" AS t SET \"v\" = s.c0 FROM (SELECT pg_catalog.unnest($1::pg_catalog._int4) AS k0, \
         pg_catalog.unnest($2::pg_catalog._int4) AS c0) AS s WHERE t.\"id\" OPERATOR(pg_catalog.=) s.k0",
    );
    check(
        &t,
        &shape(Act::Rekey, Arity::One, &[Binary, Binary, Absent], &[Binary, Absent, Absent]),
        "UPDATE ONLY s.\"t\" AS t SET \"id\" = $1::pg_catalog.int4, \"v\" = $2::pg_catalog.int4 \
         WHERE t.\"id\" OPERATOR(pg_catalog.=) $3::pg_catalog.int4",
    );
}

#[test]
fn an_update_of_nothing_but_its_key_columns_is_no_statement() {
    let t = fixture::table("t", &["id"], &[0]);
    check(&t, &shape(Act::Update, Arity::Many, &[Binary], &[Binary]), "");
}

#[test]
fn a_generated_identity_is_never_set() {
    let mut t = fixture::table("t", &["id", "v"], &[0]);
    t.columns[1].is_always = true;
    check(
        &t,
        &shape(Act::Rewrite, Arity::One, &[Absent, Binary], &[Binary, Absent]),
        "WITH gone AS (DELETE FROM ONLY s.\"t\" AS t WHERE t.\"id\" OPERATOR(pg_catalog.=) $1::pg_catalog.int4 \
         RETURNING t.*) INSERT INTO s.\"t\" (\"id\", \"v\") OVERRIDING SYSTEM VALUE \
         SELECT gone.\"id\", $2::pg_catalog.int4 FROM gone",
    );
    check(&t, &shape(Act::Update, Arity::One, &[Binary, Binary], &[Binary, Absent]), "");
}

#[test]
fn one_of_the_rows_that_look_alike_is_found_by_its_place() {
    let mut t = fixture::table("t", &["a", "b", "c"], &[]);
    t.key = Key::WholeRow;
    t.columns[2].type_oid = 114;
    t.columns[2].type_name = "pg_catalog.json".to_owned();
    check(
        &t,
        &shape(Act::Delete, Arity::One, &[], &[Binary, Null, Binary]),
        "DELETE FROM ONLY s.\"t\" AS t WHERE t.ctid OPERATOR(pg_catalog.=) (SELECT o.ctid FROM ONLY s.\"t\" AS o \
         WHERE o.\"a\" OPERATOR(pg_catalog.=) $1::pg_catalog.int4 AND o.\"b\" IS NULL AND \
         (o.\"c\")::pg_catalog.text COLLATE \"C\" OPERATOR(pg_catalog.=) ($2::pg_catalog.json)::pg_catalog.text \
         LIMIT 1)",
    );
}

#[test]
fn values_become_arrays_in_binary_form() {
    let t = fixture::table("t", &["id", "v"], &[0]);
    let statement = Statement::write(&t, &shape(Act::Insert, Arity::Many, &[Binary, Text], &[]));
    let row = |values: &[Value<'_>]| Row { old: None, new: Some(Tuple::of(values)) };
    let rows = [
        row(&[Value::Binary(b"\0\0\0\x01"), Value::Text(b"x")]),
        row(&[Value::Binary(b"\0\0\0\x02"), Value::Null]),
    ];
    let arrays = statement.arrays(&rows);
    let ids = [
        &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 23, 0, 0, 0, 2, 0, 0, 0, 1][..],
        &[0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 2],
    ]
    .concat();
    assert_eq!(arrays[0].as_deref(), Some(&ids[..]));
    let texts = [
        &[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 25, 0, 0, 0, 2, 0, 0, 0, 1][..],
        &[0, 0, 0, 1, b'x', 0xff, 0xff, 0xff, 0xff],
    ]
    .concat();
    assert_eq!(arrays[1].as_deref(), Some(&texts[..]));
    assert_eq!(statement.values(&rows[1])[1], None);
}

#[test]
fn arrays_go_row_by_row_because_unnest_takes_them_apart() {
    let mut t = fixture::table("t", &["id", "v"], &[0]);
    t.columns[1].array_name = None;
    let table = std::sync::Arc::new(t);
    let row = Row { old: None, new: Some(Tuple::of(&[Value::Binary(b""), Value::Binary(b"")])) };
    let mut run = Run {
        table,
        act: Act::Insert,
        new_forms: vec![Binary, Binary],
        old_forms: Vec::new(),
        rows: vec![row.clone(), row],
    };
    assert_eq!(Shape::of(&run).arity, Arity::One);
    run.new_forms[1] = Text;
    assert_eq!(Shape::of(&run).arity, Arity::Many);
}
