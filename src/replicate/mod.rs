//! One database copied to another, and kept so: slot, bootstrap, stream, apply.
//!
//! [`Mirror`] is the actor that keeps one mirror. [`bootstrap`] makes the first copy; after it
//!
//! ```text
//! link → reader ( wire::pgoutput → assemble ) → apply ( plan → statement → pipeline ) → target
//!   ↑                                             │
//!   └──────────── feedback ←── gauge ←────────────┘   durable positions only
//! ```
//!
//! The same code serves both directions. States: copying (`Bootstrapping`), streaming and never caught up
//! (`Degraded`), `Following` ⇄ `Degraded`, between two attempts (`Disconnected`), waiting for a
//! person (`Failed`, tried again every half minute), and ended (`Promoted`, or by a newer epoch).
//!
//! What this room never does: decide who writes, promote, or apply under an epoch that is not its
//! own. It skips no change in silence: what cannot be applied stops the mirror and keeps the slot.
//! By convention the triggers that would fire on the mirror (`ENABLE ALWAYS`, `ENABLE REPLICA`)
//! are switched off by the bootstrap and on again by the promotion, so that applying need not
//! think of them.
//!
//! Start reading in `mirror.rs` (the actor), then `stream.rs` (one stream and its parts).

mod apply;
pub mod assemble;
pub mod bootstrap;
pub mod error;
mod feedback;
mod form;
mod gauge;
mod link;
mod mirror;
mod pipeline;
pub mod plan;
mod reader;
pub mod sequences;
mod settle;
mod source;
pub mod spec;
pub mod statement;
mod status;
mod stream;
pub mod table;
mod tend;

pub use error::Error;
pub use mirror::Mirror;
pub use settle::Finished;
pub use spec::MirrorSpec;
