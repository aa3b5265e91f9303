-- On what terms keys and owners have something computed; null: as the server is set. Weights are in hundredths.
alter table api_key add column weight bigint;
alter table api_key add column requests bigint;
alter table api_key add column jobs bigint;
alter table api_key add column row_layers_day bigint;

create table owner_terms (
  owner text primary key,
  weight bigint,
  requests bigint,
  jobs bigint,
  row_layers_day bigint
);

-- The key that asked for a job, and its weight then.
alter table job add column key_id uuid;
alter table job add column weight bigint not null default 100;

-- What keys have used, by day; `owner_usage` has it, too.
create table key_usage (
  key_id uuid not null,
  day bigint not null,
  requests bigint not null,
  row_layers bigint not null,
  seconds double precision not null,
  primary key (key_id, day)
);
