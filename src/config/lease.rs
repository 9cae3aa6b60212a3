//! `[lease]` and `[failover]`: who may write, and when that changes.

use super::model::{Authority, Failover, LeaseConfig, LeaseStore};
use super::reader::{Found, Section};
use std::path::{Path, PathBuf};
use std::time::Duration;

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) fn read(mut section: Section<'_>, state_dir: Option<&Path>) -> Option<LeaseConfig> {
    let is_given = section.has("store");
    let store = match section.text("store", "\"file:/var/lib/cloud-mirror/lease\"") {
        Some(text) => store(&section, &text),
        None if is_given => None,
        // Without a state directory its own mistake is noted already.
        None => state_dir.map(|dir| LeaseStore::File(dir.join("lease"))),
    };
    let has_ttl = section.has("ttl");
    let ttl = section.duration("ttl", secs(2)..=secs(600));
    let has_authority = section.has("authority");
    let later = [("local", "it comes later")];
    let authority = section.choice("authority", &[("internet", Authority::Internet)], &later);
    let has_rebuild = section.has("rebuild");
    let rebuild = section.boolean("rebuild");
    let is_sound = (rebuild.is_some() || !has_rebuild)
        && (ttl.is_some() || !has_ttl)
        && (authority.is_some() || !has_authority);
    section.finish();
    store.filter(|_| is_sound).map(|store| LeaseConfig {
        store,
        ttl: ttl.map_or(secs(30), |ttl| ttl.value),
        authority: authority.map_or(Authority::Internet, |found| found.value),
        rebuild: rebuild.unwrap_or(false),
    })
}

fn store(section: &Section<'_>, text: &Found<String>) -> Option<LeaseStore> {
    let value = &text.value;
    let refuse = |what: String| {
        section.problem(&text.at, "store", what, "write \"file:/var/lib/cloud-mirror/lease\"");
        None
    };
    let Some((scheme, rest)) = value.split_once(':') else {
        return refuse(format!("{value:?} names no kind of store"));
    };
    match scheme {
        "file" => {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            match Path::new(path).is_absolute() {
                true => Some(LeaseStore::File(PathBuf::from(path))),
                false => refuse(format!("{path:?} is not an absolute path")),
            }
        }
        "gs" | "s3" | "az" | "azure" => refuse(format!("stores of kind {scheme:?} are not available yet")),
        _ => refuse(format!("{scheme:?} is not a known kind of store")),
    }
}

pub(super) fn read_failover(mut section: Section<'_>) -> Option<Failover> {
    let mut is_sound = true;
    let mut duration = |section: &mut Section<'_>, key, range, default| {
        let is_given = section.has(key);
        let found = section.duration(key, range);
        is_sound &= found.is_some() || !is_given;
        found.unwrap_or(Found { value: default, at: section.at.clone() })
    };
    let restart_grace = duration(&mut section, "restart_grace", Duration::ZERO..=secs(600), secs(10));
    let hold_timeout = duration(&mut section, "hold_timeout", secs(1)..=secs(3600), secs(30));
    let drain_timeout = duration(&mut section, "drain_timeout", Duration::ZERO..=secs(3600), secs(8));
    let probe_interval = duration(&mut section, "probe_interval", millis(50)..=secs(60), secs(1));
    let probe_timeout = duration(&mut section, "probe_timeout", millis(50)..=secs(60), secs(1));
    let has_misses = section.has("probe_misses");
    let probe_misses = section.integer("probe_misses", 1..=100);
    is_sound &= probe_misses.is_some() || !has_misses;
    if is_sound && hold_timeout.value <= restart_grace.value {
        section.problem(
            &hold_timeout.at,
            "hold_timeout",
            format_args!(
                "{} is not longer than restart_grace ({}): clients would be refused before a restart is over",
                super::units::show_duration(hold_timeout.value),
                super::units::show_duration(restart_grace.value)
            ),
            "write a longer hold_timeout",
        );
        is_sound = false;
    }
    section.finish();
    is_sound.then(|| Failover {
        restart_grace: restart_grace.value,
        hold_timeout: hold_timeout.value,
        drain_timeout: drain_timeout.value,
        probe_interval: probe_interval.value,
        probe_timeout: probe_timeout.value,
        probe_misses: probe_misses.unwrap_or(3) as u32,
    })
}
