//! Servers that misbehave: each is a script of what it says after each thing it hears.

use super::tls::{ServerTls, TlsMode};
use super::*;
use crate::base::{Retry, RoleName, Secret};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const TIMEOUT: Duration = Duration::from_secs(10);

fn login(proof: Proof) -> Login {
    Login { user: RoleName::new("joe").unwrap(), proof }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &((body.len() + 4) as u32).to_be_bytes(), body].concat()
}

fn authentication(code: i32, data: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes()[..], data].concat())
}

/// A server that hears once, says `answers[0]`, hears again, and so on, then closes. Returns what
/// it heard.
async fn script(
    tls: Arc<ServerTls>,
    proof: Proof,
    answers: Vec<Vec<u8>>,
) -> (Result<Link, Error>, Vec<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        for answer in answers {
            let mut buf = vec![0; 4096];
            let n = socket.read(&mut buf).await.unwrap();
            buf.truncate(n);
            heard.push(buf);
            socket.write_all(&answer).await.unwrap();
        }
        heard
    });
    let endpoint = Endpoint { address, tls };
    let link = connect(&endpoint, &login(proof), &[("database", "shop")], TIMEOUT).await;
    (link, server.await.unwrap())
}

async fn plain(proof: Proof, answers: Vec<Vec<u8>>) -> (Result<Link, Error>, Vec<Vec<u8>>) {
    script(ServerTls::disabled(), proof, answers).await
}

#[tokio::test]
async fn all_that_the_log_in_tells_is_kept() {
    let said = [
        message(b'v', &[0, 3, 0, 0, 0, 0, 0, 0]),
        authentication(0, b""),
        message(b'S', b"TimeZone\0UTC\0"),
        message(b'S', b"is_superuser\0off\0"),
        message(b'N', b"SWARNING\0C01000\0Mmind the collation\0\0"),
        message(b'S', b"TimeZone\0Europe/Rome\0"),
        message(b'K', &[0, 0, 0, 7, 9, 8, 7, 6, 5]),
        message(b'Z', b"I"),
        message(b'N', b"SNOTICE\0\0"),
    ];
    let (link, heard) = plain(Proof::None, vec![said.concat()]).await;
    let link = link.unwrap();
    assert_eq!(heard[0], b"\0\0\0\x20\0\x03\0\0user\0joe\0database\0shop\0\0");
    let parameters: Vec<_> = link.parameters.iter().map(|(n, _)| n.as_slice()).collect();
    assert_eq!(parameters, [b"TimeZone".as_slice(), b"is_superuser"]);
    assert_eq!(link.parameter("TimeZone"), Some(&b"Europe/Rome"[..]));
    assert_eq!((link.pid, link.secret.as_slice()), (7, &[9, 8, 7, 6, 5][..]));
    assert_eq!(link.notices[0].message(), "mind the collation");
    assert_eq!(link.leftover, message(b'N', b"SNOTICE\0\0"));
}

#[tokio::test]
async fn the_words_of_the_server_are_kept_whole() {
    let body = b"SFATAL\0VFATAL\0C3D000\0Mdatabase \"shop\" does not exist\0RInitPostgres\0\0";
    let (link, _) = plain(Proof::None, vec![message(b'E', body)]).await;
    let error = link.unwrap_err();
    assert_eq!(error.report().unwrap().body().as_ref(), body);
    assert_eq!(error.retry(), Retry::Never);
    let (link, _) = plain(Proof::None, vec![message(b'E', b"SFATAL\0C57P03\0Mstarting\0\0")]).await;
    assert_eq!(link.unwrap_err().retry(), Retry::Safe);
}

#[tokio::test]
async fn bytes_glued_to_the_answer_to_ssl_request_end_the_log_in() {
    let tls = || ServerTls::new(TlsMode::Require, None).unwrap();
    let check = |answer: &[u8], expected: &'static str| {
        let answer = answer.to_vec();
        async move {
            let (link, _) = script(tls(), Proof::None, vec![answer]).await;
            let error = link.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    };
    check(b"SR\0\0\0\x08\0\0\0\0", "unencrypted data").await;
    check(b"NR\0\0\0\x08\0\0\0\0", "unencrypted data").await;
    check(b"N", "does not support TLS").await;
    check(b"ESFATAL", "with an error").await;
    check(b"H", "not a PostgreSQL server").await;
    check(b"", "connection was lost").await;
}

#[tokio::test]
async fn a_server_that_skips_its_own_proof_is_refused() {
    let password = || Proof::Password(Secret::new("pencil"));
    let sasl = authentication(10, b"SCRAM-SHA-256\0\0");
    let ok = [authentication(0, b""), message(b'Z', b"I")].concat();
    let (link, heard) = plain(password(), vec![sasl.clone(), ok]).await;
    assert!(matches!(link, Err(Error::Scram { .. })), "{link:?}");
    assert!(heard[1].starts_with(b"p"));
    let (link, _) = plain(password(), vec![sasl, authentication(12, b"v=AAAA")]).await;
    assert!(matches!(link, Err(Error::Protocol { .. })), "{link:?}");
}

#[tokio::test]
async fn keys_are_never_sent_where_a_password_is_asked_for() {
    let keys = || Proof::ScramKeys { client_key: [1; 32], server_key: [2; 32] };
    for asked in
        [authentication(3, b""), authentication(5, b"salt"), authentication(10, b"SCRAM-SHA-512\0\0")]
    {
        let (link, heard) = plain(keys(), vec![asked]).await;
        assert!(matches!(link, Err(Error::NoProof { .. })), "{link:?}");
        assert_eq!(heard.len(), 1);
    }
}

#[tokio::test]
async fn garbage_is_refused_without_being_believed() {
    let cases = [
        b"E\xff\xff\xff\xff".to_vec(),
        b"R\0\0\0\x03".to_vec(),
        b"R\0\0\0\x04".to_vec(),
        b"Z\0\0\0\x05I".to_vec(),
        message(b'T', b"\0\0"),
        [authentication(0, b""), message(b'S', b"no end")].concat(),
        [authentication(0, b""), message(b'K', b"\0\0\0")].concat(),
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
    ];
    for case in cases {
        let (link, _) = plain(Proof::None, vec![case.clone()]).await;
        assert!(matches!(link, Err(Error::Protocol { .. })), "{case:?}: {link:?}");
    }
}

#[tokio::test]
async fn a_silent_server_costs_the_timeout_and_a_closed_port_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = Address::Tcp { host: "127.0.0.1".to_owned(), port };
    let endpoint = Endpoint { address, tls: ServerTls::disabled() };
    let short = Duration::from_millis(50);
    let parameters: [(&str, &str); 0] = [];
    let silent = connect(&endpoint, &login(Proof::None), &parameters, short).await;
    assert!(matches!(silent, Err(Error::Timeout { .. })), "{silent:?}");
    drop(listener);
    let refused = connect(&endpoint, &login(Proof::None), &parameters, TIMEOUT).await.unwrap_err();
    assert!(refused.is_refused() && refused.retry() == Retry::Safe, "{refused:?}");
    let bad = connect(&endpoint, &login(Proof::None), &[("a", "b\0c")], TIMEOUT).await;
    assert!(matches!(bad, Err(Error::BadParameter)));
}
