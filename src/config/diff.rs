//! What a reload changes, and what it cannot change.

use super::model::{
    AuthType, ClientCertificates, ClientTls, Config, Credential, FullIdentity, Host, Upstream,
};
use super::units::show_duration;
use super::{ChannelBinding, SslNegotiation};
use crate::base::Secret;
use std::collections::BTreeMap;

/// The keys that differ between two configurations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Take effect at once.
    pub live: Vec<String>,
    /// Keep their old value until the process is started again.
    pub needs_restart: Vec<String>,
}

impl Changes {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.needs_restart.is_empty()
    }
}

/// Keys that a running process takes over; every other key needs a restart.
const LIVE: &[&str] = &[
    "auth.admin_users",
    "auth.cache",
    "auth.query",
    "auth.rules",
    "auth.stats_users",
    "auth.type",
    "auth.users",
    "failover.drain_timeout",
    "failover.hold_timeout",
    "failover.restart_grace",
    "listen.proxy_protocol",
    "listen.tls",
    "listen.tls_cert",
    "listen.tls_client_ca",
    "listen.tls_client_cert",
    "listen.tls_key",
    "log.level",
];

/// Sections of which a running process takes over every key.
const LIVE_SECTIONS: &[&str] = &["databases.", "pool.", "tcp."];

/// Whether a running process takes the key over.
pub(super) fn is_live(key: &str) -> bool {
    LIVE.contains(&key) || LIVE_SECTIONS.iter().any(|section| key.starts_with(section))
}

/// Compares key by key; secrets are compared and never shown.
pub fn diff(old: &Config, new: &Config) -> Changes {
    let (old, new) = (flat(old), flat(new));
    let mut changes = Changes::default();
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for key in keys {
        if old.get(key) == new.get(key) {
            continue;
        }
        match is_live(key) {
            true => changes.live.push(key.clone()),
            false => changes.needs_restart.push(key.clone()),
        }
    }
    changes
}

impl Config {
    /// The keys a running process takes over from `new`; the others keep their present value.
    #[must_use]
    pub fn with_live_of(&self, new: &Config) -> Config {
        let mut config = self.clone();
        config.auth.clone_from(&new.auth);
        config.listen.tls.clone_from(&new.listen.tls);
        config.listen.client_certificates.clone_from(&new.listen.client_certificates);
        config.listen.proxies.clone_from(&new.listen.proxies);
        config.failover.drain_timeout = new.failover.drain_timeout;
        config.failover.hold_timeout = new.failover.hold_timeout;
        config.failover.restart_grace = new.failover.restart_grace;
        config.log.level = new.log.level;
        config.databases.clone_from(&new.databases);
        config.pool.clone_from(&new.pool);
        config.tcp.clone_from(&new.tcp);
        config
    }

    /// Every key with its value in force, secrets as `***`.
    pub fn effective(&self) -> BTreeMap<String, String> {
        flat(self).into_iter().map(|(key, value)| (key, value.shown)).collect()
    }
}

#[derive(PartialEq)]
struct Entry {
    shown: String,
    /// What makes two hidden values differ.
    compared: String,
}

fn flat(config: &Config) -> BTreeMap<String, Entry> {
    let mut map = BTreeMap::new();
    let mut put = |key: &str, value: String| {
        map.insert(key.to_owned(), Entry { shown: value, compared: String::new() });
    };
    put("site.name", config.site.name.to_string());
    put("site.state_dir", config.site.state_dir.display().to_string());
    let list = config.listen.tcp.iter().map(ToString::to_string).collect::<Vec<_>>();
    put("listen.tcp", list.join(", "));
    if let Some(dir) = &config.listen.unix_socket_dir {
        put("listen.unix_socket_dir", dir.display().to_string());
    }
    let (tls, files) = match &config.listen.tls {
        ClientTls::Disable => ("disable", None),
        ClientTls::Allow { cert, key } => ("allow", Some((cert, key))),
        ClientTls::Require { cert, key } => ("require", Some((cert, key))),
    };
    put("listen.tls", tls.to_owned());
    if let Some((cert, key)) = files {
        put("listen.tls_cert", cert.display().to_string());
        put("listen.tls_key", key.display().to_string());
    }
    put("listen.reuse_port", config.listen.reuse_port.to_string());
    put("listen.backlog", config.listen.backlog.to_string());
    super::pool::put(&config.pool, &mut put);
    let tcp = &config.tcp;
    let or_default =
        |duration: Option<std::time::Duration>| duration.map_or("default".to_owned(), show_duration);
    put("tcp.keepalive", tcp.keepalive.to_string());
    put("tcp.keepidle", or_default(tcp.keepidle));
    put("tcp.keepintvl", show_duration(tcp.keepintvl));
    put("tcp.keepcnt", tcp.keepcnt.to_string());
    put("tcp.user_timeout", or_default(tcp.user_timeout));
    put(
        "auth.type",
        match config.auth.kind {
            AuthType::ScramSha256 => "scram-sha-256".to_owned(),
            AuthType::Trust => "trust".to_owned(),
            AuthType::Md5 => "md5".to_owned(),
            AuthType::Password => "password".to_owned(),
            AuthType::Certificate => "cert".to_owned(),
            AuthType::Rules => "hba".to_owned(),
        },
    );
    let (wanted, authority) = match &config.listen.client_certificates {
        ClientCertificates::Ignored => ("allow", None),
        ClientCertificates::Allowed(file) => ("allow", Some(file)),
        ClientCertificates::Required(file) => ("require", Some(file)),
    };
    if let Some(file) = authority {
        put("listen.tls_client_ca", file.display().to_string());
        put("listen.tls_client_cert", wanted.to_owned());
    }
    if !config.listen.proxies.is_empty() {
        let proxies = config.listen.proxies.iter().map(ToString::to_string).collect::<Vec<_>>();
        put("listen.proxy_protocol", proxies.join(", "));
    }
    if config.auth.kind == AuthType::Rules {
        put("auth.rules", format!("{} rules", config.auth.rules.len()));
    }
    put("auth.cache", show_duration(config.auth.cache));
    let admins = config.auth.admin_users.iter().map(ToString::to_string).collect::<Vec<_>>();
    put("auth.admin_users", admins.join(", "));
    let watchers = config.auth.stats_users.iter().map(ToString::to_string).collect::<Vec<_>>();
    put("auth.stats_users", watchers.join(", "));
    for mirror in &config.mirrors {
        let key = |key: &str| format!("mirror.{}.{key}", mirror.name);
        put(&key("database"), mirror.database.to_string());
        put(&key("target_database"), mirror.target_database.to_string());
        put(&key("mode"), "async".to_owned());
        put(
            &key("full_identity"),
            match &mirror.full_identity {
                FullIdentity::None => "false".to_owned(),
                FullIdentity::All => "true".to_owned(),
                FullIdentity::Tables(tables) => tables.join(", "),
            },
        );
        put(&key("replace_role_passwords"), mirror.replace_role_passwords.to_string());
    }
    put("lease.store", config.lease.store.to_string());
    put("lease.ttl", show_duration(config.lease.ttl));
    put("lease.authority", "internet".to_owned());
    put("lease.rebuild", config.lease.rebuild.to_string());
    let failover = &config.failover;
    put("failover.restart_grace", show_duration(failover.restart_grace));
    put("failover.hold_timeout", show_duration(failover.hold_timeout));
    put("failover.drain_timeout", show_duration(failover.drain_timeout));
    put("failover.probe_interval", show_duration(failover.probe_interval));
    put("failover.probe_timeout", show_duration(failover.probe_timeout));
    put("failover.probe_misses", failover.probe_misses.to_string());
    put("http.listen", config.http.listen.as_ref().map_or("off".to_owned(), ToString::to_string));
    put(
        "log.format",
        match config.log.format {
            super::LogFormat::Text => "text".to_owned(),
            super::LogFormat::Json => "json".to_owned(),
        },
    );
    put("log.level", config.log.level.as_str().to_owned());

    config.databases.put(|key, shown, compared| {
        map.insert(key, Entry { shown, compared });
    });
    let users = config.auth.users.iter().map(|user| user.name.to_string()).collect::<Vec<_>>();
    let credentials = config.auth.users.iter().map(|user| match &user.credential {
        Credential::Password(secret) => format!("p{}", secret.expose()),
        Credential::Verifier(secret) => format!("v{}", secret.expose()),
        Credential::Md5(secret) => format!("m{}", secret.expose()),
    });
    let compared = credentials.collect::<Vec<_>>().join("\0");
    map.insert("auth.users".to_owned(), Entry { shown: users.join(", "), compared });
    if let Some(entry) = map.get_mut("auth.rules") {
        entry.compared = format!("{:?} {:?}", config.auth.rules, config.auth.maps);
    }
    if let Some(query) = &config.auth.query {
        let secret = query.login.as_ref().and_then(|(_, password)| password.as_ref());
        let compared = format!("{query:?} {}", secret.map_or("", Secret::expose));
        map.insert("auth.query".to_owned(), Entry { shown: query.text.clone(), compared });
    }
    put_upstream(&mut map, "upstream.local", &config.local);
    if let Some(cloud) = &config.cloud {
        put_upstream(&mut map, "upstream.cloud", cloud);
    }
    map
}

fn put_upstream(map: &mut BTreeMap<String, Entry>, path: &str, upstream: &Upstream) {
    let mut put = |key: &str, shown: String, compared: String| {
        map.insert(format!("{path}.{key}"), Entry { shown, compared });
    };
    let host = match &upstream.host {
        Host::Tcp(host) => host.clone(),
        Host::Unix(dir) => dir.display().to_string(),
    };
    put("host", host, String::new());
    put("port", upstream.port.to_string(), String::new());
    put("user", upstream.user.to_string(), String::new());
    if let Some(password) = &upstream.password {
        put("password", "***".to_owned(), password.expose().to_owned());
    }
    put("dbname", upstream.database.to_string(), String::new());
    put("sslmode", upstream.sslmode.as_str().to_owned(), String::new());
    if let Some((cert, key)) = &upstream.sslcert {
        put("sslcert", cert.display().to_string(), String::new());
        put("sslkey", key.display().to_string(), String::new());
    }
    if upstream.sslnegotiation == SslNegotiation::Direct {
        put("sslnegotiation", "direct".to_owned(), String::new());
    }
    match upstream.channel_binding {
        ChannelBinding::Prefer => {}
        ChannelBinding::Disable => put("channel_binding", "disable".to_owned(), String::new()),
        ChannelBinding::Require => put("channel_binding", "require".to_owned(), String::new()),
    }
    if let Some(path) = &upstream.sslrootcert {
        put("sslrootcert", path.display().to_string(), String::new());
    }
    if let Some(dir) = &upstream.unix_socket_dir {
        put("unix_socket_dir", dir.display().to_string(), String::new());
    }
}
