//! What a server and our login on it can do: read once, judged in [`super::preflight`].

use super::error::{Doing, Error};
use crate::backend::control::Control;

/// One server, one database on it, and our login, as they are now.
#[derive(Debug, Clone)]
pub(super) struct Capabilities {
    /// 15 for 15.18.
    pub major: u32,
    /// As `SHOW server_version` has it.
    pub version: String,
    /// Tells clusters apart.
    pub system: String,
    /// Raised by a promotion of a standby.
    pub timeline: i32,
    pub database: String,
    pub encoding: String,
    /// `LC_COLLATE`, provider and version of the database.
    pub collation: String,
    pub wal_level: String,
    /// Slots that may still be made.
    pub slots_free: i64,
    /// Walsenders that may still be started.
    pub senders_free: i64,
    /// -1 when a slot may keep the log for ever.
    pub slot_keep_mb: i64,
    pub login: String,
    pub is_superuser: bool,
    pub can_create_roles: bool,
    pub can_create_databases: bool,
    /// Owner of the database, or member of its owner.
    pub owns_database: bool,
    pub can_create_in_database: bool,
    /// Whether `session_replication_role = replica` may be set: without it triggers have to be
    /// disabled one by one.
    pub can_be_replica: bool,
}

const CAPABILITIES: &str = "
SELECT current_setting('server_version_num')::int / 10000,
    current_setting('server_version'),
    (SELECT system_identifier::text FROM pg_control_system()),
    (SELECT timeline_id FROM pg_control_checkpoint()),
    d.datname::text, pg_encoding_to_char(d.encoding)::text,
    concat_ws(' ', d.datcollate, d.datctype, to_jsonb(d)->>'datlocprovider', to_jsonb(d)->>'datcollversion'),
    current_setting('wal_level'),
    current_setting('max_replication_slots')::int8 - (SELECT count(*) FROM pg_replication_slots),
    current_setting('max_wal_senders')::int8 - (SELECT count(*) FROM pg_stat_replication),
    (SELECT setting::int8 FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
    r.rolname::text, r.rolsuper, r.rolcreaterole, r.rolcreatedb,
    r.rolsuper OR pg_has_role(r.oid, d.datdba, 'USAGE'),
    has_database_privilege(d.oid, 'CREATE')
FROM pg_database d, pg_roles r
WHERE d.datname = current_database() AND r.rolname = current_user";

impl Capabilities {
    /// Reads them.
    pub(super) async fn read(client: &Control) -> Result<Self, Error> {
        let row = client.query_one(CAPABILITIES, &[]).await.doing("read what the server can do")?;
        // Nothing changes: the setting ends with the transaction of this one message.
        let replica = "BEGIN; SET LOCAL session_replication_role = replica; COMMIT";
        let can_be_replica = match client.batch_execute(replica).await {
            Ok(()) => true,
            Err(refused) if refused.as_db_error().is_some() => {
                client.batch_execute("ROLLBACK").await.doing("probe session_replication_role")?;
                false
            }
            Err(source) => {
                return Err(Error::Sql { doing: "probe session_replication_role".to_owned(), source });
            }
        };
        let is_superuser = row.get(12);
        Ok(Self {
            major: u32::try_from(row.get::<_, i32>(0)).unwrap_or(0),
            version: row.get(1),
            system: row.get(2),
            timeline: row.get(3),
            database: row.get(4),
            encoding: row.get(5),
            collation: row.get(6),
            wal_level: row.get(7),
            slots_free: row.get(8),
            senders_free: row.get(9),
            slot_keep_mb: row.get::<_, Option<i64>>(10).unwrap_or(-1),
            login: row.get(11),
            is_superuser,
            can_create_roles: row.get::<_, bool>(13) || is_superuser,
            can_create_databases: row.get::<_, bool>(14) || is_superuser,
            owns_database: row.get(15),
            can_create_in_database: row.get(16),
            can_be_replica,
        })
    }
}
