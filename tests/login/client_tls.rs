//! Through us, in TLS.

use crate::certificates::Authority;
use crate::front::Front;
use crate::raw::receive;
use bytes::BytesMut;
use cloud_mirror::auth::{ClientAuthority, ClientEncryption, ClientTls, ClientTlsError, Settings};
use cloud_mirror::backend::tls::{ServerTls, TlsMode};
use cloud_mirror::base::Site;
use cloud_mirror::lab::{Cluster, PASSWORD, Programs, SUPERUSER};
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

async fn psql(port: u16, rest: &str) -> Output {
    let programs = Programs::find(None).unwrap();
    tokio::process::Command::new(programs.path("psql"))
        .env("PGPASSWORD", PASSWORD)
        .arg(format!("port={port} user={SUPERUSER} dbname=postgres connect_timeout=10 {rest}"))
        .args(["-XAtc", "SELECT current_user"])
        .output()
        .await
        .unwrap()
}

async fn start(cluster: &Cluster, encryption: ClientEncryption) -> Front {
    Front::start(Settings::default(), encryption, cluster.party(Site::Local, "postgres")).await
}

/// An authority, and our side of TLS with a certificate of it.
fn localhost() -> (Authority, Arc<ClientTls>) {
    let authority = Authority::new();
    let identity = authority.sign("localhost");
    let files = (&identity.certificate_file, &identity.key_file);
    let tls = ClientTls::from_files(files.0, files.1, &ClientAuthority::None).unwrap();
    (authority, Arc::new(tls))
}

/// A front that offers TLS, and what it needs while it lives.
async fn offering() -> (Authority, Cluster, Front) {
    let (authority, tls) = localhost();
    let cluster = Cluster::builder().start().await.unwrap();
    let front = start(&cluster, ClientEncryption::Offered(tls)).await;
    (authority, cluster, front)
}

#[tokio::test]
async fn psql_gets_the_encryption_it_asks_for() {
    let (authority, tls) = localhost();
    let cluster = Cluster::builder().start().await.unwrap();
    let never = start(&cluster, ClientEncryption::Never).await;
    let offered = start(&cluster, ClientEncryption::Offered(tls.clone())).await;
    let required = start(&cluster, ClientEncryption::Required(tls)).await;
    let root = format!("sslrootcert={}", authority.root().display());

    for (front, rest) in [
        (&never, "host=localhost sslmode=prefer"),
        (&offered, "host=localhost sslmode=disable"),
        (&offered, "host=localhost sslmode=require gssencmode=disable"),
        (&offered, &format!("host=localhost sslmode=verify-full {root}")),
        (&required, &format!("host=localhost sslmode=verify-full {root} ssl_min_protocol_version=TLSv1.3")),
        (&required, &format!("host=127.0.0.1 sslmode=verify-ca {root} ssl_max_protocol_version=TLSv1.2")),
    ] {
        let output = psql(front.port, rest).await;
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), SUPERUSER, "{rest}: {output:?}");
    }
    for (front, rest, words) in [
        (&never, "host=localhost sslmode=require", "server does not support SSL"),
        (&offered, &*format!("host=127.0.0.1 sslmode=verify-full {root}"), "does not match host name"),
        (&required, "host=localhost sslmode=disable", "FATAL:  this server requires TLS"),
    ] {
        let output = psql(front.port, rest).await;
        assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{rest}: {output:?}");
    }
}

const STARTUP: &[u8] = b"\0\0\0\x17\0\x03\0\0user\0postgres\0\0";

#[tokio::test]
async fn case_05_direct_tls_must_name_the_protocol() {
    let (authority, _cluster, front) = offering().await;
    let server_tls = ServerTls::new(TlsMode::VerifyFull, Some(&authority.root())).unwrap();
    // The server's side of the handshake may end before it looks at ALPN, so the refusal may show
    // at the first read only.
    let answer = async |protocols: &[&[u8]]| {
        let mut config = server_tls.config().as_deref().unwrap().clone();
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        let tcp = TcpStream::connect(("localhost", front.port)).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        let mut tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.ok()?;
        tls.write_all(STARTUP).await.ok()?;
        receive(&mut tls, &mut BytesMut::new()).await
    };
    let (tag, body) = answer(&[b"postgresql"]).await.expect("an answer inside TLS");
    assert_eq!((tag, &body[4..17]), (b'R', &b"SCRAM-SHA-256"[..]));
    assert_eq!(answer(&[]).await, None);
    assert_eq!(answer(&[b"http/1.1"]).await, None);
}

#[tokio::test]
async fn case_03_nothing_said_before_the_handshake_counts_behind_it() {
    let (_authority, _cluster, front) = offering().await;
    let mut stream = TcpStream::connect(("127.0.0.1", front.port)).await.unwrap();
    stream.write_all(&[b"\0\0\0\x08\x04\xd2\x16\x2f", STARTUP].concat()).await.unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard[0], b'E', "refused, without an S");
    assert!(String::from_utf8_lossy(&heard).contains("received unencrypted data after SSL request"));
}

#[tokio::test]
async fn case_04_encryption_is_not_asked_for_inside_of_it() {
    let (authority, _cluster, front) = offering().await;
    let server_tls = ServerTls::new(TlsMode::VerifyFull, Some(&authority.root())).unwrap();
    for request in [b"\0\0\0\x08\x04\xd2\x16\x2f", b"\0\0\0\x08\x04\xd2\x16\x30"] {
        let mut tcp = TcpStream::connect(("localhost", front.port)).await.unwrap();
        tcp.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f").await.unwrap();
        assert_eq!(tcp.read_u8().await.unwrap(), b'S');
        let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        let config = server_tls.config().as_deref().unwrap().clone();
        let mut tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        tls.write_all(request).await.unwrap();
        let mut heard = Vec::new();
        let _ = tls.read_to_end(&mut heard).await;
        assert!(String::from_utf8_lossy(&heard).contains("unsupported frontend protocol"), "{heard:?}");
    }
}

#[test]
fn files_that_are_no_certificate_or_key_are_named() {
    let authority = Authority::new();
    let (one, other) = (authority.sign("one"), authority.sign("other"));
    let absent = Path::new("/nonexistent.pem");
    let text = |certificate: &Path, key: &Path| {
        ClientTls::from_files(certificate, key, &ClientAuthority::None).unwrap_err()
    };
    assert!(matches!(text(absent, &one.key_file), ClientTlsError::Certificate { .. }));
    assert!(matches!(text(&one.key_file, &one.key_file), ClientTlsError::Certificate { .. }));
    assert!(matches!(text(&one.certificate_file, absent), ClientTlsError::Key { .. }));
    assert!(matches!(text(&one.certificate_file, &one.certificate_file), ClientTlsError::Key { .. }));
    assert!(matches!(text(&one.certificate_file, &other.key_file), ClientTlsError::Pair { .. }));
}
