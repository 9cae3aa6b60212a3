package main

import (
	"sync"

	"drivers/say"
)

// What works where every statement is a transaction, and what is refused there.
var withoutTransactions = []say.Part{
	{Name: "statements", Run: statements}, {Name: "beyond the cache", Run: beyondTheCache},
	{Name: "settings", Run: settings}, {Name: "cancelling", Run: cancelling},
	{Name: "many clients", Run: manyClients}, {Name: "begin", Run: begin}, {Name: "temporary", Run: temporary},
}

func settings() {
	db := open("")
	conn, err := db.Conn(ctx)
	say.Must(err)
	other, err := db.Conn(ctx)
	say.Must(err)
	exec(conn, "set statement_timeout = '11s'")
	exec(conn, "set search_path = pg_catalog, public")
	exec(other, "set search_path = public")
	for n := 0; n < 5; n++ {
		say.Line(one(conn, "show search_path"), one(other, "show search_path"))
	}
	say.Line(one(conn, "show statement_timeout"), one(other, "show statement_timeout"))
	say.Line(exec(conn, "reset all"), one(conn, "show statement_timeout"))
	say.Must(conn.Close())
	say.Must(other.Close())
	say.Must(db.Close())
}

func manyClients() {
	db := open("")
	db.SetMaxOpenConns(20)
	var all sync.WaitGroup
	sums := make([]any, 200)
	for n := range sums {
		all.Add(1)
		go func(n int) {
			defer all.Done()
			sums[n] = one(db, "select $1::int + 1", n)
		}(n)
	}
	all.Wait()
	sum := int64(0)
	for _, one := range sums {
		sum += one.(int64)
	}
	say.Line(sum)
	say.Must(db.Close())
}

func begin() {
	db := open("")
	conn, err := db.Conn(ctx)
	say.Must(err)
	tx, err := conn.BeginTx(ctx, nil)
	if err == nil {
		exec(tx, "insert into pq_things (name) values ('in a block')")
		err = tx.Commit()
	}
	// What the driver hears of the connection's end is not always the same.
	say.Line("committed", err == nil)
	conn.Close()
	say.Line("inserted", one(db, "select count(*) from pq_things where name = 'in a block'"))
	say.Must(db.Close())
}

func temporary() {
	db := open("")
	conn, err := db.Conn(ctx)
	say.Must(err)
	say.Line(exec(conn, "create temp table pq_passing (n int)"), exec(conn, "insert into pq_passing values (1)"))
	say.Must(conn.Close())
	say.Must(db.Close())
}
