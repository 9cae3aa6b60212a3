//! Where a mirror has to stop, to wait or to warn.

mod stream;

use cloud_mirror::backend::{Login, Proof};
use cloud_mirror::base::{RoleName, Secret};
use cloud_mirror::lab::{Cluster, Instead, eventually, that};
use cloud_mirror::observe::status::MirrorState;
use stream::{Pair, SOON, following, until};

fn failed(state: &MirrorState, with: &[&str]) -> bool {
    matches!(state, MirrorState::Failed { reason } if with.iter().all(|w| reason.contains(w)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_the_mirror_lacks_stops_it_and_loses_nothing() {
    let pair = Pair::start().await;
    pair.sql("CREATE TABLE item (id int PRIMARY KEY, v text); CREATE TABLE other (id int PRIMARY KEY)").await;
    let mirror = pair.mirror();
    following(&mirror).await;
    pair.sql("BEGIN; INSERT INTO other VALUES (1); COMMIT").await;
    pair.sql("ALTER TABLE item ADD w int; INSERT INTO item VALUES (1, 'a', 5)").await;
    pair.sql("INSERT INTO other VALUES (2)").await;
    until(&mirror, |s| failed(&s.state, &["public.item", "no column w", "make the same change"])).await;
    assert_eq!(
        pair.cloud_value("SELECT count(*) FROM other").await,
        "1",
        "what came before is there, what came behind waits"
    );
    mirror.stop().await;
    pair.cloud.sql("shop", "ALTER TABLE item ADD w int").await.unwrap();
    let mirror = pair.mirror();
    following(&mirror).await;
    pair.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_somebody_wrote_to_the_mirror_is_named_and_not_overwritten() {
    let pair = Pair::start().await;
    pair.sql("CREATE TABLE item (id int PRIMARY KEY, v text); INSERT INTO item SELECT n, 'x' FROM generate_series(1, 9) n").await;
    let mirror = pair.mirror();
    following(&mirror).await;
    pair.cloud.sql("shop", "INSERT INTO item VALUES (100, 'mine')").await.unwrap();
    pair.sql("INSERT INTO item SELECT n, 'source' FROM generate_series(95, 105) n").await;
    pair.sql("INSERT INTO item VALUES (200, 'later')").await;
    until(&mirror, |s| failed(&s.state, &["public.item (id=100)", "23505"])).await;
    assert_eq!(pair.cloud_value("SELECT string_agg(v, ',') FROM item WHERE id > 9").await, "mine");
    mirror.stop().await;
    pair.cloud.sql("shop", "DELETE FROM item WHERE id = 100").await.unwrap();
    let mirror = pair.mirror();
    following(&mirror).await;
    pair.assert_equal().await;
    pair.cloud.sql("shop", "DELETE FROM item WHERE id = 3").await.unwrap();
    pair.sql("UPDATE item SET v = 'y' WHERE id < 6").await;
    until(&mirror, |s| failed(&s.state, &["no row of public.item (id=3)"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn truncations_take_all_tables_of_the_command_and_their_sequences() {
    let pair = Pair::start().await;
    pair.sql(
        "CREATE TABLE parent (id serial PRIMARY KEY); CREATE TABLE child (id serial PRIMARY KEY, p int REFERENCES parent);
         CREATE TABLE log (what text); INSERT INTO parent SELECT FROM generate_series(1, 10);
         INSERT INTO child (p) SELECT n FROM generate_series(1, 10) n; INSERT INTO log VALUES ('a');",
    )
    .await;
    let mirror = pair.mirror();
    following(&mirror).await;
    pair.sql("INSERT INTO parent SELECT FROM generate_series(1, 5)").await;
    pair.sql("TRUNCATE parent RESTART IDENTITY CASCADE").await;
    pair.sql("INSERT INTO parent SELECT FROM generate_series(1, 3)").await;
    pair.sql("BEGIN; INSERT INTO log VALUES ('b'); TRUNCATE log; INSERT INTO log VALUES ('c'); COMMIT").await;
    pair.assert_equal().await;
    assert_eq!(pair.cloud_value("SELECT count(*) FROM child").await, "0");
    assert_eq!(pair.cloud_value("SELECT string_agg(what, ',') FROM log").await, "c");
    eventually(SOON, async || match pair.cloud_value("SELECT last_value FROM parent_id_seq").await {
        at if at == "3" => Ok(()),
        at => Err(Instead::from(at)),
    })
    .await;
    pair.assert_no_errors();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_identity_are_counted_where_they_cannot_be_followed() {
    let pair = Pair::start().await;
    pair.sql("CREATE TABLE log (what text); INSERT INTO log SELECT 'x' FROM generate_series(1, 10)").await;
    let mirror = pair.mirror();
    following(&mirror).await;
    until(&mirror, |s| s.warnings.iter().any(|w| w.contains("public.log"))).await;
    pair.sql("INSERT INTO log VALUES ('y')").await;
    pair.sql("UPDATE log SET what = 'z' WHERE what = 'x'").await;
    pair.sql("DELETE FROM log WHERE what = 'y'").await;
    until(&mirror, |s| s.rows_not_followed == 11).await;
    assert_eq!(pair.cloud_value("SELECT count(*) FROM log").await, "11");
    // The count is of the mirror, not of this process.
    mirror.stop().await;
    pair.sql("UPDATE log SET what = 'q'").await;
    let mirror = pair.mirror();
    until(&mirror, |s| s.rows_not_followed == 21).await;
    pair.assert_no_errors();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_mirror_has_no_lag_and_keeps_no_log_of_others() {
    let pair = Pair::start().await;
    pair.sql("CREATE TABLE item (id int PRIMARY KEY)").await;
    let mirror = pair.mirror();
    following(&mirror).await;
    pair.local
        .sql("postgres", "CREATE TABLE noise AS SELECT repeat('n', 1000) FROM generate_series(1, 20000)")
        .await
        .unwrap();
    let noise = pair.local.value("shop", "SELECT pg_current_wal_flush_lsn()").await.unwrap();
    eventually(SOON, async || {
        let seen = pair
            .local
            .value(
                "shop",
                &format!("SELECT confirmed_flush_lsn - '{noise}'::pg_lsn FROM pg_replication_slots"),
            )
            .await
            .unwrap();
        if seen.starts_with('-') { Err(Instead::from(seen)) } else { Ok(()) }
    })
    .await;
    let status = until(&mirror, |s| s.lag_bytes == Some(0)).await;
    assert_eq!(status.lag_ms, Some(0));
    pair.assert_no_errors();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_login_without_power_applies_with_constraints_and_triggers_in_force() {
    let mut pair = Pair::start().await;
    pair.cloud.create_role("owner", "secret", "CREATEROLE").await.unwrap();
    pair.cloud.sql("postgres", "ALTER DATABASE shop OWNER TO owner").await.unwrap();
    pair.cloud.sql("shop", "ALTER SCHEMA public OWNER TO owner").await.unwrap();
    pair.spec.target.login =
        Login { user: RoleName::new("owner").unwrap(), proof: Proof::Password(Secret::new("secret")) };
    pair.sql(
        "CREATE TABLE parent (id int PRIMARY KEY, v int UNIQUE DEFERRABLE);
         CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE DEFERRABLE);
         CREATE TABLE mix (id int PRIMARY KEY, v int);",
    )
    .await;
    let mirror = pair.mirror();
    following(&mirror).await;
    until(&mirror, |s| s.warnings.iter().any(|w| w.contains("session_replication_role"))).await;
    pair.sql("BEGIN; INSERT INTO parent SELECT n, n FROM generate_series(1, 50) n; INSERT INTO child SELECT n, n FROM generate_series(1, 50) n; COMMIT").await;
    pair.sql("UPDATE parent SET v = 51 - v").await;
    pair.sql("DELETE FROM parent WHERE id % 5 = 0").await;
    pair.sql("INSERT INTO mix SELECT n, n FROM generate_series(1, 500) n; UPDATE mix SET v = -v; DELETE FROM mix WHERE id % 3 = 0").await;
    pair.assert_equal().await;
    assert_eq!(pair.cloud_value("SELECT count(*) FROM child").await, "40");
    pair.assert_no_errors();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_larger_than_memory_allows_goes_through_in_pieces() {
    let local = Cluster::builder().setting("logical_decoding_work_mem", "64kB");
    let pair = Pair::with(local).await;
    pair.sql("CREATE TABLE item (id int PRIMARY KEY, v text); CREATE TABLE tail (id int PRIMARY KEY)").await;
    let mirror = pair.mirror();
    following(&mirror).await;
    pair.sql("INSERT INTO tail VALUES (1)").await;
    pair.sql("INSERT INTO item SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, 100000) n").await;
    pair.sql("INSERT INTO tail VALUES (2)").await;
    pair.sql("BEGIN; UPDATE item SET v = 'short' WHERE id <= 60000; TRUNCATE tail; INSERT INTO tail VALUES (3); COMMIT").await;
    pair.assert_equal().await;
    pair.assert_no_errors();
    // 100 MB went by; queues hold a few of them.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    let peak_kb: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    println!("peak {peak_kb} kB");
    assert!(peak_kb < 90_000, "{peak_kb} kB");
    // A process that dies in the middle of such a transaction begins it again.
    let blocked = pair.cloud.client("shop").await.unwrap();
    blocked.batch_execute("BEGIN; LOCK TABLE tail IN EXCLUSIVE MODE").await.unwrap();
    pair.sql("BEGIN; UPDATE item SET v = 'again'; INSERT INTO tail VALUES (4); COMMIT").await;
    let waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'cloud-mirror apply%' AND wait_event_type = 'Lock'";
    eventually(SOON, async || that(pair.cloud_value(waiting).await, |seen| seen == "t")).await;
    drop(mirror);
    blocked.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(pair.cloud_value("SELECT count(*) FROM item WHERE v = 'again'").await, "0");
    let mirror = pair.mirror();
    following(&mirror).await;
    pair.assert_equal().await;
    assert_eq!(pair.cloud_value("SELECT count(*) FROM item WHERE v = 'again'").await, "100000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_that_fails_in_a_hurry_is_taken_row_by_row() {
    let pair = Pair::start().await;
    pair.sql("CREATE TABLE seat (id int PRIMARY KEY, place int UNIQUE); INSERT INTO seat SELECT n, n FROM generate_series(1, 15000) n").await;
    let mirror = pair.mirror();
    following(&mirror).await;
    // Each new row takes the place of one that has just left; all inserts at once would collide.
    pair.sql(
        "INSERT INTO seat VALUES (-1, -1); DO $$ BEGIN FOR n IN 1..15000 LOOP DELETE FROM seat WHERE id = n;
              INSERT INTO seat VALUES (n + 100000, n); END LOOP; END $$",
    )
    .await;
    pair.assert_equal().await;
    assert!(pair.events.list().iter().any(|e| e.name == "replicate.stream_taken_apart"));
    pair.assert_no_errors();
}
