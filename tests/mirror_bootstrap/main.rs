//! The first copy of a mirror, between real servers.

mod copied;
mod interrupted;
mod pair;
mod refused;
mod sequences;
