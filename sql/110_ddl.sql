-- Following DDL: functions are compiled anew in the transaction that changes their table, partitions get their triggers,
-- a dropped table loses its settings. Nothing here may fail the application's DDL: what cannot be followed is a warning,
-- the compiled function notices by itself, and audit.check() lists it.

set search_path = pg_catalog, pg_temp;

create function audit.rename_columns(names text[], renamed jsonb)
    returns text[]
    language sql
    immutable
    parallel safe
return (select array_agg(coalesce(renamed ->> n.name, n.name) order by n.position)
        from unnest(names) with ordinality n(name, position));
comment on function audit.rename_columns(text[], jsonb) is 'Names of columns after a rename, given as an object from old to new. Null for no names.';

create function audit.rename_path(path text, renamed jsonb)
    returns text
    language sql
    immutable
    parallel safe
return case
    when renamed ? path then renamed ->> path
    when renamed ? split_part(path, '.', 1)
        then (renamed ->> split_part(path, '.', 1)) || substr(path, length(split_part(path, '.', 1)) + 1)
    else path end;
comment on function audit.rename_path(text, jsonb) is 'A column or fk_column.column after a rename, given as an object from old to new.';

create function audit.tracked_relation(tracked audit.tracked_table)
    returns oid
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    candidate oid;
begin
    -- The trigger is the proof: a name may have passed to another table, an OID does not survive a restore.
    foreach candidate in array array[
        tracked.relation_oid,
        (select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname = tracked.table_schema and c.relname = tracked.table_name)]
    loop
        if exists (
            select from pg_trigger t
            where t.tgrelid = candidate and t.tgfoid = audit.capture_function(tracked.id)) then
            return candidate;
        end if;
    end loop;
    return null;
end
$function$;
comment on function audit.tracked_relation(audit.tracked_table) is
    'The table that carries the capture triggers of these settings. Null: none does.';

create function audit.follow_table(tracked_id bigint, command text)
    returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set quote_all_identifiers = 'off'
as $function$
declare
    tracked audit.tracked_table;
    relation oid;
    renamed jsonb;
    shape_before jsonb;
    is_changed boolean;
    is_renamed boolean;
    is_restored boolean;
begin
    -- Never a wait: another transaction that holds the row may wait for the very table that is being altered here. What is left
    -- out now shows in the fingerprint at the next write, and upkeep compiles it.
    select * into tracked from audit.tracked_table where id = tracked_id for update skip locked;
    relation := audit.tracked_relation(tracked);
    if tracked.id is null or relation is null then
        return false;
    end if;
    shape_before := tracked.column_numbers;
    -- The number of a dropped column is never given again: where one is in use this is another table, which a restore gave the
    -- same number, and its columns' numbers tell nothing of renames.
    if exists (select from pg_attribute a
               where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
                 and a.attnum not in (select n.value::smallint from jsonb_each_text(shape_before) n)
                 and a.attnum < (select max(n.value::smallint) from jsonb_each_text(shape_before) n)) then
        tracked.relation_oid := 0;
    end if;
    is_restored := relation <> tracked.relation_oid;
    select coalesce(jsonb_object_agg(n.key, a.attname), '{}') into renamed
    from jsonb_each_text(tracked.column_numbers) n
    join pg_attribute a on a.attrelid = relation and a.attnum = n.value::smallint and not a.attisdropped
    where a.attname <> n.key and not is_restored;

    update audit.tracked_table t
    set table_schema = n.nspname,
        table_name = c.relname,
        resource_type_column = audit.rename_path(t.resource_type_column, renamed),
        resource_id_columns = audit.rename_columns(t.resource_id_columns, renamed),
        resource_name_column = audit.rename_path(t.resource_name_column, renamed),
        subject_column = audit.rename_path(t.subject_column, renamed),
        workspace_column = audit.rename_path(t.workspace_column, renamed),
        soft_delete_column = audit.rename_path(t.soft_delete_column, renamed),
        -- A name whose column was dropped stays: should it come back, it is still excluded.
        excluded_columns = coalesce(audit.rename_columns(t.excluded_columns, renamed), '{}')
            || case when is_restored then audit.unfollowed_columns(tracked, relation) else '{}' end,
        redacted_columns = coalesce(audit.rename_columns(t.redacted_columns, renamed), '{}'),
        column_events = (
            select jsonb_object_agg(e.key, to_jsonb(audit.rename_columns(array(select jsonb_array_elements_text(e.value)), renamed)))
            from jsonb_each(t.column_events) e)
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where t.id = tracked_id and c.oid = relation
    returning (t.table_schema, t.table_name) is distinct from (tracked.table_schema, tracked.table_name) into is_renamed;

    is_changed := audit.compile_tracking(tracked_id, relation);
    perform audit.let_owner_attach(tracked_id, relation);
    if is_changed or is_renamed then
        select * into tracked from audit.tracked_table where id = tracked_id;
        -- A restore gives a table another number and closes the gaps of dropped columns; what it compiles anew was not altered.
        if is_renamed
           or (is_restored and array(select jsonb_object_keys(shape_before) order by 1)
                               <> array(select jsonb_object_keys(tracked.column_numbers) order by 1))
           or (not is_restored and (shape_before <> tracked.column_numbers or command = 'ALTER TABLE')) then
            perform audit.write_event('table_altered', format('%I.%I', tracked.table_schema, tracked.table_name), tracked.workspace,
                jsonb_build_object('command', command, 'renamed_columns', renamed,
                    'added_columns', (select coalesce(jsonb_agg(k order by k), '[]') from jsonb_object_keys(tracked.column_numbers) k
                                      where not shape_before ? k and k not in (select jsonb_each_text.value from jsonb_each_text(renamed))),
                    'dropped_columns', (select coalesce(jsonb_agg(k order by k), '[]') from jsonb_object_keys(shape_before) k
                                        where not tracked.column_numbers ? k and not renamed ? k)));
        end if;
    end if;
    return is_changed;
end
$function$;
comment on function audit.follow_table(bigint, text) is
    'Brings settings and capture function of one tracked table up to its table as it is now. A real change is recorded as table_altered by the given command. Returns whether the function changed.';

create function audit.follow_tables(touched oid[], command text)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    tracked_id bigint;
    -- As pg_restore and psql with a dump set it, and hardly anybody else.
    is_restoring constant boolean := not current_setting('check_function_bodies')::boolean;
begin
    for tracked_id in
        select t.id
        from audit.tracked_table t
        left join pg_class c on c.oid = t.relation_oid
        left join pg_namespace n on n.oid = c.relnamespace
        where t.relation_oid = any(touched)
           -- A rename in a parent, or in the type of a typed table, renames the columns of those that inherit it.
           or exists (select from pg_inherits h where h.inhrelid = t.relation_oid and h.inhparent = any(touched))
           or (command = 'ALTER TYPE' and c.reloftype <> 0)
           or (n.nspname, c.relname) is distinct from (t.table_schema::name, t.table_name::name)
           or (concat(t.workspace_column, t.resource_name_column, t.subject_column) like '%.%'
               -- A schema, extension or operator that moved stands in the compiled text; what else made a lookup readable or
               -- unreadable (GRANT names no object) shows in the lookup itself.
               and (command in ('ALTER SCHEMA', 'ALTER EXTENSION', 'ALTER OPERATOR')
                    or (command <> 'ALTER TABLE' and audit.readable_paths(t, t.relation_oid) <> t.readable_paths)
                    or exists (select from pg_constraint f
                               where f.conrelid = t.relation_oid and f.contype = 'f' and f.confrelid = any(touched))))
        order by t.id
    loop
        -- Where the log is an extension this runs while its tables are restored: what a lookup reads is not there yet. A table
        -- that came in a restore is compiled anew by upkeep, or by the first command of another session.
        continue when is_restoring and exists (
            select from audit.tracked_table t where t.id = tracked_id and audit.tracked_relation(t) is distinct from t.relation_oid);
        begin
            perform audit.follow_table(tracked_id, command);
        exception when others then
            raise warning 'pg_daybook could not follow % for tracked table number %: %', command, tracked_id, sqlerrm
                using hint = 'Writes go on. "select * from audit.check()" shows what to do.';
        end;
    end loop;
end
$function$;
comment on function audit.follow_tables(oid[], text) is
    'Follows a DDL command: the given relations, the tables that look names or workspaces up in them, and those that the command moved.';

create function audit.follow_ddl()
    returns event_trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    touched oid[];
begin
    select coalesce(array_agg(objid), '{}') into touched
    from pg_event_trigger_ddl_commands()
    where classid = 'pg_class'::regclass and schema_name is distinct from 'pg_temp';
    perform audit.follow_tables(touched, tg_tag);
end
$function$;
comment on function audit.follow_ddl() is 'Event trigger: compiles capture functions anew when their tables, or those they look things up in, change.';

create function audit.follow_drop()
    returns event_trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set quote_all_identifiers = 'off'
as $function$
declare
    tracked audit.tracked_table;
    touched oid[];
begin
    for tracked in
        -- By number or by name: after a restore the number is another one, after a rename nobody followed the name.
        select t.*
        from pg_event_trigger_dropped_objects() d
        join audit.tracked_table t
            on t.relation_oid = d.objid or (t.table_schema, t.table_name) = (d.schema_name, d.object_name)
        where d.classid = 'pg_class'::regclass and d.objsubid = 0 and d.object_type = 'table' and not d.is_temporary
          -- The proof: no table carries its triggers any more.
          and not exists (select from pg_trigger g where g.tgfoid = audit.capture_function(t.id))
    loop
        begin
            delete from audit.tracked_table where id = tracked.id;
            execute format('drop function if exists audit.%I()', 'capture_' || tracked.id);
            perform audit.keep_lookups(tracked.id, null, '{}');
            perform audit.write_event('table_dropped', format('%I.%I', tracked.table_schema, tracked.table_name), tracked.workspace,
                                      jsonb_build_object('command', tg_tag));
        exception when others then
            raise warning 'pg_daybook could not end the tracking of %.%: %', tracked.table_schema, tracked.table_name, sqlerrm
                using hint = '"select * from audit.check()" shows what to do.';
        end;
    end loop;
    select coalesce(array_agg(objid), '{}') into touched
    from pg_event_trigger_dropped_objects()
    where classid = 'pg_class'::regclass and not is_temporary;
    -- ALTER TABLE is followed at its end, when the whole command is done.
    if tg_tag <> 'ALTER TABLE' and touched <> '{}' then
        perform audit.follow_tables(touched, tg_tag);
    end if;
end
$function$;
comment on function audit.follow_drop() is 'Event trigger: a dropped tracked table loses its settings and leaves an entry.';

create function audit.follow_partitions()
    returns event_trigger
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
-- Runs as whoever gives the DDL command: only a table's owner may put triggers on it.
declare
    tracked record;
    members oid[];
    partition oid;
    trigger_name name;
begin
    for tracked in
        select distinct root.oid as root, p.oid as function_oid, p.proname::text as function_name
        from pg_event_trigger_ddl_commands() d
        cross join lateral (select coalesce(pg_partition_root(d.objid::regclass)::oid, d.objid) as oid) root
        join pg_trigger t on t.tgrelid = root.oid and t.tgname = 'audit_insert'
        join pg_proc p on p.oid = t.tgfoid
        join pg_namespace n on n.oid = p.pronamespace and n.nspname = 'audit'
        join pg_class c on c.oid = root.oid and c.relkind = 'p'
        where d.classid = 'pg_class'::regclass and p.proname like 'capture\_%'
    loop
        -- By the catalogue: pg_partition_tree() locks each partition, and so meets in a deadlock with DDL on another one.
        with recursive tree(relid) as (
            select tracked.root
            union all
            select i.inhrelid from tree join pg_inherits i on i.inhparent = tree.relid and not i.inhdetachpending
        )
        select array_agg(relid) into members from tree;
        for partition in
            select relid from unnest(members) tree(relid)
            where not exists (select from pg_trigger t where t.tgrelid = tree.relid and t.tgfoid = tracked.function_oid)
        loop
            begin
                perform audit.create_capture_triggers(partition, tracked.function_name);
            exception when others then
                raise warning 'pg_daybook could not put its triggers on partition %: %', partition::regclass, sqlerrm
                    using hint = '"select * from audit.check()" shows what to do.';
            end;
        end loop;
        -- A partition that was detached is a table of its own.
        for partition, trigger_name in
            select t.tgrelid, t.tgname from pg_trigger t
            where t.tgfoid = tracked.function_oid
              and t.tgrelid <> all(members)
        loop
            begin
                execute format('drop trigger %I on %s', trigger_name, partition::regclass);
            exception when others then
                raise warning 'pg_daybook could not take its triggers off %: %', partition::regclass, sqlerrm;
            end;
        end loop;
    end loop;
end
$function$;
comment on function audit.follow_partitions() is 'Event trigger: new partitions of a tracked table get its triggers, detached ones lose them.';
