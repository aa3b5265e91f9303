-- What owners have used, by day (days since 1970, UTC).
create table owner_usage (
  owner text not null,
  day bigint not null,
  requests bigint not null,
  row_layers bigint not null,
  seconds double precision not null,
  primary key (owner, day)
);
