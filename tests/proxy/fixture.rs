//! A server, and the proxy's front before it, in this process. The controller's part is played by
//! the test: it judges suspicions and changes the routes.

use arc_swap::ArcSwap;
use async_trait::async_trait;
use cloud_mirror::auth::{self, Authenticator, ClientEncryption, VerifierSource};
use cloud_mirror::backend::tls::ServerTls;
use cloud_mirror::backend::{Address, Endpoint, Party, Upstream};
use cloud_mirror::base::{DatabaseName, Moment, Site};
use cloud_mirror::lab::{Cluster, SocketAuth};
use cloud_mirror::observe::Counters;
use cloud_mirror::observe::events::Events;
use cloud_mirror::pool::{Cancels, Pool, Settings};
use cloud_mirror::route::{RouteMap, Routes};
use cloud_mirror::serve::{Bound, Console, ConsoleClient, DataThreads, Front, Listener, Sharing};
use cloud_mirror::session::timeouts::Limits;
use cloud_mirror::session::{Shared, Suspicion, Verdict};
use cloud_mirror::sql::console::{ConsoleCall, ConsoleRows};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::{mpsc, watch};

/// Judges a suspicion.
pub type Judge = Arc<dyn Fn(&Suspicion) -> Verdict + Send + Sync>;

pub struct Fixture {
    pub local: Cluster,
    pub cloud: Option<Cluster>,
    pub shared: Arc<Shared>,
    pub port: u16,
    pub socket_dir: PathBuf,
    stop: watch::Sender<bool>,
}

struct Writer {
    routes: std::sync::OnceLock<Routes>,
    local: Party,
    cloud: Option<Party>,
}

impl VerifierSource for Writer {
    fn party(&self) -> Option<Party> {
        match self.routes.get()?.map().writer {
            Site::Local => Some(self.local.clone()),
            Site::Cloud => self.cloud.clone(),
        }
    }
}

struct NoConsole;

#[async_trait]
impl Console for NoConsole {
    async fn serve(&self, _: ConsoleClient) {}
}

pub struct Options {
    pub method: auth::Method,
    pub pool: Settings,
    pub with_cloud: bool,
    pub socket_auth: SocketAuth,
    pub judge: Judge,
    pub hold_timeout: Duration,
    pub data_threads: usize,
}

/// A link for each client: what most of these tests look at.
pub fn session_mode() -> Settings {
    let limits =
        cloud_mirror::config::Pool { mode: cloud_mirror::config::PoolMode::Session, ..Default::default() };
    Settings { limits, ..Settings::default() }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            method: auth::Method::ScramSha256,
            pool: session_mode(),
            with_cloud: false,
            socket_auth: SocketAuth::Peer,
            judge: Arc::new(|_| Verdict::Alive),
            hold_timeout: Duration::from_secs(60),
            data_threads: 1,
        }
    }
}

fn upstream(cluster: &Cluster) -> Arc<Upstream> {
    let port = cluster.port();
    let addresses = [
        Address::Unix { directory: cluster.socket_dir().to_owned(), port },
        Address::Tcp { host: "127.0.0.1".into(), port },
    ];
    let endpoint = |address| Endpoint { address, tls: ServerTls::disabled() };
    Arc::new(Upstream { endpoints: addresses.into_iter().map(endpoint).collect() })
}

impl Fixture {
    pub async fn start(options: Options) -> Fixture {
        let server = || Cluster::builder().socket_auth(options.socket_auth).setting("max_connections", 200);
        let local = server().start().await.expect("a server starts");
        local.create_role("app", "app-secret", "").await.unwrap();
        local.create_database("shop").await.unwrap();
        local.sql("shop", "grant all on schema public to app").await.unwrap();
        let cloud = match options.with_cloud {
            false => None,
            true => {
                let cloud = server().start().await.expect("a second server starts");
                let verifier = local
                    .value("postgres", "select rolpassword from pg_authid where rolname = 'app'")
                    .await
                    .unwrap();
                cloud.sql("postgres", &format!("create role app login password '{verifier}'")).await.unwrap();
                cloud.create_database("shop_copy").await.unwrap();
                cloud.sql("shop_copy", "grant all on schema public to app").await.unwrap();
                Some(cloud)
            }
        };
        let name = |name: &str| DatabaseName::new(name).unwrap();
        let routes = Routes::new(RouteMap {
            cloud: cloud.as_ref().map(upstream),
            mirrored: Arc::new(BTreeMap::from([(name("shop"), name("shop_copy"))])),
            ..RouteMap::alone(upstream(&local))
        });
        routes.gate().open_until(Moment::NEVER);
        let (suspicions, mut suspected) = mpsc::channel::<Suspicion>(64);
        let judge = options.judge.clone();
        tokio::spawn(async move {
            while let Some(suspicion) = suspected.recv().await {
                let verdict = judge(&suspicion);
                let _ = suspicion.verdict.send(verdict);
            }
        });
        let (console, mut calls) = mpsc::channel::<ConsoleCall>(64);
        tokio::spawn(async move {
            while let Some(call) = calls.recv().await {
                let rows = match &call.command {
                    cloud_mirror::sql::admin::Command::ShowEvents => {
                        vec![vec![
                            Some("7".into()),
                            None,
                            None,
                            Some("test.happened".into()),
                            Some(call.caller.user.to_string()),
                        ]]
                    }
                    _ => vec![],
                };
                let _ = call.reply.send(Ok(ConsoleRows::shown(&call.command, rows)));
            }
        });
        let shared = Arc::new(Shared {
            routes: routes.clone(),
            pool: Pool::new(options.pool.clone(), tokio::runtime::Handle::current()),
            cancels: Cancels::default(),
            suspicions,
            console,
            control: tokio::runtime::Handle::current(),
            hold_timeout: ArcSwap::from_pointee(options.hold_timeout),
            counters: Arc::new(Counters::default()),
            clients: Default::default(),
            traffic: Default::default(),
            limits: Limits::new(options.pool.limits.clone()),
            habits: Default::default(),
        });
        let source = Writer {
            routes: std::sync::OnceLock::from(routes),
            local: local.party(Site::Local, "postgres"),
            cloud: cloud.as_ref().map(|cloud| cloud.party(Site::Cloud, "postgres")),
        };
        let settings = auth::Settings { method: options.method, ..auth::Settings::default() };
        let front = Arc::new(Front {
            arrivals: Default::default(),
            shared: shared.clone(),
            authenticator: ArcSwap::from_pointee(Authenticator::new(
                settings,
                Arc::new(source),
                Events::default(),
            )),
            proxies: ArcSwap::default(),
            encryption: ArcSwap::from_pointee(ClientEncryption::Never),
            threads: DataThreads::start(options.data_threads, &shared).unwrap(),
            console: Arc::new(NoConsole),
            admission: Default::default(),
            tcp: Default::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let tcp = Listener::tcp("127.0.0.1:0".parse().unwrap(), 128, Sharing::Alone).unwrap();
        let Bound::Tcp(address) = tcp.bound.clone() else { unreachable!() };
        let socket_dir = tempfile::tempdir().unwrap().keep();
        let unix = Listener::unix(&socket_dir, address.port(), 128).unwrap();
        tokio::spawn(front.clone().serve(tcp, stopped.clone()));
        tokio::spawn(front.serve(unix, stopped));
        Fixture { local, cloud, shared, port: address.port(), socket_dir, stop }
    }

    /// A URL through the proxy.
    pub fn url(&self) -> String {
        format!("postgres://app:app-secret@127.0.0.1:{}/shop", self.port)
    }

    /// A driver's connection through the proxy.
    pub async fn client(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// A program of PostgreSQL's with `input`, through the proxy; its standard output. Fails the
    /// test when it fails.
    pub async fn program(&self, program: &str, arguments: &[&str]) -> String {
        let done = Command::new(self.local.bindir().join(program))
            .args(arguments)
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "app")
            .env("PGPASSWORD", "app-secret")
            .env("PGDATABASE", "shop")
            .stdin(Stdio::null())
            .output();
        let done = tokio::time::timeout(Duration::from_secs(120), done).await.expect("it ends").unwrap();
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{program} {arguments:?}: {errors}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// What `psql` prints for a command, through the proxy.
    pub async fn psql(&self, command: &str) -> String {
        self.program("psql", &["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", command]).await
    }

    /// The count of a counter.
    pub fn counted(&self, name: &str) -> u64 {
        let list = self.shared.counters.list();
        list.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no counter {name}")).1
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let _ = std::fs::remove_dir_all(&self.socket_dir);
    }
}
