//! Logging in: to a server by every method it may ask for, and through us as a client does.

mod certificates;
mod client;
mod client_tls;
mod front;
mod moved;
mod program;
mod raw;
mod server;
mod server_tls;

use std::time::Duration;

/// No test waits longer for anything that should happen at once.
const SOON: Duration = Duration::from_secs(60);
