//! The client's side: logs in to a server and checks that the server knows the verifier.

use super::{
    BOUND_HEADER, Keys, base64, bound_to, from_base64, hmac_sha256, is_equal, key_from_base64, sha256, xor,
};
use std::num::NonZeroU32;

/// The most iterations we do for a server: the number is the server's claim and costs us
/// CPU time (some 0.3 s for this many). PostgreSQL's default is 4096.
pub const ITERATIONS_MAX: u32 = 1_000_000;

/// How an exchange is tied to the TLS channel under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding<'a> {
    /// No TLS, or a certificate without a hash: we could not.
    Incapable,
    /// We could, but the server did not offer -PLUS. Said in the exchange: a server that did offer
    /// it learns that somebody took the offer away.
    NotOffered,
    /// To the server's certificate, whose hash this is.
    EndPoint(&'a [u8]),
}

impl Binding<'_> {
    fn header(self) -> &'static str {
        match self {
            Binding::Incapable => "n,,",
            Binding::NotOffered => "y,,",
            Binding::EndPoint(_) => BOUND_HEADER,
        }
    }

    /// What is signed as `c=`.
    fn signed(self) -> String {
        match self {
            Binding::Incapable | Binding::NotOffered => base64(self.header().as_bytes()),
            Binding::EndPoint(hash) => bound_to(hash),
        }
    }
}

/// What proves us.
pub enum Credential<'a> {
    /// The password itself.
    Password(&'a [u8]),
    /// Keys recovered from a client's exchange with us.
    Keys(&'a Keys),
}

/// Why an exchange with a server failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The server's message is not SCRAM.
    #[error("malformed SCRAM message from the server: {0}")]
    Malformed(&'static str),
    /// The server asks for more work than we do.
    #[error("the server asks for {0} SCRAM iterations, at most {ITERATIONS_MAX} are done")]
    TooManyIterations(u32),
    /// The server reports an error inside SCRAM.
    #[error("the server refused the SCRAM exchange: {0}")]
    Refused(String),
    /// The server could not prove that it knows the verifier: not the server it claims to be.
    #[error("incorrect server signature: the server does not know this role's verifier")]
    WrongSignature,
}

/// An exchange that has sent `client-first-message`.
pub struct Started {
    nonce: String,
    /// Value of `c=`.
    bound: String,
}

/// An exchange that has sent `client-final-message`.
pub struct Proved {
    server_signature: [u8; 32],
}

impl Started {
    /// Starts with a nonce (printable, no comma) and returns `client-first-message`. The name is
    /// left empty: the server takes it from the start-up packet.
    pub fn new(nonce: String, binding: Binding<'_>) -> (Started, String) {
        let message = format!("{}n=,r={nonce}", binding.header());
        (Started { nonce, bound: binding.signed() }, message)
    }

    /// Takes `server-first-message` and returns `client-final-message`.
    pub fn prove(self, credential: &Credential<'_>, server_first: &[u8]) -> Result<(Proved, String), Error> {
        let server_first = std::str::from_utf8(server_first).map_err(|_| Error::Malformed("not UTF-8"))?;
        let mut attributes = server_first.split(',');
        let mut next = |prefix, what| {
            attributes.next().and_then(|a| a.strip_prefix(prefix)).ok_or(Error::Malformed(what))
        };
        let nonce = next("r=", "nonce expected")?;
        let salt = next("s=", "salt expected")?;
        let iterations = next("i=", "iteration count expected")?;
        // At least one character of the server's own, or an old exchange could be replayed.
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(Error::Malformed("nonce does not begin with ours"));
        }
        let salt = from_base64(salt).ok_or(Error::Malformed("salt is not base64"))?;
        let iterations: NonZeroU32 =
            iterations.parse().map_err(|_| Error::Malformed("iteration count is no number"))?;
        if iterations.get() > ITERATIONS_MAX {
            return Err(Error::TooManyIterations(iterations.get()));
        }
        let keys = match credential {
            Credential::Password(password) => Keys::derive(password, &salt, iterations),
            Credential::Keys(keys) => (*keys).clone(),
        };
        let without_proof = format!("c={},r={nonce}", self.bound);
        let signed = format!("n=,r={},{server_first},{without_proof}", self.nonce);
        let client_signature = hmac_sha256(&sha256(&keys.client_key), &[signed.as_bytes()]);
        let proof = xor(&keys.client_key, &client_signature);
        let server_signature = hmac_sha256(&keys.server_key, &[signed.as_bytes()]);
        Ok((Proved { server_signature }, format!("{without_proof},p={}", base64(&proof))))
    }
}

impl Proved {
    /// Takes `server-final-message`. Only `Ok` means that the server is the right one.
    pub fn verify(self, server_final: &[u8]) -> Result<(), Error> {
        let text = std::str::from_utf8(server_final).map_err(|_| Error::Malformed("not UTF-8"))?;
        let first = text.split(',').next().unwrap_or_default();
        if let Some(error) = first.strip_prefix("e=") {
            return Err(Error::Refused(error.to_owned()));
        }
        let signature = first
            .strip_prefix("v=")
            .and_then(key_from_base64)
            .ok_or(Error::Malformed("server signature expected"))?;
        if is_equal(&signature, &self.server_signature) { Ok(()) } else { Err(Error::WrongSignature) }
    }
}
