//! What a database is apart from its contents: locale, owner, rights, settings.

use super::super::Error;
use crate::backend::control::Control;
use crate::base::DatabaseName;
use crate::catalog::door::Door;
use crate::catalog::{identifier, literal};
use serde_json::Value;
use tokio_postgres::types::Type;

/// The shape of one database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// `pg_database`'s row, whose columns differ between versions.
    options: Vec<String>,
    owner: String,
    /// `None`: the rights everybody has by default.
    grants: Option<Vec<Grant>>,
    settings: Vec<Setting>,
    comment: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    /// `None` is PUBLIC.
    to: Option<String>,
    privilege: String,
    can_grant: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    /// `None`: for all roles.
    role: Option<String>,
    name: String,
    value: String,
}

/// Settings that are lists of names: their stored text is SQL already and must not be quoted as a
/// whole ("pg_dumpall", `variable_is_guc_list_quote`).
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

impl Shape {
    /// Reads the shape of `name`. A door that shuts its roles out counts as open.
    pub(super) async fn read(
        client: &Control,
        name: &DatabaseName,
        door: Option<&Door>,
    ) -> Result<Shape, Error> {
        let by_name: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 1] = [(&name.as_str(), Type::TEXT)];
        let row = client
            .query_typed_one(
                "SELECT pg_catalog.to_jsonb(d), pg_catalog.pg_encoding_to_char(d.encoding)::text, \
                   t.spcname::text, pg_catalog.pg_get_userbyid(d.datdba)::text, d.datacl IS NULL, \
                   pg_catalog.shobj_description(d.oid, 'pg_database') \
                 FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace \
                 WHERE d.datname = $1",
                &by_name,
            )
            .await
            .map_err(Error::sql("read the old database's shape"))?;
        let grants = client
            .query_typed(
                "SELECT r.rolname::text, a.privilege_type, a.is_grantable \
                 FROM pg_catalog.pg_database d, pg_catalog.aclexplode(d.datacl) a \
                 LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee \
                 WHERE d.datname = $1 AND (a.grantee = 0 OR r.rolname IS NOT NULL) ORDER BY 1, 2",
                &by_name,
            )
            .await
            .map_err(Error::sql("read the old database's rights"))?;
        let settings = client
            .query_typed(
                "SELECT r.rolname::text, split_part(c.text, '=', 1), \
                   substr(c.text, strpos(c.text, '=') + 1) \
                 FROM pg_catalog.pg_db_role_setting s \
                 JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase \
                 LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) AS c (text) \
                 WHERE d.datname = $1 AND (s.setrole = 0 OR r.rolname IS NOT NULL) ORDER BY 1, 2",
                &by_name,
            )
            .await
            .map_err(Error::sql("read the old database's settings"))?;
        let has_default_rights: bool = row.get(4);
        let mut grants: Vec<Grant> = grants
            .iter()
            .map(|row| Grant { to: row.get(0), privilege: row.get(1), can_grant: row.get(2) })
            .collect();
        if let Some(door) = door {
            let connect =
                |to: Option<String>, can_grant| Grant { to, privilege: "CONNECT".to_owned(), can_grant };
            if door.public_could_connect {
                grants.push(connect(None, false));
            }
            let admitted = door.grantees.iter();
            grants.extend(admitted.map(|r| connect(Some(r.clone()), door.grantable.contains(r))));
        }
        Ok(Shape {
            options: options(&row.get(0), row.get(1), row.get(2)),
            owner: row.get(3),
            grants: (!has_default_rights).then_some(grants),
            settings: settings
                .iter()
                .map(|row| Setting { role: row.get(0), name: row.get(1), value: row.get(2) })
                .collect(),
            comment: row.get(5),
        })
    }

    /// The statement that makes an empty database of this shape.
    pub(super) fn create(&self, name: &DatabaseName, connection_limit: i32) -> String {
        format!(
            "CREATE DATABASE {} TEMPLATE template0 OWNER {} CONNECTION LIMIT {connection_limit} {}",
            identifier(name.as_str()),
            identifier(&self.owner),
            self.options.join(" ")
        )
    }

    /// The statements that give it its rights and settings.
    pub(super) fn dress(&self, name: &DatabaseName) -> Vec<String> {
        let name = identifier(name.as_str());
        let mut statements = Vec::new();
        if let Some(grants) = &self.grants {
            statements
                .push(format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC, {}", identifier(&self.owner)));
            for grant in grants {
                let to = grant.to.as_deref().map_or("PUBLIC".to_owned(), identifier);
                let option = if grant.can_grant { " WITH GRANT OPTION" } else { "" };
                statements.push(format!("GRANT {} ON DATABASE {name} TO {to}{option}", grant.privilege));
            }
        }
        for setting in &self.settings {
            let whose = match &setting.role {
                Some(role) => format!("ALTER ROLE {} IN DATABASE {name}", identifier(role)),
                None => format!("ALTER DATABASE {name}"),
            };
            // A custom setting's name has a dot between two identifiers.
            let what: Vec<String> = setting.name.split('.').map(identifier).collect();
            let is_list = LISTS.contains(&setting.name.to_lowercase().as_str());
            let to = match setting.value.as_str() {
                "" => "''".to_owned(),
                list if is_list => list.to_owned(),
                value => literal(value).trim_start().to_owned(),
            };
            statements.push(format!("{whose} SET {} TO {to}", what.join(".")));
        }
        if let Some(comment) = &self.comment {
            statements.push(format!("COMMENT ON DATABASE {name} IS {}", literal(comment).trim_start()));
        }
        statements
    }
}

/// The locale's options of CREATE DATABASE, from the columns this version has.
fn options(row: &Value, encoding: &str, tablespace: &str) -> Vec<String> {
    let text = |column: &str| row.get(column).and_then(Value::as_str).filter(|text| !text.is_empty());
    let quoted = |text: &str| literal(text).trim_start().to_owned();
    let mut options = vec![format!("ENCODING {}", quoted(encoding))];
    // Named, it takes a privilege that only superusers have on this one; template0 is in it.
    if tablespace != "pg_default" {
        options.push(format!("TABLESPACE {}", identifier(tablespace)));
    }
    for (option, column) in [("LC_COLLATE", "datcollate"), ("LC_CTYPE", "datctype")] {
        if let Some(value) = text(column) {
            options.push(format!("{option} {}", quoted(value)));
        }
    }
    // Up to 16 the ICU locale has a column of its own.
    let locale = text("datlocale").or(text("daticulocale"));
    match (text("datlocprovider"), locale) {
        (Some("i"), Some(locale)) => {
            options.push(format!("LOCALE_PROVIDER icu ICU_LOCALE {}", quoted(locale)))
        }
        (Some("b"), Some(locale)) => {
            options.push(format!("LOCALE_PROVIDER builtin BUILTIN_LOCALE {}", quoted(locale)));
        }
        _ => {}
    }
    if let Some(rules) = text("daticurules") {
        options.push(format!("ICU_RULES {}", quoted(rules)));
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_database_is_made_as_its_version_describes_it() {
        let check = |row: Value, expected: &str| {
            assert_eq!(options(&row, "UTF8", "pg_default").join(" "), expected);
        };
        check(
            json!({"datcollate": "C", "datctype": "de_DE.UTF-8"}),
            r#"ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'de_DE.UTF-8'"#,
        );
        check(
            json!({"datcollate": "C", "datctype": "C", "datlocprovider": "i", "daticulocale": "de"}),
            r#"ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'de'"#,
        );
        check(
            json!({"datcollate": "C", "datctype": "C", "datlocprovider": "b", "datlocale": "C.UTF-8"}),
            r#"ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'"#,
        );
    }

    #[test]
    fn settings_and_rights_are_written_as_postgresql_reads_them() {
        let setting = |role: Option<&str>, name: &str, value: &str| Setting {
            role: role.map(str::to_owned),
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let shape = Shape {
            owner: "Own er".to_owned(),
            grants: Some(vec![
                Grant { to: None, privilege: "TEMPORARY".to_owned(), can_grant: false },
                Grant { to: Some("app".to_owned()), privilege: "CONNECT".to_owned(), can_grant: true },
            ]),
            settings: vec![
                setting(None, "search_path", "\"$user\", public"),
                setting(None, "work_mem", "64MB"),
                setting(Some("app"), "my.greeting", "it's"),
                setting(None, "search_path", ""),
            ],
            ..Shape::default()
        };
        let name = DatabaseName::new("shop").unwrap();
        assert_eq!(
            shape.dress(&name),
            [
                r#"REVOKE ALL ON DATABASE "shop" FROM PUBLIC, "Own er""#,
                r#"GRANT TEMPORARY ON DATABASE "shop" TO PUBLIC"#,
                r#"GRANT CONNECT ON DATABASE "shop" TO "app" WITH GRANT OPTION"#,
                r#"ALTER DATABASE "shop" SET "search_path" TO "$user", public"#,
                r#"ALTER DATABASE "shop" SET "work_mem" TO '64MB'"#,
                r#"ALTER ROLE "app" IN DATABASE "shop" SET "my"."greeting" TO 'it''s'"#,
                r#"ALTER DATABASE "shop" SET "search_path" TO ''"#,
            ]
        );
    }
}
