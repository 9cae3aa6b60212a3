//! Who a client is, and what of it proves the same to a server.
//!
//! [`open`] takes a fresh connection through encryption requests, TLS and the start-up packet;
//! [`Authenticator`] runs the password exchange and returns an [`Authenticated`] role with the
//! [`Proof`](crate::backend::Proof) that logs it in upstream. No user list is needed: [`Verifiers`]
//! reads the verifier from the active writer, and the client's own exchange yields the key.
//!
//! This room never says AuthenticationOk (the session does, once its server link is up), never
//! keeps a password that it was not configured with, and never decides which server is the
//! writer: that comes through [`VerifierSource`].
//!
//! A connection is: opening → asked → proved, or refused with PostgreSQL's own code and text.
//! Start reading in `authenticator.rs`; `rules.rs` and `plan.rs` hold the decisions, `exchange.rs` the
//! messages.

mod approach;
mod authenticator;
mod client_tls;
mod exchange;
mod opening;
mod plan;
mod proxied;
mod rules;
mod settings;
mod verifiers;

pub use crate::config::hba::AuthMethod as Method;
pub use approach::{Approach, Channel, TlsChannel};
pub use authenticator::{AuthError, Authenticated, Authenticator, Door};
pub use client_tls::{ClientAuthority, ClientEncryption, ClientTls, ClientTlsError};
pub use opening::{OpenError, Opened, open};
pub use plan::{MayLogIn, Role, StoredPassword};
pub use proxied::TrustedProxies;
pub use settings::{Settings, StaticSecret, StaticUser};
pub use verifiers::{LookedUp, Lookup, Unavailable, VerifierSource, Verifiers};
