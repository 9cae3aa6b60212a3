//! The story, act by act. Every number in it was measured in this run.

use super::application::Application;
use super::book::{Book, counted};
use super::stage::{self, DATABASE, Stage};
use super::voice::Voice;
use crate::cli::paint::{Paint, Tone};
use crate::cli::status::{self, size};
use crate::lab::{Cluster, Error, Programs};
use anyhow::bail;
use std::time::{Duration, Instant};

/// Connections of the application.
const WRITERS: u32 = 8;
/// Seconds of load before the kill.
const LOAD_SECONDS: u64 = 4;
/// Rows in the cloud before the story goes on.
const ROWS_AFTER: usize = 1000;
/// For the first copy.
const COPY_WITHIN: Duration = Duration::from_secs(300);
/// For everything that takes milliseconds on a machine that is not overloaded.
const SOON: Duration = Duration::from_secs(60);

/// Tells it; returns what it played on.
pub async fn tell(voice: &mut Voice) -> anyhow::Result<Stage> {
    let stage = set_up(voice).await?;
    first_copy(voice, &stage).await?;
    let application = load(voice, &stage).await?;
    kill(voice, &stage, &application).await?;
    let book = application.stop().await;
    account(voice, &stage, &book).await?;
    show_status(voice, &stage).await?;
    come_back(voice, &stage, &book).await?;
    go_home(voice, &stage).await?;
    Ok(stage)
}

async fn set_up(voice: &mut Voice) -> anyhow::Result<Stage> {
    let version = Programs::find(None)?.version().replace("postgres (PostgreSQL)", "PostgreSQL");
    voice.act("Two servers");
    let (local, cloud) = stage::servers().await?;
    for (name, server) in [("local", &local), ("cloud", &cloud)] {
        let pid = server.pid().unwrap_or(0);
        voice.fact(&format!("{name}   127.0.0.1:{}   pid {pid}   {version}", server.port()));
    }
    voice.act("An application's database on the local server");
    let started = Instant::now();
    stage::fill(&local, &cloud).await?;
    let accounts = Stage::count(&local, "pgbench_accounts").await?;
    let bytes = local.value(DATABASE, &format!("SELECT pg_database_size('{DATABASE}')")).await?;
    voice.fact(&format!(
        "database {DATABASE} with pgbench's tables: {} accounts, {} ({})",
        grouped(accounts),
        size(bytes.parse()?),
        seconds(started.elapsed())
    ));
    let stage = Stage::new(local, cloud)?;
    voice.act("The proxy, between the application and its server");
    voice.command(&format!("cloud-mirror {}", stage.proxy.arguments().join(" ")));
    stage.proxy.start().await?;
    voice.fact("it runs; the application changes its DATABASE_URL to");
    voice.fact(&format!("DATABASE_URL={}", stage.app_url()));
    Ok(stage)
}

async fn first_copy(voice: &mut Voice, stage: &Stage) -> anyhow::Result<()> {
    voice.act("The first copy to the cloud, while the application could go on");
    let started = Instant::now();
    let mut progress = voice.progress();
    let document = stage
        .until(COPY_WITHIN, "the mirror follows", async |stage| {
            let document = stage.status().await?;
            let Some(mirror) = document.mirrors.first() else { return Err("there is no mirror yet".into()) };
            let (done, total) = mirror.copied_bytes();
            progress.at(done, total, voice);
            match mirror.word() {
                "following" | "degraded" => Ok(document),
                word => Err(format!("it is {word} {}", mirror.reason())),
            }
        })
        .await?;
    progress.end();
    voice.toned(Tone::Good, &format!("the mirror follows after {}", seconds(started.elapsed())));
    for warning in document.mirrors.iter().flat_map(|mirror| &mirror.warnings) {
        voice.toned(Tone::Doubtful, &format!("warning: {warning}"));
    }
    voice.fact("look around, in another terminal:");
    voice.command(&format!("psql '{}'", stage.app_url()));
    voice.fact("and there, in the application's own session:  SHOW MIRROR STATUS;");
    Ok(())
}

async fn load(voice: &mut Voice, stage: &Stage) -> anyhow::Result<Application> {
    voice.act(&format!("Load: {WRITERS} connections through the proxy write one row after the other"));
    let application = Application::start(&stage.app_url(), 1..WRITERS + 1);
    stage
        .until(SOON, "every connection writes", async |_| {
            let book = application.book();
            let writing = (1..=WRITERS).filter(|n| book.acks.iter().any(|ack| ack.row.writer == *n)).count();
            if writing == WRITERS as usize { Ok(()) } else { Err(format!("{writing} of {WRITERS} do")) }
        })
        .await?;
    let mut before = application.book().acks.len();
    for _ in 0..LOAD_SECONDS {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // The cloud is counted first: what it has, the others have.
        let cloud = Stage::count(&stage.cloud, "orders").await?;
        let local = Stage::count(&stage.local, "orders").await?;
        let acknowledged = application.book().acks.len();
        let document = stage.status().await.map_err(anyhow::Error::msg)?;
        let lag = document.mirrors.first().and_then(|mirror| mirror.lag_ms);
        let lag = lag.map_or("unknown".to_owned(), |ms| format!("{ms} ms"));
        voice.fact(&format!(
            "{:>4} rows/s   rows in the cloud {cloud:>5}, on the local server {local:>5}, acknowledged {acknowledged:>5}   lag {lag}",
            acknowledged - before
        ));
        before = acknowledged;
    }
    Ok(application)
}

async fn kill(voice: &mut Voice, stage: &Stage, application: &Application) -> anyhow::Result<()> {
    let (local, cloud) = (stage.local.port(), stage.cloud.port());
    voice.act("The local server dies");
    voice.command(&format!("kill -9 {}", stage.local.pid().unwrap_or(0)));
    stage.local.kill9()?;
    let killed = Instant::now();
    stage
        .until(SOON, "every connection writes to the cloud", async |_| {
            let book = application.book();
            let there = book.passages(local, cloud).len();
            let rows = book.by(cloud).count();
            if there == WRITERS as usize && rows >= ROWS_AFTER {
                return Ok(());
            }
            Err(format!("{there} of {WRITERS} do, with {rows} rows; errors: {}", troubles(&book)))
        })
        .await?;
    let book = application.book().clone();
    let first = book.first_by(cloud).unwrap_or(killed).saturating_duration_since(killed);
    voice.toned(Tone::Good, &format!("{} ms later the cloud acknowledged the first row", first.as_millis()));
    let passages = book.passages(local, cloud);
    let mut stalls: Vec<u128> = passages.iter().map(|passage| passage.stall.as_millis()).collect();
    stalls.sort_unstable();
    if let (Some(shortest), Some(longest)) = (stalls.first(), stalls.last()) {
        let middle = stalls[stalls.len() / 2];
        voice.fact(&format!(
            "the stall, as the application saw it: {shortest} to {longest} ms between two rows of a connection, half of them under {middle} ms"
        ));
    }
    let untold = passages.iter().filter(|passage| passage.told.is_empty()).count();
    voice.fact(&format!(
        "{untold} of {WRITERS} connections saw nothing but that: the same connection, with its prepared statements, writes on in the cloud"
    ));
    let told = passages.iter().flat_map(|passage| passage.told.iter().map(String::as_str));
    let told = counted(told);
    if !told.is_empty() {
        voice.fact(&format!(
            "the others were told {told}: their statement was on its way, and nobody can know whether it took effect; they connected again, looked, and wrote on"
        ));
    }
    Ok(())
}

fn troubles(book: &Book) -> String {
    counted(book.troubles.iter().map(|trouble| trouble.what.as_str()))
}

async fn account(voice: &mut Voice, stage: &Stage, book: &Book) -> anyhow::Result<()> {
    voice.act("Every acknowledged row is accounted for");
    let (local, cloud) = (stage.local.port(), stage.cloud.port());
    let rows = stage.cloud_rows().await?;
    let account = book.compare(&rows);
    voice.fact(&format!(
        "acknowledged   {:>6} rows: {} by the local server, {} by the cloud",
        account.acknowledged,
        book.by(local).count(),
        book.by(cloud).count()
    ));
    voice.fact(&format!("in the cloud   {:>6} of them", account.there));
    let missing: Vec<_> = account
        .missing
        .iter()
        .map(|row| book.acks.iter().find(|ack| ack.row == *row).map(|ack| ack.server))
        .collect();
    if let Some(server) = missing.iter().find(|server| **server != Some(local)) {
        bail!("a row that {server:?} acknowledged is not in the cloud: this must not happen");
    }
    match account.missing.as_slice() {
        [] => voice.toned(Tone::Good, "lost tail           0 rows: the mirror had received everything"),
        lost => {
            voice.toned(
                Tone::Doubtful,
                &format!(
                    "lost tail      {:>6} rows: acknowledged in the last moment, not received by the mirror",
                    lost.len()
                ),
            );
            let shown: Vec<String> =
                lost.iter().take(5).map(|row| format!("{}/{}", row.writer, row.number)).collect();
            voice.fact(&format!("                      (connection/number) {}", shown.join(" ")));
        }
    }
    voice.fact(
        "               (the mirror is asynchronous: a row acknowledged within its lag before a crash is",
    );
    voice.fact("               on the dead server only; it is not gone, it is in that server's files)");
    if book.found + book.missed > 0 {
        voice.fact(&format!(
            "unknown        {:>6} rows: {} were found written, {} were written again",
            book.found + book.missed,
            book.found,
            book.missed
        ));
    }
    let highest = book.by(local).map(|ack| ack.id).max().unwrap_or(0);
    let lowest = book.by(cloud).map(|ack| ack.id).min().unwrap_or(0);
    voice.fact(&format!(
        "keys           {} given twice: the sequence had reached {highest}, the cloud went on at {lowest}",
        book.collisions(&rows)
    ));
    voice.fact(&format!(
        "pgbench        {} accounts in the cloud",
        grouped(Stage::count(&stage.cloud, "pgbench_accounts").await?)
    ));
    Ok(())
}

async fn show_status(voice: &mut Voice, stage: &Stage) -> anyhow::Result<()> {
    voice.act("What an operator sees");
    voice.command(&format!("cloud-mirror status --http 127.0.0.1:{}", stage.proxy.http_port()));
    let document = stage.status().await.map_err(anyhow::Error::msg)?;
    voice.fact(&status::table(&document, Paint::for_output()));
    Ok(())
}

async fn come_back(voice: &mut Voice, stage: &Stage, book: &Book) -> anyhow::Result<()> {
    voice.act("The old server comes back");
    let started = Instant::now();
    start_fenced(&stage.local).await?;
    let needs = stage
        .until(SOON, "the local server is fenced", async |stage| {
            let document = stage.status().await?;
            let local = document.upstreams.iter().find(|upstream| upstream.upstream == "local");
            match local {
                Some(local) if local.role == "fenced" => Ok(local.needs.clone().unwrap_or_default()),
                Some(local) => Err(format!("it is {}", local.role)),
                None => Err("the status does not name it".into()),
            }
        })
        .await?;
    voice.toned(Tone::Good, &format!("started and fenced within {} ms", started.elapsed().as_millis()));
    let direct = stage.local.url(stage::APP, DATABASE);
    match tokio_postgres::connect(&direct, tokio_postgres::NoTls).await {
        Ok(_) => bail!("the fenced server has let the application in: this must not happen"),
        Err(error) => voice.fact(&format!(
            "an application that still goes there directly is told: {}",
            crate::backend::control::describe(&error)
        )),
    }
    let (old, new) = (stage.fenced_rows().await?, stage.cloud_rows().await?);
    let only_old = old.difference(&new).count();
    let lost = book.compare(&new).missing;
    voice.fact(&format!("it has {} orders; {only_old} of them are nowhere else", old.len()));
    if !lost.is_empty() {
        let kept = lost.iter().filter(|row| old.contains(row)).count();
        voice.fact(&format!("of the {} rows of the lost tail it has {kept}", lost.len()));
    }
    voice.fact(&format!("cloud-mirror status says of it: {needs}"));
    Ok(())
}

async fn go_home(voice: &mut Voice, stage: &Stage) -> anyhow::Result<()> {
    voice.act("The way home, while the application is stopped");
    voice.fact("the proxy is stopped, then:");
    stage.stop_proxy().await;
    voice.command(&format!("cloud-mirror {}", stage.way_home().join(" ")));
    let started = Instant::now();
    voice.fact(&stage.go_home().await?);
    voice.toned(Tone::Good, &format!("copied home in {}", seconds(started.elapsed())));
    stage.proxy.start().await?;
    stage
        .until(COPY_WITHIN, "the mirror follows again", async |stage| {
            let document = stage.status().await?;
            match document.mirrors.first().map(|mirror| mirror.word()) {
                Some("following") if document.writer.as_deref() == Some("local") => Ok(()),
                word => Err(format!("it is {word:?}, the writer {:?}", document.writer)),
            }
        })
        .await?;
    let application = Application::start(&stage.app_url(), WRITERS + 1..2 * WRITERS + 1);
    stage
        .until(SOON, "the application writes at home", async |stage| {
            let book = application.book();
            let rows = book.by(stage.local.port()).count();
            if rows >= ROWS_AFTER { Ok(()) } else { Err(format!("{rows} rows; errors: {}", troubles(&book))) }
        })
        .await?;
    let book = application.stop().await;
    let orders = stage
        .until(SOON, "the mirror has every row", async |stage| {
            let count =
                async |server| Stage::count(server, "orders").await.map_err(|error| error.to_string());
            let (local, cloud) = (count(&stage.local).await?, count(&stage.cloud).await?);
            if local == cloud { Ok(local) } else { Err(format!("{local} here, {cloud} there")) }
        })
        .await?;
    voice.fact(&format!(
        "the proxy is started again and has mirrored anew; the application wrote {} rows, all to the local server",
        book.by(stage.local.port()).count()
    ));
    voice.fact(&format!("orders on the local server {0}, in the cloud {0}", grouped(orders)));
    let document = stage.status().await.map_err(anyhow::Error::msg)?;
    let epoch = document.lease.as_ref().map_or(0, |lease| lease.epoch);
    voice.fact(&format!("local writes again, in epoch {epoch}; the next kill may come"));
    Ok(())
}

/// A start that is over when the server lets in nobody but the proxy's own role.
async fn start_fenced(server: &Cluster) -> anyhow::Result<()> {
    match server.start().await {
        Err(Error::Sql(error)) if error.as_db_error().is_some() => Ok(()),
        other => Ok(other?),
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// `1000000` as `1,000,000`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [grouped(0), grouped(999), grouped(1_000), grouped(1_234_567)],
            ["0", "999", "1,000", "1,234,567"]
        );
    }
}
