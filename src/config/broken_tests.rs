//! Broken configurations and the exact words they are refused with: `broken_cases.txt` holds
//! both. A case is `=== its name`, the file, `--- refused with`, and the errors.

use super::tests::sources;
use super::*;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Appended to every case that says nothing of `[upstream.local]`.
const LOCAL: &str = "[upstream.local]\nurl = \"postgres://app:geheim@db/shop\"\n";

#[test]
fn every_broken_configuration_is_refused_with_its_own_words() {
    let cases = include_str!("broken_cases.txt");
    let mut seen = String::new();
    let mut count = 0;
    for case in cases.split("=== ").filter(|case| !case.trim().is_empty()) {
        let (name, rest) = case.split_once('\n').expect("a name");
        let (text, _) = rest.split_once("--- refused with\n").expect("what it is refused with");
        let whole = match text.contains("upstream.local") || text.contains("[upstream]") {
            true => text.to_owned(),
            false => format!("{text}{LOCAL}"),
        };
        let variables = BTreeMap::from([("HOME".to_owned(), "/home/ann".to_owned())]);
        let errors = load(&sources(Some(&whole), &variables, &[])).expect_err(name).to_string();
        assert!(!errors.contains("geheim"), "{name} shows a password: {errors}");
        write!(seen, "=== {name}\n{text}--- refused with\n{errors}\n").unwrap();
        count += 1;
    }
    assert!(count >= 30, "{count} cases");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/broken_cases.txt"), &seen).unwrap();
        return;
    }
    for (expected, found) in cases.split("=== ").zip(seen.split("=== ")) {
        assert_eq!(expected, found);
    }
    assert_eq!(cases, seen);
}

#[test]
fn mistakes_in_variables_and_options_name_them() {
    let variables: BTreeMap<_, _> = [
        ("HOME", "/home/ann"),
        ("CLOUD_MIRROR__POOL__SIZ", "5"),
        ("CLOUD_MIRROR__POOL__SIZE", "many"),
        ("CLOUD_MIRROR__SIZE", "5"),
        ("CLOUD_MIRROR__LOG__LEVEL", "loud"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let flag =
        |name, key: &'static str, value: &str| Flag { name, key: key.into(), value: Some(value.to_owned()) };
    let flags = [
        flag("--local", "upstream.local.url", "mysql://root:geheim@h"),
        flag("--pool-mode", "pool.mode", "none"),
        flag("--listen", "listen.tcp", "6432"),
    ];
    let errors = load(&sources(None, &variables, &flags)).unwrap_err().to_string();
    assert_eq!(
        errors.lines().collect::<Vec<_>>(),
        [
            "environment variable CLOUD_MIRROR__LOG__LEVEL: log.level: \"loud\" is not known; \
             write \"error\" or \"warn\" or \"info\" or \"debug\" or \"trace\"",
            "environment variable CLOUD_MIRROR__POOL__SIZ: pool.siz: unknown key (did you mean \"size\"?); \
             write size, or remove it",
            "environment variable CLOUD_MIRROR__POOL__SIZE: pool.size: is no number; \
             write a number from 1 to 100000",
            "environment variable CLOUD_MIRROR__SIZE: does not name a section and a key; \
             write for example CLOUD_MIRROR__POOL__SIZE",
            "option --listen: listen.tcp: \"6432\" has no port; write host:port, for example \"127.0.0.1:6432\"",
            "option --local: upstream.local.url: is not a URL of PostgreSQL; \
             write postgres://user:password@host:5432/database",
            "option --pool-mode: pool.mode: \"none\" is not known; \
             write \"session\" or \"transaction\" or \"auto\" or \"statement\"",
        ]
    );
}
