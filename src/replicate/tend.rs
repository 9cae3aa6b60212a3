//! What is looked after beside the stream: sequences, the source's position, what holds the slot
//! back and what cannot be followed. None of it stops the stream when it fails.

use super::bootstrap;
use super::error::Error;
use super::feedback::Shared;
use super::source::{self, Facts};
use super::stream::{Keep, PATIENCE};
use crate::catalog::not_followed;
use crate::sys;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often sequences are read.
const EVERY: Duration = Duration::from_secs(1);
/// Every how many times all the rest is looked at.
const LOOK_EACH: u32 = 5;
/// Every how many times it is looked for what is not carried at all.
const SURVEY_EACH: u32 = 60;
/// After something failed.
const PAUSE: Duration = Duration::from_secs(2);

/// What was seen last.
#[derive(Debug, Clone, Default)]
pub struct Tended {
    /// What the source says of itself.
    pub facts: Facts,
    /// Rows changed in tables that are not followed, since the copy was made.
    pub rows_not_followed: u64,
    /// What is not carried, and what went wrong here.
    pub warnings: Vec<String>,
}

impl Tended {
    /// Nothing seen yet.
    pub fn shared() -> Arc<Mutex<Tended>> {
        Arc::default()
    }
}

/// Goes on for ever; ends by being dropped.
pub async fn tend(keep: &Keep, shared: &Shared, tended: &Mutex<Tended>) -> Infallible {
    loop {
        let Err(error) = look_after(keep, shared, tended).await;
        let warning = format!("sequences and warnings are not up to date: {error}");
        tended.lock().unwrap_or_else(PoisonError::into_inner).warnings = vec![warning];
        tokio::time::sleep(PAUSE).await;
    }
}

async fn look_after(keep: &Keep, shared: &Shared, tended: &Mutex<Tended>) -> Result<Infallible, Error> {
    let source = keep.source("tend").await?;
    let mut target = keep.target("tend", PATIENCE).await?;
    let mut memory = super::sequences::Memory::default();
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turn = 0u32;
    let mut not_carried = Vec::new();
    loop {
        tick.tick().await;
        let once = async {
            let at = source::position(&source).await?;
            shared.gauge().on_source_position(at, sys::now());
            let polled =
                super::sequences::poll(&source, &mut target, &keep.spec.name, keep.epoch, &mut memory)
                    .await
                    .map_err(|e| Error::Bootstrap(Box::new(e)))?;
            if turn.is_multiple_of(SURVEY_EACH) {
                not_carried =
                    bootstrap::not_carried(&source).await.map_err(|e| Error::Bootstrap(Box::new(e)))?;
            }
            let mut warnings = polled.warnings();
            warnings.extend_from_slice(&not_carried);
            if turn.is_multiple_of(LOOK_EACH) {
                let facts = source::look(&source, &keep.spec).await?;
                let rows = not_followed::count(&target, &keep.spec.name, facts.changed_there).await?;
                let mut tended = tended.lock().unwrap_or_else(PoisonError::into_inner);
                tended.rows_not_followed = rows;
                tended.facts = facts;
            }
            tended.lock().unwrap_or_else(PoisonError::into_inner).warnings = warnings;
            Ok::<_, Error>(())
        };
        timeout(PATIENCE, once).await.map_err(|_| Error::Deadline(PATIENCE))??;
        turn = turn.wrapping_add(1);
    }
}
