//! What a client's names mean.

use super::described::Told;
use super::statements::Statement;
use crate::sys::Map;
use std::collections::VecDeque;
use std::rc::Rc;

/// A client's prepared statements by the names it gave them.
#[derive(Debug, Default)]
pub struct Names {
    named: Map<Box<[u8]>, Named>,
    /// How many of them cannot be made on another link.
    lost: usize,
    /// Two of them have been one statement.
    has_twins: bool,
    /// The statement without a name.
    pub unnamed: Option<Rc<Statement>>,
    /// What the client was told of its result, by its number.
    unnamed_told: Option<(u32, Told)>,
}

#[derive(Debug)]
struct Named {
    statement: Rc<Statement>,
    told: Told,
    /// The types of its parameters as the client was told of them, and sends them; nothing if it was not.
    types: Box<[u8]>,
}

impl Names {
    /// What a name means.
    pub fn get(&self, name: &[u8]) -> Option<&Rc<Statement>> {
        self.find(name).map(|(statement, _)| statement)
    }

    /// The same, and what the client was told of its result. Who describes the portal of what has no name does
    /// so each time.
    pub fn find(&self, name: &[u8]) -> Option<(&Rc<Statement>, Told)> {
        if name.is_empty() {
            let told = |of: &Rc<Statement>| self.unnamed_told.filter(|(id, _)| *id == of.id);
            return self.unnamed.as_ref().map(|it| (it, told(it).map_or(Told::NoRows, |(_, told)| told)));
        }
        self.named.get(name).map(|it| (&it.statement, it.told))
    }

    /// The client was told what statement `id` results in, under that name or under any.
    pub fn tell(&mut self, name: Option<&[u8]>, id: u32, told: Told) {
        if name.is_some_and(<[u8]>::is_empty) {
            self.unnamed_told = Some((id, told));
            return;
        }
        let Some(name) = name else {
            let all = self.named.values_mut().filter(|it| it.statement.id == id);
            return all.filter(|it| matches!(it.told, Told::Nothing)).for_each(|it| it.told = told);
        };
        let Some(known) = self.named.get_mut(name).filter(|it| it.statement.id == id) else { return };
        if known.told.is_contradicted(told) {
            // Who prepares it again gets a new one: links differ in this one.
            known.statement.retire();
        }
        known.told = told;
    }

    /// Gives a name a meaning; returns the one it had.
    pub fn set(&mut self, name: &[u8], statement: Option<Rc<Statement>>) -> Option<Rc<Statement>> {
        if name.is_empty() {
            self.unnamed_told = None;
            return std::mem::replace(&mut self.unnamed, statement);
        }
        self.has_twins |= statement.as_ref().is_some_and(|it| self.is_twin(it));
        self.lost += usize::from(statement.as_ref().is_some_and(|it| it.is_lost));
        let former = match statement {
            Some(statement) => {
                let named = Named { statement, told: Told::Nothing, types: Box::default() };
                self.named.insert(name.into(), named)
            }
            None => self.named.remove(name),
        };
        let former = former.map(|it| it.statement);
        self.lost -= usize::from(former.as_ref().is_some_and(|it| it.is_lost));
        former
    }

    /// The client was told the types of the parameters of statement `id`, as in a Parse message.
    pub fn tell_types(&mut self, name: &[u8], id: u32, types: &[u8]) {
        if let Some(known) = self.named.get_mut(name).filter(|it| it.statement.id == id) {
            known.types = types.into();
        }
    }

    /// Those that it was told.
    pub fn types(&self, name: &[u8]) -> &[u8] {
        self.named.get(name).map_or(&[], |it| &it.types)
    }

    /// What a name means is the same in another reading, and what the client was told of it as well.
    pub fn read_anew(&mut self, name: &[u8], statement: &Rc<Statement>) {
        self.has_twins |= self.is_twin(statement);
        if let Some(known) = self.named.get_mut(name) {
            known.statement = statement.clone();
        } else if name.is_empty() {
            let former = self.unnamed.replace(statement.clone());
            let told = self.unnamed_told.filter(|(id, _)| former.is_some_and(|former| former.id == *id));
            self.unnamed_told = told.map(|(_, told)| (statement.id, told));
        }
    }

    fn is_twin(&self, statement: &Rc<Statement>) -> bool {
        // The list of all statements has it, and who wants to give it a name.
        const OTHERS: usize = 2;
        !self.has_twins
            && Rc::strong_count(statement) > OTHERS
            && self.named.values().any(|known| Rc::ptr_eq(&known.statement, statement))
    }

    /// Whether a statement does not tell its name.
    pub fn has_twins(&self) -> bool {
        self.has_twins
    }

    /// Forgets all that have names.
    pub fn forget_named(&mut self) {
        self.has_twins = false;
        self.named = Map::default();
        self.lost = 0;
    }

    /// Whether there are some with names.
    pub fn has_named(&self) -> bool {
        !self.named.is_empty()
    }

    /// All that have names.
    pub fn all(&self) -> impl Iterator<Item = &Rc<Statement>> {
        self.named.values().map(|it| &it.statement)
    }

    /// A name for a statement, by its number: always the same one where it has several.
    pub fn name_of(&self, id: u32) -> Option<&[u8]> {
        self.named.iter().filter(|(_, it)| it.statement.id == id).map(|(name, _)| name.as_ref()).min()
    }

    /// Whether some statement is on the present link and can be on no other.
    pub fn has_lost(&self) -> bool {
        // Without a name it is made for one execution, if it was not described first.
        let waits = |statement: &Rc<Statement>| statement.is_lost && !statement.was_bound.get();
        self.lost > 0 || self.unnamed.as_ref().is_some_and(waits)
    }
}

/// The names in messages that the server has not answered, by the ledger's numbers: two names may be one
/// statement, of which an error has to tell the right one.
#[derive(Debug, Default)]
pub struct Spoken(VecDeque<(u64, Box<[u8]>)>);

impl Spoken {
    /// Message `step` has this name; those up to `done` were answered.
    pub fn push(&mut self, step: u64, name: &[u8], done: u64) {
        while self.0.front().is_some_and(|(step, _)| *step <= done) {
            self.0.pop_front();
        }
        self.0.push_back((step, name.into()));
    }

    /// The name in message `step`, where it was noted.
    pub fn at(&self, step: u64) -> Option<&[u8]> {
        self.0.iter().find(|(at, _)| *at == step).map(|(_, name)| &name[..])
    }

    /// Nothing will be answered any more.
    pub fn clear(&mut self) {
        self.0 = VecDeque::new();
    }
}
