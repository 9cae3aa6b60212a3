//! What must never be, looked for after each step.

use crate::clock::{MS, S};
use crate::process::{Door, Gate, Process};
use crate::servers::{Health, Row};
use crate::world::{Mutant, World, index};
use cloud_mirror::base::{Epoch, Moment, Site};
use std::collections::HashMap;

/// What it remembers of the past.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Process, its life, site and epoch of the newest gate of all.
    newest: Option<(usize, u64, Site, Epoch)>,
    /// Epoch and deadline of the last proof, by process and life.
    held: HashMap<(usize, u64), (Epoch, Moment)>,
    /// Fence rows as last seen.
    fences: [Option<Row>; 2],
}

impl Oracle {
    /// The lease says that it is held: one epoch has one unbroken life.
    pub fn on_held(
        &mut self,
        process: &Process,
        at: usize,
        epoch: Epoch,
        deadline: Moment,
        now: Moment,
    ) -> Option<String> {
        let before = self.held.insert((at, process.life), (epoch, deadline))?;
        (before.0 == epoch && before.1 <= now)
            .then(|| format!("epoch {epoch} of process {at} goes on after its end"))
    }

    /// A gate opens, or its deadline moves.
    pub fn on_opened(&mut self, process: &Process, at: usize, gate: Gate) -> Option<String> {
        let this = (at, process.life, gate.site, gate.epoch);
        let before = self.newest.replace(this)?;
        if gate.epoch < before.3 {
            return Some(format!("a gate opens at epoch {} after one at {}", gate.epoch, before.3));
        }
        if gate.epoch == before.3 && this != before {
            return Some(format!("epoch {} has two holders: {before:?} and {this:?}", gate.epoch));
        }
        None
    }
}

impl World {
    /// After each step.
    pub fn look(&mut self) {
        self.acknowledge();
        let mut finds = [self.two_gates(), self.fallen_epoch()].into_iter().flatten();
        let find = finds.next();
        if self.found.is_none() {
            self.found = find;
        }
    }

    fn two_gates(&self) -> Option<String> {
        let mut open = self
            .processes
            .iter()
            .enumerate()
            .filter(|(_, p)| p.is_alive && p.gate_is_open(self.now, self.mutant))
            .filter_map(|(at, p)| p.gate.map(|gate| (at, gate)));
        let (first, second) = (open.next()?, open.next()?);
        Some(format!("two gates are open: {first:?} and {second:?}"))
    }

    fn fallen_epoch(&mut self) -> Option<String> {
        if self.store.record.is_none() && self.store.highest > Epoch::NONE && !self.plan.is_tampered {
            return Some(format!("the record is gone, epoch {} fell to nothing", self.store.highest));
        }
        for site in [Site::Local, Site::Cloud] {
            let row = self.servers[index(site)].fence;
            let before = std::mem::replace(&mut self.oracle.fences[index(site)], row);
            if let (Some(before), Some(row)) = (before, row)
                && row.epoch < before.epoch
            {
                return Some(format!("the fence row of {site} falls from {} to {}", before.epoch, row.epoch));
            }
        }
        None
    }

    /// Clients write wherever they are let.
    fn acknowledge(&mut self) {
        let process = &self.processes[0];
        let is_awake = process.is_alive && process.sleeps_until <= self.now;
        let site = process.route;
        if !is_awake || process.door != Door::Open || !process.gate_is_open(self.now, self.mutant) {
            return;
        }
        let gate = process.gate.expect("an open gate");
        if gate.site != site {
            self.found = Some(format!("clients write to {site} under a gate for {}", gate.site));
            return;
        }
        if self.health_for(0, site) != Health::Up {
            return;
        }
        let server = &mut self.servers[index(site)];
        if server.fence.is_some_and(|row| row.is_fenced) {
            self.found =
                Some(format!("the fenced {site} acknowledges a write: {gate:?}, {:?}", server.fence));
            return;
        }
        server.rows += 1;
        self.summary.acknowledged += 1;
        if site == Site::Local && self.servers[1].health == Health::Up && self.rng.chance(50) {
            self.servers[1].mirrored = self.servers[0].rows;
        }
    }

    /// The gate of the full proxy opens only for a server whose fence row says so.
    pub fn check_opened_server(&mut self, at: usize, gate: Gate) {
        let expected = Some(Row { epoch: gate.epoch, is_fenced: false });
        let row = self.servers[index(gate.site)].fence;
        // A renewal may find a newer row only of a newer owner, which is another find.
        if row != expected && self.mutant != Mutant::GateSurvivesLoss {
            self.found = Some(format!("the gate opens for {gate:?}, and the fence row is {row:?}"));
        }
        let local = &self.servers[0];
        let is_open = local.fence.is_none_or(|row| !row.is_fenced);
        if gate.site == Site::Cloud && self.processes[at].has_drained && local.health == Health::Up && is_open
        {
            // The fence was verified, and nothing but us opens it.
            self.found = Some("the cloud opens after a drain, and local is not fenced".into());
        }
    }

    /// Why the site has not settled, or `None` if it has.
    pub fn unsettled(&self) -> Option<String> {
        if self.contender_holds() {
            return None;
        }
        let full = self.full();
        if !full.is_alive || full.sleeps_until > self.now {
            return Some("the proxy is not running".into());
        }
        let view = full.controller.as_ref()?.view();
        let gate = match full.gate {
            Some(gate) if full.gate_is_open(self.now, self.mutant) => gate,
            _ => return Some(format!("the gate is shut: {view:?}")),
        };
        let server = &self.servers[index(gate.site)];
        if full.door != Door::Open || server.health != Health::Up {
            return Some(format!("door {:?}, {} server {:?}: {view:?}", full.door, gate.site, server.health));
        }
        if gate.site == Site::Cloud {
            let local = &self.servers[0];
            let is_open = local.fence.is_none_or(|row| !row.is_fenced);
            if local.health == Health::Up && self.now > local.up_since + S + 200 * MS && is_open {
                return Some("the old writer is back and not fenced".into());
            }
        }
        None
    }
}
