-- The event triggers, all of them: those that follow DDL and those that guard the log. They belong to no schema, so a dump of single
-- schemas leaves them out, and this makes them again.

set search_path = pg_catalog, pg_temp;

create function audit.create_event_triggers()
    returns void
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
declare
    wanted record;
begin
    for wanted in
        select *
        from (values
            ('audit_follow_ddl', 'ddl_command_end', array[
                'ALTER TABLE', 'ALTER SCHEMA', 'ALTER TYPE', 'GRANT', 'REVOKE', 'CREATE INDEX', 'CREATE STATISTICS',
                'ALTER EXTENSION', 'ALTER OPERATOR'],
                'Keeps the capture functions up to their tables.'),
            ('audit_follow_rewrite', 'table_rewrite', null,
                'Records that DDL rewrites the rows of a tracked table.'),
            ('audit_follow_drop', 'sql_drop', null,
                'Ends the tracking of dropped tables.'),
            ('audit_follow_partitions', 'ddl_command_end', array['ALTER TABLE', 'CREATE TABLE', 'CREATE SCHEMA'],
                'Keeps the triggers on the partitions of tracked tables.'),
            ('audit_follow_identity', 'ddl_command_end', array['ALTER TABLE', 'CREATE TABLE'],
                'Keeps tables that the witness looks at open to UPDATE and DELETE.'),
            ('audit_guard_alteration', 'ddl_command_end', array[
                'ALTER TABLE', 'ALTER SCHEMA', 'CREATE TRIGGER', 'ALTER TRIGGER', 'CREATE RULE', 'ALTER RULE',
                'CREATE POLICY', 'ALTER POLICY', 'ALTER FUNCTION', 'ALTER ROUTINE',
                'CREATE TABLE', 'CREATE VIEW', 'ALTER VIEW'],
                'Keeps the log''s guards in place.'),
            ('audit_guard_rewrite', 'table_rewrite', null,
                'Keeps entries from being rewritten by DDL.'),
            ('audit_guard_drop', 'sql_drop', null,
                'Keeps the log and the days that retention keeps.')) w(name, event, tags, comment)
    loop
        if not exists (select from pg_event_trigger where evtname = wanted.name) then
            execute format('create event trigger %I on %s %s execute function audit.%I()', wanted.name, wanted.event,
                           (select format('when tag in (%s)', string_agg(quote_literal(t.tag), ', '))
                            from unnest(wanted.tags) t(tag) having count(*) > 0),
                           substr(wanted.name, length('audit_') + 1));
            execute format('comment on event trigger %I is %L', wanted.name, wanted.comment);
        end if;
        execute format('alter event trigger %I enable always', wanted.name);
    end loop;
end
$function$;
comment on function audit.create_event_triggers() is
    'Makes the log''s event triggers that are missing, and enables all of them, ALWAYS. Takes a superuser. For after a restore of single schemas.';

do $event_triggers$
begin
    if (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then
        perform audit.create_event_triggers();
    else
        raise notice 'event triggers need a superuser and were left out: after DDL on a tracked table capture goes on more slowly until "daybook maintain" compiles it anew, and the owner of the log is held back by its triggers alone, which he can disable';
    end if;
end
$event_triggers$;
