//! Bytes ⇄ typed protocol messages. Pure: owns no socket, reads no clock, and no bytes make it panic
//! or allocate what they claim.

pub mod certificate;
pub mod frame;
pub mod md5;
pub mod message;
pub mod pgoutput;
pub mod proxy;
pub mod replication;
pub mod report;
pub mod scram;
pub mod startup;
