//! The server's side: authenticates a client and recovers its ClientKey.
//!
//! Follows auth-scram.c of PostgreSQL case by case, texts included: drivers show them.

use super::{Keys, Verifier, bound_to, hmac_sha256, is_equal, key_from_base64, put_base64, sha256, xor};
use crate::base::sqlstate;
use std::borrow::Cow;
use std::fmt::Write;
use std::ops::Range;

/// Why an exchange ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The proof does not fit, or the exchange was doomed from the start. The caller answers with
    /// 28P01 and the words PostgreSQL has for it.
    WrongPassword,
    /// The message is not what it must be here: the reply's code, message and detail.
    Malformed {
        /// SQLSTATE.
        code: &'static str,
        /// Field `M`.
        message: String,
        /// Field `D`.
        detail: Option<String>,
    },
}

/// How a verifier is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The role's own: a fitting proof is accepted.
    Genuine,
    /// Stands for a role that cannot log in: no proof is accepted.
    Doomed,
}

/// What the client was offered and chose: the mechanism it named in SASLInitialResponse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel<'a> {
    /// -PLUS was not offered: no TLS, or a certificate without a hash.
    Unbindable,
    /// -PLUS was offered, and the client does without.
    Unbound,
    /// The client took -PLUS; the hash is the one of our certificate.
    Bound(&'a [u8]),
}

/// An exchange that has sent `server-first-message` and waits for `client-final-message`.
#[derive(Debug)]
pub struct Exchange {
    verifier: Verifier,
    standing: Standing,
    /// What the client must repeat as `c=`: its gs2 header in base64.
    binding: Cow<'static, str>,
    is_bound: bool,
    /// `client-first-message-bare,server-first-message`
    so_far: String,
    /// Where in it both sides' nonce stands.
    nonce: Range<usize>,
}

/// An accepted exchange.
#[derive(Debug)]
pub struct Accepted {
    /// Body of AuthenticationSASLFinal.
    pub server_final: String,
    /// What logs in to servers that have the same verifier.
    pub keys: Keys,
}

impl Exchange {
    /// Takes `client-first-message` and returns the exchange with `server-first-message`.
    /// `server_nonce` is printable, without a comma.
    pub fn start(
        verifier: Verifier,
        standing: Standing,
        client_first: &[u8],
        server_nonce: &str,
        channel: Channel<'_>,
    ) -> Result<(Exchange, String), Refusal> {
        let message = text_of(client_first)?;
        let mut rest = message;
        let (binding, behind) = channel_flag(rest, channel)?;
        rest = comma(behind)?;
        rest = match rest.chars().next() {
            Some(',') => &rest[1..],
            Some('a') => {
                return Err(refused(
                    sqlstate::NOT_SUPPORTED,
                    "client uses authorization identity, but it is not supported",
                ));
            }
            other => {
                return Err(malformed(format!(
                    "Unexpected attribute \"{}\" in client-first-message.",
                    shown(other)
                )));
            }
        };
        let bare = rest;
        if rest.starts_with('m') {
            return Err(refused(sqlstate::NOT_SUPPORTED, "client requires an unsupported SCRAM extension"));
        }
        // PostgreSQL ignores the name here and uses that of the start-up packet; so do we.
        (_, rest) = attribute(rest, 'n')?;
        let (client_nonce, mut rest) = attribute(rest, 'r')?;
        if !client_nonce.bytes().all(|b| (0x21..=0x7e).contains(&b) && b != b',') {
            return Err(refused(sqlstate::PROTOCOL_VIOLATION, "non-printable characters in SCRAM nonce"));
        }
        while !rest.is_empty() {
            (_, _, rest) = any_attribute(rest)?;
        }
        let length = bare.len() + client_nonce.len() + server_nonce.len() + 2 * verifier.salt.len();
        let mut so_far = String::with_capacity(length + 32);
        let first = bare.len() + 1;
        so_far.extend([bare, ",r=", client_nonce, server_nonce]);
        let nonce = first + 2..so_far.len();
        so_far.push_str(",s=");
        put_base64(&mut so_far, &verifier.salt);
        write!(so_far, ",i={}", verifier.iterations).expect("a text takes everything");
        let server_first = so_far[first..].to_owned();
        let is_bound = matches!(channel, Channel::Bound(_));
        Ok((Exchange { verifier, standing, binding, is_bound, so_far, nonce }, server_first))
    }

    /// Takes `client-final-message`; the exchange is over either way.
    pub fn finish(self, client_final: &[u8]) -> Result<Accepted, Refusal> {
        let message = text_of(client_final)?;
        let (binding, rest) = attribute(message, 'c')?;
        if binding != self.binding {
            if self.is_bound {
                return Err(refused(sqlstate::INVALID_AUTHORIZATION, "SCRAM channel binding check failed"));
            }
            return Err(refused(
                sqlstate::PROTOCOL_VIOLATION,
                "unexpected SCRAM channel-binding attribute in client-final-message",
            ));
        }
        let (nonce, mut rest) = attribute(rest, 'r')?;
        let (proof, without_proof) = loop {
            let before = rest;
            let (name, value, after) = any_attribute(rest)?;
            rest = after;
            if name == 'p' {
                // `before` starts behind the comma that ends what is signed.
                break (value, &message[..message.len() - before.len() - 1]);
            }
        };
        let proof =
            key_from_base64(proof).ok_or_else(|| malformed("Malformed proof in client-final-message."))?;
        if !rest.is_empty() {
            return Err(malformed("Garbage found at the end of client-final-message."));
        }
        if nonce != &self.so_far[self.nonce] {
            return Err(Refusal::Malformed {
                code: sqlstate::PROTOCOL_VIOLATION,
                message: "invalid SCRAM response".to_owned(),
                detail: Some("Nonce does not match.".to_owned()),
            });
        }
        let signed: [&[u8]; 3] = [self.so_far.as_bytes(), b",", without_proof.as_bytes()];
        let client_signature = hmac_sha256(&self.verifier.stored_key, &signed);
        let client_key = xor(&proof, &client_signature);
        let fits = is_equal(&sha256(&client_key), &self.verifier.stored_key);
        match self.standing {
            Standing::Genuine if fits => {}
            Standing::Genuine | Standing::Doomed => return Err(Refusal::WrongPassword),
        }
        let server_signature = hmac_sha256(&self.verifier.server_key, &signed);
        let mut server_final = String::with_capacity(64);
        server_final.push_str("v=");
        put_base64(&mut server_final, &server_signature);
        Ok(Accepted { server_final, keys: Keys { client_key, server_key: self.verifier.server_key } })
    }
}

/// Reads the gs2 header's flag: what must come back as `c=`, and what follows the flag.
fn channel_flag<'a>(message: &'a str, channel: Channel<'_>) -> Result<(Cow<'static, str>, &'a str), Refusal> {
    const NOT_INCLUDED: &str = "The client selected SCRAM-SHA-256-PLUS, \
         but the SCRAM message does not include channel binding data.";
    match (message.chars().next(), channel) {
        (Some('n' | 'y'), Channel::Bound(_)) => Err(malformed(NOT_INCLUDED)),
        (Some('n'), Channel::Unbindable | Channel::Unbound) => Ok((Cow::Borrowed("biws"), &message[1..])),
        // The client could, and is right that we cannot.
        (Some('y'), Channel::Unbindable) => Ok((Cow::Borrowed("eSws"), &message[1..])),
        // We offered it, and the client has not seen that: somebody took it out of the list.
        (Some('y'), Channel::Unbound) => Err(Refusal::Malformed {
            code: sqlstate::INVALID_AUTHORIZATION,
            message: "SCRAM channel binding negotiation error".to_owned(),
            detail: Some(
                "The client supports SCRAM channel binding but thinks the server does not.  \
                 However, this server does support channel binding."
                    .to_owned(),
            ),
        }),
        (Some('p'), Channel::Unbindable | Channel::Unbound) => Err(malformed(
            "The client selected SCRAM-SHA-256 without channel binding, \
             but the SCRAM message includes channel binding data.",
        )),
        (Some('p'), Channel::Bound(hash)) => {
            let after = message[1..]
                .strip_prefix('=')
                .ok_or_else(|| malformed("Expected character \"=\" for attribute \"p\"."))?;
            let end = after.find(',').unwrap_or(after.len());
            let kind = &after[..end];
            if kind != "tls-server-end-point" {
                let shown: String = kind.chars().take(30).map(sanitized).collect();
                let text = format!("unsupported SCRAM channel-binding type \"{shown}\"");
                return Err(refused(sqlstate::PROTOCOL_VIOLATION, &text));
            }
            Ok((Cow::Owned(bound_to(hash)), &after[end..]))
        }
        (other, _) => Err(malformed(format!("Unexpected channel-binding flag \"{}\".", shown(other)))),
    }
}

/// As `sanitize_str`: what is not printable becomes a question mark.
fn sanitized(c: char) -> char {
    if matches!(c, '\x21'..='\x7e') { c } else { '?' }
}

fn text_of(message: &[u8]) -> Result<&str, Refusal> {
    if message.is_empty() {
        return Err(malformed("The message is empty."));
    }
    if message.contains(&0) {
        return Err(malformed("Message length does not match input length."));
    }
    // PostgreSQL takes any bytes in the user name; no driver sends others than UTF-8 there.
    std::str::from_utf8(message).map_err(|_| malformed("The message is not valid UTF-8."))
}

fn comma(rest: &str) -> Result<&str, Refusal> {
    rest.strip_prefix(',').ok_or_else(|| {
        malformed(format!("Comma expected, but found character \"{}\".", shown(rest.chars().next())))
    })
}

/// Value of the attribute that must come next, and what follows its comma.
fn attribute(rest: &str, name: char) -> Result<(&str, &str), Refusal> {
    let Some(after) = rest.strip_prefix(name) else {
        return Err(malformed(format!(
            "Expected attribute \"{name}\" but found \"{}\".",
            shown(rest.chars().next())
        )));
    };
    value(after, name)
}

/// Name and value of whatever attribute comes next, and what follows its comma.
fn any_attribute(rest: &str) -> Result<(char, &str, &str), Refusal> {
    let name =
        rest.chars().next().ok_or_else(|| malformed("Attribute expected, but found end of string."))?;
    if !name.is_ascii_alphabetic() {
        return Err(malformed(format!(
            "Attribute expected, but found invalid character \"{}\".",
            shown(Some(name))
        )));
    }
    let (value, rest) = value(&rest[1..], name)?;
    Ok((name, value, rest))
}

fn value(after: &str, name: char) -> Result<(&str, &str), Refusal> {
    let after = after
        .strip_prefix('=')
        .ok_or_else(|| malformed(format!("Expected character \"=\" for attribute \"{name}\".")))?;
    Ok(after.split_once(',').unwrap_or((after, "")))
}

/// A stranger's character, made harmless (`sanitize_char`).
fn shown(c: Option<char>) -> String {
    match c {
        Some(c @ '\x21'..='\x7e') => format!("'{c}'"),
        Some(c) if c.is_ascii() => format!("0x{:02x}", u32::from(c)),
        Some(c) => {
            let mut bytes = [0; 4];
            format!("0x{:02x}", c.encode_utf8(&mut bytes).as_bytes()[0])
        }
        None => "0x00".to_owned(),
    }
}

fn malformed(detail: impl Into<String>) -> Refusal {
    Refusal::Malformed {
        code: sqlstate::PROTOCOL_VIOLATION,
        message: "malformed SCRAM message".to_owned(),
        detail: Some(detail.into()),
    }
}

fn refused(code: &'static str, message: &str) -> Refusal {
    Refusal::Malformed { code, message: message.to_owned(), detail: None }
}
