use super::*;
use proptest::prelude::*;

fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 8).to_be_bytes()[..], &code.to_be_bytes(), body].concat()
}

fn start(version: u32, body: &[u8]) -> Result<Option<Request>, Refusal> {
    Opening::new().push(&packet(version, body))
}

fn started(version: u32, body: &[u8]) -> Startup {
    match start(version, body) {
        Ok(Some(Request::Start(startup))) => startup,
        other => panic!("{other:?}"),
    }
}

fn words(result: Result<Option<Request>, Refusal>) -> (&'static str, String) {
    match result {
        Err(Refusal::Told { code, message, .. }) => (code, message),
        other => panic!("{other:?}"),
    }
}

const V3_0: u32 = 3 << 16;

#[test]
fn a_start_up_packet_is_read_in_its_order() {
    let mut s = started(V3_0, b"user\0joe\0options\0-c a=1\0database\0shop\0TimeZone\0UTC\0my.x\0\0\0");
    assert_eq!((s.user.as_slice(), s.database.as_slice()), (&b"joe"[..], &b"shop"[..]));
    assert_eq!(s.negotiation(), None);
    assert_eq!(s.setting("TimeZone"), Some(&b"UTC"[..]));
    let link = s.take_parameters();
    let link: Vec<_> = link.iter().map(|(n, v)| (n.as_slice(), v.as_slice())).collect();
    assert_eq!(link, [(&b"options"[..], &b"-c a=1"[..]), (b"TimeZone", b"UTC"), (b"my.x", b"")]);
}

#[test]
fn an_absent_or_empty_database_is_the_role() {
    assert_eq!(started(V3_0, b"user\0joe\0\0").database, b"joe");
    assert_eq!(started(V3_0, b"user\0joe\0database\0\0\0").database, b"joe");
    let long = started(V3_0, format!("user\0{}\0\0", "x".repeat(100)).as_bytes());
    assert_eq!((long.user.len(), long.database.len()), (63, 63));
}

#[test]
fn newer_versions_and_extensions_are_negotiated() {
    let mut grease = started(V3_0 + 9999, b"user\0joe\0_pq_.grease\0x\0\0");
    let unknown = vec![b"_pq_.grease".to_vec()];
    assert_eq!(grease.negotiation(), Some(Negotiation { minor: 2, unknown: unknown.clone() }));
    assert!(grease.take_parameters().iter().all(|(name, _)| !name.starts_with(b"_pq_")));
    assert_eq!(started(V3_0 + 2, b"user\0joe\0\0").negotiation(), None);
    let old = started(V3_0, b"user\0joe\0_pq_.grease\0\0\0");
    assert_eq!(old.negotiation(), Some(Negotiation { minor: 0, unknown }));
}

#[test]
fn walsenders_are_recognised_and_passed_on() {
    let check = |value: &str, expected| {
        let mut s = started(V3_0, format!("user\0joe\0replication\0{value}\0\0").as_bytes());
        assert_eq!(s.replication, expected, "{value}");
        let passed_on = s.take_parameters().contains(&(b"replication".to_vec(), value.as_bytes().to_vec()));
        assert_eq!(passed_on, expected != Replication::No, "{value}");
    };
    check("database", Replication::Logical);
    for yes in ["true", "1", "on", "T", "yes", "tr"] {
        check(yes, Replication::Physical);
    }
    for no in ["false", "0", "off", "no", "of"] {
        check(no, Replication::No);
    }
    for wrong in ["", "o", "2", "DATABASE", "truex"] {
        let body = format!("user\0joe\0replication\0{wrong}\0\0");
        assert_eq!(words(start(V3_0, body.as_bytes())).0, "22023", "{wrong}");
    }
}

#[test]
fn malformed_packets_get_postgresqls_words() {
    let layout = "invalid startup packet layout: expected terminator as last byte";
    for body in [&b""[..], b"user\0joe\0", b"user\0joe", b"user\0\0", b"user\0joe\0\0x", b"\0\0"] {
        let body = [b"application_name\0x\0", body].concat();
        assert_eq!(words(start(V3_0, &body)), ("08P01", layout.to_owned()), "{body:?}");
    }
    assert_eq!(words(start(V3_0, b"\0")).0, "28000");
    let version = |code| words(start(code, b"")).1;
    assert_eq!(version(2 << 16), "unsupported frontend protocol 2.0: server supports 3.0 to 3.2");
    assert_eq!(version(4 << 16), "unsupported frontend protocol 4.0: server supports 3.0 to 3.2");
    for length in [0u32, 7, 10_005, u32::MAX] {
        let refusal = Opening::new().push(&length.to_be_bytes()).unwrap_err();
        assert_eq!(refusal, Refusal::Hangup("invalid length of startup packet"));
    }
    let http = Opening::new().push(b"GET / HTTP/1.1\r\n\r\n").unwrap_err();
    assert!(matches!(http, Refusal::Hangup(_)));
    let full = [b"user\0joe\0options\0", vec![b'x'; PACKET_MAX - 4 - 19].as_slice(), b"\0\0"].concat();
    assert_eq!(full.len() + 4, PACKET_MAX);
    assert_eq!(started(V3_0, &full).user, b"joe");
}

#[test]
fn cancel_keys_have_4_to_256_bytes() {
    let cancel = |length| start(CANCEL_REQUEST, &[&[0, 0, 0, 7][..], &vec![9; length]].concat());
    for length in [4, 32, 256] {
        let secret = vec![9; length];
        assert_eq!(cancel(length), Ok(Some(Request::Cancel { pid: 7, secret })));
    }
    for length in [0, 3, 257] {
        assert_eq!(cancel(length), Err(Refusal::Hangup("invalid length of query cancel packet")));
    }
    assert!(start(CANCEL_REQUEST, b"").is_err());
}

#[test]
fn each_encryption_is_asked_for_once_and_in_any_order() {
    let hello = packet(V3_0, b"user\0joe\0\0");
    let (ssl, gss) = (packet(SSL_REQUEST, b""), packet(GSSENC_REQUEST, b""));
    for order in [[&ssl, &gss], [&gss, &ssl]] {
        let mut opening = Opening::new();
        for asked in order {
            assert!(matches!(opening.push(asked), Ok(Some(Request::Ssl | Request::GssEnc))));
            opening.declined();
        }
        assert!(matches!(opening.push(&hello), Ok(Some(Request::Start(_)))));
    }
    let mut again = Opening::new();
    again.push(&ssl).unwrap();
    again.declined();
    assert_eq!(words(again.push(&ssl)).0, "0A000");
    assert_eq!(words(Opening::inside_tls().push(&ssl)).0, "0A000");
    assert!(Opening::inside_tls().push(b"\x16\x03").unwrap().is_none(), "no TLS inside TLS");
    assert!(matches!(
        Opening::inside_tls().push(&packet(CANCEL_REQUEST, &[0; 8])),
        Ok(Some(Request::Cancel { .. }))
    ));
}

#[test]
fn direct_tls_keeps_its_first_bytes() {
    let mut opening = Opening::new();
    assert_eq!(opening.push(b"\x16\x03\x01"), Ok(Some(Request::DirectTls)));
    assert_eq!(opening.into_rest(), b"\x16\x03\x01");
}

/// Everything a client can see or cause, for bytes cut into `pieces`; refusals are answered `N`.
fn run(pieces: &[&[u8]]) -> (Vec<Request>, Option<Refusal>, Vec<u8>) {
    let mut opening = Opening::new();
    let mut requests = Vec::new();
    for piece in pieces {
        match opening.push(piece) {
            Ok(None) => {}
            Ok(Some(request)) => requests.push(request),
            Err(refusal) => return (requests, Some(refusal), Vec::new()),
        }
    }
    (requests, None, opening.into_rest())
}

proptest! {
    #[test]
    fn any_cut_gives_the_same_result(
        which in 0usize..6,
        tail in prop::collection::vec(any::<u8>(), 0..20),
        mut cuts in prop::collection::vec(0usize..80, 0..12),
    ) {
        let mut bytes = match which {
            0 => packet(SSL_REQUEST, b""),
            1 => packet(GSSENC_REQUEST, b""),
            2 => packet(CANCEL_REQUEST, &[7; 36]),
            3 => packet(V3_0 + 5, b"user\0joe\0database\0shop\0my.x\0y\0\0"),
            4 => packet(V3_0, b"user\0joe\0database"),
            _ => Vec::new(),
        };
        bytes.extend(tail);
        cuts.iter_mut().for_each(|cut| *cut = (*cut).min(bytes.len()));
        cuts.push(0);
        cuts.push(bytes.len());
        cuts.sort_unstable();
        let pieces: Vec<_> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
        let (mut whole, cut) = (run(&[&bytes]), run(&pieces));
        // Asked in pieces the request is seen before the glued bytes are; the end is the same.
        if whole.1.is_some() && whole.0.is_empty() && matches!(cut.0[..], [Request::Ssl | Request::GssEnc]) {
            whole.0 = cut.0.clone();
        }
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[a-z_.\\x00]{0,60}") {
        let _ = run(&[&bytes]);
        let _ = start(V3_0, text.as_bytes());
        let _ = start(u32::from_be_bytes([bytes.len() as u8, 0, 0, 1]), &bytes);
    }
}
