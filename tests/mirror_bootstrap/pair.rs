//! Two servers and a mirror between them.

use cloud_mirror::backend::tls::ServerTls;
use cloud_mirror::backend::{Address, Endpoint, Login, Party, Proof};
use cloud_mirror::base::{DatabaseName, Epoch, MirrorName, RoleName, Secret, Site};
use cloud_mirror::lab::{Cluster, ClusterBuilder, PASSWORD, SUPERUSER};
use cloud_mirror::observe::events::Events;
use cloud_mirror::replicate::MirrorSpec;
use cloud_mirror::replicate::bootstrap::{self, Error, Progress, Ready};
use std::collections::BTreeMap;
use tokio::sync::watch;

/// The epoch of every test that needs only one.
pub const EPOCH: Epoch = Epoch(1);

/// Two servers, a database `shop` on one and an empty `shop` on the other.
pub struct Pair {
    /// The source.
    pub local: Cluster,
    /// The target.
    pub cloud: Cluster,
    /// The mirror `cloud`, with superusers on both sides.
    pub spec: MirrorSpec,
}

impl Pair {
    /// Starts both.
    pub async fn start() -> Pair {
        Self::start_with(Cluster::builder()).await
    }

    /// Starts both, the source as described.
    pub async fn start_with(local: ClusterBuilder) -> Pair {
        let (local, cloud) = tokio::join!(local.start(), Cluster::builder().start());
        let (local, cloud) =
            (local.expect("the local server starts"), cloud.expect("the cloud server starts"));
        local.create_database("shop").await.unwrap();
        cloud.create_database("shop").await.unwrap();
        let spec = Self::spec_of(local.port(), cloud.port());
        Pair { local, cloud, spec }
    }

    /// The mirror between two servers of the lab, as any process can name it.
    pub fn spec_of(local: u16, cloud: u16) -> MirrorSpec {
        let party = |site, port| Party {
            site,
            endpoint: Endpoint {
                address: Address::Tcp { host: "127.0.0.1".to_owned(), port },
                tls: ServerTls::disabled(),
            },
            login: Login {
                user: RoleName::new(SUPERUSER).unwrap(),
                proof: Proof::Password(Secret::new(PASSWORD)),
            },
            database: DatabaseName::new("shop").unwrap(),
        };
        MirrorSpec {
            name: MirrorName::new("cloud").unwrap(),
            source: party(Site::Local, local),
            target: party(Site::Cloud, cloud),
            replace_role_passwords: false,
            full_identity: cloud_mirror::config::FullIdentity::None,
        }
    }

    /// Makes the mirror.
    pub async fn run(&self) -> Result<Ready, Error> {
        let (progress, _) = watch::channel(Progress::default());
        bootstrap::run(&self.spec, EPOCH, progress, &Events::default()).await
    }

    /// Asserts that a query has the same rows on both sides.
    pub async fn assert_same(&self, sql: &str) {
        let sql = format!(
            "SELECT count(*) || ' ' || coalesce(md5(string_agg(x::text, '|' ORDER BY x::text)), '') FROM ({sql}) x"
        );
        let local = self.local.value("shop", &sql).await.unwrap();
        assert_eq!(local, self.cloud.value("shop", &sql).await.unwrap(), "{sql}");
    }

    /// Rows and their hash, of every table.
    pub async fn contents(cluster: &Cluster) -> BTreeMap<String, String> {
        let tables = cluster
            .query(
                "shop",
                "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND c.relispopulated
                    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'cloud_mirror')",
            )
            .await
            .unwrap();
        let mut all = BTreeMap::new();
        for name in tables.into_iter().flatten().flatten() {
            let sql = format!(
                "SET extra_float_digits = 3; SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '')
                 FROM ONLY {name} t"
            );
            let hash = cluster.value("shop", &sql).await.unwrap();
            all.insert(name, hash);
        }
        all
    }

    /// What `pg_dump --schema-only` prints, without what a mirror does not carry.
    pub async fn schema(cluster: &Cluster) -> String {
        let output = tokio::process::Command::new(cluster.bindir().join("pg_dump"))
            .args(["--schema-only", "--no-publications", "--exclude-schema=cloud_mirror", "--dbname"])
            .arg(cluster.url("postgres", "shop"))
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        // Newer minor versions print a random key here.
        text.lines()
            .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"))
            .fold(String::new(), |all, line| all + line + "\n")
    }
}
