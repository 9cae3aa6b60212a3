//! Mistakes that keep the proxy from starting.

use crate::stage::{Attempt, cloud, left_behind, local, proxy};
use cloud_mirror::lab::{Port, SUPERUSER};
use std::os::unix::net::UnixListener;

#[tokio::test(flavor = "multi_thread")]
async fn what_prevents_the_start_is_said_with_what_to_do_and_leaves_nothing_behind() {
    let (local, cloud) = tokio::join!(local("replica"), cloud());
    let (url, to) = (local.url(SUPERUSER, "shop"), cloud.url(SUPERUSER, "shop"));
    let run = || Attempt::run(&url);

    // Places to listen at.
    let taken = format!("127.0.0.1:{}", local.port());
    let busy =
        format!("cannot listen on {taken}: Address already in use; another program listens there: stop it");
    run().with("--listen", &taken).is_refused(2, &[&busy, "choose another place with --listen"]).await;
    run().with("--http", &taken).is_refused(2, &[&busy, "choose another place with --http"]).await;
    let sockets = tempfile::tempdir().unwrap();
    let port = Port::reserve().unwrap();
    let file = sockets.path().join(format!(".s.PGSQL.{}", port.number()));
    let listener = UnixListener::bind(&file).unwrap();
    let directory = sockets.path().display().to_string();
    let at_port = format!("127.0.0.1:{}", port.number());
    let by_socket = |directory: &str| run().with("--listen", &at_port).with("--unix-socket-dir", directory);
    let busy = [&*file.display().to_string(), "stop it, or choose another place with --unix-socket-dir"];
    by_socket(&directory).is_refused(2, &busy).await;
    assert!(file.exists(), "the other program's socket stays");
    drop(listener);
    let missing = ["/none/.s.PGSQL.", "make the directory, or choose another one with --unix-socket-dir"];
    by_socket(&format!("{directory}/none")).is_refused(2, &missing).await;
    let elsewhere = ["cannot listen on 192.0.2.1:", "choose another one with --listen"];
    run().with("--listen", "192.0.2.1:6432").is_refused(2, &elsewhere).await;

    // The local server.
    let wrong = url.replace(":lab@", ":wrong@");
    let words = [
        "postgres cannot log in to the local server",
        "password authentication failed for user \"postgres\"",
        "correct the user and the password in its URL",
    ];
    Attempt::run(&wrong).is_refused(2, &words).await;
    let nowhere = url.replace("/shop", "/nowhere");
    let words = ["database \"nowhere\" does not exist", "create it, or name another one in --local"];
    Attempt::run(&nowhere).is_refused(2, &words).await;
    let nobody = format!("postgres://postgres:lab@127.0.0.1:{}/shop", Port::reserve().unwrap().number());
    let words = ["Connection refused", "start the server, or correct its address in --local"];
    Attempt::run(&nobody).is_refused(5, &words).await;
    let words = ["nowhere.invalid:5432", "correct its address in --local"];
    Attempt::run("postgres://postgres:lab@nowhere.invalid/shop").is_refused(5, &words).await;
    let words = ["server does not support TLS", "correct sslmode or sslrootcert in --local"];
    Attempt::run(&format!("{url}?sslmode=require")).is_refused(2, &words).await;
    let app = local.url("app", "shop");
    let words = ["the login app on the local server is no superuser", "\n    ALTER ROLE \"app\" SUPERUSER;"];
    Attempt::run(&app).with("--cloud", &to).is_refused(2, &words).await;
    let words = [
        "the local server has wal_level = replica, and a mirror needs logical",
        "run this on the local server, restart it, and start again",
        "\n    ALTER SYSTEM SET wal_level = 'logical';",
    ];
    run().with("--cloud", &to).is_refused(2, &words).await;

    // Rules, maps and lists of users: all mistakes of all files at once.
    let files = tempfile::tempdir().unwrap();
    let at = |name: &str| files.path().join(name).display().to_string();
    for (name, text) in [
        ("hba", "local all all trust\nhost all all 10.0.0.1 md5\nhosts all\nhost \"all\n"),
        ("ident", "people ann\n"),
        ("users", "\"app\" \"fine\"\nann geheim\n"),
        (
            "toml",
            &format!(
                "[auth]\nhba_file = {:?}\nident_file = {:?}\nfile = {:?}\n",
                at("hba"),
                at("ident"),
                at("users")
            ),
        ),
    ] {
        std::fs::write(files.path().join(name), text).unwrap();
    }
    let words = [
        &*format!("{}:4: auth.hba_file: a quote is not closed", at("hba")),
        &format!("{}:1: auth.ident_file: a map has three fields", at("ident")),
        &format!("{}:2: auth.file: the name is not in double quotes", at("users")),
    ];
    let (code, error) = run().with("--config", &at("toml")).ends().await;
    assert!(code == 2 && words.iter().all(|words| error.contains(words)), "{code}: {error}");
    assert!(!error.contains("geheim"), "{error}");
    std::fs::write(files.path().join("hba"), "host all all 10.0.0.1 md5\nhosts all\n").unwrap();
    let words = [
        &*format!("{}:1: auth.hba_file: \"10.0.0.1\" has no mask; write 10.0.0.1/32", at("hba")),
        &format!("{}:2: auth.hba_file: \"hosts\" is no type of connection", at("hba")),
    ];
    let (code, error) = run().with("--config", &at("toml")).ends().await;
    assert!(code == 2 && words.iter().all(|words| error.contains(words)), "{code}: {error}");
    assert!(!error.contains("geheim"), "{error}");

    // The state directory.
    let attempt = run();
    std::fs::write(attempt.state_dir(), "").unwrap();
    attempt.is_refused(2, &["/state\" is not a directory"]).await;
    for (name, words) in [
        ("instance", "instance\" is damaged; remove it"),
        ("mirrors.json", "mirrors.json\" is damaged; remove it"),
        ("control-local.password", "control-local.password is damaged; remove it"),
    ] {
        let attempt = run();
        std::fs::create_dir(attempt.state_dir()).unwrap();
        let file = attempt.state_dir().join(name);
        std::fs::write(&file, "\u{0}what is this\n").unwrap();
        attempt.is_refused(2, &[words]).await;
        assert_eq!(std::fs::read(&file).unwrap(), b"\0what is this\n", "{name} stays as it was");
    }

    assert_eq!(left_behind(&local).await, "");
    assert_eq!(left_behind(&cloud).await, "");

    // A second proxy on the same state directory.
    let first = proxy(&local, None, &[]);
    first.start().await.unwrap();
    let state = first.directory().join("state").display().to_string();
    let pid = format!("(pid {})", first.pid().unwrap());
    let words = ["state/lock\" is locked by another process", &pid, "choose another one with --state-dir"];
    run().with("--state-dir", &state).is_refused(2, &words).await;
    assert!(first.get("/readyz").await.is_ok(), "the first goes on");
}
