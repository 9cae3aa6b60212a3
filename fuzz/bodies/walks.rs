//! The frame walkers of session mode: however the bytes are cut, what passes is the same, and so is what
//! is known behind it.

use cloud_mirror::session::ledger::Ledger;
use cloud_mirror::session::memory::Memory;
use cloud_mirror::session::walk::{ClientWalk, Region, Reported, ServerWalk, Stop};

/// What is left of a conversation.
#[derive(Debug, Default)]
struct Talk {
    client: ClientWalk,
    server: ServerWalk,
    ledger: Ledger,
    memory: Memory,
    reported: Vec<Reported>,
}

/// Hands bytes over in pieces, as the relay does: what could not pass stands in front of the next one. Says
/// how many have passed and what has stopped the walk, but for the end.
fn feed(pieces: &[&[u8]], mut walk: impl FnMut(&[u8]) -> Region) -> (usize, Option<Stop>) {
    let (mut carry, mut passed) = (Vec::new(), 0);
    for piece in pieces {
        carry.extend_from_slice(piece);
        let Region { length, stop } = walk(&carry);
        assert!(length <= carry.len(), "{length} of {}", carry.len());
        passed += length;
        carry.drain(..length);
        match stop {
            Stop::End => assert!(carry.is_empty(), "not the end"),
            // Nobody needs more to go on than is kept of a message.
            Stop::Partial => assert!(carry.len() < 64 << 10),
            other => return (passed, Some(other)),
        }
    }
    (passed, None)
}

impl Talk {
    /// What is known of the session.
    fn known(&self) -> String {
        let Talk { client, server, ledger, memory, reported } = self;
        // In no order of their own.
        let mut statements: Vec<&[u8]> = memory.statements().collect();
        statements.sort();
        let settings: Vec<_> = memory.settings_by_name().collect();
        let tie = (memory.tie(), memory.watches_portals(), memory.version());
        format!("{client:?} {server:?} {ledger:?} {statements:?} {settings:?} {tie:?} {reported:?}")
    }

    /// The client says all of it first.
    fn hold(client: &[&[u8]], server: &[&[u8]]) -> (String, [(usize, Option<Stop>); 2]) {
        let mut talk = Talk::default();
        let asked = feed(client, |bytes| talk.client.walk(bytes, &mut talk.ledger, &mut talk.memory));
        let Talk { server: walk, ledger, memory, reported, .. } = &mut talk;
        let answered = feed(server, |bytes| walk.walk(bytes, ledger, memory, reported));
        (talk.known(), [asked, answered])
    }
}

/// The two directions: what the client says is in front of the first `>>`.
fn directions(data: &[u8]) -> (&[u8], &[u8]) {
    match data.windows(2).position(|two| two == b">>") {
        Some(at) => (&data[..at], &data[at + 2..]),
        None => (data, &[]),
    }
}

/// In pieces of `size`.
fn in_pieces(data: &[u8], size: usize) -> Vec<&[u8]> {
    data.chunks(size).collect()
}

fn compare(data: &[u8], cut: impl Fn(&[u8]) -> Vec<&[u8]>) {
    let (client, server) = directions(data);
    let whole = Talk::hold(&[client], &[server]);
    let found = Talk::hold(&cut(client), &cut(server));
    assert_eq!(whole, found);
}

/// For the fuzzer: single bytes, and one cut that follows from the bytes.
pub fn check(data: &[u8]) {
    compare(data, |bytes| in_pieces(bytes, 1));
    let at = data.iter().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
    compare(data, |bytes| {
        let (left, right) = bytes.split_at(at % (bytes.len() + 1));
        vec![left, right]
    });
}

/// For seeds: a cut at each byte.
#[allow(dead_code, reason = "the fuzzer takes one")]
pub fn check_every_cut(data: &[u8]) {
    for at in 0..data.len() {
        compare(data, |bytes| {
            let (left, right) = bytes.split_at(at.min(bytes.len()));
            vec![left, right]
        });
    }
}
