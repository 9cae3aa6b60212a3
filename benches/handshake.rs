//! TLS handshakes in memory: what the server's side of each costs, on either provider that rustls
//! has. `cargo bench --bench handshake`; `docs/performance.md` says what came out and what was
//! chosen. Needs the program `openssl`, for keys that rcgen does not make.

use anyhow::{Context, ensure};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, ServerConnection,
    SignatureScheme, SupportedProtocolVersion, version,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Handshakes of one kind, after some to warm up.
const TIMES: usize = 300;
const WARM_UP: usize = 20;
const ROUNDS: usize = 3;

type Ticketer = fn() -> Result<Arc<dyn ProducesTickets>, Error>;

fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let providers: [(&str, CryptoProvider, Ticketer); 2] = [
        ("ring", ring::default_provider(), ring::Ticketer::new),
        ("aws-lc-rs", aws_lc_rs::default_provider(), aws_lc_rs::Ticketer::new),
    ];
    println!("median of {TIMES} handshakes, microseconds of the server's side");
    for (kind, arguments) in [
        ("p256", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"][..]),
        ("rsa2048", &["-newkey", "rsa:2048"]),
    ] {
        make_key(directory.path(), kind, arguments)?;
        for version in [&version::TLS13, &version::TLS12] {
            for round in 0..ROUNDS {
                for (name, provider, ticketer) in &providers {
                    let server = server(directory.path(), kind, provider, *ticketer)?;
                    let median = measure(&server, &client(version)?)?;
                    println!("{kind:8} {:?} round {round} {name:10} {median:7.1}", version.version);
                }
            }
        }
    }
    Ok(())
}

fn make_key(directory: &Path, kind: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-subj", "/CN=localhost", "-days", "2"])
        .args(arguments)
        .arg("-keyout")
        .arg(directory.join(kind).with_extension("key"))
        .arg("-out")
        .arg(directory.join(kind).with_extension("crt"))
        .output()
        .context("the program openssl is missing")?;
    ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}

/// As the proxy has it: one ticket, nothing kept.
fn server(
    directory: &Path,
    kind: &str,
    provider: &CryptoProvider,
    ticketer: Ticketer,
) -> anyhow::Result<Arc<ServerConfig>> {
    let file = directory.join(kind);
    let chain = vec![CertificateDer::from_pem_file(file.with_extension("crt"))?];
    let key = PrivateKeyDer::from_pem_file(file.with_extension("key"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.ticketer = ticketer()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

fn client(version: &'static SupportedProtocolVersion) -> anyhow::Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Anybody(provider.clone()));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn measure(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> anyhow::Result<f64> {
    let mut times = Vec::with_capacity(TIMES);
    for number in 0..WARM_UP + TIMES {
        let time = shake_hands(server, client)?;
        if number >= WARM_UP {
            times.push(time.as_secs_f64() * 1e6);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[TIMES / 2])
}

/// Time that the server's side takes.
fn shake_hands(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> anyhow::Result<Duration> {
    let mut client = ClientConnection::new(client.clone(), ServerName::try_from("localhost")?)?;
    let began = Instant::now();
    let mut server = ServerConnection::new(server.clone())?;
    let mut spent = began.elapsed();
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes)?;
        }
        let began = Instant::now();
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            server.read_tls(&mut unread)?;
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes)?;
        }
        spent += began.elapsed();
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            client.read_tls(&mut unread)?;
            client.process_new_packets()?;
        }
    }
    Ok(spent)
}

/// The client's time is not measured.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
