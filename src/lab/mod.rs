//! Real servers and a hostile network, for the demo, the tests and the benches.
//!
//! [`Cluster`] is a PostgreSQL server made of the system's own binaries, run as a child that we
//! wait for ourselves; [`FaultProxy`] is a TCP hop that fails on demand; [`eventually`] waits for
//! a fact and says what it saw instead. Ports come from [`Port`], below the range the kernel
//! hands out, so that a dead server's port is nobody else's.
//!
//! What it never does: use a daemon (`pg_ctl`, a service), touch a cluster it did not make, or
//! leave one behind: a server ends with its [`Cluster`], a proxy with its [`Proxy`], and when our
//! process is killed a small watcher (`reaper`) ends each and removes its files.
//!
//! States of a server: running, frozen (`SIGSTOP`), down (its children may linger after `kill9`).
//! Start reading in `cluster.rs`.

mod builder;
mod cluster;
mod error;
mod fault_proxy;
mod patience;
mod place;
mod processes;
mod programs;
mod proxy;
mod pump;
mod reaper;
mod server;
mod template;

pub use builder::{ClusterBuilder, Durability, SocketAuth};
pub use cluster::Cluster;
pub use error::{APT_LINE, Error};
pub use fault_proxy::{Direction, FaultProxy};
pub use patience::{Instead, eventually, eventually_true, that};
pub use place::Port;
pub use programs::Programs;
pub use proxy::Proxy;
pub use server::StopMode;

/// The superuser of every [`Cluster`].
pub const SUPERUSER: &str = "postgres";

/// Its password.
pub const PASSWORD: &str = "lab";
