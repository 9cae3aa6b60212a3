-- A database with one of everything that a mirror has to carry. Runs as the superuser, in pieces
-- that each may use what stands before.
CREATE ROLE zoo_owner LOGIN PASSWORD 'owner';
CREATE ROLE zoo_reader NOLOGIN;
CREATE ROLE "Zoo Keeper" LOGIN PASSWORD 'keeper' IN ROLE zoo_reader CONNECTION LIMIT 7 VALID UNTIL '2099-01-01';
CREATE ROLE zoo_policy LOGIN PASSWORD 'policy';
CREATE ROLE zoo_default NOLOGIN;
CREATE ROLE zoo_stranger LOGIN PASSWORD 'stranger';
ALTER ROLE "Zoo Keeper" SET search_path TO "$user", "Odd Schema", public;
ALTER ROLE "Zoo Keeper" SET my.tenant TO 'it''s';
ALTER ROLE zoo_owner SET work_mem TO '8MB';
GRANT zoo_reader TO zoo_owner WITH ADMIN OPTION;
GRANT pg_monitor TO zoo_owner;

CREATE EXTENSION pgcrypto;
CREATE EXTENSION citext;
CREATE SCHEMA ext;
CREATE EXTENSION hstore WITH SCHEMA ext;
CREATE EXTENSION btree_gist;

CREATE SCHEMA "Odd Schema" AUTHORIZATION zoo_owner;
COMMENT ON SCHEMA "Odd Schema" IS 'it''s odd';
GRANT USAGE ON SCHEMA "Odd Schema" TO zoo_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE zoo_owner IN SCHEMA "Odd Schema" GRANT SELECT ON TABLES TO zoo_default;
ALTER DEFAULT PRIVILEGES FOR ROLE zoo_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

CREATE TYPE mood AS ENUM ('sad', 'ok', 'ha"ppy');
CREATE TYPE point3 AS (x float8, y float8, z float8);
CREATE TYPE holder AS (m mood, p point3, tags text[]);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN short_tags AS text[] CHECK (array_length(VALUE, 1) < 10);
CREATE TYPE span AS RANGE (subtype = float8);
CREATE COLLATION german (provider = icu, locale = 'de-DE');
CREATE TEXT SEARCH CONFIGURATION zoo_search (COPY = simple);

CREATE FUNCTION add_one(n int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT n + 1';
CREATE FUNCTION tricky() RETURNS text LANGUAGE plpgsql AS $f$
BEGIN
  -- CREATE EVENT TRIGGER x; "quoted"; $$ not an end $$
  RETURN 'ALTER TABLE public.t OWNER TO nobody;';
END $f$;
CREATE PROCEDURE nothing() LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE my_sum(int) (sfunc = int4pl, stype = int, initcond = '0');
CREATE FUNCTION mood_eq(mood, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1::text = $2';
CREATE OPERATOR ~~~ (LEFTARG = mood, RIGHTARG = text, FUNCTION = mood_eq);
CREATE FUNCTION mood_of(int) RETURNS mood LANGUAGE sql IMMUTABLE AS $$ SELECT 'ok'::public.mood $$;
CREATE CAST (int AS mood) WITH FUNCTION mood_of(int) AS ASSIGNMENT;

CREATE TABLE every_type (
  id bigint GENERATED ALWAYS AS IDENTITY (START 100 INCREMENT 5) PRIMARY KEY,
  a bool, b smallint, c int, d bigint, e numeric, f numeric(12,4), g real, h float8, i money,
  j text, k varchar(20), l char(7), m bytea, n date, o time, p timetz, q timestamp, r timestamptz,
  s interval, t uuid, u json, v jsonb, w xml, x inet, y cidr, z macaddr, aa macaddr8, ab bit(5),
  ac varbit, ad point, ae line, af lseg, ag box, ah path, ai polygon, aj circle, ak tsvector,
  al tsquery, am int4range, an tstzrange, ao int4multirange, ap int[], aq text[][], ar oid,
  aw pg_lsn, ax "char", ay name, ba mood, bb positive, bc short_tags,
  bd holder, be holder[], bf span, bg citext, bh ext.hstore, bi mood[], bj int8range[], bk jsonpath
);
INSERT INTO every_type (a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x, y, z, aa, ab, ac, ad, ae, af, ag,
  ah, ai, aj, ak, al, am, an, ao, ap, aq, ar, aw, ax, ay, ba, bb, bc, bd, be, bf, bg, bh, bi, bj, bk)
VALUES (true, -32768, 2147483647, -9223372036854775808, 'NaN', 12345678.9012, 'Infinity', 0.1::float8 + 0.2, '-12.34', E'tab\tnl\n\\.',
  'varchar', 'char', '\x00ff5c2e', '4713-01-01 BC', '23:59:59.999999', '12:00+05:30', 'infinity', '-infinity',
  '-1 year 2 mons -3 days 04:05:06.789', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a" : 1}', '{"a": [1, null]}', '<a>b</a>',
  '192.168.0.1/24', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', B'10101', B'1', '(1,2)', '{1,2,3}', '[(0,0),(1,1)]',
  '(1,1),(0,0)', '[(0,0),(1,1)]', '((0,0),(1,1),(1,0))', '<(0,0),1>', 'a:1 b:2A', 'a & !b', '[1,5)', '[2020-01-01,)', '{[1,2),[5,6)}',
  '{1,NULL,3}', '{{a,b},{"c d",NULL}}', 4294967295, 'FFFFFFFF/FFFFFFFF', 'x', 'name', 'ha"ppy', 5, '{a,b}',
  ROW('ok', ROW(1,2,'-Infinity')::point3, '{x}')::holder, ARRAY[ROW('sad', NULL, NULL)::holder], '[0.5,1.5)', 'CiText', 'a=>1,b=>NULL',
  '{sad,ok}', '{"[1,3)"}', '$.a[*] ? (@ > 1)'),
  (NULL,NULL,NULL,NULL,'-Infinity',NULL,'-0',NULL,NULL,'',NULL,NULL,'',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,
  NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'empty',NULL,'{}','{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE needs_text (id int PRIMARY KEY, c regclass, t regtype, acl aclitem[], p regproc);
INSERT INTO needs_text VALUES (1, 'every_type', 'mood', '{zoo_owner=r/zoo_owner}', 'add_one');
CREATE TABLE no_columns ();
INSERT INTO no_columns DEFAULT VALUES; INSERT INTO no_columns DEFAULT VALUES;
CREATE TABLE no_key (a int, b text);
INSERT INTO no_key SELECT n % 3, 'x' FROM generate_series(1, 30) n;
CREATE TABLE "Odd Schema"."Odd ""Table""" ("Id" serial PRIMARY KEY, "select" text COLLATE german, "ümlaut" int DEFAULT add_one(1));
INSERT INTO "Odd Schema"."Odd ""Table""" ("select") VALUES ('ä'), ('z');
COMMENT ON COLUMN "Odd Schema"."Odd ""Table"""."select" IS 'comment';
ALTER TABLE "Odd Schema"."Odd ""Table""" OWNER TO zoo_owner;
GRANT SELECT ("select"), UPDATE ON "Odd Schema"."Odd ""Table""" TO zoo_reader WITH GRANT OPTION;
CREATE TABLE generated (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED, gone int);
INSERT INTO generated (id, a, gone) SELECT n, n, n FROM generate_series(1, 100) n;
ALTER TABLE generated DROP COLUMN gone;
CREATE TABLE parent (id int PRIMARY KEY, boss int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent ON DELETE CASCADE, during tstzrange,
  EXCLUDE USING gist (parent WITH =, during WITH &&));
INSERT INTO parent VALUES (1, 2), (2, 1); INSERT INTO child VALUES (1, 1, '[2020-01-01,2021-01-01)'), (2, 1, '[2021-01-01,2022-01-01)');
ALTER TABLE child ADD CONSTRAINT later CHECK (id < 100) NOT VALID;
CREATE TABLE measure (at date NOT NULL, place int NOT NULL, v float8, PRIMARY KEY (at, place)) PARTITION BY RANGE (at);
CREATE TABLE measure_2020 PARTITION OF measure FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE measure_odd (v float8, place int NOT NULL, at date NOT NULL);
ALTER TABLE measure ATTACH PARTITION measure_odd FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
CREATE TABLE measure_rest PARTITION OF measure DEFAULT PARTITION BY HASH (place);
CREATE TABLE measure_rest_0 PARTITION OF measure_rest FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE measure_rest_1 PARTITION OF measure_rest FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO measure SELECT '2019-12-01'::date + n, n, n FROM generate_series(1, 1000) n;
CREATE INDEX ON measure (v) WHERE v > 5;
CREATE TABLE animal (id int PRIMARY KEY, name text);
CREATE TABLE cat (lives int) INHERITS (animal);
INSERT INTO animal VALUES (1, 'any'); INSERT INTO cat VALUES (2, 'tom', 9);
CREATE TABLE full_identity (a int, b text); ALTER TABLE full_identity REPLICA IDENTITY FULL;
CREATE TABLE index_identity (a int NOT NULL, b text); CREATE UNIQUE INDEX ii ON index_identity (a);
ALTER TABLE index_identity REPLICA IDENTITY USING INDEX ii;
CREATE TABLE big_values (id int PRIMARY KEY, v text);
ALTER TABLE big_values ALTER v SET STORAGE EXTERNAL;
INSERT INTO big_values SELECT n, repeat(md5(n::text), 1000) FROM generate_series(1, 50) n;
CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY); INSERT INTO scratch VALUES (1);
CREATE TABLE secrets (id int PRIMARY KEY, who name); INSERT INTO secrets VALUES (1, 'zoo_policy'), (2, 'other');
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON secrets FOR SELECT TO zoo_policy USING (who = current_user);
GRANT SELECT ON secrets TO zoo_policy;

CREATE VIEW v AS SELECT e.id, m.v FROM every_type e CROSS JOIN measure m;
CREATE VIEW checked WITH (security_barrier) AS SELECT * FROM parent WHERE id > 0 WITH CASCADED CHECK OPTION;
CREATE MATERIALIZED VIEW mv AS SELECT count(*) AS n FROM measure;
CREATE UNIQUE INDEX ON mv (n);
CREATE MATERIALIZED VIEW mv_of_mv AS SELECT n + 1 AS n FROM mv;
CREATE MATERIALIZED VIEW mv_empty AS SELECT 1 AS n WITH NO DATA;
CREATE RULE quiet AS ON DELETE TO animal DO ALSO SELECT 1;

CREATE TABLE trig_log (id serial PRIMARY KEY, what text);
CREATE FUNCTION log_it() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO public.trig_log (what) VALUES (TG_NAME); RETURN NEW; END $$;
CREATE TABLE watched (id int PRIMARY KEY);
CREATE TRIGGER usual AFTER INSERT ON watched FOR EACH ROW EXECUTE FUNCTION log_it();
CREATE TRIGGER always AFTER INSERT OR UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION log_it();
CREATE TRIGGER replica AFTER INSERT ON watched FOR EACH ROW EXECUTE FUNCTION log_it();
CREATE TRIGGER off AFTER INSERT ON watched FOR EACH ROW EXECUTE FUNCTION log_it();
ALTER TABLE watched ENABLE ALWAYS TRIGGER always, ENABLE REPLICA TRIGGER replica, DISABLE TRIGGER off;
INSERT INTO watched SELECT generate_series(1, 10);
CREATE TRIGGER on_parts AFTER INSERT ON measure FOR EACH ROW EXECUTE FUNCTION log_it();
ALTER TABLE measure_2020 ENABLE ALWAYS TRIGGER on_parts;

CREATE SEQUENCE counter INCREMENT -3 MAXVALUE 1000 START 1000 CACHE 5;
SELECT nextval('counter');
CREATE SEQUENCE unused START 77;
CREATE SEQUENCE reset_one; SELECT setval('reset_one', 42, false);
CREATE STATISTICS st (dependencies) ON a, b FROM no_key;
CREATE FOREIGN DATA WRAPPER dummy;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER dummy OPTIONS (host 'x');
CREATE USER MAPPING FOR zoo_owner SERVER elsewhere OPTIONS (password 'p');
CREATE FOREIGN TABLE far_away (a int) SERVER elsewhere;
CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE EVENT TRIGGER zoo_ddl ON ddl_command_end EXECUTE FUNCTION on_ddl();
COMMENT ON EVENT TRIGGER zoo_ddl IS 'not carried';
CREATE PUBLICATION users_own FOR ALL TABLES WITH (publish = 'insert');
SELECT lo_create(0);
ALTER DATABASE shop SET statement_timeout = '90s';
ALTER DATABASE shop SET search_path = "Odd Schema", public;
ALTER ROLE zoo_owner IN DATABASE shop SET jit = off;
REVOKE CONNECT ON DATABASE shop FROM PUBLIC;
GRANT CONNECT ON DATABASE shop TO zoo_owner, zoo_reader;
REVOKE TEMPORARY ON DATABASE shop FROM PUBLIC;
GRANT CREATE ON DATABASE shop TO zoo_owner WITH GRANT OPTION;
COMMENT ON DATABASE shop IS 'a zoo';
