//! PgBouncer's commands that stop, resume and end.
//!
//! What is stopped stands in the map of routes, which sessions follow; links are retired in the
//! pool. A command that waits looks again every few milliseconds: what it waits for is done by
//! many, and none of them should pay for telling.

use super::operator::Desk;
use super::world::World;
use crate::base::{DatabaseName, Site, sqlstate};
use crate::config::pgbouncer;
use crate::observe::clients::Order;
use crate::observe::events::Level;
use crate::route::{Entry, Halt, Halts};
use crate::sql::console::{ConsoleError, Interrupt};
use crate::sql::pooler::{Pooler, Shutdown};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks whether what is waited for has happened.
const LOOK_EVERY: Duration = Duration::from_millis(20);

type Done = Result<Vec<String>, ConsoleError>;

/// Databases, as clients name them.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Which {
    All,
    One(DatabaseName),
}

impl Which {
    fn of(name: Option<String>) -> Result<Self, ConsoleError> {
        let Some(name) = name else { return Ok(Which::All) };
        if crate::admin::is_console(name.as_bytes()) {
            let message = format!("cannot do this to the admin database: {name}");
            return Err(ConsoleError::new(sqlstate::NOT_IN_STATE, message));
        }
        DatabaseName::new(name)
            .map(Which::One)
            .map_err(|error| ConsoleError::new(sqlstate::UNDEFINED_DATABASE, error.to_string()))
    }

    /// Whether a link to `database` on a site is for clients of these.
    fn has(&self, world: &World, site: Site, database: &[u8]) -> bool {
        let Which::One(name) = self else { return true };
        let map = world.routes.map();
        let named = name.as_str().as_bytes().into();
        let Some(on_server) = map.names.on_server(&named) else { return false };
        match site {
            Site::Local => *database == **on_server,
            Site::Cloud => map.mirrored.iter().any(|(source, target)| {
                *source.as_str().as_bytes() == **on_server && target.as_str().as_bytes() == database
            }),
        }
    }
}

impl Desk {
    /// Carries out a command that shows nothing.
    pub(super) async fn carry_out(&self, command: Pooler, interrupt: Interrupt) -> Done {
        match command {
            Pooler::Pause { database } => self.pause(self.served(database)?, &interrupt).await,
            Pooler::Resume { database } => self.resume(&Which::of(database)?),
            Pooler::Reconnect { database } => {
                self.retire(&self.served(database)?);
                Ok(Vec::new())
            }
            Pooler::WaitClose { database } => {
                let which = self.served(database)?;
                self.wait(&interrupt, || self.retired(&which) == 0).await?;
                Ok(Vec::new())
            }
            Pooler::Disable { database } => {
                self.served(Some(database.clone()))?;
                self.change_one(database, |halts, name| {
                    halts.disabled.insert(name);
                })
            }
            Pooler::Enable { database } => self.change_one(database, |halts, name| {
                halts.disabled.remove(&name);
            }),
            Pooler::Shutdown(how) => self.shut_down(how, &interrupt).await,
            Pooler::Set { key, value } => self.set(&key, &value),
            Pooler::Kill { database } => self.kill(&self.served(database)?),
            Pooler::KillClient { id } => match self.0.clients().find(id) {
                Some(client) => {
                    client.order(Order::Kill);
                    Ok(Vec::new())
                }
                None => Err(ConsoleError::new(sqlstate::UNDEFINED_OBJECT, "client not found")
                    .with_hint("SHOW CLIENTS shows the ids.")),
            },
            Pooler::Suspend => self.suspend(&interrupt).await,
            Pooler::Show(table) => unreachable!("SHOW {} is answered elsewhere", table.word()),
        }
    }

    /// Databases that clients can ask for. What stops is refused for others, as PgBouncer does it: a name that is
    /// mistyped stops nothing. What was stopped can be resumed though it is served no more.
    fn served(&self, name: Option<String>) -> Result<Which, ConsoleError> {
        let which = Which::of(name)?;
        let names = self.0.routes.map().names.clone();
        match &which {
            Which::One(name) if names.on_server(&name.as_str().as_bytes().into()).is_none() => {
                Err(ConsoleError::new(sqlstate::UNDEFINED_DATABASE, format!("no such database: {name}")))
            }
            Which::One(_) | Which::All => Ok(which),
        }
    }

    fn retire(&self, which: &Which) {
        self.0.pool.retire(|site, database| which.has(&self.0, site, database));
    }

    fn open(&self, which: &Which) -> usize {
        self.0.pool.open_count(|site, database| which.has(&self.0, site, database))
    }

    fn retired(&self, which: &Which) -> usize {
        self.0.pool.retired_count(|site, database| which.has(&self.0, site, database))
    }

    /// Stops giving out links, and returns when the last one is closed. `^C` resumes; a caller that
    /// leaves does not.
    async fn pause(&self, which: Which, interrupt: &Interrupt) -> Done {
        self.set_paused(&which)?;
        let is_paused = || match &which {
            Which::All => self.0.routes.map().halts.all == Halt::Paused,
            Which::One(name) => self.0.routes.map().halts.paused.contains(name.as_str().as_bytes()),
        };
        let waited = self
            .wait(interrupt, || {
                // Whoever has given a link back since the last look has left it idle.
                self.retire(&which);
                self.open(&which) == 0 || !is_paused()
            })
            .await;
        match waited {
            Ok(()) if is_paused() => Ok(Vec::new()),
            Ok(()) => Err(ConsoleError::new(sqlstate::QUERY_CANCELED, "PAUSE was ended by RESUME")),
            Err(error) => {
                if interrupt.cancelled.is_cancelled() && is_paused() {
                    self.resume(&which)?;
                }
                Err(error)
            }
        }
    }

    fn set_paused(&self, which: &Which) -> Result<(), ConsoleError> {
        self.change(|halts| {
            if halts.all != Halt::None {
                return Err(not_now("already suspended/paused"));
            }
            match which {
                Which::All => halts.all = Halt::Paused,
                Which::One(name) => drop(halts.paused.insert(name.as_str().into())),
            }
            Ok(())
        })?;
        self.note("app.paused", which);
        Ok(())
    }

    fn resume(&self, which: &Which) -> Done {
        self.change(|halts| match which {
            Which::All if halts.entry != Entry::Open => Err(not_now("the proxy is shutting down")),
            Which::All if halts.all == Halt::None => Err(not_now("pooler is not paused/suspended")),
            Which::All => {
                halts.all = Halt::None;
                Ok(())
            }
            Which::One(name) => match halts.paused.remove(name.as_str().as_bytes()) {
                true => Ok(()),
                false => Err(not_now(format!("database {name} is not paused"))),
            },
        })?;
        self.note("app.resumed", which);
        Ok(Vec::new())
    }

    /// Cuts clients and links, and lets no more of them in until RESUME.
    fn kill(&self, which: &Which) -> Done {
        self.set_paused(which)?;
        for client in self.0.clients().list() {
            let is_meant = match which {
                Which::All => true,
                Which::One(name) => *client.origin.database == *name.as_str().as_bytes(),
            };
            if is_meant {
                client.order(Order::Kill);
            }
        }
        self.retire(which);
        Ok(Vec::new())
    }

    /// Sends nobody's statements, and returns when every client is between two messages; who is not
    /// after `suspend_timeout` is cut. Whoever suspended and leaves, resumes.
    async fn suspend(&self, interrupt: &Interrupt) -> Done {
        self.change(|halts| match (halts.all, halts.paused.is_empty()) {
            (Halt::Paused | Halt::Suspended, _) => Err(not_now("already suspended/paused")),
            (Halt::None, false) => Err(not_now("cannot suspend with paused databases")),
            (Halt::None, true) => {
                halts.all = Halt::Suspended;
                Ok(())
            }
        })?;
        self.0.events.record(Level::Info, "app.suspended", "all databases");
        let version = self.0.routes.version();
        let desk = self.clone();
        let gone = interrupt.gone.clone();
        tokio::spawn(async move {
            gone.cancelled().await;
            if desk.0.routes.map().halts.all == Halt::Suspended {
                let _ = desk.resume(&Which::All);
            }
        });
        let stragglers = || {
            let clients = self.0.clients().list();
            clients.into_iter().filter(|client| !client.has_settled(version)).collect::<Vec<_>>()
        };
        let patience = self.0.config.load().pool.suspend_timeout;
        let waited = self.wait(interrupt, || stragglers().is_empty());
        match tokio::time::timeout(patience, waited).await {
            Ok(Ok(())) => Ok(Vec::new()),
            Ok(Err(error)) => {
                if interrupt.cancelled.is_cancelled() {
                    self.resume(&Which::All)?;
                }
                Err(error)
            }
            Err(_) => {
                let stragglers = stragglers();
                for client in &stragglers {
                    client.order(Order::Kill);
                }
                let text = format!("{} clients were cut after suspend_timeout", stragglers.len());
                Ok(vec![text])
            }
        }
    }

    /// Pauses all databases without waiting (SIGUSR1).
    pub(super) fn begin_pause(&self) -> Result<(), String> {
        self.set_paused(&Which::All).map_err(|error| error.message)?;
        self.retire(&Which::All);
        Ok(())
    }

    /// Resumes all databases (SIGUSR2).
    pub(super) fn resume_all(&self) -> Result<(), String> {
        self.resume(&Which::All).map(|_| ()).map_err(|error| error.message)
    }

    fn change_one(&self, database: String, change: impl FnOnce(&mut Halts, Vec<u8>)) -> Done {
        let Which::One(name) = Which::of(Some(database))? else { unreachable!("a name is given") };
        self.change(|halts| {
            change(halts, name.as_str().into());
            Ok(())
        })?;
        Ok(Vec::new())
    }

    /// Ends the process: at once, or when servers or clients have left. The connection that asked
    /// for the first is kept until then.
    async fn shut_down(&self, how: Shutdown, interrupt: &Interrupt) -> Done {
        self.0.shut_down(how);
        if how == Shutdown::Immediate {
            interrupt.gone.cancelled().await;
        }
        Ok(Vec::new())
    }

    /// Changes one setting of the running process, until the configuration is read again.
    fn set(&self, key: &str, value: &str) -> Done {
        let (key, values) = pgbouncer::set(key, value).map_err(|error| {
            let code = match error {
                pgbouncer::CannotSet::Unknown(_) => sqlstate::UNDEFINED_OBJECT,
                pgbouncer::CannotSet::NoEffect { .. } => sqlstate::NOT_SUPPORTED,
                pgbouncer::CannotSet::NeedsRestart(_) => sqlstate::CANNOT_CHANGE_NOW,
                pgbouncer::CannotSet::Value { .. } => sqlstate::INVALID_PARAMETER,
            };
            ConsoleError::new(code, error.to_string()).with_hint("SHOW CONFIG lists what can be changed.")
        })?;
        let done = super::running::set(&self.0, &key, values).map(|_| Vec::new());
        done.map_err(|why| {
            let message = format!("the setting {key} was not changed");
            ConsoleError::new(sqlstate::INVALID_PARAMETER, message).with_detail(why)
        })
    }

    /// Changes what is stopped, or refuses to.
    fn change(
        &self,
        change: impl FnOnce(&mut Halts) -> Result<(), ConsoleError>,
    ) -> Result<(), ConsoleError> {
        let mut refused = Ok(());
        self.0.routes.change(|map| {
            let mut halts = Halts::clone(&map.halts);
            refused = change(&mut halts);
            map.halts = Arc::new(halts);
        });
        refused
    }

    fn note(&self, event: &'static str, which: &Which) {
        let detail = match which {
            Which::All => "all databases".to_owned(),
            Which::One(name) => format!("database={name}"),
        };
        self.0.events.record(Level::Info, event, detail);
    }

    async fn wait(
        &self,
        interrupt: &Interrupt,
        mut is_done: impl FnMut() -> bool,
    ) -> Result<(), ConsoleError> {
        let done = async {
            while !is_done() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            () = done => Ok(()),
            () = interrupt.cancelled.cancelled() => {
                Err(ConsoleError::new(sqlstate::QUERY_CANCELED, "canceling statement due to user request"))
            }
            () = interrupt.gone.cancelled() => Err(ConsoleError::gone()),
        }
    }
}

fn not_now(message: impl Into<String>) -> ConsoleError {
    ConsoleError::new(sqlstate::NOT_IN_STATE, message)
}
