//! Just enough of Rust's lexical structure: words and signs, without comments and literals.

/// A word or a sign, and the line it stands on (from 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// `crate`, `::`, `{`, …
    pub text: String,
    /// From 1.
    pub line: usize,
}

/// Cuts a source text into tokens.
pub fn of(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => find(&chars, at, |c| c == '\n'),
            '/' if chars.get(at + 1) == Some(&'*') => after_comment(&chars, at),
            '"' => after_string(&chars, at + 1),
            '\'' => after_quote(&chars, at),
            c if c.is_alphabetic() || c == '_' => {
                let end = find(&chars, at, |c| !c.is_alphanumeric() && c != '_');
                match raw_string(&chars, at, end) {
                    Some(end) => end,
                    None => {
                        tokens.push(Token { text: chars[at..end].iter().collect(), line });
                        end
                    }
                }
            }
            ':' if chars.get(at + 1) == Some(&':') => {
                tokens.push(Token { text: "::".to_owned(), line });
                at + 2
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push(Token { text: c.to_string(), line });
                }
                at + 1
            }
        };
        line += chars[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    tokens
}

/// The tokens of each line, joined by blanks, without modules under `#[cfg(test)]`.
pub fn lines_without_tests(source: &str) -> Vec<(usize, String)> {
    let tokens = of(source);
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_test_module(&tokens[at..]) {
            at = after_block(&tokens, at);
            continue;
        }
        let token = &tokens[at];
        match lines.last_mut() {
            Some((line, text)) if *line == token.line => {
                text.push(' ');
                text.push_str(&token.text);
            }
            _ => lines.push((token.line, token.text.clone())),
        }
        at += 1;
    }
    lines
}

/// Whether the tokens of `line` contain those of `words` in a row.
pub fn mentions(line: &str, words: &str) -> bool {
    let texts = |source| of(source).into_iter().map(|t| t.text).collect::<Vec<_>>();
    let (line, words) = (texts(line), texts(words));
    line.windows(words.len()).any(|window| window == words)
}

fn is_test_module(tokens: &[Token]) -> bool {
    let start = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    tokens.len() > start.len() && start.iter().zip(tokens).all(|(text, token)| *text == token.text)
}

/// Past the block (or the `;`) that ends the item starting at `at`.
fn after_block(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for (n, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" if depth == 1 => return n + 1,
            "}" => depth -= 1,
            ";" if depth == 0 => return n + 1,
            _ => {}
        }
    }
    tokens.len()
}

fn find(chars: &[char], from: usize, is_end: impl Fn(char) -> bool) -> usize {
    (from..chars.len()).find(|at| is_end(chars[*at])).unwrap_or(chars.len())
}

/// Block comments nest.
fn after_comment(chars: &[char], from: usize) -> usize {
    let mut depth = 0;
    let mut at = from;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') if depth == 1 => return at + 2,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
    }
    chars.len()
}

fn after_string(chars: &[char], from: usize) -> usize {
    let mut at = from;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// A character literal as a whole, or only the quote of a lifetime.
fn after_quote(chars: &[char], from: usize) -> usize {
    match (chars.get(from + 1), chars.get(from + 2)) {
        (Some('\\'), _) => (find(chars, from + 3, |c| c == '\'') + 1).min(chars.len()),
        (Some(_), Some('\'')) => from + 3,
        _ => from + 1,
    }
}

/// The end of the string when `from..end` is the `r`, `br` or `cr` in front of one.
fn raw_string(chars: &[char], from: usize, end: usize) -> Option<usize> {
    if !matches!(chars[from..end], ['r'] | ['b' | 'c', 'r']) {
        return None;
    }
    let quote = find(chars, end, |c| c != '#');
    let hashes = quote - end;
    if chars.get(quote) != Some(&'"') {
        return None;
    }
    let is_close = |at: usize| {
        chars[at] == '"' && chars.len() > at + hashes && chars[at + 1..=at + hashes].iter().all(|c| *c == '#')
    };
    Some((quote + 1..chars.len()).find(|at| is_close(*at)).map_or(chars.len(), |at| at + hashes + 1))
}
