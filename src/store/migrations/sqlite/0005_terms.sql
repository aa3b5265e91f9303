-- On what terms keys and owners have something computed; null: as the server is set. Weights are in hundredths.
alter table api_key add column weight integer;
alter table api_key add column requests integer;
alter table api_key add column jobs integer;
alter table api_key add column row_layers_day integer;

create table owner_terms (
  owner text primary key,
  weight integer,
  requests integer,
  jobs integer,
  row_layers_day integer
) strict, without rowid;

-- The key that asked for a job, and its weight then.
alter table job add column key_id blob;
alter table job add column weight integer not null default 100;

-- What keys have used, by day; `owner_usage` has it, too.
create table key_usage (
  key_id blob not null,
  day integer not null,
  requests integer not null,
  row_layers integer not null,
  seconds real not null,
  primary key (key_id, day)
) strict, without rowid;
