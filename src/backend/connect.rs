//! Logging in to a server.

use super::dial::dial;
use super::endpoint::{Endpoint, Login, Proof};
use super::error::Error;
use super::link::Link;
use crate::config::ChannelBinding;
use crate::sys;
use crate::wire::certificate::end_point_hash;
use crate::wire::md5;
use crate::wire::report::Report;
use crate::wire::scram::{self, client};
use bytes::{Buf, Bytes, BytesMut};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// Longest message believed before the log-in is done: ours are all short.
const MESSAGE_MAX: usize = 64 * 1024;
/// Warnings kept from a log-in.
const NOTICES_MAX: usize = 16;
/// Protocol 3.0: what every server speaks, and cancel keys of 4 bytes.
const PROTOCOL: i32 = 196_608;

/// Connects, logs in and waits for ReadyForQuery, all within `timeout`.
///
/// `parameters` are the start-up parameters besides `user`, in the order in which they are sent:
/// `database`, `replication`, `options`, `application_name`, any setting. Trust, passwords in
/// clear text, md5 and SCRAM-SHA-256 are spoken, the latter by password or by recovered keys, and
/// the server's signature is checked. `Proof::None` answers a demand for a password with the empty
/// one, so that the refusal comes in the server's own words.
pub async fn connect<N: AsRef<[u8]>, V: AsRef<[u8]>>(
    endpoint: &Endpoint,
    login: &Login,
    parameters: &[(N, V)],
    timeout: Duration,
) -> Result<Link, Error> {
    let deadline = Instant::now() + timeout;
    let hello = startup_message(login, parameters)?;
    let work = async {
        let stream = dial(endpoint, deadline).await?;
        let link = Link {
            stream,
            parameters: Vec::new(),
            pid: 0,
            secret: Vec::new(),
            notices: Vec::new(),
            leftover: BytesMut::with_capacity(1024),
            endpoint: endpoint.clone(),
        };
        LogIn { link, login }.run(&hello).await
    };
    timeout_at(deadline, work)
        .await
        .unwrap_or_else(|_| Err(Error::Timeout { at: endpoint.address.to_string(), timeout }))
}

fn startup_message<N: AsRef<[u8]>, V: AsRef<[u8]>>(
    login: &Login,
    parameters: &[(N, V)],
) -> Result<Vec<u8>, Error> {
    let mut body = PROTOCOL.to_be_bytes().to_vec();
    let pairs = parameters.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
    let user: (&[u8], &[u8]) = (b"user", login.user.as_str().as_bytes());
    for (name, value) in std::iter::once(user).chain(pairs) {
        if name.contains(&0) || value.contains(&0) || name.is_empty() {
            return Err(Error::BadParameter);
        }
        for text in [name, value] {
            body.extend(text);
            body.push(0);
        }
    }
    body.push(0);
    let length = i32::try_from(body.len() + 4).map_err(|_| Error::BadParameter)?;
    Ok([&length.to_be_bytes()[..], &body].concat())
}

/// How far the server has let us in.
enum Progress {
    /// Has not asked for a proof, or has got one that needs no answer.
    Asked,
    /// SCRAM: our first message is out.
    ScramStarted(client::Started),
    /// SCRAM: our proof is out, the server's is awaited. AuthenticationOk before it means that
    /// the server could not prove itself.
    ScramProved(client::Proved),
    /// SCRAM: the server has proved itself.
    ScramDone,
    /// AuthenticationOk has come.
    In,
}

struct LogIn<'a> {
    /// Incomplete: what has been read and not been looked at stands in `leftover`.
    link: Link,
    login: &'a Login,
}

impl LogIn<'_> {
    async fn run(mut self, hello: &[u8]) -> Result<Link, Error> {
        self.send(hello).await?;
        let mut progress = Progress::Asked;
        loop {
            let (tag, mut body) = self.next_message().await?;
            match (tag, progress) {
                (b'R', now) => progress = self.on_authentication(now, &mut body).await?,
                (b'E', _) => return Err(Error::Server { at: self.at(), report: Report::new(body) }),
                (b'N', now) => {
                    if self.link.notices.len() < NOTICES_MAX {
                        self.link.notices.push(Report::new(body));
                    }
                    progress = now;
                }
                // We ask for 3.0 and for no protocol extension, so there is nothing to give up.
                (b'v', now) => progress = now,
                (b'S', Progress::In) => {
                    self.link.set_parameter(&body).ok_or_else(|| self.wrong("malformed ParameterStatus"))?;
                    progress = Progress::In;
                }
                (b'K', Progress::In) => {
                    if !(8..=260).contains(&body.len()) {
                        return Err(self.wrong("malformed BackendKeyData"));
                    }
                    self.link.pid = body.get_i32();
                    self.link.secret = body.to_vec();
                    progress = Progress::In;
                }
                (b'Z', Progress::In) => return Ok(self.link),
                (other, _) => {
                    return Err(self.wrong(format!("unexpected message 0x{other:02x} during the log-in")));
                }
            }
        }
    }

    /// AuthenticationXXX ("Message Formats").
    async fn on_authentication(&mut self, progress: Progress, body: &mut Bytes) -> Result<Progress, Error> {
        let code = body.try_get_i32().map_err(|_| self.wrong("malformed authentication request"))?;
        match (code, progress) {
            // What does without SCRAM is not bound to the channel.
            (0 | 3 | 5, Progress::Asked) if self.must_bind() => Err(self.unbound()),
            (0, Progress::Asked | Progress::ScramDone) => Ok(Progress::In),
            (0, Progress::ScramStarted(_) | Progress::ScramProved(_)) => {
                Err(self.scram(client::Error::WrongSignature))
            }
            (3, Progress::Asked) => {
                let password = self.password("a password in clear text")?;
                self.send_password(&[password.as_slice(), b"\0"].concat()).await?;
                Ok(Progress::Asked)
            }
            (5, Progress::Asked) => {
                let salt = body.get(..4).and_then(|salt| <[u8; 4]>::try_from(salt).ok());
                let salt = salt.ok_or_else(|| self.wrong("malformed md5 request"))?;
                let stored = match &self.login.proof {
                    Proof::Md5Hash(hash) => hash.expose().to_owned(),
                    Proof::None | Proof::Password(_) | Proof::ScramKeys { .. } => {
                        md5::stored(self.login.user.as_str().as_bytes(), &self.password("an md5 password")?)
                    }
                };
                let answer = md5::answer(&stored, salt);
                self.send_password(&[answer.as_bytes(), b"\0"].concat()).await?;
                Ok(Progress::Asked)
            }
            (10, Progress::Asked) => {
                let offers = |name: &str| body.split(|b| *b == 0).any(|m| m == name.as_bytes());
                if matches!(self.login.proof, Proof::Md5Hash(_)) {
                    return Err(self.cannot("SCRAM-SHA-256, while only an md5 hash is known,"));
                }
                let (mechanism, hash) = self.mechanism(offers)?;
                let binding = match (mechanism, &hash) {
                    (scram::SCRAM_SHA_256_PLUS, Some(hash)) => client::Binding::EndPoint(hash),
                    (_, Some(_)) => client::Binding::NotOffered,
                    (_, None) => client::Binding::Incapable,
                };
                let nonce = scram::base64(&sys::random_bytes::<18>());
                let (started, first) = client::Started::new(nonce, binding);
                let mut message = [mechanism.as_bytes(), b"\0"].concat();
                message.extend((first.len() as i32).to_be_bytes());
                message.extend(first.as_bytes());
                self.send_password(&message).await?;
                Ok(Progress::ScramStarted(started))
            }
            (11, Progress::ScramStarted(started)) => {
                let (proved, last) = match &self.login.proof {
                    // As PostgreSQL does with a verifier that does not fit: in the server's words.
                    Proof::None | Proof::Md5Hash(_) => {
                        started.prove(&client::Credential::Password(b""), body)
                    }
                    Proof::Password(password) => {
                        started.prove(&client::Credential::Password(password.expose().as_bytes()), body)
                    }
                    Proof::ScramKeys { client_key, server_key } => {
                        let keys = scram::Keys { client_key: *client_key, server_key: *server_key };
                        started.prove(&client::Credential::Keys(&keys), body)
                    }
                }
                .map_err(|source| self.scram(source))?;
                self.send_password(last.as_bytes()).await?;
                Ok(Progress::ScramProved(proved))
            }
            (12, Progress::ScramProved(proved)) => {
                proved.verify(body).map_err(|source| self.scram(source))?;
                Ok(Progress::ScramDone)
            }
            (2, _) => Err(self.cannot("Kerberos V5 authentication")),
            (7, _) => Err(self.cannot("GSSAPI authentication")),
            (9, _) => Err(self.cannot("SSPI authentication")),
            (other, _) => Err(self.wrong(format!("unexpected authentication request {other}"))),
        }
    }

    /// The mechanism to use, and the hash of the server's certificate if the exchange could be bound
    /// to it.
    fn mechanism(&self, offers: impl Fn(&str) -> bool) -> Result<(&'static str, Option<Vec<u8>>), Error> {
        let tls = &self.link.endpoint.tls;
        let hash = match (&self.link.stream, tls.binding()) {
            (_, ChannelBinding::Disable) => None,
            (sys::Socket::TlsClient(stream), ChannelBinding::Prefer | ChannelBinding::Require) => {
                let chain = stream.get_ref().1.peer_certificates();
                chain.and_then(|chain| end_point_hash(chain.first()?))
            }
            _ => None,
        };
        if hash.is_some() && offers(scram::SCRAM_SHA_256_PLUS) {
            return Ok((scram::SCRAM_SHA_256_PLUS, hash));
        }
        if tls.binding() == ChannelBinding::Require {
            return Err(self.unbound());
        }
        match offers(scram::SCRAM_SHA_256) {
            true => Ok((scram::SCRAM_SHA_256, hash)),
            false => Err(self.cannot("a SASL mechanism other than SCRAM-SHA-256")),
        }
    }

    fn must_bind(&self) -> bool {
        self.link.endpoint.tls.binding() == ChannelBinding::Require
    }

    fn unbound(&self) -> Error {
        self.wrong("channel_binding=require, and the server does not bind its log-in to its certificate")
    }

    fn password(&self, method: &'static str) -> Result<Vec<u8>, Error> {
        match &self.login.proof {
            Proof::Password(password) => Ok(password.expose().as_bytes().to_vec()),
            Proof::None => Ok(Vec::new()),
            Proof::ScramKeys { .. } | Proof::Md5Hash(_) => Err(self.cannot(method)),
        }
    }

    /// A PasswordMessage, SASLInitialResponse or SASLResponse: they share the tag.
    async fn send_password(&mut self, body: &[u8]) -> Result<(), Error> {
        let length = (body.len() + 4) as i32;
        self.send(&[b"p", &length.to_be_bytes()[..], body].concat()).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let sent = async {
            self.link.stream.write_all(bytes).await?;
            self.link.stream.flush().await
        };
        sent.await.map_err(|source| Error::Lost { at: self.at(), source })
    }

    async fn next_message(&mut self) -> Result<(u8, Bytes), Error> {
        loop {
            if let [tag, a, b, c, d, ..] = self.link.leftover[..] {
                let size = u32::from_be_bytes([a, b, c, d]) as usize;
                if !(4..=MESSAGE_MAX).contains(&size) {
                    return Err(self.wrong(format!("message 0x{tag:02x} of {size} bytes during the log-in")));
                }
                if self.link.leftover.len() > size {
                    let mut message = self.link.leftover.split_to(size + 1).freeze();
                    message.advance(5);
                    return Ok((tag, message));
                }
            }
            match self.link.stream.read_buf(&mut self.link.leftover).await {
                Ok(0) => {
                    let source = io::ErrorKind::UnexpectedEof.into();
                    return Err(Error::Lost { at: self.at(), source });
                }
                Ok(_) => {}
                Err(source) => return Err(Error::Lost { at: self.at(), source }),
            }
        }
    }

    fn at(&self) -> String {
        self.link.endpoint.address.to_string()
    }

    fn wrong(&self, what: impl Into<String>) -> Error {
        Error::Protocol { at: self.at(), what: what.into() }
    }

    fn scram(&self, source: client::Error) -> Error {
        Error::Scram { at: self.at(), source }
    }

    fn cannot(&self, method: impl Into<String>) -> Error {
        let user = self.login.user.to_string();
        Error::NoProof { at: self.at(), user, method: method.into() }
    }
}
