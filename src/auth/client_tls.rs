//! TLS towards clients.

use super::approach::TlsChannel;
use crate::backend::tls::{ALPN, provider};
use crate::sys::{Carrier, Socket};
use crate::wire::certificate;
use bytes::Bytes;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CipherSuite, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What is offered to clients that connect by TCP. Unix sockets are never encrypted.
#[derive(Debug, Clone, Default)]
pub enum ClientEncryption {
    /// SSLRequest is answered with `N`.
    #[default]
    Never,
    /// TLS for those who ask.
    Offered(Arc<ClientTls>),
    /// Sessions in clear text are refused.
    Required(Arc<ClientTls>),
}

impl ClientEncryption {
    pub(super) fn tls(&self) -> Option<&Arc<ClientTls>> {
        match self {
            ClientEncryption::Never => None,
            ClientEncryption::Offered(tls) | ClientEncryption::Required(tls) => Some(tls),
        }
    }
}

/// Our certificate and key, ready for handshakes.
#[derive(Debug)]
pub struct ClientTls {
    config: Arc<ServerConfig>,
    /// The hash of our certificate that SCRAM can be bound to.
    end_point: Option<Arc<[u8]>>,
}

/// Certificates of clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ClientAuthority {
    /// They are not asked for.
    #[default]
    None,
    /// Who shows one must have it from an authority in this PEM file.
    Allowed(PathBuf),
    /// The same, and there is no TLS without one.
    Required(PathBuf),
}

/// Why the certificate or the key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    /// The file with the certificate chain.
    #[error("cannot use the certificate in {path}: {why}")]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file with the private key.
    #[error("cannot use the private key in {path}: {why}")]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file with the authorities for clients.
    #[error("cannot use the client authorities in {path}: {why}")]
    Authority {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Both can be read, but not used together.
    #[error("the certificate in {certificate} and the key in {key} do not go together: {source}")]
    Pair {
        /// File with the certificate chain.
        certificate: PathBuf,
        /// File with the key.
        key: PathBuf,
        /// What rustls says.
        #[source]
        source: rustls::Error,
    },
}

impl ClientTls {
    /// Reads a PEM certificate chain (our own first) and its PEM key, and the authorities for
    /// certificates of clients. TLS 1.2 and 1.3, with session tickets: they are made and checked
    /// without keeping anything of a session.
    pub fn from_files(
        certificate: &Path,
        key: &Path,
        clients: &ClientAuthority,
    ) -> Result<Self, ClientTlsError> {
        let wrong = |why: String| ClientTlsError::Certificate { path: certificate.to_owned(), why };
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(|items| items.collect::<Result<Vec<_>, _>>())
            .map_err(|e| wrong(e.to_string()))?;
        if chain.is_empty() {
            return Err(wrong("it holds no PEM certificate".to_owned()));
        }
        let private = PrivateKeyDer::from_pem_file(key)
            .map_err(|e| ClientTlsError::Key { path: key.to_owned(), why: e.to_string() })?;
        let end_point = chain.first().and_then(|own| certificate::end_point_hash(own));
        let builder = ServerConfig::builder_with_provider(in_our_order(provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider supports TLS 1.2 and 1.3");
        let builder = match clients {
            ClientAuthority::None => builder.with_no_client_auth(),
            ClientAuthority::Allowed(path) | ClientAuthority::Required(path) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(authorities(path)?, provider());
                let verifier = match clients {
                    ClientAuthority::Required(_) => verifier,
                    ClientAuthority::None | ClientAuthority::Allowed(_) => verifier.allow_unauthenticated(),
                };
                let wrong = |why: String| ClientTlsError::Authority { path: path.to_owned(), why };
                builder.with_client_cert_verifier(verifier.build().map_err(|e| wrong(e.to_string()))?)
            }
        };
        let mut config = builder.with_single_cert(chain, private).map_err(|source| ClientTlsError::Pair {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            source,
        })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Our order, not the client's: libpq's first choice hashes with SHA-384, for which
        // processors have no instructions, and costs a tenth of the handshake.
        config.ignore_client_order = true;
        // Each of these has keys of its own: a ticket does not outlive the files it was made under.
        if let Ok(ticketer) = Ticketer::new() {
            config.ticketer = ticketer;
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 1;
        }
        Ok(Self { config: Arc::new(config), end_point: end_point.map(Arc::from) })
    }

    /// What the log-in has to know of a connection that was just made.
    pub(super) fn channel(&self, socket: &Socket) -> TlsChannel {
        let chain = match socket {
            Socket::TlsServer(tls) => tls.get_ref().1.peer_certificates(),
            Socket::Tcp(_) | Socket::Unix(_) | Socket::TlsClient(_) => None,
        };
        TlsChannel {
            end_point: self.end_point.clone(),
            certificate: chain.and_then(|chain| certificate::names(chain.first()?)),
        }
    }

    /// The handshake after our `S`: nothing has been read of it, and the client need not name the
    /// protocol.
    pub(super) async fn accept_asked(&self, tcp: TcpStream) -> io::Result<Socket> {
        tcp.readable().await?;
        let tls = self.accept(Carrier::new(tcp, Bytes::new())).await?;
        Ok(Socket::TlsServer(Box::new(tls)))
    }

    /// The handshake with a client whose hello has come, or at least its beginning.
    async fn accept(&self, carrier: Carrier) -> io::Result<TlsStream<Carrier>> {
        let mut accepting = pin!(TlsAcceptor::from(self.config.clone()).accept(carrier));
        let turn = turn().await;
        if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(accepting.as_mut().poll(cx))).await {
            return done;
        }
        tokio::task::yield_now().await;
        drop(turn);
        accepting.await
    }

    /// The handshake of a client that did not ask; `already_read` are its first bytes. It must
    /// name the protocol, or the bytes could have been meant for another service ("ALPACA").
    pub(super) async fn accept_direct(&self, tcp: TcpStream, already_read: Bytes) -> io::Result<Socket> {
        let tls = self.accept(Carrier::new(tcp, already_read)).await?;
        if tls.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "direct TLS without the ALPN protocol \"postgresql\"",
            ));
        }
        Ok(Socket::TlsServer(Box::new(tls)))
    }
}

/// AES-128-GCM first, the others as they were.
fn in_our_order(provider: Arc<CryptoProvider>) -> Arc<CryptoProvider> {
    let mut provider = CryptoProvider::clone(&provider);
    provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 0,
        _ => 1,
    });
    Arc::new(provider)
}

thread_local! {
    static TURN: Arc<Semaphore> = Arc::new(Semaphore::new(1));
}

/// Who handshakes on this thread next. Signing costs more than all the rest of a log-in: between two
/// of them everybody else on the thread has a turn.
async fn turn() -> Option<OwnedSemaphorePermit> {
    let semaphore = TURN.with(Clone::clone);
    // Nobody closes it.
    semaphore.acquire_owned().await.ok()
}

fn authorities(path: &Path) -> Result<Arc<RootCertStore>, ClientTlsError> {
    let store = crate::backend::tls::authorities(path);
    store.map(Arc::new).map_err(|why| ClientTlsError::Authority { path: path.to_owned(), why })
}
