//! What keeps a mirror from being made, and how that is said.

use crate::pair::{EPOCH, Pair};
use cloud_mirror::backend::{Login, Proof};
use cloud_mirror::base::{RoleName, Secret};
use cloud_mirror::lab::{Cluster, eventually, that};
use cloud_mirror::observe::events::Events;
use cloud_mirror::replicate::bootstrap::{self, Error, Limits, Problem, Progress, roles};
use std::time::Duration;
use tokio::sync::watch;

fn has(problems: &[Problem], what: &str, fix: &str) {
    let found = problems.iter().any(|p| p.what.contains(what) && p.fix.contains(fix));
    assert!(found, "{what} / {fix} is not in {problems:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_missing_is_listed_at_once_and_nothing_is_made() {
    let local = Cluster::builder().setting("wal_level", "replica").setting("max_replication_slots", 0);
    let mut pair = Pair::start_with(local).await;
    pair.local.create_role("app", "here", "").await.unwrap();
    pair.cloud.create_role("app", "there", "").await.unwrap();
    pair.cloud.create_role("weak", "weak", "").await.unwrap();
    pair.local
        .sql(
            "shop",
            "CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO app;
             CREATE EXTENSION citext; UPDATE pg_extension SET extname = 'nowhere' WHERE extname = 'citext'",
        )
        .await
        .unwrap();
    pair.cloud
        .sql("shop", "CREATE TABLE mine (a int); CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        .await
        .unwrap();
    let superuser = pair.spec.target.login.clone();
    pair.spec.target.login =
        Login { user: RoleName::new("weak").unwrap(), proof: Proof::Password(Secret::new("weak")) };
    let problems = bootstrap::preflight(&pair.spec).await.unwrap_err();
    has(&problems, "wal_level of the source is replica", "ALTER SYSTEM SET wal_level = logical");
    has(&problems, "no free replication slot", "max_replication_slots");
    has(&problems, "\"nowhere\"", "DROP EXTENSION \"nowhere\"");
    has(&problems, "may not create roles", "ALTER ROLE \"weak\" CREATEROLE");
    has(&problems, "does not own the target database", "OWNER TO \"weak\"");
    has(&problems, "not empty: function public.f(), table public.mine", "TEMPLATE template0");
    has(
        &problems,
        "role \"app\" exists on the target: its password cannot be compared",
        "--replace-role-passwords",
    );
    assert_eq!(problems.len(), 8, "{problems:#?}");

    pair.spec.target.login = superuser;
    let refused = pair.run().await.unwrap_err();
    let Error::Refused(problems) = refused else { panic!("{refused}") };
    has(&problems, "role \"app\" exists on the target: another password", "--replace-role-passwords");
    let left = "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'cloud_mirror')
                    + (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots)";
    assert_eq!(pair.local.value("shop", left).await.unwrap(), "0");
    assert_eq!(pair.cloud.value("shop", left).await.unwrap(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_not_reached_are_both_named() {
    let pair = Pair::start().await;
    let mut spec = pair.spec.clone();
    spec.source.login.proof = Proof::Password(Secret::new("wrong"));
    spec.target.database = cloud_mirror::base::DatabaseName::new("nowhere").unwrap();
    let problems = bootstrap::preflight(&spec).await.unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:#?}");
    has(&problems, "password authentication failed", "");
    has(&problems, "database \"nowhere\" does not exist", "");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_and_prepared_transactions_that_hold_up_the_slot_are_named_and_the_wait_ends() {
    let pair = Pair::start_with(Cluster::builder().setting("max_prepared_transactions", 5)).await;
    pair.local.sql("shop", "CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let writer = pair.local.client("postgres").await.unwrap();
    writer.batch_execute("CREATE TABLE other (a int); BEGIN; INSERT INTO other VALUES (1)").await.unwrap();
    pair.local.sql("shop", "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'forgotten'").await.unwrap();
    let pid = writer.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get::<_, i32>(0);
    let limits = Limits { slot_wait: Duration::from_secs(5), ..Limits::default() };
    let (progress, seen) = watch::channel(Progress::default());
    let failed =
        bootstrap::run_with(&pair.spec, EPOCH, &limits, progress, &Events::default()).await.unwrap_err();
    let text = failed.to_string();
    assert!(matches!(failed, Error::HeldUp(_)), "{text}");
    assert!(text.contains(&format!("pid {pid} (postgres@postgres lab, idle in transaction")), "{text}");
    assert!(text.contains("'forgotten' of postgres in shop"), "{text}");
    assert_eq!(seen.borrow().held_up_by.len(), 2);
    assert_eq!(pair.local.value("shop", "SELECT count(*) FROM pg_replication_slots").await.unwrap(), "0");
    assert_eq!(pair.local.value("shop", "SELECT count(*) FROM pg_publication").await.unwrap(), "0");

    // Once they have ended, the same mirror is made.
    writer.batch_execute("COMMIT").await.unwrap();
    pair.local.sql("shop", "COMMIT PREPARED 'forgotten'").await.unwrap();
    assert_eq!(pair.run().await.unwrap().rows, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_another_password_is_replaced_when_allowed_and_followed_afterwards() {
    let mut pair = Pair::start().await;
    pair.local.create_role("app", "here", "CREATEDB").await.unwrap();
    pair.cloud.create_role("app", "there", "").await.unwrap();
    pair.local.create_role("boss", "here", "SUPERUSER").await.unwrap();
    pair.cloud.create_role("boss", "there", "SUPERUSER").await.unwrap();
    pair.local
        .sql("shop", "CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO app; CREATE TABLE u (id int PRIMARY KEY); ALTER TABLE u OWNER TO boss")
        .await
        .unwrap();
    pair.spec.replace_role_passwords = true;
    let ready = pair.run().await.unwrap();
    assert!(
        ready.warnings.iter().any(|w| w.contains("role \"boss\" has another password")),
        "{:#?}",
        ready.warnings
    );
    let verifier = "SELECT rolpassword, rolcreatedb FROM pg_authid WHERE rolname = 'app'";
    pair.assert_same(verifier).await;

    // Later changes follow.
    pair.spec.replace_role_passwords = false;
    let source = pair.spec.source.control("cloud-mirror test", Duration::from_secs(60)).await.unwrap();
    let target = pair.spec.target.control("cloud-mirror test", Duration::from_secs(60)).await.unwrap();
    let mut memory = roles::Memory::default();
    let first = roles::sync(&pair.spec, &source, &target, &mut memory).await.unwrap();
    assert_eq!(first.changes, 0, "{first:?}");
    pair.local
        .sql(
            "shop",
            "ALTER ROLE app PASSWORD 'changed'; CREATE ROLE newcomer LOGIN PASSWORD 'new' IN ROLE app;
             ALTER ROLE newcomer SET work_mem = '5MB'",
        )
        .await
        .unwrap();
    let second = roles::sync(&pair.spec, &source, &target, &mut memory).await.unwrap();
    assert!(second.changes >= 3, "{second:?}");
    pair.assert_same("SELECT rolname, rolpassword FROM pg_authid WHERE rolname IN ('app', 'newcomer')").await;
    pair.assert_same(
        "SELECT member::regrole, roleid::regrole FROM pg_auth_members WHERE member = 'newcomer'::regrole",
    )
    .await;
    let third = roles::sync(&pair.spec, &source, &target, &mut memory).await.unwrap();
    assert_eq!(third.changes, 0, "{third:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_login_that_is_no_superuser_is_enough() {
    let mut pair = Pair::start().await;
    pair.cloud.create_role("admin", "admin", "CREATEROLE").await.unwrap();
    pair.cloud.sql("postgres", "ALTER DATABASE shop OWNER TO admin").await.unwrap();
    pair.spec.target.login =
        Login { user: RoleName::new("admin").unwrap(), proof: Proof::Password(Secret::new("admin")) };
    pair.local.create_role("app", "app", "").await.unwrap();
    pair.local.create_role("owner", "owner", "BYPASSRLS").await.unwrap();
    pair.local
        .sql(
            "shop",
            "CREATE EXTENSION citext; CREATE SCHEMA s AUTHORIZATION owner;
             SET ROLE owner;
             CREATE TABLE s.t (id serial PRIMARY KEY, v public.citext);
             INSERT INTO s.t (v) VALUES ('a'), ('b'); GRANT SELECT, INSERT ON s.t TO app; GRANT USAGE ON SCHEMA s TO app;
             ALTER TABLE s.t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON s.t TO app USING (id = 1);
             CREATE FUNCTION s.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER tr BEFORE INSERT ON s.t FOR EACH ROW EXECUTE FUNCTION s.f();
             RESET ROLE; CREATE TABLE public.by_superuser (id int PRIMARY KEY); INSERT INTO public.by_superuser VALUES (7)",
        )
        .await
        .unwrap();
    let ready = pair.run().await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(ready.rows, 3);
    pair.assert_same("SELECT * FROM s.t").await;
    pair.assert_same("SELECT rolname, rolpassword FROM pg_authid WHERE rolname IN ('app', 'owner')").await;
    let owners = "SELECT string_agg(relname || ' ' || relowner::regrole, ', ' ORDER BY relname) FROM pg_class WHERE relname IN ('t', 'by_superuser')";
    assert_eq!(pair.cloud.value("shop", owners).await.unwrap(), "by_superuser admin, t owner");
    let trigger = "SELECT tgenabled FROM pg_trigger WHERE tgname = 'tr'";
    assert_eq!(pair.cloud.value("shop", trigger).await.unwrap(), "D");
    let all = ready.warnings.join("\n");
    for said in
        ["role \"owner\" has BYPASSRLS on the source and not on the target", "session_replication_role"]
    {
        assert!(all.contains(said), "{said} is not in\n{all}");
    }
    // The door is shut for the application and open for us.
    let url = pair.cloud.url("app", "shop").replace("app@", "app:app@");
    let refused = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.map(|_| ()).unwrap_err();
    assert!(
        cloud_mirror::backend::control::describe(&refused).contains("permission denied for database"),
        "{refused:?}"
    );
    eventually(Duration::from_secs(60), async || {
        let sessions = pair
            .cloud
            .value("postgres", "SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop'")
            .await?;
        that(sessions, |n| n == "0")
    })
    .await;
}
