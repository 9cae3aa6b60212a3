//! Who may do what, and who does it.

use super::{pooler, rows};
use crate::base::{DatabaseName, MirrorName, Privilege, sqlstate};
use crate::observe::Facts;
use crate::observe::pooler::PreparedStatement;
use crate::sql::admin::Command;
use crate::sql::console::{Caller, ConsoleCall, ConsoleError, ConsoleReply, ConsoleRows, Interrupt};
use crate::sql::pooler::{Pooler, Table};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// Carries out what changes something. `app` connects it to the rooms that do it.
///
/// Each returns what a user should be told besides success. An operation that goes on for long (a
/// first copy) is begun and not awaited; `SHOW MIRROR STATUS` shows how it goes.
#[async_trait]
pub trait Operator: Send + Sync + 'static {
    /// Begins to mirror `source` to the database `mirror` of the upstream `cloud`.
    async fn create_mirror(
        &self,
        mirror: MirrorName,
        source: DatabaseName,
    ) -> Result<Vec<String>, ConsoleError>;

    /// Stops a mirror and removes what it needed on the source; the copy stays.
    async fn drop_mirror(&self, mirror: MirrorName) -> Result<Vec<String>, ConsoleError>;

    /// Makes the mirror, with all others of the pair, the writer in a new epoch.
    async fn promote(&self, mirror: MirrorName) -> Result<Vec<String>, ConsoleError>;

    /// Reads the configuration again and applies what can change.
    async fn reload(&self) -> Result<Vec<String>, ConsoleError>;

    /// The prepared statements that are kept.
    async fn prepared(&self) -> Vec<PreparedStatement>;

    /// Carries out a command of PgBouncer's console that shows nothing. Those that wait do so until
    /// they are done or interrupted.
    async fn pooler(&self, command: Pooler, interrupt: Interrupt) -> Result<Vec<String>, ConsoleError>;
}

/// The longest a change is awaited. It goes on behind that; only its answer is given up.
const CHANGE_MAX: Duration = Duration::from_secs(300);

/// How many changes run or wait at a time.
const CHANGES_MAX: usize = 8;

/// Answers commands. Cheap to clone.
#[derive(Clone)]
pub struct Console {
    facts: Arc<dyn Facts>,
    operator: Arc<dyn Operator>,
    changes: Arc<Semaphore>,
}

impl Console {
    /// Shows what `facts` says and lets `operator` do the rest.
    pub fn new(facts: Arc<dyn Facts>, operator: Arc<dyn Operator>) -> Self {
        Self { facts, operator, changes: Arc::new(Semaphore::new(CHANGES_MAX)) }
    }

    /// Answers calls until every sender is gone. A change runs beside the others, so that a
    /// promotion can be watched with `SHOW EVENTS`.
    pub async fn run(self, mut calls: mpsc::Receiver<ConsoleCall>) {
        while let Some(call) = calls.recv().await {
            let ConsoleCall { command, caller, interrupt, reply } = call;
            if !command.is_change() || !caller.is_admin() {
                // A caller that has gone does not need its answer.
                let _ = reply.send(self.answer(command, &caller, interrupt).await);
                continue;
            }
            if let Command::Pooler(_) = command {
                // Some wait for long, and the others end that: none of them stands in line.
                let console = self.clone();
                tokio::spawn(async move {
                    let _ = reply.send(console.answer(command, &caller, interrupt).await);
                });
                continue;
            }
            let Ok(permit) = self.changes.clone().try_acquire_owned() else {
                let busy = "too many commands of cloud-mirror are running";
                let _ = reply.send(Err(ConsoleError::new(sqlstate::TOO_MANY_CONNECTIONS, busy)
                    .with_hint("SHOW EVENTS tells what goes on.")));
                continue;
            };
            let console = self.clone();
            tokio::spawn(async move {
                let answer = console.answer(command, &caller, interrupt).await;
                drop(permit);
                let _ = reply.send(answer);
            });
        }
    }

    /// Answers one command.
    pub async fn answer(&self, command: Command, caller: &Caller, interrupt: Interrupt) -> ConsoleReply {
        if let Command::Pooler(pooler) = &command {
            return self.answer_pooler(pooler, caller, interrupt).await;
        }
        if let Some(shown) = rows::show(&command, &self.facts.status(), || self.facts.events()) {
            return shown;
        }
        if !caller.is_admin() {
            let message = format!("permission denied for {}", command.words());
            return Err(for_admins_only(message, caller));
        }
        let operator = self.operator.clone();
        let words = command.words();
        // In a task of its own: whoever stops waiting does not stop it half-way.
        let task = tokio::spawn({
            let command = command.clone();
            async move {
                match command {
                    Command::MirrorDatabase { mirror, source } => {
                        operator.create_mirror(mirror, source).await
                    }
                    Command::DropMirror { mirror } => operator.drop_mirror(mirror).await,
                    Command::Promote { mirror } => operator.promote(mirror).await,
                    Command::Reload => operator.reload().await,
                    other => unreachable!("{} is answered elsewhere", other.words()),
                }
            }
        });
        match tokio::time::timeout(CHANGE_MAX, task).await {
            Ok(Ok(Ok(notices))) => Ok(ConsoleRows::done(&command, notices)),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(panicked)) => {
                Err(ConsoleError::new(sqlstate::INTERNAL, format!("{words} broke off: {panicked}"))
                    .with_hint("The log says more."))
            }
            Err(_) => Err(ConsoleError::new(
                sqlstate::OUTCOME_UNKNOWN,
                format!("{words} has not ended within {} s", CHANGE_MAX.as_secs()),
            )
            .with_hint("It goes on; SHOW EVENTS tells what becomes of it.")),
        }
    }

    /// One of PgBouncer's commands, with its words for who may not give it.
    async fn answer_pooler(&self, command: &Pooler, caller: &Caller, interrupt: Interrupt) -> ConsoleReply {
        if command.is_change() && !caller.is_admin() {
            return Err(for_admins_only("admin access needed".to_owned(), caller));
        }
        if let Pooler::Show(table) = command {
            if caller.privilege == Privilege::Ordinary {
                let message = format!("permission denied for SHOW {}", table.word());
                return Err(ConsoleError::new(sqlstate::INSUFFICIENT_PRIVILEGE, message)
                    .with_detail(format!(
                        "Role \"{}\" is listed neither in auth.admin_users nor in auth.stats_users.",
                        caller.user
                    ))
                    .with_hint("Log in as one of them, or add the role to auth.stats_users."));
            }
            let rows = match table {
                Table::Prepared => pooler::prepared(self.operator.prepared().await),
                _ => pooler::rows(*table, &self.facts.pooler()),
            };
            return Ok(ConsoleRows::shown(&Command::Pooler(command.clone()), rows));
        }
        let notices = self.operator.pooler(command.clone(), interrupt).await?;
        let done = ConsoleRows::done(&Command::Pooler(command.clone()), notices);
        Ok(match command {
            Pooler::Set { key, value } => ConsoleRows { tag: format!("SET {key}={value}").into(), ..done },
            _ => done,
        })
    }
}

fn for_admins_only(message: String, caller: &Caller) -> ConsoleError {
    ConsoleError::new(sqlstate::INSUFFICIENT_PRIVILEGE, message)
        .with_detail(format!("Role \"{}\" is not listed in auth.admin_users.", caller.user))
        .with_hint("Log in as one of them, or add the role to auth.admin_users.")
}
