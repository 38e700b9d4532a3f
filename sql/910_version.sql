-- The version of this schema: the head of the migrations. A migration leaves this file out, Alembic writes the row itself.

insert into audit.schema_version (version_num) values ('0001');
