//! Who writes: deciding it, and carrying it out.
//!
//! [`controller`] decides, as a pure machine; [`effects`] fences, lifts and promotes in SQL. `app`
//! connects the two with the probes, the lease's keeper, the routes and the mirrors. This room owns no connection of
//! a client and never opens a gate without a proof from the lease.
//!
//! Start reading in [`controller`].

pub mod controller;
pub mod effects;
