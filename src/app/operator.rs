//! What an operator may wish, and what the surfaces may ask.

use super::mirrors::Entry;
use super::world::World;
use crate::admin::Operator;
use crate::backend::control::describe;
use crate::base::{DatabaseName, MirrorName, Site, sqlstate};
use crate::config::FullIdentity;
use crate::failover::controller::{Event, Insistence};
use crate::failover::effects::Return;
use crate::lease;
use crate::observe::events::Level;
use crate::observe::metrics::Pools;
use crate::observe::pooler::{self, Halted};
use crate::observe::status::{MirrorState, Status, UpstreamStatus};
use crate::observe::{Counters, Facts, events};
use crate::replicate::bootstrap;
use crate::route::Halt;
use crate::sql::console::{ConsoleError, Interrupt};
use crate::sql::pooler::Pooler;
use crate::sql::quote::quote_ident;
use crate::sys;
use crate::sys::file::FileError;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;

/// File in the state directory: mirrors that were made or dropped by command.
pub const MIRRORS_FILE: &str = "mirrors.json";
/// How long one statement of ours may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the commands have changed over the configuration.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct ByCommand {
    /// Made by MIRROR DATABASE.
    pub made: Vec<Entry>,
    /// In the configuration, and dropped by DROP MIRROR.
    pub dropped: Vec<MirrorName>,
}

impl ByCommand {
    /// Reads the file; an absent one has no changes.
    pub fn read(world: &sys::file::StateDir) -> Result<Self, FileError> {
        let Some(bytes) = world.read(MIRRORS_FILE)? else { return Ok(Self::default()) };
        serde_json::from_slice(&bytes).map_err(|error| {
            tracing::error!(event = "app.mirrors_file_damaged", %error);
            FileError::Unfit {
                path: world.path().join(MIRRORS_FILE),
                what: "is damaged; remove it, and the mirrors are those of the configuration",
            }
        })
    }

    /// The mirrors of the configuration, but for what the commands have changed.
    pub fn applied_to(&self, configured: Vec<Entry>) -> Vec<Entry> {
        let mut entries = configured;
        entries.retain(|entry| !self.dropped.contains(&entry.name));
        entries.retain(|entry| self.made.iter().all(|made| made.name != entry.name));
        entries.extend(self.made.iter().cloned());
        entries
    }
}

/// The process, as its operators see it.
#[derive(Debug, Clone)]
pub struct Desk(pub Arc<World>);

impl Desk {
    fn change_file(&self, change: impl FnOnce(&mut ByCommand)) -> Result<(), ConsoleError> {
        let failed = |error: FileError| ConsoleError::new(sqlstate::INTERNAL, error.to_string());
        let mut by_command = ByCommand::read(&self.0.state_dir).map_err(failed)?;
        change(&mut by_command);
        let bytes = serde_json::to_vec_pretty(&by_command).expect("names can be written");
        self.0.state_dir.write(MIRRORS_FILE, &bytes).map_err(failed)
    }

    fn must_write_locally(&self) -> Result<(), ConsoleError> {
        let map = self.0.routes.map();
        if map.writer == Site::Local && map.door == crate::route::Door::Open {
            return Ok(());
        }
        let message = "mirrors can be changed only while the local server is the writer";
        Err(ConsoleError::new(sqlstate::NOT_IN_STATE, message))
    }

    fn must_be_new(&self, mirror: &MirrorName, source: &DatabaseName) -> Result<(), ConsoleError> {
        let known = self.0.mirrors.list();
        let Some(known) = known.into_iter().find(|known| known.name == *mirror || known.source == *source)
        else {
            return Ok(());
        };
        let message = match known.name == *mirror {
            true => format!("mirror \"{mirror}\" exists already"),
            false => format!("database \"{source}\" is mirrored already, by mirror \"{}\"", known.name),
        };
        Err(ConsoleError::new(sqlstate::DUPLICATE_OBJECT, message))
    }

    /// Makes the mirror's database in the cloud where it is missing; says whether it was.
    async fn make_target(&self, target: &DatabaseName) -> Result<Target, ConsoleError> {
        let Some(cloud) = &self.0.cloud else {
            let message = "there is no upstream cloud";
            return Err(ConsoleError::new(sqlstate::NOT_IN_STATE, message)
                .with_hint("Start with --cloud URL, or configure [upstream.cloud]."));
        };
        let unreached =
            |error: String| ConsoleError::new("08001", format!("cannot reach the cloud: {error}"));
        let client = cloud
            .party()
            .control("cloud-mirror create", PATIENCE)
            .await
            .map_err(|error| unreached(error.to_string()))?;
        let failed = |error: tokio_postgres::Error| unreached(describe(&error));
        let exists = "SELECT 1 FROM pg_catalog.pg_database WHERE datname = $1";
        if client.query_opt(exists, &[&target.as_str()]).await.map_err(failed)?.is_some() {
            return Ok(Target::Found);
        }
        let create = format!("CREATE DATABASE {} TEMPLATE template0", quote_ident(target.as_str()));
        client.batch_execute(&create).await.map_err(|error| {
            ConsoleError::new(
                sqlstate::NOT_IN_STATE,
                format!("cannot make database \"{target}\" in the cloud"),
            )
            .with_detail(format!("{}.", describe(&error)))
            .with_hint("Create it there yourself, empty and owned by the login of [upstream.cloud].")
        })?;
        Ok(Target::Made)
    }

    /// Takes away a database that was made a moment ago for nothing. Where that fails an empty
    /// database is left, which the next attempt uses.
    async fn drop_target(&self, target: &DatabaseName) {
        let Some(cloud) = &self.0.cloud else { return };
        let drop = format!("DROP DATABASE IF EXISTS {}", quote_ident(target.as_str()));
        let dropped = match cloud.party().control("cloud-mirror drop", PATIENCE).await {
            Ok(client) => client.batch_execute(&drop).await.map_err(|error| describe(&error)),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = dropped {
            let detail = format!("database={target}: it was made for a mirror and stays, empty: {error}");
            self.0.events.record(Level::Warn, "mirror.target_left", detail);
        }
    }
}

/// Where a mirror's database comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// It was there.
    Found,
    /// It was made.
    Made,
}

#[async_trait]
impl Operator for Desk {
    async fn create_mirror(
        &self,
        mirror: MirrorName,
        source: DatabaseName,
    ) -> Result<Vec<String>, ConsoleError> {
        let world = &self.0;
        self.must_write_locally()?;
        self.must_be_new(&mirror, &source)?;
        let config = world.config.load();
        let entry = match config.mirrors.iter().find(|known| known.name == mirror && known.database == source)
        {
            Some(known) => Entry {
                name: mirror.clone(),
                source: source.clone(),
                target: known.target_database.clone(),
                replace_role_passwords: known.replace_role_passwords,
                full_identity: known.full_identity.clone(),
            },
            None => Entry {
                name: mirror.clone(),
                source,
                target: DatabaseName::new(mirror.as_str())
                    .map_err(|error| ConsoleError::new(sqlstate::INVALID_PARAMETER, error.to_string()))?,
                replace_role_passwords: false,
                full_identity: FullIdentity::None,
            },
        };
        drop(config);
        let made = self.make_target(&entry.target).await?;
        let spec = entry.spec(world).expect("the target was made there");
        if let Err(problems) = bootstrap::preflight(&spec).await {
            if made == Target::Made {
                self.drop_target(&entry.target).await;
            }
            let list: Vec<String> = problems.iter().map(ToString::to_string).collect();
            let message = format!("database \"{}\" cannot be mirrored yet", entry.source);
            return Err(ConsoleError::new(sqlstate::NOT_IN_STATE, message).with_detail(list.join("\n")));
        }
        // That took a while, in which much may have happened.
        self.must_write_locally()?;
        self.must_be_new(&mirror, &entry.source)?;
        self.change_file(|file| {
            file.dropped.retain(|dropped| *dropped != mirror);
            file.made.push(entry.clone());
        })?;
        world.mirrors.add(entry.clone());
        world.routes.change(|map| map.mirrored = world.mirrors.map());
        world.mirrors.start_one(world, &entry, world.routes.map().epoch);
        world.mirrors.report(world).await;
        Ok(vec![format!("mirror \"{mirror}\" is being made; SHOW MIRROR STATUS tells how far it is")])
    }

    async fn drop_mirror(&self, mirror: MirrorName) -> Result<Vec<String>, ConsoleError> {
        let world = &self.0;
        self.must_write_locally()?;
        let Some(entry) = world.mirrors.list().into_iter().find(|known| known.name == mirror) else {
            let message = format!("mirror \"{mirror}\" does not exist");
            return Err(ConsoleError::new(sqlstate::UNDEFINED_OBJECT, message));
        };
        let is_configured = world.config.load().mirrors.iter().any(|known| known.name == mirror);
        self.change_file(|file| {
            file.made.retain(|made| made.name != mirror);
            if is_configured && !file.dropped.contains(&mirror) {
                file.dropped.push(mirror.clone());
            }
        })?;
        let spec = entry.spec(world);
        if let Some((_, Some(work))) = world.mirrors.remove(&mirror) {
            work.stop().await;
        }
        world.routes.change(|map| map.mirrored = world.mirrors.map());
        world.mirrors.report(world).await;
        let Some(spec) = spec else { return Ok(Vec::new()) };
        bootstrap::drop_mirror(&spec).await.map_err(|error| {
            ConsoleError::new(
                sqlstate::NOT_IN_STATE,
                format!("mirror \"{mirror}\" is stopped but not all of it is gone"),
            )
            .with_detail(format!("{error}."))
            .with_hint("Make it again with MIRROR DATABASE and drop it once more when both servers are up.")
        })?;
        Ok(vec![format!("the copy in database \"{}\" of the cloud stays", entry.target)])
    }

    async fn promote(&self, mirror: MirrorName) -> Result<Vec<String>, ConsoleError> {
        let world = &self.0;
        if world.mirrors.list().iter().all(|known| known.name != mirror) {
            let message = format!("mirror \"{mirror}\" does not exist");
            return Err(ConsoleError::new(sqlstate::UNDEFINED_OBJECT, message));
        }
        let (request, answered) = world.new_request();
        world.tell(Event::PromoteRequested { request, insistence: Insistence::Verified }).await;
        match answered.await {
            Ok(Ok(epoch)) => Ok(vec![format!("the cloud is the writer in epoch {epoch}")]),
            Ok(Err(why)) => Err(ConsoleError::new(sqlstate::NOT_IN_STATE, why)),
            Err(_) => Err(ConsoleError::gone()),
        }
    }

    async fn reload(&self) -> Result<Vec<String>, ConsoleError> {
        super::running::reload(&self.0)
            .map_err(|why| ConsoleError::new("F0000", "the configuration was not reloaded").with_detail(why))
    }

    async fn prepared(&self) -> Vec<pooler::PreparedStatement> {
        match self.0.front.get().and_then(std::sync::Weak::upgrade) {
            Some(front) => front.threads.prepared().await,
            None => Vec::new(),
        }
    }

    async fn pooler(&self, command: Pooler, interrupt: Interrupt) -> Result<Vec<String>, ConsoleError> {
        self.carry_out(command, interrupt).await
    }
}

impl Facts for Desk {
    fn status(&self) -> Status {
        let world = &self.0;
        let view = world.seen();
        let map = world.routes.map();
        let (in_use, idle) = world.pool.count();
        let clients = |name| world.counters.list().iter().find(|(n, _)| *n == name).map_or(0, |(_, n)| *n);
        let lease = world.lease.as_ref().map(|lease| {
            let config = world.config.load();
            let authority = match config.lease.authority {
                crate::config::Authority::Internet => lease::Authority::Internet,
            };
            let store = lease.store.clone();
            lease::keeper::status(&lease.view.borrow(), store, authority, config.lease.ttl, sys::now())
        });
        Status {
            version: env!("CARGO_PKG_VERSION"),
            summary: self.summary(),
            state: view.state.to_owned(),
            writer: self.may_write_now().then_some(map.writer),
            is_holding: view.is_holding,
            clients: clients("clients_accepted").saturating_sub(clients("clients_left")),
            servers: in_use + idle,
            lease,
            upstreams: [Some(&world.local), world.cloud.as_ref()]
                .into_iter()
                .flatten()
                .map(|server| self.upstream_status(server))
                .collect(),
            mirrors: world.mirrors.statuses(),
        }
    }

    fn events(&self) -> Vec<events::Event> {
        self.0.events.list()
    }

    fn counters(&self) -> Arc<Counters> {
        self.0.counters.clone()
    }

    fn pools(&self) -> Pools {
        let front = self.0.front.get().and_then(std::sync::Weak::upgrade);
        let shared = front.as_ref().map(|front| &front.shared);
        Pools {
            clients: shared.map(|shared| shared.clients.list()).unwrap_or_default(),
            links: self.0.pool.links().list(),
            traffic: shared.map(|shared| shared.traffic.list()).unwrap_or_default(),
            now: sys::now(),
        }
    }

    fn pooler(&self) -> pooler::Pooler {
        let world = &self.0;
        let halts = world.routes.map().halts.clone();
        let front = world.front.get().and_then(std::sync::Weak::upgrade);
        pooler::Pooler {
            config: world.config.load_full(),
            clients: front.as_ref().map(|front| front.shared.clients.list()).unwrap_or_default(),
            logging_in: front.as_ref().map_or(0, |front| front.arrivals.count()),
            links: world.pool.links().list(),
            counts: front
                .as_ref()
                .map(|front| world.averages.counts(&front.shared.traffic))
                .unwrap_or_default(),
            halted: match halts.all {
                Halt::None => Halted::No,
                Halt::Paused => Halted::Paused,
                Halt::Suspended => Halted::Suspended,
            },
            paused: halts.paused.clone(),
            disabled: halts.disabled.clone(),
            now: sys::now(),
            at: std::time::SystemTime::now(),
        }
    }

    fn may_write_now(&self) -> bool {
        self.0.routes.map().door == crate::route::Door::Open && self.0.routes.gate().is_open(sys::now())
    }

    fn accepts_clients(&self) -> bool {
        self.0.is_accepting()
    }
}

impl Desk {
    fn upstream_status(&self, server: &super::server::Server) -> UpstreamStatus {
        let map = self.0.routes.map();
        let returned = server.returned.borrow();
        let role = match (map.writer == server.site, &*returned) {
            (true, _) => "writer",
            (false, Return::Fenced(_)) => "fenced",
            (false, _) if server.site == Site::Cloud => "mirror",
            (false, _) => "unknown",
        };
        let needs = if map.writer == server.site { None } else { returned.needs() };
        UpstreamStatus {
            upstream: server.site,
            address: server.party().endpoint.address.to_string(),
            role,
            is_up: server.is_up() || map.writer != server.site && self.mirrors_reach(server.site),
            needs,
        }
    }

    /// The mirror's server is not probed: whether the mirrors get through to it says the same.
    fn mirrors_reach(&self, site: Site) -> bool {
        site == Site::Cloud
            && self.0.mirrors.statuses().iter().any(|mirror| match mirror.state {
                MirrorState::Bootstrapping { .. } | MirrorState::Following | MirrorState::Degraded { .. } => {
                    true
                }
                MirrorState::Disconnected { .. } | MirrorState::Promoted | MirrorState::Failed { .. } => {
                    false
                }
            })
    }

    fn summary(&self) -> String {
        let world = &self.0;
        let view = world.seen();
        let map = world.routes.map();
        let mut text = match (&view.why, self.may_write_now()) {
            (Some(why), _) => format!("{}: {why}", view.state),
            (None, true) => format!("writing to {}", map.writer),
            (None, false) => view.state.to_owned(),
        };
        for mirror in world.mirrors.statuses() {
            text += &format!("; mirror {} is {}", mirror.mirror, mirror.state.word());
            if let Some(lag_ms) = mirror.lag_ms {
                text += &format!(", {lag_ms} ms behind");
            }
        }
        for advice in world.advice.lock().expect("no holder of the advice panics").iter() {
            text += &format!("; {advice}");
        }
        text
    }
}
