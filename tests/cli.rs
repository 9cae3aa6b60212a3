//! The program as a shell sees it: what it prints and the code it ends with.

#[path = "console/stage.rs"]
mod stage;

use std::path::Path;
use std::process::{Command, Output};
use tokio::net::TcpListener;

/// Runs the program with nothing of this machine's settings.
fn run(home: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cloud-mirror"))
        .args(arguments)
        .env_clear()
        .env("HOME", home)
        .current_dir(home)
        .output()
        .unwrap()
}

#[track_caller]
fn check(output: &Output, code: i32, out_part: &str, error_part: &str) {
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let both = format!("{:?}\nstdout: {out}\nstderr: {errors}", output.status);
    assert_eq!(output.status.code(), Some(code), "{both}");
    assert!(out.contains(out_part), "{both}");
    assert!(errors.contains(error_part), "{both}");
}

#[test]
fn mistakes_on_the_command_line_end_with_2() {
    let home = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| run(home.path(), arguments);
    check(&run(&[]), 2, "", "Usage: cloud-mirror");
    check(&run(&["walk"]), 2, "", "unrecognized subcommand 'walk'");
    check(&run(&["run", "--locl", "x"]), 2, "", "--local");
    check(&run(&["failback", "--local", "postgres://a@b/c"]), 2, "", "--discard-local");
    check(&run(&["run"]), 2, "", "upstream.local: is missing; write its url there, or start with --local");
    check(
        &run(&["run", "--local", "mysql://root:geheim@h"]),
        2,
        "",
        "option --local: upstream.local.url: is not a URL of PostgreSQL",
    );
    check(&run(&["--version"]), 0, concat!("cloud-mirror ", env!("CARGO_PKG_VERSION")), "");
    check(&run(&["--help"]), 0, "Exit codes: 0 ok", "");
}

#[test]
fn a_broken_file_is_told_whole() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("c.toml");
    std::fs::write(
        &file,
        "[pool]\nsice = 1\n[lease]\nttl = 30\n[upstream.local]\nurl = \"postgres://a@b/c\"\n",
    )
    .unwrap();
    for command in ["run", "check", "status"] {
        let output = run(home.path(), &[command, "--config", "c.toml"]);
        let lines = [
            format!(
                "{}:2: pool.sice: unknown key (did you mean \"size\"?); write size, or remove it",
                file.display()
            ),
            format!("{}:4: lease.ttl: 30 has no unit; write a string with a unit", file.display()),
        ];
        // `status` reads the file where it was typed.
        let short = |line: &String| line.replace(&format!("{}/", home.path().display()), "");
        for line in &lines {
            let line = if command == "status" { short(line) } else { line.clone() };
            check(&output, 2, "", &line);
        }
        assert_eq!(output.stderr.iter().filter(|byte| **byte == b'\n').count(), 2);
    }
    check(
        &run(home.path(), &["check", "--config", "none.toml"]),
        2,
        "",
        "none.toml: No such file or directory",
    );
}

#[test]
fn a_right_file_is_said_to_be_right() {
    let home = tempfile::tempdir().unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/minimal.toml");
    check(&run(home.path(), &["check", "--offline", "--config", file]), 0, "has no mistakes", "");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_asks_the_running_proxy() {
    let home = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let served =
        tokio::spawn(cloud_mirror::http::serve(listener, stage::facts(), async { drop(stopped.await) }));
    let ask = async |arguments: &[&str]| {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let home = home.path().to_owned();
        let run = move || run(&home, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        tokio::task::spawn_blocking(run).await.unwrap()
    };
    let table = ask(&["status", "--http", &address]).await;
    check(&table, 0, "all is well\n\nstate     steady (cloud-mirror 9.9.9)\n", "");
    let json = ask(&["status", "--json", "--http", &address]).await;
    check(&json, 0, "\"mirrors\":[{\"mirror\":\"cloud\"", "");
    serde_json::from_slice::<serde_json::Value>(&json.stdout).unwrap();
    stop.send(()).unwrap();
    tokio::time::timeout(stage::PATIENCE, served).await.unwrap().unwrap().unwrap();
    check(&ask(&["status", "--http", &address]).await, 5, "", &format!("no proxy answers at {address}"));
}

#[test]
fn something_else_that_listens_is_no_proxy() {
    let home = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answers = std::thread::spawn(move || {
        for answer in ["SSH-2.0\r\n", "HTTP/1.1 200 OK\r\n\r\n{}", "HTTP/1.1 404 Not Found\r\n\r\nno"] {
            let (mut socket, _) = listener.accept().unwrap();
            // All of the request first, or closing the socket would reset it.
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                std::io::Read::read_exact(&mut socket, &mut byte).unwrap();
                request.extend(byte);
            }
            std::io::Write::write_all(&mut socket, answer.as_bytes()).unwrap();
        }
    });
    for what in ["the answer is no HTTP", "missing field", "the answer is 404: no"] {
        let output = run(home.path(), &["status", "--http", &address]);
        check(&output, 1, "", what);
        check(&output, 1, "", &format!("what answers at {address} is no proxy"));
    }
    answers.join().unwrap();
}

#[test]
fn a_file_of_pgbouncer_is_translated_and_told_about() {
    let home = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(home.path().join(name), text).unwrap();
    put("userlist.txt", "\"app\" \"geheim\"\n");
    let ini = "[databases]\nshop = host=127.0.0.1 port=5433\nother = host=192.0.2.1\n[pgbouncer]\n\
        auth_file = userlist.txt\nauth_type = scram-sha-256\npool_mode = session\nlisten_addr = localhost\n\
        unix_socket_dir =\ndns_max_ttl = 3\nmax_packet_size = 1000\n";
    put("p.ini", ini);
    let output = run(home.path(), &["import", "p.ini"]);
    check(&output, 0, "[databases]\nshop = \"shop\"\n", "problem: ");
    check(&output, 0, "user = \"app\"\npassword = \"geheim\"\n", "other is at 192.0.2.1:5432");
    check(&output, 0, "", "differs: ");
    check(&output, 0, "", "not needed: ");
    let output = run(home.path(), &["import", "p.ini", "-o", "c.toml"]);
    check(&output, 0, "", "max_packet_size has no counterpart");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(home.path().join("c.toml")).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    check(&run(home.path(), &["check", "--offline", "--config", "c.toml"]), 0, "has no mistakes", "");
    // It is never written over.
    check(&run(home.path(), &["import", "p.ini", "-o", "c.toml"]), 1, "", "cannot write c.toml");
    put(
        "broken.ini",
        "[databases]\nshop = host=127.0.0.1\n[pgbouncer]\npool_mode = both\nunix_socket_dir=\n",
    );
    let output = run(home.path(), &["import", "broken.ini"]);
    check(&output, 2, "mode = \"both\"", "broken.ini (as cloud-mirror import shows it):");
    check(&output, 2, "", "pool.mode: \"both\" is not known");
    check(&run(home.path(), &["run", "--pgbouncer", "broken.ini"]), 2, "", "there is nowhere to listen");
    put("no.ini", "[databases\n");
    check(&run(home.path(), &["import", "no.ini"]), 2, "", "no.ini:1: \"[\" without its \"]\"");
    check(&run(home.path(), &["import", "none.ini"]), 2, "", "cannot be read: No such file or directory");
    check(&run(home.path(), &["run", "--pgbouncer", "a", "--config", "b"]), 2, "", "cannot be used with");
}
