//! The program itself, with everything that a person can configure of log-ins.

use crate::SOON;
use crate::certificates::{Authority, Identity};
use cloud_mirror::lab::{Cluster, Programs, Proxy, SUPERUSER, eventually, that};
use nix::sys::signal::Signal;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const PROGRAM: &str = env!("CARGO_BIN_EXE_cloud-mirror");

/// A server whose own rules let in whom we let in by other means than a password.
async fn cluster() -> Cluster {
    let cluster = Cluster::builder()
        .hba("host all ann,eve,odd 127.0.0.1/32 trust")
        .hba("local all ann,eve,odd trust")
        .hba("host all old,listed 127.0.0.1/32 md5")
        .hba("local all old,listed md5")
        .start()
        .await
        .unwrap();
    for statement in [
        "CREATE ROLE app LOGIN PASSWORD 'app'",
        "CREATE ROLE ann LOGIN PASSWORD 'ann'",
        "CREATE ROLE eve LOGIN PASSWORD 'eve'",
        "CREATE ROLE odd LOGIN PASSWORD 'odd'",
        "CREATE ROLE team",
        "CREATE ROLE lead IN ROLE team",
        "CREATE ROLE member LOGIN PASSWORD 'member' IN ROLE lead",
        "CREATE ROLE shut NOLOGIN PASSWORD 'shut'",
        "CREATE ROLE late LOGIN PASSWORD 'late' VALID UNTIL '2001-01-01'",
        "SET password_encryption = md5; CREATE ROLE old LOGIN PASSWORD 'old'; CREATE ROLE listed LOGIN PASSWORD 'listed'",
        "CREATE DATABASE shop",
    ] {
        cluster.sql("postgres", statement).await.unwrap();
    }
    cluster
}

/// A proxy in front of it that is configured by files.
struct Stage {
    files: tempfile::TempDir,
    authority: Authority,
    proxy: Proxy,
}

impl Stage {
    async fn start(cluster: &Cluster, listen: &str, auth: &str, files: &[(&str, &str)]) -> Stage {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let own = authority.sign("localhost");
        let at = |name: &str| directory.path().join(name);
        std::fs::copy(&own.certificate_file, at("own.crt")).unwrap();
        std::fs::copy(&own.key_file, at("own.key")).unwrap();
        for (name, text) in files {
            std::fs::write(at(name), text).unwrap();
        }
        let text = format!(
            "[upstream.local]\nurl = \"{}\"\n[listen]\ntls_cert = \"DIR/own.crt\"\ntls_key = \"DIR/own.key\"\n\
             tls_client_ca = \"{}\"\n{listen}\n[log]\nlevel = \"debug\"\n[auth]\n{auth}\n",
            cluster.url(SUPERUSER, "shop"),
            authority.root().display(),
        );
        let config = at("cloud-mirror.toml");
        std::fs::write(&config, text.replace("DIR", &directory.path().display().to_string())).unwrap();
        let proxy = Proxy::new(Path::new(PROGRAM), &["--config", config.to_str().unwrap()]).unwrap();
        proxy.start().await.unwrap();
        Stage { files: directory, authority, proxy }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// What `psql` prints for a query as `user`, or its error without its address.
    async fn psql(&self, user: &str, password: &str, rest: &str) -> String {
        let host = if rest.contains("host=") { "" } else { "host=localhost hostaddr=127.0.0.1" };
        ask(&format!("port={} user={user} {host} {rest}", self.proxy.port()), password).await
    }

    fn by_certificate(&self, identity: &Identity) -> String {
        std::fs::set_permissions(&identity.key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let (certificate, key) = (identity.certificate_file.display(), identity.key_file.display());
        format!("sslmode=verify-full sslrootcert={} sslcert={certificate} sslkey={key}", self.root())
    }

    fn root(&self) -> String {
        self.authority.root().display().to_string()
    }
}

async fn ask(target: &str, password: &str) -> String {
    let programs = Programs::find(None).unwrap();
    let output = tokio::process::Command::new(programs.path("psql"))
        .env("PGPASSWORD", password)
        .env("HOME", "/nonexistent")
        .arg(format!("dbname=shop connect_timeout=20 {target}"))
        .args(["-XAtc", "SELECT current_user"])
        .output()
        .await
        .unwrap();
    let said = if output.status.success() { output.stdout } else { output.stderr };
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    match said.split_once("failed: ") {
        Some((_, error)) => error.to_owned(),
        None => said,
    }
}

const RULES: &str = "
# TYPE    DATABASE  USER        ADDRESS       METHOD
local     all       all                       peer map=os
host      all       all         192.0.2.0/24  reject
hostssl   shop      ann         127.0.0.1/32  cert map=people
hostssl   shop      odd         127.0.0.1/32  cert clientname=SAN
hostssl   shop      eve         127.0.0.1/32  scram-sha-256 clientcert=verify-full
host      shop      banned      127.0.0.1/32  reject
host      shop      +team       samehost      password
host      shop      old,listed  127.0.0.1/32  md5
host      shop      @names      127.0.0.1/32  scram-sha-256
host      shop      /^nobody    127.0.0.1/32  password
";

const FATAL_28P01: &str = "password authentication failed for user";

#[tokio::test(flavor = "multi_thread")]
async fn rules_and_maps_of_files_decide_who_comes_in_how() {
    let cluster = cluster().await;
    let me = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
    let ident = format!("os {me} ann\npeople /^([a-z]+)@example.org$ \\1\n");
    let names = "app shut # those with a verifier\nlate";
    let listed = format!("\"listed\" \"{}\"\n", cloud_mirror::wire::md5::stored(b"listed", b"listed"));
    let auth = "hba_file = \"DIR/hba.conf\"\nident_file = \"DIR/ident.conf\"\nfile = \"DIR/userlist.txt\"";
    let files = [("hba.conf", RULES), ("ident.conf", &*ident), ("names", names), ("userlist.txt", &*listed)];
    let listen = "proxy_protocol = [\"127.0.0.2/32\"]";
    let stage = Stage::start(&cluster, listen, auth, &files).await;

    for (user, password) in [("app", "app"), ("member", "member"), ("old", "old"), ("listed", "listed")] {
        assert_eq!(stage.psql(user, password, "").await, user);
        let said = stage.psql(user, "wrong", "sslmode=disable").await;
        assert_eq!(said, format!("FATAL:  {FATAL_28P01} \"{user}\""));
    }
    for (user, password, rest, words) in [
        (
            "banned",
            "x",
            "sslmode=disable",
            "pg_hba.conf rejects connection for host \"127.0.0.1\", user \"banned\", database \"shop\", no encryption",
        ),
        (
            "stranger",
            "x",
            "sslmode=disable",
            "no pg_hba.conf entry for host \"127.0.0.1\", user \"stranger\", database \"shop\", no encryption",
        ),
        (
            "stranger",
            "x",
            "sslmode=require",
            "no pg_hba.conf entry for host \"127.0.0.1\", user \"stranger\", database \"shop\", SSL encryption",
        ),
        (
            "app",
            "app",
            "sslmode=disable dbname=postgres",
            "no pg_hba.conf entry for host \"127.0.0.1\", user \"app\", database \"postgres\", no encryption",
        ),
        ("nobody", "x", "", "password authentication failed for user \"nobody\""),
        ("shut", "shut", "", "role \"shut\" is not permitted to log in"),
        ("shut", "wrong", "", "password authentication failed for user \"shut\""),
        ("late", "late", "", "password authentication failed for user \"late\""),
        ("ann", "ann", "", "connection requires a valid client certificate"),
        ("ann", "ann", "sslmode=disable", "no pg_hba.conf entry for host"),
    ] {
        let said = stage.psql(user, password, rest).await;
        assert!(said.contains(words), "{user} {rest}: {said}");
    }

    // The operating system's user, through a map.
    let directory = format!("host={}", stage.proxy.directory().display());
    assert_eq!(stage.psql("ann", "", &directory).await, "ann");
    let said = stage.psql("app", "", &directory).await;
    assert_eq!(said, "FATAL:  Peer authentication failed for user \"app\"");

    // Certificates.
    let ann = stage.by_certificate(&stage.authority.sign("ann@example.org"));
    assert_eq!(stage.psql("ann", "", &ann).await, "ann");
    let said = stage.psql("odd", "", &ann).await;
    assert_eq!(said, "FATAL:  certificate authentication failed for user \"odd\"");
    let odd = stage.by_certificate(&stage.authority.sign_for("nobody-in-particular", "odd"));
    assert_eq!(stage.psql("odd", "", &odd).await, "odd", "by its alternative name");
    let eve = stage.by_certificate(&stage.authority.sign("eve"));
    assert_eq!(stage.psql("eve", "eve", &eve).await, "eve");
    assert!(stage.psql("eve", "wrong", &eve).await.contains(FATAL_28P01));
    assert!(stage.psql("eve", "eve", &ann).await.contains(FATAL_28P01), "somebody else's certificate");
    assert!(stage.psql("eve", "eve", "sslmode=require").await.contains("valid client certificate"));
    let strangers = Authority::new();
    let forged = stage.by_certificate(&strangers.sign("ann@example.org"));
    let said = stage.psql("ann", "", &forged).await;
    assert!(said.contains("alert") || said.contains("closed the connection"), "{said}");

    // A load balancer says for whom it connects, and must.
    let header = |ip: [u8; 4]| {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        bytes.extend(ip);
        bytes.extend([10, 0, 0, 1, 0x12, 0x34, 0x19, 0x20]);
        bytes
    };
    let startup = b"\0\0\0\x20\0\x03\0\0user\0app\0database\0shop\0\0".as_slice();
    let said = stage.balanced(&[&header([192, 0, 2, 7]), startup].concat()).await;
    assert!(said.contains("pg_hba.conf rejects connection for host \"192.0.2.7\", user \"app\""), "{said}");
    let said = stage.balanced(&[&header([127, 0, 0, 1]), startup].concat()).await;
    assert!(said.starts_with('R') && said.contains("SCRAM-SHA-256"), "{said}");
    let said = stage.balanced(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0\0\0\0\x08\x04\xd2\x16\x2f").await;
    assert_eq!(said, "S", "a health check of its own, and TLS behind the header");
    assert_eq!(stage.balanced(startup).await, "", "no header");
    // Nobody else may say so: it is no start-up packet.
    let mut direct = TcpStream::connect(("127.0.0.1", stage.proxy.port())).await.unwrap();
    direct.write_all(&header([192, 0, 2, 7])).await.unwrap();
    let mut said = Vec::new();
    direct.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, b"", "not believed");
    let log = stage.proxy.log();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
}

impl Stage {
    /// What comes back within an answer or until the end, for bytes from the load balancer.
    async fn balanced(&self, bytes: &[u8]) -> String {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut stream =
            socket.connect(format!("127.0.0.1:{}", self.proxy.port()).parse().unwrap()).await.unwrap();
        // In two pieces: a header need not come whole.
        let (first, second) = bytes.split_at(7.min(bytes.len()));
        stream.write_all(first).await.unwrap();
        stream.flush().await.unwrap();
        let _ = stream.write_all(second).await;
        let mut buf = vec![0; 4096];
        let n = tokio::time::timeout(SOON, stream.read(&mut buf)).await.unwrap().unwrap_or(0);
        String::from_utf8_lossy(&buf[..n]).into_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_new_rules_and_certificates_and_cuts_nobody() {
    let cluster = cluster().await;
    let auth = "hba_file = \"DIR/hba.conf\"";
    let open = "hostssl all all all scram-sha-256\n";
    let stage = Stage::start(&cluster, "", auth, &[("hba.conf", open)]).await;
    let strict = |root: &str| format!("sslmode=verify-full sslrootcert={root} channel_binding=require");
    assert_eq!(stage.psql("app", "app", &strict(&stage.root())).await, "app");
    let session = Session::enter(&stage, "app").await;

    // Another authority signs another certificate, and a rule shuts a role out.
    let (other, others) = (Authority::new(), "hostssl all ann all reject\n".to_owned() + open);
    let next = other.sign("localhost");
    std::fs::copy(&next.certificate_file, stage.file("own.crt")).unwrap();
    std::fs::copy(&next.key_file, stage.file("own.key")).unwrap();
    std::fs::write(stage.file("hba.conf"), others).unwrap();
    stage.proxy.signal(Signal::SIGHUP);
    let root = other.root().display().to_string();
    eventually(SOON, async || that(stage.psql("app", "app", &strict(&root)).await, |said| said == "app"))
        .await;
    let rejected = "pg_hba.conf rejects connection";
    let ann = async || stage.psql("ann", "ann", &strict(&root)).await;
    eventually(SOON, async || that(ann().await, |said| said.contains(rejected))).await;
    session.still_works().await;

    // What is wrong changes nothing, and is said with its line.
    std::fs::write(stage.file("hba.conf"), "host all all all trust\nhost all all 10.0.0.1 trust\nhosts\n")
        .unwrap();
    std::fs::write(stage.file("own.crt"), "no certificate").unwrap();
    stage.proxy.signal(Signal::SIGHUP);
    let log =
        eventually(SOON, async || that(stage.proxy.log(), |log| log.contains("app.reload_failed"))).await;
    for words in [
        "hba.conf:2: auth.hba_file: \"10.0.0.1\" has no mask",
        "hba.conf:3: auth.hba_file: \"hosts\" is no type",
    ] {
        assert!(log.contains(words), "{log}");
    }
    std::fs::write(stage.file("hba.conf"), open).unwrap();
    stage.proxy.signal(Signal::SIGHUP);
    eventually(SOON, async || {
        that(stage.proxy.log(), |log| log.contains("own.crt: it holds no PEM certificate"))
    })
    .await;
    assert_eq!(stage.psql("app", "app", &strict(&root)).await, "app", "the old certificate");
    assert!(stage.psql("ann", "ann", &strict(&root)).await.contains("rejects"), "the old rules");
    session.still_works().await;
}

/// A session over TLS that stays.
struct Session(tokio_postgres::Client, tokio_postgres_rustls::MakeRustlsConnect);

impl Session {
    async fn enter(stage: &Stage, user: &str) -> Session {
        let tls = cloud_mirror::backend::tls::ServerTls::new(
            cloud_mirror::backend::tls::TlsMode::VerifyFull,
            Some(&stage.authority.root()),
        )
        .unwrap();
        let tls = tokio_postgres_rustls::MakeRustlsConnect::new(tls.config().as_deref().unwrap().clone());
        let url = format!(
            "host=localhost port={} user={user} password={user} dbname=shop sslmode=require channel_binding=require",
            stage.proxy.port()
        );
        let (client, connection) = tokio_postgres::connect(&url, tls.clone()).await.unwrap();
        tokio::spawn(connection);
        Session(client, tls)
    }

    async fn still_works(&self) {
        assert_eq!(self.0.query_one("SELECT 1 + 1", &[]).await.unwrap().get::<_, i32>(0), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_may_come_inside_tls() {
    let cluster = cluster().await;
    let stage = Stage::start(
        &cluster,
        "",
        "hba_file = \"DIR/hba.conf\"",
        &[("hba.conf", "hostssl all all all scram-sha-256\n")],
    )
    .await;
    let Session(client, tls) = Session::enter(&stage, "app").await;
    let (token, sleep) = (
        client.cancel_token(),
        tokio::spawn(async move { client.batch_execute("SELECT pg_sleep(600)").await }),
    );
    let sleeps = "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    eventually(SOON, async || that(cluster.value("postgres", sleeps).await.unwrap(), |n| n == "1")).await;
    // sslmode=require: refused unless we speak TLS to it.
    token.cancel_query(tls).await.unwrap();
    let error = sleep.await.unwrap().unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("57014"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_of_the_operators_own_finds_the_secrets() {
    let cluster = cluster().await;
    for statement in [
        "CREATE ROLE asker LOGIN PASSWORD 'asker'",
        "CREATE TABLE secrets (name text, secret text)",
        "INSERT INTO secrets VALUES ('app', 'app'), ('ann', NULL), ('old', 'md5zz')",
        "INSERT INTO secrets SELECT rolname, rolpassword FROM pg_authid WHERE rolname IN ('eve', 'listed')",
        "CREATE FUNCTION look_up(text) RETURNS TABLE (name text, secret text) LANGUAGE sql SECURITY DEFINER AS \
         'SELECT s.name, s.secret FROM public.secrets s WHERE s.name = $1'",
        "REVOKE ALL ON secrets FROM public",
    ] {
        cluster.sql("shop", statement).await.unwrap();
    }
    let auth = "type = \"md5\"\nquery = \"SELECT * FROM look_up($1)\"\nquery_user = \"asker\"\n\
        query_password = \"asker\"\ncache = \"1h\"";
    let stage = Stage::start(&cluster, "", auth, &[]).await;
    for user in ["app", "eve", "listed"] {
        assert_eq!(stage.psql(user, user, "").await, user);
        assert!(stage.psql(user, "wrong", "sslmode=disable").await.contains(FATAL_28P01), "{user}");
    }
    for user in ["ann", "odd", "asker", "nobody"] {
        assert!(stage.psql(user, user, "sslmode=disable").await.contains(FATAL_28P01), "{user}");
    }
    // The function is replaced by another one under the question that was prepared.
    cluster
        .sql(
            "shop",
            "DROP FUNCTION look_up(text);
             CREATE FUNCTION look_up(name) RETURNS TABLE (a name, b varchar) LANGUAGE sql SECURITY DEFINER AS
             'SELECT s.name::name, s.secret::varchar FROM public.secrets s WHERE s.name = $1';
             INSERT INTO secrets VALUES ('odd', 'odd')",
        )
        .await
        .unwrap();
    assert_eq!(stage.psql("odd", "odd", "").await, "odd");
    // A changed password: one attempt may meet the old secret, the next one does not.
    assert_eq!(stage.psql("eve", "eve", "").await, "eve");
    cluster
        .sql("shop", "ALTER ROLE eve PASSWORD 'new'; UPDATE secrets SET secret = 'new' WHERE name = 'eve'")
        .await
        .unwrap();
    let _ = stage.psql("eve", "new", "sslmode=disable").await;
    assert_eq!(stage.psql("eve", "new", "").await, "eve");
    assert!(stage.psql("eve", "eve", "sslmode=disable").await.contains(FATAL_28P01));
}
