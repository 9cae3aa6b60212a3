//! Where statements go: the map of upstreams, the door and the gate.
//!
//! The map changes as a whole (`ArcSwap`), so no reader sees half a switch; its version is one
//! atomic number that a session compares at every dispatch. The [`Gate`] carries the moment after
//! which no acknowledgement of a writer may pass; it is compared, never timed. This room opens
//! no connection and takes no decision: `app` carries the controller's wishes here.

mod gate;
mod halts;
mod map;
mod names;
mod table;

pub use gate::Gate;
pub use halts::{Entry, Halt, Halts, NoEntry, Way};
pub use map::{Door, NoRoute, RouteMap};
pub use names::{Named, Names};
pub use table::Routes;
