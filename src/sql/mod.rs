//! Text in, meaning out: our own commands and the few statements a session has to notice.
//!
//! Pure: bytes in, enums out. This room knows no catalog, opens nothing and never rewrites a
//! statement; what it does not recognise belongs to PostgreSQL. [`lex`] splits a text as
//! PostgreSQL's scanner does; [`admin`] recognises our commands and [`pooler`] those of PgBouncer's console; [`session`] recognises SET,
//! RESET, [`ending`] the ends of transactions; [`console`] holds the question and the answer that travel
//! between a session and the console; [`quote`] writes names and values into SQL.
//!
//! Start reading in [`session::peek`]: it is the only part on the way of every statement.

pub mod admin;
pub mod console;
pub mod ending;
pub mod footprint;
pub mod harmless;
pub mod lex;
pub mod pooler;
pub mod quote;
pub mod session;
