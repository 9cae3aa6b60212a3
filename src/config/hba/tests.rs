//! Files of rules and maps, and the words they are refused with.

use super::ident::Outside;
use super::*;
use std::collections::BTreeMap;

const MEANS: Means = Means { has_client_ca: true };

fn files<'a>(texts: &[(&'a str, &'a str)]) -> BTreeMap<&'a str, &'a str> {
    texts.iter().copied().collect()
}

fn rules(texts: &[(&str, &str)]) -> (Option<Vec<Rule>>, Vec<String>) {
    let files = files(texts);
    let read = |path: &Path| {
        let found = path.to_str().and_then(|path| files.get(path));
        found.map(ToString::to_string).ok_or_else(|| "No such file or directory".to_owned())
    };
    let problems = Problems::default();
    let rules = read_file(Path::new("/etc/pg/hba.conf"), &Origin::Nowhere, &read, MEANS, &problems);
    (rules, problems.into_inner().iter().map(ToString::to_string).collect())
}

#[track_caller]
fn sound(text: &str) -> Vec<Rule> {
    let (rules, problems) = rules(&[("/etc/pg/hba.conf", text)]);
    assert_eq!(problems, Vec::<String>::new());
    rules.unwrap()
}

fn network(ip: &str, mask: &str) -> AddressPattern {
    AddressPattern::Network { ip: ip.parse().unwrap(), mask: mask.parse().unwrap() }
}

#[test]
fn the_file_of_a_fresh_cluster_is_read() {
    // As Debian 12 installs it.
    let rules = sound(
        "# TYPE  DATABASE        USER            ADDRESS                 METHOD\n\
         local   all             postgres                                peer\n\n\
         # \"local\" is for Unix domain socket connections only\n\
         local   all             all                                     peer\n\
         host    all             all             127.0.0.1/32            scram-sha-256\n\
         host    all             all             ::1/128                 scram-sha-256\n\
         local   replication     all                                     peer\n\
         host    replication     all             127.0.0.1/32            scram-sha-256\n",
    );
    assert_eq!(rules.len(), 6);
    assert_eq!(rules[0].users, [UserPattern::Name("postgres".to_owned())]);
    assert_eq!((rules[0].connection, rules[0].method), (Connection::Local, AuthMethod::Peer));
    assert_eq!(rules[3].addresses, [network("::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]);
    assert_eq!(rules[4].databases, [DatabasePattern::Replication]);
    assert_eq!(rules[5].at.to_string(), "/etc/pg/hba.conf:9");
}

#[test]
fn lists_quotes_masks_and_options_are_read() {
    let rules = sound(
        "hostssl shop, \"my, db\",\"all\" +team,\"+odd\",/^a.*b$ 10.0.0.0 255.0.0.0 cert map=people clientname=DN # why\n\
         hostnossl sameuser,samerole all samenet reject\n\
         host all all all \\\n   md5\n\
         host all \"quo\"\"ted\" samehost password\n\
         hostssl all all 0.0.0.0/0 scram-sha-256 clientcert=verify-full map=people\n",
    );
    let name = |text: &str| DatabasePattern::Name(text.to_owned());
    assert_eq!(rules[0].databases, [name("shop"), name("my, db"), name("all")]);
    assert_eq!(
        rules[0].users,
        [
            UserPattern::MemberOf("team".to_owned()),
            UserPattern::Name("+odd".to_owned()),
            UserPattern::Matches(Pattern::new("^a.*b$").unwrap()),
        ]
    );
    assert_eq!(rules[0].addresses, [network("10.0.0.0", "255.0.0.0")]);
    assert_eq!((rules[0].map.as_deref(), rules[0].name), (Some("people"), CertificateName::Distinguished));
    assert_eq!(rules[0].certificate, WantedCertificate::Named, "cert is verify-full");
    assert_eq!(rules[1].databases, [DatabasePattern::SameUser, DatabasePattern::SameRole]);
    assert_eq!(
        (rules[1].method, &rules[1].addresses[..]),
        (AuthMethod::Reject, &[AddressPattern::SameNet][..])
    );
    assert_eq!(rules[2].method, AuthMethod::Md5, "a line goes on behind a backslash");
    assert_eq!(rules[3].users, [UserPattern::Name("quo\"ted".to_owned())]);
    assert_eq!(rules[4].addresses, [network("0.0.0.0", "0.0.0.0")]);
    assert_eq!(rules[4].certificate, WantedCertificate::Named);
}

#[test]
fn names_may_stand_in_files_of_their_own() {
    let (rules, problems) = rules(&[
        (
            "/etc/pg/hba.conf",
            "include more.conf\ninclude_if_exists none.conf\nhost @dbs.txt @users all trust\n",
        ),
        ("/etc/pg/more.conf", "local all all trust\n"),
        ("/etc/pg/dbs.txt", "shop # the shop\nblog,wiki\n\"@odd\" @sub/more\n"),
        ("/etc/pg/sub/more", "last"),
        ("/etc/pg/users", "ann\n+team\n"),
    ]);
    assert_eq!(problems, Vec::<String>::new());
    let rules = rules.unwrap();
    assert_eq!(rules[0].at.to_string(), "/etc/pg/more.conf:1");
    let names = ["shop", "blog", "wiki", "@odd", "last"];
    assert_eq!(rules[1].databases, names.map(|name| DatabasePattern::Name(name.to_owned())));
    assert_eq!(rules[1].users[1], UserPattern::MemberOf("team".to_owned()));
}

#[track_caller]
fn refused(cases: &[(&str, &str)]) {
    let text: String = cases.iter().map(|(line, _)| format!("{line}\n")).collect();
    let (found, problems) = rules(&[("/etc/pg/hba.conf", &text)]);
    assert!(found.is_none());
    assert_eq!(problems.len(), cases.len(), "{}", problems.join("\n"));
    for (number, (problem, (line, words))) in problems.iter().zip(cases).enumerate() {
        let expected = format!("/etc/pg/hba.conf:{}: auth.hba_file: {words}", number + 1);
        assert!(problem.starts_with(&expected), "{line}: {problem}\nnot {expected}");
    }
}

#[test]
fn every_mistake_in_a_rule_is_named_with_its_line() {
    refused(&[
        (
            "hosts all all all trust",
            "\"hosts\" is no type of connection; write local, host, hostssl or hostnossl",
        ),
        ("host all", "the line ends before the user; write all, or names"),
        ("host all all", "the line ends before the address; write all, or 192.0.2.0/24"),
        ("host all all all", "the line ends before the method; write for example scram-sha-256"),
        ("host all all all ldap", "the method \"ldap\" is not available"),
        ("host all all all scram", "\"scram\" is no method"),
        ("host all all 10.0.0.1 trust", "\"10.0.0.1\" has no mask; write 10.0.0.1/32 for this address alone"),
        ("host all all 10.0.0.0/33 trust", "\"10.0.0.0/33\" has too long a mask"),
        (
            "host all all db.example trust",
            "\"db.example\" is no address; names of machines are not looked up",
        ),
        ("host all all 10.0.0.0 ffff:: trust", "address and mask are of different kinds"),
        ("host all all all peer", "peer authentication is only possible by Unix socket"),
        ("host all all all cert", "cert authentication is only possible in TLS; write hostssl"),
        ("host all all all trust clientcert=verify-ca", "clientcert is only possible in TLS; write hostssl"),
        (
            "hostssl all all all trust map=people",
            "map has a meaning for cert, peer and clientcert=verify-full",
        ),
        ("hostssl all all all cert clientcert=verify-ca", "clientcert=verify-ca is not enough for cert"),
        ("host all all all trust color=red", "the option \"color\" is not known"),
        ("host all /( all trust", "the regular expression \"(\" cannot be read: error: unclosed group"),
        ("local,host all all trust", "there must be one type"),
    ]);
}

#[test]
fn every_mistake_in_the_form_of_a_file_is_named_with_its_line() {
    refused(&[
        ("host \"all all all trust", "a quote is not closed"),
        ("host @none all all trust", "cannot read /etc/pg/none: No such file or directory"),
        ("include_dir conf.d", "include_dir is not available"),
        ("include", "include needs one file"),
        ("include none", "cannot read /etc/pg/none"),
    ]);
    let (found, problems) = rules(&[("/etc/pg/hba.conf", "include hba.conf\n")]);
    assert!(found.is_none());
    assert!(problems[0].contains("files include each other too deeply"), "{problems:?}");
}

#[test]
fn certificates_need_an_authority() {
    let problems = Problems::default();
    let read = |_: &Path| Ok("hostssl all all all cert\n".to_owned());
    assert_eq!(
        read_file(Path::new("h"), &Origin::Nowhere, &read, Means { has_client_ca: false }, &problems),
        None
    );
    assert!(problems.into_inner()[0].what.contains("there is no authority"));
}

#[test]
fn maps_say_who_may_be_whom() {
    let text = "# MAP SYSTEM ROLE\n\
        people ann@example.org ann\n\
        people /^(.*)@example\\.org$ \\1\n\
        people /^([a-z]+)-dev$ dev_\\1\n\
        staff  root \"all\"\n\
        staff  boss all\n\
        staff  chief +team\n\
        staff  cook /^kitchen_\n";
    let read = |_: &Path| Ok(text.to_owned());
    let problems = Problems::default();
    let maps = read_ident(Path::new("/etc/ident.conf"), &Origin::Nowhere, &read, &problems).unwrap();
    assert!(problems.into_inner().is_empty());
    assert!(matches!(maps.0[1].outside, Outside::Matches(_)));
    let may = |map, outside, role| maps.allows(map, outside, role, |of| (of, role) == ("team", "eve"));
    assert!(may(None, "ann", "ann") && !may(None, "ann", "bob"));
    let people = Some("people");
    assert!(may(people, "ann@example.org", "ann") && may(people, "bob@example.org", "bob"));
    assert!(!may(people, "bob@example.org", "ann") && !may(people, "bob@evil.org", "bob"));
    assert!(may(people, "ann-dev", "dev_ann") && !may(people, "ann", "ann"));
    let staff = Some("staff");
    assert!(may(staff, "root", "all") && !may(staff, "root", "ann"), "in quotes it is a name");
    assert!(may(staff, "boss", "anybody"));
    assert!(may(staff, "chief", "eve") && may(staff, "chief", "team") && !may(staff, "chief", "ann"));
    assert!(may(staff, "cook", "kitchen_1") && !may(staff, "cook", "hall"));
    assert!(maps.asks_for_roles(staff) && !maps.asks_for_roles(people) && !maps.asks_for_roles(None));
    assert!(maps.has("staff") && !maps.has("nobody"));

    let wrong = |text: &str| {
        let problems = Problems::default();
        let read = |_: &Path| Ok(text.to_owned());
        assert_eq!(read_ident(Path::new("i"), &Origin::Nowhere, &read, &problems), None);
        problems.into_inner()[0].what.clone()
    };
    assert!(wrong("map only\n").contains("three fields"));
    assert!(wrong("map a,b c\n").contains("lists"));
    assert!(wrong("map /( c\n").contains("unclosed group"));
    assert!(wrong("map /x \\1\n").contains("has none"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[a-z0-9 ,#@/+=.:\"\\\\\n-]{0,120}") {
        let read = |path: &Path| match path.to_str() {
            Some("/h") => Ok(text.clone()),
            _ => Err("no".to_owned()),
        };
        let _ = read_file(Path::new("/h"), &Origin::Nowhere, &read, MEANS, &Problems::default());
        let _ = read_ident(Path::new("/h"), &Origin::Nowhere, &read, &Problems::default());
        let lines = format!("host all all all {text}\nlocal {text}\n");
        let read = |path: &Path| if path == Path::new("/h") { Ok(lines.clone()) } else { Err("no".to_owned()) };
        let _ = read_file(Path::new("/h"), &Origin::Nowhere, &read, MEANS, &Problems::default());
    }
}
