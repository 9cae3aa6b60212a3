//! Where the configuration is kept, so that a reload can get it again.

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
        let file = match &self.file {
            None => None,
            Some(path) => {
                let text = read_file(path).map_err(|why| SourceError::File { path: path.clone(), why })?;
                Some(File { name: path.display().to_string(), text })
            }
        };
        Ok(Read { file })
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
