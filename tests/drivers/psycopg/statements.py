"""What an application does with psycopg 3 where every statement is a transaction, printed in lines that are the
same on every run, but for what statement mode refuses.

usage: statements.py URL
"""

import asyncio
import sys

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

URL = sys.argv[1]


def say(*words):
    print(*words, flush=True)


def connect(**keywords):
    return psycopg.connect(URL, autocommit=True, **keywords)


def failing(action):
    try:
        action()
    except psycopg.Error as error:
        return type(error).__name__, error.sqlstate, error.diag.message_primary
    return "NO ERROR"


def statements():
    with connect(row_factory=dict_row) as conn:
        conn.execute("create table if not exists items (id int primary key, name text, data jsonb)")
        conn.execute("truncate items")
        say(conn.execute("insert into items values (%s, %s, %s) returning *", (1, "one", Jsonb([1]))).fetchone())
        with conn.cursor() as cursor:
            cursor.executemany("insert into items (id, name) values (%s, %s)", [(n, f"n{n}") for n in range(2, 50)])
            say(cursor.rowcount)
        say(conn.execute("update items set name = upper(name) where id < 5").rowcount)
        say(conn.execute("select count(*) as n, max(name) as last from items").fetchone())
        say(failing(lambda: conn.execute("insert into items values (1)")))
        say(failing(lambda: conn.execute("select 1/0")))
        say(failing(lambda: conn.execute("selec")))
        say(conn.execute("select 'usable' as word").fetchone(), conn.info.transaction_status.name)


def prepared():
    with connect(prepare_threshold=0) as conn, connect(prepare_threshold=0) as other:
        for n in range(300):
            # More than a connection of the pool keeps.
            found = conn.execute(f"select {n} + %s", (n,)).fetchone()
            found_there = other.execute(f"select {n} - %s", (n,)).fetchone()
            if found != (2 * n,) or found_there != (0,):
                say("wrong", n, found, found_there)
        for n in range(10):
            say(conn.execute("select %s::text || name from items where id = %s", ("x", n)).fetchone())
        conn.execute("deallocate all")
        say(conn.execute("select 1 + %s", (1,)).fetchone())
        conn.execute("alter table items add extra int")
        say(failing(lambda: [conn.execute("select * from items where id = %s", (1,)).fetchone() for _ in range(3)]))
        conn.execute("alter table items drop extra")


def binary_and_large():
    with connect() as conn:
        say(len(conn.execute("select repeat('r', 3000000)").fetchone()[0]))
        say(conn.execute("select length(%s)", ("p" * 1000000,)).fetchone())
        say(conn.execute("select length(%s), %s::int8", (b"\0\1" * 50000, 1 << 40), binary=True).fetchone())
        say(sum(row[0] for row in conn.execute("select generate_series(1, 20000)")))
        with conn.cursor() as cursor:
            say(sum(row[0] for row in cursor.stream("select generate_series(1, 1000)")))


def copying():
    with connect() as conn, conn.cursor() as cursor:
        with cursor.copy("copy items (id, name) from stdin") as copy:
            for n in range(1000, 3000):
                copy.write_row((n, f"copied {n}"))
        say(cursor.rowcount)
        with cursor.copy("copy (select id, name from items where id >= 1000 order by id) to stdout") as copy:
            say(sum(1 for _ in copy.rows()))

        def duplicates():
            with cursor.copy("copy items (id, name) from stdin") as copy:
                copy.write_row((1, "again"))

        say(failing(duplicates))
        say(conn.execute("select count(*) from items").fetchone())


def settings():
    with connect() as conn, connect() as other:
        conn.execute("set statement_timeout = '11s'")
        conn.execute("set search_path = pg_catalog, public")
        other.execute("set search_path = public")
        for _ in range(5):
            say(conn.execute("show search_path").fetchone(), other.execute("show search_path").fetchone())
        say(conn.execute("show statement_timeout").fetchone(), other.execute("show statement_timeout").fetchone())
        conn.execute("reset all")
        say(conn.execute("show statement_timeout").fetchone())


def pipelines():
    with connect() as conn:
        with conn.pipeline() as pipeline:
            cursors = [conn.execute("select %s::int * 2", (n,)) for n in range(20)]
            pipeline.sync()
            say([cursor.fetchone()[0] for cursor in cursors])

        def one_fails():
            with conn.pipeline():
                conn.execute("insert into items (id) values (5000)")
                conn.execute("select 1/0")
                conn.execute("insert into items (id) values (5001)")

        say(failing(one_fails))
        say(conn.execute("select count(*) from items where id >= 5000").fetchone())


def cancels():
    with connect() as conn:
        conn.execute("set statement_timeout = '100ms'")
        say(failing(lambda: conn.execute("select pg_sleep(30)")))
        conn.execute("reset statement_timeout")
        say(conn.execute("select 'usable'").fetchone())


def many_clients():
    async def one(n):
        async with await psycopg.AsyncConnection.connect(URL, autocommit=True, prepare_threshold=1) as conn:
            total = 0
            for m in range(10):
                cursor = await conn.execute("select %s::int + %s::int", (n, m))
                total += (await cursor.fetchone())[0]
            return total

    async def all_of_them():
        return await asyncio.gather(*(one(n) for n in range(40)))

    say(sum(asyncio.run(all_of_them())))


def transactions():
    conn = connect()
    try:
        with conn.transaction():
            conn.execute("insert into items (id) values (9000)")
        say("committed", conn.execute("select count(*) from items where id = 9000").fetchone())
    except psycopg.Error:
        # What of the server's last words libpq has read when it finds the connection closed is not always the same.
        say("refused", "closed", conn.closed)
    conn.close()
    with connect() as conn:
        say("inserted", conn.execute("select count(*) from items where id = 9000").fetchone())


def temporary():
    with connect() as conn:
        conn.execute("create temp table passing (n int)")
        say(failing(lambda: conn.execute("insert into passing values (1)")))


for part in (
    statements,
    prepared,
    binary_and_large,
    copying,
    settings,
    pipelines,
    cancels,
    many_clients,
    transactions,
    temporary,
):
    say("==", part.__name__)
    try:
        part()
    except psycopg.Error as error:
        say("== failed", type(error).__name__, error.sqlstate, error)
say("== end")
