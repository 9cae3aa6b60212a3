//! The daily tools: `cargo xtask lint`. See `make help` for what needs more than Rust.

use std::process::{Command, ExitCode};

const HELP: &str = "\
usage: cargo xtask COMMAND

  lint [--fix]   format, clippy and documentation, warnings are errors; --fix formats first
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["lint"] => lint(),
        ["lint", "--fix"] => {
            if run("format", "", &["fmt", "--all"]) {
                lint()
            } else {
                ExitCode::FAILURE
            }
        }
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        _ => {
            eprint!("{HELP}");
            ExitCode::from(2)
        }
    }
}

/// Every check runs, so that one look shows everything.
fn lint() -> ExitCode {
    let checks = [
        run("format", "cargo fmt --all", &["fmt", "--all", "--check"]),
        run("clippy", "", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]),
        run("documentation", "", &["doc", "--workspace", "--no-deps", "--locked"]),
    ];
    if checks.contains(&false) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs cargo and says what to do when it fails.
fn run(what: &str, advice: &str, arguments: &[&str]) -> bool {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).env("RUSTDOCFLAGS", "-D warnings");
    println!("lint: {what}");
    match command.status() {
        Ok(status) if status.success() => true,
        Ok(_) if advice.is_empty() => false,
        Ok(_) => {
            eprintln!("lint: {what}: run `{advice}`");
            false
        }
        Err(error) => {
            eprintln!("lint: {what}: cannot run cargo: {error}");
            false
        }
    }
}
