//! Towards a server.

use crate::SOON;
use crate::raw::{answer, ask, send};
use cloud_mirror::backend::tls::ServerTls;
use cloud_mirror::backend::{Address, Endpoint, Error, Link, Login, Proof, cancel, connect};
use cloud_mirror::base::{Retry, RoleName, Secret, Site};
use cloud_mirror::lab::{Cluster, FaultProxy, SocketAuth, eventually, that};
use std::time::{Duration, Instant};

pub fn login(user: &str, password: Option<&str>) -> Login {
    let proof = password.map_or(Proof::None, |word| Proof::Password(Secret::new(word)));
    Login { user: RoleName::new(user).unwrap(), proof }
}

pub fn tcp(port: u16) -> Endpoint {
    let address = Address::Tcp { host: "127.0.0.1".to_owned(), port };
    Endpoint { address, tls: ServerTls::disabled() }
}

async fn enter(cluster: &Cluster, user: &str, password: Option<&str>) -> Result<Link, Error> {
    connect(&tcp(cluster.port()), &login(user, password), &[("database", "postgres")], SOON).await
}

pub async fn query(link: &mut Link, sql: &str) -> String {
    ask(&mut link.stream, &mut link.leftover, sql).await.unwrap()
}

fn told(result: Result<Link, Error>) -> (String, String) {
    let error = result.expect_err("nobody gets in");
    let report = error.report().unwrap_or_else(|| panic!("{error}"));
    (report.code().into_owned(), report.message().into_owned())
}

#[tokio::test]
async fn every_method_a_server_asks_for_is_answered() {
    let cluster = Cluster::builder()
        .hba("host all trusting 127.0.0.1/32 trust")
        .hba("host all clear 127.0.0.1/32 password")
        .hba("host all old 127.0.0.1/32 md5")
        .socket_auth(SocketAuth::Trust)
        .start()
        .await
        .unwrap();
    for role in ["trusting", "clear", "modern"] {
        cluster.create_role(role, "páss word", "").await.unwrap();
    }
    cluster
        .sql("postgres", "SET password_encryption = md5; CREATE ROLE old LOGIN PASSWORD 'páss word'")
        .await
        .unwrap();
    for role in ["trusting", "clear", "old", "modern"] {
        let mut link = enter(&cluster, role, Some("páss word")).await.unwrap();
        assert_eq!(query(&mut link, "SELECT current_user").await, role);
        assert_eq!(query(&mut link, "SELECT pg_backend_pid()").await, link.pid.to_string());
        assert_eq!(link.secret.len(), 4);
        assert_eq!(link.parameter("session_authorization"), Some(role.as_bytes()));
    }
    for role in ["clear", "old", "modern"] {
        let expected = ("28P01".to_owned(), format!("password authentication failed for user \"{role}\""));
        assert_eq!(told(enter(&cluster, role, Some("wrong")).await), expected);
        // Nothing to offer: the refusal is still the server's own.
        let (code, message) = told(enter(&cluster, role, None).await);
        let words = if role == "clear" { "empty password returned by client" } else { expected.1.as_str() };
        assert_eq!((code.as_str(), message.as_str()), ("28P01", words));
    }
    assert_eq!(query(&mut enter(&cluster, "trusting", None).await.unwrap(), "SELECT 1").await, "1");

    let address = Address::Unix { directory: cluster.socket_dir().to_owned(), port: cluster.port() };
    let socket = Endpoint { address, tls: ServerTls::disabled() };
    let mut link = connect(&socket, &login("modern", None), &[("database", "postgres")], SOON).await.unwrap();
    assert_eq!(query(&mut link, "SELECT inet_client_addr() IS NULL").await, "t");
}

#[tokio::test]
async fn start_up_parameters_arrive_and_errors_keep_the_servers_words() {
    let cluster = Cluster::builder().start().await.unwrap();
    cluster.create_role("joe", "pw", "CONNECTION LIMIT 0").await.unwrap();
    cluster.create_role("ann", "pw", "").await.unwrap();
    let with = async |user, parameters: &[(&str, &str)]| {
        connect(&tcp(cluster.port()), &login(user, Some("pw")), parameters, SOON).await
    };
    let parameters = [
        ("database", "postgres"),
        ("application_name", "shop"),
        ("my.tenant", "7"),
        ("search_path", "a, b"),
        ("options", "-c work_mem=77kB -c statement_timeout=5s"),
    ];
    let mut link = with("ann", &parameters).await.unwrap();
    assert_eq!(link.parameter("application_name"), Some(&b"shop"[..]));
    for (name, value) in [("my.tenant", "7"), ("search_path", "a, b"), ("work_mem", "77kB")] {
        assert_eq!(query(&mut link, &format!("SHOW {name}")).await, value);
    }
    let code = |result| told(result).0;
    assert_eq!(code(with("ann", &[("database", "nowhere")]).await), "3D000");
    assert_eq!(code(with("ann", &[("database", "postgres"), ("no_such", "1")]).await), "42704");
    let full = with("joe", &[("database", "postgres")]).await;
    assert_eq!(full.as_ref().unwrap_err().retry(), Retry::Safe);
    assert_eq!(told(full), ("53300".to_owned(), "too many connections for role \"joe\"".to_owned()));

    let mut walsender = connect(
        &tcp(cluster.port()),
        &login("postgres", Some("lab")),
        &[("replication", "database"), ("database", "postgres")],
        SOON,
    )
    .await
    .unwrap();
    assert_eq!(query(&mut walsender, "IDENTIFY_SYSTEM").await.len(), "7400000000000000000".len());
}

#[tokio::test]
async fn a_statement_is_cancelled_by_the_key_of_its_link_alone() {
    let cluster = Cluster::builder().start().await.unwrap();
    let mut link = enter(&cluster, "postgres", Some("lab")).await.unwrap();
    send(&mut link.stream, b'Q', b"SELECT pg_sleep(600)\0").await;
    let sleeping =
        format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {} AND wait_event = 'PgSleep'", link.pid);
    eventually(SOON, async || that(cluster.value("postgres", &sleeping).await?, |n| n == "1")).await;

    let wrong: Vec<u8> = link.secret.iter().map(|b| b ^ 1).collect();
    cancel(&link.endpoint, link.pid, &wrong, SOON).await.unwrap();
    assert_eq!(cluster.value("postgres", &sleeping).await.unwrap(), "1", "a wrong key does nothing");

    cancel(&link.endpoint, link.pid, &link.secret, SOON).await.unwrap();
    let error = answer(&mut link.stream, &mut link.leftover).await.unwrap_err();
    assert_eq!(error.code(), "57014");
    assert_eq!(query(&mut link, "SELECT 1").await, "1", "the session goes on");
}

#[tokio::test]
async fn an_unreachable_server_costs_the_timeout_and_no_more() {
    let cluster = Cluster::builder().start().await.unwrap();
    let proxy = FaultProxy::before(cluster.port()).await.unwrap();
    let short = Duration::from_millis(300);
    let party = cluster.party(Site::Local, "postgres");
    let through =
        async |timeout| connect(&tcp(proxy.port()), &party.login, &[("database", "postgres")], timeout).await;
    through(SOON).await.expect("the proxy passes");
    proxy.blackhole().await;
    let start = Instant::now();
    let error = through(short).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }) && error.retry() == Retry::Safe, "{error}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    let error = cancel(&tcp(proxy.port()), 1, &[0; 4], short).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
}
