"""What an application does with psycopg 3, printed in lines that are the same on every run.

usage: program.py URL [ours MIRROR-URL]

The test runs it once with the server's URL and once with the proxy's, and compares the lines. With
`ours` it asks for what only the proxy knows; MIRROR-URL names the console's database.
"""

import asyncio
import datetime
import decimal
import ipaddress
import os
import sys
import threading
import time
import uuid

import psycopg
from psycopg import errors, pq, sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

URL = sys.argv[1]
# How long to wait for what has to come, in seconds.
PATIENCE = float(os.environ.get("DRIVERS_PATIENCE", "60"))


def say(*words):
    print(*words, flush=True)


def connect(**keywords):
    return psycopg.connect(URL, **keywords)


def failing(action):
    """The error of an action that must fail, as far as it is the same everywhere."""
    try:
        action()
    except psycopg.Error as error:
        diag = error.diag
        return (
            type(error).__name__,
            error.sqlstate,
            diag.severity,
            diag.message_primary,
            diag.message_detail,
            diag.message_hint,
            diag.statement_position,
            diag.constraint_name,
            diag.table_name,
            diag.column_name,
        )
    return "NO ERROR"


# What the server says of itself and what start-up asked of it


def start_up():
    with connect() as conn:
        for name in (
            "server_version", "server_encoding", "client_encoding", "DateStyle", "IntervalStyle", "TimeZone",
            "integer_datetimes", "standard_conforming_strings", "is_superuser", "session_authorization",
            "application_name", "in_hot_standby", "default_transaction_read_only",
        ):
            say(name, conn.info.parameter_status(name))
        say("pid", conn.info.backend_pid == conn.execute("select pg_backend_pid()").fetchone()[0])
        say("status", conn.info.status.name, conn.info.transaction_status.name, conn.info.server_version)
        say("password used", conn.pgconn.used_password, "needed", conn.pgconn.needs_password)
    for mode in ("disable", "allow", "prefer"):
        with connect(sslmode=mode) as conn:
            say("sslmode", mode, "in use", conn.pgconn.ssl_in_use)
    say("sslmode require", failing(lambda: connect(sslmode="require")) != "NO ERROR")
    with connect(
        options="-c search_path=pg_catalog,public -c statement_timeout=12345 -c my.tenant=7\\ 8",
        application_name="cash desk",
        client_encoding="latin1",
    ) as conn:
        for name in ("search_path", "statement_timeout", "my.tenant", "application_name", "client_encoding"):
            say(name, conn.execute("select current_setting(%s)", (name,)).fetchone()[0])
        conn.execute("set search_path = nowhere")
        conn.execute("reset all")
        say("after reset", conn.execute("show search_path").fetchone(), conn.execute("show my.tenant").fetchone())
        say("latin1", conn.execute("select 'naïve ' || %s", ("Käse",)).fetchone()[0])
    with connect() as conn:
        say("fresh", conn.execute("show search_path").fetchone(), conn.execute("show application_name").fetchone())
        say("fresh tenant", conn.execute("select current_setting('my.tenant', true)").fetchone()[0] in (None, ""))
    with connect(target_session_attrs="read-write") as conn:
        say("read-write", conn.execute("show transaction_read_only").fetchone())
    say("read-only", failing(lambda: connect(target_session_attrs="read-only"))[0])


def refusals():
    say(failing(lambda: connect(dbname="nowhere"))[0:2])
    for change, words in (
        ({"dbname": "nowhere"}, 'database "nowhere" does not exist'),
        ({"password": "wrong"}, 'password authentication failed for user "app"'),
        ({"user": "nobody"}, 'password authentication failed for user "nobody"'),
        ({"options": "-c no_such=1"}, 'unrecognized configuration parameter "no_such"'),
        ({"options": "-c work_mem=lots"}, 'invalid value for parameter "work_mem": "lots"'),
    ):
        try:
            connect(**change)
            say("let in", change)
        except psycopg.OperationalError as error:
            say(change, words in str(error))


# Values


VALUES = [
    ("bool", True),
    ("int2", -32768),
    ("int4", 2147483647),
    ("int8", -9223372036854775808),
    ("float4", 1.5),
    ("float8", 2.2250738585072014e-308),
    ("float8", float("inf")),
    ("numeric", decimal.Decimal("12345678901234567890.123456789")),
    ("numeric", decimal.Decimal("NaN")),
    ("text", "ünïcödé 🐘 \\ ' \" % \n"),
    ("varchar", ""),
    ("bytea", bytes(range(256)) * 3),
    ("date", datetime.date(2024, 2, 29)),
    ("time", datetime.time(23, 59, 59, 999999)),
    ("timetz", datetime.time(1, 2, 3, tzinfo=datetime.timezone.utc)),
    ("timestamp", datetime.datetime(1999, 12, 31, 23, 59, 59, 1)),
    ("timestamptz", datetime.datetime(2020, 6, 1, 12, 0, tzinfo=datetime.timezone.utc)),
    ("interval", datetime.timedelta(days=-3, seconds=5, microseconds=7)),
    ("uuid", uuid.UUID(int=12345)),
    ("inet", ipaddress.ip_interface("192.168.0.1/24")),
    ("cidr", ipaddress.ip_network("2001:db8::/32")),
    ("jsonb", Jsonb({"a": [1, 2.5, None, "x"], "ü": {}})),
    ("int4[]", [1, None, 3]),
    ("text[]", [["a", 'b"'], ["c,", "{}"]]),
    ("int4range", psycopg.types.range.Range(1, 10, "[)")),
    ("int4multirange", psycopg.types.multirange.Multirange([psycopg.types.range.Range(1, 3)])),
    ("text", None),
]


def values():
    with connect() as conn:
        for binary in (False, True):
            cursor = conn.cursor(binary=binary)
            for kind, value in VALUES:
                cursor.execute(sql.SQL("select %s::{}, pg_typeof(%s::{})::text").format(
                    sql.SQL(kind), sql.SQL(kind)), (value, value))
                found, name = cursor.fetchone()
                same = found == getattr(value, "obj", value) or found != found
                say(binary, kind, name, repr(found)[:90], same)
        for kind, text in (
            ("money", "$1.50"), ("bit(3)", "101"), ("varbit", "1011"), ("macaddr", "08:00:2b:01:02:03"),
            ("point", "(1,2)"), ("polygon", "((0,0),(1,1),(1,0))"), ("circle", "<(0,0),2>"), ("xml", "<a>1</a>"),
            ("tsvector", "'a':1 'b':2"), ("tsquery", "'a' & 'b'"), ("pg_lsn", "16/B374D848"), ("json", '{"a": 1}'),
            ("jsonpath", '$."a"'), ("tsrange", '["2020-01-01 00:00:00","2020-01-02 00:00:00")'), ("oid", "7"),
            ("name", "n"), ('"char"', "c"), ("regclass", "pg_class"), ("txid_snapshot", "10:20:10,14"),
        ):
            say(kind, conn.execute(f"select (%s::{kind})::text", (text,)).fetchone()[0])
        conn.execute("create type pg_temp.colour as enum ('red', 'green')")
        conn.execute("create type pg_temp.pair as (a int, b text)")
        row = conn.execute("select 'green'::pg_temp.colour, row(1, 'x')::pg_temp.pair, array[row(2, null)::pg_temp.pair]::text")
        say(row.fetchone())
        with conn.cursor(row_factory=dict_row) as cursor:
            say(cursor.execute("select 1 as a, 'b' as b").fetchone())
        big = "x" * 5_000_000
        say("big", conn.execute("select length(%s), %s", (big, big)).fetchone() == (5_000_000, big))
        say("many", sum(n for (n,) in conn.execute("select generate_series(1, 200000)")))
        say("wide", len(conn.execute("select " + ", ".join(f"{n} as c{n}" for n in range(1500))).fetchone()))
        with conn.cursor() as cursor:
            say("stream", sum(n for (n,) in cursor.stream("select generate_series(1, 5000)")))
        say("empty", conn.execute("").statusmessage, conn.execute(";").statusmessage)
        cursor = conn.execute("select 1; select 'two', 2; create temp table tt (a int); insert into tt values (1), (2)")
        while True:
            say(cursor.statusmessage, cursor.fetchall() if cursor.description else cursor.rowcount)
            if not cursor.nextset():
                break


# Statements and transactions


def statements():
    with connect(autocommit=True) as conn:
        conn.execute("drop table if exists people, visits")
        conn.execute("create table people (id serial primary key, name text unique not null, age int check (age > 0))")
        conn.execute("create table visits (person int references people deferrable initially deferred)")
        for n in range(8):
            row = conn.execute("select %s::int + %s::int", (n, 1), prepare=True).fetchone()
            say("prepared", row)
        say("on the server", conn.execute("select count(*) > 0 from pg_prepared_statements").fetchone())
        for n in range(7):
            conn.execute("insert into people (name, age) values (%s, %s)", (f"p{n}", n + 1))
        conn.execute("alter table people add extra int")
        say("replanned", failing(lambda: [conn.execute("select * from people where id = %s", (1,)) for _ in range(9)]))
        conn.execute("deallocate all")
        cursor = conn.cursor()
        cursor.executemany("insert into people (name, age) values (%s, %s) returning id",
                           [(f"m{n}", n) for n in range(1, 60)], returning=True)
        ids = []
        while True:
            ids += cursor.fetchall()
            if not cursor.nextset():
                break
        say("executemany", len(ids), cursor.rowcount)
        say("returning", conn.execute("update people set age = age + 1 where id < 4 returning name, age").fetchall())
        notices = []
        conn.add_notice_handler(lambda diag: notices.append((diag.severity, diag.sqlstate, diag.message_primary)))
        conn.execute("do $$ begin raise notice 'hello %', 1; raise warning 'careful'; end $$")
        conn.execute("drop table if exists no_such_table")
        say(notices)


def errors_seen():
    with connect(autocommit=True) as conn:
        run = conn.execute
        for statement in (
            "insert into people (name, age) values ('p0', 1)",
            "insert into people (name, age) values ('q', 0)",
            "insert into people (name, age) values (null, 1)",
            "selec 1",
            "select * from nowhere",
            "select nothing from people",
            "select 1 / 0",
            "select 'x'::int",
            "select repeat('x', 2000000000) || repeat('y', 2000000000)",
            "begin; insert into visits values (4711); commit",
            "create table people (a int)",
            "raise nothing",
            "do $$ begin raise exception 'mine' using errcode = 'MINE1', detail = 'd', hint = 'h'; end $$",
            "set work_mem = 'lots'",
            "vacuum nowhere",
            "commit prepared 'x'",
        ):
            say(statement[:40], failing(lambda: run(statement)))
        say("parameters", failing(lambda: run("select %s::int", ("x",))))
        say("types", failing(lambda: run("select lower(%s, %s)", (1, 2))))
        say("usable", run("select 1").fetchone(), conn.info.transaction_status.name)
        conn.execute("set statement_timeout = 500")
        say("timeout", failing(lambda: run("select pg_sleep(30)")))
    with connect() as one, connect() as two:
        one.execute("select * from people where id = 1 for update")
        two.execute("set lock_timeout = 500")
        say("lock", failing(lambda: two.execute("select * from people where id = 1 for update")))
    with connect() as one, connect() as two:
        for conn in (one, two):
            conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            conn.execute("select sum(age) from people")
        one.execute("update people set age = age + 1 where id = 1")
        one.commit()
        say("serializable", failing(lambda: two.execute("update people set age = age + 1 where id = 1"))[0:4])


def transactions():
    with connect() as conn:
        count = lambda: conn.execute("select count(*) from people").fetchone()[0]
        before = count()
        conn.execute("insert into people (name) values ('lost')")
        conn.rollback()
        say("rolled back", count() - before, conn.info.transaction_status.name)
        conn.commit()
        with conn.transaction():
            conn.execute("insert into people (name) values ('kept')")
            try:
                with conn.transaction("inner"):
                    conn.execute("insert into people (name) values ('inner')")
                    raise ValueError
            except ValueError:
                say("inside", count() - before)
            try:
                with conn.transaction():
                    conn.execute("insert into people (name) values ('kept')")
            except errors.UniqueViolation as error:
                say("savepoint", error.sqlstate, conn.info.transaction_status.name)
            with conn.transaction(force_rollback=True):
                conn.execute("delete from people")
                say("deleted", count())
        say("after", count() - before)
        conn.commit()
        say("failed", failing(lambda: conn.execute("select 1 / 0"))[1], conn.info.transaction_status.name)
        say("aborted", failing(lambda: conn.execute("select 1")))
        say("commit", conn.execute("commit").statusmessage)
        conn.execute("delete from people where name = 'kept'")
        conn.commit()
        conn.read_only = True
        say("read only", failing(lambda: conn.execute("create table x (a int)")))
        conn.rollback()
        conn.read_only = None
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        conn.deferrable = True
        say("level", conn.execute("show transaction_isolation").fetchone(), conn.execute("show transaction_deferrable").fetchone())
        conn.rollback()
        say("two phase", failing(lambda: conn.execute("prepare transaction 'x'"))[0:4])
        conn.rollback()
    with connect(autocommit=True) as conn:
        # Where the server allows it, it would stay for whoever comes next.
        say("its end", failing(lambda: conn.execute("rollback prepared 'x'"))[0:4])
    with connect(autocommit=True) as conn:
        say("dirty", failing(lambda: (conn.execute("begin"), conn.execute("insert into people (name) values ('half')"))))
    with connect() as conn:
        say("gone", conn.execute("select count(*) from people where name = 'half'").fetchone())


# COPY, notifications, cancel, cursors, large objects


def copying():
    with connect() as conn:
        conn.execute("drop table if exists c; create table c (id int, name text, at timestamptz)")
        with conn.cursor() as cursor:
            with cursor.copy("copy c from stdin") as copy:
                for n in range(20_000):
                    copy.write_row((n, f"tab\there \\ {n}\n", None))
            say("text in", cursor.rowcount)
            with cursor.copy("copy c (id, name) from stdin (format binary)") as copy:
                copy.set_types(("int4", "text"))
                for n in range(1_000):
                    copy.write_row((n, "b"))
            say("binary in", cursor.rowcount)
            with cursor.copy("copy (select id, name from c order by id, name limit 5) to stdout") as copy:
                say("rows", list(copy.rows()))
            with cursor.copy("copy c to stdout (format binary)") as copy:
                say("binary out", sum(len(block) for block in copy))
            with cursor.copy("copy c to stdout (format csv, header)") as copy:
                say("csv", bytes(copy.read())[:20])
                for _ in copy:
                    pass
            conn.commit()

            def bad():
                with cursor.copy("copy c (id) from stdin") as copy:
                    copy.write(b"1\nnot a number\n")

            say("bad data", failing(bad))
            conn.rollback()

            def given_up():
                with cursor.copy("copy c (id) from stdin") as copy:
                    copy.write(b"1\n")
                    raise KeyError("mine")

            try:
                given_up()
            except KeyError:
                say("given up", conn.info.transaction_status.name)
            conn.rollback()

            def left_early():
                with cursor.copy("copy (select generate_series(1, 100000000)) to stdout") as copy:
                    for _ in copy:
                        raise KeyError("mine")

            try:
                left_early()
            except KeyError:
                say("left early", conn.info.transaction_status.name)
            conn.rollback()
            say("usable", cursor.execute("select count(*) from c").fetchone())


def notifications():
    with connect(autocommit=True) as hears, connect(autocommit=True) as tells:
        hears.execute("listen news")
        hears.execute('listen "Other"')
        tells.execute("notify news, 'one'")
        tells.execute("select pg_notify('Other', %s)", ("x" * 7000,))
        tells.execute("begin")
        tells.execute("notify news, 'never'")
        tells.execute("rollback")
        tells.execute("notify news")
        for heard in hears.notifies(timeout=PATIENCE, stop_after=3):
            say(heard.channel, len(heard.payload), heard.payload[:5])
            say("pid", heard.pid == tells.info.backend_pid)
        hears.execute("unlisten *")
        tells.execute("notify news, 'two'")
        say("silence", list(hears.notifies(timeout=0.2)))
        hears.execute("listen self")
        hears.execute("notify self, 'me'")
        say("self", [(n.channel, n.payload) for n in hears.notifies(timeout=PATIENCE, stop_after=1)])


def cancelling():
    for name in ("cancel", "cancel_safe"):
        with connect(autocommit=True) as conn, connect(autocommit=True) as watcher:

            def when_asleep():
                # By its text: the process is another one each time where connections are shared.
                active = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database() and query = 'select pg_sleep(60)'"
                deadline = time.monotonic() + 30
                while time.monotonic() < deadline and watcher.execute(active).fetchone() != (1,):
                    time.sleep(0.01)
                getattr(conn, name)()

            thread = threading.Thread(target=when_asleep)
            thread.start()
            started = time.monotonic()
            say(name, failing(lambda: conn.execute("select pg_sleep(60)")), time.monotonic() - started < 40)
            thread.join()
            say("usable", conn.execute("select 1").fetchone())
            getattr(conn, name)()  # With nothing to cancel.
            say("still", [conn.execute("select %s::int", (n,)).fetchone()[0] for n in range(3)])


def cursors():
    with connect() as conn:
        with conn.cursor("walk", scrollable=True) as cursor:
            cursor.execute("select generate_series(1, %s)", (1000,))
            say(cursor.fetchone(), cursor.fetchmany(2), cursor.fetchmany(3))
            cursor.scroll(500, mode="absolute")
            say(cursor.fetchone())
            cursor.scroll(-10)
            say(cursor.fetchone(), failing(lambda: cursor.execute("select 1 / 0"))[1])
        conn.rollback()
        with conn.cursor("all", withhold=True) as cursor:
            cursor.itersize = 7
            cursor.execute("select generate_series(1, 100)")
            conn.commit()
            say("held", sum(n for (n,) in cursor))
        conn.commit()
        say("closed", failing(lambda: conn.execute("fetch from walk")))
        conn.rollback()
        with psycopg.RawCursor(conn) as raw:
            say("raw", raw.execute("select $1::int * $2", (6, 7)).fetchone())
        with psycopg.ClientCursor(conn) as client:
            say("client", client.execute("select %s, %s", ("it's", None)).fetchone())


def large_objects():
    with connect() as conn:
        content = bytes(range(256)) * 4000
        (oid,) = conn.execute("select lo_from_bytea(0, %s)", (content,)).fetchone()
        say("whole", conn.execute("select lo_get(%s) = %s", (oid, content)).fetchone())
        (fd,) = conn.execute("select lo_open(%s, %s)", (oid, 0x60000)).fetchone()
        conn.execute("select lo_lseek64(%s, 100, 0)", (fd,))
        conn.execute("select lowrite(%s, %s)", (fd, b"here"))
        conn.execute("select lo_lseek64(%s, 98, 0)", (fd,))
        say("piece", conn.execute("select loread(%s, 8)", (fd,)).fetchone())
        conn.execute("select lo_truncate64(%s, 1000)", (fd,))
        say("size", conn.execute("select lo_lseek64(%s, 0, 2)", (fd,)).fetchone(), conn.execute("select lo_close(%s)", (fd,)).fetchone())
        conn.commit()
        conn.execute("select lo_unlink(%s)", (oid,))
        conn.commit()
        say("gone", failing(lambda: conn.execute("select lo_get(%s)", (oid,)))[1])


# Pipelines and the asynchronous side


def pipelines():
    with connect(autocommit=True) as conn:
        with conn.pipeline() as pipeline:
            cursors = [conn.execute("select %s::int", (n,)) for n in range(500)]
            pipeline.sync()
            say("sum", sum(cursor.fetchone()[0] for cursor in cursors))
            for n in range(3):
                conn.execute("insert into people (name) values (%s)", (f"pipe{n}",))
        say("kept", conn.execute("select count(*) from people where name like 'pipe%'").fetchone())

        def breaks():
            with conn.pipeline():
                conn.execute("insert into people (name) values ('pipe9')")
                conn.execute("select 1 / 0")
                conn.execute("insert into people (name) values ('pipe10')")

        say("breaks", failing(breaks)[1])
        say("undone", conn.execute("select count(*) from people where name like 'pipe%'").fetchone())
        with conn.pipeline(), conn.transaction():
            conn.execute("delete from people where name like 'pipe%'")
            prepared = [conn.execute("select name from people where id = %s", (n,), prepare=True) for n in range(1, 8)]
        say("prepared", [cursor.fetchone() for cursor in prepared])
        with conn.pipeline() as pipeline:
            big = [conn.execute("select repeat('x', 300000)") for _ in range(20)]
            pipeline.sync()
            say("big", sum(len(cursor.fetchone()[0]) for cursor in big))


def beyond_the_cache():
    with connect(autocommit=True) as conn:
        conn.prepared_max = None
        texts = [f"select %s::int + {n}" for n in range(400)]
        for _ in range(2):
            say("many", sum(conn.execute(text, (1,), prepare=True).fetchone()[0] for text in texts))
        with conn.pipeline():
            cursors = [conn.execute(text, (2,), prepare=True) for text in reversed(texts)]
            say("pipelined", sum(cursor.fetchone()[0] for cursor in cursors))
        with conn.transaction():
            say("in one transaction", sum(conn.execute(text, (3,), prepare=True).fetchone()[0] for text in texts))
        conn.prepared_max = 3
        say("a small cache", [conn.execute(f"select %s::int * {n}", (2,), prepare=True).fetchone()[0] for n in range(12)])


def broken_pipelines():
    """Errors at every place of a pipeline with several synchronisations, by libpq's own functions."""
    with connect(autocommit=True) as conn:
        pgconn = conn.pgconn
        for broken in range(5):
            pgconn.enter_pipeline_mode()
            for n in range(4):
                number = b"%d" % (0 if n == broken else n + 1)
                pgconn.send_prepare(b"broken %d %d" % (broken, n), b"select 1 / $1::int")
                pgconn.send_query_prepared(b"broken %d %d" % (broken, n), [number])
                pgconn.send_query_params(b"select $1::int", [b"%d" % n])
                pgconn.pipeline_sync()
            answers, synchronised = [], 0
            while synchronised < 4:
                result = pgconn.get_result()
                if result is None:
                    continue
                status = pq.ExecStatus(result.status)
                synchronised += status == pq.ExecStatus.PIPELINE_SYNC
                code = result.error_field(pq.DiagnosticField.SQLSTATE)
                answers.append((status.name, result.get_value(0, 0), code))
            pgconn.exit_pipeline_mode()
            say(broken, answers)
        say("usable", conn.execute("select %s::int", (5,), prepare=True).fetchone(), conn.info.transaction_status.name)


async def asynchronous():
    async with await psycopg.AsyncConnection.connect(URL) as conn:
        async with conn.transaction(), conn.cursor() as cursor:
            await cursor.execute("select %s::text", ("a",))
            say("async", await cursor.fetchall())
        async with conn.cursor("server") as cursor:
            await cursor.execute("select generate_series(1, 1000)")
            say("server side", sum([row[0] async for row in cursor]))
        async with conn.cursor() as cursor, cursor.copy("copy (select generate_series(1, 9)) to stdout") as copy:
            say("copy", [row async for row in copy.rows()])
        await conn.set_autocommit(False) if conn.info.transaction_status.name == "IDLE" else await conn.rollback()
        try:
            await asyncio.wait_for(conn.execute("select pg_sleep(60)"), 0.3)
        except (asyncio.TimeoutError, psycopg.errors.QueryCanceled) as error:
            say("cancelled", type(error).__name__ in ("TimeoutError", "QueryCanceled"))
        await conn.rollback()
        say("usable", await (await conn.execute("select 1")).fetchone())
    connections = await asyncio.gather(*(psycopg.AsyncConnection.connect(URL) for _ in range(20)))
    answers = await asyncio.gather(*(conn.execute("select pg_sleep(0.05), %s::int", (n,)) for n, conn in enumerate(connections)))
    say("at once", sum([(await cursor.fetchone())[1] for cursor in answers]))
    for conn in connections:
        await conn.close()


def session_state():
    with connect(autocommit=True) as conn:
        conn.execute("set my.x = 'set'")
        conn.execute("begin")
        conn.execute("set local work_mem = '7MB'")
        conn.execute("set my.x = 'rolled back'")
        conn.execute("rollback")
        say(conn.execute("select current_setting('my.x'), current_setting('work_mem')").fetchone())
        conn.execute("create temp table mine (a int)")
        conn.execute("prepare p (int) as select $1 + 1")
        say("sql prepare", conn.execute("execute p (41)").fetchone())
        say("advisory", conn.execute("select pg_try_advisory_lock(42)").fetchone())
        conn.execute("discard all")
        say("discarded", conn.execute("select current_setting('my.x', true), to_regclass('mine') is null").fetchone())
        conn.execute("set session characteristics as transaction read only")
        conn.execute("select pg_advisory_lock(42)")
    with connect() as conn:
        # The server lets go of the lock when it has seen that its client has left.
        deadline = time.monotonic() + 60
        while not conn.execute("select pg_try_advisory_xact_lock(42)").fetchone()[0] and time.monotonic() < deadline:
            conn.rollback()
            time.sleep(0.01)
        say("next client", conn.execute("show transaction_read_only").fetchone(), time.monotonic() < deadline)


def ours(mirror_url):
    columns = None
    for binary in (False, True):
        for prepare in (False, True):
            with connect() as conn, conn.cursor(binary=binary) as cursor:
                cursor.execute("SHOW MIRROR STATUS", prepare=prepare)
                names = [column.name for column in cursor.description]
                row = dict(zip(names, cursor.fetchone()))
                say(binary, prepare, names[0], row["mirror"], row["status"], row["source_database"], row["mode"])
                assert columns in (None, names), names
                columns = names
                say(conn.info.transaction_status.name, conn.execute("select 1").fetchone())
    with connect(autocommit=True) as conn:
        with psycopg.ClientCursor(conn) as simple:
            say("simple", simple.execute("show mirror status").fetchone()[0:2])
        with conn.pipeline():
            asked = [conn.execute("select 1"), conn.execute("SHOW DATABASE MIRROR STATUS FOR cloud"), conn.execute("select 2")]
        say("pipeline", asked[0].fetchone(), asked[1].description[0].name, asked[1].fetchone()[0], asked[2].fetchone())
        say("lease", [column.name for column in conn.execute("SHOW LEASE").description][:2])
        say("help", len(conn.execute("SHOW HELP").fetchall()) > 5)
        say("unknown", failing(lambda: conn.execute("SHOW DATABASE MIRROR STATUS FOR nothing"))[0:4])
        say("refused", failing(lambda: conn.execute("DROP MIRROR cloud"))[0:4])
        say("usable", conn.execute("select 1").fetchone())
    with psycopg.connect(mirror_url, autocommit=True) as conn:
        say("console", conn.execute("SHOW MIRROR STATUS").fetchone()[0], conn.execute("SHOW VERSION").fetchone()[0][:12])
        say("console error", failing(lambda: conn.execute("select * from people"))[1])


def neighbour():
    """Another client of the same pool, with settings of its own: connections change hands."""
    with connect(autocommit=True) as conn:
        while True:
            conn.execute("set search_path = neighbour; set my.x = 'neighbour'; set work_mem = '123kB'")
            with conn.transaction():
                conn.execute("select pg_sleep(0.003)")
            time.sleep(0.003)
            conn.execute("select pg_sleep(0.003)")
            conn.execute("reset all")


def main():
    if sys.argv[2:3] == ["ours"]:
        ours(sys.argv[3])
        return
    for _ in range(2):
        threading.Thread(target=neighbour, daemon=True).start()
    for part in (
        start_up, refusals, values, statements, errors_seen, transactions, copying, notifications, cancelling,
        cursors, large_objects, pipelines, beyond_the_cache, broken_pipelines, session_state,
    ):
        say("==", part.__name__)
        try:
            part()
        except Exception as error:
            say("== failed", type(error).__name__, getattr(error, "sqlstate", None), str(error).split("\n")[0])
    say("== asynchronous")
    asyncio.run(asynchronous())
    with connect() as conn:
        conn.execute("drop table people, visits, c")
    say("== end")
    # The neighbours are left where they are.
    os._exit(0)


main()
