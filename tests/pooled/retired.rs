//! Statements about databases and roles replace the connections that they concern, and no other ones.

use crate::raw::{Raw, shown};
use crate::stage::{proxy, server};

async fn client(port: u16, database: &str) -> Raw {
    Raw::log_in_with(port, &["database", database]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_connections_to_a_database_or_of_a_role_that_is_changed_are_replaced() {
    let server = server().await;
    for (name, mode) in [("changed_auto", "auto"), ("changed_session", "session")] {
        server.sql("postgres", &format!("create database {name} owner app")).await.unwrap();
        server.sql("postgres", &format!("create database {name}_more owner app")).await.unwrap();
        let proxy = proxy(&[("pool.mode", mode), ("pool.size", "1")]).await;
        // A session lasts as long as its client: nobody has the connection then.
        let ask = async |database: &str, text: &str| {
            let mut client = client(proxy.port(), database).await;
            let value = client.value(text).await;
            client.send(b"X\0\0\0\x04").await;
            client.end().await;
            value
        };
        const PID: &str = "select pg_backend_pid()";
        let mut changes = client(proxy.port(), &format!("{name}_more")).await;
        let (bystander, concerned) = (ask("shop", PID).await, ask(name, PID).await);
        for text in [
            format!("alter database {name} set work_mem = '7MB'"),
            format!("alter database {name} connection limit 50"),
        ] {
            let said = changes.query(&text).await;
            assert!(!said.iter().any(|(tag, _)| *tag == b'E'), "{mode}: {}", shown(&said));
        }
        assert_ne!(ask(name, PID).await, concerned, "{mode}");
        assert_eq!(ask(name, "show work_mem").await, "7MB", "{mode}");
        assert_eq!(ask("shop", PID).await, bystander, "{mode}");
        // Nobody is in its way, nor in the way of who copies it.
        server.sql("postgres", "alter role app createdb").await.unwrap();
        for text in
            [format!("create database {name}_copy template {name}"), format!("drop database {name}_copy")]
        {
            ask(name, PID).await;
            let said = changes.query(&text).await;
            assert!(!said.iter().any(|(tag, _)| *tag == b'E'), "{mode}: {}", shown(&said));
        }
        assert_eq!(ask("shop", PID).await, bystander, "{mode}");
        let said = changes.query(&format!("drop database {name}")).await;
        assert!(!said.iter().any(|(tag, _)| *tag == b'E'), "{mode}: {}", shown(&said));
        assert_eq!(ask("shop", PID).await, bystander, "{mode}");
        // Not allowed to, and not concerned either: of this role nobody is there.
        changes.query("alter role postgres set work_mem = '7MB'").await;
        assert_eq!(ask("shop", PID).await, bystander, "{mode}");
        changes.query("alter role app set statement_timeout = '59min'").await;
        assert_ne!(ask("shop", PID).await, bystander, "{mode}");
        let bystander = ask("shop", PID).await;
        assert_eq!(ask("shop", "show statement_timeout").await, "59min", "{mode}");
        changes.query("alter role current_user reset all").await;
        assert_ne!(ask("shop", PID).await, bystander, "{mode}");
        assert_eq!(ask("shop", "show statement_timeout").await, "0", "{mode}");
    }
}
