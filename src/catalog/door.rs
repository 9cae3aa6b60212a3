//! `cloud_mirror.door`: shuts application roles out of a mirror until it is promoted.
//!
//! The door is the privilege CONNECT: taken from PUBLIC and from every role that has it, except
//! our own login, and given back as it was. It stops new connections only; superusers walk
//! through it, which is why [`close`] names them.

use super::Error;
use super::sql::{identifier, is_missing};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient};

/// The row: who could connect before the door was closed, and will again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Door {
    /// Whether everybody could.
    pub public_could_connect: bool,
    /// Roles that could by a grant of their own.
    pub grantees: Vec<String>,
    /// Those among them that could hand the privilege on.
    pub grantable: Vec<String>,
}

/// What closing the door did, and what it cannot do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// What will be given back.
    pub door: Door,
    /// Roles other than ours that can log in all the same: superusers.
    pub walk_through: Vec<String>,
    /// Sessions of others that were in the database already, and still are.
    pub inside: u64,
}

/// Closes the door of the current database. Safe to call again: roles that have been granted
/// CONNECT since are shut out too and added to the row.
pub async fn close(client: &mut Client) -> Result<Closed, Error> {
    let transaction = client.transaction().await.map_err(Error::sql("begin to close the door"))?;
    let found = transaction
        .query_typed(
            "SELECT r.rolname::text, bool_or(a.is_grantable) \
             FROM pg_catalog.pg_database d, \
               pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) a \
             LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee \
             WHERE d.datname = pg_catalog.current_database() AND a.privilege_type = 'CONNECT' \
               AND (a.grantee = 0 OR r.rolname <> current_user) \
             GROUP BY r.rolname ORDER BY r.rolname",
            &[],
        )
        .await
        .map_err(Error::sql("read who may connect"))?;
    let mut door = read(&transaction).await?.unwrap_or_default();
    let mut revoked_from = Vec::new();
    for row in &found {
        let Some(role) = row.get::<_, Option<String>>(0) else {
            door.public_could_connect = true;
            revoked_from.push("PUBLIC".to_owned());
            continue;
        };
        revoked_from.push(identifier(&role));
        if row.get(1) && !door.grantable.contains(&role) {
            door.grantable.push(role.clone());
        }
        if !door.grantees.contains(&role) {
            door.grantees.push(role);
        }
    }
    plan(&transaction, &door).await?;
    let database = current_database(&transaction).await?;
    if !revoked_from.is_empty() {
        // CASCADE: every chain of grants starts at the owner, and the row has all its links.
        let sql = format!("REVOKE CONNECT ON DATABASE {database} FROM {} CASCADE", revoked_from.join(", "));
        transaction.batch_execute(&sql).await.map_err(Error::sql("revoke CONNECT"))?;
    }
    let we_can = transaction
        .query_typed_one(
            "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CONNECT')",
            &[],
        )
        .await
        .map_err(Error::sql("check our own CONNECT"))?;
    if !we_can.get::<_, bool>(0) {
        // We owned the privilege through PUBLIC or through a role we belong to.
        let sql = format!("GRANT CONNECT ON DATABASE {database} TO CURRENT_USER");
        transaction.batch_execute(&sql).await.map_err(Error::sql("grant CONNECT to ourselves"))?;
    }
    let left = transaction
        .query_typed_one(
            "SELECT ARRAY(SELECT rolname::text FROM pg_catalog.pg_roles \
                          WHERE rolsuper AND rolcanlogin AND rolname <> current_user ORDER BY 1), \
               (SELECT count(*) FROM pg_catalog.pg_stat_activity \
                WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid() \
                  AND usename <> current_user)",
            &[],
        )
        .await
        .map_err(Error::sql("list who can still log in"))?;
    let closed = Closed { door, walk_through: left.get(0), inside: left.get::<_, i64>(1) as u64 };
    transaction.commit().await.map_err(Error::sql("commit the closed door"))?;
    Ok(closed)
}

/// Opens the door: gives CONNECT back to those in the row that still exist, and forgets it.
/// `None` when it was open. A promotion does the same in its own transaction.
pub async fn open(client: &mut Client) -> Result<Option<Door>, Error> {
    let transaction = client.transaction().await.map_err(Error::sql("begin to open the door"))?;
    let Some(door) = read(&transaction).await? else {
        return Ok(None);
    };
    let database = current_database(&transaction).await?;
    let existing = transaction
        .query_typed_one(
            "SELECT ARRAY(SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname = ANY ($1))",
            &[(&door.grantees, Type::TEXT_ARRAY)],
        )
        .await
        .map_err(Error::sql("look for the roles to let in"))?;
    let mut grants = String::new();
    if door.public_could_connect {
        grants += &format!("GRANT CONNECT ON DATABASE {database} TO PUBLIC;");
    }
    for role in existing.get::<_, Vec<String>>(0) {
        let option = if door.grantable.contains(&role) { " WITH GRANT OPTION" } else { "" };
        grants += &format!("GRANT CONNECT ON DATABASE {database} TO {}{option};", identifier(&role));
    }
    grants += "DELETE FROM cloud_mirror.door";
    transaction.batch_execute(&grants).await.map_err(Error::sql("give CONNECT back"))?;
    transaction.commit().await.map_err(Error::sql("commit the open door"))?;
    Ok(Some(door))
}

/// Reads the row; `None` when the door is open or our schema is absent.
pub async fn read(client: &(impl GenericClient + Sync)) -> Result<Option<Door>, Error> {
    let sql = "SELECT public_could_connect, grantees, grantable FROM cloud_mirror.door";
    match client.query_typed_opt(sql, &[]).await {
        Ok(row) => Ok(row.map(|row| Door {
            public_could_connect: row.get(0),
            grantees: row.get(1),
            grantable: row.get(2),
        })),
        Err(error) if is_missing(&error) => Ok(None),
        Err(source) => Err(Error::Sql { what: "read the door", source }),
    }
}

/// Says who will be let in, without letting anybody in: for a bootstrap that knows from the
/// source who may connect there. Call it after [`close`].
pub async fn plan(client: &(impl GenericClient + Sync), door: &Door) -> Result<(), Error> {
    client
        .execute_typed(
            "INSERT INTO cloud_mirror.door (public_could_connect, grantees, grantable) \
             VALUES ($1, $2, $3) ON CONFLICT (only_row) DO UPDATE SET \
               public_could_connect = excluded.public_could_connect, grantees = excluded.grantees, \
               grantable = excluded.grantable",
            &[
                (&door.public_could_connect, Type::BOOL),
                (&door.grantees, Type::TEXT_ARRAY),
                (&door.grantable, Type::TEXT_ARRAY),
            ],
        )
        .await
        .map_err(Error::sql("write the door"))?;
    Ok(())
}

async fn current_database(client: &(impl GenericClient + Sync)) -> Result<String, Error> {
    let row = client
        .query_typed_one("SELECT pg_catalog.current_database()::text", &[])
        .await
        .map_err(Error::sql("ask for the name of the database"))?;
    Ok(identifier(row.get(0)))
}
