//! The first copy of a mirror, between real servers.

use cloud_mirror::base::{Epoch, MirrorName, Site};
use cloud_mirror::lab::Cluster;
use cloud_mirror::observe::events::Events;
use cloud_mirror::replicate::MirrorSpec;
use cloud_mirror::replicate::bootstrap::{self, Progress, Stage};
use tokio::sync::watch;

const EPOCH: Epoch = Epoch(1);

/// Two servers, a database `shop` on one and an empty `shop` on the other.
struct Pair {
    local: Cluster,
    cloud: Cluster,
    spec: MirrorSpec,
}

impl Pair {
    async fn start() -> Pair {
        let local = Cluster::builder().setting("max_prepared_transactions", 5);
        let (local, cloud) = tokio::join!(local.start(), Cluster::builder().start());
        let (local, cloud) =
            (local.expect("the local server starts"), cloud.expect("the cloud server starts"));
        local.create_database("shop").await.unwrap();
        cloud.create_database("shop").await.unwrap();
        let spec = MirrorSpec {
            name: MirrorName::new("cloud").unwrap(),
            source: local.party(Site::Local, "shop"),
            target: cloud.party(Site::Cloud, "shop"),
            replace_role_passwords: false,
            full_identity: false,
        };
        Pair { local, cloud, spec }
    }

    /// The hash of every row of a query on either side.
    async fn both(&self, sql: &str) -> (String, String) {
        let sql = format!(
            "SELECT count(*) || ' ' || coalesce(md5(string_agg(x::text, '|' ORDER BY x::text)), '') FROM ({sql}) x"
        );
        (self.local.value("shop", &sql).await.unwrap(), self.cloud.value("shop", &sql).await.unwrap())
    }

    async fn assert_same(&self, sql: &str) {
        let (local, cloud) = self.both(sql).await;
        assert_eq!(local, cloud, "{sql}");
    }
}

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
    let slot = pair
        .local
        .value(
            "shop",
            "SELECT plugin || ' ' || confirmed_flush_lsn || ' ' || active FROM pg_replication_slots",
        )
        .await
        .unwrap();
    assert_eq!(slot, format!("pgoutput {} false", ready.start));
    let published = pair
        .local
        .query("shop", "SELECT pubname, tablename FROM pg_publication_tables ORDER BY 1")
        .await
        .unwrap();
    let published: Vec<String> =
        published.iter().map(|r| r.iter().flatten().cloned().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(published, ["cloud_mirror_cloud item", "cloud_mirror_cloud_inserts log"]);
    assert_eq!(pair.cloud.value("shop", "SELECT last_value FROM item_id_seq").await.unwrap(), "5000");
    assert!(
        ready.warnings.iter().any(|w| w.contains("public.log") || w.contains("\"log\"")),
        "{:?}",
        ready.warnings
    );
}
