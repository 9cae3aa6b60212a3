//! A client that waits for its first link.

use super::login::said;
use crate::observe::clients::{ClientFacts, Order};
use crate::session::relay::SCRATCH;
use crate::session::{self, NoLink};
use crate::sys::Socket;
use crate::wire::message;
use bytes::{BufMut, BytesMut};
use std::pin::pin;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// The most that a client may send before it was let in: what its session takes up at once. Beyond that nobody
/// reads it for a while.
const EARLY_MAX: usize = SCRATCH;

/// What a client was told so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeted {
    /// Nothing since it has proved itself.
    No,
    /// AuthenticationOk: a client listens to notices only behind it.
    Yes,
}

/// How a wait has ended.
pub enum Waited<T> {
    /// With a link, or with the reason why there is none.
    Over(Box<Result<T, NoLink>>, Greeted),
    /// The client has hung up.
    Gone,
    /// Somebody wants it to go.
    Ordered(Order),
}

/// Waits for `link`, tells the client after `notify` that it waits, and stops when it hangs up or is to go.
pub async fn wait<T>(
    socket: &mut Socket,
    buffered: &mut BytesMut,
    facts: &ClientFacts,
    link: impl Future<Output = Result<T, NoLink>>,
    notify: Option<Duration>,
) -> Waited<T> {
    let mut greeted = Greeted::No;
    let mut link = pin!(link);
    let mut notice = pin!(async {
        match notify {
            Some(after) => tokio::time::sleep(after).await,
            None => std::future::pending().await,
        }
    });
    loop {
        let room = EARLY_MAX.saturating_sub(buffered.len());
        // The buffer itself would grow by as much as it holds.
        let mut early = (&mut *buffered).limit(room);
        tokio::select! {
            biased;
            () = facts.ordered() => {
                if let Some(order) = facts.take_order() {
                    return Waited::Ordered(order);
                }
            }
            made = &mut link => return Waited::Over(Box::new(made), greeted),
            read = socket.read_buf(&mut early), if room > 0 => match read {
                Ok(0) | Err(_) => return Waited::Gone,
                Ok(_) => {}
            },
            () = &mut notice, if greeted == Greeted::No => {
                greeted = Greeted::Yes;
                let mut out = BytesMut::new();
                message::authentication_ok(&mut out);
                session::waits().put(&mut out);
                if said(socket, &out).await.is_err() {
                    return Waited::Gone;
                }
            }
        }
    }
}
