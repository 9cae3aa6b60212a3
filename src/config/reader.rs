//! Takes the keys of one section out of the tree and notes every mistake on the way.

use super::problem::{Origin, Problem};
use super::tree::{Node, Table, Value};
use super::units;
use std::cell::RefCell;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Where mistakes are collected.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub fn add(&self, at: &Origin, key: &str, what: impl Display, instead: impl Display) {
        self.0.borrow_mut().push(Problem {
            at: at.clone(),
            key: key.to_owned(),
            what: what.to_string(),
            instead: instead.to_string(),
        });
    }

    pub fn into_inner(self) -> Vec<Problem> {
        self.0.into_inner()
    }
}

/// A value with its place, for checks that come later.
#[derive(Debug, Clone)]
pub(super) struct Found<T> {
    pub value: T,
    pub at: Origin,
}

/// One section while its keys are taken out.
pub(super) struct Section<'a> {
    pub path: String,
    pub at: Origin,
    keys: Table,
    known: Vec<&'static str>,
    problems: &'a Problems,
}

impl<'a> Section<'a> {
    /// The section `name` of `parent`; an absent one is empty.
    pub fn take(
        parent: &mut Table,
        prefix: &str,
        name: &str,
        missing_at: &Origin,
        problems: &'a Problems,
    ) -> Self {
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        match parent.remove(name) {
            None => Self::new(path, missing_at.clone(), Table::new(), problems),
            Some(node) => Self::from_node(path, node, problems),
        }
    }

    /// A section from its node; anything but a table is a mistake.
    pub fn from_node(path: String, node: Node, problems: &'a Problems) -> Self {
        match node.value {
            Value::Table(keys) => Self::new(path, node.at, keys, problems),
            other => {
                let kind = other.kind();
                problems.add(
                    &node.at,
                    &path,
                    format_args!("is {kind}, but must be a section"),
                    format_args!("write [{path}]"),
                );
                Self::new(path, node.at, Table::new(), problems)
            }
        }
    }

    fn new(path: String, at: Origin, keys: Table, problems: &'a Problems) -> Self {
        Self { path, at, keys, known: Vec::new(), problems }
    }

    pub fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    pub fn problem(&self, at: &Origin, key: &str, what: impl Display, instead: impl Display) {
        self.problems.add(at, &self.key(key), what, instead);
    }

    pub fn problems(&self) -> &'a Problems {
        self.problems
    }

    pub fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// Sections inside this one, with their names.
    pub fn into_sections(mut self) -> Vec<(String, Section<'a>)> {
        let keys = std::mem::take(&mut self.keys);
        let (path, problems) = (self.path.clone(), self.problems);
        keys.into_iter()
            .map(|(name, node)| {
                let section = Section::from_node(format!("{path}.{name}"), node, problems);
                (name, section)
            })
            .collect()
    }

    /// Everything in this section, by name.
    pub fn into_nodes(mut self) -> Table {
        std::mem::take(&mut self.keys)
    }

    /// A section inside this one.
    pub fn section(&mut self, name: &'static str) -> Option<Section<'a>> {
        let (path, problems) = (self.key(name), self.problems);
        self.node(name).map(|node| Section::from_node(path, node, problems))
    }

    /// The node of a key, whatever it is.
    pub fn node(&mut self, key: &'static str) -> Option<Node> {
        self.known.push(key);
        self.keys.remove(key)
    }

    pub fn text(&mut self, key: &'static str, example: &str) -> Option<Found<String>> {
        let node = self.node(key)?;
        match node.value {
            Value::Text(text) if text.is_empty() => {
                self.problem(
                    &node.at,
                    key,
                    "is empty",
                    format_args!("write {example}, or leave the key out"),
                );
                None
            }
            Value::Text(text) => Some(Found { value: text, at: node.at }),
            other => {
                self.wrong_kind(&node.at, key, &other, "a string", example);
                None
            }
        }
    }

    pub fn path(&mut self, key: &'static str, example: &str) -> Option<Found<PathBuf>> {
        self.text(key, example).map(|found| Found { value: PathBuf::from(found.value), at: found.at })
    }

    /// A list of texts; a single one is a list of one, and commas divide what was typed as text.
    pub fn texts(&mut self, key: &'static str, example: &str) -> Option<Vec<Found<String>>> {
        let node = self.node(key)?;
        match node.value {
            Value::Text(text) if node.at.is_plain_text() => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                Some(parts.map(|part| Found { value: part.to_owned(), at: node.at.clone() }).collect())
            }
            Value::Text(text) => Some(vec![Found { value: text, at: node.at }]),
            Value::List(items) => {
                let (mut found, count) = (Vec::new(), items.len());
                for item in items {
                    match item.value {
                        Value::Text(text) => found.push(Found { value: text, at: item.at }),
                        other => self.wrong_kind(&item.at, key, &other, "a list of strings", example),
                    }
                }
                (found.len() == count).then_some(found)
            }
            other => {
                self.wrong_kind(&node.at, key, &other, "a string or a list of strings", example);
                None
            }
        }
    }

    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let node = self.node(key)?;
        let number = match &node.value {
            Value::Integer(number) => Some(*number),
            Value::Text(text) if node.at.is_plain_text() => text.trim().parse().ok(),
            _ => None,
        };
        match number {
            Some(number) if range.contains(&number) => Some(number),
            Some(number) => {
                let (low, high) = (range.start(), range.end());
                self.problem(
                    &node.at,
                    key,
                    format_args!("{number} is out of range"),
                    format_args!("write a number from {low} to {high}"),
                );
                None
            }
            None => {
                let (low, high) = (range.start(), range.end());
                let kind = if node.at.is_plain_text() { "is no number" } else { "" };
                if kind.is_empty() {
                    let example = format!("a number from {low} to {high}");
                    self.wrong_kind(&node.at, key, &node.value, "a number", &example);
                } else {
                    self.problem(&node.at, key, kind, format_args!("write a number from {low} to {high}"));
                }
                None
            }
        }
    }

    pub fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let node = self.node(key)?;
        match &node.value {
            Value::Bool(value) => Some(*value),
            Value::Text(text) if node.at.is_plain_text() && matches!(text.as_str(), "true" | "false") => {
                Some(text == "true")
            }
            other => {
                self.wrong_kind(&node.at, key, other, "true or false", "true or false, without quotes");
                None
            }
        }
    }

    pub fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Found<Duration>> {
        let node = self.node(key)?;
        let example = format!("for example {key} = \"10s\" (units ms, s, m, h)");
        let value = match node.value {
            Value::Integer(0) => Value::Text("0".to_owned()),
            value => value,
        };
        match value {
            Value::Text(text) => {
                let Some(duration) = units::duration(&text) else {
                    let what = format!("{text:?} is no duration");
                    self.problem(&node.at, key, what, format_args!("write {example}"));
                    return None;
                };
                if !range.contains(&duration) {
                    let (low, high) = (range.start(), range.end());
                    self.problem(
                        &node.at,
                        key,
                        format_args!("{} is out of range", units::show_duration(duration)),
                        format_args!(
                            "write a duration from {} to {}",
                            units::show_duration(*low),
                            units::show_duration(*high)
                        ),
                    );
                    return None;
                }
                Some(Found { value: duration, at: node.at })
            }
            Value::Integer(number) => {
                let what = format!("{number} has no unit");
                self.problem(&node.at, key, what, format_args!("write a string with a unit, {example}"));
                None
            }
            other => {
                self.wrong_kind(&node.at, key, &other, "a duration", &example);
                None
            }
        }
    }

    /// One of `choices`; words in `later` get their own answer.
    pub fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
        later: &[(&str, &str)],
    ) -> Option<Found<T>> {
        let words = choices.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(" or ");
        let found = self.text(key, &words)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == found.value) {
            return Some(Found { value: *value, at: found.at });
        }
        let value = &found.value;
        match later.iter().find(|(word, _)| word == value) {
            Some((_, why)) => self.problem(
                &found.at,
                key,
                format_args!("{value:?} is not available: {why}"),
                format_args!("write {words}"),
            ),
            None => {
                let near = units::nearest(value, choices.iter().map(|(word, _)| *word));
                let meant = near.map(|word| format!(" (did you mean {word:?}?)")).unwrap_or_default();
                self.problem(
                    &found.at,
                    key,
                    format_args!("{value:?} is not known{meant}"),
                    format_args!("write {words}"),
                );
            }
        }
        None
    }

    fn wrong_kind(&self, at: &Origin, key: &str, value: &Value, wanted: &str, example: &str) {
        self.problem(
            at,
            key,
            format_args!("is {}, but must be {wanted}", value.kind()),
            format_args!("write {example}"),
        );
    }

    /// Everything that was not taken is unknown.
    pub fn finish(self) {
        for (key, node) in &self.keys {
            unknown(self.problems, &node.at, &self.path, key, &self.known);
        }
    }
}

/// Notes an unknown key or section.
pub(super) fn unknown(problems: &Problems, at: &Origin, path: &str, key: &str, known: &[&str]) {
    let full = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let what = match path {
        "" => "unknown section",
        "upstream" => "unknown upstream",
        _ => "unknown key",
    };
    match units::nearest(key, known.iter().copied()) {
        Some(near) => problems.add(
            at,
            &full,
            format_args!("{what} (did you mean {near:?}?)"),
            format_args!("write {near}, or remove it"),
        ),
        None => {
            let mut names = known.to_vec();
            names.sort_unstable();
            names.dedup();
            problems.add(at, &full, what, format_args!("remove it; known here: {}", names.join(", ")));
        }
    }
}
