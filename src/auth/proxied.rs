//! Connections that a load balancer passes on: whose they are.

use super::opening::OpenError;
use crate::config::TrustedProxy;
use crate::config::hba::AddressPattern;
use crate::sys::{Peer, Socket};
use crate::wire::proxy::{self, Source};
use tokio::io::AsyncReadExt;

/// Who has to send a PROXY protocol header. Nobody else may: it would choose its own address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(pub Vec<TrustedProxy>);

impl TrustedProxies {
    pub(super) fn include(&self, peer: Peer) -> bool {
        self.0.iter().any(|trusted| match (trusted, peer) {
            (TrustedProxy::Unix, Peer::Unix { .. }) => true,
            (TrustedProxy::Network { ip, mask }, Peer::Tcp(address)) => {
                AddressPattern::lies_in(address.ip().to_canonical(), *ip, *mask)
            }
            _ => false,
        })
    }
}

/// Reads the header, and nothing behind it.
pub(super) async fn source_of(socket: &mut Socket) -> Result<Peer, OpenError> {
    let peer = socket.peer();
    let wrong = |source| OpenError::Proxied { peer, source };
    let mut head = [0; proxy::HEAD];
    // Byte by byte what a header begins with: a client that sends less must not be waited for.
    let mut filled = 0;
    while filled < head.len() {
        let n = socket.read(&mut head[filled..]).await.map_err(OpenError::Gone)?;
        if n == 0 {
            return Err(OpenError::Gone(std::io::ErrorKind::UnexpectedEof.into()));
        }
        filled += n;
        if !proxy::may_begin(&head[..filled]) {
            return Err(wrong(proxy::ProxyError::NoHeader));
        }
    }
    let announced = proxy::announced(&head).map_err(wrong)?;
    let mut rest = vec![0; announced.rest];
    socket.read_exact(&mut rest).await.map_err(OpenError::Gone)?;
    Ok(match proxy::source(announced, &rest).map_err(wrong)? {
        Source::Itself => peer,
        Source::Client(address) => Peer::Tcp(address),
        Source::Unknown => Peer::Unknown,
    })
}
