import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.net.URI;
import java.sql.*;
import java.time.*;
import java.util.*;
import java.util.concurrent.*;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;
import org.postgresql.util.PSQLException;

/**
 * What an application does with JDBC, printed in lines that are the same on every run.
 *
 * <p>usage: java -cp postgresql.jar Program.java URL [ours MIRROR-URL]
 *
 * <p>With autocommit off the driver puts BEGIN in front of a statement in one batch, and it
 * switches to named statements on the server after a few executions.
 */
public class Program {
    static String url;

    static void say(Object... words) {
        StringJoiner line = new StringJoiner(" ");
        for (Object word : words) {
            line.add(word instanceof Object[] array ? Arrays.deepToString(array)
                : word instanceof int[] array ? Arrays.toString(array) : String.valueOf(word));
        }
        System.out.println(line);
    }

    static Connection connect(String url, String... properties) throws SQLException {
        URI uri = URI.create(url);
        String[] login = uri.getUserInfo().split(":", 2);
        Properties all = new Properties();
        all.setProperty("user", login[0]);
        all.setProperty("password", login[1]);
        for (int i = 0; i < properties.length; i += 2) {
            all.setProperty(properties[i], properties[i + 1]);
        }
        String database = uri.getPath();
        if (all.containsKey("database")) {
            database = "/" + all.remove("database");
        }
        return DriverManager.getConnection("jdbc:postgresql://" + uri.getHost() + ":" + uri.getPort() + database, all);
    }

    static Connection connect() throws SQLException {
        return connect(url);
    }

    interface Action {
        void run() throws Exception;
    }

    static String failing(Action action) {
        try {
            action.run();
        } catch (BatchUpdateException e) {
            return e.getSQLState() + " " + Arrays.toString(e.getUpdateCounts()) + " " + e.getCause().getMessage();
        } catch (PSQLException e) {
            var m = e.getServerErrorMessage();
            return m == null ? e.getSQLState() + " " + e.getMessage()
                : e.getSQLState() + " " + m.getSeverity() + " " + m.getMessage() + " " + m.getDetail() + " " + m.getHint() + " " + m.getPosition() + " " + m.getConstraint() + " " + m.getTable();
        } catch (Exception e) {
            return e.toString();
        }
        return "NO ERROR";
    }

    static Object one(Connection connection, String sql, Object... parameters) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int i = 0; i < parameters.length; i++) {
                statement.setObject(i + 1, parameters[i]);
            }
            try (ResultSet rows = statement.executeQuery()) {
                return rows.next() ? rows.getObject(1) : "NO ROW";
            }
        }
    }

    static void run(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    static void startUp() throws Exception {
        try (Connection c = connect()) {
            var meta = c.getMetaData();
            say(meta.getDatabaseProductName(), meta.getDatabaseMajorVersion(), meta.getUserName(), c.getCatalog(), c.getSchema());
            say("pid", one(c, "select pg_backend_pid()").equals(c.unwrap(PGConnection.class).getBackendPID()));
            var parameters = new TreeMap<>(c.unwrap(PGConnection.class).getParameterStatuses());
            say(parameters.keySet(), parameters.get("TimeZone"), parameters.get("DateStyle"));
        }
        try (Connection c = connect(url, "options", "-c search_path=pg_catalog -c my.tenant=7", "ApplicationName", "till", "currentSchema", "public", "sslmode", "prefer")) {
            for (String name : List.of("my.tenant", "application_name", "search_path")) {
                say(name, one(c, "select current_setting(?)", name));
            }
            c.setClientInfo("ApplicationName", "renamed");
            say(one(c, "show application_name"), c.isValid(5));
        }
        try (Connection c = connect(url, "readOnly", "true", "readOnlyMode", "always", "assumeMinServerVersion", "15", "targetServerType", "primary")) {
            say(failing(() -> run(c, "create table x (a int)")), c.isReadOnly());
        }
        for (String[] change : new String[][] {{"database", "nowhere"}, {"password", "wrong"}, {"user", "nobody"}, {"options", "-c no_such=1"}, {"sslmode", "require"}}) {
            String text = failing(() -> connect(url, change));
            say(change[0], text);
        }
    }

    static void values() throws Exception {
        for (String mode : List.of("extended", "simple", "extendedForPrepared", "extendedCacheEverything")) {
            try (Connection c = connect(url, "preferQueryMode", mode, "prepareThreshold", "2", "binaryTransfer", "true")) {
                for (int turn = 0; turn < 4; turn++) {
                    try (PreparedStatement s = c.prepareStatement(
                        "select cast(? as bool), cast(? as int2), cast(? as int4), cast(? as int8), cast(? as float4), cast(? as float8), cast(? as numeric), cast(? as text), "
                        + "cast(? as bytea), cast(? as date), cast(? as timestamptz), cast(? as uuid), cast(? as int4[]), cast(? as jsonb), cast(? as text)")) {
                        s.setBoolean(1, true);
                        s.setShort(2, (short) -32768);
                        s.setInt(3, Integer.MAX_VALUE);
                        s.setLong(4, Long.MIN_VALUE);
                        s.setFloat(5, 1.5f);
                        s.setDouble(6, Double.NEGATIVE_INFINITY);
                        s.setBigDecimal(7, new BigDecimal("12345678901234567890.123456789"));
                        s.setString(8, "ünï 🐘 '\\ ?");
                        s.setObject(10, LocalDate.of(2024, 2, 29));
                        s.setObject(11, OffsetDateTime.of(2020, 6, 1, 0, 0, 0, 0, ZoneOffset.UTC));
                        s.setObject(12, new UUID(0, 12345).toString(), Types.OTHER);
                        if (mode.equals("simple")) {
                            // This driver cannot write these into the text of a statement.
                            s.setObject(9, "\\x000102ff", Types.OTHER);
                            s.setObject(13, "{1,NULL,3}", Types.OTHER);
                        } else {
                            s.setBytes(9, new byte[] {0, 1, 2, -1});
                            s.setArray(13, c.createArrayOf("int4", new Object[] {1, null, 3}));
                        }
                        s.setObject(14, "{\"a\": [1, null]}", Types.OTHER);
                        s.setNull(15, Types.VARCHAR);
                        try (ResultSet r = s.executeQuery()) {
                            r.next();
                            StringJoiner line = new StringJoiner("|");
                            for (int i = 1; i <= 15; i++) {
                                line.add(i == 9 ? Arrays.toString(r.getBytes(i)) : r.getString(i));
                            }
                            say(mode, turn, line, r.getObject(10, LocalDate.class), r.getObject(11, OffsetDateTime.class), (Object[]) r.getArray(13).getArray());
                        }
                    }
                }
                long sum = 0;
                try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("select generate_series(1, 200000)")) {
                    while (r.next()) {
                        sum += r.getInt(1);
                    }
                }
                String big = "x".repeat(5_000_000);
                say(mode, sum, big.equals(one(c, "select ?::text", big)));
                try (Statement s = c.createStatement()) {
                    boolean isRows = s.execute("select 1; create temp table tt (a int); insert into tt values (1), (2); select 'last'");
                    while (isRows || s.getUpdateCount() >= 0) {
                        if (isRows) {
                            s.getResultSet().next();
                            say("rows", s.getResultSet().getString(1));
                        } else {
                            say("count", s.getUpdateCount());
                        }
                        isRows = s.getMoreResults();
                    }
                }
            }
        }
    }

    static void statements() throws Exception {
        try (Connection c = connect(url, "prepareThreshold", "3")) {
            run(c, "drop table if exists parts; create table parts (id serial primary key, name text unique, n int check (n > 0))");
            try (PreparedStatement s = c.prepareStatement("insert into parts (name, n) values (?, ?)", Statement.RETURN_GENERATED_KEYS)) {
                for (int n = 1; n <= 10; n++) {
                    s.setString(1, "p" + n);
                    s.setInt(2, n);
                    s.executeUpdate();
                    try (ResultSet keys = s.getGeneratedKeys()) {
                        keys.next();
                        say(keys.getInt("id"), keys.getString("name"));
                    }
                }
            }
            for (String[] rewrite : new String[][] {{"reWriteBatchedInserts", "false"}, {"reWriteBatchedInserts", "true"}}) {
                try (Connection b = connect(url, rewrite); PreparedStatement s = b.prepareStatement("insert into parts (name, n) values (?, ?)")) {
                    b.setAutoCommit(false);
                    for (int n = 1; n <= 3000; n++) {
                        s.setString(1, rewrite[1] + n);
                        s.setInt(2, n);
                        s.addBatch();
                    }
                    say("batch", s.executeBatch().length);
                    b.commit();
                    s.setString(1, "fine" + rewrite[1]);
                    s.setInt(2, 1);
                    s.addBatch();
                    s.setString(1, "p1");
                    s.addBatch();
                    say("batch", failing(s::executeBatch));
                    b.rollback();
                }
            }
            say(one(c, "select count(*) from parts"));
            for (String sql : List.of("insert into parts (name) values ('p1')", "insert into parts (name, n) values ('q', 0)", "selec 1", "select * from nowhere", "select 1/0", "select 'x'::int")) {
                say(failing(() -> run(c, sql)));
                say(failing(() -> one(c, sql)));
            }
            try (PreparedStatement s = c.prepareStatement("select * from parts where id = ?")) {
                for (int n = 0; n < 6; n++) {
                    s.setInt(1, 1);
                    s.executeQuery().close();
                }
                c.setAutoCommit(false);
                s.executeQuery().close();
                run(c, "alter table parts add extra int");
                say("changed", failing(() -> s.executeQuery()));
                c.rollback();
                c.setAutoCommit(true);
                run(c, "alter table parts add extra int");
                // Outside of a transaction the driver prepares it anew.
                for (String change : new String[] {"add more int default 7", "drop column more"}) {
                    run(c, "alter table parts " + change);
                    for (int n = 0; n < 6; n++) {
                        s.setInt(1, 1);
                        try (ResultSet rows = s.executeQuery()) {
                            say(change, rows.next(), rows.getMetaData().getColumnCount(), rows.getString(2));
                        }
                    }
                }
            }
            try (Statement s = c.createStatement()) {
                s.execute("do $$ begin raise notice 'hello'; raise warning 'careful'; end $$");
                say(s.getWarnings().getSQLState(), s.getWarnings().getMessage(), s.getWarnings().getNextWarning().getMessage());
            }
            try (CallableStatement call = c.prepareCall("{ ? = call length(?) }")) {
                call.registerOutParameter(1, Types.INTEGER);
                call.setString(2, "four");
                call.execute();
                say("call", call.getInt(1));
            }
            try (ResultSet r = c.getMetaData().getColumns(null, "public", "parts", null)) {
                while (r.next()) {
                    say(r.getString("COLUMN_NAME"), r.getString("TYPE_NAME"), r.getString("IS_NULLABLE"));
                }
            }
        }
    }

    static void transactions() throws Exception {
        try (Connection c = connect()) {
            c.setAutoCommit(false);
            Object before = one(c, "select count(*) from parts");
            run(c, "insert into parts (name) values ('kept')");
            Savepoint a = c.setSavepoint("a");
            say(failing(() -> run(c, "insert into parts (name) values ('kept')")));
            say(failing(() -> run(c, "select 1")));
            c.rollback(a);
            c.releaseSavepoint(a);
            c.commit();
            run(c, "delete from parts");
            c.rollback();
            say((Long) one(c, "select count(*) from parts") - (Long) before);
            run(c, "delete from parts where name = 'kept'");
            c.commit();
            c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            c.setReadOnly(true);
            say(one(c, "show transaction_isolation"), failing(() -> run(c, "delete from parts")));
            c.rollback();
            c.setReadOnly(false);
            failing(() -> run(c, "select 1/0"));
            say("commit", failing(c::commit));
            c.setAutoCommit(true);
        }
        try (Connection c = connect(url, "autosave", "always")) {
            c.setAutoCommit(false);
            run(c, "insert into parts (name) values ('saved')");
            say(failing(() -> run(c, "select 1/0")));
            say("goes on", one(c, "select count(*) from parts where name = 'saved'"));
            c.rollback();
        }
    }

    static void copying() throws Exception {
        try (Connection c = connect()) {
            CopyManager copy = c.unwrap(PGConnection.class).getCopyAPI();
            run(c, "drop table if exists c; create table c (id int, name text)");
            StringBuilder lines = new StringBuilder();
            for (int n = 0; n < 20000; n++) {
                lines.append(n).append("\tname ").append(n).append('\n');
            }
            say(copy.copyIn("copy c from stdin", new StringReader(lines.toString())));
            StringWriter out = new StringWriter();
            say(copy.copyOut("copy c to stdout (format csv)", out), out.toString().length());
            ByteArrayOutputStream bytes = new ByteArrayOutputStream();
            say(copy.copyOut("copy c to stdout (format binary)", bytes), bytes.size());
            say(copy.copyIn("copy c from stdin (format binary)", new ByteArrayInputStream(bytes.toByteArray())));
            say(failing(() -> copy.copyIn("copy c from stdin", new StringReader("1\ta\nx\tb\n"))));
            var given = copy.copyIn("copy c from stdin");
            given.writeToCopy("1\ta\n".getBytes(), 0, 4);
            given.cancelCopy();
            say(one(c, "select count(*) from c"));
        }
    }

    static void notifications() throws Exception {
        try (Connection hears = connect(); Connection tells = connect()) {
            run(hears, "listen news");
            run(tells, "notify news, 'one'");
            one(tells, "select pg_notify('news', ?)::text", "x".repeat(7000));
            int seen = 0;
            while (seen < 2) {
                var heard = hears.unwrap(PGConnection.class).getNotifications(5_000);
                if (heard.length == 0) {
                    say("silence");
                    break;
                }
                for (var n : heard) {
                    say(n.getName(), n.getParameter().length());
                    say("pid", n.getPID() == tells.unwrap(PGConnection.class).getBackendPID());
                    seen++;
                }
            }
        }
    }

    static void cancelling() throws Exception {
        try (Connection c = connect(); Connection watcher = connect(); Statement s = c.createStatement()) {
            ExecutorService other = Executors.newSingleThreadExecutor();
            // By its text: the process is another one each time where connections are shared.
            String active = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database() and query = 'select pg_sleep(60)'";
            Future<?> cancel = other.submit(() -> {
                while (!Long.valueOf(1).equals(one(watcher, active))) {
                    Thread.sleep(10);
                }
                s.cancel();
                return null;
            });
            say(failing(() -> s.execute("select pg_sleep(60)")));
            cancel.get();
            other.shutdown();
            say(one(c, "select 1"));
            s.setQueryTimeout(1);
            say(failing(() -> s.execute("select pg_sleep(60)")));
            c.setNetworkTimeout(Executors.newSingleThreadExecutor(r -> {
                Thread t = new Thread(r);
                t.setDaemon(true);
                return t;
            }), 60_000);
            say(one(c, "select 2"));
        }
    }

    static void cursors() throws Exception {
        try (Connection c = connect()) {
            c.setAutoCommit(false);
            try (PreparedStatement s = c.prepareStatement("select generate_series(1, ?)")) {
                for (int turn = 0; turn < 7; turn++) {
                    s.setFetchSize(100);
                    s.setInt(1, 1000);
                    long sum = 0;
                    try (ResultSet r = s.executeQuery()) {
                        while (r.next()) {
                            sum += r.getInt(1);
                        }
                    }
                    say(sum);
                    try (ResultSet r = s.executeQuery()) {
                        r.next();
                        say("left early", r.getInt(1));
                    }
                }
            }
            c.commit();
            try (Statement s = c.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE);
                 ResultSet r = s.executeQuery("select id, name from parts where id < 6 order by id")) {
                r.absolute(3);
                r.updateString("name", "changed");
                r.updateRow();
                r.last();
                say(r.getInt(1), one(c, "select name from parts where id = 3"));
            }
            c.rollback();
            run(c, "create function pg_temp.open_it() returns refcursor language plpgsql as $$ declare c refcursor := 'it'; begin open c for select 1 union all select 2; return c; end $$");
            try (CallableStatement call = c.prepareCall("{ ? = call pg_temp.open_it() }")) {
                call.registerOutParameter(1, Types.OTHER);
                call.execute();
                try (ResultSet r = (ResultSet) call.getObject(1)) {
                    r.next();
                    say("refcursor", r.getInt(1));
                }
            }
            c.rollback();
        }
    }

    static void largeObjects() throws Exception {
        try (Connection c = connect()) {
            c.setAutoCommit(false);
            LargeObjectManager manager = c.unwrap(PGConnection.class).getLargeObjectAPI();
            long oid = manager.createLO(LargeObjectManager.READWRITE);
            byte[] content = new byte[1_000_000];
            new Random(1).nextBytes(content);
            try (LargeObject object = manager.open(oid, LargeObjectManager.READWRITE)) {
                object.write(content);
                object.seek(10);
                object.write("here".getBytes());
                object.seek(8);
                say(Arrays.equals(object.read(2), Arrays.copyOfRange(content, 8, 10)), new String(object.read(4)), object.size());
                object.truncate(100);
                say(object.size());
            }
            c.commit();
            manager.delete(oid);
            c.commit();
            say(failing(() -> manager.open(oid, LargeObjectManager.READ)).startsWith("42704"));
            c.rollback();
        }
    }

    static void beyondTheCache() throws Exception {
        for (String size : List.of("1000", "5")) {
            try (Connection c = connect(url, "prepareThreshold", "1", "preparedStatementCacheQueries", size)) {
                for (int turn = 0; turn < 3; turn++) {
                    c.setAutoCommit(turn == 2);
                    long sum = 0;
                    for (int n = 0; n < 400; n++) {
                        sum += ((Number) one(c, "select ?::int + " + n, 1)).longValue();
                    }
                    say("many", size, sum);
                    if (turn < 2) {
                        say(failing(() -> one(c, "select 1 / ?::int", 0)));
                        c.rollback();
                    }
                }
            }
        }
    }

    /** Cursors that outlive their transactions. */
    static void heldCursors() throws Exception {
        try (Connection c = connect()) {
            c.setAutoCommit(false);
            run(c, "declare walk cursor with hold for select generate_series(1, 10)");
            c.commit();
            say("held", one(c, "fetch 3 from walk"), one(c, "fetch absolute 7 from walk"));
            c.commit();
        }
    }

    static void many() throws Exception {
        List<Connection> all = new ArrayList<>();
        for (int n = 0; n < 20; n++) {
            all.add(connect());
        }
        long sum = 0;
        for (Connection c : all) {
            c.setAutoCommit(false);
            sum += ((Number) one(c, "select 1")).longValue();
        }
        for (Connection c : all) {
            c.commit();
            c.close();
        }
        say(sum);
        try (Connection c = connect()) {
            run(c, "drop table parts, c");
        }
    }

    static void ours(String mirror) throws Exception {
        for (String mode : List.of("extended", "simple", "extendedForPrepared")) {
            for (boolean autocommit : new boolean[] {true, false}) {
                try (Connection c = connect(url, "preferQueryMode", mode, "prepareThreshold", "2")) {
                    c.setAutoCommit(autocommit);
                    for (int turn = 0; turn < 4; turn++) {
                        try (PreparedStatement s = c.prepareStatement("SHOW MIRROR STATUS"); ResultSet r = s.executeQuery()) {
                            r.next();
                            say(mode, autocommit, r.getMetaData().getColumnName(1), r.getString("mirror"), r.getString("status"), r.getString("source_database"), r.getLong("bytes_total") >= 0);
                        }
                        say(one(c, "select ?::int", 5));
                        if (!autocommit) {
                            c.commit();
                        }
                    }
                    if (!autocommit) {
                        // Ours first in its transaction: BEGIN is in front of it in the same batch.
                        say(one(c, "SHOW DATABASE MIRROR STATUS FOR cloud"));
                        run(c, "create temp table undone (a int)");
                        c.rollback();
                        say(one(c, "select to_regclass('undone') is null"));
                        c.commit();
                        say(failing(() -> one(c, "SHOW DATABASE MIRROR STATUS FOR nothing")));
                        c.rollback();
                    }
                    say(failing(() -> run(c, "DROP MIRROR cloud")));
                    if (!autocommit) {
                        c.rollback();
                    }
                    say(one(c, "select 7"));
                    if (!autocommit) {
                        c.commit();
                    }
                }
            }
        }
        try (Connection c = connect(mirror)) {
            say("console", one(c, "SHOW MIRROR STATUS"), failing(() -> one(c, "select 1")));
        }
    }

    /** Another client of the same pool, with settings of its own: connections change hands. */
    static void neighbour() {
        try (Connection c = connect()) {
            while (true) {
                run(c, "set search_path = neighbour; set my.tenant = 'neighbour'");
                c.setAutoCommit(false);
                one(c, "select pg_sleep(0.003)::text");
                c.commit();
                c.setAutoCommit(true);
                Thread.sleep(3);
                run(c, "reset all");
            }
        } catch (Exception e) {
            say("== failed", "neighbour", e);
        }
    }

    public static void main(String[] arguments) throws Exception {
        url = arguments[0];
        if (arguments.length > 1 && arguments[1].equals("ours")) {
            ours(arguments[2]);
            return;
        }
        for (int n = 0; n < 2; n++) {
            Thread neighbour = new Thread(Program::neighbour);
            neighbour.setDaemon(true);
            neighbour.start();
        }
        Map<String, Action> parts = new LinkedHashMap<>();
        parts.put("startUp", Program::startUp);
        parts.put("values", Program::values);
        parts.put("statements", Program::statements);
        parts.put("transactions", Program::transactions);
        parts.put("copying", Program::copying);
        parts.put("notifications", Program::notifications);
        parts.put("cancelling", Program::cancelling);
        parts.put("cursors", Program::cursors);
        parts.put("largeObjects", Program::largeObjects);
        parts.put("beyondTheCache", Program::beyondTheCache);
        parts.put("heldCursors", Program::heldCursors);
        parts.put("many", Program::many);
        for (var part : parts.entrySet()) {
            say("==", part.getKey());
            try {
                part.getValue().run();
            } catch (Exception e) {
                say("== failed", e.getClass().getSimpleName(), e instanceof SQLException x ? x.getSQLState() : "", e.getMessage());
            }
        }
        say("== end");
        // The neighbours are left where they are.
        Runtime.getRuntime().halt(0);
    }
}
