-- The version of this schema: the head of the migrations. A migration leaves this file out, Alembic writes the row itself.

set search_path = pg_catalog, pg_temp;

insert into audit.schema_version (version_num) values ('0001');
reset search_path;
