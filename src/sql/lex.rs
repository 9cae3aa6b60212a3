//! PostgreSQL's scanner, as far as statements have to be told apart ("Lexical Structure").
//!
//! Works on bytes in any client encoding whose multi-byte characters have no quote in them, which
//! holds for all that PostgreSQL allows for clients. Allocates nothing.

/// One token of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// A keyword or an identifier without quotes, as written.
    Word(&'a [u8]),
    /// What stands between double quotes; doubled quotes are still doubled.
    Quoted(&'a [u8]),
    /// A string constant of any kind, with its quotes.
    Text(&'a [u8]),
    /// Digits and what belongs to them, or a parameter such as `$1`.
    Number(&'a [u8]),
    /// A single byte of punctuation.
    Symbol(u8),
}

impl Token<'_> {
    /// Whether this is the keyword `upper` (given in capitals), in any case and without quotes.
    pub fn is_word(&self, upper: &str) -> bool {
        matches!(self, Token::Word(word) if word.eq_ignore_ascii_case(upper.as_bytes()))
    }
}

/// Why a text cannot be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LexError {
    /// A quote or a comment without its end.
    #[error("a quoted text or a comment has no end")]
    Unterminated,
    /// `'…\'`: whether the string ends here depends on `standard_conforming_strings`.
    #[error("a backslash before a quote makes the end of the string unclear")]
    UnclearString,
}

/// Hands out the tokens of a text, one by one.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
}

/// Whether `byte` separates tokens.
#[inline]
pub fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Whether a name may begin with `byte`.
#[inline]
pub fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

/// Whether a name may go on with `byte`.
#[inline]
pub fn is_word_part(byte: u8) -> bool {
    is_word_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

impl<'a> Lexer<'a> {
    /// Begins at the first byte of `text`, which has no terminating zero.
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// Where the next token will be looked for, in bytes from the start.
    pub fn position(&self) -> usize {
        self.at
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    /// Steps over white space and comments; `--` ends with its line, `/* */` nests.
    pub fn skip_blank(&mut self) -> Result<(), LexError> {
        loop {
            match self.peek(0) {
                Some(byte) if is_space(byte) => self.at += 1,
                Some(b'-') if self.peek(1) == Some(b'-') => {
                    let rest = &self.text[self.at..];
                    let line = rest.iter().position(|b| matches!(b, b'\n' | b'\r'));
                    self.at += line.unwrap_or(rest.len());
                }
                Some(b'/') if self.peek(1) == Some(b'*') => self.skip_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn skip_comment(&mut self) -> Result<(), LexError> {
        let mut depth = 0usize;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'/'), Some(b'*')) => (depth, self.at) = (depth + 1, self.at + 2),
                (Some(b'*'), Some(b'/')) => {
                    (depth, self.at) = (depth - 1, self.at + 2);
                    if depth == 0 {
                        return Ok(());
                    }
                }
                (Some(_), _) => self.at += 1,
                (None, _) => return Err(LexError::Unterminated),
            }
        }
    }

    /// The next token, or `None` at the end.
    pub fn next_token(&mut self) -> Result<Option<Token<'a>>, LexError> {
        self.skip_blank()?;
        let start = self.at;
        let Some(first) = self.peek(0) else { return Ok(None) };
        let token = match first {
            b'"' => {
                self.skip_quoted(b'"', Backslash::Plain)?;
                Token::Quoted(&self.text[start + 1..self.at - 1])
            }
            b'\'' => {
                self.skip_quoted(b'\'', Backslash::Unclear)?;
                Token::Text(&self.text[start..self.at])
            }
            b'e' | b'E' if self.peek(1) == Some(b'\'') => {
                self.at += 1;
                self.skip_quoted(b'\'', Backslash::Escapes)?;
                Token::Text(&self.text[start..self.at])
            }
            b'b' | b'B' | b'x' | b'X' | b'n' | b'N' if self.peek(1) == Some(b'\'') => {
                self.at += 1;
                self.skip_quoted(b'\'', Backslash::Unclear)?;
                Token::Text(&self.text[start..self.at])
            }
            b'u' | b'U' if self.peek(1) == Some(b'&') && self.peek(2) == Some(b'\'') => {
                self.at += 2;
                self.skip_quoted(b'\'', Backslash::Unclear)?;
                Token::Text(&self.text[start..self.at])
            }
            b'u' | b'U' if self.peek(1) == Some(b'&') && self.peek(2) == Some(b'"') => {
                self.at += 2;
                self.skip_quoted(b'"', Backslash::Plain)?;
                // Its escapes are not resolved, so it is no plain name to anybody here.
                Token::Text(&self.text[start..self.at])
            }
            b'$' => self.dollar()?,
            byte if is_word_start(byte) => {
                self.skip_while(is_word_part);
                Token::Word(&self.text[start..self.at])
            }
            byte if byte.is_ascii_digit() => {
                self.skip_while(|b| is_word_part(b) || b == b'.');
                Token::Number(&self.text[start..self.at])
            }
            byte => {
                self.at += 1;
                Token::Symbol(byte)
            }
        };
        Ok(Some(token))
    }

    fn skip_while(&mut self, belongs: impl Fn(u8) -> bool) {
        while self.peek(0).is_some_and(&belongs) {
            self.at += 1;
        }
    }

    /// From the opening quote to behind the closing one; a doubled quote is part of the text.
    fn skip_quoted(&mut self, quote: u8, backslash: Backslash) -> Result<(), LexError> {
        self.at += 1;
        loop {
            match (self.peek(0), backslash) {
                (None, _) => return Err(LexError::Unterminated),
                (Some(b'\\'), Backslash::Escapes) => self.at += 2,
                (Some(b'\\'), Backslash::Unclear) if self.peek(1) == Some(quote) => {
                    return Err(LexError::UnclearString);
                }
                (Some(byte), _) if byte == quote => {
                    self.at += 1;
                    if self.peek(0) != Some(quote) {
                        return Ok(());
                    }
                    self.at += 1;
                }
                (Some(_), _) => self.at += 1,
            }
            self.at = self.at.min(self.text.len());
        }
    }

    /// `$tag$ … $tag$`, `$1`, or a lone dollar sign.
    fn dollar(&mut self) -> Result<Token<'a>, LexError> {
        let start = self.at;
        self.at += 1;
        if self.peek(0).is_some_and(|b| b.is_ascii_digit()) {
            self.skip_while(|b| b.is_ascii_digit());
            return Ok(Token::Number(&self.text[start..self.at]));
        }
        if self.peek(0).is_some_and(is_word_start) {
            self.skip_while(|b| is_word_start(b) || b.is_ascii_digit());
        }
        if self.peek(0) != Some(b'$') {
            self.at = start + 1;
            return Ok(Token::Symbol(b'$'));
        }
        self.at += 1;
        let tag = &self.text[start..self.at];
        let body = &self.text[self.at..];
        match memchr::memmem::find(body, tag) {
            Some(length) => {
                self.at += length + tag.len();
                Ok(Token::Text(&self.text[start..self.at]))
            }
            None => Err(LexError::Unterminated),
        }
    }
}

/// What a backslash inside quotes does.
#[derive(Debug, Clone, Copy)]
enum Backslash {
    /// Nothing.
    Plain,
    /// It takes the next byte with it.
    Escapes,
    /// It depends on `standard_conforming_strings`, so before a quote nobody can tell.
    Unclear,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Result<Vec<Token<'_>>, LexError> {
        let mut lexer = Lexer::new(text.as_bytes());
        let mut found = Vec::new();
        while let Some(token) = lexer.next_token()? {
            found.push(token);
        }
        Ok(found)
    }

    #[test]
    fn a_text_splits_as_postgresql_splits_it() {
        use Token::{Number, Quoted, Symbol, Text, Word};
        #[track_caller]
        fn check(text: &str, expected: &[Token<'_>]) {
            assert_eq!(tokens(text).as_deref(), Ok(expected), "{text}");
        }
        check("", &[]);
        check(" \t\r\n\x0b\x0c-- all of it", &[]);
        check("a--b\nc--d\re", &[Word(b"a"), Word(b"c"), Word(b"e")]);
        check("/* a /* b */ c */x/**/y", &[Word(b"x"), Word(b"y")]);
        check("a$b$ _c1", &[Word(b"a$b$"), Word(b"_c1")]);
        check("\"a\"\"b\"", &[Quoted(b"a\"\"b")]);
        check("'it''s' ;", &[Text(b"'it''s'"), Symbol(b';')]);
        check("'a\\b'", &[Text(b"'a\\b'")]);
        check("e'a\\'b'c", &[Text(b"e'a\\'b'"), Word(b"c")]);
        check(
            "E'\\\\' x'1f' U&'d' U&\"d\"",
            &[Text(b"E'\\\\'"), Text(b"x'1f'"), Text(b"U&'d'"), Text(b"U&\"d\"")],
        );
        check("$$a;'b$$ $t$ $$ $t$", &[Text(b"$$a;'b$$"), Text(b"$t$ $$ $t$")]);
        check("$1 1.5e3 $", &[Number(b"$1"), Number(b"1.5e3"), Symbol(b'$')]);
        check("- - /x", &[Symbol(b'-'), Symbol(b'-'), Symbol(b'/'), Word(b"x")]);
        check("größe", &[Word("größe".as_bytes())]);
    }

    #[test]
    fn what_has_no_clear_end_is_an_error() {
        for text in ["'a", "\"a", "/* /* */", "$$a", "$a$ $b$", "e'\\'", "e'\\", "'"] {
            assert_eq!(tokens(text), Err(LexError::Unterminated), "{text}");
        }
        assert_eq!(tokens("'a\\'"), Err(LexError::UnclearString));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_scanner_panic_or_stand_still(
            text in proptest::collection::vec(
                proptest::prop_oneof![
                    proptest::sample::select(b"'\"$/*-\\eEuU&\n ;aB1.".to_vec()),
                    proptest::prelude::any::<u8>(),
                ],
                0..40,
            )
        ) {
            let mut lexer = Lexer::new(&text);
            let mut last = 0;
            while let Ok(Some(_)) = lexer.next_token() {
                assert!(lexer.position() > last && lexer.position() <= text.len());
                last = lexer.position();
            }
        }
    }
}
