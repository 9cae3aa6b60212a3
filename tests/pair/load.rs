//! An app under load: it writes numbered rows, remembers which were acknowledged, and connects
//! again when it has to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// What the app has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Rows that were acknowledged, and when.
    pub acknowledged: Vec<(u64, Instant)>,
    /// When their statements were sent.
    pub sent: BTreeMap<u64, Instant>,
    /// How often each SQLSTATE came; a connection that ended without one counts as `closed`.
    pub errors: BTreeMap<String, u64>,
}

/// The running app.
pub struct Load {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    /// `writers` connections that insert into `t (v text)` as fast as they can.
    pub fn start(url: &str, writers: u64) -> Load {
        Self::start_at(url, writers, 1)
    }

    /// The same with numbers from `first` on.
    pub fn start_at(url: &str, writers: u64, first: u64) -> Load {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let number = Arc::new(AtomicU64::new(first));
        let writers = (0..writers)
            .map(|_| {
                let (url, seen, stop, number) = (url.to_owned(), seen.clone(), stop.clone(), number.clone());
                tokio::spawn(write(url, seen, stop, number))
            })
            .collect();
        Load { seen, stop, writers }
    }

    /// How many rows were acknowledged.
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().acknowledged.len()
    }

    /// Ends it and says what it has seen.
    pub async fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.unwrap();
        }
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

impl Seen {
    /// The longest time without an acknowledgement after `since`.
    pub fn stall_after(&self, since: Instant) -> Duration {
        let mut times: Vec<Instant> = self.acknowledged.iter().map(|(_, at)| *at).collect();
        times.sort();
        let after: Vec<Instant> = times.into_iter().filter(|at| *at >= since).collect();
        let mut longest = Duration::ZERO;
        let mut before = since;
        for at in after {
            longest = longest.max(at - before);
            before = at;
        }
        longest
    }

    /// Fails the test on an error that the documentation does not name.
    pub fn only_documented(&self) {
        for code in self.errors.keys() {
            let documented = ["08007", "40001", "57P01", "57P03", "closed"];
            assert!(documented.contains(&code.as_str()), "{code}: {:?}", self.errors);
        }
    }
}

async fn write(url: String, seen: Arc<Mutex<Seen>>, stop: Arc<AtomicBool>, number: Arc<AtomicU64>) {
    while !stop.load(Ordering::Relaxed) {
        let (client, connection) = match tokio_postgres::connect(&url, tokio_postgres::NoTls).await {
            Ok(connected) => connected,
            Err(error) => {
                note(&seen, &error);
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
        };
        let ended = tokio::spawn(connection);
        while !stop.load(Ordering::Relaxed) {
            let (n, sent) = (number.fetch_add(1, Ordering::Relaxed), Instant::now());
            match client.execute("insert into t (v) values ($1)", &[&n.to_string()]).await {
                Ok(_) => {
                    let mut seen = seen.lock().unwrap();
                    seen.acknowledged.push((n, Instant::now()));
                    seen.sent.insert(n, sent);
                }
                Err(error) if error.is_closed() => break,
                Err(error) => note(&seen, &error),
            }
        }
        drop(client);
        if let Ok(Err(error)) = ended.await {
            note(&seen, &error);
        }
    }
}

fn note(seen: &Mutex<Seen>, error: &tokio_postgres::Error) {
    // The driver gives a FATAL error to the first request that waits, which may be the closing of
    // a statement that nobody asks about; the next one then hears "closed".
    let code = error.code().map_or("closed", |code| code.code()).to_owned();
    *seen.lock().unwrap().errors.entry(code).or_default() += 1;
}
