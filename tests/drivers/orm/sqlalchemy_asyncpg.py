"""What an application does with SQLAlchemy 2 over asyncpg, printed in lines that are the same on every run.

usage: sqlalchemy_asyncpg.py URL

This dialect prepares every statement and keeps a hundred of them per connection by itself.
"""

import asyncio
import os
import sys

from sqlalchemy import String, func, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

URL = sys.argv[1].replace("postgres://", "postgresql+asyncpg://", 1)


def say(*words):
    print(*words, flush=True)


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "sa_things"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    price: Mapped[float | None]


async def failing(awaitable):
    try:
        await awaitable
    except DBAPIError as error:
        return (type(error).__name__, error.orig.sqlstate, str(error.orig.__cause__ or error.orig), error.connection_invalidated)
    return "NO ERROR"


async def tables(engine):
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)


async def objects(engine):
    async with AsyncSession(engine) as session:
        session.add_all([Thing(name=f"t{n}", price=n / 2) for n in range(200)])
        await session.commit()
        say((await session.scalars(select(Thing.name).order_by(Thing.id).limit(3))).all())
        rows = (await session.scalars(insert(Thing).returning(Thing.id), [{"name": f"m{n}"} for n in range(2500)])).all()
        say(len(rows))
        await session.rollback()
        say(await session.scalar(select(func.count()).select_from(Thing)))
        rows = await session.stream_scalars(select(Thing.id).order_by(Thing.id).execution_options(yield_per=10))
        say(sum([n async for n in rows]))
        await session.commit()


async def transactions(engine):
    async with AsyncSession(engine) as session, session.begin():
        session.add(Thing(name="outer"))
        try:
            async with session.begin_nested():
                session.add(Thing(name="outer"))
        except DBAPIError as error:
            say("savepoint", error.orig.sqlstate)
        session.add(Thing(name="last"))
    async with AsyncSession(engine) as session:
        say((await session.scalars(select(Thing.name).where(Thing.name.in_(["outer", "last"])).order_by(Thing.name))).all())
    for level in ("SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED", "AUTOCOMMIT"):
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level=level)
            say(level, await connection.scalar(text("show transaction_isolation")))


async def errors(engine):
    async with engine.connect() as connection:
        for statement in ("selec 1", "select * from nowhere", "select 1/0", "insert into sa_things (name) values ('t1')", "select 'x'::int"):
            say(await failing(connection.execute(text(statement))))
            say(await failing(connection.execute(text("select 1"))))
            await connection.rollback()
        say(await connection.scalar(text("select 1")))


async def changed(engine):
    """A column that appears under a cached statement, seen by the transaction that makes it."""
    star = text("select * from sa_things limit 1")
    async with engine.connect() as connection:
        for _ in range(3):
            say(len((await connection.execute(star)).one()))
        await connection.execute(text("alter table sa_things add extra int"))
        try:
            say(len((await connection.execute(star)).one()))
        except DBAPIError as error:
            say(type(error).__name__, type(error.orig).__name__)
        await connection.rollback()
        say(len((await connection.execute(star)).one()))


async def beyond_the_cache(engine):
    async with engine.connect() as connection:
        for _ in range(2):
            total = 0
            for n in range(300):
                total += await connection.scalar(text(f"select cast(:n as int) + {n}"), {"n": 1})
            await connection.commit()
            say(total)


async def settings(_):
    engine = create_async_engine(URL, connect_args={"server_settings": {"search_path": "public,pg_catalog", "application_name": "orm", "jit": "off"}})
    async with engine.connect() as connection:
        say([await connection.scalar(text(f"show {name}")) for name in ("search_path", "application_name", "jit")])
    await engine.dispose()


async def at_once(engine):
    async def work(number):
        async with AsyncSession(engine) as session:
            session.add(Thing(name=f"task {number}"))
            await session.commit()
            return await session.scalar(select(func.count()).where(Thing.name == f"task {number}"))

    say(sum(await asyncio.gather(*(work(n) for n in range(60)))))

    async def sleep():
        async with engine.connect() as connection:
            await connection.execute(text("select pg_sleep(60)"))

    try:
        await asyncio.wait_for(sleep(), 0.3)
    except (asyncio.TimeoutError, TimeoutError):
        say("timeout")
    async with engine.connect() as connection:
        say(await connection.scalar(text("select 1")))


async def neighbour():
    """Another client of the same pool, with settings of its own: connections change hands."""
    engine = create_async_engine(URL, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        while True:
            await connection.exec_driver_sql("set search_path = neighbour")
            await connection.exec_driver_sql("select pg_sleep(0.003)")
            await asyncio.sleep(0.003)
            await connection.exec_driver_sql("reset search_path")


async def main():
    neighbours = [asyncio.create_task(neighbour()) for _ in range(2)]
    engine = create_async_engine(URL, pool_size=5, max_overflow=0)
    for part in (tables, objects, transactions, errors, changed, beyond_the_cache, settings, at_once):
        say("==", part.__name__)
        try:
            await part(engine)
        except Exception as error:
            say("== failed", type(error).__name__, getattr(getattr(error, "orig", error.__cause__), "sqlstate", error))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
    await engine.dispose()
    say("== end", *(one.exception() for one in neighbours if one.done()))
    sys.stdout.flush()
    # The neighbours are left where they are.
    os._exit(0)


asyncio.run(main())
