//! PgBouncer's ini files, read as PgBouncer reads them (`cfparser.c`, `loader.c`).

use super::import::Around;
use std::path::Path;
use std::sync::Arc;

/// `%include` in `%include` in …: PgBouncer's own bound.
const DEPTH_MAX: usize = 10;

/// Where something was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<str>,
    /// Counts from 1.
    pub line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// `key = value` in a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The section, as written.
    pub section: String,
    /// Without quotes.
    pub key: String,
    /// Up to the end of the line, without the spaces around it.
    pub value: String,
    /// Where it stands.
    pub at: Place,
}

/// Why a file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {what}")]
pub struct IniError {
    /// Where.
    pub at: Place,
    /// What is wrong.
    pub what: String,
}

/// Reads a file and what it includes.
pub fn read(file: &Path, around: &Around<'_>) -> Result<Vec<Line>, IniError> {
    let mut reading = Reading { around, section: String::new(), lines: Vec::new() };
    let start = Place { file: name(file), line: 0 };
    let text = (around.read_file)(file)
        .map_err(|why| IniError { at: start, what: format!("cannot be read: {why}") })?;
    reading.file(file, &text, 0)?;
    Ok(reading.lines)
}

fn name(file: &Path) -> Arc<str> {
    Arc::from(file.display().to_string().as_str())
}

struct Reading<'a> {
    around: &'a Around<'a>,
    section: String,
    lines: Vec<Line>,
}

impl Reading<'_> {
    fn file(&mut self, file: &Path, text: &str, depth: usize) -> Result<(), IniError> {
        let file = name(file);
        for (index, line) in text.lines().enumerate() {
            let at = Place { file: file.clone(), line: index + 1 };
            self.line(line.trim(), at, depth)?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str, at: Place, depth: usize) -> Result<(), IniError> {
        let wrong = |what: &str| IniError { at: at.clone(), what: what.to_owned() };
        if line.is_empty() || line.starts_with([';', '#']) {
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("%include").filter(|rest| rest.starts_with([' ', '\t'])) {
            if depth >= DEPTH_MAX {
                return Err(wrong("too many files include each other"));
            }
            let path = self.around.locate(rest.trim());
            let text = (self.around.read_file)(&path)
                .map_err(|why| wrong(&format!("cannot include {}: {why}", path.display())))?;
            return self.file(&path, &text, depth + 1);
        }
        if let Some(rest) = line.strip_prefix('[') {
            let (section, _) = rest.split_once(']').ok_or_else(|| wrong("\"[\" without its \"]\""))?;
            self.section = section.to_owned();
            return Ok(());
        }
        let (key, value) = key_and_value(line).ok_or_else(|| wrong("is no key = value"))?;
        let section = self.section.clone();
        self.lines.push(Line { section, key, value, at });
        Ok(())
    }
}

/// A key is a word, or quoted: with single quotes as the parser wants it, or with double quotes as
/// the manual says.
fn key_and_value(line: &str) -> Option<(String, String)> {
    let quote = line.chars().next().filter(|first| matches!(first, '\'' | '"'));
    let (key, rest) = match quote {
        Some(quote) => {
            let mut key = String::new();
            let mut rest = &line[1..];
            loop {
                let end = rest.find(quote)?;
                key.push_str(&rest[..end]);
                rest = &rest[end + 1..];
                match rest.strip_prefix(quote) {
                    Some(more) => {
                        key.push(quote);
                        rest = more;
                    }
                    None => break,
                }
            }
            (key, rest)
        }
        None => {
            let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '*');
            let end = line.find(|c| !is_part(c)).unwrap_or(line.len());
            (line[..end].to_owned(), &line[end..])
        }
    };
    let value = rest.trim_start().strip_prefix('=')?;
    Some((key, value.trim().to_owned())).filter(|(key, _)| !key.is_empty())
}

/// The `key=value` pairs of a connection string; the error is the part that is none.
pub fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, behind) = rest.split_once('=').ok_or_else(|| format!("{rest:?} has no value"))?;
        let key = key.trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(format!("{key:?} is no key"));
        }
        let behind = behind.trim_start();
        let (value, next) = match behind.strip_prefix('\'') {
            Some(quoted) => unquoted(quoted).ok_or_else(|| format!("the value of {key} has no end"))?,
            None => {
                let end = behind.find(' ').unwrap_or(behind.len());
                (behind[..end].to_owned(), &behind[end..])
            }
        };
        if value.is_empty() {
            return Err(format!("the value of {key} is empty"));
        }
        pairs.push((key.to_owned(), value));
        rest = next.trim_start();
    }
    Ok(pairs)
}

/// What stands before the closing quote, and what behind it; two quotes are one.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('\'')?;
        value.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('\'') {
            Some(more) => {
                value.push('\'');
                rest = more;
            }
            None => return Some((value, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<Line>, IniError> {
        let read_file = |path: &Path| match path.to_str() {
            Some("p.ini") => Ok(text.to_owned()),
            Some("/etc/more.ini") => Ok("pool_mode = session\n[users]\nann = pool_size=3\n".to_owned()),
            Some("/etc/loop.ini") => Ok("%include loop.ini\n".to_owned()),
            _ => Err("No such file or directory".to_owned()),
        };
        let directories = [std::path::PathBuf::from("/etc")];
        let file = Path::new("p.ini");
        read(file, &Around { file, directories: &directories, read_file: &read_file })
    }

    #[test]
    fn a_file_is_read_as_pgbouncer_reads_it() {
        let text = ";; comment\n[databases]\nfoodb =\n\"my-\"\"db\" = host=x\n'a b' = \n* = host=testserver\n\
            [pgbouncer]\n  listen_port=6432 \n# comment\nlogfile = a b ; no comment\n%include more.ini\nadmin_users = x\n";
        let lines = read_text(text).unwrap();
        let found: Vec<_> = lines
            .iter()
            .map(|line| format!("{} [{}] {}={}", line.at, line.section, line.key, line.value))
            .collect();
        assert_eq!(
            found,
            [
                "p.ini:3 [databases] foodb=",
                "p.ini:4 [databases] my-\"db=host=x",
                "p.ini:5 [databases] a b=",
                "p.ini:6 [databases] *=host=testserver",
                "p.ini:8 [pgbouncer] listen_port=6432",
                "p.ini:10 [pgbouncer] logfile=a b ; no comment",
                "/etc/more.ini:1 [pgbouncer] pool_mode=session",
                "/etc/more.ini:3 [users] ann=pool_size=3",
                // As there: a section goes on behind an included file.
                "p.ini:12 [users] admin_users=x",
            ]
        );
    }

    #[test]
    fn mistakes_name_their_line() {
        let said = |text: &str| read_text(text).unwrap_err().to_string();
        assert_eq!(said("[databases\n"), "p.ini:1: \"[\" without its \"]\"");
        assert_eq!(said("\nfoodb\n"), "p.ini:2: is no key = value");
        assert_eq!(said("= x"), "p.ini:1: is no key = value");
        assert_eq!(
            said("%include none.ini"),
            "p.ini:1: cannot include /etc/none.ini: No such file or directory"
        );
        assert_eq!(said("%include loop.ini"), "/etc/loop.ini:1: too many files include each other");
    }

    #[test]
    fn connection_strings_fall_into_their_pairs() {
        let text = "host=localhost port = 300 connect_query='SELECT ''x'' ' user=baz";
        let expected =
            [("host", "localhost"), ("port", "300"), ("connect_query", "SELECT 'x' "), ("user", "baz")];
        let expected: Vec<_> = expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        assert_eq!(pairs(text), Ok(expected));
        assert_eq!(pairs(""), Ok(Vec::new()));
        assert_eq!(pairs("host"), Err("\"host\" has no value".to_owned()));
        assert_eq!(pairs("host="), Err("the value of host is empty".to_owned()));
        assert_eq!(pairs("a='x"), Err("the value of a has no end".to_owned()));
    }
}
