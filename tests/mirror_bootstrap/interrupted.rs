//! Bootstraps that meet writers, changes of the schema, and their own death.

use crate::copied::{load_zoo, similar};
use crate::pair::{EPOCH, Pair};
use cloud_mirror::base::Epoch;
use cloud_mirror::lab::{FaultProxy, eventually_true};
use cloud_mirror::observe::events::Events;
use cloud_mirror::replicate::bootstrap::{self, Error, Limits, Progress, Stage};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Rows enough for a copy that takes a second or so.
const BIG: &str = "CREATE TABLE big (id bigint PRIMARY KEY, a int, b text);
    INSERT INTO big SELECT n, n % 100, md5(n::text) FROM generate_series(1, 400000) n;
    CREATE TABLE small (id int PRIMARY KEY, v int); INSERT INTO small VALUES (1, 1)";

/// Waits for a stage with bytes done; panics when the bootstrap ends before.
async fn reached(seen: &mut watch::Receiver<Progress>, stage: Stage, share: f64) {
    let is_there = |p: &Progress| {
        let is_far = p.bytes_done as f64 >= p.bytes_total as f64 * share && p.bytes_done > 0;
        // Nobody sees every step on a busy machine.
        p.stage == Stage::Finishing || p.stage == stage && is_far
    };
    let waited = tokio::time::timeout(Duration::from_secs(180), seen.wait_for(is_there)).await;
    waited.expect("the stage is reached in time").expect("the bootstrap is still running");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_during_the_copy_is_either_copied_or_in_the_slot_and_never_both() {
    let pair = Arc::new(Pair::start().await);
    pair.local
        .sql("shop", "CREATE TABLE big (id bigserial PRIMARY KEY, w int, b text); INSERT INTO big (w, b) SELECT 0, md5(n::text) FROM generate_series(1, 300000) n")
        .await
        .unwrap();
    let (stop, turns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (1..=4)
        .map(|w: i32| {
            let (pair, stop, turns) = (pair.clone(), stop.clone(), turns.clone());
            tokio::spawn(async move {
                let client = pair.local.client("shop").await.unwrap();
                let mut written: i64 = 0;
                while !stop.load(Ordering::Relaxed) {
                    written += client
                        .execute("INSERT INTO big (w, b) VALUES ($1, 'x'), ($1, 'y')", &[&w])
                        .await
                        .unwrap() as i64;
                    turns.fetch_add(1, Ordering::Relaxed);
                }
                written
            })
        })
        .collect();
    // Some of it before the copy begins, and some behind its end.
    let a_little_more = async || {
        let before = turns.load(Ordering::Relaxed);
        let is_more = || turns.load(Ordering::Relaxed) > before + 10;
        eventually_true(Duration::from_secs(60), "the writers write", is_more).await;
    };
    a_little_more().await;
    let ready = pair.run().await.unwrap();
    a_little_more().await;
    stop.store(true, Ordering::Relaxed);
    let mut written = 300_000;
    for writer in writers {
        written += writer.await.unwrap();
    }
    let copied: i64 = pair.cloud.value("shop", "SELECT count(*) FROM big").await.unwrap().parse().unwrap();
    let streamed = "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('cloud_mirror_cloud', NULL, NULL,
        'proto_version', '1', 'publication_names', 'cloud_mirror_cloud') WHERE get_byte(data, 0) = ascii('I')";
    let streamed: i64 = pair.local.value("shop", streamed).await.unwrap().parse().unwrap();
    assert_eq!(copied, i64::try_from(ready.rows).unwrap());
    assert!(streamed > 0 && copied > 300_000, "copied {copied}, streamed {streamed}");
    assert_eq!(copied + streamed, written);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_rewritten_during_the_copy_is_copied_again() {
    for change in ["ALTER TABLE small ALTER v TYPE bigint", "ALTER TABLE small RENAME v TO w"] {
        let pair = Arc::new(Pair::start().await);
        pair.local.sql("shop", BIG).await.unwrap();
        let (progress, mut seen) = watch::channel(Progress::default());
        let events = Events::default();
        let hop = FaultProxy::before(pair.local.port()).await.unwrap();
        let spec = Pair::spec_of(hop.port(), pair.cloud.port());
        let running = tokio::spawn({
            let events = events.clone();
            async move {
                let limits = Limits { readers: 1, ..Limits::default() };
                bootstrap::run_with(&spec, EPOCH, &limits, progress, &events).await
            }
        });
        // The one reader is in the middle of the big table, and stays there while the small one changes.
        reached(&mut seen, Stage::Copying, 0.01).await;
        hop.blackhole().await;
        pair.local.sql("shop", change).await.unwrap();
        hop.heal().await;
        running.await.unwrap().unwrap();
        let again = events.list().into_iter().filter(|e| e.name == "bootstrap.began_again").count();
        assert_eq!(again, 1, "{change}: {:#?}", events.list());
        assert_eq!(Pair::contents(&pair.local).await, Pair::contents(&pair.cloud).await, "{change}");
        similar(&Pair::schema(&pair.local).await, &Pair::schema(&pair.cloud).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_that_dies_in_the_middle_is_dropped_and_begun_again() {
    let pair = Arc::new(Pair::start().await);
    pair.local.sql("shop", BIG).await.unwrap();
    for (stage, share) in [(Stage::Copying, 0.01), (Stage::Copying, 0.6), (Stage::Finishing, 1.0)] {
        let (progress, mut seen) = watch::channel(Progress::default());
        let running = tokio::spawn({
            let pair = pair.clone();
            async move { bootstrap::run(&pair.spec, EPOCH, progress, &Events::default()).await }
        });
        reached(&mut seen, stage, share).await;
        running.abort();
        match running.await {
            Err(error) => assert!(error.is_cancelled(), "{error}"),
            // It was quicker than we are.
            Ok(ready) => {
                ready.unwrap();
                let as_before = "UPDATE cloud_mirror.progress SET phase = 'bootstrapping'";
                pair.cloud.sql("shop", as_before).await.unwrap();
            }
        }
        let phase = "SELECT phase FROM cloud_mirror.progress";
        assert_eq!(pair.cloud.value("shop", phase).await.unwrap(), "bootstrapping");
    }
    let report = bootstrap::preflight(&pair.spec).await.unwrap();
    assert!(report.is_interrupted);
    let ready = pair.run().await.unwrap();
    assert_eq!(ready.rows, 400_001);
    assert_eq!(Pair::contents(&pair.local).await, Pair::contents(&pair.cloud).await);
    assert_eq!(pair.local.value("shop", "SELECT count(*) FROM pg_replication_slots").await.unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_interrupted_bootstrap_made_is_dropped_and_what_was_there_stays() {
    let pair = Pair::start().await;
    pair.cloud.sql("shop", "CREATE EXTENSION pg_trgm").await.unwrap();
    load_zoo(&pair.local).await;
    let first = pair.run().await.unwrap();
    // As it is when the process is killed just before the last step.
    pair.cloud.sql("shop", "UPDATE cloud_mirror.progress SET phase = 'bootstrapping'").await.unwrap();
    let second = pair.run().await.unwrap();
    assert!(second.start > first.start);
    assert_eq!(second.rows, first.rows);
    assert_eq!(Pair::contents(&pair.local).await, Pair::contents(&pair.cloud).await);
    let mut cloud = pair.cloud.client("shop").await.unwrap();
    cloud_mirror::catalog::triggers::restore(&mut cloud).await.unwrap();
    assert_eq!(
        pair.cloud
            .value("shop", "SELECT count(*) FROM pg_extension WHERE extname = 'pg_trgm'")
            .await
            .unwrap(),
        "1"
    );
    pair.cloud.sql("shop", "DROP EXTENSION pg_trgm").await.unwrap();
    pair.local.sql("shop", "DROP EVENT TRIGGER zoo_ddl").await.unwrap();
    similar(&Pair::schema(&pair.local).await, &Pair::schema(&pair.cloud).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_epoch_neither_begins_nor_ends_over_a_newer_one() {
    let pair = Arc::new(Pair::start().await);
    pair.local.sql("shop", BIG).await.unwrap();
    // The older one waits for its slot, behind a transaction, until the newer one has come.
    let writer = pair.local.client("shop").await.unwrap();
    writer.batch_execute("BEGIN; INSERT INTO small VALUES (2, 2)").await.unwrap();
    let run = |epoch| {
        let (progress, seen) = watch::channel(Progress::default());
        let pair = pair.clone();
        let run = async move { bootstrap::run(&pair.spec, epoch, progress, &Events::default()).await };
        (tokio::spawn(run), seen)
    };
    let is_held_up = |p: &Progress| !p.held_up_by.is_empty();
    let (old, mut seen) = run(Epoch(4));
    seen.wait_for(is_held_up).await.unwrap();
    let (new, mut seen) = run(Epoch(5));
    assert!(old.await.unwrap().is_err());
    seen.wait_for(is_held_up).await.unwrap();
    writer.batch_execute("COMMIT").await.unwrap();
    assert_eq!(new.await.unwrap().unwrap().rows, 400_002);
    let (progress, _) = watch::channel(Progress::default());
    let late = bootstrap::run(&pair.spec, Epoch(4), progress, &Events::default()).await.unwrap_err();
    assert!(matches!(late, Error::Refused(_)), "{late}");
    let row = "SELECT epoch || ' ' || phase FROM cloud_mirror.progress";
    assert_eq!(pair.cloud.value("shop", row).await.unwrap(), "5 streaming");
    assert_eq!(Pair::contents(&pair.local).await, Pair::contents(&pair.cloud).await);
    assert_eq!(pair.local.value("shop", "SELECT count(*) FROM pg_replication_slots").await.unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_mirror_leaves_the_rows_and_nothing_else() {
    let mut pair = Pair::start().await;
    load_zoo(&pair.local).await;
    let identities = "SELECT string_agg(relname || relreplident::text, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
    let before = pair.local.value("shop", identities).await.unwrap();
    let schema = Pair::schema(&pair.local).await;
    pair.spec.full_identity = cloud_mirror::config::FullIdentity::All;
    let ready = pair.run().await.unwrap();
    assert!(!ready.warnings.iter().any(|w| w.contains("replica identity")), "{:#?}", ready.warnings);
    let inserts = "SELECT count(*) FROM pg_publication_tables WHERE pubname = 'cloud_mirror_cloud_inserts'";
    assert_eq!(pair.local.value("shop", inserts).await.unwrap(), "0");
    let contents = Pair::contents(&pair.cloud).await;
    bootstrap::drop_mirror(&pair.spec).await.unwrap();
    // Again: nothing to do.
    bootstrap::drop_mirror(&pair.spec).await.unwrap();
    let left = "SELECT concat_ws(' ', (SELECT count(*) FROM pg_namespace WHERE nspname = 'cloud_mirror'),
        (SELECT count(*) FROM pg_publication WHERE pubname ~ 'cloud_mirror'), (SELECT count(*) FROM pg_replication_slots))";
    assert_eq!(pair.local.value("shop", left).await.unwrap(), "0 0 0");
    assert_eq!(pair.cloud.value("shop", left).await.unwrap(), "0 0 0");
    assert_eq!(pair.local.value("shop", identities).await.unwrap(), before);
    assert_eq!(Pair::schema(&pair.local).await, schema);
    assert_eq!(Pair::contents(&pair.cloud).await, contents);
    // Whoever may connect to the source may connect to what was its mirror, and its triggers are awake.
    let awake = "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgenabled IN ('A', 'R')";
    assert_eq!(
        pair.cloud.value("shop", awake).await.unwrap(),
        pair.local.value("shop", awake).await.unwrap()
    );
    let may = "SELECT has_database_privilege('zoo_owner', 'shop', 'CONNECT')";
    assert_eq!(pair.cloud.value("shop", may).await.unwrap(), "t");
}

/// Not a test of its own: what the next one runs in another process, to kill it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by another test"]
async fn child_that_makes_a_mirror() {
    let port = |name: &str| std::env::var(name).ok()?.parse::<u16>().ok();
    // Without them this is a run of all tests that are usually ignored.
    let (Some(local), Some(cloud)) = (port("LOCAL_PORT"), port("CLOUD_PORT")) else { return };
    let spec = Pair::spec_of(local, cloud);
    let (progress, mut seen) = watch::channel(Progress::default());
    tokio::spawn(async move {
        while seen.changed().await.is_ok() {
            let p = seen.borrow_and_update().clone();
            println!("{:?} {}", p.stage, 100 * p.bytes_done / p.bytes_total.max(1));
        }
    });
    bootstrap::run(&spec, EPOCH, progress, &Events::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_leaves_nobody_writing_and_the_next_one_begins_again() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let pair = Pair::start().await;
    pair.local.sql("shop", BIG).await.unwrap();
    pair.local
        .sql("shop", "CREATE INDEX ON big (b); CREATE INDEX ON big (a, b); CREATE INDEX ON big (b, a)")
        .await
        .unwrap();
    for (stage, percent) in [("Preparing", 0), ("Copying", 0), ("Copying", 50), ("Finishing", 0)] {
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "interrupted::child_that_makes_a_mirror"])
            .env("LOCAL_PORT", pair.local.port().to_string())
            .env("CLOUD_PORT", pair.cloud.port().to_string())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let is_reached = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                // Nobody sees every step on a busy machine.
                let mut words = line.rsplit(' ');
                let done = words.next().and_then(|done| done.parse::<u32>().ok());
                let (at, is_far) =
                    (words.next().unwrap_or_default(), done.is_some_and(|done| done >= percent));
                if at == stage && is_far || at == "Finishing" {
                    return true;
                }
            }
            false
        };
        let is_reached = tokio::time::timeout(Duration::from_secs(180), is_reached).await;
        assert_eq!(is_reached, Ok(true), "{stage} is not reached");
        // `kill` is SIGKILL.
        child.kill().await.unwrap();
    }
    let ready = pair.run().await.unwrap();
    assert_eq!(ready.rows, 400_001);
    assert_eq!(Pair::contents(&pair.local).await, Pair::contents(&pair.cloud).await);
    similar(&Pair::schema(&pair.local).await, &Pair::schema(&pair.cloud).await);
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^cloud-mirror'";
    cloud_mirror::lab::eventually(Duration::from_secs(60), async || {
        let left = (pair.local.value("shop", sessions).await?, pair.cloud.value("shop", sessions).await?);
        cloud_mirror::lab::that(left, |(a, b)| a == "0" && b == "0")
    })
    .await;
}
