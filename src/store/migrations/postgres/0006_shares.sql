-- Work claimed for owners' jobs, in microseconds divided by its weight: the lowest clock is next.
create table share (
  owner text primary key,
  clock bigint not null
);
