//! `initdb` once, a copy for each server after that.
//!
//! A copy gets a system identifier of its own: two servers with the same one would look like a
//! primary and its standby, which is exactly what a mirror has to tell apart.

use super::place::{Place, ServerUser, make_dir, shared_dir};
use super::{Error, PASSWORD, Programs, SUPERUSER};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// For one helper program, on a machine that is busy with others.
const PROGRAM_LIMIT: Duration = Duration::from_secs(120);

/// Raised when the way a template is made changes.
const FORMAT: u32 = 1;

/// Fills the data directory of `place` with a fresh cluster.
pub(super) async fn copy_into(
    place: &Place,
    programs: &Programs,
    user: ServerUser,
    initdb_arguments: &[String],
) -> Result<(), Error> {
    let template = ready(programs, user, initdb_arguments).await?;
    let mut copy = std::process::Command::new("cp");
    copy.args(["-a", "--reflink=auto", "--"]).arg(template.join(".")).arg(&place.data);
    run("cp", copy).await?;
    renumber(&place.data)?;
    // Makes new WAL: the copied one carries the identifier of the template in its page headers.
    let mut reset = user.command(&programs.path("pg_resetwal"));
    reset.arg("-D").arg(&place.data);
    run("pg_resetwal", reset).await.map(drop)
}

/// The directory of the template, made if it is not there yet.
async fn ready(programs: &Programs, user: ServerUser, arguments: &[String]) -> Result<PathBuf, Error> {
    let mut hasher = DefaultHasher::new();
    (FORMAT, programs.version(), programs.bindir(), arguments, PASSWORD).hash(&mut hasher);
    let name = format!("template-{:016x}", hasher.finish());
    let shared = shared_dir()?;
    let (template, unfinished) = (shared.join(&name), shared.join(format!("{name}.new")));
    let _lock = lock(&shared.join(format!("{name}.lock"))).await?;
    if template.is_dir() {
        return Ok(template);
    }
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished).map_err(Error::file("remove", &unfinished))?;
    }
    make_dir(&unfinished, 0o700)?;
    user.own(&unfinished)?;
    let password = shared.join(format!("{name}.password"));
    std::fs::write(&password, PASSWORD).map_err(Error::file("write", &password))?;
    let mut initdb = user.command(&programs.path("initdb"));
    initdb.arg("-D").arg(&unfinished).args(["--no-sync", "--auth=scram-sha-256", "--encoding=UTF8"]);
    initdb.args(["--username", SUPERUSER]).arg("--pwfile").arg(&password).args(arguments);
    run("initdb", initdb).await?;
    std::fs::rename(&unfinished, &template).map_err(Error::file("rename", &unfinished))?;
    Ok(template)
}

/// Waits until no other process makes this template.
async fn lock(path: &Path) -> Result<Flock<File>, Error> {
    let end = Instant::now() + PROGRAM_LIMIT;
    let open = || File::options().create(true).append(true).open(path).map_err(Error::file("create", path));
    let mut file = open()?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, _)) if Instant::now() < end => file = back,
            Err((_, errno)) => return Err(Error::file("lock", path)(errno.into())),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs a helper program to its end and returns what it printed.
pub(super) async fn run(name: &str, command: std::process::Command) -> Result<String, Error> {
    let failed = |output: String| Error::Program { program: name.to_owned(), output };
    let mut command = tokio::process::Command::from(command);
    command.stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PROGRAM_LIMIT, command.output())
        .await
        .map_err(|_| failed(format!("no end within {PROGRAM_LIMIT:?}")))?
        .map_err(|e| failed(e.to_string()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(failed(format!("{} {} ({})", text(&output.stdout), text(&output.stderr), output.status)))
}

/// Writes a new system identifier into `pg_control` (its first eight bytes) and renews the
/// checksum. Where the checksum stands differs between versions, so it is looked for: it is the
/// first word that equals the CRC-32C of all bytes before it (`src/include/catalog/pg_control.h`).
fn renumber(data: &Path) -> Result<(), Error> {
    let path = data.join("global/pg_control");
    let mut control = std::fs::read(&path).map_err(Error::file("read", &path))?;
    let word = |at: usize| control.get(at..at + 4).map(|w| u32::from_ne_bytes([w[0], w[1], w[2], w[3]]));
    let Some(at) = (64..1024).step_by(4).find(|at| word(*at).is_some_and(|w| w == crc32c(&control[..*at])))
    else {
        let why = std::io::Error::other("its checksum is not where any known version has it");
        return Err(Error::file("renumber", &path)(why));
    };
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let identifier = (since_1970.as_secs() << 32) | u64::from(u32::from_ne_bytes(crate::sys::random_bytes()));
    control[..8].copy_from_slice(&identifier.to_ne_bytes());
    let checksum = crc32c(&control[..at]);
    control[at..at + 4].copy_from_slice(&checksum.to_ne_bytes());
    std::fs::write(&path, control).map_err(Error::file("write", &path))
}

/// CRC-32C (Castagnoli), bit by bit: a few hundred bytes, once per server.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    #[test]
    fn the_checksum_is_castagnolis() {
        // RFC 3720, B.4 "CRC Examples".
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
    }
}
