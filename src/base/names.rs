//! Names as types, so that a role is never passed for a database.

use std::fmt;
use std::sync::Arc;

/// One of the two sites of a pair, and the upstream of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Site {
    /// The user's own machine.
    Local,
    /// The cloud.
    Cloud,
}

impl Site {
    /// The name in configuration, records and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Site::Local => "local",
            Site::Cloud => "cloud",
        }
    }

    /// The peer of this site.
    #[must_use]
    pub fn other(self) -> Site {
        match self {
            Site::Local => Site::Cloud,
            Site::Cloud => Site::Local,
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Names have at least one byte.
    #[error("a {kind} name may not be empty")]
    Empty {
        /// What was to be named.
        kind: &'static str,
    },
    /// PostgreSQL cuts identifiers at 63 bytes; we refuse instead ("Identifiers and Key Words").
    #[error("a {kind} name has at most {max} bytes, this one has {length}: {name:?}")]
    TooLong {
        /// What was to be named.
        kind: &'static str,
        /// The refused text.
        name: String,
        /// Its length in bytes.
        length: usize,
        /// The longest allowed.
        max: usize,
    },
    /// A zero byte, or for slots anything but lower-case letters, digits and underscores.
    #[error("a {kind} name may not contain {what}: {name:?}")]
    BadCharacter {
        /// What was to be named.
        kind: &'static str,
        /// The refused text.
        name: String,
        /// The offending part, in words.
        what: &'static str,
    },
}

fn checked(kind: &'static str, name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { kind });
    }
    if name.len() > 63 {
        return Err(NameError::TooLong { kind, name: name.to_owned(), length: name.len(), max: 63 });
    }
    if name.contains('\0') {
        return Err(NameError::BadCharacter { kind, name: name.to_owned(), what: "a zero byte" });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Takes a text of 1 to 63 bytes without a zero byte.
            pub fn new(name: impl Into<Arc<str>>) -> Result<Self, NameError> {
                let name = name.into();
                checked($kind, &name)?;
                Ok(Self(name))
            }

            /// The name, unquoted.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                Self::new(text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// A database, as clients or servers name it.
    DatabaseName,
    "database"
);
name!(
    /// A role of a server.
    RoleName,
    "role"
);
name!(
    /// A mirror: one source database and its copy on the upstream `cloud`.
    MirrorName,
    "mirror"
);

/// A replication slot: lower-case letters, digits and underscores only ("Replication Slots").
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct SlotName(String);

impl SlotName {
    /// Takes a text that PostgreSQL accepts as the name of a slot.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        checked("slot", &name)?;
        if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
            let what = "anything but a-z, 0-9 and _";
            return Err(NameError::BadCharacter { kind: "slot", name, what });
        }
        Ok(Self(name))
    }

    /// The name; needs no quotes in SQL or in replication commands.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_postgresqls_bounds() {
        assert!(DatabaseName::new("shop").is_ok());
        assert!(DatabaseName::new("with \"quotes\" and ümlaut").is_ok());
        assert!(DatabaseName::new("").is_err());
        assert!(DatabaseName::new("x".repeat(64)).is_err());
        assert!(RoleName::new("a\0b").is_err());
        assert!(SlotName::new("cloud_mirror_1").is_ok());
        assert!(SlotName::new("Cloud").is_err());
    }
}
