//! The child process: started, killed, stopped, frozen. Knows signals and files, no SQL.

use super::place::{Place, Port, ServerUser};
use super::reaper::Reaper;
use super::{Error, Programs, processes};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How to end a server ("Shutting Down the Server").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Waits until every client has left.
    Smart,
    /// Ends the clients, then writes a checkpoint.
    Fast,
    /// Ends everything at once; the next start recovers.
    Immediate,
}

impl StopMode {
    fn signal(self) -> Signal {
        match self {
            StopMode::Smart => Signal::SIGTERM,
            StopMode::Fast => Signal::SIGINT,
            StopMode::Immediate => Signal::SIGQUIT,
        }
    }
}

/// How the server is, as far as its own files tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not yet accepting connections.
    Starting,
    /// Accepting them.
    Ready,
    /// The process has ended.
    Ended,
}

/// One server and everything that has to go with it. Fields are dropped in this order: the
/// reaper is told last but for the port, which nobody may take before the server is gone.
#[derive(Debug)]
pub(super) struct Server {
    child: Mutex<Option<Child>>,
    place: Place,
    programs: Programs,
    user: ServerUser,
    _reaper: Reaper,
    port: Port,
}

/// How long an immediate stop may take before `Drop` kills.
const DROP_PATIENCE: Duration = Duration::from_secs(4);

/// For all processes to stand still, on a busy machine.
const FREEZE_LIMIT: Duration = Duration::from_secs(60);

impl Server {
    pub(super) fn new(
        place: Place,
        programs: Programs,
        user: ServerUser,
        port: Port,
    ) -> Result<Server, Error> {
        let mark = &place.mark;
        let marks = [format!("cluster_name={mark}"), format!("postgres: {mark}")];
        let reaper = Reaper::watch(&[&marks[0], &marks[1]], &place.root)?;
        Ok(Server { child: Mutex::new(None), place, programs, user, _reaper: reaper, port })
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn programs(&self) -> &Programs {
        &self.programs
    }

    pub(super) fn port(&self) -> u16 {
        self.port.number()
    }

    /// Writes a file of the data directory, readable by the server alone.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.place.data.join(name);
        std::fs::write(&path, text).map_err(Error::file("write", &path))?;
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, private).map_err(Error::file("protect", &path))?;
        self.user.own(&path)
    }

    /// Makes the child; returns how long the log was before.
    pub(super) fn spawn(&self) -> Result<u64, Error> {
        let mut child = self.lock();
        if running(&mut child) {
            return Err(Error::Running);
        }
        let path = &self.place.log;
        let log = File::options().append(true).open(path).map_err(Error::file("open", path))?;
        let before = log.metadata().map_err(Error::file("look at", path))?.len();
        let to_log = || log.try_clone().map(Stdio::from).map_err(Error::file("open", path));
        let mut command = self.user.command(&self.programs.path("postgres"));
        command.arg("-D").arg(&self.place.data);
        command.arg("-c").arg(processes::postmaster_argument(&self.place.mark));
        command.stdin(Stdio::null()).stdout(to_log()?).stderr(to_log()?);
        let spawned = command.spawn();
        *child =
            Some(spawned.map_err(|e| Error::Program { program: "postgres".into(), output: e.to_string() })?);
        Ok(before)
    }

    /// The postmaster, while it lives.
    pub(super) fn postmaster(&self) -> Option<Pid> {
        let mut child = self.lock();
        if running(&mut child) { child.as_ref().map(pid) } else { None }
    }

    /// All living processes of this server, whether or not the postmaster is among them.
    pub(super) fn processes(&self) -> Vec<Pid> {
        processes::of(&self.place.mark)
    }

    pub(super) fn stage(&self) -> Stage {
        let Some(postmaster) = self.postmaster() else { return Stage::Ended };
        // Lines: pid, data directory, start, port, socket directory, address, memory, state
        // (`src/include/utils/pidfile.h`).
        let text = std::fs::read_to_string(self.place.data.join("postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines().map(str::trim);
        let is_its_own = lines.next() == Some(postmaster.to_string().as_str());
        match lines.nth(6) {
            Some("ready" | "standby") if is_its_own => Stage::Ready,
            _ => Stage::Starting,
        }
    }

    pub(super) fn kill9(&self) -> Result<(), Error> {
        let mut child = self.lock();
        if !running(&mut child) {
            return Err(Error::NotRunning);
        }
        if let Some(mut dead) = child.take() {
            // Waited for at once: a zombie would look like "another postmaster" to the next start.
            let _ = dead.kill();
            let _ = dead.wait();
        }
        Ok(())
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<(), Error> {
        let postmaster = self.postmaster().ok_or(Error::NotRunning)?;
        kill(postmaster, signal).map_err(|_| Error::NotRunning)
    }

    pub(super) fn request_stop(&self, mode: StopMode) -> Result<(), Error> {
        self.signal(mode.signal())
    }

    /// Stops the postmaster first, so that it makes no more children, then the children; returns
    /// when all stand still.
    pub(super) fn freeze(&self) -> Result<(), Error> {
        self.signal(Signal::SIGSTOP)?;
        let end = Instant::now() + FREEZE_LIMIT;
        while Instant::now() < end {
            let all = self.processes();
            processes::signal(&all, Signal::SIGSTOP);
            if all.iter().all(|pid| processes::is_stopped(*pid)) {
                return Ok(());
            }
            std::thread::yield_now();
        }
        Err(Error::Timeout { what: "freezing", limit: FREEZE_LIMIT, log: self.log_end() })
    }

    /// Lets all go on.
    pub(super) fn thaw(&self) {
        processes::signal(&self.processes(), Signal::SIGCONT);
    }

    pub(super) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.place.log).unwrap_or_default()).into_owned()
    }

    /// What was logged after the first `length` bytes.
    pub(super) fn log_after(&self, length: u64) -> String {
        let bytes = std::fs::read(&self.place.log).unwrap_or_default();
        let start = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
        String::from_utf8_lossy(&bytes[start..]).into_owned()
    }

    /// The last lines of the log, for an error.
    pub(super) fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A killed server leaves its System V segment behind; the machine has a few thousand only.
    fn remove_shared_memory(&self) {
        let text = std::fs::read_to_string(self.place.data.join("postmaster.pid")).unwrap_or_default();
        if let Some(id) = text.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
            let mut ipcrm = std::process::Command::new("ipcrm");
            let _ = ipcrm.args(["-m", id]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.thaw();
        // An immediate stop first: unlike a kill it lets the server remove its shared memory.
        let _ = self.request_stop(StopMode::Immediate);
        let end = Instant::now() + DROP_PATIENCE;
        while self.postmaster().is_some() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.kill9();
        let end = Instant::now() + DROP_PATIENCE;
        loop {
            let left = self.processes();
            if left.is_empty() || Instant::now() > end {
                break;
            }
            processes::signal(&left, Signal::SIGKILL);
            std::thread::sleep(Duration::from_millis(2));
        }
        self.remove_shared_memory();
        let _ = std::fs::remove_dir_all(&self.place.root);
    }
}

/// Whether the child lives; one that has ended is reaped and forgotten.
fn running(child: &mut Option<Child>) -> bool {
    match child.as_mut().map(Child::try_wait) {
        Some(Ok(None)) => true,
        Some(Ok(Some(_)) | Err(_)) => {
            *child = None;
            false
        }
        None => false,
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a pid fits in pid_t"))
}
