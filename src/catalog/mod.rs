//! Our own tables in a mirrored database: schema `cloud_mirror`, on both sides.
//!
//! [`schema`] makes and removes them; each other module is one table: [`fence`] (who may write
//! here, and what the fence changed), [`progress`] (how far a mirror has come), [`sequences`]
//! (what the poll of the source saw), [`not_followed`] (what it changed where we cannot follow), [`door`] (who is shut out of a mirror until it is promoted)
//! and [`triggers`] (what the bootstrap switched off). Rows are typed here and nowhere else.
//!
//! This room decides nothing, opens no connection and keeps nothing in memory: it is handed a
//! client or a transaction. It never writes a lower epoch over a higher one. Everything works for
//! a superuser and for a login that only owns the database. Start reading in [`fence`].

pub mod door;
pub mod fence;
pub mod not_followed;
pub mod progress;
pub mod schema;
pub mod sequences;
pub mod triggers;

mod error;
mod sql;

pub use error::Error;
pub use sql::{identifier, literal};
