//! A server, the proxy before it, and databases in which conversations are held one at a time.

use crate::generate::{Allowed, Episode, conversation};
use crate::raw::compare::{Comparable, comparable, difference};
use crate::raw::message::startup;
use crate::raw::stage::{self, Mode};
use crate::raw::{Cut, Place, Step, converse};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio_postgres::NoTls;

/// For a server to come back.
const SOON: Duration = Duration::from_secs(60);

/// Makes a database what it was before the conversation.
const RESET: &str = "
    drop table if exists c1, tt;
    drop table if exists child, t;
    drop table if exists counted;
    drop sequence if exists sq;
    create sequence sq start 100;
    create table counted (n serial, v int);
    insert into counted (v) values (0);
    create or replace function last_of_all() returns bigint language sql as 'select lastval()';
    create or replace function counts() returns trigger language plpgsql as
        'begin perform nextval(''sq''); return new; end';
    create trigger counts after update on counted for each row execute function counts();
    create table t (id int primary key, v text, n numeric(9, 2) check (n < 1000000));
    create table child (id int, t_id int references t deferrable initially deferred);
    insert into t select g, 'row ' || g, g from generate_series(1, 5) g";

/// Some databases and a way through the proxy.
pub struct Stage {
    mode: Mode,
    databases: Vec<String>,
}

/// One database, and one conversation at a time in it.
struct Worker {
    name: String,
    direct: Place,
    through: Place,
    url: String,
}

impl Stage {
    pub async fn start(mode: Mode, workers: usize) -> Stage {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let mut databases = Vec::new();
        for _ in 0..workers {
            let name = format!("d{}", MADE.fetch_add(1, Ordering::Relaxed));
            stage::make_database(stage::server().await, &name).await;
            databases.push(name);
        }
        Stage { mode, databases }
    }

    async fn worker(&self, name: &str) -> Worker {
        let (direct, through) = (stage::direct().await, stage::through(self.mode).await);
        let url = format!("postgres://app@127.0.0.1:{}/{name}", stage::server().await.port());
        Worker { name: name.to_owned(), direct, through, url }
    }

    /// Holds conversations `seeds` at both places; each that differs fails the test.
    pub async fn compare(&self, seeds: std::ops::Range<u64>, allowed: Allowed) {
        let next = Arc::new(AtomicU64::new(seeds.start));
        let mut working = Vec::new();
        for name in &self.databases {
            let (worker, next, end) = (self.worker(name).await, next.clone(), seeds.end);
            working.push(tokio::spawn(async move {
                let mut failures = Vec::new();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || failures.len() >= 3 {
                        return failures;
                    }
                    failures.extend(worker.judge(seed, allowed).await);
                }
            }));
        }
        let mut failures = Vec::new();
        for work in working {
            failures.extend(work.await.unwrap());
        }
        if !failures.is_empty() {
            for line in stage::server()
                .await
                .log()
                .lines()
                .filter(|line| line.contains("terminated by signal") || line.contains("Failed process"))
            {
                eprintln!("{line}");
            }
        }
        assert!(failures.is_empty(), "{} conversations differ:\n\n{}", failures.len(), failures.join("\n\n"));
    }

    /// Holds one conversation, cut once at each of its bytes in turn.
    pub async fn compare_at_every_cut(&self, steps: &[Step]) {
        let worker = self.worker(&self.databases[0]).await;
        let expected = worker.hold(&worker.direct, steps, Cut::Whole).await.unwrap();
        let sent: usize = steps.iter().map(Step::length).sum();
        for at in 0..sent {
            let found = worker.hold(&worker.through, steps, Cut::Once(at)).await.unwrap();
            if let Some(difference) = difference(&expected.0, &found.0) {
                panic!("cut behind {at} bytes: {difference}\n{steps:#?}");
            }
            assert_eq!(expected.1, found.1, "cut behind {at} bytes: what is in the tables");
        }
    }
}

impl Worker {
    /// What differs, in words, with the shortest conversation that shows it.
    async fn judge(&self, seed: u64, allowed: Allowed) -> Option<String> {
        let mut episodes = conversation(seed, allowed);
        let mut found = self.differs(&episodes, seed).await?;
        eprintln!("DIFF_SEED={seed}: {found}\n{episodes:#?}\n… shortening it");
        let mut at = 0;
        while at < episodes.len() && episodes.len() > 1 {
            let left_out = episodes.remove(at);
            match self.differs(&episodes, seed).await {
                Some(difference) => found = difference,
                None => {
                    episodes.insert(at, left_out);
                    at += 1;
                }
            }
        }
        Some(format!("DIFF_SEED={seed}: {found}\n{episodes:#?}"))
    }

    async fn differs(&self, episodes: &[Episode], seed: u64) -> Option<String> {
        let steps: Vec<Step> = episodes.iter().flat_map(|episode| episode.steps.clone()).collect();
        let direct = match self.hold(&self.direct, &steps, Cut::Whole).await {
            Ok(direct) => direct,
            Err(error) => return Some(format!("the conversation itself is wrong: directly {error}")),
        };
        let cut = match seed % 4 {
            0 => Cut::Whole,
            1 => Cut::Every(1 + (seed / 4 % 40) as usize),
            _ => Cut::Seeded(seed),
        };
        let sent: usize = steps.iter().map(Step::length).sum();
        let cut = if sent > 20_000 && !matches!(cut, Cut::Whole) { Cut::Every(4_099) } else { cut };
        let through = match self.hold(&self.through, &steps, cut).await {
            Ok(through) => through,
            Err(error) => return Some(format!("through the proxy, {cut:?}: {error}")),
        };
        if let Some(difference) = difference(&direct.0, &through.0) {
            return Some(format!("{cut:?}: {difference}"));
        }
        (direct.1 != through.1).then(|| format!("tables: {} and {}", direct.1, through.1))
    }

    /// What was heard, and what is in the tables afterwards.
    async fn hold(&self, place: &Place, steps: &[Step], cut: Cut) -> Result<(Comparable, String), String> {
        // Anew each time: a server that has crashed over a conversation comes back.
        let end = Instant::now() + SOON;
        let control = loop {
            match tokio_postgres::connect(&self.url, NoTls).await {
                Ok((control, connection)) => {
                    tokio::spawn(connection);
                    break control;
                }
                Err(error) if Instant::now() > end => return Err(format!("{error:?}")),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        control.batch_execute(RESET).await.map_err(|error| format!("{error:?}"))?;
        let startup = startup(&[("user", "app"), ("database", &self.name)]);
        let heard = converse(place, &startup, steps, cut).await?;
        // Takes its turn behind whatever the conversation still holds.
        let state = "lock table t, child; select md5(string_agg(x, '')) from (
            select t::text as x from t union all select child::text from child order by 1) x";
        let state = control.simple_query(&format!("begin; {state}; commit")).await;
        let state =
            state.map_err(|error| format!("{error:?}"))?.into_iter().find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some(row.get(0).unwrap_or_default().to_owned())
                }
                _ => None,
            });
        Ok((comparable(&heard), state.unwrap_or_default()))
    }
}
