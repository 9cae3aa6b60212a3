//! The only room that asks the machine: the clock, randomness, files with locks, sockets that
//! move between runtimes.
//!
//! It decides nothing. Whoever is pure takes what this room returns as an argument.

mod clock;
pub mod file;
mod hash;
mod limits;
mod machine;
mod manager;
mod random;
mod resting;
mod socket;
mod straight;
mod unix;

pub use clock::{boot_id, now};
pub use hash::{Map, hash};
pub use limits::raise_open_files;
pub use machine::{networks, user_name};
pub use manager::{Passed, notify_manager, notify_reloading, passed_sockets};
pub use random::{random_bytes, random_unit};
pub use resting::Resting;
pub use socket::{Carrier, Detached, Peer, Socket, tune};
pub use unix::UnixSocket;
