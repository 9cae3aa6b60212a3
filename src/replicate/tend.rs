//! What is looked after beside the stream: sequences, roles, the source's position, what holds the
//! slot back and what cannot be followed. None of it stops the stream when it fails.

use super::bootstrap::{self, roles};
use super::error::Error;
use super::feedback::Shared;
use super::sequences;
use super::source::{self, Facts};
use super::stream::{Keep, PATIENCE};
use crate::backend::control::Control;
use crate::catalog::not_followed;
use crate::sys;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often sequences are read.
const EVERY: Duration = Duration::from_secs(1);
/// Every how many times it is looked for what holds the slot back.
const LOOK_EACH: u32 = 5;
/// Every how many times roles are made the same, and tables are looked for that came later.
const SYNC_EACH: u32 = 10;
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
    let mut hand = Hand {
        keep,
        source: keep.source("tend").await?,
        target: keep.target("tend", PATIENCE).await?,
        sequences: sequences::Memory::default(),
        roles: roles::Memory::default(),
        not_carried: Vec::new(),
        every_ten: Vec::new(),
    };
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turn = 0u32;
    loop {
        tick.tick().await;
        let once = hand.once(turn, shared, tended);
        timeout(PATIENCE, once).await.map_err(|_| Error::Deadline(PATIENCE))??;
        turn = turn.wrapping_add(1);
    }
}

/// The connections of this part, and what it remembers from turn to turn.
struct Hand<'a> {
    keep: &'a Keep,
    source: Control,
    target: Control,
    sequences: sequences::Memory,
    roles: roles::Memory,
    not_carried: Vec<String>,
    every_ten: Vec<String>,
}

impl Hand<'_> {
    async fn once(&mut self, turn: u32, shared: &Shared, tended: &Mutex<Tended>) -> Result<(), Error> {
        let spec = &self.keep.spec;
        let at = source::position(&self.source).await?;
        shared.gauge().on_source_position(at, sys::now());
        let mut warnings =
            sequences::poll(&self.source, &mut self.target, &spec.name, self.keep.epoch, &mut self.sequences)
                .await?
                .warnings();
        if turn.is_multiple_of(LOOK_EACH) {
            let facts = source::look(&self.source, spec).await?;
            let rows = not_followed::count(&self.target, &spec.name, facts.changed_there).await?;
            let mut tended = tended.lock().unwrap_or_else(PoisonError::into_inner);
            tended.rows_not_followed = rows;
            tended.facts = facts;
        }
        if turn.is_multiple_of(SYNC_EACH) {
            self.every_ten = roles::sync(spec, &self.source, &self.target, &mut self.roles).await?.warnings;
            let made_since = bootstrap::not_followed(spec, &self.source).await?;
            if !made_since.is_empty() {
                self.every_ten.push(format!(
                    "tables made since the mirror was made are not mirrored: {}; drop the mirror and create it again",
                    made_since.join(", ")
                ));
            }
        }
        if turn.is_multiple_of(SURVEY_EACH) {
            self.not_carried = bootstrap::not_carried(&self.source).await?;
        }
        warnings.extend(self.every_ten.iter().chain(&self.not_carried).cloned());
        tended.lock().unwrap_or_else(PoisonError::into_inner).warnings = warnings;
        Ok(())
    }
}
