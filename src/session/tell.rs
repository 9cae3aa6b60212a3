//! What a session says in its own name, and how it ends.

use super::outgoing::Outgoing;
use super::relay::{self, Linked, Unwritten};
use super::{Flow, Session, TERMINATE};
use crate::base::sqlstate;
use crate::observe::clients::Order;
use crate::observe::count;
use crate::observe::links::LinkState;
use crate::route::Routes;
use crate::sys::Socket;
use crate::wire::message::{Complaint, Severity, TransactionStatus, ready_for_query};
use bytes::BytesMut;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long a client may take to accept our last words, and to hang up after them.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What somebody wants of a session ends it with these words.
pub fn ordered(order: Order) -> Complaint {
    match order {
        Order::ShutDown => shutting_down(),
        Order::Kill => killed(),
        Order::QueryTimeout => query_timeout(),
        Order::TransactionTimeout => transaction_timeout(),
        Order::IdleTransactionTimeout => idle_transaction_timeout(),
        Order::ClientIdleTimeout => client_idle_timeout(),
        Order::PinnedIdleTimeout => pinned_idle_timeout(),
    }
}

/// For sessions that end because the process does.
pub fn shutting_down() -> Complaint {
    Complaint::fatal(sqlstate::ADMIN_SHUTDOWN, "terminating connection because the proxy is shutting down")
}

/// An administrator wants the session to end: PostgreSQL's own words.
pub fn killed() -> Complaint {
    Complaint::fatal(sqlstate::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
}

/// A statement has lasted too long. Whether it took effect is not known, as with every statement that
/// is in flight when its session ends; PostgreSQL's 57014 would say that it did not.
pub fn query_timeout() -> Complaint {
    Complaint::fatal(sqlstate::OUTCOME_UNKNOWN, "terminating connection due to query timeout")
        .detail("Whether the statement, or the commit it holds, took effect is not known.")
        .hint("See pool.query_timeout.")
}

/// A transaction has been open for too long: PostgreSQL's own words.
pub fn transaction_timeout() -> Complaint {
    Complaint::fatal(sqlstate::TRANSACTION_TIMEOUT, "terminating connection due to transaction timeout")
        .hint("See pool.transaction_timeout.")
}

/// A transaction was left open for too long: PostgreSQL's own words.
pub fn idle_transaction_timeout() -> Complaint {
    let message = "terminating connection due to idle-in-transaction timeout";
    Complaint::fatal(sqlstate::IDLE_IN_TRANSACTION, message).hint("See pool.idle_transaction_timeout.")
}

/// A client was silent for too long: PostgreSQL's own words.
pub fn client_idle_timeout() -> Complaint {
    Complaint::fatal(sqlstate::IDLE_SESSION, "terminating connection due to idle-session timeout")
        .hint("See pool.client_idle_timeout.")
}

/// A client was silent for too long with a connection that was held for it.
pub fn pinned_idle_timeout() -> Complaint {
    let message = "terminating connection due to pinned-idle timeout";
    Complaint::fatal(sqlstate::IDLE_SESSION, message)
        .detail("What the session has made keeps a connection to the server from other clients.")
        .hint("See pool.pinned_idle_timeout, and the column pinned of SHOW CLIENTS.")
}

/// The writer was lost while a statement was in flight.
pub fn outcome_unknown() -> Complaint {
    Complaint::fatal(sqlstate::OUTCOME_UNKNOWN, "the server was lost while a statement was in flight")
        .detail("Whether the statement, or the commit it holds, took effect is not known.")
        .hint("Look whether it took effect before you try it again.")
}

/// The writer was lost inside a transaction that had not been committed.
pub fn transaction_aborted() -> Complaint {
    Complaint::error(sqlstate::TRANSACTION_ABORTED, "transaction aborted because the server was lost")
        .hint("Roll back and try the whole transaction again.")
}

/// A statement in a transaction that is aborted already: PostgreSQL's own words.
pub fn in_failed_transaction() -> Complaint {
    Complaint::error(
        sqlstate::IN_FAILED_TRANSACTION,
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}

/// The session cannot be made again elsewhere.
pub fn cannot_move(reason: impl Into<String>) -> Complaint {
    Complaint::fatal(sqlstate::ADMIN_SHUTDOWN, "terminating connection because the server was lost")
        .detail(reason.into())
        .hint("Connect again.")
}

/// The client has cancelled a statement that was waiting: PostgreSQL's own words.
pub fn cancelled() -> Complaint {
    Complaint::error(sqlstate::QUERY_CANCELED, "canceling statement due to user request")
        .detail("The statement was not executed.")
}

/// For a client that has waited for a while.
pub fn waits() -> Complaint {
    let message = "no connection to the server is free yet, waiting for one";
    Complaint::new(Severity::Notice, sqlstate::SUCCESS, message)
}

/// Until it is time to tell a client that it waits.
pub(super) async fn time_to_tell(notify: Option<Duration>) {
    match notify {
        Some(after) => tokio::time::sleep(after).await,
        None => std::future::pending().await,
    }
}

/// No writer: nothing was executed.
pub fn no_writer(reason: impl Into<String>) -> Complaint {
    Complaint::error(sqlstate::CANNOT_CONNECT_NOW, reason.into()).detail("The statement was not executed.")
}

impl Session {
    /// Adds bytes to what the client gets next.
    pub(super) fn say(&mut self, bytes: &[u8]) {
        self.relay.to_client.push(bytes);
    }

    /// Adds a ReadyForQuery.
    pub(super) fn say_ready(&mut self, status: TransactionStatus) {
        let mut out = BytesMut::new();
        ready_for_query(&mut out, status);
        self.say(&out);
    }

    /// Tells the client that it waits, and does not wait for it.
    pub(super) async fn say_that_it_waits(&mut self) -> Flow {
        self.say(&waits().to_bytes());
        let relay = &mut self.relay;
        let written = std::future::poll_fn(|cx| Poll::Ready(relay.write_client(cx))).await;
        match written {
            Poll::Ready(Ok(())) | Poll::Pending => Flow::Continue(()),
            Poll::Ready(Err(Unwritten::Gone)) => self.leave(false),
            Poll::Ready(Err(Unwritten::Late)) => self.cut(),
        }
    }

    /// Writes out what was said. Fails when the client is gone.
    pub(super) async fn flush(&mut self) -> Flow {
        let relay = &mut self.relay;
        match std::future::poll_fn(|cx| relay.write_client(cx)).await {
            Ok(()) => Flow::Continue(()),
            Err(Unwritten::Gone) => self.leave(false),
            Err(Unwritten::Late) => self.cut(),
        }
    }

    /// Ends the session without a word: the client has taken half of something that must not pass.
    pub(super) fn cut(&mut self) -> Flow {
        count(&self.shared.counters.outcomes_unknown);
        self.cancel_key.point_to(None);
        self.relay.link = None;
        Flow::Break(())
    }

    /// Ends the session with a FATAL error, where one can still be said: not into the middle of a
    /// message that the server had begun.
    pub(super) async fn end_with(&mut self, complaint: &Complaint) -> Flow {
        tracing::debug!(
            event = "session.refused",
            pid = self.cancel_key.pid(),
            code = complaint.code,
            "{}",
            complaint.message
        );
        self.end_with_bytes(&complaint.to_bytes()).await
    }

    /// The same with messages that are ready made.
    pub(super) async fn end_with_bytes(&mut self, bytes: &[u8]) -> Flow {
        self.cancel_key.point_to(None);
        if let Some(link) = self.relay.link.take() {
            // Behind half a message Terminate would be taken for the rest of it.
            let with_terminate = self.relay.client_walk.is_between_messages();
            let unsent = std::mem::take(&mut self.relay.to_server);
            tokio::task::spawn_local(run_out(link, unsent, with_terminate, self.shared.routes.clone()));
        }
        if self.relay.server_walk.is_between_messages() {
            self.say(bytes);
            let relay = &mut self.relay;
            let written = std::future::poll_fn(|cx| relay.write_client(cx));
            // Whether the client listens to its end is its own affair.
            let _ = tokio::time::timeout(LAST_WORDS, written).await;
            let _ = tokio::time::timeout(LAST_WORDS, relay.client.shutdown()).await;
            self.has_said_last_words = true;
        }
        Flow::Break(())
    }
}

/// Reads on until the client hangs up. Closing a socket with unread statements would reset the
/// connection, and a client that is still sending would see that instead of our last words.
pub async fn hear_out(client: &mut Socket) {
    let _ = tokio::time::timeout(LAST_WORDS, relay::read_out(client)).await;
}

/// Lets a server finish what it was sent, and throws its answers away. Closing the socket with
/// unread answers would reset the connection, and the server might never read the last statements.
/// When the routes lead elsewhere, or to another life of the server, it is cut like every other link.
pub async fn run_out(link: Linked, mut unsent: Outgoing, with_terminate: bool, routes: Routes) {
    let Linked { mut stream, site, epoch, life, lease, has } = link;
    lease.list_as(LinkState::Ending);
    if with_terminate {
        unsent.push(TERMINATE);
    }
    let ending = async {
        if std::future::poll_fn(|cx| unsent.write(&mut stream, cx)).await.is_ok()
            && stream.shutdown().await.is_ok()
        {
            let mut sink = vec![0; 4096];
            while matches!(stream.read(&mut sink).await, Ok(n) if n > 0) {}
        }
    };
    tokio::select! {
        () = ending => {}
        () = routes.leave((site, epoch, life)) => {}
    }
    drop(stream);
    drop((lease, has));
}
