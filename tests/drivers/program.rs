//! Running a program at the server and through the proxy.

use crate::fixture::Pair;
use crate::modes::differs_as_listed;
use cloud_mirror::lab::PASSWORD;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// The slowest program on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// A program and the arguments in front of its URL.
#[derive(Clone)]
pub struct Program {
    words: Vec<String>,
    directory: PathBuf,
    variables: Vec<(String, String)>,
}

impl Program {
    /// `words` run in a folder of `tests/drivers`.
    pub fn new(folder: &str, words: &[&str]) -> Program {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers").join(folder);
        let words = words.iter().map(ToString::to_string).collect();
        Program { words, directory, variables: Vec::new() }
    }

    /// With a variable of its environment.
    pub fn with(mut self, name: &str, value: &str) -> Program {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Its standard output; fails the test when it fails.
    pub async fn run(&self, arguments: &[&str]) -> String {
        let (head, tail) = self.words.split_first().expect("a program has a name");
        let done = Command::new(head)
            .args(tail)
            .args(arguments)
            .current_dir(&self.directory)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let done = tokio::time::timeout(PATIENCE, done).await;
        let done = done.unwrap_or_else(|_| panic!("{head} {tail:?} {arguments:?} does not end")).unwrap();
        let (out, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{head} {tail:?} {arguments:?}: {}\n{errors}\n{out}", done.status);
        out.into_owned()
    }

    /// Runs it at the local server and through the proxy in its default mode; it has to say the same but for
    /// what is listed for `name`.
    pub async fn is_the_same_through_the_proxy(&self, name: &str, pair: &Pair) {
        let direct = self.run(&[&pair.local.url("app", "shop")]).await;
        let through = self.run(&[&pair.proxy.url("app", "app-secret", "shop")]).await;
        let folder =
            self.directory.file_name().and_then(|it| it.to_str()).expect("a folder of tests/drivers");
        if let Err(difference) = differs_as_listed(name, folder, "auto", &direct, &through) {
            panic!("{difference}\n{}", pair.proxy.log());
        }
        assert!(direct.ends_with("== end\n"), "{direct}");
    }

    /// Runs it with `ours`: what only the proxy answers.
    pub async fn asks_ours(&self, pair: &Pair) -> String {
        let url = pair.proxy.url("app", "app-secret", "shop");
        let console = pair.proxy.url("postgres", PASSWORD, "mirror");
        self.run(&[&url, "ours", &console]).await
    }
}
