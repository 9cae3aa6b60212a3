// What an application does with database/sql over lib/pq, printed in lines that are the same on every run.
//
// usage: pq [statements] URL
//
// With the word, every statement is a transaction.
//
// Without arguments lib/pq speaks the simple protocol; with arguments it prepares an unnamed statement, in two
// round trips: Parse, Describe, Sync and then Bind, Execute, Sync.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"drivers/say"

	"github.com/lib/pq"
)

var (
	url = os.Args[len(os.Args)-1]
	ctx = context.Background()
)

func open(change string) *sql.DB {
	db, err := sql.Open("postgres", url+"?sslmode=disable"+change)
	say.Must(err)
	return db
}

func failing(err error) string {
	var server *pq.Error
	switch {
	case err == nil:
		return "NO ERROR"
	case errors.As(err, &server):
		return fmt.Sprint(server.Code, " ", server.Severity, " ", server.Message, " ", server.Detail, " ", server.Position, " ", server.Constraint)
	default:
		return err.Error()
	}
}

type runs interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
	QueryRowContext(context.Context, string, ...any) *sql.Row
}

func exec(on runs, text string, arguments ...any) string {
	result, err := on.ExecContext(ctx, text, arguments...)
	if err != nil {
		return failing(err)
	}
	rows, _ := result.RowsAffected()
	return fmt.Sprint(rows)
}

func one(on runs, text string, arguments ...any) any {
	var value any
	if err := on.QueryRowContext(ctx, text, arguments...).Scan(&value); err != nil {
		return failing(err)
	}
	if bytes, is := value.([]byte); is {
		return string(bytes)
	}
	return value
}

func startUp() {
	db := open("&search_path=pg_catalog&application_name=till&statement_timeout=4321&options=-c%20my.tenant%3D7")
	for _, name := range []string{"search_path", "application_name", "statement_timeout", "my.tenant", "extra_float_digits"} {
		say.Line(name, one(db, "select current_setting($1)", name))
	}
	say.Must(db.Close())
	db = open("&no_such=1")
	say.Line(failing(db.Ping()))
	db.Close()
}

func statements() {
	for _, binary := range []string{"no", "yes"} {
		db := open("&binary_parameters=" + binary)
		exec(db, "drop table if exists pq_things; create table pq_things (id serial primary key, name text unique, n int check (n > 0))")
		for n := 1; n <= 20; n++ {
			exec(db, "insert into pq_things (name, n) values ($1, $2)", fmt.Sprint("t", n), n)
		}
		for _, text := range []string{"insert into pq_things (name) values ('t1')", "insert into pq_things (name, n) values ('q', 0)", "selec 1", "select * from nowhere", "select 'x'::int"} {
			say.Line(exec(db, text), one(db, "select 1"))
		}
		say.Line(exec(db, "select 1 / $1::int", 0), one(db, "select $1::text", "x"))
		rows, err := db.Query("select n, name from pq_things where n < $1 order by n; ", 4)
		say.Must(err)
		for rows.Next() {
			var n int
			var name string
			say.Must(rows.Scan(&n, &name))
			say.Line(n, name)
		}
		say.Must(rows.Err())
		rows, err = db.Query("select 1; select 'two'")
		say.Must(err)
		for rows.Next() {
		}
		say.Line(rows.NextResultSet(), rows.Next(), rows.Close())
		say.Must(db.Close())
	}
}

func transactions() {
	db := open("")
	before := one(db, "select count(*) from pq_things").(int64)
	count := func() int64 { return one(db, "select count(*) from pq_things").(int64) - before }
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable})
	say.Must(err)
	say.Line(exec(tx, "insert into pq_things (name) values ($1)", "outer"), one(tx, "show transaction_isolation"))
	say.Line(exec(tx, "savepoint a"), exec(tx, "insert into pq_things (name) values ('outer')"), exec(tx, "select 1"), exec(tx, "rollback to a"))
	say.Line(failing(tx.Commit()), count())
	tx, err = db.Begin()
	say.Must(err)
	exec(tx, "delete from pq_things")
	say.Line(failing(tx.Rollback()), count())
	tx, err = db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	say.Must(err)
	say.Line(exec(tx, "delete from pq_things"), failing(tx.Commit()))
	exec(db, "delete from pq_things where name = 'outer'")
	say.Must(db.Close())
}

func prepareMany(db *sql.DB) []*sql.Stmt {
	kept := make([]*sql.Stmt, 300)
	for n := range kept {
		statement, err := db.Prepare(fmt.Sprintf("select $1::int + %d", n))
		say.Must(err)
		kept[n] = statement
	}
	return kept
}

func sum(statements []*sql.Stmt, argument int) int {
	sum := 0
	for _, statement := range statements {
		var value int
		say.Must(statement.QueryRow(argument).Scan(&value))
		sum += value
	}
	return sum
}

func beyondTheCache() {
	db := open("")
	db.SetMaxOpenConns(2)
	kept := prepareMany(db)
	for turn := 0; turn < 3; turn++ {
		say.Line("many", sum(kept, turn))
	}
	for _, statement := range kept {
		say.Must(statement.Close())
	}
	say.Must(db.Close())
}

func manyInOneTransaction() {
	db := open("")
	db.SetMaxOpenConns(2)
	kept := prepareMany(db)
	tx, err := db.Begin()
	say.Must(err)
	for n := range kept {
		kept[n] = tx.Stmt(kept[n])
	}
	say.Line("in one transaction", sum(kept, 1), failing(tx.Commit()))
	say.Must(db.Close())
}

func copying() {
	db := open("")
	tx, err := db.Begin()
	say.Must(err)
	statement, err := tx.Prepare(pq.CopyIn("pq_things", "n", "name"))
	say.Must(err)
	for n := 0; n < 20000; n++ {
		_, err = statement.Exec(n+1, fmt.Sprint("copied ", n))
		say.Must(err)
	}
	_, err = statement.Exec()
	say.Line(failing(err), failing(statement.Close()), one(tx, "select count(*) from pq_things where name like 'copied%'"))
	say.Must(tx.Rollback())
	tx, err = db.Begin()
	say.Must(err)
	statement, err = tx.Prepare(pq.CopyIn("pq_things", "n", "name"))
	say.Must(err)
	statement.Exec("x", "wrong")
	_, err = statement.Exec()
	say.Line(failing(err))
	tx.Rollback()
	say.Line(one(db, "select count(*) from pq_things where name like 'copied%'"))
	say.Must(db.Close())
}

func cursors() {
	db := open("")
	tx, err := db.Begin()
	say.Must(err)
	exec(tx, "declare walk cursor for select generate_series(1, 100)")
	say.Line(one(tx, "fetch absolute 42 from walk"), exec(tx, "fetch 7 from walk"))
	exec(tx, "declare held cursor with hold for select generate_series(1, 100)")
	say.Must(tx.Commit())
	conn, err := db.Conn(ctx)
	say.Must(err)
	say.Line("held", one(conn, "fetch 1 from held"), exec(conn, "fetch 3 from held"), one(conn, "fetch 1 from held"), exec(conn, "close held"))
	say.Must(conn.Close())
	rows, err := db.Query("select generate_series(1, $1::int)", 100000)
	say.Must(err)
	rows.Next()
	say.Must(rows.Close())
	say.Line(one(db, "select 3"))
	say.Must(db.Close())
}

func notifications() {
	listener := pq.NewListener(url+"?sslmode=disable", time.Second, time.Second, nil)
	say.Must(listener.Listen("pq_news"))
	db := open("")
	exec(db, "notify pq_news, 'one'")
	exec(db, "select pg_notify('pq_news', $1)", strings.Repeat("x", 7000))
	for n := 0; n < 2; n++ {
		select {
		case heard := <-listener.Notify:
			say.Line(heard.Channel, len(heard.Extra))
		case <-time.After(5 * time.Second):
			say.Line("silence")
		}
	}
	say.Line(failing(listener.Ping()))
	say.Must(listener.Close())
	say.Must(db.Close())
}

func cancelling() {
	db := open("")
	for turn := 0; turn < 3; turn++ {
		soon, stop := context.WithTimeout(ctx, 200*time.Millisecond)
		_, err := db.ExecContext(soon, "select pg_sleep(60)")
		stop()
		say.Line(failing(err), one(db, "select 1"))
	}
	conn, err := db.Conn(ctx)
	say.Must(err)
	soon, stop := context.WithTimeout(ctx, 200*time.Millisecond)
	_, err = conn.ExecContext(soon, "select pg_sleep(60 + $1)", 0)
	stop()
	say.Line(failing(err))
	conn.Close()
	say.Must(db.Close())
}

func sessionState() {
	db := open("")
	conn, err := db.Conn(ctx)
	say.Must(err)
	say.Line(exec(conn, "set my.tenant = 'seven'"), one(conn, "show my.tenant"))
	say.Line(exec(conn, "create temp table pq_mine (a int)"), exec(conn, "insert into pq_mine values (1)"))
	exec(conn, "drop table if exists pq_mine")
	say.Line(one(conn, "select pg_try_advisory_lock(12)"), one(conn, "select pg_advisory_unlock(12)"))
	say.Line(exec(conn, "prepare pq_sql as select 1"), exec(conn, "execute pq_sql"))
	exec(conn, "deallocate all")
	say.Must(conn.Close())
	say.Must(db.Close())
}

func pools() {
	db := open("")
	db.SetMaxOpenConns(8)
	var all sync.WaitGroup
	var lock sync.Mutex
	sum := int64(0)
	for n := 0; n < 200; n++ {
		all.Add(1)
		go func(n int) {
			defer all.Done()
			value, is := one(db, "select $1::int + 1", n).(int64)
			lock.Lock()
			defer lock.Unlock()
			if is {
				sum += value
			}
		}(n)
	}
	all.Wait()
	say.Line(sum, db.Stats().OpenConnections <= 8)
	exec(db, "drop table pq_things")
	say.Must(db.Close())
}

// Another client of the same pool, with settings of its own: connections change hands.
func neighbour() {
	conn, err := open("").Conn(ctx)
	say.Must(err)
	for {
		exec(conn, "set search_path = neighbour")
		exec(conn, "begin")
		exec(conn, "select pg_sleep($1)", 0.003)
		exec(conn, "commit")
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
		{Name: "start up", Run: startUp}, {Name: "statements", Run: statements}, {Name: "transactions", Run: transactions},
		{Name: "beyond the cache", Run: beyondTheCache}, {Name: "many in one transaction", Run: manyInOneTransaction}, {Name: "copying", Run: copying}, {Name: "cursors", Run: cursors},
		{Name: "notifications", Run: notifications}, {Name: "cancelling", Run: cancelling},
		{Name: "session state", Run: sessionState}, {Name: "pools", Run: pools},
	})
}
