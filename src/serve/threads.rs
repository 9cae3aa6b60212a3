//! Data threads: one runtime each, on which sessions live.

use crate::observe::pooler::PreparedStatement;
use crate::observe::traffic::Carrier;
use crate::session::pooled::{stash, statements};
use crate::session::{Shared, timeouts, wake};
use crate::sys;
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior};

/// What waits for a busy thread, connections above all; more of them slow their coming down.
const QUEUE: usize = 256;

thread_local! {
    /// Which of the data threads this is.
    static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
    /// Whether somebody has come since the last beat, while it beats.
    static BEATING: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Who carries what is sent here.
pub fn carrier() -> Carrier {
    NUMBER.get().map_or(Carrier::Control, Carrier::Data)
}

/// How long a thread may take to tell what it keeps.
const LOOK_WITHIN: Duration = Duration::from_secs(5);

/// Between two beats.
const BEAT: Duration = Duration::from_secs(1);

/// A client has come. While clients come, the thread has a timer that is soon due: tokio wakes a
/// runtime, by a system call, for each timer that is due before all others, and a log-in has
/// several.
pub fn beat() {
    if BEATING.replace(Some(true)).is_some() {
        return;
    }
    tokio::task::spawn_local(async {
        while BEATING.replace(Some(false)) == Some(true) {
            tokio::time::sleep(BEAT).await;
        }
        BEATING.set(None);
    });
}

/// What a thread is asked to do.
type Task = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// The threads; they end when this is dropped, and their sessions with them.
#[derive(Debug)]
pub struct DataThreads {
    queues: Vec<mpsc::Sender<Task>>,
    next: AtomicUsize,
    threads: Vec<JoinHandle<()>>,
}

impl DataThreads {
    /// Starts `count` threads, at least one.
    pub fn start(count: usize, shared: &Arc<Shared>) -> io::Result<Self> {
        let mut queues = Vec::new();
        let mut threads = Vec::new();
        for number in 0..count.max(1) {
            let (queue, jobs) = mpsc::channel(QUEUE);
            let shared = shared.clone();
            let (started, start) = std::sync::mpsc::channel();
            let thread = std::thread::Builder::new().name(format!("data-{number}")).spawn(move || {
                NUMBER.set(Some(number));
                live(jobs, shared, &started);
            })?;
            start.recv().unwrap_or_else(|_| Err(io::Error::other("a data thread has ended at once")))?;
            queues.push(queue);
            threads.push(thread);
        }
        Ok(Self { queues, next: AtomicUsize::new(0), threads })
    }

    /// The thread whose turn it is.
    pub fn next(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len()
    }

    /// Whether this is the thread with that number.
    pub fn is_this(&self, number: usize) -> bool {
        NUMBER.get() == Some(number)
    }

    /// The prepared statements that all threads keep for clients of the pooled modes.
    pub async fn prepared(&self) -> Vec<PreparedStatement> {
        let mut all = Vec::new();
        for number in 0..self.queues.len() {
            let (answer, answered) = oneshot::channel();
            let look = async move || {
                // Who no longer waits needs no answer.
                let _ = answer.send(statements::kept());
            };
            let asked = async {
                self.run(number, look).await;
                answered.await.unwrap_or_default()
            };
            // A thread that is that busy is left out.
            all.extend(tokio::time::timeout(LOOK_WITHIN, asked).await.unwrap_or_default());
        }
        all
    }

    /// Runs something on a thread.
    pub async fn run<F: Future<Output = ()> + 'static>(
        &self,
        number: usize,
        work: impl FnOnce() -> F + Send + 'static,
    ) {
        let task: Task = Box::new(move || Box::pin(work()));
        let _ = self.queues[number].send(task).await;
    }
}

impl Drop for DataThreads {
    fn drop(&mut self) {
        self.queues.clear();
        for thread in self.threads.drain(..) {
            // Dropped by a task of its own, a thread cannot wait for itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// A thread's life. Its runtime is a local one: sessions need not be `Send`, and waking one from
/// the thread's own I/O touches nothing that is shared, as it would in a `LocalSet`.
fn live(jobs: mpsc::Receiver<Task>, shared: Arc<Shared>, started: &std::sync::mpsc::Sender<io::Result<()>>) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    match runtime {
        Ok(runtime) => {
            let _ = started.send(Ok(()));
            runtime.block_on(serve(jobs, shared));
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    }
}

/// Looks for clients that are overdue, where anybody can be.
fn looks_of(shared: &Shared) -> Option<Interval> {
    let mut looks = tokio::time::interval(timeouts::pause(&shared.limits.load())?);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(looks)
}

async fn tick(looks: &mut Option<Interval>) {
    match looks {
        Some(looks) => drop(looks.tick().await),
        None => std::future::pending().await,
    }
}

async fn serve(mut jobs: mpsc::Receiver<Task>, shared: Arc<Shared>) {
    let mut changes = shared.routes.changes();
    let mut hunger = shared.pool.hunger();
    let mut clears = shared.pool.clears();
    let mut reloads = shared.limits.changes();
    let mut looks = looks_of(&shared);
    loop {
        tokio::select! {
            job = jobs.recv() => match job {
                Some(task) => {
                    tokio::task::spawn_local(task());
                }
                None => break,
            },
            changed = changes.changed() => match changed {
                Ok(()) => {
                    stash::follow(shared.routes.map().way());
                    wake::wake_all();
                }
                Err(_) => break,
            },
            changed = reloads.changed() => {
                if changed.is_err() {
                    break;
                }
                looks = looks_of(&shared);
            }
            () = tick(&mut looks) => {
                wake::look_at_all(&shared.limits.load(), &shared.counters, sys::now());
            },
            wanted = hunger.changed() => {
                if wanted.is_err() {
                    break;
                }
                if std::mem::replace(&mut clears, shared.pool.clears()) != shared.pool.clears() {
                    stash::clear();
                }
                stash::share();
            }
        }
    }
    stash::close();
}
