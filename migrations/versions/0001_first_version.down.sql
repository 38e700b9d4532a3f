-- Takes everything out of schema audit but the table that holds its version. The log is gone with it.

do $down$
declare
    command text;
begin
    -- The commands are all made before the first runs: what one drops with it, the next finds gone.
    foreach command in array
        array(select format('drop event trigger %I', evtname)
              from pg_catalog.pg_event_trigger where evtname like any (array['audit\_follow\_%', 'audit\_guard\_%']))
        || array(select format('drop policy audit_capture_counts on %s', polrelid::regclass)
                 from pg_catalog.pg_policy where polname = 'audit_capture_counts')
        || array(select format('drop view if exists audit.%I cascade', relname)
                 from pg_catalog.pg_class where relnamespace = 'audit'::regnamespace and relkind = 'v')
        || array(select format('drop table if exists audit.%I cascade', relname)
                 from pg_catalog.pg_class
                 where relnamespace = 'audit'::regnamespace and relkind in ('r', 'p') and relname <> 'schema_version')
        || array(select format('drop sequence if exists audit.%I cascade', relname)
                 from pg_catalog.pg_class where relnamespace = 'audit'::regnamespace and relkind = 'S')
        -- The triggers on the application's tables go with the functions they call.
        || array(select format('drop function if exists %s cascade', oid::regprocedure)
                 from pg_catalog.pg_proc where pronamespace = 'audit'::regnamespace)
        -- Owners of tracked tables were let into the schema.
        || array(select format('revoke all on schema audit from %s cascade', grantee::regrole)
                 from pg_catalog.pg_namespace n, aclexplode(n.nspacl)
                 where n.nspname = 'audit' and grantee not in (0, n.nspowner))
        || array['drop type if exists audit.actor_context cascade', 'drop type if exists audit.lookup cascade',
                 'drop type if exists audit.reader cascade', 'drop type if exists audit.row_column cascade',
                 'drop type if exists audit.table_span cascade', 'drop type if exists audit.row_change cascade',
                 'drop type if exists audit.search_hit cascade']
    loop
        execute command;
    end loop;
end
$down$;
