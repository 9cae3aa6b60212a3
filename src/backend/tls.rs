//! TLS towards servers: libpq's `sslmode` on rustls.

use crate::config::{ChannelBinding, SslNegotiation};
use arc_swap::ArcSwapOption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

/// libpq's `sslmode` ("SSL Support, Protection Provided in Different Modes"), without `allow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// Never encrypt.
    Disable,
    /// Encrypt where the server offers it; trusts any certificate. On loopback: never encrypt,
    /// since it costs a fifth of the throughput and protects nothing.
    Prefer,
    /// Refuse a server without TLS; trusts any certificate.
    Require,
    /// Also check that a known authority signed the certificate.
    VerifyCa,
    /// Also check that the certificate names the host.
    VerifyFull,
}

/// The protocol's name inside TLS. A peer that starts with TLS at once must say it, or the bytes
/// could have been meant for another service ("ALPACA").
pub const ALPN: &[u8] = b"postgresql";

/// The cryptography under TLS, on both sides: a handshake with an RSA key of 2048 bits costs half
/// of what it does on `ring`, one with a P-256 key a sixth less (`docs/performance.md`).
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

/// What is wanted of connections to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsWishes {
    /// `sslmode`
    pub mode: TlsMode,
    /// `sslrootcert`: the authorities to trust instead of the system's.
    pub root_cert: Option<PathBuf>,
    /// `sslcert` and `sslkey`: what we show to the server.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// `sslnegotiation`
    pub negotiation: SslNegotiation,
    /// `channel_binding`
    pub binding: ChannelBinding,
}

/// The wishes and the rustls configuration that carries them out.
#[derive(Debug)]
pub struct ServerTls {
    wishes: TlsWishes,
    /// `None` exactly when the mode is `Disable`.
    config: ArcSwapOption<ClientConfig>,
}

/// Why no TLS configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file with the authorities cannot be used.
    #[error("cannot use the root certificates in {path}: {why}")]
    Roots {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Our own certificate or its key cannot be used.
    #[error("cannot use the certificate in {path}: {why}")]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The machine's own authorities cannot be used.
    #[error("cannot use the system's root certificates: {0}")]
    Platform(#[source] rustls::Error),
}

impl ServerTls {
    /// No TLS at all.
    pub fn disabled() -> Arc<Self> {
        Self::new(TlsMode::Disable, None).expect("no file is read")
    }

    /// TLS as `mode` says; `root_cert` names a PEM file with the authorities to trust, else the
    /// system's are trusted.
    pub fn new(mode: TlsMode, root_cert: Option<&Path>) -> Result<Arc<Self>, TlsError> {
        Self::with(TlsWishes {
            mode,
            root_cert: root_cert.map(Path::to_owned),
            certificate: None,
            negotiation: SslNegotiation::Postgres,
            binding: ChannelBinding::Prefer,
        })
    }

    /// TLS as all of `wishes` say.
    pub fn with(wishes: TlsWishes) -> Result<Arc<Self>, TlsError> {
        let config = ArcSwapOption::new(client_config(&wishes)?.map(Arc::new));
        Ok(Arc::new(Self { wishes, config }))
    }

    /// Reads the files again, for connections from now on. On failure nothing changes.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.config.store(client_config(&self.wishes)?.map(Arc::new));
        Ok(())
    }

    /// `sslmode`
    pub fn mode(&self) -> TlsMode {
        self.wishes.mode
    }

    /// `sslnegotiation`
    pub fn negotiation(&self) -> SslNegotiation {
        self.wishes.negotiation
    }

    /// `channel_binding`
    pub fn binding(&self) -> ChannelBinding {
        self.wishes.binding
    }

    /// What a connection starts with; `None` exactly when the mode is `Disable`.
    pub fn config(&self) -> Option<Arc<ClientConfig>> {
        self.config.load_full()
    }
}

fn client_config(wishes: &TlsWishes) -> Result<Option<ClientConfig>, TlsError> {
    let (provider, root_cert) = (provider(), wishes.root_cert.as_deref());
    let verifier: Arc<dyn ServerCertVerifier> = match wishes.mode {
        TlsMode::Disable => return Ok(None),
        TlsMode::Prefer | TlsMode::Require => Arc::new(AnyCertificate(provider.clone())),
        TlsMode::VerifyCa => {
            Arc::new(AnyName { roots: Arc::new(roots(root_cert)?), provider: provider.clone() })
        }
        TlsMode::VerifyFull => match root_cert {
            None => Arc::new(
                rustls_platform_verifier::Verifier::new(provider.clone()).map_err(TlsError::Platform)?,
            ),
            Some(path) => {
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots(Some(path))?), provider.clone())
                    .build()
                    .map_err(|e| TlsError::Roots { path: path.to_owned(), why: e.to_string() })?
            }
        },
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &wishes.certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let wrong = |path: &Path, why: String| TlsError::Certificate { path: path.to_owned(), why };
            let chain = CertificateDer::pem_file_iter(certificate)
                .and_then(|items| items.collect::<Result<Vec<_>, _>>())
                .map_err(|e| wrong(certificate, e.to_string()))?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong(key, e.to_string()))?;
            builder.with_client_auth_cert(chain, private).map_err(|e| wrong(certificate, e.to_string()))?
        }
    };
    // Servers before 17 do not look at it.
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Some(config))
}

/// libpq's default place of the authorities is `~/.postgresql/root.crt`; ours is said in the
/// configuration, so an absent file is an error and not a silent fallback.
fn roots(path: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let Some(path) = path else {
        return Err(TlsError::Roots {
            path: PathBuf::new(),
            why: "sslmode=verify-ca needs sslrootcert=FILE".to_owned(),
        });
    };
    authorities(path).map_err(|why| TlsError::Roots { path: path.to_owned(), why })
}

/// The certificates of a PEM file, to be trusted; fails in words when there are none.
pub fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())? {
        let certificate = certificate.map_err(|error| error.to_string())?;
        store.add(certificate).map_err(|error| error.to_string())?;
    }
    match store.is_empty() {
        true => Err("it holds no PEM certificate".to_owned()),
        false => Ok(store),
    }
}

/// Trusts every certificate, but checks that the server holds its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

/// Trusts a chain to one of `roots`, whatever the name (`verify-ca`; Cloud SQL needs it).
#[derive(Debug)]
struct AnyName {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls12_signature(message, cert, dss, &self.provider().signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, cert, dss, &self.provider().signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

impl AnyCertificate {
    fn provider(&self) -> &CryptoProvider {
        &self.0
    }
}

impl AnyName {
    fn provider(&self) -> &CryptoProvider {
        &self.provider
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}
