//! Cloud Mirror: a PostgreSQL proxy that mirrors a database to the cloud and fails over to it.
//!
//! The modules are rooms on floors; a room uses rooms on lower floors only (`tests/tidy.rs`
//! checks it, `ARCHITECTURE.md` draws it). Start reading in [`app`], which builds the rooms and
//! connects their channels, or in [`session`], which carries the statements.

// Floor 0
pub mod base;

// Floor 1: pure
pub mod config;
pub mod sql;
pub mod wire;

// Floor 2, lower step: what asks the machine, for the rest of the floor too
pub mod sys;

// Floor 2
pub mod backend;
pub mod observe;

// Floor 3
pub mod auth;
pub mod catalog;
pub mod health;
pub mod lease;
pub mod pool;
pub mod route;

// Floor 4
pub mod failover;
pub mod replicate;
pub mod session;

// Floor 5
pub mod admin;
pub mod http;
pub mod serve;

// Floor 6
pub mod app;
pub mod cli;
pub mod lab;
