//! What to do with a role that wants in: pure.

use crate::base::{Moment, RoleName, sqlstate};
use crate::wire::message::Complaint;
use crate::wire::scram::Verifier;
use crate::wire::scram::server::Standing;

/// What the writer knows of a role's right to log in. Roles that may not log in at all (NOLOGIN)
/// are not told apart: their server link is refused in the server's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// What `pg_authid.rolpassword` holds.
    pub password: StoredPassword,
    /// End of VALID UNTIL on our own clock; `Moment::NEVER` without one.
    pub valid_until: Moment,
}

/// Kinds of stored passwords.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredPassword {
    /// None: no password fits.
    None,
    /// A SCRAM-SHA-256 verifier.
    Scram(Verifier),
    /// An md5 hash: the client could be authenticated with it, but nothing comes out of that
    /// which would log in to a server.
    Md5,
    /// Anything else.
    Unreadable,
}

impl StoredPassword {
    /// Reads `pg_authid.rolpassword`.
    pub fn parse(text: Option<&str>) -> Self {
        match text {
            None => StoredPassword::None,
            Some(text) => match text.parse() {
                Ok(verifier) => StoredPassword::Scram(verifier),
                // `get_password_type`: md5 and 32 hexadecimal digits.
                Err(_) if text.len() == 35 && text.starts_with("md5") => StoredPassword::Md5,
                Err(_) => StoredPassword::Unreadable,
            },
        }
    }
}

/// What a client has to pass.
#[derive(Debug)]
pub(super) struct Test {
    pub(super) verifier: Verifier,
    pub(super) standing: Standing,
    /// Why the exchange is doomed, for the log; empty when it is not.
    pub(super) why: &'static str,
}

/// Chooses for `user`, given what the writer knows of it. Whoever cannot get in goes through the
/// same exchange as a wrong password, so that nobody learns which roles exist; a role whose
/// password must be set anew is told at once, or its owner would never find out.
pub(super) fn plan(
    user: &[u8],
    role: Option<&Role>,
    mock_secret: &[u8; 32],
    now: Moment,
) -> Result<Test, Complaint> {
    let mock =
        |why| Ok(Test { verifier: Verifier::mock(mock_secret, user), standing: Standing::Doomed, why });
    let Some(role) = role else { return mock("the role does not exist") };
    match &role.password {
        StoredPassword::None => mock("the role has no password"),
        StoredPassword::Unreadable => mock("the role's password is stored in an unknown form"),
        StoredPassword::Md5 => Err(md5(&String::from_utf8_lossy(user))),
        StoredPassword::Scram(verifier) if now > role.valid_until => Ok(Test {
            verifier: verifier.clone(),
            standing: Standing::Doomed,
            why: "the role's password has expired",
        }),
        StoredPassword::Scram(verifier) => {
            Ok(Test { verifier: verifier.clone(), standing: Standing::Genuine, why: "" })
        }
    }
}

fn md5(user: &str) -> Complaint {
    let quoted = user.replace('"', "\"\"");
    Complaint::fatal(
        sqlstate::INVALID_AUTHORIZATION,
        format!("password of role \"{user}\" is stored as md5, which cannot be passed through to a server"),
    )
    .detail("The server must keep a SCRAM-SHA-256 verifier of it.")
    .hint(format!(
        "Run on the server: SET password_encryption = 'scram-sha-256'; ALTER ROLE \"{quoted}\" PASSWORD '...';"
    ))
}

/// What PostgreSQL says to every client that did not prove itself ("auth_failed").
pub(super) fn wrong_password(user: &[u8]) -> Complaint {
    let user = String::from_utf8_lossy(user);
    Complaint::fatal(
        sqlstate::INVALID_PASSWORD,
        format!("password authentication failed for user \"{user}\""),
    )
}

/// The role's name as a type; `None` when it is not UTF-8, which no role of ours is.
pub(super) fn role_name(user: &[u8]) -> Option<RoleName> {
    RoleName::new(std::str::from_utf8(user).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(password: StoredPassword) -> Role {
        Role { password, valid_until: Moment::NEVER }
    }

    fn verifier() -> Verifier {
        Verifier::from_password(b"x", b"salt", std::num::NonZeroU32::MIN)
    }

    #[test]
    fn only_a_valid_scram_verifier_is_genuine() {
        let check = |role: Option<Role>, now, expected: Standing| {
            let test = plan(b"joe", role.as_ref(), &[0; 32], now).unwrap();
            assert_eq!(test.standing, expected, "{role:?}");
            assert_eq!(test.why.is_empty(), expected == Standing::Genuine);
        };
        let scram = || role(StoredPassword::Scram(verifier()));
        check(Some(scram()), Moment(5), Standing::Genuine);
        check(Some(Role { valid_until: Moment(5), ..scram() }), Moment(5), Standing::Genuine);
        check(Some(Role { valid_until: Moment(5), ..scram() }), Moment(6), Standing::Doomed);
        check(Some(role(StoredPassword::None)), Moment(5), Standing::Doomed);
        check(Some(role(StoredPassword::Unreadable)), Moment(5), Standing::Doomed);
        check(None, Moment(5), Standing::Doomed);
    }

    #[test]
    fn an_md5_role_is_told_what_to_run() {
        let role = role(StoredPassword::parse(Some("md5a3556571e93b0d20722ba62be61e8c2d")));
        let complaint = plan(b"jo\"e", Some(&role), &[0; 32], Moment(0)).unwrap_err();
        assert_eq!(complaint.code, "28000");
        assert_eq!(
            complaint.hint.as_deref(),
            Some(
                "Run on the server: SET password_encryption = 'scram-sha-256'; ALTER ROLE \"jo\"\"e\" PASSWORD '...';"
            )
        );
    }

    #[test]
    fn stored_passwords_are_told_apart() {
        assert_eq!(StoredPassword::parse(None), StoredPassword::None);
        assert_eq!(StoredPassword::parse(Some("")), StoredPassword::Unreadable);
        assert_eq!(StoredPassword::parse(Some("md5short")), StoredPassword::Unreadable);
        let text = verifier().to_text();
        assert_eq!(StoredPassword::parse(Some(&text)), StoredPassword::Scram(verifier()));
    }
}
