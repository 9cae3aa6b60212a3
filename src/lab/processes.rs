//! The processes of one server, found by its mark: also those whose postmaster is dead.
//!
//! `/proc/<pid>/cmdline` is readable for everybody, unlike `cwd` or `environ` (a container's root
//! may lack the right to look at those). The mark is unique to a server, so no pid is ever
//! signalled because it once belonged to one.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The argument of the postmaster, and of a child that has not renamed itself yet.
pub(super) fn postmaster_argument(mark: &str) -> String {
    format!("cluster_name={mark}")
}

/// Every living process of the server with this mark.
pub(super) fn of(mark: &str) -> Vec<Pid> {
    let argument = postmaster_argument(mark);
    let title = format!("postgres: {mark}");
    let is_marked =
        |line: &[u8]| line.starts_with(title.as_bytes()) || has_argument(line, argument.as_bytes());
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| is_marked(&line)))
        .map(Pid::from_raw)
        .collect()
}

/// Sends `signal` to each; one that is gone already is not an error.
pub(super) fn signal(pids: &[Pid], signal: Signal) {
    for pid in pids {
        let _ = kill(*pid, signal);
    }
}

/// Whether the process is stopped by a signal (state `T` in `/proc/<pid>/stat`), or gone.
pub(super) fn is_stopped(pid: Pid) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // The state follows the name, which is in parentheses and may itself hold some.
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['T', 't', 'Z', 'X']))
}

fn has_argument(line: &[u8], argument: &[u8]) -> bool {
    line.split(|b| *b == 0).any(|word| word == argument)
}
