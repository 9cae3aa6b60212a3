//! Two servers and the program between them.

use cloud_mirror::lab::{Cluster, Proxy, SUPERUSER, eventually};
use std::path::Path;
use std::time::Duration;

pub struct Pair {
    pub local: Cluster,
    pub cloud: Cluster,
    pub proxy: Proxy,
}

impl Pair {
    /// Both servers with a role `app` that owns database `shop`; the proxy runs.
    pub async fn start() -> Pair {
        let pair = Self::servers(&[]).await;
        pair.proxy.start().await.unwrap();
        pair
    }

    /// The same with variables in the proxy's environment.
    pub async fn start_with(variables: &[(&str, &str)]) -> Pair {
        let mut pair = Self::servers(&[]).await;
        for (name, value) in variables {
            pair.proxy = pair.proxy.variable(name, value);
        }
        pair.proxy.start().await.unwrap();
        pair
    }

    /// The same with a login in the cloud that is no superuser: it makes roles and owns the database.
    pub async fn start_as_owner() -> Pair {
        let pair = Self::servers_as(&[], Some("mirror_owner")).await;
        pair.proxy.start().await.unwrap();
        pair
    }

    /// The same without starting the proxy.
    pub async fn servers(arguments: &[&str]) -> Pair {
        Self::servers_as(arguments, None).await
    }

    async fn servers_as(arguments: &[&str], owner: Option<&str>) -> Pair {
        let server = || Cluster::builder().setting("max_connections", 200);
        let (local, cloud) = tokio::join!(server().start(), server().start());
        let (local, cloud) = (local.unwrap(), cloud.unwrap());
        local.create_role("app", "app-secret", "").await.unwrap();
        local.sql("postgres", "create database shop owner app").await.unwrap();
        local.sql("shop", "set role app; create table t (id serial primary key, v text)").await.unwrap();
        cloud.create_database("shop").await.unwrap();
        let mut to = cloud.url(SUPERUSER, "shop");
        if let Some(owner) = owner {
            cloud.create_role(owner, "owner-secret", "createrole createdb replication").await.unwrap();
            cloud.sql("postgres", &format!("alter database shop owner to {owner}")).await.unwrap();
            cloud.sql("shop", &format!("alter schema public owner to {owner}")).await.unwrap();
            to = format!("postgres://{owner}:owner-secret@127.0.0.1:{}/shop", cloud.port());
        }
        let from = local.url(SUPERUSER, "shop");
        let mut all = vec!["--local", from.as_str(), "--cloud", to.as_str()];
        all.extend(arguments);
        let proxy = Proxy::new(Path::new(env!("CARGO_BIN_EXE_cloud-mirror")), &all).unwrap();
        // A server that is slow because the machine is busy is not taken for one that is frozen.
        let proxy = proxy.variable("CLOUD_MIRROR__FAILOVER__PROBE_TIMEOUT", "20s");
        Pair { local, cloud, proxy }
    }

    /// A connection of the app, as the app makes it.
    pub async fn client(&self) -> tokio_postgres::Client {
        self.try_client().await.unwrap_or_else(|error| panic!("{error:?}\n{}", self.proxy.log()))
    }

    pub async fn try_client(&self) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let url = self.proxy.url("app", "app-secret", "shop");
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Waits until the status of the mirror is `word`.
    pub async fn mirror_is(&self, word: &str) {
        eventually(Duration::from_secs(60), async || {
            let status = self.proxy.status().await?;
            match status["mirrors"][0]["state"]["state"].as_str() {
                Some(found) if found == word => Ok(()),
                _ => Err(format!("{status:#}\n{}", self.proxy.log()).into()),
            }
        })
        .await;
    }

    /// Waits until a site may write.
    pub async fn writer_is(&self, site: &str) {
        eventually(Duration::from_secs(60), async || {
            let status = self.proxy.status().await?;
            match status["writer"].as_str() {
                Some(found) if found == site => Ok(()),
                _ => Err(format!("{status:#}\n{}", self.proxy.log()).into()),
            }
        })
        .await;
    }

    /// Waits until the lease is held in this epoch.
    pub async fn epoch_is(&self, epoch: u64) {
        eventually(Duration::from_secs(60), async || {
            let status = self.proxy.status().await?;
            let lease = &status["lease"];
            if lease["epoch"].as_u64() == Some(epoch) && lease["is_held"] == true {
                return Ok(());
            }
            Err(format!("{status:#}\n{}", self.proxy.log()).into())
        })
        .await;
    }

    /// Fails the test unless the tables of both sides have the same rows.
    pub async fn both_sides_equal(&self) {
        let hash = "select count(*), sum(hashtextextended(t::text, 0)::numeric) from t";
        let local = self.local.query("shop", hash).await.unwrap();
        let cloud = self.cloud.query("shop", hash).await.unwrap();
        assert_eq!(local, cloud, "{}", self.proxy.log());
    }

    /// Rows that the mirror has, and the app knows of, at some moment.
    pub async fn applied_rows(&self) -> Vec<u64> {
        let rows = self.cloud.query("shop", "select v from t").await.unwrap();
        rows.iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect()
    }

    /// Stops the proxy, brings the data home, and starts it again.
    pub async fn go_home(&self) {
        assert!(self.proxy.stop().await.success(), "{}", self.proxy.log());
        let mut arguments = self.proxy.arguments();
        arguments[0] = "failback".to_owned();
        arguments.push("--discard-local".to_owned());
        let done =
            tokio::process::Command::new(env!("CARGO_BIN_EXE_cloud-mirror")).args(&arguments).output().await;
        let done = done.unwrap();
        let said = [done.stdout, done.stderr].concat();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&said));
        self.proxy.start().await.unwrap();
        self.writer_is("local").await;
    }

    /// Waits until the proxy is not steady any more.
    pub async fn is_noticed(&self) {
        eventually(Duration::from_secs(60), async || {
            let status = self.proxy.status().await?;
            if status["state"] == "steady" && status["writer"] == "local" {
                return Err(format!("{status:#}").into());
            }
            Ok(())
        })
        .await;
    }

    /// Waits until the mirror has everything the local server has written by now.
    pub async fn caught_up(&self) {
        let end = self.local.value("shop", "select pg_current_wal_lsn()").await.unwrap();
        let end: cloud_mirror::base::Lsn = end.parse().unwrap();
        eventually(Duration::from_secs(60), async || {
            let status = self.proxy.status().await?;
            let applied = status["mirrors"][0]["last_applied"].as_str().unwrap_or("0/0").to_owned();
            let applied: cloud_mirror::base::Lsn = applied.parse()?;
            if applied >= end { Ok(()) } else { Err(format!("{applied} < {end}: {status:#}").into()) }
        })
        .await;
    }
}
