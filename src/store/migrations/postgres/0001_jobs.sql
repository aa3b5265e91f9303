-- Servers at work. One whose lease has run out is dead to the others.
create table process (
  id uuid primary key,
  lease_until bigint not null,
  checked_ms bigint not null default 0
);

-- What changes of a job with every unit. Texts, which are long, are in `request`: a changed row is written as a whole.
create table job (
  id uuid primary key,
  owner text not null,
  kind text not null,
  state text not null,
  priority bigint not null,
  model text not null,
  model_sha text not null,
  units_0 bigint not null,
  units_1 bigint not null,
  units_2 bigint not null,
  -- Units below this number have been claimed at least once.
  next_unit bigint not null default 0,
  -- Units below this number may be claimed: those of the phases up to the first that is not done.
  open_units bigint not null,
  units_done bigint not null default 0,
  max_attempts bigint not null,
  retries bigint not null default 0,
  estimate_s double precision not null,
  cost_rows bigint not null default 0,
  cost_row_layers bigint not null default 0,
  cost_seconds double precision not null default 0,
  cost_peak_bytes bigint not null default 0,
  -- Number of the last event.
  events bigint not null default 0,
  error text,
  keep_ms bigint not null,
  created_ms bigint not null,
  started_ms bigint,
  finished_ms bigint,
  expires_ms bigint,
  idempotency_key text,
  idempotency_sha text
);
create unique index job_idempotency on job (owner, idempotency_key) where idempotency_key is not null;
create index job_owner on job (owner, id);
create index job_open on job (model_sha, priority, owner, id)
  where state in ('queued', 'running') and next_unit < open_units;
create index job_waiting on job (owner) where state = 'queued';
create index job_expiry on job (expires_ms) where expires_ms is not null and state <> 'expired';

create table request (
  job uuid primary key references job (id) on delete cascade,
  request text not null,
  cut text not null
);

-- Units that a process works on (with a token), or that have been given back and wait for their next try (without). Units
-- that were never claimed have no row, nor have those that are done: they are the numbers from `next_unit` and the rows of
-- `output`. So a job of 100,000 units is stored, claimed from and withdrawn as fast as one of ten.
create table unit (
  job uuid not null references job (id) on delete cascade,
  seq bigint not null,
  -- Tries that failed, and tries whose process was lost.
  failures bigint not null default 0,
  losses bigint not null default 0,
  -- Not before this, on the clock of leases.
  run_after bigint not null default 0,
  token uuid,
  process uuid,
  primary key (job, seq)
);

create table output (
  job uuid not null references job (id) on delete cascade,
  seq bigint not null,
  -- Of the claim that gave it: the same commit may be said twice.
  token uuid not null,
  bytes bytea not null,
  primary key (job, seq)
);

create table file (
  job uuid not null references job (id) on delete cascade,
  name text not null,
  bytes bytea not null,
  primary key (job, name)
);

create table event (
  job uuid not null references job (id) on delete cascade,
  seq bigint not null,
  at_ms bigint not null,
  kind text not null,
  data text not null,
  primary key (job, seq)
);

create table dataset (
  owner text not null,
  id text not null,
  name text,
  sha256 text not null,
  cases bigint not null,
  bytes bigint not null,
  created_ms bigint not null,
  content bytea not null,
  primary key (owner, id)
);
