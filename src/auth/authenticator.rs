//! Who gets in, and what of it gets the client into a server.

use super::approach::Approach;
use super::exchange::{Challenge, Client};
use super::plan::{
    Asking, MayLogIn, Plan, Role, StoredPassword, Test, failed, not_permitted, plan, role_name,
    wrong_password,
};
use super::rules::{Choice, Question, choose};
use super::settings::Settings;
use super::verifiers::{LookedUp, Unavailable, VerifierSource, Verifiers};
use crate::backend::Proof;
use crate::base::{Moment, Privilege, Retry, RoleName, Secret, sqlstate};
use crate::config::hba::{AuthMethod, CertificateName, IdentMaps, Rule, WantedCertificate};
use crate::observe::events::Events;
use crate::sys::{self, Map, Peer};
use crate::wire::md5;
use crate::wire::message::{self, Complaint};
use crate::wire::scram::Verifier;
use crate::wire::scram::server::Standing;
use crate::wire::startup::{Replication, Startup};
use bytes::BytesMut;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

/// Pause between questions to a writer that does not answer.
const ASK_AGAIN: Duration = Duration::from_millis(200);

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

pub(super) fn refused(complaint: Complaint, why: impl Into<String>) -> AuthError {
    AuthError::Refused { complaint, why: why.into() }
}

/// Authenticates clients.
pub struct Authenticator {
    rules: Vec<Rule>,
    maps: IdentMaps,
    static_users: Map<RoleName, Arc<Role>>,
    admin_users: HashSet<String>,
    stats_users: HashSet<String>,
    console_uid: Option<u32>,
    timeout: Duration,
    hold_timeout: Duration,
    cache: Duration,
    verifiers: Arc<Verifiers>,
    derived: Arc<Derived>,
    mock_secret: [u8; 32],
}

/// Verifiers of passwords that are known, made at the first log-in of each role: 4096 rounds of
/// hashing. The salt is a function of the role's name, as for roles that do not exist: asking
/// twice must not tell them apart.
type Derived = Mutex<HashMap<RoleName, (Secret, Verifier)>>;

/// What an exchange has shown.
struct Proved {
    proof: Proof,
    may_log_in: MayLogIn,
}

impl Authenticator {
    /// Makes one; verifiers of roles that are not static are read where `source` says.
    pub fn new(settings: Settings, source: Arc<dyn VerifierSource>, events: Events) -> Self {
        let verifiers = Verifiers::new(source, settings.lookup_timeout, events);
        let mock_secret = settings.mock_secret.unwrap_or_else(sys::random_bytes);
        Self::with(settings, Arc::new(verifiers), Arc::default(), mock_secret)
    }

    /// The same with other settings (a reload), the verifiers seen so far kept. `lookup_timeout`
    /// and `mock_secret` stay as they were.
    pub fn reconfigured(&self, settings: Settings) -> Self {
        Self::with(settings, self.verifiers.clone(), self.derived.clone(), self.mock_secret)
    }

    /// Roles as they were last seen: they get in while no server can be asked.
    pub fn remember(&self, roles: impl IntoIterator<Item = (RoleName, Role)>) {
        self.verifiers.remember(roles);
    }

    fn with(
        settings: Settings,
        verifiers: Arc<Verifiers>,
        derived: Arc<Derived>,
        mock_secret: [u8; 32],
    ) -> Self {
        let rules = settings.effective_rules();
        let static_users = settings.static_users.into_iter().map(|user| {
            let password = user.secret.into();
            let role = Role { password, valid_until: Moment::NEVER, may_log_in: MayLogIn::Yes };
            (user.name, Arc::new(role))
        });
        Self {
            rules,
            maps: settings.maps,
            static_users: static_users.collect(),
            admin_users: settings.admin_users,
            stats_users: settings.stats_users,
            console_uid: settings.console_uid,
            timeout: settings.timeout,
            hold_timeout: settings.hold_timeout,
            cache: settings.cache,
            verifiers,
            derived,
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
        approach: &Approach,
        door: Door,
    ) -> Result<Authenticated, AuthError> {
        let mut client = Client { stream, buffered, out: BytesMut::new(), user: &startup.user };
        if let Some(negotiation) = startup.negotiation() {
            message::negotiate_protocol_version(&mut client.out, &negotiation);
        }
        let done = tokio::time::timeout(self.timeout, self.run(&mut client, startup, approach, door)).await;
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
        approach: &Approach,
        door: Door,
    ) -> Result<Authenticated, AuthError> {
        let is_ourselves = matches!((approach.peer, self.console_uid), (Peer::Unix { uid: Some(uid) }, Some(own)) if uid == own);
        let name = role_name(&startup.user);
        if let (Door::Console, true, Some(user)) = (door, is_ourselves, &name) {
            client.send().await?;
            return Ok(Authenticated { user: user.clone(), proof: Proof::None, privilege: Privilege::Admin });
        }
        let text = String::from_utf8_lossy(&startup.user);
        let database = String::from_utf8_lossy(&startup.database);
        let question = Question {
            approach,
            user: &text,
            database: &database,
            is_physical: startup.replication == Replication::Physical,
            roles: None,
            networks: &sys::networks,
        };
        let (rule, roles) = self.rule(&question, name.as_ref()).await?;
        self.check_certificate(rule, &question)?;
        let proved = self.prove(client, rule, &question, name.as_ref(), &roles).await?;
        let Some(user) = name else { return Err(refused(wrong_password(client.user), "not a role name")) };
        if rule.certificate == WantedCertificate::Named && rule.method != AuthMethod::Certificate {
            let allowed = self.is_named(rule, &question, &roles);
            if !allowed {
                return Err(refused(wrong_password(client.user), "the certificate names somebody else"));
            }
        }
        if proved.may_log_in == MayLogIn::No {
            return Err(refused(not_permitted(&user), ""));
        }
        client.send().await?;
        let privilege = match user.as_str() {
            name if self.admin_users.contains(name) => Privilege::Admin,
            name if self.stats_users.contains(name) => Privilege::Stats,
            _ => Privilege::Ordinary,
        };
        Ok(Authenticated { user, proof: proved.proof, privilege })
    }

    /// The rule that decides, and the roles that the client is a member of where they were needed.
    async fn rule(
        &self,
        question: &Question<'_>,
        name: Option<&RoleName>,
    ) -> Result<(&Rule, Vec<String>), AuthError> {
        let mut roles = Vec::new();
        let mut choice = choose(&self.rules, question);
        if choice == Choice::NeedsRoles {
            if let Some(name) = name {
                roles = self.until_answered(|| self.verifiers.memberships(name)).await?;
            }
            choice = choose(&self.rules, &Question { roles: Some(&roles), ..*question });
        }
        match choice {
            Choice::Rule(rule) if rule.method == AuthMethod::Reject => {
                Err(refused(question.rejected(), format!("the rule at {}", rule.at)))
            }
            Choice::Rule(rule) => {
                // Names in the map may ask for roles too.
                if roles.is_empty()
                    && self.maps.asks_for_roles(rule.map.as_deref())
                    && let Some(name) = name
                {
                    roles = self.until_answered(|| self.verifiers.memberships(name)).await?;
                }
                Ok((rule, roles))
            }
            Choice::None | Choice::NeedsRoles => Err(refused(question.no_entry(), "")),
        }
    }

    fn check_certificate(&self, rule: &Rule, question: &Question<'_>) -> Result<(), AuthError> {
        match (rule.certificate, question.approach.certificate()) {
            (WantedCertificate::None, _) | (_, Some(_)) => Ok(()),
            (WantedCertificate::Signed | WantedCertificate::Named, None) => {
                let text = "connection requires a valid client certificate";
                Err(refused(Complaint::fatal(sqlstate::INVALID_AUTHORIZATION, text), ""))
            }
        }
    }

    /// Whether the client's certificate may stand for the role.
    fn is_named(&self, rule: &Rule, question: &Question<'_>, roles: &[String]) -> bool {
        let Some(names) = question.approach.certificate() else { return false };
        let outside: Vec<&str> = match rule.name {
            CertificateName::Common => names.common.iter().map(String::as_str).collect(),
            CertificateName::Distinguished => vec![&names.distinguished],
            CertificateName::Alternative => names.alternative.iter().map(String::as_str).collect(),
        };
        outside.iter().any(|outside| self.may_be(rule, outside, question, roles))
    }

    fn may_be(&self, rule: &Rule, outside: &str, question: &Question<'_>, roles: &[String]) -> bool {
        let is_member = |role: &str| roles.iter().any(|known| known == role);
        self.maps.allows(rule.map.as_deref(), outside, question.user, is_member)
    }

    async fn prove<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        client: &mut Client<'_, S>,
        rule: &Rule,
        question: &Question<'_>,
        name: Option<&RoleName>,
        roles: &[String],
    ) -> Result<Proved, AuthError> {
        let asking = match rule.method {
            AuthMethod::Trust => return Ok(self.without_password(name)),
            AuthMethod::Reject => return Err(refused(question.rejected(), "")),
            AuthMethod::Certificate => {
                return match self.is_named(rule, question, roles) {
                    true => Ok(self.without_password(name)),
                    false => Err(refused(
                        failed("certificate", client.user),
                        "the certificate names somebody else",
                    )),
                };
            }
            AuthMethod::Peer => {
                let uid = match question.approach.peer {
                    Peer::Unix { uid } => uid,
                    Peer::Tcp(_) | Peer::Unknown => None,
                };
                let outside = uid.and_then(sys::user_name);
                return match outside {
                    Some(outside) if self.may_be(rule, &outside, question, roles) => {
                        Ok(self.without_password(name))
                    }
                    other => {
                        let why = format!("the operating system's user is {other:?}");
                        Err(refused(failed("Peer", client.user), why))
                    }
                };
            }
            AuthMethod::ScramSha256 => Asking::Scram,
            AuthMethod::Md5 => Asking::Md5,
            AuthMethod::Password => Asking::Clear,
        };
        let (role, is_cached) = self.role(name).await?;
        let role = role.as_deref();
        let plan = plan(asking, client.user, role, &self.mock_secret, sys::now())
            .map_err(|complaint| refused(complaint, ""))?;
        let proved = self.test(client, plan, question, name).await;
        if let (Err(AuthError::Refused { .. }), true, Some(name)) = (&proved, is_cached, name) {
            // Maybe the password was changed: the next attempt gets what the server says then.
            self.verifiers.forget(name);
        }
        let may_log_in = role.map_or(MayLogIn::No, |role| role.may_log_in);
        Ok(Proved { proof: proved?, may_log_in })
    }

    /// Proof of a client that showed no password: what is configured for its role.
    fn without_password(&self, name: Option<&RoleName>) -> Proved {
        let known = name.and_then(|name| self.static_users.get(name)).map(|role| &role.password);
        let proof = match known {
            Some(StoredPassword::Plain(password)) => Proof::Password(password.clone()),
            Some(StoredPassword::Md5(hash)) => Proof::Md5Hash(hash.clone()),
            Some(StoredPassword::None | StoredPassword::Scram(_) | StoredPassword::Unreadable) | None => {
                Proof::None
            }
        };
        Proved { proof, may_log_in: MayLogIn::Yes }
    }

    /// What is known of a role, and whether it comes from a cache.
    async fn role(&self, name: Option<&RoleName>) -> Result<(Option<Arc<Role>>, bool), AuthError> {
        let Some(name) = name else { return Ok((None, false)) };
        if let Some(known) = self.static_users.get(name) {
            return Ok((Some(known.clone()), false));
        }
        let LookedUp { role, is_cached } =
            self.until_answered(|| self.verifiers.look_up(name, self.cache)).await?;
        Ok((role, is_cached))
    }

    /// Asks until a server answers, at most for `hold_timeout`.
    async fn until_answered<T, F: Future<Output = Result<T, Unavailable>>>(
        &self,
        ask: impl Fn() -> F,
    ) -> Result<T, AuthError> {
        let deadline = Instant::now() + self.hold_timeout;
        loop {
            let unavailable = match ask().await {
                Ok(answer) => return Ok(answer),
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

    async fn test<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        client: &mut Client<'_, S>,
        plan: Plan,
        question: &Question<'_>,
        name: Option<&RoleName>,
    ) -> Result<Proof, AuthError> {
        let Plan { test, standing, why } = plan;
        let end_point = question.approach.end_point();
        match test {
            Test::Scram(verifier) => {
                let keys = client.scram(Challenge { verifier, standing, why }, end_point).await?;
                Ok(Proof::ScramKeys { client_key: keys.client_key, server_key: keys.server_key })
            }
            Test::ScramOf(password) => {
                let verifier = self.derive(name, &password, client.user).await;
                client.scram(Challenge { verifier, standing, why }, end_point).await?;
                Ok(Proof::Password(password))
            }
            Test::Md5(hash) => client.md5(&hash).await.map(|()| Proof::Md5Hash(hash)),
            Test::Md5Of(password) => {
                let hash = Secret::new(md5::stored(client.user, password.expose().as_bytes()));
                client.md5(&hash).await.map(|()| Proof::Password(password))
            }
            Test::Clear(stored) => {
                let password = client.cleartext().await?;
                let fits = fits(stored, password.clone(), client.user.to_vec()).await;
                match standing {
                    Standing::Genuine if fits => Ok(Proof::Password(password)),
                    Standing::Genuine => Err(refused(wrong_password(client.user), "wrong password")),
                    Standing::Doomed => Err(refused(wrong_password(client.user), why)),
                }
            }
        }
    }

    async fn derive(&self, name: Option<&RoleName>, password: &Secret, user: &[u8]) -> Verifier {
        let known = || self.derived.lock().expect("no holder of the verifiers panics");
        if let Some(name) = name
            && let Some((of, verifier)) = known().get(name)
            && of == password
        {
            return verifier.clone();
        }
        let (salt, text) = (Verifier::mock(&self.mock_secret, user).salt().to_vec(), password.clone());
        let verifier = aside(move || {
            Verifier::from_password(text.expose().as_bytes(), &salt, Verifier::DEFAULT_ITERATIONS)
        })
        .await;
        if let Some(name) = name {
            known().insert(name.clone(), (password.clone(), verifier.clone()));
        }
        verifier
    }
}

/// Whether a password in clear text is the one that is stored.
async fn fits(stored: StoredPassword, password: Secret, user: Vec<u8>) -> bool {
    match stored {
        StoredPassword::None | StoredPassword::Unreadable => false,
        StoredPassword::Plain(known) => {
            md5::is_equal(known.expose().as_bytes(), password.expose().as_bytes())
        }
        StoredPassword::Md5(hash) => {
            let shown = md5::stored(&user, password.expose().as_bytes());
            md5::is_equal(hash.expose().as_bytes(), shown.as_bytes())
        }
        StoredPassword::Scram(verifier) => aside(move || verifier.fits(password.expose().as_bytes())).await,
    }
}

/// Thousands of rounds of hashing: not on a thread that serves others.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
