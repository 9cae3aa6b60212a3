//! The plain way home, with the application stopped: what the old local database has is kept
//! under another name, and the cloud's data goes into a new one.
//!
//! A list of [`Step`]s and a [`Journal`] in the state directory: after a crash the same call goes
//! on with the step it stood in, and every step may be done twice. Until [`Step::TakeHome`] the
//! cloud stays the owner, and nobody writes anywhere from [`Step::FenceCloud`] to
//! [`Step::OpenLocal`]. No database is dropped but an unfinished copy of our own.
//!
//! What needs other rooms comes as traits: [`Copier`] (the first copy of a mirror, in the reverse
//! direction) and [`Ownership`] (the lease).

mod journal;
mod server;
mod shape;

pub use journal::{Database, Journal, Step, pending};

use super::{Error, fence, lift};
use crate::backend::Party;
use crate::backend::control::Control;
use crate::base::Epoch;
use crate::catalog::{self, identifier};
use crate::observe::events::{Events, Level};
use async_trait::async_trait;
use shape::Shape;
use std::path::Path;
use std::time::Duration;
use tokio_postgres::types::Type;

/// Any error of another room.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Copies a whole database.
#[async_trait]
pub trait Copier: Send + Sync {
    /// Says what would keep [`Copier::copy`] from reading `source`, before anything is changed.
    async fn check(&self, source: &Party) -> Result<(), BoxError>;
    /// Copies all of `source`, in which nobody writes, into `target`, which is empty but for our
    /// own schema. What it makes on the source (slot, publications) it takes away again, also when
    /// it fails. It may leave triggers, door and progress on the target as a bootstrap does.
    async fn copy(&self, source: &Party, target: &Party) -> Result<(), BoxError>;
}

/// Moves the right to write.
#[async_trait]
pub trait Ownership: Send + Sync {
    /// Makes local the owner of an epoch later than `after`, durably, and returns it. Called again
    /// after a crash: an epoch that local owns already is returned as it is.
    async fn take_home(&self, after: Epoch) -> Result<Epoch, BoxError>;
}

/// A local database and the cloud's that took its place.
#[derive(Debug, Clone)]
pub struct Pair {
    /// With our superuser's login.
    pub local: Party,
    /// With a login that may make databases.
    pub cloud: Party,
}

/// All that the way home needs.
pub struct Failback<'a> {
    /// Every mirrored database.
    pub pairs: &'a [Pair],
    /// The epoch in which the cloud owns. Not looked at when a journal is found.
    pub epoch: Epoch,
    /// Locked by us.
    pub state_dir: &'a Path,
    /// The way to copy.
    pub copier: &'a dyn Copier,
    /// The lease.
    pub ownership: &'a dyn Ownership,
    /// Where steps are told.
    pub events: &'a Events,
    /// For each connection and each fence; copies take as long as they take.
    pub patience: Duration,
}

/// Where everything is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// The epoch that local owns.
    pub epoch: Epoch,
    /// The databases and the names under which the old ones are kept.
    pub databases: Vec<Database>,
}

/// Brings all databases home, or goes on where an earlier call ended. On return the local
/// databases are open in the new epoch and the cloud's are empty, ready to be mirrored to.
///
/// Fails without having changed anything when a server is not reached or our login may not make
/// databases. After any later failure: remove the cause and call it again.
pub async fn failback_discard_local(way: &Failback<'_>) -> Result<Home, Error> {
    let mut journal = match pending(way.state_dir)? {
        Some(journal) => journal,
        None => begin(way).await?,
    };
    let matches = journal.databases.len() == way.pairs.len()
        && journal
            .databases
            .iter()
            .zip(way.pairs)
            .all(|(kept, pair)| kept.local == pair.local.database && kept.cloud == pair.cloud.database);
    if !matches {
        return Err(Error::NotInState(
            "a failback of other databases has begun and not ended; run it again with the same configuration"
                .to_owned(),
        ));
    }
    loop {
        let step = journal.step;
        way.events.record(Level::Info, "failback.step_began", step.describe());
        way.carry_out(step, &mut journal).await?;
        let Some(next) = step.next() else { break };
        journal.step = next;
        journal.save(way.state_dir)?;
    }
    Journal::remove(way.state_dir)?;
    let epoch = journal.home.expect("the step TakeHome is behind us");
    way.events.record(Level::Info, "failback.done", format!("epoch={epoch}"));
    Ok(Home { epoch, databases: journal.databases })
}

/// Checks what would stop us half-way and writes the first journal.
async fn begin(way: &Failback<'_>) -> Result<Journal, Error> {
    let mut databases = Vec::new();
    let mut stamp = None;
    for pair in way.pairs {
        for party in [&pair.local, &pair.cloud] {
            let client = server::maintenance(party, way.patience).await?;
            if !server::may_make_databases(&client).await? {
                return Err(Error::NotInState(format!(
                    "{} may not make databases on the {} server; as a superuser there: ALTER ROLE {} CREATEDB",
                    party.login.user,
                    party.site,
                    identifier(party.login.user.as_str())
                )));
            }
            if server::look_for(&client, &party.database).await?.is_none() {
                return Err(Error::NotInState(format!(
                    "there is no database {} on the {} server",
                    party.database, party.site
                )));
            }
            if stamp.is_none() {
                let row = client
                    .query_typed_one(
                        "SELECT pg_catalog.to_char(pg_catalog.now() AT TIME ZONE 'UTC', 'YYYYMMDD\"T\"HH24MISS\"Z\"')",
                        &[],
                    )
                    .await
                    .map_err(Error::sql("ask for the time"))?;
                stamp = Some(row.get::<_, String>(0));
            }
        }
        let readable = way.copier.check(&pair.cloud).await;
        readable.map_err(|source| Error::Elsewhere { what: "copy the cloud's database", source })?;
        let stamp = stamp.as_deref().expect("asked of the first server");
        databases.push(Database {
            local: pair.local.database.clone(),
            cloud: pair.cloud.database.clone(),
            local_aside: journal::aside(&pair.local.database, stamp)?,
            cloud_aside: journal::aside(&pair.cloud.database, stamp)?,
            is_being_made: false,
            is_copied: false,
        });
    }
    let journal = Journal { format: 1, step: Step::FenceCloud, epoch: way.epoch, home: None, databases };
    journal.save(way.state_dir)?;
    Ok(journal)
}

impl Failback<'_> {
    async fn carry_out(&self, step: Step, journal: &mut Journal) -> Result<(), Error> {
        match step {
            Step::FenceCloud => {
                for pair in self.pairs {
                    let fenced = fence(&pair.cloud, journal.epoch, self.patience).await?;
                    if fenced.terminated > 0 {
                        let detail =
                            format!("sessions_ended={} database={}", fenced.terminated, pair.cloud.database);
                        self.events.record(Level::Warn, "failback.application_was_running", detail);
                    }
                }
            }
            Step::SetLocalAside => {
                for (pair, database) in self.pairs.iter().zip(&journal.databases) {
                    let client = server::maintenance(&pair.local, self.patience).await?;
                    if server::look_for(&client, &database.local_aside).await?.is_none() {
                        // It has been fenced since it came back; a person may have lifted that.
                        fence(&pair.local, journal.epoch, self.patience).await?;
                    }
                    server::set_aside(&client, &database.local, &database.local_aside).await?;
                }
            }
            Step::Copy => {
                for at in 0..journal.databases.len() {
                    if !journal.databases[at].is_copied {
                        self.copy(at, journal).await?;
                    }
                }
            }
            Step::Finish => {
                for pair in self.pairs {
                    self.finish(pair).await?;
                }
            }
            Step::TakeHome => {
                let taken = self.ownership.take_home(journal.epoch).await;
                let home =
                    taken.map_err(|source| Error::Elsewhere { what: "make local the owner", source })?;
                if home <= journal.epoch {
                    return Err(Error::StaleEpoch { ours: home, theirs: journal.epoch });
                }
                journal.home = Some(home);
            }
            Step::OpenLocal => {
                let home = journal.home.expect("the step TakeHome is behind us");
                for pair in self.pairs {
                    lift(&pair.local, home, self.patience).await?;
                }
            }
            Step::SetCloudAside => {
                for (pair, database) in self.pairs.iter().zip(&journal.databases) {
                    self.set_cloud_aside(pair, database).await?;
                }
            }
        }
        Ok(())
    }

    /// Makes the new local database, shut from its birth, and fills it.
    async fn copy(&self, at: usize, journal: &mut Journal) -> Result<(), Error> {
        let pair = &self.pairs[at];
        let database = journal.databases[at].clone();
        let client = server::maintenance(&pair.local, self.patience).await?;
        if let Some(found) = server::look_for(&client, &database.local).await? {
            if !database.is_being_made || found.connection_limit != 0 {
                return Err(Error::NotInState(format!(
                    "somebody has made a database {} on the local server; rename it and run the failback again",
                    database.local
                )));
            }
            server::drop_unfinished(&client, &database.local).await?;
        }
        journal.databases[at].is_being_made = true;
        journal.save(self.state_dir)?;
        let shape = Shape::read(&client, &database.local_aside, None).await?;
        server::make(&client, &database.local, &shape, 0).await?;
        self.tell_refused(server::dress(&client, &database.local, &shape).await?);
        self.hand_on_the_fence(pair, &database, journal.epoch).await?;
        let copied = self.copier.copy(&pair.cloud, &pair.local).await;
        copied.map_err(|source| Error::Elsewhere { what: "copy the cloud's database", source })?;
        journal.databases[at].is_copied = true;
        journal.save(self.state_dir)
    }

    /// The new database is fenced as the old one is, and lifting it gives back what was saved then.
    async fn hand_on_the_fence(&self, pair: &Pair, database: &Database, epoch: Epoch) -> Result<(), Error> {
        let old = pair.local.with_database(database.local_aside.clone());
        let old = old.control("cloud-mirror failback", self.patience).await?;
        let saved = catalog::fence::read(&old).await?.ok_or_else(|| {
            Error::NotInState(format!("{} has no fence row; was it removed by hand?", database.local_aside))
        })?;
        let new = pair.local.control("cloud-mirror failback", self.patience).await?;
        catalog::schema::ensure(&new).await?;
        catalog::fence::shut(&new, epoch, saved.connection_limit.unwrap_or(-1), &saved.superusers).await?;
        Ok(())
    }

    /// What a copy leaves behind, because it is made for a mirror, and what it does not carry.
    async fn finish(&self, pair: &Pair) -> Result<(), Error> {
        let cloud = pair.cloud.control("cloud-mirror failback", self.patience).await?;
        let mut local = pair.local.control("cloud-mirror failback", self.patience).await?;
        catalog::schema::ensure(&local).await?;
        copy_sequences(&cloud, &local).await?;
        catalog::triggers::restore(&mut local).await?;
        if let Some(door) = catalog::door::read(&cloud).await? {
            // The cloud's fence is the door, so the copy found nobody who may connect there.
            catalog::door::plan(&local, &door).await?;
        }
        catalog::door::open(&mut local).await?;
        local
            .batch_execute("DELETE FROM cloud_mirror.progress; DELETE FROM cloud_mirror.sequences")
            .await
            .map_err(Error::sql("forget the copy's progress"))
    }

    fn tell_refused(&self, refused: Vec<String>) {
        for statement in refused {
            self.events.record(Level::Warn, "failback.statement_refused", statement);
        }
    }

    async fn set_cloud_aside(&self, pair: &Pair, database: &Database) -> Result<(), Error> {
        let client = server::maintenance(&pair.cloud, self.patience).await?;
        server::set_aside(&client, &database.cloud, &database.cloud_aside).await?;
        let old = pair.cloud.with_database(database.cloud_aside.clone());
        let old = old.control("cloud-mirror failback", self.patience).await?;
        let saved = catalog::fence::read(&old).await?;
        let door = catalog::door::read(&old).await?;
        let shape = Shape::read(&client, &database.cloud_aside, door.as_ref()).await?;
        if server::look_for(&client, &database.cloud).await?.is_none() {
            let limit = saved.as_ref().and_then(|fence| fence.connection_limit).unwrap_or(-1);
            server::make(&client, &database.cloud, &shape, limit).await?;
        }
        self.tell_refused(server::dress(&client, &database.cloud, &shape).await?);
        // The old one keeps its limit; the server's other superusers may log in again.
        for name in saved.map(|fence| fence.superusers).unwrap_or_default() {
            let exists = client
                .query_typed_opt(
                    "SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = $1",
                    &[(&name, Type::TEXT)],
                )
                .await
                .map_err(Error::sql("look for a superuser"))?;
            if exists.is_some() {
                let sql = format!("ALTER ROLE {} LOGIN", identifier(&name));
                client.batch_execute(&sql).await.map_err(Error::sql("let a superuser log in again"))?;
            }
        }
        Ok(())
    }
}

/// Sets every sequence of `local` exactly as `cloud` has it: both are shut, so there is no gap to
/// leave. In one statement each.
async fn copy_sequences(cloud: &Control, local: &Control) -> Result<(), Error> {
    let names = cloud
        .query_typed(
            "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname <> 'cloud_mirror'",
            &[],
        )
        .await
        .map_err(Error::sql("list the cloud's sequences"))?;
    let (mut known, mut values, mut called) = (Vec::new(), Vec::new(), Vec::new());
    for some in names.chunks(100) {
        let asks: Vec<String> = some
            .iter()
            .map(|row| row.get::<_, String>(0))
            .map(|name| {
                format!("SELECT {}::text, last_value, is_called FROM {name}", catalog::literal(&name))
            })
            .collect();
        let rows = cloud
            .query_typed(&asks.join(" UNION ALL "), &[])
            .await
            .map_err(Error::sql("read the cloud's sequences"))?;
        for row in rows {
            known.push(row.get::<_, String>(0));
            values.push(row.get::<_, i64>(1));
            called.push(row.get::<_, bool>(2));
        }
    }
    local
        .query_typed(
            "SELECT pg_catalog.setval(pg_catalog.to_regclass(s.name), s.value, s.called) \
             FROM unnest($1, $2, $3) AS s (name, value, called) \
             WHERE pg_catalog.to_regclass(s.name) IS NOT NULL",
            &[(&known, Type::TEXT_ARRAY), (&values, Type::INT8_ARRAY), (&called, Type::BOOL_ARRAY)],
        )
        .await
        .map_err(Error::sql("set the local sequences"))?;
    Ok(())
}
