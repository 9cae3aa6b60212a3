//! File, variables and options laid over each other, each value with its origin.

use super::VARIABLE_PREFIX;
use super::load::{Flag, Sources};
use super::problem::{Origin, Problem};
use std::collections::BTreeMap;
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub at: Origin,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Bool(bool),
    List(Vec<Node>),
    Table(Table),
    /// A float, a date, or a number too large: no key of ours takes one.
    Other(&'static str),
}

pub(super) type Table = BTreeMap<String, Node>;

impl Value {
    /// What it is, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Integer(_) => "a number",
            Value::Bool(_) => "true or false",
            Value::List(_) => "a list",
            Value::Table(_) => "a section",
            Value::Other(kind) => kind,
        }
    }
}

/// Lays the options over the variables over the file.
pub(super) fn merged(sources: &Sources<'_>, problems: &mut Vec<Problem>) -> Table {
    let mut tree = Table::new();
    if let Some(file) = &sources.file {
        let mut reading = Reading {
            file: Arc::from(file.name.as_str()),
            lines: line_starts(&file.text),
            variables: sources.variables,
            problems,
        };
        tree = reading.file(&file.text);
    }
    for (name, value) in sources.variables {
        if let Some(path) = name.strip_prefix(VARIABLE_PREFIX) {
            let at = Origin::Variable(name.clone());
            let path = path.to_lowercase();
            let path: Vec<&str> = path.split("__").collect();
            put(&mut tree, &path, at, value, problems);
        }
    }
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for Flag { name, key, value } in sources.flags {
        let at = Origin::Flag((*name).to_owned());
        let path: Vec<&str> = key.split('.').collect();
        match value {
            None => remove(&mut tree, &path),
            // Another option, or SET, stands in place of this one.
            Some(value) if seen.contains(&(*name, key.as_ref())) => join(&mut tree, &path, value),
            Some(value) => {
                put(&mut tree, &path, at, value, problems);
                seen.push((*name, key.as_ref()));
            }
        }
    }
    tree
}

/// Puts a text at a path, in place of what was there.
fn put(tree: &mut Table, path: &[&str], at: Origin, value: &str, problems: &mut Vec<Problem>) {
    let (last, sections) = path.split_last().expect("split gives at least one part");
    if sections.is_empty() || path.iter().any(|part| part.is_empty()) {
        problems.push(Problem {
            at,
            key: String::new(),
            what: "does not name a section and a key".to_owned(),
            instead: format!("write for example {VARIABLE_PREFIX}POOL__SIZE"),
        });
        return;
    }
    let mut table = tree;
    for section in sections {
        let node = table
            .entry((*section).to_owned())
            .or_insert_with(|| Node { at: at.clone(), value: Value::Table(Table::new()) });
        if !matches!(node.value, Value::Table(_)) {
            // The file's mistake is reported when the section is read; it must not hide ours.
            node.value = Value::Table(Table::new());
        }
        let Value::Table(inner) = &mut node.value else { unreachable!("made a table above") };
        table = inner;
    }
    table.insert((*last).to_owned(), Node { at, value: Value::Text(value.to_owned()) });
}

/// Takes a key away.
fn remove(tree: &mut Table, path: &[&str]) {
    let Some((last, sections)) = path.split_last() else { return };
    let mut table = tree;
    for section in sections {
        let Some(Node { value: Value::Table(inner), .. }) = table.get_mut(*section) else { return };
        table = inner;
    }
    table.remove(*last);
}

/// An option given again adds to its list.
fn join(tree: &mut Table, path: &[&str], value: &str) {
    let mut table = tree;
    for (index, part) in path.iter().enumerate() {
        let Some(node) = table.get_mut(*part) else { return };
        match &mut node.value {
            Value::Table(inner) => table = inner,
            Value::Text(text) if index + 1 == path.len() => {
                *text = format!("{text},{value}");
                return;
            }
            _ => return,
        }
    }
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

/// From a file's text to a table.
struct Reading<'a> {
    file: Arc<str>,
    lines: Vec<usize>,
    variables: &'a BTreeMap<String, String>,
    problems: &'a mut Vec<Problem>,
}

impl Reading<'_> {
    fn at(&self, byte: usize) -> Origin {
        let line = self.lines.partition_point(|start| *start <= byte);
        Origin::Line { file: self.file.clone(), line }
    }

    fn file(&mut self, text: &str) -> Table {
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            for error in errors {
                let at = error.span().map_or(Origin::File(self.file.clone()), |span| self.at(span.start));
                let what = error.message().trim().replace('\n', ", ");
                let instead = "correct the TOML (https://toml.io/en/v1.0.0)".to_owned();
                self.problems.push(Problem { at, key: String::new(), what, instead });
            }
            // What was recovered would only give errors that follow from these.
            return Table::new();
        }
        self.table("", table.into_inner())
    }

    fn table(&mut self, path: &str, table: DeTable<'_>) -> Table {
        let mut nodes = Table::new();
        for (key, value) in table {
            let at = self.at(key.span().start);
            let name = key.into_inner().into_owned();
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let node = Node { at, value: self.value(&path, value) };
            nodes.insert(name, node);
        }
        nodes
    }

    fn value(&mut self, path: &str, value: Spanned<DeValue<'_>>) -> Value {
        let start = value.span().start;
        match value.into_inner() {
            DeValue::String(text) => Value::Text(self.expanded(path, start, &text)),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => Value::Other("a number too large"),
            },
            DeValue::Boolean(value) => Value::Bool(value),
            DeValue::Float(_) => Value::Other("a number with a fraction"),
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Array(list) => {
                let mut nodes = Vec::new();
                for item in list {
                    let at = self.at(item.span().start);
                    let value = self.value(path, item);
                    nodes.push(Node { at, value });
                }
                Value::List(nodes)
            }
            DeValue::Table(table) => Value::Table(self.table(path, table)),
        }
    }

    /// `${NAME}` becomes the variable's value; `$${` stands for `${`.
    fn expanded(&mut self, path: &str, start: usize, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(found) = rest.find("${") {
            if rest[..found].ends_with('$') {
                out.push_str(&rest[..found - 1]);
                out.push_str("${");
                rest = &rest[found + 2..];
                continue;
            }
            out.push_str(&rest[..found]);
            let behind = &rest[found + 2..];
            let Some(end) = behind.find('}') else {
                self.problem(
                    path,
                    start,
                    "\"${\" without its \"}\"",
                    "write ${NAME}, or $${ for the two characters",
                );
                return out;
            };
            let name = &behind[..end];
            match self.variables.get(name) {
                Some(value) => out.push_str(value),
                None => self.problem(
                    path,
                    start,
                    &format!("environment variable {name} is not set"),
                    &format!("set {name}, or write $${{{name}}} for the characters themselves"),
                ),
            }
            rest = &behind[end + 1..];
        }
        out.push_str(rest);
        out
    }

    fn problem(&mut self, key: &str, start: usize, what: &str, instead: &str) {
        let at = self.at(start);
        self.problems.push(Problem {
            at,
            key: key.to_owned(),
            what: what.to_owned(),
            instead: instead.to_owned(),
        });
    }
}
