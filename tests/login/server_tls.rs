//! Towards a server, in TLS.

use crate::SOON;
use crate::certificates::Authority;
use crate::front::Front;
use crate::raw::{answer, send};
use crate::server::{login, query};
use cloud_mirror::auth::{ClientAuthority, ClientEncryption, ClientTls, Settings};
use cloud_mirror::backend::tls::{ServerTls, TlsError, TlsMode, TlsWishes};
use cloud_mirror::backend::{Address, Endpoint, Error, Link, cancel, connect};
use cloud_mirror::base::Site;
use cloud_mirror::config::{ChannelBinding, SslNegotiation};
use cloud_mirror::lab::{Cluster, eventually, that};
use std::path::Path;
use std::sync::Arc;

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
async fn case_10_a_cancel_is_encrypted_where_the_link_is() {
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

fn wishing(mode: TlsMode, negotiation: SslNegotiation, binding: ChannelBinding) -> Arc<ServerTls> {
    ServerTls::with(TlsWishes { mode, root_cert: None, certificate: None, negotiation, binding }).unwrap()
}

async fn attempt(port: u16, user: &str, tls: Arc<ServerTls>) -> Result<Link, Error> {
    let endpoint = Endpoint { address: Address::Tcp { host: "localhost".to_owned(), port }, tls };
    connect(&endpoint, &login(user, Some("lab")), &[("database", "postgres")], SOON).await
}

#[tokio::test]
async fn case_57_log_ins_are_bound_to_the_servers_certificate_and_may_begin_with_tls_at_once() {
    let authority = Authority::new();
    let identity = authority.sign("localhost");
    let cluster = Cluster::builder()
        .tls(identity.certificate.clone(), identity.key.clone())
        .hba("hostssl all trusting 127.0.0.1/32 trust")
        .start()
        .await
        .unwrap();
    cluster.sql("postgres", "CREATE ROLE trusting LOGIN").await.unwrap();
    let (postgres, direct) = (SslNegotiation::Postgres, SslNegotiation::Direct);
    let (prefer, require) = (ChannelBinding::Prefer, ChannelBinding::Require);
    let bound = |negotiation| wishing(TlsMode::Require, negotiation, require);

    let link = attempt(cluster.port(), "postgres", bound(postgres)).await.unwrap();
    assert!(link.stream.is_encrypted());
    for binding in [prefer, ChannelBinding::Disable] {
        attempt(cluster.port(), "postgres", wishing(TlsMode::Require, postgres, binding)).await.unwrap();
    }
    let error = attempt(cluster.port(), "trusting", bound(postgres)).await.unwrap_err();
    assert!(error.to_string().contains("does not bind its log-in to its certificate"), "{error}");
    // A server of before 17 takes it for a start-up packet.
    let error = attempt(cluster.port(), "postgres", wishing(TlsMode::Require, direct, prefer)).await;
    assert!(matches!(error, Err(Error::Tls { .. })), "{error:?}");

    // We are such a server as comes after it; what passes through us is bound twice.
    let tls = ClientTls::from_files(&identity.certificate_file, &identity.key_file, &ClientAuthority::None);
    let mut party = cluster.party(Site::Local, "postgres");
    party.endpoint.tls = bound(postgres);
    let encryption = ClientEncryption::Required(Arc::new(tls.unwrap()));
    let front = Front::start(Settings::default(), encryption, party).await;
    for negotiation in [postgres, direct] {
        let mut link = attempt(front.port, "postgres", bound(negotiation)).await.unwrap();
        assert_eq!(query(&mut link, "SELECT current_user").await, "postgres");
    }
    // Without TLS there is nothing to bind to.
    let clear = wishing(TlsMode::Disable, postgres, require);
    let error = attempt(cluster.port(), "postgres", clear).await.unwrap_err();
    assert!(error.to_string().contains("channel_binding=require"), "{error}");
}

#[tokio::test]
async fn a_certificate_of_ours_is_shown_to_a_server_that_wants_one() {
    let authority = Authority::new();
    let (server, client) = (authority.sign("localhost"), authority.sign("postgres"));
    let cluster = Cluster::builder()
        .tls(server.certificate, server.key)
        .setting("ssl_ca_file", authority.root().display())
        .hba("hostssl all postgres 127.0.0.1/32 cert")
        .start()
        .await
        .unwrap();
    let wishes = |certificate| TlsWishes {
        mode: TlsMode::VerifyFull,
        root_cert: Some(authority.root()),
        certificate,
        negotiation: SslNegotiation::Postgres,
        binding: ChannelBinding::Prefer,
    };
    let shown = ServerTls::with(wishes(Some((client.certificate_file, client.key_file.clone())))).unwrap();
    attempt(cluster.port(), "postgres", shown).await.unwrap();
    let error = attempt(cluster.port(), "postgres", ServerTls::with(wishes(None)).unwrap()).await;
    assert_eq!(error.unwrap_err().report().unwrap().code(), "28000");
    let wrong = ServerTls::with(wishes(Some((client.key_file.clone(), client.key_file))));
    assert!(matches!(wrong, Err(TlsError::Certificate { .. })), "{wrong:?}");
}
