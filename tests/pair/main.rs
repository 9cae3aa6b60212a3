//! The whole program between two servers: mirror, failover, and what clients see of it.

mod commands;
mod failover;
mod fixture;
mod home;
mod load;
mod pooled;
mod proxy_kills;
mod restart;
mod status;
