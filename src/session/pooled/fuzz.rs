//! A session of the pooled modes without its sockets, for bytes that nobody would send. However they are
//! cut, the same goes to both sides and the same is known behind it.
//!
//! `fuzz/targets/pooled.rs` calls this, and so do the tests below.

use super::has::Has;
use super::stash::Group;
use super::{Pooled, Side};
use crate::backend::{Login, Proof, Upstream};
use crate::base::RoleName;
use crate::config::PoolMode;
use crate::observe::Counters;
use crate::observe::clients::Clients;
use crate::observe::traffic::Traffic;
use crate::pool::{self, Cancels, Pool, Reports};
use crate::route::{RouteMap, Routes};
use crate::session::ledger::Ledger;
use crate::session::memory::Memory;
use crate::session::walk::{ClientWalk, Region, ServerWalk, Stop};
use crate::session::{Identity, Limits, Shared};
use arc_swap::ArcSwap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

thread_local! {
    static STAGE: Stage = Stage::default();
}

/// What a session needs of the world.
struct Stage {
    group: Rc<Group>,
    map: RouteMap,
    _runtime: tokio::runtime::Runtime,
}

impl Default for Stage {
    fn default() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let map = RouteMap::alone(Arc::new(Upstream { endpoints: Vec::new() }));
        let shared = Arc::new(Shared {
            routes: Routes::new(map.clone()),
            pool: Pool::new(pool::Settings::default(), runtime.handle().clone()),
            cancels: Cancels::default(),
            suspicions: mpsc::channel(1).0,
            console: mpsc::channel(1).0,
            control: runtime.handle().clone(),
            hold_timeout: ArcSwap::from_pointee(Duration::ZERO),
            counters: Arc::default(),
            clients: Clients::default(),
            traffic: Traffic::default(),
            limits: Limits::new(crate::config::Pool::default()),
            habits: Default::default(),
        });
        let identity = Identity {
            login: Login { user: RoleName::new("app").expect("a name"), proof: Proof::None },
            database: b"shop".as_slice().into(),
            parameters: Default::default(),
            is_admin: false,
        };
        Self { group: Group::of(&shared, &identity), map, _runtime: runtime }
    }
}

/// One session and its link.
pub(super) struct Talk {
    pub(super) pooled: Pooled,
    client: ClientWalk,
    server: ServerWalk,
    pub(super) ledger: Ledger,
    memory: Memory,
    pub(super) has: Has,
    pub(super) to_server: Vec<u8>,
    pub(super) to_client: Vec<u8>,
    stops: Vec<Stop>,
}

impl Talk {
    #[cfg(test)]
    pub(super) fn in_transaction_mode() -> Self {
        STAGE.with(|stage| Self::new(PoolMode::Transaction, stage))
    }

    fn new(mode: PoolMode, stage: &Stage) -> Self {
        super::statements::forget_all();
        let key = Cancels::default().register(1, 4);
        let counters: Arc<Counters> = Arc::default();
        let told = Reports::default();
        Self {
            pooled: Pooled::new(mode, stage.group.clone(), told, key.pointer(), &stage.map, counters),
            client: ClientWalk::default(),
            server: ServerWalk::default(),
            ledger: Ledger::default(),
            memory: Memory::default(),
            has: Has::of_test(),
            to_server: Vec::new(),
            to_client: Vec::new(),
            stops: Vec::new(),
        }
    }

    pub(super) fn ask(&mut self, bytes: &[u8]) -> Region {
        let (mut out, mut patch) = (Vec::new(), Vec::new());
        let Talk { client, ledger, memory, has, .. } = self;
        let side = Side { walk: client, ledger, memory, has, patch: &mut patch };
        let (region, is_changed) = self.pooled.ask(bytes, side, &mut out);
        assert!(patch.is_empty() && region.length <= bytes.len());
        self.to_server.extend_from_slice(if is_changed { &out } else { &bytes[..region.length] });
        region
    }

    pub(super) fn answer(&mut self, bytes: &[u8]) -> Region {
        let (mut out, mut patch) = (Vec::new(), Vec::new());
        let Talk { server, ledger, memory, has, .. } = self;
        let side = Side { walk: server, ledger, memory, has, patch: &mut patch };
        let (region, is_changed) = self.pooled.answer(bytes, side, &mut out);
        assert!(region.length <= bytes.len());
        self.to_client.extend_from_slice(if is_changed { &out } else { &bytes[..region.length] });
        region
    }

    /// Hands pieces over; what could not pass stands in front of the next one. Gives what is left.
    fn feed(&mut self, pieces: &[&[u8]], walk: fn(&mut Self, &[u8]) -> Region) -> Vec<u8> {
        let mut carry = Vec::new();
        let mut is_stopped = false;
        for piece in pieces {
            carry.extend_from_slice(piece);
            if is_stopped {
                continue;
            }
            let Region { length, stop } = walk(self, &carry);
            carry.drain(..length);
            if !matches!(stop, Stop::End | Stop::Partial) {
                self.stops.push(stop);
                is_stopped = true;
            }
        }
        carry
    }

    /// The client speaks, the server answers, and the client's words that had to wait go on.
    fn hold(mut self, client: &[&[u8]], server: &[&[u8]]) -> String {
        let waiting = self.feed(client, Self::ask);
        if self.pooled.has_due_answers(&self.ledger) {
            self.pooled.due_answers(&self.ledger, &mut self.to_client);
        }
        self.feed(server, Self::answer);
        if self.stops.first() == Some(&Stop::Later) && !self.pooled.waits(&self.ledger).0 {
            self.feed(&[&waiting], Self::ask);
        }
        // Its number is another one for each who deallocates.
        let (statements, unnamed) = (self.has.statements.len(), self.has.unnamed.is_some());
        let (to_server, to_client) = (self.to_server.escape_ascii(), self.to_client.escape_ascii());
        let known = format!("{:?} {:?} {statements} {unnamed:?}", self.ledger, self.memory);
        format!("{to_server}\n{to_client}\n{:?}\n{known}", self.stops)
    }
}

/// The first byte chooses the mode; what the client says is in front of the first `>>`.
fn compare(data: &[u8], cut: impl Fn(&[u8]) -> Vec<&[u8]>) {
    let Some((first, rest)) = data.split_first() else { return };
    let mode = [PoolMode::Auto, PoolMode::Transaction, PoolMode::Statement][usize::from(*first) % 3];
    let (client, server) = match rest.windows(2).position(|two| two == b">>") {
        Some(at) => (&rest[..at], &rest[at + 2..]),
        None => (rest, &[][..]),
    };
    STAGE.with(|stage| {
        let whole = Talk::new(mode, stage).hold(&[client], &[server]);
        let found = Talk::new(mode, stage).hold(&cut(client), &cut(server));
        assert_eq!(whole, found);
    });
}

/// Single bytes, and one cut that follows from the bytes.
pub fn check(data: &[u8]) {
    compare(data, |bytes| bytes.chunks(1).collect());
    let at = data.iter().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
    compare(data, |bytes| <[_; 2]>::from(bytes.split_at(at % (bytes.len() + 1))).to_vec());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_kept_seeds_hold() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/pooled");
        let mut count = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            let seed = std::fs::read(entry.unwrap().path()).unwrap();
            check(&seed);
            for at in 0..seed.len() {
                compare(&seed, |bytes| <[_; 2]>::from(bytes.split_at(at.min(bytes.len()))).to_vec());
            }
            count += 1;
        }
        assert!(count > 10, "{count}");
    }

    /// A message of a type that exists, mostly with a name and a text as it has.
    fn message(tags: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
        let words: &[&[u8]] = &[
            b"",
            b"\0",
            b"s\0",
            b"S",
            b"Ss\0",
            b"S\0",
            b"P",
            b"select 1\0",
            b"cm_1\0",
            b"deallocate s\0",
            b"\0\0",
            b"set a.b = 1\0",
            b"I",
            b"T",
            b"E",
            b"SERROR\0C26000\0Mprepared statement \"cm_1\" does not exist\0\0",
            b"SELECT 1\0",
            b"SET\0",
            b"DISCARD ALL\0",
            b"SHOW LEASE\0",
            b"SFATAL\0C57P01\0\0",
            b"application_name\0x\0",
        ];
        let body = prop::collection::vec(prop::sample::select(words), 0..4).prop_map(|words| words.concat());
        (prop::sample::select(tags), body)
            .prop_map(|(tag, body)| [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), &body].concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]
        #[test]
        fn no_bytes_are_too_strange(
            mode in any::<u8>(),
            client in prop::collection::vec(message(b"PPPBBDEECCSSQQHFdcfX"), 0..12),
            server in prop::collection::vec(message(b"11223CCZZZEESNDTGIn"), 0..16),
            noise in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let parts = [&[mode][..], &client.concat(), &noise, b">>", &server.concat(), &noise];
            check(&parts.concat());
        }
    }
}
