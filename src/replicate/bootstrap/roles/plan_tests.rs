use super::*;
use crate::base::Secret;

fn role(name: &str, verifier: Option<&str>) -> Role {
    Role {
        name: name.to_owned(),
        is_superuser: false,
        inherits: true,
        creates_roles: false,
        creates_databases: false,
        logs_in: true,
        replicates: false,
        bypasses_row_security: false,
        connection_limit: -1,
        valid_until: None,
        verifier: verifier.map_or(Verifier::None, |v| Verifier::Known(Secret::new(v))),
        settings: BTreeSet::new(),
        is_owner: false,
    }
}

fn roles(list: impl IntoIterator<Item = Role>) -> Roles {
    Roles { roles: list.into_iter().map(|r| (r.name.clone(), r)).collect(), ..Roles::default() }
}

fn target(list: impl IntoIterator<Item = Role>) -> Existing {
    Existing {
        roles: roles(list),
        managed: BTreeMap::new(),
        logins: BTreeSet::from(["admin".to_owned()]),
        login: "admin".to_owned(),
        login_is_superuser: true,
        login_creates_databases: true,
        database: "shop".to_owned(),
        major: 15,
    }
}

fn sql(plan: &Plan) -> Vec<&str> {
    plan.steps.iter().map(|s| s.sql.as_str()).collect()
}

#[test]
fn an_unknown_role_is_made_with_its_verifier() {
    let plan = plan(&roles([role("app", Some("SCRAM-SHA-256$x"))]), &target([]), OnConflict::Refuse);
    assert_eq!(
        sql(&plan),
        ["CREATE ROLE \"app\" LOGIN INHERIT NOCREATEROLE NOCREATEDB NOSUPERUSER NOREPLICATION NOBYPASSRLS \
          CONNECTION LIMIT -1 PASSWORD 'SCRAM-SHA-256$x'"]
    );
    assert!(plan.problems.is_empty() && plan.warnings.is_empty());
}

#[test]
fn an_ordinary_role_with_another_password_is_refused_or_replaced_and_one_we_made_is_updated() {
    let source = roles([role("app", Some("SCRAM-SHA-256$new"))]);
    let mut there = target([role("app", Some("SCRAM-SHA-256$old"))]);
    let refused = plan(&source, &there, OnConflict::Refuse);
    assert_eq!((refused.problems.len(), refused.steps.len()), (1, 0));
    let replaced = plan(&source, &there, OnConflict::Replace);
    assert!(replaced.problems.is_empty());
    assert!(sql(&replaced)[0].ends_with("PASSWORD 'SCRAM-SHA-256$new'"), "{:?}", sql(&replaced));
    let old = fingerprint(&Verifier::Known(Secret::new("SCRAM-SHA-256$old")));
    there.managed.insert("app".to_owned(), old);
    let synced = plan(&source, &there, OnConflict::Refuse);
    assert!(synced.problems.is_empty());
    assert!(sql(&synced)[0].ends_with("PASSWORD 'SCRAM-SHA-256$new'"));
}

#[test]
fn superusers_and_the_logins_of_the_urls_are_warned_about_and_left_alone() {
    let mut boss = role("boss", Some("SCRAM-SHA-256$a"));
    boss.is_superuser = true;
    let source = roles([boss.clone(), role("admin", Some("SCRAM-SHA-256$a"))]);
    boss.verifier = Verifier::Known(Secret::new("SCRAM-SHA-256$b"));
    let there = target([boss, role("admin", Some("SCRAM-SHA-256$b"))]);
    let plan = plan(&source, &there, OnConflict::Replace);
    assert_eq!((plan.warnings.len(), plan.steps.len(), plan.problems.len()), (2, 0, 0));
}

#[test]
fn a_login_that_is_no_superuser_cannot_compare_and_says_what_it_cannot_give() {
    let mut owner = role("owner", Some("SCRAM-SHA-256$a"));
    (owner.is_superuser, owner.is_owner) = (true, true);
    let mut app = role("app", None);
    app.verifier = Verifier::Unreadable;
    let source = roles([owner, role("app", Some("SCRAM-SHA-256$a"))]);
    let there = Existing { login_is_superuser: false, ..target([app]) };
    let plan = plan(&source, &there, OnConflict::Refuse);
    assert_eq!(plan.problems.len(), 1, "{:?}", plan.problems);
    assert!(plan.warnings[0].contains("SUPERUSER"), "{:?}", plan.warnings);
    assert!(!sql(&plan)[0].contains("SUPERUSER"));
    assert_eq!(sql(&plan)[1], "GRANT \"owner\" TO \"admin\"");
}

#[test]
fn an_md5_password_is_named_with_the_statement_that_cures_it() {
    let plan = plan(&roles([role("old", Some("md5abc"))]), &target([]), OnConflict::Refuse);
    assert!(plan.warnings[0].contains("ALTER ROLE \"old\" PASSWORD"), "{:?}", plan.warnings);
}

#[test]
fn an_end_of_validity_that_was_lifted_is_lifted_there_too() {
    let mut there = role("app", None);
    there.valid_until = Some("2030-01-01 00:00:00+00".to_owned());
    let plan = plan(&roles([role("app", None)]), &target([there]), OnConflict::Refuse);
    assert!(sql(&plan)[0].ends_with(" VALID UNTIL 'infinity'"), "{:?}", sql(&plan));
}

#[test]
fn settings_and_memberships_are_made_equal() {
    let mut app = role("app", None);
    let setting = |name: &str, value: &str, in_database| Setting {
        in_database,
        name: name.to_owned(),
        value: value.to_owned(),
    };
    app.settings.insert(setting("search_path", "\"$user\", public, \"a,b\"", true));
    app.settings.insert(setting("my.tenant", "it's", false));
    let membership = |role: &str| Membership {
        role: role.to_owned(),
        member: "app".to_owned(),
        is_admin: false,
        inherits: None,
        may_set: None,
    };
    let mut source = roles([app, role("readers", None), role("writers", None)]);
    source.memberships.insert(membership("readers"));
    let mut there = target([role("app", None), role("readers", None), role("writers", None)]);
    there.roles.roles.get_mut("app").unwrap().settings.insert(setting("jit", "off", false));
    there.roles.memberships.insert(membership("writers"));
    let plan = plan(&source, &there, OnConflict::Refuse);
    let text = sql(&plan).join("\n");
    for expected in [
        "ALTER ROLE \"app\" IN DATABASE \"shop\" SET \"search_path\" TO '$user', 'public', 'a,b'",
        "ALTER ROLE \"app\" SET \"my\".\"tenant\" TO 'it''s'",
        "ALTER ROLE \"app\" RESET \"jit\"",
        "GRANT \"readers\" TO \"app\"",
        "REVOKE \"writers\" FROM \"app\"",
    ] {
        assert!(text.contains(expected), "{expected} not in\n{text}");
    }
}

#[test]
fn lists_of_names_are_taken_apart_as_the_server_does() {
    assert_eq!(split_names("\"$user\", public"), ["$user", "public"]);
    assert_eq!(split_names("\"a\"\"b\",c"), ["a\"b", "c"]);
    assert_eq!(split_names("\"\""), [""]);
    assert!(split_names("").is_empty());
}
