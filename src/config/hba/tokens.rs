//! A file of `pg_hba.conf`'s shape → fields ("The pg_hba.conf File"; `next_token` in hba.c).

use super::ReadFile;
use crate::config::problem::Origin;
use crate::config::reader::Problems;
use std::iter::Peekable;
use std::path::Path;
use std::str::Chars;
use std::sync::Arc;

/// How deep files may include each other (`CONF_FILE_MAX_DEPTH`).
const DEPTH_MAX: usize = 10;

/// One text; in quotes it is no keyword.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub is_quoted: bool,
}

/// One record: its fields, each a list of texts with commas between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub at: Origin,
    /// The key that names the file, for the error message.
    pub key: &'static str,
    pub fields: Vec<Vec<Token>>,
}

/// All records of a file and of those it includes; `None` when one cannot be read, which is noted.
pub fn read(
    path: &Path,
    key: &'static str,
    at: &Origin,
    read: ReadFile<'_>,
    problems: &Problems,
) -> Option<Vec<Line>> {
    let mut reading = Reading { key, read, problems, lines: Vec::new(), is_sound: true };
    reading.file(path, 0, at);
    reading.is_sound.then_some(reading.lines)
}

struct Reading<'a> {
    key: &'static str,
    read: ReadFile<'a>,
    problems: &'a Problems,
    lines: Vec<Line>,
    is_sound: bool,
}

impl Reading<'_> {
    fn wrong(&mut self, at: &Origin, what: impl std::fmt::Display, instead: &str) {
        self.problems.add(at, self.key, what, instead);
        self.is_sound = false;
    }

    fn text(&mut self, path: &Path, at: &Origin) -> Option<String> {
        match (self.read)(path) {
            Ok(text) => Some(text),
            Err(why) => {
                let what = format!("cannot read {}: {why}", path.display());
                self.wrong(at, what, "name a file that this user can read");
                None
            }
        }
    }

    fn file(&mut self, path: &Path, depth: usize, from: &Origin) {
        let Some(text) = self.text(path, from) else { return };
        let name: Arc<str> = Arc::from(path.display().to_string().as_str());
        let mut lines = text.lines().enumerate();
        while let Some((number, first)) = lines.next() {
            let at = Origin::Line { file: name.clone(), line: number + 1 };
            let mut whole = first.to_owned();
            // A backslash at the end joins the next line.
            while whole.ends_with('\\') {
                whole.pop();
                match lines.next() {
                    Some((_, next)) => whole.push_str(next),
                    None => break,
                }
            }
            self.line(&whole, at, path, depth);
        }
    }

    fn line(&mut self, text: &str, at: Origin, path: &Path, depth: usize) {
        let mut chars = text.chars().peekable();
        let mut fields = Vec::new();
        loop {
            match field(&mut chars) {
                Ok(Some(tokens)) => fields.push(tokens),
                Ok(None) => break,
                Err(Unclosed) => {
                    self.wrong(&at, "a quote is not closed", "write \" behind the name as well");
                    return;
                }
            }
        }
        if fields.is_empty() {
            return;
        }
        if let [first, rest @ ..] = fields.as_slice()
            && let [word] = first.as_slice()
            && !word.is_quoted
            && matches!(word.text.as_str(), "include" | "include_if_exists" | "include_dir")
        {
            let word = word.text.clone();
            return match rest {
                [file] if file.len() == 1 && word != "include_dir" => {
                    let target = beside(path, &file[0].text);
                    if word == "include_if_exists" && (self.read)(&target).is_err() {
                        return;
                    }
                    self.include(&target, depth, &at);
                }
                _ if word == "include_dir" => {
                    self.wrong(&at, "include_dir is not available", "write an include for each file");
                }
                _ => self.wrong(&at, format_args!("{word} needs one file"), "write include FILE"),
            };
        }
        let fields = fields.into_iter().map(|tokens| self.expanded(tokens, path, depth, &at)).collect();
        self.lines.push(Line { at, key: self.key, fields });
    }

    fn include(&mut self, path: &Path, depth: usize, at: &Origin) {
        if depth >= DEPTH_MAX {
            return self.wrong(at, "files include each other too deeply", "include each file once");
        }
        self.file(path, depth + 1, at);
    }

    /// `@file` is replaced by the names in that file, which commas, spaces and lines divide.
    fn expanded(&mut self, tokens: Vec<Token>, path: &Path, depth: usize, at: &Origin) -> Vec<Token> {
        let mut all = Vec::new();
        for token in tokens {
            let name = token.text.strip_prefix('@').filter(|name| !token.is_quoted && !name.is_empty());
            let Some(name) = name else {
                all.push(token);
                continue;
            };
            if depth >= DEPTH_MAX {
                self.wrong(at, "files include each other too deeply", "include each file once");
                continue;
            }
            let file = beside(path, name);
            let Some(text) = self.text(&file, at) else { continue };
            for line in text.lines() {
                let mut chars = line.chars().peekable();
                loop {
                    match field(&mut chars) {
                        Ok(Some(tokens)) => all.extend(self.expanded(tokens, &file, depth + 1, at)),
                        Ok(None) => break,
                        Err(Unclosed) => {
                            let what = format!("a quote is not closed in {}", file.display());
                            self.wrong(at, what, "write \" behind the name as well");
                            break;
                        }
                    }
                }
            }
        }
        all
    }
}

fn beside(path: &Path, name: &str) -> std::path::PathBuf {
    path.parent().unwrap_or(Path::new("")).join(name)
}

struct Unclosed;

/// The next field: texts with commas between them and no space before a comma.
fn field(chars: &mut Peekable<Chars<'_>>) -> Result<Option<Vec<Token>>, Unclosed> {
    let mut tokens = Vec::new();
    loop {
        let (token, comma) = token(chars)?;
        match token {
            Some(token) => tokens.push(token),
            None if tokens.is_empty() => return Ok(None),
            None => {}
        }
        if !comma {
            return Ok(Some(tokens));
        }
    }
}

/// The next text and whether a comma follows it; `None` at the end or at a comment.
fn token(chars: &mut Peekable<Chars<'_>>) -> Result<(Option<Token>, bool), Unclosed> {
    while chars.next_if(|c| c.is_ascii_whitespace() || *c == ',').is_some() {}
    if chars.peek() == Some(&'#') {
        chars.by_ref().for_each(drop);
    }
    if chars.peek().is_none() {
        return Ok((None, false));
    }
    let (mut text, mut in_quotes, mut had_quote, mut starts_quoted) = (String::new(), false, false, false);
    while let Some(&c) = chars.peek() {
        if !in_quotes && (c.is_ascii_whitespace() || matches!(c, ',' | '#')) {
            break;
        }
        chars.next();
        if c == '"' {
            // Two of them inside quotes are one.
            if in_quotes && chars.next_if_eq(&'"').is_some() {
                text.push('"');
                continue;
            }
            starts_quoted |= text.is_empty() && !had_quote;
            had_quote = true;
            in_quotes = !in_quotes;
        } else {
            text.push(c);
        }
    }
    if in_quotes {
        return Err(Unclosed);
    }
    let comma = chars.next_if_eq(&',').is_some();
    Ok((Some(Token { text, is_quoted: starts_quoted }), comma))
}
