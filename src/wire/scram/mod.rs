//! SCRAM-SHA-256, both sides, as PostgreSQL speaks it (RFC 5802, RFC 7677; "SASL
//! Authentication").
//!
//! Pure: nonces, salts and mock secrets are arguments. [`server`] authenticates a client against
//! a verifier and recovers the ClientKey from its proof; [`client`] proves a password, or such
//! recovered [`Keys`], to a server and checks the server's own proof.

pub mod client;
pub mod server;
mod verifier;

pub use verifier::{Keys, ParseVerifierError, Verifier, normalize};

/// The mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// The mechanism that binds the exchange to the TLS channel.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// The gs2 header of an exchange that is bound to the server's certificate.
const BOUND_HEADER: &str = "p=tls-server-end-point,,";

/// What a bound exchange signs as `c=`: the header and the certificate's hash.
fn bound_to(hash: &[u8]) -> String {
    base64(&[BOUND_HEADER.as_bytes(), hash].concat())
}

use base64::Engine;
use ring::{digest, hmac};

const KEY_LENGTH: usize = 32;

fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; KEY_LENGTH] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    context.sign().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn sha256(bytes: &[u8]) -> [u8; KEY_LENGTH] {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn xor(left: &[u8; KEY_LENGTH], right: &[u8; KEY_LENGTH]) -> [u8; KEY_LENGTH] {
    std::array::from_fn(|i| left[i] ^ right[i])
}

/// Compares without telling by its duration where the first difference is.
fn is_equal(left: &[u8; KEY_LENGTH], right: &[u8; KEY_LENGTH]) -> bool {
    std::hint::black_box(left.iter().zip(right).fold(0, |sum, (a, b)| sum | (a ^ b))) == 0
}

/// Text form of `bytes`; nonces are made with it too, since it has no comma.
pub fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

fn put_base64(text: &mut String, bytes: &[u8]) {
    base64::engine::general_purpose::STANDARD.encode_string(bytes, text);
}

fn key_from_base64(text: &str) -> Option<[u8; KEY_LENGTH]> {
    // The decoder wants room for what the length of the text lets it expect.
    let mut key = [0; KEY_LENGTH + 4];
    let length = base64::engine::general_purpose::STANDARD.decode_slice(text, &mut key).ok()?;
    key[..length].try_into().ok()
}

#[cfg(test)]
mod tests;
