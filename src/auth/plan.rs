//! What to do with a role that wants in by a password: pure.

use crate::base::{Moment, RoleName, Secret, sqlstate};
use crate::wire::message::Complaint;
use crate::wire::scram::Verifier;
use crate::wire::scram::server::Standing;

/// What is known of a role's right to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Its secret.
    pub password: StoredPassword,
    /// End of VALID UNTIL on our own clock; `Moment::NEVER` without one.
    pub valid_until: Moment,
    /// LOGIN or NOLOGIN. A server says so only after the proof, and so do we.
    pub may_log_in: MayLogIn,
}

/// Whether a role that has proved itself gets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MayLogIn {
    /// LOGIN.
    Yes,
    /// NOLOGIN.
    No,
}

/// Kinds of stored passwords.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredPassword {
    /// None: no password fits.
    None,
    /// A SCRAM-SHA-256 verifier.
    Scram(Verifier),
    /// `md5` and the hash of password and name. It answers md5 only, here and at the server.
    Md5(Secret),
    /// The password itself: it serves every method.
    Plain(Secret),
    /// Anything else.
    Unreadable,
}

impl StoredPassword {
    /// Reads `pg_authid.rolpassword`, which is never the password itself.
    pub fn parse(text: Option<&str>) -> Self {
        match Self::parse_any(text) {
            StoredPassword::Plain(_) => StoredPassword::Unreadable,
            other => other,
        }
    }

    /// Reads what a query of the operator's own has found, which may be the password itself.
    pub fn parse_any(text: Option<&str>) -> Self {
        match text {
            None => StoredPassword::None,
            Some(text) => match text.parse() {
                Ok(verifier) => StoredPassword::Scram(verifier),
                // `get_password_type`: md5 and 32 hexadecimal digits.
                Err(_) if text.len() == 35 && text.starts_with("md5") => {
                    StoredPassword::Md5(Secret::new(text))
                }
                Err(_) if text.is_empty() || text.starts_with("SCRAM-SHA-256$") => StoredPassword::Unreadable,
                Err(_) => StoredPassword::Plain(Secret::new(text)),
            },
        }
    }
}

/// How a password is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    /// SCRAM-SHA-256 only.
    Scram,
    /// md5 where its hash can be made, else SCRAM-SHA-256.
    Md5,
    /// In clear text.
    Clear,
}

/// What a client has to pass.
#[derive(Debug)]
pub(super) enum Test {
    /// An exchange against a verifier.
    Scram(Verifier),
    /// An exchange against the verifier of a password that is known.
    ScramOf(Secret),
    /// An answer to a challenge, against a stored hash.
    Md5(Secret),
    /// The same against the hash of a password that is known.
    Md5Of(Secret),
    /// The password itself, against what is stored.
    Clear(StoredPassword),
}

/// The test and whether it can be passed.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) test: Test,
    pub(super) standing: Standing,
    /// Why it is doomed, for the log; empty when it is not.
    pub(super) why: &'static str,
}

/// Chooses for `user`, given what is known of it. Whoever cannot get in goes through the same
/// exchange as a wrong password, so that nobody learns which roles exist; a role whose password
/// must be set anew is told at once, or its owner would never find out.
pub(super) fn plan(
    asking: Asking,
    user: &[u8],
    role: Option<&Role>,
    mock_secret: &[u8; 32],
    now: Moment,
) -> Result<Plan, Complaint> {
    let why = match role {
        None => "the role does not exist",
        Some(role) => match role.password {
            StoredPassword::None => "the role has no password",
            StoredPassword::Unreadable => "the role's password is stored in an unknown form",
            _ if now > role.valid_until => "the role's password has expired",
            StoredPassword::Scram(_) | StoredPassword::Md5(_) | StoredPassword::Plain(_) => "",
        },
    };
    let standing = if why.is_empty() { Standing::Genuine } else { Standing::Doomed };
    let stored = role.map_or(&StoredPassword::None, |role| &role.password);
    let test = match (asking, stored) {
        (Asking::Clear, stored) => Test::Clear(stored.clone()),
        (Asking::Scram | Asking::Md5, StoredPassword::Scram(verifier)) => Test::Scram(verifier.clone()),
        (Asking::Md5, StoredPassword::Md5(hash)) if why.is_empty() => Test::Md5(hash.clone()),
        (Asking::Md5, StoredPassword::Plain(password)) if why.is_empty() => Test::Md5Of(password.clone()),
        (Asking::Scram, StoredPassword::Plain(password)) => Test::ScramOf(password.clone()),
        (Asking::Scram, StoredPassword::Md5(_)) if why.is_empty() => {
            return Err(md5(&String::from_utf8_lossy(user)));
        }
        _ => Test::Scram(Verifier::mock(mock_secret, user)),
    };
    Ok(Plan { test, standing, why })
}

fn md5(user: &str) -> Complaint {
    let quoted = user.replace('"', "\"\"");
    Complaint::fatal(
        sqlstate::INVALID_AUTHORIZATION,
        format!("password of role \"{user}\" is stored as md5, which does not answer SCRAM-SHA-256"),
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

/// The same where it was no password (`certificate`, `Peer`).
pub(super) fn failed(what: &str, user: &[u8]) -> Complaint {
    let user = String::from_utf8_lossy(user);
    let text = format!("{what} authentication failed for user \"{user}\"");
    Complaint::fatal(sqlstate::INVALID_AUTHORIZATION, text)
}

/// What a server says behind the proof of a role with NOLOGIN.
pub(super) fn not_permitted(user: &RoleName) -> Complaint {
    let text = format!("role \"{user}\" is not permitted to log in");
    Complaint::fatal(sqlstate::INVALID_AUTHORIZATION, text)
}

/// The role's name as a type; `None` when it is not UTF-8, which no role of ours is.
pub(super) fn role_name(user: &[u8]) -> Option<RoleName> {
    RoleName::new(std::str::from_utf8(user).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "md5a3556571e93b0d20722ba62be61e8c2d";

    fn role(password: StoredPassword) -> Role {
        Role { password, valid_until: Moment::NEVER, may_log_in: MayLogIn::Yes }
    }

    fn verifier() -> Verifier {
        Verifier::from_password(b"x", b"salt", std::num::NonZeroU32::MIN)
    }

    #[test]
    fn only_a_valid_secret_is_genuine() {
        let check = |role: Option<Role>, now, expected: Standing| {
            for asking in [Asking::Scram, Asking::Md5, Asking::Clear] {
                let plan = plan(asking, b"joe", role.as_ref(), &[0; 32], now).unwrap();
                assert_eq!(plan.standing, expected, "{role:?}");
                assert_eq!(plan.why.is_empty(), expected == Standing::Genuine);
            }
        };
        let scram = || role(StoredPassword::Scram(verifier()));
        check(Some(scram()), Moment(5), Standing::Genuine);
        check(Some(role(StoredPassword::Plain(Secret::new("x")))), Moment(5), Standing::Genuine);
        check(Some(Role { valid_until: Moment(5), ..scram() }), Moment(5), Standing::Genuine);
        check(Some(Role { valid_until: Moment(5), ..scram() }), Moment(6), Standing::Doomed);
        check(Some(role(StoredPassword::None)), Moment(5), Standing::Doomed);
        check(Some(role(StoredPassword::Unreadable)), Moment(5), Standing::Doomed);
        check(None, Moment(5), Standing::Doomed);
        let expired = Role { valid_until: Moment(5), ..role(StoredPassword::Md5(Secret::new(HASH))) };
        check(Some(expired), Moment(6), Standing::Doomed);
    }

    #[test]
    fn the_method_and_the_secret_choose_the_test() {
        let test = |asking, password| {
            let plan = plan(asking, b"joe", Some(&role(password)), &[0; 32], Moment(0)).unwrap();
            match plan.test {
                Test::Scram(_) => "scram",
                Test::ScramOf(_) => "scram of",
                Test::Md5(_) => "md5",
                Test::Md5Of(_) => "md5 of",
                Test::Clear(_) => "clear",
            }
        };
        let (hash, plain) = (StoredPassword::Md5(Secret::new(HASH)), StoredPassword::Plain(Secret::new("x")));
        let scram = StoredPassword::Scram(verifier());
        assert_eq!(test(Asking::Scram, scram.clone()), "scram");
        assert_eq!(test(Asking::Scram, plain.clone()), "scram of");
        assert_eq!(test(Asking::Md5, scram.clone()), "scram");
        assert_eq!(test(Asking::Md5, hash.clone()), "md5");
        assert_eq!(test(Asking::Md5, plain.clone()), "md5 of");
        assert_eq!(test(Asking::Md5, StoredPassword::None), "scram");
        for stored in [scram, hash, plain, StoredPassword::None] {
            assert_eq!(test(Asking::Clear, stored), "clear");
        }
    }

    #[test]
    fn an_md5_role_is_told_what_to_run() {
        let role = role(StoredPassword::parse(Some(HASH)));
        let complaint = plan(Asking::Scram, b"jo\"e", Some(&role), &[0; 32], Moment(0)).unwrap_err();
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
        assert_eq!(
            StoredPassword::parse_any(Some("md5short")),
            StoredPassword::Plain(Secret::new("md5short"))
        );
        assert_eq!(StoredPassword::parse_any(Some("SCRAM-SHA-256$x")), StoredPassword::Unreadable);
        let text = verifier().to_text();
        assert_eq!(StoredPassword::parse(Some(&text)), StoredPassword::Scram(verifier()));
    }
}
