//! Bytes ⇄ typed protocol messages. Pure: owns no socket, reads no clock, and no bytes make it panic.

pub mod frame;
pub mod pgoutput;
pub mod replication;
