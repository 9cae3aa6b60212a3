//! Answering a client without a server: a transaction that was lost with its link, and statements
//! for which there is no writer.

use super::tell::{in_failed_transaction, transaction_aborted};
use super::walk::{KEPT_MAX, is_front_at_hand};
use super::{Flow, Session};
use crate::sql::ending::{Behind, Ending, ending};
use crate::wire::frame::{HEADER, Head, cstring, head};
use crate::wire::message::{Complaint, TransactionStatus, command_complete};
use bytes::BytesMut;
use std::ops::ControlFlow;
use tokio::io::AsyncReadExt;

/// A message of the client, cut off after [`KEPT_MAX`] bytes.
struct Frame {
    tag: u8,
    body: Vec<u8>,
}

impl Frame {
    /// Whether a text in it is there to its end.
    fn is_whole(&self) -> bool {
        cstring(&self.body).is_some()
    }
}

/// What an extended statement would do to an aborted transaction.
#[derive(Default)]
struct Batch {
    /// An error was answered: everything up to Sync is ignored.
    is_skipping: bool,
    /// The statement and portal without a name end the transaction.
    ends: Option<Ending>,
    /// The transaction was ended in this batch.
    has_ended: bool,
}

impl Session {
    /// Refuses everything until the client ends the transaction that was lost, as PostgreSQL does
    /// in a failed transaction; the first refusal is 40001. Afterwards the session is idle.
    ///
    /// A COMMIT that comes before the client knows is refused as well: few look at the tag that says
    /// ROLLBACK instead.
    pub(super) async fn serve_aborted(&mut self, mut first: Option<Complaint>) -> Flow {
        let mut batch = Batch::default();
        loop {
            let frame = self.next_frame().await?;
            match frame.tag {
                b'Q' | b'F' | b'P' | b'B' | b'D' | b'E' | b'C' if batch.is_skipping => {}
                b'Q' => match (ending(text_of(&frame.body)), first.take()) {
                    (Some((Ending::Commit, _)), Some(first)) => {
                        self.say(&first.to_bytes());
                        self.say_ready(TransactionStatus::Idle);
                        return self.flush().await;
                    }
                    (Some((_, Behind::Nothing)), _) => {
                        self.say_rolled_back();
                        self.say_ready(TransactionStatus::Idle);
                        return self.flush().await;
                    }
                    // What stands behind it is executed, on another link.
                    (Some((Ending::Rollback, Behind::More)), _) if frame.is_whole() => {
                        self.put_back_frame(&frame);
                        return Flow::Continue(());
                    }
                    (_, first) => {
                        self.say_refusal(first);
                        self.say_ready(TransactionStatus::Failed);
                    }
                },
                b'F' => {
                    self.say_refusal(first.take());
                    self.say_ready(TransactionStatus::Failed);
                }
                b'S' => {
                    let is_over = batch.has_ended;
                    self.say_ready(if is_over { TransactionStatus::Idle } else { TransactionStatus::Failed });
                    batch = Batch::default();
                    if is_over {
                        return self.flush().await;
                    }
                }
                b'X' => return self.leave(true),
                b'P' | b'B' | b'D' | b'E' | b'C'
                    if self.serve_ending(&mut batch, &mut first, &frame).is_some() => {}
                b'P' | b'B' | b'D' | b'E' | b'C' => {
                    self.say_refusal(first.take());
                    batch.is_skipping = true;
                }
                _ => {}
            }
            self.flush().await?;
        }
    }

    /// Answers the messages of a statement that ends the transaction; `None` for all others.
    fn serve_ending(
        &mut self,
        batch: &mut Batch,
        first: &mut Option<Complaint>,
        frame: &Frame,
    ) -> Option<()> {
        match frame.tag {
            b'P' => {
                let (name, text) = cstring(&frame.body)?;
                let ends = alone(text_of(text)).filter(|_| name.is_empty())?;
                batch.ends = Some(ends);
                self.say(b"1\0\0\0\x04");
            }
            b'B' => {
                let (_, rest) = cstring(&frame.body)?;
                let (statement, _) = cstring(rest)?;
                batch.ends = match self.relay.statement_text(statement) {
                    Some(text) => alone(text),
                    None => batch.ends.filter(|_| statement.is_empty()),
                };
                batch.ends?;
                self.say(b"2\0\0\0\x04");
            }
            b'D' if batch.ends.is_some() => {
                if frame.body.first() == Some(&b'S') {
                    self.say(b"t\0\0\0\x06\0\0");
                }
                self.say(b"n\0\0\0\x04");
            }
            b'E' => {
                let ends = batch.ends?;
                batch.has_ended = true;
                match first.take().filter(|_| ends == Ending::Commit) {
                    Some(first) => {
                        self.say_refusal(Some(first));
                        batch.is_skipping = true;
                    }
                    None => self.say_rolled_back(),
                }
            }
            b'C' => self.say(b"3\0\0\0\x04"),
            _ => return None,
        }
        Some(())
    }

    fn say_refusal(&mut self, first: Option<Complaint>) {
        self.say(&first.unwrap_or_else(in_failed_transaction).to_bytes());
    }

    fn say_rolled_back(&mut self) {
        let mut out = BytesMut::new();
        command_complete(&mut out, "ROLLBACK");
        self.say(&out);
    }

    /// Answers the client's next Query, or its next batch up to Sync, with an error. Nothing of it
    /// was executed.
    pub(super) async fn refuse_next(&mut self, complaint: &Complaint) -> Flow {
        let mut has_refused = false;
        // A message that was shown and is the server's is refused with the rest.
        self.relay.client_walk.pass_next = false;
        loop {
            let frame = self.next_frame().await?;
            let ends = match frame.tag {
                b'Q' | b'F' => !has_refused,
                b'S' => true,
                b'X' => return self.leave(true),
                b'P' | b'B' | b'D' | b'E' | b'C' => false,
                _ => continue,
            };
            if !has_refused && frame.tag != b'S' {
                has_refused = true;
                self.say(&complaint.to_bytes());
            }
            if ends {
                self.end_batch(true);
                self.say_ready(TransactionStatus::Idle);
                return self.flush().await;
            }
            self.flush().await?;
        }
    }

    /// The message is the client's next one again.
    fn put_back_frame(&mut self, frame: &Frame) {
        let length = u32::try_from(frame.body.len() + 4).expect("it was cut off long before");
        let mut bytes = [&[frame.tag][..], &length.to_be_bytes(), &frame.body].concat();
        bytes.append(&mut self.relay.client_in);
        self.relay.client_in = bytes;
        self.relay.look_again = true;
    }

    /// Reads the client's next message. `Break` when the client has left.
    async fn next_frame(&mut self) -> ControlFlow<(), Frame> {
        let (tag, total) = self.fill_front().await?;
        let input = &mut self.relay.client_in;
        let body = input[HEADER..total.min(KEPT_MAX)].to_vec();
        let mut missing = total - total.min(input.len());
        input.drain(..total - missing);
        while missing > 0 {
            let mut sink = vec![0; missing.min(KEPT_MAX)];
            match self.relay.client.read(&mut sink).await {
                Ok(n) if n > 0 => missing -= n,
                Ok(_) | Err(_) => return self.gone().await,
            }
        }
        ControlFlow::Continue(Frame { tag, body })
    }

    /// Reads until the client's next message is at the front of `client_in`, whole or with its
    /// first [`KEPT_MAX`] bytes; says its type and length. `Break` when the client has left.
    pub(super) async fn fill_front(&mut self) -> ControlFlow<(), (u8, usize)> {
        self.relay.look_again = true;
        loop {
            let relay = &mut self.relay;
            let dropped = relay.client_walk.drop_front(relay.client_in.len());
            relay.client_in.drain(..dropped);
            match head(&self.relay.client_in) {
                Head::Frame { tag, total } if is_front_at_hand(&self.relay.client_in) => {
                    return ControlFlow::Continue((tag, total));
                }
                Head::Frame { .. } | Head::Partial => {}
                Head::Bad { .. } => {
                    let complaint =
                        Complaint::fatal(crate::base::sqlstate::PROTOCOL_VIOLATION, "invalid message length");
                    self.end_with(&complaint).await?;
                    return ControlFlow::Break(());
                }
            }
            let mut more = vec![0; 8192];
            match self.relay.client.read(&mut more).await {
                Ok(n) if n > 0 => self.relay.client_in.extend_from_slice(&more[..n]),
                Ok(_) | Err(_) => return self.gone().await,
            }
        }
    }

    async fn gone<T>(&mut self) -> ControlFlow<(), T> {
        self.leave(false)?;
        ControlFlow::Break(())
    }

    /// The first complaint of a transaction that was lost with its link.
    pub(super) fn first_complaint(status: TransactionStatus) -> Option<Complaint> {
        // One that had failed already has nothing new to hear.
        (status == TransactionStatus::Open).then(transaction_aborted)
    }
}

/// How a statement ends the transaction that is alone in its text, as in the extended protocol.
fn alone(text: &[u8]) -> Option<Ending> {
    ending(text).filter(|(_, behind)| *behind == Behind::Nothing).map(|(ending, _)| ending)
}

fn text_of(bytes: &[u8]) -> &[u8] {
    cstring(bytes).map_or(bytes, |(text, _)| text)
}
