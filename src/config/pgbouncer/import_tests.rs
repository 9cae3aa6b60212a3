use super::*;
use crate::config::{File, Machine, Sources, load};
use std::collections::BTreeMap;

/// What can be read besides the corpus.
fn read_file(path: &Path) -> Result<String, String> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name {
        "userlist.txt" => {
            Ok("\"app\" \"app-secret\"\n\"postgres\" \"SCRAM-SHA-256$4096:AAAAAAAAAAAAAAAAAAAAAA==$\
            AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"\n\
            \"bar\" \"b\"\"r\"\n"
                .to_owned())
        }
        "more.ini" => Ok("stats_users = monitor\nno_such_key = 1\n".to_owned()),
        "pg_hba.conf" => Ok("hostssl all all 0.0.0.0/0 scram-sha-256\n".to_owned()),
        "tls.crt" | "tls.key" | "client-ca.crt" | "server-ca.crt" => Ok("PEM".to_owned()),
        _ if name.ends_with(".ini") => {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/pgbouncer/corpus").join(name);
            std::fs::read_to_string(path).map_err(|error| error.to_string())
        }
        _ => Err("No such file or directory".to_owned()),
    }
}

/// The translation, its notes, and what our own reader says of it.
fn told(name: &str) -> String {
    let directories = [PathBuf::from("/srv/pooler"), PathBuf::from("/etc/pgbouncer")];
    let file = PathBuf::from(format!("{name}.ini"));
    let around = Around { file: &file, directories: &directories, read_file: &read_file };
    let imported = import(&around).unwrap_or_else(|error| panic!("{error}"));
    let mut told = imported.toml.clone();
    for note in &imported.notes {
        told += &format!("--- {:?}: {note}\n", note.weight);
    }
    let variables = BTreeMap::new();
    let file = Some(File { name: "c.toml".to_owned(), text: imported.toml });
    let sources =
        Sources { file, variables: &variables, flags: &[], machine: Machine::Root, read_file: &read_file };
    match load(&sources) {
        Ok(_) => told += "--- a whole configuration\n",
        Err(errors) => told += &format!("--- refused:\n{errors}\n"),
    }
    told
}

#[test]
fn every_file_of_the_corpus_is_translated_and_what_is_lost_is_said() {
    for name in ["quick_start", "debian", "sample", "container", "kubernetes", "several_hosts", "unusable"] {
        let told = told(name);
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/config/pgbouncer/corpus/{name}.txt"));
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(path, told).unwrap();
            continue;
        }
        let expected = std::fs::read_to_string(path).unwrap();
        assert_eq!(told, expected, "{name}");
    }
}
