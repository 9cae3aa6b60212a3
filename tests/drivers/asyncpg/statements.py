"""What an application does with asyncpg where every statement is a transaction, printed in lines that are the same
on every run, but for what statement mode refuses.

usage: statements.py URL
"""

import asyncio
import sys

import asyncpg

from say import parts, say

URL = sys.argv[1]


async def connect(**keywords):
    return await asyncpg.connect(URL, **keywords)


async def failing(awaitable):
    try:
        await awaitable
    except asyncpg.PostgresError as error:
        return type(error).__name__, error.sqlstate, str(error)
    return "NO ERROR"


async def statements():
    conn = await connect()
    await conn.execute("create table if not exists items (id int primary key, name text)")
    await conn.execute("truncate items")
    say(dict(await conn.fetchrow("insert into items values ($1, $2) returning *", 1, "one")))
    await conn.executemany("insert into items values ($1, $2)", [(n, f"n{n}") for n in range(2, 50)])
    say(await conn.execute("update items set name = upper(name) where id < 5"))
    say(await conn.fetchval("select count(*) from items"))
    for wrong in ("insert into items values (1)", "select 1/0", "selec"):
        say(await failing(conn.execute(wrong)))
        say(await failing(conn.fetch(wrong)))
    say(await conn.fetchval("select 'usable'"))
    await conn.close()


async def prepared():
    one, other = await connect(), await connect()
    for n in range(300):
        # More than a connection of the pool keeps.
        found = await one.fetchval(f"select {n} + $1::int", n), await other.fetchval(f"select {n} - $1::int", n)
        if found != (2 * n, 0):
            say("wrong", n, found)
    statement = await one.prepare("select $1::text || name from items where id = $2")
    for n in range(8):
        say(await statement.fetchval("x", n))
    say([attribute.name for attribute in statement.get_attributes()])
    await one.close()
    await other.close()


async def copying():
    conn = await connect()
    say(await conn.copy_records_to_table("items", records=[(n, f"copied {n}") for n in range(1000, 3000)]))
    out = bytearray()

    async def keep(data):
        out.extend(data)

    say(await conn.copy_from_query("select id, name from items where id >= $1 order by id", 1000, output=keep))
    say(len(out))
    say(await failing(conn.copy_records_to_table("items", records=[(1, "again")])))
    say(await conn.fetchval("select count(*) from items"))
    await conn.close()


async def settings():
    one, other = await connect(), await connect()
    await one.execute("set statement_timeout = '11s'")
    await one.execute("set search_path = pg_catalog, public")
    await other.execute("set search_path = public")
    for _ in range(5):
        say(await one.fetchval("show search_path"), await other.fetchval("show search_path"))
    say(await one.fetchval("show statement_timeout"), await other.fetchval("show statement_timeout"))
    await one.reset()
    say(await one.fetchval("show statement_timeout"))
    await one.close()
    await other.close()


async def cancels():
    conn = await connect()
    try:
        await conn.execute("select pg_sleep(30)", timeout=0.2)
    except asyncio.TimeoutError:
        say("timed out")
    say(await conn.fetchval("select 'usable'"))
    await conn.close()


async def many_clients():
    async with asyncpg.create_pool(URL, min_size=1, max_size=20) as pool:

        async def one(n):
            return sum([await pool.fetchval("select $1::int + $2::int", n, m) for m in range(10)])

        say(sum(await asyncio.gather(*(one(n) for n in range(60)))))


async def transactions():
    conn = await connect()
    try:
        async with conn.transaction():
            await conn.execute("insert into items values (9000)")
        say("committed")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        say("refused")
    say("closed", conn.is_closed())
    conn.terminate()
    conn = await connect()
    say("inserted", await conn.fetchval("select count(*) from items where id = 9000"))
    await conn.close()


async def temporary():
    conn = await connect()
    await conn.execute("create temp table passing (n int)")
    say(await failing(conn.execute("insert into passing values (1)")))
    await conn.close()


async def main():
    await parts(statements, prepared, copying, settings, cancels, many_clients, transactions, temporary)
    say("== end")


asyncio.run(main())
