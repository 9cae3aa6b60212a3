//! Client programs that know nothing of a proxy: each does the same work at the server and, with
//! another URL, through the binary, and has to print the same lines.
//!
//! `psql`, `pgbench`, `pg_dump` and psycopg always run; the other drivers in `make campaign`, which
//! fetches them. Between two servers they run in the default mode ([`psycopg`], [`others`]); before one, in
//! every mode of the pool ([`everywhere`]).

#[path = "../pair/fixture.rs"]
#[allow(dead_code, reason = "the tests of the pair use the rest")]
mod fixture;

mod everywhere;
mod failover;
mod modes;
mod others;
mod postgres;
mod program;
mod psycopg;
