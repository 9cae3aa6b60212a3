//! The messages of SCRAM, of clients to us and of servers to us: nothing that somebody else has written
//! is accepted or makes us panic.

use cloud_mirror::wire::scram::client::{Binding, Credential, Started};
use cloud_mirror::wire::scram::server::{Channel, Exchange, Standing};
use cloud_mirror::wire::scram::{Keys, Verifier, base64};

/// A line is a message: the first and the final one of a client, the first and the final one of a
/// server, a verifier.
pub fn check(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let (first, last) = (next(), next());
    for channel in [Channel::Unbindable, Channel::Unbound, Channel::Bound(b"hash")] {
        let verifier = Verifier::mock(&[7; 32], b"user");
        if let Ok((exchange, said)) =
            Exchange::start(verifier, Standing::Genuine, first, "servernonce", channel)
        {
            assert!(said.starts_with("r=") && said.contains("servernonce,s="));
            assert!(exchange.finish(last).is_err(), "no proof fits a mock");
        }
    }
    let (first, last) = (next(), next());
    let keys = Keys { client_key: [1; 32], server_key: [2; 32] };
    for binding in [Binding::Incapable, Binding::NotOffered, Binding::EndPoint(b"hash")] {
        let (started, _) = Started::new("clientnonce".to_owned(), binding);
        if let Ok((proved, said)) = started.prove(&Credential::Keys(&keys), first) {
            assert!(said.contains(",r=clientnonce") && said.contains(",p="));
            assert!(proved.verify(last).is_err(), "nobody knows these keys");
        }
    }
    if let Ok(text) = std::str::from_utf8(next())
        && let Ok(verifier) = text.parse::<Verifier>()
    {
        let again = verifier.to_text().parse::<Verifier>();
        assert_eq!(again.as_ref().map(Verifier::to_text), Ok(verifier.to_text()));
        assert!(!base64(verifier.salt()).contains(','));
    }
}
