//! When two conversations count as equal.
//!
//! What is unequal by nature, and made equal before the comparison:
//!
//! - `BackendKeyData`: the proxy hands out a cancel key of its own.
//! - the process id in `NotificationResponse`: each conversation has a back end of its own.
//! - numbers of tables in `RowDescription`, from 16384 on: a conversation may make its tables anew.
//! - the order of `ParameterStatus` in the welcome, and file, line and routine of an error that the proxy words itself: a violation
//!   of the protocol (FATAL 08P01).
//! - the schema of temporary tables in an error: its number is that of the back end.
//! - the context of 57014: where a statement is when a cancel meets it is chance.
//! - in the pooled modes, the WARNING 01000 about what will not survive.
//! - after a length that cannot be, PostgreSQL hangs up without a word; the proxy says why first.
//! - in the pooled modes, the codes of two errors ([`LISTED`]).

use super::{End, Frame, Heard};

/// The type of a message and what is compared of its body.
pub type Masked = (char, Vec<u8>);

/// What two conversations have to have in common.
#[derive(Debug, PartialEq, Eq)]
pub struct Comparable {
    pub welcome: Vec<Masked>,
    pub frames: Vec<Masked>,
    pub rest: Vec<u8>,
}

pub fn comparable(heard: &Heard) -> Comparable {
    let mut welcome = masked(&heard.welcome);
    welcome.sort();
    // Who hangs up does not hear everything.
    let frames = if heard.end == End::HungUp { Vec::new() } else { masked(&heard.frames) };
    Comparable { welcome, frames, rest: heard.rest.clone() }
}

/// Codes of errors that differ, as docs/protocol.md says ("What differs from a direct connection"): a statement that executes itself, and a
/// Bind that is cut off within a failed transaction.
const LISTED: [(&[u8], &[u8]); 2] = [(b"C54001", b"C26000"), (b"C08P01", b"C25P02")];

/// How the second differs from the first, if it does.
pub fn difference(direct: &Comparable, through: &Comparable) -> Option<String> {
    if direct.welcome != through.welcome {
        return Some(format!("welcome: {:?} and {:?}", direct.welcome, through.welcome));
    }
    let count = direct.frames.len().max(through.frames.len());
    for at in 0..count {
        let (expected, found) = (direct.frames.get(at), through.frames.get(at));
        let is_our_word_for_a_length = expected.is_none() && found.is_some_and(is_about_length);
        let is_listed = expected.zip(found).is_some_and(|(expected, found)| is_listed(expected, found));
        if expected != found && !is_our_word_for_a_length && !is_listed {
            let from = at.saturating_sub(3);
            let shown = |frames: &[Masked]| -> String {
                let frames = frames.iter().skip(from).take(8);
                frames.map(|(tag, body)| format!("\n    {tag} {}", cut(body))).collect()
            };
            return Some(format!(
                "message {at}: directly{}\n  and through the proxy{}",
                shown(&direct.frames),
                shown(&through.frames)
            ));
        }
    }
    (direct.rest != through.rest).then(|| format!("{:?} and {:?}", direct.rest, through.rest))
}

fn cut(body: &[u8]) -> String {
    body[..body.len().min(240)].escape_ascii().to_string()
}

fn is_about_length((tag, body): &Masked) -> bool {
    *tag == 'E' && contains(body, b"invalid length")
}

fn is_listed(expected: &Masked, found: &Masked) -> bool {
    let is_error = expected.0 == 'E' && found.0 == 'E';
    let has = |body: &[u8], code: &[u8]| body.split(|byte| *byte == 0).any(|field| field == code);
    is_error && LISTED.iter().any(|(direct, through)| has(&expected.1, direct) && has(&found.1, through))
}

fn contains(body: &[u8], words: &[u8]) -> bool {
    body.windows(words.len()).any(|window| window == words)
}

fn masked(frames: &[Frame]) -> Vec<Masked> {
    let is_told = |frame: &&Frame| frame.tag == b'N' && contains(&frame.body, b"in transaction pooling mode");
    frames.iter().filter(|frame| !is_told(frame)).map(|frame| (frame.tag as char, mask(frame))).collect()
}

fn mask(frame: &Frame) -> Vec<u8> {
    let mut body = frame.body.clone();
    match frame.tag {
        b'K' => body.clear(),
        b'A' => body[..4].fill(0),
        b'T' => mask_tables(&mut body),
        b'E' => return mask_error(&body),
        _ => {}
    }
    body
}

/// Each column: name, table, number in it, type, size, modifier, format.
fn mask_tables(body: &mut [u8]) {
    let mut at = 2;
    while let Some(end) = body.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == 0)) {
        at += end + 1;
        let Some(table) = body.get_mut(at..at + 4) else { return };
        if u32::from_be_bytes([table[0], table[1], table[2], table[3]]) >= 16_384 {
            table.fill(0);
        }
        at += 18;
    }
}

fn mask_error(body: &[u8]) -> Vec<u8> {
    let fields = || body.split(|byte| *byte == 0).filter(|field| !field.is_empty());
    let is_violation = fields().any(|f| f == b"VFATAL") && fields().any(|f| f == b"C08P01");
    let is_cancelled = fields().any(|f| f == b"C57014");
    let is_place = |field: &&[u8]| match field[0] {
        b'F' | b'L' | b'R' => is_violation,
        b'W' => is_cancelled,
        b's' => field.starts_with(b"spg_temp_"),
        _ => false,
    };
    fields().filter(|field| !is_place(field)).collect::<Vec<_>>().join(&0)
}
