"""What an application does with SQLAlchemy 2 over psycopg 3, printed in lines that are the same on every run.

usage: sqlalchemy_psycopg.py URL
"""

import os
import sys
import threading
import time

from sqlalchemy import ForeignKey, Integer, String, create_engine, event, func, insert, inspect, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload
from sqlalchemy.pool import NullPool

URL = sys.argv[1].replace("postgres://", "postgresql+psycopg://", 1)


def say(*words):
    print(*words, flush=True)


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "sa_authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "sa_books"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    pages: Mapped[int | None] = mapped_column(Integer)
    author_id: Mapped[int] = mapped_column(ForeignKey("sa_authors.id"))
    author: Mapped[Author] = relationship(back_populates="books")


def failing(action):
    try:
        action()
    except DBAPIError as error:
        return (type(error).__name__, error.orig.sqlstate, error.orig.diag.message_primary, error.connection_invalidated)
    return "NO ERROR"


engine = create_engine(URL, pool_size=4, max_overflow=2, pool_pre_ping=True)


def tables():
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with engine.connect() as connection:
        say(engine.dialect.server_version_info[0] > 0, engine.dialect.default_schema_name, connection.get_isolation_level())
        for table in ("sa_authors", "sa_books"):
            found = inspect(connection)
            say(table, [column["name"] for column in found.get_columns(table)], found.get_pk_constraint(table)["constrained_columns"],
                [key["referred_table"] for key in found.get_foreign_keys(table)], len(found.get_indexes(table)))


def objects():
    with Session(engine) as session:
        session.add_all([Author(name=f"a{n}", books=[Book(title=f"b{n}.{m}", pages=m) for m in range(3)]) for n in range(50)])
        session.commit()
        found = session.scalars(select(Author).options(selectinload(Author.books)).order_by(Author.id).limit(3)).all()
        say([(author.name, [book.title for book in author.books]) for author in found])
        found[0].books.pop()
        found[1].name = "renamed"
        session.flush()
        say(session.scalar(select(func.count()).select_from(Book)), session.scalar(select(Author.name).where(Author.id == found[1].id)))
        session.rollback()
        say(session.scalar(select(func.count()).select_from(Book)), found[1].name)
        # More rows than one statement holds: pages of insertmanyvalues.
        rows = session.scalars(insert(Author).returning(Author.id, sort_by_parameter_order=True), [{"name": f"m{n}"} for n in range(3000)]).all()
        say(len(rows), rows == sorted(rows))
        session.execute(update(Book), [{"id": n, "pages": n * 10} for n in range(1, 20)])
        session.commit()
        say(session.scalar(select(func.sum(Book.pages))))


def transactions():
    with Session(engine) as session, session.begin():
        session.add(Author(name="outer"))
        try:
            with session.begin_nested():
                session.add(Author(name="outer"))
        except DBAPIError as error:
            say("savepoint", error.orig.sqlstate)
        with session.begin_nested() as inner:
            session.add(Author(name="inner"))
            session.flush()
            inner.rollback()
        session.add(Author(name="last"))
    with Session(engine) as session:
        say(session.scalars(select(Author.name).where(Author.name.in_(["outer", "inner", "last"])).order_by(Author.name)).all())
    for level in ("SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED", "AUTOCOMMIT"):
        with engine.connect().execution_options(isolation_level=level) as connection:
            say(level, connection.scalar(text("show transaction_isolation")), connection.get_isolation_level())
    with engine.connect().execution_options(postgresql_readonly=True, isolation_level="SERIALIZABLE", postgresql_deferrable=True) as connection:
        say("read only", failing(lambda: connection.execute(text("delete from sa_books"))))
    with engine.connect() as connection:
        say("as before", connection.scalar(text("show transaction_read_only")), connection.get_isolation_level())
    with engine.connect() as connection:
        transaction = connection.begin_twophase("cm_sqlalchemy")
        connection.execute(text("insert into sa_authors (name) values ('two phase')"))
        say("two phase", failing(transaction.prepare)[0:2])
    with engine.connect() as connection:
        say("none", connection.scalar(text("select count(*) from sa_authors where name = 'two phase'")))


def errors():
    with engine.connect() as connection:
        for statement in ("selec 1", "select * from nowhere", "select 1/0", "insert into sa_authors (name) values ('a1')", "select 'x'::int"):
            say(failing(lambda: connection.execute(text(statement))))
            say(failing(lambda: connection.execute(text("select 1"))))
            connection.rollback()
        say(connection.scalar(text("select 1")))


def cursors():
    with engine.connect() as connection:
        result = connection.execution_options(stream_results=True, max_row_buffer=100).execute(text("select generate_series(1, 5000)"))
        say(sum(row[0] for row in result))
        connection.commit()
        for part in connection.execute(text("select generate_series(1, 20)")).partitions(7):
            say([row[0] for row in part])
        connection.commit()
        raw = connection.connection.driver_connection
        with raw.cursor() as cursor, cursor.copy("copy (select generate_series(1, 3)) to stdout") as copy:
            say("copy out", list(copy.rows()))
        with raw.cursor() as cursor, cursor.copy("copy sa_authors (name) from stdin") as copy:
            for n in range(1000):
                copy.write_row((f"copied {n}",))
        say("copy in", raw.execute("select count(*) from sa_authors where name like 'copied%'").fetchone())
        raw.rollback()


def held_cursors():
    with engine.connect() as connection:
        raw = connection.connection.driver_connection
        with raw.cursor("held", withhold=True) as cursor:
            cursor.execute("select generate_series(1, 10)")
            raw.commit()
            say("held", cursor.fetchmany(3), cursor.fetchmany(2))
        raw.commit()


def settings():
    """What engines and applications set for their sessions, by themselves and by events of the pool."""
    plain = create_engine(URL, connect_args={"options": "-c search_path=public,pg_catalog -c lock_timeout=4444", "application_name": "orm"})
    with plain.connect() as connection:
        say([connection.scalar(text(f"show {name}")) for name in ("search_path", "lock_timeout", "application_name")])
    plain.dispose()
    hooked = create_engine(URL, pool_size=2)

    @event.listens_for(hooked, "connect")
    def on_connect(connection, _):
        connection.execute("set my.tenant = 'seven'")
        connection.execute("set timezone = 'Europe/Zurich'")
        connection.commit()

    for _ in range(3):
        with hooked.connect() as connection:
            say(connection.scalar(text("show my.tenant")), connection.scalar(text("show timezone")))
            connection.execute(text("set local statement_timeout = 1234"))
            say(connection.scalar(text("show statement_timeout")))
            connection.rollback()
            say(connection.scalar(text("show statement_timeout")))
    with hooked.connect() as connection:
        connection.execute(text("create temp table sa_mine (a int) on commit drop"))
        say(connection.scalar(text("select count(*) from sa_mine")))
        connection.commit()
    hooked.dispose()


def session_state():
    with engine.connect() as connection:
        connection.execute(text("create temp table sa_kept (a int)"))
        connection.commit()
        say("temporary table", failing(lambda: connection.execute(text("insert into sa_kept values (1)"))))
        connection.rollback()
        connection.execute(text("drop table if exists sa_kept"))
        connection.commit()
        say("lock", connection.scalar(text("select pg_try_advisory_lock(77)")))
        connection.commit()
        say("unlock", connection.scalar(text("select pg_advisory_unlock(77)")))
        connection.commit()


def beyond_the_cache():
    with engine.connect() as connection:
        connection.connection.driver_connection.prepare_threshold = 0
        for _ in range(2):
            say(sum(connection.scalar(text(f"select :n + {n}"), {"n": 1}) for n in range(300)))
            connection.commit()


def at_once():
    """Threads that share a pool, each with transactions of its own."""
    done = []

    def work(number):
        for n in range(10):
            with Session(engine) as session:
                session.add(Author(name=f"thread {number} {n}"))
                session.commit()
                done.append(session.scalar(select(func.count()).where(Author.name == f"thread {number} {n}")))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say(sum(done), engine.pool.checkedout())
    once = create_engine(URL, poolclass=NullPool)
    for _ in range(5):
        with once.connect() as connection:
            say(connection.scalar(text("select 1")))


def neighbour():
    """Another client of the same pool, with settings of its own: connections change hands."""
    with create_engine(URL, isolation_level="AUTOCOMMIT").connect() as connection:
        while True:
            connection.exec_driver_sql("set search_path = neighbour; set my.tenant = 'neighbour'")
            connection.exec_driver_sql("begin; select pg_sleep(0.003); commit")
            time.sleep(0.003)
            connection.exec_driver_sql("reset all")


def main():
    for _ in range(2):
        threading.Thread(target=neighbour, daemon=True).start()
    for part in (tables, objects, transactions, errors, cursors, held_cursors, settings, session_state, beyond_the_cache, at_once):
        say("==", part.__name__)
        try:
            part()
        except Exception as error:
            say("== failed", type(error).__name__, getattr(getattr(error, "orig", error.__cause__), "sqlstate", error))
    Base.metadata.drop_all(engine)
    say("== end")
    # The neighbours are left where they are.
    os._exit(0)


main()
