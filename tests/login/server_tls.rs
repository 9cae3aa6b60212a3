//! Towards a server, in TLS.

use crate::SOON;
use crate::certificates::Authority;
use crate::raw::{answer, send};
use crate::server::{login, query};
use cloud_mirror::backend::tls::{ServerTls, TlsMode};
use cloud_mirror::backend::{Address, Endpoint, Error, Link, cancel, connect};
use cloud_mirror::lab::{Cluster, eventually, that};
use std::path::Path;

/// Spelling of 127.0.0.1 that is not recognised as loopback, for `prefer`.
const ELSEWHERE: &str = "0x7f000001";

async fn enter(host: &str, port: u16, mode: TlsMode, root: Option<&Path>) -> Result<Link, Error> {
    let address = Address::Tcp { host: host.to_owned(), port };
    let endpoint = Endpoint { address, tls: ServerTls::new(mode, root).unwrap() };
    connect(&endpoint, &login("postgres", Some("lab")), &[("database", "postgres")], SOON).await
}

#[tokio::test]
async fn modes_encrypt_and_verify_as_libpqs_do() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let identity = ours.sign("localhost");
    let tls = Cluster::builder().tls(identity.certificate, identity.key).start().await.unwrap();
    let plain = Cluster::builder().start().await.unwrap();
    let (root, wrong) = (ours.root(), theirs.root());

    let lets_in = async |host, cluster: &Cluster, mode, root: Option<&Path>, encrypted| {
        let mut link = enter(host, cluster.port(), mode, root)
            .await
            .unwrap_or_else(|e| panic!("{mode:?} to {host}: {e}"));
        let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        assert_eq!(query(&mut link, sql).await, if encrypted { "t" } else { "f" }, "{mode:?} to {host}");
        assert_eq!(link.stream.is_encrypted(), encrypted);
    };
    lets_in("localhost", &tls, TlsMode::Disable, None, false).await;
    lets_in("localhost", &tls, TlsMode::Prefer, None, false).await;
    lets_in(ELSEWHERE, &tls, TlsMode::Prefer, None, true).await;
    lets_in(ELSEWHERE, &plain, TlsMode::Prefer, None, false).await;
    lets_in("127.0.0.1", &tls, TlsMode::Require, None, true).await;
    lets_in("127.0.0.1", &tls, TlsMode::VerifyCa, Some(&root), true).await;
    lets_in("localhost", &tls, TlsMode::VerifyFull, Some(&root), true).await;

    let refuses = async |host, cluster: &Cluster, mode, root: Option<&Path>| {
        enter(host, cluster.port(), mode, root).await.err().unwrap_or_else(|| panic!("{mode:?} to {host}"))
    };
    for (mode, root) in
        [(TlsMode::Require, None), (TlsMode::VerifyCa, Some(&*root)), (TlsMode::VerifyFull, Some(&*root))]
    {
        let error = refuses("localhost", &plain, mode, root).await;
        assert!(matches!(error, Error::TlsRefused { .. }), "{error}");
    }
    for (host, mode, root) in [
        ("localhost", TlsMode::VerifyCa, &wrong),
        ("localhost", TlsMode::VerifyFull, &wrong),
        ("127.0.0.1", TlsMode::VerifyFull, &root),
        ("localhost", TlsMode::VerifyFull, &wrong),
    ] {
        let error = refuses(host, &tls, mode, Some(root)).await;
        assert!(matches!(error, Error::Tls { .. }), "{error}");
    }
    let error = refuses("localhost", &tls, TlsMode::VerifyFull, None).await;
    assert!(matches!(error, Error::Tls { .. }), "the machine's authorities did not sign it: {error}");
}

#[tokio::test]
async fn a_cancel_is_encrypted_where_the_link_is() {
    let authority = Authority::new();
    let identity = authority.sign("localhost");
    let cluster = Cluster::builder().tls(identity.certificate, identity.key).start().await.unwrap();
    let mut link =
        enter("localhost", cluster.port(), TlsMode::VerifyFull, Some(&authority.root())).await.unwrap();
    send(&mut link.stream, b'Q', b"SELECT pg_sleep(600)\0").await;
    let sleeping =
        format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {} AND wait_event = 'PgSleep'", link.pid);
    eventually(SOON, async || that(cluster.value("postgres", &sleeping).await?, |n| n == "1")).await;
    cancel(&link.endpoint, link.pid, &link.secret, SOON).await.unwrap();
    assert_eq!(answer(&mut link.stream, &mut link.leftover).await.unwrap_err().code(), "57014");

    let stranger = Authority::new();
    let endpoint = Endpoint {
        address: link.endpoint.address.clone(),
        tls: ServerTls::new(TlsMode::VerifyFull, Some(&stranger.root())).unwrap(),
    };
    let error = cancel(&endpoint, link.pid, &link.secret, SOON).await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "the key is not shown to just anybody: {error}");
}
