//! `[listen]` and `[http]`: where others connect to us.

use super::hba::network;
use super::load::Sources;
use super::model::{ClientCertificates, ClientTls, Http, Listen, ListenAddress, TrustedProxy};
use super::problem::Origin;
use super::reader::{Found, Section};

const DEFAULT_PORT: u16 = 6432;
/// The kernel takes the smaller one of this and `net.core.somaxconn`, which is 4096.
const DEFAULT_BACKLOG: u32 = 4096;

#[derive(Clone, Copy)]
enum Tls {
    Disable,
    Allow,
    Require,
}

pub(super) fn read(
    mut section: Section<'_>,
    sources: &Sources<'_>,
) -> (Option<Listen>, Vec<Found<ListenAddress>>) {
    let mut is_sound = true;
    let mut tcp = Vec::new();
    let is_given = section.has("tcp");
    match section.texts("tcp", "tcp = \"127.0.0.1:6432\"") {
        None if is_given => is_sound = false,
        None => {
            let host = "127.0.0.1".to_owned();
            tcp.push(Found { value: ListenAddress { host, port: DEFAULT_PORT }, at: section.at.clone() });
        }
        Some(texts) => {
            for text in texts {
                match address(&section, "tcp", &text) {
                    None => is_sound = false,
                    Some(address) if tcp.iter().any(|known: &Found<_>| known.value == address) => {
                        section.problem(
                            &text.at,
                            "tcp",
                            format_args!("{address} is listed twice"),
                            "remove one",
                        );
                        is_sound = false;
                    }
                    Some(address) => tcp.push(Found { value: address, at: text.at }),
                }
            }
        }
    }
    let unix_socket_dir = section.path("unix_socket_dir", "\"/run/cloud-mirror\"");
    if let Some(dir) = &unix_socket_dir
        && !dir.value.is_absolute()
    {
        let what = format!("{:?} is not an absolute path", dir.value.display().to_string());
        section.problem(&dir.at, "unix_socket_dir", what, "write for example \"/run/cloud-mirror\"");
        is_sound = false;
    }
    if tcp.is_empty() && unix_socket_dir.is_none() && is_sound {
        let at = section.at.clone();
        section.problem(&at, "tcp", "there is nowhere to listen", "name a TCP address or unix_socket_dir");
        is_sound = false;
    }
    let has_backlog = section.has("backlog");
    let backlog = section.integer("backlog", 1..=65_535).map(|count| count as u32);
    is_sound &= backlog.is_some() || !has_backlog;
    let has_reuse = section.has("reuse_port");
    let reuse_port = section.boolean("reuse_port");
    is_sound &= reuse_port.is_some() || !has_reuse;
    let tls = tls(&mut section, sources);
    let client_certificates = client_certificates(&mut section, sources, tls.as_ref());
    let proxies = proxies(&mut section);
    section.finish();
    let listen = match (tls, client_certificates, proxies) {
        (Some(tls), Some(client_certificates), Some(proxies)) if is_sound => Some(Listen {
            tcp: tcp.iter().map(|found| found.value.clone()).collect(),
            unix_socket_dir: unix_socket_dir.map(|dir| dir.value),
            reuse_port: reuse_port.unwrap_or(false),
            backlog: backlog.unwrap_or(DEFAULT_BACKLOG),
            tls,
            client_certificates,
            proxies,
        }),
        _ => None,
    };
    (listen, tcp)
}

fn client_certificates(
    section: &mut Section<'_>,
    sources: &Sources<'_>,
    tls: Option<&ClientTls>,
) -> Option<ClientCertificates> {
    let file = section.path("tls_client_ca", "the path of a PEM file");
    let is_given = section.has("tls_client_cert");
    let mode = section.choice("tls_client_cert", &[("allow", false), ("require", true)], &[]);
    if is_given && mode.is_none() {
        return None;
    }
    match (file, mode) {
        (None, None) => Some(ClientCertificates::Ignored),
        (None, Some(mode)) => {
            section.problem(
                &mode.at,
                "tls_client_cert",
                "there is no authority to check certificates with",
                "name its file in tls_client_ca",
            );
            None
        }
        (Some(file), mode) => {
            if let Err(why) = (sources.read_file)(&file.value) {
                let what = format!("cannot read {}: {why}", file.value.display());
                section.problem(&file.at, "tls_client_ca", what, "name a PEM file that this user can read");
                return None;
            }
            if tls == Some(&ClientTls::Disable) {
                section.problem(
                    &file.at,
                    "tls_client_ca",
                    "is of no use without TLS",
                    "name our own certificate in tls_cert and tls_key",
                );
                return None;
            }
            Some(match mode {
                Some(mode) if mode.value => ClientCertificates::Required(file.value),
                Some(_) | None => ClientCertificates::Allowed(file.value),
            })
        }
    }
}

/// The networks of load balancers; a list, as trusting everybody would let everybody choose an
/// address.
fn proxies(section: &mut Section<'_>) -> Option<Vec<TrustedProxy>> {
    let is_given = section.has("proxy_protocol");
    let Some(texts) = section.texts("proxy_protocol", "proxy_protocol = [\"10.0.0.5/32\"]") else {
        return (!is_given).then(Vec::new);
    };
    let mut found = Vec::new();
    let mut is_sound = true;
    for text in texts {
        match (text.value.as_str(), network(&text.value)) {
            ("unix", _) => found.push(TrustedProxy::Unix),
            (_, Some((ip, mask))) => found.push(TrustedProxy::Network { ip, mask }),
            (other, None) => {
                section.problem(
                    &text.at,
                    "proxy_protocol",
                    format_args!("{other:?} is no network"),
                    "write the networks of the load balancers, for example \"10.0.0.5/32\", or \"unix\"",
                );
                is_sound = false;
            }
        }
    }
    is_sound.then_some(found)
}

fn tls(section: &mut Section<'_>, sources: &Sources<'_>) -> Option<ClientTls> {
    let choices = [("disable", Tls::Disable), ("allow", Tls::Allow), ("require", Tls::Require)];
    let is_given = section.has("tls");
    let mode = section.choice("tls", &choices, &[]);
    let cert = section.path("tls_cert", "the path of a PEM file");
    let key = section.path("tls_key", "the path of a PEM file");
    if is_given && mode.is_none() {
        return None;
    }
    let mut is_sound = true;
    for (name, file) in [("tls_cert", &cert), ("tls_key", &key)] {
        if let Some(file) = file
            && let Err(why) = (sources.read_file)(&file.value)
        {
            let what = format!("cannot read {}: {why}", file.value.display());
            section.problem(&file.at, name, what, "name a PEM file that this user can read");
            is_sound = false;
        }
    }
    let pair = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(cert), None) => {
            section.problem(&cert.at, "tls_cert", "has no tls_key", "name the file of its key in tls_key");
            return None;
        }
        (None, Some(key)) => {
            section.problem(
                &key.at,
                "tls_key",
                "has no tls_cert",
                "name the file of its certificate in tls_cert",
            );
            return None;
        }
    };
    if !is_sound {
        return None;
    }
    match (mode.as_ref().map(|mode| mode.value), pair) {
        (Some(Tls::Disable), Some((cert, _))) => {
            section.problem(
                &cert.at,
                "tls_cert",
                "is not used with tls = \"disable\"",
                "write tls = \"allow\" or \"require\"",
            );
            None
        }
        (None | Some(Tls::Disable), None) => Some(ClientTls::Disable),
        (Some(Tls::Allow | Tls::Require), None) => {
            let at = mode.expect("it is given").at;
            section.problem(&at, "tls", "there is no certificate", "name its files in tls_cert and tls_key");
            None
        }
        (None | Some(Tls::Allow), Some((cert, key))) => {
            Some(ClientTls::Allow { cert: cert.value, key: key.value })
        }
        (Some(Tls::Require), Some((cert, key))) => {
            Some(ClientTls::Require { cert: cert.value, key: key.value })
        }
    }
}

pub(super) fn read_http(mut section: Section<'_>) -> Option<Http> {
    let default = ListenAddress { host: "127.0.0.1".to_owned(), port: 8432 };
    let is_given = section.has("listen");
    let found = section.text("listen", "\"127.0.0.1:8432\" or \"off\"");
    let listen = match found {
        Some(text) if text.value == "off" => Some(None),
        Some(text) => match address(&section, "listen", &text) {
            Some(address) if !address.is_loopback() => {
                section.problem(
                    &text.at,
                    "listen",
                    format_args!("{address} can be reached from other machines, and there are no tokens yet"),
                    "write a loopback address, for example \"127.0.0.1:8432\"",
                );
                None
            }
            address => address.map(Some),
        },
        None if is_given => None,
        None => Some(Some(default)),
    };
    section.finish();
    listen.map(|listen| Http { listen })
}

fn address(section: &Section<'_>, key: &str, text: &Found<String>) -> Option<ListenAddress> {
    let refuse = |at: &Origin, what: String, instead: &str| {
        section.problem(at, key, what, instead);
        None
    };
    let value = &text.value;
    let Some((host, port)) = value.rsplit_once(':') else {
        return refuse(
            &text.at,
            format!("{value:?} has no port"),
            "write host:port, for example \"127.0.0.1:6432\"",
        );
    };
    let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner,
        None if host.contains(':') => {
            return refuse(
                &text.at,
                format!("{value:?} is no address"),
                "write an IPv6 address as \"[::1]:6432\"",
            );
        }
        None => host,
    };
    if host.is_empty() || host == "*" {
        return refuse(
            &text.at,
            format!("{value:?} names no address"),
            "write \"0.0.0.0:PORT\" for all of them",
        );
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Some(ListenAddress { host: host.to_owned(), port }),
        _ => refuse(&text.at, format!("{port:?} is no port"), "write a number from 1 to 65535"),
    }
}
