//! `cloud-mirror failback --discard-local`: the way home while the proxy is stopped.
//!
//! The steps are `failover`'s; here they are given what they need of other rooms: the first copy of a
//! mirror in the reverse direction, and the lease.

use super::operator::ByCommand;
use super::{Exit, StartError, control_runtime, running, settings, setup};
use crate::backend::Party;
use crate::base::{Epoch, MirrorName, OpId, Site};
use crate::config::Config;
use crate::failover::effects::failback::{
    BoxError, Copier, Failback, Ownership, Pair, failback_discard_local, pending,
};
use crate::lease::keeper::{Command, Handle};
use crate::lease::protocol::{Found, Report};
use crate::lease::{Phase, Tenure};
use crate::observe::events::Events;
use crate::replicate::{MirrorSpec, bootstrap};
use crate::sys::file::StateDir;
use async_trait::async_trait;
use std::time::Duration;
use tokio::sync::{Mutex, watch};

/// For each connection and each fence.
const PATIENCE: Duration = Duration::from_secs(10);
/// For one step of the lease.
const LEASE_WITHIN: Duration = Duration::from_secs(30);

/// Brings the data home after a failover, giving up what the local database has: renames it,
/// copies the cloud's, makes `local` the owner at the next epoch. The next start of the proxy
/// mirrors anew. Blocks.
pub fn failback(config: Config) -> anyhow::Result<Exit> {
    control_runtime()?.block_on(async {
        match go_home(&config).await {
            Ok(exit) => Ok(exit),
            Err(error) => match error.downcast_ref::<StartError>() {
                Some(start) => {
                    eprintln!("cloud-mirror: {start}");
                    Ok(start.exit())
                }
                None => Err(error),
            },
        }
    })
}

async fn go_home(config: &Config) -> anyhow::Result<Exit> {
    if config.cloud.is_none() {
        eprintln!("cloud-mirror: there is no upstream cloud to come home from; give --cloud URL");
        return Ok(Exit::Usage);
    }
    // Also proves that no proxy runs on it.
    let state_dir = StateDir::open(&config.site.state_dir).map_err(StartError::from)?;
    let mut advice = Vec::new();
    let local = setup::local(config, &state_dir, &mut advice).await?;
    let cloud = setup::cloud(config, &state_dir, &mut advice).await?;
    let cloud = cloud.expect("it was looked for above");
    let entries =
        ByCommand::read(&state_dir).map_err(StartError::from)?.applied_to(settings::mirrors(config));
    let pairs: Vec<Pair> = entries
        .iter()
        .map(|entry| Pair { local: local.party_at(&entry.source), cloud: cloud.party_at(&entry.target) })
        .collect();
    let events = Events::default();
    let (keeper, handle) = running::keeper(config, &state_dir, &events)?;
    let keeping = tokio::spawn(keeper.run());
    let ownership = Lease(Mutex::new(handle));
    let has_begun = pending(state_dir.path())?.is_some();
    let epoch = match ownership.look().await.map_err(anyhow::Error::from_boxed)? {
        Found::Record(record) if has_begun || record.owner == Site::Cloud => record.epoch,
        Found::Record(_) | Found::Nothing => {
            println!("The local server is the owner: there is nothing to bring home.");
            return Ok(Exit::Ok);
        }
        Found::Refused(why) => anyhow::bail!("the lease cannot be used: {why}"),
        Found::Unreadable { why } => anyhow::bail!("the lease cannot be read: {why}"),
    };
    let copier = FirstCopy { events: events.clone() };
    let way = Failback {
        pairs: &pairs,
        epoch,
        state_dir: state_dir.path(),
        copier: &copier,
        ownership: &ownership,
        events: &events,
        patience: PATIENCE,
    };
    let home = failback_discard_local(&way).await?;
    keeping.abort();
    println!("The local server is the owner in epoch {}.", home.epoch);
    for database in &home.databases {
        println!(
            "database {}: what it had is kept as {} on the local server, what the cloud had as {} there",
            database.local, database.local_aside, database.cloud_aside
        );
    }
    println!("Start the proxy: it mirrors to the cloud anew.");
    Ok(Exit::Ok)
}

/// The first copy of a mirror, from the cloud home.
struct FirstCopy {
    events: Events,
}

#[async_trait]
impl Copier for FirstCopy {
    async fn check(&self, source: &Party) -> Result<(), BoxError> {
        let client = source.control("cloud-mirror failback", PATIENCE).await?;
        let ask = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user";
        let row = client.query_typed_one(ask, &[]).await?;
        if row.get(0) {
            return Ok(());
        }
        Err(format!(
            "the copy reads as a superuser only, and {} is none in the cloud; give --cloud the URL of one",
            source.login.user
        )
        .into())
    }

    async fn copy(&self, source: &Party, target: &Party) -> Result<(), BoxError> {
        let spec = MirrorSpec {
            name: MirrorName::new("failback").expect("a name"),
            source: source.clone(),
            target: target.clone(),
            // What was changed in the cloud while it was the writer is what counts.
            replace_role_passwords: true,
            full_identity: crate::config::FullIdentity::None,
        };
        let (progress, mut told) = watch::channel(bootstrap::Progress::default());
        let telling = tokio::spawn(async move {
            while told.changed().await.is_ok() {
                let now = told.borrow_and_update().clone();
                tracing::debug!(event = "failback.copying", done = now.bytes_done, total = now.bytes_total);
            }
        });
        // Dropped in both cases: nothing of the copy stays on the source, and a half copy is gone.
        let copied = bootstrap::run(&spec, Epoch(1), progress, &self.events).await;
        telling.abort();
        let dropped = bootstrap::drop_mirror(&spec).await;
        copied?;
        dropped?;
        Ok(())
    }
}

/// The lease, asked for one thing at a time.
struct Lease(Mutex<Handle>);

impl Lease {
    async fn look(&self) -> Result<Found, BoxError> {
        match self.ask(|op| Command::Look { op }).await? {
            Report::Looked { found, .. } => Ok(found),
            other => Err(format!("the lease's keeper said {other:?} to a look").into()),
        }
    }

    async fn acquire(&self, site: Site, phase: Phase) -> Result<Epoch, BoxError> {
        let reason = "failback --discard-local".to_owned();
        match self.ask(|op| Command::Acquire { op, site, phase, reason }).await? {
            Report::Held { held, .. } => Ok(held.epoch()),
            Report::Refused { why, .. } => Err(why.to_string().into()),
            other => Err(format!("the lease's keeper said {other:?} to an acquisition").into()),
        }
    }

    async fn ask(&self, command: impl FnOnce(OpId) -> Command) -> Result<Report, BoxError> {
        let mut handle = self.0.lock().await;
        let wished = OpId(u64::from_ne_bytes(crate::sys::random_bytes()));
        handle.commands.send(command(wished)).await.map_err(|_| "the lease's keeper is gone")?;
        let answer = async {
            loop {
                let report = handle.reports.recv().await.ok_or("the lease's keeper is gone")?;
                let op = match &report {
                    Report::Looked { op, .. } | Report::Refused { op, .. } | Report::Released { op, .. } => {
                        Some(*op)
                    }
                    Report::Held { op, .. } => *op,
                    Report::Lost { .. } => None,
                };
                if op == Some(wished) {
                    return Ok::<_, BoxError>(report);
                }
            }
        };
        tokio::time::timeout(LEASE_WITHIN, answer).await.map_err(|_| "the lease's store does not answer")?
    }
}

#[async_trait]
impl Ownership for Lease {
    async fn take_home(&self, after: Epoch) -> Result<Epoch, BoxError> {
        if let Found::Record(record) = self.look().await?
            && (record.owner, record.state) == (Site::Local, Tenure::Active)
            && record.epoch > after
        {
            return Ok(record.epoch);
        }
        // The cloud gives it back: taken as the cloud, which nobody else is, then released.
        if let Found::Record(record) = self.look().await?
            && (record.owner, record.state) == (Site::Cloud, Tenure::Active)
        {
            self.acquire(Site::Cloud, Phase::FailingBack).await?;
            let reason = "failback --discard-local".to_owned();
            match self.ask(|op| Command::Release { op, reason }).await? {
                Report::Released { .. } => {}
                Report::Refused { why, .. } => return Err(why.to_string().into()),
                other => return Err(format!("the lease's keeper said {other:?} to a release").into()),
            }
        }
        self.acquire(Site::Local, Phase::Normal).await
    }
}

/// Fails where a way home has begun and not ended: a proxy must not write then.
pub fn must_not_be_under_way(state_dir: &StateDir) -> Result<(), StartError> {
    match pending(state_dir.path()) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(StartError::Failback),
        Err(error) => Err(StartError::Local(error)),
    }
}
