//! Which rooms a source text names.

use super::tokens::{self, Token};

/// A room that is named, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Used {
    /// First word of the path behind the crate's root.
    pub room: String,
    /// From 1.
    pub line: usize,
}

/// Every room named by a path from `crate`, `cloud_mirror` or `super` in the file of the module
/// `at` (`["pool", "limits"]`), groups in `use` included.
pub fn of(source: &str, at: &[&str]) -> Vec<Used> {
    let tokens = tokens::of(source);
    let mut used = Vec::new();
    // Inline modules around the present token: the depth of braces at which each ends.
    let mut inline: Vec<usize> = Vec::new();
    let mut depth = 0;
    for (n, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "{" => {
                if is_module(&tokens, n) {
                    inline.push(depth);
                }
                depth += 1;
            }
            "}" => {
                depth = depth.saturating_sub(1);
                if inline.last() == Some(&depth) {
                    inline.pop();
                }
            }
            "crate" | "cloud_mirror" | "super" if !continues(&tokens, n) => {
                rooms_behind(&tokens, n, at.len() + inline.len(), &mut used);
            }
            _ => {}
        }
    }
    used
}

/// `mod name {`
fn is_module(tokens: &[Token], brace: usize) -> bool {
    brace >= 2 && tokens[brace - 2].text == "mod"
}

/// Whether the word is not the first of its path.
fn continues(tokens: &[Token], at: usize) -> bool {
    at > 0 && tokens[at - 1].text == "::"
}

/// Follows the path that starts at `at`, `depth` modules below the root; when it comes to the
/// root, collects what is named there.
fn rooms_behind(tokens: &[Token], mut at: usize, mut depth: usize, used: &mut Vec<Used>) {
    loop {
        match tokens[at].text.as_str() {
            "crate" | "cloud_mirror" => depth = 0,
            "super" => depth = depth.saturating_sub(1),
            _ => return,
        }
        if tokens.get(at + 1).map(|t| t.text.as_str()) != Some("::") || at + 2 >= tokens.len() {
            return;
        }
        at += 2;
        if depth == 0 {
            return named(tokens, at, used);
        }
    }
}

/// The word at `at`, or the first word of each member of the group that opens there.
fn named(tokens: &[Token], at: usize, used: &mut Vec<Used>) {
    if tokens[at].text != "{" {
        used.push(Used { room: tokens[at].text.clone(), line: tokens[at].line });
        return;
    }
    let mut depth = 0;
    let mut is_first = true;
    for token in &tokens[at..] {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" if depth == 1 => return,
            "}" => depth -= 1,
            "," if depth == 1 => is_first = true,
            _ if depth == 1 && is_first => {
                used.push(Used { room: token.text.clone(), line: token.line });
                is_first = false;
            }
            _ => {}
        }
    }
}
