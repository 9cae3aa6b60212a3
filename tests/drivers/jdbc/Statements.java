import java.io.StringReader;
import java.io.StringWriter;
import java.net.URI;
import java.sql.*;
import java.util.*;
import java.util.concurrent.*;
import org.postgresql.PGConnection;

/**
 * What an application does with JDBC where every statement is a transaction (autocommit stays on), printed in lines
 * that are the same on every run, but for what statement mode refuses.
 *
 * <p>usage: java -cp postgresql.jar Statements.java URL
 */
public class Statements {
    static String url;

    static void say(Object... words) {
        StringJoiner line = new StringJoiner(" ");
        for (Object word : words) {
            line.add(word instanceof int[] array ? Arrays.toString(array) : String.valueOf(word));
        }
        System.out.println(line);
    }

    static Connection connect() throws SQLException {
        URI uri = URI.create(url);
        String[] login = uri.getUserInfo().split(":", 2);
        return DriverManager.getConnection(
            "jdbc:postgresql://" + uri.getHost() + ":" + uri.getPort() + uri.getPath(), login[0], login[1]);
    }

    interface Action {
        void run() throws Exception;
    }

    static String failing(Action action) {
        try {
            action.run();
        } catch (BatchUpdateException e) {
            return e.getSQLState() + " " + Arrays.toString(e.getUpdateCounts());
        } catch (SQLException e) {
            return e.getSQLState();
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

    static void statements() throws Exception {
        try (Connection c = connect()) {
            run(c, "create table if not exists items (id int primary key, name text)");
            run(c, "truncate items");
            try (PreparedStatement insert = c.prepareStatement("insert into items values (?, ?)")) {
                for (int n = 1; n < 50; n++) {
                    insert.setInt(1, n);
                    insert.setString(2, "n" + n);
                    insert.addBatch();
                }
                say(insert.executeBatch());
                insert.setInt(1, 100);
                insert.setString(2, "a");
                insert.addBatch();
                insert.setInt(1, 1);
                insert.addBatch();
                // In autocommit each batch is one transaction.
                say(failing(insert::executeBatch));
            }
            say(one(c, "select count(*) from items"));
            for (String wrong : List.of("insert into items values (1)", "select 1/0", "selec")) {
                say(failing(() -> run(c, wrong)), failing(() -> one(c, wrong)));
            }
            say(one(c, "select 'usable'"));
        }
    }

    static void prepared() throws Exception {
        try (Connection c = connect(); Connection other = connect()) {
            c.unwrap(PGConnection.class).setPrepareThreshold(1);
            other.unwrap(PGConnection.class).setPrepareThreshold(1);
            for (int n = 0; n < 300; n++) {
                // More than a connection of the pool keeps.
                Object found = one(c, "select " + n + " + ?::int", n), there = one(other, "select " + n + " - ?::int", n);
                if (!found.equals(2 * n) || !there.equals(0)) {
                    say("wrong", n, found, there);
                }
            }
            for (int n = 0; n < 8; n++) {
                say(one(c, "select ?::text || name from items where id = ?", "x", n));
            }
        }
    }

    static void copying() throws Exception {
        try (Connection c = connect()) {
            var copy = c.unwrap(PGConnection.class).getCopyAPI();
            StringBuilder lines = new StringBuilder();
            for (int n = 1000; n < 3000; n++) {
                lines.append(n).append("\tname ").append(n).append('\n');
            }
            say(copy.copyIn("copy items from stdin", new StringReader(lines.toString())));
            StringWriter out = new StringWriter();
            say(copy.copyOut("copy items to stdout (format csv)", out), out.toString().length());
            say(failing(() -> copy.copyIn("copy items from stdin", new StringReader("1\tagain\n"))));
            say(one(c, "select count(*) from items"));
        }
    }

    static void settings() throws Exception {
        try (Connection c = connect(); Connection other = connect()) {
            run(c, "set statement_timeout = '11s'");
            run(c, "set search_path = pg_catalog, public");
            run(other, "set search_path = public");
            for (int n = 0; n < 5; n++) {
                say(one(c, "show search_path"), one(other, "show search_path"));
            }
            say(one(c, "show statement_timeout"), one(other, "show statement_timeout"));
            run(c, "reset all");
            say(one(c, "show statement_timeout"));
        }
    }

    static void cancels() throws Exception {
        try (Connection c = connect(); Statement statement = c.createStatement()) {
            statement.setQueryTimeout(1);
            say(failing(() -> statement.execute("select pg_sleep(30)")));
            say(one(c, "select 'usable'"));
        }
    }

    static void many() throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(20);
        List<Future<Integer>> sums = new ArrayList<>();
        for (int n = 0; n < 20; n++) {
            int own = n;
            sums.add(threads.submit(() -> {
                int sum = 0;
                try (Connection c = connect()) {
                    for (int m = 0; m < 10; m++) {
                        sum += (int) one(c, "select ?::int + ?::int", own, m);
                    }
                }
                return sum;
            }));
        }
        int sum = 0;
        for (var one : sums) {
            sum += one.get();
        }
        threads.shutdown();
        say(sum);
    }

    static void transactions() throws Exception {
        try (Connection c = connect()) {
            c.setAutoCommit(false);
            run(c, "insert into items values (9000)");
            c.commit();
            say("committed");
        } catch (SQLException e) {
            say("refused");
        }
        try (Connection c = connect()) {
            say("inserted", one(c, "select count(*) from items where id = 9000"));
        }
    }

    static void temporary() throws Exception {
        try (Connection c = connect()) {
            run(c, "create temp table passing (n int)");
            say(failing(() -> run(c, "insert into passing values (1)")));
        }
    }

    public static void main(String[] arguments) throws Exception {
        url = arguments[0];
        Map<String, Action> parts = new LinkedHashMap<>();
        parts.put("statements", Statements::statements);
        parts.put("prepared", Statements::prepared);
        parts.put("copying", Statements::copying);
        parts.put("settings", Statements::settings);
        parts.put("cancels", Statements::cancels);
        parts.put("many", Statements::many);
        parts.put("transactions", Statements::transactions);
        parts.put("temporary", Statements::temporary);
        for (var part : parts.entrySet()) {
            say("==", part.getKey());
            try {
                part.getValue().run();
            } catch (Exception e) {
                say("== failed", e.getClass().getSimpleName(), e instanceof SQLException x ? x.getSQLState() : "", e.getMessage());
            }
        }
        say("== end");
    }
}
