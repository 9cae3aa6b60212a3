//! Listeners, log-ins, and the data threads on which both they and the sessions run.
//!
//! What a stranger sends is read with deadlines, and connections are let in one for each round that
//! all others make, so that a storm of them costs those who are there little. [`Front::serve`] takes
//! connections until it is told to stop; [`login`] follows one of them to its session. Sessions themselves belong to the room `session`,
//! the console to `admin`.

mod arrivals;
mod first_link;
mod listen;
mod login;
mod threads;
mod waiting;

pub use arrivals::Arrivals;
pub use listen::{Bound, ListenError, Listener, Sharing};
pub use login::{Console, ConsoleClient, Front};
pub use threads::DataThreads;
