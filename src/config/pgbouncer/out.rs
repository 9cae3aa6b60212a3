//! Writes a configuration of ours.

use super::values::Ours;
use std::collections::BTreeMap;
use std::path::Path;

/// The order of sections in a file of ours.
const SECTIONS: [&str; 7] = ["listen", "upstream.local", "databases", "pool", "tcp", "auth", "log"];

/// Keys by section, in the order in which they were put.
#[derive(Debug, Default)]
pub struct Out {
    sections: BTreeMap<String, Vec<(String, String, String)>>,
}

impl Out {
    /// Puts a key of ours (`pool.size`), with a comment or an empty one.
    pub fn put(&mut self, key: &str, value: Ours, comment: &str) {
        let (section, key) = key.rsplit_once('.').expect("a key has a section");
        self.put_in(section, key, value, comment);
    }

    /// Puts a key into a section, under a name that may need quotes.
    pub fn put_in(&mut self, section: &str, key: &str, value: Ours, comment: &str) {
        let Some(value) = value.to_toml() else { return };
        let keys = self.sections.entry(section.to_owned()).or_default();
        keys.retain(|(known, _, _)| known != key);
        keys.push((key.to_owned(), value, comment.to_owned()));
    }

    /// Puts a key of one user or one database into `[pool]`.
    pub fn put_own(&mut self, kind: &str, name: &str, key: &str, value: Ours) {
        self.put_in(&format!("pool.{kind}.{}", quoted(name)), key, value, "");
    }

    /// Makes sure that a section is there.
    pub fn section(&mut self, section: &str) {
        self.sections.entry(section.to_owned()).or_default();
    }

    /// The file.
    pub fn text(&self, from: &Path) -> String {
        let mut text = format!(
            "# Made from {} of PgBouncer by `cloud-mirror import`.\n\
             # Every key, what it does and its default: config/cloud-mirror.toml.\n",
            from.display()
        );
        let place = |name: &str| {
            let is_of = |section: &str| name == section || name.starts_with(&format!("{section}."));
            SECTIONS.iter().position(|section| is_of(section)).unwrap_or(SECTIONS.len())
        };
        let mut names: Vec<&String> = self.sections.keys().collect();
        names.sort_by_key(|name| (place(name), name.matches('.').count(), (*name).clone()));
        for name in names {
            text += &format!("\n[{name}]\n");
            for (key, value, comment) in &self.sections[name] {
                let comment = if comment.is_empty() { String::new() } else { format!(" # {comment}") };
                text += &format!("{} = {value}{comment}\n", quoted(key));
            }
        }
        text
    }
}

/// A name as a key of TOML: bare where it can be.
pub fn quoted(name: &str) -> String {
    let is_bare =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if is_bare { name.to_owned() } else { basic(name) }
}

/// A basic string.
fn basic(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(control))),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// A value; `${` would begin the name of an environment variable.
fn value(text: &str) -> String {
    basic(text).replace("${", "$${")
}

impl Ours {
    /// As it stands behind the equals sign; `None` when the key is left out.
    pub fn to_toml(&self) -> Option<String> {
        match self {
            Ours::Text(text) => Some(value(text)),
            Ours::Bare(text) => Some(text.clone()),
            Ours::List(texts) => {
                let texts: Vec<String> = texts.iter().map(|text| value(text)).collect();
                Some(format!("[{}]", texts.join(", ")))
            }
            Ours::LeftOut => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_quoted_where_they_must_be() {
        let mut out = Out::default();
        let text = |text: &str| Ours::Text(text.to_owned());
        out.put("pool.mode", text("session"), "why");
        out.put_own("database", "my \"db\"", "size", Ours::Bare("3".to_owned()));
        out.put("listen.tcp", Ours::List(vec!["a:1".to_owned(), "b:2".to_owned()]), "");
        out.put("upstream.local.password", text("a\"\\${x}\n"), "");
        out.put("tcp.keepcnt", Ours::LeftOut, "");
        let text = out.text(Path::new("p.ini"));
        let (_, text) = text.split_once("\n\n").unwrap();
        assert_eq!(
            text,
            "[listen]\ntcp = [\"a:1\", \"b:2\"]\n\n[upstream.local]\npassword = \"a\\\"\\\\$${x}\\u000A\"\n\n\
             [pool]\nmode = \"session\" # why\n\n[pool.database.\"my \\\"db\\\"\"]\nsize = 3\n"
        );
    }
}
