//! Listeners, log-ins, and the handover of an authenticated socket to its data thread.
//!
//! Log-ins run on the control runtime: what a stranger sends is read there, with deadlines, and
//! costs the data threads nothing. [`Front::serve`] takes connections until it is told to stop;
//! [`login`] follows one of them to its thread. Sessions themselves belong to the room `session`,
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
