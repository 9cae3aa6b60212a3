//! TLS towards clients.

use crate::sys::{Carrier, Socket};
use bytes::Bytes;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// The protocol's name inside TLS; clients that start with TLS at once must say it.
const ALPN: &[u8] = b"postgresql";

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
    pub(super) fn tls(&self) -> Option<&ClientTls> {
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
    /// Reads a PEM certificate chain (our own first) and its PEM key. TLS 1.2 and 1.3, no client
    /// certificates.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, ClientTlsError> {
        let wrong = |why: String| ClientTlsError::Certificate { path: certificate.to_owned(), why };
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(|items| items.collect::<Result<Vec<_>, _>>())
            .map_err(|e| wrong(e.to_string()))?;
        if chain.is_empty() {
            return Err(wrong("it holds no PEM certificate".to_owned()));
        }
        let private = PrivateKeyDer::from_pem_file(key)
            .map_err(|e| ClientTlsError::Key { path: key.to_owned(), why: e.to_string() })?;
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("ring supports TLS 1.2 and 1.3")
                .with_no_client_auth()
                .with_single_cert(chain, private)
                .map_err(|source| ClientTlsError::Pair {
                    certificate: certificate.to_owned(),
                    key: key.to_owned(),
                    source,
                })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { config: Arc::new(config) })
    }

    /// The handshake after our `S`: nothing has been read of it, and the client need not name the
    /// protocol.
    pub(super) async fn accept_asked(&self, tcp: TcpStream) -> io::Result<Socket> {
        let tls = TlsAcceptor::from(self.config.clone()).accept(Carrier::new(tcp, Bytes::new())).await?;
        Ok(Socket::TlsServer(Box::new(tls)))
    }

    /// The handshake of a client that did not ask; `already_read` are its first bytes. It must
    /// name the protocol, or the bytes could have been meant for another service ("ALPACA").
    pub(super) async fn accept_direct(&self, tcp: TcpStream, already_read: Bytes) -> io::Result<Socket> {
        let tls = TlsAcceptor::from(self.config.clone()).accept(Carrier::new(tcp, already_read)).await?;
        if tls.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "direct TLS without the ALPN protocol \"postgresql\"",
            ));
        }
        Ok(Socket::TlsServer(Box::new(tls)))
    }
}
