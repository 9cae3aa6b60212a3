//! The relay's part in the pooled modes: links come and go between two reads.

use super::auto::{Asked, Verdict};
use super::prepare::Progress;
use super::{Side, Taken};
use crate::base::sqlstate;
use crate::observe::clients::ClientState;
use crate::session::linking::NoLink;
use crate::session::relay::{Exit, Linked, Relay, SCRATCH};
use crate::session::tell::cancelled;
use crate::session::walk::{self, ServerWalk};
use crate::sys;
use bytes::BytesMut;
use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll};

thread_local! {
    /// What stands instead of what was read, in the pooled modes, and a part of it.
    static CHANGED: RefCell<(Vec<u8>, Vec<u8>)> = RefCell::default();
}

impl Relay {
    /// In the pooled modes: gives the link to whoever needs it next, unless the client still does.
    pub(in crate::session) fn let_go(&mut self, cx: &Context<'_>) {
        let (Some(pooled), Some(link)) = (&self.pooled, &self.link) else { return };
        if link.has.is_none() || pooled.is_tied() || !self.is_free() {
            if pooled.keeps_statement() {
                self.facts.set_ties(pooled.ties().bits());
            }
            return;
        }
        let (Some(pooled), Some(mut link)) = (&mut self.pooled, self.link.take()) else { return };
        let verdict = link.has.as_mut().map(|has| pooled.verdict(&self.memory, has));
        match verdict {
            Some(Verdict::Free) | None => {
                self.facts.set_ties(0);
                self.facts.set_link(None);
                return pooled.let_go(link, &mut self.memory);
            }
            Some(Verdict::Tied) => self.facts.set_ties(pooled.ties().bits()),
            Some(Verdict::Lingering) => {
                pooled.linger(cx.waker());
                self.facts.set_ties(pooled.ties().bits());
            }
            Some(Verdict::Ask(bytes)) => {
                self.to_server.push(&bytes);
                // It is written when the relay is polled.
                cx.waker().wake_by_ref();
            }
        }
        self.link = Some(link);
    }

    /// Whether nothing is owed by anybody, and nobody is in the middle of something.
    fn is_free(&self) -> bool {
        self.ledger.is_clean()
            && self.client_walk.is_between_messages()
            && !self.client_walk.pass_next
            && self.server_walk.is_between_messages()
            && self.server_in.is_empty()
            && self.to_server.is_empty()
            && self.to_client.is_empty()
            && !self.client_ended
            && !self.awaits_end
            && !self.stop_when_quiet
            && !self.look_again
    }

    /// The same for a session of the pooled modes.
    pub(in crate::session) fn answer_pooled(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Option<Exit> {
        let (Some(pooled), Some(link)) = (&mut self.pooled, &mut self.link) else { return None };
        let has = link.has.as_mut()?;
        let mut news = Vec::new();
        // What stands behind an answer of ours that is over is the client's, and may be all that comes.
        let mut keep = |behind: &[u8], is_over: bool| {
            self.server_in.extend_from_slice(behind);
            self.look_at_server = is_over && !self.server_in.is_empty();
        };
        if pooled.is_asking() {
            let (read, asked) = pooled.read_probe(bytes, has, &mut self.memory, &mut news);
            self.to_client.push(&news);
            keep(&bytes[read..], matches!(asked, Asked::Known));
            self.facts.set_ties(pooled.ties().bits());
            return match asked {
                Asked::Unfinished => None,
                Asked::Again(bytes) => {
                    self.to_server.push(&bytes);
                    None
                }
                Asked::Known => {
                    // At once: the client's next statement may be there already, and must not find what
                    // the transaction before it has left.
                    self.let_go(cx);
                    None
                }
                Asked::Ended(report) => Some(Exit::LinkLost { report: Some(report) }),
                Asked::Violation => Some(Exit::ServerViolation("invalid message from the server".to_owned())),
            };
        }
        if pooled.is_preparing() {
            let (read, progress) = pooled.read_preparation(bytes, has, &mut news);
            self.to_client.push(&news);
            keep(&bytes[read..], matches!(progress, Progress::Brought | Progress::Done));
            return match progress {
                Progress::Unfinished => None,
                Progress::Brought => {
                    self.look_again = true;
                    None
                }
                Progress::Done => {
                    let mut out = BytesMut::new();
                    pooled.tell(has, &mut out);
                    self.to_client.push(&out);
                    self.look_again = true;
                    None
                }
                Progress::Again(bytes) => {
                    self.to_server.push(&bytes);
                    None
                }
                // The client means its statement, which was not sent.
                Progress::Refused(report) if report.code() == sqlstate::QUERY_CANCELED => {
                    pooled.on_link_lost();
                    self.link = None;
                    self.facts.set_link(None);
                    self.server_in.clear();
                    Some(Exit::NoLink(NoLink::Refused(cancelled())))
                }
                Progress::Refused(report) => Some(Exit::NoLink(NoLink::refused(&report))),
                Progress::Ended(report) => Some(Exit::LinkLost { report: Some(report) }),
                Progress::Violation => {
                    Some(Exit::ServerViolation("invalid message from the server".to_owned()))
                }
            };
        }
        let stop = CHANGED.with_borrow_mut(|(out, patch)| {
            let side = Side {
                walk: &mut self.server_walk,
                ledger: &mut self.ledger,
                memory: &mut self.memory,
                has,
                patch,
            };
            let (region, is_changed) = pooled.answer(bytes, side, out);
            self.server_in.extend_from_slice(&bytes[region.length..]);
            let pass = if is_changed { out.as_slice() } else { &bytes[..region.length] };
            let passed = match pass.is_empty() {
                true => Ok(()),
                false => self.to_client.pass(&mut self.client, pass, cx),
            };
            empty_scratch(out);
            match passed {
                Ok(()) if pooled.has_begun_block => Err(Exit::BlockBegun),
                Ok(()) => Ok(region.stop),
                Err(_) => Err(Exit::ClientGone { is_half: false }),
            }
        });
        match stop {
            Ok(stop) => self.after_answer(stop),
            Err(exit) => Some(exit),
        }
    }

    /// In the pooled modes, for a client that has spoken: a link that is fit. `None` when the statement
    /// can be sent now.
    pub(in crate::session) fn take_link(
        &mut self,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> Option<Poll<Option<Exit>>> {
        let keep = |this: &mut Self| {
            this.client_in.extend_from_slice(bytes);
            this.look_again = true;
        };
        if !walk::is_front_at_hand(bytes) {
            self.client_in.extend_from_slice(bytes);
            return Some(Poll::Ready(None));
        }
        if bytes.first() == Some(&b'X') {
            keep(self);
            return Some(Poll::Ready(Some(Exit::NeedLink)));
        }
        let pooled = self.pooled.as_mut()?;
        match pooled.take(cx) {
            Taken::Link(link) => match self.use_link(link) {
                None => None,
                Some(()) => {
                    keep(self);
                    Some(Poll::Ready(None))
                }
            },
            Taken::InLine => {
                keep(self);
                self.facts.set_state(ClientState::Waiting, sys::now());
                // To be polled in line: whether the client leaves is watched from there.
                Some(Poll::Ready(None))
            }
            Taken::NotNow => {
                keep(self);
                Some(Poll::Ready(Some(Exit::NeedLink)))
            }
        }
    }

    /// The client waits for a link no more.
    pub(in crate::session) fn waits_no_more(&self) {
        if self.facts.state() == ClientState::Waiting {
            self.facts.set_state(ClientState::Idle, sys::now());
        }
    }

    /// Takes a link into use. `Some` when something has to be sent to it and answered first.
    pub(in crate::session) fn use_link(&mut self, mut link: Linked) -> Option<()> {
        self.waits_no_more();
        let pooled = self.pooled.as_mut()?;
        self.server_walk = ServerWalk::default();
        let preparing = pooled.prepare(&mut link);
        if let Some(has) = &mut link.has {
            if preparing.is_none() {
                let mut out = BytesMut::new();
                pooled.tell(has, &mut out);
                self.to_client.push(&out);
            }
            self.server_in = std::mem::take(&mut has.leftover);
            self.look_at_server = !self.server_in.is_empty();
        }
        self.link = Some(link);
        self.server_bell.forget();
        self.tell_of_link();
        self.account.meter().server_assignments.add(1);
        self.is_held = false;
        self.to_server.push(&preparing?);
        Some(())
    }

    /// Whether the link has to be made fit once more, now that it is known what the client wants.
    pub(in crate::session) fn prepare_again(&mut self) -> bool {
        let (Some(pooled), Some(link)) = (&mut self.pooled, &mut self.link) else { return false };
        if let Some(has) = &mut link.has
            && let Some(bytes) = pooled.bring_now(&self.ledger, has)
        {
            self.to_server.push(&bytes);
            return true;
        }
        if !self.ledger.is_clean() {
            return false;
        }
        let Some(bytes) = pooled.prepare(link) else { return false };
        self.to_server.push(&bytes);
        true
    }

    /// One walk over the client's bytes in the pooled modes, and what passes is sent.
    pub(in crate::session) fn ask_pooled(
        &mut self,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> io::Result<Option<walk::Region>> {
        let (Some(pooled), Some(link)) = (&mut self.pooled, &mut self.link) else { return Ok(None) };
        let Some(has) = &mut link.has else { return Ok(None) };
        CHANGED.with_borrow_mut(|(out, patch)| {
            let side = Side {
                walk: &mut self.client_walk,
                ledger: &mut self.ledger,
                memory: &mut self.memory,
                has,
                patch,
            };
            let (region, is_changed) = pooled.ask(bytes, side, out);
            let pass = if is_changed { out.as_slice() } else { &bytes[..region.length] };
            let passed = self.to_server.pass(&mut link.stream, pass, cx);
            empty_scratch(out);
            if pooled.has_due_answers(&self.ledger) {
                pooled.due_answers(&self.ledger, out);
                self.to_client.push(out);
                out.clear();
            }
            passed.map(|()| Some(region))
        })
    }
}

/// The thread's buffers stay small.
fn empty_scratch(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.shrink_to(4 * SCRATCH);
}
