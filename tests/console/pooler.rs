//! PgBouncer's commands, as clients of a console on its stage see them.

use crate::stage::{self, Stage, client};
use cloud_mirror::lab::eventually;
use cloud_mirror::sql::pooler::Table;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::types::Type;

/// The whole answer to one simple query, as bytes.
async fn ask(socket: &mut tokio::net::TcpStream, text: &str) -> Vec<u8> {
    let length = (text.len() + 5) as u32;
    socket.write_all(&[b"Q", &length.to_be_bytes()[..], text.as_bytes(), b"\0"].concat()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"Z\0\0\0\x05I") {
        let read =
            tokio::time::timeout(stage::PATIENCE, socket.read_buf(&mut answer)).await.unwrap().unwrap();
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&answer));
    }
    answer
}

#[tokio::test]
async fn who_may_look_sees_every_table_and_others_none() {
    let stage = Stage::set().await;
    let [guest, stats] = [client(&stage, "guest").await, client(&stage, "stats").await];
    for table in Table::ALL {
        let text = format!("SHOW {}", table.word());
        let error = guest.simple_query(&text).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{text}");
        let shown = stats.simple_query(&text).await;
        assert_eq!(shown.is_ok(), *table != Table::Fds, "{text}");
    }
    for text in
        ["PAUSE", "RESUME", "KILL", "RECONNECT", "SUSPEND", "SHUTDOWN", "SET pool.size = 3", "SHOW FDS"]
    {
        let error = stats.simple_query(text).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!((error.code().code(), error.message()), ("42501", "admin access needed"), "{text}");
    }
    assert!(stage.said().is_empty(), "{:?}", stage.said());
}

#[tokio::test]
async fn values_have_pgbouncers_types_in_text_and_binary() {
    let stage = Stage::set().await;
    let client = client(&stage, "admin").await;
    let totals = client.prepare("SHOW STATS_TOTALS").await.unwrap();
    assert_eq!(totals.columns()[0].type_(), &Type::TEXT);
    assert_eq!(totals.columns()[3].type_(), &Type::NUMERIC);
    let lists = client.query("SHOW LISTS", &[]).await.unwrap();
    assert_eq!(lists.len(), 14);
    assert_eq!(lists[0].get::<_, i32>("items"), 1);
    let mut socket = stage.connect("admin").await;
    let answer = ask(&mut socket, "SHOW STATS_TOTALS;").await;
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("12345678") && text.contains("SHOW\0"), "{text}");
    let answer = ask(&mut socket, "SELECT lists").await;
    assert!(String::from_utf8_lossy(&answer).contains("used_clients"));
    let answer = ask(&mut socket, "SHOW client_encoding").await;
    assert!(String::from_utf8_lossy(&answer).contains("UTF8"));
}

#[tokio::test]
async fn what_waits_ends_with_its_client() {
    let stage = Stage::set().await;
    let mut socket = stage.connect("admin").await;
    socket.write_all(b"Q\0\0\0\x0aPAUSE\0").await.unwrap();
    let said = |what: &'static str| {
        let stage = &stage;
        eventually(stage::PATIENCE, async move || {
            let said = stage.said();
            if said.last().is_some_and(|last| last.contains(what)) {
                Ok(())
            } else {
                Err(said.join(", ").into())
            }
        })
    };
    said("Pause").await;
    // Others go on meanwhile, also those that end it.
    client(&stage, "admin").await.simple_query("RESUME").await.unwrap();
    said("Resume").await;
    drop(socket);
    said("gone").await;
}

#[tokio::test]
async fn arguments_reach_the_operator_as_they_were_typed() {
    let stage = Stage::set().await;
    let mut socket = stage.connect("admin").await;
    for (typed, told, tag) in [
        ("DISABLE Shop;", "Disable { database: \"Shop\" }", "DISABLE"),
        ("enable \"my-db\"", "Enable { database: \"my-db\" }", "ENABLE"),
        ("KILL_CLIENT 7", "KillClient { id: 7 }", "KILL_CLIENT"),
        ("RECONNECT", "Reconnect { database: None }", "RECONNECT"),
        (
            "SET default_pool_size = 30",
            "Set { key: \"default_pool_size\", value: \"30\" }",
            "SET default_pool_size=30",
        ),
        ("SHUTDOWN WAIT_FOR_CLIENTS", "Shutdown(WaitForClients)", "SHUTDOWN"),
    ] {
        let answer = ask(&mut socket, typed).await;
        let expected = [b"C", &((tag.len() + 5) as u32).to_be_bytes()[..], tag.as_bytes(), b"\0Z"].concat();
        assert!(answer.starts_with(&expected), "{typed}: {:?}", String::from_utf8_lossy(&answer));
        assert_eq!(stage.said().last().unwrap(), told);
    }
    // What a driver sets for itself is nobody's business.
    let before = stage.said().len();
    ask(&mut socket, "SET extra_float_digits = 3").await;
    assert_eq!(stage.said().len(), before);
}
