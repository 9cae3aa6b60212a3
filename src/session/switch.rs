//! Losing a link and making another one.

use super::gone::gone;
use super::linking::{Made, NoLink, Wanted, wait_for_change};
use super::relay::{Linked, Relay};
use super::tell::{cancelled, cannot_move, no_writer, outcome_unknown, time_to_tell};
use super::{Flow, Session, Sign, Suspicion, Verdict};
use crate::backend::Destination;
use crate::base::{Epoch, Site};
use crate::observe::clients::ClientState;
use crate::observe::count;
use crate::route::{Door, Entry, Halt, RouteMap};
use crate::sys;
use crate::wire::frame::{HEADER, Head, head};
use crate::wire::message::{TransactionStatus, error_report, parameter_status};
use crate::wire::report::Report;
use bytes::BytesMut;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a verdict may take: longer than the probes that lead to it.
pub(super) const VERDICT_WITHIN: Duration = Duration::from_secs(5);

impl Relay {
    /// This map of routes holds from now on. Whether the link is still on its way is for the caller to see.
    pub(super) fn follow(&mut self, map: &RouteMap) {
        self.version = map.version;
        self.is_draining = map.is_draining;
        if let Some(pooled) = &mut self.pooled {
            pooled.follow(map);
        }
        self.is_held = self.link.is_some() && map.holds_everything();
        // SUSPEND waits for everybody to be between two messages.
        self.stop_when_quiet |= map.halts.all == Halt::Suspended;
    }
}

impl Session {
    /// The map of routes has changed: maybe the door, maybe the writer.
    pub(super) async fn on_route_changed(&mut self) -> Flow {
        let map = self.shared.routes.map();
        self.relay.follow(&map);
        let Some(link) = &self.relay.link else { return Flow::Continue(()) };
        if link.way() != map.way() {
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
            return self.leave(true);
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
        let (pid, said) = (self.cancel_key.pid(), report.as_ref().map(ToString::to_string));
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
        if let (Some(pooled), Some(link)) = (&mut relay.pooled, &relay.link) {
            pooled.on_link_given_up(link);
        }
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
        // What had to wait for answers on that link waits no more.
        relay.look_again |= !relay.client_in.is_empty();
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

    /// After how long a client is told that it waits.
    fn notify(&self) -> Option<Duration> {
        self.shared.limits.load().query_wait_notify
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
            return self.leave(true);
        }
        if self.relay.pooled.is_some() {
            return self.on_held_without_link().await;
        }
        let began = sys::now();
        self.entry.facts().set_state(ClientState::Waiting, began);
        let mut linking = pin!(self.shared.clone().link(Wanted::of(self)));
        let (mut notice, mut was_told) = (pin!(time_to_tell(self.notify())), false);
        let linked = loop {
            tokio::select! {
                linked = &mut linking => break Some(linked),
                () = self.cancel_key.asked() => break Some(Err(NoLink::Refused(cancelled()))),
                () = gone(&mut self.relay.client, &mut self.relay.client_in) => break None,
                () = &mut notice, if !was_told => was_told = true,
            }
            self.say_that_it_waits().await?;
        };
        let now = sys::now();
        self.entry.facts().set_state(ClientState::Idle, now);
        self.relay.account.meter().waited(now.since(began));
        match linked {
            Some(Ok(made)) => self.take_over(made).await,
            Some(Err(no_link)) => self.on_no_link(no_link).await,
            None => self.leave(false),
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
        self.entry.facts().set_state(ClientState::Waiting, sys::now());
        let patience = self.shared.hold_patience(is_halted);
        let shared = self.shared.clone();
        let mut changing = pin!(wait_for_change(&shared, self.relay.version, patience));
        let (mut notice, mut was_told) = (pin!(time_to_tell(self.notify())), false);
        let refused = loop {
            tokio::select! {
                is_changed = &mut changing => match is_changed {
                    true => {
                        // Before the routes are looked at again: who waits counts as settled.
                        self.relay.waits_no_more();
                        return Flow::Continue(());
                    }
                    false => break no_writer("no server can take statements now"),
                },
                () = self.cancel_key.asked() => break cancelled(),
                () = gone(&mut self.relay.client, &mut self.relay.client_in) => return self.leave(false),
                () = &mut notice, if !was_told => was_told = true,
            }
            if !self.relay.pooled.as_mut().is_some_and(|it| it.told_that_it_waits()) {
                self.say_that_it_waits().await?;
            }
        };
        self.on_no_link(NoLink::Refused(refused)).await
    }

    /// There is no link for the client's statement.
    pub(super) async fn on_no_link(&mut self, no_link: NoLink) -> Flow {
        match no_link {
            NoLink::Refused(complaint) => {
                count(&self.shared.counters.statements_refused);
                self.relay.waits_no_more();
                if let Some(pooled) = &mut self.relay.pooled {
                    pooled.has_waited();
                }
                self.refuse_next(&complaint).await
            }
            NoLink::Ended(bytes) | NoLink::ServerFull(bytes) => {
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
