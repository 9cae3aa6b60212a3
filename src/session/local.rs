//! Which of a client's prepared statements and portals are commands of ours.

use crate::sql::admin::Command;
use crate::sql::console::frames::Format;

/// A portal bound to a command of ours.
#[derive(Debug, Clone)]
pub struct Portal {
    /// What Execute does.
    pub command: Command,
    /// The formats asked for.
    pub formats: Vec<Format>,
}

/// See the module. Empty for nearly every client.
#[derive(Debug, Default)]
pub struct Local {
    statements: Vec<(Vec<u8>, Command)>,
    portals: Vec<(Vec<u8>, Portal)>,
    /// An extended message was answered by us since the last Sync.
    pub is_in_batch: bool,
    /// We have answered with an error: everything up to the next Sync is ignored.
    pub is_skipping: bool,
}

impl Local {
    /// Whether extended messages have to be looked at one by one.
    pub fn is_active(&self) -> bool {
        self.is_in_batch || self.is_skipping || !self.statements.is_empty() || !self.portals.is_empty()
    }

    /// The command behind a statement's name.
    pub fn statement(&self, name: &[u8]) -> Option<&Command> {
        self.statements.iter().find(|(known, _)| known == name).map(|(_, command)| command)
    }

    /// The portal of a name.
    pub fn portal(&self, name: &[u8]) -> Option<&Portal> {
        self.portals.iter().find(|(known, _)| known == name).map(|(_, portal)| portal)
    }

    /// Keeps a statement.
    pub fn prepare(&mut self, name: &[u8], command: Command) {
        self.forget_statement(name);
        self.statements.push((name.to_vec(), command));
    }

    /// Keeps a portal.
    pub fn bind(&mut self, name: &[u8], portal: Portal) {
        self.forget_portal(name);
        self.portals.push((name.to_vec(), portal));
    }

    /// Forgets a statement; says whether there was one.
    pub fn forget_statement(&mut self, name: &[u8]) -> bool {
        let before = self.statements.len();
        self.statements.retain(|(known, _)| known != name);
        self.statements.len() < before
    }

    /// Forgets a portal; says whether there was one.
    pub fn forget_portal(&mut self, name: &[u8]) -> bool {
        let before = self.portals.len();
        self.portals.retain(|(known, _)| known != name);
        self.portals.len() < before
    }

    /// The batch has ended; portals end with the transaction it was, or was part of.
    pub fn end_batch(&mut self, is_transaction_over: bool) {
        self.is_in_batch = false;
        self.is_skipping = false;
        if is_transaction_over {
            self.portals.clear();
        }
    }
}
