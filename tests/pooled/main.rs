//! The pooled modes, before a real server: many clients on few connections, and nobody finds what
//! another has left behind.

mod auto;
mod bench;
mod changed;
mod copying;
mod functions;
mod hostile;
mod leaks;
mod line;
mod links;
mod pinned;
mod prepared;
mod raw;
mod readings;
mod retired;
mod sequences;
mod settings;
mod stage;
mod together;
mod unseen;
