//! The old writer comes back while another one writes.

use cloud_mirror::backend::{Address, Endpoint, Party};
use cloud_mirror::base::{Epoch, Site};
use cloud_mirror::catalog;
use cloud_mirror::failover::effects::{self, Return, Returned, control_role, watch_return};
use cloud_mirror::lab::{Cluster, SocketAuth, StopMode, eventually, that};
use cloud_mirror::observe::events::Events;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

const SOON: Duration = Duration::from_secs(60);

struct Watch {
    status: watch::Receiver<Return>,
    events: Events,
    epoch: watch::Sender<Epoch>,
    task: JoinHandle<std::convert::Infallible>,
}

impl Watch {
    fn start(party: &Party, epoch: u64) -> Watch {
        let (status_in, status) = watch::channel(Return::Absent("not tried yet".to_owned()));
        let (epoch, epochs) = watch::channel(Epoch(epoch));
        let events = Events::default();
        let task = tokio::spawn(watch_return(party.clone(), epochs, events.clone(), status_in));
        Watch { status, events, epoch, task }
    }

    async fn fenced(&self) -> Returned {
        eventually(SOON, async || match &*self.status.borrow() {
            Return::Fenced(returned) => Ok(returned.clone()),
            other => Err(format!("{other:?}").into()),
        })
        .await
    }

    async fn absent(&self) {
        eventually(SOON, async || {
            that(self.status.borrow().clone(), |seen| matches!(seen, Return::Absent(_)))
        })
        .await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// When a client that connects and writes again and again was first and last acknowledged.
async fn knock(url: String, until: watch::Receiver<bool>) -> Option<(Instant, Instant)> {
    let mut seen: Option<(Instant, Instant)> = None;
    while !*until.borrow() {
        let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let connection = tokio::spawn(connection);
        let first = seen.map_or_else(Instant::now, |(first, _)| first);
        while client.batch_execute("INSERT INTO t VALUES (1)").await.is_ok() {
            seen = Some((first, Instant::now()));
        }
        connection.abort();
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_writer_is_fenced_at_once_and_stays_so() {
    fence_an_old_writer().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: measures"]
async fn an_old_writer_is_fenced_within_a_second() {
    let open = fence_an_old_writer().await;
    assert!(open < Duration::from_secs(1), "{open:?}");
}

/// For how long clients were acknowledged.
async fn fence_an_old_writer() -> Duration {
    let server = Arc::new(Cluster::builder().socket_auth(SocketAuth::Trust).start().await.unwrap());
    server.create_role("app", "app", "").await.unwrap();
    server.create_database("shop").await.unwrap();
    server.sql("shop", "CREATE TABLE t (n int); GRANT ALL ON t TO app").await.unwrap();
    let given = server.party(Site::Local, "shop");
    let state = tempfile::tempdir().unwrap();
    let login = control_role::ensure(&given, state.path(), SOON).await.unwrap().login;
    // Over the socket: without the arithmetic of passwords.
    let address = Address::Unix { directory: server.socket_dir().to_owned(), port: server.port() };
    let endpoint = Endpoint { address, ..given.endpoint.clone() };
    let us = Party { login, endpoint, ..given.clone() };
    catalog::schema::ensure(&us.control("cloud-mirror test", SOON).await.unwrap()).await.unwrap();
    server.kill9().unwrap();
    server.children_gone().await.unwrap();

    let watch = Watch::start(&us, 2);
    watch.absent().await;
    assert_eq!(watch.status.borrow().needs(), None);
    let (stop, stopped) = watch::channel(false);
    let mut clients = Vec::new();
    for user in ["app", "app", "postgres"] {
        let socket = server.socket_dir().display();
        let url = format!("host={socket} port={} user={user} dbname=shop", server.port());
        clients.push(tokio::spawn(knock(url, stopped.clone())));
    }
    // The lab's own superuser is fenced out while it looks whether the server is ready.
    let starting = server.clone();
    let start = tokio::spawn(async move { starting.start().await });
    let returned = watch.fenced().await;
    let _ = start.await;
    let asking = us.control("cloud-mirror test", SOON).await.unwrap();
    let rows = async || asking.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0);
    asking.batch_execute("SET search_path = public").await.unwrap();
    let after_fence = rows().await;
    asking.batch_execute("SELECT pg_sleep(0.5)").await.unwrap();
    stop.send(true).unwrap();
    let mut gap = None::<(Instant, Instant)>;
    for client in clients {
        if let Some((first, last)) = client.await.unwrap() {
            let (a, b) = gap.unwrap_or((first, last));
            gap = Some((a.min(first), b.max(last)));
        }
    }
    assert_eq!(rows().await, after_fence, "nothing is written behind the fence");
    println!(
        "fence took {:?}; {} sessions ended, {} rows and at most {:?} transactions got in within {:?}",
        returned.fenced.took,
        returned.fenced.terminated,
        after_fence,
        returned.transactions_at_most,
        gap.map(|(first, last)| last - first)
    );
    let written = returned.transactions_at_most.unwrap();
    assert!(written >= after_fence as u64, "{written} transactions, {after_fence} rows");
    assert!(watch.status.borrow().needs().unwrap().contains("failback"));
    let told = watch.events.list();
    assert_eq!(told.iter().filter(|event| event.name == "failover.return_fenced").count(), 1, "{told:?}");

    // A newer epoch of the same owner is written to the row.
    watch.epoch.send(Epoch(3)).unwrap();
    eventually(SOON, async || that(watch.fenced().await.fenced.epoch, |epoch| *epoch == Epoch(3))).await;

    // Undone by hand: fenced again.
    asking.batch_execute("ALTER DATABASE shop CONNECTION LIMIT -1; ALTER ROLE postgres LOGIN").await.unwrap();
    eventually(SOON, async || {
        let ask = "SELECT datconnlimit = 0 AND NOT rolcanlogin FROM pg_database, pg_roles \
                   WHERE datname = 'shop' AND rolname = 'postgres'";
        that(asking.query_one(ask, &[]).await?.get::<_, bool>(0), |is_shut| *is_shut)
    })
    .await;

    // A restart of the server, and then of the proxy: nobody gets in.
    drop(watch);
    server.stop(StopMode::Fast).await.unwrap();
    let starting = server.clone();
    let start = tokio::spawn(async move { starting.start().await });
    let watch = Watch::start(&us, 3);
    assert_eq!(watch.fenced().await.fenced.terminated, 0);
    let _ = start.await;
    assert!(given.control("cloud-mirror test", SOON).await.is_err());
    drop(watch);
    effects::lift(&us, Epoch(4), SOON).await.unwrap();
    given.control("cloud-mirror test", SOON).await.unwrap();
    gap.map_or(Duration::ZERO, |(first, last)| last - first)
}
