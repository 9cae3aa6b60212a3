//! What a server answers, as the client expects it.

use super::described::{DESCRIPTION_MAX, RESULT_CHANGED, changed_result};
use super::has::{Has, Sequences};
use super::journal::{Act, Shown};
use super::statements::server_name;
use super::{KNOWN, Pooled, words};
use crate::config::PoolMode;
use crate::session::ledger::{Ledger, Reach, Settled};
use crate::session::memory::Memory;
use crate::session::walk::{
    PEEK, REPORT_MAX, Region, ServerWalk, Stop, command_tag, ends_the_session, reach_of, shown, violation,
};
use crate::wire::frame::{HEADER, Head, cstring, head};
use crate::wire::message::{TransactionStatus, error_report};
use crate::wire::report::Report;
use bytes::{BufMut, Bytes, BytesMut};

type Side<'a> = super::Side<'a, ServerWalk>;

enum Passed {
    /// As it is, behind the patch.
    Same,
    /// The patch alone, instead of the whole message.
    Instead,
    /// Not (yet).
    Not(Stop),
}

impl Pooled {
    /// Walks over what the server sends. What may pass is `out` where it was changed (`true`), and the
    /// region's bytes as they are otherwise.
    pub fn answer(&mut self, bytes: &[u8], mut side: Side<'_>, out: &mut Vec<u8>) -> (Region, bool) {
        let mut at = side.walk.rest.min(bytes.len());
        side.walk.rest -= at;
        if self.reading.is_some() {
            self.read_description(&bytes[..at], side.walk.rest == 0, side.has);
        }
        // The rest of a message that the client must not see.
        let mut copied = if self.hides_rest { at } else { 0 };
        let mut is_changed = copied > 0;
        let stop = loop {
            match head(&bytes[at..]) {
                Head::Partial if at == bytes.len() => break Stop::End,
                Head::Partial => break Stop::Partial,
                Head::Bad { tag, .. } => {
                    break violation(format!(
                        "invalid length of message type {} from the server",
                        shown(tag)
                    ));
                }
                Head::Frame { tag, total } => {
                    let have = total.min(bytes.len() - at);
                    let passed = self.answered(tag, total, &bytes[at..at + have], &mut side);
                    let is_instead = matches!(passed, Passed::Instead);
                    if !side.patch.is_empty() || is_instead {
                        out.extend_from_slice(&bytes[copied..at]);
                        out.append(side.patch);
                        copied = if is_instead { at + have } else { at };
                        is_changed = true;
                    }
                    if let Passed::Not(stop) = passed {
                        break stop;
                    }
                    at += have;
                    side.walk.rest = total - have;
                    self.hides_rest = is_instead && have < total;
                }
            }
        };
        if is_changed {
            out.extend_from_slice(&bytes[copied..at]);
        }
        (Region { length: at, stop }, is_changed)
    }

    /// Made-up answers for which no answer of the server will come soon.
    pub fn due_answers(&mut self, ledger: &Ledger, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.wants_answers) || self.journal.is_due(ledger.into()) {
            self.journal.put_due(ledger.into(), out);
        }
    }

    /// Whether there are some: the client has sent a Flush, and the server has answered everything else.
    pub fn has_due_answers(&self, ledger: &Ledger) -> bool {
        self.wants_answers && ledger.is_quiet() && self.journal.is_due(ledger.into())
    }

    fn answered(&mut self, tag: u8, total: usize, frame: &[u8], side: &mut Side<'_>) -> Passed {
        let is_whole = frame.len() == total;
        let longest = match tag {
            b'C' | b'Z' => PEEK,
            b'E' | b'N' | b'S' => REPORT_MAX,
            _ => 0,
        };
        // However long a ReadyForQuery is said to be, its status counts.
        let is_cut = tag == b'Z' && frame.len() <= HEADER;
        if !is_whole && (total <= longest || is_cut) {
            return Passed::Not(Stop::Partial);
        }
        if !self.journal.is_empty() {
            self.journal.put_due((&*side.ledger).into(), side.patch);
        }
        let next = side.ledger.steps_done() + 1;
        match tag {
            b'D' | b'd' => {}
            b't' if matches!(self.journal.describing(next), Some(Act::HiddenDescribe { .. })) => {
                return Passed::Instead;
            }
            b'T' | b't'
                if !is_whole && total <= DESCRIPTION_MAX && self.journal.describing(next).is_some() =>
            {
                return Passed::Not(Stop::Partial);
            }
            b't' if let Some(Act::Described { name: Some(name), id }) = self.journal.describing(next) => {
                self.names.tell_types(name, *id, &frame[HEADER..]);
            }
            b'C' => {
                let tag = command_tag(total, frame);
                match side.ledger.on_server(b'C', None) {
                    Settled::Step(step) => {
                        if self.journal.on_step(step) == Shown::No {
                            return Passed::Instead;
                        }
                        side.memory.on_step(step, Some(tag));
                    }
                    Settled::Command(n) if self.hides_command_of == Some(n) => {
                        self.hides_command_of = None;
                        self.on_discarded(tag, side.has);
                        return Passed::Instead;
                    }
                    Settled::Command(n) => side.memory.on_command(n, tag),
                    Settled::Nothing | Settled::Failed { .. } | Settled::Ready(_) => {}
                }
                self.on_tag(tag);
                self.on_discarded(tag, side.has);
                if let Some(name) = side.memory.take_deallocated() {
                    self.names.set(&name, None);
                }
                if matches!(tag, b"DEALLOCATE ALL\0" | b"DISCARD ALL\0") {
                    side.has.statements.clear();
                    self.names.forget_named();
                }
            }
            b'Z' => self.on_ready(frame, side),
            b'E' => return self.on_error(frame, is_whole, side),
            b'N' => {
                if is_whole {
                    let report = Report::new(Bytes::copy_from_slice(&frame[HEADER..]));
                    if ends_the_session(&report) {
                        return Passed::Not(Stop::Lost { total });
                    }
                }
            }
            b'S' => {
                if is_whole
                    && let Some((name, rest)) = cstring(&frame[HEADER..])
                    && let Some((value, _)) = cstring(rest)
                {
                    side.has.on_report((name.into(), value.into()));
                }
            }
            _ => {
                if let Settled::Step(step) = side.ledger.on_server(tag, None) {
                    side.memory.on_step(step, None);
                    if matches!(tag, b'T' | b'n') && !self.journal.is_empty() {
                        self.on_description(step, (tag, frame), total, side.has);
                    }
                    if self.journal.on_step(step) == Shown::No {
                        return Passed::Instead;
                    }
                }
            }
        }
        Passed::Same
    }

    /// Last values of sequences that are gone are nobody's; what was sent since is the client's.
    fn on_discarded(&self, tag: &[u8], has: &mut Has) {
        if matches!(tag, b"DISCARD SEQUENCES\0" | b"DISCARD ALL\0") {
            has.sequences = Sequences::Of(self.stamp);
        }
    }

    fn on_ready(&mut self, frame: &[u8], side: &mut Side<'_>) {
        let Settled::Ready(status) = side.ledger.on_server(b'Z', frame.get(HEADER).copied()) else { return };
        let is_idle = status == TransactionStatus::Idle;
        side.memory.on_ready(is_idle);
        if is_idle {
            self.settle(side.has, side.memory);
            self.on_transaction_end();
        }
        // What is answered here may stand in a batch that has only begun.
        if is_idle && side.ledger.is_settled() && self.journal.has_before(side.ledger.batch()) {
            // After an offence against the protocol in the middle of COPY: what the link has is not known.
            let last = side.ledger.batch() - 1;
            while let Some((_, act)) = self.journal.failed(last) {
                self.take_back(act, last, Some(side.has));
            }
            side.has.is_spoiled = true;
        }
        self.has_begun_block = self.mode == PoolMode::Statement && !is_idle;
        if is_idle && self.mode != PoolMode::Auto {
            self.warn(side.memory, side.patch);
        }
    }

    /// What the client has made and will not find again is said once, before ReadyForQuery.
    fn warn(&mut self, memory: &Memory, out: &mut Vec<u8>) {
        let known = self.footprint.has(KNOWN);
        let Some(tie) = memory.tie().map(|tie| tie.what()).or(known.then(|| self.footprint.what())) else {
            return;
        };
        if !self.warned.contains(&tie) {
            self.warned.push(tie);
            crate::observe::count(&self.counters.states_given_up);
            out.extend_from_slice(&words::given_up(tie).to_bytes());
        }
    }

    fn on_error(&mut self, frame: &[u8], is_whole: bool, side: &mut Side<'_>) -> Passed {
        let (mut renamed, mut reach) = (None, Reach::Unknown);
        if is_whole {
            let report = Report::new(Bytes::copy_from_slice(&frame[HEADER..]));
            if ends_the_session(&report) {
                return Passed::Not(Stop::Lost { total: frame.len() });
            }
            side.walk.has_passed_fatal |= matches!(report.severity().as_ref(), "FATAL" | "PANIC");
            if side.ledger.awaits_copy() {
                reach = reach_of(&report);
            }
            let is_refused =
                self.journal.is_outdated(side.ledger.steps_done() + 1) && report.code() == "26000";
            let report = if is_refused { changed_result(&report) } else { report };
            self.learn(&report, side.has);
            let is_second = self.journal.name_for_error(side.ledger.steps_done() + 1).is_some();
            // The link has what we thought it has not.
            side.has.is_spoiled |= report.code() == "42P05" && !is_second && id_in(&report).is_some();
            if is_refused {
                renamed = Some(report);
            } else if let Some((name, own)) = self.journal.name_for_error(side.ledger.steps_done() + 1) {
                renamed = Some(with_name(&report, name, own));
            } else if let Some(id) = id_in(&report)
                && let Some(name) = self
                    .spoken
                    .at(side.ledger.steps_done() + 1)
                    .or_else(|| self.names.name_of(id).or_else(|| self.journal.former_name_of(id)))
            {
                renamed = Some(with_name(&report, name, server_name(id, &mut [0; 16])));
            }
        }
        if let Settled::Failed { after, through, batch } = side.ledger.on_error(reach) {
            side.memory.on_failed(after, through);
            if let Some(batch) = batch {
                while let Some((step, act)) = self.journal.failed(batch) {
                    let drops =
                        step == after + 1 && matches!(&act, Act::Parse { name, .. } if name.is_empty());
                    self.take_back(act, batch, Some(side.has));
                    if drops {
                        // It has taken the former one away before it failed.
                        self.set_unnamed_in(batch, None);
                    }
                }
            }
        }
        if side.ledger.is_lost() {
            side.memory.on_uncertain();
        }
        match renamed {
            Some(report) => {
                let mut out = BytesMut::new();
                error_report(&mut out, &report);
                side.patch.extend_from_slice(&out);
                Passed::Instead
            }
            None => Passed::Same,
        }
    }

    /// Some errors say that statements on the link are not what we think.
    fn learn(&mut self, report: &Report, has: &mut Has) {
        match report.code().as_ref() {
            // A function may have dropped it.
            "26000" => {
                if let Some(id) = id_in(report) {
                    has.statements.remove(id);
                }
            }
            // Somebody asks for the last value of a sequence, also if no statement says so.
            "55000" if matches!(report.routine().as_ref(), "lastval" | "currval_oid") => {
                self.group.habits.has_asked();
            }
            // "cached plan must not change result type": whoever prepares it again gets a new one.
            "0A000" if report.routine() == RESULT_CHANGED => {
                self.names.all().for_each(|statement| statement.retire());
            }
            _ => {}
        }
    }
}

/// The number in a statement's name of ours, where an error is about a statement. How the name is
/// quoted follows from the server's language.
fn id_in(report: &Report) -> Option<u32> {
    let is_about_it = match report.code().as_ref() {
        "26000" | "42P05" | "08P01" => true,
        // Parameters of EXECUTE.
        "42601" => report.routine() == "EvaluateParams",
        _ => false,
    };
    if is_about_it { number_in(&report.message()) } else { None }
}

fn number_in(message: &str) -> Option<u32> {
    let (before, rest) = message.split_once("cm_")?;
    let (number, behind) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
    let is_quote = |c: char| !c.is_alphanumeric() && !matches!(c, '_' | '?' | '$');
    let is_quoted = before.ends_with(is_quote) && behind.starts_with(is_quote);
    number.parse().ok().filter(|_| is_quoted)
}

/// The same report with another name in its message.
fn with_name(report: &Report, name: &[u8], own: &[u8]) -> Report {
    let mut body = BytesMut::new();
    for (kind, value) in report.fields() {
        body.put_u8(kind);
        match memchr::memmem::find(value, own) {
            Some(at) if kind == b'M' => {
                body.put_slice(&value[..at]);
                body.put_slice(name);
                body.put_slice(&value[at + own.len()..]);
            }
            _ => body.put_slice(value),
        }
        body.put_u8(0);
    }
    body.put_u8(0);
    Report::new(body.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_ours_is_found_in_any_language() {
        for (message, number) in [
            (r#"prepared statement "cm_7" does not exist"#, Some(7)),
            ("vorbereitete Anweisung »cm_12« existiert nicht", Some(12)),
            (r#"prepared statement "cm_7?" does not exist"#, None),
            (r#"prepared statement "cm_7a" does not exist"#, None),
            (r#"prepared statement "acm_7" does not exist"#, None),
            (r#"prepared statement "cm_99999999999" does not exist"#, None),
            ("nothing, or cm_", None),
            ("cm_1", None),
        ] {
            assert_eq!(number_in(message), number, "{message}");
        }
    }
}
