-- What owners have used, by day (days since 1970, UTC).
create table owner_usage (
  owner text not null,
  day integer not null,
  requests integer not null,
  row_layers integer not null,
  seconds real not null,
  primary key (owner, day)
) strict, without rowid;
