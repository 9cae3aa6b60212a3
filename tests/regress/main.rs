//! PostgreSQL's own regression and isolation suites, at the server and through the proxy: the result
//! files have to be the same, byte for byte.
//!
//! `xtask/regress.sh` fetches them for the installed server; they are not part of this repository.
//! `REGRESS_MODES` names the modes of the pool to run, separated by commas; default: session,auto.
//! `REGRESS_POOL_SIZE` is the number of server connections; default: 8 in the pooled modes, the proxy's own in
//! session mode.

use cloud_mirror::lab::{Cluster, Proxy, SUPERUSER, SocketAuth};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest time of one run of the suite.
const PATIENCE: Duration = Duration::from_secs(900);
/// Server connections in the pooled modes; up to 20 tests run at the same time.
const POOL_SIZE: &str = "8";

/// Tests that may differ in a mode, and why.
fn known(mode: &str) -> &'static [(&'static str, &'static str)] {
    match mode {
        "session" => &[],
        // Sets what would be refused where the library of PL/pgSQL is loaded, in a new session: only a back
        // end in which no other client has called a function knows no better.
        _ => &[
            ("guc", "whether plpgsql is loaded depends on who has had the connection before"),
            // Counts the sessions that PostgreSQL has begun, around a new connection of psql's.
            ("stats", "a new session of a client may find a connection that is there already"),
        ],
    }
}

/// Result files by the name of their test.
type Results = BTreeMap<String, Vec<u8>>;

/// Which of PostgreSQL's suites.
#[derive(Clone, Copy)]
struct Kind {
    /// Where its files are.
    folder: &'static str,
    /// The file that names the tests.
    schedule: &'static str,
    /// Its driver, beside the server's programs.
    driver: &'static str,
    database: &'static str,
}

const REGRESSION: Kind = Kind {
    folder: "suite",
    schedule: "parallel_schedule",
    driver: "regress/pg_regress",
    database: "regression",
};

/// Asks the server which back ends wait for which, by the process ids that clients were told.
const ISOLATION: Kind = Kind {
    folder: "isolation",
    schedule: "isolation_schedule",
    driver: "isolation/pg_isolation_regress",
    database: "isolation_regression",
};

struct Suite {
    kind: Kind,
    home: PathBuf,
    out: PathBuf,
}

impl Suite {
    fn fetch(kind: Kind) -> Suite {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("xtask/regress.sh");
        let done = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
        assert!(done.status.success(), "xtask/regress.sh: {}", done.status);
        let home = PathBuf::from(String::from_utf8(done.stdout).unwrap().trim());
        Suite { kind, out: home.join(format!("{}-out", kind.folder)), home }
    }

    /// Runs the whole schedule at 127.0.0.1:`port`.
    fn run(&self, cluster: &Cluster, port: u16) -> Results {
        let _ = fs::remove_dir_all(&self.out);
        // The server writes there too, as another user.
        for directory in ["", "results", "sql", "expected", "testtablespace"] {
            let directory = self.out.join(directory);
            fs::create_dir_all(&directory).unwrap();
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let suite = self.home.join(self.kind.folder);
        let program = cluster.bindir().join("../lib/pgxs/src/test").join(self.kind.driver);
        let log = fs::File::create(self.out.join("log")).unwrap();
        let mut child = Command::new(program)
            .arg("--use-existing")
            .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--user", SUPERUSER])
            .arg("--inputdir")
            .arg(&suite)
            .arg("--outputdir")
            .arg(&self.out)
            .arg("--bindir")
            .arg(cluster.bindir())
            .arg("--dlpath")
            .arg(&self.home)
            .arg("--schedule")
            .arg(suite.join(self.kind.schedule))
            .args(["--dbname", self.kind.database])
            .env("PGSSLMODE", "disable")
            .env("PGGSSENCMODE", "disable")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let started = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if started.elapsed() > PATIENCE {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("the suite does not end:\n{}", fs::read_to_string(self.out.join("log")).unwrap());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let files = fs::read_dir(self.out.join("results")).unwrap().flatten();
        let files = files.filter(|file| file.path().extension().is_some_and(|e| e == "out"));
        let name = |file: &fs::DirEntry| file.path().file_stem().unwrap().to_string_lossy().into_owned();
        files.map(|file| (name(&file), fs::read(file.path()).unwrap())).collect()
    }

    /// What the driver says of the last run: how many results are those that PostgreSQL expects.
    fn verdict(&self) -> String {
        let log = fs::read_to_string(self.out.join("log")).unwrap();
        let verdict = log.lines().find(|line| line.contains("tests passed") || line.contains("tests failed"));
        verdict.expect("the driver has a last word").trim().to_owned()
    }

    /// How many tests the schedule names.
    fn count(&self) -> usize {
        let schedule = fs::read_to_string(self.home.join(self.kind.folder).join(self.kind.schedule)).unwrap();
        let tests = schedule.lines().filter_map(|line| line.strip_prefix("test: "));
        tests.map(|tests| tests.split_whitespace().count()).sum()
    }
}

/// A server as pg_regress makes one for itself.
async fn server(database: &str) -> Cluster {
    let cluster = Cluster::builder()
        .socket_auth(SocketAuth::Trust)
        .hba("host all all 127.0.0.1/32 trust")
        .setting("max_prepared_transactions", 2)
        .setting("max_connections", 100)
        .start()
        .await
        .unwrap();
    // template0, as the suite's own driver makes it.
    let create = format!("CREATE DATABASE {database} TEMPLATE template0");
    cluster.sql("postgres", &create).await.unwrap();
    for setting in ["lc_messages", "lc_monetary", "lc_numeric", "lc_time"] {
        let set = format!("ALTER DATABASE {database} SET {setting} TO 'C'");
        cluster.sql("postgres", &set).await.unwrap();
    }
    for (setting, value) in [("bytea_output", "hex"), ("timezone_abbreviations", "Default")] {
        let set = format!("ALTER DATABASE {database} SET {setting} TO '{value}'");
        cluster.sql("postgres", &set).await.unwrap();
    }
    cluster
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: PostgreSQL's regression suite"]
async fn the_regression_suite_gives_what_it_gives_without_a_proxy() {
    let modes = std::env::var("REGRESS_MODES").unwrap_or_else(|_| "session,auto".to_owned());
    compare(REGRESSION, &modes).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: PostgreSQL's isolation suite"]
async fn the_isolation_suite_gives_what_it_gives_without_a_proxy() {
    // In the pooled modes a client does not hold one back end, whose process id it could tell.
    compare(ISOLATION, "session").await;
}

async fn compare(kind: Kind, modes: &str) {
    let suite = Suite::fetch(kind);
    let cluster = server(kind.database).await;
    let direct = suite.run(&cluster, cluster.port());
    drop(cluster);
    println!("direct: {}", suite.verdict());
    assert!(direct.len() >= suite.count(), "{} results of {} tests", direct.len(), suite.count());

    let mut unexpected = Vec::new();
    for mode in modes.split(',') {
        let cluster = server(kind.database).await;
        let binary = Path::new(env!("CARGO_BIN_EXE_cloud-mirror"));
        let url = cluster.url(SUPERUSER, kind.database);
        let mut arguments = vec!["--local", &url, "--auth", "trust", "--pool-mode", mode];
        let size = std::env::var("REGRESS_POOL_SIZE").ok();
        let size = size.or((mode != "session").then(|| POOL_SIZE.to_owned()));
        if let Some(size) = &size {
            arguments.extend(["--pool-size", size]);
        }
        // psql shows notices, and how long a client waits is not of the suite.
        let silence = "CLOUD_MIRROR__POOL__QUERY_WAIT_NOTIFY";
        let proxy = Proxy::new(binary, &arguments).unwrap().variable(silence, "0s");
        proxy.start().await.unwrap();
        let started = Instant::now();
        let through = suite.run(&cluster, proxy.port());
        let names: BTreeSet<&String> = direct.keys().chain(through.keys()).collect();
        let differing: Vec<&String> =
            names.iter().copied().filter(|name| direct.get(*name) != through.get(*name)).collect();
        println!(
            "{mode}: {} of {} as direct, in {:.0} s",
            names.len() - differing.len(),
            names.len(),
            started.elapsed().as_secs_f64()
        );
        for name in differing {
            let reason = known(mode).iter().find(|(known, _)| known == name).map(|(_, why)| *why);
            println!("  {name}: {}", reason.unwrap_or("NOT EXPECTED"));
            let kept = suite.home.join(format!("{name}.{mode}"));
            let (one, other) = (kept.with_extension("direct"), kept.with_extension(mode));
            fs::write(&one, direct.get(name).map_or(&[][..], Vec::as_slice)).unwrap();
            fs::write(&other, through.get(name).map_or(&[][..], Vec::as_slice)).unwrap();
            if reason.is_none() {
                println!("  diff {} {}", one.display(), other.display());
                unexpected.push(format!("{mode}: {name}"));
            }
        }
    }
    assert!(unexpected.is_empty(), "{unexpected:?}");
}
