//! Health, status and metrics over HTTP, on loopback.
//!
//! Answers from [`Facts`] alone: it asks no server, waits for nothing and changes nothing. What each
//! path means stands in `health`; every answer is JSON but `/metrics`.
//!
//! | path | 200 when, else 503 |
//! |---|---|
//! | `/livez` | the process answers at all |
//! | `/readyz` | new clients are let in and some server is up |
//! | `/healthz` | HTTP traffic should be sent to this site: writes pass and the writer is up |
//! | `/primary` | a write may be acknowledged now: the deadline is compared when asked |
//! | `/status` | always: the whole document |
//! | `/metrics` | always: OpenMetrics text |

pub mod fetch;
mod health;

use crate::observe::{Facts, metrics, percentiles};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Router, ServiceExt};
use health::Health;
use std::future::Future;
use std::io;
use std::sync::Arc;
use tokio::net::TcpListener;

type Source = State<Arc<dyn Facts>>;

/// Serves `listener` until `stopped` is over, then lets requests that have begun finish.
pub async fn serve(
    listener: TcpListener,
    facts: Arc<dyn Facts>,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let service = ServiceExt::<axum::extract::Request>::into_make_service(router(facts));
    axum::serve(listener, service).with_graceful_shutdown(stopped).await
}

/// All paths, for GET and HEAD.
fn router(facts: Arc<dyn Facts>) -> Router {
    Router::new()
        .route("/livez", get(|| async { Health::alive() }))
        .route("/readyz", get(|State(facts): Source| async move { Health::ready(&*facts) }))
        .route("/healthz", get(|State(facts): Source| async move { Health::healthy(&*facts) }))
        .route("/primary", get(|State(facts): Source| async move { Health::primary(&*facts) }))
        .route("/status", get(|State(facts): Source| async move { Json(as_document(&*facts)) }))
        .route("/metrics", get(|State(facts): Source| async move { as_metrics(&*facts) }))
        .fallback(|| async { not_found() })
        .with_state(facts)
}

fn as_document(facts: &dyn Facts) -> percentiles::Document {
    percentiles::document(facts.status(), &facts.pools())
}

fn as_metrics(facts: &dyn Facts) -> Response {
    let text = metrics::render(&facts.status(), &facts.counters(), facts.pools());
    ([(header::CONTENT_TYPE, metrics::MEDIA_TYPE)], text).into_response()
}

fn not_found() -> Response {
    let paths = ["/livez", "/readyz", "/healthz", "/primary", "/status", "/metrics"];
    let body = serde_json::json!({ "error": "no such path", "paths": paths });
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

#[cfg(test)]
mod tests;
