//! Every case has a test, and its line in the documentation.

use std::path::{Path, PathBuf};

const CASES: usize = 65;

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_case_has_a_test_and_a_line_in_the_documentation() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for directory in ["src", "tests"] {
        sources(&root.join(directory), &mut files);
    }
    let mut tests = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        for (at, _) in text.match_indices("fn case_") {
            let name = text[at + 3..].split('(').next().unwrap_or_default();
            tests.push(name.to_owned());
        }
    }
    let page = std::fs::read_to_string(root.join("docs/protocol.md")).unwrap();
    let mut missing = Vec::new();
    for number in 1..=CASES {
        let start = format!("case_{number:02}_");
        if !tests.iter().any(|test| test.starts_with(&start)) {
            missing.push(format!("no test is called {start}…"));
        }
        let line = page.lines().find(|line| line.starts_with(&format!("| {number} |")));
        match line {
            None => missing.push(format!("docs/protocol.md has no line for case {number}")),
            Some(line) => {
                for test in line.split('`').filter(|word| word.starts_with("case_")) {
                    if !tests.iter().any(|found| found == test) {
                        missing.push(format!("docs/protocol.md names {test}, which does not exist"));
                    }
                }
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
