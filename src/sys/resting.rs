//! A socket that nobody uses just now.

use super::socket::{Detached, Socket};
use socket2::SockRef;
use std::io;
use std::mem::MaybeUninit;
use std::thread::{self, ThreadId};

/// It stays in the runtime in which it was used last: whoever uses it next there pays nothing for that;
/// elsewhere it has to be moved.
#[derive(Debug)]
pub enum Resting {
    /// In the runtime that this thread runs.
    At(ThreadId, Socket),
    /// In none.
    Nowhere(Detached),
}

impl Resting {
    /// Leaves a socket of the current runtime where it is.
    pub fn here(socket: Socket) -> Self {
        Resting::At(thread::current().id(), socket)
    }

    /// Takes it into use in the current runtime.
    pub fn attach(self) -> io::Result<Socket> {
        match self {
            Resting::At(thread, socket) if thread == thread::current().id() => Ok(socket),
            Resting::At(_, socket) => socket.detach()?.attach(),
            Resting::Nowhere(detached) => detached.attach(),
        }
    }

    /// Whether it is still connected and the other end has said nothing since it rests. The kernel is asked:
    /// the runtime hears of an end only when it looks for news, and a client must not be given a link that is
    /// closed already.
    pub fn is_silent(&self) -> bool {
        let mut byte = [MaybeUninit::uninit(); 1];
        let peeked = match self {
            Resting::At(_, Socket::Unix(unix)) => SockRef::from(unix.get_ref()).peek(&mut byte),
            Resting::At(_, socket) => match socket.tcp() {
                Some(tcp) => SockRef::from(tcp).peek(&mut byte),
                None => return false,
            },
            Resting::Nowhere(Detached::Unix(unix)) => SockRef::from(unix).peek(&mut byte),
            Resting::Nowhere(
                Detached::Tcp(tcp) | Detached::TlsClient(_, tcp) | Detached::TlsServer(_, tcp),
            ) => SockRef::from(tcp).peek(&mut byte),
        };
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use tokio::io::AsyncReadExt;
    use tokio::runtime::Builder;

    #[test]
    fn a_socket_is_used_where_it_rests_and_elsewhere() {
        let (ours, mut other) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let read = |resting: Resting| {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut socket = resting.attach().unwrap();
                // Where it rests it is taken as it is.
                socket = Resting::here(socket).attach().unwrap();
                let byte = socket.read_u8().await.unwrap();
                (byte, Resting::here(socket))
            })
        };
        let resting = Resting::Nowhere(Detached::Unix(ours));
        assert!(resting.is_silent());
        other.write_all(b"ab").unwrap();
        assert!(!resting.is_silent());
        let (byte, resting) = read(resting);
        assert_eq!(byte, b'a');
        let (byte, resting) = thread::spawn(move || read(resting)).join().unwrap();
        assert_eq!(byte, b'b');
        assert!(resting.is_silent());
        drop(other);
        assert!(!resting.is_silent());
    }
}
