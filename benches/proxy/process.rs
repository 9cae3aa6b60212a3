//! What Linux knows of a process.

use std::fs;
use std::time::Duration;

/// CPU time of all threads that the process has, to the nanosecond where the kernel says it.
/// Threads that have ended are not counted: the proxies end none while they are measured.
pub fn cpu(pid: u32) -> Option<Duration> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let schedstat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        nanoseconds += schedstat.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(nanoseconds))
}

/// Memory in use, in kB.
pub fn rss_kb(pid: u32) -> Option<u64> {
    field(&format!("/proc/{pid}/smaps_rollup"), "Rss:")
}

/// The most memory that was in use since [`forget_peak`], in kB.
pub fn peak_kb(pid: u32) -> Option<u64> {
    field(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// Starts [`peak_kb`] anew; without the right to do so the peak stays that of the whole life.
pub fn forget_peak(pid: u32) {
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// The first three numbers of `/proc/loadavg`.
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// Name and number of the processors.
pub fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{count} x {}", name.map_or("unknown processor", |(_, name)| name))
}

fn field(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}
