-- What must hold before anything is created: a server that is new enough, and a schema that is ours to fill.

-- In each file: what a name means must not depend on who could create functions where the installer looks first.
set search_path = pg_catalog, pg_temp;

do $requirements$
begin
    if current_setting('server_version_num')::integer < 150000 then
        raise exception 'pg_daybook needs PostgreSQL 15 or newer; this server is %', current_setting('server_version')
            using errcode = 'feature_not_supported',
                  hint = 'Upgrade the server, then install again.';
    end if;
    if to_regclass('audit.tracked_table') is not null and to_regclass('audit.entry') is not null then
        raise exception 'pg_daybook is installed in this database already'
            using errcode = 'duplicate_schema',
                  hint = 'Run "daybook migrate" to bring it up to date.';
    end if;
    -- Alembic's version table may stand alone in the schema: a downgrade leaves it, an upgrade makes it first.
    if exists (select from pg_catalog.pg_class
               where relnamespace = to_regnamespace('audit')
                 and relname not in ('schema_version', 'schema_version_pkc'))
       or exists (select from pg_catalog.pg_proc where pronamespace = to_regnamespace('audit')) then
        raise exception 'a schema named audit exists already and is not pg_daybook''s'
            using errcode = 'duplicate_schema',
                  hint = 'Rename that schema, or install pg_daybook into another database.';
    end if;
end
$requirements$;
