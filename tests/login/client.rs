//! Through us, as a client.

use crate::SOON;
use crate::front::{Front, NO_SERVER};
use crate::raw::{receive, send};
use bytes::BytesMut;
use cloud_mirror::auth::{
    Approach, Authenticator, ClientEncryption, Door, Method, Settings, StaticSecret, StaticUser,
};
use cloud_mirror::base::{Privilege, RoleName, Secret, Site};
use cloud_mirror::lab::{Cluster, StopMode};
use cloud_mirror::observe::events::Events;
use cloud_mirror::sys::Peer;
use cloud_mirror::wire::scram::Verifier;
use cloud_mirror::wire::startup::{Opening, Request};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_postgres::error::DbError;
use tokio_postgres::{Client, NoTls};

async fn front(cluster: &Cluster, settings: Settings) -> Front {
    Front::start(settings, ClientEncryption::Never, cluster.party(Site::Local, "postgres")).await
}

async fn enter(port: u16, user: &str, password: &str) -> Result<Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).user(user).password(password).dbname("postgres");
    let (client, connection) = tokio::time::timeout(SOON, config.connect(NoTls)).await.expect("an answer")?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(client)
}

async fn gets_in(port: u16, user: &str, password: &str) {
    let client = enter(port, user, password).await.unwrap_or_else(|e| panic!("{user}: {e:?}"));
    let row = client.query_one("SELECT current_user::text", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), user);
}

async fn refusal(port: u16, user: &str, password: &str) -> DbError {
    let error = enter(port, user, password).await.err().unwrap_or_else(|| panic!("{user} got in"));
    error.as_db_error().unwrap_or_else(|| panic!("{user}: {error:?}")).clone()
}

/// What a client sees of a refusal.
fn seen(error: &DbError) -> (String, String, String, Option<String>, Option<String>) {
    (
        error.severity().to_owned(),
        error.code().code().to_owned(),
        error.message().to_owned(),
        error.detail().map(str::to_owned),
        error.hint().map(str::to_owned),
    )
}

#[tokio::test]
async fn a_role_logs_in_through_us_without_any_list_of_users() {
    let cluster = Cluster::builder().start().await.unwrap();
    let front = front(&cluster, Settings::default()).await;
    cluster.create_role("joe", "sécret ⅸ", "").await.unwrap();
    gets_in(front.port, "joe", "sécret ⅸ").await;
    gets_in(front.port, "postgres", "lab").await;

    // Both passwords in turn: what the server knows now counts, at once.
    cluster.sql("postgres", "ALTER ROLE joe PASSWORD 'other'").await.unwrap();
    gets_in(front.port, "joe", "other").await;
    assert_eq!(refusal(front.port, "joe", "sécret ⅸ").await.code().code(), "28P01");
    front.said("wrong password").await;
}

#[tokio::test]
async fn case_14_refusals_are_those_of_the_server_itself() {
    let cluster = Cluster::builder().start().await.unwrap();
    let front = front(&cluster, Settings::default()).await;
    for statement in [
        "CREATE ROLE joe LOGIN PASSWORD 'pw'",
        "CREATE ROLE bare LOGIN",
        "CREATE ROLE shut NOLOGIN PASSWORD 'pw'",
        "CREATE ROLE expired LOGIN PASSWORD 'pw' VALID UNTIL '2001-01-01'",
        "CREATE ROLE eternal LOGIN PASSWORD 'pw' VALID UNTIL 'infinity'",
        "CREATE ROLE kept_out LOGIN PASSWORD 'pw' CONNECTION LIMIT 0",
    ] {
        cluster.sql("postgres", statement).await.unwrap();
    }
    gets_in(front.port, "eternal", "pw").await;
    for (user, password) in [
        ("joe", "wrong"),
        ("nobody", "pw"),
        ("bare", "pw"),
        ("shut", "pw"),
        ("shut", "wrong"),
        ("expired", "pw"),
        ("kept_out", "pw"),
    ] {
        let direct = refusal(cluster.port(), user, password).await;
        let through = refusal(front.port, user, password).await;
        assert_eq!(seen(&through), seen(&direct), "{user}");
    }
    for words in ["the role does not exist", "the role has no password", "has expired"] {
        front.said(words).await;
    }
}

#[tokio::test]
async fn an_md5_role_is_told_what_to_run_and_that_helps() {
    let cluster = Cluster::builder().start().await.unwrap();
    let front = front(&cluster, Settings::default()).await;
    let old = "SET password_encryption = md5; CREATE ROLE \"Old One\" LOGIN PASSWORD 'pw'";
    cluster.sql("postgres", old).await.unwrap();
    let error = refusal(front.port, "Old One", "pw").await;
    assert_eq!(error.code().code(), "28000");
    assert!(error.message().contains("\"Old One\""), "{error}");
    let hint = error.hint().unwrap();
    let statements = hint.strip_prefix("Run on the server: ").unwrap().replace("'...'", "'pw'");
    cluster.sql("postgres", &statements).await.unwrap();
    gets_in(front.port, "Old One", "pw").await;
}

#[tokio::test]
async fn the_last_seen_verifier_serves_while_the_server_is_away() {
    let cluster = Cluster::builder().start().await.unwrap();
    let settings =
        Settings { lookup_timeout: SOON, hold_timeout: Duration::from_millis(500), ..Settings::default() };
    let front = front(&cluster, settings).await;
    cluster.create_role("joe", "pw", "").await.unwrap();
    gets_in(front.port, "joe", "pw").await;
    cluster.stop(StopMode::Fast).await.unwrap();

    assert_eq!(refusal(front.port, "joe", "pw").await.message(), NO_SERVER, "proved, but nothing to link to");
    assert_eq!(refusal(front.port, "joe", "wrong").await.code().code(), "28P01");
    let unseen = refusal(front.port, "ann", "pw").await;
    assert_eq!(unseen.code().code(), "57P03", "{unseen}");

    cluster.start().await.unwrap();
    gets_in(front.port, "joe", "pw").await;
    let events: Vec<_> = front.events.list().iter().map(|event| event.name).collect();
    assert_eq!(events, ["auth.verifiers_unreadable", "auth.verifiers_readable"]);
}

#[tokio::test]
async fn a_log_in_of_an_unseen_role_is_held_until_a_server_answers() {
    let cluster = Cluster::builder().start().await.unwrap();
    let settings = Settings { lookup_timeout: SOON, ..Settings::default() };
    let front = front(&cluster, settings).await;
    cluster.create_role("joe", "pw", "").await.unwrap();
    cluster.stop(StopMode::Fast).await.unwrap();
    let port = front.port;
    let held = tokio::spawn(async move { gets_in(port, "joe", "pw").await });
    let (events, seen) = (front.events.clone(), |e: &Events| e.list().len());
    cloud_mirror::lab::eventually_true(SOON, "the server was missed", || seen(&events) > 0).await;
    cluster.start().await.unwrap();
    held.await.unwrap();
}

#[tokio::test]
async fn where_pg_authid_may_not_be_read_nobody_waits_for_it() {
    let cluster = Cluster::builder().start().await.unwrap();
    cluster.create_role("weak", "pw", "").await.unwrap();
    let mut party = cluster.party(Site::Cloud, "postgres");
    party.login = crate::server::login("weak", Some("pw"));
    let front = Front::start(Settings::default(), ClientEncryption::Never, party).await;
    let error = refusal(front.port, "weak", "pw").await;
    assert_eq!(error.code().code(), "57P03");
    front.said("permission denied").await;
}

#[tokio::test]
async fn static_users_and_trust_need_no_verifier_of_the_server() {
    let cluster = Cluster::builder().start().await.unwrap();
    cluster.create_role("joe", "upstream", "").await.unwrap();
    cluster.create_role("ann", "pw", "").await.unwrap();
    let name = |name: &str| RoleName::new(name).unwrap();
    let text =
        cluster.value("postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = 'ann'").await.unwrap();
    let verifier: Verifier = text.parse().unwrap();
    let settings = Settings {
        static_users: vec![
            StaticUser { name: name("joe"), secret: StaticSecret::Password(Secret::new("upstream")) },
            StaticUser { name: name("ann"), secret: StaticSecret::Verifier(verifier) },
        ],
        ..Settings::default()
    };
    let scram = front(&cluster, settings.clone()).await;
    gets_in(scram.port, "joe", "upstream").await;
    gets_in(scram.port, "ann", "pw").await;
    assert_eq!(refusal(scram.port, "ann", "wrong").await.code().code(), "28P01");

    let trust = front(&cluster, Settings { method: Method::Trust, ..settings }).await;
    gets_in(trust.port, "joe", "anything").await;
    // Trusted by us, but the server wants to see a password that nobody gave us.
    let own = refusal(cluster.port(), "ann", "wrong").await;
    assert_eq!(seen(&refusal(trust.port, "ann", "pw").await), seen(&own));
}

fn startup(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32 + 4).to_be_bytes()[..], bytes].concat()
}

#[tokio::test]
async fn case_06_a_start_up_packet_may_come_byte_by_byte_and_greased() {
    let cluster = Cluster::builder().start().await.unwrap();
    let front = front(&cluster, Settings::default()).await;
    let mut stream = TcpStream::connect(("127.0.0.1", front.port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in startup(b"\0\x03\x27\x0fuser\0postgres\0_pq_.test_protocol_negotiation\0\0\0") {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut buffer = BytesMut::new();
    let (tag, body) = receive(&mut stream, &mut buffer).await.unwrap();
    assert_eq!((tag, &body[..8]), (b'v', &[0, 3, 0, 2, 0, 0, 0, 1][..]));
    assert_eq!(&body[8..], b"_pq_.test_protocol_negotiation\0");
    let (tag, body) = receive(&mut stream, &mut buffer).await.unwrap();
    assert_eq!((tag, &body[..]), (b'R', &b"\0\0\0\x0aSCRAM-SHA-256\0\0"[..]));
}

#[tokio::test]
async fn case_57_malformed_messages_of_the_exchange_are_answered_as_the_server_answers_them() {
    let cluster = Cluster::builder().start().await.unwrap();
    let front = front(&cluster, Settings::default()).await;
    let cases: [(u8, &[u8]); 9] = [
        (b'Q', b"SELECT 1\0"),
        (b'p', b"SCRAM-SHA-256-PLUS\0\xff\xff\xff\xff"),
        (b'p', b"no end"),
        (b'p', b"SCRAM-SHA-256\0\0\0"),
        (b'p', b"SCRAM-SHA-256\0\0\0\0\x7fn,,"),
        (b'p', b"SCRAM-SHA-256\0\0\0\0\0"),
        (b'p', b"SCRAM-SHA-256\0\0\0\0\x03x,,"),
        (b'p', b"SCRAM-SHA-256\0\0\0\0\x0bn,a=q,n=,r=x"),
        (b'p', &[b'x'; 3000]),
    ];
    for (tag, body) in cases {
        let mut answers = Vec::new();
        for port in [cluster.port(), front.port] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.write_all(&startup(b"\0\x03\0\0user\0postgres\0\0")).await.unwrap();
            let mut buffer = BytesMut::new();
            assert_eq!(receive(&mut stream, &mut buffer).await.unwrap().0, b'R');
            send(&mut stream, tag, body).await;
            let (tag, body) = receive(&mut stream, &mut buffer).await.unwrap();
            assert_eq!(tag, b'E');
            let report = cloud_mirror::wire::report::Report::new(body);
            let texts = [report.severity(), report.code(), report.message(), report.detail()];
            answers.push(texts.map(|text| text.into_owned()));
            assert!(receive(&mut stream, &mut buffer).await.is_none(), "closed behind it");
        }
        assert_eq!(answers[1], answers[0], "{:?}", String::from_utf8_lossy(body));
    }
}

#[tokio::test]
async fn the_console_lets_our_own_uid_in_with_no_server_at_all() {
    let settings = Settings {
        console_uid: Some(1234),
        admin_users: HashSet::from(["boss".to_owned()]),
        // Nobody can be asked for a verifier here, and nobody waits for one.
        hold_timeout: Duration::ZERO,
        static_users: vec![StaticUser {
            name: RoleName::new("boss").unwrap(),
            secret: StaticSecret::Password(Secret::new("pw")),
        }],
        ..Settings::default()
    };
    let authenticator = Authenticator::new(settings.clone(), Arc::new(|| None), Events::default());
    let mut opening = Opening::new();
    let Ok(Some(Request::Start(startup))) =
        opening.push(&startup(b"\0\x03\0\0user\0me\0database\0mirror\0\0"))
    else {
        panic!("a start-up packet")
    };
    let enter = async |authenticator: &Authenticator, peer, door| {
        let (mut ours, theirs) = tokio::io::duplex(4096);
        drop(theirs);
        authenticator
            .authenticate(&mut ours, &mut BytesMut::new(), &startup, &Approach::in_clear(peer), door)
            .await
    };
    let own = Peer::Unix { uid: Some(1234) };
    let admitted = enter(&authenticator, own, Door::Console).await.unwrap();
    assert_eq!((admitted.user.as_str(), admitted.privilege), ("me", Privilege::Admin));
    for (peer, door) in [
        (own, Door::Database),
        (Peer::Unix { uid: Some(1) }, Door::Console),
        (Peer::Unix { uid: None }, Door::Console),
        (Peer::Tcp("127.0.0.1:1".parse().unwrap()), Door::Console),
    ] {
        assert!(enter(&authenticator, peer, door).await.is_err(), "{peer:?} {door:?}");
    }
    let reloaded = authenticator.reconfigured(Settings { console_uid: None, ..settings });
    assert!(enter(&reloaded, own, Door::Console).await.is_err(), "a reload takes effect");
}
