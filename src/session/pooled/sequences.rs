//! Whose last values of sequences a statement may find.
//!
//! They are on the link, and no statement says beforehand that it will ask for them. Each link knows whose
//! are there ([`super::has::Sequences`]); before a statement that may ask, others are taken away: those of other
//! clients, and the client's own that it has had before others elsewhere.

use super::Pooled;
use super::ask::{Sent, Side};
use super::has::Sequences;
use super::journal::Act;
use super::messages::put_close;
use super::statements::{DROPPED, Statement};
use crate::config::PoolMode;
use crate::session::walk::Stop;
use crate::sql::footprint::{Footprint, names_last_value};
use crate::wire::frame::HEADER;
use crate::wire::message::TransactionStatus;

/// Whether the last values of sequences that other clients have left on the link …
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// … are not there, or do not matter.
    None,
    /// … are taken away before the statement is looked at again.
    TakenAwayFirst,
    /// … are taken away together with the statement, and with all others.
    TakenAwayNow,
}

/// The beginning of a simple query.
pub(super) const DISCARD_SEQUENCES: &[u8] = b"DISCARD SEQUENCES;";
/// The same as the body of a Parse.
const DISCARDING: &[u8] = b"DISCARD SEQUENCES\0\0\0";
/// Bind and Execute of [`DROPPED`], by a portal of that name.
const BIND_AND_EXECUTE: &[u8] = b"B\0\0\0\x14cm_0\0cm_0\0\0\0\0\0\0\0E\0\0\0\x0dcm_0\0\0\0\0\0";

impl Pooled {
    /// A FunctionCall.
    pub(super) fn call(&mut self, total: usize, frame: &[u8], side: &mut Side<'_>) -> Sent {
        let Some(function) = frame.get(HEADER..HEADER + 4).or((total < HEADER + 4).then_some(&[])) else {
            return Sent::Not(Stop::Partial);
        };
        let footprint = of_function_number(function);
        match self.others_sequences(footprint, side) {
            Others::TakenAwayFirst => return Sent::Not(Stop::Later),
            // Behind a command that the server refuses it would skip the call.
            Others::TakenAwayNow if !side.ledger.is_quiet() && !side.ledger.is_in_batch() => {
                self.wants_quiet = true;
                self.waits = true;
                return Sent::Not(Stop::Later);
            }
            Others::TakenAwayNow => self.discard_sequences(side),
            Others::None => {}
        }
        let n = side.ledger.on_client(b'F');
        if !side.ledger.is_skipping() {
            self.journal.on_statement(n);
        }
        self.on_statement(function, footprint, side);
        Sent::Same
    }

    /// What becomes of other clients' last values of sequences, before a statement that may ask for its own.
    /// Between two transactions they are taken away in a round trip of their own. Later, `auto` mode takes
    /// them away with what the transaction has done itself: an error is better than a wrong value, and is
    /// the last one (`habits`); the other modes keep to what PgBouncer's users know.
    pub(super) fn others_sequences(&mut self, footprint: Footprint, side: &Side<'_>) -> Others {
        let is_auto = self.mode == PoolMode::Auto;
        let mut has_asked = false;
        if footprint.has(Footprint::LAST_VALUE) {
            self.group.habits.has_asked();
            has_asked = std::mem::replace(&mut self.uses_last_values, true);
        } else if !is_auto || !footprint.has(Footprint::MAY_ASK) {
            return Others::None;
        }
        if !side.has.sequences.has_others(self.stamp) || has_asked && !is_auto {
            return Others::None;
        }
        if side.ledger.is_clean() {
            self.wants_own_values = true;
            self.waits = true;
            return Others::TakenAwayFirst;
        }
        let may_be = is_auto && side.ledger.status() != TransactionStatus::Failed;
        if may_be { Others::TakenAwayNow } else { Others::None }
    }

    /// A statement that is about to be executed.
    pub(super) fn on_statement(&mut self, text: &[u8], footprint: Footprint, side: &mut Side<'_>) {
        if self.on_text(text, footprint).has(Footprint::ADVANCES.or(Footprint::SUSPECT)) {
            side.has.sequences = side.has.sequences.advanced_by(&mut self.stamp);
        }
    }

    /// In the middle of a batch, hidden.
    pub(super) fn discard_sequences(&mut self, side: &mut Side<'_>) {
        side.has.sequences = Sequences::Of(self.stamp);
        let batch = side.ledger.batch();
        let site = side.has.site;
        Statement::of(DISCARDING, site, Some(0)).put_parse(side.patch, DROPPED, site);
        side.patch.extend(BIND_AND_EXECUTE);
        put_close(side.patch, b'P', DROPPED);
        put_close(side.patch, b'S', DROPPED);
        for tag in [b'P', b'B', b'E', b'C', b'C'] {
            let step = side.ledger.on_client(tag);
            let act = if tag == b'E' { Act::HiddenDiscard } else { Act::Hidden };
            self.note(batch, step, act);
        }
    }
}

/// What a FunctionCall may leave behind, by the number of the function as it is sent.
fn of_function_number(number: &[u8]) -> Footprint {
    match number.try_into().map(u32::from_be_bytes) {
        // currval, lastval
        Ok(1575 | 2559) => Footprint::LAST_VALUE,
        // nextval, setval, setval
        Ok(1574 | 1576 | 1765) => Footprint::ADVANCES,
        Ok(_) | Err(_) => Footprint::SUSPECT,
    }
}

/// What executing a statement with these parameters may ask for: a function may execute a parameter.
pub(super) fn asks_with(statement: &Statement, bind: &[u8]) -> Footprint {
    match statement.footprint {
        it if it.has(Footprint::SUSPECT) && names_last_value(bind) => it | Footprint::LAST_VALUE,
        it => it,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_known_by_their_numbers() {
        assert_eq!(of_function_number(&2559u32.to_be_bytes()), Footprint::LAST_VALUE);
        assert_eq!(of_function_number(&1574u32.to_be_bytes()), Footprint::ADVANCES);
        assert_eq!(of_function_number(&20_000u32.to_be_bytes()), Footprint::SUSPECT);
        assert_eq!(of_function_number(b"\0\0"), Footprint::SUSPECT);
    }
}
