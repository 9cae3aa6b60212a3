// What an application does with `postgres` (postgres.js), printed in lines that are the same on every run.
//
// usage: postgres.js URL
//
// This driver prepares every statement under a name of its own, sends statements without waiting for
// answers, and keeps a pool by itself.
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
  } catch (e) {
    return { name: e.name, code: e.code, severity: e.severity, message: e.message, detail: e.detail, position: e.position, constraint: e.constraint_name };
  }
  return "NO ERROR";
}

async function startUp() {
  let sql = connect({ connection: { application_name: "till", search_path: "pg_catalog", "my.tenant": "7", statement_timeout: 4321 } });
  for (const name of ["application_name", "search_path", "my.tenant", "statement_timeout"]) {
    say(name, (await sql`select current_setting(${name}) as v`)[0].v);
  }
  await sql.end();
  for (const change of [{ database: "nowhere" }, { password: "wrong" }, { connection: { no_such: "1" } }]) {
    sql = connect(change);
    const { code, message } = await failing(sql`select 1`);
    say(change, code, message);
    await sql.end();
  }
}

async function values() {
  const sql = connect();
  say(await sql`select ${1}::int4 as a, ${"x"}::text as b, ${true}::bool as c, ${new Date(0)}::timestamptz as d, ${sql.json({ a: [1, null] })}::jsonb as e, ${[1, 2]}::int4[] as f, ${null}::text as g, ${Buffer.from([0, 255])}::bytea as h`);
  say((await sql`select generate_series(1, 200000) as n`).reduce((sum, { n }) => sum + n, 0));
  const text = "x".repeat(5_000_000);
  say((await sql`select ${text}::text as t`)[0].t === text);
  say((await sql`select 1 as a; select 2 as b`.simple()).map((rows) => [...rows]));
  say([...(await sql.unsafe("select $1::int + $2::int as n", [40, 2]))], (await sql`select 1 as a, 2 as b`.values())[0], (await sql`select $$x$$`.describe()).columns.length);
  await sql.end();
}

async function statements() {
  const sql = connect();
  await sql`drop table if exists pj_things`;
  await sql`create table pj_things (id serial primary key, name text unique, n int check (n > 0))`;
  const rows = Array.from({ length: 500 }, (_, n) => ({ name: `t${n}`, n: n + 1 }));
  say((await sql`insert into pj_things ${sql(rows)} returning id`).count);
  say([...(await sql`select name from pj_things where name in ${sql(["t1", "t7"])} order by id`)]);
  say((await sql`update pj_things set n = n + 1 where id < 4`).count);
  for (const text of ["insert into pj_things (name) values ('t1')", "insert into pj_things (name, n) values ('q', 0)", "selec 1", "select * from nowhere", "select 1/0", "select 'x'::int"]) {
    say(await failing(sql.unsafe(text)), await failing(sql.unsafe(text, [], { prepare: true })));
  }
  // Sent together; those that fail do not take the others with them.
  const answers = await Promise.all(Array.from({ length: 40 }, (_, n) => failing(sql`select 1 / ${n % 4}::int`)));
  say(answers.map((answer) => answer.code ?? "ok"));
  // A statement whose result changes under it.
  say(await failing(sql.begin(async (tx) => {
    await tx`select * from pj_things where id = 1`;
    await tx`alter table pj_things add extra int`;
    await tx`select * from pj_things where id = 1`;
  })));
  say((await sql`select 1 as a`)[0].a);
  // The same outside of a transaction, on several connections that have prepared it.
  const things = () => Promise.all(Array.from({ length: 8 }, () => sql`select * from pj_things where id = 1`));
  await things();
  for (const change of ["add more int default 7", "drop column more"]) {
    await sql.unsafe(`alter table pj_things ${change}`);
    for (let n = 0; n < 3; n++) say((await things()).map((rows) => Object.keys(rows[0]).length));
  }
  await sql.end();
}

async function transactions() {
  const sql = connect({ max: 4 });
  const count = async (on = sql) => Number((await on`select count(*) from pj_things`)[0].count);
  const before = await count();
  await sql.begin(async (tx) => {
    await tx`insert into pj_things (name) values ('outer')`;
    say(await failing(tx.savepoint(async (inner) => {
      await inner`insert into pj_things (name) values ('inner')`;
      await inner`insert into pj_things (name) values ('outer')`;
    })));
    await tx.savepoint("named", (inner) => inner`insert into pj_things (name) values ('named')`);
    say((await count(tx)) - before);
  });
  say((await count()) - before);
  say((await failing(sql.begin(async (tx) => {
    await tx`delete from pj_things`;
    throw new Error("mine");
  }))).message, (await count()) - before);
  // All of them sent at once, behind a BEGIN that is not yet answered.
  const all = await sql.begin((tx) => Array.from({ length: 20 }, (_, n) => tx`insert into pj_things (name) values (${`piped ${n}`}) returning n`));
  say(all.length, (await count()) - before);
  say((await failing(sql.begin((tx) => [tx`insert into pj_things (name) values ('gone')`, tx`select 1/0`, tx`insert into pj_things (name) values ('gone too')`]))).code, (await count()) - before);
  say((await sql.begin("isolation level serializable read only", async (tx) => [await tx`show transaction_isolation`, await failing(tx`delete from pj_things`)]).catch((e) => e.code)));
  const reserved = await sql.reserve();
  await reserved`begin`;
  await reserved`delete from pj_things`;
  await reserved`rollback`;
  reserved.release();
  say((await count()) - before);
  await sql`delete from pj_things where name in ('outer', 'named') or name like 'piped%'`;
  await sql.end();
}

async function cursors() {
  const sql = connect();
  let sum = 0;
  await sql`select generate_series(1, 1000) as n`.cursor(7, (rows) => { rows.forEach(({ n }) => (sum += n)); });
  say(sum);
  for await (const rows of sql`select generate_series(1, 100) as n`.cursor(30)) {
    say(rows.length, rows[0].n);
    if (rows[0].n > 30) break;
  }
  say((await sql`select 1 as a`)[0].a);
  say((await failing(sql`select 1 / (5 - n) as x from generate_series(1, 10) n`.cursor(2, () => {}))).code);
  sum = 0;
  await sql`select generate_series(1, 5000) as n`.forEach(({ n }) => { sum += n; });
  say(sum);
  await sql`declare pj_walk cursor with hold for select generate_series(1, 10) as n`.simple();
  say("held", [...(await sql.unsafe("fetch 3 from pj_walk"))], [...(await sql.unsafe("fetch 2 from pj_walk"))]);
  await sql.unsafe("close pj_walk");
  await sql.end();
}

async function copying() {
  const sql = connect();
  const lines = Array.from({ length: 20000 }, (_, n) => `${n + 1}\tcopied ${n}\n`);
  await pipeline(Readable.from(lines), await sql`copy pj_things (n, name) from stdin`.writable());
  say((await sql`select count(*)::int from pj_things where name like 'copied%'`)[0].count);
  let size = 0;
  const out = await sql`copy (select n, name from pj_things order by id) to stdout`.readable();
  await new Promise((done, failed) => out.on("data", (block) => (size += block.length)).on("end", done).on("error", failed));
  say(size);
  say((await sql`delete from pj_things where name like 'copied%'`).count);
  await sql.end();
}

async function notifications() {
  const hears = connect(), tells = connect();
  const heard = [];
  let wake;
  await hears.listen("pj_news", (payload) => { heard.push(payload.length); wake?.(); });
  await tells.notify("pj_news", "one");
  await tells`select pg_notify('pj_news', ${"x".repeat(7000)})`;
  while (heard.length < 2) {
    await new Promise((done, failed) => {
      wake = done;
      setTimeout(() => failed(new Error("silence")), 5000);
    });
  }
  say(heard);
  await hears.end();
  await tells.end();
}

async function cancelling() {
  const sql = connect(), watcher = connect();
  const sleeping = sql`select pg_sleep(60)`;
  const said = failing(sleeping);
  while ((await watcher`select 1 from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database() and query like 'select pg_sleep(60)%'`).length === 0) {
    await new Promise((done) => setTimeout(done, 10));
  }
  sleeping.cancel();
  say((await said).code, (await sql`select 1 as a`)[0].a);
  await sql.end();
  await watcher.end();
}

async function beyondTheCache() {
  const sql = connect();
  const text = (n) => sql.unsafe(`select $1::int + ${n} as n`, [1], { prepare: true });
  for (let turn = 0; turn < 2; turn++) {
    const answers = await Promise.all(Array.from({ length: 400 }, (_, n) => text(n)));
    say(answers.reduce((sum, [{ n }]) => sum + n, 0));
  }
  const inOne = await sql.begin((tx) => Array.from({ length: 300 }, (_, n) => tx.unsafe(`select $1::int + ${n} as n`, [2], { prepare: true })));
  say(inOne.reduce((sum, [{ n }]) => sum + n, 0));
  await sql.end();
}

async function sessionState() {
  const sql = connect();
  await sql`set my.tenant = 'seven'`;
  say((await sql`show my.tenant`)[0]);
  await sql`create temp table pj_mine (a int)`;
  say((await failing(sql`insert into pj_mine values (1)`)).code ?? "ok");
  await sql`drop table if exists pj_mine`;
  say((await sql`select pg_try_advisory_lock(9) as locked`)[0], (await sql`select pg_advisory_unlock(9) as unlocked`)[0]);
  await sql.end();
}

async function pools() {
  const sql = connect({ max: 8 });
  const answers = await Promise.all(Array.from({ length: 400 }, (_, n) => sql`select ${n}::int as n`));
  say(answers.reduce((sum, [{ n }]) => sum + n, 0));
  await sql`drop table pj_things`;
  await sql.end();
}

// Another client of the same pool, with settings of its own: connections change hands.
async function neighbour() {
  const sql = connect();
  for (;;) {
    await sql`set search_path = neighbour`;
    await sql.begin((tx) => tx`select pg_sleep(0.003)`);
    await new Promise((done) => setTimeout(done, 3));
    await sql`reset all`;
  }
}

async function main() {
  for (let n = 0; n < 2; n++) neighbour();
  await parts([startUp, values, statements, transactions, cursors, copying, notifications, cancelling, beyondTheCache, sessionState, pools]);
  // The neighbours, and what a part that failed has left open.
  process.exit(0);
}

main();
