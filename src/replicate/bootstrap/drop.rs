//! Taking things away: what an interrupted bootstrap left, and a whole mirror.

use super::error::{Doing, Error};
use super::slot::drop_slot;
use super::{application_name, identity, made, objects, publication};
use crate::backend::control::Control;
use crate::base::MirrorName;
use crate::catalog::{self, fence};
use crate::replicate::MirrorSpec;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Drops slot and publications.
pub(super) async fn clean_source(spec: &MirrorSpec, source: &Control) -> Result<(), Error> {
    end_sessions(source, &application_name(spec)).await?;
    drop_slot(source, &spec.slot()).await?;
    publication::drop_both(source, spec).await
}

/// Ends the sessions of an earlier run in this database: of a process that was killed, or of one
/// that has lost its epoch and does not know it yet. Ours are told apart by their age: they are the
/// connections made before this one.
pub(super) async fn end_sessions(client: &Control, application_name: &str) -> Result<(), Error> {
    client
        .execute(
            "SELECT pg_terminate_backend(a.pid, 5000) FROM pg_stat_activity a
             WHERE a.datname = current_database() AND a.application_name = $1 AND a.pid <> pg_backend_pid()
                AND a.backend_start < (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
                AND (pg_has_role(a.usename, 'MEMBER') OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user))",
            &[&application_name],
        )
        .await
        .doing("end the sessions of an earlier bootstrap")?;
    Ok(())
}

/// Empties a target that an interrupted bootstrap has filled. Roles stay: they are known and will
/// be used again.
pub(super) async fn clean_target(target: &Control, mirror: &MirrorName) -> Result<(), Error> {
    objects::drop_all(target, &made::extensions_before(target).await?).await?;
    target.execute("DELETE FROM cloud_mirror.triggers", &[]).await.doing("forget triggers")?;
    target
        .execute("DELETE FROM cloud_mirror.sequences WHERE mirror = $1", &[&mirror.as_str()])
        .await
        .doing("forget sequences")?;
    Ok(())
}

/// Takes a mirror away: slot, publications and identities on the source, triggers, door and our
/// rows on the target, and our schema on each side where no other mirror needs it. The user's tables
/// and rows stay on both sides, except on a target whose bootstrap never ended: that is emptied.
///
/// When one of the servers is not reached the other is cleaned all the same, and the error says
/// so: call again. Stop the mirror's stream first.
pub async fn drop_mirror(spec: &MirrorSpec) -> Result<(), Error> {
    // Each side for itself: a slot must not go on keeping the log because the cloud is away.
    let (source, target) = tokio::join!(drop_on_source(spec), drop_on_target(spec));
    source.and(target)
}

async fn drop_on_source(spec: &MirrorSpec) -> Result<(), Error> {
    let source = spec.source.control(&application_name(spec), CONNECT_TIMEOUT).await?;
    clean_source(spec, &source).await?;
    if !has_other_mirror(&source).await? {
        identity::put_back(&source).await?;
        remove_schema(&source).await?;
    }
    Ok(())
}

async fn drop_on_target(spec: &MirrorSpec) -> Result<(), Error> {
    let name = application_name(spec);
    let mut target = spec.target.control(&name, CONNECT_TIMEOUT).await?;
    end_sessions(&target, &name).await?;
    let row = catalog::progress::read(&target, &spec.name).await?;
    match row.map(|row| row.phase) {
        Some(catalog::progress::Phase::Bootstrapping) => clean_target(&target, &spec.name).await?,
        Some(_) => {
            catalog::triggers::restore(&mut target).await?;
        }
        None => {}
    }
    catalog::progress::forget(&target, &spec.name).await?;
    if catalog::progress::list(&target).await?.is_empty() {
        catalog::door::open(&mut target).await?;
        remove_schema(&target).await?;
    }
    Ok(())
}

/// Our schema goes, except from a fenced database: its saved limits are needed to open it again.
async fn remove_schema(client: &Control) -> Result<(), Error> {
    match fence::read(client).await?.map(|f| f.state) {
        Some(fence::State::Fenced) => Ok(()),
        Some(fence::State::Open) | None => Ok(catalog::schema::remove(client).await?),
    }
}

/// Whether this database is the source of another mirror, or the target of one.
async fn has_other_mirror(client: &Control) -> Result<bool, Error> {
    let row = client
        .query_one("SELECT EXISTS (SELECT 1 FROM pg_publication WHERE pubname ~ '^cloud_mirror_')", &[])
        .await
        .doing("look for other mirrors")?;
    Ok(row.get::<_, bool>(0) || !catalog::progress::list(client).await?.is_empty())
}
