//! What a mirror carries, between real servers.

mod stream;

use stream::{Pair, following, until};

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_change_and_go_do_so_on_the_mirror() {
    let pair = Pair::start().await;
    pair.sql("CREATE TABLE item (id bigserial PRIMARY KEY, name text, price numeric(10,2)); INSERT INTO item (name) VALUES ('before')").await;
    let mirror = pair.mirror();
    following(&mirror).await;
    pair.sql("INSERT INTO item (name, price) SELECT 'item ' || n, n / 7.0 FROM generate_series(1, 5000) n")
        .await;
    pair.sql("UPDATE item SET price = price + 1 WHERE id % 3 = 0").await;
    pair.sql("UPDATE item SET id = id + 100000 WHERE id % 100 = 7").await;
    pair.sql("DELETE FROM item WHERE id % 5 = 0").await;
    pair.assert_equal().await;
    pair.assert_no_errors();
    until(&mirror, |s| s.rows_applied > 7000 && s.lag_ms == Some(0)).await;
}

/// All statements of `tests/stream/dml.sql`, each its own transaction unless it says otherwise.
async fn run_dml(pair: &Pair) {
    let client = pair.local.client("shop").await.unwrap();
    for line in include_str!("stream/dml.sql").split(";\n") {
        if let Err(error) = client.batch_execute(line).await {
            panic!("{error:?}: {}", line.chars().take(300).collect::<String>());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_and_identity_is_carried_in_binary_form() {
    let pair = Pair::start().await;
    pair.sql(include_str!("stream/zoo.sql")).await;
    let mirror = pair.mirror();
    following(&mirror).await;
    run_dml(&pair).await;
    pair.assert_equal().await;
    pair.assert_no_errors();
    let started: Vec<_> =
        pair.events.list().into_iter().filter(|e| e.name == "replicate.streaming").collect();
    assert!(started.iter().all(|e| e.detail.contains("Binary")), "{started:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_and_identity_is_carried_in_text_form_beside_names_of_objects() {
    let pair = Pair::start().await;
    pair.sql(include_str!("stream/zoo.sql")).await;
    // OIDs differ between the two sides, so that carrying one instead of a name would show.
    pair.cloud
        .sql("shop", "CREATE TEMP TABLE t1 (); CREATE TEMP TABLE t2 (); CREATE TEMP TABLE t3 ()")
        .await
        .unwrap();
    pair.sql("CREATE TYPE has_name AS (r regclass); CREATE TABLE object (id int PRIMARY KEY, c regclass, t regtype, p has_name)").await;
    let mirror = pair.mirror();
    following(&mirror).await;
    run_dml(&pair).await;
    pair.sql("INSERT INTO object VALUES (1, 'scalars', 'mood', ROW('kinds')), (2, '\"My Schema\".\"Odd \"\"Table\"', 'int', NULL)").await;
    pair.sql("UPDATE object SET c = 'pg_class', p = ROW('scalars') WHERE id = 1").await;
    pair.assert_equal().await;
    pair.assert_no_errors();
    let started: Vec<_> =
        pair.events.list().into_iter().filter(|e| e.name == "replicate.streaming").collect();
    assert!(started.iter().all(|e| e.detail.contains("Text")), "{started:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_changes_in_one_transaction_give_the_same_rows() {
    let pair = Pair::start().await;
    pair.sql(include_str!("stream/zoo.sql")).await;
    let mirror = pair.mirror();
    following(&mirror).await;
    let lines: Vec<&str> = include_str!("stream/dml.sql")
        .split(";\n")
        .filter(|line| !line.ends_with("ROLLBACK") && !line.contains("PREPARE"))
        .collect();
    let all = lines.join(";\n").replace("BEGIN;", "").replace("COMMIT", "SELECT 1");
    pair.sql(&format!("BEGIN; {all}; COMMIT")).await;
    pair.assert_equal().await;
    until(&mirror, |s| s.rows_applied > 1000).await;
    pair.assert_no_errors();
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_are_equal_after_a_run_of_pgbench() {
    let pair = Pair::start().await;
    pair.pgbench(&["-i", "-q", "-s", "2"]).await;
    let mirror = pair.mirror();
    following(&mirror).await;
    pair.pgbench(&["-n", "-c", "4", "-j", "2", "-T", "4"]).await;
    pair.assert_equal().await;
    pair.assert_no_errors();
    until(&mirror, |s| s.lag_ms == Some(0)).await;
}
