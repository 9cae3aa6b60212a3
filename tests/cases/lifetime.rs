//! Clients and servers that end. What becomes of a session whose server is lost is in `tests/proxy`.

use crate::raw::message::*;
use crate::raw::stage::{self, ALL, app, same};
use crate::raw::{Cut, End, Place, Step, converse};
use cloud_mirror::lab::{Cluster, eventually};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

/// Waits until no back end has this application name, but for idle links.
async fn gone(server: &Cluster, name: &str) {
    eventually(SOON, async || {
        let busy = format!(
            "select coalesce(string_agg(state || ': ' || query, '; '), '') from pg_stat_activity
             where application_name = '{name}' and state <> 'idle'"
        );
        match server.value("postgres", &busy).await?.as_str() {
            "" => Ok(()),
            other => Err(other.to_owned().into()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_48_a_client_that_leaves_in_a_transaction_or_a_statement() {
    let server = stage::server().await;
    server.sql("shop", "create table case48 (a text); grant all on case48 to app").await.unwrap();
    let startup = startup(&[("user", "app"), ("database", "shop"), ("application_name", "case 48")]);
    for mode in ALL {
        let place = stage::through(*mode).await;
        let in_transaction =
            [Step::Send(query("begin; insert into case48 values ('lost')")), Step::Await(b"Z")];
        for last in [None, Some(Step::HalfClose), Some(Step::HangUp)] {
            let mut steps = in_transaction.to_vec();
            steps.extend(last);
            converse(&place, &startup, &steps, Cut::Whole).await.unwrap();
            gone(server, "case 48").await;
        }
        // In the middle of a statement: it is executed, as without us.
        let steps = [
            Step::Send(query(
                "do $$ begin raise notice 'it runs'; perform pg_sleep(0.3); insert into case48 values ('kept'); end $$",
            )),
            Step::Await(b"N"),
        ];
        converse(&place, &startup, &steps, Cut::Whole).await.unwrap();
        gone(server, "case 48").await;
        // The next client finds nothing of it.
        let steps = [
            Step::Send(query("select count(*) from case48; select pg_current_xact_id_if_assigned()")),
            Step::Await(b"Z"),
        ];
        let heard = converse(&place, &startup, &steps, Cut::Whole).await.unwrap();
        assert_eq!(heard.tags(), "TDCTDCZ");
        assert_eq!(heard.frames.last().unwrap().body, b"I");
    }
    let rows = server.value("shop", "select string_agg(a, ',') from case48").await.unwrap();
    assert_eq!(rows, vec!["kept"; ALL.len()].join(","));
}

#[tokio::test(flavor = "multi_thread")]
async fn case_49_a_client_that_leaves_in_the_middle_of_a_message() {
    let server = stage::server().await;
    let startup = startup(&[("user", "app"), ("database", "shop"), ("application_name", "case 49")]);
    for mode in ALL {
        let place = stage::through(*mode).await;
        // More than is kept back of any message.
        let half = query(&format!("select '{}'", "h".repeat(200_000)))[..150_000].to_vec();
        for last in [Step::HangUp, Step::HalfClose] {
            let steps = [Step::Send(half.clone()), last];
            converse(&place, &startup, &steps, Cut::Whole).await.unwrap();
            eventually(SOON, async || {
                let count = "select count(*) from pg_stat_activity where application_name = 'case 49'";
                match server.value("postgres", count).await?.as_str() {
                    "0" => Ok(()),
                    other => Err(format!("{other} back ends wait for the rest").into()),
                }
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_51_a_link_that_ended_while_nobody_used_it_is_nobodys_problem() {
    let server = stage::server().await;
    for mode in ALL {
        let proxy = stage::new_proxy(server, &[("auth.type", "trust"), mode.key()]);
        proxy.start().await.unwrap();
        let steps = [Step::Send(query("select pg_backend_pid()")), Step::Await(b"Z")];
        for _ in 0..4 {
            let heard = converse(&Place::Tcp(proxy.port()), &app(), &steps, Cut::Whole).await.unwrap();
            assert_eq!(heard.tags(), "TDCZ", "{mode:?}: {:?}", heard.frames);
            let pid = String::from_utf8_lossy(&heard.frames[1].body[6..]).into_owned();
            let idle = format!("select count(*) from pg_stat_activity where pid = {pid} and state = 'idle'");
            eventually(SOON, async || match server.value("postgres", &idle).await?.as_str() {
                "1" => Ok(()),
                other => Err(other.to_owned().into()),
            })
            .await;
            server.sql("postgres", &format!("select pg_terminate_backend({pid}, 60000)")).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_53_the_servers_time_for_idle_transactions() {
    for mode in ALL {
        let steps = [
            Step::Send(query("set idle_in_transaction_session_timeout = '200ms'; begin")),
            Step::Await(b"Z"),
            Step::Await(b"E"),
        ];
        let heard = converse(&stage::through(*mode).await, &app(), &steps, Cut::Whole).await.unwrap();
        assert_eq!((heard.tags().as_str(), heard.end), ("CCZE", End::Closed), "{mode:?}");
        let words = heard.frames.last().unwrap().body.escape_ascii().to_string();
        assert!(words.contains("FATAL") && words.contains("25P03"), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_54_a_setting_that_was_rolled_back_is_what_it_was() {
    let texts = [
        "set work_mem = '7MB'",
        "begin",
        "set work_mem = '8MB'",
        "set time zone 'Asia/Tokyo'",
        "rollback",
        "show work_mem",
        "show time zone",
        "begin",
        "set local work_mem = '9MB'",
        "commit",
        "show work_mem",
        "begin; set work_mem = '10MB'; select 1/0",
        "rollback",
        "show work_mem",
    ];
    let mut steps = Vec::new();
    for text in texts {
        steps.extend([Step::Send(query(text)), Step::Await(b"Z")]);
    }
    let heard = same(ALL, &steps, "CZCZCZCSZCSZTDCZTDCZCZCZCZTDCZCCEZCZTDCZ").await;
    let rows: Vec<_> = heard
        .frames
        .iter()
        .filter(|f| f.tag == b'D')
        .map(|f| String::from_utf8_lossy(&f.body[6..]).into_owned())
        .collect();
    assert_eq!((rows[0].as_str(), rows[2].as_str(), rows[3].as_str()), ("7MB", "7MB", "7MB"));
}

#[tokio::test(flavor = "multi_thread")]
async fn case_55_a_wrong_setting_is_the_affair_of_its_client() {
    let bad = startup(&[("user", "app"), ("database", "shop"), ("datestyle", "nonsense")]);
    for mode in ALL {
        let place = stage::through(*mode).await;
        let refused = converse(&place, &bad, &[], Cut::Whole).await.unwrap();
        let words = format!("{:?}", [refused.welcome, refused.frames].concat());
        assert!(words.contains("22023") && words.contains("DateStyle"), "{words}");
        let steps = [Step::Send(query("show datestyle")), Step::Await(b"Z")];
        let heard = converse(&place, &app(), &steps, Cut::Whole).await.unwrap();
        assert_eq!(heard.tags(), "TDCZ");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_56_each_client_has_its_encoding() {
    let latin = startup(&[("user", "app"), ("database", "shop"), ("client_encoding", "LATIN1")]);
    for mode in ALL {
        let place = stage::through(*mode).await;
        for _ in 0..3 {
            let u_umlaut = [b"select length('\xfc'), '\xfc'\0".to_vec()].concat();
            let steps = [Step::Send(message(b'Q', &u_umlaut)), Step::Await(b"Z")];
            let heard = converse(&place, &latin, &steps, Cut::Whole).await.unwrap();
            assert!(heard.frames[1].body.ends_with(b"\0\0\0\x011\0\0\0\x01\xfc"), "{:?}", heard.frames);
            let steps = [Step::Send(query("select length('ü'), 'ü'")), Step::Await(b"Z")];
            let heard = converse(&place, &app(), &steps, Cut::Whole).await.unwrap();
            assert!(
                heard.frames[1].body.ends_with("\0\0\0\x011\0\0\0\x02ü".as_bytes()),
                "{:?}",
                heard.frames
            );
        }
    }
}

/// What the server was told is told to the next client, also on a link that was made before.
#[tokio::test(flavor = "multi_thread")]
async fn case_62_a_setting_changed_for_all_is_told_by_links_made_before() {
    let server = Cluster::builder()
        .hba("host all app 127.0.0.1/32 trust")
        .hba("local all app trust")
        .start()
        .await
        .unwrap();
    server.create_role("app", "app-secret", "").await.unwrap();
    server.create_database("shop").await.unwrap();
    let proxy = stage::new_proxy(&server, &[("auth.type", "trust")]);
    proxy.start().await.unwrap();
    let place = Place::Tcp(proxy.port());
    let steps = [Step::Send(query("show intervalstyle")), Step::Await(b"Z")];
    let style = async || {
        let heard = converse(&place, &app(), &steps, Cut::Whole).await.unwrap();
        let told =
            heard.welcome.iter().find(|f| f.tag == b'S' && f.body.starts_with(b"IntervalStyle\0")).unwrap();
        let told = String::from_utf8_lossy(&told.body[14..told.body.len() - 1]).into_owned();
        let shown = String::from_utf8_lossy(&heard.frames[1].body[6..]).into_owned();
        (told, shown)
    };
    assert_eq!(style().await, ("postgres".to_owned(), "postgres".to_owned()));
    server.sql("postgres", "alter system set intervalstyle = 'iso_8601'").await.unwrap();
    server.sql("postgres", "select pg_reload_conf()").await.unwrap();
    // Who still has a link from before learns of it with its next answer; nobody after that is told the old value.
    eventually(SOON, async || match style().await {
        (_, shown) if shown == "iso_8601" => Ok(()),
        other => Err(format!("{other:?}").into()),
    })
    .await;
    for _ in 0..3 {
        assert_eq!(style().await, ("iso_8601".to_owned(), "iso_8601".to_owned()));
    }
}

/// A cancel that comes late meets nobody else's statement.
#[tokio::test(flavor = "multi_thread")]
async fn case_52_a_cancel_meets_only_its_own_statement() {
    for mode in ALL {
        let place = stage::through(*mode).await;
        let hit = [
            Step::Send(query("do $$ begin raise notice 'it runs'; perform pg_sleep(30); end $$")),
            Step::Await(b"N"),
            Step::Cancel,
            Step::Await(b"Z"),
            Step::Send(query("select 'goes on'")),
            Step::Await(b"Z"),
        ];
        let heard = converse(&place, &app(), &hit, Cut::Whole).await.unwrap();
        assert_eq!(heard.tags(), "NEZTDCZ", "{mode:?}");
        // Between statements: harmless, also for those who come next.
        let mut others = Vec::new();
        for _ in 0..6 {
            let place = place.clone();
            others.push(tokio::spawn(async move {
                for _ in 0..5 {
                    let steps = [Step::Send(query("select 1")), Step::Await(b"Z"), Step::Cancel];
                    let heard = converse(&place, &app(), &steps, Cut::Whole).await.unwrap();
                    assert_eq!(heard.tags(), "TDCZ");
                    let steps = [Step::Send(query("select pg_sleep(0.01)")), Step::Await(b"Z")];
                    let heard = converse(&place, &app(), &steps, Cut::Whole).await.unwrap();
                    assert_eq!(heard.tags(), "TDCZ", "somebody else's cancel");
                }
            }));
        }
        for other in others {
            other.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_48_statements_in_front_of_terminate_are_executed() {
    let server = stage::server().await;
    server.sql("shop", "create table case48b (a int); grant all on case48b to app").await.unwrap();
    for (n, mode) in ALL.iter().enumerate() {
        let steps = [Step::Send(
            [
                query("insert into case48b select 1 from pg_sleep(0.2)"),
                extended("insert into case48b values (2)"),
                terminate(),
            ]
            .concat(),
        )];
        let place = stage::through(*mode).await;
        let heard = converse(&place, &app(), &steps, Cut::Whole).await.unwrap();
        assert_eq!(heard.tags(), "CZ12nCZ", "{mode:?}");
        let rows = server.value("shop", "select count(*) from case48b").await.unwrap();
        assert_eq!(rows, (2 * (n + 1)).to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_48_a_client_that_sends_no_more_gets_its_answers() {
    let pipelined =
        [query("select 'late' from pg_sleep(0.2)"), extended("select 2"), query("select 3")].concat();
    same(ALL, &[Step::Send(pipelined), Step::HalfClose], "TDCZ12TDCZTDCZ").await;
    same(ALL, &[Step::HalfClose], "").await;
    same(ALL, &[Step::Send(query("begin")), Step::HalfClose], "CZ").await;
}
