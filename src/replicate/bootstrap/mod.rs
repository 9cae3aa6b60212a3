//! The first copy of a mirror, from nothing to a slot whose stream continues where the copy ends.
//!
//! ```text
//! preflight → state row "bootstrapping" → roles, door → publications → slot + snapshot
//!           → schema before the rows → rows → schema behind the rows → state row "streaming"
//! ```
//!
//! Everything that is read from the source after the slot is read under the slot's one snapshot.
//! A bootstrap that is interrupted is not resumed: its row says `bootstrapping`, so the next one
//! drops what it made on both sides and begins again. It never touches a target that was not
//! empty when it began, never decodes a row, and never holds a lock that the application waits for longer than
//! a second.
//!
//! Start reading in [`run`](run()); [`preflight`](preflight()) says what is missing before anything is made, [`roles::sync`] keeps the roles
//! the same afterwards, and [`drop_mirror`] takes everything away again.

mod capabilities;
mod copy;
mod door;
mod drop;
mod error;
mod gate;
mod identity;
mod made;
mod meter;
mod objects;
mod preflight;
mod programs;
mod publication;
mod raw;
pub mod roles;
mod run;
mod schema;
mod slot;
mod survey;
mod tables;
mod triggers;
mod waiting;
mod workdir;

pub use drop::drop_mirror;
pub use error::{Error, Problem};
pub use meter::{Progress, Stage};
pub use preflight::{Report, is_strange, preflight};
pub use publication::not_followed;
pub use run::{Limits, Ready, run, run_with};
pub(super) use survey::warnings as not_carried;

use crate::replicate::MirrorSpec;
use meter::Meter;

/// By this name a bootstrap finds the sessions of the one before it.
fn application_name(spec: &MirrorSpec) -> String {
    let name = format!("cloud-mirror bootstrap {}", spec.name);
    let cut = name.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= 63).last();
    name[..cut.unwrap_or(0)].to_owned()
}
