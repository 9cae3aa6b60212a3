//! Losing a link and making another one.

use super::gone::gone;
use super::relay::Linked;
use super::tell::{cancelled, cannot_move, no_writer, outcome_unknown};
use super::walk::Reported;
use super::{Flow, Session, Sign, Suspicion, Verdict, replay};
use crate::backend::Destination;
use crate::base::{Epoch, Moment, Retry, Site, sqlstate};
use crate::config::PoolMode;
use crate::observe::clients::ClientState;
use crate::observe::count;
use crate::observe::traffic::Carrier;
use crate::pool::{Checkout, Limit, PoolError, Request};
use crate::route::{Door, Entry, Halt, NoRoute, RouteMap};
use crate::sys;
use crate::wire::frame::{HEADER, Head, head};
use crate::wire::message::{Complaint, TransactionStatus, error_report, parameter_status};
use crate::wire::report::Report;
use bytes::BytesMut;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

/// How long a verdict may take: longer than the probes that lead to it.
const VERDICT_WITHIN: Duration = Duration::from_secs(5);
/// How long a session that had a link goes on asking a server that is full: the back ends of the
/// former links are still ending.
const FULL_WITHIN: Duration = Duration::from_secs(3);
/// How long a server may take to make a session's settings and statements again.
const REPLAY_WITHIN: Duration = Duration::from_secs(30);

/// Why a session was not made again.
enum NotMade {
    /// No link.
    Pool(PoolError),
    /// The server refused a setting or a statement.
    Refused(Report),
    /// The link broke meanwhile.
    Broken,
}

impl Session {
    /// The map of routes has changed: maybe the door, maybe the writer.
    pub(super) async fn on_route_changed(&mut self) -> Flow {
        let map = self.shared.routes.map();
        self.relay.version = map.version;
        self.relay.is_draining = map.is_draining;
        if let Some(pooled) = &mut self.relay.pooled {
            pooled.follow(&map);
        }
        self.relay.is_held = self.relay.link.is_some() && map.holds_everything();
        // SUSPEND waits for everybody to be between two messages.
        self.relay.stop_when_quiet |= map.halts.all == Halt::Suspended;
        let Some(link) = &self.relay.link else { return Flow::Continue(()) };
        if (link.site, link.epoch, link.life) != map.way() {
            return self.drop_link(None).await;
        }
        Flow::Continue(())
    }

    /// The lease has run out under us. What is in flight may have happened.
    pub(super) async fn on_gate_shut(&mut self) -> Flow {
        self.drop_link(None).await
    }

    /// The client has spoken while nothing may be sent: our own commands are answered, everything
    /// else waits for the next state of the routes. The map says when it has waited too long.
    pub(super) async fn on_held(&mut self) -> Flow {
        let (tag, _) = self.fill_front().await?;
        if self.front_is_ours() {
            return self.on_own().await;
        }
        if tag == b'X' {
            return self.leave(true).await;
        }
        let map = self.shared.routes.map();
        if map.version != self.relay.version {
            return Flow::Continue(());
        }
        if let Door::Closed { reason } = &map.door {
            return self.refuse_linked(reason).await;
        }
        count(&self.shared.counters.holds);
        let facts = self.entry.facts().clone();
        let (state, since) = (facts.state(), facts.since());
        facts.set_state(ClientState::Waiting, sys::now());
        // The statement has not been sent: a cancel is about it and not about the back end.
        self.cancel_key.point_to(None);
        let waited = tokio::select! {
            changed = wait_for_change(&self.shared, self.relay.version, self.patience()) => Some(changed),
            () = self.cancel_key.asked() => None,
        };
        self.cancel_key.point_to(self.relay.link.as_ref().map(|link| link.lease.cancel_target().clone()));
        facts.set_state(state, since);
        match waited {
            Some(true) => Flow::Continue(()),
            Some(false) => self.refuse_linked("no server can take statements now").await,
            None => self.refuse_cancelled().await,
        }
    }

    /// The client does not want its statement any more, which has not been sent.
    async fn refuse_cancelled(&mut self) -> Flow {
        match self.relay.ledger.status() {
            TransactionStatus::Idle => self.refuse_next(&cancelled()).await,
            TransactionStatus::Open | TransactionStatus::Failed => self.drop_link(None).await,
        }
    }

    /// Refuses the client's next statement though there is a link. In a transaction the link is given
    /// up: the server has not heard of the refusal, and must not go on where the client does not.
    async fn refuse_linked(&mut self, reason: &str) -> Flow {
        match self.relay.ledger.status() {
            TransactionStatus::Idle => {
                count(&self.shared.counters.statements_refused);
                self.refuse_next(&no_writer(reason)).await
            }
            TransactionStatus::Open | TransactionStatus::Failed => self.drop_link(None).await,
        }
    }

    /// The link is broken, or the server said that it will be.
    pub(super) async fn on_link_lost(&mut self, report: Option<Report>) -> Flow {
        let (pid, said) = (self.cancel_key.pid, report.as_ref().map(ToString::to_string));
        let (was_told, ended) = (self.relay.server_walk.has_passed_fatal, self.relay.client_ended);
        tracing::debug!(event = "session.link_lost", pid, said, was_told, ended);
        if self.relay.server_walk.has_passed_fatal || self.relay.client_ended {
            // The client knows why, or does not want to, or has something else coming.
            self.relay.link = None;
            return match self.last_words.take() {
                Some(complaint) => self.end_with(&complaint).await,
                None => self.end_with_bytes(&[]).await,
            };
        }
        let Some(link) = &self.relay.link else { return Flow::Continue(()) };
        let verdict = self.suspect(link.site, link.epoch, report.clone()).await;
        if self.relay.pooled.is_some() && self.relay.is_settled() && self.relay.ledger.is_clean() {
            // Nothing of the client's was on it.
            return self.drop_link(None).await;
        }
        match (verdict, report) {
            (Verdict::Alive, Some(report)) => {
                let mut out = BytesMut::new();
                error_report(&mut out, &report);
                self.relay.link = None;
                self.end_with_bytes(&out).await
            }
            (Verdict::Alive, None) | (Verdict::Lost, _) => self.drop_link(None).await,
        }
    }

    /// Gives the link up and decides what becomes of the session (design: "Which session moves").
    async fn drop_link(&mut self, why: Option<&str>) -> Flow {
        self.cancel_key.point_to(None);
        if self.relay.is_late() {
            return self.cut();
        }
        let relay = &mut self.relay;
        relay.link = None;
        self.entry.facts().set_link(None);
        let was_settled = relay.is_settled();
        let status = relay.ledger.status();
        relay.is_held = false;
        relay.awaits_end = false;
        relay.finish_server = false;
        relay.server_in.clear();
        relay.look_at_server = false;
        relay.to_server.clear();
        relay.ledger = Default::default();
        relay.memory.on_link_lost();
        let tie = match &mut relay.pooled {
            None => relay.memory.tie().map(|tie| tie.reason()),
            Some(pooled) => {
                let tie = pooled.tie_reason(&relay.memory);
                pooled.on_link_lost();
                relay.memory.forget_ties();
                relay.facts.set_ties(0);
                tie
            }
        };
        relay.account.on_link_lost();
        if !was_settled {
            count(&self.shared.counters.outcomes_unknown);
            return self.end_with(&outcome_unknown()).await;
        }
        if let Some(reason) = why.or(tie).or(self.replication_tie()) {
            count(&self.shared.counters.sessions_ended);
            return self.end_with(&cannot_move(reason)).await;
        }
        match status {
            TransactionStatus::Idle => Flow::Continue(()),
            TransactionStatus::Open | TransactionStatus::Failed => {
                count(&self.shared.counters.transactions_aborted);
                self.serve_aborted(Self::first_complaint(status)).await
            }
        }
    }

    /// A replication connection is about one server's slots and log.
    fn replication_tie(&self) -> Option<&'static str> {
        let mut parameters = self.identity.parameters.iter();
        parameters.any(|(name, _)| name == b"replication").then_some("It was a replication connection.")
    }

    /// Reports a broken link and waits for the verdict.
    pub(super) async fn suspect(&self, site: Site, epoch: Epoch, report: Option<Report>) -> Verdict {
        let (verdict, judged) = oneshot::channel();
        let suspicion = Suspicion { site, epoch, sign: Sign::Ended(report), verdict };
        if self.shared.suspicions.send(suspicion).await.is_err() {
            return Verdict::Lost;
        }
        match tokio::time::timeout(VERDICT_WITHIN, judged).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) | Err(_) => Verdict::Lost,
        }
    }

    /// How long a client waits whose link may not be used: longer where an operator has stopped
    /// everything.
    fn patience(&self) -> Duration {
        match self.shared.routes.map().halts.all {
            Halt::None | Halt::Paused => **self.shared.hold_timeout.load(),
            Halt::Suspended => self.shared.limits.load().query_wait_timeout,
        }
    }

    /// The client has spoken and has no link: makes one as soon as there is a writer.
    pub(super) async fn on_need_link(&mut self) -> Flow {
        let (tag, _) = self.fill_front().await?;
        if self.front_is_ours() {
            return self.on_own().await;
        }
        if tag == b'X' {
            return self.leave(true).await;
        }
        if self.relay.pooled.is_some() {
            return self.on_held_without_link().await;
        }
        let began = sys::now();
        self.entry.facts().set_state(ClientState::Waiting, began);
        let linking = self.shared.clone().link(Wanted::of(self));
        let linked = tokio::select! {
            linked = linking => Some(linked),
            () = self.cancel_key.asked() => Some(Err(NoLink::Refused(cancelled()))),
            () = gone(&mut self.relay.client, &mut self.relay.client_in) => None,
        };
        let now = sys::now();
        self.entry.facts().set_state(ClientState::Idle, now);
        self.relay.account.meter().waited(now.since(began));
        match linked {
            Some(Ok(made)) => self.take_over(made).await,
            Some(Err(no_link)) => self.on_no_link(no_link).await,
            None => self.leave(false).await,
        }
    }

    /// In the pooled modes: the client has spoken while no links are to be had from anybody.
    async fn on_held_without_link(&mut self) -> Flow {
        let map = self.shared.routes.map();
        if map.version != self.relay.version {
            return Flow::Continue(());
        }
        let is_halted = !map.halts.gives_links(&self.identity.database);
        if is_halted && map.halts.entry == Entry::NobodyWaits {
            return self.on_no_link(NoLink::Ended(super::tell::shutting_down().to_bytes())).await;
        }
        if let Door::Closed { reason } = &map.door {
            return self.on_no_link(NoLink::Refused(no_writer(reason.clone()))).await;
        }
        count(&self.shared.counters.holds);
        let patience = self.shared.hold_patience(is_halted);
        let changing = wait_for_change(&self.shared, self.relay.version, patience);
        let refused = tokio::select! {
            is_changed = changing => match is_changed {
                true => return Flow::Continue(()),
                false => no_writer("no server can take statements now"),
            },
            () = self.cancel_key.asked() => cancelled(),
            () = gone(&mut self.relay.client, &mut self.relay.client_in) => return self.leave(false).await,
        };
        self.on_no_link(NoLink::Refused(refused)).await
    }

    /// There is no link for the client's statement.
    pub(super) async fn on_no_link(&mut self, no_link: NoLink) -> Flow {
        match no_link {
            NoLink::Refused(complaint) => {
                count(&self.shared.counters.statements_refused);
                self.refuse_next(&complaint).await
            }
            NoLink::Ended(bytes) => {
                count(&self.shared.counters.sessions_ended);
                self.end_with_bytes(&bytes).await
            }
        }
    }

    /// Takes a new link into use and tells the client which settings differ from what it knows.
    async fn take_over(&mut self, made: Made) -> Flow {
        let Made { checkout, destination, version, reported } = made;
        let Ok(stream) = checkout.stream.attach() else { return Flow::Continue(()) };
        let mut out = BytesMut::new();
        let told = Arc::make_mut(&mut self.told);
        for (name, value) in std::mem::take(&mut self.relay.reported) {
            set(told, name, value);
        }
        for (name, value) in reported {
            if !told.iter().any(|(known, old)| **known == *name && **old == *value) {
                parameter_status(&mut out, &name, &value);
                set(told, name, value);
            }
        }
        self.cancel_key.point_to(Some(checkout.lease.cancel_target().clone()));
        let Destination { site, epoch, life, .. } = destination;
        let relay = &mut self.relay;
        relay.server_in = checkout.leftover;
        relay.look_at_server = !relay.server_in.is_empty();
        relay.server_walk = Default::default();
        relay.link = Some(Linked { stream, site, epoch, life, lease: checkout.lease, has: None });
        relay.version = version;
        relay.tell_of_link();
        self.last_site = site;
        relay.account.meter().server_assignments.add(1);
        count(&self.shared.counters.sessions_moved);
        self.say(&out);
        self.flush().await
    }

    fn front_is_ours(&self) -> bool {
        let input = &self.relay.client_in;
        let Head::Frame { tag, total } = head(input) else { return false };
        let Some(body) = input.get(HEADER..total) else { return false };
        if self.relay.client_walk.pass_next {
            return false;
        }
        match tag {
            b'Q' => super::walk::is_ours_query(body),
            b'P' => self.local.is_active() || super::walk::is_ours_parse(body),
            b'B' | b'D' | b'E' | b'C' | b'S' | b'H' => self.local.is_active(),
            _ => false,
        }
    }
}

fn set(told: &mut Vec<(Vec<u8>, Vec<u8>)>, name: Box<[u8]>, value: Box<[u8]>) {
    match told.iter_mut().find(|(known, _)| **known == *name) {
        Some((_, old)) => *old = value.into(),
        None => told.push((name.into(), value.into())),
    }
}

/// A limit was reached for too long. A session that goes on can try again; a log-in is over.
fn full(error: &PoolError, limit: Limit, wanted: &Wanted) -> NoLink {
    let hint = "Try again later, keep transactions shorter, or raise the limit.";
    let (code, message) = (sqlstate::TOO_MANY_CONNECTIONS, error.to_string());
    match wanted.was_at {
        None => {
            let complaint = Complaint::fatal(code, message).detail(format!("{limit}.")).hint(hint);
            NoLink::Ended(complaint.to_bytes())
        }
        Some(_) => {
            let detail = format!("{limit}. The statement was not executed.");
            NoLink::Refused(Complaint::error(code, message).detail(detail).hint(hint))
        }
    }
}

/// Waits for another version of the map than the `known` one.
async fn wait_for_change(shared: &super::Shared, known: u64, patience: Duration) -> bool {
    let mut changes = shared.routes.changes();
    let changed = changes.wait_for(|version| *version != known);
    matches!(tokio::time::timeout(patience, changed).await, Ok(Ok(_)))
}

/// What a session needs of its next link.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// As whom, and with which start-up parameters.
    pub identity: super::Identity,
    /// SET statements to be made again.
    pub settings: Vec<String>,
    /// Parse messages to be made again.
    pub statements: Vec<Vec<u8>>,
    /// Where the session was linked before: types of users have other numbers elsewhere.
    pub was_at: Option<Site>,
}

impl Wanted {
    /// A first link: nothing to be made again.
    pub fn first(identity: super::Identity) -> Self {
        Self { identity, settings: Vec::new(), statements: Vec::new(), was_at: None }
    }

    /// Another link for who has nothing to be made again on it.
    pub fn another(identity: super::Identity) -> Self {
        // Any site will do: the point is that the client is logged in already.
        Self { was_at: Some(Site::Local), ..Self::first(identity) }
    }

    fn of(session: &Session) -> Self {
        let memory = &session.relay.memory;
        Self {
            identity: session.identity.clone(),
            settings: memory.settings().map(str::to_owned).collect(),
            statements: memory.statements().map(<[u8]>::to_vec).collect(),
            was_at: Some(session.last_site),
        }
    }
}

/// A new link on which everything was made again.
#[derive(Debug)]
pub struct Made {
    /// The link.
    pub checkout: Checkout,
    /// Where it leads.
    pub destination: Destination,
    /// The version of the map that says so.
    pub version: u64,
    /// All settings that the server has reported, the last value of each.
    pub reported: Vec<Reported>,
}

/// Why there is no link.
#[derive(Debug)]
pub enum NoLink {
    /// Not now: the statement is refused with this ERROR and the session goes on.
    Refused(Complaint),
    /// Not any more: the session ends with these bytes.
    Ended(BytesMut),
}

impl NoLink {
    /// The server refused to make the session's settings on another link.
    pub fn refused(report: &Report) -> Self {
        let detail = format!("The server refused to make the session again: {report}.");
        NoLink::Ended(cannot_move(detail).to_bytes())
    }
}

impl super::Shared {
    /// Holds until there is a writer, then makes a link to it; waits at most `hold_timeout`. Can be
    /// called on any runtime.
    pub async fn link(self: Arc<Self>, wanted: Wanted) -> Result<Made, NoLink> {
        let wanted = Arc::new(wanted);
        let mut full_until = None;
        let began = sys::now();
        let mut changes = self.routes.changes();
        let mut has_held = false;
        loop {
            changes.borrow_and_update();
            let map = self.routes.map();
            if map.is_draining {
                return Err(NoLink::Ended(super::tell::shutting_down().to_bytes()));
            }
            let is_halted = !map.halts.gives_links(&wanted.identity.database);
            let pause = match &map.door {
                _ if is_halted && map.halts.entry == Entry::NobodyWaits => {
                    return Err(NoLink::Ended(super::tell::shutting_down().to_bytes()));
                }
                Door::Open | Door::Holding if is_halted => None,
                Door::Closed { reason } => return Err(NoLink::Refused(no_writer(reason.clone()))),
                Door::Open if self.routes.gate().is_open(sys::now()) => {
                    let full_until = match wanted.was_at {
                        Some(_) => *full_until.get_or_insert_with(|| sys::now() + FULL_WITHIN),
                        // At a log-in the server's word is passed on at once.
                        None => Moment::default(),
                    };
                    match self.attempt(&map, &wanted, full_until).await? {
                        ControlFlow::Break(made) => return Ok(made),
                        ControlFlow::Continue(pause) => Some(pause),
                    }
                }
                Door::Open | Door::Holding => None,
            };
            if !std::mem::replace(&mut has_held, true) {
                count(&self.counters.holds);
            }
            let now = sys::now();
            let patience = self.hold_patience(is_halted);
            let deadline = began + patience;
            if now >= deadline {
                let why = match is_halted {
                    true => "the database is paused",
                    false => "no server can take statements now",
                };
                return Err(NoLink::Refused(no_writer(why)));
            }
            let rest = deadline.since(now);
            let nap = pause.unwrap_or(rest).min(rest);
            // Woken by the next change of the map, or after the pause.
            let _ = tokio::time::timeout(nap, changes.changed()).await;
        }
    }

    /// A link that lies ready for a session that begins; nothing is waited for. Can be called on any
    /// runtime.
    pub fn link_at_hand(&self, identity: &super::Identity) -> Option<Made> {
        let map = self.routes.map();
        let gives_links = map.door == Door::Open
            && !map.is_draining
            && map.halts.gives_links(&identity.database)
            && self.routes.gate().is_open(sys::now());
        if !gives_links {
            return None;
        }
        let request = self.request(identity).ok()?;
        let checkout = self.pool.at_hand(&request)?;
        let Request { destination, .. } = request;
        // What it has reported is told from the lease.
        Some(Made { checkout, destination, version: map.version, reported: Vec::new() })
    }

    /// When a client gives its links back.
    pub fn mode_of(&self, identity: &super::Identity) -> PoolMode {
        self.limits.load().rules(&identity.database, identity.login.user.as_str()).mode
    }

    /// What a client's link would have to be now. Fails with what ends the client.
    pub fn request(&self, identity: &super::Identity) -> Result<Request, BytesMut> {
        let destination = self
            .routes
            .map()
            .resolve(&identity.database)
            .map_err(|no| Complaint::fatal(sqlstate::CANNOT_CONNECT_NOW, no.to_string()).to_bytes())?;
        let (login, parameters) = (identity.login.clone(), identity.parameters.clone());
        Ok(Request { destination, login, parameters })
    }

    /// One attempt. `Continue` says how long to wait before the next one.
    async fn attempt(
        self: &Arc<Self>,
        map: &RouteMap,
        wanted: &Arc<Wanted>,
        full_until: Moment,
    ) -> Result<ControlFlow<Made, Duration>, NoLink> {
        let destination = map.resolve(&wanted.identity.database).map_err(|no| {
            let code = match no {
                NoRoute::Unknown { .. } => sqlstate::UNDEFINED_DATABASE,
                NoRoute::NotMirrored { .. } => sqlstate::CANNOT_CONNECT_NOW,
            };
            NoLink::Ended(Complaint::fatal(code, no.to_string()).to_bytes())
        })?;
        let (this, site, epoch, version) = (self.clone(), destination.site, destination.epoch, map.version);
        let request = Request {
            destination: destination.clone(),
            login: wanted.identity.login.clone(),
            parameters: wanted.identity.parameters.clone(),
        };
        let (asked_for, database) = (wanted.clone(), wanted.identity.database.clone());
        let making = self.control.spawn(async move { this.make(&request, &asked_for).await });
        let making = AbortOnDropHandle::new(making);
        let made = tokio::select! {
            biased;
            made = making => made.unwrap_or(Err(NotMade::Pool(PoolError::ShuttingDown))),
            // A server that is gone may never answer, and nobody wants its answer any more.
            () = self.left(map, &database) => return Ok(ControlFlow::Continue(Duration::ZERO)),
        };
        let error = match made {
            Ok((checkout, reported)) => {
                return Ok(ControlFlow::Break(Made { checkout, destination, version, reported }));
            }
            // A fence refuses log-ins and ends sessions: what such a server says is not for the client.
            Err(_) if self.has_left(map, &database) => return Ok(ControlFlow::Continue(Duration::ZERO)),
            Err(NotMade::Refused(report)) => {
                return Err(NoLink::refused(&report));
            }
            Err(NotMade::Broken) => return Ok(ControlFlow::Continue(Duration::from_millis(50))),
            Err(NotMade::Pool(error)) => error,
        };
        match (&error, error.retry()) {
            (PoolError::Full { limit, .. }, _) => Err(full(&error, *limit, wanted)),
            (PoolError::Backend(backend), retry) => {
                let is_full = backend.report().is_some_and(|report| {
                    let code = report.code();
                    matches!(code.as_ref(), sqlstate::TOO_MANY_CONNECTIONS | "53400")
                });
                if is_full && sys::now() < full_until {
                    return Ok(ControlFlow::Continue(Duration::from_millis(100)));
                }
                if let Some(report) = backend.report()
                    && (retry == Retry::Never || is_full)
                {
                    let mut out = BytesMut::new();
                    error_report(&mut out, report);
                    return Err(NoLink::Ended(out));
                }
                if retry == Retry::Never {
                    let complaint = Complaint::fatal("08006", error.to_string());
                    return Err(NoLink::Ended(complaint.to_bytes()));
                }
                // Refused, starting up, lost: whether the server is gone is judged elsewhere.
                let (verdict, judged) = oneshot::channel();
                let suspicion = Suspicion { site, epoch, sign: Sign::ConnectFailed, verdict };
                if self.suspicions.send(suspicion).await.is_ok() {
                    let _ = tokio::time::timeout(VERDICT_WITHIN, judged).await;
                }
                Ok(ControlFlow::Continue(self.limits.load().server_login_retry))
            }
            (PoolError::ShuttingDown, _) => Err(NoLink::Ended(super::tell::shutting_down().to_bytes())),
        }
    }

    /// How long a client waits for a link: while an operator has stopped its database, as long as for one
    /// that others use.
    fn hold_patience(&self, is_halted: bool) -> Duration {
        match is_halted {
            true => self.limits.load().query_wait_timeout,
            false => **self.hold_timeout.load(),
        }
    }

    /// Whether links that `map` leads to are void, or not wanted any more.
    fn has_left(&self, map: &RouteMap, database: &[u8]) -> bool {
        let now = self.routes.map();
        now.way() != map.way() || now.is_draining || !now.halts.gives_links(database)
    }

    /// Waits until that is so.
    async fn left(&self, map: &RouteMap, database: &[u8]) {
        // The sender lives as long as the routes.
        let _ = self.routes.changes().wait_for(|_| self.has_left(map, database)).await;
    }

    /// On the control runtime: a link, and the session's settings and statements made on it.
    async fn make(&self, request: &Request, wanted: &Wanted) -> Result<(Checkout, Vec<Reported>), NotMade> {
        let began = sys::now();
        let checkout = self.pool.check_out(request).await.map_err(NotMade::Pool)?;
        let (database, user) = (&wanted.identity.database, wanted.identity.login.user.as_str());
        let meter = self.traffic.meter(database, user, Carrier::Control);
        meter.checkout.record_shared(sys::now().since(began));
        let mut reported: Vec<Reported> = checkout.lease.reported().iter().map(super::boxed).collect();
        let script = replay::Script::of(wanted, request.destination.site);
        if script.is_empty() {
            return Ok((checkout, reported));
        }
        let Checkout { stream, leftover, lease, notices } = checkout;
        let mut socket = stream.attach().map_err(|_| NotMade::Broken)?;
        let replayed = script.play(&mut socket, &leftover, &mut reported);
        match tokio::time::timeout(REPLAY_WITHIN, replayed).await {
            Ok(Ok(())) => {}
            Ok(Err(replay::Failure::Refused(report))) => return Err(NotMade::Refused(report)),
            Ok(Err(replay::Failure::Broken)) | Err(_) => return Err(NotMade::Broken),
        }
        let stream = socket.detach().map_err(|_| NotMade::Broken)?;
        Ok((Checkout { stream, leftover: Vec::new(), notices, lease }, reported))
    }
}
