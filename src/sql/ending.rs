//! Statements that end a transaction.

use super::lex::{LexError, Lexer, Token};

/// How a transaction is meant to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// `COMMIT` or `END`.
    Commit,
    /// `ROLLBACK` or `ABORT`, of the whole transaction.
    Rollback,
}

/// What stands behind a statement in its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// No other statement.
    Nothing,
    /// More statements.
    More,
}

/// Whether the first statement of a text ends the transaction, and what follows it. `None` also for what goes
/// on in another way: to a savepoint, with `AND CHAIN`, or with a prepared transaction.
pub fn ending(text: &[u8]) -> Option<(Ending, Behind)> {
    read(text).ok().flatten()
}

fn read(text: &[u8]) -> Result<Option<(Ending, Behind)>, LexError> {
    let mut lexer = Lexer::new(text);
    let first = behind_semicolons(&mut lexer)?;
    let ending = match first {
        Some(word) if word.is_word("COMMIT") || word.is_word("END") => Ending::Commit,
        Some(word) if word.is_word("ROLLBACK") || word.is_word("ABORT") => Ending::Rollback,
        _ => return Ok(None),
    };
    let mut next = lexer.next_token()?;
    if next.is_some_and(|word| word.is_word("WORK") || word.is_word("TRANSACTION")) {
        next = lexer.next_token()?;
    }
    match next {
        None => Ok(Some((ending, Behind::Nothing))),
        Some(Token::Symbol(b';')) => {
            // What cannot be read is something.
            let is_last = matches!(behind_semicolons(&mut lexer), Ok(None));
            Ok(Some((ending, if is_last { Behind::Nothing } else { Behind::More })))
        }
        Some(_) => Ok(None),
    }
}

fn behind_semicolons<'a>(lexer: &mut Lexer<'a>) -> Result<Option<Token<'a>>, LexError> {
    loop {
        match lexer.next_token()? {
            Some(Token::Symbol(b';')) => {}
            other => return Ok(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_the_whole_transaction_is_one() {
        use {Behind::*, Ending::*};
        for (text, expected) in [
            ("COMMIT", Some((Commit, Nothing))),
            (" /* x */ ;; end work ; -- done", Some((Commit, Nothing))),
            ("commit; select 1", Some((Commit, More))),
            ("commit; 'open", Some((Commit, More))),
            ("Rollback Transaction;", Some((Rollback, Nothing))),
            ("abort;insert into t values (1)", Some((Rollback, More))),
            ("rollback to a", None),
            ("rollback work to savepoint \"a\"", None),
            ("rollback prepared 'x'", None),
            ("commit prepared 'x'", None),
            ("commit and chain", None),
            ("select 1; commit", None),
            ("ending", None),
            ("", None),
        ] {
            assert_eq!(ending(text.as_bytes()), expected, "{text}");
        }
    }
}
