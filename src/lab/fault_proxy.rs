//! A TCP hop on loopback that fails on demand.

use super::pump::{self, Fault, Link};
use super::{Error, Port};
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// One way through the hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What clients send.
    ToServer,
    /// What the server answers.
    ToClient,
}

/// A hop in front of a TCP address. Clients connect to [`FaultProxy::address`].
///
/// Stalled bytes are not lost: they wait in the kernel's buffers and arrive after
/// [`FaultProxy::heal`], as after a cable is plugged in again in time. Ends when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    port: Port,
    weather: watch::Sender<Link>,
    /// How often the listener has followed a change of `weather`.
    listening: watch::Receiver<Listening>,
    connections: Arc<AtomicUsize>,
    acceptor: JoinHandle<()>,
}

/// Whether the port is open, and under which change of the weather.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listening {
    change: u64,
    is_open: bool,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 and passes everything on to `target`.
    pub async fn start(target: SocketAddr) -> Result<FaultProxy, Error> {
        let port = Port::reserve()?;
        let listener = listen(port.number()).map_err(|_| Error::PortTaken { port: port.number() })?;
        let (weather, changes) = watch::channel(Link::fair(target));
        let (report, listening) = watch::channel(Listening { change: 0, is_open: true });
        let connections = Arc::new(AtomicUsize::new(0));
        let acceptor =
            tokio::spawn(accept(port.number(), Some(listener), changes, report, connections.clone()));
        Ok(FaultProxy { port, weather, listening, connections, acceptor })
    }

    /// A hop in front of a port of 127.0.0.1.
    pub async fn before(port: u16) -> Result<FaultProxy, Error> {
        Self::start(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port()))
    }

    /// The port of [`FaultProxy::address`].
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Connections that are open at the moment.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Closes every connection; new ones are refused. In force on return.
    pub async fn cut(&self) {
        self.change(|link| link.fault = Fault::Cut).await;
    }

    /// Connections are accepted and stay open, but no byte passes any more.
    pub async fn blackhole(&self) {
        self.change(|link| link.fault = Fault::Blackhole).await;
    }

    /// No byte passes in `dead`; the other direction works.
    pub async fn half_open(&self, dead: Direction) {
        self.change(|link| link.fault = Fault::HalfOpen(dead)).await;
    }

    /// Each byte arrives this much later, in each direction; the rate stays what it was.
    pub async fn latency(&self, one_way: Duration) {
        self.change(|link| link.latency = one_way).await;
    }

    /// Each connection, open or new, is reset (RST, not FIN) on both sides once `bytes` more bytes
    /// have passed in `direction`.
    pub async fn reset_after(&self, direction: Direction, bytes: u64) {
        self.change(|link| link.fault = Fault::ResetAfter { direction, bytes }).await;
    }

    /// Resets (RST) every open connection now; new ones are let through.
    pub async fn reset(&self) {
        self.change(|link| link.resets += 1).await;
    }

    /// Undoes every fault and the latency.
    pub async fn heal(&self) {
        self.change(|link| {
            link.fault = Fault::None;
            link.latency = Duration::ZERO;
        })
        .await;
    }

    /// New connections go there.
    pub async fn set_target(&self, target: SocketAddr) {
        self.change(|link| link.target = target).await;
    }

    /// Changes the weather and waits until the port is open or closed as it says and, after a cut,
    /// no connection is left.
    async fn change(&self, how: impl FnOnce(&mut Link)) {
        let mut wanted = 0;
        self.weather.send_modify(|link| {
            how(link);
            link.change += 1;
            wanted = link.change;
        });
        let is_cut = self.weather.borrow().fault == Fault::Cut;
        let mut listening = self.listening.clone();
        // An error means that the acceptor has ended with the runtime: nobody listens then.
        let _ = listening.wait_for(|now| now.change >= wanted && now.is_open != is_cut).await;
        while is_cut && self.connections() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        // The connections end with `weather`, their only sender.
        self.acceptor.abort();
    }
}

async fn accept(
    port: u16,
    mut listener: Option<TcpListener>,
    mut changes: watch::Receiver<Link>,
    report: watch::Sender<Listening>,
    connections: Arc<AtomicUsize>,
) {
    loop {
        let (change, is_cut) = {
            let link = changes.borrow_and_update();
            (link.change, link.fault == Fault::Cut)
        };
        if is_cut {
            listener = None;
        } else if listener.is_none() {
            listener = listen(port).ok();
        }
        report.send_replace(Listening { change, is_open: listener.is_some() });
        let pause = tokio::time::sleep(Duration::from_millis(20));
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            accepted = next(&listener) => {
                if let Some(client) = accepted {
                    connections.fetch_add(1, Ordering::SeqCst);
                    let (changes, connections) = (changes.clone(), connections.clone());
                    tokio::spawn(async move {
                        pump::carry(client, changes).await;
                        connections.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            }
            // The port could not be opened again yet: an old connection may still hold it.
            () = pause, if listener.is_none() && !is_cut => {}
        }
    }
}

async fn next(listener: &Option<TcpListener>) -> Option<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.ok().map(|(client, _)| client),
        None => std::future::pending().await,
    }
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}
