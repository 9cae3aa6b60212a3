//! Promotion on a real server: the mirror becomes the writer once and for all.

use cloud_mirror::backend::{Login, Party, Proof};
use cloud_mirror::base::{DatabaseName, Epoch, Lsn, MirrorName, Retry, RoleName, Secret, Site, SlotName};
use cloud_mirror::catalog::progress::{self, Phase, Start};
use cloud_mirror::catalog::triggers::{Enabled, Trigger};
use cloud_mirror::catalog::{door, fence, schema, sequences, triggers};
use cloud_mirror::failover::effects::promote::Outcome;
use cloud_mirror::failover::effects::{self, Error, Promoted};
use cloud_mirror::lab::{Cluster, eventually, that};
use std::time::{Duration, Instant, SystemTime};
use tokio_postgres::{Client, NoTls};

const SOON: Duration = Duration::from_secs(60);

/// A cloud server whose database `shop` is the target of a mirror in epoch 1, applied by an
/// ordinary role that owns it.
struct Mirror {
    server: Cluster,
    target: Party,
}

async fn mirror(sql: &str, phase: Phase) -> Mirror {
    let server = Cluster::builder().start().await.unwrap();
    server.create_role("owner", "owner", "CREATEROLE").await.unwrap();
    server.create_role("app", "app", "").await.unwrap();
    server.sql("postgres", "CREATE DATABASE shop OWNER owner").await.unwrap();
    let login = Login { user: RoleName::new("owner").unwrap(), proof: Proof::Password(Secret::new("owner")) };
    let target = Party { login, ..server.party(Site::Cloud, "shop") };
    let mut us = target.control("cloud-mirror test", SOON).await.unwrap();
    us.batch_execute(&format!("SET search_path = public; {sql}; RESET search_path")).await.unwrap();
    schema::ensure(&us).await.unwrap();
    door::close(&mut us).await.unwrap();
    let start = Start {
        mirror: name(),
        epoch: Epoch(1),
        source_system: "7".to_owned(),
        source_timeline: 1,
        source_database: DatabaseName::new("shop").unwrap(),
        slot: SlotName::new("cloud_mirror_cloud").unwrap(),
        lsn: Lsn(0x42),
    };
    progress::start(&us, &start).await.unwrap();
    progress::set_phase(&us, &name(), Epoch(1), phase).await.unwrap();
    Mirror { server, target }
}

fn name() -> MirrorName {
    MirrorName::new("cloud").unwrap()
}

impl Mirror {
    async fn us(&self) -> Client {
        self.target.control("cloud-mirror test", SOON).await.unwrap()
    }

    async fn promote(&self, epoch: u64) -> Result<Promoted, Error> {
        effects::promote(&self.target, &name(), Epoch(epoch), SOON).await
    }

    async fn app(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.server.url("app", "shop"), NoTls).await?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(client)
    }

    async fn next(&self, sequence: &str) -> i64 {
        self.us().await.query_one("SELECT nextval($1::text::regclass)", &[&sequence]).await.unwrap().get(0)
    }
}

#[tokio::test]
async fn a_promotion_moves_sequences_enables_triggers_and_lets_the_application_in() {
    let mirror = mirror(
        "CREATE TABLE orders (id serial PRIMARY KEY, note text); GRANT ALL ON orders TO app;
         GRANT ALL ON SEQUENCE orders_id_seq TO app;
         CREATE TABLE odd (id bigint GENERATED ALWAYS AS IDENTITY (INCREMENT 2) PRIMARY KEY);
         CREATE SEQUENCE down INCREMENT -1; CREATE SEQUENCE unpolled START 7;
         CREATE TABLE shared (a int DEFAULT nextval('unpolled') PRIMARY KEY);
         CREATE SEQUENCE small AS smallint;
         INSERT INTO orders SELECT n FROM generate_series(1, 70) n; INSERT INTO shared VALUES (900);
         CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN NEW.note = ''stamped''; RETURN NEW; END';
         CREATE TRIGGER stamp BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION stamp()",
        Phase::Following,
    )
    .await;
    let us = mirror.us().await;
    let seen = |sequence: &str, last_value, increment| sequences::Seen {
        schema: "public".to_owned(),
        name: sequence.to_owned(),
        last_value,
        is_called: true,
        increment,
    };
    let polled = [
        seen("orders_id_seq", 50, 1),
        seen("odd_id_seq", 11, 2),
        seen("down", -5, -1),
        seen("small", 32_700, 1),
    ];
    sequences::write(&us, &name(), SystemTime::now(), &polled).await.unwrap();
    let stamp = Trigger {
        schema: "public".to_owned(),
        table: "orders".to_owned(),
        name: "stamp".to_owned(),
        enabled: Enabled::Origin,
    };
    let gone = Trigger { name: "gone".to_owned(), ..stamp.clone() };
    triggers::record(&us, &[stamp.clone(), gone]).await.unwrap();
    us.batch_execute(&stamp.disabling()).await.unwrap();
    assert!(mirror.app().await.is_err(), "the door is closed");

    let promoted = mirror.promote(2).await.unwrap();
    assert_eq!(promoted.outcome, Outcome::Promoted);
    assert_eq!((promoted.lsn, promoted.triggers, promoted.sequences), (Lsn(0x42), 1, 5));
    assert_eq!(promoted.admitted, ["PUBLIC"]);
    assert_eq!(promoted.sequences_near_end, ["public.small"]);
    let app = mirror.app().await.expect("the door is open");
    let row = app.query_one("INSERT INTO orders VALUES (DEFAULT) RETURNING id, note", &[]).await.unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1)), (1071, "stamped"));
    assert_eq!(mirror.next("public.odd_id_seq").await, 2013);
    assert_eq!(mirror.next("public.down").await, -1006);
    assert_eq!(mirror.next("public.unpolled").await, 1901);
    assert_eq!(mirror.next("public.small").await, 32_734);
    let row = progress::read(&us, &name()).await.unwrap().unwrap();
    assert_eq!((row.phase, row.epoch), (Phase::Promoted, Epoch(2)));
    let row = fence::read(&us).await.unwrap().unwrap();
    assert_eq!((row.state, row.epoch), (fence::State::Open, Epoch(2)));

    // Again, by a later holder, and by a stale one.
    assert_eq!(mirror.promote(2).await.unwrap().outcome, Outcome::WasPromoted);
    assert_eq!(mirror.promote(5).await.unwrap().outcome, Outcome::WasPromoted);
    assert_eq!(mirror.next("public.odd_id_seq").await, 2015, "no second gap");
    let stale = mirror.promote(3).await.unwrap_err();
    assert!(matches!(stale, Error::StaleEpoch { ours: Epoch(3), theirs: Epoch(5) }), "{stale:?}");
    assert_eq!(stale.retry(), Retry::Never);
    assert!(progress::raise_epoch(&us, &name(), Epoch(9)).await.is_err(), "nobody applies any more");
}

#[tokio::test]
async fn only_a_complete_mirror_of_an_older_epoch_is_promoted() {
    let mirror = mirror("SELECT", Phase::Streaming).await;
    let refused = mirror.promote(2).await.unwrap_err();
    assert!(refused.to_string().contains("streaming"), "{refused}");
    let us = mirror.us().await;
    progress::set_phase(&us, &name(), Epoch(1), Phase::Following).await.unwrap();
    assert!(matches!(mirror.promote(1).await, Err(Error::StaleEpoch { theirs: Epoch(1), .. })));
    let other = MirrorName::new("other").unwrap();
    let refused = effects::promote(&mirror.target, &other, Epoch(2), SOON).await.unwrap_err();
    assert!(refused.to_string().contains("no mirror other"), "{refused}");
    assert!(mirror.app().await.is_err(), "refusals leave the door closed");
    let elsewhere = mirror.server.party(Site::Cloud, "postgres");
    let refused = effects::promote(&elsewhere, &name(), Epoch(2), SOON).await.unwrap_err();
    assert!(matches!(refused, Error::NotInState(_)), "{refused:?}");
}

#[tokio::test]
async fn an_applier_that_hangs_is_ended_and_a_stale_one_writes_nothing() {
    let mirror = mirror("CREATE TABLE t (n int)", Phase::Following).await;
    let apply = "UPDATE cloud_mirror.progress SET lsn = '0/99' WHERE mirror = 'cloud' AND epoch = 1";
    let hanging = mirror.target.control("cloud-mirror apply", SOON).await.unwrap();
    hanging.batch_execute("BEGIN; INSERT INTO public.t VALUES (1)").await.unwrap();
    assert_eq!(hanging.execute(apply, &[]).await.unwrap(), 1);
    let started = Instant::now();
    let promoted = mirror.promote(2).await.unwrap();
    println!("an applier in the way: {:?}", started.elapsed());
    assert_eq!(promoted.lsn, Lsn(0x42));
    assert!(hanging.batch_execute("COMMIT").await.is_err());
    assert_eq!(mirror.us().await.execute(apply, &[]).await.unwrap(), 0, "a stale applier finds no row");
}

#[tokio::test]
async fn an_applier_that_is_about_to_commit_is_waited_for() {
    let mirror = mirror("CREATE TABLE t (n int)", Phase::Following).await;
    let applier = mirror.target.control("cloud-mirror apply", SOON).await.unwrap();
    applier
        .batch_execute(
            "BEGIN; UPDATE cloud_mirror.progress SET lsn = '0/99' WHERE mirror = 'cloud' AND epoch = 1",
        )
        .await
        .unwrap();
    let target = mirror.target.clone();
    let promotion =
        tokio::spawn(async move { effects::promote(&target, &name(), Epoch(2), SOON).await.unwrap() });
    let us = mirror.us().await;
    eventually(SOON, async || {
        let ask = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        that(us.query_one(ask, &[]).await?.get::<_, i64>(0), |n| *n == 1)
    })
    .await;
    applier.batch_execute("COMMIT").await.unwrap();
    assert_eq!(promotion.await.unwrap().lsn, Lsn(0x99), "what was applied counts");
}

#[tokio::test]
async fn five_hundred_sequences_are_moved() {
    promote_with_five_hundred_sequences().await;
}

#[tokio::test]
#[ignore = "campaign: measures"]
async fn five_hundred_sequences_are_moved_within_a_second() {
    let took = promote_with_five_hundred_sequences().await;
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// How long the promotion takes.
async fn promote_with_five_hundred_sequences() -> Duration {
    let tables: String = (0..500).map(|n| format!("CREATE TABLE t{n} (id serial PRIMARY KEY);")).collect();
    let mirror = mirror(&tables, Phase::Following).await;
    let promoted = mirror.promote(2).await.unwrap();
    println!("500 sequences: promoted in {:?}", promoted.took);
    assert_eq!(promoted.sequences, 500);
    assert_eq!(mirror.next("public.t499_id_seq").await, 1001);
    promoted.took
}
