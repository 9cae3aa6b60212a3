"""Applications of several habits that write until they are told to stop, and say what they see.

usage: writer.py URL

Each thread has a table of its own, `w_<habit>`, and connects again whenever its connection is
closed. Lines on standard output:

  ack HABIT N           rows up to N were acknowledged
  error HABIT CODE TEXT an error with that SQLSTATE; the connection may go on
  closed HABIT CODE TEXT  the connection is closed; CODE was the last one said on it, or `nothing`
  refused HABIT TEXT    connecting failed, which the driver tells without a code

Ends after a line on standard input.
"""

import re
import sys
import tempfile
import threading
import time

import psycopg

URL = sys.argv[1]
stop = threading.Event()
printing = threading.Lock()


def say(*words):
    with printing:
        print(*(str(word).replace("\n", " ") for word in words), flush=True)


class Habit(threading.Thread):
    """One kind of application. `write` adds rows from `n` on and returns the next number."""

    pause = 0.005

    def __init__(self):
        super().__init__(daemon=True)
        self.habit = type(self).__name__.lower()
        self.table = "w_" + self.habit
        self.last_code = None
        self.last_error = None
        self.acknowledged = 0

    def run(self):
        while not stop.is_set():
            try:
                conn = psycopg.connect(URL, autocommit=True, connect_timeout=40)
            except psycopg.Error as error:
                say("refused", self.habit, error)
                time.sleep(0.05)
                continue
            self.last_code = None
            # A FATAL that arrives while the driver waits for nothing is a notice to it.
            conn.add_notice_handler(lambda diag: self.heard(diag.sqlstate))
            self.serve(conn)
            conn.close()

    def heard(self, code):
        self.last_code = code

    def serve(self, conn):
        n = None
        try:
            self.begin(conn)
        except psycopg.Error as error:
            self.on_error(conn, error)
        while not stop.is_set() and not conn.closed:
            try:
                if n is None:
                    # What was acknowledged and then lost with the server is not written again.
                    top = conn.execute(f"select coalesce(max(n), 0) from {self.table}").fetchone()[0]
                    n = max(self.acknowledged, top)
                n = self.write(conn, n)
                self.acknowledged = n
                say("ack", self.habit, n)
            except psycopg.Error as error:
                n = None
                self.on_error(conn, error)
            time.sleep(self.pause)
        if conn.closed:
            say("closed", self.habit, self.last_code or "nothing", self.last_error)

    def on_error(self, conn, error):
        if error.sqlstate is not None:
            self.heard(error.sqlstate)
            say("error", self.habit, error.sqlstate, error)
        elif not conn.closed:
            say("error", self.habit, "none", repr(error))
        self.last_error = repr(error)

    def begin(self, conn):
        pass


class Simple(Habit):
    def write(self, conn, n):
        with psycopg.ClientCursor(conn) as cursor:
            cursor.execute(f"insert into {self.table} values (%s)", (n + 1,))
        return n + 1


class Prepared(Habit):
    def write(self, conn, n):
        conn.execute(f"insert into {self.table} values (%s)", (n + 1,), prepare=True)
        return n + 1


class Transaction(Habit):
    def write(self, conn, n):
        with conn.transaction():
            conn.execute(f"insert into {self.table} values (%s)", (n + 1,))
            time.sleep(0.01)
            conn.execute(f"insert into {self.table} values (%s)", (n + 2,))
        return n + 2


class Pipeline(Habit):
    """When a connection ends inside a pipeline, psycopg 3.2 keeps the reason to itself, with or
    without a proxy. What libpq has read is in its trace."""

    def begin(self, conn):
        self.trace = tempfile.TemporaryFile()
        conn.pgconn.trace(self.trace.fileno())

    def on_error(self, conn, error):
        super().on_error(conn, error)
        if conn.closed and self.last_code is None:
            conn.pgconn.untrace()
            self.trace.seek(0)
            codes = re.findall(rb'ErrorResponse.*?C "(\w{5})"', self.trace.read())
            if codes:
                self.heard(codes[-1].decode())

    def write(self, conn, n):
        with conn.pipeline():
            for more in range(5):
                conn.execute(f"insert into {self.table} values (%s)", (n + 1 + more,))
        return n + 5


class Copy(Habit):
    def write(self, conn, n):
        with conn.cursor() as cursor, cursor.copy(f"copy {self.table} from stdin") as copy:
            for more in range(200):
                copy.write_row((n + 1 + more,))
        return n + 200


class Cursor(Habit):
    def write(self, conn, n):
        with conn.transaction(), conn.cursor("walk") as cursor:
            cursor.itersize = 50
            cursor.execute("select generate_series(1, 200)")
            for _ in cursor:
                pass
            conn.execute(f"insert into {self.table} values (%s)", (n + 1,))
        return n + 1


class Seldom(Habit):
    """Idle nearly always: a switch should be silent to it."""

    pause = 0.4

    def begin(self, conn):
        conn.execute("set application_name = 'seldom'")

    def write(self, conn, n):
        assert conn.execute("show application_name").fetchone() == ("seldom",)
        conn.execute(f"insert into {self.table} values (%s)", (n + 1,))
        return n + 1


class Listener(Habit):
    """Has state that cannot move."""

    pause = 0.1

    def begin(self, conn):
        conn.execute("listen news")

    def write(self, conn, n):
        conn.execute(f"insert into {self.table} values (%s)", (n + 1,))
        return n + 1


habits = [kind() for kind in Habit.__subclasses__()]
for habit in habits:
    habit.start()
sys.stdin.readline()
stop.set()
for habit in habits:
    habit.join(60)
