//! The same bytes to PostgreSQL and to the proxy, and the same answers.
//!
//! Conversations follow from their number. One that differs is shown as short as it can be made;
//! `DIFF_SEED=n cargo test --test differential one` holds it again. [`raw::compare`] lists what is unequal
//! by nature.

#[path = "../raw/mod.rs"]
mod raw;

mod every_cut;
mod generate;
mod stage;

use generate::Allowed;
use raw::stage::Mode;
use stage::Stage;

/// Conversations at a time.
const WORKERS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn the_answers_are_those_of_the_server() {
    Stage::start(Mode::Session, WORKERS).await.compare(0..150, Allowed::SessionState).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_they_are_where_links_change_hands() {
    Stage::start(Mode::Transaction, WORKERS).await.compare(300..400, Allowed::TransactionState).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: thousands of conversations"]
async fn thousands_of_conversations_in_session_mode() {
    Stage::start(Mode::Session, WORKERS).await.compare(1_000..4_000, Allowed::SessionState).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: thousands of conversations"]
async fn thousands_of_conversations_in_transaction_mode() {
    Stage::start(Mode::Transaction, WORKERS).await.compare(10_000..12_000, Allowed::TransactionState).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: thousands of conversations"]
async fn thousands_of_conversations_in_auto_mode() {
    Stage::start(Mode::Auto, WORKERS).await.compare(20_000..22_000, Allowed::SessionState).await;
}

/// Conversation `DIFF_SEED`, and `DIFF_COUNT` from there on, one after the other, in `DIFF_MODE`: session, transaction or auto.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: one conversation, DIFF_SEED"]
async fn one() {
    let seed = std::env::var("DIFF_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let (mode, allowed) = match std::env::var("DIFF_MODE").as_deref() {
        Ok("transaction") => (Mode::Transaction, Allowed::TransactionState),
        Ok("auto") => (Mode::Auto, Allowed::SessionState),
        _ => (Mode::Session, Allowed::SessionState),
    };
    let count = std::env::var("DIFF_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(1);
    Stage::start(mode, 1).await.compare(seed..seed + count, allowed).await;
}
