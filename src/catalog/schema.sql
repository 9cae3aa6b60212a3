-- Sent as one message, hence one transaction. Additions to a table that exists come as
-- ALTER TABLE ... ADD COLUMN IF NOT EXISTS below it, so that older schemas grow.
SET LOCAL client_min_messages = warning;
SELECT pg_catalog.pg_advisory_xact_lock(7161398271);
CREATE SCHEMA IF NOT EXISTS cloud_mirror;
-- Everyone may read, and nothing more: pg_dump locks and copies every table of the database, and an
-- owner who is no superuser has to be able to dump it as before.
REVOKE ALL ON SCHEMA cloud_mirror FROM PUBLIC;
GRANT USAGE ON SCHEMA cloud_mirror TO PUBLIC;

-- At most one row: who may write to this database, and what the fence changed to enforce it.
CREATE TABLE IF NOT EXISTS cloud_mirror.fence (
  only_row bool PRIMARY KEY DEFAULT true CHECK (only_row),
  epoch bigint NOT NULL,
  state text NOT NULL CHECK (state IN ('open', 'fenced')),
  connection_limit int,
  superusers text[] NOT NULL DEFAULT '{}',
  changed_at timestamptz NOT NULL DEFAULT pg_catalog.now());

-- On the target: one row per mirror, updated in every transaction that is applied.
CREATE TABLE IF NOT EXISTS cloud_mirror.progress (
  mirror text PRIMARY KEY,
  epoch bigint NOT NULL,
  phase text NOT NULL CHECK (phase IN ('bootstrapping', 'streaming', 'following', 'promoted')),
  source_system text NOT NULL,
  source_timeline int NOT NULL,
  source_database text NOT NULL,
  slot text NOT NULL,
  lsn pg_catalog.pg_lsn NOT NULL,
  committed_at timestamptz,
  updated_at timestamptz NOT NULL DEFAULT pg_catalog.now());
-- A row that is updated with every transaction stays on its page as a heap-only tuple.
ALTER TABLE cloud_mirror.progress SET (fillfactor = 10, autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- On the target: what the poll of the source's sequences saw last.
CREATE TABLE IF NOT EXISTS cloud_mirror.sequences (
  mirror text NOT NULL,
  schema_name text NOT NULL,
  sequence_name text NOT NULL,
  last_value bigint NOT NULL,
  is_called bool NOT NULL,
  increment bigint NOT NULL,
  per_second double precision NOT NULL DEFAULT 0,
  polled_at timestamptz NOT NULL,
  PRIMARY KEY (mirror, schema_name, sequence_name));

-- On the target, at most one row: who could connect before the application was shut out.
CREATE TABLE IF NOT EXISTS cloud_mirror.door (
  only_row bool PRIMARY KEY DEFAULT true CHECK (only_row),
  public_could_connect bool NOT NULL,
  grantees text[] NOT NULL DEFAULT '{}');
ALTER TABLE cloud_mirror.door ADD COLUMN IF NOT EXISTS grantable text[] NOT NULL DEFAULT '{}';

-- On the target: triggers the bootstrap switched off, and how they were enabled before.
CREATE TABLE IF NOT EXISTS cloud_mirror.triggers (
  schema_name text NOT NULL,
  table_name text NOT NULL,
  trigger_name text NOT NULL,
  enabled "char" NOT NULL,
  PRIMARY KEY (schema_name, table_name, trigger_name));

-- On the target: rows updated or deleted on the source in tables without identity, and the
-- source's counter when it was read last.
CREATE TABLE IF NOT EXISTS cloud_mirror.not_followed (
  mirror text PRIMARY KEY,
  rows bigint NOT NULL,
  seen bigint NOT NULL);

REVOKE ALL ON ALL TABLES IN SCHEMA cloud_mirror FROM PUBLIC;
GRANT SELECT ON ALL TABLES IN SCHEMA cloud_mirror TO PUBLIC;
