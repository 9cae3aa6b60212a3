//! What a client's names mean.

use super::hash::Seeded;
use super::statements::Statement;
use std::collections::HashMap;
use std::rc::Rc;

/// A client's prepared statements by the names it gave them.
#[derive(Debug, Default)]
pub struct Names {
    named: HashMap<Box<[u8]>, Rc<Statement>, Seeded>,
    /// How many of them cannot be made on another link.
    lost: usize,
    /// The statement without a name.
    pub unnamed: Option<Rc<Statement>>,
}

impl Names {
    /// What a name means.
    pub fn get(&self, name: &[u8]) -> Option<&Rc<Statement>> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) }
    }

    /// Gives a name a meaning; returns the one it had.
    pub fn set(&mut self, name: &[u8], statement: Option<Rc<Statement>>) -> Option<Rc<Statement>> {
        if name.is_empty() {
            return std::mem::replace(&mut self.unnamed, statement);
        }
        self.lost += usize::from(statement.as_ref().is_some_and(|it| it.is_lost));
        let former = match statement {
            Some(statement) => self.named.insert(name.into(), statement),
            None => self.named.remove(name),
        };
        self.lost -= usize::from(former.as_ref().is_some_and(|it| it.is_lost));
        former
    }

    /// Forgets all that have names.
    pub fn forget_named(&mut self) {
        self.named = HashMap::default();
        self.lost = 0;
    }

    /// All that have names.
    pub fn all(&self) -> impl Iterator<Item = &Rc<Statement>> {
        self.named.values()
    }

    /// A name for a statement, by its number.
    pub fn name_of(&self, id: u32) -> Option<&[u8]> {
        self.named.iter().find(|(_, statement)| statement.id == id).map(|(name, _)| name.as_ref())
    }

    /// Whether some statement is on the present link and can be on no other.
    pub fn has_lost(&self) -> bool {
        self.lost > 0
    }
}
