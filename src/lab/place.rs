//! Where servers live: directories their user can read, the user itself, and ports.

use super::{Durability, Error};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Uid, User, chown, geteuid};
use std::fs::{DirBuilder, File};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// As whom servers run: `None` is ourselves, else the user `postgres`, because we are root.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerUser(Option<(Uid, Gid)>);

impl ServerUser {
    pub(super) fn find() -> Result<ServerUser, Error> {
        if !geteuid().is_root() {
            return Ok(ServerUser(None));
        }
        match User::from_name("postgres") {
            Ok(Some(user)) => Ok(ServerUser(Some((user.uid, user.gid)))),
            Ok(None) | Err(_) => Err(Error::NoUser),
        }
    }

    /// A command that runs as this user, in a process group of its own so that Ctrl-C in our
    /// terminal reaches us alone. The standard library drops root's other groups with the uid.
    pub(super) fn command(self, program: &Path) -> std::process::Command {
        use std::os::unix::process::CommandExt;
        let mut command = std::process::Command::new(program);
        if let ServerUser(Some((uid, gid))) = self {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        command.process_group(0).current_dir("/").env_remove("PGDATA").env_remove("PGPORT");
        command.env("LC_ALL", "C").env_remove("PGOPTIONS").env_remove("PGSERVICE");
        command
    }

    /// Gives `path` to this user.
    pub(super) fn own(self, path: &Path) -> Result<(), Error> {
        let ServerUser(Some((uid, gid))) = self else { return Ok(()) };
        chown(path, Some(uid), Some(gid)).map_err(|e| Error::file("give away", path)(e.into()))
    }
}

/// The directories of one server.
#[derive(Debug)]
pub(super) struct Place {
    /// Name that no other server has; also its `cluster_name`.
    pub(super) mark: String,
    /// Holds the others; removed with the server.
    pub(super) root: PathBuf,
    /// The data directory, 0700.
    pub(super) data: PathBuf,
    /// The directory of the Unix socket, reachable by everybody.
    pub(super) socket: PathBuf,
    /// What the server writes to its standard error.
    pub(super) log: PathBuf,
}

impl Place {
    pub(super) fn make(user: ServerUser, durability: Durability) -> Result<Place, Error> {
        let bytes: [u8; 4] = crate::sys::random_bytes();
        let mark = format!("cm-lab-{}-{:08x}", std::process::id(), u32::from_ne_bytes(bytes));
        let home = match durability {
            Durability::KillOnly => memory_dir().unwrap_or_else(temp_dir),
            Durability::Full => temp_dir(),
        };
        let root = home.join(&mark);
        let place =
            Place { data: root.join("data"), socket: root.join("socket"), log: root.join("log"), mark, root };
        for (path, mode) in [(&place.root, 0o755), (&place.data, 0o700), (&place.socket, 0o755)] {
            make_dir(path, mode)?;
            user.own(path)?;
        }
        File::create(&place.log).map_err(Error::file("create", &place.log))?;
        Ok(place)
    }
}

/// A directory with exactly `mode`, whatever the umask.
pub(super) fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    DirBuilder::new().mode(mode).create(path).map_err(Error::file("create", path))?;
    let permissions = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, permissions).map_err(Error::file("open up", path))
}

/// The temporary directory, or `/tmp` where that is too long for a socket (107 bytes with the
/// name) or, when we are root, closed to the user `postgres`.
fn temp_dir() -> PathBuf {
    let wanted = std::env::temp_dir();
    let is_open = |dir: &Path| std::fs::metadata(dir).is_ok_and(|m| m.mode() & 0o001 != 0);
    let is_reachable = !geteuid().is_root() || wanted.ancestors().all(is_open);
    if wanted.is_absolute() && wanted.as_os_str().len() <= 48 && is_reachable {
        wanted
    } else {
        PathBuf::from("/tmp")
    }
}

/// `/dev/shm` where it is a memory file system with room for several servers: a cluster is a
/// thousand small files, which take a second on some disks and a twentieth of that in memory.
/// Containers usually have 64 MB there, and then it is not used.
fn memory_dir() -> Option<PathBuf> {
    let path = Path::new("/dev/shm");
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available_kb: u64 = available.split_whitespace().next()?.parse().ok()?;
    let free = nix::sys::statvfs::statvfs(path).ok()?;
    let free_kb = free.blocks_available() * free.fragment_size() / 1024;
    let is_memory = nix::sys::statfs::statfs(path).ok()?.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC;
    (is_memory && free_kb.min(available_kb) >= MEMORY_KB_MIN).then(|| path.to_owned())
}

/// Free memory below which servers live on disk.
const MEMORY_KB_MIN: u64 = 6 * 1024 * 1024;

/// What all lab processes of this user share: templates and reservations of ports. Refuses a
/// directory that somebody else made in our name.
pub(super) fn shared_dir() -> Result<PathBuf, Error> {
    let path = temp_dir().join(format!("cm-lab-shared-{}", geteuid()));
    match make_dir(&path, 0o755) {
        Ok(()) => return Ok(path),
        Err(Error::File { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(other) => return Err(other),
    }
    let found = std::fs::symlink_metadata(&path).map_err(Error::file("look at", &path))?;
    // Between mkdir and chmod of another process of ours the mode is narrower, never wider.
    if found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & 0o022 == 0 {
        return Ok(path);
    }
    let why = std::io::Error::other("it belongs to somebody else or others may write to it");
    Err(Error::file("use", &path)(why))
}

/// A TCP port on loopback that is ours until dropped, also while nobody listens on it.
///
/// It lies below the kernel's ephemeral range: a port from `bind(0)` could be handed to another
/// process while our server is down, and a connect to it could even meet itself (simultaneous
/// open with an equal source port), so that a dead server seems to answer.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _reservation: Flock<File>,
}

const FIRST_PORT: u16 = 20_000;
const LAST_PORT: u16 = 31_999;

impl Port {
    /// Reserves a port that nobody listens on.
    pub fn reserve() -> Result<Port, Error> {
        let count = LAST_PORT - FIRST_PORT + 1;
        let start = u16::from_ne_bytes(crate::sys::random_bytes()) % count;
        for step in 0..count {
            let number = FIRST_PORT + (start + step) % count;
            if let Ok(port) = Self::exactly(number) {
                return Ok(port);
            }
        }
        Err(Error::NoPort { first: FIRST_PORT, last: LAST_PORT })
    }

    /// Reserves this port, or says that it is taken.
    pub fn exactly(number: u16) -> Result<Port, Error> {
        let path = shared_dir()?.join(format!("port-{number}"));
        let file = File::options().create(true).append(true).open(&path);
        let file = file.map_err(Error::file("create", &path))?;
        let reservation = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| Error::PortTaken { port: number })?;
        // Of all interfaces: a server of somebody else may listen on 0.0.0.0 alone.
        TcpListener::bind(("0.0.0.0", number)).map_err(|_| Error::PortTaken { port: number })?;
        Ok(Port { number, _reservation: reservation })
    }

    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }
}
