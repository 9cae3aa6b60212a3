//! Limits, queues and timeouts, through the binary and a real server.

mod clients;
mod ends;
mod observed;
mod queues;
mod sockets;
mod stage;
mod storm;
mod timeouts;
