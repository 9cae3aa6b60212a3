//! `[upstream.<name>]`: from a URL, from keys, or from both where they do not overlap.

use super::load::Sources;
use super::model::{ChannelBinding, Host, SslMode, SslNegotiation, Upstream};
use super::problem::Origin;
use super::reader::{Found, Section};
use super::url::{self, UrlParts};
use crate::base::{DatabaseName, RoleName, Secret};
use std::path::{Path, PathBuf};

const SHAPE: &str = "\"postgres://user:password@host:5432/database\"";

/// Reads a section; `None` when it has mistakes, which are noted.
pub(super) fn read(mut section: Section<'_>, sources: &Sources<'_>) -> Option<Upstream> {
    let mut is_sound = true;
    let url = section.text("url", SHAPE);
    let url_at = url.as_ref().map(|url| url.at.clone());
    let mut from_url = UrlParts::default();
    if let Some(url) = &url {
        match url::parse(&url.value) {
            Ok(parts) => from_url = parts,
            Err(error) => {
                section.problem(&url.at, "url", error.what, error.instead);
                is_sound = false;
            }
        }
    }
    let mut part = |section: &mut Section<'_>, key: &'static str, example: &str, in_url: Option<String>| {
        let in_url = in_url.zip(url_at.clone()).map(|(value, at)| Found { value, at });
        let own = match key {
            // The port may be written as a number.
            "port" if section.has(key) => section
                .integer(key, 1..=65535)
                .map(|port| Found { value: port.to_string(), at: section.at.clone() }),
            _ => section.text(key, example),
        };
        match (own, in_url) {
            (Some(own), Some(_)) => {
                section.problem(&own.at, key, "is in the url already", "write it in one place");
                is_sound = false;
                None
            }
            (own, in_url) => own.or(in_url),
        }
    };
    let host = part(&mut section, "host", "a name, an address or a socket's directory", from_url.host);
    let port = part(&mut section, "port", "", from_url.port);
    let user = part(&mut section, "user", "the role to log in as", from_url.user);
    let dbname = part(&mut section, "dbname", "the name of the database", from_url.dbname);
    let sslmode = part(&mut section, "sslmode", "\"verify-full\"", from_url.sslmode);
    let sslrootcert = part(&mut section, "sslrootcert", "the path of a PEM file", from_url.sslrootcert);
    let sslcert = part(&mut section, "sslcert", "the path of a PEM file", from_url.sslcert);
    let sslkey = part(&mut section, "sslkey", "the path of a PEM file", from_url.sslkey);
    let negotiation = part(&mut section, "sslnegotiation", "\"direct\"", from_url.sslnegotiation);
    let binding = part(&mut section, "channel_binding", "\"require\"", from_url.channel_binding);
    let unix_socket_dir = section.path("unix_socket_dir", "\"/var/run/postgresql\"");

    let password = match password(&mut section, sources, from_url.password, url_at.as_ref()) {
        Ok(password) => password,
        Err(()) => {
            is_sound = false;
            None
        }
    };
    let port = port.and_then(|port| match port.value.parse::<u16>() {
        Ok(number) if number > 0 => Some(number),
        _ => {
            let what = format!("port {:?} is no port", port.value);
            section.problem(&port.at, "url", what, "write a number from 1 to 65535");
            is_sound = false;
            None
        }
    });
    let user = user.and_then(|user| match RoleName::new(user.value) {
        Ok(user) => Some(user),
        Err(error) => {
            section.problem(&user.at, "user", error, "write the name of a role");
            is_sound = false;
            None
        }
    });
    let dbname = dbname.and_then(|name| match DatabaseName::new(name.value) {
        Ok(name) => Some(name),
        Err(error) => {
            section.problem(&name.at, "dbname", error, "write the name of a database");
            is_sound = false;
            None
        }
    });
    let tls = tls(&section, sources, sslmode, sslrootcert);
    let sslcert = pair(&section, sources, sslcert, sslkey);
    let mode = tls.as_ref().map(|(mode, _)| *mode);
    let negotiation = sslnegotiation(&section, negotiation, mode);
    let binding = channel_binding(&section, binding, mode);
    // What is missing is said only when nothing else is wrong, else it may follow from that.
    for (key, is_there) in [("host", host.is_some()), ("user", user.is_some())] {
        if is_sound && !is_there {
            let (at, place) = match &url_at {
                Some(at) => (at, "url"),
                None => (&section.at, key),
            };
            section.problem(at, place, format_args!("names no {key}"), format_args!("write url = {SHAPE}"));
            is_sound = false;
        }
    }
    let host = host.map(|host| host_of(host.value));
    let upstream = match (host, user, tls, sslcert, negotiation.zip(binding)) {
        (
            Some(host),
            Some(user),
            Some((sslmode, sslrootcert)),
            Some(sslcert),
            Some((sslnegotiation, channel_binding)),
        ) if is_sound => {
            let database = match dbname {
                Some(name) => name,
                // libpq's rule.
                None => DatabaseName::new(user.as_str()).expect("a role name is a database name"),
            };
            Some(Upstream {
                host,
                port: port.unwrap_or(5432),
                user,
                password,
                database,
                sslmode,
                sslrootcert,
                sslcert,
                sslnegotiation,
                channel_binding,
                unix_socket_dir: unix_socket_dir.map(|dir| dir.value),
            })
        }
        _ => None,
    };
    section.finish();
    upstream
}

fn host_of(host: String) -> Host {
    match host.starts_with('/') {
        true => Host::Unix(PathBuf::from(host)),
        false => Host::Tcp(host),
    }
}

fn tls(
    section: &Section<'_>,
    sources: &Sources<'_>,
    sslmode: Option<Found<String>>,
    sslrootcert: Option<Found<String>>,
) -> Option<(SslMode, Option<PathBuf>)> {
    const WORDS: &str = "write disable, prefer, require, verify-ca or verify-full";
    let mode = match sslmode.as_ref().map(|mode| mode.value.as_str()) {
        None | Some("prefer") => SslMode::Prefer,
        Some("disable") => SslMode::Disable,
        Some("require") => SslMode::Require,
        Some("verify-ca") => SslMode::VerifyCa,
        Some("verify-full") => SslMode::VerifyFull,
        Some(other) => {
            let at = &sslmode.as_ref().expect("it was just read").at;
            section.problem(at, "sslmode", format_args!("{other:?} is not known"), WORDS);
            return None;
        }
    };
    match (mode, sslrootcert) {
        (SslMode::VerifyFull, Some(cert)) if cert.value == "system" => Some((mode, None)),
        (SslMode::VerifyCa | SslMode::VerifyFull, Some(cert)) => {
            let path = PathBuf::from(cert.value);
            if let Err(why) = (sources.read_file)(&path) {
                let what = format!("cannot read {}: {why}", path.display());
                section.problem(&cert.at, "sslrootcert", what, "name a PEM file that this user can read");
                return None;
            }
            Some((mode, Some(path)))
        }
        (SslMode::VerifyCa, None) => {
            let at = &sslmode.as_ref().expect("not the default").at;
            section.problem(at, "sslmode", "verify-ca needs sslrootcert", "add sslrootcert=FILE, a PEM file");
            None
        }
        (SslMode::Disable | SslMode::Prefer | SslMode::Require, Some(cert)) => {
            section.problem(
                &cert.at,
                "sslrootcert",
                "is not checked in this sslmode",
                "write sslmode=verify-full or verify-ca, or remove sslrootcert",
            );
            None
        }
        (_, None) => Some((mode, None)),
    }
}

/// A certificate and its key, both or none.
fn pair(
    section: &Section<'_>,
    sources: &Sources<'_>,
    cert: Option<Found<String>>,
    key: Option<Found<String>>,
) -> Option<Option<(PathBuf, PathBuf)>> {
    for (name, file) in [("sslcert", &cert), ("sslkey", &key)] {
        if let Some(file) = file
            && let Err(why) = (sources.read_file)(Path::new(&file.value))
        {
            let what = format!("cannot read {}: {why}", file.value);
            section.problem(&file.at, name, what, "name a PEM file that this user can read");
            return None;
        }
    }
    match (cert, key) {
        (None, None) => Some(None),
        (Some(cert), Some(key)) => Some(Some((cert.value.into(), key.value.into()))),
        (Some(found), None) => {
            section.problem(&found.at, "sslcert", "has no sslkey", "name the file of its key in sslkey");
            None
        }
        (None, Some(found)) => {
            let instead = "name the file of its certificate in sslcert";
            section.problem(&found.at, "sslkey", "has no sslcert", instead);
            None
        }
    }
}

fn sslnegotiation(
    section: &Section<'_>,
    found: Option<Found<String>>,
    mode: Option<SslMode>,
) -> Option<SslNegotiation> {
    let Some(found) = found else { return Some(SslNegotiation::Postgres) };
    match (found.value.as_str(), mode) {
        ("postgres", _) => Some(SslNegotiation::Postgres),
        // As libpq: without an answer to ask for, there is no way back to clear text.
        ("direct", Some(SslMode::Disable | SslMode::Prefer)) => {
            let what = "direct needs an sslmode that always encrypts";
            section.problem(&found.at, "sslnegotiation", what, "write sslmode=verify-full, or require");
            None
        }
        ("direct", _) => Some(SslNegotiation::Direct),
        (other, _) => {
            let what = format!("{other:?} is not known");
            section.problem(&found.at, "sslnegotiation", what, "write postgres or direct");
            None
        }
    }
}

fn channel_binding(
    section: &Section<'_>,
    found: Option<Found<String>>,
    mode: Option<SslMode>,
) -> Option<ChannelBinding> {
    let Some(found) = found else { return Some(ChannelBinding::Prefer) };
    match (found.value.as_str(), mode) {
        ("disable", _) => Some(ChannelBinding::Disable),
        ("prefer", _) => Some(ChannelBinding::Prefer),
        ("require", Some(SslMode::Disable | SslMode::Prefer)) => {
            let what = "require needs an sslmode that always encrypts";
            section.problem(&found.at, "channel_binding", what, "write sslmode=verify-full, or require");
            None
        }
        ("require", _) => Some(ChannelBinding::Require),
        (other, _) => {
            let what = format!("{other:?} is not known");
            section.problem(&found.at, "channel_binding", what, "write disable, prefer or require");
            None
        }
    }
}

/// The password of a section from whichever key has it; `inline` is the one of its URL.
fn password(
    section: &mut Section<'_>,
    sources: &Sources<'_>,
    inline: Option<Secret>,
    url_at: Option<&Origin>,
) -> Result<Option<Secret>, ()> {
    let own = secret(section, sources, "password", "password_file", "password_env")?;
    match (own, inline, url_at) {
        (Some(own), Some(_), Some(_)) => {
            section.problem(&own.at, "password", "the url has a password already", "write it in one place");
            Err(())
        }
        (own, inline, _) => Ok(own.map(|own| own.value).or(inline)),
    }
}

/// A secret from one of its three keys.
pub(super) fn secret(
    section: &mut Section<'_>,
    sources: &Sources<'_>,
    plain: &'static str,
    file: &'static str,
    env: &'static str,
) -> Result<Option<Found<Secret>>, ()> {
    let written = section.text(plain, "the password");
    let in_file = section.path(file, "the path of a file");
    let in_env = section.text(env, "the name of an environment variable");
    let places = [
        written.as_ref().map(|found| (plain, found.at.clone())),
        in_file.as_ref().map(|found| (file, found.at.clone())),
        in_env.as_ref().map(|found| (env, found.at.clone())),
    ];
    if let [(first, _), (second, at), ..] = places.into_iter().flatten().collect::<Vec<_>>().as_slice() {
        section.problem(at, second, format_args!("{first} is given as well"), "write only one of them");
        return Err(());
    }
    if let Some(found) = written {
        return Ok(Some(Found { value: Secret::new(found.value), at: found.at }));
    }
    if let Some(found) = in_file {
        return match read_secret(sources, &found.value) {
            Ok(secret) => Ok(Some(Found { value: secret, at: found.at })),
            Err(why) => {
                let what = format!("cannot use {}: {why}", found.value.display());
                section.problem(
                    &found.at,
                    file,
                    what,
                    "name a file that holds the password and that this user can read",
                );
                Err(())
            }
        };
    }
    if let Some(found) = in_env {
        return match sources.variables.get(&found.value) {
            Some(value) if !value.is_empty() => {
                Ok(Some(Found { value: Secret::new(value.clone()), at: found.at }))
            }
            _ => {
                let name = &found.value;
                let what = format!("environment variable {name} is not set");
                section.problem(&found.at, env, what, format_args!("set {name}, or use {file}"));
                Err(())
            }
        };
    }
    Ok(None)
}

/// The first line of a file, as editors and secret stores leave a newline at the end.
fn read_secret(sources: &Sources<'_>, path: &Path) -> Result<Secret, String> {
    let text = (sources.read_file)(path)?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(Secret::new(line))
}
