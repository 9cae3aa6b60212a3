//! A list of users as PgBouncer keeps it (`userlist.txt`): `"name" "secret"` on each line.

use super::model::{Credential, StaticUser};
use super::problem::Origin;
use super::reader::Problems;
use super::users::is_scram_verifier;
use crate::base::{RoleName, Secret};
use std::path::Path;
use std::sync::Arc;

const KEY: &str = "auth.file";

/// Reads a list, named at `at`; `None` when there are mistakes, which are noted. The last line of a user counts, as
/// in PgBouncer.
pub fn read(
    path: &Path,
    at: &Origin,
    read: &dyn Fn(&Path) -> Result<String, String>,
    problems: &Problems,
) -> Option<Vec<StaticUser>> {
    let name: Arc<str> = Arc::from(path.display().to_string().as_str());
    let text = match read(path) {
        Ok(text) => text,
        Err(why) => {
            let what = format!("cannot read {}: {why}", path.display());
            problems.add(at, KEY, what, "name a file that this user can read");
            return None;
        }
    };
    let mut users: Vec<StaticUser> = Vec::new();
    let mut index = std::collections::HashMap::new();
    let mut is_sound = true;
    for (number, user) in users_in(&text) {
        let at = Origin::Line { file: name.clone(), line: number };
        match user {
            Ok(user) => match index.get(&user.name) {
                Some(&at) => users[at] = user,
                None => {
                    index.insert(user.name.clone(), users.len());
                    users.push(user);
                }
            },
            Err(what) => {
                problems.add(&at, KEY, what, "write \"name\" \"password\", both in double quotes");
                is_sound = false;
            }
        }
    }
    is_sound.then_some(users)
}

/// The users of a list with the numbers of their lines, or what is wrong there.
pub fn users_in(text: &str) -> impl Iterator<Item = (usize, Result<StaticUser, String>)> {
    let lines = (1..).zip(text.lines().map(str::trim));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with([';', '#']));
    lines.map(|(number, line)| (number, user(line)))
}

/// The mistake never quotes the line, which has a password.
fn user(line: &str) -> Result<StaticUser, String> {
    let (name, rest) = quoted(line).ok_or("the name is not in double quotes")?;
    // What stands behind the secret was of use long ago, and is ignored by PgBouncer too.
    let (secret, _) = quoted(rest.trim_start()).ok_or("the secret is not in double quotes")?;
    let name = RoleName::new(name.as_str()).map_err(|error| error.to_string())?;
    Ok(StaticUser { name, credential: credential(secret)? })
}

/// What kind of secret it is, by its form.
fn credential(secret: String) -> Result<Credential, String> {
    if is_scram_verifier(&secret) {
        Ok(Credential::Verifier(Secret::new(secret)))
    } else if secret.starts_with("SCRAM-SHA-256$") {
        Err("the secret begins like a SCRAM-SHA-256 verifier and is none".to_owned())
    } else if is_md5(&secret) {
        Ok(Credential::Md5(Secret::new(secret)))
    } else {
        Ok(Credential::Password(Secret::new(secret)))
    }
}

/// `md5` and 32 hexadecimal digits (`get_password_type`).
pub fn is_md5(text: &str) -> bool {
    text.strip_prefix("md5")
        .is_some_and(|hash| hash.len() == 32 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The text between double quotes, two of which stand for one, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut value = String::new();
    loop {
        let (before, after) = rest.split_once('"')?;
        value.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                value.push('"');
                rest = more;
            }
            None => return Some((value, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Option<Vec<StaticUser>>, Vec<String>) {
        let problems = Problems::default();
        let users =
            read(Path::new("/etc/userlist.txt"), &Origin::Nowhere, &|_| Ok(text.to_owned()), &problems);
        (users, problems.into_inner().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_list_is_read_as_pgbouncer_reads_it() {
        let verifier = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
            wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        let text = format!(
            "; comment\n\n\"app\" \"se\"\"cret\"\n\"ann\" \"md5a3556571e93b0d20722ba62be61e8c2d\"  \"old\"\n\
             \"eve\" \"{verifier}\"\n  \"o\"\"k\" \"\"\n\"app\" \"later\"\n"
        );
        let (users, problems) = parsed(&text);
        assert_eq!(problems, Vec::<String>::new());
        let users = users.unwrap();
        let names: Vec<_> = users.iter().map(|user| user.name.as_str()).collect();
        assert_eq!(names, ["app", "ann", "eve", "o\"k"]);
        let kinds = users.iter().map(|user| match &user.credential {
            Credential::Password(secret) => format!("p {}", secret.expose()),
            Credential::Md5(secret) => format!("m {}", &secret.expose()[..6]),
            Credential::Verifier(_) => "v".to_owned(),
        });
        assert_eq!(kinds.collect::<Vec<_>>(), ["p later", "m md5a35", "v", "p "]);
    }

    #[test]
    fn every_mistake_is_named_with_its_line_and_without_the_secret() {
        let (users, problems) = parsed(
            "app geheim\n\"ann\" geheim\n\"ok\" \"x\"\n\"eve\" \"SCRAM-SHA-256$geheim\"\n\"open geheim\n\"\" \"geheim\"\n",
        );
        assert!(users.is_none());
        assert_eq!(problems.len(), 5, "{problems:?}");
        assert!(problems[0].starts_with("/etc/userlist.txt:1: auth.file: the name is not in double quotes"));
        assert!(problems[2].starts_with("/etc/userlist.txt:4: "), "{problems:?}");
        assert!(!problems.join("\n").contains("geheim"));
    }
}
