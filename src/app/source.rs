//! Where the configuration is kept, so that a reload can get it again.

use crate::config::pgbouncer::{self, Around, Imported, Note};
use crate::config::{self, Config, ConfigErrors, File, Flag, Machine, Sources};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The longest configuration, secret or certificate that is read.
const FILE_MAX: u64 = 1024 * 1024;

/// The places a configuration comes from: a file, the environment and the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigSource {
    /// `--config`
    pub file: Option<PathBuf>,
    /// `--pgbouncer`: PgBouncer's file instead of one of ours.
    pub pgbouncer: Option<PathBuf>,
    /// The other options.
    pub flags: Vec<Flag>,
}

/// The configuration's file as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    file: Option<File>,
    /// What PgBouncer's file says and ours does not.
    pub notes: Vec<Note>,
}

/// Translates a file of PgBouncer's. Relative names in it are looked for from the working directory, as
/// PgBouncer does it, and then beside the file.
pub fn import(path: &Path) -> Result<Imported, SourceError> {
    let beside = path.parent().map(Path::to_owned).unwrap_or_default();
    let directories = [std::env::current_dir().unwrap_or_default(), beside];
    let around = Around { file: path, directories: &directories, read_file: &read_file };
    Ok(pgbouncer::import(&around)?)
}

/// Why there is no configuration. Shown to the operator as it is.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {why}; name a file that this user can read")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// PgBouncer's file cannot be read as one.
    #[error("{0}")]
    Ini(#[from] pgbouncer::IniError),
    /// Something in it is wrong.
    #[error(transparent)]
    Wrong(#[from] ConfigErrors),
}

impl ConfigSource {
    /// Reads and checks everything as it is now.
    pub fn load(&self) -> Result<Config, SourceError> {
        self.check(&self.read()?, &[])
    }

    /// Reads everything as it is now.
    pub fn read(&self) -> Result<Read, SourceError> {
        if let Some(path) = &self.pgbouncer {
            let imported = import(path)?;
            let name = format!("{} (as cloud-mirror import shows it)", path.display());
            return Ok(Read { file: Some(File { name, text: imported.toml }), notes: imported.notes });
        }
        let file = match &self.file {
            None => None,
            Some(path) => {
                let text = read_file(path).map_err(|why| SourceError::File { path: path.clone(), why })?;
                Some(File { name: path.display().to_string(), text })
            }
        };
        Ok(Read { file, notes: Vec::new() })
    }

    /// Checks what was read, with more options laid over it.
    pub fn check(&self, read: &Read, more: &[Flag]) -> Result<Config, SourceError> {
        // Names and values that are not UTF-8 cannot be ours.
        let variables: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let machine = match nix::unistd::geteuid().is_root() {
            true => Machine::Root,
            false => Machine::User,
        };
        let flags = [&self.flags, more].concat();
        let file = read.file.clone();
        let sources = Sources { file, variables: &variables, flags: &flags, machine, read_file: &read_file };
        Ok(config::load(&sources)?)
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let metadata = std::fs::metadata(path).map_err(|error| reason(&error))?;
    if metadata.is_dir() {
        return Err("it is a directory".to_owned());
    }
    if metadata.len() > FILE_MAX {
        return Err(format!("it is longer than {FILE_MAX} bytes"));
    }
    std::fs::read_to_string(path).map_err(|error| reason(&error))
}

/// Without the number of the error, which nobody looks up.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("none.toml");
        let load =
            |path: &Path| ConfigSource { file: Some(path.to_owned()), ..ConfigSource::default() }.load();
        let error = load(&missing).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot read the configuration ") && error.contains("No such file"),
            "{error}"
        );
        let error = load(directory.path()).unwrap_err().to_string();
        assert!(error.contains("it is a directory"), "{error}");
        let broken = directory.path().join("broken.toml");
        std::fs::write(&broken, "[pool]\nsize = 0\n[upstream.local]\nurl = \"postgres://a@b/c\"\n").unwrap();
        let error = load(&broken).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}:2: pool.size: ", broken.display())), "{error}");
    }
}
