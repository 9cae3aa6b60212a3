//! The same programs in every mode of the pool. Each prints what it sees; what it prints at the server
//! itself is what it has to print through the proxy. In `session` mode nothing may differ; for the
//! other modes, a file beside the program lists every line that does, with the reason.

use crate::program::Program;
use cloud_mirror::lab::{Cluster, Proxy, SUPERUSER};
use std::path::{Path, PathBuf};
use tokio::sync::{Mutex, OnceCell};

/// Fewer than the clients of some programs, and as many as hold transactions open at once.
const POOL_SIZE: &str = "24";

/// What pooled connections do not have: the process id of the login is another transaction's.
const PROCESS_ID: &str = "pid ";

static SERVER: OnceCell<Cluster> = OnceCell::const_new();
static STARTING: Mutex<()> = Mutex::const_new(());

async fn server() -> &'static Cluster {
    let start = async || {
        let builder = Cluster::builder().setting("max_connections", 300);
        // For two-phase commit, as SQLAlchemy does it.
        let builder = builder.setting("max_prepared_transactions", 5);
        let server = builder.start().await.expect("a server starts");
        server.create_role("app", "app-secret", "").await.unwrap();
        server
    };
    SERVER.get_or_init(start).await
}

/// A proxy with this mode. They start one at a time: each looks after its control role.
async fn proxy(mode: &str) -> Proxy {
    let _one = STARTING.lock().await;
    let url = server().await.url(SUPERUSER, "postgres");
    let proxy = Proxy::new(Path::new(env!("CARGO_BIN_EXE_cloud-mirror")), &["--local", &url]).unwrap();
    let proxy = proxy.variable("CLOUD_MIRROR__POOL__MODE", mode);
    let proxy = proxy.variable("CLOUD_MIRROR__POOL__SIZE", POOL_SIZE);
    proxy.start().await.unwrap();
    proxy
}

/// Runs a program at the server and through a proxy of each mode. `name` is its database's, and that of
/// the files in its folder that list differences.
pub async fn sees_the_same_in_every_mode(name: &str, folder: &str, program: Program) {
    sees_the_same_in(&["session", "auto", "transaction"], name, folder, program).await;
}

/// The same in these modes.
pub async fn sees_the_same_in(modes: &[&str], name: &str, folder: &str, program: Program) {
    let server = server().await;
    server.sql("postgres", &format!("create database {name} owner app")).await.unwrap();
    let direct = program.run(&[&server.url("app", name)]).await;
    assert!(direct.ends_with("== end\n") && !direct.contains("== failed"), "{direct}");
    let mut wrong = Vec::new();
    for &mode in modes {
        let proxy = proxy(mode).await;
        // What nobody hears need not be waited for.
        let patience = if matches!(mode, "session" | "auto") { "60" } else { "1" };
        let program = program.clone().with("DRIVERS_PATIENCE", patience);
        let through = program.run(&[&proxy.url("app", "app-secret", name)]).await;
        if let Err(difference) = differs_as_listed(name, folder, mode, &direct, &through) {
            wrong.push(format!("{difference}\n{}", proxy.log()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Compares what a program has said at the server and through a proxy, and says what is not listed.
pub fn differs_as_listed(
    name: &str,
    folder: &str,
    mode: &str,
    direct: &str,
    through: &str,
) -> Result<(), String> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/drivers")
        .join(folder)
        .join(format!("{name}.{mode}.diff"));
    let listed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(mode != "session" || listed.is_empty(), "nothing differs in session mode");
    let expected: Vec<&str> =
        listed.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let found = differences(&comparable(direct, mode), &comparable(through, mode));
    match found == expected {
        true => Ok(()),
        false => {
            let (found, expected) = (found.join("\n"), expected.join("\n"));
            Err(format!("in {mode} mode:\n{found}\nand expected were:\n{expected}"))
        }
    }
}

fn comparable<'a>(said: &'a str, mode: &str) -> Vec<&'a str> {
    said.lines().filter(|line| mode == "session" || !line.starts_with(PROCESS_ID)).collect()
}

/// The lines that only one has, `-` the first and `+` the second, each under the heading of its part.
fn differences(direct: &[&str], through: &[&str]) -> Vec<String> {
    // Of the longest common subsequence from each pair of places to both ends, the length.
    let mut common = vec![vec![0_usize; through.len() + 1]; direct.len() + 1];
    for (i, expected) in direct.iter().enumerate().rev() {
        for (j, found) in through.iter().enumerate().rev() {
            common[i][j] = match expected == found {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let (mut i, mut j, mut heading, mut lines) = (0, 0, "", Vec::new());
    while i < direct.len() || j < through.len() {
        if i < direct.len() && j < through.len() && direct[i] == through[j] {
            if direct[i].starts_with("== ") {
                heading = direct[i];
            }
            (i, j) = (i + 1, j + 1);
            continue;
        }
        if !heading.is_empty() {
            lines.push(std::mem::take(&mut heading).to_owned());
        }
        let is_missing = j == through.len() || i < direct.len() && common[i + 1][j] >= common[i][j + 1];
        match is_missing {
            true => lines.push(format!("- {}", direct[i])),
            false => lines.push(format!("+ {}", through[j])),
        }
        match is_missing {
            true => i += 1,
            false => j += 1,
        }
    }
    lines
}

#[test]
fn differences_are_shown_under_the_heading_of_their_part() {
    let check = |direct: &str, through: &str, expected: &[&str]| {
        let lines = |text: &'static str| text.split(' ').collect::<Vec<_>>();
        let (direct, through) = (direct.to_owned().leak(), through.to_owned().leak());
        assert_eq!(differences(&lines(direct), &lines(through)), expected, "{direct} {through}");
    };
    check("a b c", "a b c", &[]);
    check("a b c", "a x c", &["- b", "+ x"]);
    check("a b c", "a c d", &["- b", "+ d"]);
    check("", "a", &["- ", "+ a"]);
    let found = differences(&["== one", "a", "== two", "b"], &["== one", "a", "== two", "c"]);
    assert_eq!(found, ["== two", "- b", "+ c"]);
}
