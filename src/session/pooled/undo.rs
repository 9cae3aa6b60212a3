//! What was noted of messages that the server has skipped, or that were lost with it, is taken back.

use super::Pooled;
use super::has;
use super::journal::Act;
use super::statements::Statement;
use std::rc::Rc;

impl Pooled {
    /// A message of `batch` was skipped by the server, or lost with it.
    pub(super) fn take_back(&mut self, act: Act, batch: u64, has: Option<&mut has::Has>) {
        match act {
            Act::Parse { name, former, on_link, .. } if name.is_empty() => {
                self.set_unnamed_in(batch, former);
                // The link may have the same text under a name: that stays.
                if let (Some(has), Some(id)) = (has, on_link) {
                    forget_unnamed(has, id);
                }
            }
            Act::Parse { name, id, former, on_link } => {
                let is_latest = self.names.get(&name).is_some_and(|it| it.id == id);
                if is_latest {
                    self.names.set(&name, former);
                }
                if let (Some(has), Some(id)) = (has, on_link) {
                    forget(has, id);
                }
            }
            Act::HiddenParse { id } => {
                if let Some(has) = has {
                    has.statements.remove(id);
                }
            }
            Act::HiddenUnnamed => {
                if let Some(has) = has {
                    has.unnamed = Some(has::UNKNOWN);
                }
            }
            Act::HiddenClose { id, weight } => {
                if let Some(has) = has {
                    has.statements.insert(id, weight);
                }
            }
            Act::FakeParse { name, former }
            | Act::Closed { name, former }
            | Act::FakeClose { name, former } => {
                self.names.set(&name, former);
            }
            Act::Query { former } | Act::CloseUnnamed { former } => {
                self.set_unnamed_in(batch, former);
                if let Some(has) = has {
                    has.unnamed = Some(has::UNKNOWN);
                }
            }
            Act::HiddenDiscard => {
                if let Some(has) = has {
                    has.sequences = has::Sequences::Mixed;
                }
            }
            Act::Hidden
            | Act::Refused { .. }
            | Act::Outdated
            | Act::HiddenDescribe { .. }
            | Act::Described { .. } => {}
        }
    }

    /// What the statement without a name was at the end of `batch`. The client may have made another one
    /// in a batch behind it.
    pub(super) fn set_unnamed_in(&mut self, batch: u64, statement: Option<Rc<Statement>>) {
        match self.journal.unnamed_behind(batch) {
            Some(former) => *former = statement,
            None => self.names.unnamed = statement,
        }
    }
}

fn forget(has: &mut has::Has, id: u32) {
    has.statements.remove(id);
    forget_unnamed(has, id);
}

fn forget_unnamed(has: &mut has::Has, id: u32) {
    if has.unnamed == Some(id) {
        has.unnamed = Some(has::UNKNOWN);
    }
}
