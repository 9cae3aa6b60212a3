// What an application does with `postgres` (postgres.js) where every statement is a transaction, printed in lines
// that are the same on every run, but for what statement mode refuses.
//
// usage: postgres_statements.js URL
//
// Its transactions are not tried: it throws outside of every promise when a connection ends under its BEGIN.
"use strict";

const { load, say, parts } = require("./say");
const postgres = load("postgres");
const { pipeline } = require("node:stream/promises");
const { Readable } = require("node:stream");

const URL_ = process.argv[2];
const connect = (options = {}) => postgres(URL_, { max: 1, onnotice: () => {}, ...options });

async function failing(promise) {
  try {
    await promise;
  } catch ({ name, code, severity, message }) {
    return { name, code, severity, message };
  }
  return "NO ERROR";
}

async function statements() {
  const sql = connect();
  await sql`create table if not exists items (id int primary key, name text)`;
  await sql`truncate items`;
  say(await sql`insert into items ${sql({ id: 1, name: "one" })} returning *`);
  say((await sql`insert into items select n, 'n' || n from generate_series(2, 49) n`).count);
  // All are sent before the first answer.
  say((await Promise.all(Array.from({ length: 20 }, (_, n) => sql`select ${n}::int * 2 as v`))).map(([row]) => row.v));
  for (const wrong of ["insert into items values (1)", "select 1/0", "selec"]) {
    say(await failing(sql.unsafe(wrong)), await failing(sql.unsafe(wrong, [])));
  }
  // One of them fails, in the middle of others.
  say(await Promise.all([sql`select 1 as v`, failing(sql`select 1/0`), sql`select 2 as v`]));
  await sql.end();
}

async function prepared() {
  const [sql, other] = [connect(), connect()];
  for (let n = 0; n < 300; n++) {
    // More than a connection of the pool keeps.
    const [found] = await sql.unsafe(`select ${n} + $1::int as v`, [n], { prepare: true });
    const [there] = await other.unsafe(`select ${n} - $1::int as v`, [n], { prepare: true });
    if (found.v !== 2 * n || there.v !== 0) say("wrong", n, found, there);
  }
  for (let n = 0; n < 8; n++) say(await sql`select ${"x"} || name as v from items where id = ${n}`);
  await Promise.all([sql.end(), other.end()]);
}

async function copying() {
  const sql = connect();
  const rows = Array.from({ length: 2000 }, (_, n) => `${n + 1000}\tcopied ${n + 1000}\n`);
  await pipeline(Readable.from(rows), await sql`copy items from stdin`.writable());
  let length = 0;
  const out = await sql`copy (select * from items where id >= 1000 order by id) to stdout`.readable();
  await new Promise((done, failed) => out.on("data", (block) => (length += block.length)).on("end", done).on("error", failed));
  say(length);
  await sql.end();
}

async function settings() {
  const [sql, other] = [connect(), connect()];
  await sql`set statement_timeout = '11s'`;
  await sql`set search_path = pg_catalog, public`;
  await other`set search_path = public`;
  for (let n = 0; n < 5; n++) say(await sql`show search_path`, await other`show search_path`);
  say(await sql`show statement_timeout`, await other`show statement_timeout`);
  await sql`reset all`;
  say(await sql`show statement_timeout`);
  await Promise.all([sql.end(), other.end()]);
}

async function manyClients() {
  const sql = connect({ max: 20 });
  const sums = Array.from({ length: 60 }, async (_, n) => {
    let sum = 0;
    for (let m = 0; m < 10; m++) sum += (await sql`select ${n}::int + ${m}::int as v`)[0].v;
    return sum;
  });
  say((await Promise.all(sums)).reduce((a, b) => a + b));
  await sql.end();
}

async function temporary() {
  const sql = connect();
  await sql`create temp table passing (n int)`;
  say(await failing(sql`insert into passing values (1)`));
  await sql.end();
}

parts([statements, prepared, copying, settings, manyClients, temporary]);
