//! The proxy as its users run it: the binary, as a child that we wait for.

use super::place::Port;
use super::reaper::Reaper;
use super::{Error, eventually};
use crate::http::fetch;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// How long the proxy may take to let clients in, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// One proxy: its arguments, its ports and its directory stay the same over restarts. It ends when it is dropped,
/// by a panic as well, and when our process is killed.
#[derive(Debug)]
pub struct Proxy {
    program: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    directory: PathBuf,
    listen: Port,
    http: Port,
    child: Mutex<Option<Child>>,
    _reaper: Reaper,
}

impl Proxy {
    /// `cloud-mirror run` with `arguments`, on ports of its own and with its state, its lease and
    /// its Unix socket in a directory of its own; not started yet.
    pub fn new(program: &Path, arguments: &[&str]) -> Result<Proxy, Error> {
        let (listen, http) = (Port::reserve()?, Port::reserve()?);
        let name = format!("cm-lab-proxy-{}-{}", std::process::id(), listen.number());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).map_err(Error::file("create", &directory))?;
        // In its arguments; another's name may begin with ours.
        let reaper = Reaper::watch(&[&format!("{}/", directory.display())], &directory)?;
        Ok(Proxy {
            program: program.to_owned(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            variables: Vec::new(),
            directory,
            listen,
            http,
            child: Mutex::default(),
            _reaper: reaper,
        })
    }

    /// Sets a variable of its environment, such as `CLOUD_MIRROR__FAILOVER__RESTART_GRACE`.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Proxy {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The arguments of `run`, as a person would type them.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["run".to_owned()];
        arguments.extend(self.arguments.iter().cloned());
        arguments.extend(self.standard());
        arguments
    }

    fn standard(&self) -> [String; 10] {
        let at = |name: &str| self.directory.join(name).display().to_string();
        [
            "--listen".to_owned(),
            format!("127.0.0.1:{}", self.listen.number()),
            "--http".to_owned(),
            format!("127.0.0.1:{}", self.http.number()),
            "--state-dir".to_owned(),
            at("state"),
            "--lease".to_owned(),
            format!("file:{}", at("lease")),
            "--unix-socket-dir".to_owned(),
            self.directory.display().to_string(),
        ]
    }

    /// Starts it and waits until it answers HTTP.
    pub async fn start(&self) -> Result<(), Error> {
        self.spawn()?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if self.get("/livez").await.is_ok() {
                return Ok(());
            }
            if let Some(status) = self.ended() {
                let output = format!("it ended with {status}:\n{}", self.log());
                return Err(Error::Program { program: "cloud-mirror".to_owned(), output });
            }
            if tokio::time::Instant::now() > deadline {
                let output = format!("it does not answer:\n{}", self.log());
                return Err(Error::Program { program: "cloud-mirror".to_owned(), output });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Starts it and waits for nothing.
    pub fn spawn(&self) -> Result<(), Error> {
        let path = self.log_path();
        let log =
            File::options().create(true).append(true).open(&path).map_err(Error::file("open", &path))?;
        let clone = log.try_clone().map_err(Error::file("open", &path))?;
        let failed = |error: std::io::Error| Error::Program {
            program: self.program.display().to_string(),
            output: error.to_string(),
        };
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            // What this user has configured is for another proxy.
            if name.to_string_lossy().starts_with("CLOUD_MIRROR") {
                command.env_remove(name);
            }
        }
        let child = command
            .args(self.arguments())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(clone)
            .spawn()
            .map_err(failed)?;
        *self.child() = Some(child);
        Ok(())
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().expect("no holder of the child panics")
    }

    /// How it ended, if it did.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child().as_mut()?.try_wait().ok()?
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// `SIGKILL`, and waits for the end.
    pub fn kill9(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        }
    }

    /// `SIGTERM`, and waits for the orderly end.
    pub async fn stop(&self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let status = eventually(PATIENCE, async || self.ended().ok_or("it still runs".into())).await;
        self.child().take();
        status
    }

    /// Port for clients.
    pub fn port(&self) -> u16 {
        self.listen.number()
    }

    /// Port for HTTP.
    pub fn http_port(&self) -> u16 {
        self.http.number()
    }

    /// Directory of its Unix socket, its state and its log.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A URL for clients.
    pub fn url(&self, user: &str, password: &str, database: &str) -> String {
        format!("postgres://{user}:{password}@127.0.0.1:{}/{database}", self.port())
    }

    /// The body of a GET that is answered 200.
    pub async fn get(&self, path: &'static str) -> Result<String, String> {
        let address = format!("127.0.0.1:{}", self.http.number());
        let asking = tokio::task::spawn_blocking(move || fetch::get(&address, path));
        match asking.await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The status document.
    pub async fn status(&self) -> Result<serde_json::Value, String> {
        let text = self.get("/status").await?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.kill9();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
