//! Limits, queues and timeouts, through the binary and a real server.

mod ends;
mod stage;
