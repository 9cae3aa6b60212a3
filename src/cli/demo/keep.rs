//! `--keep`: everything goes on, and a few words do what would take long lines in a shell.

use super::application::Application;
use super::book::counted;
use super::stage::Stage;
use super::voice::Voice;
use crate::cli::paint::Paint;
use crate::cli::status;
use crate::lab::Error;
use std::io::BufRead;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Connections of one `load`.
const WRITERS: u32 = 8;
/// The first of them: the story's own are below.
const FIRST_WRITER: u32 = 1001;
/// How long they write.
const LOAD_FOR: Duration = Duration::from_secs(20);

const WORDS: &str = "\
status   what the proxy says
load     eight connections write for 20 seconds; then their longest stall and their errors are shown
kill     kill -9 of the local server
start    start the local server again
home     bring the data home: stops the proxy, copies, starts it
quit     end everything (Ctrl-C does it too)";

/// Until `quit`. Without anybody who types, until the process is told to end.
pub async fn play(voice: &mut Voice, stage: &Stage) -> anyhow::Result<()> {
    voice.act("Play on");
    voice.fact("servers and proxy run until you end this; in another terminal:");
    voice.command(&format!("psql '{}'     as the application", stage.app_url()));
    voice.command(&format!("psql '{}' -c 'SHOW HELP'     the proxy's own commands", stage.console_url()));
    voice.command(&format!("curl http://127.0.0.1:{}/metrics", stage.proxy.http_port()));
    voice.fact(&format!("the proxy's log: {}/log", stage.proxy.directory().display()));
    voice.fact("here, type a word and Enter:");
    voice.fact(WORDS);
    let mut loads = JoinSet::new();
    // Rows of other rounds have other writers.
    let mut writer = FIRST_WRITER;
    let mut lines = typed();
    loop {
        let Some(line) = lines.recv().await else {
            std::future::pending::<()>().await;
            return Ok(());
        };
        match line.trim() {
            "" => {}
            "quit" | "exit" | "q" => return Ok(()),
            "status" => match stage.status().await {
                Ok(document) => voice.fact(&status::table(&document, Paint::for_output())),
                Err(error) => voice.fact(&error),
            },
            "kill" => match stage.local.kill9() {
                Ok(()) => voice.fact("killed"),
                Err(error) => voice.fact(&error.to_string()),
            },
            "start" => match stage.local.start().await {
                Ok(()) => voice.fact("started"),
                // It let us hear that it lets nobody in.
                Err(Error::Sql(error)) if error.as_db_error().is_some() => {
                    voice.fact(&format!("started; {}", crate::backend::control::describe(&error)));
                }
                Err(error) => voice.fact(&error.to_string()),
            },
            "home" => {
                while loads.try_join_next().is_some() {}
                match loads.is_empty() {
                    true => voice.fact(&home(stage).await.unwrap_or_else(|error| format!("{error:#}"))),
                    false => {
                        voice.fact("the load still runs, and the way home needs the application stopped")
                    }
                }
            }
            "load" => {
                let application = Application::start(&stage.app_url(), writer..writer + WRITERS);
                writer += WRITERS;
                loads.spawn(load(application));
                voice.fact("eight connections write; now is the time to kill");
            }
            other => voice.fact(&format!("\"{other}\" is none of\n{WORDS}")),
        }
    }
}

async fn home(stage: &Stage) -> anyhow::Result<String> {
    stage.stop_proxy().await;
    let outcome = stage.go_home().await;
    // Whatever came of it, the proxy goes on, or says why not.
    stage.proxy.start().await?;
    outcome
}

/// Lines from standard input. The thread waits for the next one until the process ends.
fn typed() -> mpsc::Receiver<String> {
    let (out, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if out.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

async fn load(application: Application) {
    tokio::time::sleep(LOAD_FOR).await;
    let book = application.stop().await;
    let (rows, stall) = (book.acks.len(), book.longest_stall().as_millis());
    let voice = Voice::new();
    voice.fact(&format!("{rows} rows acknowledged; the longest stall of a connection was {stall} ms"));
    let told = counted(book.troubles.iter().map(|trouble| trouble.what.as_str()));
    voice.fact(&if told.is_empty() { "no errors".to_owned() } else { format!("errors: {told}") });
}
