//! The console: as its clients see it on a stage, and on running proxies.

mod pooler;
mod protocol;
mod running;
mod stage;
