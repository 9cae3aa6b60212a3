use super::*;

fn mirror(name: &str) -> MirrorName {
    MirrorName::new(name).unwrap()
}

fn database(name: &str) -> DatabaseName {
    DatabaseName::new(name).unwrap()
}

#[test]
fn our_commands_are_recognised_however_they_are_written() {
    #[track_caller]
    fn check(text: &str, expected: Command) {
        assert_eq!(parse(text.as_bytes(), Place::Session), Ok(Some(expected.clone())), "{text}");
        assert_eq!(parse(text.as_bytes(), Place::Console), Ok(Some(expected)), "{text}");
        assert!(may_be(text.as_bytes()), "{text}");
    }
    check("SHOW MIRROR STATUS", Command::ShowMirrorStatus);
    check("show mirror status;", Command::ShowMirrorStatus);
    check("\n/* a /* b */ */ Show -- really\n\tMIRROR/**/status ; ; -- end", Command::ShowMirrorStatus);
    check(";show mirror status", Command::ShowMirrorStatus);
    check("SHOW LEASE", Command::ShowLease);
    check("show events;", Command::ShowEvents);
    check("SHOW HELP", Command::ShowHelp);
    let one = |name| Command::ShowDatabaseMirrorStatus { mirror: mirror(name) };
    check("SHOW DATABASE MIRROR STATUS FOR Cloud", one("cloud"));
    check("show database mirror status for \"Cloud \"\"x\"\"\";", one("Cloud \"x\""));
    check("SHOW DATABASE MIRROR STATUS FOR \"from\"", one("from"));
    let make = |m, d| Command::MirrorDatabase { mirror: mirror(m), source: database(d) };
    check("MIRROR DATABASE shop_copy FROM shop", make("shop_copy", "shop"));
    check("mirror database a from \"B\" mode = async;", make("a", "B"));
    check("MIRROR DATABASE a FROM b MODE async", make("a", "b"));
    check("MIRROR DATABASE a FROM b MODE='ASYNC'", make("a", "b"));
    check("MIRROR DATABASE größe FROM b;", make("größe", "b"));
    check("DROP MIRROR cloud", Command::DropMirror { mirror: mirror("cloud") });
    check("drop mirror \"A B\";", Command::DropMirror { mirror: mirror("A B") });
    check("ALTER DATABASE cloud PROMOTE", Command::Promote { mirror: mirror("cloud") });
    check("alter database \"PROMOTE\" promote;", Command::Promote { mirror: mirror("PROMOTE") });
}

#[test]
fn statements_of_the_server_are_never_swallowed() {
    for text in [
        "",
        ";",
        " ",
        "-- SHOW MIRROR STATUS",
        "/* SHOW MIRROR STATUS */",
        "SELECT 1",
        "SELECT 1; SHOW MIRROR STATUS",
        "SHOW",
        "SHOW ALL",
        "SHOW server_version",
        "SHOW mirror.consistency",
        "SHOW mirror . consistency",
        "SHOW \"mirror\" STATUS",
        "SHOW \"lease\"",
        "SHOW lease.ttl",
        "SHOW events.x",
        "SHOW help.x",
        "SHOW mirrors",
        "SHOW mirror_status",
        "SHOW leases",
        "SHOW DATABASE",
        "SHOW database.mirror",
        "SHOW TRANSACTION ISOLATION LEVEL",
        "SHOW TIME ZONE",
        "SHOW SESSION AUTHORIZATION",
        "SHOW 'mirror'",
        "SHOWMIRROR STATUS",
        "DROP MIRRORS",
        "DROP",
        "DROP TABLE mirror",
        "DROP DATABASE mirror",
        "DROP \"mirror\" x",
        "DROP MATERIALIZED VIEW mirror",
        "ALTER",
        "ALTER DATABASE",
        "ALTER DATABASE x",
        "ALTER DATABASE x SET work_mem = 1",
        "ALTER DATABASE promote SET work_mem = 1",
        "ALTER DATABASE x RENAME TO promote",
        "ALTER DATABASE x OWNER TO promote",
        "ALTER DATABASE x \"promote\"",
        "ALTER DATABASE x WITH CONNECTION LIMIT 1",
        "ALTER DATABASE 'x' PROMOTE",
        "ALTER DATABASES x PROMOTE",
        "ALTER TABLE mirror PROMOTE",
        "ALTER SYSTEM SET x = 1",
        "MIRRORS",
        "RELOADED",
        "EXPLAIN SHOW MIRROR STATUS",
        "PREPARE x AS SHOW MIRROR STATUS",
        "/* unterminated SHOW MIRROR STATUS",
        "SHOW /* MIRROR STATUS",
        "DROP 'MIRROR",
        "\u{a0}SHOW MIRROR STATUS",
    ] {
        assert_eq!(parse(text.as_bytes(), Place::Session), Ok(None), "{text:?}");
        assert_eq!(parse(text.as_bytes(), Place::Console), Ok(None), "{text:?}");
    }
    for text in [
        "SHOW VERSION",
        "RELOAD",
        "show version;",
        "SHOW DATABASES",
        "PAUSE",
        "SET pool.size = 3",
        "SHUTDOWN",
        "KILL_CLIENT 1",
    ] {
        assert_eq!(parse(text.as_bytes(), Place::Session), Ok(None), "{text:?}");
        assert!(parse(text.as_bytes(), Place::Console).unwrap().is_some(), "{text:?}");
    }
    assert_eq!(parse(b"\xff\xfeSHOW MIRROR STATUS", Place::Session), Ok(None));
}

#[test]
fn a_command_with_a_mistake_says_how_it_is_written() {
    #[track_caller]
    fn check(text: &str, code: &str, message: &str, hint: &str) {
        let error = parse(text.as_bytes(), Place::Session).expect_err(text);
        assert_eq!(
            (error.code, error.message.as_str(), error.hint.unwrap_or_default()),
            (code, message, hint),
            "{text}"
        );
        assert!(error.at <= text.len());
        assert!(may_be(text.as_bytes()), "{text}");
    }
    let show = "Write SHOW MIRROR STATUS.";
    check("SHOW MIRROR", "42601", "syntax error at end of input", show);
    check("SHOW MIRROR STATE", "42601", "syntax error at or near \"STATE\"", show);
    check("SHOW MIRROR STATUS FOR x", "42601", "syntax error at or near \"FOR\"", show);
    check("SHOW MIRROR STATUS.x", "42601", "syntax error at or near \".\"", show);
    let alone = "a command of cloud-mirror must be the only statement of its message";
    check("SHOW MIRROR STATUS; SELECT 1", "42601", alone, "Send it on its own.");
    check("MIRROR DATABASE a FROM b; SELECT 1", "42601", alone, "Send it on its own.");
    check("SHOW LEASE x", "42601", "syntax error at or near \"x\"", "SHOW LEASE takes no arguments.");
    let one = "Write SHOW DATABASE MIRROR STATUS FOR mirror.";
    check("SHOW DATABASE MIRROR STATUS", "42601", "syntax error at end of input", one);
    check("SHOW DATABASE MIRROR STATUS FOR", "42601", "syntax error at end of input", one);
    check("SHOW DATABASE MIRROR STATUS FOR 'x'", "42601", "syntax error at or near \"'x'\"", one);
    check("SHOW DATABASE MIRROR STATUS FOR a b", "42601", "syntax error at or near \"b\"", one);
    check("SHOW DATABASE MIRROR STATUS FOR \"\"", "42601", "a mirror name may not be empty", one);
    let make = "Write MIRROR DATABASE mirror FROM database [MODE = async].";
    check("MIRROR TABLE x", "42601", "syntax error at or near \"TABLE\"", make);
    check("MIRROR DATABASE FROM d", "42601", "syntax error at or near \"FROM\"", make);
    check("MIRROR DATABASE m", "42601", "syntax error at end of input", make);
    check("MIRROR DATABASE m FROM", "42601", "syntax error at end of input", make);
    check("MIRROR DATABASE m FROM d WITH x", "42601", "syntax error at or near \"WITH\"", make);
    check("MIRROR DATABASE m FROM d MODE =", "42601", "syntax error at end of input", make);
    check("MIRROR DATABASE \"m", "42601", "a quoted text or a comment has no end", make);
    check(
        "MIRROR DATABASE m FROM d MODE = sync",
        "0A000",
        "mode \"sync\" is not available yet",
        "Write MODE = async.",
    );
    check(
        "MIRROR DATABASE m FROM d MODE = fast",
        "22023",
        "unrecognized mode: \"fast\"",
        "Write MODE = async.",
    );
    check("DROP MIRROR", "42601", "syntax error at end of input", "Write DROP MIRROR mirror.");
    check("DROP MIRROR a, b", "42601", "syntax error at or near \",\"", "Write DROP MIRROR mirror.");
    check(
        "ALTER DATABASE m PROMOTE FORCE",
        "42601",
        "syntax error at or near \"FORCE\"",
        "Write ALTER DATABASE mirror PROMOTE.",
    );
    let long = format!("DROP MIRROR {}", "x".repeat(64));
    assert!(parse(long.as_bytes(), Place::Session).unwrap_err().message.contains("at most 63 bytes"));
}

#[test]
fn the_quick_look_lets_ordinary_statements_pass() {
    for text in ["", "SELECT 1", "BEGIN", "commit", "INSERT INTO x", "-1", "/", "delete", "  update", "set x"]
    {
        assert!(!may_be(text.as_bytes()), "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn what_the_quick_look_refuses_is_never_a_command(
        text in proptest::collection::vec(
            proptest::sample::select(vec![
                "SHOW", "mirror", "STATUS", "DATABASE", "FOR", "DROP", "ALTER", "PROMOTE", "FROM", "MODE",
                " ", "\n", ";", ".", "\"", "'", "--", "/*", "*/", "x", "=", "$$", "LEASE",
            ]),
            0..12,
        )
    ) {
        let text = text.concat();
        let found = parse(text.as_bytes(), Place::Session);
        proptest::prop_assert!(may_be(text.as_bytes()) || found == Ok(None), "{text}: {found:?}");
    }
}
