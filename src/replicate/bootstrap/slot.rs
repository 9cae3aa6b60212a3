//! The slot and the snapshot it starts at.

use super::error::{Doing, Error};
use super::raw::{Kind, Raw};
use super::waiting::open_transactions;
use super::{Limits, Meter};
use crate::backend::control::Control;
use crate::base::{Lsn, SlotName};
use crate::replicate::MirrorSpec;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// The connection that made the slot. Its snapshot lives until the next command on it, or its
/// end, so nothing is ever sent on it again ("CREATE_REPLICATION_SLOT").
pub(super) struct Held {
    /// Where the stream begins.
    pub start: Lsn,
    /// For `SET TRANSACTION SNAPSHOT`.
    pub snapshot: String,
    _idle: Raw,
}

/// Makes the slot. Waits, bounded, for the transactions that were open before it, and names them.
pub(super) async fn create(
    spec: &MirrorSpec,
    source: &Control,
    major: u32,
    application_name: &str,
    limits: &Limits,
    meter: &Meter,
) -> Result<Held, Error> {
    let slot = spec.slot();
    let mut raw =
        Raw::connect(&spec.source, application_name, Kind::Replication, limits.connect_timeout).await?;
    let pid = raw.pid();
    let sql = command(&slot, major);
    let deadline = Instant::now() + limits.slot_wait;
    let mut look = interval(Duration::from_millis(500));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let rows = {
        let making = raw.query("create the slot", &sql, None);
        tokio::pin!(making);
        loop {
            tokio::select! {
                biased;
                rows = &mut making => break rows?,
                _ = look.tick() => {
                    let by = timeout(limits.connect_timeout, open_transactions(source, 0.0)).await
                        .unwrap_or_else(|_| Ok(Vec::new()))?;
                    meter.held_up(by.clone());
                    if Instant::now() >= deadline {
                        // It waits for a lock and would not notice that we have gone.
                        let end = "SELECT pg_terminate_backend($1)";
                        source.execute(end, &[&pid]).await.doing("give up the slot")?;
                        return Err(Error::HeldUp(by));
                    }
                }
            }
        }
    };
    meter.held_up(Vec::new());
    let wrong = || Error::link("create the slot", "an answer without a snapshot");
    // slot_name, consistent_point, snapshot_name, output_plugin
    let row = rows.first().ok_or_else(wrong)?;
    let column = |n: usize| row.get(n).cloned().flatten().ok_or_else(wrong);
    Ok(Held { start: column(1)?.parse().map_err(|_| wrong())?, snapshot: column(2)?, _idle: raw })
}

fn command(slot: &SlotName, major: u32) -> String {
    match major {
        // The list of options in brackets came with 15.
        ..15 => format!("CREATE_REPLICATION_SLOT {slot} LOGICAL pgoutput EXPORT_SNAPSHOT"),
        15.. => crate::wire::replication::create_slot(slot),
    }
}

/// Drops the slot if it is there, ending whoever uses it: only ever called for our own name, by
/// the holder of the mirror.
pub(super) async fn drop_slot(source: &Control, slot: &SlotName) -> Result<(), Error> {
    for _ in 0..100 {
        let found = source
            .query_opt("SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1", &[&slot.as_str()])
            .await
            .doing("look for the slot")?;
        let Some(row) = found else { return Ok(()) };
        if let Some(pid) = row.get::<_, Option<i32>>(0) {
            // Returns when it has ended, or after a second.
            source
                .execute("SELECT pg_terminate_backend($1, 1000)", &[&pid])
                .await
                .doing("end the walsender")?;
            continue;
        }
        match source.execute("SELECT pg_drop_replication_slot($1)", &[&slot.as_str()]).await {
            Ok(_) => return Ok(()),
            // Taken or gone between the two statements.
            Err(e) if e.code().is_some_and(|c| ["55006", "42704"].contains(&c.code())) => {}
            Err(source) => return Err(Error::Sql { doing: format!("drop the slot {slot}"), source }),
        }
    }
    Err(Error::link(format!("drop the slot {slot}"), "it is always in use"))
}
