//! One database copied to another: slot, bootstrap, stream, apply. Not built yet.

pub mod bootstrap;
pub mod sequences;
pub mod spec;

pub use spec::MirrorSpec;
