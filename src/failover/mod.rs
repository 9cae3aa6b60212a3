//! Not built yet.

pub mod effects;
