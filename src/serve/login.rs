//! One connection, from its first byte to its data thread.

use super::arrivals::{Arrival, Arrivals};
use super::first_link::{First, Newcomer};
use super::listen::{Accepted, Listener};
use super::threads::{self, DataThreads};
use super::waiting::{self, Greeted, Waited};
use crate::auth::{
    Approach, Authenticated, Authenticator, ClientEncryption, Door, Opened, TrustedProxies, open,
};
use crate::backend::Login;
use crate::base::{Privilege, sqlstate};
use crate::config::{PoolMode, Tcp};
use crate::observe::clients::{ClientEntry, ClientOrigin, ClientState};
use crate::observe::traffic::Meter;
use crate::observe::{Counters, count};
use crate::pool::{self, Admission, Admitted};
use crate::route::{NoEntry, Way};
use crate::session::{self, Handover, Identity, NoLink, Session, Shared};
use crate::sql::console::Caller;
use crate::sys::{self, Peer, Socket};
use crate::wire::message::{self, Severity, TransactionStatus};
use crate::wire::startup::{Replication, Startup};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::BytesMut;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::AsyncWriteExt;
use tokio::sync::{oneshot, watch};

/// Databases that are the console.
const CONSOLES: [&[u8]; 2] = [b"mirror", b"pgbouncer"];
/// How long a client may take to accept its welcome.
const WELCOME_WITHIN: Duration = Duration::from_secs(30);
/// How many may be on their way in beyond the most clients: cancels, and clients of the console.
const SPARE: u32 = 100;
/// The pause after the system had no more sockets for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A client of the console, authenticated and not yet welcomed.
#[derive(Debug)]
pub struct ConsoleClient {
    /// Its socket.
    pub socket: Socket,
    /// What it has sent already.
    pub buffered: BytesMut,
    /// Who it is.
    pub caller: Caller,
}

/// Serves the console.
#[async_trait]
pub trait Console: Send + Sync {
    /// Serves one client until it leaves.
    async fn serve(&self, client: ConsoleClient);
}

/// What a client that has proved who it is counts as.
struct Entered {
    entry: ClientEntry,
    admitted: Admitted,
    /// The minor version of the protocol that it speaks.
    minor: u16,
}

/// All that a log-in needs.
pub struct Front {
    /// What sessions share.
    pub shared: Arc<Shared>,
    /// Who gets in; replaced by a reload.
    pub authenticator: ArcSwap<Authenticator>,
    /// Counts clients.
    pub admission: Admission,
    /// TLS for clients; replaced by a reload.
    pub encryption: ArcSwap<ClientEncryption>,
    /// Load balancers that say for whom they connect; replaced by a reload.
    pub proxies: ArcSwap<TrustedProxies>,
    /// Where sessions live.
    pub threads: DataThreads,
    /// The console.
    pub console: Arc<dyn Console>,
    /// Who has connected and not logged in yet.
    pub arrivals: Arrivals,
    /// When clients that do not answer are given up; replaced by a reload.
    pub tcp: ArcSwap<Tcp>,
}

impl Front {
    /// Takes connections until `stop` turns true, on the first data thread: most of what a log-in
    /// needs is there. Stops as well when this is dropped.
    pub async fn serve(self: Arc<Self>, listener: Listener, stop: watch::Receiver<bool>) {
        let (mut running, ended) = oneshot::channel::<()>();
        let front = self.clone();
        let work = move || async move {
            match listener.moved_here() {
                Ok(listener) => tokio::select! {
                    () = front.accept(&listener, stop) => {}
                    () = running.closed() => {}
                },
                Err(error) => tracing::error!(event = "serve.not_listening", %error),
            }
        };
        self.threads.run(0, work).await;
        let _ = ended.await;
    }

    async fn accept(self: Arc<Self>, listener: &Listener, mut stop: watch::Receiver<bool>) {
        let mut tuned = self.tcp.load_full();
        let say = |error| tracing::warn!(event = "serve.not_tuned", at = %listener.bound, %error);
        listener.tune(&tuned.towards_clients()).unwrap_or_else(say);
        // Who was connected before the listener was told has none of it.
        let mut is_late = true;
        loop {
            let accepted = match is_late {
                true => match listener.accept_now().transpose() {
                    Some(accepted) => accepted,
                    None => {
                        is_late = false;
                        continue;
                    }
                },
                false => tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stops(&mut stop) => return self.take_the_last(listener).await,
                },
            };
            let accepted = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(event = "serve.accept_failed", at = %listener.bound, %error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let tcp = self.tcp.load_full();
            if !Arc::ptr_eq(&tuned, &tcp) {
                listener.tune(&tcp.towards_clients()).unwrap_or_else(say);
                (tuned, is_late) = (tcp, true);
            }
            if is_late {
                let socket = &accepted.socket;
                let at_once = socket.tcp().map_or(Ok(()), |tcp| tcp.set_nodelay(true));
                at_once.and_then(|()| socket.tune(&tuned.towards_clients())).unwrap_or_else(say);
            }
            let most = self.shared.limits.load().max_client_conn.saturating_add(SPARE);
            let arrival = tokio::select! {
                arrival = self.arrivals.enter(most) => arrival,
                () = stops(&mut stop) => self.arrivals.one_more(),
            };
            self.let_in(accepted, arrival).await;
            // A storm of connections waits its turn beside the sessions of this thread: one for each
            // round that all others make.
            tokio::task::yield_now().await;
        }
    }

    /// Takes connections that the kernel has made already: it would reset them.
    async fn take_the_last(self: Arc<Self>, listener: &Listener) {
        while let Ok(Some(accepted)) = listener.accept_now() {
            self.let_in(accepted, self.arrivals.one_more()).await;
        }
    }

    async fn let_in(self: &Arc<Self>, accepted: Accepted, arrival: Arrival) {
        count(&self.counters().connections_accepted);
        let thread = self.threads.next();
        if self.threads.is_this(thread) {
            tokio::task::spawn_local(self.clone().attend(accepted, arrival));
            return;
        }
        let Accepted { socket, peer, local } = accepted;
        let Ok(socket) = socket.detach() else { return };
        let front = self.clone();
        let work = move || async move {
            if let Ok(socket) = socket.attach() {
                front.attend(Accepted { socket, peer, local }, arrival).await;
            }
        };
        self.threads.run(thread, work).await;
    }

    fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// One connection, from its first byte to its last one.
    fn attend(self: Arc<Self>, accepted: Accepted, arrival: Arrival) -> impl Future<Output = ()> {
        threads::beat();
        // In a box, which goes before the session begins: to log in takes more room than an idle session.
        let logging_in = Box::pin(self.welcome(accepted, arrival));
        async move {
            if let Some(session) = logging_in.await {
                session.run().await;
            }
        }
    }

    async fn welcome(self: Arc<Self>, accepted: Accepted, arrival: Arrival) -> Option<Box<Session>> {
        let within = self.shared.limits.load().client_login_timeout;
        let (encryption, proxies) = (self.encryption.load_full(), self.proxies.load_full());
        let Accepted { socket, peer, local } = accepted;
        match open(socket, peer, &encryption, &proxies, within).await {
            Ok(Opened::Session { socket, approach, startup, buffered }) => {
                self.log_in(socket, approach, local, startup, buffered, arrival).await
            }
            Ok(Opened::Cancel { socket, pid, secret }) => {
                let socket = socket.detach().ok()?;
                let control = self.shared.control.clone();
                control.spawn(async move {
                    if let Ok(socket) = socket.attach() {
                        self.cancel(socket, pid, &secret).await;
                    }
                });
                None
            }
            Err(error) => {
                tracing::debug!(event = "serve.opening_failed", %error);
                None
            }
        }
    }

    /// The client may hang up at once; the cancel is forwarded all the same, and the connection
    /// closed only then.
    async fn cancel(&self, socket: Socket, pid: i32, secret: &[u8]) {
        if let Some(target) = self.shared.cancels.find(pid, secret) {
            count(&self.counters().cancels_forwarded);
            let within = self.shared.limits.load().cancel_wait_timeout;
            if let Err(error) = pool::cancel(target, within).await {
                tracing::warn!(event = "serve.cancel_failed", %error);
            }
        }
        drop(socket);
    }

    async fn log_in(
        self: Arc<Self>,
        mut socket: Socket,
        approach: Approach,
        local: Peer,
        mut startup: Startup,
        mut buffered: BytesMut,
        arrival: Arrival,
    ) -> Option<Box<Session>> {
        let is_console = CONSOLES.contains(&startup.database.as_slice());
        let door = if is_console { Door::Console } else { Door::Database };
        let authenticator = self.authenticator.load_full();
        let authenticated =
            authenticator.authenticate(&mut socket, &mut buffered, &startup, &approach, door).await;
        let Authenticated { user, proof, privilege } = match authenticated {
            Ok(authenticated) => authenticated,
            Err(error) => {
                count(&self.counters().logins_failed);
                tracing::debug!(event = "serve.login_refused", peer = %approach.peer, %error);
                return None;
            }
        };
        if is_console {
            drop(arrival);
            self.serve_console(socket, buffered, Caller { user, privilege });
            return None;
        }
        let way = if matches!(approach.peer, Peer::Unix { .. }) { Way::Unix } else { Way::Tcp };
        let map = self.shared.routes.map();
        if let Err(no_entry) = map.halts.lets_in(&startup.database, way) {
            count(&self.counters().logins_failed);
            let code = match no_entry {
                NoEntry::Disabled { .. } => sqlstate::NOT_IN_STATE,
                NoEntry::ShuttingDown => sqlstate::CANNOT_CONNECT_NOW,
            };
            let bytes = message::Complaint::fatal(code, no_entry.to_string()).to_bytes();
            return refuse(&mut socket, &bytes).await;
        }
        let parameters = startup.take_parameters();
        let (login, parameters) = map.names.dressed(&startup.database, Login { user, proof }, parameters);
        drop(map);
        let is_admin = privilege == Privilege::Admin;
        let database = Arc::from(startup.database.as_slice());
        let identity = Identity { login, database, parameters: Arc::new(parameters), is_admin };
        let (database, user) = (&identity.database, &identity.login.user);
        let limits = self.shared.limits.load_full();
        let rules = limits.rules(database, user.as_str());
        let admitted = match self.admission.admit(limits.max_client_conn, &rules, database, user) {
            Ok(admitted) => admitted,
            Err(too_many) => {
                count(&self.counters().clients_refused);
                return refuse(&mut socket, &too_many.complaint().to_bytes()).await;
            }
        };
        let entry = self.shared.clients.enter(origin(&socket, approach.peer, local, &identity));
        entry.facts().set_state(ClientState::Waiting, sys::now());
        let entered = Entered { entry, admitted, minor: startup.minor() };
        let mode = match startup.replication {
            Replication::No => rules.mode,
            // It is about one connection to one server.
            Replication::Physical | Replication::Logical => PoolMode::Session,
        };
        let (first, greeted, waited) = match Newcomer::new(identity, mode).at_once(&self.shared) {
            ControlFlow::Break(first) => (first, Greeted::No, Duration::ZERO),
            // In a box: it takes more room than all the rest.
            ControlFlow::Continue(newcomer) => {
                let notify = limits.query_wait_notify;
                Box::pin(self.linked(newcomer, &mut socket, &mut buffered, &entered, notify)).await?
            }
        };
        // Not before there is a link: names of databases that do not exist are not counted by.
        let Identity { database, login, .. } = &first.identity;
        let meter = self.shared.traffic.meter(database, login.user.as_str(), threads::carrier());
        meter.waited(waited);
        self.begin(socket, buffered, entered, meter, first, greeted).await
    }

    /// Waits for the first link of a client, and tells it when there will be none. Says how long it took.
    async fn linked(
        &self,
        newcomer: Newcomer,
        socket: &mut Socket,
        buffered: &mut BytesMut,
        entered: &Entered,
        notify: Option<Duration>,
    ) -> Option<(First, Greeted, Duration)> {
        let began = sys::now();
        let facts = entered.entry.facts();
        let link = newcomer.first_link(&self.shared);
        let (made, greeted) = match waiting::wait(socket, buffered, facts, link, notify).await {
            Waited::Over(made, greeted) => (made, greeted),
            Waited::Gone => {
                count(&self.counters().logins_failed);
                tracing::debug!(event = "serve.client_left_while_waiting", peer = %facts.origin.peer);
                return None;
            }
            Waited::Ordered(order) => {
                count(&self.counters().logins_failed);
                return refuse(socket, &session::ordered(order).to_bytes()).await;
            }
        };
        let no_link = match *made {
            Ok(first) => return Some((first, greeted, sys::now().since(began))),
            Err(no_link) => no_link,
        };
        count(&self.counters().logins_failed);
        let bytes = match no_link {
            NoLink::Ended(bytes) | NoLink::ServerFull(bytes) => bytes,
            NoLink::Refused(complaint) => {
                message::Complaint { severity: Severity::Fatal, detail: None, ..complaint }.to_bytes()
            }
        };
        refuse(socket, &bytes).await
    }

    /// On the control runtime, whose business it is.
    fn serve_console(self: Arc<Self>, socket: Socket, buffered: BytesMut, caller: Caller) {
        let Ok(socket) = socket.detach() else { return };
        let control = self.shared.control.clone();
        control.spawn(async move {
            if let Ok(socket) = socket.attach() {
                self.console.serve(ConsoleClient { socket, buffered, caller }).await;
            }
        });
    }

    /// Tells the client that it is in, and begins its session.
    async fn begin(
        &self,
        mut socket: Socket,
        buffered: BytesMut,
        entered: Entered,
        meter: Arc<Meter>,
        first: First,
        greeted: Greeted,
    ) -> Option<Box<Session>> {
        let Entered { entry, admitted, minor } = entered;
        let First { identity, mode, told, made } = first;
        let key_length = if minor >= 2 { 32 } else { 4 };
        let pid = match &made {
            Some(made) if mode == PoolMode::Session => made.checkout.lease.pid(),
            // It will have many.
            _ => (i32::from_ne_bytes(sys::random_bytes()) & i32::MAX).max(1),
        };
        let cancel_key = self.shared.cancels.register(pid, key_length);
        let mut welcome = BytesMut::with_capacity(1024);
        if greeted == Greeted::No {
            message::authentication_ok(&mut welcome);
        }
        match &made {
            Some(made) if mode == PoolMode::Session => {
                welcome.extend_from_slice(made.checkout.lease.greeting());
            }
            _ => {
                for (name, value) in told.iter() {
                    message::parameter_status(&mut welcome, name, value);
                }
            }
        }
        message::backend_key_data(&mut welcome, cancel_key.pid(), cancel_key.secret());
        for notice in made.iter().flat_map(|made| &made.checkout.notices) {
            message::notice_report(&mut welcome, notice);
        }
        message::ready_for_query(&mut welcome, TransactionStatus::Idle);
        let welcomed = tokio::time::timeout(WELCOME_WITHIN, said(&mut socket, &welcome)).await;
        let Ok(Ok(())) = welcomed else {
            if let Some(made) = made {
                // The link is as good as new: the next client may have it.
                made.checkout.lease.give_back(made.checkout.stream, Vec::new());
            }
            return None;
        };
        count(&self.counters().clients_accepted);
        let handover = Handover {
            client: socket,
            client_in: buffered.to_vec(),
            identity,
            cancel_key,
            entry,
            admitted,
            meter,
            mode,
            told,
            made,
        };
        match Session::begin(handover, self.shared.clone()) {
            Ok(session) => Some(session),
            Err(error) => {
                count(&self.counters().clients_left);
                tracing::warn!(event = "serve.handover_failed", %error);
                None
            }
        }
    }
}

fn origin(socket: &Socket, peer: Peer, local: Peer, identity: &Identity) -> ClientOrigin {
    let parameter = |wanted: &[u8]| {
        let mut found = identity.parameters.iter().filter(|(name, _)| name == wanted);
        found.next_back().map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    };
    ClientOrigin {
        database: identity.database.clone(),
        user: identity.login.user.clone(),
        peer,
        local,
        tls: socket.tls_in_use(),
        connected_at: SystemTime::now(),
        application_name: parameter(b"application_name").unwrap_or_default(),
        replication: parameter(b"replication"),
    }
}

/// A sender that is gone means the same.
async fn stops(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

async fn refuse<T>(socket: &mut Socket, bytes: &[u8]) -> Option<T> {
    let _ = tokio::time::timeout(WELCOME_WITHIN, last_words(socket, bytes)).await;
    None
}

pub(super) async fn said(socket: &mut Socket, bytes: &[u8]) -> std::io::Result<()> {
    socket.write_all(bytes).await?;
    socket.flush().await
}

async fn last_words(socket: &mut Socket, bytes: &[u8]) -> std::io::Result<()> {
    said(socket, bytes).await?;
    socket.shutdown().await
}
