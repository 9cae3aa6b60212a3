//! Clients with a wrong password, and bytes of strangers.

use crate::stage::{PATIENCE, local, proxy, writes};
use cloud_mirror::lab::{PASSWORD, eventually, that};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

async fn refusal(url: &str) -> tokio_postgres::error::DbError {
    let error = tokio_postgres::connect(url, tokio_postgres::NoTls).await.err().expect("it is refused");
    error.as_db_error().unwrap_or_else(|| panic!("{error:?}")).clone()
}

/// Sends bytes from an address, hangs up, and returns what comes back until the end.
async fn answer_to(from: &str, port: u16, bytes: &[u8]) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    let mut stream = socket.connect(format!("127.0.0.1:{port}").parse().unwrap()).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut said = vec![];
    let reading = stream.read_to_end(&mut said);
    let _ = tokio::time::timeout(Duration::from_secs(60), reading).await.expect("it is closed");
    String::from_utf8_lossy(&said).into_owned()
}

/// Sends bytes, hangs up unless an answer is due, and returns what comes back until the end.
async fn answer(port: u16, bytes: &[u8], words: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    // The other side may hang up before it has read everything.
    let _ = stream.write_all(bytes).await;
    if words.is_empty() {
        let _ = stream.shutdown().await;
    }
    let mut said = vec![];
    let reading = stream.read_to_end(&mut said);
    let _ = tokio::time::timeout(Duration::from_secs(60), reading).await.expect("it is closed");
    String::from_utf8_lossy(&said).into_owned()
}

fn start_up(body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32 + 8).to_be_bytes().to_vec();
    bytes.extend([0, 3, 0, 0]);
    bytes.extend(body);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_passwords_and_garbage_are_answered_and_harm_nobody() {
    let local = local("replica").await;
    local
        .sql(
            "postgres",
            "set password_encryption = md5; create role \"Old\" login password 'old';
             set password_encryption = 'scram-sha-256'; create role late login password 'late' valid until '2020-01-01';
             create role blank login",
        )
        .await
        .unwrap();
    let proxy = proxy(&local, None, &[]).variable("CLOUD_MIRROR__LISTEN__PROXY_PROTOCOL", "127.0.0.2/32");
    proxy.start().await.unwrap();
    writes(&proxy).await;

    for (user, password) in [("app", "wrong"), ("app", ""), ("blank", "x"), ("nobody", "x"), ("late", "late")]
    {
        let error = refusal(&proxy.url(user, password, "shop").replace(":@", ":%20@")).await;
        assert_eq!(error.code().code(), "28P01", "{user}: {error:?}");
        assert_eq!(error.message(), format!("password authentication failed for user \"{user}\""));
    }
    let error = refusal(&proxy.url("Old", "old", "shop")).await;
    assert!(error.message().contains("password of role \"Old\" is stored as md5"), "{error:?}");
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains("ALTER ROLE \"Old\" PASSWORD"), "{error:?}");
    let error = refusal(&proxy.url("postgres", "wrong", "mirror")).await;
    assert_eq!(error.code().code(), "28P01", "{error:?}");
    refused_nothing(&proxy.url("postgres", PASSWORD, "mirror")).await;

    // On the port for clients.
    let endless: Vec<u8> = (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (bytes, words) in [
        (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], ""),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", ""),
        (b"\0\0\0\x04", ""),
        (b"\0\0\0\x08\0\0\0\0", "unsupported frontend protocol 0.0"),
        (b"\0\0\0\x08\0\x02\0\0", "unsupported frontend protocol 2.0"),
        (b"\xff\xff\xff\xff\0\x03\0\0", ""),
        (b"\0", ""),
        (b"", ""),
        (&start_up(b""), ""),
        (&start_up(b"user"), ""),
        (&start_up(b"user\0app\0database\0shop\0"), ""),
        (&start_up(b"user\0\xff\xfe\0database\0shop\0\0"), ""),
        (&start_up(b"database\0shop\0\0"), "no PostgreSQL user name specified"),
        (&[start_up(b"user\0app\0database\0shop\0\0"), b"p\0\0\0\x05x".to_vec()].concat(), "08P01"),
        (&[start_up(b"user\0app\0database\0shop\0\0"), b"Q\0\0\0\x05x".to_vec()].concat(), "08P01"),
        (&[start_up(b"user\0app\0database\0shop\0\0"), b"p\xff\xff\xff\xff".to_vec()].concat(), "28P01"),
        (&[start_up(b"user\0app\0database\0shop\0\0"), endless.clone()].concat(), "08P01"),
        (&endless, ""),
    ] {
        let said = answer(proxy.port(), bytes, words).await;
        let start = &bytes[..bytes.len().min(40)];
        assert!(said.contains(words), "{start:?}: no {words:?} in: {said}");
    }
    // Cancels that nobody has asked for.
    for secret in [&b"\0\0\0\0"[..], &[7; 300], b""] {
        let mut bytes = (12 + secret.len() as u32).to_be_bytes().to_vec();
        bytes.extend([4, 210, 22, 46, 0, 0, 0, 1]);
        bytes.extend(secret);
        assert_eq!(answer(proxy.port(), &bytes, "").await, "");
    }

    // From a load balancer that does not say for whom it connects, or not well.
    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    for bytes in [
        &b""[..],
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        &start_up(b"user\0app\0database\0shop\0\0"),
        &SIGNATURE[..11],
        SIGNATURE,
        &[SIGNATURE, b"\x11\x11\0\x0c", &[1; 12]].concat(),
        &[SIGNATURE, b"\x22\x11\0\x0c", &[1; 12]].concat(),
        &[SIGNATURE, b"\x21\x11\0\x0b", &[1; 11]].concat(),
        &[SIGNATURE, b"\x21\x21\0\x0c", &[1; 12]].concat(),
        &[SIGNATURE, b"\x21\x11\xff\xff", &[1; 12]].concat(),
        &[SIGNATURE, b"\x21\x11\0\x0c", &[1; 5]].concat(),
        &[SIGNATURE, b"\x21\x11\0\x0c", &[1; 12], &endless].concat(),
    ] {
        assert_eq!(answer_to("127.0.0.2", proxy.port(), bytes).await, "", "{bytes:?}");
    }

    // On the port for HTTP.
    for (bytes, words) in [
        (&b"POST /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"[..], "405"),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "404"),
        (b"GET / HTTP/9.9\r\n\r\n", "400"),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", ""),
        (b"GET /status HTTP/1.1\r\nA: ", ""),
        (&endless, ""),
        (&[b"GET /livez HTTP/1.1\r\nA: ".to_vec(), vec![b'a'; 1_000_000]].concat(), ""),
    ] {
        let said = answer(proxy.http_port(), bytes, words).await;
        assert!(said.contains(words), "{:?}: {said}", &bytes[..bytes.len().min(40)]);
    }

    writes(&proxy).await;
    assert!(proxy.get("/readyz").await.is_ok());
    let log = proxy.log();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    assert!(!log.contains("app-secret") && !log.contains(":lab@"), "{log}");
    eventually(PATIENCE, async || that(proxy.status().await?["clients"].clone(), |left| *left == 0)).await;
}

async fn refused_nothing(url: &str) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    assert!(!client.simple_query("SHOW HELP").await.unwrap().is_empty());
}
