//! PostgreSQL's own programs.

use crate::fixture::Pair;
use cloud_mirror::lab::{PASSWORD, eventually};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Where a program connects.
#[derive(Clone, Copy)]
enum Way {
    Direct,
    Proxy,
    ProxySocket,
}

struct Done {
    out: String,
    errors: String,
}

async fn run(pair: &Pair, way: Way, program: &str, arguments: &[&str]) -> Done {
    let (host, port) = match way {
        Way::Direct => ("127.0.0.1".to_owned(), pair.local.port()),
        Way::Proxy => ("127.0.0.1".to_owned(), pair.proxy.port()),
        Way::ProxySocket => (pair.proxy.directory().display().to_string(), pair.proxy.port()),
    };
    let done = Command::new(pair.local.bindir().join(program))
        .args(arguments)
        .env("PGHOST", host)
        .env("PGPORT", port.to_string())
        .env("PGUSER", "app")
        .env("PGPASSWORD", "app-secret")
        .env("PGDATABASE", "shop")
        .env("PGSSLMODE", "prefer")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let done = tokio::time::timeout(Duration::from_secs(120), done).await.expect("it ends").unwrap();
    let (out, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{program} {arguments:?}: {errors}\n{out}\n{}", pair.proxy.log());
    Done { out: out.into_owned(), errors: errors.into_owned() }
}

/// The same program at both places prints the same.
async fn same(pair: &Pair, program: &str, arguments: &[&str]) -> String {
    let direct = run(pair, Way::Direct, program, arguments).await;
    let through = run(pair, Way::Proxy, program, arguments).await;
    assert_eq!(through.out, direct.out, "{program} {arguments:?}");
    assert_eq!(through.errors, direct.errors, "{program} {arguments:?}");
    through.out
}

#[tokio::test(flavor = "multi_thread")]
async fn the_programs_of_postgresql_see_what_they_would_see_directly() {
    let pair = Pair::start().await;
    pair.mirror_is("following").await;
    psql(&pair).await;
    our_commands(&pair).await;
    dump_and_restore(&pair).await;
    pgbench(&pair).await;
    assert_eq!(pair.proxy.status().await.unwrap()["state"], "steady", "{}", pair.proxy.log());
}

async fn psql(pair: &Pair) {
    let set_up = "create table goods (id int primary key, name text not null, price numeric(9,2) default 1);
        create index on goods (name); comment on table goods is 'what we sell';
        create view cheap as select * from goods where price < 5;
        create function twice(int) returns int language sql as 'select $1 * 2';
        insert into goods select g, 'good ' || g, g % 10 from generate_series(1, 5000) g";
    run(pair, Way::Proxy, "psql", &["-Xq", "-c", set_up]).await;
    let words = [
        "\\d",
        "\\d+ goods",
        "\\d cheap",
        "\\df twice",
        "\\dt+ t",
        "\\du app",
        "\\dn+",
        "\\l shop",
        "\\dx",
        "\\dp goods",
        "\\sf twice",
        "\\encoding",
        "\\dconfig search_path",
        "\\di",
    ];
    for word in words {
        let shown = same(pair, "psql", &["-X", "-c", word]).await;
        assert!(!shown.is_empty(), "{word}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display();
    let (out, back) = (format!("\\copy goods to '{path}'"), format!("\\copy goods from '{path}'"));
    let check = "select count(*), sum(id), sum(price) from goods";
    let expected = same(pair, "psql", &["-XAtqc", check]).await;
    let steps = ["-Xq1", "-c", &out, "-c", "delete from goods", "-c", &back];
    run(pair, Way::Proxy, "psql", &steps).await;
    assert_eq!(same(pair, "psql", &["-XAtqc", check]).await, expected);
    let cursor = ["-XAtq", "-v", "FETCH_COUNT=100", "-c", "select id, name from goods order by id"];
    assert_eq!(same(pair, "psql", &cursor).await.lines().count(), 5000);
    let script = "\\set ON_ERROR_STOP 0\nselect 1/0;\ninsert into goods values (1, 'x');\nselec;\nbegin;\n\
        savepoint a;\nselect * from nowhere;\nrollback to a;\nselect 'on';\ncommit;\n\
        select 1 \\; select 2;\nselect 6 * 7 as answer \\gset\n\\echo :answer\nselect :answer \\gdesc\n\
        listen a;\nnotify a, 'b';\n\\errverbose\nshow search_path;\n";
    let input = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(input.path(), script).unwrap();
    let arguments = ["-XAt", "-f", input.path().to_str().unwrap()];
    let shell = |way| run(pair, way, "psql", &arguments);
    let (direct, through) = (shell(Way::Direct).await, shell(Way::Proxy).await);
    let no_pid = |text: &str| match text.split_once("from server process with PID ") {
        Some((head, tail)) => format!("{head}{}", tail.trim_start_matches(|c: char| c.is_ascii_digit())),
        None => text.to_owned(),
    };
    assert_eq!(no_pid(&through.out), no_pid(&direct.out));
    assert_eq!(through.errors, direct.errors);
    assert!(through.out.contains("Asynchronous notification \"a\" with payload \"b\""), "{}", through.out);
    let by_socket = run(pair, Way::ProxySocket, "psql", &["-XAtqc", check]).await;
    assert_eq!(by_socket.out, expected);
}

async fn our_commands(pair: &Pair) {
    let status = async |way, arguments: &[&str]| run(pair, way, "psql", arguments).await.out;
    let row = status(Way::Proxy, &["-XAt", "-c", "SHOW MIRROR STATUS"]).await;
    assert!(row.starts_with("cloud|Following|"), "{row}");
    let url = pair.proxy.url("postgres", PASSWORD, "mirror");
    let row = status(Way::Proxy, &["-XAt", &url, "-c", "SHOW DATABASE MIRROR STATUS FOR cloud"]).await;
    assert!(row.contains("Following"), "{row}");
    let row = status(Way::Proxy, &["-XAt", &url.replace("/mirror", "/pgbouncer"), "-c", "SHOW LEASE"]).await;
    assert!(row.contains("local"), "{row}");
    // Through the socket, as the proxy's own user, without a password.
    let no_password = format!(
        "host={} port={} user=me dbname=mirror password=none",
        pair.proxy.directory().display(),
        pair.proxy.port()
    );
    let row = status(Way::ProxySocket, &["-XAt", &no_password, "-c", "SHOW MIRROR STATUS"]).await;
    assert!(row.starts_with("cloud|"), "{row}");
}

async fn dump_and_restore(pair: &Pair) {
    // As the role of the application, which does not own our schema.
    let dump = |way| run(pair, way, "pg_dump", &[]);
    let (direct, through) = (dump(Way::Direct).await.out, dump(Way::Proxy).await.out);
    // Newer versions put a random word around the dump.
    let lines = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.contains("restrict ")).map(str::to_owned).collect()
    };
    assert!(lines(&through) == lines(&direct), "{} and {} bytes", through.len(), direct.len());
    assert!(through.contains("CREATE TABLE public.goods"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dump");
    let at = path.to_str().unwrap();
    run(pair, Way::Proxy, "pg_dump", &["-Fd", "-j2", "-t", "goods", "-f", at]).await;
    run(pair, Way::Proxy, "psql", &["-Xqc", "drop table goods cascade"]).await;
    run(pair, Way::Proxy, "pg_restore", &["-j2", "-d", "shop", at]).await;
    let count = run(pair, Way::Proxy, "psql", &["-XAtqc", "select count(*) from goods"]).await.out;
    assert_eq!(count, "5000\n");
}

async fn pgbench(pair: &Pair) {
    run(pair, Way::Proxy, "pgbench", &["-i", "-q", "-s", "1"]).await;
    for protocol in ["simple", "extended", "prepared"] {
        let arguments = ["-n", "-c", "8", "-j", "2", "-t", "50", "-M", protocol];
        let shown = run(pair, Way::Proxy, "pgbench", &arguments).await.out;
        assert!(shown.contains("number of transactions actually processed: 400/400"), "{shown}");
        assert!(shown.contains("number of failed transactions: 0"), "{shown}");
        let arguments = ["-n", "-S", "-c", "4", "-t", "200", "-M", protocol, "-C"];
        let shown = run(pair, Way::ProxySocket, "pgbench", &arguments[..8]).await.out;
        assert!(shown.contains("number of failed transactions: 0"), "{shown}");
    }
    let rows = run(pair, Way::Proxy, "psql", &["-XAtqc", "select count(*) from pgbench_history"]).await.out;
    assert_eq!(rows, "1200\n");
    // The tables are younger than the mirror: it goes on and says that it does not carry them.
    eventually(Duration::from_secs(60), async || {
        let status = pair.proxy.status().await?;
        match status["mirrors"][0]["state"]["state"].as_str() {
            Some("following") => Ok(()),
            _ => Err(format!("{status:#}").into()),
        }
    })
    .await;
}
