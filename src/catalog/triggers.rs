//! `cloud_mirror.triggers`: what a bootstrap switched off, so that a promotion can switch it on.

use super::Error;
use super::sql::{identifier, is_missing};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient};

/// When a trigger fires, as `pg_trigger.tgenabled` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enabled {
    /// In sessions that are not replicas: the usual.
    Origin,
    /// Never.
    Disabled,
    /// In replica sessions only.
    Replica,
    /// Always.
    Always,
}

impl Enabled {
    /// The letter in `pg_trigger.tgenabled`.
    pub fn letter(self) -> i8 {
        (match self {
            Enabled::Origin => b'O',
            Enabled::Disabled => b'D',
            Enabled::Replica => b'R',
            Enabled::Always => b'A',
        }) as i8
    }

    /// From the letter; `None` for one PostgreSQL does not have.
    pub fn from_letter(letter: i8) -> Option<Self> {
        [Enabled::Origin, Enabled::Disabled, Enabled::Replica, Enabled::Always]
            .into_iter()
            .find(|enabled| enabled.letter() == letter)
    }

    /// What stands between ALTER TABLE and the trigger's name.
    fn clause(self) -> &'static str {
        match self {
            Enabled::Origin => "ENABLE TRIGGER",
            Enabled::Disabled => "DISABLE TRIGGER",
            Enabled::Replica => "ENABLE REPLICA TRIGGER",
            Enabled::Always => "ENABLE ALWAYS TRIGGER",
        }
    }
}

/// The row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// Schema of its table.
    pub schema: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// How it was enabled before.
    pub enabled: Enabled,
}

impl Trigger {
    /// The statement that enables it as it was. ONLY, because each partition has its own row.
    pub fn restoring(&self) -> String {
        self.altering(self.enabled)
    }

    /// The statement that switches it off.
    pub fn disabling(&self) -> String {
        self.altering(Enabled::Disabled)
    }

    fn altering(&self, to: Enabled) -> String {
        format!(
            "ALTER TABLE ONLY {}.{} {} {}",
            identifier(&self.schema),
            identifier(&self.table),
            to.clause(),
            identifier(&self.name)
        )
    }
}

/// Keeps how triggers were enabled; to be called in the transaction that switches them off. What
/// is kept already stays: it was read before anything was changed.
pub async fn record(client: &(impl GenericClient + Sync), triggers: &[Trigger]) -> Result<(), Error> {
    let column = |of: fn(&Trigger) -> &str| triggers.iter().map(of).collect::<Vec<_>>();
    let enabled: Vec<i8> = triggers.iter().map(|t| t.enabled.letter()).collect();
    client
        .execute_typed(
            "INSERT INTO cloud_mirror.triggers (schema_name, table_name, trigger_name, enabled) \
             SELECT * FROM unnest($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            &[
                (&column(|t| &t.schema), Type::TEXT_ARRAY),
                (&column(|t| &t.table), Type::TEXT_ARRAY),
                (&column(|t| &t.name), Type::TEXT_ARRAY),
                (&enabled, Type::CHAR_ARRAY),
            ],
        )
        .await
        .map_err(Error::sql("keep the triggers"))?;
    Ok(())
}

/// What is kept; empty where our schema is absent.
pub async fn read(client: &(impl GenericClient + Sync)) -> Result<Vec<Trigger>, Error> {
    let sql = "SELECT schema_name, table_name, trigger_name, enabled FROM cloud_mirror.triggers \
               ORDER BY 1, 2, 3";
    let rows = match client.query_typed(sql, &[]).await {
        Ok(rows) => rows,
        Err(error) if is_missing(&error) => return Ok(Vec::new()),
        Err(source) => return Err(Error::Sql { what: "read the triggers", source }),
    };
    rows.iter()
        .map(|row| {
            let letter: i8 = row.get(3);
            let enabled = Enabled::from_letter(letter).ok_or_else(|| Error::Corrupt {
                table: "triggers",
                found: format!("enabled {:?}", char::from(letter as u8)),
            })?;
            Ok(Trigger { schema: row.get(0), table: row.get(1), name: row.get(2), enabled })
        })
        .collect()
}

/// Enables every kept trigger as it was and forgets it, in one transaction; those whose table or
/// name is gone are forgotten. Returns how many were enabled. A promotion does the same in its
/// own transaction; this is for a mirror that is dropped.
pub async fn restore(client: &mut Client) -> Result<u64, Error> {
    let transaction = client.transaction().await.map_err(Error::sql("begin to restore triggers"))?;
    let kept = read(&transaction).await?;
    let mut restored = 0;
    for trigger in &kept {
        let found = transaction
            .query_typed_opt(
                "SELECT 1 FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid \
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = $1 AND c.relname = $2 AND t.tgname = $3",
                &[(&trigger.schema, Type::TEXT), (&trigger.table, Type::TEXT), (&trigger.name, Type::TEXT)],
            )
            .await
            .map_err(Error::sql("look for a trigger"))?;
        if found.is_some() {
            transaction.batch_execute(&trigger.restoring()).await.map_err(Error::sql("restore a trigger"))?;
            restored += 1;
        }
    }
    transaction
        .batch_execute("DELETE FROM cloud_mirror.triggers")
        .await
        .map_err(Error::sql("forget the triggers"))?;
    transaction.commit().await.map_err(Error::sql("commit the triggers"))?;
    Ok(restored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_is_enabled_the_way_it_was() {
        let trigger = |enabled| Trigger {
            schema: "sales".to_owned(),
            table: "Order".to_owned(),
            name: "log\"it".to_owned(),
            enabled,
        };
        let check = |enabled, expected: &str| assert_eq!(trigger(enabled).restoring(), expected);
        check(Enabled::Origin, r#"ALTER TABLE ONLY "sales"."Order" ENABLE TRIGGER "log""it""#);
        check(Enabled::Disabled, r#"ALTER TABLE ONLY "sales"."Order" DISABLE TRIGGER "log""it""#);
        check(Enabled::Replica, r#"ALTER TABLE ONLY "sales"."Order" ENABLE REPLICA TRIGGER "log""it""#);
        check(Enabled::Always, r#"ALTER TABLE ONLY "sales"."Order" ENABLE ALWAYS TRIGGER "log""it""#);
    }

    #[test]
    fn every_letter_reads_back() {
        for letter in *b"ODRA" {
            assert_eq!(Enabled::from_letter(letter as i8).map(Enabled::letter), Some(letter as i8));
        }
        assert_eq!(Enabled::from_letter(b'x' as i8), None);
    }
}
