//! Our own superuser, which a fence does not shut out.
//!
//! A fence takes LOGIN from every other superuser, the one in the user's URL included. So the
//! proxy makes a role of its own on its first start, and a proxy that starts on a fenced server
//! gets in by the password in its state directory.

use super::Error;
use crate::backend::control::{Control, ControlError};
use crate::backend::{Login, Party, Proof};
use crate::base::{RoleName, Secret};
use crate::catalog::{identifier, literal};
use crate::sys::file::{read_if_exists, write_atomic};
use crate::sys::random_bytes;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_postgres::error::SqlState;

/// The role's name on every server.
pub const CONTROL_ROLE: &str = "cloud_mirror_control";

/// How we come to the login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The password in the state directory works.
    Ready,
    /// The role was made now.
    Created,
    /// The role was there, but not as the state directory has it (no file, another password, no
    /// LOGIN or SUPERUSER); the given login put it right.
    Repaired,
    /// There is none, and the given login is used as it is; the text says why.
    Kept(String),
}

/// The login to use from now on.
#[derive(Debug, Clone)]
pub struct ControlRole {
    /// Role and password.
    pub login: Login,
    /// How we came to it.
    pub found: Found,
}

/// Makes sure of the control role on the server of `given`, whose login is the one the user gave
/// us; the password is in `state_dir`, mode 0600, one file per site. Tries the control role first,
/// since the given login may be fenced out. To be called by the holder of the state directory's
/// lock only.
///
/// A login that is no superuser is kept and used as it is. Fails when neither login works.
pub async fn ensure(given: &Party, state_dir: &Path, patience: Duration) -> Result<ControlRole, Error> {
    let file = password_file(given, state_dir);
    let stored = match read_if_exists(&file)? {
        Some(bytes) => Some(stored_password(&bytes).ok_or_else(|| {
            Error::NotInState(format!(
                "{} is damaged; remove it, and the role {CONTROL_ROLE} gets a new password",
                file.display()
            ))
        })?),
        None => None,
    };
    let mut refused = None;
    if let Some(password) = &stored {
        match log_in(given, password, patience).await {
            Ok(client) if is_superuser(&client).await? => {
                return Ok(ControlRole { login: login(password), found: Found::Ready });
            }
            Ok(_) => {}
            Err(error) if is_refusal(&error) => refused = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    let client = match given.control("cloud-mirror control role", patience).await {
        Ok(client) => client,
        Err(error) => return Err(neither_works(given, &file, refused, error)),
    };
    if !is_superuser(&client).await? {
        let why = format!(
            "{} is not a superuser, so cloud-mirror works as that role on the {} server",
            given.login.user, given.site
        );
        return Ok(ControlRole { login: given.login.clone(), found: Found::Kept(why) });
    }
    make(given, &client, &file, stored, patience).await
}

/// The same where nothing will be fenced: makes no role, and fails when the given login does not work.
pub async fn check_given(given: &Party, state_dir: &Path, patience: Duration) -> Result<(), Error> {
    match given.control("cloud-mirror start", patience).await {
        Ok(_) => Ok(()),
        Err(error) => Err(neither_works(given, &password_file(given, state_dir), None, error)),
    }
}

/// Creates or repairs the role as `client`, a superuser, and proves that it can log in.
async fn make(
    given: &Party,
    client: &Control,
    file: &Path,
    stored: Option<Secret>,
    patience: Duration,
) -> Result<ControlRole, Error> {
    let exists = client
        .query_typed_one(&format!("SELECT pg_catalog.to_regrole({}) IS NOT NULL", literal(CONTROL_ROLE)), &[])
        .await
        .map_err(Error::sql("look for the control role"))?
        .get::<_, bool>(0);
    // The file comes first: a role whose password nobody knows would need the given login again.
    let password = match stored {
        Some(password) => password,
        None => {
            let password = new_password();
            write_atomic(file, format!("{}\n", password.expose()).as_bytes())?;
            password
        }
    };
    // The verifier instead of the password: statements can end up in the server's log.
    let verifier = postgres_protocol::password::scram_sha_256(password.expose().as_bytes());
    let verb = if exists { "ALTER" } else { "CREATE" };
    client
        .batch_execute(&format!(
            "SET synchronous_commit = local; {verb} ROLE {} LOGIN SUPERUSER REPLICATION \
             CONNECTION LIMIT -1 VALID UNTIL 'infinity' PASSWORD {}",
            identifier(CONTROL_ROLE),
            literal(&verifier)
        ))
        .await
        .map_err(Error::sql("make the role cloud_mirror_control"))?;
    match log_in(given, &password, patience).await {
        Ok(_) => {
            let found = if exists { Found::Repaired } else { Found::Created };
            Ok(ControlRole { login: login(&password), found })
        }
        Err(error) if is_refusal(&error) => {
            // pg_hba.conf lets the given role in but not ours, as `peer` does. Leave no superuser
            // behind that nobody uses. One that owns something stays: it was not ours alone.
            let drop = format!("DROP ROLE {}", identifier(CONTROL_ROLE));
            if client.batch_execute(&drop).await.is_ok() {
                std::fs::remove_file(file).ok();
            }
            let why = format!(
                "the server does not let {CONTROL_ROLE} log in ({error}), so cloud-mirror works as {}; \
                 allow it by a line in pg_hba.conf above the others: \
                 \"host all,replication {CONTROL_ROLE} samehost scram-sha-256\" \
                 (or \"local\" without the address, for a Unix socket)",
                given.login.user
            );
            Ok(ControlRole { login: given.login.clone(), found: Found::Kept(why) })
        }
        Err(error) => Err(error.into()),
    }
}

/// Where the password for the server of `given` is kept.
pub fn password_file(given: &Party, state_dir: &Path) -> PathBuf {
    state_dir.join(format!("control-{}.password", given.site))
}

fn new_password() -> Secret {
    Secret::new(random_bytes::<24>().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// The one line of the file.
fn stored_password(bytes: &[u8]) -> Option<Secret> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end_matches('\n');
    let is_ours = text.len() == 48 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_ours.then(|| Secret::new(text))
}

fn login(password: &Secret) -> Login {
    let user = RoleName::new(CONTROL_ROLE).expect("a constant of 1 to 63 bytes");
    Login { user, proof: Proof::Password(password.clone()) }
}

async fn log_in(given: &Party, password: &Secret, patience: Duration) -> Result<Control, ControlError> {
    let party = Party { login: login(password), ..given.clone() };
    party.control("cloud-mirror control role", patience).await
}

async fn is_superuser(client: &Control) -> Result<bool, Error> {
    let row = client
        .query_typed_one("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user", &[])
        .await
        .map_err(Error::sql("ask whether we are a superuser"))?;
    Ok(row.get(0))
}

/// Whether the server knows us and says no, as opposed to being away, busy or starting.
fn is_refusal(error: &ControlError) -> bool {
    match error {
        ControlError::Connect { source, .. } => source.code().is_some_and(|code| {
            *code == SqlState::INVALID_PASSWORD || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION
        }),
        ControlError::Timeout { .. } | ControlError::NoPassword { .. } => false,
    }
}

fn neither_works(
    given: &Party,
    file: &Path,
    control: Option<ControlError>,
    given_error: ControlError,
) -> Error {
    if !is_refusal(&given_error) {
        return given_error.into();
    }
    Error::NotInState(match control {
        Some(control) => format!(
            "neither {CONTROL_ROLE} nor {} can log in to the {} server: {control}; {given_error}. \
             Set the password of {CONTROL_ROLE} to the one in {} as another superuser, or remove that \
             file and give cloud-mirror a superuser that can log in; if the database is fenced, \
             docs/fence.md says how to get in by hand",
            given.login.user,
            given.site,
            file.display()
        ),
        None => format!(
            "{} cannot log in to the {} server: {given_error}; correct the user and the password in its URL. \
             If this database is fenced, docs/fence.md says how to get in by hand: there is no password of \
             {CONTROL_ROLE} in {}",
            given.login.user,
            given.site,
            file.display()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_password_reads_back_and_a_damaged_file_does_not() {
        let password = new_password();
        let file = format!("{}\n", password.expose());
        assert_eq!(stored_password(file.as_bytes()).unwrap().expose(), password.expose());
        for damaged in [&b""[..], b"\n", b"short\n", b"\xff\xff", &[b'z'; 48]] {
            assert!(stored_password(damaged).is_none(), "{damaged:?}");
        }
    }
}
