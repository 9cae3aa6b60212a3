//! Commands of ours inside an ordinary session, by the simple and the extended protocol.
//!
//! The answer has to stand at its place among the server's answers: a command waits until the
//! server has answered all that was sent before it, which a Flush of our own brings about inside a
//! batch. From then on each message of the batch is looked at: what names a statement or portal of
//! ours is answered here, the rest goes on to the server.

use super::local::Portal;
use super::{Flow, Session};
use crate::base::sqlstate;
use crate::observe::count;
use crate::sql::admin::{self, Command, Place};
use crate::sql::console::frames::{self, Format};
use crate::sql::console::{ConsoleCall, ConsoleError, ConsoleReply, columns};
use crate::wire::frame::{HEADER, Head, cstring, head};
use bytes::BytesMut;
use tokio::sync::oneshot;

/// What becomes of a message that was looked at.
enum Done {
    /// It was answered here, or is to be ignored.
    Here,
    /// It is the server's.
    Pass,
}

impl Session {
    /// The message at the front of `client_in` is, or may be, about a command of ours.
    pub(super) async fn on_own(&mut self) -> Flow {
        if self.drop_skipped() {
            return Flow::Continue(());
        }
        if !self.relay.is_quiet() {
            if self.relay.ledger.is_in_batch() && self.relay.link.is_some() {
                self.relay.to_server.push(b"H\0\0\0\x04");
            }
            self.relay.stop_when_quiet = true;
            // Comes back here: the message is still the next one.
            return Flow::Continue(());
        }
        let Some(frame) = self.take_frame() else { return Flow::Continue(()) };
        let done = self.answer(&frame).await;
        let passes = matches!(done, Done::Pass);
        if passes {
            self.put_back(frame);
        }
        self.relay.client_walk.pass_next = passes;
        self.tell_walk();
        self.relay.look_again = true;
        self.flush().await
    }

    /// What the walk has to show is what we have answered, or will have to.
    fn tell_walk(&mut self) {
        self.relay.client_walk.has_local = self.local.is_active();
        self.relay.client_walk.is_skipping = self.local.is_skipping;
    }

    /// The client's batch has ended, wherever it was answered.
    pub(super) fn end_batch(&mut self, is_transaction_over: bool) {
        self.local.end_batch(is_transaction_over);
        self.tell_walk();
    }

    /// After an error of ours everything up to Sync goes, however long it is and however much of it is
    /// there.
    fn drop_skipped(&mut self) -> bool {
        let relay = &mut self.relay;
        let Head::Frame { tag, total } = head(&relay.client_in) else { return false };
        if !relay.client_walk.drops(tag) {
            return false;
        }
        let here = total.min(relay.client_in.len());
        relay.client_in.drain(..here);
        relay.client_walk.to_drop = total - here;
        relay.look_again = true;
        true
    }

    fn take_frame(&mut self) -> Option<Vec<u8>> {
        let Head::Frame { total, .. } = head(&self.relay.client_in) else { return None };
        if self.relay.client_in.len() < total {
            return None;
        }
        let rest = self.relay.client_in.split_off(total);
        Some(std::mem::replace(&mut self.relay.client_in, rest))
    }

    fn put_back(&mut self, mut frame: Vec<u8>) {
        frame.append(&mut self.relay.client_in);
        self.relay.client_in = frame;
    }

    async fn answer(&mut self, frame: &[u8]) -> Done {
        let (tag, body) = (frame[0], &frame[HEADER..]);
        let is_skipping = self.local.is_skipping || self.relay.ledger.is_skipping();
        match tag {
            b'S' => self.on_sync(),
            _ if is_skipping => Done::Here,
            b'Q' => self.on_simple(body).await,
            b'P' => self.on_parse(body),
            b'B' => self.on_bind(body),
            b'D' => self.on_describe(body),
            b'E' => self.on_execute(body).await,
            b'C' => self.on_close(body),
            b'H' if !self.relay.ledger.is_in_batch() => Done::Here,
            _ => Done::Pass,
        }
    }

    fn on_sync(&mut self) -> Done {
        let status = self.relay.ledger.status();
        let is_over = status == crate::wire::message::TransactionStatus::Idle;
        let was_here = self.local.is_in_batch || self.local.is_skipping;
        self.local.end_batch(is_over);
        if self.relay.ledger.is_in_batch() || !was_here {
            return Done::Pass;
        }
        self.say_ready(status);
        Done::Here
    }

    async fn on_simple(&mut self, body: &[u8]) -> Done {
        let text = cstring(body).map_or(body, |(text, _)| text);
        let reply = match admin::parse(text, Place::Session) {
            Ok(Some(command)) => self.ask(command).await,
            Ok(None) => return Done::Pass,
            Err(error) => Err(ConsoleError::from_command(&error, text)),
        };
        self.local.forget_statement(b"");
        self.local.forget_portal(b"");
        let mut out = BytesMut::new();
        frames::put_reply(&mut out, &reply);
        self.say(&out);
        self.say_ready(self.relay.ledger.status());
        Done::Here
    }

    fn on_parse(&mut self, body: &[u8]) -> Done {
        let Some((name, rest)) = cstring(body) else { return Done::Pass };
        let text = cstring(rest).map_or(rest, |(text, _)| text);
        let parsed = admin::parse(text, Place::Session);
        if name.is_empty() {
            self.local.forget_statement(name);
        }
        match parsed {
            Ok(None) => Done::Pass,
            // The statement without a name is replaced.
            Ok(Some(_)) if !name.is_empty() && self.is_prepared(name) => {
                let name = String::from_utf8_lossy(name);
                let message = format!("prepared statement \"{name}\" already exists");
                self.fail(&ConsoleError::new("42P05", message))
            }
            Ok(Some(command)) => {
                self.local.prepare(name, command);
                self.said(b"1\0\0\0\x04")
            }
            Err(error) => self.fail(&ConsoleError::from_command(&error, text)),
        }
    }

    fn is_prepared(&self, name: &[u8]) -> bool {
        self.local.statement(name).is_some() || self.relay.statement_text(name).is_some()
    }

    fn on_bind(&mut self, body: &[u8]) -> Done {
        let Some((portal, rest)) = cstring(body) else { return Done::Pass };
        let Some((statement, rest)) = cstring(rest) else { return Done::Pass };
        let Some(command) = self.local.statement(statement).cloned() else {
            self.local.forget_portal(portal);
            return Done::Pass;
        };
        match result_formats(rest) {
            Some(formats) => {
                self.local.bind(portal, Portal { command, formats });
                self.said(b"2\0\0\0\x04")
            }
            None => {
                let message = "the command takes no parameters";
                self.fail(&ConsoleError::new(sqlstate::PROTOCOL_VIOLATION, message))
            }
        }
    }

    fn on_describe(&mut self, body: &[u8]) -> Done {
        let Some((kind, rest)) = body.split_first() else { return Done::Pass };
        let Some((name, _)) = cstring(rest) else { return Done::Pass };
        let mut out = BytesMut::new();
        match kind {
            b'S' => {
                let Some(command) = self.local.statement(name) else { return Done::Pass };
                crate::wire::message::parameter_description(&mut out, &[]);
                frames::put_row_description(&mut out, columns(command), &[]);
            }
            _ => {
                let Some(portal) = self.local.portal(name) else { return Done::Pass };
                frames::put_row_description(&mut out, columns(&portal.command), &portal.formats);
            }
        }
        self.said(&out)
    }

    async fn on_execute(&mut self, body: &[u8]) -> Done {
        let Some((name, _)) = cstring(body) else { return Done::Pass };
        let Some(portal) = self.local.portal(name).cloned() else { return Done::Pass };
        let reply = self.ask(portal.command).await;
        let mut out = BytesMut::new();
        frames::put_result(&mut out, &reply, &portal.formats);
        self.local.is_skipping = reply.is_err();
        self.said(&out)
    }

    fn on_close(&mut self, body: &[u8]) -> Done {
        let Some((kind, rest)) = body.split_first() else { return Done::Pass };
        let Some((name, _)) = cstring(rest) else { return Done::Pass };
        let was_ours = match kind {
            b'S' => self.local.forget_statement(name),
            _ => self.local.forget_portal(name),
        };
        if was_ours { self.said(b"3\0\0\0\x04") } else { Done::Pass }
    }

    fn said(&mut self, bytes: &[u8]) -> Done {
        self.local.is_in_batch = true;
        self.say(bytes);
        Done::Here
    }

    fn fail(&mut self, error: &ConsoleError) -> Done {
        let mut out = BytesMut::new();
        frames::put_error(&mut out, "ERROR", error);
        self.local.is_skipping = true;
        self.said(&out)
    }

    async fn ask(&mut self, command: Command) -> ConsoleReply {
        count(&self.shared.counters.commands_answered);
        let (reply, answer) = oneshot::channel();
        let (caller, interrupt) = (self.caller(), Default::default());
        let call = ConsoleCall { command, caller, interrupt, reply };
        if self.shared.console.send(call).await.is_err() {
            return Err(ConsoleError::gone());
        }
        answer.await.unwrap_or_else(|_| Err(ConsoleError::gone()))
    }
}

/// Reads what follows the names in a Bind without parameters; `None` when it has some, or is cut.
fn result_formats(bytes: &[u8]) -> Option<Vec<Format>> {
    let (parameter_formats, rest) = codes(bytes)?;
    let (count, rest) = rest.split_first_chunk::<2>()?;
    if u16::from_be_bytes(*count) != 0 || parameter_formats.len() > 1 {
        return None;
    }
    let (formats, rest) = codes(rest)?;
    if !rest.is_empty() {
        return None;
    }
    formats.into_iter().map(Format::from_code).collect()
}

fn codes(bytes: &[u8]) -> Option<(Vec<i16>, &[u8])> {
    let (count, rest) = bytes.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*count)) * 2;
    let (codes, rest) = (rest.get(..length)?, rest.get(length..)?);
    Some((codes.chunks_exact(2).map(|code| i16::from_be_bytes([code[0], code[1]])).collect(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_without_parameters_says_its_formats() {
        assert_eq!(result_formats(b"\0\0\0\0\0\0"), Some(vec![]));
        assert_eq!(result_formats(b"\0\0\0\0\0\x01\0\x01"), Some(vec![Format::Binary]));
        for wrong in
            [&b"\0\0\0\x01\0\0\0\x01a\0\0"[..], b"\0\0\0\0\0\x01\0\x02", b"\0\0", b"", b"\0\0\0\0\0\0x"]
        {
            assert_eq!(result_formats(wrong), None, "{wrong:?}");
        }
    }
}
