//! What is read in the texts of statements: no text is too strange, and a text is read the same twice.

use cloud_mirror::session::{lasting, notice};
use cloud_mirror::sql::footprint::{footprint, shape};
use cloud_mirror::sql::lex::{Lexer, Token};
use cloud_mirror::sql::quote::{quote_ident, quote_literal};
use cloud_mirror::sql::{admin, session};

/// See the module.
pub fn check(data: &[u8]) {
    let found = footprint(data);
    assert_eq!(found, footprint(data));
    assert_eq!(shape(data), shape(data));
    let _ = notice::notice(data);
    let _ = notice::change_of(data);
    let _ = notice::concerned_links(data);
    let _ = lasting::lasting(data);
    let _ = session::peek(data);
    let _ = session::single_set(data);
    let _ = admin::parse(data, admin::Place::Console);
    let is_ours = !matches!(admin::parse(data, admin::Place::Session), Ok(None));
    assert!(!is_ours || admin::may_be(data));
    let mut lexer = Lexer::new(data);
    let mut at = 0;
    while let Ok(Some(_)) = lexer.next_token() {
        assert!(lexer.position() > at && lexer.position() <= data.len());
        at = lexer.position();
    }
    // Nothing in a literal or a quoted name is anything but a literal or a name.
    let text = String::from_utf8_lossy(data).replace('\0', "");
    let literal = format!("select {}", quote_literal(&text));
    assert_eq!(footprint(literal.as_bytes()), footprint(b"select ''"), "{literal}");
    let name = format!("select 1 as {}", quote_ident(&text));
    if !text.is_empty() {
        let mut lexer = Lexer::new(name.as_bytes());
        let mut last = None;
        while let Ok(Some(token)) = lexer.next_token() {
            last = Some(token);
        }
        assert!(matches!(last, Some(Token::Quoted(_) | Token::Word(_))), "{name}: {last:?}");
    }
}
