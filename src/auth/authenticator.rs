//! The exchange with a client.

use super::plan::{Role, Test, plan, role_name, wrong_password};
use super::verifiers::{VerifierSource, Verifiers};
use crate::backend::Proof;
use crate::base::{Privilege, Retry, RoleName, Secret, sqlstate};
use crate::observe::events::Events;
use crate::sys::{self, Peer};
use crate::wire::frame::{self, Head};
use crate::wire::message::{self, Complaint};
use crate::wire::scram::server::{Exchange, Refusal, Standing};
use crate::wire::scram::{self, Verifier};
use crate::wire::startup::Startup;
use bytes::{Buf, Bytes, BytesMut};
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

/// Longest SASL message (`PG_MAX_SASL_MESSAGE_LENGTH`).
const SASL_MESSAGE_MAX: usize = 1024;
/// Pause between questions to a writer that does not answer.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// How clients prove themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// By SCRAM-SHA-256, against the configured secret or the server's verifier.
    #[default]
    ScramSha256,
    /// Not at all. For demonstrations on loopback.
    Trust,
}

/// A role whose secret is configured rather than read from the server.
#[derive(Debug, Clone)]
pub struct StaticUser {
    /// The role.
    pub name: RoleName,
    /// Its secret.
    pub secret: StaticSecret,
}

/// What is configured of a static user.
#[derive(Debug, Clone)]
pub enum StaticSecret {
    /// The password: it also logs in upstream, by whatever method the server asks for.
    Password(Secret),
    /// A verifier: upstream the recovered key logs in.
    Verifier(Verifier),
}

/// What an [`Authenticator`] is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How clients prove themselves.
    pub method: Method,
    /// Roles with configured secrets; they come before what the server says.
    pub static_users: Vec<StaticUser>,
    /// Roles that may change things on the console.
    pub admin_users: HashSet<String>,
    /// Roles that may look at everything on the console.
    pub stats_users: HashSet<String>,
    /// The user id that the console lets in over the Unix socket without a password: our own.
    pub console_uid: Option<u32>,
    /// Time for a client to prove itself (PostgreSQL's `authentication_timeout`).
    pub timeout: Duration,
    /// Time for one answer of the writer about a role.
    pub lookup_timeout: Duration,
    /// How long a log-in waits for a writer when nothing is known of its role.
    pub hold_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            method: Method::default(),
            static_users: Vec::new(),
            admin_users: HashSet::new(),
            stats_users: HashSet::new(),
            console_uid: None,
            timeout: Duration::from_secs(60),
            lookup_timeout: Duration::from_secs(2),
            hold_timeout: Duration::from_secs(30),
        }
    }
}

/// Where a client wants to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// To a database.
    Database,
    /// To our own console.
    Console,
}

/// A client that has proved itself; AuthenticationOk has not been sent yet.
#[derive(Debug)]
pub struct Authenticated {
    /// Its role.
    pub user: RoleName,
    /// What logs the role in to a server.
    pub proof: Proof,
    /// What it may do on the console.
    pub privilege: Privilege,
}

/// Why a client did not get in. It has been told; this is for the log.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Refused, and told so.
    #[error("{complaint}{}{why}", if why.is_empty() { "" } else { "; " })]
    Refused {
        /// What it was told.
        complaint: Complaint,
        /// What it was not told.
        why: String,
    },
    /// The client went away, as those do that first have to ask for a password.
    #[error("the client went away: {0}")]
    Gone(#[source] io::Error),
}

/// Authenticates clients.
pub struct Authenticator {
    method: Method,
    static_users: HashMap<RoleName, Static>,
    admin_users: HashSet<String>,
    stats_users: HashSet<String>,
    console_uid: Option<u32>,
    timeout: Duration,
    hold_timeout: Duration,
    verifiers: Arc<Verifiers>,
    mock_secret: [u8; 32],
}

struct Static {
    verifier: Verifier,
    password: Option<Secret>,
}

impl Authenticator {
    /// Makes one; verifiers of roles that are not static are read where `source` says.
    pub fn new(settings: Settings, source: Arc<dyn VerifierSource>, events: Events) -> Self {
        let verifiers = Verifiers::new(source, settings.lookup_timeout, events);
        Self::with(settings, Arc::new(verifiers), sys::random_bytes())
    }

    /// The same with other settings (a reload), the verifiers seen so far kept. `lookup_timeout`
    /// stays as it was.
    pub fn reconfigured(&self, settings: Settings) -> Self {
        Self::with(settings, self.verifiers.clone(), self.mock_secret)
    }

    /// Roles as they were last seen: they get in while no server can be asked.
    pub fn remember(&self, roles: impl IntoIterator<Item = (RoleName, Role)>) {
        self.verifiers.remember(roles);
    }

    fn with(settings: Settings, verifiers: Arc<Verifiers>, mock_secret: [u8; 32]) -> Self {
        let static_users = settings.static_users.into_iter().map(|user| {
            let known = match user.secret {
                // The salt is made once: asking twice must not tell configured roles from others.
                StaticSecret::Password(password) => Static {
                    verifier: Verifier::from_password(
                        password.expose().as_bytes(),
                        &sys::random_bytes::<{ Verifier::SALT_LENGTH }>(),
                        Verifier::DEFAULT_ITERATIONS,
                    ),
                    password: Some(password),
                },
                StaticSecret::Verifier(verifier) => Static { verifier, password: None },
            };
            (user.name, known)
        });
        Self {
            method: settings.method,
            static_users: static_users.collect(),
            admin_users: settings.admin_users,
            stats_users: settings.stats_users,
            console_uid: settings.console_uid,
            timeout: settings.timeout,
            hold_timeout: settings.hold_timeout,
            verifiers,
            mock_secret,
        }
    }

    /// Negotiates the protocol version where that is due and runs the exchange. `buffered` holds
    /// what the client has sent already, and afterwards what it has sent too early for us.
    ///
    /// On success the client waits for AuthenticationOk, which the session sends once its link is
    /// up; on failure it has been told why.
    pub async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        buffered: &mut BytesMut,
        startup: &Startup,
        peer: Peer,
        door: Door,
    ) -> Result<Authenticated, AuthError> {
        let mut client = Client { stream, buffered, out: BytesMut::new() };
        if let Some(negotiation) = startup.negotiation() {
            message::negotiate_protocol_version(&mut client.out, &negotiation);
        }
        let done = tokio::time::timeout(self.timeout, self.run(&mut client, startup, peer, door)).await;
        let refused = match done {
            Ok(Ok(authenticated)) => return Ok(authenticated),
            Ok(Err(AuthError::Gone(error))) => return Err(AuthError::Gone(error)),
            Ok(Err(refused @ AuthError::Refused { .. })) => refused,
            Err(_) => refused(
                Complaint::fatal(sqlstate::QUERY_CANCELED, "canceling authentication due to timeout"),
                "",
            ),
        };
        if let AuthError::Refused { complaint, .. } = &refused {
            complaint.put(&mut client.out);
            // Whether the client still hears it, and how fast it reads, changes nothing.
            let _ = tokio::time::timeout(Duration::from_secs(5), client.send()).await;
        }
        Err(refused)
    }

    async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        client: &mut Client<'_, S>,
        startup: &Startup,
        peer: Peer,
        door: Door,
    ) -> Result<Authenticated, AuthError> {
        let is_ourselves =
            matches!((peer, self.console_uid), (Peer::Unix { uid: Some(uid) }, Some(own)) if uid == own);
        let name = role_name(&startup.user);
        match (door, self.method, name) {
            (Door::Console, _, Some(user)) if is_ourselves => {
                client.send().await?;
                Ok(Authenticated { user, proof: Proof::None, privilege: Privilege::Admin })
            }
            (_, Method::Trust, Some(user)) => {
                client.send().await?;
                let proof = match self.static_users.get(&user).and_then(|known| known.password.clone()) {
                    Some(password) => Proof::Password(password),
                    None => Proof::None,
                };
                Ok(self.admitted(user, proof))
            }
            (_, Method::Trust, None) => Err(refused(wrong_password(&startup.user), "not a role name")),
            (_, Method::ScramSha256, name) => {
                let test = self.test(&startup.user, name.as_ref()).await?;
                let keys = exchange(client, &startup.user, test).await?;
                let user = name.ok_or_else(|| refused(wrong_password(&startup.user), "not a role name"))?;
                let proof = match self.static_users.get(&user).and_then(|known| known.password.clone()) {
                    Some(password) => Proof::Password(password),
                    None => Proof::ScramKeys { client_key: keys.client_key, server_key: keys.server_key },
                };
                Ok(self.admitted(user, proof))
            }
        }
    }

    /// What the client has to pass.
    async fn test(&self, user: &[u8], name: Option<&RoleName>) -> Result<Test, AuthError> {
        if let Some(known) = name.and_then(|name| self.static_users.get(name)) {
            return Ok(Test { verifier: known.verifier.clone(), standing: Standing::Genuine, why: "" });
        }
        let role = match name {
            Some(name) => self.look_up(name).await?,
            None => None,
        };
        plan(user, role.as_deref(), &self.mock_secret, sys::now()).map_err(|complaint| refused(complaint, ""))
    }

    async fn look_up(&self, name: &RoleName) -> Result<Option<Arc<Role>>, AuthError> {
        let deadline = Instant::now() + self.hold_timeout;
        loop {
            let unavailable = match self.verifiers.look_up(name).await {
                Ok(role) => return Ok(role),
                Err(unavailable) => unavailable,
            };
            if unavailable.retry == Retry::Never || Instant::now() + ASK_AGAIN > deadline {
                let complaint = Complaint::fatal(
                    sqlstate::CANNOT_CONNECT_NOW,
                    "no database server can be asked for passwords now",
                );
                return Err(refused(complaint, unavailable.to_string()));
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    fn admitted(&self, user: RoleName, proof: Proof) -> Authenticated {
        let privilege = match user.as_str() {
            name if self.admin_users.contains(name) => Privilege::Admin,
            name if self.stats_users.contains(name) => Privilege::Stats,
            _ => Privilege::Ordinary,
        };
        Authenticated { user, proof, privilege }
    }
}

/// The exchange itself. `user` is for the refusal's text only.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut Client<'_, S>,
    user: &[u8],
    test: Test,
) -> Result<scram::Keys, AuthError> {
    let judged = |refusal| match refusal {
        Refusal::WrongPassword if test.why.is_empty() => refused(wrong_password(user), "wrong password"),
        Refusal::WrongPassword => refused(wrong_password(user), test.why),
        Refusal::Malformed { code, message, detail } => {
            let complaint = Complaint::fatal(code, message);
            refused(Complaint { detail: detail.map(Into::into), ..complaint }, "")
        }
    };
    message::authentication_sasl(&mut client.out, &[scram::SCRAM_SHA_256]);
    client.send().await?;
    let mut first = client.sasl_message(user).await?;
    let nonce = scram::base64(&sys::random_bytes::<18>());
    let client_first = match initial_response(&mut first)? {
        Some(data) => data,
        // The mechanism without data: an empty challenge, and the data comes next.
        None => {
            message::authentication_sasl_continue(&mut client.out, b"");
            client.send().await?;
            client.sasl_message(user).await?
        }
    };
    let (exchange, server_first) =
        Exchange::start(test.verifier, test.standing, &client_first, &nonce).map_err(judged)?;
    message::authentication_sasl_continue(&mut client.out, server_first.as_bytes());
    client.send().await?;
    let accepted = exchange.finish(&client.sasl_message(user).await?).map_err(judged)?;
    message::authentication_sasl_final(&mut client.out, accepted.server_final.as_bytes());
    client.send().await?;
    Ok(accepted.keys)
}

/// Body of a SASLInitialResponse: mechanism, length of the data or -1, data.
fn initial_response(body: &mut Bytes) -> Result<Option<Bytes>, AuthError> {
    let malformed = |text| refused(Complaint::fatal(sqlstate::PROTOCOL_VIOLATION, text), "");
    let (mechanism, _) = frame::cstring(body).ok_or_else(|| malformed("invalid string in message"))?;
    if mechanism != scram::SCRAM_SHA_256.as_bytes() {
        return Err(malformed("client selected an invalid SASL authentication mechanism"));
    }
    body.advance(mechanism.len() + 1);
    let length = body.try_get_i32().map_err(|_| malformed("insufficient data left in message"))?;
    match usize::try_from(length) {
        Err(_) if length == -1 && body.is_empty() => Ok(None),
        Ok(length) if length == body.len() => Ok(Some(body.clone())),
        Ok(length) if length > body.len() => Err(malformed("insufficient data left in message")),
        Ok(_) | Err(_) => Err(malformed("invalid message format")),
    }
}

/// The client's side of the connection during the exchange.
struct Client<'a, S> {
    stream: &'a mut S,
    buffered: &'a mut BytesMut,
    out: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<'_, S> {
    async fn send(&mut self) -> Result<(), AuthError> {
        self.stream.write_all_buf(&mut self.out).await.map_err(AuthError::Gone)?;
        self.stream.flush().await.map_err(AuthError::Gone)
    }

    /// Body of the next message, which must be a SASLInitialResponse or SASLResponse.
    async fn sasl_message(&mut self, user: &[u8]) -> Result<Bytes, AuthError> {
        loop {
            match frame::head(self.buffered) {
                Head::Frame { tag, .. } | Head::Bad { tag, .. } if tag != b'p' => {
                    let text = format!("expected SASL response, got message type {tag}");
                    return Err(refused(Complaint::fatal(sqlstate::PROTOCOL_VIOLATION, text), ""));
                }
                Head::Frame { total, .. } if total <= frame::HEADER + SASL_MESSAGE_MAX => {
                    if self.buffered.len() >= total {
                        return Ok(self.buffered.split_to(total).freeze().slice(frame::HEADER..));
                    }
                }
                // As PostgreSQL: the length goes to the log, the client has just failed.
                Head::Frame { .. } | Head::Bad { .. } => {
                    return Err(refused(wrong_password(user), "invalid length of a SASL message"));
                }
                Head::Partial => {}
            }
            if self.stream.read_buf(self.buffered).await.map_err(AuthError::Gone)? == 0 {
                return Err(AuthError::Gone(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

fn refused(complaint: Complaint, why: impl Into<String>) -> AuthError {
    AuthError::Refused { complaint, why: why.into() }
}
