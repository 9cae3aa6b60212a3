// What an application does with pgx 5, printed in lines that are the same on every run.
//
// usage: pgx [statements] URL
//
// With the word, every statement is a transaction.
//
// By default pgx prepares every statement under a name of its own and keeps 512 of them.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"drivers/say"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

var (
	url = os.Args[len(os.Args)-1]
	ctx = context.Background()
)

func connect(change ...func(*pgx.ConnConfig)) *pgx.Conn {
	config, err := pgx.ParseConfig(url)
	say.Must(err)
	for _, one := range change {
		one(config)
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	say.Must(err)
	return conn
}

func failing(err error) string {
	var server *pgconn.PgError
	switch {
	case err == nil:
		return "NO ERROR"
	case errors.As(err, &server):
		return fmt.Sprint(server.Code, " ", server.Severity, " ", server.Message, " ", server.Detail, " ", server.Position, " ", server.ConstraintName)
	default:
		return "no error of the server"
	}
}

func one[T any](on interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}, text string, arguments ...any) T {
	var value T
	say.Must(on.QueryRow(ctx, text, arguments...).Scan(&value))
	return value
}

func exec(on interface {
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
}, text string, arguments ...any) string {
	tag, err := on.Exec(ctx, text, arguments...)
	if err != nil {
		return failing(err)
	}
	return tag.String()
}

func startUp() {
	conn := connect(func(c *pgx.ConnConfig) {
		c.RuntimeParams["search_path"] = "pg_catalog"
		c.RuntimeParams["application_name"] = "till"
		c.RuntimeParams["my.tenant"] = "7"
		c.RuntimeParams["statement_timeout"] = "4321"
	})
	for _, name := range []string{"search_path", "application_name", "my.tenant", "statement_timeout"} {
		say.Line(name, one[string](conn, "select current_setting($1)", name))
	}
	say.Line("pid", one[int](conn, "select pg_backend_pid()") == int(conn.PgConn().PID()))
	say.Must(conn.Close(ctx))
	for _, change := range []func(*pgx.ConnConfig){
		func(c *pgx.ConnConfig) { c.Database = "nowhere" },
		func(c *pgx.ConnConfig) { c.Password = "wrong" },
		func(c *pgx.ConnConfig) { c.RuntimeParams["no_such"] = "1" },
	} {
		config, _ := pgx.ParseConfig(url)
		change(config)
		_, err := pgx.ConnectConfig(ctx, config)
		say.Line(failing(err))
	}
}

func modes() {
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		conn := connect(func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = mode })
		say.Line("mode", mode)
		for turn := 0; turn < 3; turn++ {
			var n int
			var text string
			var at time.Time
			var list []int32
			say.Must(conn.QueryRow(ctx, "select $1::int4 + 1, $2::text, $3::timestamptz, $4::int4[]", 41, "ünï '", time.Unix(0, 0), []int32{1, 2}).Scan(&n, &text, &at, &list))
			say.Line(n, text, at.UTC(), list)
		}
		rows, err := conn.Query(ctx, "select generate_series(1, $1::int4)", 50000)
		say.Must(err)
		numbers, err := pgx.CollectRows(rows, pgx.RowTo[int])
		say.Must(err)
		say.Line(len(numbers))
		say.Line(exec(conn, "select 1 / $1::int4", 0), exec(conn, "selec 1"), exec(conn, "select 1"))
		big := strings.Repeat("x", 3_000_000)
		say.Line(one[string](conn, "select $1::text", big) == big)
		say.Must(conn.Close(ctx))
	}
}

func statements() {
	conn := connect()
	exec(conn, "drop table if exists gx_things")
	say.Line(exec(conn, "create table gx_things (id serial primary key, name text unique, n int check (n > 0))"))
	for n := 1; n <= 20; n++ {
		exec(conn, "insert into gx_things (name, n) values ($1, $2)", fmt.Sprint("t", n), n)
	}
	for _, text := range []string{
		"insert into gx_things (name) values ('t1')", "insert into gx_things (name, n) values ('q', 0)",
		"select * from nowhere", "select 'x'::int",
	} {
		say.Line(exec(conn, text))
	}
	_, err := conn.Prepare(ctx, "mine", "select name from gx_things where id = $1")
	say.Must(err)
	say.Line(one[string](conn, "mine", 3), one[string](conn, "mine", 4))
	say.Must(conn.Deallocate(ctx, "mine"))
	say.Line(exec(conn, "mine", 3))
	say.Must(conn.Close(ctx))
}

// A cached statement whose result changes under it.
func changed() {
	conn := connect()
	tx, err := conn.Begin(ctx)
	say.Must(err)
	say.Line(exec(tx, "select * from gx_things where id = $1", 1))
	exec(tx, "alter table gx_things add extra int")
	say.Line(exec(tx, "select * from gx_things where id = $1", 1))
	say.Must(tx.Rollback(ctx))
	exec(conn, "alter table gx_things add extra int")
	say.Must(conn.DeallocateAll(ctx))
	say.Line(exec(conn, "select * from gx_things where id = $1", 1))
	say.Must(conn.Close(ctx))
}

func transactions() {
	conn := connect()
	count := func() int { return one[int](conn, "select count(*) from gx_things") }
	before := count()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.Serializable})
	say.Must(err)
	say.Line(exec(tx, "insert into gx_things (name) values ('outer')"), one[string](tx, "show transaction_isolation"))
	inner, err := tx.Begin(ctx)
	say.Must(err)
	say.Line(exec(inner, "insert into gx_things (name) values ('outer')"), exec(inner, "select 1"))
	say.Must(inner.Rollback(ctx))
	say.Must(tx.Commit(ctx))
	say.Line(count() - before)
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		exec(tx, "delete from gx_things")
		return errors.New("mine")
	})
	say.Line(err, count()-before)
	tx, err = conn.Begin(ctx)
	say.Must(err)
	say.Line(exec(tx, "select 1/0"))
	say.Line(tx.Commit(ctx))
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		say.Line(exec(tx, "delete from gx_things"))
		return nil
	})
	say.Line(err)
	exec(conn, "delete from gx_things where name = 'outer'")
	say.Must(conn.Close(ctx))
}

func batches() {
	conn := connect()
	for turn := 0; turn < 2; turn++ {
		batch := &pgx.Batch{}
		for n := 0; n < 300; n++ {
			batch.Queue(fmt.Sprintf("select $1::int4 + %d", n), turn)
		}
		sum := 0
		results := conn.SendBatch(ctx, batch)
		for n := 0; n < 300; n++ {
			var value int
			say.Must(results.QueryRow().Scan(&value))
			sum += value
		}
		say.Must(results.Close())
		say.Line("batch", sum)
	}
	for broken := 0; broken < 3; broken++ {
		batch := &pgx.Batch{}
		for n := 0; n < 3; n++ {
			batch.Queue("insert into gx_things (name, n) values ($1, $2)", fmt.Sprint("batch", broken, n), n+1)
			if n == broken {
				batch.Queue("select 1 / $1::int4", 0)
			}
		}
		results := conn.SendBatch(ctx, batch)
		for n := 0; n < 4; n++ {
			_, err := results.Exec()
			say.Line(broken, n, failing(err))
		}
		say.Line(failing(results.Close()), one[int](conn, "select count(*) from gx_things where name like 'batch%'"))
	}
	// Statements that are not prepared, and a pipeline by hand with several synchronisations.
	batch := &pgx.Batch{}
	batch.Queue("begin")
	batch.Queue("insert into gx_things (name) values ('piped')")
	batch.Queue("rollback")
	say.Must(conn.SendBatch(ctx, batch).Close())
	pipeline := conn.PgConn().StartPipeline(ctx)
	for n := 0; n < 4; n++ {
		pipeline.SendPrepare(fmt.Sprint("piped", n), "select 1 / $1::int4", nil)
		pipeline.SendQueryPrepared(fmt.Sprint("piped", n), [][]byte{[]byte(fmt.Sprint(n % 2))}, nil, nil)
		say.Must(pipeline.Sync())
	}
	for ended := 0; ended < 4; {
		results, err := pipeline.GetResults()
		switch found := results.(type) {
		case *pgconn.ResultReader:
			read := found.Read()
			say.Line("rows", len(read.Rows), failing(read.Err))
		case *pgconn.StatementDescription:
			say.Line("prepared", found.Name)
		case *pgconn.PipelineSync:
			ended++
			say.Line("synchronised")
		default:
			say.Line(failing(err))
		}
	}
	say.Must(pipeline.Close())
	say.Line(one[int](conn, "select 1"))
	say.Must(conn.Close(ctx))
}

func beyondTheCache() {
	for _, capacity := range []int{1000, 7} {
		conn := connect(func(c *pgx.ConnConfig) { c.StatementCacheCapacity = capacity })
		for turn := 0; turn < 2; turn++ {
			sum := 0
			for n := 0; n < 400; n++ {
				sum += one[int](conn, fmt.Sprintf("select $1::int4 + %d", n), 1)
			}
			say.Line("many", capacity, sum)
		}
		say.Must(conn.Close(ctx))
	}
}

func manyInOneTransaction() {
	for _, capacity := range []int{1000, 7} {
		conn := connect(func(c *pgx.ConnConfig) { c.StatementCacheCapacity = capacity })
		tx, err := conn.Begin(ctx)
		say.Must(err)
		sum := 0
		for n := 0; n < 300; n++ {
			sum += one[int](tx, fmt.Sprintf("select $1::int4 + %d", n), 2)
		}
		say.Line("in one transaction", sum)
		say.Must(tx.Commit(ctx))
		say.Must(conn.Close(ctx))
	}
}

func copying() {
	conn := connect()
	rows := make([][]any, 20000)
	for n := range rows {
		rows[n] = []any{n + 1, fmt.Sprint("copied ", n)}
	}
	copied, err := conn.CopyFrom(ctx, pgx.Identifier{"gx_things"}, []string{"n", "name"}, pgx.CopyFromRows(rows))
	say.Line(copied, err)
	var out bytes.Buffer
	tag, err := conn.PgConn().CopyTo(ctx, &out, "copy (select n, name from gx_things order by id) to stdout")
	say.Line(tag, err, out.Len())
	_, err = conn.CopyFrom(ctx, pgx.Identifier{"gx_things"}, []string{"n", "name"}, pgx.CopyFromRows([][]any{{1, "new"}, {0, "wrong"}}))
	say.Line(failing(err))
	tag, err = conn.PgConn().CopyFrom(ctx, strings.NewReader("1\ta\nx\tb\n"), "copy gx_things (n, name) from stdin")
	say.Line(tag, failing(err))
	_, err = conn.CopyFrom(ctx, pgx.Identifier{"gx_things"}, []string{"n"}, pgx.CopyFromFunc(func() ([]any, error) { return nil, errors.New("mine") }))
	say.Line(failing(err))
	say.Line(exec(conn, "delete from gx_things where name like 'copied%'"))
	say.Must(conn.Close(ctx))
}

func cursors() {
	conn := connect()
	tx, err := conn.Begin(ctx)
	say.Must(err)
	exec(tx, "declare walk cursor for select generate_series(1, 100)")
	say.Line(one[int](tx, "fetch absolute 42 from walk"), exec(tx, "fetch 7 from walk"))
	exec(tx, "declare held cursor with hold for select generate_series(1, 100)")
	say.Must(tx.Commit(ctx))
	say.Line("held", exec(conn, "fetch 3 from held"), one[int](conn, "fetch 1 from held"), exec(conn, "close held"))
	say.Line(exec(conn, "fetch 1 from walk"))
	// A portal with a row limit, left in the middle.
	rows, err := conn.Query(ctx, "select generate_series(1, 100000)")
	say.Must(err)
	rows.Next()
	rows.Close()
	say.Line(one[int](conn, "select 3"))
	say.Must(conn.Close(ctx))
}

func notifications() {
	hears, tells := connect(), connect()
	exec(hears, "listen gx_news")
	exec(tells, "notify gx_news, 'one'")
	exec(tells, "select pg_notify('gx_news', $1)", strings.Repeat("x", 7000))
	for n := 0; n < 2; n++ {
		waiting, stop := context.WithTimeout(ctx, 3*time.Second)
		heard, err := hears.WaitForNotification(waiting)
		stop()
		if err != nil {
			say.Line("silence")
			break
		}
		say.Line(heard.Channel, len(heard.Payload))
		say.Line("pid", heard.PID == tells.PgConn().PID())
	}
	hears.Close(ctx)
	say.Must(tells.Close(ctx))
}

func cancelling() {
	conn, watcher := connect(), connect()
	done := make(chan string)
	go func() { done <- exec(conn, "select pg_sleep(60)") }()
	for one[int](watcher, "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database() and query = 'select pg_sleep(60)'") == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	say.Must(conn.PgConn().CancelRequest(ctx))
	say.Line(<-done, one[int](conn, "select 1"))
	// A deadline closes the connection of this driver, which asks for a cancel on its way out.
	soon, stop := context.WithTimeout(ctx, 200*time.Millisecond)
	_, err := conn.Exec(soon, "select pg_sleep(60)")
	stop()
	say.Line(errors.Is(err, context.DeadlineExceeded), conn.IsClosed())
	for one[int](watcher, "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database() and query = 'select pg_sleep(60)'") > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	say.Line("ended")
	say.Must(watcher.Close(ctx))
}

func sessionState() {
	conn := connect()
	say.Line(exec(conn, "set my.tenant = 'seven'"), one[string](conn, "show my.tenant"))
	say.Line(exec(conn, "create temp table gx_mine (a int)"), exec(conn, "insert into gx_mine values (1)"))
	exec(conn, "drop table if exists gx_mine")
	say.Line(one[bool](conn, "select pg_try_advisory_lock(11)"), one[bool](conn, "select pg_advisory_unlock(11)"))
	say.Line(exec(conn, "prepare gx_sql as select 1"), exec(conn, "execute gx_sql"))
	exec(conn, "deallocate all")
	say.Must(conn.Close(ctx))
}

func pools() {
	config, err := pgxpool.ParseConfig(url)
	say.Must(err)
	config.MaxConns = 8
	pool, err := pgxpool.NewWithConfig(ctx, config)
	say.Must(err)
	var all sync.WaitGroup
	var lock sync.Mutex
	sum := 0
	for n := 0; n < 200; n++ {
		all.Add(1)
		go func(n int) {
			defer all.Done()
			value := 0
			err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				return tx.QueryRow(ctx, "select $1::int4 + 1", n).Scan(&value)
			})
			lock.Lock()
			defer lock.Unlock()
			if err == nil {
				sum += value
			}
		}(n)
	}
	all.Wait()
	say.Line(sum, pool.Stat().TotalConns() <= 8)
	exec(pool, "drop table gx_things")
	pool.Close()
}

// Another client of the same pool, with settings of its own: connections change hands.
func neighbour() {
	conn := connect()
	for {
		exec(conn, "set search_path = neighbour")
		say.Must(pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			exec(tx, "select pg_sleep($1)", 0.003)
			return nil
		}))
		time.Sleep(3 * time.Millisecond)
		exec(conn, "reset all")
	}
}

func main() {
	if len(os.Args) == 3 {
		say.Parts(withoutTransactions)
		return
	}
	for n := 0; n < 2; n++ {
		go neighbour()
	}
	say.Parts([]say.Part{
		{Name: "start up", Run: startUp}, {Name: "modes", Run: modes}, {Name: "statements", Run: statements},
		{Name: "changed", Run: changed}, {Name: "transactions", Run: transactions}, {Name: "batches", Run: batches},
		{Name: "beyond the cache", Run: beyondTheCache}, {Name: "many in one transaction", Run: manyInOneTransaction}, {Name: "copying", Run: copying},
		{Name: "cursors", Run: cursors}, {Name: "notifications", Run: notifications},
		{Name: "cancelling", Run: cancelling}, {Name: "session state", Run: sessionState}, {Name: "pools", Run: pools},
	})
}
