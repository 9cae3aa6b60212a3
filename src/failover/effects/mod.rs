//! What the controller wishes for, carried out on real servers: fence, lift, promote, fence a
//! server that returns, and the plain way home.
//!
//! Every effect is idempotent, may be run again after a crash at any point, has a deadline, and
//! never lowers an epoch: what a newer owner has written refuses us. None of them decides whether
//! it is wanted; that is the controller's word. Start reading in [`fence()`].
//!
//! | effect | changes | crash in the middle |
//! |---|---|---|
//! | [`control_role::ensure`] | our own superuser and its password file | made again or repaired |
//! | [`fence()`] | limit, superusers and fence row in one transaction; then ends sessions | run again |
//! | [`lift()`] | the same three, in one transaction | run again |
//! | [`promote()`] | progress, fence row, sequences, triggers, door in one transaction | run again |
//! | [`failback_discard_local`] | databases renamed, made, copied, in steps with a journal | goes on with its step |
//! | [`watch_return()`] | nothing until the server is back, then [`fence()`] | run again |

pub mod control_role;
pub mod failback;
pub mod fence;
pub mod promote;
pub mod watch_return;

mod error;
mod lift;
mod scan;

pub use error::Error;
pub use failback::{Copier, Failback, Home, Ownership, Pair, failback_discard_local};
pub use fence::{Fenced, fence, fence_on};
pub use lift::{Lifted, lift};
pub use promote::{Promoted, promote, promote_on};
pub use scan::Session;
pub use watch_return::{Return, Returned, watch_return};
