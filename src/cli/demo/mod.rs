//! `cloud-mirror demo`: two servers of its own, a mirror, a `kill -9`, and what an application sees.
//!
//! `story` tells it act by act on a `stage` (servers and proxy from the lab, as children that end
//! with us); `application` writes rows and keeps a `book` of what it was told, from which every
//! number comes; `keep` lets a person play on. Exit codes: 0 told to the end, 1 it failed or was
//! interrupted, 2 PostgreSQL has to be installed first.

mod application;
mod book;
mod keep;
mod stage;
mod story;
mod voice;

use crate::app::Exit;
use crate::lab::Error;
use clap::Args;
use stage::Stage;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use voice::Voice;

/// Options of `demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Leave the servers and the proxy running at the end, to play on
    #[arg(long)]
    pub keep: bool,
}

/// Tells and shows the story. Blocks.
pub fn run(arguments: DemoArguments) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(perform(&arguments));
    // Whoever waits for a line on standard input never ends by itself.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match outcome {
        Err(error) => match error.downcast_ref::<Error>() {
            Some(Error::NoPostgres { .. } | Error::NoUser) => {
                eprintln!("cloud-mirror: {error}");
                Ok(Exit::Usage)
            }
            _ => Err(error),
        },
        Ok(exit) => Ok(exit),
    }
}

async fn perform(arguments: &DemoArguments) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let mut told_to_end = Ends::listen()?;
    let mut voice = Voice::new();
    voice.say("Cloud Mirror: what an application sees when its database server is killed.");
    let stage = tokio::select! {
        // First: Ctrl-C reaches the proxy too, whose end is then no failure of the story.
        biased;
        // The story is dropped, and with it the servers and the proxy.
        () = told_to_end.next() => {
            Voice::new().say("\ninterrupted; the servers and the proxy are ended");
            return Ok(Exit::Failed);
        }
        stage = story::tell(&mut voice) => stage?,
    };
    if arguments.keep {
        tokio::select! {
            played = keep::play(&mut voice, &stage) => played?,
            () = told_to_end.next() => {}
        }
    }
    end(&mut voice, stage, arguments, started).await;
    Ok(Exit::Ok)
}

async fn end(voice: &mut Voice, stage: Stage, arguments: &DemoArguments, started: Instant) {
    voice.act("The end");
    stage.stop_proxy().await;
    drop(stage);
    voice.fact(&format!(
        "servers and proxy are stopped, their files removed; {:.0} s in all",
        started.elapsed().as_secs_f64()
    ));
    if !arguments.keep {
        voice.fact("to play on with it running:  make demo ARGS=--keep");
        voice.fact("with your own database:      README.md, \"Your own database\"");
    }
}

/// Ctrl-C, SIGTERM, and the end of the terminal.
struct Ends([tokio::signal::unix::Signal; 3]);

impl Ends {
    fn listen() -> std::io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hang_up] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    }
}
