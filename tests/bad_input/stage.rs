//! Servers, and the program before them: running, or refusing to.

use cloud_mirror::lab::{Cluster, Port, Proxy, SUPERUSER, eventually};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::Command;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_cloud-mirror");
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A server with a role `app` that owns database `shop`, with a table in it.
pub async fn local(wal_level: &str) -> Cluster {
    let local = Cluster::builder().setting("wal_level", wal_level).start().await.unwrap();
    local.create_role("app", "app-secret", "").await.unwrap();
    local.sql("postgres", "create database shop owner app").await.unwrap();
    local.sql("shop", "set role app; create table t (id serial primary key, v text)").await.unwrap();
    local
}

/// A server with an empty database `shop`.
pub async fn cloud() -> Cluster {
    let cloud = Cluster::builder().start().await.unwrap();
    cloud.create_database("shop").await.unwrap();
    cloud
}

/// A proxy that is not started yet.
pub fn proxy(local: &Cluster, cloud: Option<&Cluster>, more: &[&str]) -> Proxy {
    let (from, to) = (local.url(SUPERUSER, "shop"), cloud.map(|cloud| cloud.url(SUPERUSER, "shop")));
    let mut arguments = vec!["--local", from.as_str()];
    if let Some(to) = &to {
        arguments.extend(["--cloud", to.as_str()]);
    }
    arguments.extend(more);
    Proxy::new(Path::new(PROGRAM), &arguments).unwrap()
}

/// A connection of the app.
pub async fn client(proxy: &Proxy) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let url = proxy.url("app", "app-secret", "shop");
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Waits until the app can write.
pub async fn writes(proxy: &Proxy) {
    eventually(PATIENCE, async || {
        let client = client(proxy).await?;
        client.execute("insert into t (v) values ('x')", &[]).await?;
        Ok(())
    })
    .await;
}

/// Waits until the mirror's state is `word`, and returns why.
pub async fn mirror_is(proxy: &Proxy, word: &str) -> String {
    eventually(PATIENCE, async || {
        let status = proxy.status().await?;
        let state = &status["mirrors"][0]["state"];
        match state["state"].as_str() {
            Some(found) if found == word => Ok(state["reason"].as_str().unwrap_or_default().to_owned()),
            _ => Err(format!("{status:#}\n{}", proxy.log()).into()),
        }
    })
    .await
}

/// What of ours is on a server: roles, slots, publications, our schema in `shop`.
pub async fn left_behind(cluster: &Cluster) -> String {
    let sql = "select concat_ws(' ',
        (select string_agg(rolname, ' ') from pg_roles where rolname !~ '^pg_' and rolname not in ('postgres', 'app')),
        (select string_agg(slot_name, ' ') from pg_replication_slots),
        (select string_agg(pubname, ' ') from pg_publication),
        (select 'schema' from pg_namespace where nspname = 'cloud_mirror'))";
    cluster.value("shop", sql).await.unwrap()
}

/// One attempt to run the program, with a directory of its own.
pub struct Attempt {
    pub directory: tempfile::TempDir,
    arguments: Vec<String>,
}

impl Attempt {
    /// `cloud-mirror run` on free ports; later arguments are added by [`Attempt::with`].
    pub fn run(local_url: &str) -> Attempt {
        let directory = tempfile::tempdir().unwrap();
        let attempt = Attempt { directory, arguments: vec!["run".to_owned()] };
        attempt.with("--local", local_url)
    }

    pub fn with(mut self, option: &str, value: &str) -> Attempt {
        self.arguments.extend([option.to_owned(), value.to_owned()]);
        self
    }

    pub fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// All arguments: what was not said gets free ports and places in the directory.
    pub fn arguments(&self) -> (Vec<String>, Port) {
        let port = Port::reserve().unwrap();
        let mut all = self.arguments.clone();
        let standard = [
            ("--listen", format!("127.0.0.1:{}", port.number())),
            ("--http", "off".to_owned()),
            ("--state-dir", self.state_dir().display().to_string()),
            ("--lease", format!("file:{}", self.directory.path().join("lease").display())),
        ];
        for (option, value) in standard {
            if !all.iter().any(|argument| argument == option) {
                all.extend([option.to_owned(), value]);
            }
        }
        (all, port)
    }

    /// Runs it to its end, which has to come by itself: exit code and standard error.
    pub async fn ends(&self) -> (i32, String) {
        let (arguments, _port) = self.arguments();
        let mut command = Command::new(PROGRAM);
        command.args(&arguments).current_dir(self.directory.path()).kill_on_drop(true);
        let done = output(command).await;
        (done.status.code().unwrap_or(-1), said(&done))
    }

    /// It refuses to start: with this code, and with one error that has all of `parts`.
    pub async fn is_refused(&self, code: i32, parts: &[&str]) {
        let (found, error) = self.ends().await;
        assert_eq!(found, code, "{:?}: {error}", self.arguments);
        for part in parts {
            assert!(error.contains(part), "{:?}: no {part:?} in: {error}", self.arguments);
        }
        assert_eq!(error.matches("cloud-mirror: ").count(), 1, "one error: {error}");
    }
}

/// Runs a program that has to end by itself.
pub async fn output(mut command: Command) -> Output {
    let done = tokio::time::timeout(PATIENCE, command.stdin(Stdio::null()).output()).await;
    done.unwrap_or_else(|_| panic!("{command:?} does not end")).unwrap()
}

/// Both outputs of a program.
pub fn said(done: &Output) -> String {
    String::from_utf8_lossy(&[done.stdout.as_slice(), &done.stderr].concat()).into_owned()
}
