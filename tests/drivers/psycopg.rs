//! psycopg 3, in the virtual environment that `make test` makes.

use crate::fixture::Pair;
use crate::program::Program;
use std::path::Path;

/// The interpreter that has psycopg.
pub fn python() -> String {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/python");
    assert!(python.exists(), "there is no {}; make it with xtask/python-env.sh", python.display());
    python.display().to_string()
}

/// What an application does.
pub fn program() -> Program {
    Program::new("psycopg", &[&python(), "program.py"])
}

#[tokio::test(flavor = "multi_thread")]
async fn psycopg_sees_what_it_would_see_directly() {
    let pair = Pair::start().await;
    program().is_the_same_through_the_proxy("psycopg", &pair).await;
    pair.mirror_is("following").await;
    let said = program().asks_ours(&pair).await;
    let expected = "\
False False mirror cloud Following shop async
INTRANS (1,)
False True mirror cloud Following shop async
INTRANS (1,)
True False mirror cloud Following shop async
INTRANS (1,)
True True mirror cloud Following shop async
INTRANS (1,)
simple ('cloud', 'Following')
";
    assert!(said.starts_with(expected), "{said}");
    let expected = "\
pipeline (1,) mode async (2,)
lease ['epoch', 'owner']
help True
unknown ('UndefinedObject', '42704', 'ERROR', 'mirror \"nothing\" does not exist')
refused ('InsufficientPrivilege', '42501', 'ERROR', 'permission denied for DROP MIRROR')
usable (1,)
console cloud cloud-mirror
console error 0A000
";
    assert!(said.ends_with(expected), "{said}");
}
