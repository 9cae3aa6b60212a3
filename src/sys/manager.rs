//! The service manager (systemd): sockets that it hands over, and what it is told.

use nix::time::{ClockId, clock_gettime};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};

/// A listening socket that the manager has made.
#[derive(Debug)]
pub enum Passed {
    /// On an address.
    Tcp(TcpListener),
    /// On a path.
    Unix(UnixListener),
}

/// The sockets that were handed over to this process (`LISTEN_PID`, `LISTEN_FDS`); none for most. What
/// listens on nothing that we know is left alone.
pub fn passed_sockets() -> Vec<Passed> {
    let mut sockets = listenfd::ListenFd::from_env();
    let mut passed = Vec::new();
    for index in 0..sockets.len() {
        if let Ok(Some(tcp)) = sockets.take_tcp_listener(index) {
            passed.push(Passed::Tcp(tcp));
        } else if let Ok(Some(unix)) = sockets.take_unix_listener(index) {
            passed.push(Passed::Unix(unix));
        } else {
            tracing::warn!(event = "sys.socket_not_used", index, "is no stream socket that listens");
        }
    }
    passed
}

/// Tells the manager that the configuration is being read again; `READY=1` says when that is done.
pub fn notify_reloading() {
    let since = clock_gettime(ClockId::CLOCK_MONOTONIC).map(std::time::Duration::from).unwrap_or_default();
    notify_manager(&format!("RELOADING=1\nMONOTONIC_USEC={}", since.as_micros()));
}

/// Tells the manager something, such as `READY=1`, where one wants to hear it (`NOTIFY_SOCKET`). Whether
/// it hears is its own affair.
pub fn notify_manager(words: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let Ok(socket) = UnixDatagram::unbound() else { return };
    let sent = match name.to_str().and_then(|name| name.strip_prefix('@')) {
        Some(name) => SocketAddr::from_abstract_name(name)
            .and_then(|address| socket.send_to_addr(words.as_bytes(), &address)),
        None => socket.send_to(words.as_bytes(), name),
    };
    if let Err(error) = sent {
        tracing::debug!(event = "sys.manager_not_told", %error);
    }
}
