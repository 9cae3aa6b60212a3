//! Fields → a rule.

use super::tokens::{Line, Token};
use super::{
    AddressPattern, AuthMethod, CertificateName, Connection, DatabasePattern, Means, Pattern, Rule,
    UserPattern, WantedCertificate,
};
use crate::config::problem::Origin;
use crate::config::reader::Problems;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A rule as it was written, in a file or as an entry of our own.
#[derive(Debug, Default)]
pub struct Written {
    /// `local`, `host`, …
    pub connection: String,
    /// Names, `all`, …
    pub databases: Vec<String>,
    /// Names, `+role`, …
    pub users: Vec<String>,
    /// Addresses, each with `/length`, or a word.
    pub addresses: Vec<String>,
    /// `trust`, `reject`, …
    pub method: String,
    /// `map=…` and the like.
    pub options: Vec<(String, String)>,
}

/// A rule of our own file.
pub fn written(written: &Written, at: &Origin, means: Means, problems: &Problems) -> Option<Rule> {
    let tokens = |texts: &[String]| -> Vec<Token> {
        texts.iter().map(|text| Token { text: text.clone(), is_quoted: false }).collect()
    };
    let one = |text: &str| vec![Token { text: text.to_owned(), is_quoted: false }];
    let mut fields = vec![one(&written.connection), tokens(&written.databases), tokens(&written.users)];
    if written.connection != "local" {
        fields.push(tokens(&written.addresses));
    }
    fields.push(one(&written.method));
    fields.extend(written.options.iter().map(|(name, value)| one(&format!("{name}={value}"))));
    rule(&Line { at: at.clone(), key: "auth.rules", fields }, means, problems)
}

/// Reads one record; the first mistake in it is noted.
pub fn rule(line: &Line, means: Means, problems: &Problems) -> Option<Rule> {
    let wrong = |what: String, instead: &str| {
        problems.add(&line.at, line.key, what, instead);
        None
    };
    let mut fields = line.fields.iter();
    let single = |field: Option<&Vec<Token>>| match field.map(Vec::as_slice) {
        Some([token]) => Some(token.clone()),
        _ => None,
    };
    let connection = match single(fields.next()).map(|token| token.text).as_deref() {
        Some("local") => Connection::Local,
        // Without GSSAPI nothing comes in by it.
        Some("host" | "hostnogssenc") => Connection::Host,
        Some("hostssl") => Connection::HostSsl,
        Some("hostnossl") => Connection::HostNoSsl,
        Some("hostgssenc") => Connection::Never,
        Some(other) => {
            return wrong(
                format!("{other:?} is no type of connection"),
                "write local, host, hostssl or hostnossl",
            );
        }
        None => return wrong("there must be one type".to_owned(), "write one line for each type"),
    };
    let Some(databases) = fields.next() else {
        return wrong("the line ends before the database".to_owned(), "write all, or names");
    };
    let databases: Vec<_> = databases.iter().map(|token| database(token, line, problems)).collect();
    let Some(users) = fields.next() else {
        return wrong("the line ends before the user".to_owned(), "write all, or names");
    };
    let users: Vec<_> = users.iter().map(|token| user(token, line, problems)).collect();
    let mut addresses = vec![Some(AddressPattern::All)];
    if connection != Connection::Local {
        let Some(written) = fields.next() else {
            return wrong("the line ends before the address".to_owned(), "write all, or 192.0.2.0/24");
        };
        let mask = fields.as_slice().first().and_then(|field| match field.as_slice() {
            [token] => token.text.parse::<IpAddr>().ok(),
            _ => None,
        });
        let needs_mask = written.iter().any(|token| token.text.parse::<IpAddr>().is_ok());
        let mask = mask.filter(|_| needs_mask);
        if mask.is_some() {
            fields.next();
        }
        if written.is_empty() {
            return wrong("there is no address".to_owned(), "write all, or 192.0.2.0/24");
        }
        addresses = written.iter().map(|token| address(token, mask, line, problems)).collect();
    }
    let Some(word) = single(fields.next()) else {
        return wrong("the line ends before the method".to_owned(), "write for example scram-sha-256");
    };
    let method = match word.text.as_str() {
        "trust" => AuthMethod::Trust,
        "reject" => AuthMethod::Reject,
        "scram-sha-256" => AuthMethod::ScramSha256,
        "md5" => AuthMethod::Md5,
        "password" | "plain" => AuthMethod::Password,
        "cert" => AuthMethod::Certificate,
        "peer" => AuthMethod::Peer,
        other => {
            let known =
                matches!(other, "gss" | "sspi" | "ident" | "ldap" | "radius" | "pam" | "bsd" | "oauth");
            let what = match known {
                true => format!("the method {other:?} is not available"),
                false => format!("{other:?} is no method"),
            };
            return wrong(what, "write trust, reject, scram-sha-256, md5, password, cert or peer");
        }
    };
    let mut rule = Rule {
        at: line.at.clone(),
        connection,
        databases: databases.into_iter().collect::<Option<_>>()?,
        users: users.into_iter().collect::<Option<_>>()?,
        addresses: addresses.into_iter().collect::<Option<_>>()?,
        method,
        map: None,
        certificate: WantedCertificate::None,
        name: CertificateName::Common,
    };
    for field in fields {
        for token in field {
            option(&mut rule, &token.text, line, problems)?;
        }
    }
    check(rule, means, line, problems)
}

/// What does not go together.
fn check(mut rule: Rule, means: Means, line: &Line, problems: &Problems) -> Option<Rule> {
    let wrong = |what: &str, instead: &str| {
        problems.add(&line.at, line.key, what, instead);
        None
    };
    if rule.databases.is_empty() || rule.users.is_empty() {
        return wrong("names no database or no user", "write all, or names");
    }
    if rule.method == AuthMethod::Peer && rule.connection != Connection::Local {
        return wrong("peer authentication is only possible by Unix socket", "write local instead of host");
    }
    let is_certificate = rule.method == AuthMethod::Certificate;
    if is_certificate && rule.connection != Connection::HostSsl {
        return wrong("cert authentication is only possible in TLS", "write hostssl");
    }
    if is_certificate {
        if rule.certificate == WantedCertificate::Signed {
            return wrong(
                "clientcert=verify-ca is not enough for cert authentication",
                "write clientcert=verify-full, or leave it out",
            );
        }
        rule.certificate = WantedCertificate::Named;
    }
    if rule.certificate != WantedCertificate::None {
        if rule.connection != Connection::HostSsl {
            return wrong("clientcert is only possible in TLS", "write hostssl");
        }
        if !means.has_client_ca {
            return wrong(
                "wants certificates of clients, and there is no authority to check them with",
                "name its file in listen.tls_client_ca",
            );
        }
    }
    if rule.map.is_some() && rule.certificate != WantedCertificate::Named && rule.method != AuthMethod::Peer {
        return wrong(
            "map has a meaning for cert, peer and clientcert=verify-full only",
            "remove it, or change the method",
        );
    }
    Some(rule)
}

fn option(rule: &mut Rule, text: &str, line: &Line, problems: &Problems) -> Option<()> {
    let wrong = |what: String, instead: &str| {
        problems.add(&line.at, line.key, what, instead);
        None
    };
    let Some((name, value)) = text.split_once('=') else {
        return wrong(format!("{text:?} is not NAME=VALUE"), "write for example map=NAME");
    };
    match (name, value) {
        ("map", "") => return wrong("map= names no map".to_owned(), "write map=NAME"),
        ("map", map) => rule.map = Some(map.to_owned()),
        ("clientcert", "verify-ca") => rule.certificate = WantedCertificate::Signed,
        // 1 as before PostgreSQL 12; `no-verify` was 0.
        ("clientcert", "1") => rule.certificate = WantedCertificate::Signed,
        ("clientcert", "verify-full") => rule.certificate = WantedCertificate::Named,
        ("clientcert", "0" | "no-verify") => rule.certificate = WantedCertificate::None,
        ("clientcert", other) => {
            return wrong(format!("clientcert={other} is not known"), "write verify-ca or verify-full");
        }
        ("clientname", "CN") => rule.name = CertificateName::Common,
        ("clientname", "DN") => rule.name = CertificateName::Distinguished,
        ("clientname", "SAN") => rule.name = CertificateName::Alternative,
        ("clientname", other) => {
            return wrong(format!("clientname={other} is not known"), "write CN, DN or SAN");
        }
        (other, _) => {
            return wrong(format!("the option {other:?} is not known"), "use map, clientcert or clientname");
        }
    }
    Some(())
}

fn database(token: &Token, line: &Line, problems: &Problems) -> Option<DatabasePattern> {
    if token.is_quoted {
        return Some(DatabasePattern::Name(token.text.clone()));
    }
    Some(match token.text.as_str() {
        "all" => DatabasePattern::All,
        "sameuser" => DatabasePattern::SameUser,
        "samerole" | "samegroup" => DatabasePattern::SameRole,
        "replication" => DatabasePattern::Replication,
        text => match text.strip_prefix('/') {
            Some(expression) => DatabasePattern::Matches(pattern(expression, line, problems)?),
            None => DatabasePattern::Name(text.to_owned()),
        },
    })
}

/// A role, as in both files.
pub fn user(token: &Token, line: &Line, problems: &Problems) -> Option<UserPattern> {
    if token.is_quoted {
        return Some(UserPattern::Name(token.text.clone()));
    }
    Some(match token.text.as_str() {
        "all" => UserPattern::All,
        text => match (text.strip_prefix('+'), text.strip_prefix('/')) {
            (Some(role), _) => UserPattern::MemberOf(role.to_owned()),
            (None, Some(expression)) => UserPattern::Matches(pattern(expression, line, problems)?),
            (None, None) => UserPattern::Name(text.to_owned()),
        },
    })
}

fn pattern(expression: &str, line: &Line, problems: &Problems) -> Option<Pattern> {
    match Pattern::new(expression) {
        Ok(pattern) => Some(pattern),
        Err(why) => {
            let what = format!("the regular expression {expression:?} cannot be read: {why}");
            problems.add(&line.at, line.key, what, "correct it");
            None
        }
    }
}

fn address(token: &Token, mask: Option<IpAddr>, line: &Line, problems: &Problems) -> Option<AddressPattern> {
    let wrong = |what: String, instead: &str| {
        problems.add(&line.at, line.key, what, instead);
        None
    };
    if !token.is_quoted {
        match token.text.as_str() {
            "all" => return Some(AddressPattern::All),
            "samehost" => return Some(AddressPattern::SameHost),
            "samenet" => return Some(AddressPattern::SameNet),
            _ => {}
        }
    }
    let text = &token.text;
    match text.split_once('/') {
        Some((ip, length)) => {
            let (Ok(ip), Ok(length)) = (ip.parse::<IpAddr>(), length.parse::<u32>()) else {
                return wrong(format!("{text:?} is no network"), "write for example 192.0.2.0/24");
            };
            match netmask(ip, length) {
                Some(mask) => Some(AddressPattern::Network { ip, mask }),
                None => wrong(format!("{text:?} has too long a mask"), "write up to /32, or /128 for IPv6"),
            }
        }
        None => match (text.parse::<IpAddr>(), mask) {
            (Ok(ip), Some(mask)) if ip.is_ipv4() == mask.is_ipv4() => {
                Some(AddressPattern::Network { ip, mask })
            }
            (Ok(_), Some(_)) => {
                wrong("address and mask are of different kinds".to_owned(), "write both as IPv4 or as IPv6")
            }
            (Ok(ip), None) => {
                let length = if ip.is_ipv4() { 32 } else { 128 };
                wrong(format!("{text:?} has no mask"), &format!("write {ip}/{length} for this address alone"))
            }
            (Err(_), _) => wrong(
                format!("{text:?} is no address; names of machines are not looked up"),
                "write addresses such as 192.0.2.0/24, samehost, samenet or all",
            ),
        },
    }
}

/// `192.0.2.0/24` or a single address, as address and mask.
pub fn network(text: &str) -> Option<(IpAddr, IpAddr)> {
    let (ip, length) = match text.split_once('/') {
        Some((ip, length)) => (ip.parse::<IpAddr>().ok()?, length.parse().ok()?),
        None => {
            let ip = text.parse::<IpAddr>().ok()?;
            (ip, if ip.is_ipv4() { 32 } else { 128 })
        }
    };
    Some((ip, netmask(ip, length)?))
}

fn netmask(ip: IpAddr, length: u32) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(_) if length <= 32 => {
            Some(Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - length).unwrap_or(0)).into())
        }
        IpAddr::V6(_) if length <= 128 => {
            Some(Ipv6Addr::from_bits(u128::MAX.checked_shl(128 - length).unwrap_or(0)).into())
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}
