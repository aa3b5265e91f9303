-- Keys of the API. Of a token there is only its SHA-256.
create table api_key (
  id blob primary key,
  owner text not null,
  name text not null,
  sha256 blob not null unique,
  scopes text not null,
  created_ms integer not null,
  expires_ms integer,
  revoked_ms integer,
  used_ms integer,
  -- The key that this one was made to replace.
  follows blob
) strict, without rowid;

-- Counts the changes of that table: whoever keeps it in memory reads it again when this has changed.
create table api_key_changes (
  one integer primary key check (one = 1),
  count integer not null
) strict;
insert into api_key_changes (one, count) values (1, 0);
