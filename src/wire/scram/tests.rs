use super::client::{Binding, Credential, Error, Started};
use super::server::{Channel, Exchange, Refusal, Standing};
use super::*;
use proptest::prelude::*;
use std::sync::LazyLock;

/// RFC 7677, section 3: user "user", password "pencil".
const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const CLIENT_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_FIRST: &str =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                            p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn pencil() -> Verifier {
    static PENCIL: LazyLock<Verifier> = LazyLock::new(|| {
        Verifier::from_password(b"pencil", &from_base64(SALT).unwrap(), Verifier::DEFAULT_ITERATIONS)
    });
    PENCIL.clone()
}

fn start(client_first: &[u8]) -> Result<(Exchange, String), Refusal> {
    Exchange::start(pencil(), Standing::Genuine, client_first, SERVER_NONCE, Channel::Unbindable)
}

#[test]
fn the_server_speaks_the_vectors_of_rfc_7677() {
    let (exchange, first) = start(CLIENT_FIRST).unwrap();
    assert_eq!(first, SERVER_FIRST);
    let accepted = exchange.finish(CLIENT_FINAL.as_bytes()).unwrap();
    assert_eq!(accepted.server_final, SERVER_FINAL);
    assert_eq!(sha256(&accepted.keys.client_key), pencil().stored_key);
}

#[test]
fn a_verifier_of_a_real_server_reads_and_writes_the_same() {
    let text = pencil().to_text();
    assert_eq!(
        text,
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
         wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    );
    assert_eq!(text.parse(), Ok(pencil()));
    assert!(pencil().fits(b"pencil") && !pencil().fits(b"pen"));
    for wrong in [
        "",
        "md5d41d8cd98f00b204e9800998ecf8427e",
        "SCRAM-SHA-256$0:W22ZaJ0SNY7soEsUEjb6gQ==$AAAA:AAAA",
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$AAAA:AAAA",
        "SCRAM-SHA-1$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:x",
    ] {
        assert_eq!(wrong.parse::<Verifier>(), Err(ParseVerifierError), "{wrong:?}");
    }
}

#[test]
fn recovered_keys_log_in_where_the_password_would() {
    let (exchange, _) = start(CLIENT_FIRST).unwrap();
    let keys = exchange.finish(CLIENT_FINAL.as_bytes()).unwrap().keys;
    for credential in [Credential::Keys(&keys), Credential::Password(b"pencil")] {
        let (client, first) = Started::new("abc".to_owned(), Binding::Incapable);
        let (server, server_first) = start(first.as_bytes()).unwrap();
        let (client, last) = client.prove(&credential, server_first.as_bytes()).unwrap();
        let accepted = server.finish(last.as_bytes()).unwrap();
        assert_eq!(client.verify(accepted.server_final.as_bytes()), Ok(()));
        assert_eq!(accepted.keys, keys);
    }
}

#[test]
fn a_server_without_the_verifier_is_recognised() {
    let (client, _) = Started::new("abc".to_owned(), Binding::Incapable);
    let (client, _) = client
        .prove(&Credential::Password(b"pencil"), b"r=abcdef,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
        .unwrap();
    assert_eq!(client.verify(SERVER_FINAL.as_bytes()), Err(Error::WrongSignature));
}

#[test]
fn a_server_first_message_out_of_line_is_refused() {
    let check = |message: &str, expected: Error| {
        let (client, _) = Started::new("abc".to_owned(), Binding::Incapable);
        let got = client.prove(&Credential::Password(b"x"), message.as_bytes()).err();
        assert_eq!(got, Some(expected), "{message}");
    };
    check("r=abc,s=AAAA,i=1", Error::Malformed("nonce does not begin with ours"));
    check("r=xbcdef,s=AAAA,i=1", Error::Malformed("nonce does not begin with ours"));
    check("r=abcd,s=?,i=1", Error::Malformed("salt is not base64"));
    check("r=abcd,s=AAAA,i=0", Error::Malformed("iteration count is no number"));
    check("r=abcd,s=AAAA,i=4000000000", Error::TooManyIterations(4_000_000_000));
    check("m=x,r=abcd,s=AAAA,i=1", Error::Malformed("nonce expected"));
    check("", Error::Malformed("nonce expected"));
}

#[test]
fn wrong_passwords_and_mock_roles_are_refused_alike() {
    for (verifier, standing, password) in [
        (pencil(), Standing::Genuine, b"wrong ".as_slice()),
        (pencil(), Standing::Doomed, b"pencil"),
        (Verifier::mock(&[7; 32], b"nobody"), Standing::Doomed, b"pencil"),
    ] {
        let (client, first) = Started::new("abc".to_owned(), Binding::Incapable);
        let (server, server_first) =
            Exchange::start(verifier, standing, first.as_bytes(), "def", Channel::Unbindable).unwrap();
        let (_, last) = client.prove(&Credential::Password(password), server_first.as_bytes()).unwrap();
        assert_eq!(server.finish(last.as_bytes()).err(), Some(Refusal::WrongPassword));
    }
    let salt = |secret, user| Verifier::mock(&[secret; 32], user).salt;
    assert_eq!(salt(1, b"a"), salt(1, b"a"), "asking twice gives the same salt");
    assert_ne!(salt(1, b"a"), salt(1, b"b"));
    assert_ne!(salt(1, b"a"), salt(2, b"a"), "another process has other salts");
}

#[test]
fn malformed_client_messages_are_told_apart_as_postgresql_does() {
    let check = |result: Result<(), Refusal>, code: &str, message: &str, detail: Option<&str>| match result {
        Err(Refusal::Malformed { code: c, message: m, detail: d }) => {
            assert_eq!((c, m.as_str(), d.as_deref()), (code, message, detail));
        }
        other => panic!("{other:?} instead of {message}: {detail:?}"),
    };
    let first = |message: &[u8], detail| {
        check(start(message).map(drop), "08P01", "malformed SCRAM message", Some(detail));
    };
    first(b"", "The message is empty.");
    first(b"n,,n=,r=a\0", "Message length does not match input length.");
    first(b"q,,", "Unexpected channel-binding flag \"'q'\".");
    first(
        b"p=tls-server-end-point,,n=,r=a",
        "The client selected SCRAM-SHA-256 without channel binding, \
         but the SCRAM message includes channel binding data.",
    );
    first(b"nx", "Comma expected, but found character \"'x'\".");
    first(b"n", "Comma expected, but found character \"0x00\".");
    first(b"n,b,", "Unexpected attribute \"'b'\" in client-first-message.");
    first(b"n,,r=a", "Expected attribute \"n\" but found \"'r'\".");
    first(b"n,,n,r=a", "Expected character \"=\" for attribute \"n\".");
    first(b"n,,n=,r=a,1", "Attribute expected, but found invalid character \"'1'\".");
    check(
        start(b"n,a=joe,n=,r=a").map(drop),
        "0A000",
        "client uses authorization identity, but it is not supported",
        None,
    );
    check(
        start(b"n,,m=ext,n=,r=a").map(drop),
        "0A000",
        "client requires an unsupported SCRAM extension",
        None,
    );
    check(start(b"n,,n=,r=\x07").map(drop), "08P01", "non-printable characters in SCRAM nonce", None);

    let last = |message: &str, text, detail| {
        let (exchange, _) = start(CLIENT_FIRST).unwrap();
        check(exchange.finish(message.as_bytes()).map(drop), "08P01", text, detail);
    };
    last("c=eSws,r=x,p=x", "unexpected SCRAM channel-binding attribute in client-final-message", None);
    let malformed = "malformed SCRAM message";
    last("c=biws,r=x", malformed, Some("Attribute expected, but found end of string."));
    last("c=biws,r=x,p=AAAA", malformed, Some("Malformed proof in client-final-message."));
    last(
        &format!("{CLIENT_FINAL},x=1"),
        malformed,
        Some("Garbage found at the end of client-final-message."),
    );
    last(&CLIENT_FINAL.replace("r=r", "r=s"), "invalid SCRAM response", Some("Nonce does not match."));
}

#[test]
fn a_client_that_could_bind_is_believed_that_we_cannot() {
    let finish = |binding: &str| {
        let (server, server_first) = start(b"y,,n=,r=abc").unwrap();
        let without_proof = format!("c={binding},r=abc{SERVER_NONCE}");
        let signed = format!("n=,r=abc,{server_first},{without_proof}");
        let keys = Keys::derive(b"pencil", &from_base64(SALT).unwrap(), Verifier::DEFAULT_ITERATIONS);
        let proof = xor(&keys.client_key, &hmac_sha256(&pencil().stored_key, &[signed.as_bytes()]));
        server.finish(format!("{without_proof},p={}", base64(&proof)).as_bytes()).map(drop)
    };
    assert_eq!(finish("eSws"), Ok(()));
    // Somebody changed the flag on the way.
    assert!(matches!(finish("biws"), Err(Refusal::Malformed { .. })));
}

#[test]
fn a_bound_exchange_is_about_one_certificate() {
    let talk = |binding, channel| {
        let (client, first) = Started::new("abc".to_owned(), binding);
        let (server, server_first) =
            Exchange::start(pencil(), Standing::Genuine, first.as_bytes(), "def", channel)?;
        let (client, last) = client.prove(&Credential::Password(b"pencil"), server_first.as_bytes()).unwrap();
        let accepted = server.finish(last.as_bytes())?;
        assert_eq!(client.verify(accepted.server_final.as_bytes()), Ok(()));
        Ok(())
    };
    let refused = |result: Result<(), Refusal>, code: &str, words: &str| match result {
        Err(Refusal::Malformed { code: c, message, detail }) => {
            assert_eq!(c, code, "{message}");
            assert!(format!("{message}: {detail:?}").contains(words), "{message}: {detail:?}");
        }
        other => panic!("{other:?} instead of {words}"),
    };
    let (ours, theirs) = ([1; 32].as_slice(), [2; 32].as_slice());
    assert_eq!(talk(Binding::EndPoint(ours), Channel::Bound(ours)), Ok(()));
    assert_eq!(talk(Binding::NotOffered, Channel::Unbindable), Ok(()));
    assert_eq!(talk(Binding::Incapable, Channel::Unbound), Ok(()), "a client may be unable to");
    // A man in the middle has another certificate, or takes the offer away.
    refused(talk(Binding::EndPoint(theirs), Channel::Bound(ours)), "28000", "channel binding check failed");
    refused(talk(Binding::NotOffered, Channel::Unbound), "28000", "but thinks the server does not.");
    refused(talk(Binding::Incapable, Channel::Bound(ours)), "08P01", "does not include channel binding");
    refused(talk(Binding::NotOffered, Channel::Bound(ours)), "08P01", "does not include channel binding");
    refused(talk(Binding::EndPoint(ours), Channel::Unbound), "08P01", "includes channel binding data");
    let first = |message: &[u8]| {
        Exchange::start(pencil(), Standing::Genuine, message, "def", Channel::Bound(ours)).map(drop)
    };
    refused(first(b"p=tls-unique,,n=,r=a"), "08P01", "unsupported SCRAM channel-binding type \"tls-unique\"");
    refused(first(b"p,,n=,r=a"), "08P01", "Expected character \\\"=\\\" for attribute \\\"p\\\"");
    refused(first(b"p=tls-server-end-point"), "08P01", "Comma expected");
}

#[test]
fn passwords_are_prepared_as_postgresql_prepares_them() {
    let check = |password: &[u8], expected: &[u8]| assert_eq!(&*normalize(password), expected);
    check(b"plain", b"plain");
    check("I\u{ad}X".as_bytes(), b"IX");
    check("\u{2168}".as_bytes(), b"IX");
    check("a\u{a0}b".as_bytes(), b"a b");
    check(b"bell\x07", b"bell\x07");
    check(b"\xff\xfe", b"\xff\xfe");
    check("\u{ad}".as_bytes(), "\u{ad}".as_bytes());
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), text in "[nyp,=arcvmi0-9 é]{0,40}") {
        for message in [bytes.as_slice(), text.as_bytes()] {
            let _ = start(message);
            let _ = start(CLIENT_FIRST).unwrap().0.finish(message);
            let (client, _) = Started::new("n".to_owned(), Binding::Incapable);
            if let Ok((client, _)) = client.prove(&Credential::Password(b"x"), message) {
                let _ = client.verify(message);
            }
        }
    }
}
