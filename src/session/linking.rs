//! Making a session's next link.

use super::switch::VERDICT_WITHIN;
use super::tell::{cannot_move, no_writer};
use super::walk::Reported;
use super::{Session, Sign, Suspicion, replay};
use crate::backend::Destination;
use crate::base::{Moment, Retry, Site, sqlstate};
use crate::observe::count;
use crate::observe::traffic::Carrier;
use crate::pool::{Checkout, Limit, PoolError, Request};
use crate::route::{Door, Entry, NoRoute, RouteMap};
use crate::sys::{self, Resting};
use crate::wire::message::{Complaint, error_report};
use crate::wire::report::Report;
use bytes::BytesMut;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

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

/// A limit was reached for too long. A session that goes on can try again; a log-in is over.
fn full(error: &PoolError, limit: Limit, wanted: &Wanted) -> NoLink {
    let hint = "Try again later, keep transactions shorter, or raise the limit.";
    let (code, message) = (sqlstate::TOO_MANY_CONNECTIONS, error.to_string());
    match wanted.past {
        Past::None => {
            let complaint = Complaint::fatal(code, message).detail(format!("{limit}.")).hint(hint);
            NoLink::Ended(complaint.to_bytes())
        }
        Past::LoggedIn | Past::At(_) => {
            let detail = format!("{limit}. The statement was not executed.");
            NoLink::Refused(Complaint::error(code, message).detail(detail).hint(hint))
        }
    }
}

/// Waits for another version of the map than the `known` one.
pub(super) async fn wait_for_change(shared: &super::Shared, known: u64, patience: Duration) -> bool {
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
    /// What the session was before.
    pub past: Past,
}

/// What a session that needs a link was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// It is being logged in.
    None,
    /// Logged in, with nothing that has to be made again.
    LoggedIn,
    /// Linked there: types of users have other numbers elsewhere.
    At(Site),
}

impl Wanted {
    /// A first link: nothing to be made again.
    pub fn first(identity: super::Identity) -> Self {
        Self { identity, settings: Vec::new(), statements: Vec::new(), past: Past::None }
    }

    /// Another link for who has nothing to be made again on it.
    pub fn another(identity: super::Identity) -> Self {
        Self { past: Past::LoggedIn, ..Self::first(identity) }
    }

    pub(super) fn of(session: &Session) -> Self {
        let memory = &session.relay.memory;
        Self {
            identity: session.identity.clone(),
            settings: memory.settings().map(str::to_owned).collect(),
            statements: memory.statements().map(<[u8]>::to_vec).collect(),
            past: Past::At(session.last_site),
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
    /// The server has no room for another link, in its own words.
    ServerFull(BytesMut),
}

impl NoLink {
    /// The server refused to make the session's settings on another link.
    pub fn refused(report: &Report) -> Self {
        let detail = format!("The server refused to make the session again: {report}.");
        NoLink::Ended(cannot_move(detail).to_bytes())
    }
}

impl super::Shared {
    /// Says so when nobody is let in any more.
    pub fn lets_in(&self) -> Result<(), NoLink> {
        match self.routes.map().is_draining {
            true => Err(NoLink::Ended(super::tell::shutting_down().to_bytes())),
            false => Ok(()),
        }
    }

    /// Holds until there is a writer, then makes a link to it; waits at most `hold_timeout`. Can be
    /// called on any runtime.
    pub async fn link(self: Arc<Self>, wanted: Wanted) -> Result<Made, NoLink> {
        let wanted = Arc::new(wanted);
        let mut full_until = None;
        let began = sys::now();
        let mut changes = self.routes.changes();
        let mut has_held = false;
        // The way that has failed last, and until when it is not tried again.
        let mut failed: Option<(_, Moment)> = None;
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
                    let full_until = match wanted.past {
                        Past::LoggedIn | Past::At(_) => {
                            *full_until.get_or_insert_with(|| sys::now() + FULL_WITHIN)
                        }
                        // At a log-in the server's word is passed on at once.
                        Past::None => Moment::default(),
                    };
                    // That it is doubted, and no longer, changes the map as well: it is no other way.
                    let (way, now) = (map.way(), sys::now());
                    match failed.filter(|(failed, until)| *failed == way && now < *until) {
                        Some((_, until)) => Some(until.since(now)),
                        None => match self.attempt(&map, &wanted, full_until).await? {
                            ControlFlow::Break(made) => return Ok(made),
                            ControlFlow::Continue(pause) => {
                                failed = Some((way, sys::now() + pause));
                                Some(pause)
                            }
                        },
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
        let request = Self::request_on(&map, identity).ok()?;
        let checkout = self.pool.at_hand(&request)?;
        let Request { destination, .. } = request;
        // What it has reported is told from the lease.
        Some(Made { checkout, destination, version: map.version, reported: Vec::new() })
    }

    /// Whether a client's user has any link to its database.
    pub fn has_links(&self, identity: &super::Identity) -> bool {
        self.request(identity).is_ok_and(|request| self.pool.has_open(&request))
    }

    /// What a client's link would have to be now. Fails with what ends the client.
    pub fn request(&self, identity: &super::Identity) -> Result<Request, BytesMut> {
        Self::request_on(&self.routes.map(), identity)
    }

    fn request_on(map: &RouteMap, identity: &super::Identity) -> Result<Request, BytesMut> {
        let destination = map.resolve(&identity.database).map_err(|no| {
            let code = match no {
                NoRoute::Unknown { .. } => sqlstate::UNDEFINED_DATABASE,
                NoRoute::NotMirrored { .. } => sqlstate::CANNOT_CONNECT_NOW,
            };
            Complaint::fatal(code, no.to_string()).to_bytes()
        })?;
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
        let request = Self::request_on(map, &wanted.identity).map_err(NoLink::Ended)?;
        let destination = request.destination.clone();
        let (this, site, epoch, version) = (self.clone(), destination.site, destination.epoch, map.version);
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
                    if !is_full && let Ok(request) = Self::request_on(map, &wanted.identity) {
                        self.pool.forget_welcomes(&request);
                    }
                    let mut out = BytesMut::new();
                    error_report(&mut out, report);
                    return Err(if is_full { NoLink::ServerFull(out) } else { NoLink::Ended(out) });
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
    pub(super) fn hold_patience(&self, is_halted: bool) -> Duration {
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
        let stream = Resting::here(socket);
        Ok((Checkout { stream, leftover: Vec::new(), notices, lease }, reported))
    }
}
