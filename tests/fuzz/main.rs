//! What the fuzzer tries for hours (`fuzz/`, docs/protocol.md), for a moment: the kept seeds, and bytes that
//! are made here. The target for the pooled modes stands in `src/session/pooled/fuzz.rs`, with its own.

#[path = "../../fuzz/bodies/files.rs"]
mod files;
#[path = "../../fuzz/bodies/scram.rs"]
mod scram;
#[path = "../../fuzz/bodies/server.rs"]
mod server;
#[path = "../../fuzz/bodies/startup.rs"]
mod startup;
#[path = "../../fuzz/bodies/texts.rs"]
mod texts;
#[path = "../../fuzz/bodies/walks.rs"]
mod walks;

use proptest::prelude::*;
use std::path::Path;

type Check = fn(&[u8]);

/// Every target with a body here.
const TARGETS: [(&str, Check); 7] = [
    ("files", files::check),
    ("scram", scram::check),
    ("server", server::check),
    ("startup", startup::check),
    ("texts", texts::check),
    ("walks", walks::check),
    ("walks", walks::check_every_cut),
];

#[test]
fn the_kept_seeds_hold() {
    for (target, check) in TARGETS {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
        let mut count = 0;
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let seed = std::fs::read(&path).unwrap();
            eprintln!("{}", path.display());
            check(&seed);
            count += 1;
        }
        assert!(count > 5, "{target}: {count} seeds");
    }
}

#[test]
fn every_target_is_built_and_has_seeds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for entry in std::fs::read_dir(root.join("targets")).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(manifest.contains(&format!("path = \"targets/{name}.rs\"")), "{name}");
        assert!(root.join("seeds").join(&name).is_dir(), "{name}");
        assert!(name == "pooled" || TARGETS.iter().any(|(target, _)| *target == name), "{name}");
    }
}

/// Messages with true lengths, made of a few words and of anything.
fn messages(tags: &'static [u8], words: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        4 => prop::sample::select(words).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    let body = prop::collection::vec(word, 0..4).prop_map(|words| words.concat());
    let message = (prop::sample::select(tags), body)
        .prop_map(|(tag, body)| [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), &body].concat());
    prop::collection::vec(message, 0..12).prop_map(|messages| messages.concat())
}

const ASKED: &[&[u8]] = &[
    b"",
    b"\0",
    b"s\0",
    b"Ss\0",
    b"P",
    b"select 1\0",
    b"set work_mem = '1MB'\0",
    b"show lease\0",
    b"listen a\0",
    b"deallocate s\0",
    b"begin\0",
    b"copy t from stdin\0",
];
const ANSWERED: &[&[u8]] = &[
    b"",
    b"I",
    b"T",
    b"E",
    b"SET\0",
    b"SELECT 1\0",
    b"LISTEN\0",
    b"DISCARD ALL\0",
    b"TimeZone\0UTC\0",
    b"SERROR\0C22P02\0WCOPY t, line 1\0\0",
    b"SFATAL\0C57P01\0\0",
    b"SWARNING\0C57P02\0Rquickdie\0\0",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn walks_do_not_depend_on_how_bytes_are_cut(
        client in messages(b"PPPBBDEECSSQQHFdcfX\0", ASKED),
        server in messages(b"1223CCZZEENSDTGWHdcIn~", ANSWERED),
    ) {
        walks::check(&[&client, &b">>"[..], &server].concat());
    }

    #[test]
    fn walks_take_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        walks::check(&bytes);
    }

    #[test]
    fn a_start_up_does_not_depend_on_how_it_is_cut(
        codes in prop::collection::vec(prop::sample::select(vec![
            196_608u32, 196_610, 206_607, 131_072, 80_877_102, 80_877_103, 80_877_104, 0,
        ]), 1..4),
        words in prop::collection::vec(prop::sample::select(vec![
            "user", "app", "database", "replication", "true", "_pq_.x", "options", "-c a=b", "", "x",
        ]), 0..8),
        is_glued in any::<bool>(),
    ) {
        let mut bytes = Vec::new();
        for code in codes {
            let is_request = code >> 16 == 1234;
            let body: Vec<u8> = match is_request {
                true => vec![0; if code == 80_877_102 { 8 } else { 0 }],
                false => words.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).chain([0]).collect(),
            };
            bytes.extend((body.len() as u32 + 8).to_be_bytes());
            bytes.extend(code.to_be_bytes());
            bytes.extend(body);
            if !is_glued {
                bytes.extend(b">>");
            }
        }
        startup::check(&bytes);
    }

    #[test]
    fn texts_are_read_whatever_they_are(
        words in prop::collection::vec(prop::sample::select(vec![
            "select", "set", "local", "deallocate", "all", "x", "f(", ")", "'", "''", "\"", "$$", "$a$", "--", "/*", "*/",
            ";", "\n", "\\", "e'", "show", "mirror", "drop", "alter", "database", "promote", "1", "pg_advisory_lock(", "ü",
            "temp", "table", "create", "lastval()", "load", "listen", "\0", "U&'", ",", "=", "prepare",
        ]), 0..12),
        space in prop::sample::select(vec!["", " "]),
    ) {
        texts::check(words.join(space).as_bytes());
    }

    #[test]
    fn messages_of_scram_are_read_whatever_they_are(
        parts in prop::collection::vec(prop::sample::select(vec![
            "n,,", "y,,", "p=tls-server-end-point,,", "n=", "r=", "abc", ",", "clientnonce", "servernonce", "s=", "QUJD",
            "i=", "4096", "99999999999", "c=", "biws", "p=", "v=", "e=", "\n", "m=", "SCRAM-SHA-256$", ":", "$", "=",
        ]), 0..24),
    ) {
        scram::check(parts.concat().as_bytes());
    }

    #[test]
    fn words_of_a_server_are_read_whatever_they_are(bytes in prop::collection::vec(any::<u8>(), 0..64), kind in any::<u8>()) {
        server::check(&bytes);
        server::check(&[&b"BRYICUDTMOKLXEP"[kind as usize % 15..][..1], &bytes].concat());
        let header = b"\r\n\r\n\0\r\nQUIT\n\x21";
        server::check(&[&header[..], &bytes].concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn files_are_read_whatever_stands_in_them(
        kind in prop::sample::select(vec![b'c', b'p', b'u', b'h']),
        text in "[a-z0-9 =,*.\"'#@/\\[\\]\n:%;\\\\-]{0,120}",
    ) {
        files::check(&[&[kind][..], text.as_bytes()].concat());
    }
}
