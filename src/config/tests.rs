use super::*;
use crate::base::Secret;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Files that exist for these tests.
fn read_file(path: &Path) -> Result<String, String> {
    match path.to_str() {
        Some("/run/secrets/local") => Ok("geheim\n".to_owned()),
        Some("/etc/empty") => Ok(String::new()),
        Some(path) if path.ends_with(".pem") && !path.contains("missing") => Ok("PEM".to_owned()),
        _ => Err("No such file or directory".to_owned()),
    }
}

pub(super) fn sources<'a>(
    text: Option<&str>,
    variables: &'a BTreeMap<String, String>,
    flags: &'a [Flag],
) -> Sources<'a> {
    Sources {
        file: text.map(|text| File { name: "c.toml".to_owned(), text: text.to_owned() }),
        variables,
        flags,
        machine: Machine::User,
        read_file: &read_file,
    }
}

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut map: BTreeMap<_, _> = [("HOME".to_owned(), "/home/ann".to_owned())].into();
    map.extend(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    map
}

fn flag(name: &'static str, key: &'static str, value: &str) -> Flag {
    Flag { name, key: key.into(), value: Some(value.to_owned()) }
}

#[track_caller]
fn loaded(text: &str, pairs: &[(&str, &str)]) -> Config {
    load(&sources(Some(text), &env(pairs), &[])).unwrap_or_else(|errors| panic!("{errors}"))
}

const LOCAL: &str = "[upstream.local]\nurl = \"postgres://app:pw@db/shop\"\n";
const CLOUD: &str =
    "[upstream.cloud]\nurl = \"postgres://owner:pw2@cloud.example/copy?sslmode=verify-full\"\n";

#[test]
fn two_urls_are_a_whole_configuration() {
    let flags = [
        flag("--local", "upstream.local.url", "postgres://postgres:pw@localhost/shop"),
        flag("--cloud", "upstream.cloud.url", "postgres://owner@cloud.example/copy"),
        flag("--replace-role-passwords", "mirror.*.replace_role_passwords", "true"),
        flag("--listen", "listen.tcp", "127.0.0.1:7000"),
        flag("--listen", "listen.tcp", "[::1]:7000"),
        flag("--pool-size", "pool.size", "20"),
        flag("--http", "http.listen", "off"),
        flag("--auth", "auth.type", "trust"),
    ];
    let variables = env(&[]);
    let config = load(&sources(None, &variables, &flags)).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.local.host, Host::Tcp("localhost".to_owned()));
    assert_eq!(config.local.password, Some(Secret::new("pw")));
    assert_eq!((config.local.port, config.local.sslmode), (5432, SslMode::Prefer));
    let [mirror] = config.mirrors.as_slice() else { panic!("{:?}", config.mirrors) };
    assert_eq!((mirror.name.as_str(), mirror.database.as_str()), ("cloud", "shop"));
    assert_eq!((mirror.target_database.as_str(), mirror.replace_role_passwords), ("copy", true));
    assert_eq!(
        config.listen.tcp.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["127.0.0.1:7000", "[::1]:7000"]
    );
    assert_eq!((config.pool.size, config.http.listen.is_none()), (Some(20), true));
    assert_eq!(config.auth.kind, AuthType::Trust);
    assert_eq!(config.auth.admin_users[0].as_str(), "postgres");
    assert_eq!(config.site.state_dir, Path::new("/home/ann/.local/state/cloud-mirror"));
    assert_eq!(config.lease.store, LeaseStore::File("/home/ann/.local/state/cloud-mirror/lease".into()));
    assert_eq!(
        (config.lease.ttl, config.failover.drain_timeout),
        (Duration::from_secs(30), Duration::from_secs(8))
    );
}

#[test]
fn state_goes_where_the_user_may_write() {
    #[track_caller]
    fn check(machine: Machine, pairs: &[(&str, &str)], expected: &str) {
        let variables: BTreeMap<_, _> =
            pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let sources = Sources { machine, ..sources(Some(LOCAL), &variables, &[]) };
        let config = load(&sources).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(config.site.state_dir, PathBuf::from(expected));
    }
    check(Machine::Root, &[("HOME", "/root")], "/var/lib/cloud-mirror");
    check(Machine::User, &[("HOME", "/home/ann")], "/home/ann/.local/state/cloud-mirror");
    check(Machine::User, &[("HOME", "/home/ann"), ("XDG_STATE_HOME", "/data")], "/data/cloud-mirror");
    let variables = BTreeMap::new();
    let errors = load(&sources(Some(LOCAL), &variables, &[])).unwrap_err().to_string();
    assert_eq!(
        errors,
        "c.toml: site.state_dir: there is no home directory to put it in; set site.state_dir or --state-dir"
    );
}

#[test]
fn variables_override_the_file_and_options_override_both() {
    let text =
        format!("[pool]\nsize = 1\nserver_idle_timeout = \"1m\"\n[log]\nlevel = \"warn\"\n{LOCAL}{CLOUD}");
    let variables = env(&[
        ("CLOUD_MIRROR__POOL__SIZE", "2"),
        ("CLOUD_MIRROR__LOG__LEVEL", "debug"),
        ("CLOUD_MIRROR__LISTEN__TCP", "127.0.0.1:1, 127.0.0.1:2"),
        ("CLOUD_MIRROR__MIRROR__CLOUD__REPLACE_ROLE_PASSWORDS", "true"),
        ("CLOUD_MIRROR__MIRROR__CLOUD__FULL_IDENTITY", "public.a, public.b"),
        ("CLOUD_MIRROR_CONFIG", "/etc/not/a/key"),
    ]);
    let flags = [flag("--pool-size", "pool.size", "3")];
    let config = load(&sources(Some(&text), &variables, &flags)).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!((config.pool.size, config.log.level), (Some(3), LogLevel::Debug));
    assert_eq!(config.pool.server_idle_timeout, Some(Duration::from_secs(60)));
    assert_eq!(config.listen.tcp.len(), 2);
    assert!(config.mirrors[0].replace_role_passwords);
    let tables = vec!["public.a".to_owned(), "public.b".to_owned()];
    assert_eq!(config.mirrors[0].full_identity, FullIdentity::Tables(tables));
}

#[test]
fn what_is_set_later_stands_in_place_of_an_option() {
    let flags = [
        flag("--local", "upstream.local.url", "postgres://postgres:pw@localhost/shop"),
        flag("--pool-size", "pool.size", "20"),
        flag("--listen", "listen.tcp", "127.0.0.1:7000"),
        flag("SET", "pool.size", "5"),
        flag("SET", "listen.tcp", "127.0.0.1:7001"),
        flag("SET", "listen.tcp", "127.0.0.1:7002"),
    ];
    let config = load(&sources(None, &env(&[]), &flags)).unwrap();
    assert_eq!(config.pool.size, Some(5));
    let listen: Vec<_> = config.listen.tcp.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:7001", "127.0.0.1:7002"]);
}

#[test]
fn secrets_come_from_files_variables_and_references() {
    let text = "[upstream.local]\nhost = \"/var/run/postgresql\"\nport = 5433\nuser = \"app\"\n\
        password_file = \"/run/secrets/local\"\n\
        [upstream.cloud]\nurl = \"postgres://owner:${CLOUD_PW}@c/copy\"\n\
        [[auth.users]]\nname = \"a\"\npassword_env = \"A_PW\"\n\
        [[auth.users]]\nname = \"b\"\npassword = \"$${x}\"\n";
    let config = loaded(text, &[("CLOUD_PW", "wolke"), ("A_PW", "aa")]);
    assert_eq!(config.local.host, Host::Unix("/var/run/postgresql".into()));
    assert_eq!((config.local.database.as_str(), config.local.port), ("app", 5433));
    assert_eq!(config.local.password, Some(Secret::new("geheim")));
    assert_eq!(config.cloud.as_ref().unwrap().password, Some(Secret::new("wolke")));
    let credentials: Vec<_> = config.auth.users.iter().map(|user| user.credential.clone()).collect();
    assert_eq!(
        credentials,
        [Credential::Password(Secret::new("aa")), Credential::Password(Secret::new("${x}"))]
    );
    let shown = format!("{config:?} {:?}", config.effective());
    for secret in ["geheim", "wolke", "aa\"", "${x}"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

#[test]
fn mirrors_take_their_databases_from_the_urls_unless_they_say_otherwise() {
    let text = format!(
        "{LOCAL}{CLOUD}[mirror.cloud]\nfull_identity = true\n[mirror.stock]\ndatabase = \"stock\"\nmode = \"async\"\n"
    );
    let config = loaded(&text, &[]);
    let names = |m: &Mirror| (m.name.to_string(), m.database.to_string(), m.target_database.to_string());
    let text = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(
        config.mirrors.iter().map(names).collect::<Vec<_>>(),
        [text("cloud", "shop", "copy"), text("stock", "stock", "stock")]
    );
    assert_eq!(config.mirrors[0].full_identity, FullIdentity::All);
    assert!(loaded(LOCAL, &[]).mirrors.is_empty());
}

#[test]
fn tls_towards_clients_is_offered_once_there_is_a_certificate() {
    let with = |extra: &str| loaded(&format!("[listen]\n{extra}\n{LOCAL}"), &[]).listen.tls;
    let (cert, key) = (PathBuf::from("/c.pem"), PathBuf::from("/k.pem"));
    assert_eq!(with(""), ClientTls::Disable);
    let files = "tls_cert = \"/c.pem\"\ntls_key = \"/k.pem\"";
    assert_eq!(with(files), ClientTls::Allow { cert: cert.clone(), key: key.clone() });
    assert_eq!(with(&format!("{files}\ntls = \"require\"")), ClientTls::Require { cert, key });
}

#[test]
fn a_reload_names_what_changes_now_and_what_needs_a_restart() {
    let old = loaded(&format!("{LOCAL}{CLOUD}"), &[]);
    assert!(diff(&old, &old.clone()).is_empty());
    let text = "[upstream.local]\nurl = \"postgres://app:other@db/shop\"\n\
        [listen]\ntcp = \"127.0.0.1:7000\"\n[pool]\nsize = 9\n[log]\nlevel = \"debug\"\nformat = \"json\"\n\
        [[auth.users]]\nname = \"x\"\npassword = \"y\"\n[failover]\nhold_timeout = \"40s\"\nprobe_misses = 5\n";
    let new = loaded(text, &[]);
    let changes = diff(&old, &new);
    assert_eq!(changes.live, ["auth.users", "failover.hold_timeout", "log.level", "pool.size"]);
    let cloud = changes.needs_restart.iter().filter(|key| !key.contains("cloud")).collect::<Vec<_>>();
    assert_eq!(cloud, ["failover.probe_misses", "listen.tcp", "log.format", "upstream.local.password"]);
    assert!(changes.needs_restart.contains(&"mirror.cloud.database".to_owned()));
    let applied = old.with_live_of(&new);
    assert_eq!(diff(&applied, &new).live, Vec::<String>::new());
    assert_eq!(diff(&old, &applied).needs_restart, Vec::<String>::new());
    let changed = loaded(&text.replace("\"y\"", "\"z\""), &[]);
    assert_eq!(diff(&new, &changed).live, ["auth.users"]);
}

#[test]
fn the_samples_are_whole_configurations() {
    let sample = include_str!("../../config/cloud-mirror.toml");
    let config = loaded(sample, &[("LOCAL_PASSWORD", "a"), ("CLOUD_PASSWORD", "b")]);
    assert_eq!(config.mirrors.len(), 1);
    // What the sample shows as commented lines must be right as well, and be the default.
    let uncommented: String = sample
        .lines()
        .map(|line| match line.strip_prefix("#= ") {
            Some(line) => format!("{line}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    assert_ne!(uncommented, sample);
    let full = loaded(&uncommented, &[("LOCAL_PASSWORD", "a"), ("CLOUD_PASSWORD", "b")]);
    assert_eq!(diff(&config, &full), Changes::default());
    let minimal = loaded(include_str!("../../config/minimal.toml"), &[]);
    assert_eq!(minimal.mirrors.len(), 1);
}

#[test]
fn databases_have_names_for_clients() {
    let text = format!(
        "{LOCAL}[databases]\nshop = \"shop\"\nbardb = \"bazdb\"\n\
         [databases.forcedb]\nuser = \"baz\"\npassword = \"foo\"\nsettings = {{ timezone = \"UTC\" }}\n"
    );
    let databases = loaded(&text, &[]).databases;
    assert_eq!(databases.others, Others::Refused);
    assert_eq!(databases.named["bardb"].name.as_str(), "bazdb");
    let forced = &databases.named["forcedb"];
    assert_eq!((forced.name.as_str(), forced.settings["timezone"].as_str()), ("forcedb", "UTC"));
    assert_eq!(forced.login.as_ref().unwrap().0.as_str(), "baz");
    assert_eq!(loaded(LOCAL, &[]).databases, Databases::default());
    let served = format!("{LOCAL}[databases]\n\"*\" = \"*\"\n");
    assert_eq!(loaded(&served, &[]).databases.others, Others::Served);
    let (old, new) = (loaded(LOCAL, &[]), loaded(&text, &[]));
    assert!(diff(&old, &new).needs_restart.is_empty());
    assert_eq!(old.with_live_of(&new).databases, new.databases);
    assert_eq!(new.effective()["databases.forcedb.password"], "***");
}

#[test]
fn limits_and_timeouts_have_pgbouncers_names_and_meanings() {
    let text = format!(
        "{LOCAL}[pool]\nsize = 30\nmin_size = 2\nreserve_size = 5\nreserve_timeout = \"3s\"\nmax_client_conn = 500\n\
         max_db_connections = 40\nserver_idle_timeout = \"0s\"\nquery_wait_notify = \"0s\"\nquery_timeout = \"1m\"\n\
         [pool.database.shop]\nsize = 7\nmax_db_connections = 9\nmax_db_client_connections = 90\n\
         [pool.user.app]\nmax_user_connections = 6\nquery_timeout = \"0s\"\n[tcp]\nkeepalive = false\nkeepidle = \"5s\"\n\
         [listen]\nbacklog = 64\n"
    );
    let config = loaded(&text, &[("CLOUD_MIRROR__POOL__DATABASE__STOCK__SIZE", "3")]);
    let pool = &config.pool;
    assert_eq!((pool.size, pool.min_size, pool.reserve_size), (Some(30), 2, 5));
    assert_eq!((pool.server_idle_timeout, pool.query_wait_notify), (None, None));
    let rules = pool.rules(b"shop", "app");
    assert_eq!(
        (rules.size, rules.max_db_connections, rules.max_user_connections),
        (Some(7), Some(9), Some(6))
    );
    assert_eq!((rules.max_db_client_connections, rules.query_timeout), (Some(90), None));
    let other = pool.rules(b"other", "someone");
    assert_eq!((other.size, other.max_db_connections), (Some(30), Some(40)));
    assert_eq!(other.query_timeout, Some(Duration::from_secs(60)));
    assert_eq!(pool.rules(b"stock", "someone").size, Some(3));
    assert_eq!((config.tcp.towards_clients().keepalive, config.listen.backlog), (None, 64));
    let shown = config.effective();
    for (key, value) in [
        ("pool.max_client_conn", "500"),
        ("pool.max_user_connections", "unlimited"),
        ("pool.server_idle_timeout", "0s"),
        ("pool.database.shop.max_db_connections", "9"),
        ("pool.user.app.query_timeout", "0s"),
        ("tcp.keepidle", "5s"),
    ] {
        assert_eq!(shown.get(key).map(String::as_str), Some(value), "{key}");
    }
    let plain = loaded(LOCAL, &[]);
    let changes = diff(&plain, &config);
    assert_eq!(changes.needs_restart, ["listen.backlog"]);
    assert!(changes.live.contains(&"pool.database.shop.size".to_owned()), "{:?}", changes.live);
    assert_eq!(plain.with_live_of(&config).pool, config.pool);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(
        lines in proptest::collection::vec(
            proptest::sample::select(vec![
                "[site]", "[listen]", "[upstream]", "[upstream.local]", "[[upstream.local]]", "[pool]", "[auth]",
                "[[auth.users]]", "[mirror.a]", "[mirror]", "[lease]", "[http]", "[log]", "[failover]",
                "url = \"postgres://a@b/c\"", "url = 3", "size = 3", "size = -1", "size = 99999999999999999999",
                "tcp = [1, \"a:1\"]", "tcp = 1.5", "users = 1", "name = \"x\"", "local = 1", "mode = \"\"",
                "[pool.database]", "[pool.database.a]", "[pool.user.a]", "[tcp]", "keepcnt = 0", "database = 1",
                "min_size = 4", "query_timeout = \"0s\"", "ttl = 1979-05-27", "full_identity = [1]", "store = \"file:\"", "\"*\" = 1", "x = \"${\"", "= 1", "]",
            ]),
            0..12,
        )
    ) {
        let variables = env(&[]);
        let _ = load(&sources(Some(&lines.join("\n")), &variables, &[]));
    }
}
