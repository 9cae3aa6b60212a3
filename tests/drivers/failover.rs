//! What applications written in psycopg see when the local server is killed under them.

use crate::fixture::Pair;
use crate::psycopg::python;
use cloud_mirror::lab::{eventually, that};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// The SQLSTATEs that the documentation names for a failover.
const DOCUMENTED: [&str; 4] = ["40001", "08007", "57P01", "57P03"];
/// The writers of `writer.py`.
const HABITS: [&str; 8] =
    ["simple", "prepared", "transaction", "pipeline", "copy", "cursor", "seldom", "listener"];
/// Acknowledgements of every writer before and after the kill.
const ENOUGH: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

struct Writer {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// All that was said but acknowledgements.
    troubles: Vec<String>,
    /// The highest acknowledged number.
    acknowledged: BTreeMap<String, u64>,
}

impl Writer {
    fn start(url: &str) -> Writer {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers/psycopg");
        let mut child = Command::new(python())
            .args(["writer.py", url])
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Writer { child, lines, troubles: vec![], acknowledged: BTreeMap::new() }
    }

    /// What kind of line came next, and from whom; `None` at the end.
    async fn read(&mut self) -> Option<(String, String)> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("silence after {:#?}", self.troubles)).unwrap()?;
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        let [kind, habit, rest] = std::array::from_fn(|_| words.next().unwrap_or_default());
        if kind == "ack" {
            let highest = self.acknowledged.entry(habit.clone()).or_default();
            *highest = (*highest).max(rest.parse().unwrap());
        } else {
            self.troubles.push(line);
        }
        Some((kind, habit))
    }

    /// Reads until every writer was acknowledged something several times more.
    async fn all_write(&mut self) {
        let mut counts = BTreeMap::<String, usize>::new();
        while HABITS.iter().any(|habit| counts.get(*habit).copied().unwrap_or(0) < ENOUGH) {
            let (kind, habit) = self.read().await.unwrap_or_else(|| panic!("ended: {:#?}", self.troubles));
            if kind == "ack" {
                *counts.entry(habit).or_default() += 1;
            }
        }
    }

    async fn stop(&mut self) {
        self.child.stdin.take().unwrap().write_all(b"stop\n").await.unwrap();
        while self.read().await.is_some() {}
        assert!(self.child.wait().await.unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_of_a_failover_has_a_documented_sqlstate() {
    let pair = Pair::servers(&[]).await;
    let tables: Vec<String> =
        HABITS.iter().map(|habit| format!("create table w_{habit} (n int primary key)")).collect();
    pair.local.sql("shop", &format!("set role app; {}", tables.join("; "))).await.unwrap();
    pair.proxy.start().await.unwrap();
    pair.mirror_is("following").await;
    let mut writer = Writer::start(&pair.proxy.url("app", "app-secret", "shop"));
    writer.all_write().await;
    assert_eq!(writer.troubles, Vec::<String>::new(), "before the server is killed");
    pair.local.kill9().unwrap();
    // What was acknowledged before the switch may still be unread: a round takes `seldom`, which
    // is read as soon as it writes, a second.
    eventually(PATIENCE, async || {
        writer.all_write().await;
        that(pair.proxy.status().await?["writer"].clone(), |site| site == "cloud")
    })
    .await;
    writer.all_write().await;
    writer.stop().await;

    println!("{:#?}", writer.troubles);
    for trouble in &writer.troubles {
        let mut words = trouble.split(' ');
        let (kind, code) = (words.next().unwrap_or(""), words.nth(1).unwrap_or(""));
        // A connection ends only after it was told why.
        let is_told = ["error", "closed"].contains(&kind) && DOCUMENTED.contains(&code);
        assert!(is_told, "{trouble}\n{}", pair.proxy.log());
    }
    let cannot_be_moved = "closed listener ";
    assert!(writer.troubles.iter().any(|trouble| trouble.starts_with(cannot_be_moved)));
    for habit in HABITS {
        let top = pair.cloud.value("shop", &format!("select max(n) from w_{habit}")).await.unwrap();
        let acknowledged = writer.acknowledged[habit];
        assert!(top.parse::<u64>().unwrap() >= acknowledged, "{habit}: {top} < {acknowledged}");
    }
}
