//! `cloud-mirror status`: what the running proxy says of itself, for a person or a script.

use super::args::StatusArguments;
use super::paint::{Paint, Tone};
use crate::app::{ConfigSource, Exit};
use crate::http::fetch::{self, FetchError};
use serde::Deserialize;
use std::fmt::Write as _;
use std::io::Write;

const DEFAULT: &str = "127.0.0.1:8432";

/// The part of the document that is shown; a newer proxy may say more.
#[derive(Debug, Deserialize)]
pub(super) struct Document {
    pub(super) version: String,
    pub(super) summary: String,
    pub(super) state: String,
    pub(super) writer: Option<String>,
    pub(super) is_holding: bool,
    pub(super) clients: u64,
    pub(super) servers: u64,
    pub(super) lease: Option<Lease>,
    pub(super) upstreams: Vec<Upstream>,
    pub(super) mirrors: Vec<Mirror>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Lease {
    pub(super) store: String,
    pub(super) epoch: u64,
    pub(super) owner: Option<String>,
    pub(super) phase: String,
    pub(super) is_held: bool,
    pub(super) deadline_ms: Option<u64>,
    pub(super) problem: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Upstream {
    pub(super) upstream: String,
    pub(super) address: String,
    pub(super) role: String,
    pub(super) is_up: bool,
    pub(super) needs: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Mirror {
    pub(super) mirror: String,
    pub(super) mode: String,
    state: State,
    pub(super) source_database: String,
    pub(super) target_database: String,
    pub(super) last_applied: Option<String>,
    pub(super) lag_ms: Option<u64>,
    pub(super) lag_bytes: Option<u64>,
    pub(super) bytes_done: u64,
    pub(super) bytes_total: u64,
    pub(super) warnings: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct State {
    state: String,
    reason: Option<String>,
    bytes_done: Option<u64>,
    bytes_total: Option<u64>,
}

impl Mirror {
    /// What it does at the moment, one word in lower case.
    pub(super) fn word(&self) -> &str {
        &self.state.state
    }

    /// Why it does not follow, if it does not.
    pub(super) fn reason(&self) -> &str {
        self.state.reason.as_deref().unwrap_or_default()
    }

    /// Bytes of the first copy: done, and in all.
    pub(super) fn copied_bytes(&self) -> (u64, u64) {
        let State { bytes_done, bytes_total, .. } = self.state;
        (bytes_done.unwrap_or(self.bytes_done), bytes_total.unwrap_or(self.bytes_total))
    }
}

/// Asks, prints, and says in its exit code how things are.
pub fn run(asked: StatusArguments) -> anyhow::Result<Exit> {
    let Some(address) = address(&asked) else { return Ok(Exit::Usage) };
    let text = match fetch::get(&address, "/status") {
        Ok(text) => text,
        Err(FetchError::Unreachable(error)) => {
            eprintln!("cloud-mirror: no proxy answers at {address}: {error}");
            return Ok(Exit::Unreachable);
        }
        Err(FetchError::Strange(what)) => anyhow::bail!("what answers at {address} is no proxy: {what}"),
    };
    let document: Document = serde_json::from_str(&text)
        .map_err(|error| anyhow::anyhow!("what answers at {address} is no proxy: {error}"))?;
    let shown = match asked.json {
        true => format!("{}\n", text.trim_end()),
        false => table(&document, Paint::for_output()),
    };
    // A reader that has seen enough (`| head`) is no failure.
    let _ = std::io::stdout().write_all(shown.as_bytes());
    Ok(outcome(&document))
}

/// `None` after the mistakes of the configuration were shown.
fn address(asked: &StatusArguments) -> Option<String> {
    if let Some(address) = &asked.http {
        return Some(address.clone());
    }
    let Some(file) = &asked.config else {
        return Some(std::env::var("CLOUD_MIRROR__HTTP__LISTEN").unwrap_or_else(|_| DEFAULT.to_owned()));
    };
    let config = match (ConfigSource { file: Some(file.clone()), ..ConfigSource::default() }).load() {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return None;
        }
    };
    match config.http.listen {
        Some(address) => Some(address.to_string()),
        None => {
            eprintln!("{}: http.listen is \"off\", so there is nobody to ask", file.display());
            None
        }
    }
}

fn outcome(document: &Document) -> Exit {
    let is_well = |mirror: &Mirror| matches!(mirror.state.state.as_str(), "following" | "promoted");
    if document.lease.as_ref().is_some_and(|lease| !lease.is_held) {
        Exit::NotLeader
    } else if document.writer.is_none()
        || document.is_holding
        || document.upstreams.iter().any(|upstream| !upstream.is_up)
        || !document.mirrors.iter().all(is_well)
    {
        Exit::Degraded
    } else {
        Exit::Ok
    }
}

/// Everything for a person.
pub(super) fn table(document: &Document, paint: Paint) -> String {
    let mut out = String::new();
    let writer = match &document.writer {
        Some(writer) => paint.word(Tone::Good, writer),
        None => paint.word(Tone::Bad, "nobody"),
    };
    line(&mut out, format_args!("{}", document.summary));
    line(&mut out, format_args!(""));
    line(&mut out, format_args!("state     {} (cloud-mirror {})", document.state, document.version));
    let holding = if document.is_holding { ", clients are held" } else { "" };
    line(&mut out, format_args!("writer    {writer}{holding}"));
    line(&mut out, format_args!("clients   {}, server connections {}", document.clients, document.servers));
    if let Some(lease) = &document.lease {
        let held = match (lease.is_held, lease.deadline_ms) {
            (true, Some(ms)) => paint.word(Tone::Good, &format!("held for {}", seconds(ms))),
            (true, None) => paint.word(Tone::Good, "held"),
            (false, _) => paint.word(Tone::Bad, "not held"),
        };
        let owner = lease.owner.as_deref().unwrap_or("nobody");
        line(
            &mut out,
            format_args!(
                "lease     {held}, epoch {}, owner {owner}, {} ({})",
                lease.epoch, lease.phase, lease.store
            ),
        );
        if let Some(problem) = &lease.problem {
            line(&mut out, format_args!("          {}", paint.word(Tone::Bad, problem)));
        }
    }
    let mut rows = vec![["server", "address", "role", "state", "needs"].map(str::to_owned).to_vec()];
    for upstream in &document.upstreams {
        rows.push(vec![
            upstream.upstream.clone(),
            upstream.address.clone(),
            upstream.role.clone(),
            if upstream.is_up { "up" } else { "down" }.to_owned(),
            upstream.needs.clone().unwrap_or_default(),
        ]);
    }
    grid(&mut out, &rows, paint);
    let mut rows = vec![
        ["mirror", "status", "mode", "from", "to", "lag", "applied", "copied"].map(str::to_owned).to_vec(),
    ];
    for mirror in &document.mirrors {
        rows.push(vec![
            mirror.mirror.clone(),
            mirror.state.state.clone(),
            mirror.mode.clone(),
            mirror.source_database.clone(),
            mirror.target_database.clone(),
            lag(mirror),
            mirror.last_applied.clone().unwrap_or_else(|| "-".to_owned()),
            copied(mirror),
        ]);
    }
    if rows.len() > 1 {
        grid(&mut out, &rows, paint);
    }
    for mirror in &document.mirrors {
        if let Some(reason) = &mirror.state.reason {
            line(&mut out, format_args!("\n{}: {}", mirror.mirror, paint.word(Tone::Bad, reason)));
        }
        for warning in &mirror.warnings {
            line(&mut out, format_args!("{}: {}", mirror.mirror, paint.word(Tone::Doubtful, warning)));
        }
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a String takes everything");
}

/// Columns as wide as their widest cell; the words of a state are coloured after the measuring.
fn grid(out: &mut String, rows: &[Vec<String>], paint: Paint) {
    let columns = rows[0].len();
    let widths: Vec<usize> =
        (0..columns).map(|c| rows.iter().map(|row| row[c].chars().count()).max().unwrap_or(0)).collect();
    out.push('\n');
    for row in rows {
        let mut cells = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let padding = " ".repeat(width - cell.chars().count() + 2);
            let cell = match tone(cell) {
                Some(tone) => paint.word(tone, cell),
                None => cell.clone(),
            };
            cells = cells + &cell + &padding;
        }
        line(out, format_args!("{}", cells.trim_end()));
    }
}

fn tone(word: &str) -> Option<Tone> {
    match word {
        "up" | "following" | "promoted" => Some(Tone::Good),
        "bootstrapping" | "degraded" => Some(Tone::Doubtful),
        "down" | "fenced" | "disconnected" | "failed" => Some(Tone::Bad),
        _ => None,
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

fn lag(mirror: &Mirror) -> String {
    match (mirror.lag_ms, mirror.lag_bytes) {
        (Some(ms), Some(bytes)) => format!("{ms} ms, {}", size(bytes)),
        (Some(ms), None) => format!("{ms} ms"),
        (None, Some(bytes)) => size(bytes),
        (None, None) => "unknown".to_owned(),
    }
}

fn copied(mirror: &Mirror) -> String {
    let (done, total) = mirror.copied_bytes();
    match total {
        0 => "-".to_owned(),
        total if done >= total => size(total),
        total => format!("{} of {} ({} %)", size(done), size(total), done as u128 * 100 / total as u128),
    }
}

/// A number of bytes as a person reads it.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1000.0, unit + 1);
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::status::{MirrorState, Status, sample};

    fn read(status: &Status) -> Document {
        serde_json::from_str(&serde_json::to_string(status).unwrap()).unwrap()
    }

    #[test]
    fn the_table_says_what_a_person_needs() {
        let expected = "\
local writes, 1 of 2 mirrors follows

state     steady (cloud-mirror 0.1.0)
writer    local
clients   8, server connections 5
lease     held for 21.5 s, epoch 7, owner local, normal (file:/var/lib/cloud-mirror/lease)

server  address              role    state  needs
local   localhost:5432       writer  up
cloud   db.example.com:5432  mirror  down   be reachable

mirror  status        mode   from  to         lag            applied  copied
cloud   following     async  shop  shop_copy  1250 ms, 88 B  1/A8     4.1 kB
stock   disconnected  async  shop  shop_copy  unknown        -        4.1 kB

stock: connection refused
stock: large objects are not carried
stock: table public.log has no key
";
        assert_eq!(table(&read(&sample()), Paint::Plain), expected);
        let coloured = table(&read(&sample()), Paint::Coloured);
        assert!(coloured.contains("\x1b[32mup\x1b[0m") && coloured.contains("\x1b[31mdisconnected\x1b[0m"));
    }

    #[test]
    fn the_exit_code_says_how_things_are() {
        #[track_caller]
        fn check(change: impl FnOnce(&mut Status), expected: Exit) {
            let mut status = sample();
            status.upstreams[1].is_up = true;
            status.mirrors[1].state = MirrorState::Following;
            change(&mut status);
            assert_eq!(outcome(&read(&status)), expected);
        }
        check(|_| {}, Exit::Ok);
        check(|s| s.lease = None, Exit::Ok);
        check(|s| s.mirrors[0].state = MirrorState::Promoted, Exit::Ok);
        check(
            |s| s.mirrors[0].state = MirrorState::Bootstrapping { bytes_done: 1, bytes_total: 2 },
            Exit::Degraded,
        );
        check(|s| s.mirrors[0].state = MirrorState::Degraded { lag_ms: 9 }, Exit::Degraded);
        check(|s| s.mirrors[0].state = MirrorState::Failed { reason: String::new() }, Exit::Degraded);
        check(|s| s.upstreams[0].is_up = false, Exit::Degraded);
        check(|s| s.is_holding = true, Exit::Degraded);
        check(|s| s.writer = None, Exit::Degraded);
        check(|s| s.lease.as_mut().unwrap().is_held = false, Exit::NotLeader);
    }

    #[test]
    fn sizes_and_progress_are_readable() {
        assert_eq!([size(0), size(999), size(1_000), size(1_550_000)], ["0 B", "999 B", "1.0 kB", "1.6 MB"]);
        let mut status = sample();
        status.mirrors[0].state = MirrorState::Bootstrapping { bytes_done: 250, bytes_total: 1_000 };
        assert_eq!(copied(&read(&status).mirrors[0]), "250 B of 1.0 kB (25 %)");
    }
}
