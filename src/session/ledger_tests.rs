use super::*;
use proptest::prelude::*;

/// Plays a conversation: `>X` the client sends X, `<X` the server does; ReadyForQuery is
/// written as its status, `<i`, `<t` or `<e`, and errors of COPY as `<O` about its end and `<R` about
/// its data.
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
                // Errors of COPY: about its end, and about data.
                (_, b'O') => {
                    ledger.on_error(Reach::CopyEnd);
                }
                (_, b'R') => {
                    ledger.on_error(Reach::CopyData);
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
        ">PBES <12G >dd <R >dc >S <i",
        // An error at the Sync itself: a deferred constraint.
        ">PBES <12CEi",
        ">F <Vi",
        ">PBES <12si >CS <3i",
        // Replication: both sides end the stream, and the connection takes commands again.
        ">Q <W >dd <d >c <cCi >Q <TDCi",
        // A batch in the middle of COPY is an error, and the server skips to its Sync.
        ">PBESPBES <12GOi",
        ">PBES <12G >PBES <Oi",
        ">PBESPBESQ <12GOiTDCi",
        // A Query in the middle of COPY is an error and used up by it; so is a part of a batch.
        ">QQ <GOi",
        ">Q <G >Q <Oi",
        ">QP <GOi >BES <2Ci",
        ">Q <G >PBS <Oi2i",
        // The Sync that came with COPY was ignored, whatever became of the COPY.
        ">PBES <12G >dd <R >cS <i",
        ">PBES <12G >ddfS <Oi",
        ">PBESddfS <12GOi",
        // One that came between data may have been too late to be ignored: the next answer tells.
        ">PBES <12G >dSd <R >cS <i >Q <TDCi",
        ">PBES <12G >dSd <R >cS <ii >Q <TDCi",
        ">PBES <12G >dSd <R >cS <ii",
        // One behind the last data was too late.
        ">PBES <12G >dSdS <R >PBES <i12Ci",
        ">PBES <12G >dSdSPBES <Ri12Ci",
        ">PBES <12G >dSdSQ <RiTDCi",
    ] {
        let ledger = play(script);
        assert!(ledger.is_clean(), "{script}: {ledger:?}");
        assert!(ledger.is_quiet(), "{script}: {ledger:?}");
    }
}

#[test]
fn what_is_in_flight_is_seen() {
    for script in [">Q", ">Q <TDDC", ">P", ">PBES <12C", ">PBE <12C", ">Q <G", ">PBE <1E", ">Q <W", ">QQ <Ci"]
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
    assert_eq!(ledger.on_server(b'E', None), Settled::Failed { after: 1, through: 2, batch: Some(0) });
    assert_eq!(ledger.on_server(b'Z', Some(b'I')), Settled::Ready(TransactionStatus::Idle));
    assert_eq!(ledger.on_server(b'1', None), Settled::Step(3));
    assert_eq!(ledger.on_client(b'Q'), 1);
    ledger.on_server(b'Z', Some(b'I'));
    assert_eq!(ledger.on_server(b'C', None), Settled::Command(1));
}

// What a server does with what it is sent, as PostgresMain and CopyGetData do it.

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Completes,
    FailsBeforeItReads,
    /// As a whole, or at one of its rows after all.
    FailsAtItsEnd(Reach),
    /// So many messages after its first data, whatever they are.
    IsCancelled {
        after: u8,
        has_data: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Does {
    Selects,
    Fails,
    CopiesIn(Fate),
}

#[derive(Debug, Clone, PartialEq)]
enum Says {
    Step(u8, Does),
    Query(Vec<Does>),
    Sync,
    Flush,
    Data { is_bad: bool },
    CopyDone,
    CopyFail,
}

impl Says {
    fn tag(&self) -> u8 {
        match self {
            Says::Step(tag, _) => *tag,
            Says::Query(_) => b'Q',
            Says::Sync => b'S',
            Says::Flush => b'H',
            Says::Data { .. } => b'd',
            Says::CopyDone => b'c',
            Says::CopyFail => b'f',
        }
    }

    /// Whether an idle server would do nothing about it.
    fn is_idle_talk(&self) -> bool {
        matches!(self, Says::Flush | Says::Data { .. } | Says::CopyDone | Says::CopyFail)
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Mode {
    Normal,
    Skipping,
    /// `rest`: what a simple Query does afterwards.
    Copying {
        fate: Fate,
        number: u64,
        rest: Option<Vec<Does>>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Answer {
    tag: u8,
    /// The number of the step or Query that it is about.
    about: u64,
    reach: Reach,
}

struct Server {
    input: VecDeque<(u64, Says)>,
    output: VecDeque<Answer>,
    mode: Mode,
    is_in_batch: bool,
}

impl Server {
    fn is_idle(&self) -> bool {
        self.mode == Mode::Normal
            && !self.is_in_batch
            && self.output.is_empty()
            && self.input.iter().all(|(_, says)| says.is_idle_talk())
    }

    fn answer(&mut self, tags: &[u8], about: u64) {
        let answers = tags.iter().map(|tag| Answer { tag: *tag, about, reach: Reach::Unknown });
        self.output.extend(answers);
    }

    /// Whether a COPY is cancelled before it reads anything more.
    fn is_cancelled(&mut self) -> bool {
        let Mode::Copying { fate: Fate::IsCancelled { after, has_data: true }, rest, .. } = &mut self.mode
        else {
            return false;
        };
        if *after > 0 {
            *after -= 1;
            return false;
        }
        let is_simple = rest.is_some();
        self.mode = Mode::Normal;
        self.fail_copy(is_simple, Reach::CopyBegun);
        true
    }

    /// Reads one message.
    fn read(&mut self) {
        if self.is_cancelled() {
            return;
        }
        let Some((number, says)) = self.input.pop_front() else { return };
        match (std::mem::replace(&mut self.mode, Mode::Normal), says.clone()) {
            (Mode::Skipping | Mode::Normal, Says::Sync) => {
                self.is_in_batch = false;
                self.answer(b"Z", 0);
            }
            (Mode::Skipping, _) => self.mode = Mode::Skipping,
            (Mode::Normal, Says::Query(does)) => self.query(number, &does),
            (Mode::Normal, Says::Step(tag, does)) => self.step(number, tag, does),
            (Mode::Normal, _) => {}
            (mut mode @ Mode::Copying { .. }, Says::Sync | Says::Flush | Says::Data { is_bad: false }) => {
                if let Mode::Copying { fate: Fate::IsCancelled { has_data, .. }, .. } = &mut mode {
                    *has_data |= matches!(says, Says::Data { .. });
                }
                self.mode = mode
            }
            (Mode::Copying { rest, .. }, Says::Data { .. }) => {
                self.fail_copy(rest.is_some(), Reach::CopyData)
            }
            (Mode::Copying { rest, fate: Fate::FailsAtItsEnd(reach), .. }, Says::CopyDone) => {
                self.fail_copy(rest.is_some(), reach);
            }
            (Mode::Copying { rest, number, .. }, Says::CopyDone) => {
                self.answer(b"C", number);
                if let Some(rest) = rest {
                    self.query(number, &rest);
                }
            }
            // CopyFail, and what has no place here.
            (Mode::Copying { rest, .. }, _) => self.fail_copy(rest.is_some(), Reach::CopyEnd),
        }
    }

    fn fail_copy(&mut self, is_simple: bool, reach: Reach) {
        self.output.push_back(Answer { tag: b'E', about: 0, reach });
        if is_simple {
            self.answer(b"Z", 0);
        } else {
            self.mode = Mode::Skipping;
        }
    }

    fn query(&mut self, number: u64, does: &[Does]) {
        self.is_in_batch = false;
        for (index, one) in does.iter().enumerate() {
            match one {
                Does::Selects => self.answer(b"TDDC", number),
                Does::Fails => {
                    self.answer(b"E", number);
                    break;
                }
                Does::CopiesIn(fate) => {
                    self.answer(b"G", number);
                    if *fate == Fate::FailsBeforeItReads {
                        self.answer(b"E", number);
                        break;
                    }
                    self.mode = Mode::Copying { fate: *fate, number, rest: Some(does[index + 1..].to_vec()) };
                    return;
                }
            }
        }
        if does.is_empty() {
            self.answer(b"I", number);
        }
        self.answer(b"Z", 0);
    }

    fn step(&mut self, number: u64, tag: u8, does: Does) {
        self.is_in_batch = true;
        match (tag, does) {
            (_, Does::Fails) => {
                self.answer(b"E", 0);
                self.mode = Mode::Skipping;
            }
            (b'P', _) => self.answer(b"1", number),
            (b'B', _) => self.answer(b"2", number),
            (b'D', Does::Selects) => self.answer(b"T", number),
            (b'D', Does::CopiesIn(_)) => self.answer(b"tn", number),
            (b'C', _) => self.answer(b"3", number),
            (_, Does::Selects) => self.answer(b"DDC", number),
            (_, Does::CopiesIn(fate)) => {
                self.answer(b"G", 0);
                if fate == Fate::FailsBeforeItReads {
                    self.answer(b"E", 0);
                    self.mode = Mode::Skipping;
                } else {
                    self.mode = Mode::Copying { fate, number, rest: None };
                }
            }
        }
    }
}

fn does() -> impl Strategy<Value = Does> {
    prop_oneof![
        4 => Just(Does::Selects),
        1 => Just(Does::Fails),
        3 => Just(Does::CopiesIn(Fate::Completes)),
        1 => Just(Does::CopiesIn(Fate::FailsBeforeItReads)),
        1 => prop::sample::select(&[Reach::Unknown, Reach::CopyData])
            .prop_map(|reach| Does::CopiesIn(Fate::FailsAtItsEnd(reach))),
        1 => (0..3u8).prop_map(|after| Does::CopiesIn(Fate::IsCancelled { after, has_data: false })),
    ]
}

fn says() -> impl Strategy<Value = Says> {
    prop_oneof![
        6 => (prop::sample::select(&b"PBDEEEC"[..]), does()).prop_map(|(tag, does)| Says::Step(tag, does)),
        3 => prop::collection::vec(does(), 0..3).prop_map(Says::Query),
        5 => Just(Says::Sync),
        1 => Just(Says::Flush),
        4 => prop::bool::weighted(0.2).prop_map(|is_bad| Says::Data { is_bad }),
        3 => Just(Says::CopyDone),
        1 => Just(Says::CopyFail),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// Whatever a client sends and however far the server lags behind: a link that is called settled
    /// is, answers find their message, and once everything was answered the ledger knows it.
    #[test]
    fn the_ledger_never_calls_a_busy_link_settled(
        conversation in prop::collection::vec(says(), 0..24),
        schedule in prop::collection::vec(0..3u8, 0..200),
    ) {
        let mut ledger = Ledger::default();
        let mut server =
            Server { input: VecDeque::new(), output: VecDeque::new(), mode: Mode::Normal, is_in_batch: false };
        let mut unsent: VecDeque<Says> = conversation.into();
        let (mut steps, mut has_been_uncertain) = (0, false);
        let to_the_end = std::iter::repeat_n(0, 40).chain((0..200).map(|n| 1 + n % 2));
        for turn in schedule.into_iter().chain(to_the_end) {
            match turn {
                0 => if let Some(says) = unsent.pop_front() {
                    let number = ledger.on_client(says.tag());
                    let is_step = matches!(says, Says::Step(..));
                    steps += u64::from(is_step);
                    prop_assert!(!is_step || number == steps);
                    server.input.push_back((number, says));
                },
                1 => server.read(),
                _ => if let Some(answer) = server.output.pop_front() {
                    prop_assert!(answer.tag != b'Z' || !ledger.queue.is_empty(), "an answer without a question");
                    let settled = match answer.tag {
                        b'E' => ledger.on_error(answer.reach),
                        b'Z' => ledger.on_server(b'Z', Some(b'I')),
                        tag => ledger.on_server(tag, None),
                    };
                    match settled {
                        Settled::Step(n) | Settled::Command(n) if !ledger.is_uncertain() => {
                            prop_assert_eq!(n, answer.about);
                        }
                        _ => {}
                    }
                },
            }
            has_been_uncertain |= ledger.is_uncertain();
            prop_assert!(!ledger.is_settled() || server.is_idle(), "{:?}: {:?} {:?}", ledger, server.mode, server.output);
        }
        let is_idle = server.is_idle();
        prop_assert!(ledger.is_settled() == is_idle || has_been_uncertain && is_idle, "{:?} {:?}", ledger, server.mode);
        if !has_been_uncertain {
            prop_assert_eq!(ledger.has_no_place(), matches!(server.mode, Mode::Copying { .. }));
            prop_assert_eq!(ledger.is_skipping(), server.mode == Mode::Skipping);
            prop_assert!(ledger.has_no_place() || ledger.is_in_batch() == server.is_in_batch);
        }
    }
}
