//! The console: as its clients see it on a stage, and on running proxies.

mod exporter;
mod observed;
mod pgbouncer;
mod pooler;
mod protocol;
mod restart;
mod running;
mod stage;
