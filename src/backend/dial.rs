//! From an address to an open, possibly encrypted, socket.

use super::endpoint::{Address, Endpoint};
use super::error::Error;
use super::tls::{ALPN, TlsMode};
use crate::config::SslNegotiation;
use crate::sys::{Carrier, Socket, UnixSocket};
use bytes::Bytes;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

/// A dead peer is noticed after this long with nothing to send …
const KEEPALIVE: Duration = Duration::from_secs(10);
/// … and after this long with bytes that are not acknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// SSLRequest ("Message Formats").
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Connects and, as the endpoint's mode says, encrypts. The caller holds the deadline; it is
/// shared out over the addresses a name stands for, so that a dead one cannot use it up.
pub(super) async fn dial(endpoint: &Endpoint, deadline: Instant) -> Result<Socket, Error> {
    match &endpoint.address {
        Address::Unix { directory, port } => {
            let path = Address::socket_path(directory, *port);
            UnixSocket::connect(path).await.map(Socket::Unix).map_err(|source| unreachable(endpoint, source))
        }
        Address::Tcp { host, port } => {
            let tcp = tcp(host, *port, deadline).await.map_err(|source| unreachable(endpoint, source))?;
            match endpoint.tls_in_use() {
                None => Ok(Socket::Tcp(tcp)),
                Some(config) => match endpoint.tls.negotiation() {
                    SslNegotiation::Postgres => encrypted(endpoint, host, tcp, config).await,
                    SslNegotiation::Direct => direct(endpoint, host, tcp, config).await,
                },
            }
        }
    }
}

fn unreachable(endpoint: &Endpoint, source: io::Error) -> Error {
    Error::Connect { at: endpoint.address.to_string(), source }
}

async fn tcp(host: &str, port: u16, deadline: Instant) -> io::Result<TcpStream> {
    let addresses: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (tried, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match timeout_at(Instant::now() + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                tune(&stream)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, "no answer in time"),
        }
    }
    Err(last)
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(3),
    )?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

async fn encrypted(
    endpoint: &Endpoint,
    host: &str,
    mut tcp: TcpStream,
    config: Arc<rustls::ClientConfig>,
) -> Result<Socket, Error> {
    let at = || endpoint.address.to_string();
    let lost = |source| Error::Lost { at: at(), source };
    tcp.write_all(&SSL_REQUEST).await.map_err(lost)?;
    // Room for more than the answer, so that what was glued to it is seen here and can never be
    // taken for something said inside TLS (the class of CVE-2021-23222).
    let mut answer = [0; 64];
    let n = tcp.read(&mut answer).await.map_err(lost)?;
    match (&answer[..n], endpoint.tls.mode()) {
        ([], _) => Err(lost(io::ErrorKind::UnexpectedEof.into())),
        (b"S", _) => shake_hands(endpoint, host, tcp, config).await,
        (b"N", TlsMode::Disable | TlsMode::Prefer) => Ok(Socket::Tcp(tcp)),
        (b"N", TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull) => {
            Err(Error::TlsRefused { at: at() })
        }
        // What stands in an error sent before TLS is anybody's word and is not repeated.
        ([b'E', ..], _) => {
            Err(Error::Protocol { at: at(), what: "the server answers SSLRequest with an error".to_owned() })
        }
        ([b'S' | b'N', ..], _) => Err(Error::Protocol {
            at: at(),
            what: "received unencrypted data after the answer to SSLRequest: \
                   a faulty server or a man in the middle"
                .to_owned(),
        }),
        ([other, ..], _) => Err(Error::Protocol {
            at: at(),
            what: format!("the answer to SSLRequest is 0x{other:02x}: not a PostgreSQL server"),
        }),
    }
}

/// TLS from the first byte. The server has to agree that this is PostgreSQL's protocol: one that
/// knows nothing of direct TLS would not.
async fn direct(
    endpoint: &Endpoint,
    host: &str,
    tcp: TcpStream,
    config: Arc<rustls::ClientConfig>,
) -> Result<Socket, Error> {
    let socket = shake_hands(endpoint, host, tcp, config).await?;
    match &socket {
        Socket::TlsClient(tls) if tls.get_ref().1.alpn_protocol() == Some(ALPN) => Ok(socket),
        _ => Err(Error::Protocol {
            at: endpoint.address.to_string(),
            what: "direct TLS was accepted without the ALPN protocol \"postgresql\"".to_owned(),
        }),
    }
}

async fn shake_hands(
    endpoint: &Endpoint,
    host: &str,
    tcp: TcpStream,
    config: Arc<rustls::ClientConfig>,
) -> Result<Socket, Error> {
    let failed = |source| Error::Tls { at: endpoint.address.to_string(), source };
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    TlsConnector::from(config)
        .connect(name, Carrier::new(tcp, Bytes::new()))
        .await
        .map(|tls| Socket::TlsClient(Box::new(tls)))
        .map_err(failed)
}
