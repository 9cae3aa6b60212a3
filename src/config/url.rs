//! `postgres://user:password@host:port/database?parameters` ("Connection Strings").

use crate::base::Secret;

/// The parts of a URL as they were written; nothing is checked against anything yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct UrlParts {
    pub host: Option<String>,
    pub port: Option<String>,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub dbname: Option<String>,
    pub sslmode: Option<String>,
    pub sslrootcert: Option<String>,
    pub sslcert: Option<String>,
    pub sslkey: Option<String>,
    pub sslnegotiation: Option<String>,
    pub channel_binding: Option<String>,
}

/// A mistake in a URL and what to write instead; never quotes the URL, which has a password.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UrlError {
    pub what: String,
    pub instead: String,
}

fn wrong<T>(what: impl Into<String>, instead: impl Into<String>) -> Result<T, UrlError> {
    Err(UrlError { what: what.into(), instead: instead.into() })
}

const SHAPE: &str = "write postgres://user:password@host:5432/database";

pub(super) fn parse(url: &str) -> Result<UrlParts, UrlError> {
    let Some(rest) = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://")) else {
        return wrong("is not a URL of PostgreSQL", SHAPE);
    };
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, path) = rest.split_once('/').map_or((rest, None), |(a, path)| (a, Some(path)));
    let mut parts = UrlParts::default();
    let hosts = match authority.rsplit_once('@') {
        None => authority,
        Some((login, hosts)) => {
            let (user, password) = login.split_once(':').map_or((login, None), |(u, p)| (u, Some(p)));
            parts.user = Some(decoded(user, "user")?).filter(|user| !user.is_empty());
            if let Some(password) = password {
                parts.password =
                    Some(decoded(password, "password")?).filter(|p| !p.is_empty()).map(Secret::new);
            }
            hosts
        }
    };
    let (host, port) = host_and_port(hosts)?;
    parts.host = Some(decoded(host, "host")?).filter(|host| !host.is_empty());
    parts.port = port.map(str::to_owned);
    if let Some(path) = path {
        if path.contains('/') {
            return wrong("has more than one name behind the host", SHAPE);
        }
        parts.dbname = Some(decoded(path, "database")?).filter(|name| !name.is_empty());
    }
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return wrong(format!("parameter {pair:?} has no value"), format!("write {pair}=…"));
        };
        let value = decoded(value, key)?;
        let slot = match key {
            "host" => &mut parts.host,
            "port" => &mut parts.port,
            "user" => &mut parts.user,
            "dbname" => &mut parts.dbname,
            "sslmode" => &mut parts.sslmode,
            "sslrootcert" => &mut parts.sslrootcert,
            "sslcert" => &mut parts.sslcert,
            "sslkey" => &mut parts.sslkey,
            "sslnegotiation" => &mut parts.sslnegotiation,
            "channel_binding" => &mut parts.channel_binding,
            "password" => {
                parts.password = Some(Secret::new(value));
                continue;
            }
            _ => {
                return wrong(
                    format!("parameter {key:?} is not known"),
                    "use host, port, user, password, dbname, sslmode, sslrootcert, sslcert, sslkey, sslnegotiation, \
                     channel_binding",
                );
            }
        };
        *slot = Some(value);
    }
    Ok(parts)
}

fn host_and_port(hosts: &str) -> Result<(&str, Option<&str>), UrlError> {
    if hosts.contains(',') {
        return wrong("names several hosts", "name the one server of this site");
    }
    if let Some(rest) = hosts.strip_prefix('[') {
        let Some((host, behind)) = rest.split_once(']') else {
            return wrong("has \"[\" without \"]\"", "write an IPv6 address as [::1]");
        };
        return match behind.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if behind.is_empty() => Ok((host, None)),
            None => wrong("has something behind \"]\"", "write an IPv6 address as [::1]:5432"),
        };
    }
    match hosts.split_once(':') {
        None => Ok((hosts, None)),
        Some((_, port)) if port.contains(':') => {
            wrong("has more than one \":\" in the host", "write an IPv6 address as [::1]:5432")
        }
        Some((host, port)) => Ok((host, Some(port).filter(|port| !port.is_empty()))),
    }
}

/// Percent-decoding; `+` stays a plus, as in libpq.
fn decoded(text: &str, what: &str) -> Result<String, UrlError> {
    let bad = || UrlError {
        what: format!("has a bad percent sign in its {what}"),
        instead: "write %25 for a percent sign and %40 for @".to_owned(),
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let hex = tail.get(..2).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit)).ok_or_else(bad)?;
        let hex = std::str::from_utf8(hex).map_err(|_| bad())?;
        bytes.push(u8::from_str_radix(hex, 16).map_err(|_| bad())?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_libpq_reads_them() {
        let some = |text: &str| Some(text.to_owned());
        let full = parse("postgres://u%40x:p%2Fw%3A@db.example:6000/my%20db?sslmode=verify-full").unwrap();
        assert_eq!(
            full,
            UrlParts {
                host: some("db.example"),
                port: some("6000"),
                user: some("u@x"),
                password: Some(Secret::new("p/w:")),
                dbname: some("my db"),
                sslmode: some("verify-full"),
                ..UrlParts::default()
            }
        );
        let socket = parse("postgresql:///shop?host=/var/run/postgresql&user=app").unwrap();
        assert_eq!(
            (socket.host, socket.user, socket.dbname),
            (some("/var/run/postgresql"), some("app"), some("shop"))
        );
        let encoded = parse("postgres://%2Ftmp/shop").unwrap();
        assert_eq!(encoded.host, some("/tmp"));
        let v6 = parse("postgres://u@[::1]:5433/x").unwrap();
        assert_eq!((v6.host, v6.port), (some("::1"), some("5433")));
        let bare = parse("postgres://localhost").unwrap();
        assert_eq!((bare.host, bare.user, bare.dbname), (some("localhost"), None, None));
        let at = parse("postgres://u:p@ss@h/x").unwrap();
        assert_eq!(at.password, Some(Secret::new("p@ss")));
    }

    #[test]
    fn a_broken_url_is_refused_without_quoting_it() {
        for url in [
            "",
            "mysql://root:geheim@h/x",
            "host=localhost password=geheim",
            "postgres://u:geheim@a,b/x",
            "postgres://u:geheim%@a/x",
            "postgres://u:geheim%zz@a/x",
            "postgres://u:geheim%00@a/x",
            "postgres://u:geheim@::1/x",
            "postgres://u:geheim@[::1/x",
            "postgres://u:geheim@[::1]x/x",
            "postgres://u:geheim@h/x/y",
            "postgres://u:geheim@h/x?sslmode",
            "postgres://u:geheim@h/x?colour=red",
        ] {
            let error = parse(url).expect_err(url);
            assert!(!format!("{error:?}").contains("geheim"), "{error:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(postgres://)?[a-z%/?@:\\[\\],=&0-9ä]{0,40}") {
            let _ = parse(&text);
        }
    }
}
