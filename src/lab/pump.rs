//! One connection through a [`super::FaultProxy`].

use super::fault_proxy::Direction;
use socket2::SockRef;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// What is wrong with the hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    Cut,
    Blackhole,
    HalfOpen(Direction),
    ResetAfter { direction: Direction, bytes: u64 },
}

/// How the hop is at the moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) target: SocketAddr,
    pub(super) fault: Fault,
    pub(super) latency: Duration,
    /// Counts changes; a budget of `ResetAfter` starts anew with each.
    pub(super) change: u64,
    /// Counts calls of `reset`; a connection older than the last one is reset.
    pub(super) resets: u64,
}

impl Link {
    pub(super) fn fair(target: SocketAddr) -> Link {
        Link { target, fault: Fault::None, latency: Duration::ZERO, change: 0, resets: 0 }
    }

    fn is_dead(&self, direction: Direction) -> bool {
        match self.fault {
            Fault::None | Fault::ResetAfter { .. } => false,
            Fault::Cut | Fault::Blackhole => true,
            Fault::HalfOpen(dead) => dead == direction,
        }
    }
}

/// Chunks on their way under latency: 64 of 16 kB, a megabyte in flight.
const IN_FLIGHT: usize = 64;
const CHUNK: usize = 16 * 1024;

/// How a connection ends.
#[derive(Debug)]
enum End {
    /// As TCP ends: with FIN where one side has said it.
    Closed,
    /// With RST on both sides.
    Reset,
}

/// Carries bytes both ways until one side leaves or the weather ends the connection.
pub(super) async fn carry(client: TcpStream, changes: watch::Receiver<Link>) {
    let client = Arc::new(client);
    let _ = client.set_nodelay(true);
    let mut sky = changes.clone();
    let resets = sky.borrow().resets;
    let end = tokio::select! {
        end = both(client.clone(), changes, resets) => end,
        // The proxy is gone or cut: close both sides.
        _ = sky.wait_for(|link| link.fault == Fault::Cut) => End::Closed,
    };
    if matches!(end, End::Reset) {
        reset(&client);
    }
}

async fn both(client: Arc<TcpStream>, mut changes: watch::Receiver<Link>, resets: u64) -> End {
    // In a black hole a new connection waits here; what its client sends waits in the kernel.
    let Ok(link) = changes.wait_for(|link| link.fault != Fault::Blackhole).await.map(|link| *link) else {
        return End::Closed;
    };
    let Ok(server) = TcpStream::connect(link.target).await else { return End::Closed };
    let _ = server.set_nodelay(true);
    let server = Arc::new(server);
    let mut sky = changes.clone();
    let carrying = async {
        tokio::try_join!(
            one_way(Direction::ToServer, &client, &server, changes.clone()),
            one_way(Direction::ToClient, &server, &client, changes.clone()),
        )
    };
    let end = tokio::select! {
        ended = carrying => ended.err().unwrap_or(End::Closed),
        struck = sky.wait_for(|link| link.resets != resets) => {
            if struck.is_ok() { End::Reset } else { End::Closed }
        }
    };
    if matches!(end, End::Reset) {
        reset(&server);
    }
    end
}

/// Closing with a linger of zero sends RST; the last owner of the socket drops it right after.
fn reset(socket: &TcpStream) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// `Ok` when a FIN in this direction was passed on (the other one may go on: half-close), `Err`
/// when the connection as a whole shall end.
async fn one_way(
    direction: Direction,
    from: &TcpStream,
    to: &TcpStream,
    changes: watch::Receiver<Link>,
) -> Result<(), End> {
    let (send, receive) = mpsc::channel(IN_FLIGHT);
    let reading = read(direction, from, send, changes.clone());
    let writing = write(direction, to, receive, changes);
    // What was read before an error is written before the error is passed on.
    let (finish, ()) = tokio::try_join!(async { Ok(reading.await) }, writing)?;
    finish?;
    let _ = SockRef::from(to).shutdown(std::net::Shutdown::Write);
    Ok(())
}

type Chunk = (Instant, Vec<u8>);

/// Reads while the direction lives; the end of the channel follows the last chunk.
async fn read(
    direction: Direction,
    from: &TcpStream,
    send: mpsc::Sender<Chunk>,
    mut changes: watch::Receiver<Link>,
) -> Result<(), End> {
    let mut buffer = vec![0; CHUNK];
    loop {
        from.readable().await.map_err(|_| End::Reset)?;
        let latency = alive(direction, &mut changes).await?.latency;
        let count = match from.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(End::Reset),
        };
        let chunk = (Instant::now() + latency, buffer[..count].to_vec());
        send.send(chunk).await.map_err(|_| End::Closed)?;
    }
}

/// Writes each chunk when it is due.
async fn write(
    direction: Direction,
    to: &TcpStream,
    mut receive: mpsc::Receiver<Chunk>,
    mut changes: watch::Receiver<Link>,
) -> Result<(), End> {
    let mut budget = Budget { change: u64::MAX, left: None };
    while let Some((due, chunk)) = receive.recv().await {
        tokio::time::sleep_until(due).await;
        let mut rest = chunk.as_slice();
        while !rest.is_empty() {
            budget.follow(&alive(direction, &mut changes).await?, direction);
            if budget.left == Some(0) {
                return Err(End::Reset);
            }
            match to.try_write(&rest[..budget.allows(rest.len())]) {
                Ok(count) => {
                    rest = &rest[count..];
                    if budget.is_spent_by(count) {
                        return Err(End::Reset);
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    to.writable().await.map_err(|_| End::Reset)?;
                }
                Err(_) => return Err(End::Reset),
            }
        }
    }
    Ok(())
}

/// Waits until bytes may pass in this direction; `Err` when the proxy is gone.
async fn alive(direction: Direction, changes: &mut watch::Receiver<Link>) -> Result<Link, End> {
    changes.wait_for(|link| !link.is_dead(direction)).await.map(|link| *link).map_err(|_| End::Closed)
}

/// Bytes until the reset, if one is set.
struct Budget {
    change: u64,
    left: Option<u64>,
}

impl Budget {
    fn follow(&mut self, link: &Link, direction: Direction) {
        if self.change == link.change {
            return;
        }
        self.change = link.change;
        self.left = match link.fault {
            Fault::ResetAfter { direction: counted, bytes } if counted == direction => Some(bytes),
            _ => None,
        };
    }

    fn allows(&self, wanted: usize) -> usize {
        self.left.map_or(wanted, |left| wanted.min(usize::try_from(left).unwrap_or(usize::MAX)))
    }

    fn is_spent_by(&mut self, count: usize) -> bool {
        self.left = self.left.map(|left| left.saturating_sub(count as u64));
        self.left == Some(0)
    }
}
