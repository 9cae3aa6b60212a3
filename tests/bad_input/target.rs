//! Clouds that cannot be mirrored to. The app goes on meanwhile.

use crate::stage::{PATIENCE, PROGRAM, cloud, left_behind, local, mirror_is, output, proxy, said, writes};
use cloud_mirror::lab::{Proxy, SUPERUSER, StopMode, eventually};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_cannot_take_the_mirror_is_refused_whole_and_left_as_it_was() {
    let (local, cloud) = tokio::join!(local("logical"), cloud());
    cloud.sql("shop", "create table others (a int); insert into others values (7)").await.unwrap();
    // Both servers have the same files: an extension that only one has is made by renaming.
    local
        .sql(
            "shop",
            "create extension citext; update pg_extension set extname = 'elsewhere' where extname = 'citext'",
        )
        .await
        .unwrap();
    let proxy = proxy(&local, Some(&cloud), &[]);
    proxy.start().await.unwrap();
    let reason = mirror_is(&proxy, "failed").await;
    for part in [
        "the target database is not empty: table public.others",
        "CREATE DATABASE another TEMPLATE template0",
        "the extension \"elsewhere\"",
        "is not available on the target",
        "DROP EXTENSION \"elsewhere\"",
    ] {
        assert!(reason.contains(part), "no {part:?} in: {reason}");
    }
    let (code, said) = check(&proxy).await;
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("not empty: table public.others") && said.contains("\"elsewhere\""), "{said}");
    writes(&proxy).await;
    assert_eq!(left_behind(&cloud).await, "");
    assert_eq!(cloud.value("shop", "select a from others").await.unwrap(), "7");
    // Here only what guards the writer: our role, and the fence row in our schema.
    assert_eq!(left_behind(&local).await, "cloud_mirror_control schema");

    // Put right, it is made; nothing was lost meanwhile.
    local
        .sql("shop", "update pg_extension set extname = 'citext' where extname = 'elsewhere'")
        .await
        .unwrap();
    cloud.sql("shop", "drop table others").await.unwrap();
    assert!(proxy.stop().await.success());
    proxy.start().await.unwrap();
    mirror_is(&proxy, "following").await;
    assert_eq!(cloud.value("shop", "select count(*) from t").await.unwrap(), "1");
    let (code, said) = check(&proxy).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("mirror cloud: it is made already (following)"), "{said}");
}

/// `cloud-mirror check` with the arguments of a proxy.
async fn check(proxy: &Proxy) -> (i32, String) {
    let mut command = Command::new(PROGRAM);
    command.arg("check").args(&proxy.arguments()[1..]);
    let done = output(command).await;
    (done.status.code().unwrap_or(-1), said(&done))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_is_away_or_refuses_us_leaves_the_local_server_to_the_app() {
    let (local, cloud) = tokio::join!(local("logical"), cloud());
    cloud.stop(StopMode::Fast).await.unwrap();
    let to = cloud.url(SUPERUSER, "shop").replace(":lab@", ":wrong@");
    let wrong = proxy(&local, None, &["--cloud", &to]);
    wrong.start().await.unwrap();
    is_disconnected(&wrong, "Connection refused").await;
    writes(&wrong).await;

    // It answers, but not to this password.
    cloud.start().await.unwrap();
    let reason = mirror_is(&wrong, "failed").await;
    assert!(reason.contains("password authentication failed for user \"postgres\""), "{reason}");
    writes(&wrong).await;
    assert_eq!(left_behind(&cloud).await, "");
    assert!(wrong.stop().await.success());

    // Away at the start, there later.
    cloud.stop(StopMode::Fast).await.unwrap();
    let right = proxy(&local, Some(&cloud), &["--rebuild-lease"]);
    right.start().await.unwrap();
    is_disconnected(&right, "Connection refused").await;
    writes(&right).await;
    cloud.start().await.unwrap();
    mirror_is(&right, "following").await;
    assert_eq!(cloud.value("shop", "select count(*) from t").await.unwrap(), "3");
}

/// Waits until the mirror is disconnected for this reason.
async fn is_disconnected(proxy: &Proxy, words: &str) {
    eventually(PATIENCE, async || {
        let status = proxy.status().await?;
        let state = &status["mirrors"][0]["state"];
        let reason = state["reason"].as_str().unwrap_or_default();
        match state["state"] == "disconnected" && reason.contains(words) {
            true => Ok(()),
            false => Err(format!("{state} {}", proxy.log()).into()),
        }
    })
    .await;
}
