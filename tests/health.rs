//! Probes of a real server in each of its states, and what its connections say when they end.

use bytes::BytesMut;
use cloud_mirror::backend::{self, Address, Link, Party};
use cloud_mirror::base::{DatabaseName, Site};
use cloud_mirror::health::{Evidence, Outcome, evidence, evidence_of_io, probe, reach};
use cloud_mirror::lab::{Cluster, StopMode, eventually, that};
use cloud_mirror::wire::report::Report;
use std::time::Duration;
use tokio::io::AsyncReadExt;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_probe_tells_up_denied_refused_and_silent_apart() {
    let server = Cluster::builder().start().await.unwrap();
    let party = server.party(Site::Local, "postgres");
    assert_eq!(probe(&party, SOON).await, Outcome::Up);
    assert_eq!(reach(&party.endpoint.address, SOON).await, Outcome::Up);
    let nowhere = party.with_database(DatabaseName::new("nowhere").unwrap());
    assert!(matches!(probe(&nowhere, SOON).await, Outcome::Denied(why) if why.contains("3D000")));

    server.freeze().unwrap();
    assert_eq!(probe(&party, Duration::from_millis(200)).await, Outcome::TimedOut);
    server.thaw();
    eventually(SOON, async || that(probe(&party, SOON).await, |seen| *seen == Outcome::Up)).await;

    server.stop(StopMode::Fast).await.unwrap();
    assert_eq!(probe(&party, SOON).await, Outcome::Refused);
    assert_eq!(reach(&party.endpoint.address, SOON).await, Outcome::Refused);
    let socket = Address::Unix { directory: server.socket_dir().to_owned(), port: server.port() };
    assert_eq!(reach(&socket, SOON).await, Outcome::Refused);
}

/// Logs in and leaves the connection idle.
async fn idle(party: &Party) -> Link {
    backend::connect(&party.endpoint, &party.login, &[("database", "postgres")], SOON).await.unwrap()
}

/// The first word about the server on a connection, or how it ended.
async fn last_word(mut link: Link) -> Option<Evidence> {
    let reading = async {
        let mut bytes = BytesMut::new();
        loop {
            while bytes.len() >= 5 {
                let length = 1 + u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
                if bytes.len() < length {
                    break;
                }
                let message = bytes.split_to(length).freeze();
                if matches!(message[0], b'E' | b'N') {
                    return evidence(&Report::new(message.slice(5..)));
                }
            }
            match link.stream.read_buf(&mut bytes).await {
                Ok(0) => return Some(Evidence::Eof),
                Ok(_) => {}
                Err(error) => return evidence_of_io(&error),
            }
        }
    };
    tokio::time::timeout(SOON, reading).await.expect("the connection ends")
}

#[tokio::test]
async fn the_end_of_a_connection_says_what_became_of_the_server() {
    let server = Cluster::builder().start().await.unwrap();
    let party = server.party(Site::Local, "postgres");

    let link = idle(&party).await;
    let end = format!("SELECT pg_terminate_backend({})", link.pid);
    server.sql("postgres", &end).await.unwrap();
    assert_eq!(last_word(link).await, Some(Evidence::AdminStop));

    let link = idle(&party).await;
    server.restart(StopMode::Fast).await.unwrap();
    assert_eq!(last_word(link).await, Some(Evidence::AdminStop));

    // A back end that is killed before it has said so leaves an end of file: seen once, under load.
    eventually(SOON, async || {
        let link = idle(&party).await;
        server.restart(StopMode::Immediate).await?;
        that(last_word(link).await, |seen| *seen == Some(Evidence::CrashRestart))
    })
    .await;

    eventually(SOON, async || {
        let (link, sibling) = (idle(&party).await, idle(&party).await);
        let pid = nix::unistd::Pid::from_raw(sibling.pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
        assert_eq!(last_word(sibling).await, Some(Evidence::Eof));
        let seen = last_word(link).await;
        eventually(SOON, async || that(probe(&party, SOON).await, |seen| *seen == Outcome::Up)).await;
        that(seen, |seen| *seen == Some(Evidence::CrashRestart))
    })
    .await;

    let link = idle(&party).await;
    server.kill9().unwrap();
    assert_eq!(last_word(link).await, Some(Evidence::PostmasterDied));
}
