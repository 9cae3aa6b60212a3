//! What the server still owes the client, counted from the types of the messages alone.
//!
//! The ledger answers the questions on which everything else rests: is anything in flight, is a
//! transaction open, is the session between two statements? It follows "Message Flow" of the
//! manual: one ReadyForQuery per Query, FunctionCall and Sync; after an error in the extended
//! protocol everything up to the next Sync is skipped; Sync is ignored while COPY reads data.

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
    Sync,
    /// CopyDone or CopyFail that was sent before CopyInResponse was seen: waits for nothing, but
    /// what follows it is no longer ignored by COPY.
    CopyEnd,
}

#[derive(Debug, Clone, Copy)]
struct Boundary {
    waits: Waits,
    /// How many extended messages were sent before it.
    steps_before: u64,
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
    },
    /// ReadyForQuery, with the status it brought.
    Ready(TransactionStatus),
}

/// The account of one link, from its hand-over on.
#[derive(Debug)]
pub struct Ledger {
    status: TransactionStatus,
    queue: VecDeque<Boundary>,
    statements_sent: u64,
    steps_sent: u64,
    steps_done: u64,
    /// Steps that belong to batches whose Sync was answered.
    steps_synced: u64,
    /// The server skips everything, and no Sync that ends it has been sent.
    is_skipping: bool,
    /// The server reads COPY data and the client has not ended it.
    is_copying_in: bool,
    /// CopyBoth: nothing is counted any more.
    is_streaming: bool,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            status: TransactionStatus::Idle,
            queue: VecDeque::new(),
            statements_sent: 0,
            steps_sent: 0,
            steps_done: 0,
            steps_synced: 0,
            is_skipping: false,
            is_copying_in: false,
            is_streaming: false,
        }
    }
}

impl Ledger {
    /// Status at the last ReadyForQuery.
    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    /// Whether the server has answered all it was sent and waits for a new statement.
    pub fn is_settled(&self) -> bool {
        self.queue.is_empty()
            && self.steps_sent == self.steps_synced
            && !self.is_skipping
            && !self.is_copying_in
            && !self.is_streaming
    }

    /// Whether the link is between two statements and outside a transaction.
    pub fn is_clean(&self) -> bool {
        self.is_settled() && self.status == TransactionStatus::Idle
    }

    /// Whether extended messages were sent after the last Sync.
    pub fn is_in_batch(&self) -> bool {
        let synced = self.queue.back().map_or(self.steps_synced, |b| b.steps_before);
        self.is_skipping || self.steps_sent > synced
    }

    /// Whether everything sent was answered as far as it will be without another Sync.
    pub fn is_quiet(&self) -> bool {
        self.queue.is_empty()
            && self.steps_done == self.steps_sent
            && !self.is_copying_in
            && !self.is_streaming
    }

    /// Whether COPY data passes, or the replication stream: there is no place for an answer of ours.
    pub fn is_copying(&self) -> bool {
        self.is_copying_in || self.is_streaming
    }

    /// Whether the server would look at a command that is sent now.
    pub fn takes_commands(&self) -> bool {
        !self.is_copying() && !self.is_skipping
    }

    /// Whether the server skips everything until a Sync that has not been sent.
    pub fn is_skipping(&self) -> bool {
        self.is_skipping
    }

    /// The client sent a message of type `tag`. Returns its number where it has one: of the
    /// extended message, or of the Query or FunctionCall.
    pub fn on_client(&mut self, tag: u8) -> u64 {
        match tag {
            b'P' | b'B' | b'D' | b'E' | b'C' => {
                self.steps_sent += 1;
                if self.is_skipping {
                    self.steps_done = self.steps_sent;
                }
                self.steps_sent
            }
            b'S' if self.is_copying_in => 0,
            b'S' => {
                self.is_skipping = false;
                self.push(Waits::Sync);
                0
            }
            b'Q' | b'F' if self.is_skipping => 0,
            b'Q' | b'F' => {
                self.statements_sent += 1;
                self.push(Waits::Statement(self.statements_sent));
                self.statements_sent
            }
            b'c' | b'f' if self.is_copying_in => {
                self.is_copying_in = false;
                0
            }
            b'c' | b'f' if !self.is_skipping && (!self.queue.is_empty() || self.is_in_batch()) => {
                self.push(Waits::CopyEnd);
                0
            }
            _ => 0,
        }
    }

    /// The server sent a message of type `tag`; `status` is the byte of a ReadyForQuery.
    pub fn on_server(&mut self, tag: u8, status: Option<u8>) -> Settled {
        match tag {
            b'1' | b'2' | b'3' | b'n' | b'T' | b'C' | b'I' | b's' => self.on_completion(tag),
            b'E' => self.on_error(),
            b'G' => {
                self.on_copy_in();
                Settled::Nothing
            }
            b'W' => {
                self.is_streaming = true;
                Settled::Nothing
            }
            b'Z' => self.on_ready(status),
            _ => Settled::Nothing,
        }
    }

    fn push(&mut self, waits: Waits) {
        self.queue.push_back(Boundary { waits, steps_before: self.steps_sent });
    }

    /// The steps that come before whatever the server works at next.
    fn steps_due(&self) -> u64 {
        self.queue.front().map_or(self.steps_sent, |b| b.steps_before)
    }

    fn on_completion(&mut self, tag: u8) -> Settled {
        self.drop_copy_ends();
        if self.steps_done < self.steps_due() {
            self.steps_done += 1;
            return Settled::Step(self.steps_done);
        }
        match self.queue.front() {
            Some(Boundary { waits: Waits::Statement(n), .. }) if tag == b'C' => Settled::Command(*n),
            _ => Settled::Nothing,
        }
    }

    fn on_error(&mut self) -> Settled {
        self.is_copying_in = false;
        let after = self.steps_done;
        let in_statement = self.steps_done == self.steps_due()
            && matches!(self.queue.front(), Some(Boundary { waits: Waits::Statement(_), .. }));
        if in_statement {
            return Settled::Failed { after, through: after };
        }
        while let Some(front) = self.queue.front() {
            if front.waits == Waits::Sync {
                self.steps_done = front.steps_before;
                return Settled::Failed { after, through: self.steps_done };
            }
            self.queue.pop_front();
        }
        self.steps_done = self.steps_sent;
        self.is_skipping = true;
        Settled::Failed { after, through: self.steps_done }
    }

    /// COPY reads from here on: Syncs that were sent behind it and before its end are ignored by
    /// the server ("COPY Operations").
    fn on_copy_in(&mut self) {
        let statement = usize::from(matches!(
            self.queue.front(),
            Some(Boundary { waits: Waits::Statement(_), steps_before }) if *steps_before == self.steps_done
        ));
        while let Some(next) = self.queue.get(statement) {
            match next.waits {
                Waits::Sync => {
                    self.queue.remove(statement);
                }
                Waits::CopyEnd => {
                    self.queue.remove(statement);
                    return;
                }
                Waits::Statement(_) => break,
            }
        }
        self.is_copying_in = true;
    }

    fn on_ready(&mut self, status: Option<u8>) -> Settled {
        self.drop_copy_ends();
        match self.queue.pop_front() {
            Some(front) => {
                self.steps_done = self.steps_done.max(front.steps_before);
                self.steps_synced = front.steps_before;
            }
            // More answers than questions, after an offence against the protocol in the middle of
            // COPY: what was sent is over.
            None => {
                self.steps_done = self.steps_sent;
                self.steps_synced = self.steps_sent;
                self.is_skipping = false;
            }
        }
        self.is_copying_in = false;
        self.is_streaming = false;
        self.drop_copy_ends();
        if self.queue.is_empty() && self.queue.capacity() > KEPT_CAPACITY {
            self.queue = VecDeque::new();
        }
        // A status that cannot be is answered by staying careful: not idle.
        self.status = status.and_then(TransactionStatus::from_byte).unwrap_or(TransactionStatus::Failed);
        Settled::Ready(self.status)
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
mod tests {
    use super::*;

    /// Plays a conversation: `>X` the client sends X, `<X` the server does; ReadyForQuery is
    /// written as its status, `<i`, `<t` or `<e`.
    fn play(script: &str) -> Ledger {
        let mut ledger = Ledger::default();
        for word in script.split_whitespace() {
            let (from, what) = word.split_at(1);
            for tag in what.bytes() {
                match (from, tag) {
                    (">", _) => {
                        ledger.on_client(tag);
                    }
                    (_, b'i' | b't' | b'e') => {
                        ledger.on_server(b'Z', Some(tag.to_ascii_uppercase()));
                    }
                    _ => {
                        ledger.on_server(tag, None);
                    }
                }
            }
        }
        ledger
    }

    #[test]
    fn every_conversation_ends_clean() {
        for script in [
            ">Q <TDDCi",
            ">Q <Ii",
            ">QQQ <CiCiCi",
            ">PBDES <12TDCi",
            ">PDS <1tTi >BES <2DCi",
            ">PBDESPBDES <12TDCi12TDCi",
            ">PBDES <1Ei",
            ">PBDESPBDES <1Ei12nCi",
            ">PBEH <12C >S <i",
            ">PBEH <1E >PBE >S <i",
            // A Query behind an extended error is skipped with the rest, up to the Sync.
            ">PBEQS <1Ei",
            ">PBEQ <12CCi",
            ">PBE <1E >Q >S <i",
            // The Sync of an extended COPY is ignored by the server, the one after CopyDone is not.
            ">PBDES <12nG >dddcS <Ci",
            ">PBDES <12nG >dddS >cS <Ci",
            ">Q <G >ddc <Ci",
            ">Q <G >ddf <Ei",
            ">QddcQ <GCiCi",
            ">PBEddcS <12GCi",
            // COPY that fails before the client has ended it.
            ">Q <GE >dd <i >c",
            ">PBES <12G >dd <E >dc >S <i",
            // An error at the Sync itself: a deferred constraint.
            ">PBES <12CEi",
            ">F <Vi",
            ">PBES <12si >CS <3i",
            // Replication: both sides end the stream, and the connection takes commands again.
            ">Q <W >dd <d >c <cCi >Q <TDCi",
            // A batch in the middle of COPY is an error, and the server skips to its Sync.
            ">PBESPBES <12GEi",
        ] {
            let ledger = play(script);
            assert!(ledger.is_clean(), "{script}: {ledger:?}");
            assert!(ledger.is_quiet(), "{script}: {ledger:?}");
        }
    }

    #[test]
    fn what_is_in_flight_is_seen() {
        for script in
            [">Q", ">Q <TDDC", ">P", ">PBES <12C", ">PBE <12C", ">Q <G", ">PBE <1E", ">Q <W", ">QQ <Ci"]
        {
            assert!(!play(script).is_settled(), "{script}");
        }
    }

    #[test]
    fn a_transaction_keeps_the_link_from_being_clean() {
        assert!(play(">Q <Ct").is_settled());
        assert!(!play(">Q <Ct").is_clean());
        assert_eq!(play(">Q <Ct >Q <Ee").status(), TransactionStatus::Failed);
        assert!(play(">Q <Ct >Q <Ee >Q <Ci").is_clean());
    }

    #[test]
    fn a_batch_without_sync_is_open_and_quiet_once_answered() {
        let ledger = play(">PBEH <12C");
        assert!(ledger.is_in_batch() && ledger.is_quiet() && !ledger.is_settled());
        let ledger = play(">PBEH <1E");
        assert!(ledger.is_in_batch() && ledger.is_skipping());
        assert!(!play(">PBES").is_in_batch());
    }

    #[test]
    fn steps_are_numbered_so_that_answers_find_their_message() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.on_client(b'P'), 1);
        assert_eq!(ledger.on_client(b'B'), 2);
        ledger.on_client(b'S');
        assert_eq!(ledger.on_client(b'P'), 3);
        ledger.on_client(b'S');
        assert_eq!(ledger.on_server(b'1', None), Settled::Step(1));
        assert_eq!(ledger.on_server(b'E', None), Settled::Failed { after: 1, through: 2 });
        assert_eq!(ledger.on_server(b'Z', Some(b'I')), Settled::Ready(TransactionStatus::Idle));
        assert_eq!(ledger.on_server(b'1', None), Settled::Step(3));
        assert_eq!(ledger.on_client(b'Q'), 1);
        ledger.on_server(b'Z', Some(b'I'));
        assert_eq!(ledger.on_server(b'C', None), Settled::Command(1));
    }
}
