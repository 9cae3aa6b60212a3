//! The store: one record, conditional writes, each carried out in an instant.

use crate::world::Mutant;
use cloud_mirror::base::Epoch;
use cloud_mirror::lease::protocol::{ReadAnswer, WriteAnswer};
use cloud_mirror::lease::{Record, Tenure, Version};

#[derive(Debug, Default)]
pub struct Store {
    pub record: Option<Record>,
    version: u64,
    /// The highest epoch that was ever stored.
    pub highest: Epoch,
    /// All that was stored, for a person who restores an old one.
    pub past: Vec<Record>,
}

impl Store {
    fn version(&self) -> Option<Version> {
        self.record.as_ref().map(|_| Version(self.version.to_string()))
    }

    pub fn read(&self) -> ReadAnswer {
        match (&self.record, self.version()) {
            (Some(record), Some(version)) => ReadAnswer::Found { version, record: Box::new(record.clone()) },
            _ => ReadAnswer::Absent,
        }
    }

    /// A conditional write. `Err` is a find of the oracle.
    pub fn write(
        &mut self,
        base: Option<Version>,
        mut record: Record,
        mutant: Mutant,
    ) -> Result<WriteAnswer, String> {
        if base != self.version() && mutant != Mutant::UnconditionalWrites {
            return Ok(WriteAnswer::Conflict);
        }
        if let (Mutant::EpochKept, Some(before)) = (mutant, &self.record) {
            record.epoch = before.epoch;
        }
        self.check(&record)?;
        self.highest = self.highest.max(record.epoch);
        self.version += 1;
        self.past.push(record.clone());
        let is_deleted = mutant == Mutant::DeleteOnRelease && record.state == Tenure::Released;
        self.record = Some(record).filter(|_| !is_deleted);
        Ok(WriteAnswer::Stored { version: Version(self.version.to_string()) })
    }

    /// What a person with access to the store does, by mistake or not.
    pub fn tamper(&mut self, record: Option<Record>) {
        self.version += 1;
        // A repeated first write may land on a removed record. It is not the store's fault; that no gate
        // opens at that epoch is looked at elsewhere.
        self.highest = record.as_ref().map_or(Epoch::NONE, |r| r.epoch);
        self.record = record;
    }

    fn check(&self, record: &Record) -> Result<(), String> {
        if record.epoch < self.highest {
            return Err(format!("the stored epoch falls from {} to {}", self.highest, record.epoch));
        }
        let Some(before) = &self.record else { return Ok(()) };
        let is_same_tenure = before.owner == record.owner
            && before.owner_instance == record.owner_instance
            && before.state == Tenure::Active;
        // A new run of the same instance may release what its predecessor held; it may not renew it.
        let is_same_run = before.nonce.run == record.nonce.run || record.state == Tenure::Released;
        let is_same_holder = is_same_tenure && is_same_run;
        if record.epoch == before.epoch && !is_same_holder {
            return Err(format!("a new holder without a new epoch: {record:?} after {before:?}"));
        }
        Ok(())
    }
}
