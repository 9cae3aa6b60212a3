//! The proxy's front in a process of its own: sessions and nothing else. Used until the binary
//! itself can run.

use arc_swap::ArcSwap;
use async_trait::async_trait;
use cloud_mirror::auth::{self, Authenticator, ClientEncryption, VerifierSource};
use cloud_mirror::backend::tls::ServerTls;
use cloud_mirror::backend::{Address, Endpoint, Party, Upstream};
use cloud_mirror::base::{Epoch, Moment, Site};
use cloud_mirror::observe::Counters;
use cloud_mirror::observe::events::Events;
use cloud_mirror::pool::{Cancels, Pool, Settings};
use cloud_mirror::route::{Door, RouteMap, Routes};
use cloud_mirror::serve::{Console, ConsoleClient, DataThreads, Front, Listener};
use cloud_mirror::session::{Shared, Verdict};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

struct Nobody;

impl VerifierSource for Nobody {
    fn party(&self) -> Option<Party> {
        None
    }
}

#[async_trait]
impl Console for Nobody {
    async fn serve(&self, _: ConsoleClient) {}
}

/// `front PORT SERVER_PORT SOCKET_DIR`.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(serve(arguments[0].parse().unwrap(), arguments[1].parse().unwrap(), &arguments[2]));
    ExitCode::SUCCESS
}

async fn serve(port: u16, server_port: u16, socket_dir: &str) {
    let addresses = [
        Address::Unix { directory: socket_dir.into(), port: server_port },
        Address::Tcp { host: "127.0.0.1".into(), port: server_port },
    ];
    let endpoint = |address| Endpoint { address, tls: ServerTls::disabled() };
    let routes = Routes::new(RouteMap {
        version: 1,
        epoch: Epoch(1),
        writer: Site::Local,
        life: 0,
        door: Door::Open,
        is_draining: false,
        local: Arc::new(Upstream { endpoints: addresses.into_iter().map(endpoint).collect() }),
        cloud: None,
        mirrored: Arc::default(),
    });
    routes.gate().open_until(Moment::NEVER);
    let (suspicions, mut suspected) = mpsc::channel::<cloud_mirror::session::Suspicion>(64);
    tokio::spawn(async move {
        while let Some(suspicion) = suspected.recv().await {
            let _ = suspicion.verdict.send(Verdict::Alive);
        }
    });
    let (console, _calls) = mpsc::channel(64);
    let shared = Arc::new(Shared {
        routes,
        pool: Pool::new(Settings::default(), tokio::runtime::Handle::current()),
        cancels: Cancels::default(),
        suspicions,
        console,
        control: tokio::runtime::Handle::current(),
        hold_timeout: Duration::from_secs(20),
        counters: Arc::new(Counters::default()),
    });
    let settings = auth::Settings { method: auth::Method::Trust, ..auth::Settings::default() };
    let front = Arc::new(Front {
        shared: shared.clone(),
        authenticator: ArcSwap::from_pointee(Authenticator::new(
            settings,
            Arc::new(Nobody),
            Events::default(),
        )),
        encryption: ArcSwap::from_pointee(ClientEncryption::Never),
        threads: DataThreads::start(1, &shared).unwrap(),
        console: Arc::new(Nobody),
    });
    let (_stop, stopped) = watch::channel(false);
    let listener = Listener::tcp(([127, 0, 0, 1], port).into()).await.unwrap();
    front.serve(listener, stopped).await;
}
