//! What people, disks and networks get wrong: each mistake gets one clear error that says what to
//! do, and nothing is lost or left behind. The binary itself runs, before real servers.
//!
//! Mistakes in a configuration's text stand in `src/config/broken_cases.txt`, bytes that are no
//! protocol also in `tests/proxy/wire.rs`.

mod clients;
mod disk;
mod lease;
mod signals;
mod stage;
mod start;
mod target;
