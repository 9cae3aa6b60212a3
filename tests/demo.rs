//! `cloud-mirror demo` as a person runs it: it tells the story to its end, and leaves nothing behind.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn demo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloud-mirror"));
    command.arg("demo").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn texts(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into(), String::from_utf8_lossy(&output.stderr).into())
}

/// Whether a process or a directory of the demo with this pid is left.
fn traces(demo: u32) -> Vec<String> {
    let mark = format!("cm-lab-{demo}-");
    let proxy = format!("cm-lab-proxy-{demo}-");
    let is_trace = |text: &str| text.contains(&mark) || text.contains(&proxy);
    let mut found = Vec::new();
    for directory in ["/tmp".as_ref(), "/dev/shm".as_ref(), std::env::temp_dir().as_path()] as [&Path; 3] {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| entry.path().display().to_string()).filter(|path| is_trace(path)));
    }
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if is_trace(&line) {
            found.push(line);
        }
    }
    found
}

#[test]
fn the_story_is_told_to_its_end() {
    let child = demo().env("NO_COLOR", "1").spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    let (out, errors) = texts(&output);
    assert!(output.status.success(), "{:?}\n{out}\n{errors}", output.status);
    for words in [
        "the mirror follows after",
        "SHOW MIRROR STATUS",
        "later the cloud acknowledged the first row",
        "lost tail ",
        "keys           0 given twice",
        "started and fenced within",
        "too many connections for database \"shop\" (SQLSTATE 53300)",
        "The local server is the owner in epoch 4.",
        "all to the local server",
        "servers and proxy are stopped",
    ] {
        assert!(out.contains(words), "{words} is missing:\n{out}\n{errors}");
    }
    assert!(!out.contains('\x1b'), "{out}");
    assert_eq!(traces(pid), [] as [String; 0]);
}

#[test]
fn an_interrupt_ends_everything() {
    let mut child = demo().spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    for line in lines.map_while(Result::ok) {
        seen.push(line);
        // The proxy runs, and copies.
        if seen.last().is_some_and(|line| line.contains("DATABASE_URL=postgres://")) {
            interrupt(&child);
        }
    }
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{seen:#?}\n{}", texts(&output).1);
    assert!(seen.iter().any(|line| line.starts_with("interrupted")), "{seen:#?}");
    assert_eq!(traces(pid), [] as [String; 0]);
}

fn interrupt(child: &Child) {
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
}

#[test]
fn without_postgresql_it_says_what_to_type() {
    let output = demo().env("PG_BINDIR", "/nonexistent").output().unwrap();
    let (_, errors) = texts(&output);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("apt-get install -y postgresql"), "{errors}");
}
