//! The house rules that a compiler does not know: arrows between rooms point downwards, pure
//! rooms ask nobody, rooms introduce themselves, files stay small.
//!
//! Formatting, lints and the documentation's links are `cargo xtask lint`, which `make test` runs.

#[path = "tidy/paths.rs"]
mod paths;
#[path = "tidy/tokens.rs"]
mod tokens;

use std::path::{Path, PathBuf};

/// The floors, lowest first. A room uses rooms on lower floors only.
const FLOORS: &[&[&str]] = &[
    &["base"],
    &["wire", "sql", "config"],
    // `sys` alone asks the machine; its neighbours ask it.
    &["sys"],
    &["backend", "observe"],
    &["pool", "route", "lease", "auth", "health", "catalog"],
    &["session", "replicate", "failover"],
    &["admin", "serve", "http"],
    // The top floor is a stair: `main` calls `cli`, which runs the `app` or a demo in the `lab`.
    &["lab"],
    &["app"],
    &["cli"],
    &["main"],
];

/// Rooms and files that are functions of their arguments: no clock, socket, file, environment,
/// unseeded randomness and nothing `async`.
const PURE: &[&str] =
    &["src/base/", "src/wire/", "src/sql/", "src/config/", "src/failover/controller", "src/lease/protocol"];

/// What nothing pure mentions outside its tests.
const IMPURE: &[&str] = &[
    "async",
    "await",
    // Not `tokio::sync`: a message carries the channel of its answer, sending is not waiting.
    "tokio::fs",
    "tokio::io",
    "tokio::net",
    "tokio::process",
    "tokio::spawn",
    "tokio::task",
    "tokio::time",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::os::unix::net",
    "Instant::now",
    "SystemTime::now",
    "rand::rng",
    "rand::random",
    "SystemRandom",
];

/// Lines after which a file wants to be a folder.
const LINES_MAX: usize = 600;

/// Longer files, each with the reason why it is one idea.
const LONG_FILES: &[(&str, &str)] = &[];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of `src/`, as its path from the root and its text.
fn sources() -> Vec<(String, String)> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join("src"), &mut found);
    found.sort();
    let name = |path: &Path| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    found.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// The modules a file stands for: `src/pool/limits.rs` is `["pool", "limits"]`.
fn module(file: &str) -> Vec<&str> {
    let inside = file.trim_start_matches("src/").trim_end_matches(".rs");
    let mut names: Vec<&str> = inside.split('/').collect();
    if names.last() == Some(&"mod") || names == ["lib"] {
        names.pop();
    }
    names
}

/// The arrows of one file that do not point downwards, in words.
fn wrong_arrows(file: &str, text: &str) -> Vec<String> {
    let at = module(file);
    // `lib.rs` names the rooms, that is all it does.
    let Some(room) = at.first() else { return Vec::new() };
    let Some(own) = floor(room) else {
        return vec![format!("{file}: the room `{room}` stands on no floor: give it one in tests/tidy.rs")];
    };
    let wrong = paths::of(text, &at).into_iter().filter(|used| used.room != *room).filter_map(|used| {
        let there = floor(&used.room)?;
        let way = match there.cmp(&own) {
            std::cmp::Ordering::Less => return None,
            std::cmp::Ordering::Equal => "sideways",
            std::cmp::Ordering::Greater => "upwards",
        };
        let line = used.line;
        Some(format!(
            "{file}:{line}: `{room}` (floor {own}) uses `{}` (floor {there}): the arrow points {way}",
            used.room
        ))
    });
    wrong.collect()
}

fn assert_none(complaints: Vec<String>, rule: &str) {
    assert!(complaints.is_empty(), "{rule}:\n{}", complaints.join("\n"));
}

#[test]
fn arrows_between_rooms_point_downwards() {
    let wrong = sources().iter().flat_map(|(file, text)| wrong_arrows(file, text)).collect();
    assert_none(
        wrong,
        "a room uses rooms on lower floors only; ask by a trait or a message that `app` connects",
    );
}

#[test]
fn every_room_stands_on_a_floor_and_introduces_itself() {
    let mut complaints = Vec::new();
    for entry in std::fs::read_dir(root().join("src")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if !path.is_dir() {
            if name != "lib" && name != "main" {
                complaints.push(format!("src/{name}.rs: a room is a folder with a mod.rs"));
            }
            continue;
        }
        if floor(&name).is_none() {
            complaints.push(format!("src/{name}: stands on no floor: give it one in tests/tidy.rs"));
        }
        let text = std::fs::read_to_string(path.join("mod.rs")).unwrap_or_default();
        if !text.starts_with("//! ") || text.contains("Not built yet") {
            complaints
                .push(format!("src/{name}/mod.rs: opens with `//!`: what it owns and what it never does"));
        }
    }
    assert_none(complaints, "every folder in src/ is a room");
}

#[test]
fn pure_rooms_ask_nobody() {
    let mut complaints = Vec::new();
    for (file, text) in sources() {
        if !PURE.iter().any(|start| file.starts_with(start)) || file.ends_with("tests.rs") {
            continue;
        }
        for (line, text) in tokens::lines_without_tests(&text) {
            let found = IMPURE.iter().find(|words| tokens::mentions(&text, words));
            if let Some(words) = found {
                complaints.push(format!("{file}:{line}: `{words}` in a pure room: make it an argument"));
            }
        }
    }
    assert_none(complaints, "floors 0 and 1, the controller and the lease's protocol are pure");
}

#[test]
fn files_are_one_idea_long() {
    let is_excused = |file: &str| LONG_FILES.iter().any(|(name, reason)| *name == file && !reason.is_empty());
    let long = sources().into_iter().filter_map(|(file, text)| {
        let lines = text.lines().count();
        let complaint = format!("{file}: {lines} lines; make it a folder, or list it with its reason");
        (lines > LINES_MAX && !is_excused(&file)).then_some(complaint)
    });
    assert_none(long.collect(), "a file is one idea");
}

#[test]
fn the_checker_sees_what_it_should() {
    let check = |file: &str, text: &str, expected: &[&str]| {
        let found: Vec<String> = wrong_arrows(file, text);
        assert_eq!(found.len(), expected.len(), "{file} {text}: {found:?}");
        for (found, words) in found.iter().zip(expected) {
            assert!(found.contains(words), "{found} has no {words}");
        }
    };
    check("src/health/mod.rs", "use crate::base::Lsn;", &[]);
    check("src/health/mod.rs", "use crate::session::Relay;", &["upwards"]);
    check("src/health/mod.rs", "use crate::route::Map;", &["sideways"]);
    check("src/health/mod.rs", "use super::route::Map;", &["sideways"]);
    check("src/health/a.rs", "use super::route::Map;", &[]);
    check("src/health/a.rs", "fn f() { super::super::route::go() }", &["sideways"]);
    check(
        "src/health/a.rs",
        "mod tests { use super::super::route; use super::super::super::lease; }",
        &["`lease`"],
    );
    check("src/health/a.rs", "mod x { mod y {} }\nuse super::super::app::App;", &["a.rs:2: `health`"]);
    check(
        "src/health/a.rs",
        "use crate::{base::{Lsn, Site}, admin::Console, health, lease as l};",
        &["`admin`", "`lease`"],
    );
    check("src/health/a.rs", "use super::super::{base, http::{self, Page}};", &["`http`"]);
    check("src/main.rs", "fn main() { cloud_mirror::cli::main() }", &[]);
    check("src/lab/a.rs", "use cloud_mirror::app::App;", &["upwards"]);
    check("src/health/a.rs", "// crate::app\n/* crate::app /* */ */ /// [`crate::app`]\n", &[]);
    check(
        "src/health/a.rs",
        "let a = \"crate::app\"; let b = r#\"crate::app\"#; let c = 'x'; let d: &'a str;",
        &[],
    );
    check("src/health/a.rs", "let c = '\"'; use crate::app; let d = '\"';", &["`app`"]);
    check("src/attic/a.rs", "", &["no floor"]);

    assert!(tokens::mentions("x . await ?", "await") && !tokens::mentions("awaited", "await"));
    assert!(tokens::mentions("std::time::Instant::now()", "Instant::now"));
    assert!(!tokens::mentions("MyInstant::now()", "Instant::now"));
    let pure =
        tokens::lines_without_tests("fn a() {}\n#[cfg(test)]\nmod tests {\n async fn b() {}\n}\nfn c() {}");
    assert!(!pure.iter().any(|(_, text)| text.contains("async")), "{pure:?}");
    assert_eq!(pure.last().unwrap(), &(6, "fn c ( ) { }".to_owned()));
}
