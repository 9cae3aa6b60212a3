// What an application does with node-postgres where every statement is a transaction, printed in lines that are
// the same on every run, but for what statement mode refuses.
//
// usage: statements.js URL
"use strict";

const { load, say, parts } = require("./say");
const { Client, Pool } = load("pg");
const { from: copyFrom, to: copyTo } = load("pg-copy-streams");
const { pipeline } = require("node:stream/promises");
const { Readable, Writable } = require("node:stream");

const URL_ = process.argv[2];

async function connect(options = {}) {
  const client = new Client({ connectionString: URL_, ...options });
  // What ends a connection is an event as well as the error of a query.
  client.on("error", () => {});
  await client.connect();
  return client;
}

async function failing(promise) {
  try {
    await promise;
  } catch ({ code, severity, message }) {
    return { code, severity, message };
  }
  return "NO ERROR";
}

const one = async (client, ...query) => Object.values((await client.query(...query)).rows[0])[0];

async function statements() {
  const client = await connect();
  await client.query("create table if not exists items (id int primary key, name text)");
  await client.query("truncate items");
  say((await client.query("insert into items values ($1, $2) returning *", [1, "one"])).rows);
  for (let n = 2; n < 50; n++) await client.query("insert into items values ($1, $2)", [n, `n${n}`]);
  say((await client.query("update items set name = upper(name) where id < 5")).rowCount);
  say((await client.query("select 1 as a; select 2 as b")).map((result) => result.rows));
  for (const wrong of ["insert into items values (1)", "select 1/0", "selec"]) {
    say(await failing(client.query(wrong)), await failing(client.query(wrong, [])));
  }
  say(await one(client, "select 'usable'"));
  await client.end();
}

async function prepared() {
  const [client, other] = [await connect(), await connect()];
  for (let n = 0; n < 300; n++) {
    // More than a connection of the pool keeps.
    const found = await one(client, { name: `s${n}`, text: `select ${n} + $1::int`, values: [n] });
    const there = await one(other, { name: `s${n}`, text: `select ${n} - $1::int`, values: [n] });
    if (found !== 2 * n || there !== 0) say("wrong", n, found, there);
  }
  for (let n = 0; n < 8; n++) say(await one(client, { name: "again", text: "select $1::text || $2::text", values: ["x", n] }));
  await Promise.all([client.end(), other.end()]);
}

async function copying() {
  const client = await connect();
  const rows = Array.from({ length: 2000 }, (_, n) => `${n + 1000}\tcopied ${n + 1000}\n`);
  const copy = client.query(copyFrom("copy items from stdin"));
  await pipeline(Readable.from(rows), copy);
  say(copy.rowCount);
  let length = 0;
  const count = new Writable({ write: (chunk, _, done) => ((length += chunk.length), done()) });
  await pipeline(client.query(copyTo("copy (select * from items where id >= 1000 order by id) to stdout")), count);
  say(length);
  say(await failing(pipeline(Readable.from(["1\tagain\n"]), client.query(copyFrom("copy items from stdin")))));
  say(await one(client, "select count(*) from items"));
  await client.end();
}

async function settings() {
  const [client, other] = [await connect(), await connect()];
  await client.query("set statement_timeout = '11s'");
  await client.query("set search_path = pg_catalog, public");
  await other.query("set search_path = public");
  for (let n = 0; n < 5; n++) say(await one(client, "show search_path"), await one(other, "show search_path"));
  say(await one(client, "show statement_timeout"), await one(other, "show statement_timeout"));
  await client.query("reset all");
  say(await one(client, "show statement_timeout"));
  await Promise.all([client.end(), other.end()]);
}

async function cancels() {
  const client = await connect({ statement_timeout: 100 });
  say(await failing(client.query("select pg_sleep(30)")));
  say(await one(client, "select 'usable'"));
  await client.end();
}

async function manyClients() {
  const pool = new Pool({ connectionString: URL_, max: 20 });
  const sums = Array.from({ length: 60 }, async (_, n) => {
    let sum = 0;
    for (let m = 0; m < 10; m++) sum += await one(pool, "select $1::int + $2::int", [n, m]);
    return sum;
  });
  say((await Promise.all(sums)).reduce((a, b) => a + b));
  await pool.end();
}

async function transactions() {
  let client = await connect();
  try {
    await client.query("begin");
    await client.query("insert into items values (9000)");
    await client.query("commit");
    say("committed");
  } catch (_) {
    // Whether the server's last words are read before the end of the connection is noticed is not always the same.
    say("refused");
  }
  await client.end().catch(() => {});
  client = await connect();
  say("inserted", await one(client, "select count(*) from items where id = 9000"));
  await client.end();
}

async function temporary() {
  const client = await connect();
  await client.query("create temp table passing (n int)");
  say(await failing(client.query("insert into passing values (1)")));
  await client.end();
}

parts([statements, prepared, copying, settings, cancels, manyClients, transactions, temporary]);
