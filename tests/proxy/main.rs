//! The proxy before real servers, in session mode where nothing else is said.

mod fixture;
mod held;
mod pooled;
mod programs;
mod switch;
mod wire;
