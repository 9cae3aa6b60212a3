//! What "healthy" means, per path.

use crate::base::Site;
use crate::observe::Facts;
use crate::observe::status::Status;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde::Serialize;

/// The answer to a check.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Health {
    check: &'static str,
    ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    writer: Option<Site>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
}

impl Health {
    /// The answer itself is the proof.
    pub fn alive() -> Self {
        Self { check: "livez", ok: true, reason: None, writer: None, epoch: None }
    }

    pub fn ready(facts: &dyn Facts) -> Self {
        let status = facts.status();
        let reason = if !facts.accepts_clients() {
            Some("new clients are not let in: starting or stopping".to_owned())
        } else if !status.upstreams.iter().any(|upstream| upstream.is_up) {
            Some("no server is up".to_owned())
        } else {
            None
        };
        Self::of("readyz", &status, reason)
    }

    /// What a DNS or CDN check reads: this site should get HTTP traffic.
    pub fn healthy(facts: &dyn Facts) -> Self {
        let status = facts.status();
        let reason = if !facts.accepts_clients() {
            Some("new clients are not let in: starting or stopping".to_owned())
        } else {
            why_no_writes(facts, &status).or_else(|| why_writer_is_down(&status))
        };
        Self::of("healthz", &status, reason)
    }

    pub fn primary(facts: &dyn Facts) -> Self {
        let status = facts.status();
        let reason = why_no_writes(facts, &status);
        Self::of("primary", &status, reason)
    }

    fn of(check: &'static str, status: &Status, reason: Option<String>) -> Self {
        let epoch = status.lease.as_ref().map(|lease| lease.epoch.0);
        Self { check, ok: reason.is_none(), reason, writer: status.writer, epoch }
    }
}

fn why_no_writes(facts: &dyn Facts, status: &Status) -> Option<String> {
    // Asked last: the document may be a moment older than the deadline.
    match (status.writer, facts.may_write_now()) {
        (Some(_), true) => None,
        (None, _) => Some(format!("no server is the writer ({})", status.state)),
        (Some(_), false) => Some("the right to write has ended or is not held".to_owned()),
    }
}

fn why_writer_is_down(status: &Status) -> Option<String> {
    let writer = status.upstreams.iter().find(|upstream| Some(upstream.upstream) == status.writer)?;
    (!writer.is_up).then(|| format!("the server at {} does not answer", writer.address))
}

impl IntoResponse for Health {
    fn into_response(self) -> Response {
        let code = if self.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (code, Json(self)).into_response()
    }
}
