//! Ends servers and proxies whose harness was killed.
//!
//! `PR_SET_PDEATHSIG` was rejected: it needs `unsafe` or `setpriv`, fires when the *thread* that
//! made the child ends (each test has its own), and reaches the postmaster alone, so frozen or
//! busy children and the files would stay. A shell that waits for the end of a pipe sees the end
//! of our process, whatever the cause, and cleans up everything.

use super::Error;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// `dash` reads stdin unbuffered up to the newline; end of file makes `read` fail.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
read -r word && exit 0
pids() {
    printf '%s\n' "$LAB_MARKS" |
        grep -lasF -f - /proc/[0-9]*/cmdline | tr -dc '0-9\n'
}
turns=0
while [ $turns -lt 100 ]; do
    found=$(pids)
    [ -n "$found" ] || break
    kill -9 $found 2>/dev/null
    turns=$((turns + 1))
    sleep 0.05
done
set -- $(sed -n 7p "$LAB_ROOT/data/postmaster.pid" 2>/dev/null)
[ -z "$2" ] || ipcrm -m "$2" 2>/dev/null
rm -rf -- "$LAB_ROOT"
"#;

/// The watcher of one server or proxy.
#[derive(Debug)]
pub(super) struct Reaper(Child);

impl Reaper {
    /// Ends the processes that have one of `marks` in their arguments, and removes `root`.
    pub(super) fn watch(marks: &[&str], root: &Path) -> Result<Reaper, Error> {
        use std::os::unix::process::CommandExt;
        Command::new("/bin/sh")
            .args(["-c", SCRIPT, "cloud-mirror-lab-reaper"])
            .env("LAB_MARKS", marks.join("\n"))
            .env("LAB_ROOT", root)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Reaper)
            .map_err(|e| Error::Program { program: "/bin/sh".to_owned(), output: e.to_string() })
    }
}

impl Drop for Reaper {
    /// Called when the process and its files are gone: nothing is left to do.
    fn drop(&mut self) {
        if let Some(mut stdin) = self.0.stdin.take() {
            let _ = stdin.write_all(b"done\n");
        }
        let _ = self.0.wait();
    }
}
