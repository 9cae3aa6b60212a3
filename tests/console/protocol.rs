//! The database `mirror` as its clients see it: psql, a driver, and bytes nobody should send.

use crate::stage::{self, Stage, client};
use std::process::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::SimpleQueryMessage;

/// Runs psql with commands on its standard input; its output and its errors.
async fn psql(stage: &Stage, user: &str, input: &str) -> (String, String) {
    let programs = cloud_mirror::lab::Programs::find(None).expect("PostgreSQL is installed");
    let mut child = tokio::process::Command::new(programs.path("psql"))
        .args(["-X", "-h", "127.0.0.1", "-U", user, "-d", "mirror", "-p", &stage.port.to_string()])
        .env("PGCONNECT_TIMEOUT", "10")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let done = tokio::time::timeout(stage::PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
}

#[tokio::test]
async fn psql_can_be_used_as_ever() {
    let stage = Stage::set().await;
    let input = "\\pset format unaligned\n\\pset tuples_only\nSHOW MIRROR STATUS;\n\\dt\n\
        BEGIN; \nSHOW DATABASE MIRROR STATUS FOR cloud;\nCOMMIT;\nshow version\\g\n\\conninfo\n\
        SELECT 2;\nDROP MIRROR nobody;\nMIRROR DATABASE stock FROM shop MODE = async;\nSHOW MIRROR\n;\n\
        \\set FETCH_COUNT 1\nSHOW HELP;\n";
    let (out, errors) = psql(&stage, "admin", input).await;
    assert!(out.contains("cloud|Following|async|local|shop|copy|0/A8|250|88|1|2|t|3|4|5||a; b"), "{out}");
    assert!(out.contains("async|Following|0/A8|250|local|shop|1|2|cloud|copy|88|t|3|4|5||a; b"), "{out}");
    assert!(out.contains("cloud-mirror 9.9.9"), "{out}");
    assert!(out.contains("connected to database \"mirror\" as user \"admin\""), "{out}");
    assert!(
        out.contains("MIRROR DATABASE\n") && out.contains("BEGIN\n") && out.contains("COMMIT\n"),
        "{out}"
    );
    assert!(errors.contains("NOTICE:  copying shop to stock"), "{errors}");
    assert!(errors.contains("ERROR:  mirror \"nobody\" does not exist"), "{errors}");
    assert!(errors.contains("HINT:  SHOW HELP lists its commands"), "{errors}");
    assert!(errors.contains("syntax error at or near \";\""), "{errors}");
    assert_eq!(stage.said(), ["drop nobody", "create stock from shop"]);
}

#[tokio::test]
async fn a_driver_uses_the_extended_protocol_and_binary_values() {
    let stage = Stage::set().await;
    let client = client(&stage, "guest").await;
    let rows = client.query("SHOW MIRROR STATUS", &[]).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].get::<_, &str>("mirror"), "cloud");
    assert_eq!(rows[0].get::<_, i64>("lag_ms"), 250);
    assert!(rows[0].get::<_, bool>("is_promotable"));
    assert_eq!(rows[0].get::<_, Option<&str>>("reason"), None);
    let prepared = client.prepare("SHOW LEASE").await.unwrap();
    assert_eq!(prepared.columns().len(), 10);
    for _ in 0..2 {
        assert_eq!(client.query(&prepared, &[]).await.unwrap()[0].get::<_, i64>(0), 7);
    }
    let error = client.query("SELECT 2", &[]).await.unwrap_err();
    assert_eq!(error.as_db_error().unwrap().code().code(), "0A000");
    let error = client.query("SHOW DATABASE MIRROR STATUS FOR nobody", &[]).await.unwrap_err();
    assert_eq!(error.as_db_error().unwrap().code().code(), "42704");
    // The connection is in order after each of them.
    assert_eq!(client.query("SHOW client_encoding", &[]).await.unwrap()[0].get::<_, &str>(0), "UTF8");
    let messages = client.simple_query("").await.unwrap();
    assert!(messages.iter().all(|m| matches!(m, SimpleQueryMessage::CommandComplete(0))), "{messages:?}");
}

#[tokio::test]
async fn pools_keep_their_connections_in_order() {
    let stage = Stage::set().await;
    let client = client(&stage, "guest").await;
    // What asyncpg sends when a connection goes back, and what most send to see whether it lives.
    let reset = "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;";
    client.batch_execute(reset).await.unwrap();
    assert_eq!(client.query("SELECT 1", &[]).await.unwrap()[0].get::<_, i64>(0), 1);
    let error = client.batch_execute("BEGIN; SHOW MIRROR STATE; RESET ALL").await.unwrap_err();
    let error = error.as_db_error().unwrap();
    let expected = tokio_postgres::error::ErrorPosition::Original(20);
    assert_eq!((error.code().code(), error.position()), ("42601", Some(&expected)));
    client.batch_execute("ROLLBACK; SHOW LEASE").await.unwrap();
}

#[tokio::test]
async fn rows_come_in_portions_when_the_driver_asks_for_them() {
    let stage = Stage::set().await;
    let mut client = client(&stage, "guest").await;
    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("SHOW HELP", &[]).await.unwrap();
    let mut commands = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 3).await.unwrap();
        if rows.is_empty() {
            break;
        }
        assert!(rows.len() <= 3);
        commands.extend(rows.iter().map(|row| row.get::<_, String>("command")));
    }
    let all = cloud_mirror::sql::admin::HELP.len() + cloud_mirror::sql::admin::POOLER_HELP.len();
    assert_eq!(commands.len(), all);
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn only_administrators_change_something() {
    let stage = Stage::set().await;
    let guest = client(&stage, "guest").await;
    for change in ["DROP MIRROR cloud", "ALTER DATABASE cloud PROMOTE", "MIRROR DATABASE a FROM b", "RELOAD"]
    {
        let error = guest.simple_query(change).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "42501", "{change}");
        assert_eq!(error.detail(), Some("Role \"guest\" is not listed in auth.admin_users."));
    }
    assert!(stage.said().is_empty());
    let admin = client(&stage, "admin").await;
    for change in ["ALTER DATABASE cloud PROMOTE", "DROP MIRROR cloud", "RELOAD"] {
        admin.execute(change, &[]).await.unwrap();
    }
    assert_eq!(stage.said(), ["promote cloud", "drop cloud", "reload"]);
}

#[tokio::test]
async fn a_command_that_breaks_off_is_an_error_and_the_console_goes_on() {
    let stage = Stage::set().await;
    let admin = client(&stage, "admin").await;
    let error = admin.simple_query("DROP MIRROR bomb").await.unwrap_err();
    assert_eq!(error.as_db_error().unwrap().code().code(), "XX000");
    assert_eq!(admin.query("SHOW VERSION", &[]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_stop_is_told_to_idle_clients() {
    let stage = Stage::set().await;
    let mut socket = stage.connect("guest").await;
    stage.stop();
    let mut bytes = Vec::new();
    tokio::time::timeout(stage::PATIENCE, socket.read_to_end(&mut bytes)).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("SFATAL") && text.contains("C57P01"), "{text}");
}

#[tokio::test]
async fn bytes_that_are_no_protocol_end_the_connection_with_08p01() {
    let stage = Stage::set().await;
    let long = [b"Q\0\x02\0\0".as_slice(), &[b'x'; 100]].concat();
    for bytes in [
        b"Q\0\0\0\x03".as_slice(),
        b"Q\xff\xff\xff\xff",
        b"\0\0\0\0\x04",
        b"B\0\0\0\x08\0\0\xff\xff",
        b"P\0\0\0\x06ab",
        b"Z\0\0\0\x05I",
        b"Q\0\0\0\x08SHOW",
        &long,
    ] {
        let mut socket = stage.connect("guest").await;
        socket.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(stage::PATIENCE, socket.read_to_end(&mut answer)).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains("SFATAL") && text.contains("C08P01"), "{bytes:?}: {text}");
    }
    // Half a message and a farewell are nobody's error.
    let mut socket = stage.connect("guest").await;
    socket.write_all(b"Q\0\0\0\x20SHOW").await.unwrap();
    drop(socket);
    assert_eq!(client(&stage, "guest").await.query("SHOW VERSION", &[]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn after_an_error_everything_up_to_sync_is_skipped() {
    let stage = Stage::set().await;
    let mut socket = stage.connect("guest").await;
    let parse = |text: &str| {
        let body = [b"\0", text.as_bytes(), b"\0\0\0"].concat();
        [b"P".as_slice(), &(body.len() as u32 + 4).to_be_bytes(), &body].concat()
    };
    let sync = b"S\0\0\0\x04";
    let execute = b"E\0\0\0\x09\0\0\0\0\0";
    // In single bytes: a message may come in any portions.
    for byte in
        [parse("SELECT 2").as_slice(), execute, &parse("SHOW LEASE"), sync, &parse("SHOW LEASE"), sync]
            .concat()
    {
        socket.write_all(&[byte]).await.unwrap();
    }
    let mut answer = Vec::new();
    while answer.iter().filter(|byte| **byte == b'Z').count() < 2 {
        let read =
            tokio::time::timeout(stage::PATIENCE, socket.read_buf(&mut answer)).await.unwrap().unwrap();
        assert_ne!(read, 0, "{answer:?}");
    }
    let tail = b"Z\0\0\0\x05I1\0\0\0\x04Z\0\0\0\x05I";
    assert!(answer.starts_with(b"E") && answer.ends_with(tail), "{:?}", String::from_utf8_lossy(&answer));
    assert_eq!(String::from_utf8_lossy(&answer).matches("SERROR").count(), 1);
}
