//! `cloud-mirror import`: a configuration of PgBouncer's as one of ours.

use super::args::ImportArguments;
use crate::app::{ConfigSource, Exit, source};
use crate::config::pgbouncer::{Note, Weight};
use anyhow::Context;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes the translation, then what it does not say to standard error, then whether it is whole.
pub fn run(asked: &ImportArguments) -> anyhow::Result<Exit> {
    let file = std::path::absolute(&asked.file).context("cannot find out in which directory this is")?;
    let imported = match source::import(&file) {
        Ok(imported) => imported,
        Err(error) => {
            eprintln!("{error}");
            return Ok(Exit::Usage);
        }
    };
    match &asked.output {
        None => print!("{}", imported.toml),
        Some(path) => write(path, &imported.toml)?,
    }
    say(&imported.notes);
    let source = ConfigSource { pgbouncer: Some(file), ..ConfigSource::default() };
    match source.load() {
        Ok(_) => Ok(Exit::Ok),
        Err(errors) => {
            eprintln!("This is not a whole configuration yet:\n{errors}");
            Ok(Exit::Usage)
        }
    }
}

/// There may be passwords in it.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).with_context(failed)?;
    file.write_all(text.as_bytes()).with_context(failed)
}

/// What the operator of a proxy with `--pgbouncer` should know; what is not needed is not said again.
pub fn tell(source: &ConfigSource) -> anyhow::Result<()> {
    if source.pgbouncer.is_some() {
        let mut notes = source.read()?.notes;
        notes.retain(|note| note.weight > Weight::Moot);
        say(&notes);
    }
    Ok(())
}

fn say(notes: &[Note]) {
    for note in notes {
        let weight = match note.weight {
            Weight::Moot => "not needed",
            Weight::Differs => "differs",
            Weight::Problem => "problem",
        };
        eprintln!("{weight}: {note}");
    }
}
