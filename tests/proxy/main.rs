//! The proxy in session mode, before real servers.

mod fixture;
mod held;
mod pooled;
mod programs;
mod switch;
mod wire;
