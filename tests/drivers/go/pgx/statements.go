package main

import (
	"fmt"
	"sync"

	"drivers/say"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// What works where every statement is a transaction, and what is refused there.
var withoutTransactions = []say.Part{
	{Name: "modes", Run: modes}, {Name: "statements", Run: statements}, {Name: "pipelines", Run: pipelines},
	{Name: "beyond the cache", Run: beyondTheCache}, {Name: "copying", Run: copying}, {Name: "settings", Run: settings},
	{Name: "cancelling", Run: cancelling}, {Name: "many clients", Run: manyClients}, {Name: "begin", Run: begin},
	{Name: "temporary", Run: temporary},
}

// Batches that end with one synchronisation are one transaction, and roll back together.
func pipelines() {
	conn := connect()
	for _, last := range []string{"select 1", "select 1/0"} {
		batch := &pgx.Batch{}
		for n := 0; n < 3; n++ {
			batch.Queue("insert into gx_things (name, n) values ($1, $2)", fmt.Sprint("piped", n), n+1)
		}
		batch.Queue(last)
		results := conn.SendBatch(ctx, batch)
		for n := 0; n < 4; n++ {
			_, err := results.Exec()
			say.Line(n, failing(err))
		}
		say.Line(failing(results.Close()), exec(conn, "delete from gx_things where name like 'piped%'"))
	}
	say.Must(conn.Close(ctx))
}

func settings() {
	conn, other := connect(), connect()
	exec(conn, "set statement_timeout = '11s'")
	exec(conn, "set search_path = pg_catalog, public")
	exec(other, "set search_path = public")
	for n := 0; n < 5; n++ {
		say.Line(one[string](conn, "show search_path"), one[string](other, "show search_path"))
	}
	say.Line(one[string](conn, "show statement_timeout"), one[string](other, "show statement_timeout"))
	say.Line(exec(conn, "reset all"), one[string](conn, "show statement_timeout"))
	say.Must(conn.Close(ctx))
	say.Must(other.Close(ctx))
}

func manyClients() {
	config, err := pgxpool.ParseConfig(url)
	say.Must(err)
	config.MaxConns = 20
	pool, err := pgxpool.NewWithConfig(ctx, config)
	say.Must(err)
	defer pool.Close()
	var all sync.WaitGroup
	sums := make([]int, 200)
	for n := range sums {
		all.Add(1)
		go func(n int) {
			defer all.Done()
			say.Must(pool.QueryRow(ctx, "select $1::int4 + 1", n).Scan(&sums[n]))
		}(n)
	}
	all.Wait()
	sum := 0
	for _, one := range sums {
		sum += one
	}
	say.Line(sum)
}

func begin() {
	conn := connect()
	tx, err := conn.Begin(ctx)
	if err == nil {
		exec(tx, "insert into gx_things (name) values ('in a block')")
		err = tx.Commit(ctx)
	}
	// What the driver hears of the connection's end is not always the same.
	say.Line("committed", err == nil)
	conn.Close(ctx)
	conn = connect()
	say.Line("inserted", one[int](conn, "select count(*) from gx_things where name = 'in a block'"))
	say.Must(conn.Close(ctx))
}

func temporary() {
	conn := connect()
	say.Line(exec(conn, "create temp table gx_passing (n int)"), exec(conn, "insert into gx_passing values (1)"))
	say.Must(conn.Close(ctx))
}
