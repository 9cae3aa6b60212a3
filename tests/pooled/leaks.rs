//! Code of users that no name in a statement betrays: it is called by an operator, a cast, a domain, an aggregate, or
//! has a name of PostgreSQL's own. Each in a database of its own: code that leaves something makes all statements
//! suspect. Nobody else finds what it leaves, and in `auto` mode its own session does.

use crate::raw::{Raw, bind, execute, parse, shown, sync};
use crate::stage::{PATIENCE, proxy, server};

const SETTING: &str = "select coalesce(nullif(current_setting('my.secret', true), ''), 'none')";
const LOCKED: &str = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()";
const TEMP: &str = "select count(*) from pg_class where relname = 'hidden' and pg_table_is_visible(oid)";
const CHANNELS: &str = "select count(*) from pg_listening_channels()";
const CURSORS: &str = "select count(*) from pg_cursors where is_holdable";

/// A name for its database, what is there, what is done, a question, its answer for everybody else, and for the
/// session itself.
type Trick = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

const TRICKS: &[Trick] = &[
    (
        "overload",
        "create function log(t text) returns int language plpgsql as
         $$ begin perform set_config('my.secret', t, false); return 1; end $$",
        "select log('secret'::text)",
        SETTING,
        "none",
        "secret",
    ),
    (
        "keyword",
        "create function sets(n int) returns int language plpgsql as
         $$ begin perform pg_advisory_lock(n); return 1; end $$",
        "select sets(5)",
        LOCKED,
        "0",
        "1",
    ),
    (
        "aggregate",
        "create function adds(a int, b text) returns int language plpgsql as
         $$ begin perform set_config('my.secret', b, false); return 1; end $$;
         create aggregate sum(text) (sfunc = adds, stype = int)",
        "select sum(v) from (values ('secret'::text)) as t (v)",
        SETTING,
        "none",
        "secret",
    ),
    (
        "operator",
        "create function op(a int, b int) returns int language plpgsql as
         $$ begin execute 'create temp table if not exists hidden (v int)'; return 1; end $$;
         create operator ### (function = op, leftarg = int, rightarg = int)",
        "select 1 ### 2",
        TEMP,
        "0",
        "1",
    ),
    (
        "domain",
        "create function checks(t text) returns boolean language plpgsql as
         $$ begin execute 'listen secrets'; return true; end $$;
         create domain checked as text check (checks(value))",
        "select 'x'::checked",
        CHANNELS,
        "0",
        "1",
    ),
    (
        "conversion",
        "create type pair as (a int, b int);
         create function to_pair(n int) returns pair language plpgsql as
         $$ begin execute 'declare held cursor with hold for select 1'; return (1, n)::pair; end $$;
         create cast (int as pair) with function to_pair(int)",
        "select 1::pair",
        CURSORS,
        "0",
        "1",
    ),
    (
        "events",
        "create function on_ddl() returns event_trigger language plpgsql as
         $$ begin perform set_config('my.secret', 'secret', false); end $$;
         create event trigger on_ddl on ddl_command_end when tag in ('COMMENT') execute function on_ddl()",
        "comment on table named is 'it'",
        SETTING,
        "none",
        "secret",
    ),
    (
        "inside",
        "create function inner_one() returns int language plpgsql as
         $$ begin perform set_config('my.secret', 'secret', false); return 1; end $$;
         create function format(a int) returns int language sql as 'select inner_one()'",
        "values (format(1))",
        SETTING,
        "none",
        "secret",
    ),
    (
        "procedure",
        "create procedure listens() language plpgsql as
         $$ begin commit; execute 'listen secrets'; commit; end $$",
        "call listens()",
        CHANNELS,
        "0",
        "1",
    ),
    ("condition", "", "select 1 where pg_try_advisory_lock(77) and random() < 2", LOCKED, "0", "1"),
    (
        "selected",
        "",
        "do $$ begin execute 'create temporary table hidden as select 1'; end $$",
        TEMP,
        "0",
        "1",
    ),
];

async fn client(port: u16, database: &str) -> Raw {
    Raw::log_in_with(port, &["database", database]).await
}

async fn plays(client: &mut Raw, trick: &str, is_prepared: bool) {
    if is_prepared {
        client.send(&[parse("trick", trick), bind("trick", &[]), execute(), sync()].concat()).await;
    } else {
        client.send(&crate::raw::query(trick)).await;
    }
    let said = tokio::time::timeout(PATIENCE, client.answers(1)).await.unwrap();
    assert!(!said.iter().any(|(tag, _)| *tag == b'E'), "{trick}: {}", shown(&said));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_finds_what_is_called_without_a_name() {
    let server = server().await;
    for (name, made, ..) in TRICKS {
        server.create_database(name).await.unwrap();
        let sql = format!("{made}; create table named (v int); grant all on schema public to app");
        server.sql(name, &sql).await.unwrap();
        server.sql(name, "alter table named owner to app").await.unwrap();
    }
    let mut leaked = Vec::new();
    for (mode, size) in [("transaction", "1"), ("statement", "1"), ("auto", "2")] {
        let proxy = proxy(&[("pool.mode", mode), ("pool.size", size)]).await;
        for (name, _, trick, question, others, own) in TRICKS {
            for is_prepared in [false, true] {
                let mut client = client(proxy.port(), name).await;
                let mut other = self::client(proxy.port(), name).await;
                // The catalogue is known.
                other.query("select 1").await;
                plays(&mut client, trick, is_prepared).await;
                let mut check = |who: &str, found: String, expected: &str| {
                    if found != expected {
                        leaked.push(format!("{mode}, {name}, prepared {is_prepared}: {who} {found}"));
                    }
                };
                check("another finds", other.value(question).await, others);
                if mode == "auto" {
                    check("it finds itself", client.value(question).await, own);
                    check("another finds later", other.value(question).await, others);
                }
                drop(client);
                let mut next = self::client(proxy.port(), name).await;
                check("the next one finds", next.value(question).await, others);
            }
        }
    }
    assert!(leaked.is_empty(), "{leaked:#?}");
}
