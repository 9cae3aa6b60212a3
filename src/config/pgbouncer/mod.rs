//! PgBouncer's configuration in ours: what its settings mean here, what they are just now, and whole
//! files of it.
//!
//! Start reading in [`import`]; `keys` is the list of all its settings.

mod import;
mod ini;
mod keys;
mod out;
mod server;
mod special;
mod values;

pub use import::{Around, Imported, Note, Weight, import};
pub use ini::{IniError, Place};

use super::Config;
use super::diff::is_live;
use keys::{KEYS, Meaning};

/// A row of `SHOW CONFIG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// PgBouncer's name, or ours (`section.key`).
    pub key: String,
    /// In its unit.
    pub value: Option<String>,
    /// What PgBouncer takes without it; nothing for keys of ours.
    pub default: Option<String>,
    /// Whether `SET` and `RELOAD` change it in a running process.
    pub is_changeable: bool,
}

/// PgBouncer's settings that mean something here, in its order and with its units; then every key
/// of ours.
pub fn settings(config: &Config) -> Vec<Setting> {
    let effective = config.effective();
    let theirs = KEYS.iter().filter_map(|key| {
        let setting = |value, is_changeable| Setting {
            key: key.name.to_owned(),
            value,
            default: key.default.map(str::to_owned),
            is_changeable,
        };
        match key.meaning {
            Meaning::Key(ours, turn) => {
                let value = effective.get(ours).map(|value| values::shown(turn, value));
                Some(setting(value, is_live(ours)))
            }
            Meaning::Special => match key.name {
                "listen_addr" => {
                    let hosts = config.listen.tcp.iter().map(|address| address.host.as_str());
                    Some(setting(Some(hosts.collect::<Vec<_>>().join(",")), false))
                }
                "listen_port" => Some(setting(Some(config.listen.socket_port().to_string()), false)),
                "unix_socket_dir" => Some(setting(effective.get("listen.unix_socket_dir").cloned(), false)),
                "auth_type" => Some(setting(effective.get("auth.type").cloned(), is_live("auth.type"))),
                _ => None,
            },
            Meaning::Moot(_) | Meaning::Missing(_) => None,
        }
    });
    let ours = effective.iter().map(|(key, value)| Setting {
        key: key.clone(),
        value: Some(value.clone()),
        default: None,
        is_changeable: is_live(key),
    });
    theirs.chain(ours).collect()
}

/// Why a setting cannot be changed while the process runs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotSet {
    /// Neither PgBouncer nor we have it.
    #[error("unrecognized configuration parameter \"{0}\"")]
    Unknown(String),
    /// It means nothing here.
    #[error("\"{key}\" has no effect here: {why}")]
    NoEffect {
        /// Which.
        key: String,
        /// Why.
        why: String,
    },
    /// It is read at the start only.
    #[error("\"{0}\" cannot be changed without restarting the proxy")]
    NeedsRestart(String),
    /// Its value is wrong.
    #[error("invalid value for \"{key}\": {why}")]
    Value {
        /// Which.
        key: String,
        /// What is wrong.
        why: String,
    },
}

/// What `SET key = value` changes: a key of ours and its value in our unit; several for a list, none
/// for "no limit".
pub fn set(key: &str, value: &str) -> Result<(String, Vec<String>), CannotSet> {
    if key.contains('.') {
        return match is_live(key) {
            true => Ok((key.to_owned(), vec![value.to_owned()])),
            false => Err(CannotSet::NeedsRestart(key.to_owned())),
        };
    }
    let Some(known) = keys::find(key) else { return Err(CannotSet::Unknown(key.to_owned())) };
    match known.meaning {
        Meaning::Key(ours, _) if !is_live(ours) => Err(CannotSet::NeedsRestart(key.to_owned())),
        Meaning::Key(ours, turn) => {
            let value = values::turned(turn, value);
            let value = value.map_err(|why| CannotSet::Value { key: key.to_owned(), why })?;
            let values = match value {
                values::Ours::Text(text) | values::Ours::Bare(text) => vec![text],
                values::Ours::List(texts) => texts,
                values::Ours::LeftOut => Vec::new(),
            };
            Ok((ours.to_owned(), values))
        }
        Meaning::Special => Err(CannotSet::NeedsRestart(key.to_owned())),
        Meaning::Moot(why) | Meaning::Missing(why) => {
            Err(CannotSet::NoEffect { key: key.to_owned(), why: why.to_owned() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_stand_in_order_once() {
        for pair in KEYS.windows(2) {
            // PgBouncer's own order, which is nearly the alphabet's.
            assert_ne!(pair[0].name, pair[1].name);
        }
        let mut names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KEYS.len());
    }

    #[test]
    fn a_setting_is_set_by_either_name() {
        let values = |key, value| set(key, value).map(|(key, values)| (key, values.join("|")));
        let ok = |key: &str, value: &str| Ok((key.to_owned(), value.to_owned()));
        assert_eq!(values("default_pool_size", "30"), ok("pool.size", "30"));
        assert_eq!(values("default_pool_size", "0"), ok("pool.size", ""));
        assert_eq!(values("server_idle_timeout", "90"), ok("pool.server_idle_timeout", "90s"));
        assert_eq!(values("stats_users", "a, b"), ok("auth.stats_users", "a|b"));
        assert_eq!(values("pool.size", "3"), ok("pool.size", "3"));
        let said = |key, value| set(key, value).unwrap_err().to_string();
        assert_eq!(said("max_clients", "3"), "unrecognized configuration parameter \"max_clients\"");
        assert_eq!(
            said("listen_port", "3"),
            "\"listen_port\" cannot be changed without restarting the proxy"
        );
        assert_eq!(
            said("query_timeout", "soon"),
            "invalid value for \"query_timeout\": \"soon\" is no number of seconds"
        );
        assert!(said("dns_max_ttl", "3").starts_with("\"dns_max_ttl\" has no effect here: "));
    }
}
