//! `cloud-mirror check`: asks both servers for what the configuration needs, and changes nothing.

use super::settings;
use super::{Exit, control_runtime, convert};
use crate::base::Site;
use crate::catalog::progress;
use crate::config::Config;
use crate::replicate::{MirrorSpec, bootstrap};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

/// Probes both servers with what `config` says and prints what is missing. Blocks.
pub fn check(config: &Config) -> anyhow::Result<Exit> {
    control_runtime()?.block_on(probe(config))
}

async fn probe(config: &Config) -> anyhow::Result<Exit> {
    let mut exit = Exit::Ok;
    let sites = [(Site::Local, Some(&config.local)), (Site::Cloud, config.cloud.as_ref())];
    let mut parties = Vec::new();
    for (site, upstream) in sites {
        let Some(upstream) = upstream else { continue };
        let party = convert::party(site, upstream)?;
        match party.control("cloud-mirror check", PATIENCE).await {
            Ok(_) => println!("{site}: {} lets {} in", party.endpoint.address, party.login.user),
            Err(error) => {
                println!("{site}: {error}");
                exit = if error.is_unreachable() { Exit::Unreachable } else { Exit::Usage };
            }
        }
        parties.push(party);
    }
    let [local, cloud] = parties.as_slice() else { return Ok(exit) };
    if exit != Exit::Ok {
        return Ok(exit);
    }
    for entry in settings::mirrors(config) {
        let spec = MirrorSpec {
            name: entry.name.clone(),
            source: local.with_database(entry.source.clone()),
            target: cloud.with_database(entry.target.clone()),
            replace_role_passwords: entry.replace_role_passwords,
            full_identity: entry.full_identity.clone(),
        };
        if let Some(phase) = is_made(&spec).await {
            println!("mirror {}: it is made already ({phase})", entry.name);
            continue;
        }
        match bootstrap::preflight(&spec).await {
            Ok(report) => {
                println!("mirror {}: nothing is missing", entry.name);
                for warning in &report.warnings {
                    println!("mirror {}: warning: {warning}", entry.name);
                }
            }
            Err(problems) => {
                exit = Exit::Usage;
                for problem in problems {
                    println!("mirror {}: {problem}", entry.name);
                }
            }
        }
    }
    Ok(exit)
}

/// How far a mirror is that has been made. A preflight would find its own target full.
async fn is_made(spec: &MirrorSpec) -> Option<&'static str> {
    let target = spec.target.control("cloud-mirror check", PATIENCE).await.ok()?;
    let row = progress::read(&target, &spec.name).await.ok()??;
    (row.phase != progress::Phase::Bootstrapping).then(|| row.phase.as_str())
}
