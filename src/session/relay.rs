//! The bytes' way: one client socket, one link, polled together by one task.
//!
//! [`Relay::poll`] reads into the thread's scratch buffer, lets the walks decide what passes and
//! writes each region in one piece. It returns only when something has to be decided; then
//! [`super::Session`] decides at leisure and polls again. An idle relay owns no buffer.

use super::account::Account;
use super::bell::Bell;
use super::gone::Watch;
use super::incoming::{read_in, take_carry};
use super::ledger::Ledger;
use super::linking::NoLink;
use super::memory::Memory;
use super::notice::Concerned;
use super::outgoing::Outgoing;
use super::pooled::Pooled;
use super::pooled::has::Has;
use super::tell;
use super::walk::{self, ClientWalk, Reported, ServerWalk, Stop};
use crate::base::{Epoch, Site};
use crate::observe::clients::ClientFacts;
use crate::observe::links::LinkState;
use crate::pool::Lease;
use crate::route::Routes;
use crate::sys::{self, Socket};
use crate::wire::frame::{HEADER, cstring};
use crate::wire::report::Report;
use bytes::Bytes;
use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Size of the scratch buffer of a data thread.
pub const SCRATCH: usize = 64 << 10;
/// Reads of one poll before the task lets others run.
const READS_PER_POLL: usize = 8;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// The server's side of a session.
#[derive(Debug)]
pub struct Linked {
    /// The socket, registered with the data thread's runtime.
    pub stream: Socket,
    /// Which site it leads to.
    pub site: Site,
    /// Under which epoch it was opened.
    pub epoch: Epoch,
    /// In which life of the server.
    pub life: u64,
    /// What gives it back.
    pub lease: Lease,
    /// What it has, in the pooled modes.
    pub has: Option<Box<Has>>,
}

impl Linked {
    /// Where it leads.
    pub fn way(&self) -> (Site, Epoch, u64) {
        (self.site, self.epoch, self.life)
    }

    /// Whether it is another one's turn to have it: every eighth time.
    pub fn is_worn(&self) -> bool {
        self.has.as_ref().is_some_and(|has| has.uses % 8 == 0)
    }
}

/// Why the relay stopped.
#[derive(Debug)]
pub enum Exit {
    /// The map of routes has another version than the one we know.
    RouteChanged,
    /// The lease has run out and something is in flight: nothing more is sent to the writer, none of
    /// its answers passes.
    GateShut,
    /// The client has spoken, and its statement must not be sent now: the door is not open, or the
    /// lease has run out. Nothing is in flight.
    Held,
    /// The next client message is for us, at the front of `client_in`. It is whole, unless it is to be
    /// dropped.
    Own,
    /// A statement has passed that these links must not outlive.
    Concerns(Concerned),
    /// The client has said Terminate, which is at the front of `client_in`.
    Terminate,
    /// The client's socket is at its end, or broken.
    ClientGone {
        /// Whether it may still read.
        is_half: bool,
    },
    /// The client has spoken and there is no link.
    NeedLink,
    /// The client has spoken, and no link can be made.
    NoLink(NoLink),
    /// Statement mode: the client has begun a transaction block.
    BlockBegun,
    /// The link is broken, or the server has announced its end.
    LinkLost {
        /// What the server said, which was not passed on.
        report: Option<Report>,
    },
    /// The client does not speak the protocol.
    ClientViolation(String),
    /// The server does not.
    ServerViolation(String),
    /// Everything sent was answered ([`Relay::stop_when_quiet`] was set).
    Quiet,
    /// The process is about to end, and the session is between two transactions.
    Drained,
    /// Somebody wants something of this session ([`ClientFacts::take_order`]).
    Ordered,
}

/// See the module.
#[derive(Debug)]
pub struct Relay {
    /// The client.
    pub client: Socket,
    /// The server, while there is one.
    pub link: Option<Linked>,
    /// What is owed.
    pub ledger: Ledger,
    /// What must be made again elsewhere.
    pub memory: Memory,
    /// The client's direction.
    pub client_walk: ClientWalk,
    /// The server's direction.
    pub server_walk: ServerWalk,
    /// Read from the client and not passed.
    pub client_in: Vec<u8>,
    /// Read from the server and not passed.
    pub server_in: Vec<u8>,
    /// To be written to the client before anything else.
    pub to_client: Outgoing,
    /// To be written to the server before anything else.
    pub to_server: Outgoing,
    /// The version of the routes that `link` was checked against.
    pub version: u64,
    /// The door is not open: stop with [`Exit::Held`] at the client's next statement, and do not
    /// read the client while something is in flight.
    pub is_held: bool,
    /// A write to the server has failed: nothing is sent before its end has been read.
    pub awaits_end: bool,
    /// Stop with [`Exit::Quiet`] and do not read the client until then.
    pub stop_when_quiet: bool,
    /// Stop with [`Exit::Drained`] when the session is between two transactions.
    pub is_draining: bool,
    /// The client sends no more.
    pub client_ended: bool,
    /// Shut our side of the link once everything is written.
    pub finish_server: bool,
    /// Settings that the server has reported since the link was made.
    pub reported: Vec<Reported>,
    /// Look at `client_in` before reading.
    pub look_again: bool,
    /// Look at `server_in` before reading.
    pub look_at_server: bool,
    /// In the pooled modes: what the session has besides.
    pub pooled: Option<Box<Pooled>>,
    /// Whether the client leaves while it waits in line.
    watch: Watch,
    client_bell: Bell,
    pub(super) server_bell: Bell,
    /// What was carried.
    pub account: Account,
    routes: Routes,
    pub(super) facts: Arc<ClientFacts>,
}

impl Relay {
    /// A relay without a link.
    pub fn new(
        client: Socket,
        client_in: Vec<u8>,
        routes: Routes,
        facts: Arc<ClientFacts>,
        account: Account,
    ) -> Self {
        Self {
            client,
            link: None,
            ledger: Ledger::default(),
            memory: Memory::default(),
            client_walk: ClientWalk::default(),
            server_walk: ServerWalk::default(),
            look_again: !client_in.is_empty(),
            client_in,
            server_in: Vec::new(),
            to_client: Outgoing::default(),
            to_server: Outgoing::default(),
            version: 0,
            is_held: false,
            awaits_end: false,
            stop_when_quiet: false,
            is_draining: false,
            client_ended: false,
            finish_server: false,
            reported: Vec::new(),
            look_at_server: false,
            pooled: None,
            watch: Watch::default(),
            client_bell: Bell::default(),
            server_bell: Bell::default(),
            account,
            routes,
            facts,
        }
    }

    /// Lists which client has which link.
    pub fn tell_of_link(&self) {
        let Some(link) = &self.link else { return };
        let listed = link.lease.link();
        listed.set_state(LinkState::Active);
        listed.set_client(Some(self.facts.id), self.facts.request_at());
        self.facts.set_link(Some((listed.id, listed.origin.pid)));
    }

    /// Carries bytes both ways until something has to be decided.
    pub async fn run(&mut self) -> Exit {
        // Meanwhile others have read, and perhaps linked us elsewhere.
        self.client_bell.forget();
        self.server_bell.forget();
        std::future::poll_fn(|cx| BUFFER.with(|buffer| self.poll(cx, &mut buffer.borrow_mut()))).await
    }

    fn poll(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Exit> {
        if self.routes.version() != self.version {
            return Poll::Ready(Exit::RouteChanged);
        }
        if self.facts.has_order() {
            return Poll::Ready(Exit::Ordered);
        }
        for _ in 0..READS_PER_POLL {
            let answered = self.poll_server(cx, scratch);
            if let Poll::Ready(Some(exit)) = answered {
                return Poll::Ready(exit);
            }
            let asked = self.poll_client(cx, scratch);
            if let Poll::Ready(Some(exit)) = asked {
                return Poll::Ready(exit);
            }
            if answered.is_pending() && asked.is_pending() {
                self.let_go(cx);
                return Poll::Pending;
            }
        }
        self.let_go(cx);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The text of a prepared statement of the client's.
    pub fn statement_text(&self, name: &[u8]) -> Option<&[u8]> {
        match &self.pooled {
            Some(pooled) => pooled.text_of(name),
            None => {
                let parse = self.memory.statement(name)?;
                let (_, text) = cstring(&parse[HEADER..])?;
                Some(cstring(text)?.0)
            }
        }
    }

    /// Whether nothing is in flight, and no message of either side is half on its way.
    pub fn is_settled(&self) -> bool {
        self.ledger.is_settled()
            && self.client_walk.is_between_messages()
            && self.server_walk.is_between_messages()
    }

    /// Writes what the client has not taken yet, unless an acknowledgement that may be among it has
    /// become too late: where a message ends in it is not known, so nothing more can be said then.
    pub fn write_client(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unwritten>> {
        if self.to_client.holds_answers && !self.may_answer() {
            return Poll::Ready(Err(Unwritten::Late));
        }
        self.to_client.write(&mut self.client, cx).map_err(|_| Unwritten::Gone)
    }

    /// Whether the writer's answers may pass.
    fn may_answer(&self) -> bool {
        let is_current = |link: &Linked| link.epoch == self.routes.map().epoch;
        self.routes.gate().is_open_by(sys::now) && self.link.as_ref().is_none_or(is_current)
    }

    /// Whether the client waits for answers that must not pass any more.
    pub fn is_late(&self) -> bool {
        self.to_client.holds_answers && !self.may_answer()
    }

    /// Whether words of our own can stand between those of the server.
    pub fn is_quiet(&self) -> bool {
        self.ledger.is_quiet() && self.server_walk.is_between_messages()
    }

    /// One step from the server to the client; `Ready(None)` when something moved.
    fn poll_server(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Option<Exit>> {
        if !self.to_client.is_empty() {
            match ready!(self.write_client(cx)) {
                Ok(()) => {}
                Err(Unwritten::Late) => return Poll::Ready(Some(Exit::GateShut)),
                Err(Unwritten::Gone) => return Poll::Ready(Some(Exit::ClientGone { is_half: false })),
            }
        }
        // While COPY reads, nothing of the client's is for us: its messages are looked at again.
        if self.stop_when_quiet && (self.is_quiet() || self.ledger.has_no_place()) {
            return Poll::Ready(Some(Exit::Quiet));
        }
        if self.is_draining && self.ledger.is_clean() && self.client_walk.is_between_messages() {
            return Poll::Ready(Some(Exit::Drained));
        }
        let Some(link) = &mut self.link else { return Poll::Pending };
        let length = if std::mem::take(&mut self.look_at_server) {
            take_carry(&mut self.server_in, scratch)
        } else {
            let kept = &mut self.server_in;
            match ready!(self.server_bell.poll(cx, |cx| read_in(&mut link.stream, kept, scratch, cx))) {
                Ok(Some(length)) => length,
                Ok(None) | Err(_) => return Poll::Ready(Some(Exit::LinkLost { report: None })),
            }
        };
        let bytes = &scratch[..length];
        // The gate first, then the version: an open gate of a version that still holds was open
        // under the epoch of this link.
        let is_open = self.routes.gate().is_open_by(sys::now);
        if self.routes.version() != self.version || !is_open {
            self.server_in.extend_from_slice(bytes);
            self.look_at_server = true;
            if !is_open && self.is_settled() {
                // Nobody waits for it: it is looked at again when the routes change.
                return Poll::Pending;
            }
            let exit = if is_open { Exit::RouteChanged } else { Exit::GateShut };
            return Poll::Ready(Some(exit));
        }
        if self.pooled.is_some() {
            let is_for_us = self.pooled.as_ref().is_some_and(|it| it.is_asking() || it.is_preparing());
            let exit = self.answer_pooled(bytes, cx);
            let passed = if is_for_us { 0 } else { bytes.len().saturating_sub(self.server_in.len()) };
            self.account.on_server(passed, &self.ledger);
            return Poll::Ready(exit);
        }
        let region = self.server_walk.walk(bytes, &mut self.ledger, &mut self.memory, &mut self.reported);
        self.account.on_server(region.length, &self.ledger);
        let (pass, tail) = bytes.split_at(region.length);
        self.server_in.extend_from_slice(tail);
        if !self.client_ended || !pass.is_empty() {
            match self.to_client.pass(&mut self.client, pass, cx) {
                Ok(()) => {}
                Err(_) => return Poll::Ready(Some(Exit::ClientGone { is_half: false })),
            }
        }
        Poll::Ready(self.after_answer(region.stop))
    }

    /// What comes of a walk over the server's bytes.
    pub(super) fn after_answer(&mut self, stop: Stop) -> Option<Exit> {
        match stop {
            Stop::End | Stop::Partial => None,
            Stop::Lost { total } => {
                let body = Bytes::copy_from_slice(&self.server_in[HEADER..total]);
                Some(Exit::LinkLost { report: Some(Report::new(body)) })
            }
            Stop::Violation { message } => Some(Exit::ServerViolation(message)),
            Stop::Own | Stop::Terminate | Stop::Later => {
                unreachable!("a server's walk does not stop at {stop:?}")
            }
        }
    }

    /// One step from the client to the server; `Ready(None)` when something moved.
    fn poll_client(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Option<Exit>> {
        if let Some(link) = &mut self.link
            && !self.to_server.is_empty()
            && ready!(self.to_server.write(&mut link.stream, cx)).is_err()
        {
            return Poll::Ready(self.link_lost_while_writing());
        }
        if std::mem::take(&mut self.finish_server)
            && let Some(link) = &mut self.link
        {
            self.finish_server = Pin::new(&mut link.stream).poll_shutdown(cx).is_pending();
        }
        if self.awaits_end
            || self.stop_when_quiet
            || self.client_ended
            || self.is_held && self.link.is_some() && !self.is_settled()
        {
            return Poll::Pending;
        }
        if let Some(pooled) = &mut self.pooled {
            let (waits, has_waited) = pooled.waits(&self.ledger);
            if waits || pooled.is_preparing() || pooled.is_asking() {
                return Poll::Pending;
            }
            self.look_again |= has_waited;
            if has_waited && self.prepare_again() {
                return Poll::Ready(None);
            }
            let Some(pooled) = &mut self.pooled else { return Poll::Pending };
            if let Some(since) = pooled.waits_since() {
                match pooled.poll_line(cx) {
                    Poll::Ready(Ok(link)) => {
                        self.watch.end();
                        self.account.meter().waited(sys::now().since(since));
                        if self.use_link(link).is_some() {
                            return Poll::Ready(None);
                        }
                    }
                    Poll::Ready(Err(no_link)) => {
                        self.watch.end();
                        return Poll::Ready(Some(Exit::NoLink(no_link)));
                    }
                    Poll::Pending => {
                        if pooled.takes_notice() {
                            self.to_client.push(&tell::waits().to_bytes());
                            return Poll::Ready(None);
                        }
                        self.client_bell.forget();
                        ready!(self.watch.poll(&mut self.client, &mut self.client_in, cx));
                        pooled.leave_line();
                        return Poll::Ready(Some(Exit::ClientGone { is_half: false }));
                    }
                }
            }
        }
        let length = if std::mem::take(&mut self.look_again) && !self.client_in.is_empty() {
            take_carry(&mut self.client_in, scratch)
        } else {
            let (client, kept) = (&mut self.client, &mut self.client_in);
            match ready!(self.client_bell.poll(cx, |cx| read_in(client, kept, scratch, cx))) {
                Ok(Some(length)) => length,
                Ok(None) => return Poll::Ready(Some(Exit::ClientGone { is_half: true })),
                Err(_) => return Poll::Ready(Some(Exit::ClientGone { is_half: false })),
            }
        };
        let bytes = &scratch[self.client_walk.drop_front(length)..length];
        if bytes.is_empty() {
            return Poll::Ready(None);
        }
        if self.link.is_none() && bytes.len() >= HEADER && self.client_walk.drops(bytes[0]) {
            self.client_in.extend_from_slice(bytes);
            self.look_again = true;
            return Poll::Ready(Some(Exit::Own));
        }
        let is_open = self.routes.gate().is_open_by(sys::now);
        if self.link.is_none()
            && self.pooled.is_some()
            && is_open
            && let Some(not_yet) = self.take_link(bytes, cx)
        {
            return not_yet;
        }
        let refused = match &self.link {
            None => Some(Exit::NeedLink),
            Some(_) if self.routes.version() != self.version => Some(Exit::RouteChanged),
            Some(_) if (self.is_held || !is_open) && self.is_settled() => Some(Exit::Held),
            Some(_) if !is_open => Some(Exit::GateShut),
            Some(_) => None,
        };
        if let Some(exit) = refused {
            self.client_in.extend_from_slice(bytes);
            if matches!(exit, Exit::NeedLink | Exit::Held) && !walk::is_front_at_hand(bytes) {
                // Half a message: the routes may change while its client takes its time.
                return Poll::Ready(None);
            }
            self.look_again = true;
            return Poll::Ready(Some(exit));
        }
        self.account.begin();
        let region = match self.ask_pooled(bytes, cx) {
            Ok(Some(region)) => {
                self.client_in.extend_from_slice(&bytes[region.length..]);
                region
            }
            Ok(None) => {
                let region = self.client_walk.walk(bytes, &mut self.ledger, &mut self.memory);
                let (pass, tail) = bytes.split_at(region.length);
                self.client_in.extend_from_slice(tail);
                let link = self.link.as_mut().expect("it was there a moment ago");
                if self.to_server.pass(&mut link.stream, pass, cx).is_err() {
                    return Poll::Ready(self.link_lost_while_writing());
                }
                region
            }
            Err(_) => return Poll::Ready(self.link_lost_while_writing()),
        };
        self.account.on_client(region.length, &self.ledger);
        if self.client_walk.concerned != Concerned::None {
            self.look_again |= !self.client_in.is_empty();
            return Poll::Ready(Some(Exit::Concerns(std::mem::take(&mut self.client_walk.concerned))));
        }
        let exit = match region.stop {
            Stop::End | Stop::Partial | Stop::Later => return Poll::Ready(None),
            Stop::Own => Exit::Own,
            Stop::Terminate => Exit::Terminate,
            Stop::Violation { message } => Exit::ClientViolation(message),
            Stop::Lost { .. } => unreachable!("a client's walk does not stop at {:?}", region.stop),
        };
        self.look_again = true;
        Poll::Ready(Some(exit))
    }

    /// A server that closes has often said why before: reading finds it, or the end.
    fn link_lost_while_writing(&mut self) -> Option<Exit> {
        self.to_server.clear();
        self.awaits_end = true;
        None
    }
}

/// Throws away what comes until the end of the stream.
pub async fn read_out(stream: &mut Socket) {
    let mut poll = |cx: &mut Context<'_>, scratch: &mut [u8]| loop {
        let mut buffer = ReadBuf::new(scratch);
        match ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer)) {
            Ok(()) if !buffer.filled().is_empty() => {}
            Ok(()) | Err(_) => return Poll::Ready(()),
        }
    };
    std::future::poll_fn(|cx| BUFFER.with(|buffer| poll(cx, &mut buffer.borrow_mut()))).await;
}

/// Why something was not written to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritten {
    /// The client is gone.
    Gone,
    /// The writer's answers among it must not pass any more.
    Late,
}

#[cfg(test)]
mod tests {
    use super::super::account::Passing;
    use super::*;
    use crate::backend::Upstream;
    use crate::base::Moment;
    use crate::observe::clients::{ClientOrigin, Clients};
    use crate::route::RouteMap;
    use crate::sys::Detached;
    use std::future::poll_fn;
    use tokio::io::AsyncReadExt;

    fn routes() -> Routes {
        let routes = Routes::new(RouteMap::alone(Arc::new(Upstream { endpoints: Vec::new() })));
        routes.gate().open_until(Moment::NEVER);
        routes
    }

    #[tokio::test]
    async fn answers_that_the_client_has_not_taken_do_not_pass_the_deadline() {
        let (client, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let attached = |stream: std::os::unix::net::UnixStream| {
            stream.set_nonblocking(true).unwrap();
            Detached::Unix(stream).attach().unwrap()
        };
        let (client, mut other) = (attached(client), attached(other));
        let routes = routes();
        let entry = Clients::default().enter(ClientOrigin::of_test());
        let account = Account::new(Arc::default(), entry.facts().clone(), Passing::Unchanged);
        let mut relay = Relay::new(client, Vec::new(), routes.clone(), entry.facts().clone(), account);
        let answers = vec![b'x'; 4 << 20];
        poll_fn(|cx| Poll::Ready(relay.to_client.pass(&mut relay.client, &answers, cx))).await.unwrap();
        assert!(!relay.to_client.is_empty() && !relay.is_late());
        routes.gate().close();
        assert!(relay.is_late());
        assert_eq!(poll_fn(|cx| relay.write_client(cx)).await, Err(Unwritten::Late));
        routes.gate().open_until(Moment::NEVER);
        let mut taken = vec![0; answers.len()];
        let taking = other.read_exact(&mut taken);
        let (written, taken) = tokio::join!(poll_fn(|cx| relay.write_client(cx)), taking);
        assert_eq!((written, taken.unwrap()), (Ok(()), answers.len()));
        routes.gate().close();
        assert!(!relay.is_late());
        // Words of our own may pass at any time.
        relay.to_client.push(&answers);
        let mut taken = vec![0; answers.len()];
        let taking = other.read_exact(&mut taken);
        let (written, taken) = tokio::join!(poll_fn(|cx| relay.write_client(cx)), taking);
        assert_eq!((written, taken.unwrap()), (Ok(()), answers.len()));
    }
}
