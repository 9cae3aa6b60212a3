//! The fence on real servers: nobody writes after it, whatever way they were on.

use cloud_mirror::backend::{Login, Party, Proof};
use cloud_mirror::base::{DatabaseName, Epoch, Retry, RoleName, Secret, Site};
use cloud_mirror::catalog;
use cloud_mirror::failover::effects::control_role::{self, Found};
use cloud_mirror::failover::effects::{self, Error, Fenced};
use cloud_mirror::lab::{Cluster, SocketAuth, eventually, that};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::{Client, NoTls};

const SOON: Duration = Duration::from_secs(60);

/// A server with the database `shop`, an ordinary role, a second superuser, and our control role.
struct Site1 {
    server: Cluster,
    control: Party,
    _state: tempfile::TempDir,
}

async fn site() -> Site1 {
    let server = Cluster::builder()
        .setting("max_connections", 250)
        .socket_auth(SocketAuth::Trust)
        .start()
        .await
        .unwrap();
    server.create_role("app", "app", "").await.unwrap();
    server.create_role("dba", "dba", "SUPERUSER").await.unwrap();
    server.create_database("shop").await.unwrap();
    server.sql("shop", "CREATE TABLE t (n int); GRANT ALL ON t TO app").await.unwrap();
    let given = server.party(Site::Local, "shop");
    let state = tempfile::tempdir().unwrap();
    let role = control_role::ensure(&given, state.path(), SOON).await.unwrap();
    assert_eq!(role.found, Found::Created);
    let control = Party { login: role.login, ..given };
    Site1 { server, control, _state: state }
}

impl Site1 {
    async fn us(&self) -> Client {
        self.control.control("cloud-mirror test", SOON).await.unwrap()
    }

    async fn fence(&self, epoch: u64) -> Result<Fenced, Error> {
        effects::fence(&self.control, Epoch(epoch), SOON).await
    }

    async fn app(&self) -> Result<Client, tokio_postgres::Error> {
        connect(&self.server.url("app", "shop")).await
    }

    async fn rows(&self) -> i64 {
        self.us().await.query_one("SELECT count(*) FROM public.t", &[]).await.unwrap().get(0)
    }
}

/// A client as an application makes it.
async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(client)
}

/// Connects and writes a row.
async fn write_once(to: tokio_postgres::Config) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = to.connect(NoTls).await?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client.batch_execute("INSERT INTO t VALUES (1)").await
}

fn code(error: &tokio_postgres::Error) -> String {
    error.code().map(|code| code.code().to_owned()).unwrap_or_default()
}

#[tokio::test]
async fn a_fence_shuts_everybody_out_and_a_lift_gives_everything_back() {
    let site = site().await;
    site.server.sql("postgres", "ALTER DATABASE shop CONNECTION LIMIT 77").await.unwrap();
    let (app, dba) = (site.app().await.unwrap(), connect(&site.server.url("dba", "shop")).await.unwrap());
    dba.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();

    let fenced = site.fence(3).await.unwrap();
    assert_eq!(fenced.superusers, ["dba", "postgres"]);
    assert_eq!(fenced.terminated, 2, "{fenced:?}");
    assert!(dba.batch_execute("COMMIT").await.is_err());
    assert!(app.batch_execute("INSERT INTO t VALUES (2)").await.is_err());
    assert_eq!(code(&site.app().await.err().unwrap()), "53300");
    for superuser in ["dba", "postgres"] {
        let refused = connect(&site.server.url(superuser, "shop")).await.err().unwrap();
        assert_eq!(code(&refused), "28000", "{superuser}");
    }
    assert_eq!(site.rows().await, 0);
    let row = catalog::fence::read(&site.us().await).await.unwrap().unwrap();
    assert_eq!(
        (row.epoch, row.state, row.connection_limit),
        (Epoch(3), catalog::fence::State::Fenced, Some(77))
    );

    // Again, and in a later epoch: what was saved first stays.
    assert_eq!(site.fence(3).await.unwrap().superusers, ["dba", "postgres"]);
    assert_eq!(site.fence(4).await.unwrap().terminated, 0);
    match site.fence(3).await {
        Err(error @ Error::StaleEpoch { ours: Epoch(3), theirs: Epoch(4) }) => {
            assert_eq!(error.retry(), Retry::Never);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(effects::lift(&site.control, Epoch(3), SOON).await, Err(Error::StaleEpoch { .. })));

    let lifted = effects::lift(&site.control, Epoch(5), SOON).await.unwrap();
    assert_eq!((lifted.connection_limit, lifted.superusers.len()), (Some(77), 2));
    assert_eq!(effects::lift(&site.control, Epoch(5), SOON).await.unwrap().connection_limit, None);
    site.app().await.unwrap().batch_execute("INSERT INTO t VALUES (3)").await.unwrap();
    connect(&site.server.url("dba", "shop")).await.unwrap();
    let limit = site.server.value("postgres", "SELECT datconnlimit FROM pg_database WHERE datname = 'shop'");
    assert_eq!(limit.await.unwrap(), "77");
}

#[tokio::test]
async fn a_client_that_was_still_starting_never_writes() {
    let site = site().await;
    // Starts, passes the limit, and sleeps before it shows up in pg_stat_activity.
    let mut url: tokio_postgres::Config = site.server.url("app", "shop").parse().unwrap();
    url.options("-c post_auth_delay=10");
    let late = tokio::spawn(write_once(url));
    let us = site.us().await;
    eventually(SOON, async || {
        let held = us
            .query_one(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'object' \
                 AND objid = (SELECT oid FROM pg_database WHERE datname = 'shop')",
                &[],
            )
            .await?;
        that(held.get::<_, i64>(0), |n| *n == 1)
    })
    .await;

    let fenced = site.fence(1).await.unwrap();
    assert_eq!(fenced.terminated + fenced.turned_away, 1, "{fenced:?}");
    let error = late.await.unwrap().expect_err("it never gets in");
    println!("fenced in {:?}; the late client saw: {error:?}", fenced.took);
    assert_eq!(site.rows().await, 0);
}

#[tokio::test]
async fn a_superuser_that_was_still_starting_never_writes() {
    let site = site().await;
    let mut url: tokio_postgres::Config = site.server.url("dba", "shop").parse().unwrap();
    url.options("-c post_auth_delay=10");
    let late = tokio::spawn(write_once(url));
    let us = site.us().await;
    eventually(SOON, async || {
        let starting = us
            .query_one(
                "SELECT count(*) FROM pg_locks l WHERE locktype = 'virtualxid' \
                 AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = l.pid)",
                &[],
            )
            .await?;
        that(starting.get::<_, i64>(0), |n| *n == 1)
    })
    .await;
    let fenced = site.fence(1).await.unwrap();
    assert_eq!(fenced.terminated + fenced.turned_away, 1, "{fenced:?}");
    late.await.unwrap().expect_err("it never writes");
    assert_eq!(site.rows().await, 0);
}

#[tokio::test]
async fn a_client_that_stands_in_the_log_in_does_not_hold_up_the_fence() {
    let site = site().await;
    // Asked for its password, and silent from then on.
    let mut silent = tokio::net::TcpStream::connect(("127.0.0.1", site.server.port())).await.unwrap();
    let body = b"\0\x03\0\0user\0dba\0database\0shop\0\0";
    let mut startup = (body.len() as u32 + 4).to_be_bytes().to_vec();
    startup.extend(body);
    silent.write_all(&startup).await.unwrap();
    assert_eq!(silent.read_u8().await.unwrap(), b'R');
    let fenced = site.fence(1).await.unwrap();
    println!("a silent log-in: fenced in {:?}", fenced.took);
    // The server itself gives a log-in a minute.
    assert!(fenced.took < Duration::from_secs(30), "{:?}", fenced.took);
    assert_eq!(fenced.terminated + fenced.turned_away, 1);
}

#[tokio::test]
async fn busy_sessions_and_open_transactions_are_ended_quickly() {
    let site = site().await;
    for count in [10, 50, 150] {
        let mut busy = Vec::new();
        for n in 0..count {
            let client = site.app().await.unwrap();
            busy.push(tokio::spawn(async move {
                match n % 3 {
                    0 => client.batch_execute("SELECT pg_sleep(60)").await,
                    1 => {
                        client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await?;
                        client.batch_execute("SELECT pg_sleep(60)").await
                    }
                    _ => loop {
                        client.batch_execute("INSERT INTO t VALUES (2)").await?;
                    },
                }
            }));
        }
        let us = site.us().await;
        eventually(SOON, async || {
            let ask = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND query <> ''";
            that(us.query_one(ask, &[]).await?.get::<_, i64>(0), |n| *n == count)
        })
        .await;
        let fenced = site.fence(1).await.unwrap();
        println!("{count} sessions: fenced in {:?}", fenced.took);
        assert_eq!(fenced.terminated, count as usize);
        let rows = site.rows().await;
        for client in busy {
            client.await.unwrap().expect_err("every session is ended");
        }
        assert_eq!(site.rows().await, rows, "nothing is written after the fence");
        effects::lift(&site.control, Epoch(1), SOON).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_new_connections_does_not_get_through() {
    let site = Arc::new(site().await);
    let (storm, fenced_now) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let mut clients = Vec::new();
    for n in 0..12 {
        let (site, storm, fenced_now) = (site.clone(), storm.clone(), fenced_now.clone());
        // Over the socket without a password: the cost of the clients' SCRAM would be ours too.
        let user = if n % 4 == 0 { "dba" } else { "app" };
        let socket = site.server.socket_dir().display();
        let url = format!("host={socket} port={} user={user} dbname=shop", site.server.port());
        clients.push(tokio::spawn(async move {
            let mut late_writes = 0;
            while storm.load(Ordering::SeqCst) {
                let was_fenced = fenced_now.load(Ordering::SeqCst);
                let Ok(client) = connect(&url).await else { continue };
                if client.batch_execute("INSERT INTO t VALUES (1)").await.is_ok() && was_fenced {
                    late_writes += 1;
                }
            }
            late_writes
        }));
    }
    eventually(SOON, async || that(site.rows().await, |n| *n > 50)).await;
    let fenced = site.fence(1).await.unwrap();
    fenced_now.store(true, Ordering::SeqCst);
    let rows = site.rows().await;
    println!("a storm: fenced in {:?}, {} ended", fenced.took, fenced.terminated);
    // Give the storm the time of many connections.
    let us = site.us().await;
    us.batch_execute("SELECT pg_sleep(1)").await.unwrap();
    storm.store(false, Ordering::SeqCst);
    for client in clients {
        assert_eq!(client.await.unwrap(), 0);
    }
    assert_eq!(site.rows().await, rows);
}

#[tokio::test]
async fn what_a_fence_cannot_stop_is_named() {
    let site = site().await;
    site.server.configure("max_prepared_transactions", 5).unwrap();
    site.server.restart(cloud_mirror::lab::StopMode::Fast).await.unwrap();
    site.server.create_role("streamer", "x", "REPLICATION").await.unwrap();
    site.server
        .sql(
            "shop",
            "CREATE SUBSCRIPTION from_elsewhere CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p \
             WITH (connect = false); ALTER SUBSCRIPTION from_elsewhere ENABLE",
        )
        .await
        .unwrap();
    let app = site.app().await.unwrap();
    app.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    app.batch_execute("PREPARE TRANSACTION 'order 7'").await.unwrap();
    let fenced = site.fence(1).await.unwrap();
    assert_eq!(fenced.prepared, ["order 7"]);
    assert_eq!(fenced.replication_roles, ["streamer"]);
    assert!(fenced.workers.iter().any(|worker| worker == "subscription from_elsewhere"), "{fenced:?}");
}

#[tokio::test]
async fn a_locked_role_is_waited_for_by_ending_who_holds_it() {
    let site = site().await;
    let dba = connect(&site.server.url("dba", "shop")).await.unwrap();
    dba.batch_execute("BEGIN; ALTER ROLE dba VALID UNTIL 'infinity'").await.unwrap();
    let fenced = site.fence(1).await.unwrap();
    assert_eq!(fenced.superusers, ["dba", "postgres"]);
    println!("a locked role: fenced in {:?}", fenced.took);
}

#[tokio::test]
async fn an_owner_that_is_no_superuser_fences_by_the_door() {
    let server = Cluster::builder().start().await.unwrap();
    server.create_role("owner", "owner", "CREATEROLE CREATEDB").await.unwrap();
    server.create_role("app", "app", "").await.unwrap();
    server.sql("postgres", "GRANT pg_signal_backend, pg_read_all_stats TO owner").await.unwrap();
    server.sql("postgres", "CREATE DATABASE shop OWNER owner").await.unwrap();
    let login = Login { user: RoleName::new("owner").unwrap(), proof: Proof::Password(Secret::new("owner")) };
    let party = Party { login, ..server.party(Site::Cloud, "shop") };
    let app = connect(&server.url("app", "shop")).await.unwrap();
    let fenced = effects::fence(&party, Epoch(2), SOON).await.unwrap();
    assert_eq!(fenced.terminated, 1);
    assert!(app.batch_execute("SELECT 1").await.is_err());
    assert_eq!(code(&connect(&server.url("app", "shop")).await.err().unwrap()), "42501");
    effects::lift(&party, Epoch(3), SOON).await.unwrap();
    connect(&server.url("app", "shop")).await.unwrap();
}

#[tokio::test]
async fn a_restarted_proxy_gets_in_by_its_control_role() {
    let server = Cluster::builder().start().await.unwrap();
    let given = server.party(Site::Local, "postgres");
    let state = tempfile::tempdir().unwrap();
    let ensure = async || control_role::ensure(&given, state.path(), SOON).await;
    assert_eq!(ensure().await.unwrap().found, Found::Created);
    let ready = ensure().await.unwrap();
    assert_eq!(ready.found, Found::Ready);
    let us = Party { login: ready.login, ..given.clone() };
    let file = control_role::password_file(&given, state.path());
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    // Another password, no LOGIN, no file: the given login puts each right.
    server.sql("postgres", "ALTER ROLE cloud_mirror_control PASSWORD 'other'").await.unwrap();
    assert_eq!(ensure().await.unwrap().found, Found::Repaired);
    server.sql("postgres", "ALTER ROLE cloud_mirror_control NOLOGIN").await.unwrap();
    assert_eq!(ensure().await.unwrap().found, Found::Repaired);
    server.sql("postgres", "ALTER ROLE cloud_mirror_control NOSUPERUSER").await.unwrap();
    assert_eq!(ensure().await.unwrap().found, Found::Repaired);
    us.control("cloud-mirror test", SOON).await.expect("the password stayed");
    let saved = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(ensure().await.unwrap().found, Found::Repaired);
    assert_ne!(std::fs::read(&file).unwrap(), saved);

    // Fenced: the given login is out, ours is in; and with neither there is an error that helps.
    let us = Party { login: ensure().await.unwrap().login, ..given.clone() };
    effects::fence(&us, Epoch(1), SOON).await.unwrap();
    assert!(given.control("cloud-mirror test", SOON).await.is_err());
    assert_eq!(ensure().await.unwrap().found, Found::Ready);
    std::fs::write(&file, &saved).unwrap();
    let error = ensure().await.unwrap_err();
    assert_eq!(error.retry(), Retry::Never);
    assert!(error.to_string().contains("docs/fence.md"), "{error}");
    std::fs::remove_file(&file).unwrap();
    assert!(ensure().await.unwrap_err().to_string().contains("there is no password"));
}

#[tokio::test]
async fn a_login_that_cannot_be_replaced_is_kept() {
    let server = Cluster::builder().socket_auth(SocketAuth::Trust).start().await.unwrap();
    let state = tempfile::tempdir().unwrap();
    server.create_role("owner", "owner", "CREATEROLE").await.unwrap();
    let login = Login { user: RoleName::new("owner").unwrap(), proof: Proof::Password(Secret::new("owner")) };
    let owner = Party { login, ..server.party(Site::Cloud, "postgres") };
    let kept = control_role::ensure(&owner, state.path(), SOON).await.unwrap();
    assert!(matches!(kept.found, Found::Kept(why) if why.contains("not a superuser")));

    server.add_hba("host all cloud_mirror_control 127.0.0.1/32 reject").unwrap();
    server.reload().unwrap();
    let given =
        Party { database: DatabaseName::new("postgres").unwrap(), ..server.party(Site::Local, "postgres") };
    let kept = eventually(SOON, async || {
        let role = control_role::ensure(&given, state.path(), SOON).await?;
        that(role, |role| matches!(role.found, Found::Kept(_)))
    })
    .await;
    assert!(matches!(kept.found, Found::Kept(why) if why.contains("pg_hba.conf")));
    let left = "SELECT count(*) FROM pg_roles WHERE rolname = 'cloud_mirror_control'";
    assert_eq!(server.value("postgres", left).await.unwrap(), "0", "no superuser is left behind");
    assert!(!control_role::password_file(&given, state.path()).exists());
}
