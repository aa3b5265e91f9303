-- Keys of the API. Of a token there is only its SHA-256.
create table api_key (
  id uuid primary key,
  owner text not null,
  name text not null,
  sha256 bytea not null unique,
  scopes text not null,
  created_ms bigint not null,
  expires_ms bigint,
  revoked_ms bigint,
  used_ms bigint,
  -- The key that this one was made to replace.
  follows uuid
);

-- Counts the changes of that table: whoever keeps it in memory reads it again when this has changed.
create table api_key_changes (
  one bigint primary key check (one = 1),
  count bigint not null
);
insert into api_key_changes (one, count) values (1, 0);
