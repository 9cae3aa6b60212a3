//! Triggers on the target sleep until a promotion: the source has logged what they did already.

use super::error::{Doing, Error};
use crate::backend::control::Control;
use crate::catalog::triggers::{Enabled, Trigger, record};

/// Whether the applier sets `session_replication_role`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applier {
    /// It is a replica: only ALWAYS and REPLICA triggers would fire.
    Replica,
    /// It may not be one: every trigger would fire.
    Ordinary,
}

/// Disables what would fire under the applier and keeps how it was, in one transaction. A promotion
/// puts it back (`catalog::triggers::restore`). Constraint triggers of foreign keys belong to the
/// system and stay.
pub(super) async fn silence(target: &mut Control, applier: Applier) -> Result<usize, Error> {
    let letters = match applier {
        Applier::Replica => "'A', 'R'",
        Applier::Ordinary => "'O', 'A', 'R'",
    };
    let transaction = target.transaction().await.doing("disable triggers")?;
    let rows = transaction
        .query(
            &format!(
                "SELECT n.nspname::text, c.relname::text, t.tgname::text, t.tgenabled
                 FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE NOT t.tgisinternal AND t.tgenabled IN ({letters}) AND n.nspname <> 'cloud_mirror'
                    AND c.relkind IN ('r', 'p')
                 ORDER BY 1, 2, 3"
            ),
            &[],
        )
        .await
        .doing("list triggers")?;
    let triggers: Vec<Trigger> = rows
        .iter()
        .filter_map(|row| {
            let enabled = Enabled::from_letter(row.get(3))?;
            Some(Trigger { schema: row.get(0), table: row.get(1), name: row.get(2), enabled })
        })
        .collect();
    record(&transaction, &triggers).await?;
    for trigger in &triggers {
        transaction.batch_execute(&trigger.disabling()).await.doing("disable a trigger")?;
    }
    transaction.commit().await.doing("disable triggers")?;
    Ok(triggers.len())
}
