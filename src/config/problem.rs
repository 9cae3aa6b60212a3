//! A mistake and where it stands.

use std::fmt;
use std::sync::Arc;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A line of the file, from 1.
    Line {
        /// The file, as it was named.
        file: Arc<str>,
        /// The line.
        line: usize,
    },
    /// The file as a whole: something is missing in it.
    File(Arc<str>),
    /// An environment variable.
    Variable(String),
    /// An option of the command line.
    Flag(String),
    /// Nothing was written at all.
    Nowhere,
}

impl Origin {
    /// Whether the value was typed as text only, so that numbers and lists have to be read from it.
    pub(super) fn is_plain_text(&self) -> bool {
        matches!(self, Origin::Variable(_) | Origin::Flag(_))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Line { file, line } => write!(f, "{file}:{line}"),
            Origin::File(file) => f.write_str(file),
            Origin::Variable(name) => write!(f, "environment variable {name}"),
            Origin::Flag(name) => write!(f, "option {name}"),
            Origin::Nowhere => f.write_str("configuration"),
        }
    }
}

/// One mistake: where, what, and what to write instead. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands.
    pub at: Origin,
    /// The key, as `section.key`; empty when the file cannot be read at all.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub instead: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.at)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}; {}", self.what, self.instead)
    }
}

/// All mistakes of a configuration, in the order of their places; one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<Problem>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
