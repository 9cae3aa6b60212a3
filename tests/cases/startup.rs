//! Opening a connection. Passwords, TLS and certificates are in `tests/login`.

use crate::raw::message::*;
use crate::raw::stage::{self, ALL, Mode, app, same};
use crate::raw::{Cut, Place, Step, converse};
use cloud_mirror::backend::tls::{ServerTls, TlsMode};
use cloud_mirror::backend::{self, Address, Endpoint, Login, Proof};
use cloud_mirror::base::RoleName;
use cloud_mirror::lab::eventually;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
const GSSENC_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x30";
const SOON: Duration = Duration::from_secs(60);

async fn connect(place: &Place) -> TcpStream {
    let Place::Tcp(port) = place else { unreachable!() };
    let stream = TcpStream::connect(("127.0.0.1", *port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Everything that is said until the other side closes.
async fn answer(place: &Place, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(place).await;
    let _ = stream.write_all(bytes).await;
    let mut said = Vec::new();
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut said))
        .await
        .unwrap_or_else(|_| panic!("not closed behind {}", bytes[..bytes.len().min(40)].escape_ascii()));
    said
}

/// One value of one row.
async fn value(place: &Place, startup: &[u8], text: &str) -> String {
    let steps = [Step::Send(query(text)), Step::Await(b"Z")];
    let heard = converse(place, startup, &steps, Cut::Whole).await.unwrap();
    let row = heard.frames.iter().find(|frame| frame.tag == b'D').unwrap_or_else(|| panic!("{heard:?}"));
    String::from_utf8_lossy(&row.body[6..]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn case_01_a_start_up_packet_in_single_bytes() {
    let mut stream = connect(&stage::through(Mode::Session).await).await;
    for byte in app() {
        stream.write_all(&[byte]).await.unwrap();
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    stream.write_all(&terminate()).await.unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    assert_eq!(said[0], b'R');
    assert!(said.ends_with(b"Z\0\0\0\x05I"));
}

#[tokio::test(flavor = "multi_thread")]
async fn case_02_encryption_is_asked_for_in_either_order_and_once_each() {
    // PostgreSQL itself may know GSSAPI; we never do.
    for place in [stage::through(Mode::Session).await] {
        for requests in [[SSL_REQUEST, GSSENC_REQUEST], [GSSENC_REQUEST, SSL_REQUEST]] {
            let mut stream = connect(&place).await;
            for request in requests {
                stream.write_all(request).await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), b'N');
            }
            stream.write_all(&[app(), terminate()].concat()).await.unwrap();
            let mut said = Vec::new();
            stream.read_to_end(&mut said).await.unwrap();
            assert!(said.ends_with(b"Z\0\0\0\x05I"), "{}", said.escape_ascii());
        }
        let mut stream = connect(&place).await;
        stream.write_all(SSL_REQUEST).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'N');
        stream.write_all(SSL_REQUEST).await.unwrap();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        let words = String::from_utf8_lossy(&said).into_owned();
        assert!(words.contains("unsupported frontend protocol 1234.5679"), "{words}");
    }
}

/// A server that says more than `S` before the handshake (the class of CVE-2021-23222).
#[tokio::test(flavor = "multi_thread")]
async fn case_03_bytes_behind_the_servers_s_are_not_taken_for_its_words() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 8];
        stream.read_exact(&mut request).await.unwrap();
        assert_eq!(request, SSL_REQUEST);
        stream.write_all(b"SR\0\0\0\x08\0\0\0\0").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let endpoint = Endpoint {
        address: Address::Tcp { host: "127.0.0.1".into(), port },
        tls: ServerTls::new(TlsMode::Require, None).unwrap(),
    };
    let login = Login { user: RoleName::new("app").unwrap(), proof: Proof::None };
    let parameters: &[(&[u8], &[u8])] = &[(b"database", b"shop")];
    let error = backend::connect(&endpoint, &login, parameters, SOON).await.expect_err("it is refused");
    assert!(matches!(error, backend::Error::Tls { .. } | backend::Error::Protocol { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn case_07_an_old_version_is_refused_in_words() {
    let through = stage::through(Mode::Session).await;
    for (version, name) in [(2 << 16, "2.0"), (0, "0.0"), (4 << 16, "4.0")] {
        let said = answer(&through, &startup_of(version, &[("user", "app")])).await;
        let words = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(said[0], b'E');
        assert!(words.contains("0A000"), "{words}");
        let expected = format!("unsupported frontend protocol {name}: server supports 3.0 to 3.2");
        assert!(words.contains(&expected), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_08_a_start_up_packet_is_bounded_and_ends_in_a_zero() {
    let through = stage::through(Mode::Session).await;
    let with_length = |length: usize| {
        let rest = length - app().len() - "application_name".len() - 2;
        startup(&[("user", "app"), ("database", "shop"), ("application_name", &"n".repeat(rest))])
    };
    let longest = with_length(10_004);
    assert_eq!(longest.len(), 10_004);
    for place in [stage::direct().await, through.clone()] {
        let said = answer(&place, &[longest.clone(), terminate()].concat()).await;
        assert!(said.ends_with(b"Z\0\0\0\x05I"), "{}", said.escape_ascii());
        for bad in [&with_length(10_005)[..], b"\0\0\0\x07\0\x03\0", b"\xff\xff\xff\xff\0\x03\0\0"] {
            assert_eq!(answer(&place, bad).await, b"", "{}", bad[..8].escape_ascii());
        }
        let mut cut = app();
        let end = cut.len() - 2;
        cut[end..].copy_from_slice(b"xx");
        let said = answer(&place, &cut).await;
        let words = String::from_utf8_lossy(&said).into_owned();
        assert!(words.contains("invalid startup packet layout: expected terminator as last byte"), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_09_cancel_keys_are_ours_and_a_wrong_one_does_nothing() {
    let through = stage::through(Mode::Session).await;
    for (version, length) in [(3 << 16, 4), (3 << 16 | 2, 32)] {
        let mut stream = connect(&through).await;
        stream.write_all(&startup_of(version, &[("user", "app"), ("database", "shop")])).await.unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"Z\0\0\0\x05I") {
            assert!(stream.read_buf(&mut said).await.unwrap() > 0);
        }
        let at = said.windows(4).position(|four| four == [b'K', 0, 0, 0]).unwrap();
        let key = &said[at + 5..at + 1 + usize::from(said[at + 4])];
        let (pid, secret) = key.split_first_chunk::<4>().unwrap();
        assert_eq!(secret.len(), length);
        stream
            .write_all(&query("do $$ begin raise notice 'x'; perform pg_sleep(0.5); end $$"))
            .await
            .unwrap();
        let mut wrong = secret.to_vec();
        wrong[0] ^= 1;
        for secret in [&wrong[..], &secret[..length - 1], b"12345678901234567890123456789012345"] {
            let packet = cancel(i32::from_be_bytes(*pid), secret);
            assert_eq!(answer(&through, &packet).await, b"", "closed without a word");
        }
        let mut said = Vec::new();
        while !said.ends_with(b"Z\0\0\0\x05I") {
            assert!(stream.read_buf(&mut said).await.unwrap() > 0);
        }
        assert!(!said.windows(5).any(|five| five == b"57014"), "it was not cancelled");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_11_a_database_that_is_not_named_is_the_users() {
    stage::make_database(stage::server().await, "app").await;
    for place in [stage::direct().await, stage::through(Mode::Session).await] {
        for parameters in [&[("user", "app")][..], &[("user", "app"), ("database", "")]] {
            assert_eq!(value(&place, &startup(parameters), "select current_database()").await, "app");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_12_options_and_other_parameters_reach_the_server() {
    let options = r"-c my.x=a\ b\\c --work_mem=5MB -cdatestyle=German";
    let with = [("user", "app"), ("database", "shop"), ("options", options), ("extra_float_digits", "-3")];
    let shown = "select concat_ws('|', current_setting('my.x'), current_setting('work_mem'),
        current_setting('datestyle'), current_setting('extra_float_digits'))";
    let reset = "reset all; select current_setting('work_mem')";
    for place in [stage::direct().await, stage::through(Mode::Session).await] {
        assert_eq!(value(&place, &startup(&with), shown).await, r"a b\c|5MB|German, DMY|-3");
        assert_eq!(value(&place, &startup(&with), reset).await, "5MB");
    }
    let bad = startup(&[("user", "app"), ("database", "shop"), ("no_such_setting", "1")]);
    let direct = answer(&stage::direct().await, &bad).await;
    let through = answer(&stage::through(Mode::Session).await, &bad).await;
    // The server says AuthenticationOk before it looks at them.
    let error =
        |said: &[u8]| said[said.iter().position(|byte| *byte == b'E').unwrap()..].escape_ascii().to_string();
    assert_eq!(error(&direct), error(&through));
}

#[tokio::test(flavor = "multi_thread")]
async fn case_13_a_replication_connection_has_its_own_link() {
    let (server, through) = (stage::server().await, stage::through(Mode::Session).await);
    for value in ["database", "true", "on", "1"] {
        let mut parameters = vec![("user", "app"), ("replication", value), ("application_name", "walsender")];
        if value == "database" {
            parameters.push(("database", "shop"));
        }
        let steps = [Step::Send(query("IDENTIFY_SYSTEM")), Step::Await(b"Z")];
        let heard = converse(&through, &startup(&parameters), &steps, Cut::Whole).await.unwrap();
        assert_eq!(heard.tags(), "TDCZ", "{value}: {:?}", heard.frames);
        eventually(SOON, async || {
            let count = "select count(*) from pg_stat_activity where application_name = 'walsender'";
            match server.value("postgres", count).await?.as_str() {
                "0" => Ok(()),
                other => Err(format!("{other} walsenders are kept").into()),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_15_a_server_that_is_full_says_so_before_the_welcome() {
    let server = stage::server().await;
    server.sql("postgres", "create role few login connection limit 1").await.unwrap();
    let proxy = stage::new_proxy(
        server,
        &[
            ("auth.type", "trust"),
            ("pool.mode", "session"),
            ("pool.size", "1"),
            ("pool.query_wait_timeout", "300ms"),
        ],
    );
    proxy.start().await.unwrap();
    let place = Place::Tcp(proxy.port());
    let mut first = connect(&place).await;
    first.write_all(&app()).await.unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"Z\0\0\0\x05I") {
        assert!(first.read_buf(&mut said).await.unwrap() > 0);
    }
    let said = answer(&place, &app()).await;
    let words = String::from_utf8_lossy(&said).into_owned();
    assert!(said[0] == b'E' && words.contains("FATAL") && words.contains("53300"), "{words}");
    assert!(!said.windows(5).any(|five| five == b"Z\0\0\0\x05"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn case_16_the_welcome_tells_every_setting_that_the_server_reports() {
    // `same` compares names and values.
    let heard = same(ALL, &[], "").await;
    for name in [
        "server_version",
        "server_encoding",
        "client_encoding",
        "DateStyle",
        "TimeZone",
        "IntervalStyle",
        "integer_datetimes",
        "standard_conforming_strings",
        "is_superuser",
        "session_authorization",
        "application_name",
        "default_transaction_read_only",
        "in_hot_standby",
    ] {
        let is_told = |body: &[u8]| body.starts_with(&[name.as_bytes(), b"\0"].concat());
        assert!(heard.welcome.iter().any(|f| f.tag == b'S' && is_told(&f.body)), "{name}");
    }
}
