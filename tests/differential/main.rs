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
async fn so_they_are_where_links_change_hands_unless_something_holds_them() {
    Stage::start(Mode::Auto, WORKERS).await.compare(500..600, Allowed::SessionState).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_they_are_where_transactions_have_one_statement() {
    Stage::start(Mode::Statement, WORKERS).await.compare(700..750, Allowed::Statements).await;
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

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: thousands of conversations"]
async fn thousands_of_conversations_in_statement_mode() {
    Stage::start(Mode::Statement, WORKERS).await.compare(30_000..32_000, Allowed::Statements).await;
}

/// Conversation `DIFF_SEED`, or `DIFF_COUNT` from there on, in `DIFF_MODE`: session, transaction, auto or
/// statement.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: one conversation, DIFF_SEED"]
async fn one() {
    let seed = std::env::var("DIFF_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let (mode, allowed) = match std::env::var("DIFF_MODE").as_deref() {
        Ok("transaction") => (Mode::Transaction, Allowed::TransactionState),
        Ok("auto") => (Mode::Auto, Allowed::SessionState),
        Ok("statement") => (Mode::Statement, Allowed::Statements),
        _ => (Mode::Session, Allowed::SessionState),
    };
    let count = std::env::var("DIFF_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(1);
    let workers = if count == 1 { 1 } else { WORKERS };
    Stage::start(mode, workers).await.compare(seed..seed + count, allowed).await;
}
