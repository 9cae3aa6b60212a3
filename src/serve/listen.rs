//! Sockets that clients connect to.

use crate::config::Tuning;
use crate::sys::{Passed, Peer, Socket, UnixSocket};
use socket2::SockRef;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener};

/// Where we listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// An address and port.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Tcp(address) => address.fmt(f),
            Bound::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Why we cannot listen there.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {at}: {}{}", words(source), advice(source, option))]
pub struct ListenError {
    /// Where.
    pub at: String,
    /// The option that chooses another place.
    pub option: &'static str,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

/// Without the number of the error, which nobody looks up.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or(text.as_str(), |(words, _)| words).to_owned()
}

fn advice(error: &io::Error, option: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("; another program listens there: stop it, or choose another place with {option}")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("; this machine does not have the address: choose another one with {option}")
        }
        io::ErrorKind::PermissionDenied => {
            format!("; choose a port above 1023, or a directory that you may write to, with {option}")
        }
        io::ErrorKind::NotFound => format!("; make the directory, or choose another one with {option}"),
        _ => String::new(),
    }
}

/// One listening socket. A Unix socket's file is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: Listening,
    /// Where, with the port that was chosen if 0 was asked for.
    pub bound: Bound,
    /// The Unix socket's file, where it is ours to remove.
    file: Option<PathBuf>,
}

/// A connection and its ends.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub socket: Socket,
    /// Who has made it.
    pub peer: Peer,
    /// Which address of ours it was made to.
    pub local: Peer,
}

/// Who else may listen on an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody.
    Alone,
    /// Other processes of this user (`SO_REUSEPORT`).
    Port,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
    /// On the way to another runtime.
    Nowhere,
}

impl Listener {
    /// Listens on a TCP address, alone or beside others; `backlog` connections may wait to be accepted.
    pub fn tcp(address: SocketAddr, backlog: u32, sharing: Sharing) -> Result<Self, ListenError> {
        let failed = |source| ListenError { at: address.to_string(), option: "--listen", source };
        let bind = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.set_reuseaddr(true)?;
            socket.set_reuseport(sharing == Sharing::Port)?;
            socket.bind(address)?;
            socket.listen(backlog)
        };
        let listener = bind().map_err(failed)?;
        let bound = Bound::Tcp(listener.local_addr().map_err(failed)?);
        Ok(Self { socket: Listening::Tcp(listener), bound, file: None })
    }

    /// Listens on a socket that the service manager has made.
    pub fn passed(passed: Passed) -> io::Result<Self> {
        Ok(match passed {
            Passed::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                let bound = Bound::Tcp(listener.local_addr()?);
                Self { socket: Listening::Tcp(TcpListener::from_std(listener)?), bound, file: None }
            }
            Passed::Unix(listener) => {
                listener.set_nonblocking(true)?;
                let address = listener.local_addr()?;
                let bound = Bound::Unix(address.as_pathname().map(Path::to_owned).unwrap_or_default());
                // The file is the manager's.
                Self { socket: Listening::Unix(UnixListener::from_std(listener)?), bound, file: None }
            }
        })
    }

    /// Listens on `.s.PGSQL.<port>` in `directory`, where libpq looks for it. A file that nobody
    /// listens on any more is replaced.
    pub fn unix(directory: &Path, port: u16, backlog: u32) -> Result<Self, ListenError> {
        let path = crate::backend::Address::socket_path(directory, port);
        let failed =
            |source| ListenError { at: path.display().to_string(), option: "--unix-socket-dir", source };
        match std::os::unix::net::UnixStream::connect(&path) {
            Ok(_) => return Err(failed(io::ErrorKind::AddrInUse.into())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(&path).map_err(failed)?;
            }
            // No file, or one that binding will say more about.
            Err(_) => {}
        }
        let listener = bind_unix(&path, backlog).map_err(failed)?;
        // As PostgreSQL's `unix_socket_permissions`: who connects has to log in.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).map_err(failed)?;
        let file = Some(path.clone());
        Ok(Self { socket: Listening::Unix(listener), bound: Bound::Unix(path), file })
    }

    /// Moves it into the current runtime.
    pub fn moved_here(mut self) -> io::Result<Self> {
        let socket = std::mem::replace(&mut self.socket, Listening::Nowhere);
        self.socket = match socket {
            Listening::Tcp(listener) => Listening::Tcp(TcpListener::from_std(listener.into_std()?)?),
            Listening::Unix(listener) => Listening::Unix(UnixListener::from_std(listener.into_std()?)?),
            Listening::Nowhere => Listening::Nowhere,
        };
        Ok(self)
    }

    /// Says what holds for the connections from now on: what would take six calls for each of them is
    /// said once, and handed down.
    pub fn tune(&self, tuning: &Tuning) -> io::Result<()> {
        let Listening::Tcp(listener) = &self.socket else { return Ok(()) };
        let socket = SockRef::from(listener);
        socket.set_tcp_nodelay(true)?;
        crate::sys::tune(&socket, tuning)
    }

    /// Takes the next connection.
    pub async fn accept(&self) -> io::Result<Accepted> {
        match &self.socket {
            Listening::Tcp(listener) => {
                let (tcp, peer) = listener.accept().await?;
                Ok(self.accepted(Socket::Tcp(tcp), Some(peer)))
            }
            Listening::Unix(listener) => {
                let unix = UnixSocket::new(listener.accept().await?.0.into_std()?)?;
                Ok(self.accepted(Socket::Unix(unix), None))
            }
            Listening::Nowhere => std::future::pending().await,
        }
    }

    /// Takes a connection that the kernel has made already, if there is one. It asks the kernel itself: the
    /// runtime hears of connections only when it looks for them.
    pub fn accept_now(&self) -> io::Result<Option<Accepted>> {
        let accepted = match &self.socket {
            Listening::Tcp(listener) => SockRef::from(listener).accept(),
            Listening::Unix(listener) => SockRef::from(listener).accept(),
            Listening::Nowhere => return Ok(None),
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        socket.set_nonblocking(true)?;
        let socket = match &self.socket {
            Listening::Tcp(_) => Socket::Tcp(TcpStream::from_std(socket.into())?),
            Listening::Unix(_) | Listening::Nowhere => Socket::Unix(UnixSocket::new(socket.into())?),
        };
        Ok(Some(self.accepted(socket, peer.as_socket())))
    }

    /// What the kernel has said already is not asked for.
    fn accepted(&self, socket: Socket, peer: Option<SocketAddr>) -> Accepted {
        let peer = peer.map_or_else(|| socket.peer(), Peer::Tcp);
        let local = match &self.bound {
            Bound::Tcp(address) if !address.ip().is_unspecified() => Peer::Tcp(*address),
            Bound::Tcp(_) | Bound::Unix(_) => socket.local(),
        };
        Accepted { socket, peer, local }
    }
}

fn bind_unix(path: &Path, backlog: u32) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.file {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn who_is_connected_already_is_taken_though_the_runtime_has_not_heard_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let tcp = Listener::tcp("127.0.0.1:0".parse().unwrap(), 16, Sharing::Alone).unwrap();
        let unix = Listener::unix(directory.path(), 6432, 16).unwrap();
        let Bound::Tcp(address) = tcp.bound else { panic!("a TCP address") };
        assert!(tcp.accept_now().unwrap().is_none() && unix.accept_now().unwrap().is_none());
        // Nothing is awaited in between.
        let _clients = [0, 1].map(|_| std::net::TcpStream::connect(address).unwrap());
        let _client =
            std::os::unix::net::UnixStream::connect(directory.path().join(".s.PGSQL.6432")).unwrap();
        assert!(tcp.accept_now().unwrap().is_some() && tcp.accept_now().unwrap().is_some());
        assert!(unix.accept_now().unwrap().is_some());
        assert!(tcp.accept_now().unwrap().is_none() && unix.accept_now().unwrap().is_none());
    }

    #[tokio::test]
    async fn what_is_said_of_the_listener_holds_for_whom_it_accepts() {
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap(), 16, Sharing::Alone).unwrap();
        let Bound::Tcp(address) = listener.bound else { panic!("a TCP address") };
        let seconds = Duration::from_secs;
        for (keepalive, user_timeout) in
            [(Some((seconds(71), seconds(12), 5)), Some(seconds(33))), (None, None)]
        {
            listener.tune(&Tuning { keepalive, user_timeout }).unwrap();
            let client = tokio::net::TcpStream::connect(address).await.unwrap();
            let Accepted { socket, peer, local } = listener.accept().await.unwrap();
            assert_eq!((peer, local), (Peer::Tcp(client.local_addr().unwrap()), Peer::Tcp(address)));
            assert_eq!((peer, local), (socket.peer(), socket.local()));
            let socket = SockRef::from(socket.tcp().unwrap());
            assert!(socket.tcp_nodelay().unwrap());
            assert_eq!(socket.keepalive().unwrap(), keepalive.is_some());
            assert_eq!(socket.tcp_user_timeout().unwrap(), user_timeout);
            if let Some((idle, interval, count)) = keepalive {
                assert_eq!(socket.tcp_keepalive_time().unwrap(), idle);
                assert_eq!(socket.tcp_keepalive_interval().unwrap(), interval);
                assert_eq!(socket.tcp_keepalive_retries().unwrap(), count);
            }
        }
    }
}
