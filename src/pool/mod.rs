//! Which session holds which link: limits, reuse, reset on return, and who may cancel what.
//!
//! In session mode a link belongs to one client from log-in to leave. It is opened with all the
//! start-up parameters of that client, which are part of the key under which it may be used
//! again after `DISCARD ALL`. The pool opens links where it is told to and never chooses a
//! server; it runs on the control runtime, sessions on data threads hand links over detached.
//! Start reading in [`Pool::check_out`].

mod admission;
mod cancel;
mod checkout;
mod full;
mod group;
mod lease;
mod limits;
mod reset;
mod room;
mod seats;
mod welcome;

pub use admission::{Admission, Admitted, TooMany};
pub use cancel::{CancelKey, CancelPointer, CancelTarget, Cancels, cancel};
pub use checkout::{Checkout, Pool, PoolError, Request, Settings};
pub use group::{Parameters, Reports};
pub use lease::{Lease, Room};
pub use limits::Limit;
pub use reset::{Reported, reset};
pub use welcome::{Asked, Welcome};
