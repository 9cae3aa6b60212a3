//! A record of the lease that is damaged or gone, and a proxy that is killed.

use crate::stage::{PATIENCE, client, cloud, local, mirror_is, proxy, writes};
use cloud_mirror::lab::{Cluster, Proxy, eventually, that};
use std::time::{Duration, Instant};

/// A lease that ran out would be waited for so long.
const TTL: Duration = Duration::from_secs(120);
const TOML: &str = "[failover]\nrestart_grace = \"500ms\"\nhold_timeout = \"1s\"\n[lease]\nttl = \"120s\"\n";

/// The proxy holds its clients and says why; nobody may write.
async fn is_stuck(proxy: &Proxy, words: &str) {
    eventually(PATIENCE, async || {
        let status = proxy.status().await?;
        that(status["summary"].as_str().unwrap_or_default().to_owned(), |summary| summary.contains(words))
    })
    .await;
    let error = client(proxy).await.expect_err("nobody is let in");
    let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}")).clone();
    assert_eq!(error.code().code(), "57P03", "{error:?}");
    assert!(error.message().contains(words), "{error:?}");
    assert!(proxy.get("/primary").await.is_err());
}

async fn epoch(proxy: &Proxy) -> u64 {
    eventually(PATIENCE, async || {
        let status = proxy.status().await?;
        match status["lease"]["is_held"] == true {
            true => Ok(status["lease"]["epoch"].as_u64().unwrap()),
            false => Err(format!("{status:#}").into()),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_missing_record_stops_writing_and_says_how_to_go_on() {
    let (local, cloud) = tokio::join!(local("logical"), cloud());
    let config = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(config.path(), TOML).unwrap();
    let file = config.path().display().to_string();
    let run = proxy(&local, Some(&cloud), &["--config", &file]);
    run.start().await.unwrap();
    writes(&run).await;
    mirror_is(&run, "following").await;
    let first = epoch(&run).await;

    // Killed and started again: the next epoch, and clients get in at once.
    run.kill9();
    run.start().await.unwrap();
    let started = Instant::now();
    writes(&run).await;
    let took = started.elapsed();
    println!("first write after kill -9 of the proxy and its restart: {} ms", took.as_millis());
    assert!(took < TTL / 2, "{took:?}\n{}", run.log());
    assert_eq!(epoch(&run).await, first + 1);
    mirror_is(&run, "following").await;

    // Damaged: never taken for an absent one, and not written over.
    assert!(run.stop().await.success());
    let record = run.directory().join("lease/lease");
    let good = std::fs::read(&record).unwrap();
    let bad = &good[..good.len() - 3];
    std::fs::write(&record, bad).unwrap();
    run.start().await.unwrap();
    is_stuck(&run, "is damaged (truncated); restore it, or remove it and start once with --rebuild-lease")
        .await;
    assert_eq!(std::fs::read(&record).unwrap(), bad);
    // Restored, it goes on without a restart.
    std::fs::write(&record, &good).unwrap();
    writes(&run).await;
    assert_eq!(epoch(&run).await, first + 2);

    // Gone.
    assert!(run.stop().await.success());
    std::fs::remove_file(&record).unwrap();
    run.start().await.unwrap();
    let words = format!("there is no lease record, but epoch {} was in use", first + 2);
    is_stuck(&run, &words).await;
    is_stuck(&run, "start once with --rebuild-lease, which makes it again at the next epoch").await;
    assert!(!record.exists());
    assert!(run.stop().await.success());

    // Rebuilt by a proxy that has lost its state directory, too.
    std::fs::remove_dir_all(run.directory().join("state")).unwrap();
    let mut arguments = run.arguments();
    arguments.push("--rebuild-lease".to_owned());
    let mut child = std::process::Command::new(crate::stage::PROGRAM)
        .args(&arguments)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    writes(&run).await;
    assert_eq!(epoch(&run).await, first + 3);
    let count = async |cluster: &Cluster| cluster.value("shop", "select count(*) from t").await;
    assert_eq!(count(&local).await.unwrap(), "4");
    eventually(PATIENCE, async || that(count(&cloud).await?, |count| count == "4")).await;
    child.kill().unwrap();
    child.wait().unwrap();
}
