//! What a way home has done so far: a file in the state directory.

use super::super::Error;
use crate::base::{DatabaseName, Epoch};
use crate::sys::file::{read_if_exists, write_atomic};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The steps in their order. Each may be done again from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Shut the cloud's databases: from here on nobody writes anywhere.
    FenceCloud,
    /// Give the local databases another name; they keep their fence and their data.
    SetLocalAside,
    /// Make empty local databases and copy the cloud's into them.
    Copy,
    /// Set the sequences as the cloud has them, enable triggers, open the door.
    Finish,
    /// Make local the owner of the next epoch.
    TakeHome,
    /// Lift the local fence: applications may write there.
    OpenLocal,
    /// Give the cloud's databases another name and make empty ones for the mirrors to come.
    SetCloudAside,
}

impl Step {
    /// The one after it.
    pub(super) fn next(self) -> Option<Step> {
        use Step::*;
        match self {
            FenceCloud => Some(SetLocalAside),
            SetLocalAside => Some(Copy),
            Copy => Some(Finish),
            Finish => Some(TakeHome),
            TakeHome => Some(OpenLocal),
            OpenLocal => Some(SetCloudAside),
            SetCloudAside => None,
        }
    }

    /// What is being done, for a person who watches.
    pub fn describe(self) -> &'static str {
        match self {
            Step::FenceCloud => "shutting the cloud's databases",
            Step::SetLocalAside => "setting the old local databases aside",
            Step::Copy => "copying the cloud's data home",
            Step::Finish => "setting sequences and triggers",
            Step::TakeHome => "making local the owner",
            Step::OpenLocal => "opening the local databases",
            Step::SetCloudAside => "setting the cloud's databases aside",
        }
    }
}

/// One database on its way home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Its name on the local server.
    pub local: DatabaseName,
    /// Its name on the cloud's.
    pub cloud: DatabaseName,
    /// The name under which the old local one is kept.
    pub local_aside: DatabaseName,
    /// The name under which the cloud's is kept.
    pub cloud_aside: DatabaseName,
    /// Whether the new local one may have been made: one of that name may be dropped again.
    pub is_being_made: bool,
    /// Whether it has all its data.
    pub is_copied: bool,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// 1.
    pub format: u32,
    /// The step to be done next.
    pub step: Step,
    /// The epoch in which the cloud owned.
    pub epoch: Epoch,
    /// The epoch in which local owns, once it does.
    pub home: Option<Epoch>,
    /// All databases of the pair.
    pub databases: Vec<Database>,
}

const FILE: &str = "failback.json";

/// Reads the journal of a way home that has begun and not ended; `None` if there is none. A proxy
/// that finds one must neither open a gate nor start a mirror before it has been finished.
pub fn pending(state_dir: &Path) -> Result<Option<Journal>, Error> {
    let path = path(state_dir);
    let Some(bytes) = read_if_exists(&path)? else { return Ok(None) };
    let damaged = |why: String| {
        Error::NotInState(format!(
            "{} is damaged ({why}); it says how far a failback has come, docs/fence.md tells how to \
             look that up by hand before you remove it",
            path.display()
        ))
    };
    let journal: Journal = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
    if journal.format != 1 {
        return Err(damaged(format!("format {}", journal.format)));
    }
    Ok(Some(journal))
}

impl Journal {
    /// Writes the file; durable on return.
    pub(super) fn save(&self, state_dir: &Path) -> Result<(), Error> {
        let bytes = serde_json::to_vec_pretty(self).expect("names and numbers become JSON");
        Ok(write_atomic(&path(state_dir), &bytes)?)
    }

    /// Removes the file: nothing is left to do.
    pub(super) fn remove(state_dir: &Path) -> Result<(), Error> {
        match std::fs::remove_file(path(state_dir)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::NotInState(format!(
                "the failback is done, but {} cannot be removed: {error}; remove it by hand",
                path(state_dir).display()
            ))),
            _ => Ok(()),
        }
    }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// The name under which a database is kept: its own, cut where need be, and when.
pub(super) fn aside(name: &DatabaseName, stamp: &str) -> Result<DatabaseName, Error> {
    let suffix = format!("_before_failback_{stamp}");
    let room = 63_usize.saturating_sub(suffix.len());
    let name = name.as_str();
    let end = (0..=room.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    DatabaseName::new(format!("{}{suffix}", &name[..end])).map_err(|e| Error::NotInState(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_at_a_character_so_that_the_stamp_fits() {
        let check = |name: String, expected: String| {
            let aside = aside(&DatabaseName::new(name).unwrap(), "20260101T120000Z").unwrap();
            assert_eq!(aside.as_str(), expected);
            assert!(aside.as_str().len() <= 63);
        };
        check("shop".to_owned(), "shop_before_failback_20260101T120000Z".to_owned());
        check("x".repeat(63), format!("{}_before_failback_20260101T120000Z", "x".repeat(30)));
        check("ü".repeat(31), format!("{}_before_failback_20260101T120000Z", "ü".repeat(15)));
        check(
            format!("a{}", "ü".repeat(31)),
            format!("a{}_before_failback_20260101T120000Z", "ü".repeat(14)),
        );
    }

    #[test]
    fn a_journal_reads_back_and_a_damaged_one_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(pending(dir.path()).unwrap(), None);
        let name = |name: &str| DatabaseName::new(name).unwrap();
        let journal = Journal {
            format: 1,
            step: Step::Copy,
            epoch: Epoch(2),
            home: None,
            databases: vec![Database {
                local: name("a"),
                cloud: name("b"),
                local_aside: name("c"),
                cloud_aside: name("d"),
                is_being_made: true,
                is_copied: false,
            }],
        };
        journal.save(dir.path()).unwrap();
        assert_eq!(pending(dir.path()).unwrap(), Some(journal));
        std::fs::write(path(dir.path()), b"{").unwrap();
        assert!(pending(dir.path()).unwrap_err().to_string().contains("damaged"));
        assert!(path(dir.path()).exists());
        Journal::remove(dir.path()).unwrap();
        Journal::remove(dir.path()).unwrap();
    }

    #[test]
    fn steps_end_after_the_last() {
        let mut steps = vec![Step::FenceCloud];
        while let Some(next) = steps.last().unwrap().next() {
            assert!(next > *steps.last().unwrap());
            steps.push(next);
        }
        assert_eq!(steps.len(), 7);
    }
}
