//! What the server still owes the client, counted from the types of the messages alone.
//!
//! The ledger answers the questions on which everything else rests: is anything in flight, is a
//! transaction open, is the session between two statements? It follows "Message Flow" of the
//! manual: one ReadyForQuery per Query, FunctionCall and Sync; after an error in the extended
//! protocol everything up to the next Sync is skipped.
//!
//! While COPY reads, Sync is ignored and any other message but data, its end and Flush is an offence
//! that ends the COPY and is used up by it. Which messages that concerns is known when COPY has ended:
//! until then everything stays in the queue. After some failures it is never known whether a Sync
//! came too early: then the ledger is *uncertain* and does not call the link settled before an answer
//! has shown where the server is.

use crate::wire::message::TransactionStatus;
use std::collections::VecDeque;

/// An idle session keeps no more room than for this many.
const KEPT_CAPACITY: usize = 16;

/// What a message in the queue waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// Query or FunctionCall number `n`: its own ReadyForQuery.
    Statement(u64),
    /// Ends an extended batch, and the skipping after an error in it, by a ReadyForQuery.
    Sync {
        /// COPY data was sent before it.
        is_behind_data: bool,
    },
    /// CopyDone or CopyFail: waits for nothing, but what follows it is no longer ignored by COPY.
    CopyEnd,
}

#[derive(Debug, Clone, Copy)]
struct Boundary {
    waits: Waits,
    /// How many extended messages were sent before it.
    steps_before: u64,
    /// How many Syncs were sent before it.
    syncs_before: u64,
    /// How many messages of COPY data were sent before it.
    data_before: u64,
}

/// What a message of the server has settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Nothing that counts.
    Nothing,
    /// Extended message number `n` (from 1) was answered.
    Step(u64),
    /// A command within simple Query number `n` (from 1) was completed.
    Command(u64),
    /// An error; the extended messages in between never run.
    Failed {
        /// The last extended message that was answered.
        after: u64,
        /// The last one that is skipped, of those sent so far.
        through: u64,
        /// The batch that has failed, by the number of Syncs sent before its own; `None` for a
        /// simple Query, whose error concerns nothing else.
        batch: Option<u64>,
    },
    /// ReadyForQuery, with the status it brought.
    Ready(TransactionStatus),
}

/// How far into what it was sent the server had come when it raised an error, as far as the error
/// tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// COPY had read its end: CopyFail, or a message that has no place in it.
    CopyEnd,
    /// COPY was at its data.
    CopyData,
    /// COPY had read some data, and perhaps all that was sent.
    CopyBegun,
    /// The error does not tell.
    Unknown,
}

/// Whether the queue says what the server will answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Certainty {
    Certain,
    /// Some Sync at the front may have been ignored, and if so the server skips what it is sent.
    UntilSync,
    /// Some Sync at the front may have been ignored; what stands behind it will be executed.
    ButForSyncs,
    /// What came behind such a Sync may have been skipped: only that everything was answered can
    /// still be known, if it was.
    Lost,
}

/// COPY that reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copying {
    No,
    /// The client has not ended it.
    Reading,
    /// The client has, rightly or by an offence, and the server has not answered.
    Ended,
}

/// What ends a COPY, among what was sent.
enum CopyEnd {
    /// The boundary at this place.
    At(usize),
    /// An extended message.
    Step,
}

/// The account of one link, from its hand-over on.
#[derive(Debug)]
pub struct Ledger {
    status: TransactionStatus,
    queue: VecDeque<Boundary>,
    statements_sent: u64,
    steps_sent: u64,
    steps_done: u64,
    syncs_sent: u64,
    /// Steps that belong to batches whose Sync was answered.
    steps_synced: u64,
    /// The server skips everything, and no Sync that ends it has been sent.
    is_skipping: bool,
    copying: Copying,
    /// How many messages of COPY data were sent, and how many of them before the last end of a COPY.
    data_sent: u64,
    data_ended: u64,
    certainty: Certainty,
    /// CopyBoth: nothing is counted any more.
    is_streaming: bool,
    /// For the account: what was answered, and the messages Parse and Bind that were sent.
    counts: Counts,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    queries: u64,
    transactions: u64,
    parses: u64,
    binds: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            status: TransactionStatus::Idle,
            queue: VecDeque::new(),
            statements_sent: 0,
            steps_sent: 0,
            steps_done: 0,
            syncs_sent: 0,
            steps_synced: 0,
            is_skipping: false,
            copying: Copying::No,
            data_sent: 0,
            data_ended: 0,
            certainty: Certainty::Certain,
            is_streaming: false,
            counts: Counts::default(),
        }
    }
}

impl Ledger {
    /// How many statements and batches were answered to their end.
    pub fn queries(&self) -> u64 {
        self.counts.queries
    }

    /// How many of them ended outside a transaction.
    pub fn transactions(&self) -> u64 {
        self.counts.transactions
    }

    /// How many Parse messages were sent.
    pub fn parses(&self) -> u64 {
        self.counts.parses
    }

    /// How many Bind messages were sent.
    pub fn binds(&self) -> u64 {
        self.counts.binds
    }

    /// Status at the last ReadyForQuery.
    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    /// Whether the server has answered all it was sent and waits for a new statement.
    pub fn is_settled(&self) -> bool {
        self.queue.is_empty()
            && self.steps_sent == self.steps_synced
            && !self.is_skipping
            && self.copying == Copying::No
            && !self.is_streaming
    }

    /// Whether the link is between two statements and outside a transaction.
    pub fn is_clean(&self) -> bool {
        self.is_settled() && self.status == TransactionStatus::Idle
    }

    /// Whether extended messages were sent after the last Sync.
    pub fn is_in_batch(&self) -> bool {
        let ends = |b: &&Boundary| b.waits != Waits::CopyEnd;
        let synced = self.queue.iter().rev().find(ends).map_or(self.steps_synced, |b| b.steps_before);
        self.is_skipping || self.steps_sent > synced
    }

    /// Whether everything sent was answered as far as it will be without another Sync.
    pub fn is_quiet(&self) -> bool {
        self.queue.is_empty()
            && self.steps_done == self.steps_sent
            && self.copying == Copying::No
            && !self.is_streaming
    }

    /// Whether COPY data passes, or the replication stream, or it is not certain where the server is:
    /// there is no place for an answer of ours.
    pub fn has_no_place(&self) -> bool {
        self.copying == Copying::Reading || self.is_streaming || self.is_uncertain()
    }

    /// Whether the server would look at a command that is sent now, at a place that is known.
    pub fn takes_commands(&self) -> bool {
        !self.has_no_place() && !self.is_skipping
    }

    /// Whether answers cannot be told apart until the server has given more of them.
    pub fn is_uncertain(&self) -> bool {
        self.certainty != Certainty::Certain
    }

    /// Whether the server skips everything until a Sync that has not been sent.
    pub fn is_skipping(&self) -> bool {
        self.is_skipping
    }

    /// How many extended messages were sent.
    pub fn steps_sent(&self) -> u64 {
        self.steps_sent
    }

    /// How many of them were answered, or never will be.
    pub fn steps_done(&self) -> u64 {
        self.steps_done
    }

    /// How many simple queries and calls of functions were answered to their ends.
    pub fn statements_done(&self) -> u64 {
        let open = self.queue.iter().filter(|boundary| matches!(boundary.waits, Waits::Statement(_)));
        self.statements_sent - open.count() as u64
    }

    /// How many Syncs were sent: the number of the batch that is being sent.
    pub fn batch(&self) -> u64 {
        self.syncs_sent
    }

    /// Whether it is not certain either what the answers to come are about.
    pub fn is_lost(&self) -> bool {
        self.certainty == Certainty::Lost
    }

    /// How many Syncs of those sent were answered, or never will be.
    pub fn batches_done(&self) -> u64 {
        self.queue.front().map_or(self.syncs_sent, |boundary| boundary.syncs_before)
    }

    /// Whether COPY data was sent whose end is not answered: where an answer of ours would stand behind it may
    /// have to be taken back.
    pub fn is_amid_copy(&self) -> bool {
        self.copying != Copying::No
            || self.is_uncertain()
            || self.data_sent > self.data_ended
            || self.queue.iter().any(|boundary| boundary.waits == Waits::CopyEnd)
    }

    /// Whether an error that comes now may have ended a COPY: then its [`Reach`] matters.
    pub fn awaits_copy(&self) -> bool {
        self.copying != Copying::No
    }

    /// The client sent a message of type `tag`. Returns its number where it has one: of the
    /// extended message, or of the Query or FunctionCall.
    pub fn on_client(&mut self, tag: u8) -> u64 {
        if self.certainty == Certainty::UntilSync {
            self.certainty = match tag {
                b'S' => Certainty::ButForSyncs,
                b'H' | b'd' | b'c' | b'f' => Certainty::UntilSync,
                _ => Certainty::Lost,
            };
        }
        match tag {
            b'P' | b'B' | b'D' | b'E' | b'C' => {
                self.steps_sent += 1;
                self.counts.parses += u64::from(tag == b'P');
                self.counts.binds += u64::from(tag == b'B');
                self.end_reading();
                if self.is_skipping {
                    self.steps_done = self.steps_sent;
                }
                self.steps_sent
            }
            b'S' => {
                self.is_skipping = false;
                self.push(Waits::Sync { is_behind_data: self.data_sent > self.data_ended });
                self.syncs_sent += 1;
                0
            }
            b'Q' | b'F' if self.is_skipping => 0,
            b'Q' | b'F' => {
                self.end_reading();
                self.statements_sent += 1;
                self.push(Waits::Statement(self.statements_sent));
                self.statements_sent
            }
            b'd' => {
                self.data_sent += 1;
                0
            }
            b'c' | b'f' => {
                self.end_reading();
                self.data_ended = self.data_sent;
                if !self.is_skipping && (!self.queue.is_empty() || self.is_in_batch()) {
                    self.push(Waits::CopyEnd);
                }
                0
            }
            _ => 0,
        }
    }

    /// The server sent a message of type `tag`; `status` is the byte of a ReadyForQuery.
    pub fn on_server(&mut self, tag: u8, status: Option<u8>) -> Settled {
        match tag {
            b'Z' => self.on_ready(status),
            _ if self.certainty == Certainty::Lost => Settled::Nothing,
            b'1' | b'2' | b'3' | b'n' | b'T' | b'C' | b'I' | b's' => self.on_completion(tag),
            b'E' => self.on_error(Reach::Unknown),
            b'G' => {
                self.pass_unanswered();
                let is_ended = self.copy_end().is_some();
                self.copying = if is_ended { Copying::Ended } else { Copying::Reading };
                Settled::Nothing
            }
            b'W' => {
                self.pass_unanswered();
                self.is_streaming = true;
                Settled::Nothing
            }
            b'H' | b'V' => {
                self.pass_unanswered();
                Settled::Nothing
            }
            _ => Settled::Nothing,
        }
    }

    /// The server sent an error.
    pub fn on_error(&mut self, reach: Reach) -> Settled {
        if self.certainty == Certainty::Lost {
            return Settled::Nothing;
        }
        self.pass_unanswered();
        let after = self.steps_done;
        if std::mem::replace(&mut self.copying, Copying::No) != Copying::No {
            self.settle_failed_copy(reach);
        }
        if self.is_in_statement() {
            return Settled::Failed { after, through: self.steps_done, batch: None };
        }
        while let Some(front) = self.queue.front() {
            if let Waits::Sync { .. } = front.waits {
                self.steps_done = front.steps_before;
                return Settled::Failed { after, through: self.steps_done, batch: Some(front.syncs_before) };
            }
            self.queue.pop_front();
        }
        self.steps_done = self.steps_sent;
        self.is_skipping = true;
        Settled::Failed { after, through: self.steps_done, batch: Some(self.syncs_sent) }
    }

    fn push(&mut self, waits: Waits) {
        let (steps_before, syncs_before) = (self.steps_sent, self.syncs_sent);
        self.queue.push_back(Boundary { waits, steps_before, syncs_before, data_before: self.data_sent });
    }

    fn end_reading(&mut self) {
        if self.copying == Copying::Reading {
            self.copying = Copying::Ended;
        }
    }

    /// The steps that come before whatever the server works at next.
    fn steps_due(&self) -> u64 {
        self.queue.front().map_or(self.steps_sent, |b| b.steps_before)
    }

    /// Whether the server works at a Query or FunctionCall.
    fn is_in_statement(&self) -> bool {
        self.steps_done == self.steps_due()
            && matches!(self.queue.front(), Some(Boundary { waits: Waits::Statement(_), .. }))
    }

    fn on_completion(&mut self, tag: u8) -> Settled {
        self.pass_unanswered();
        if tag == b'C' && std::mem::replace(&mut self.copying, Copying::No) != Copying::No {
            // It has read its end, and ignored every Sync before.
            if let Some(CopyEnd::At(end)) = self.copy_end() {
                self.queue.drain(self.copy_starts_at().0..=end);
            }
        }
        if self.steps_done < self.steps_due() {
            self.steps_done += 1;
            return Settled::Step(self.steps_done);
        }
        match self.queue.front() {
            Some(Boundary { waits: Waits::Statement(n), .. }) if tag == b'C' => Settled::Command(*n),
            _ => Settled::Nothing,
        }
    }

    /// Where in the queue stands what was sent behind the statement that copies, and the number of
    /// the last extended message up to that statement.
    fn copy_starts_at(&self) -> (usize, u64) {
        if self.is_in_statement() { (1, self.steps_done) } else { (0, self.steps_done + 1) }
    }

    /// What ends the COPY that the server works at, of what was sent so far ("COPY Operations").
    fn copy_end(&self) -> Option<CopyEnd> {
        let (start, steps) = self.copy_starts_at();
        for (index, boundary) in self.queue.iter().enumerate().skip(start) {
            if boundary.steps_before > steps {
                return Some(CopyEnd::Step);
            }
            match boundary.waits {
                Waits::Sync { .. } => {}
                Waits::CopyEnd | Waits::Statement(_) => return Some(CopyEnd::At(index)),
            }
        }
        (self.steps_sent > steps).then_some(CopyEnd::Step)
    }

    /// Takes out of the queue what the failed COPY has used up.
    fn settle_failed_copy(&mut self, reach: Reach) {
        let (start, steps) = self.copy_starts_at();
        let end = self.copy_end();
        let end_at = match end {
            Some(CopyEnd::At(index)) => index,
            Some(CopyEnd::Step) | None => {
                let is_behind = |b: &Boundary| b.steps_before > steps;
                self.queue.iter().position(is_behind).unwrap_or(self.queue.len()).max(start)
            }
        };
        match (reach, end) {
            (Reach::CopyEnd, Some(CopyEnd::At(_))) => {
                self.queue.drain(start..=end_at);
            }
            (Reach::CopyEnd, Some(CopyEnd::Step)) => {
                self.queue.drain(start..end_at);
                if start == 1 {
                    // What comes behind the message is executed, but not the message.
                    self.steps_done += 1;
                    self.queue[0].steps_before = self.steps_done;
                }
            }
            (Reach::CopyData | Reach::CopyBegun, _) => {
                let ignored = |b: &&Boundary| b.waits == Waits::Sync { is_behind_data: false };
                let ignored = self.queue.range(start..end_at).take_while(ignored).count();
                self.queue.drain(start..start + ignored);
                let end_at = end_at - ignored;
                let was_at_data = reach == Reach::CopyData;
                self.doubt(start, if was_at_data { self.past_data(start, end_at) } else { end_at });
            }
            (Reach::CopyEnd, None) | (Reach::Unknown, _) => self.doubt(start, end_at),
        }
    }

    /// COPY was at its data when it failed, and not at its end in `end`: the Syncs from here on, behind
    /// the last data, were not ignored. Only at CopyDone may it look at its rows once more.
    fn past_data(&self, start: usize, end: usize) -> usize {
        let behind = self.queue.get(end);
        if behind.is_some_and(|boundary| boundary.waits == Waits::CopyEnd) {
            return end;
        }
        let data = behind.map_or(self.data_sent, |boundary| boundary.data_before);
        let is_past = |boundary: &Boundary| boundary.data_before == data;
        start + self.queue.range(start..end).position(is_past).unwrap_or(end - start)
    }

    /// The Syncs from `start` to `end` in the queue may have been ignored, or not.
    fn doubt(&mut self, start: usize, end: usize) {
        if start == end {
            return;
        }
        let steps = self.queue[start].steps_before;
        let mut behind = self.queue.range(end..).skip_while(|b| b.waits == Waits::CopyEnd);
        self.certainty = match behind.next() {
            // Behind a failed Query nothing is skipped.
            _ if start == 1 => Certainty::ButForSyncs,
            Some(Boundary { waits: Waits::Sync { .. }, steps_before, .. }) if *steps_before == steps => {
                Certainty::ButForSyncs
            }
            None if self.steps_sent == steps => Certainty::UntilSync,
            Some(_) | None => Certainty::Lost,
        };
    }

    fn on_ready(&mut self, status: Option<u8>) -> Settled {
        self.drop_copy_ends();
        // While lost, every answer that may still come counts.
        match self.queue.pop_front() {
            Some(front) => {
                self.steps_done = self.steps_done.max(front.steps_before);
                self.steps_synced = front.steps_before;
            }
            // More answers than questions: what was sent is over.
            None => {
                self.steps_done = self.steps_sent;
                self.steps_synced = self.steps_sent;
                self.is_skipping = false;
            }
        }
        self.copying = Copying::No;
        self.is_streaming = false;
        self.drop_copy_ends();
        if self.queue.is_empty() {
            if self.steps_sent == self.steps_synced {
                self.certainty = Certainty::Certain;
            }
            if self.steps_sent == self.steps_synced {
                self.data_ended = self.data_sent;
            }
            if self.queue.capacity() > KEPT_CAPACITY {
                self.queue = VecDeque::new();
            }
        }
        // A status that cannot be is answered by staying careful: not idle.
        self.status = status.and_then(TransactionStatus::from_byte).unwrap_or(TransactionStatus::Failed);
        self.counts.queries += 1;
        self.counts.transactions += u64::from(self.status == TransactionStatus::Idle);
        Settled::Ready(self.status)
    }

    /// An answer to something behind them shows that these Syncs were ignored.
    fn pass_unanswered(&mut self) {
        self.drop_copy_ends();
        while self.certainty == Certainty::ButForSyncs
            && let Some(Boundary { waits: Waits::Sync { .. } | Waits::CopyEnd, steps_before, .. }) =
                self.queue.front()
            && self.steps_done >= *steps_before
        {
            self.steps_synced = *steps_before;
            self.queue.pop_front();
        }
    }

    /// A CopyEnd at the front had no COPY to end.
    fn drop_copy_ends(&mut self) {
        while let Some(front) = self.queue.front() {
            if front.waits != Waits::CopyEnd || self.steps_done < front.steps_before {
                return;
            }
            self.queue.pop_front();
        }
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
