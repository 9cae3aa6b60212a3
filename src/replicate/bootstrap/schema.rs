//! The schema: `pg_dump` under the slot's snapshot into one file, `pg_restore` from it in two
//! sections with the rows between them.

use super::error::Error;
use super::gate::Gate;
use super::programs::Programs;
use crate::backend::control::Control;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which half of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    /// Types, functions, tables.
    BeforeRows,
    /// Keys, indexes, constraints, triggers, policies, and the contents of materialised views.
    AfterRows,
}

/// Whether the login on the target may do everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Power {
    Superuser,
    /// Owns the database only: an owner it cannot give, or a grant in another's name, is a
    /// warning instead of an error.
    Owner,
}

/// A dump of the schema.
pub(super) struct Dump {
    programs: Programs,
    file: PathBuf,
    list: PathBuf,
}

/// Reads the source's schema as the snapshot has it. Large objects have entries before the rows:
/// they are left out like everything else that is not carried.
pub(super) async fn dump(
    programs: &Programs,
    gate: &Gate,
    application_name: &str,
    snapshot: &str,
    directory: &Path,
    within: Duration,
) -> Result<Dump, Error> {
    let file = directory.join("schema.dump");
    let mut arguments: Vec<String> = [
        "--format=custom",
        "--section=pre-data",
        "--section=post-data",
        "--exclude-schema=cloud_mirror",
        "--no-publications",
        "--no-subscriptions",
        "--no-security-labels",
        "--no-tablespaces",
        "--no-blobs",
        "--lock-wait-timeout=60s",
        "--no-password",
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.push(format!("--snapshot={snapshot}"));
    arguments.push(format!("--file={}", file.display()));
    // The gate knows the database; a name is needed all the same.
    arguments.push("--dbname=source".to_owned());
    let said = programs.run("pg_dump", &arguments, Some((gate, application_name)), within).await?;
    if !said.is_success {
        return Err(Error::Program { program: "pg_dump", why: said.err.trim().to_owned() });
    }
    let arguments = ["--list".to_owned(), file.display().to_string()];
    let said = programs.run("pg_restore", &arguments, None, within).await?;
    if !said.is_success {
        return Err(Error::Program { program: "pg_restore", why: said.err.trim().to_owned() });
    }
    let list = directory.join("schema.list");
    std::fs::write(&list, wanted(&said.out)).map_err(|source| Error::File { path: list.clone(), source })?;
    Ok(Dump { programs: programs.clone(), file, list })
}

/// The entries to restore: no event triggers (they would fire on what we do), and no comments
/// on them.
fn wanted(list: &str) -> String {
    let is_wanted = |line: &&str| {
        let mut words = line.splitn(4, ' ');
        let entry = match (words.next(), words.next(), words.next(), words.next()) {
            // `215; 1259 16386 TABLE public t alice`
            (Some(id), Some(_), Some(_), Some(rest)) if id.ends_with(';') => rest,
            _ => return true,
        };
        !(entry.starts_with("EVENT TRIGGER ") || entry.starts_with("COMMENT - EVENT TRIGGER "))
    };
    list.lines().filter(is_wanted).fold(String::new(), |all, line| all + line + "\n")
}

impl Dump {
    /// Restores one half; returns what the target refused and can be done without.
    pub(super) async fn restore(
        &self,
        section: Section,
        gate: &Gate,
        application_name: &str,
        jobs: usize,
        power: Power,
        within: Duration,
    ) -> Result<Vec<Complaint>, Error> {
        let name = match section {
            Section::BeforeRows => "pre-data",
            Section::AfterRows => "post-data",
        };
        let arguments = [
            format!("--section={name}"),
            format!("--use-list={}", self.list.display()),
            format!("--jobs={jobs}"),
            "--no-password".to_owned(),
            "--dbname=target".to_owned(),
            self.file.display().to_string(),
        ];
        let said =
            self.programs.run("pg_restore", &arguments, Some((gate, application_name)), within).await?;
        if said.is_success {
            return Ok(Vec::new());
        }
        let complaints = complaints(&said.err);
        if let Some(fatal) = complaints.iter().find(|c| !c.is_bearable(power)) {
            return Err(Error::Program { program: "pg_restore", why: fatal.to_string() });
        }
        if complaints.is_empty() {
            return Err(Error::Program { program: "pg_restore", why: said.err.trim().to_owned() });
        }
        Ok(complaints)
    }
}

/// Tries the refused statements once more: an owner needs CREATE on the schema, and such a grant
/// is restored after the owners. Returns in words what is refused for good.
pub(super) async fn once_more(target: &Control, refused: Vec<Complaint>) -> Result<Vec<String>, Error> {
    let mut left = Vec::new();
    for complaint in refused {
        match target.batch_execute(&complaint.command).await {
            Ok(()) => {}
            Err(error) if error.as_db_error().is_some() => left.push(complaint.to_string()),
            Err(source) => {
                return Err(Error::Sql { doing: "repeat what was refused on the target".to_owned(), source });
            }
        }
    }
    Ok(left)
}

/// A statement that the target refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint {
    why: String,
    /// Empty when it was not a statement that failed.
    command: String,
}

impl std::fmt::Display for Complaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let command = self.command.split_whitespace().collect::<Vec<_>>().join(" ");
        let short: String = command.chars().take(200).collect();
        write!(f, "{}: {short}", self.why.trim_start_matches("could not execute query: ERROR:").trim())
    }
}

impl Complaint {
    fn is_bearable(&self, power: Power) -> bool {
        let is = |word: &str| self.command.starts_with(word);
        // Contents can be made again at any time; the application's own function failed.
        let is_contents = is("REFRESH MATERIALIZED VIEW ");
        let is_ownership = (is("ALTER ") && self.command.contains(" OWNER TO "))
            || [
                "GRANT ",
                "REVOKE ",
                "ALTER DEFAULT PRIVILEGES ",
                "SET SESSION AUTHORIZATION ",
                "COMMENT ON EXTENSION ",
            ]
            .into_iter()
            .any(is);
        is_contents || (power == Power::Owner && is_ownership)
    }
}

/// Takes the program's messages apart.
fn complaints(err: &str) -> Vec<Complaint> {
    const START: &str = "pg_restore: error: ";
    let mut all: Vec<Complaint> = Vec::new();
    let mut is_inside = false;
    for line in err.lines() {
        if let Some(why) = line.strip_prefix(START) {
            all.push(Complaint { why: why.to_owned(), command: String::new() });
            is_inside = true;
        } else if line.starts_with("pg_restore: ") {
            is_inside = false;
        } else if let (true, Some(last)) = (is_inside, all.last_mut()) {
            match line.strip_prefix("Command was: ") {
                Some(command) => last.command = command.to_owned(),
                None if last.command.is_empty() => last.why += &format!(" {}", line.trim()),
                None => last.command += &format!("\n{line}"),
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERR: &str = "\
pg_restore: while PROCESSING TOC:
pg_restore: from TOC entry 215; 1259 16386 TABLE t alice
pg_restore: error: could not execute query: ERROR:  must be member of role \"alice\"
Command was: ALTER TABLE public.t OWNER TO alice;


pg_restore: from TOC entry 3; 0 0 MATERIALIZED VIEW DATA m alice
pg_restore: error: could not execute query: ERROR:  division by zero
DETAIL:  here
Command was: REFRESH MATERIALIZED VIEW public.m;

pg_restore: error: could not execute query: ERROR:  type \"x\" does not exist
Command was: CREATE TABLE public.t (
    a x
);
pg_restore: warning: errors ignored on restore: 3
";

    #[test]
    fn complaints_are_taken_apart_and_judged() {
        let all = complaints(ERR);
        assert_eq!(all.len(), 3, "{all:?}");
        assert!(!all[0].is_bearable(Power::Superuser) && all[0].is_bearable(Power::Owner));
        assert!(all[1].is_bearable(Power::Superuser) && all[1].why.ends_with("here"), "{:?}", all[1]);
        assert!(!all[2].is_bearable(Power::Owner));
        assert_eq!(all[2].to_string(), "type \"x\" does not exist: CREATE TABLE public.t ( a x );");
    }

    #[test]
    fn event_triggers_and_comments_on_them_are_left_out() {
        let list = ";\n; Archive\n215; 1259 16386 TABLE public EVENT TRIGGER alice\n\
                    6; 3466 1 EVENT TRIGGER - ddl alice\n7; 0 0 COMMENT - EVENT TRIGGER ddl alice\n\
                    8; 0 0 COMMENT public TABLE t alice\n";
        let kept = wanted(list);
        assert_eq!(kept.lines().count(), 4, "{kept}");
        assert!(!kept.contains("ddl"));
    }
}
