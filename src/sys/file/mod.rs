//! Files that survive a crash and that only we can read.
//!
//! [`write_atomic`] replaces a file as a whole: a reader, and a process that comes back after a
//! crash, finds the old bytes or the new ones and never half of them. [`Lock`] and [`StateDir`] keep a second
//! process away. Calls block; async callers use `spawn_blocking`.

mod atomic;
mod error;
mod lock;
mod state_dir;

pub use atomic::{ensure_private_dir, read_if_exists, write_atomic};
pub use error::FileError;
pub use lock::Lock;
pub use state_dir::StateDir;
