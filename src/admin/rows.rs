//! Status → rows of an answer. Pure.

use crate::base::sqlstate;
use crate::observe::events::Event;
use crate::observe::events::Level;
use crate::observe::status::{LeaseStatus, MirrorState, MirrorStatus, Status};
use crate::observe::time::utc;
use crate::sql::admin::{Command, HELP, POOLER_HELP};
use crate::sql::console::{ConsoleError, ConsoleReply, ConsoleRows, columns};
use std::fmt::Display;

/// Answers a command that shows something; `None` for one that changes something.
pub(super) fn show(
    command: &Command,
    status: &Status,
    events: impl FnOnce() -> Vec<Event>,
) -> Option<ConsoleReply> {
    let rows = match command {
        Command::ShowMirrorStatus => status.mirrors.iter().map(|mirror| of_mirror(command, mirror)).collect(),
        Command::ShowDatabaseMirrorStatus { mirror: name } => {
            match status.mirrors.iter().find(|mirror| mirror.mirror == *name) {
                Some(mirror) => vec![of_mirror(command, mirror)],
                None => return Some(Err(no_such_mirror(name.as_str(), status))),
            }
        }
        Command::ShowLease => status.lease.iter().map(of_lease).collect(),
        Command::ShowEvents => events().iter().map(of_event).collect(),
        Command::ShowHelp => HELP
            .iter()
            .chain(POOLER_HELP)
            .map(|(command, meaning, allowed_to)| vec![some(command), some(meaning), some(allowed_to)])
            .collect(),
        Command::ShowVersion => vec![vec![some(format_args!("cloud-mirror {}", status.version))]],
        Command::MirrorDatabase { .. }
        | Command::DropMirror { .. }
        | Command::Promote { .. }
        | Command::Reload
        | Command::Pooler(_) => return None,
    };
    Some(Ok(ConsoleRows::shown(command, rows)))
}

fn no_such_mirror(name: &str, status: &Status) -> ConsoleError {
    let names: Vec<_> = status.mirrors.iter().map(|mirror| format!("\"{}\"", mirror.mirror)).collect();
    let error = ConsoleError::new(sqlstate::UNDEFINED_OBJECT, format!("mirror \"{name}\" does not exist"));
    match names.as_slice() {
        [] => error.with_detail("There is no mirror."),
        names => error.with_detail(format!("There is {}.", names.join(", "))),
    }
}

fn some(value: impl Display) -> Option<String> {
    Some(value.to_string())
}

/// Larger numbers than `int8` holds are cut off at its end: they occur only as nonsense.
fn number(value: u64) -> Option<String> {
    some(i64::try_from(value).unwrap_or(i64::MAX))
}

fn flag(value: bool) -> Option<String> {
    some(if value { "t" } else { "f" })
}

/// The columns of both answers have the same names; their order is the answer's.
fn of_mirror(command: &Command, mirror: &MirrorStatus) -> Vec<Option<String>> {
    let reason = match &mirror.state {
        MirrorState::Disconnected { reason } | MirrorState::Failed { reason } => Some(reason.clone()),
        MirrorState::Bootstrapping { .. }
        | MirrorState::Following
        | MirrorState::Degraded { .. }
        | MirrorState::Promoted => None,
    };
    // The state carries the newest numbers of its own.
    let lag_ms = match mirror.state {
        MirrorState::Degraded { lag_ms } => Some(mirror.lag_ms.unwrap_or(lag_ms)),
        _ => mirror.lag_ms,
    };
    let (bytes_done, bytes_total) = match mirror.state {
        MirrorState::Bootstrapping { bytes_done, bytes_total } => (bytes_done, bytes_total),
        _ => (mirror.bytes_done, mirror.bytes_total),
    };
    let value = |column: &str| match column {
        "mirror" => some(&mirror.mirror),
        "status" => some(mirror.state.word()),
        "mode" => some(mirror.mode),
        "source_cluster" => some(mirror.source_cluster),
        "source_database" => some(&mirror.source_database),
        "target_database" => some(&mirror.target_database),
        "last_applied" => mirror.last_applied.and_then(some),
        "lag_ms" => lag_ms.and_then(number),
        "lag_bytes" => mirror.lag_bytes.and_then(number),
        "bytes_done" => number(bytes_done),
        "bytes_total" => number(bytes_total),
        "is_promotable" => flag(mirror.is_promotable),
        "rows_applied" => number(mirror.rows_applied),
        "transactions_applied" => number(mirror.transactions_applied),
        "rows_not_followed" => number(mirror.rows_not_followed),
        "reason" => reason.clone(),
        "warnings" => Some(mirror.warnings.join("; ")),
        other => unreachable!("column {other:?} of {}", command.words()),
    };
    columns(command).iter().map(|column| value(column.name)).collect()
}

fn of_lease(lease: &LeaseStatus) -> Vec<Option<String>> {
    vec![
        number(lease.epoch.0),
        lease.owner.and_then(some),
        some(lease.phase),
        flag(lease.is_held),
        lease.deadline_ms.and_then(number),
        some(lease.authority),
        number(lease.ttl_ms),
        lease.renewed_at.map(utc),
        some(&lease.store),
        lease.problem.clone(),
    ]
}

fn of_event(event: &Event) -> Vec<Option<String>> {
    let level = match event.level {
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    };
    vec![number(event.number), Some(utc(event.at)), some(level), some(event.name), Some(event.detail.clone())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::MirrorName;
    use crate::observe::status::sample;
    use std::fmt::Write;
    use std::time::{Duration, SystemTime};

    fn events() -> Vec<Event> {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let detail = "site=cloud epoch=8".to_owned();
        vec![Event { number: 3, at, level: Level::Warn, name: "failover.promoted", detail }]
    }

    /// The answer, a column a line, as `psql -x` shows it.
    fn shown(command: &Command, status: &Status) -> String {
        let mut text = format!("{}\n", command.words());
        match show(command, status, events).unwrap() {
            Ok(answer) => {
                for (index, row) in answer.rows.iter().enumerate() {
                    writeln!(text, "-[ {} ]", index + 1).unwrap();
                    for (column, value) in answer.columns.iter().zip(row) {
                        let value = value.as_deref().unwrap_or("NULL");
                        writeln!(text, "{} {:?} {value}", column.name, column.kind).unwrap();
                    }
                }
            }
            Err(error) => {
                let detail = error.detail.unwrap_or_default();
                writeln!(text, "ERROR {} {} DETAIL {detail}", error.code, error.message).unwrap();
            }
        }
        text + "\n"
    }

    #[test]
    fn the_answers_have_exactly_these_columns() {
        let one = |name: &str| Command::ShowDatabaseMirrorStatus { mirror: MirrorName::new(name).unwrap() };
        let mut text = String::new();
        let commands = [
            Command::ShowMirrorStatus,
            one("cloud"),
            one("nobody"),
            Command::ShowLease,
            Command::ShowEvents,
            Command::ShowHelp,
            Command::ShowVersion,
        ];
        for command in &commands {
            text += &shown(command, &sample());
        }
        let bare = Status { lease: None, mirrors: Vec::new(), ..sample() };
        for command in [Command::ShowMirrorStatus, Command::ShowLease, one("cloud")] {
            text += &shown(&command, &bare);
        }
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/rows_sample.txt"), &text).unwrap();
            return;
        }
        assert_eq!(text, include_str!("rows_sample.txt"));
    }

    #[test]
    fn a_state_with_numbers_of_its_own_shows_them() {
        let mut status = sample();
        status.mirrors[0].state = MirrorState::Bootstrapping { bytes_done: 5, bytes_total: 9 };
        let text = shown(&Command::ShowMirrorStatus, &status);
        assert!(text.contains("bytes_done Int8 5\nbytes_total Int8 9\n"), "{text}");
        status.mirrors[0].state = MirrorState::Degraded { lag_ms: 7_000 };
        status.mirrors[0].lag_ms = None;
        status.mirrors[0].lag_bytes = Some(u64::MAX);
        let text = shown(&Command::ShowMirrorStatus, &status);
        assert!(text.contains("lag_ms Int8 7000\nlag_bytes Int8 9223372036854775807\n"), "{text}");
    }
}
