use super::*;

fn set(name: &str, value: &str) -> Change {
    Change::Set { name: name.into(), text: format!("set {name} = {value}").into() }
}

fn settings(memory: &Memory) -> Vec<&str> {
    memory.settings().collect()
}

/// One simple query with its tag, outside a transaction.
fn query(memory: &mut Memory, n: u64, change: Option<Change>, tag: &str, is_idle: bool) {
    if let Some(change) = change {
        memory.on_query(n, change);
    }
    memory.on_command(n, tag.as_bytes());
    memory.on_ready(is_idle);
}

#[test]
fn the_last_committed_value_of_each_setting_is_kept() {
    let mut m = Memory::default();
    query(&mut m, 1, Some(set("a", "1")), "SET", true);
    query(&mut m, 2, Some(set("b", "1")), "SET", true);
    query(&mut m, 3, Some(set("a", "2")), "SET", true);
    assert_eq!(settings(&m), ["set b = 1", "set a = 2"]);
    query(&mut m, 4, Some(Change::Reset { name: "b".into() }), "RESET", true);
    assert_eq!(settings(&m), ["set a = 2"]);
    query(&mut m, 5, None, "DISCARD ALL", true);
    assert!(settings(&m).is_empty());
}

#[test]
fn a_rolled_back_setting_is_not_kept() {
    let mut m = Memory::default();
    query(&mut m, 1, None, "BEGIN", false);
    query(&mut m, 2, Some(set("a", "1")), "SET", false);
    query(&mut m, 3, None, "ROLLBACK", true);
    assert!(settings(&m).is_empty());
    query(&mut m, 4, None, "BEGIN", false);
    query(&mut m, 5, Some(set("a", "2")), "SET", false);
    query(&mut m, 6, None, "COMMIT", true);
    assert_eq!(settings(&m), ["set a = 2"]);
    assert_eq!(m.tie(), None);
}

#[test]
fn what_stands_behind_a_rollback_in_one_text_is_kept() {
    let mut m = Memory::default();
    query(&mut m, 1, None, "BEGIN", false);
    query(&mut m, 2, Some(set("a", "1")), "SET", false);
    m.on_queries(3, vec![None, Some(set("b", "2"))]);
    m.on_command(3, b"ROLLBACK");
    m.on_command(3, b"SET");
    m.on_ready(true);
    assert_eq!(settings(&m), ["set b = 2"]);
    assert_eq!(m.tie(), None);
}

#[test]
fn a_rollback_to_a_savepoint_makes_settings_uncertain() {
    let mut m = Memory::default();
    query(&mut m, 1, None, "BEGIN", false);
    query(&mut m, 2, Some(set("a", "1")), "SET", false);
    query(&mut m, 3, None, "ROLLBACK", false);
    assert_eq!(m.tie(), Some(Tie::UnseenChange));
}

#[test]
fn what_a_lost_link_had_not_committed_is_not_kept() {
    let mut m = Memory::default();
    query(&mut m, 1, None, "BEGIN", false);
    query(&mut m, 2, Some(set("a", "1")), "SET", false);
    m.on_query(3, set("b", "wrong"));
    m.on_link_lost();
    // The next link counts from one again.
    query(&mut m, 1, None, "SELECT 1", true);
    query(&mut m, 2, None, "SELECT 1", true);
    query(&mut m, 3, Some(set("c", "3")), "SET", true);
    assert_eq!(settings(&m), ["set c = 3"]);
    assert_eq!(m.tie(), None);
}

#[test]
fn a_role_ends_with_its_session_authorization() {
    let mut m = Memory::default();
    query(&mut m, 1, Some(set("role", "a")), "SET", true);
    query(&mut m, 2, Some(Change::Reset { name: "session authorization".into() }), "RESET", true);
    assert!(settings(&m).is_empty());
}

#[test]
fn portals_of_settings_end_with_their_transaction() {
    let mut m = Memory::default();
    m.on_parse(1, b"s", Some(b"frame"), Some(set("a", "1")));
    m.on_step(1, None);
    for step in 0..100u64 {
        m.on_bind(format!("p{step}").as_bytes(), b"s");
        m.on_execute(step * 2 + 3, format!("p{step}").as_bytes());
        m.on_step(step * 2 + 3, Some(b"SET"));
        m.on_ready(true);
    }
    assert!(m.portals.is_empty());
}

#[test]
fn a_setting_whose_text_was_not_seen_is_a_tie() {
    let mut m = Memory::default();
    query(&mut m, 1, None, "SET", true);
    assert_eq!(m.tie(), Some(Tie::UnseenChange));
}

#[test]
fn statements_live_from_their_parse_complete_to_their_close() {
    let mut m = Memory::default();
    m.on_parse(1, b"s1", Some(b"frame1"), None);
    m.on_parse(2, b"s2", Some(b"frame2"), None);
    m.on_step(1, None);
    m.on_failed(1, 2);
    m.on_ready(true);
    assert_eq!(m.statement(b"s1"), Some(&b"frame1"[..]));
    assert_eq!(m.statement(b"s2"), None);
    m.on_close(3, b"s1");
    m.on_step(3, None);
    assert_eq!(m.statements().count(), 0);
}

#[test]
fn a_prepared_set_counts_when_it_is_executed() {
    let mut m = Memory::default();
    m.on_parse(1, b"", None, Some(set("a", "1")));
    assert!(m.watches_portals());
    m.on_bind(b"", b"");
    m.on_execute(3, b"");
    m.on_step(1, None);
    m.on_step(2, None);
    m.on_step(3, Some(b"SET\0"));
    m.on_ready(true);
    assert_eq!(settings(&m), ["set a = 1"]);
    m.on_parse(4, b"", None, None);
    m.on_bind(b"", b"");
    assert!(!m.watches_portals());
}

#[test]
fn state_that_cannot_move_is_named() {
    for (tag, tie) in
        [("LISTEN", Tie::Listen), ("DECLARE CURSOR", Tie::HeldCursor), ("PREPARE", Tie::SqlPrepare)]
    {
        let mut m = Memory::default();
        query(&mut m, 1, None, tag, true);
        assert_eq!(m.tie(), Some(tie));
        query(&mut m, 2, None, "DISCARD ALL", true);
        assert_eq!(m.tie(), None);
    }
    let mut m = Memory::default();
    query(&mut m, 1, Some(Change::DeclareForTransaction), "DECLARE CURSOR", false);
    assert_eq!(m.tie(), None);
}

#[test]
fn what_is_kept_is_bounded() {
    let mut m = Memory::default();
    for n in 1..=40u64 {
        m.on_parse(n, n.to_string().as_bytes(), Some(&[0; 32 << 10]), None);
        m.on_step(n, None);
    }
    assert_eq!(m.tie(), Some(Tie::TooMuch));
    assert!(m.statement_bytes <= STATEMENT_BYTES_MAX);
}
