//! Data threads: one runtime each, on which sessions live.

use crate::observe::count;
use crate::session::pooled::stash;
use crate::session::{Handover, Session, Shared, wake};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

/// Handovers that wait for a busy thread; more of them slow the log-ins down.
const QUEUE: usize = 256;

/// The threads; they end when this is dropped, and their sessions with them.
#[derive(Debug)]
pub struct DataThreads {
    queues: Vec<mpsc::Sender<Handover>>,
    next: AtomicUsize,
    threads: Vec<JoinHandle<()>>,
}

impl DataThreads {
    /// Starts `count` threads, at least one.
    pub fn start(count: usize, shared: &Arc<Shared>) -> io::Result<Self> {
        let mut queues = Vec::new();
        let mut threads = Vec::new();
        for number in 0..count.max(1) {
            let (queue, handovers) = mpsc::channel(QUEUE);
            let shared = shared.clone();
            let (started, start) = std::sync::mpsc::channel();
            let thread = std::thread::Builder::new()
                .name(format!("data-{number}"))
                .spawn(move || live(handovers, shared, &started))?;
            start.recv().unwrap_or_else(|_| Err(io::Error::other("a data thread has ended at once")))?;
            queues.push(queue);
            threads.push(thread);
        }
        Ok(Self { queues, next: AtomicUsize::new(0), threads })
    }

    /// Hands a client over to the next thread.
    pub async fn hand_over(&self, handover: Handover) {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len();
        // A thread that is gone takes its clients with it: the process is on its way out.
        let _ = self.queues[next].send(handover).await;
    }
}

impl Drop for DataThreads {
    fn drop(&mut self) {
        self.queues.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A thread's life. Its runtime is a local one: sessions need not be `Send`, and waking one from
/// the thread's own I/O touches nothing that is shared, as it would in a `LocalSet`.
fn live(
    handovers: mpsc::Receiver<Handover>,
    shared: Arc<Shared>,
    started: &std::sync::mpsc::Sender<io::Result<()>>,
) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    match runtime {
        Ok(runtime) => {
            let _ = started.send(Ok(()));
            runtime.block_on(serve(handovers, shared));
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    }
}

async fn serve(mut handovers: mpsc::Receiver<Handover>, shared: Arc<Shared>) {
    let mut changes = shared.routes.changes();
    let mut hunger = shared.pool.hunger();
    let mut clears = shared.pool.clears();
    loop {
        tokio::select! {
            handover = handovers.recv() => match handover {
                Some(handover) => match Session::begin(handover, shared.clone()) {
                    Ok(session) => {
                        tokio::task::spawn_local(session.run());
                    }
                    Err(error) => {
                        count(&shared.counters.clients_left);
                        tracing::warn!(event = "serve.handover_failed", %error);
                    }
                },
                None => break,
            },
            changed = changes.changed() => match changed {
                Ok(()) => {
                    stash::follow(shared.routes.map().way());
                    wake::wake_all();
                }
                Err(_) => break,
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
