//! What a mirror is: its two ends, its wishes, and the names it uses on the servers.

use crate::backend::Party;
use crate::base::{MirrorName, SlotName};
use crate::config::FullIdentity;

/// One mirror: which database is copied where, and what the user allowed for it.
#[derive(Debug, Clone)]
pub struct MirrorSpec {
    /// Its name.
    pub name: MirrorName,
    /// The database it is copied from.
    pub source: Party,
    /// The database it is copied to.
    pub target: Party,
    /// Whether a role that exists on the target with another password gets the source's.
    pub replace_role_passwords: bool,
    /// Which tables without a key are given REPLICA IDENTITY FULL on the source, so that their
    /// updates and deletes can be followed.
    pub full_identity: FullIdentity,
}

/// Longest stem with which the longest name built on it still fits in 63 bytes.
const STEM_MAX: usize = 63 - "cloud_mirror_".len() - "_inserts".len();

impl MirrorSpec {
    /// The slot on the source.
    pub fn slot(&self) -> SlotName {
        SlotName::new(self.publication()).expect("the stem holds a-z, 0-9 and _ only and is short enough")
    }

    /// The publication of the tables with a replica identity: all operations.
    pub fn publication(&self) -> String {
        format!("cloud_mirror_{}", stem(self.name.as_str()))
    }

    /// The publication of the tables without: inserts and truncations. Publishing their updates
    /// would make the application's own fail (SQLSTATE 55000).
    pub fn publication_of_inserts(&self) -> String {
        format!("{}_inserts", self.publication())
    }
}

/// The mirror's name as a slot may have it. Two names never share a stem: where something had to
/// be changed, a hash of the name tells them apart.
fn stem(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' { c } else { '_' })
        .collect();
    if plain == name && name.len() <= STEM_MAX && !name.ends_with("_inserts") {
        return plain;
    }
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let kept: String = plain.chars().take(STEM_MAX - 17).collect();
    format!("{kept}_{hash:016x}")
}

/// A mirror for tests of this room that reach no server.
#[cfg(test)]
pub(super) fn fixture() -> MirrorSpec {
    use crate::backend::tls::ServerTls;
    use crate::backend::{Address, Endpoint, Login, Proof};
    use crate::base::{DatabaseName, RoleName, Site};
    let party = |site| Party {
        site,
        endpoint: Endpoint {
            address: Address::Tcp { host: "localhost".to_owned(), port: 1 },
            tls: ServerTls::disabled(),
        },
        login: Login { user: RoleName::new("u").expect("a name"), proof: Proof::None },
        database: DatabaseName::new("d").expect("a name"),
    };
    MirrorSpec {
        name: MirrorName::new("m").expect("a name"),
        source: party(Site::Local),
        target: party(Site::Cloud),
        replace_role_passwords: false,
        full_identity: FullIdentity::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_name_is_kept_and_any_other_is_told_apart_by_a_hash() {
        assert_eq!(stem("cloud"), "cloud");
        let names = ["Cloud", "cl oud", "cl-oud", "a_inserts", &"x".repeat(63), &"x".repeat(62), "ümlaut"];
        let stems: Vec<String> = names.iter().map(|n| stem(n)).collect();
        for (n, s) in stems.iter().enumerate() {
            assert!(s.len() <= STEM_MAX, "{s}");
            assert!(SlotName::new(format!("cloud_mirror_{s}_inserts")).is_ok(), "{s}");
            assert!(!s.ends_with("_inserts"), "{s}");
            assert!(!stems[n + 1..].contains(s), "{s} twice");
        }
    }
}
