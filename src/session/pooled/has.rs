//! What a link has: statements, settings, and what its last clients may have left on it.

use super::cache::Cache;
use super::described::Described;
use super::reading;
use super::settings::Settings;
use super::stash::Owned;
use crate::base::{Moment, Site};
use crate::pool::Reports;
use crate::session::walk::Reported;
use crate::sys;
use std::rc::Rc;
use std::sync::Arc;

/// Its statement without a name is one that no client can name.
pub const UNKNOWN: u32 = 0;

/// See the module.
#[derive(Debug)]
pub struct Has {
    /// Where it leads.
    pub site: Site,
    /// Prepared statements with names of ours.
    pub statements: Cache,
    /// The statement without a name.
    pub unnamed: Option<u32>,
    /// What it has said that this one results in, of those without a name.
    pub unnamed_described: Option<(u32, Described)>,
    /// What the server reported when the link was opened.
    pub start: Reports,
    /// What clients have set, and we have made again.
    pub settings: Rc<Settings>,
    /// What the server has reported, the last value of each.
    pub reported: Reports,
    /// How constants are read there, by what it has reported.
    pub reading: u64,
    /// Something was reported that is not yet accounted for.
    pub has_news: bool,
    /// Only this client may have it as it is: others may find what it left behind.
    pub stain: Option<u64>,
    /// Whose last values of sequences may be on it.
    pub sequences: Sequences,
    /// What it has is not known any more.
    pub is_spoiled: bool,
    /// The server has changed what it began with, for all sessions.
    pub is_outdated: bool,
    /// When it was given back.
    pub since: Moment,
    /// How many clients have had it.
    pub uses: u32,
    /// What the server has sent before the first client.
    pub leftover: Vec<u8>,
    _owned: Owned,
}

/// Whose last values of sequences may be on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequences {
    /// No statement that may advance one has been there.
    OfNobody,
    /// Only this client's, which has had no other ones since.
    Of(Stamp),
    /// Those of several, or older ones.
    Mixed,
}

/// A client, and where it was in its own time: it may advance sequences on more than one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Its number on its thread.
    pub client: u64,
    /// How often it may have advanced a sequence.
    pub advances: u64,
}

impl Stamp {
    /// Of a client that has just come.
    pub fn new(client: u64) -> Self {
        Self { client, advances: 0 }
    }
}

impl Sequences {
    /// Whether there may be values that are not this client's, or not its last ones.
    pub fn has_others(self, stamp: Stamp) -> bool {
        match self {
            Sequences::OfNobody => false,
            Sequences::Of(owner) => owner != stamp,
            Sequences::Mixed => true,
        }
    }

    /// What becomes of it when a client may advance one.
    #[must_use]
    pub fn advanced_by(self, stamp: &mut Stamp) -> Self {
        let others = self.has_others(*stamp);
        stamp.advances += 1;
        if others { Sequences::Mixed } else { Sequences::Of(*stamp) }
    }
}

impl Has {
    /// Of a link that was just opened.
    pub fn fresh(site: Site, reported: &Reports, owned: Owned, leftover: Vec<u8>) -> Self {
        Self {
            site,
            statements: Cache::default(),
            unnamed: None,
            unnamed_described: None,
            start: reported.clone(),
            settings: Settings::none(),
            reported: reported.clone(),
            reading: reading::of_reports(reported),
            has_news: false,
            stain: None,
            sequences: Sequences::OfNobody,
            is_spoiled: false,
            is_outdated: false,
            since: sys::now(),
            uses: 0,
            leftover,
            _owned: owned,
        }
    }

    /// Of a link that is nowhere.
    #[cfg(any(test, fuzzing))]
    pub fn of_test() -> Self {
        Self::fresh(Site::Local, &Reports::default(), Owned::of_test(), Vec::new())
    }

    /// After `DISCARD ALL`.
    pub fn reset(&mut self) {
        self.statements.clear();
        self.unnamed = None;
        self.settings = Settings::none();
        self.reported = self.start.clone();
        self.reading = reading::of_reports(&self.reported);
        self.has_news = false;
        self.stain = None;
        self.sequences = Sequences::OfNobody;
    }

    /// A statement without a name is made on it.
    pub fn has_made_unnamed(&mut self, id: u32) {
        self.unnamed = Some(id);
        self.unnamed_described = None;
    }

    /// What the server has said that a statement results in, under its name of ours or without one.
    pub fn described(&self, id: u32, name: &[u8]) -> Option<Described> {
        match name {
            b"" => {
                self.unnamed_described.filter(|(of, _)| *of == id && self.unnamed == Some(id)).map(|it| it.1)
            }
            _ => self.statements.described(id),
        }
    }

    /// It has said so.
    pub fn describe(&mut self, id: u32, name: &[u8], described: Described) {
        match name {
            b"" => self.unnamed_described = Some((id, described)),
            _ => self.statements.describe(id, described),
        }
    }

    /// Everything that the server has reported, the last value of each.
    pub fn all_reported(&self) -> Vec<Reported> {
        self.reported.iter().map(|(name, value)| (name[..].into(), value[..].into())).collect()
    }

    /// The server has reported a setting.
    pub fn on_report(&mut self, (name, value): Reported) {
        self.has_news = true;
        let reported = Arc::make_mut(&mut self.reported);
        match reported.iter_mut().find(|(known, _)| **known == *name) {
            Some((_, old)) => *old = value.into(),
            None => reported.push((name.clone().into(), value.into())),
        }
        if reading::is_reported(&name) {
            self.reading = reading::of_reports(&self.reported);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_finds_its_values_where_it_had_the_last_ones() {
        let (mut a, mut b) = (Stamp::new(1), Stamp::new(2));
        let (mut one, mut other) = (Sequences::OfNobody, Sequences::OfNobody);
        assert!(!one.has_others(a));
        one = one.advanced_by(&mut a).advanced_by(&mut a);
        assert!(!one.has_others(a) && one.has_others(b));
        other = other.advanced_by(&mut a);
        // An older one is not the last one, also when one more has come.
        assert!(one.has_others(a) && !other.has_others(a));
        one = one.advanced_by(&mut a);
        assert!(one.has_others(a) && other.has_others(a));
        other = other.advanced_by(&mut b);
        assert!(other.has_others(b));
    }
}
