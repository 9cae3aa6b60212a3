//! The plain way home, whole and interrupted at any moment.

use async_trait::async_trait;
use cloud_mirror::backend::{Login, Party, Proof};
use cloud_mirror::base::{Epoch, MirrorName, RoleName, Secret, Site};
use cloud_mirror::catalog;
use cloud_mirror::failover::effects::failback::{BoxError, Step, pending};
use cloud_mirror::failover::effects::{
    self, Copier, Failback, Home, Ownership, Pair, control_role, failback_discard_local,
};
use cloud_mirror::lab::{Cluster, eventually, that};
use cloud_mirror::observe::events::Events;
use cloud_mirror::replicate::{MirrorSpec, bootstrap};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::watch;
use tokio_postgres::{Client, NoTls};

const SOON: Duration = Duration::from_secs(60);

/// Copies by `pg_dump | psql`; stands in for the first copy of a mirror.
struct Dump {
    bindir: PathBuf,
    /// Whether the first attempt is in the middle of it until it is cut off.
    hangs: AtomicBool,
}

#[async_trait]
impl Copier for Dump {
    async fn check(&self, _source: &Party) -> Result<(), BoxError> {
        Ok(())
    }

    async fn copy(&self, source: &Party, target: &Party) -> Result<(), BoxError> {
        let url = |party: &Party| {
            let password = match &party.login.proof {
                Proof::Password(password) => password.expose().to_owned(),
                _ => String::new(),
            };
            format!(
                "host=127.0.0.1 port={} user={} password={password} dbname={}",
                party.endpoint.address.to_string().rsplit(':').next().unwrap(),
                party.login.user,
                party.database
            )
        };
        let dump = Command::new(self.bindir.join("pg_dump"))
            .args(["--exclude-schema=cloud_mirror", "--no-publications", "--inserts", "-d", &url(source)])
            .kill_on_drop(true)
            .output()
            .await?;
        if !dump.status.success() {
            return Err(String::from_utf8_lossy(&dump.stderr).into());
        }
        let target = target.control("cloud-mirror copy", SOON).await?;
        // Recent versions frame a dump in commands for psql (\restrict).
        let dump = String::from_utf8(dump.stdout)?;
        let sql: Vec<&str> = dump.lines().filter(|line| !line.starts_with('\\')).collect();
        if self.hangs.swap(false, Ordering::Relaxed) {
            target.batch_execute(&sql[..sql.len() / 2].join("\n")).await.ok();
            std::future::pending::<()>().await;
        }
        let restored = target.batch_execute(&sql.join("\n")).await;
        restored.map_err(|error| cloud_mirror::backend::control::describe(&error).into())
    }
}

/// The first copy of a mirror, in the reverse direction.
struct FirstCopy(Events);

#[async_trait]
impl Copier for FirstCopy {
    async fn check(&self, source: &Party) -> Result<(), BoxError> {
        let client = source.control("cloud-mirror test", SOON).await?;
        let ask = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user";
        let is_superuser: bool = client.query_one(ask, &[]).await?.get(0);
        if is_superuser { Ok(()) } else { Err("the first copy reads as a superuser only".into()) }
    }

    async fn copy(&self, source: &Party, target: &Party) -> Result<(), BoxError> {
        let spec = MirrorSpec {
            name: MirrorName::new("home")?,
            source: source.clone(),
            target: target.clone(),
            replace_role_passwords: true,
            full_identity: cloud_mirror::config::FullIdentity::None,
        };
        let (progress, _) = watch::channel(Default::default());
        let copied = bootstrap::run(&spec, Epoch(2), progress, &self.0).await;
        // Takes slot and publications away, and what an interrupted copy left on the target.
        bootstrap::drop_mirror(&spec).await?;
        copied?;
        Ok(())
    }
}

/// A lease in memory.
struct Lease(Mutex<(Site, Epoch)>);

#[async_trait]
impl Ownership for Lease {
    async fn take_home(&self, after: Epoch) -> Result<Epoch, BoxError> {
        let mut lease = self.0.lock().unwrap();
        if lease.0 == Site::Cloud {
            assert_eq!(lease.1, after);
            *lease = (Site::Local, after.next());
        }
        Ok(lease.1)
    }
}

/// After a failover in epoch 2: the old local database is fenced and has a row the cloud lacks.
struct Sites {
    local: Cluster,
    cloud: Cluster,
    pairs: Vec<Pair>,
    state: tempfile::TempDir,
    copier: Box<dyn Copier>,
    lease: Lease,
    events: Events,
}

async fn sites() -> Sites {
    let (local, cloud) = tokio::join!(Cluster::builder().start(), Cluster::builder().start());
    let (local, cloud) = (local.unwrap(), cloud.unwrap());
    let state = tempfile::tempdir().unwrap();
    let mut parties = Vec::new();
    for (server, site) in [(&local, Site::Local), (&cloud, Site::Cloud)] {
        server.create_role("app", "app", "").await.unwrap();
        server.create_role("dba", "dba", "SUPERUSER").await.unwrap();
        server.sql("postgres", "CREATE DATABASE shop OWNER app CONNECTION LIMIT 42").await.unwrap();
        for sql in [
            "ALTER DATABASE shop SET search_path TO \"$user\", public",
            "ALTER DATABASE shop SET my.motto TO 'it''s ours'",
            "ALTER ROLE app IN DATABASE shop SET work_mem TO '7MB'",
            "REVOKE CONNECT ON DATABASE shop FROM PUBLIC",
            "GRANT CONNECT ON DATABASE shop TO dba WITH GRANT OPTION",
            "COMMENT ON DATABASE shop IS 'the shop'",
        ] {
            server.sql("postgres", sql).await.unwrap();
        }
        let tables = "CREATE TABLE orders (id serial PRIMARY KEY, note text); \
                      ALTER TABLE orders OWNER TO app; INSERT INTO orders (note) VALUES ('both')";
        server.sql("shop", tables).await.unwrap();
        let given = server.party(site, "shop");
        let login = control_role::ensure(&given, state.path(), SOON).await.unwrap().login;
        parties.push(Party { login, ..given });
    }
    let pairs = vec![Pair { cloud: parties.pop().unwrap(), local: parties.pop().unwrap() }];
    local.sql("shop", "INSERT INTO orders (note) VALUES ('lost tail')").await.unwrap();
    local
        .sql("shop", "SELECT pg_create_logical_replication_slot('cloud_mirror_cloud', 'pgoutput')")
        .await
        .unwrap();
    effects::fence(&pairs[0].local, Epoch(2), SOON).await.unwrap();
    let us = pairs[0].cloud.control("cloud-mirror test", SOON).await.unwrap();
    catalog::schema::ensure(&us).await.unwrap();
    catalog::fence::open(&us, Epoch(2)).await.unwrap();
    let written = "INSERT INTO public.orders (note) SELECT 'cloud ' || n FROM generate_series(1, 500) n; \
                   SELECT setval('public.orders_id_seq', 9000)";
    us.batch_execute(written).await.unwrap();
    let copier = Box::new(Dump { bindir: local.bindir().to_owned(), hangs: AtomicBool::new(false) });
    let lease = Lease(Mutex::new((Site::Cloud, Epoch(2))));
    Sites { local, cloud, pairs, state, copier, lease, events: Events::default() }
}

impl Sites {
    async fn go(&self) -> Result<Home, effects::Error> {
        let way = Failback {
            pairs: &self.pairs,
            epoch: Epoch(2),
            state_dir: self.state.path(),
            copier: &*self.copier,
            ownership: &self.lease,
            events: &self.events,
            patience: SOON,
        };
        failback_discard_local(&way).await
    }

    async fn assert_home(&self, home: &Home) {
        assert_eq!(home.epoch, Epoch(3));
        assert_eq!(pending(self.state.path()).unwrap(), None);
        let app = connect(&self.local.url("app", "shop")).await;
        let counted = "SELECT count(*), count(*) FILTER (WHERE note = 'lost tail') FROM orders";
        let row = app.query_one(counted, &[]).await.unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (501, 0));
        let row = app.query_one("INSERT INTO orders (note) VALUES ('home') RETURNING id", &[]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), 9001);
        connect(&self.local.url("dba", "shop")).await;

        // The new databases look like the old ones.
        let shape = "SELECT format('%s %s %s %s %s', datconnlimit, datdba::regrole, \
               (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(datacl) a), \
               shobj_description(oid, 'pg_database'), \
               (SELECT string_agg(setrole::regrole || setconfig::text, ',' ORDER BY setrole::regrole::text) \
                FROM pg_db_role_setting WHERE setdatabase = d.oid)) \
             FROM pg_database d WHERE datname = 'shop'";
        let local = self.local.value("postgres", shape).await.unwrap();
        assert_eq!(
            local,
            "42 app =T/app,app=CTc/app,dba=c*/app the shop \
             -{\"my.motto=it's ours\",\"search_path=\\\"$user\\\", public\"},app{work_mem=7MB}"
        );
        assert_eq!(self.cloud.value("postgres", shape).await.unwrap(), local);

        // Nothing is lost: the old ones are kept, shut, without our slots.
        let kept = &home.databases[0];
        let tail = "SELECT count(*) FROM orders WHERE note = 'lost tail'";
        assert_eq!(self.local.value(kept.local_aside.as_str(), tail).await.unwrap(), "1");
        let rows = "SELECT count(*) FROM orders";
        assert_eq!(self.cloud.value(kept.cloud_aside.as_str(), rows).await.unwrap(), "501");
        let limits =
            "SELECT count(*) FROM pg_database WHERE datname LIKE '%before_failback%' AND datconnlimit = 0";
        for server in [&self.local, &self.cloud] {
            assert_eq!(server.value("postgres", limits).await.unwrap(), "1");
            let slots = server.value("postgres", "SELECT count(*) FROM pg_replication_slots").await;
            assert_eq!(slots.unwrap(), "0");
        }
        let empty = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
        assert_eq!(self.cloud.value("shop", empty).await.unwrap(), "0");
    }
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client
}

#[tokio::test]
async fn the_clouds_data_comes_home_and_the_old_data_is_kept() {
    let mut sites = sites().await;
    sites.copier = Box::new(FirstCopy(sites.events.clone()));
    let app_in_the_cloud = connect(&sites.cloud.url("app", "shop")).await;
    let home = sites.go().await.unwrap();
    assert!(app_in_the_cloud.batch_execute("INSERT INTO orders DEFAULT VALUES").await.is_err());
    assert!(sites.events.list().iter().any(|event| event.name == "failback.application_was_running"));
    sites.assert_home(&home).await;
}

#[tokio::test]
async fn a_way_home_that_is_cut_off_anywhere_goes_on() {
    let mut sites = sites().await;
    sites.copier = Box::new(Dump { bindir: sites.local.bindir().to_owned(), hangs: AtomicBool::new(true) });
    let mut steps = Vec::new();
    let mut cuts = 0;
    let home = loop {
        // Dropped in the middle, as by kill -9: longer and longer, so that it gets through.
        let patience = Duration::from_millis(20 + 20 * cuts);
        match tokio::time::timeout(patience, sites.go()).await {
            Ok(Ok(home)) => break home,
            // What was cut off may still be running on a server.
            Ok(Err(error)) => assert_ne!(error.retry(), cloud_mirror::base::Retry::Never, "{error}"),
            Err(_) => {}
        }
        cuts += 1;
        assert!(cuts < 600, "it gets through in the end");
        steps.extend(pending(sites.state.path()).unwrap().map(|journal| journal.step));
    };
    assert!(steps.is_sorted(), "{steps:?}");
    println!("cut off {cuts} times, in {steps:?}");
    assert!(steps.contains(&Step::Copy));
    sites.assert_home(&home).await;
}

#[tokio::test]
async fn a_login_that_may_not_make_databases_is_told_before_anything_changes() {
    let mut sites = sites().await;
    sites.cloud.create_role("poor", "poor", "").await.unwrap();
    let poor = Login { user: RoleName::new("poor").unwrap(), proof: Proof::Password(Secret::new("poor")) };
    sites.pairs[0].cloud.login = poor;
    let refused = sites.go().await.unwrap_err();
    assert!(refused.to_string().contains("CREATEDB"), "{refused}");
    assert_eq!(pending(sites.state.path()).unwrap(), None);
    eventually(SOON, async || {
        that(sites.cloud.value("shop", "SELECT count(*) FROM orders").await?, |n| n == "501")
    })
    .await;
}

#[tokio::test]
async fn home_comes_from_a_cloud_where_we_are_no_superuser_too() {
    let mut sites = sites().await;
    sites.cloud.create_role("owner", "owner", "CREATEROLE CREATEDB REPLICATION").await.unwrap();
    for sql in [
        "GRANT app, pg_signal_backend, pg_read_all_stats TO owner",
        "ALTER DATABASE shop OWNER TO owner",
        "GRANT CONNECT ON DATABASE shop TO app",
        "ALTER SCHEMA cloud_mirror OWNER TO owner",
    ] {
        sites.cloud.sql("shop", sql).await.unwrap();
    }
    for table in ["fence", "progress", "sequences", "door", "triggers"] {
        let sql = format!("ALTER TABLE cloud_mirror.{table} OWNER TO owner");
        sites.cloud.sql("shop", &sql).await.unwrap();
    }
    let proof = Proof::Password(Secret::new("owner"));
    sites.pairs[0].cloud.login = Login { user: RoleName::new("owner").unwrap(), proof };

    let by_dump = std::mem::replace(&mut sites.copier, Box::new(FirstCopy(sites.events.clone())));
    let refused = sites.go().await.unwrap_err();
    assert!(refused.to_string().contains("as a superuser only"), "{refused}");
    assert_eq!(pending(sites.state.path()).unwrap(), None, "nothing has begun");

    sites.copier = by_dump;
    let home = sites.go().await.unwrap();
    let app = connect(&sites.local.url("app", "shop")).await;
    assert_eq!(app.query_one("SELECT count(*) FROM orders", &[]).await.unwrap().get::<_, i64>(0), 501);
    // The new database in the cloud lets in whom the old one did; the old one stays shut.
    connect(&sites.cloud.url("app", "shop")).await;
    let aside = sites.cloud.url("app", home.databases[0].cloud_aside.as_str());
    assert!(tokio_postgres::connect(&aside, NoTls).await.is_err());
}
