//! Two servers and a mirror between them, for the tests of the stream.
#![allow(dead_code)]

use cloud_mirror::base::{Epoch, MirrorName, Site};
use cloud_mirror::lab::{Cluster, ClusterBuilder, Instead, eventually};
use cloud_mirror::observe::events::{Events, Level};
use cloud_mirror::observe::status::{MirrorState, MirrorStatus};
use cloud_mirror::replicate::{Mirror, MirrorSpec};
use std::process::Stdio;
use std::time::Duration;

pub const EPOCH: Epoch = Epoch(1);
/// For a small step on a loaded machine.
pub const SOON: Duration = Duration::from_secs(180);

pub struct Pair {
    pub local: Cluster,
    pub cloud: Cluster,
    pub spec: MirrorSpec,
    pub events: Events,
}

impl Pair {
    pub async fn start() -> Pair {
        Pair::with(Cluster::builder()).await
    }

    pub async fn with(local: ClusterBuilder) -> Pair {
        let local = local.setting("max_prepared_transactions", 5);
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
            full_identity: cloud_mirror::config::FullIdentity::None,
        };
        Pair { local, cloud, spec, events: Events::default() }
    }

    pub fn mirror(&self) -> Mirror {
        Mirror::start(self.spec.clone(), EPOCH, self.events.clone())
    }

    pub async fn sql(&self, text: &str) {
        if let Err(error) = self.local.sql("shop", text).await {
            panic!("{error}: {}", text.chars().take(300).collect::<String>());
        }
    }

    pub async fn cloud_value(&self, text: &str) -> String {
        self.cloud.value("shop", text).await.unwrap()
    }

    /// Waits until the mirror has applied everything that is committed on the source now.
    pub async fn caught_up(&self) {
        let at = self.local.value("shop", "SELECT pg_current_wal_flush_lsn()").await.unwrap();
        // A position only moves with a record behind it; this one is for the mirror alone.
        let sql = "SELECT pg_logical_emit_message(true, 'test', 'mark')";
        self.sql(sql).await;
        let fact = format!(
            "SELECT coalesce(max(confirmed_flush_lsn) > '{at}', false)::text FROM pg_replication_slots"
        );
        eventually(SOON, async || match self.local.value("shop", &fact).await {
            Ok(is_so) if is_so == "true" => Ok(()),
            seen => Err(Instead::from(format!("{seen:?}, events: {:#?}", self.events.list()))),
        })
        .await;
    }

    /// Every table of the application has the same rows on both sides.
    pub async fn assert_equal(&self) {
        self.caught_up().await;
        let list = "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables \
                    WHERE schemaname NOT IN ('pg_catalog', 'information_schema', 'cloud_mirror') ORDER BY 1";
        let tables = self.local.query("shop", list).await.unwrap();
        assert!(!tables.is_empty());
        for table in tables {
            let table = table[0].as_deref().unwrap();
            let sql = format!(
                "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) \
                 FROM ONLY {table} t"
            );
            let (local, cloud) =
                (self.local.value("shop", &sql).await.unwrap(), self.cloud_value(&sql).await);
            if local != cloud {
                panic!("{table}: {local} here, {cloud} there\n{}", self.first_differences(table).await);
            }
        }
    }

    async fn first_differences(&self, table: &str) -> String {
        let sql = format!("SELECT t::text FROM ONLY {table} t ORDER BY 1");
        let (local, cloud) =
            (self.local.query("shop", &sql).await.unwrap(), self.cloud.query("shop", &sql).await.unwrap());
        let only = |a: &[Vec<Option<String>>], b: &[Vec<Option<String>>]| {
            a.iter().filter(|row| !b.contains(row)).take(5).map(|row| format!("{row:?}")).collect::<Vec<_>>()
        };
        format!("only here: {:#?}\nonly there: {:#?}", only(&local, &cloud), only(&cloud, &local))
    }

    /// Runs pgbench on the source.
    pub async fn pgbench(&self, arguments: &[&str]) {
        let program = self.local.bindir().join("pgbench");
        let status = tokio::process::Command::new(program)
            .args(["-h", self.local.socket_dir().to_str().unwrap(), "-p", &self.local.port().to_string()])
            .args(["-U", cloud_mirror::lab::SUPERUSER])
            .args(arguments)
            .arg("shop")
            .env("PGPASSWORD", cloud_mirror::lab::PASSWORD)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await
            .unwrap();
        assert!(status.success());
    }

    pub fn assert_no_errors(&self) {
        let errors: Vec<_> = self.events.list().into_iter().filter(|e| e.level == Level::Error).collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }
}

/// Waits for a state and returns the status then.
pub async fn until(mirror: &Mirror, what: impl Fn(&MirrorStatus) -> bool) -> MirrorStatus {
    let mut status = mirror.status();
    let waited = tokio::time::timeout(SOON, status.wait_for(|s| what(s))).await;
    match waited {
        Ok(Ok(status)) => status.clone(),
        _ => panic!("still {:#?}", *mirror.status().borrow()),
    }
}

pub async fn following(mirror: &Mirror) -> MirrorStatus {
    until(mirror, |s| s.state == MirrorState::Following).await
}
