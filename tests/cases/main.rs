//! The numbered cases of the protocol: what has to be as it is without us, and what becomes of it
//! when a server goes.
//!
//! `docs/protocol.md` lists all of them with their tests, some of which stand in other binaries: a
//! test for case 17 has a name that begins with `case_17_`. Most hold one conversation at the server
//! and through the proxy ([`raw::stage::same`]) and compare all that is answered.

#[path = "../raw/mod.rs"]
mod raw;

mod backpressure;
mod copy;
mod extended;
mod framing;
mod lifetime;
mod numbers;
mod simple;
mod startup;

use raw::Step;

/// Sends all of it in one piece, and waits until it was answered.
fn send(messages: &[Vec<u8>]) -> Vec<Step> {
    vec![Step::Send(messages.concat()), Step::Settle]
}

/// The types of the answers to what [`Step::Settle`] sends, outside of anything.
const SETTLED: &str = "Z3333Z";

/// Those types behind others.
fn then_settled(tags: &str) -> String {
    format!("{tags}{SETTLED}")
}
