//! Everything written, from all places, to a whole [`Config`] or all its mistakes.

use super::model::{ClientCertificates, Config, Log, LogFormat, LogLevel, SiteConfig, Upstream};
use super::problem::{ConfigErrors, Origin, Problem};
use super::reader::{Problems, Section, unknown};
use super::tree::{self, Table, Value};
use super::{databases, lease, listen, mirrors, pool, tcp, upstream, users};
use crate::base::Site;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// As the operator named it; stands in front of every mistake.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// An option of the command line that overrides a key. Given twice, it makes a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// `--pool-size`
    pub name: &'static str,
    /// `pool.size`; `mirror.*.replace_role_passwords` speaks of every mirror.
    pub key: Cow<'static, str>,
    /// As typed; `None` takes back what the file and the environment say.
    pub value: Option<String>,
}

/// What the defaults depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// We run as root: state is in `/var/lib`.
    Root,
    /// We run as somebody: state is in that user's home.
    User,
}

/// Everything a configuration is made from. Later ones win: file, variables, flags.
pub struct Sources<'a> {
    /// The file, if one is used.
    pub file: Option<File>,
    /// The whole environment.
    pub variables: &'a BTreeMap<String, String>,
    /// Options of the command line.
    pub flags: &'a [Flag],
    /// Who we are.
    pub machine: Machine,
    /// Reads a small text file (secrets, certificates); the error is shown to the operator.
    pub read_file: &'a dyn Fn(&Path) -> Result<String, String>,
}

const SECTIONS: &[&str] = &[
    "site",
    "listen",
    "upstream",
    "databases",
    "pool",
    "tcp",
    "auth",
    "mirror",
    "lease",
    "failover",
    "http",
    "log",
];

/// Checks everything and returns a whole configuration, or every mistake at once.
pub fn load(sources: &Sources<'_>) -> Result<Config, ConfigErrors> {
    let mut early = Vec::new();
    let mut tree = tree::merged(sources, &mut early);
    let is_readable = !early.iter().any(|problem| problem.key.is_empty() && is_in_file(problem));
    if !is_readable {
        return Err(sorted(early));
    }
    let problems = Problems::default();
    let config = read(sources, &mut tree, &problems);
    early.extend(problems.into_inner());
    match config {
        Some(config) if early.is_empty() => Ok(config),
        _ => {
            assert!(!early.is_empty(), "a configuration is refused only with a reason");
            Err(sorted(early))
        }
    }
}

fn is_in_file(problem: &Problem) -> bool {
    matches!(problem.at, Origin::Line { .. } | Origin::File(_))
}

fn sorted(mut problems: Vec<Problem>) -> ConfigErrors {
    problems.sort_by(|a, b| a.at.cmp(&b.at));
    problems.dedup();
    ConfigErrors(problems)
}

fn read(sources: &Sources<'_>, tree: &mut Table, problems: &Problems) -> Option<Config> {
    let nowhere = match &sources.file {
        Some(file) => Origin::File(Arc::from(file.name.as_str())),
        None => Origin::Nowhere,
    };
    let has_databases = tree.contains_key("databases");
    let mut section = |name: &str| Section::take(tree, "", name, &nowhere, problems);
    let site = section("site");
    let listen = section("listen");
    let upstreams = section("upstream");
    let databases = section("databases");
    let pool = section("pool");
    let tcp_options = section("tcp");
    let auth = section("auth");
    let mut mirror = section("mirror");
    let lease = section("lease");
    let failover = section("failover");
    let http = section("http");
    let log = section("log");
    for (name, node) in tree.iter() {
        unknown(problems, &node.at, "", name, SECTIONS);
    }

    let site = read_site(site, sources);
    let (listen, tcp) = listen::read(listen, sources);
    let upstreams = read_upstreams(upstreams, sources);
    if let Some(listen) = &listen
        && listen.reuse_port
        && upstreams.has_cloud
    {
        problems.add(
            &nowhere,
            "listen.reuse_port",
            "two proxies cannot hold one lease: the kernel would give clients to the one that may not write",
            "remove it, or [upstream.cloud]",
        );
    }
    let databases = databases::read(databases, has_databases, sources);
    let pool = pool::read(pool);
    let tcp_options = tcp::read(tcp_options);
    let local = upstreams.local.as_ref();
    let has_client_ca =
        listen.as_ref().is_none_or(|listen| listen.client_certificates != ClientCertificates::Ignored);
    let around = users::Around { local_user: local.map(|local| &local.user), tcp: &tcp, has_client_ca };
    let auth = users::read(auth, sources, &around);
    let around = mirrors::Around {
        local,
        cloud: upstreams.cloud.as_ref(),
        has_cloud: upstreams.has_cloud,
        replaces_role_passwords: takes_flag_for_all(&mut mirror),
    };
    let mirrors = mirrors::read(mirror, &around);
    let lease = lease::read(lease, site.as_ref().map(|site| site.state_dir.as_path()));
    let failover = lease::read_failover(failover);
    let http = listen::read_http(http);
    let log = read_log(log);
    Some(Config {
        site: site?,
        listen: listen?,
        local: upstreams.local?,
        cloud: upstreams.cloud,
        databases: databases?,
        pool: pool?,
        tcp: tcp_options?,
        auth: auth?,
        mirrors: mirrors?,
        lease: lease?,
        failover: failover?,
        http: http?,
        log: log?,
    })
}

/// `--replace-role-passwords` is kept under the mirror `*`, which a file cannot write.
fn takes_flag_for_all(mirror: &mut Section<'_>) -> bool {
    if !mirror.has("*") {
        return false;
    }
    let Some(node) = mirror.node("*") else { return false };
    match node.value {
        Value::Table(_) if matches!(node.at, Origin::Flag(_)) => true,
        _ => {
            mirror.problems().add(&node.at, "mirror.*", "is no name of a mirror", "write [mirror.NAME]");
            false
        }
    }
}

struct Upstreams {
    local: Option<Upstream>,
    cloud: Option<Upstream>,
    has_cloud: bool,
}

fn read_upstreams(section: Section<'_>, sources: &Sources<'_>) -> Upstreams {
    let (problems, at) = (section.problems(), section.at.clone());
    let mut found = Upstreams { local: None, cloud: None, has_cloud: false };
    let mut has_local = false;
    for (name, entry) in section.into_sections() {
        match name.as_str() {
            "local" => {
                has_local = true;
                found.local = upstream::read(entry, sources);
            }
            "cloud" => {
                found.has_cloud = true;
                found.cloud = upstream::read(entry, sources);
            }
            _ => {
                let at = entry.at.clone();
                unknown(problems, &at, "upstream", &name, &["local", "cloud"]);
            }
        }
    }
    if !has_local {
        let instead =
            "write its url there, or start with --local postgres://user:password@host:5432/database";
        problems.add(&at, "upstream.local", "is missing", instead);
    }
    found
}

fn read_site(mut section: Section<'_>, sources: &Sources<'_>) -> Option<SiteConfig> {
    let later = [("cloud", "a proxy in the cloud comes later")];
    let has_name = section.has("name");
    let name = section.choice("name", &[("local", Site::Local)], &later);
    let has_dir = section.has("state_dir");
    let state_dir = match section.path("state_dir", "\"/var/lib/cloud-mirror\"") {
        Some(dir) if !dir.value.is_absolute() => {
            let what = format!("{:?} is not an absolute path", dir.value.display().to_string());
            section.problem(&dir.at, "state_dir", what, "write for example \"/var/lib/cloud-mirror\"");
            None
        }
        Some(dir) => Some(dir.value),
        None if has_dir => None,
        None => {
            let default = default_state_dir(sources);
            if default.is_none() {
                let at = section.at.clone();
                section.problem(
                    &at,
                    "state_dir",
                    "there is no home directory to put it in",
                    "set site.state_dir or --state-dir",
                );
            }
            default
        }
    };
    section.finish();
    let is_sound = name.is_some() || !has_name;
    state_dir.filter(|_| is_sound).map(|state_dir| SiteConfig { name: Site::Local, state_dir })
}

/// XDG Base Directory Specification, `$XDG_STATE_HOME`.
fn default_state_dir(sources: &Sources<'_>) -> Option<PathBuf> {
    const NAME: &str = "cloud-mirror";
    let absolute =
        |name: &str| sources.variables.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    match sources.machine {
        Machine::Root => Some(Path::new("/var/lib").join(NAME)),
        Machine::User => absolute("XDG_STATE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
            .map(|dir| dir.join(NAME)),
    }
}

fn read_log(mut section: Section<'_>) -> Option<Log> {
    let has_format = section.has("format");
    let format = section.choice("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)], &[]);
    let has_level = section.has("level");
    let levels = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
    let level = section.choice("level", &levels.map(|level| (level.as_str(), level)), &[]);
    section.finish();
    let is_sound = (format.is_some() || !has_format) && (level.is_some() || !has_level);
    is_sound.then(|| Log {
        format: format.map_or(LogFormat::Text, |format| format.value),
        level: level.map_or(LogLevel::Info, |level| level.value),
    })
}
