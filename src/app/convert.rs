//! The configuration's plain types → those of the rooms.

use crate::backend::tls::{ServerTls, TlsError, TlsMode, TlsWishes};
use crate::backend::{Address, Endpoint, Login, Party, Proof};
use crate::base::Site;
use crate::config::{Config, Host, Mirror, SslMode, Upstream};
use std::sync::Arc;

/// libpq's word as the mode of the room `backend`.
pub fn tls_mode(mode: SslMode) -> TlsMode {
    match mode {
        SslMode::Disable => TlsMode::Disable,
        SslMode::Prefer => TlsMode::Prefer,
        SslMode::Require => TlsMode::Require,
        SslMode::VerifyCa => TlsMode::VerifyCa,
        SslMode::VerifyFull => TlsMode::VerifyFull,
    }
}

/// TLS towards a server. Fails when its certificates cannot be used.
pub fn server_tls(upstream: &Upstream) -> Result<Arc<ServerTls>, TlsError> {
    ServerTls::with(TlsWishes {
        mode: tls_mode(upstream.sslmode),
        root_cert: upstream.sslrootcert.clone(),
        certificate: upstream.sslcert.clone(),
        negotiation: upstream.sslnegotiation,
        binding: upstream.channel_binding,
    })
}

/// Where a server is, as its URL says.
pub fn endpoint(upstream: &Upstream) -> Result<Endpoint, TlsError> {
    let port = upstream.port;
    let address = match &upstream.host {
        Host::Tcp(host) => Address::Tcp { host: host.clone(), port },
        Host::Unix(directory) => Address::Unix { directory: directory.clone(), port },
    };
    Ok(Endpoint { address, tls: server_tls(upstream)? })
}

/// The second way to the same server, by its Unix socket (`unix_socket_dir`).
pub fn socket_endpoint(upstream: &Upstream) -> Option<Endpoint> {
    let directory = upstream.unix_socket_dir.clone()?;
    Some(Endpoint { address: Address::Unix { directory, port: upstream.port }, tls: ServerTls::disabled() })
}

/// As whom the configuration logs in.
pub fn login(upstream: &Upstream) -> Login {
    let proof = match &upstream.password {
        Some(password) => Proof::Password(password.clone()),
        None => Proof::None,
    };
    Login { user: upstream.user.clone(), proof }
}

/// The database an upstream's URL names, with the login it names.
pub fn party(site: Site, upstream: &Upstream) -> Result<Party, TlsError> {
    Ok(Party {
        site,
        endpoint: endpoint(upstream)?,
        login: login(upstream),
        database: upstream.database.clone(),
    })
}

/// Both ends of a mirror: its source and its target. `None` without an upstream `cloud`, which a
/// checked configuration with a mirror has.
pub fn ends(config: &Config, mirror: &Mirror) -> Result<Option<(Party, Party)>, TlsError> {
    let Some(cloud) = &config.cloud else { return Ok(None) };
    let source = party(Site::Local, &config.local)?.with_database(mirror.database.clone());
    let target = party(Site::Cloud, cloud)?.with_database(mirror.target_database.clone());
    Ok(Some((source, target)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Machine, Sources, load};
    use std::collections::BTreeMap;

    fn config(text: &str) -> Config {
        let read_file = |_: &std::path::Path| Ok(String::new());
        let variables = BTreeMap::new();
        let sources = Sources {
            file: Some(crate::config::File { name: "c.toml".to_owned(), text: text.to_owned() }),
            variables: &variables,
            flags: &[],
            machine: Machine::Root,
            read_file: &read_file,
        };
        load(&sources).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn an_upstream_becomes_an_endpoint_and_a_login() {
        let config = config(
            "[upstream.local]\nurl = \"postgres://app:pw@db:5433/shop?sslmode=require\"\n\
             unix_socket_dir = \"/run/pg\"\n\
             [upstream.cloud]\nurl = \"postgres:///copy?host=/run/cloud&user=owner\"\n\
             [mirror.stock]\ndatabase = \"stock\"\n",
        );
        let local = party(Site::Local, &config.local).unwrap();
        assert_eq!(local.endpoint.address.to_string(), "db:5433");
        assert_eq!(local.endpoint.tls.mode(), TlsMode::Require);
        assert_eq!((local.login.user.as_str(), local.database.as_str()), ("app", "shop"));
        assert!(matches!(&local.login.proof, Proof::Password(password) if password.expose() == "pw"));
        let socket = socket_endpoint(&config.local).unwrap();
        assert_eq!(socket.address.to_string(), "/run/pg/.s.PGSQL.5433");
        let cloud = config.cloud.as_ref().unwrap();
        assert!(matches!(login(cloud).proof, Proof::None));
        assert_eq!(endpoint(cloud).unwrap().address.to_string(), "/run/cloud/.s.PGSQL.5432");
        assert!(socket_endpoint(cloud).is_none());
        let (source, target) = ends(&config, &config.mirrors[0]).unwrap().unwrap();
        assert_eq!((source.site, source.database.as_str()), (Site::Local, "stock"));
        assert_eq!((target.site, target.database.as_str()), (Site::Cloud, "stock"));
    }

    #[test]
    fn every_sslmode_has_its_mode() {
        for (mode, expected) in [
            (SslMode::Disable, TlsMode::Disable),
            (SslMode::Prefer, TlsMode::Prefer),
            (SslMode::Require, TlsMode::Require),
            (SslMode::VerifyCa, TlsMode::VerifyCa),
            (SslMode::VerifyFull, TlsMode::VerifyFull),
        ] {
            assert_eq!(tls_mode(mode), expected);
        }
    }
}
