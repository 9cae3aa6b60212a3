//! What goes wrong, drawn beforehand from the seed.

use crate::clock::{MS, Rng, S};
use crate::process::Role;
use crate::servers::Health;
use crate::world::{Happening, World, index};
use cloud_mirror::base::{OpId, Site};
use cloud_mirror::failover::controller::{Event, Evidence, Insistence, Promotable};

/// One thing that goes wrong, or right again.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    Start {
        process: usize,
    },
    Crash {
        process: usize,
    },
    Sleep {
        process: usize,
        ns: u64,
    },
    CutStore {
        process: usize,
        is_cut: bool,
    },
    CutServer {
        site: Site,
        is_cut: bool,
    },
    /// The server changes, with what its sessions see of it.
    Server {
        site: Site,
        health: Health,
        evidence: Option<Evidence>,
    },
    /// A change that is void when the server changed meanwhile.
    ServerIf {
        site: Site,
        health: Health,
        life: u64,
    },
    SessionTerminated,
    Promote {
        insistence: Insistence,
    },
    Mirrors {
        are_promotable: bool,
    },
    RecordDeleted,
    RecordRolledBack,
    /// The end of all faults.
    Calm,
}

/// The faults of one history.
#[derive(Debug, Clone)]
pub struct Plan {
    pub faults: Vec<(u64, Fault)>,
    pub calm_from: u64,
    pub lost_percent: u64,
    pub slow_percent: u64,
    pub contender: Option<Site>,
    /// A person changed the record by hand.
    pub is_tampered: bool,
}

impl Plan {
    pub fn draw(rng: &mut Rng) -> Self {
        let calm_from = rng.range(20 * S, 120 * S);
        let contender = match rng.range(0, 4) {
            0 | 1 => Some(Site::Cloud),
            2 => Some(Site::Local),
            _ => None,
        };
        let mut plan = Self {
            faults: vec![(calm_from, Fault::Calm)],
            calm_from,
            lost_percent: rng.pick(&[0, 0, 2, 5, 20]),
            slow_percent: rng.pick(&[0, 2, 5, 20]),
            contender,
            is_tampered: false,
        };
        for _ in 0..rng.range(0, 14) {
            let at = rng.range(2 * S, calm_from);
            plan.draw_fault(rng, at);
        }
        plan
    }

    fn draw_fault(&mut self, rng: &mut Rng, at: u64) {
        let process = if self.contender.is_some() && rng.chance(30) { 1 } else { 0 };
        let site = if rng.chance(75) { Site::Local } else { Site::Cloud };
        let until = at + rng.pick(&[200 * MS, S, 5 * S, 15 * S, 40 * S]) + rng.range(0, S);
        let mut put = |at, fault| self.faults.push((at, fault));
        match rng.range(0, 100) {
            0..=9 => {
                put(at, Fault::Crash { process });
                put(until, Fault::Start { process });
            }
            10..=21 => put(at, Fault::Sleep { process, ns: until - at }),
            22..=33 => {
                put(at, Fault::CutStore { process, is_cut: true });
                put(until, Fault::CutStore { process, is_cut: false });
            }
            34..=41 => {
                put(at, Fault::CutServer { site, is_cut: true });
                put(until, Fault::CutServer { site, is_cut: false });
            }
            42..=61 => {
                let evidence = rng.pick(&[Some(Evidence::PostmasterDied), Some(Evidence::Eof), None]);
                put(at, Fault::Server { site, health: Health::Down, evidence });
                // Half of the dead stay dead.
                if rng.chance(50) {
                    put(until, Fault::Server { site, health: Health::Starting, evidence: None });
                }
            }
            62..=69 => {
                let evidence = rng.pick(&[Some(Evidence::AdminStop), Some(Evidence::CrashRestart)]);
                let first = rng.pick(&[Health::Down, Health::Starting]);
                put(at, Fault::Server { site, health: first, evidence });
                put(until, Fault::Server { site, health: Health::Starting, evidence: None });
            }
            70..=77 => {
                put(at, Fault::Server { site, health: Health::Frozen, evidence: None });
                put(until, Fault::Server { site, health: Health::Up, evidence: None });
            }
            78..=82 => put(at, Fault::SessionTerminated),
            83..=90 => {
                let insistence = rng.pick(&[Insistence::Verified, Insistence::Verified, Insistence::Force]);
                put(at, Fault::Promote { insistence });
            }
            91..=96 => put(at, Fault::Mirrors { are_promotable: rng.chance(50) }),
            // Where another instance has held epochs that this one never saw, and no fence row can be read,
            // nothing can tell that a record is missing or old.
            97.. if self.contender.is_some() => put(at, Fault::SessionTerminated),
            97 => {
                put(at, Fault::RecordDeleted);
                self.is_tampered = true;
            }
            _ => {
                put(at, Fault::RecordRolledBack);
                self.is_tampered = true;
            }
        }
    }
}

impl World {
    pub fn strike(&mut self, fault: Fault) {
        if self.is_calm() && !matches!(fault, Fault::Calm | Fault::ServerIf { .. } | Fault::Start { .. }) {
            return;
        }
        self.trace(|| format!("fault: {fault:?}"));
        match fault {
            Fault::Start { process } => self.start(process),
            Fault::Crash { process } => self.processes[process].crash(),
            Fault::Sleep { process, ns } => self.sleep(process, ns),
            Fault::CutStore { process, is_cut } => self.processes[process].is_cut_from_store = is_cut,
            Fault::CutServer { site, is_cut } => {
                self.processes[0].is_cut_from[index(site)] = is_cut;
                self.poke_watch();
            }
            Fault::Server { site, health, evidence } => self.set_health(site, health, evidence),
            Fault::ServerIf { site, health, life } => {
                if self.servers[index(site)].life == life {
                    self.set_health(site, health, None);
                }
            }
            Fault::SessionTerminated => {
                let site = self.full().route;
                self.report_broken(site, Evidence::AdminStop);
            }
            Fault::Promote { insistence } => {
                let request = OpId(1_000_000);
                self.tell_full(Event::PromoteRequested { request, insistence });
            }
            Fault::Mirrors { are_promotable } => {
                self.processes[0].are_mirrors_promotable = are_promotable;
                let promotable = self.promotable();
                self.tell_full(Event::MirrorsReported { promotable });
            }
            Fault::RecordDeleted => self.store.tamper(None),
            Fault::RecordRolledBack => {
                if let Some(old) = self.store.past.first().cloned() {
                    self.store.tamper(Some(old));
                }
            }
            Fault::Calm => self.calm_down(),
        }
    }

    pub fn promotable(&self) -> Promotable {
        match self.full().are_mirrors_promotable {
            true => Promotable::All,
            false => Promotable::Missing { names: vec!["cloud".into()] },
        }
    }

    fn calm_down(&mut self) {
        for process in 0..self.processes.len() {
            self.processes[process].is_cut_from_store = false;
            self.processes[process].is_cut_from = [false, false];
            // The contender may stay dead; the site has to settle all the same.
            let is_needed = matches!(self.processes[process].role, Role::Full) || self.rng.chance(50);
            if !self.processes[process].is_alive && is_needed {
                self.start(process);
            }
        }
        for site in [Site::Local, Site::Cloud] {
            match self.servers[index(site)].health {
                Health::Up | Health::Starting => {}
                Health::Down => self.set_health(site, Health::Starting, None),
                Health::Frozen => self.set_health(site, Health::Up, None),
            }
        }
        self.processes[0].are_mirrors_promotable = true;
        self.tell_full(Event::MirrorsReported { promotable: Promotable::All });
        self.poke_watch();
    }

    fn set_health(&mut self, site: Site, health: Health, evidence: Option<Evidence>) {
        let server = &mut self.servers[index(site)];
        let before = server.health;
        // A frozen server goes on, a dead one starts first, a running one does not start.
        let health = match (before, health) {
            (Health::Down, Health::Up | Health::Frozen) | (Health::Starting, Health::Frozen) => return,
            (Health::Up, Health::Starting) if evidence.is_none() => return,
            (_, health) => health,
        };
        server.health = health;
        server.life += 1;
        let life = server.life;
        match health {
            Health::Starting => {
                let at = self.now + self.rng.range(100 * MS, 3 * S);
                self.at(at, Happening::Fault(Fault::ServerIf { site, health: Health::Up, life }));
            }
            Health::Up => {
                server.up_since = self.now;
                self.poke_watch();
            }
            Health::Down | Health::Frozen => {}
        }
        if let Some(evidence) = evidence.filter(|_| before == Health::Up) {
            self.report_broken(site, evidence);
        }
    }

    fn report_broken(&mut self, site: Site, evidence: Evidence) {
        if self.full().is_cut_from[index(site)] {
            return;
        }
        for _ in 0..self.rng.range(0, 4) {
            self.tell_full(Event::LinkBroken { site, evidence });
        }
    }

    fn tell_full(&mut self, event: Event) {
        let to = self.full().addressee();
        let at = self.now + self.rng.range(0, 20 * MS);
        self.at(at, Happening::ToController { to, event });
    }
}
