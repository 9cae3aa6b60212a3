//! Files of an operator: our own, PgBouncer's, lists of users, rules for log-ins. Whatever stands in
//! them, there is an answer, and what was imported from PgBouncer's file is a file of ours.

use cloud_mirror::config::pgbouncer::{Around, import};
use cloud_mirror::config::{File, Machine, Sources, load};
use std::collections::BTreeMap;
use std::path::Path;

fn loaded(text: &str, read: &dyn Fn(&Path) -> Result<String, String>) -> Result<(), String> {
    let file = File { name: "/c.toml".to_owned(), text: text.to_owned() };
    let variables = BTreeMap::from([("HOME".to_owned(), "/home/me".to_owned())]);
    let sources = Sources {
        file: Some(file),
        variables: &variables,
        flags: &[],
        machine: Machine::User,
        read_file: read,
    };
    load(&sources).map(drop).map_err(|errors| errors.to_string())
}

/// `kind` says what the text is.
fn one(kind: u8, text: &str) {
    let nothing = |_: &Path| Err("not there".to_owned());
    let other = |path: &Path| match path.to_str() {
        Some("/users" | "/hba" | "/ident") => Ok(text.to_owned()),
        _ => Err("not there".to_owned()),
    };
    match kind {
        b'c' => drop(loaded(text, &nothing)),
        b'p' => {
            let read = |path: &Path| match path.to_str() {
                Some("/pgbouncer.ini") => Ok(text.to_owned()),
                _ => Err("not there".to_owned()),
            };
            let around = Around { file: Path::new("/pgbouncer.ini"), directories: &[], read_file: &read };
            let _ = import(&around);
        }
        b'u' => {
            let read = |path: &Path| match path.to_str() {
                Some("/pgbouncer.ini") => Ok("[databases]\nshop = host=/run\n[pgbouncer]\nauth_type = md5\n\
                    auth_file = /users\n"
                    .to_owned()),
                _ => other(path),
            };
            let around = Around { file: Path::new("/pgbouncer.ini"), directories: &[], read_file: &read };
            let _ = import(&around);
            let ours = "[auth]\nfile = \"/users\"\n[upstream.local]\nurl = \"postgres://a@b/c\"\n";
            let _ = loaded(ours, &other);
        }
        _ => {
            let ours = "[auth]\nhba_file = \"/hba\"\nident_file = \"/ident\"\n\
                [upstream.local]\nurl = \"postgres://a@b/c\"\n";
            let _ = loaded(ours, &other);
        }
    }
}

/// The first byte says of which kind the rest is.
pub fn check(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    one(*kind, &String::from_utf8_lossy(rest));
}
