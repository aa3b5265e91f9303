-- Servers at work. In SQLite there is one, which holds the lock of the folder.
create table process (
  id blob primary key,
  lease_until integer not null,
  checked_ms integer not null default 0
) strict, without rowid;

-- What changes of a job with every unit. Texts, which are long, are in `request`: a changed row is written as a whole.
create table job (
  id blob primary key,
  owner text not null,
  kind text not null,
  state text not null,
  priority integer not null,
  model text not null,
  model_sha text not null,
  units_0 integer not null,
  units_1 integer not null,
  units_2 integer not null,
  -- Units below this number have been claimed at least once.
  next_unit integer not null default 0,
  -- Units below this number may be claimed: those of the phases up to the first that is not done.
  open_units integer not null,
  units_done integer not null default 0,
  max_attempts integer not null,
  retries integer not null default 0,
  estimate_s real not null,
  cost_rows integer not null default 0,
  cost_row_layers integer not null default 0,
  cost_seconds real not null default 0,
  cost_peak_bytes integer not null default 0,
  -- Number of the last event.
  events integer not null default 0,
  error text,
  keep_ms integer not null,
  created_ms integer not null,
  started_ms integer,
  finished_ms integer,
  expires_ms integer,
  idempotency_key text,
  idempotency_sha text
) strict, without rowid;
create unique index job_idempotency on job (owner, idempotency_key) where idempotency_key is not null;
create index job_owner on job (owner, id);
create index job_open on job (model_sha, priority, owner, id)
  where state in ('queued', 'running') and next_unit < open_units;
create index job_waiting on job (owner) where state = 'queued';
create index job_expiry on job (expires_ms) where expires_ms is not null and state <> 'expired';

create table request (
  job blob primary key references job (id) on delete cascade,
  request text not null,
  cut text not null
) strict;

-- Units that a process works on (with a token), or that have been given back and wait for their next try (without). Units
-- that were never claimed have no row, nor have those that are done: they are the numbers from `next_unit` and the rows of
-- `output`. So a job of 100,000 units is stored, claimed from and withdrawn as fast as one of ten.
create table unit (
  job blob not null references job (id) on delete cascade,
  seq integer not null,
  -- Tries that failed, and tries whose process was lost.
  failures integer not null default 0,
  losses integer not null default 0,
  -- Not before this, on the clock of leases.
  run_after integer not null default 0,
  token blob,
  process blob,
  primary key (job, seq)
) strict, without rowid;

create table output (
  job blob not null references job (id) on delete cascade,
  seq integer not null,
  -- Of the claim that gave it: the same commit may be said twice.
  token blob not null,
  bytes blob not null,
  primary key (job, seq)
) strict;

create table file (
  job blob not null references job (id) on delete cascade,
  name text not null,
  bytes blob not null,
  primary key (job, name)
) strict;

create table event (
  job blob not null references job (id) on delete cascade,
  seq integer not null,
  at_ms integer not null,
  kind text not null,
  data text not null,
  primary key (job, seq)
) strict, without rowid;

create table dataset (
  owner text not null,
  id text not null,
  name text,
  sha256 text not null,
  cases integer not null,
  bytes integer not null,
  created_ms integer not null,
  content blob not null,
  primary key (owner, id)
) strict;
