"""What an application does with asyncpg, printed in lines that are the same on every run.

usage: program.py URL [ours MIRROR-URL]

asyncpg prepares and describes every statement, speaks binary only and pipelines nothing; its pool
resets sessions by a statement of its own.
"""

import asyncio
import datetime
import decimal
import ipaddress
import os
import sys
import uuid

import asyncpg

from say import parts, say

URL = sys.argv[1]


async def connect(**keywords):
    return await asyncpg.connect(URL, **keywords)


async def failing(awaitable):
    try:
        await awaitable
    except asyncpg.PostgresError as error:
        return (type(error).__name__, error.sqlstate, str(error), error.detail, error.hint, error.position, error.constraint_name)
    return "NO ERROR"


async def start_up():
    conn = await connect()
    say(conn.get_server_version())
    settings = conn.get_settings()
    for name in ("server_encoding", "client_encoding", "DateStyle", "TimeZone", "is_superuser", "session_authorization"):
        say(name, getattr(settings, name, None))
    say("pid", conn.get_server_pid() == await conn.fetchval("select pg_backend_pid()"))
    await conn.close()
    conn = await connect(server_settings={"search_path": "pg_catalog", "application_name": "till", "my.tenant": "7"})
    for name in ("search_path", "application_name", "my.tenant"):
        say(name, await conn.fetchval("select current_setting($1)", name))
    await conn.close()
    conn = await asyncpg.connect(URL + "?options=-c%20statement_timeout%3D1234&sslmode=prefer")
    say(await conn.fetchval("show statement_timeout"))
    await conn.close()
    say(await failing(connect(database="nowhere")))
    say(await failing(connect(password="wrong")))
    say(await failing(connect(user="nobody")))
    say((await failing(connect(server_settings={"no_such": "1"})))[0:3])


VALUES = [
    ("bool", True), ("int2", -32768), ("int4", 2147483647), ("int8", -9223372036854775808), ("float4", 1.5),
    ("float8", float("-inf")), ("numeric", decimal.Decimal("123456789.000000000987654321")), ("text", "ünï 🐘 '\\"),
    ("bytea", bytes(range(256))), ("date", datetime.date(2024, 2, 29)), ("time", datetime.time(23, 59, 59, 999999)),
    ("timestamp", datetime.datetime(1999, 12, 31, 23, 59, 59, 1)),
    ("timestamptz", datetime.datetime(2020, 6, 1, tzinfo=datetime.timezone.utc)),
    ("interval", datetime.timedelta(days=-3, microseconds=7)), ("uuid", uuid.UUID(int=12345)),
    ("inet", ipaddress.ip_interface("10.0.0.1/8")), ("cidr", ipaddress.ip_network("10.0.0.0/8")),
    ("json", '{"a": [1, null]}'), ("jsonb", '{"a": [1, null]}'), ("int4[]", [1, None, 3]), ("text[]", [["a", "b"], ["c", None]]),
    ("int4range", asyncpg.Range(1, 10)), ("bit(3)", asyncpg.BitString("101")), ("point", asyncpg.Point(1, 2)),
    ("box", asyncpg.Box((1, 1), (0, 0))),
    ("circle", asyncpg.Circle((0, 0), 2)), ("tid", (1, 2)), ("oid", 7), ("xml", "<a/>"), ("money", "$1.50"), ("text", None),
]


async def values():
    conn = await connect()
    for kind, value in VALUES:
        found = await conn.fetchval(f"select $1::{kind}", value)
        say(kind, repr(found)[:90], found == value)
    await conn.execute("create type pg_temp.mood as enum ('sad', 'ok'); create type pg_temp.pair as (a int, b text, m pg_temp.mood)")
    say(await conn.fetchval("select row(1, 'x', 'ok')::pg_temp.pair"), await conn.fetchval("select array['sad']::pg_temp.mood[]"))
    await conn.set_type_codec("json", encoder=str, decoder=lambda text: ("decoded", text), schema="pg_catalog")
    say(await conn.fetchval("select '[1]'::json"))
    say(sum(row[0] for row in await conn.fetch("select generate_series(1, 200000)")))
    big = "x" * 5_000_000
    say(await conn.fetchval("select $1::text", big) == big)
    await conn.close()


async def statements():
    conn = await connect()
    await conn.execute("drop table if exists animals; create table animals (id serial primary key, name text unique, legs int check (legs >= 0))")
    say(await conn.execute("insert into animals (name, legs) values ($1, $2)", "cow", 4))
    await conn.executemany("insert into animals (name, legs) values ($1, $2)", [(f"a{n}", n) for n in range(500)])
    statement = await conn.prepare("select name, legs from animals where legs = $1 order by id")
    say(statement.get_attributes()[0].name, [p.name for p in statement.get_parameters()], await statement.fetch(4))
    say(await conn.fetchmany("insert into animals (name) values ($1) returning name", [("x",), ("y",)]))
    say(await failing(conn.execute("insert into animals (name) values ($1)", "cow")))
    say(await failing(conn.execute("insert into animals (name, legs) values ('q', -1)")))
    say(await failing(conn.fetch("selec 1")))
    say(await failing(conn.fetch("select * from nowhere")))
    say(await failing(conn.fetchval("select 1 / $1::int", 0)))
    say(await failing(conn.executemany("insert into animals (name) values ($1)", [("new",), ("cow",)])))
    say("all or nothing", await conn.fetchval("select count(*) from animals where name = 'new'"))
    notices = []
    conn.add_log_listener(lambda _, message: notices.append((message.severity, str(message))))
    await conn.execute("do $$ begin raise notice 'hi'; end $$")
    say(notices)
    plan = await conn.prepare("select * from animals where id = 1")
    transaction = conn.transaction()
    await transaction.start()
    await plan.fetchrow()
    await conn.execute("alter table animals add extra int")
    say("changed", (await failing(plan.fetchrow()))[0:2])
    await transaction.rollback()
    await conn.execute("alter table animals add extra int")
    say(len(await conn.fetchrow("select * from animals where id = 1")))
    # Changed by somebody else, outside of a transaction: those who have prepared it see to it themselves.
    readers = [await connect() for _ in range(6)]
    cow = "select * from animals where name = 'cow'"
    held = [await reader.prepare(cow) for reader in readers]
    for change in ("add more int default 7", "drop column more", "alter legs type bigint"):
        for _ in range(3):
            say([len(row) for row in await asyncio.gather(*(reader.fetchrow(cow) for reader in readers))])
        await conn.execute(f"alter table animals {change}")
        for _ in range(3):
            say([list(row.keys()) for row in await asyncio.gather(*(reader.fetchrow(cow) for reader in readers))])
        say({(await failing(plan.fetchrow()))[0:2] for plan in held})
        held = [await reader.prepare(cow) for reader in readers]
        say([(await plan.fetchrow())["name"] for plan in held])
    for reader in readers:
        await reader.close()
    await conn.close()


async def transactions():
    conn = await connect()
    count = lambda: conn.fetchval("select count(*) from animals")
    before = await count()
    async with conn.transaction():
        await conn.execute("insert into animals (name) values ('kept')")
        try:
            async with conn.transaction():
                await conn.execute("insert into animals (name) values ('undone')")
                raise ValueError
        except ValueError:
            say(await count() - before)
        say(await failing(nested(conn)))
        say(conn.is_in_transaction(), await count() - before)
    transaction = conn.transaction(isolation="serializable", readonly=True, deferrable=True)
    await transaction.start()
    say(await conn.fetchval("show transaction_isolation"), await failing(conn.execute("delete from animals")))
    await transaction.rollback()
    say(conn.is_in_transaction(), await count() - before)
    await conn.execute("delete from animals where name = 'kept'")
    await conn.close()


async def nested(conn):
    async with conn.transaction():
        await conn.execute("insert into animals (name) values ('kept')")


async def copying():
    conn = await connect()
    await conn.execute("drop table if exists c; create table c (id int, name text)")
    say(await conn.copy_records_to_table("c", records=[(n, f"n{n}") for n in range(20000)]))

    async def lines():
        for n in range(1000):
            yield f"{n},line\n".encode()

    say(await conn.copy_to_table("c", source=lines(), format="csv"))
    out = bytearray()

    async def take(block):
        out.extend(block)

    say(await conn.copy_from_query("select * from c where id < $1 order by 1, 2", 3, output=take), bytes(out))
    out.clear()
    say(await conn.copy_from_table("c", output=take, format="binary"), len(out))

    async def wrong():
        yield b"1,a\nx,b\n"

    say(await failing(conn.copy_to_table("c", source=wrong(), format="csv")))

    async def breaks():
        yield b"1,a\n"
        raise KeyError

    try:
        await conn.copy_to_table("c", source=breaks(), format="csv")
    except KeyError:
        say("given up")
    say(await conn.fetchval("select count(*) from c"))
    await conn.close()


async def notifications():
    hears, tells = await connect(), await connect()
    heard = asyncio.Queue()
    listener = lambda _, pid, channel, payload: heard.put_nowait((pid, channel, len(payload)))
    await hears.add_listener("news", listener)
    await tells.execute("notify news, 'one'")
    await tells.execute("select pg_notify('news', $1)", "x" * 7000)
    for _ in range(2):
        pid, *message = await asyncio.wait_for(heard.get(), 5)
        say(message)
        say("pid", pid == tells.get_server_pid())
    await hears.remove_listener("news", listener)
    await hears.close()
    await tells.close()


async def cancelling():
    conn = await connect()
    for _ in range(5):
        try:
            await conn.execute("select pg_sleep(60)", timeout=0.2)
        except (asyncio.TimeoutError, TimeoutError):
            say("timeout", await conn.fetchval("select 1"))
    task = asyncio.create_task(conn.fetch("select pg_sleep(60)"))
    await asyncio.sleep(0.2)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        say("cancelled")
    say(await conn.fetchval("select 2"))
    await conn.close()


async def cursors():
    conn = await connect()
    async with conn.transaction():
        say(sum([row[0] async for row in conn.cursor("select generate_series(1, $1::int)", 1000, prefetch=7)]))
        cursor = await conn.cursor("select generate_series(1, 100)")
        say(await cursor.fetch(2), await cursor.forward(10), await cursor.fetchrow())
    await conn.close()


async def beyond_the_cache():
    for size in (1000, 5):
        conn = await connect(statement_cache_size=size)
        for _ in range(2):
            total = 0
            for n in range(400):
                total += await conn.fetchval(f"select $1::int + {n}", 1)
            say("many", size, total)
        kept = [await conn.prepare(f"select $1::text || '{n}'") for n in range(300)]
        say("kept", sum([len(await statement.fetchval("x")) for statement in kept]))
        async with conn.transaction():
            say("in one transaction", sum([len(await statement.fetchval("y")) for statement in kept]))
        await conn.close()


async def held_cursors():
    conn = await connect()
    await conn.execute("declare walk cursor with hold for select generate_series(1, 10) as n")
    say("held", [row["n"] for row in await conn.fetch("fetch 3 from walk")], [row["n"] for row in await conn.fetch("fetch 2 from walk")])
    await conn.close()


async def pools():
    async with asyncpg.create_pool(URL, min_size=2, max_size=4) as pool:
        async with pool.acquire() as conn:
            await conn.execute("set search_path = nowhere")
            await conn.execute("listen left_behind")
            await conn.execute("select pg_advisory_lock(7)")
            await conn.execute("declare c cursor with hold for select 1")
        answers = await asyncio.gather(*(pool.fetchval("select $1::int + 1", n) for n in range(200)))
        say(sum(answers))
        for _ in range(4):
            async with pool.acquire() as conn:
                say(await conn.fetchval("show search_path"), await conn.fetchval("select count(*) from pg_cursors where name = 'c'"))
        await pool.execute("drop table animals, c")


async def ours(mirror_url):
    conn = await connect()
    for _ in range(2):
        row = await conn.fetchrow("SHOW MIRROR STATUS")
        say(list(row.keys())[0:3], row["mirror"], row["status"], row["source_database"])
        say(await conn.fetchval("select $1::int", 5))
    async with conn.transaction():
        say(await conn.fetchval("SHOW DATABASE MIRROR STATUS FOR cloud", column=0), await conn.fetchval("select 6"))
    say((await failing(conn.fetch("SHOW DATABASE MIRROR STATUS FOR nothing")))[0:3])
    say((await failing(conn.execute("DROP MIRROR cloud")))[0:2])
    say(await conn.fetchval("select 7"))
    await conn.close()
    conn = await asyncpg.connect(mirror_url)
    say("console", (await conn.fetchrow("SHOW MIRROR STATUS"))["mirror"])
    await conn.close()


async def neighbour():
    """Another client of the same pool, with settings of its own: connections change hands."""
    conn = await connect()
    while True:
        await conn.execute("set search_path = neighbour; set my.tenant = 'neighbour'")
        await conn.execute("begin; select pg_sleep(0.003); commit")
        await asyncio.sleep(0.003)
        await conn.fetch("select pg_sleep(0.003)")
        await conn.execute("reset all")


async def main():
    if sys.argv[2:3] == ["ours"]:
        await ours(sys.argv[3])
        return
    neighbours = [asyncio.create_task(neighbour()) for _ in range(2)]
    await parts(start_up, values, statements, transactions, copying, notifications, cancelling, cursors, beyond_the_cache, held_cursors, pools)
    say("== end", *(one.exception() for one in neighbours if one.done()))
    # The neighbours are left where they are.
    os._exit(0)


asyncio.run(main())
