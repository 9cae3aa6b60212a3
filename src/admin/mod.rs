//! The SQL console: answers our own commands, wherever they were typed.
//!
//! [`Console`] answers a [`ConsoleCall`](crate::sql::console::ConsoleCall): it shows what
//! [`Facts`](crate::observe::Facts) says, checks who may change something, and hands changes to an
//! [`Operator`]. [`serve`] carries a whole connection to the database `mirror` (alias `pgbouncer`),
//! which has no server behind it and works while both servers are down. This room never changes
//! anything itself, never talks to a server and never decides whether a change is possible.
//!
//! Start reading in [`Console::answer`]; `rows` makes our tables and `pooler` those of PgBouncer, `connection`
//! speaks the protocol.

mod connection;
mod console;
mod frontend;
mod pooler;
mod rows;
mod statement;

pub use connection::{Greeting, Guest, serve};
pub use console::{Console, Operator};

/// Whether a database of this name is the console and none of a server's.
pub fn is_console(database: &[u8]) -> bool {
    matches!(database, b"mirror" | b"pgbouncer")
}
