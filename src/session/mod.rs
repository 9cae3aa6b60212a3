//! One client connection: its statements, carried to the writer and back.
//!
//! A session begins authenticated and linked ([`Handover`]) and lives on a data thread as one
//! task. [`relay`] carries bytes and stops when something has to be decided; this module decides:
//! commands of ours are answered by [`local`], a lost or outdated link by `switch`. The session
//! never chooses a server and never judges whether one is dead: it reports a [`Suspicion`] and
//! follows the map of routes.
//!
//! In the pooled modes a link is taken with a statement and let go behind it: see [`pooled`].
//!
//! States: linked ⇄ unlinked (the link was lost between two statements; a new one is made with the
//! client's next statement) → ended; and "aborted": the link was lost inside a transaction, whose
//! statements are refused until the client ends it.
//!
//! Start reading in [`Session::run`].

pub mod account;
mod ask;
mod bell;
pub mod gone;
mod incoming;
pub mod lasting;
pub mod ledger;
mod linking;
mod local;
pub mod memory;
pub mod notice;
pub mod outgoing;
pub mod pooled;
mod refuse;
pub mod relay;
mod replay;
mod switch;
mod tell;
pub mod timeouts;
pub mod wake;
pub mod walk;

pub use linking::{Made, NoLink, Wanted};
pub use tell::{ordered, waits};

use crate::backend::Login;
use crate::base::{Epoch, Privilege, Site, sqlstate};
use crate::config::PoolMode;
use crate::observe::clients::{ClientEntry, ClientState, Clients, Order};
use crate::observe::traffic::{Meter, Traffic};
use crate::observe::{Counters, count};
use crate::pool::{self, Admitted, CancelKey, Cancels, Parameters, Pool, Reports};
use crate::route::Routes;
use crate::sql::console::{Caller, ConsoleCall};
use crate::sys::{self, Socket};
use crate::wire::message::Complaint;
use crate::wire::report::Report;
use account::{Account, Passing};
use arc_swap::ArcSwap;
use notice::Concerned;
use pooled::Pooled;
use pooled::habits::AllHabits;
use pooled::stash::Group;
use relay::{Exit, Relay};
use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use timeouts::Limits;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// A session has reason to believe that a server is gone.
#[derive(Debug)]
pub struct Suspicion {
    /// Which server.
    pub site: Site,
    /// The epoch of the link that broke.
    pub epoch: Epoch,
    /// What was seen.
    pub sign: Sign,
    /// Takes the verdict; when it is dropped the server counts as lost.
    pub verdict: oneshot::Sender<Verdict>,
}

/// What makes a session suspicious.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// A link ended; the server may have said before that it would: 57P01 or 57P02.
    Ended(Option<Report>),
    /// A new link could not be made.
    ConnectFailed,
}

/// What became of a suspicion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The server answers: only this link was ended.
    Alive,
    /// The server does not answer; the map of routes says how to go on.
    Lost,
}

/// What all sessions share.
#[derive(Debug)]
pub struct Shared {
    /// Where statements go.
    pub routes: Routes,
    /// Where links come from.
    pub pool: Pool,
    /// Whose key cancels what.
    pub cancels: Cancels,
    /// Takes suspicions.
    pub suspicions: mpsc::Sender<Suspicion>,
    /// Takes our own commands.
    pub console: mpsc::Sender<ConsoleCall>,
    /// The control runtime, on which links are made.
    pub control: Handle,
    /// How long a statement or a log-in is held while no writer is there; a reload changes it.
    pub hold_timeout: ArcSwap<Duration>,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// Who is connected.
    pub clients: Clients,
    /// What passes through each pool.
    pub traffic: Traffic,
    /// Limits and timeouts; a reload changes them.
    pub limits: Limits,
    /// What clients of the pooled modes are known to do.
    pub habits: AllHabits,
}

/// Who the client is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Role and proof for its links.
    pub login: Login,
    /// The database as the client named it.
    pub database: Arc<[u8]>,
    /// Its start-up parameters besides `user` and `database`.
    pub parameters: Parameters,
    /// Whether it may give commands that change something.
    pub is_admin: bool,
}

/// An authenticated client and its first link.
#[derive(Debug)]
pub struct Handover {
    /// The client's socket.
    pub client: Socket,
    /// What the client has sent behind its log-in already.
    pub client_in: Vec<u8>,
    /// Who it is.
    pub identity: Identity,
    /// Its cancel key.
    pub cancel_key: CancelKey,
    /// Its place in the list of clients.
    pub entry: ClientEntry,
    /// Its place among those who are let in.
    pub admitted: Admitted,
    /// Where what passes is counted: the meter of its data thread.
    pub meter: Arc<Meter>,
    /// When it gives its link back.
    pub mode: PoolMode,
    /// What it was told about settings.
    pub told: Reports,
    /// Its link, to which the client has been welcomed; in the pooled modes it may have none.
    pub made: Option<Made>,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    relay: Relay,
    identity: Identity,
    cancel_key: CancelKey,
    shared: Arc<Shared>,
    local: local::Local,
    /// What the client was told about settings, from the first link on.
    told: Reports,
    /// Where it is linked, or was.
    last_site: Site,
    /// To be said when the server has answered everything.
    last_words: Option<Complaint>,
    /// The client was told why the session ends, and its socket is shut for writing.
    has_said_last_words: bool,
    /// The client has left, and its link is for the next one, once it is clean.
    leaves_link: bool,
    entry: ClientEntry,
    _admitted: Admitted,
}

/// The message Terminate.
const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// `Break` ends the session.
type Flow = ControlFlow<()>;

impl Session {
    /// Takes over a client; call it on the runtime of its data thread. Fails when the link's socket
    /// cannot be registered there.
    pub fn begin(handover: Handover, shared: Arc<Shared>) -> io::Result<Box<Self>> {
        let Handover { client, client_in, identity, cancel_key, entry, admitted, meter, mode, told, made } =
            handover;
        let facts = entry.facts().clone();
        meter.client_logins.add(1);
        let passing = if mode == PoolMode::Session { Passing::Unchanged } else { Passing::Rewritten };
        let account = Account::new(meter, facts.clone(), passing);
        facts.set_state(ClientState::Idle, sys::now());
        let mut relay = Relay::new(client, client_in, shared.routes.clone(), facts, account);
        let map = shared.routes.map();
        let last_site = made.as_ref().map_or(map.writer, |made| made.destination.site);
        if mode == PoolMode::Session {
            let made = made.ok_or(io::ErrorKind::NotConnected)?;
            let Made { checkout, destination, .. } = made;
            cancel_key.point_to(Some(checkout.lease.cancel_target().clone()));
            relay.account.meter().server_assignments.add(1);
            relay.server_in = checkout.leftover;
            relay.look_at_server = !relay.server_in.is_empty();
            relay.link = Some(relay::Linked {
                stream: checkout.stream.attach()?,
                site: destination.site,
                epoch: destination.epoch,
                life: destination.life,
                lease: checkout.lease,
                has: None,
            });
            relay.tell_of_link();
        } else {
            let group = Group::of(&shared, &identity);
            if let Some(made) = made {
                group.welcome(made);
            }
            let (told, counters) = (told.clone(), shared.counters.clone());
            let pooled = Pooled::new(mode, group, told, cancel_key.pointer(), &map, counters);
            relay.pooled = Some(Box::new(pooled));
        }
        if relay.link.as_ref().is_none_or(|link| link.way() == map.way()) {
            relay.follow(&map);
        }
        Ok(Box::new(Self {
            relay,
            identity,
            cancel_key,
            shared,
            local: local::Local::default(),
            told,
            last_site,
            last_words: None,
            has_said_last_words: false,
            leaves_link: false,
            entry,
            _admitted: admitted,
        }))
    }

    /// Serves the client until it leaves, or has to, and cleans the link that it leaves behind.
    pub async fn run(mut self: Box<Self>) {
        let registration = wake::register(self.entry.facts()).await;
        loop {
            let flow = match self.relay.run().await {
                Exit::Terminate => self.on_terminate(),
                Exit::ClientGone { is_half: true } => self.on_half_close(),
                Exit::ClientGone { is_half: false } => self.leave(false),
                // In a box: to decide is rare and takes more room than an idle session.
                exit => Box::pin(self.decide_or_obey(exit)).await,
            };
            if flow.is_break() {
                break;
            }
        }
        drop(registration);
        count(&self.shared.counters.clients_left);
        if self.has_said_last_words {
            Box::pin(tell::hear_out(&mut self.relay.client)).await;
        }
        if let Some(cleaning) = self.into_cleaning() {
            cleaning.await;
        }
    }

    /// Ends all of it but the link, where the next client is to have it, and cleans that.
    fn into_cleaning(mut self: Box<Self>) -> Option<Pin<Box<impl Future<Output = ()>>>> {
        let link = self.relay.link.take().filter(|_| self.leaves_link)?;
        let reported = std::mem::take(&mut self.relay.reported);
        // In a box, as what is decided.
        Some(Box::pin(link.lease.give_back_here(link.stream, reported)))
    }

    /// Decides, unless something is wanted of the session meanwhile: who waits for a link or for a
    /// writer can be sent away.
    async fn decide_or_obey(&mut self, exit: Exit) -> Flow {
        let facts = self.entry.facts().clone();
        tokio::select! {
            biased;
            () = facts.ordered() => {}
            flow = self.decide(exit) => return flow,
        }
        self.obey().await
    }

    /// The server need not go on with a statement that nobody waits for.
    fn cancel_what_runs(&self) {
        let Some(link) = self.relay.link.as_ref().filter(|_| !self.relay.is_settled()) else { return };
        let (target, within) =
            (link.lease.cancel_target().clone(), self.shared.limits.load().cancel_wait_timeout);
        self.shared.control.spawn(async move {
            if let Err(error) = pool::cancel(target, within).await {
                tracing::warn!(event = "session.cancel_failed", %error);
            }
        });
    }

    /// Somebody wants something of this session.
    async fn obey(&mut self) -> Flow {
        let Some(order) = self.entry.facts().take_order() else { return Flow::Continue(()) };
        if matches!(order, Order::Kill | Order::QueryTimeout | Order::TransactionTimeout) {
            self.cancel_what_runs();
        }
        self.end_with(&tell::ordered(order)).await
    }

    async fn decide(&mut self, exit: Exit) -> Flow {
        match exit {
            Exit::RouteChanged => self.on_route_changed().await,
            Exit::GateShut => self.on_gate_shut().await,
            Exit::Held => self.on_held().await,
            Exit::NeedLink => self.on_need_link().await,
            Exit::NoLink(no_link) => self.on_no_link(no_link).await,
            Exit::BlockBegun => self.end_with(&pooled::words::no_transaction_blocks()).await,
            Exit::LinkLost { report } => self.on_link_lost(report).await,
            Exit::Own => self.on_own().await,
            Exit::Concerns(concerned) => {
                // Those in use, or being looked at, are closed when they are given back: the server waits for it.
                self.shared.pool.outdate(|user, database| match &concerned {
                    Concerned::None => false,
                    Concerned::Database(name) => name.as_bytes() == database,
                    Concerned::Role(name) => **name == *user,
                    Concerned::All => true,
                });
                pooled::stash::share();
                Flow::Continue(())
            }
            Exit::Terminate | Exit::ClientGone { .. } => unreachable!("who leaves is seen off at once"),
            Exit::ClientViolation(message) => self.on_client_violation(message).await,
            Exit::ServerViolation(message) => {
                tracing::error!(event = "session.server_violated_protocol", "{message}");
                self.relay.link = None;
                self.end_with(&Complaint::fatal(sqlstate::PROTOCOL_VIOLATION, message)).await
            }
            Exit::Quiet => {
                self.relay.stop_when_quiet = false;
                if self.relay.is_settled() && self.relay.to_client.is_empty() {
                    self.entry.facts().set_settled(self.relay.version);
                }
                Flow::Continue(())
            }
            Exit::Drained => self.end_with(&tell::shutting_down()).await,
            Exit::Ordered => self.obey().await,
        }
    }

    /// The client takes its leave. What it sent before is executed and answered, as without us.
    fn on_terminate(&mut self) -> Flow {
        // An answer that the client has not taken yet is still delivered.
        if self.relay.link.is_none() || self.is_clean() && self.relay.to_client.is_empty() {
            return self.leave(true);
        }
        self.relay.client_in.clear();
        self.relay.to_server.push(TERMINATE);
        self.relay.client_ended = true;
        Flow::Continue(())
    }

    /// Whether the link is as it was handed out but for what a reset undoes. Behind a client that sends no
    /// more our side of it may be shut, or Terminate be on its way.
    fn is_clean(&self) -> bool {
        self.relay.ledger.is_clean()
            && !self.relay.client_ended
            && self.relay.client_walk.is_between_messages()
            && self.relay.server_walk.is_between_messages()
            && self.relay.server_in.is_empty()
            && self.relay.to_server.is_empty()
    }

    /// The client has left. Between two statements the link can serve another client; otherwise
    /// the server is told what the client told it, and finishes what was sent before: pipelined
    /// statements in front of Terminate are executed, as without us.
    fn leave(&mut self, by_terminate: bool) -> Flow {
        tracing::debug!(event = "session.left", pid = self.cancel_key.pid(), by_terminate);
        self.cancel_key.point_to(None);
        let is_clean = self.is_clean() && (by_terminate || self.relay.client_in.is_empty());
        let pooled = self.relay.pooled.as_mut();
        let is_clean = is_clean && !pooled.as_ref().is_some_and(|pooled| pooled.is_tied());
        if is_clean && pooled.is_none() {
            self.leaves_link = true;
            return Flow::Break(());
        }
        let Some(link) = self.relay.link.take() else { return Flow::Break(()) };
        if let Some(pooled) = pooled
            && is_clean
        {
            pooled.let_go(link, &mut self.relay.memory);
        } else {
            let unsent = std::mem::take(&mut self.relay.to_server);
            tokio::task::spawn_local(tell::run_out(link, unsent, by_terminate, self.shared.routes.clone()));
        }
        Flow::Break(())
    }

    /// The client sends no more but may still read: it gets what is due, as from PostgreSQL.
    fn on_half_close(&mut self) -> Flow {
        let relay = &mut self.relay;
        let is_idle = relay.ledger.is_clean() && relay.client_in.is_empty() && relay.to_client.is_empty();
        if is_idle || relay.link.is_none() {
            return self.leave(false);
        }
        relay.client_ended = true;
        relay.finish_server = true;
        Flow::Continue(())
    }

    /// What the client has sent is no message. What it sent before is executed and answered first, as
    /// without us.
    async fn on_client_violation(&mut self, message: String) -> Flow {
        let complaint = Complaint::fatal(sqlstate::PROTOCOL_VIOLATION, message);
        if self.relay.link.is_none() || self.relay.is_quiet() || self.relay.ledger.has_no_place() {
            return self.end_with(&complaint).await;
        }
        self.last_words = Some(complaint);
        self.relay.client_in.clear();
        self.relay.to_server.push(TERMINATE);
        self.relay.client_ended = true;
        Flow::Continue(())
    }

    fn caller(&self) -> Caller {
        let privilege = if self.identity.is_admin { Privilege::Admin } else { Privilege::Ordinary };
        Caller { user: self.identity.login.user.clone(), privilege }
    }
}

fn boxed((name, value): &(Vec<u8>, Vec<u8>)) -> walk::Reported {
    (name.as_slice().into(), value.as_slice().into())
}
