//! What a server keeps of a password.

use super::{KEY_LENGTH, base64, hmac_sha256, is_equal, key_from_base64, sha256};
use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;

/// What PostgreSQL keeps of a password in `pg_authid.rolpassword`:
/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` ("pg_authid").
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub(super) iterations: NonZeroU32,
    pub(super) salt: Arc<[u8]>,
    pub(super) stored_key: [u8; KEY_LENGTH],
    pub(super) server_key: [u8; KEY_LENGTH],
}

/// What proves a password to a server that has the same verifier, without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// ClientKey of RFC 5802: as good as the password, for this verifier.
    pub client_key: [u8; KEY_LENGTH],
    /// ServerKey of RFC 5802: checks that the server knows the verifier.
    pub server_key: [u8; KEY_LENGTH],
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({}:***)", self.iterations)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(***)")
    }
}

/// The text is not a SCRAM-SHA-256 verifier. Says nothing about what it is instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a SCRAM-SHA-256 verifier")]
pub struct ParseVerifierError;

impl Keys {
    /// The keys of `password` under a salt and an iteration count.
    pub(super) fn derive(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Keys {
        let mut salted = [0; KEY_LENGTH];
        let password = normalize(password);
        ring::pbkdf2::derive(ring::pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, &password, &mut salted);
        Keys {
            client_key: hmac_sha256(&salted, &[b"Client Key"]),
            server_key: hmac_sha256(&salted, &[b"Server Key"]),
        }
    }
}

impl Verifier {
    /// PostgreSQL's iteration count (`SCRAM_DEFAULT_ITERATIONS`).
    pub const DEFAULT_ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("is not zero");
    /// Length of PostgreSQL's salts (`SCRAM_DEFAULT_SALT_LEN`).
    pub const SALT_LENGTH: usize = 16;

    /// The verifier of a password known in clear text (static users).
    pub fn from_password(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Verifier {
        let keys = Keys::derive(password, salt, iterations);
        Verifier {
            iterations,
            salt: salt.into(),
            stored_key: sha256(&keys.client_key),
            server_key: keys.server_key,
        }
    }

    /// A verifier no password fits, for a role that may not log in or does not exist. Its salt is
    /// a function of `secret` and the name, so that asking twice does not tell such roles from
    /// real ones (`scram_mock_salt` in auth-scram.c).
    pub fn mock(secret: &[u8; KEY_LENGTH], user: &[u8]) -> Verifier {
        let salt = hmac_sha256(secret, &[b"salt", user]);
        Verifier {
            iterations: Self::DEFAULT_ITERATIONS,
            salt: salt[..Self::SALT_LENGTH].into(),
            // Nobody knows an input whose SHA-256 is this; the exchange is doomed besides.
            stored_key: hmac_sha256(secret, &[b"stored", user]),
            server_key: hmac_sha256(secret, &[b"server", user]),
        }
    }

    /// The salt.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// Whether a password in clear text fits, without an exchange.
    pub fn fits(&self, password: &[u8]) -> bool {
        let keys = Keys::derive(password, &self.salt, self.iterations);
        is_equal(&sha256(&keys.client_key), &self.stored_key)
    }
}

impl FromStr for Verifier {
    type Err = ParseVerifierError;

    fn from_str(text: &str) -> Result<Self, ParseVerifierError> {
        let parse = || {
            let (scheme, rest) = text.split_once('$')?;
            let (iterations, rest) = rest.split_once(':')?;
            let (salt, rest) = rest.split_once('$')?;
            let (stored_key, server_key) = rest.split_once(':')?;
            (scheme == super::SCRAM_SHA_256).then_some(())?;
            Some(Verifier {
                iterations: iterations.parse().ok()?,
                salt: super::from_base64(salt)?.into(),
                stored_key: key_from_base64(stored_key)?,
                server_key: key_from_base64(server_key)?,
            })
        };
        parse().ok_or(ParseVerifierError)
    }
}

impl Verifier {
    /// The text form for `ALTER ROLE … PASSWORD`. Not `Display`: it must not end up in a log.
    pub fn to_text(&self) -> String {
        format!(
            "{}${}:{}${}:{}",
            super::SCRAM_SHA_256,
            self.iterations,
            base64(&self.salt),
            base64(&self.stored_key),
            base64(&self.server_key)
        )
    }
}

/// A password as it enters SCRAM: SASLprep where it is UTF-8 and allowed, else unchanged, as
/// PostgreSQL does ("pg_saslprep").
pub fn normalize(password: &[u8]) -> Cow<'_, [u8]> {
    match std::str::from_utf8(password).map(stringprep::saslprep) {
        Ok(Ok(Cow::Owned(prepared))) if !prepared.is_empty() => Cow::Owned(prepared.into_bytes()),
        Ok(Ok(_) | Err(_)) | Err(_) => Cow::Borrowed(password),
    }
}
