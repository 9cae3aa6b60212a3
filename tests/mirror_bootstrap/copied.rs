//! What is copied, and that it is the same.

use crate::pair::{EPOCH, Pair};
use cloud_mirror::lab::Cluster;
use cloud_mirror::observe::events::Events;
use cloud_mirror::replicate::bootstrap::{self, Progress, Stage};
use tokio::sync::watch;

#[tokio::test(flavor = "multi_thread")]
async fn a_simple_database_is_copied_and_the_slot_stands_where_the_copy_ends() {
    let pair = Pair::start().await;
    pair.local
        .sql(
            "shop",
            "CREATE TABLE item (id bigserial PRIMARY KEY, name text NOT NULL, price numeric(10,2));
             INSERT INTO item (name, price) SELECT 'item ' || n, n / 7.0 FROM generate_series(1, 5000) n;
             CREATE TABLE log (at timestamptz DEFAULT now(), what text);
             INSERT INTO log (what) VALUES ('a'), (NULL);",
        )
        .await
        .unwrap();
    let (progress, mut seen) = watch::channel(Progress::default());
    let ready = bootstrap::run(&pair.spec, EPOCH, progress, &Events::default()).await.unwrap();
    assert_eq!(ready.rows, 5002);
    pair.assert_same("SELECT * FROM item").await;
    pair.assert_same("SELECT * FROM log").await;
    let last = seen.borrow_and_update().clone();
    assert_eq!((last.stage, last.bytes_done), (Stage::Finishing, last.bytes_total));
    assert!(last.bytes_total > 0);
    let row =
        pair.cloud.query("shop", "SELECT phase, epoch, lsn, slot FROM cloud_mirror.progress").await.unwrap();
    let expected = ["streaming", "1", &ready.start.to_string(), "cloud_mirror_cloud"];
    assert_eq!(row[0].iter().flatten().collect::<Vec<_>>(), expected);
    let slot = "SELECT plugin || ' ' || confirmed_flush_lsn || ' ' || active FROM pg_replication_slots";
    let slot = pair.local.value("shop", slot).await.unwrap();
    assert_eq!(slot, format!("pgoutput {} false", ready.start));
    let published =
        "SELECT string_agg(pubname || ' ' || tablename, ', ' ORDER BY pubname) FROM pg_publication_tables";
    let published = pair.local.value("shop", published).await.unwrap();
    assert_eq!(published, "cloud_mirror_cloud item, cloud_mirror_cloud_inserts log");
    assert_eq!(pair.cloud.value("shop", "SELECT last_value FROM item_id_seq").await.unwrap(), "5000");
    assert!(ready.warnings.iter().any(|w| w.contains("\"log\"")), "{:?}", ready.warnings);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zoo_of_objects_is_the_same_on_both_sides() {
    let pair = Pair::start_with(Cluster::builder().setting("max_prepared_transactions", 5)).await;
    load_zoo(&pair.local).await;
    let ready = pair.run().await.unwrap();

    // The mirror's triggers sleep, so nothing has been logged there twice.
    let awake = "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgenabled IN ('A', 'R')";
    assert_eq!(pair.cloud.value("shop", awake).await.unwrap(), "0");
    assert_eq!(Pair::contents(&pair.local).await, Pair::contents(&pair.cloud).await);
    let mut cloud = pair.cloud.client("shop").await.unwrap();
    cloud_mirror::catalog::triggers::restore(&mut cloud).await.unwrap();
    pair.local.sql("shop", "DROP EVENT TRIGGER zoo_ddl").await.unwrap();
    similar(&Pair::schema(&pair.local).await, &Pair::schema(&pair.cloud).await);

    let sequences =
        "SELECT schemaname, sequencename, last_value FROM pg_sequences WHERE schemaname <> 'cloud_mirror'";
    pair.assert_same(sequences).await;
    pair.assert_same("SELECT last_value, is_called FROM public.reset_one").await;
    pair.assert_same("SELECT last_value, is_called FROM public.unused").await;
    let roles = "SELECT rolname, rolpassword, rolcanlogin, rolconnlimit, rolvaliduntil, rolinherit FROM pg_authid WHERE rolname ~* '^zoo'
                    AND rolname <> 'zoo_stranger'";
    pair.assert_same(roles).await;
    let settings = "SELECT r.rolname, d.datname, unnest(s.setconfig) FROM pg_db_role_setting s
        LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase";
    pair.assert_same(settings).await;
    let members = "SELECT roleid::regrole, member::regrole, admin_option FROM pg_auth_members WHERE member::regrole::text ~* 'zoo'";
    pair.assert_same(members).await;
    let strangers = "SELECT count(*) FROM pg_roles WHERE rolname = 'zoo_stranger'";
    assert_eq!(pair.cloud.value("shop", strangers).await.unwrap(), "0");

    let database = "SELECT grantee::regrole, privilege_type, is_grantable, shobj_description(d.oid, 'pg_database')
        FROM pg_database d, aclexplode(datacl) WHERE datname = 'shop' AND privilege_type <> 'CONNECT' AND grantee <> 10";
    pair.assert_same(database).await;

    // Nobody comes in before the promotion; then those who may connect to the source do.
    let may = "SELECT string_agg(grantee::regrole::text, ',' ORDER BY 1) FROM pg_database, aclexplode(datacl)
               WHERE datname = 'shop' AND privilege_type = 'CONNECT'";
    assert_eq!(pair.cloud.value("shop", may).await.unwrap(), "postgres");
    cloud_mirror::catalog::door::open(&mut cloud).await.unwrap();
    assert_eq!(pair.cloud.value("shop", may).await.unwrap(), pair.local.value("shop", may).await.unwrap());

    let all = ready.warnings.join("\n");
    for said in [
        "unlogged table",
        "materialised views",
        "large object",
        "event trigger",
        "foreign table",
        "no_key",
        "schema (CREATE",
    ] {
        assert!(all.contains(said), "{said} is not in\n{all}");
    }
}

pub async fn load_zoo(local: &Cluster) {
    local.sql("shop", include_str!("zoo.sql")).await.unwrap();
}

/// Names the lines that differ instead of printing two whole schemas.
pub fn similar(local: &str, cloud: &str) {
    let only = |a: &str, b: &str| -> Vec<String> {
        let there: std::collections::HashSet<&str> = b.lines().collect();
        a.lines().filter(|line| !there.contains(line)).map(str::to_owned).collect()
    };
    let (gone, new) = (only(local, cloud), only(cloud, local));
    assert!(gone.is_empty() && new.is_empty(), "only on the source: {gone:#?}\nonly on the mirror: {new:#?}");
    assert_eq!(local, cloud);
}
