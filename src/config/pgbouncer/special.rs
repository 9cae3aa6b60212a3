//! Settings of PgBouncer that need a closer look: several together make one of ours.

use super::import::{Around, Notes, Settings, Weight, put};
use super::keys::Turn;
use super::out::Out;
use super::values::{Ours, names};
use std::path::Path;

/// What PgBouncer asks the server where `auth_user` is set and `auth_query` is not.
const AUTH_QUERY: &str = "SELECT rolname, CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL ELSE rolpassword END \
    FROM pg_authid WHERE rolname=$1 AND rolcanlogin";

fn text(text: impl Into<String>) -> Ours {
    Ours::Text(text.into())
}

fn path(path: &Path) -> Ours {
    text(path.display().to_string())
}

/// Addresses, the Unix socket and TLS towards clients.
pub fn listen(settings: &Settings<'_>, around: &Around<'_>, out: &mut Out, notes: &mut Notes) {
    let port = settings.get("listen_port").unwrap_or("6432");
    let addresses = names(settings.get("listen_addr").unwrap_or_default());
    let addresses = addresses.iter().map(|host| match host.as_str() {
        "*" => {
            let text =
                "listen_addr = *: listens on every IPv4 address; add \"[::]:PORT\" to listen.tcp for IPv6";
            notes.add(Weight::Differs, settings.line("listen_addr").map(|line| &line.at), text);
            format!("0.0.0.0:{port}")
        }
        host if host.contains(':') => format!("[{host}]:{port}"),
        host => format!("{host}:{port}"),
    });
    out.put("listen.tcp", Ours::List(addresses.collect()), "");
    match settings.line("unix_socket_dir").map(|line| (line, line.value.as_str())) {
        None => out.put("listen.unix_socket_dir", text("/tmp"), "PgBouncer's default"),
        Some((_, "")) => {}
        Some((line, abstract_name)) if abstract_name.starts_with('@') => {
            notes.add(Weight::Differs, Some(&line.at), "unix_socket_dir: abstract sockets are not supported");
        }
        Some((_, directory)) => out.put("listen.unix_socket_dir", path(&around.locate(directory)), ""),
    }
    if let Some(line) = settings.line("unix_socket_mode")
        && !matches!(line.value.as_str(), "0777" | "777")
    {
        let text = "unix_socket_mode has no counterpart: everybody on the machine can reach the socket, and has to log in";
        notes.add(Weight::Differs, Some(&line.at), text);
    }
    tls(settings, around, out, notes);
}

fn tls(settings: &Settings<'_>, around: &Around<'_>, out: &mut Out, notes: &mut Notes) {
    let mode = settings.get("client_tls_sslmode").unwrap_or("disable");
    if mode == "disable" {
        return;
    }
    let is_verified = matches!(mode, "verify-ca" | "verify-full");
    let word = match mode {
        "allow" | "prefer" => "allow",
        "require" | "verify-ca" | "verify-full" => "require",
        _ => {
            let at = settings.line("client_tls_sslmode").map(|line| &line.at);
            out.put("listen.tls", text(mode), "");
            return notes.add(Weight::Problem, at, format!("client_tls_sslmode: {mode:?} is not known"));
        }
    };
    out.put("listen.tls", text(word), "");
    for (theirs, ours) in
        [("client_tls_cert_file", "listen.tls_cert"), ("client_tls_key_file", "listen.tls_key")]
    {
        match settings.get(theirs) {
            Some(file) => out.put(ours, path(&around.locate(file)), ""),
            None => notes.add(Weight::Problem, None, format!("client_tls_sslmode = {mode} needs {theirs}")),
        }
    }
    let wants_certificates = matches!(settings.get("auth_type"), Some("cert" | "hba"));
    if let Some(file) = settings.get("client_tls_ca_file")
        && (is_verified || wants_certificates)
    {
        out.put("listen.tls_client_ca", path(&around.locate(file)), "");
        out.put("listen.tls_client_cert", text(if is_verified { "require" } else { "allow" }), "");
    }
}

/// Who clients are.
pub fn auth(
    settings: &Settings<'_>,
    auth_user: Option<&str>,
    around: &Around<'_>,
    out: &mut Out,
    notes: &mut Notes,
) {
    let kind = settings.get("auth_type").unwrap_or("md5");
    let at = settings.line("auth_type").map(|line| &line.at);
    let word = match kind {
        "scram-sha-256" | "md5" | "cert" | "hba" | "trust" => kind,
        "plain" => "password",
        "any" => {
            let text = "auth_type = any: clients keep the names that they give; \
                a user in [databases] says as whom they work";
            notes.add(Weight::Differs, at, text);
            "trust"
        }
        "pam" | "ldap" => {
            let text =
                format!("auth_type = {kind} is not supported: clients are asked for the server's passwords");
            notes.add(Weight::Problem, at, text);
            "scram-sha-256"
        }
        other => {
            notes.add(Weight::Problem, at, format!("auth_type: {other:?} is not known"));
            other
        }
    };
    if kind != "hba" {
        out.put("auth.type", text(word), if at.is_none() { "PgBouncer's default" } else { "" });
    } else if settings.get("auth_hba_file").is_none() {
        notes.add(Weight::Problem, at, "auth_type = hba needs auth_hba_file");
    }
    for (theirs, ours, is_meant) in [
        ("auth_file", "auth.file", true),
        ("auth_hba_file", "auth.hba_file", kind == "hba"),
        ("auth_ident_file", "auth.ident_file", kind == "hba"),
    ] {
        if let Some(file) = settings.get(theirs).filter(|_| is_meant) {
            out.put(ours, path(&around.locate(file)), "");
        }
    }
    if let Some(user) = auth_user {
        let query = settings.get("auth_query");
        out.put(
            "auth.query",
            text(query.unwrap_or(AUTH_QUERY)),
            if query.is_none() { "PgBouncer's default" } else { "" },
        );
        out.put("auth.query_user", text(user), "");
        if let Some(database) = settings.get("auth_dbname") {
            out.put("auth.query_dbname", text(database), "");
        }
    }
}

/// The log, and questions to servers.
pub fn rest(settings: &Settings<'_>, out: &mut Out, notes: &mut Notes) {
    match settings.get("verbose") {
        None | Some("0") => {}
        Some("1") => out.put("log.level", text("debug"), ""),
        Some(_) => out.put("log.level", text("trace"), ""),
    }
    if let Some(line) = settings.line("server_check_query")
        && !matches!(line.value.to_lowercase().trim_end_matches(';'), "" | "<empty>" | "select 1")
    {
        let text = "server_check_query has no counterpart: a server that lay idle is asked nothing but whether it lives";
        notes.add(Weight::Differs, Some(&line.at), text);
    }
    if let Some(line) = settings.line("server_reset_query")
        && !line.value.trim_end_matches(';').eq_ignore_ascii_case("DISCARD ALL")
    {
        let text =
            "server_reset_query has no counterpart: a server that a client has changed is cleaned completely";
        notes.add(Weight::Differs, Some(&line.at), text);
    }
    if let Some(line) = settings.line("server_login_retry") {
        match line.value.parse::<f64>() {
            Ok(seconds) if seconds < 1.0 => put(line, "pool.server_login_retry", Turn::Seconds, out, notes),
            _ => {
                let text = "server_login_retry: a server that refuses is asked again after 50 ms, \
                    so that clients go on as soon as it is back; pool.server_login_retry changes that";
                notes.add(Weight::Differs, Some(&line.at), text);
            }
        }
    }
    if let Some(line) = settings.line("max_prepared_statements")
        && line.value == "0"
    {
        let text =
            "max_prepared_statements = 0: prepared statements work in every mode and cannot be switched off";
        notes.add(Weight::Differs, Some(&line.at), text);
    }
}
