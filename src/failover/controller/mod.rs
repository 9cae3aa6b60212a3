//! The pure machine that decides who writes: `step(now, event) -> effects`.
//!
//! ```text
//! Starting ─▶ Taking ─▶ Claiming ─▶ Steady(writer) ◀────────────┐
//!    ▲                                 │ link broken, probe missed │ server answers
//!    │ lease lost                      ▼                           │
//!    └─────────────────────────── Suspect ──▶ Grace ───────────────┤
//!                                      │        │ 10 s             │
//!                        3 × refused,  ▼        ▼                  │
//!                        5 s silence  Switching: fencing ──▶ Down ─┘  (nothing to promote)
//!                                        ▼ (draining, if an operator asked)
//!                                     releasing ─▶ acquiring ─▶ finishing ─▶ promoting ─▶ Steady(cloud)
//! ```
//!
//! - **Effects are wishes.** Each has an [`OpId`](crate::base::OpId); a change of state drops the wishes of the
//!   state before, and a late answer is recognised and noted, never obeyed. Each wait has a deadline, and
//!   after it the step is asked for again, since all steps may be run again.
//! - **Dead or restarting?** Three refused probes make a dead server, unless something said that it
//!   restarts (an orderly stop, an immediate one, 57P03): then it has `restart_grace`. A server that was
//!   never seen up by this process has the grace too, because after a boot the proxy may be first.
//! - **A frozen or unreachable server** gives no answer and cannot be fenced by SQL. After `silence_max` it is switched
//!   away from all the same: clients reach it only through us, so its fence is our shut gate, the
//!   cut links and the released lease. What its backends commit after that was acknowledged to
//!   nobody and is the lost tail. When it answers again it is fenced within 100 ms, each time.
//!   An operator's promotion is stricter: it wants a verified fence, or `FORCE`.
//! - **The point of no return** is the release of the lease. If the server answers before it, local goes on, at the
//!   epoch it has; after it, the next undone step is tried until it succeeds, also by the next process.
//! - **Only a mirror that has reached Following is promoted**, and all of them together, and only if the cloud's server
//!   answers. Otherwise clients are held, then refused, until the local server is back.
//! - **From the cloud nothing fails over.** The way home is a failback.
//! - **With one site** ([`Sites::LocalOnly`]) there is no lease and no gate effect at all: `app` leaves the gate open for ever.
//! - A session that withholds a 57P01 waits for [`Effect::Absolve`] (pass it on) or for a change of the map (move).
//!   Links to a site that is not the writer are no business of this machine.

mod machine;
mod start;
mod suspect;
mod switch;
#[cfg(test)]
mod tests;
mod words;

pub use machine::{Controller, View};
pub use words::{
    ClaimOutcome, Effect, Event, Evidence, Facts, FenceFact, FenceOutcome, Fencing, Insistence, LeaseFact,
    ProbeOutcome, Promotable, Promoted, Settings, Sites, Upto,
};
