//! Disks that are full or cannot be written. A small file system of the test's own, seen by the
//! program alone.

use crate::stage::{Attempt, PATIENCE, cloud, left_behind, local, output, said};
use cloud_mirror::lab::{Port, SUPERUSER, eventually, eventually_true};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use tokio::process::Command;

/// Runs `script` where a file system of `options` is mounted at `at`; `None`, and a line that says
/// so, where this user may not mount one.
async fn with_disk(at: &Path, options: &str, script: &str) -> Option<(i32, String)> {
    let at = at.display();
    let user = if nix::unistd::geteuid().is_root() { "" } else { "--user --map-root-user " };
    let text = format!("mount -t tmpfs -o {options} none {at} || exit 77\n{script}");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec unshare {user}--mount sh -c \"$0\""), &text]);
    let done = output(command).await;
    let words = said(&done);
    match done.status.code() {
        Some(77 | 126 | 127) | None => {
            println!("SKIPPED: this user may not mount a file system of its own: {words}");
            None
        }
        Some(code) => Some((code, words)),
    }
}

/// The program and its arguments for a shell.
fn typed(attempt: &Attempt) -> (String, Port) {
    let (arguments, port) = attempt.arguments();
    let quoted: Vec<String> = arguments.iter().map(|argument| format!("'{argument}'")).collect();
    (format!("{} {}", crate::stage::PROGRAM, quoted.join(" ")), port)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_or_read_only_state_directory_is_told_and_leaves_nothing_behind() {
    let local = local("logical").await;
    // A cloud that is not there: only a pair makes a role.
    let attempt =
        Attempt::run(&local.url(SUPERUSER, "shop")).with("--cloud", "postgres://a@127.0.0.1:1/shop");
    let state = attempt.state_dir();
    std::fs::create_dir(&state).unwrap();
    let (run, _port) = typed(&attempt);
    for (options, words) in [
        // One page: the lock fits in, nothing else.
        (
            "size=4k,mode=700",
            ["state/instance.new", "No space left on device", "free some space, nothing was changed"],
        ),
        // Two: the password of our role does not.
        (
            "size=8k,mode=700",
            ["state/control-local.password", "No space left", "free some space, nothing was changed"],
        ),
        (
            "size=1m,ro",
            [
                "state/lock",
                "Read-only file system",
                "choose a directory on a file system that can be written",
            ],
        ),
    ] {
        let Some((code, said)) = with_disk(&state, options, &run).await else { return };
        assert_eq!(code, 2, "{said}");
        for word in words {
            assert!(said.contains(word), "no {word:?} in: {said}");
        }
        assert_eq!(said.lines().count(), 1, "one error: {said}");
        assert_eq!(left_behind(&local).await, "", "{options}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_under_the_lease_stops_writing_until_there_is_room() {
    let (local, cloud) = tokio::join!(local("logical"), cloud());
    let attempt = Attempt::run(&local.url(SUPERUSER, "shop")).with("--cloud", &cloud.url(SUPERUSER, "shop"));
    let state = attempt.state_dir();
    std::fs::create_dir(&state).unwrap();
    let attempt = attempt.with("--lease", &format!("file:{}/lease", state.display()));
    let (run, port) = typed(&attempt);
    let at = attempt.directory.path().to_owned();
    // Steps begin when their file appears, and all end when the directory does.
    let step =
        |name: &str| format!("while [ -d {0} ] && [ ! -e {0}/{name} ]; do sleep 0.05; done", at.display());
    let script = format!(
        "export CLOUD_MIRROR__LEASE__TTL=10s CLOUD_MIRROR__FAILOVER__RESTART_GRACE=500ms CLOUD_MIRROR__FAILOVER__HOLD_TIMEOUT=1s
        {run} & pid=$!
        {}; dd if=/dev/zero of={state}/ballast bs=1k 2>/dev/null; touch {at}/is-full
        {}; rm {state}/ballast
        {}; kill $pid; wait $pid",
        step("fill"), step("free"), step("end"), state = state.display(), at = at.display()
    );
    let disk = state.clone();
    let running = tokio::spawn(async move { with_disk(&disk, "size=256k,mode=700", &script).await });
    let url = format!("postgres://app:app-secret@127.0.0.1:{}/shop", port.number());
    let write = async || {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        client.execute("insert into t (v) values ('x')", &[]).await
    };
    let rows = AtomicU32::new(0);
    let writes = async || {
        eventually(PATIENCE, async || {
            if running.is_finished() {
                return Ok(());
            }
            write().await?;
            rows.fetch_add(1, Relaxed);
            Ok(())
        })
        .await;
    };
    writes().await;
    if running.is_finished() {
        assert!(running.await.unwrap().is_none(), "it ends only where there can be no disk");
        return;
    }
    std::fs::write(at.join("fill"), "").unwrap();
    let full = at.join("is-full");
    eventually_true(PATIENCE, "the disk is full", || full.exists() || running.is_finished()).await;
    let unknown = AtomicU32::new(0);
    let error = eventually(PATIENCE, async || match write().await {
        Ok(_) => {
            rows.fetch_add(1, Relaxed);
            Err("it still writes".into())
        }
        // The one that was in flight when the deadline came.
        Err(error) if error.code().is_some_and(|code| code.code() == "08007") => {
            unknown.fetch_add(1, Relaxed);
            Err("its outcome is not known".into())
        }
        Err(error) => Ok(error),
    })
    .await;
    assert!(unknown.load(Relaxed) <= 1, "each writes behind the answer to the one before");
    let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
    assert_eq!(error.code().code(), "57P03", "{error:?}");
    println!("{error:?}");
    std::fs::write(at.join("free"), "").unwrap();
    writes().await;
    std::fs::write(at.join("end"), "").unwrap();
    let (code, said) = running.await.unwrap().expect("there was a disk");
    assert_eq!(code, 0, "{said}");
    println!("{said}");
    assert!(said.contains("No space left on device") && said.contains("free some space"), "{said}");
    let count: u32 = local.value("shop", "select count(*) from t").await.unwrap().parse().unwrap();
    let (rows, unknown) = (rows.load(Relaxed), unknown.load(Relaxed));
    assert!(
        (rows..=rows + unknown).contains(&count),
        "{count}: each acknowledged row ({rows}), and no other"
    );
}
