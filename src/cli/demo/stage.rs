//! What the story plays on: two servers, an application's database, and the proxy.

use super::application;
use super::book::Row;
use crate::base::Site;
use crate::cli::status::Document;
use crate::failover::effects::control_role;
use crate::lab::{self, Cluster, PASSWORD, Programs, Proxy, SUPERUSER};
use anyhow::{Context, bail};
use std::collections::HashSet;
use std::process::Stdio;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// The application's database, on both servers.
pub const DATABASE: &str = "shop";
/// The application's role and its password.
pub const APP: &str = "app";
/// See [`APP`].
pub const APP_PASSWORD: &str = "app-secret";

/// Size of pgbench's tables: 100,000 accounts each, some 15 MB.
const SCALE: u32 = 10;
/// For pgbench to make them.
const LOAD_WITHIN: Duration = Duration::from_secs(300);
/// For everything to be copied home.
const HOME_WITHIN: Duration = Duration::from_secs(300);
/// For the proxy to end in order.
const END_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at a fact.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Servers and proxy; all of it ends when dropped, and leaves nothing behind.
pub struct Stage {
    // Dropped in this order: the proxy must not see its servers go.
    pub proxy: Proxy,
    pub local: Cluster,
    pub cloud: Cluster,
}

/// Starts both servers. They live as long as the demo does, so nothing of them has to outlive the
/// machine.
pub async fn servers() -> Result<(Cluster, Cluster), lab::Error> {
    let server = || Cluster::builder().setting("max_connections", 200).start();
    tokio::try_join!(server(), server())
}

/// Makes the application's role, its database with its tables, and an empty one in the cloud.
pub async fn fill(local: &Cluster, cloud: &Cluster) -> anyhow::Result<()> {
    local.create_role(APP, APP_PASSWORD, "").await?;
    local.sql("postgres", &format!("CREATE DATABASE {DATABASE} OWNER {APP}")).await?;
    cloud.create_database(DATABASE).await?;
    local.sql(DATABASE, &format!("SET ROLE {APP}; {}", application::TABLE)).await?;
    let pgbench = Programs::find(None)?.path("pgbench");
    let mut command = tokio::process::Command::new(&pgbench);
    for (name, _) in std::env::vars_os() {
        // Nothing of this user's habits: PGOPTIONS, PGSERVICE and the like.
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.args(["--initialize", "--quiet", "--scale", &SCALE.to_string()]);
    command.arg(local.url(APP, DATABASE)).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LOAD_WITHIN, command.output())
        .await
        .context("pgbench takes too long")?
        .with_context(|| format!("{} does not start", pgbench.display()))?;
    if !output.status.success() {
        bail!("pgbench failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

impl Stage {
    /// The proxy between the two, not started yet.
    pub fn new(local: Cluster, cloud: Cluster) -> anyhow::Result<Self> {
        let program = this_program()?;
        let (from, to) = (local.url(SUPERUSER, DATABASE), cloud.url(SUPERUSER, DATABASE));
        let proxy = Proxy::new(&program, &["--local", &from, "--cloud", &to])?;
        Ok(Self { proxy, local, cloud })
    }

    /// What the application has in DATABASE_URL.
    pub fn app_url(&self) -> String {
        self.proxy.url(APP, APP_PASSWORD, DATABASE)
    }

    /// The way to the proxy's own commands, as an administrator.
    pub fn console_url(&self) -> String {
        self.proxy.url(SUPERUSER, PASSWORD, "mirror")
    }

    /// What `cloud-mirror status` shows.
    pub async fn status(&self) -> Result<Document, String> {
        let text = self.proxy.get("/status").await?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// Rows of a table of one server's copy, as its superuser.
    pub async fn count(server: &Cluster, table: &str) -> anyhow::Result<u64> {
        let count = server.value(DATABASE, &format!("SELECT count(*) FROM {table}")).await?;
        Ok(count.parse()?)
    }

    /// The application's rows in the cloud.
    pub async fn cloud_rows(&self) -> anyhow::Result<HashSet<Row>> {
        rows(&self.cloud.client(DATABASE).await?).await
    }

    /// The application's rows on the local server when it is fenced: only the proxy's own role is
    /// let in there.
    pub async fn fenced_rows(&self) -> anyhow::Result<HashSet<Row>> {
        let party = self.local.party(Site::Local, DATABASE);
        let file = control_role::password_file(&party, &self.proxy.directory().join("state"));
        let password =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.local.port()).dbname(DATABASE);
        config.user(control_role::CONTROL_ROLE).password(password.trim());
        // Sessions that are not named like this are ended.
        config.application_name("cloud-mirror demo");
        let (client, connection) = config.connect(NoTls).await?;
        let connection = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
        let rows = rows(&client).await;
        drop(connection);
        rows
    }

    /// Brings the data home while the proxy is stopped; returns what the command says.
    pub async fn go_home(&self) -> anyhow::Result<String> {
        let mut command = tokio::process::Command::new(this_program()?);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CLOUD_MIRROR") {
                command.env_remove(name);
            }
        }
        command.args(self.way_home()).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(HOME_WITHIN, command.output())
            .await
            .context("the way home takes too long")??;
        let [said, logged] =
            [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).trim().to_owned());
        if !output.status.success() {
            bail!("the way home failed with {}: {said}\n{logged}", output.status);
        }
        Ok(said)
    }

    /// The arguments that bring the data home: those of `run`, and what is given up.
    pub fn way_home(&self) -> Vec<String> {
        let mut arguments = self.proxy.arguments();
        if let Some(first) = arguments.first_mut() {
            *first = "failback".to_owned();
        }
        arguments.push("--discard-local".to_owned());
        arguments
    }

    /// Stops the proxy in order; what has not ended in time is killed.
    pub async fn stop_proxy(&self) {
        self.proxy.signal(nix::sys::signal::Signal::SIGTERM);
        let ended = async {
            while self.proxy.ended().is_none() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(END_WITHIN, ended).await.is_err() {
            self.proxy.kill9();
        }
    }

    /// Asks `fact` until it is `Ok`; the error says what it said last and what the proxy has logged.
    pub async fn until<T>(
        &self,
        limit: Duration,
        what: &str,
        mut fact: impl AsyncFnMut(&Self) -> Result<T, String>,
    ) -> anyhow::Result<T> {
        let end = Instant::now() + limit;
        loop {
            let said = match fact(self).await {
                Ok(value) => return Ok(value),
                Err(said) => said,
            };
            let problem = match self.proxy.ended() {
                Some(status) => format!("the proxy ended with {status}"),
                None if Instant::now() > end => format!("{what}: not within {} s ({said})", limit.as_secs()),
                None => {
                    tokio::time::sleep(LOOK_EVERY).await;
                    continue;
                }
            };
            bail!("{problem}; the proxy's log ends with:\n{}", last_lines(&self.proxy.log()));
        }
    }
}

fn this_program() -> anyhow::Result<std::path::PathBuf> {
    std::env::current_exe().context("cannot find out which program this is")
}

async fn rows(client: &Client) -> anyhow::Result<HashSet<Row>> {
    let messages = client.simple_query("SELECT writer, number FROM orders").await?;
    let row = |message: SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            Some(Row { writer: row.get(0)?.parse().ok()?, number: row.get(1)?.parse().ok()? })
        }
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
