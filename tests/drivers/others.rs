//! Drivers that `xtask/drivers.sh` installs, for `make campaign`.

use crate::fixture::Pair;
use crate::program::Program;
use std::path::{Path, PathBuf};

/// Where Debian's package puts the JDBC driver.
pub const JDBC: &str = "/usr/share/java/postgresql.jar";

/// What the script has made.
pub fn installed(path: impl AsRef<Path>) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/drivers").join(path);
    assert!(path.exists(), "there is no {}; make it with xtask/drivers.sh", path.display());
    path.display().to_string()
}

async fn sees_the_same(name: &str, program: Program) -> String {
    let pair = Pair::start().await;
    program.is_the_same_through_the_proxy(name, &pair).await;
    pair.mirror_is("following").await;
    program.asks_ours(&pair).await
}

#[track_caller]
fn count(said: &str, line: &str, expected: usize) {
    assert_eq!(said.lines().filter(|found| *found == line).count(), expected, "{line}:\n{said}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: needs asyncpg"]
async fn asyncpg_sees_what_it_would_see_directly() {
    let said =
        sees_the_same("asyncpg", Program::new("asyncpg", &[&installed("asyncpg/bin/python"), "program.py"]))
            .await;
    count(&said, "['mirror', 'status', 'mode'] cloud Following shop", 2);
    count(&said, "async 6", 1);
    count(&said, "('InsufficientPrivilegeError', '42501')", 1);
    count(&said, "7", 1);
    count(&said, "console cloud", 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: needs node-postgres"]
async fn node_postgres_sees_what_it_would_see_directly() {
    let modules = installed("node");
    let said = sees_the_same(
        "node_postgres",
        Program::new("node", &["node", "program.js"]).with("DRIVERS_NODE_MODULES", &modules),
    )
    .await;
    count(&said, "SHOW mirror cloud Following shop", 4);
    count(&said, "1 6", 1);
    count(&said, "42704 mirror \"nothing\" does not exist", 1);
    count(&said, "42501 7", 1);
    count(&said, "console cloud", 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: needs JDBC"]
async fn jdbc_sees_what_it_would_see_directly() {
    assert!(Path::new(JDBC).exists(), "there is no {JDBC}; install it with xtask/drivers.sh");
    let said = sees_the_same("jdbc", Program::new("jdbc", &["java", "-cp", JDBC, "Program.java"])).await;
    for mode in ["extended", "simple", "extendedForPrepared"] {
        for autocommit in [true, false] {
            count(&said, &format!("{mode} {autocommit} mirror cloud Following shop true"), 4);
        }
    }
    // Ours behind a BEGIN in the same batch: the transaction is the server's, and rolls back.
    count(&said, "async", 3);
    count(&said, "true", 3);
    count(&said, "7", 6);
    assert!(said.contains("console cloud"), "{said}");
}
