//! The relay without I/O: walks over the headers of what was read and says which bytes may pass.
//!
//! A walk takes the bytes at hand and returns how many of them, from the front, can be written out
//! in one piece, and why it stopped. Bodies are looked at only where the first word of a statement
//! or an answer matters; a message longer than the buffer streams through.

use super::lasting::lasting;
use super::ledger::{Ledger, Reach, Settled};
use super::memory::{Memory, Tie};
use super::notice::{Concerned, Notice, change_of, concerned_links, notice};
use crate::sql::admin::{self, Place};
use crate::wire::frame::{HEADER, Head, cstring, head};
use crate::wire::message::TransactionStatus;
use crate::wire::report::Report;
use bytes::Bytes;

/// The longest command tag that is read.
pub(super) const PEEK: usize = 192;
/// The longest statement that is kept whole: a SET, a named prepared statement, a command of ours.
pub const KEPT_MAX: usize = 32 << 10;
/// The longest error or notice of a server that is read.
pub(super) const REPORT_MAX: usize = 8 << 10;

/// Why a walk stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// At the end of the bytes.
    End,
    /// The bytes behind the region are the beginning of a message of which more is needed.
    Partial,
    /// The next message is for us: a command of ours or about one, which is complete, or one that is
    /// to be dropped.
    Own,
    /// The next message is Terminate.
    Terminate,
    /// In the pooled modes: the next message has to wait for answers to earlier ones.
    Later,
    /// The next message ends the session from the server's side and must not pass unseen: FATAL
    /// or WARNING 57P01 or 57P02. It is complete.
    Lost {
        /// Its length, header included.
        total: usize,
    },
    /// The next bytes are not PostgreSQL's protocol.
    Violation {
        /// For the client.
        message: String,
    },
}

/// What may pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Bytes from the front.
    pub length: usize,
    /// What stands behind them.
    pub stop: Stop,
}

/// Walks over what a client sends.
#[derive(Debug, Default)]
pub struct ClientWalk {
    /// Bytes of the current message that are still to come.
    pub(super) rest: usize,
    /// Some prepared statement or portal of this client is ours, so each extended message is
    /// shown to [`super::Session`] first.
    pub has_local: bool,
    /// The next message was shown and is the server's.
    pub pass_next: bool,
    /// We have answered a message with an error: up to the next Sync each one is shown, to be dropped.
    pub is_skipping: bool,
    /// Bytes of a dropped message that are still to come.
    pub to_drop: usize,
    /// Statements have passed that these links must not outlive.
    pub concerned: Concerned,
}

impl ClientWalk {
    /// Whether the last byte that passed was the last of a message.
    pub fn is_between_messages(&self) -> bool {
        self.rest == 0 && self.to_drop == 0
    }

    /// Drops what belongs to a message that nobody shall see; says how many of the bytes that is.
    pub fn drop_front(&mut self, length: usize) -> usize {
        let dropped = self.to_drop.min(length);
        self.to_drop -= dropped;
        dropped
    }

    /// Whether a message is one of those that are dropped.
    pub(super) fn drops(&self, tag: u8) -> bool {
        self.is_skipping && b"PBDECHQFdcf".contains(&tag)
    }

    /// See the module. `ledger` and `memory` are told of every message in the region.
    pub fn walk(&mut self, bytes: &[u8], ledger: &mut Ledger, memory: &mut Memory) -> Region {
        let mut at = self.rest.min(bytes.len());
        self.rest -= at;
        loop {
            let stop = match head(&bytes[at..]) {
                Head::Partial if at == bytes.len() => Stop::End,
                Head::Partial => Stop::Partial,
                Head::Bad { tag, .. } => violation(format!("invalid length of message type {}", shown(tag))),
                Head::Frame { tag, total } => {
                    let have = total.min(bytes.len() - at);
                    match self.message(tag, total, &bytes[at..at + have], ledger, memory) {
                        None => {
                            self.pass_next = false;
                            at += have;
                            self.rest = total - have;
                            continue;
                        }
                        Some(stop) => stop,
                    }
                }
            };
            return Region { length: at, stop };
        }
    }

    /// Books one message of which `frame` is at hand; or says why it does not pass (yet).
    fn message(
        &mut self,
        tag: u8,
        total: usize,
        frame: &[u8],
        ledger: &mut Ledger,
        memory: &mut Memory,
    ) -> Option<Stop> {
        let is_whole = frame.len() == total;
        let is_shown = self.has_local && !self.pass_next && !ledger.has_no_place();
        match tag {
            _ if self.drops(tag) => return Some(Stop::Own),
            b'P' | b'B' | b'D' | b'E' | b'C' | b'S' | b'H' if is_shown && !is_whole && total <= KEPT_MAX => {
                return Some(Stop::Partial);
            }
            b'P' | b'B' | b'D' | b'E' | b'C' | b'S' | b'H' if is_shown && is_whole => return Some(Stop::Own),
            b'Q' => return self.query(total, frame, ledger, memory),
            b'P' => return self.parse(total, frame, ledger, memory),
            b'B' | b'E' | b'C' if tag == b'C' || memory.watches_portals() => {
                if !has_names(tag, total, frame) {
                    return Some(Stop::Partial);
                }
                let step = ledger.on_client(tag);
                if !ledger.is_skipping() {
                    note_names(tag, &frame[HEADER..], step, memory);
                }
            }
            b'B' | b'D' | b'E' | b'S' | b'H' | b'F' | b'd' | b'c' | b'f' => {
                ledger.on_client(tag);
            }
            b'X' => return Some(Stop::Terminate),
            _ => return Some(violation(format!("invalid frontend message type {tag}"))),
        }
        None
    }

    fn query(
        &mut self,
        total: usize,
        frame: &[u8],
        ledger: &mut Ledger,
        memory: &mut Memory,
    ) -> Option<Stop> {
        let Some(body) = body_at_hand(total, frame) else { return Some(Stop::Partial) };
        let is_whole = frame.len() == total;
        let mut change = None;
        match notice(body) {
            Notice::Plain => {}
            Notice::Candidate => {
                if is_whole && ledger.takes_commands() && is_ours(text_of(body)) {
                    return Some(Stop::Own);
                }
                self.concerned |= concerned_links(text_of(body));
            }
            Notice::Changing if is_whole => change = change_of(text_of(body)),
            Notice::Changing => {}
        }
        let n = ledger.on_client(b'Q');
        if ledger.is_skipping() {
            return None;
        }
        if let Some(tie) = lasting(body) {
            memory.tie_by(tie);
        }
        if let Some(change) = change {
            memory.on_query(n, change);
        }
        None
    }

    fn parse(
        &mut self,
        total: usize,
        frame: &[u8],
        ledger: &mut Ledger,
        memory: &mut Memory,
    ) -> Option<Stop> {
        let Some(body) = body_at_hand(total, frame) else { return Some(Stop::Partial) };
        let is_whole = frame.len() == total;
        let Some((name, text)) = cstring(body) else {
            // Without an end it is the server's to refuse; of 32 kB nobody keeps it.
            ledger.on_client(b'P');
            if !is_whole {
                memory.tie_by(Tie::TooMuch);
            }
            return None;
        };
        let noticed = notice(text);
        if is_whole && noticed == Notice::Candidate && ledger.takes_commands() && is_ours(text_of(text)) {
            return Some(Stop::Own);
        }
        if noticed == Notice::Candidate {
            self.concerned |= concerned_links(text_of(text));
        }
        let change = if noticed == Notice::Changing && is_whole { change_of(text_of(text)) } else { None };
        let step = ledger.on_client(b'P');
        if ledger.is_skipping() {
            return None;
        }
        if let Some(tie) = lasting(text) {
            memory.tie_by(tie);
        }
        let is_kept = !name.is_empty() || noticed != Notice::Plain;
        if is_kept || memory.watches_portals() {
            memory.on_parse(step, name, is_whole.then_some(frame), change);
        }
        None
    }
}

/// What is looked at of a message with a text: all of it, or the beginning of one that is longer than is kept and comes
/// in pieces. `None` as long as that has not come.
fn body_at_hand(total: usize, frame: &[u8]) -> Option<&[u8]> {
    let length = if frame.len() == total { total } else { total.min(KEPT_MAX) };
    frame.get(HEADER..length)
}

/// Whether enough of the first message is there to decide what becomes of it.
pub fn is_front_at_hand(bytes: &[u8]) -> bool {
    match head(bytes) {
        Head::Frame { total, .. } => bytes.len() >= total.min(KEPT_MAX),
        Head::Bad { .. } => true,
        Head::Partial => false,
    }
}

/// Whether the names at the start of a Bind, Execute or Close are there to their ends, as far as they may be awaited.
fn has_names(tag: u8, total: usize, frame: &[u8]) -> bool {
    let last = usize::from(tag == b'B');
    let is_ended = |body| memchr::memchr_iter(0, body).nth(last).is_some();
    frame.len() >= total.min(KEPT_MAX) || frame.get(HEADER..).is_some_and(is_ended)
}

/// Bind, Execute and Close name statements and portals at the start of their bodies.
fn note_names(tag: u8, body: &[u8], step: u64, memory: &mut Memory) {
    match (tag, body) {
        (b'B', _) => {
            if let Some((portal, rest)) = cstring(body)
                && let Some((statement, _)) = cstring(rest)
            {
                memory.on_bind(portal, statement);
            }
        }
        (b'E', _) => {
            if let Some((portal, _)) = cstring(body) {
                memory.on_execute(step, portal);
            }
        }
        (_, [b'S', name @ ..]) => {
            if let Some((name, _)) = cstring(name) {
                memory.on_close(step, name);
            }
        }
        _ => {}
    }
}

/// Whether the server ends this session because it stops, was stopped or lost a sibling, or because
/// somebody terminated the back end: they look alike until a probe has answered.
pub(super) fn ends_the_session(report: &Report) -> bool {
    matches!(report.code().as_ref(), "57P01" | "57P02")
        && match report.severity().as_ref() {
            "FATAL" | "PANIC" => true,
            // A function may raise a warning with any code.
            "WARNING" => report.routine() == "quickdie",
            _ => false,
        }
}

/// What a CommandComplete says, of which `frame` is at hand: nothing, if it is longer than any that is read.
pub(super) fn command_tag(total: usize, frame: &[u8]) -> &[u8] {
    if total <= PEEK { &frame[HEADER..] } else { b"" }
}

/// What an error says about the COPY that it ended. Routine and context are the same in every
/// language but for the words behind `COPY`.
pub(super) fn reach_of(report: &Report) -> Reach {
    let is_about_rows = || report.field(b'W').lines().any(|line| line.starts_with("COPY "));
    match report.code().as_ref() {
        "57014" | "08P01" if report.routine() == "CopyGetData" => Reach::CopyEnd,
        "57014" if lines_read(&report.field(b'W')) > 1 => Reach::CopyBegun,
        // It may have waited for its first data.
        "57014" => Reach::Unknown,
        _ if is_about_rows() => Reach::CopyData,
        _ => Reach::Unknown,
    }
}

/// The number of the line that COPY reads or waits for, where its context says no more than that: names and
/// data may contain anything.
fn lines_read(context: &str) -> u64 {
    let last = context.lines().last().unwrap_or_default();
    let Some((name, line)) = last.split_once(", ").filter(|(name, _)| name.starts_with("COPY ")) else {
        return 0;
    };
    let number = line.rsplit(' ').next().and_then(|number| number.parse().ok());
    number.filter(|_| !name.contains(',') && !line.contains([',', ':', '"'])).unwrap_or(0)
}

/// Whether the body of a Query is a command of ours.
pub fn is_ours_query(body: &[u8]) -> bool {
    is_ours(text_of(body))
}

/// Whether the body of a Parse is a command of ours.
pub fn is_ours_parse(body: &[u8]) -> bool {
    cstring(body).is_some_and(|(_, text)| is_ours(text_of(text)))
}

pub(super) fn is_ours(text: &[u8]) -> bool {
    // A command of ours with a mistake is ours too: the console says what is wrong.
    !matches!(admin::parse(text, Place::Session), Ok(None))
}

/// Up to the zero byte.
pub(super) fn text_of(bytes: &[u8]) -> &[u8] {
    cstring(bytes).map_or(bytes, |(text, _)| text)
}

pub(super) fn violation(message: String) -> Stop {
    Stop::Violation { message }
}

pub(super) fn shown(tag: u8) -> String {
    if tag.is_ascii_graphic() { format!("\"{}\"", tag as char) } else { tag.to_string() }
}

/// A setting that the server reports, by name and value.
pub type Reported = (Box<[u8]>, Box<[u8]>);

/// Keeps one value of each setting: an application may change one as often as it likes.
pub fn keep_last(reported: &mut Vec<Reported>, name: &[u8], value: &[u8]) {
    match reported.iter_mut().find(|(known, _)| known.as_ref() == name) {
        Some((_, old)) => *old = value.into(),
        None => reported.push((name.into(), value.into())),
    }
}

/// Walks over what a server sends.
#[derive(Debug, Default)]
pub struct ServerWalk {
    pub(super) rest: usize,
    /// A FATAL error has passed: the server closes next, and the client knows why.
    pub has_passed_fatal: bool,
}

impl ServerWalk {
    /// Whether the last byte that passed was the last of a message.
    pub fn is_between_messages(&self) -> bool {
        self.rest == 0
    }

    /// See the module. `reported` gets the last value of each setting that the server reports.
    pub fn walk(
        &mut self,
        bytes: &[u8],
        ledger: &mut Ledger,
        memory: &mut Memory,
        reported: &mut Vec<Reported>,
    ) -> Region {
        let mut at = self.rest.min(bytes.len());
        self.rest -= at;
        loop {
            let stop = match head(&bytes[at..]) {
                Head::Partial if at == bytes.len() => Stop::End,
                Head::Partial => Stop::Partial,
                Head::Bad { tag, .. } => {
                    violation(format!("invalid length of message type {} from the server", shown(tag)))
                }
                Head::Frame { tag, total } => {
                    let have = total.min(bytes.len() - at);
                    match self.message(tag, total, &bytes[at..at + have], ledger, memory, reported) {
                        None => {
                            at += have;
                            self.rest = total - have;
                            continue;
                        }
                        Some(stop) => stop,
                    }
                }
            };
            return Region { length: at, stop };
        }
    }

    fn message(
        &mut self,
        tag: u8,
        total: usize,
        frame: &[u8],
        ledger: &mut Ledger,
        memory: &mut Memory,
        reported: &mut Vec<Reported>,
    ) -> Option<Stop> {
        let is_whole = frame.len() == total;
        match tag {
            b'D' | b'd' => {}
            b'C' => {
                if !is_whole && total <= PEEK {
                    return Some(Stop::Partial);
                }
                let tag = command_tag(total, frame);
                match ledger.on_server(b'C', None) {
                    Settled::Step(step) => memory.on_step(step, Some(tag)),
                    Settled::Command(n) => memory.on_command(n, tag),
                    Settled::Nothing | Settled::Failed { .. } | Settled::Ready(_) => {}
                }
            }
            b'Z' => {
                // However long it is said to be, its status counts.
                if !is_whole && (total <= PEEK || frame.len() <= HEADER) {
                    return Some(Stop::Partial);
                }
                if let Settled::Ready(status) = ledger.on_server(b'Z', frame.get(HEADER).copied()) {
                    memory.on_ready(status == TransactionStatus::Idle);
                }
            }
            b'E' | b'N' => {
                if !is_whole && total <= REPORT_MAX {
                    return Some(Stop::Partial);
                }
                let mut reach = Reach::Unknown;
                if is_whole {
                    let report = Report::new(Bytes::copy_from_slice(&frame[HEADER..]));
                    if ends_the_session(&report) {
                        return Some(Stop::Lost { total });
                    }
                    self.has_passed_fatal |= matches!(report.severity().as_ref(), "FATAL" | "PANIC");
                    if tag == b'E' && ledger.awaits_copy() {
                        reach = reach_of(&report);
                    }
                }
                if tag == b'E'
                    && let Settled::Failed { after, through, .. } = ledger.on_error(reach)
                {
                    memory.on_failed(after, through);
                }
                if tag == b'E' && ledger.is_lost() {
                    memory.on_uncertain();
                }
            }
            b'S' => {
                if !is_whole && total <= REPORT_MAX {
                    return Some(Stop::Partial);
                }
                if is_whole
                    && let Some((name, rest)) = cstring(&frame[HEADER..])
                    && let Some((value, _)) = cstring(rest)
                {
                    keep_last(reported, name, value);
                }
            }
            _ => {
                if let Settled::Step(step) = ledger.on_server(tag, None) {
                    memory.on_step(step, None);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::parameter_status;
    use bytes::BytesMut;

    #[test]
    fn a_line_of_copy_counts_where_the_context_says_nothing_else() {
        let check = |context: &str, expected: u64| assert_eq!(lines_read(context), expected, "{context}");
        check("COPY scratch, line 1000", 1000);
        check("COPY scratch, Zeile 2", 2);
        check("COPY scratch, line 7: \"5\"", 0);
        check("COPY scratch, line 7, column n: \"5\"", 0);
        check("COPY a, line 9, line 1", 0);
        check("COPY a, line 9\nCOPY b, line 1", 1);
        check("COPY a, line 9\nb, line 1", 0);
        check("COPY a, line 1: \"b\nCOPY c, line 9\"", 0);
        check("SQL statement \"COPY\"", 0);
        check("", 0);
    }

    #[test]
    fn of_a_setting_that_changes_often_the_last_value_is_kept() {
        let mut bytes = BytesMut::new();
        for n in 0..1000 {
            parameter_status(&mut bytes, b"application_name", n.to_string().as_bytes());
            parameter_status(&mut bytes, b"TimeZone", b"UTC");
        }
        let mut reported = Vec::new();
        let (mut ledger, mut memory) = Default::default();
        let region = ServerWalk::default().walk(&bytes, &mut ledger, &mut memory, &mut reported);
        assert_eq!(region, Region { length: bytes.len(), stop: Stop::End });
        let pair = |name: &str, value: &str| (name.as_bytes().into(), value.as_bytes().into());
        assert_eq!(reported, [pair("application_name", "999"), pair("TimeZone", "UTC")]);
    }
}
