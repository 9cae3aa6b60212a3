// What an application does with node-postgres, printed in lines that are the same on every run.
//
// usage: program.js URL [ours MIRROR-URL]
"use strict";

const { load, say, parts } = require("./say");
const { Client, Pool, types } = load("pg");
const Cursor = load("pg-cursor");
const { from: copyFrom, to: copyTo } = load("pg-copy-streams");
const { pipeline } = require("node:stream/promises");
const { Readable, Writable } = require("node:stream");
const { once } = require("node:events");

const URL_ = process.argv[2];

async function connect(options = {}) {
  const client = new Client({ connectionString: URL_, ...options });
  await client.connect();
  return client;
}

async function failing(promise) {
  try {
    await promise;
  } catch (e) {
    return { code: e.code, severity: e.severity, message: e.message, detail: e.detail, hint: e.hint, position: e.position, constraint: e.constraint, table: e.table };
  }
  return "NO ERROR";
}

const one = async (client, ...query) => Object.values((await client.query(...query)).rows[0])[0];

async function startUp() {
  let client = await connect();
  say("pid", client.processID === (await one(client, "select pg_backend_pid()")));
  await client.end();
  client = await connect({ application_name: "till", options: "-c search_path=pg_catalog -c my.tenant=7", statement_timeout: 4321, idle_in_transaction_session_timeout: 5555, lock_timeout: 77 });
  for (const name of ["application_name", "search_path", "my.tenant", "statement_timeout", "idle_in_transaction_session_timeout", "lock_timeout"]) {
    say(name, await one(client, "select current_setting($1)", [name]));
  }
  await client.end();
  for (const change of [{ database: "nowhere" }, { password: "wrong" }, { user: "nobody" }, { options: "-c no_such=1" }]) {
    const url = new URL(URL_);
    if (change.database) url.pathname = "/" + change.database;
    if (change.password) url.password = change.password;
    if (change.user) url.username = change.user;
    const { code, message } = await failing(connect({ ...change, connectionString: url.toString() }));
    say(change, code, message);
  }
  say("tls", (await failing(connect({ ssl: { rejectUnauthorized: false } }))).message);
}

async function values() {
  const client = await connect();
  for (const [kind, value] of [
    ["bool", true], ["int2", -32768], ["int4", 2147483647], ["int8", "-9223372036854775808"], ["float8", 1.5], ["float8", Infinity],
    ["numeric", "12345678901234567890.123456789"], ["text", "ünï 🐘 '\\ %"], ["bytea", Buffer.from([0, 1, 2, 255])],
    ["date", "2024-02-29"], ["timestamptz", new Date(Date.UTC(2020, 5, 1))], ["interval", "1 year 2 mons -3 days"], ["uuid", "00000000-0000-0000-0000-000000003039"],
    ["jsonb", { a: [1, null, "x"] }], ["int4[]", [1, null, 3]], ["text[]", [["a", 'b"'], ["c,", "{}"]]], ["inet", "10.0.0.1/8"], ["int4range", "[1,10)"],
    ["point", "(1,2)"], ["circle", "<(0,0),2>"], ["text", null],
  ]) {
    say(kind, await one(client, `select $1::${kind} as v`, [value]), await one(client, { text: `select $1::${kind} as v`, values: [value], binary: ["int4", "bool"].includes(kind) }));
  }
  const result = await client.query({ text: "select 1 as a, 2 as a, null", rowMode: "array" });
  say(result.rows, result.fields.map((f) => [f.name, f.dataTypeID]));
  const many = await client.query("select generate_series(1, 200000) as n");
  say(many.rows.reduce((sum, row) => sum + row.n, 0));
  const text = "x".repeat(5_000_000);
  say((await one(client, "select $1::text", [text])) === text);
  const several = await client.query("select 1 as a; create temp table tt (a int); insert into tt values (1), (2); select * from tt");
  say(several.map((r) => [r.command, r.rowCount, r.rows]));
  say((await client.query("")).command);
  await client.end();
}

async function statements() {
  const client = await connect();
  await client.query("drop table if exists things; create table things (id serial primary key, name text unique, n int check (n > 0))");
  for (let n = 1; n <= 50; n++) {
    await client.query({ name: "insert thing", text: "insert into things (name, n) values ($1, $2)", values: [`t${n}`, n] });
  }
  say(await one(client, "select count(*) from pg_prepared_statements where name = 'insert thing'"));
  // Sent without waiting: the client queues them one behind the other.
  const answers = await Promise.all(Array.from({ length: 300 }, (_, n) => one(client, { name: "one", text: "select $1::int + 1", values: [n] })));
  say(answers.reduce((a, b) => a + b, 0));
  for (const query of [
    ["insert into things (name) values ('t1')"], ["insert into things (name, n) values ('q', 0)"], ["selec 1"], ["select * from nowhere"],
    ["select 1 / $1::int", [0]], ["select $1::int", ["x"]], ["select $1", []],
  ]) {
    say(await failing(client.query(...query)));
  }
  client.on("notice", (notice) => say("notice", notice.severity, notice.code, notice.message));
  await client.query("do $$ begin raise notice 'hello'; end $$");
  await client.query("set statement_timeout = 500");
  say(await failing(client.query("select pg_sleep(30)")));
  await client.query("reset statement_timeout");
  say(await one(client, "select count(*) from things"));
  await client.end();
}

async function transactions() {
  const client = await connect();
  const count = () => one(client, "select count(*) from things");
  const before = await count();
  await client.query("begin isolation level repeatable read");
  await client.query("insert into things (name) values ('kept')");
  await client.query("savepoint a");
  say(await failing(client.query("insert into things (name) values ('kept')")));
  say(await failing(client.query("select 1")));
  await client.query("rollback to savepoint a");
  await client.query("release savepoint a");
  await client.query("commit");
  await client.query("begin; delete from things");
  await client.query("rollback");
  say((await count()) - before);
  await client.query("delete from things where name = 'kept'");
  await client.query("begin");
  await failing(client.query("select 1/0"));
  say((await client.query("commit")).command);
  await client.query("begin read only");
  say(await failing(client.query("delete from things")));
  await client.query("rollback");
  await client.end();
}

async function copying() {
  const client = await connect();
  await client.query("drop table if exists c; create table c (id int, name text)");
  const lines = Array.from({ length: 20000 }, (_, n) => `${n}\tname ${n}\n`);
  const into = client.query(copyFrom("copy c from stdin"));
  await pipeline(Readable.from(lines), into);
  say(into.rowCount);
  let size = 0;
  const counting = new Writable({ write(chunk, _, done) { size += chunk.length; done(); } });
  await pipeline(client.query(copyTo("copy c to stdout (format csv)")), counting);
  say(size);
  say(await failing(pipeline(Readable.from(["1\ta\nx\tb\n"]), client.query(copyFrom("copy c from stdin")))));
  say(await one(client, "select count(*) from c"));
  await client.end();
}

async function notifications() {
  const hears = await connect(), tells = await connect();
  await hears.query("listen news");
  for (const payload of ["one", "x".repeat(7000)]) {
    const heard = once(hears, "notification", { signal: AbortSignal.timeout(5000) });
    await tells.query("select pg_notify('news', $1)", [payload]);
    const [message] = await heard;
    say(message.channel, message.payload.length);
    say("pid", message.processId === tells.processID);
  }
  await hears.end();
  await tells.end();
}

async function cancelling() {
  const client = await connect(), watcher = await connect();
  const sleeping = failing(client.query("select pg_sleep(60)"));
  // By its text: the process is another one each time where connections are shared.
  const asleep = async (action) => {
    const active = `select ${action} from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database() and query = 'select pg_sleep(60)'`;
    for (;;) {
      const { rows } = await watcher.query({ text: active, rowMode: "array" });
      if (rows.length > 0) return rows[0][0];
      await new Promise((done) => setTimeout(done, 10));
    }
  };
  say(await asleep("pg_cancel_backend(pid)"));
  say(await sleeping, await one(client, "select 1 as a"));
  // The protocol's own cancel, closed at once, as `client.cancel` does it.
  const query = client.query.bind(client);
  const again = failing(query("select pg_sleep(60)"));
  await asleep("true");
  const socket = require("node:net").connect(client.port, client.host);
  const packet = Buffer.alloc(16);
  [16, 80877102, client.processID, client.secretKey].forEach((n, i) => packet.writeInt32BE(n, 4 * i));
  socket.end(packet);
  say(await again, await one(client, "select 2 as a"));
  await client.end();
  await watcher.end();
}

async function beyondTheCache() {
  const client = await connect();
  const query = (n) => ({ name: `statement ${n}`, text: `select $1::int + ${n} as n`, values: [1] });
  const sum = (answers) => answers.reduce((total, { rows }) => total + rows[0].n, 0);
  for (let turn = 0; turn < 2; turn++) {
    say("many", sum(await Promise.all(Array.from({ length: 400 }, (_, n) => client.query(query(n))))));
  }
  await client.query("begin");
  say("in one transaction", sum(await Promise.all(Array.from({ length: 400 }, (_, n) => client.query(query(n))))));
  say(await failing(client.query({ name: "broken", text: "select 1 / $1::int", values: [0] })));
  await client.query("rollback");
  say("again", await failing(client.query({ name: "broken", text: "select 1 / $1::int", values: [0] })));
  say("again", sum([await client.query(query(7))]));
  await client.end();
}

async function cursors() {
  const client = await connect();
  const cursor = client.query(new Cursor("select generate_series(1, $1::int) as n", [1000]));
  say(await cursor.read(3), (await cursor.read(500)).length);
  await cursor.close();
  say(await one(client, "select 1 as a"));
  await client.query("begin");
  await client.query("declare walk scroll cursor for select generate_series(1, 100) as n");
  say((await client.query("fetch 3 from walk")).rows, (await client.query("fetch last from walk")).rows);
  await client.query("commit");
  say((await failing(client.query("fetch walk"))).code);
  await client.end();
}

async function largeObjects() {
  const client = await connect();
  const content = Buffer.alloc(1_000_000, 7);
  const oid = await one(client, "select lo_from_bytea(0, $1)", [content]);
  say((await one(client, "select lo_get($1)", [oid])).equals(content));
  say(await one(client, "select lo_unlink($1)", [oid]), (await failing(client.query("select lo_get($1)", [oid]))).code);
  await client.end();
}

async function heldCursors() {
  const client = await connect();
  await client.query("declare walk cursor with hold for select generate_series(1, 10) as n");
  say("held", (await client.query("fetch 3 from walk")).rows, (await client.query("fetch 2 from walk")).rows);
  await client.end();
}

async function pools() {
  const pool = new Pool({ connectionString: URL_, max: 8 });
  const answers = await Promise.all(Array.from({ length: 400 }, (_, n) => pool.query("select $1::int as n", [n])));
  say(answers.reduce((sum, r) => sum + r.rows[0].n, 0), pool.totalCount <= 8);
  await pool.query("drop table things, c");
  await pool.end();
}

async function ours(mirrorUrl) {
  const client = await connect();
  for (const query of ["SHOW MIRROR STATUS", { text: "SHOW MIRROR STATUS", values: [] }, { name: "status", text: "SHOW MIRROR STATUS" }, { name: "status", text: "SHOW MIRROR STATUS" }]) {
    const { rows, fields, command } = await client.query(query);
    say(command, fields[0].name, rows[0].mirror, rows[0].status, rows[0].source_database);
    say(await one(client, "select $1::int as n", [5]));
  }
  await client.query("begin");
  say((await client.query("SHOW DATABASE MIRROR STATUS FOR cloud")).rows.length, await one(client, "select 6 as a"));
  await client.query("rollback");
  const { code, message } = await failing(client.query("SHOW DATABASE MIRROR STATUS FOR nothing"));
  say(code, message);
  say((await failing(client.query("DROP MIRROR cloud"))).code, await one(client, "select 7 as a"));
  await client.end();
  const mirror = await connect({ connectionString: mirrorUrl });
  say("console", (await mirror.query("SHOW MIRROR STATUS")).rows[0].mirror);
  await mirror.end();
}

// Another client of the same pool, with settings of its own: connections change hands.
async function neighbour() {
  const client = await connect();
  for (;;) {
    await client.query("set search_path = neighbour; set my.tenant = 'neighbour'");
    await client.query("begin; select pg_sleep(0.003); commit");
    await new Promise((done) => setTimeout(done, 3));
    await client.query({ text: "select pg_sleep($1)", values: [0.003] });
    await client.query("reset all");
  }
}

async function main() {
  if (process.argv[3] === "ours") return ours(process.argv[4]);
  for (let n = 0; n < 2; n++) neighbour();
  await parts([startUp, values, statements, transactions, copying, notifications, cancelling, cursors, largeObjects, beyondTheCache, heldCursors, pools]);
  // The neighbours, and what a part that failed has left open.
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
