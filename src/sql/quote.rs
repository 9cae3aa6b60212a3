//! Names and values written into SQL.

use std::fmt::Write;

/// `name` as an identifier, always in double quotes ("Identifiers and Key Words").
///
/// Names come from a catalog or from a checked type; one with a zero byte cannot exist there.
pub fn quote_ident(name: &str) -> String {
    assert!(!name.contains('\0'), "an identifier has no zero byte: {name:?}");
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `schema.name`, both quoted.
pub fn quote_qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quote_ident(schema), quote_ident(name))
}

/// `value` as a string constant that means the same whatever `standard_conforming_strings` says:
/// with a backslash in it, it becomes an `E''` string ("String Constants With C-Style Escapes").
pub fn quote_literal(value: &str) -> String {
    assert!(!value.contains('\0'), "a text value has no zero byte");
    let mut quoted = String::with_capacity(value.len() + 4);
    if value.contains('\\') {
        // The space keeps the E from growing together with a word before it, as quote_literal()
        // of the server does.
        quoted.push_str(" E");
    }
    quoted.push('\'');
    for c in value.chars() {
        match c {
            '\'' | '\\' => write!(quoted, "{c}{c}").expect("a String takes everything"),
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_cannot_break_out() {
        assert_eq!(quote_ident("shop"), "\"shop\"");
        assert_eq!(quote_ident("a\"; DROP TABLE x; --"), "\"a\"\"; DROP TABLE x; --\"");
        assert_eq!(quote_qualified("a.b", "c"), "\"a.b\".\"c\"");
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\'b"), " E'a\\\\''b'");
        assert_eq!(quote_literal(""), "''");
    }
}
