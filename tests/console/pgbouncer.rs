//! A proxy that takes PgBouncer's place with PgBouncer's own files and signals.

use super::running::{PATIENCE, console, server};
use cloud_mirror::lab::{Proxy, eventually};
use nix::sys::signal::Signal;
use std::path::Path;
use tokio_postgres::NoTls;

/// A proxy that runs on an ini file.
async fn proxy(directory: &Path, rest: &str) -> Proxy {
    let server = server().await;
    let ini = format!(
        "[databases]\nshop = host=127.0.0.1 port={port}\nreports = host=127.0.0.1 port={port} dbname=shop user=app\n\
         elsewhere = host=192.0.2.1\n[users]\napp = max_user_connections=50\n\
         [pgbouncer]\nauth_type = scram-sha-256\nauth_file = userlist.txt\nadmin_users = operator\n\
         unix_socket_dir =\nlogfile = x.log\ndefault_pool_size = 7\n{rest}\n",
        port = server.port()
    );
    std::fs::write(directory.join("pgbouncer.ini"), ini).unwrap();
    let url = server.url("postgres", "shop");
    let password = url.trim_start_matches("postgres://postgres:").split('@').next().unwrap();
    let list = format!("\"app\" \"app-secret\"\n\"operator\" \"op-secret\"\n\"postgres\" \"{}\"\n", password);
    std::fs::write(directory.join("userlist.txt"), list).unwrap();
    let file = directory.join("pgbouncer.ini");
    let program = Path::new(env!("CARGO_BIN_EXE_cloud-mirror"));
    let proxy = Proxy::new(program, &["--pgbouncer", file.to_str().unwrap()]).unwrap();
    proxy.start().await.unwrap_or_else(|error| panic!("{error}"));
    proxy
}

async fn client(proxy: &Proxy, database: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) =
        tokio_postgres::connect(&proxy.url("app", "app-secret", database), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

#[tokio::test]
async fn an_ini_file_is_enough() {
    let directory = tempfile::tempdir().unwrap();
    let proxy = proxy(directory.path(), "").await;
    for database in ["shop", "reports"] {
        let client = client(&proxy, database).await.unwrap();
        let row = client.query_one("SELECT current_database()::text", &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "shop");
    }
    let error = client(&proxy, "elsewhere").await.map(|_| ()).unwrap_err();
    assert_eq!(error.code().unwrap().code(), "3D000");
    assert!(proxy.log().contains("problem: "), "{}", proxy.log());
    let config = console(&proxy, "SHOW CONFIG").await;
    assert!(config.contains("default_pool_size|7|20|yes"), "{config}");
    // RELOAD reads it again; a mistake changes nothing.
    let ini = directory.path().join("pgbouncer.ini");
    let text = std::fs::read_to_string(&ini).unwrap();
    std::fs::write(&ini, text.replace("default_pool_size = 7", "default_pool_size = 9")).unwrap();
    console(&proxy, "RELOAD").await;
    assert!(console(&proxy, "SHOW CONFIG").await.contains("default_pool_size|9|20|yes"));
    for mistake in ["pool_mode = both", "default_pool_size = many", "auth_type = scram"] {
        std::fs::write(&ini, text.replace("default_pool_size = 7", mistake)).unwrap();
        let (_, errors) =
            super::running::said(super::running::psql(&proxy, &["\\set VERBOSITY verbose", "RELOAD"])).await;
        assert!(errors.contains("F0000"), "{mistake}: {errors}");
        assert!(console(&proxy, "SHOW CONFIG").await.contains("default_pool_size|9|20|yes"), "{mistake}");
    }
    // A name that is not served is mistyped.
    for command in ["PAUSE shopp", "DISABLE shopp", "KILL shopp", "RECONNECT shopp", "WAIT_CLOSE shopp"] {
        let (_, errors) = super::running::said(super::running::psql(&proxy, &[command])).await;
        assert!(errors.contains("no such database: shopp"), "{command}: {errors}");
    }
}

#[tokio::test]
async fn signals_mean_what_they_mean_there() {
    let directory = tempfile::tempdir().unwrap();
    let proxy = proxy(directory.path(), "").await;
    let state_is = async |expected: &str| {
        eventually(PATIENCE, async || {
            let state = console(&proxy, "SHOW STATE").await;
            if state.contains(expected) { Ok(()) } else { Err(state.into()) }
        })
        .await;
    };
    let shop = client(&proxy, "shop").await.unwrap();
    proxy.signal(Signal::SIGUSR1);
    state_is("paused|yes").await;
    proxy.signal(Signal::SIGUSR2);
    state_is("active|yes").await;
    // TERM waits for clients.
    proxy.signal(Signal::SIGTERM);
    eventually(PATIENCE, async || match tokio::net::TcpStream::connect(("127.0.0.1", proxy.port())).await {
        Ok(_) => Err("it listens".into()),
        Err(_) => Ok(()),
    })
    .await;
    shop.simple_query("SELECT 1").await.unwrap();
    assert!(proxy.ended().is_none());
    // A second one waits for nobody.
    proxy.signal(Signal::SIGTERM);
    let status = eventually(PATIENCE, async || proxy.ended().ok_or_else(|| "it runs".into())).await;
    assert!(status.success(), "{}", proxy.log());

    proxy.start().await.unwrap();
    let shop = client(&proxy, "shop").await.unwrap();
    proxy.signal(Signal::SIGINT);
    state_is("paused|yes").await;
    shop.simple_query("SELECT 1").await.unwrap();
    drop(shop);
    let status = eventually(PATIENCE, async || proxy.ended().ok_or_else(|| "it runs".into())).await;
    assert!(status.success(), "{}", proxy.log());

    proxy.start().await.unwrap();
    let _shop = client(&proxy, "shop").await.unwrap();
    proxy.signal(Signal::SIGQUIT);
    let status = eventually(PATIENCE, async || proxy.ended().ok_or_else(|| "it runs".into())).await;
    assert!(status.success(), "{}", proxy.log());
}
