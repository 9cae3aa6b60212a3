"""What an application does with Django's ORM over psycopg 3, printed in lines that are the same on every run.

usage: django_orm.py URL

Connections are persistent (CONN_MAX_AGE) with health checks, as in a deployed application; server-side
cursors are on, as they are by default.
"""

import os
import sys
import threading
import time
from urllib.parse import urlparse

import django
from django.apps import AppConfig
from django.conf import settings


url = urlparse(sys.argv[1])
DATABASE = {
    "ENGINE": "django.db.backends.postgresql", "HOST": url.hostname, "PORT": url.port, "USER": url.username,
    "PASSWORD": url.password, "NAME": url.path[1:], "CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True,
}


class Library(AppConfig):
    name, label, path = "__main__", "library", "."


settings.configure(
    DATABASES={
        "default": DATABASE,
        # The psycopg pool of Django 5.1, prepared statements, another isolation level and another role.
        "pooled": DATABASE | {"CONN_MAX_AGE": 0, "OPTIONS": {"pool": {"min_size": 1, "max_size": 4}}},
        "prepared": DATABASE | {"OPTIONS": {"prepare_threshold": 0, "server_side_binding": True}},
        # What Django's documentation asks for behind a pooler in transaction mode.
        "portable": DATABASE | {"DISABLE_SERVER_SIDE_CURSORS": True},
        "strict": DATABASE | {"OPTIONS": {"isolation_level": 4, "options": "-c statement_timeout=54321"}},
    },
    USE_TZ=True,
    TIME_ZONE="Europe/Zurich",
    INSTALLED_APPS=["django.contrib.contenttypes", "__main__.Library"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.core.management import call_command
from django.db import Error, IntegrityError, close_old_connections, connection, connections, models, transaction
from django.db.models import Count, F, Q, Sum


def say(*words):
    print(*words, flush=True)


class Shelf(models.Model):
    name = models.CharField(max_length=40, unique=True)

    class Meta:
        app_label = "library"


class Volume(models.Model):
    shelf = models.ForeignKey(Shelf, models.CASCADE, related_name="volumes")
    title = models.CharField(max_length=80)
    pages = models.IntegerField(null=True)
    about = models.JSONField(default=dict)
    added = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "library"
        constraints = [models.CheckConstraint(condition=Q(pages__gt=0), name="has_pages")]


def failing(action):
    try:
        action()
    except Error as error:
        return (type(error).__name__, getattr(error.__cause__, "sqlstate", None), str(error).split("\n")[0])
    return "NO ERROR"


def tables():
    with connection.cursor() as cursor:
        cursor.execute("drop table if exists library_volume, library_shelf, django_content_type, django_migrations cascade")
    call_command("migrate", verbosity=0)
    with connection.schema_editor() as editor:
        editor.create_model(Shelf)
        editor.create_model(Volume)
    with connection.cursor() as cursor:
        say(sorted(name for name in connection.introspection.table_names(cursor)))
        say([column.name for column in connection.introspection.get_table_description(cursor, "library_volume")])
        cursor.execute("show timezone")
        say(cursor.fetchone(), connection.pg_version > 0)
    say(Volume._meta.db_table, sorted(connection.introspection.get_constraints(connection.cursor(), "library_volume"))[0])


def queries():
    shelves = Shelf.objects.bulk_create([Shelf(name=f"s{n}") for n in range(20)])
    Volume.objects.bulk_create([Volume(shelf=shelf, title=f"{shelf.name} {n}", pages=n + 1, about={"n": n}) for shelf in shelves for n in range(10)])
    say(Volume.objects.aggregate(Sum("pages")), Shelf.objects.annotate(n=Count("volumes")).values_list("n", flat=True).distinct().get())
    say([volume.title for volume in Volume.objects.select_related("shelf").filter(shelf__name="s3", about__n__gte=8).order_by("id")])
    say(Volume.objects.filter(pages__lt=3).update(pages=F("pages") + 100), Volume.objects.filter(pages__gt=100).count())
    shelf, created = Shelf.objects.get_or_create(name="s1")
    say(created, Shelf.objects.update_or_create(name="new", defaults={"name": "newer"})[1], shelf.volumes.count())
    say(Shelf.objects.prefetch_related("volumes").get(name="s2").volumes.all()[0].title)
    Shelf.objects.bulk_create([Shelf(name="s1"), Shelf(name="more")], ignore_conflicts=True)
    Shelf.objects.bulk_create([Shelf(name="s1")], update_conflicts=True, unique_fields=["name"], update_fields=["name"])
    say(Shelf.objects.count(), Shelf.objects.filter(name="newer").delete()[0], Shelf.objects.filter(name__in=["more"]).exists())
    say(Shelf.objects.raw("select * from library_shelf where name = %s", ["s4"])[0].name)


def transactions():
    before = Shelf.objects.count()
    events = []
    with transaction.atomic():
        Shelf.objects.create(name="outer")
        transaction.on_commit(lambda: events.append("committed"))
        try:
            with transaction.atomic():
                Shelf.objects.create(name="inner")
                Shelf.objects.create(name="outer")
        except IntegrityError as error:
            say("savepoint", error.__cause__.sqlstate)
        say(Shelf.objects.count() - before, events)
    say(Shelf.objects.count() - before, events)
    try:
        with transaction.atomic():
            Shelf.objects.all().delete()
            raise ValueError
    except ValueError:
        say(Shelf.objects.count() - before)
    with transaction.atomic():
        row = Shelf.objects.select_for_update(of=("self",)).get(name="outer")
        row.delete()
        with transaction.atomic(durable=False):
            point = transaction.savepoint()
            Shelf.objects.create(name="point")
            transaction.savepoint_rollback(point)
    say(Shelf.objects.count() - before)

    def broken():
        with transaction.atomic():
            try:
                Shelf.objects.create(name="s1")
            except IntegrityError:
                Shelf.objects.count()

    say(failing(broken))
    transaction.set_autocommit(False)
    Shelf.objects.create(name="by hand")
    transaction.rollback()
    transaction.set_autocommit(True)
    say(Shelf.objects.count() - before)
    with connections["strict"].cursor() as cursor:
        for name in ("transaction_isolation", "default_transaction_isolation", "statement_timeout", "timezone"):
            cursor.execute(f"show {name}")
            say(name, cursor.fetchone())


def errors():
    for action in (
        lambda: Shelf.objects.create(name="s1"),
        lambda: Volume.objects.create(shelf_id=Shelf.objects.first().pk, title="x", pages=-1),
        lambda: connection.cursor().execute("selec 1"),
        lambda: connection.cursor().execute("select * from nowhere"),
        lambda: connection.cursor().execute("select 1 / %s", [0]),
    ):
        say(failing(action))
    say(Shelf.objects.filter(name="s1").count())


def held_cursors():
    # Outside a transaction these are cursors WITH HOLD.
    say(sum(Volume.objects.values_list("pages", flat=True).iterator(chunk_size=7)))
    walk = Volume.objects.order_by("id").iterator(chunk_size=3)
    first = [next(walk).title for _ in range(5)]
    say(first, Volume.objects.count(), next(walk).title)
    walk.close()
    say(sum(Volume.objects.using("prepared").order_by("id").values_list("pages", flat=True).iterator(chunk_size=9)))


def cursors():
    say(sum(Volume.objects.using("portable").values_list("pages", flat=True).iterator(chunk_size=7)))
    with transaction.atomic():
        say(len(list(Volume.objects.iterator(chunk_size=50))))
    with connection.cursor() as cursor:
        with cursor.copy("copy (select name from library_shelf order by name limit 2) to stdout") as copy:
            say("copy out", list(copy.rows()))
        with transaction.atomic():
            with cursor.copy("copy library_shelf (name) from stdin") as copy:
                for n in range(500):
                    copy.write_row((f"copied {n}",))
            say("copy in", Shelf.objects.filter(name__startswith="copied").count())
            transaction.set_rollback(True)


def persistent():
    """Requests one after another over connections that are kept."""
    for n in range(5):
        close_old_connections()
        say(Shelf.objects.filter(name=f"s{n}").count(), connection.connection is not None)
    with connection.cursor() as cursor:
        cursor.execute("set my.tenant = 'seven'")
    close_old_connections()
    with connection.cursor() as cursor:
        cursor.execute("show my.tenant")
        say(cursor.fetchone())
        cursor.execute("select pg_try_advisory_lock(5)")
        say("lock", cursor.fetchone())
        cursor.execute("select pg_advisory_unlock(5)")
        say("unlock", cursor.fetchone())
        cursor.execute("create temp table dj_kept (a int)")
        say("temporary table", failing(lambda: cursor.execute("select count(*) from dj_kept")))
        cursor.execute("drop table if exists dj_kept")
    # The server ends it; the health check finds out at the next request.
    close_old_connections()
    with connection.cursor() as cursor:
        cursor.execute("select 1")
    connection.close()
    say(Shelf.objects.filter(name="s1").count())


def prepared():
    shelves = Shelf.objects.using("prepared")
    for _ in range(3):
        say(sum(shelves.filter(name=f"s{n}").count() for n in range(20)))
    for n in range(300):
        with connections["prepared"].cursor() as cursor:
            cursor.execute(f"select %s::int + {n}", [1])
            n == 299 and say(cursor.fetchone())
    with transaction.atomic(using="prepared"):
        say(sum(Volume.objects.using("prepared").order_by("id").values_list("pages", flat=True).iterator(chunk_size=9)))
        shelves.create(name="prepared")
        shelves.filter(name="prepared").delete()


def at_once():
    done = []

    def work(number, alias):
        for n in range(8):
            with transaction.atomic(using=alias):
                shelf = Shelf.objects.using(alias).create(name=f"{alias} {number} {n}")
                done.append(Shelf.objects.using(alias).filter(pk=shelf.pk).count())
            close_old_connections()
        connections[alias].close()

    threads = [threading.Thread(target=work, args=(n, alias)) for n in range(4) for alias in ("default", "pooled")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say(sum(done))


def neighbour():
    """Another client of the same pool, with settings of its own: connections change hands."""
    with connection.cursor() as cursor:
        while True:
            cursor.execute("set search_path = neighbour; set my.tenant = 'neighbour'")
            cursor.execute("begin; select pg_sleep(0.003); commit")
            time.sleep(0.003)
            cursor.execute("reset all")


def main():
    for _ in range(2):
        threading.Thread(target=neighbour, daemon=True).start()
    for part in (tables, queries, transactions, errors, cursors, held_cursors, persistent, prepared, at_once):
        say("==", part.__name__)
        try:
            part()
        except Exception as error:
            say("== failed", type(error).__name__, getattr(getattr(error, "orig", error.__cause__), "sqlstate", error))
            if not connection.in_atomic_block:
                connection.close()
    with connection.cursor() as cursor:
        cursor.execute("drop table library_volume, library_shelf, django_content_type, django_migrations cascade")
    connections.close_all()
    say("== end")
    # The neighbours and the threads of the pool are left where they are.
    os._exit(0)


main()
