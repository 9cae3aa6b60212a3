//! What clients call databases.

use crate::backend::Login;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Start-up parameters, names and values.
pub type Parameters = Vec<(Vec<u8>, Vec<u8>)>;

/// One database as it is listed.
#[derive(Debug, Clone)]
pub struct Named {
    /// Its name on the local server.
    pub database: Arc<[u8]>,
    /// As whom every client works there; `None`: as itself.
    pub login: Option<Login>,
    /// Start-up parameters for clients that do not bring them.
    pub parameters: Parameters,
}

/// All names. The default has every database under its own one.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Those that are listed.
    pub named: BTreeMap<Vec<u8>, Named>,
    /// Whether a client gets none but those.
    pub are_all: bool,
}

impl Names {
    /// The local server's name of a client's database; `None`: there is no such database.
    pub fn on_server<'a>(&'a self, database: &'a Arc<[u8]>) -> Option<&'a Arc<[u8]>> {
        match self.named.get(&**database) {
            Some(named) => Some(&named.database),
            None if self.are_all => None,
            None => Some(database),
        }
    }

    /// The login of a client of `database`, and its start-up parameters with those that are missing.
    pub fn dressed(&self, database: &[u8], login: Login, mut parameters: Parameters) -> (Login, Parameters) {
        let Some(named) = self.named.get(database) else { return (login, parameters) };
        for (name, value) in &named.parameters {
            if !parameters.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
                parameters.push((name.clone(), value.clone()));
            }
        }
        (named.login.clone().unwrap_or(login), parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Proof;
    use crate::base::RoleName;

    fn login(user: &str) -> Login {
        Login { user: RoleName::new(user).unwrap(), proof: Proof::None }
    }

    #[test]
    fn a_listed_database_has_its_own_name_login_and_settings() {
        let named = Named {
            database: b"bazdb".as_slice().into(),
            login: Some(login("baz")),
            parameters: vec![(b"timezone".to_vec(), b"UTC".to_vec())],
        };
        let mut names = Names { named: [(b"bardb".to_vec(), named)].into(), are_all: false };
        let [known, other] = [b"bardb".as_slice(), b"other"].map(Arc::<[u8]>::from);
        assert_eq!(names.on_server(&known).map(|name| &**name), Some(&b"bazdb"[..]));
        assert_eq!(names.on_server(&other), Some(&other));
        let (who, parameters) = names.dressed(b"bardb", login("app"), Vec::new());
        assert_eq!((who.user.as_str(), parameters.len()), ("baz", 1));
        let own = vec![(b"TimeZone".to_vec(), b"CET".to_vec())];
        assert_eq!(names.dressed(b"bardb", login("app"), own.clone()).1, own);
        assert_eq!(names.dressed(b"other", login("app"), own.clone()).0.user.as_str(), "app");
        names.are_all = true;
        assert_eq!(names.on_server(&other), None);
    }
}
