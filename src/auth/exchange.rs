//! The messages of an exchange with a client: SCRAM, md5, a password in clear text.

use super::authenticator::{AuthError, refused};
use super::plan::wrong_password;
use crate::base::{Secret, sqlstate};
use crate::sys;
use crate::wire::frame::{self, HEADER, Head};
use crate::wire::md5;
use crate::wire::message::{self, Complaint};
use crate::wire::scram::server::{Channel, Exchange, Refusal, Standing};
use crate::wire::scram::{self, Verifier};
use bytes::{Buf, BufMut, BytesMut};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest SASL message (`PG_MAX_SASL_MESSAGE_LENGTH`).
const SASL_MESSAGE_MAX: usize = 1024;
/// Longest password (`PG_MAX_AUTH_TOKEN_LENGTH`).
const PASSWORD_MAX: usize = 65_535;

/// What is read at a time: more than any honest message of SCRAM has.
const READ_AT_ONCE: usize = 512;
/// Room for each of our own messages of SCRAM.
const ROOM: usize = 256;

/// The client's side of the connection during the exchange.
pub(super) struct Client<'a, S> {
    pub stream: &'a mut S,
    pub buffered: &'a mut BytesMut,
    pub out: BytesMut,
    /// As it named itself: for the refusals' texts.
    pub user: &'a [u8],
}

/// A verifier and how it is meant.
pub(super) struct Challenge {
    pub verifier: Verifier,
    pub standing: Standing,
    /// Why it is doomed, for the log.
    pub why: &'static str,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<'_, S> {
    pub async fn send(&mut self) -> Result<(), AuthError> {
        if self.out.is_empty() {
            return Ok(());
        }
        // One by one: when the time is over in between, what follows stands behind what was written.
        while !self.out.is_empty() {
            match self.stream.write(&self.out).await.map_err(AuthError::Gone)? {
                0 => return Err(AuthError::Gone(io::ErrorKind::WriteZero.into())),
                written => self.out.advance(written),
            }
        }
        self.stream.flush().await.map_err(AuthError::Gone)
    }

    fn wrong(&self, why: &'static str) -> AuthError {
        refused(wrong_password(self.user), if why.is_empty() { "wrong password" } else { why })
    }

    /// SCRAM-SHA-256, bound to our certificate (`end_point`) where both sides can. What the client
    /// gets last stands in `out`, for what follows to be sent with it.
    pub async fn scram(
        &mut self,
        challenge: Challenge,
        end_point: Option<&[u8]>,
    ) -> Result<scram::Keys, AuthError> {
        let user = self.user;
        let judged = |refusal| match refusal {
            Refusal::WrongPassword if challenge.why.is_empty() => {
                refused(wrong_password(user), "wrong password")
            }
            Refusal::WrongPassword => refused(wrong_password(user), challenge.why),
            Refusal::Malformed { code, message, detail } => {
                let complaint = Complaint::fatal(code, message);
                refused(Complaint { detail: detail.map(Into::into), ..complaint }, "")
            }
        };
        let mechanisms: &[&str] = match end_point {
            Some(_) => &[scram::SCRAM_SHA_256_PLUS, scram::SCRAM_SHA_256],
            None => &[scram::SCRAM_SHA_256],
        };
        self.out.reserve(ROOM);
        message::authentication_sasl(&mut self.out, mechanisms);
        self.send().await?;
        let mut length = self.sasl_message().await?;
        let nonce = scram::base64(&sys::random_bytes::<18>());
        let (mechanism, data) = initial_response(&self.buffered[HEADER..length], mechanisms)?;
        let channel = match (end_point, mechanism) {
            (Some(hash), scram::SCRAM_SHA_256_PLUS) => Channel::Bound(hash),
            (Some(_), _) => Channel::Unbound,
            (None, _) => Channel::Unbindable,
        };
        let data = match data {
            Some(data) => HEADER + data,
            // The mechanism without data: an empty challenge, and the data comes next.
            None => {
                self.buffered.advance(length);
                message::authentication_sasl_continue(&mut self.out, b"");
                self.send().await?;
                length = self.sasl_message().await?;
                HEADER
            }
        };
        let Challenge { verifier, standing, .. } = challenge;
        let client_first = &self.buffered[data..length];
        let (exchange, server_first) =
            Exchange::start(verifier, standing, client_first, &nonce, channel).map_err(judged)?;
        self.buffered.advance(length);
        message::authentication_sasl_continue(&mut self.out, server_first.as_bytes());
        self.send().await?;
        let length = self.sasl_message().await?;
        let accepted = exchange.finish(&self.buffered[HEADER..length]).map_err(judged)?;
        self.buffered.advance(length);
        message::authentication_sasl_final(&mut self.out, accepted.server_final.as_bytes());
        Ok(accepted.keys)
    }

    /// A challenge that only whoever knows the hash can answer.
    pub async fn md5(&mut self, hash: &Secret) -> Result<(), AuthError> {
        let salt = sys::random_bytes::<4>();
        message::authentication_md5(&mut self.out, salt);
        self.send().await?;
        let answer = self.password().await?;
        let wanted = md5::answer(hash.expose(), salt);
        if md5::is_equal(wanted.as_bytes(), answer.expose().as_bytes()) {
            Ok(())
        } else {
            Err(self.wrong(""))
        }
    }

    /// The password itself, for whoever can compare it.
    pub async fn cleartext(&mut self) -> Result<Secret, AuthError> {
        message::authentication_cleartext(&mut self.out);
        self.send().await?;
        self.password().await
    }

    /// `recv_password_packet`: a text that ends with the message. Texts that are not UTF-8 fit no
    /// password that we could know.
    async fn password(&mut self) -> Result<Secret, AuthError> {
        let length = self.message("password", PASSWORD_MAX).await?.ok_or_else(|| {
            AuthError::Gone(io::Error::new(io::ErrorKind::InvalidData, "invalid length of a password"))
        })?;
        let body = self.buffered.split_to(length);
        let told = |code, text| refused(Complaint::fatal(code, text), "");
        match frame::cstring(&body[HEADER..]) {
            Some(([], [])) => Err(told(sqlstate::INVALID_PASSWORD, "empty password returned by client")),
            Some((text, [])) => match std::str::from_utf8(text) {
                Ok(text) => Ok(Secret::new(text)),
                Err(_) => Err(self.wrong("the password is not UTF-8")),
            },
            Some(_) | None => Err(told(sqlstate::PROTOCOL_VIOLATION, "invalid password packet size")),
        }
    }

    /// Reads the next message, which must be a SASLInitialResponse or SASLResponse.
    async fn sasl_message(&mut self) -> Result<usize, AuthError> {
        // As PostgreSQL: the length goes to the log, the client has just failed.
        let length = self.message("SASL", SASL_MESSAGE_MAX).await?;
        length.ok_or_else(|| self.wrong("invalid length of a SASL message"))
    }

    /// Reads until the next message, of tag `p`, stands whole at the front of `buffered`, and says how long
    /// it is with its header; `None` when it is longer than `max`.
    async fn message(&mut self, what: &str, max: usize) -> Result<Option<usize>, AuthError> {
        loop {
            match frame::head(self.buffered) {
                Head::Frame { tag, .. } | Head::Bad { tag, .. } if tag != b'p' => {
                    let text = format!("expected {what} response, got message type {tag}");
                    return Err(refused(Complaint::fatal(sqlstate::PROTOCOL_VIOLATION, text), ""));
                }
                Head::Frame { total, .. } if total <= HEADER + max => {
                    if self.buffered.len() >= total {
                        return Ok(Some(total));
                    }
                }
                Head::Frame { .. } | Head::Bad { .. } => return Ok(None),
                Head::Partial => {}
            }
            // Room for a whole message: otherwise tokio reads 64 bytes at a time.
            self.buffered.reserve(READ_AT_ONCE);
            let mut room = (&mut *self.buffered).limit(READ_AT_ONCE);
            if self.stream.read_buf(&mut room).await.map_err(AuthError::Gone)? == 0 {
                return Err(AuthError::Gone(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

/// Reads the body of a SASLInitialResponse: mechanism, length of the data or -1, data. Says which of the
/// mechanisms it is and where its data begins, if there is any.
fn initial_response<'a>(body: &[u8], mechanisms: &[&'a str]) -> Result<(&'a str, Option<usize>), AuthError> {
    let malformed = |text| refused(Complaint::fatal(sqlstate::PROTOCOL_VIOLATION, text), "");
    let (named, rest) = frame::cstring(body).ok_or_else(|| malformed("invalid string in message"))?;
    let Some(mechanism) = mechanisms.iter().find(|known| known.as_bytes() == named) else {
        return Err(malformed("client selected an invalid SASL authentication mechanism"));
    };
    let short = || malformed("insufficient data left in message");
    let (length, data) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    match usize::try_from(i32::from_be_bytes(*length)) {
        Err(_) if *length == [0xff; 4] && data.is_empty() => Ok((mechanism, None)),
        Ok(length) if length == data.len() => Ok((mechanism, Some(body.len() - length))),
        Ok(length) if length > data.len() => Err(short()),
        Ok(_) | Err(_) => Err(malformed("invalid message format")),
    }
}
