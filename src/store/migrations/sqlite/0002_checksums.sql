-- SHA-256 of the row's bytes or texts; null in rows from before.
alter table output add column sha256 blob;
alter table request add column sha256 blob;
