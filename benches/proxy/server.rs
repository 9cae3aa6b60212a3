//! The PostgreSQL server behind all targets.

use anyhow::{Context, ensure};
use cloud_mirror::lab::{Cluster, SUPERUSER, SocketAuth};
use std::path::PathBuf;
use std::process::Command;
use tokio::runtime::Runtime;

/// The database of all scenarios.
pub const DATABASE: &str = "bench";
/// The role that the Unix socket lets in.
pub const ROLE: &str = "bench";
/// The role that has to come over TCP, so that ours, which prefers the socket, does too.
pub const TCP_ROLE: &str = "bench_tcp";

/// The password of both.
pub const PASSWORD: &str = "bench";

/// Scale of the pgbench tables: 100,000 accounts each, small enough to stay in memory.
const SCALE: &str = "5";

/// A running server.
pub struct Server {
    /// Another build of the proxy, to be compared with this one.
    pub other: Option<PathBuf>,
    cluster: Cluster,
    version: String,
    verifier: String,
    certificate: String,
    key: String,
    // Dropped after the cluster, which runs on it.
    _runtime: Runtime,
}

impl Server {
    /// Makes a server with pgbench's tables.
    pub fn start(other: Option<PathBuf>) -> anyhow::Result<Server> {
        let runtime = Runtime::new()?;
        let cluster = runtime.block_on(prepare())?;
        let version = runtime.block_on(cluster.value("postgres", "show server_version"))?;
        let verifier = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{ROLE}'");
        let verifier = runtime.block_on(cluster.value("postgres", &verifier))?;
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let (certificate, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
        let server = Server { other, cluster, version, verifier, certificate, key, _runtime: runtime };
        let loaded = Command::new(server.program("pgbench"))
            .args(["-i", "-q", "-s", SCALE, "-h"])
            .arg(server.socket_dir())
            .args(["-p", &server.port().to_string(), "-U", ROLE, DATABASE])
            .output()
            .context("cannot run pgbench")?;
        ensure!(loaded.status.success(), "pgbench -i: {}", String::from_utf8_lossy(&loaded.stderr));
        Ok(server)
    }

    /// Port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.cluster.port()
    }

    /// Directory of the Unix socket.
    pub fn socket_dir(&self) -> PathBuf {
        self.cluster.socket_dir().to_owned()
    }

    /// A superuser's URL of the database.
    pub fn url(&self) -> String {
        self.cluster.url(SUPERUSER, DATABASE)
    }

    /// One of PostgreSQL's programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.cluster.bindir().join(name)
    }

    /// The SCRAM verifier of both roles.
    pub fn verifier(&self) -> &str {
        &self.verifier
    }

    /// A certificate of `localhost`, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its private key, in PEM.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// `server_version`.
    pub fn version(&self) -> &str {
        &self.version
    }
}

async fn prepare() -> anyhow::Result<Cluster> {
    let cluster = Cluster::builder()
        .socket_auth(SocketAuth::Trust)
        .hba(format!("local all {TCP_ROLE} reject"))
        .hba("host all all 127.0.0.1/32 trust")
        .setting("max_connections", 1300)
        .setting("shared_buffers", "256MB")
        .setting("synchronous_commit", "off")
        .setting("jit", "off")
        .start()
        .await?;
    for role in [ROLE, TCP_ROLE] {
        let create = format!("CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{PASSWORD}'");
        cluster.sql("postgres", &create).await?;
    }
    // One verifier for both: salted once.
    let same = format!(
        "UPDATE pg_authid SET rolpassword = (SELECT rolpassword FROM pg_authid WHERE rolname = '{ROLE}')
         WHERE rolname = '{TCP_ROLE}'"
    );
    cluster.sql("postgres", &same).await?;
    cluster.create_database(DATABASE).await?;
    cluster.sql(DATABASE, "CREATE UNLOGGED TABLE copied (text text)").await?;
    Ok(cluster)
}
