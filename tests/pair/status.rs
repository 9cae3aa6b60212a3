//! What the command line says of a pair that is well, and of one that is not.

use crate::fixture::Pair;
use cloud_mirror::lab::{StopMode, eventually};
use std::time::Duration;

/// Waits until `cloud-mirror status` ends with `code` and shows `words`.
async fn status_is(pair: &Pair, code: i32, words: &str) {
    eventually(Duration::from_secs(60), async || {
        let address = format!("127.0.0.1:{}", pair.proxy.http_port());
        let asked = tokio::process::Command::new(env!("CARGO_BIN_EXE_cloud-mirror"))
            .args(["status", "--http", &address])
            .output()
            .await?;
        let shown = String::from_utf8_lossy(&asked.stdout).into_owned();
        // Columns are as wide as they have to be.
        let words_only = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        if asked.status.code() == Some(code) && words_only.contains(words) {
            return Ok(());
        }
        Err(format!("{:?}\n{shown}", asked.status).into())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_well_while_the_mirror_follows_and_degraded_while_the_cloud_is_away() {
    let pair = Pair::start().await;
    pair.mirror_is("following").await;
    let cloud = format!("cloud 127.0.0.1:{} mirror", pair.cloud.port());
    status_is(&pair, 0, &format!("{cloud} up")).await;
    pair.cloud.stop(StopMode::Fast).await.unwrap();
    status_is(&pair, 3, &format!("{cloud} down")).await;
    pair.cloud.start().await.unwrap();
    status_is(&pair, 0, &format!("{cloud} up")).await;
}
