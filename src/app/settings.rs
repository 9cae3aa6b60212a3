//! What the configuration says, as the rooms want to hear it.

use crate::auth;
use crate::backend::tls::ServerTls;
use crate::backend::{Address, Endpoint, Login, Party, Proof, Upstream};
use crate::base::DatabaseName;
use crate::config;
use crate::failover::controller;
use crate::pool;
use crate::route::{Named, Names};
use std::path::PathBuf;
use std::sync::Arc;

/// The ways for clients' links: the Unix sockets in `directories` where a file is there, then the
/// way in the configuration.
pub fn upstream(party: &Party, configured: &config::Upstream, directories: &[PathBuf]) -> Arc<Upstream> {
    let port = configured.port;
    let mut endpoints = Vec::new();
    if matches!(configured.host, config::Host::Tcp(_)) {
        for directory in configured.unix_socket_dir.iter().chain(directories) {
            let address = Address::Unix { directory: directory.clone(), port };
            let is_new = endpoints.iter().all(|known: &Endpoint| known.address != address);
            if is_new && Address::socket_path(directory, port).exists() {
                endpoints.push(Endpoint { address, tls: ServerTls::disabled() });
            }
        }
    }
    endpoints.push(party.endpoint.clone());
    Arc::new(Upstream { endpoints })
}

/// How clients prove who they are. `control_login` is the default administrator.
pub fn auth(config: &config::Config) -> auth::Settings {
    let auth = &config.auth;
    let method = match auth.kind {
        // The rules have methods of their own.
        config::AuthType::ScramSha256 | config::AuthType::Rules => auth::Method::ScramSha256,
        config::AuthType::Trust => auth::Method::Trust,
        config::AuthType::Md5 => auth::Method::Md5,
        config::AuthType::Password => auth::Method::Password,
        config::AuthType::Certificate => auth::Method::Certificate,
    };
    let rules = match auth.kind {
        // Without any rule nobody gets in.
        config::AuthType::Rules => Some(auth.rules.clone()),
        _ => None,
    };
    let static_users = auth.users.iter().filter_map(|user| {
        let secret = match &user.credential {
            config::Credential::Password(password) => auth::StaticSecret::Password(password.clone()),
            // The configuration has checked its form.
            config::Credential::Verifier(verifier) => {
                auth::StaticSecret::Verifier(verifier.expose().parse().ok()?)
            }
            config::Credential::Md5(hash) => auth::StaticSecret::Md5(hash.clone()),
        };
        Some(auth::StaticUser { name: user.name.clone(), secret })
    });
    let admins = match auth.admin_users.as_slice() {
        [] => vec![config.local.user.to_string()],
        users => users.iter().map(ToString::to_string).collect(),
    };
    auth::Settings {
        method,
        rules,
        maps: auth.maps.clone(),
        cache: auth.cache,
        static_users: static_users.collect(),
        admin_users: admins.into_iter().collect(),
        stats_users: auth.stats_users.iter().map(ToString::to_string).collect(),
        console_uid: Some(nix::unistd::geteuid().as_raw()),
        hold_timeout: config.failover.hold_timeout,
        timeout: config.pool.client_login_timeout,
        ..auth::Settings::default()
    }
}

/// TLS towards clients.
pub fn encryption(listen: &config::Listen) -> Result<auth::ClientEncryption, auth::ClientTlsError> {
    let clients = match &listen.client_certificates {
        config::ClientCertificates::Ignored => auth::ClientAuthority::None,
        config::ClientCertificates::Allowed(file) => auth::ClientAuthority::Allowed(file.clone()),
        config::ClientCertificates::Required(file) => auth::ClientAuthority::Required(file.clone()),
    };
    let load = |cert: &PathBuf, key: &PathBuf| auth::ClientTls::from_files(cert, key, &clients).map(Arc::new);
    Ok(match &listen.tls {
        config::ClientTls::Disable => auth::ClientEncryption::Never,
        config::ClientTls::Allow { cert, key } => auth::ClientEncryption::Offered(load(cert, key)?),
        config::ClientTls::Require { cert, key } => auth::ClientEncryption::Required(load(cert, key)?),
    })
}

/// Who has to say for whom it connects.
pub fn proxies(listen: &config::Listen) -> auth::TrustedProxies {
    auth::TrustedProxies(listen.proxies.clone())
}

/// What clients call databases.
pub fn names(databases: &config::Databases) -> Arc<Names> {
    let named = databases.named.iter().map(|(name, database)| {
        let login = database.login.as_ref().map(|(user, password)| Login {
            user: user.clone(),
            proof: password.clone().map_or(Proof::None, Proof::Password),
        });
        let bytes = |text: &str| text.as_bytes().to_vec();
        let parameters = database.settings.iter().map(|(name, value)| (bytes(name), bytes(value)));
        let database = bytes(database.name.as_str());
        (bytes(name), Named { database: database.into(), login, parameters: parameters.collect() })
    });
    let are_all = databases.others == config::Others::Refused;
    Arc::new(Names { named: named.collect(), are_all })
}

/// Bounds of the pool.
pub fn pool(config: &config::Config) -> pool::Settings {
    pool::Settings { limits: config.pool.clone(), tcp: config.tcp.towards_servers() }
}

/// Settings of the controller.
pub fn controller(config: &config::Config) -> controller::Settings {
    let sites = match config.cloud {
        Some(_) => controller::Sites::Pair,
        None => controller::Sites::LocalOnly,
    };
    let failover = &config.failover;
    controller::Settings {
        restart_grace: failover.restart_grace,
        hold_timeout: failover.hold_timeout,
        probe_timeout: failover.probe_timeout,
        probe_misses: failover.probe_misses,
        probe_interval: failover.probe_interval,
        ..controller::Settings::new(sites)
    }
}

/// The mirrors of the configuration.
pub fn mirrors(config: &config::Config) -> Vec<super::mirrors::Entry> {
    let entry = |mirror: &config::Mirror| super::mirrors::Entry {
        name: mirror.name.clone(),
        source: mirror.database.clone(),
        target: mirror.target_database.clone(),
        replace_role_passwords: mirror.replace_role_passwords,
        full_identity: mirror.full_identity.clone(),
    };
    config.mirrors.iter().map(entry).collect()
}

/// A database that every server has and that nobody renames or drops.
pub fn maintenance_database() -> DatabaseName {
    DatabaseName::new("postgres").expect("a name")
}
