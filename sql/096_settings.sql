-- What enable_tracking needs done: triggers with the caller's rights; settings and function, with the log's own, in definer
-- functions that want proof of ownership.

set search_path = pg_catalog, pg_temp;

create function audit.create_capture_triggers(relation oid, function_name text)
    returns void
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
declare
    definition text;
    trigger_name text;
    schema_name text;
    lock_timeout_before constant text := current_setting('lock_timeout');
    -- Qualified: nothing that can be tracked lies on this function's search_path.
    target constant text := relation::regclass;
begin
    foreach definition in array array[
        'audit_insert after insert on %s referencing new table as audit_new_rows',
        'audit_update after update on %s referencing old table as audit_old_rows new table as audit_new_rows',
        'audit_delete after delete on %s referencing old table as audit_old_rows',
        'audit_truncate before truncate on %s']
    loop
        trigger_name := split_part(definition, ' ', 1);
        if exists (select from pg_trigger t join pg_proc p on p.oid = t.tgfoid
                   where t.tgrelid = relation and t.tgname = trigger_name
                     and not (p.pronamespace = 'audit'::regnamespace and p.proname ~ '^capture_[0-9]+$')) then
            raise exception 'table % has a trigger % of its own', target, trigger_name
                using errcode = 'duplicate_object', hint = 'Rename that trigger; pg_daybook needs the name.';
        end if;
        execute format('create or replace trigger ' || definition || ' for each statement execute function audit.%I()',
                       target, function_name);
        execute format('alter table %s enable always trigger %I', target, trigger_name);
    end loop;
    -- MERGE on a partitioned table hands on the row that it inserted last as the new row of an update that follows, unless its
    -- partitions have a BEFORE ROW trigger for INSERT (PostgreSQL 15 to 18). This one never fires; partitions have it from here.
    if (select c.relkind = 'p' and not c.relispartition from pg_class c where c.oid = relation) then
        execute format('create or replace trigger audit_merge before insert on %s for each row when (false) execute function audit.%I()',
                       target, function_name);
        execute format('alter table %s enable always trigger audit_merge', target);
    end if;
    -- TRUNCATE is counted by the capturing role: it reads what it captures anyway, and nothing else of the schema.
    if not has_table_privilege('audit_capture', relation, 'select') then
        execute format('grant select on %s to audit_capture', target);
    end if;
    select n.nspname into schema_name
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid = relation and pg_has_role(current_user, n.nspowner, 'usage')
      and not has_schema_privilege('audit_capture', n.oid, 'usage');
    if schema_name is not null then
        -- Another transaction that grants in this schema is not waited for: DDL must not meet it in a deadlock over the log. What it
        -- grants serves here too; else a TRUNCATE is counted by estimate.
        begin
            perform set_config('lock_timeout', '100ms', true);
            execute format('grant usage on schema %I to audit_capture', schema_name);
            perform set_config('lock_timeout', lock_timeout_before, true);
        exception when lock_not_available or internal_error then
            null;
        end;
    end if;
end
$function$;
comment on function audit.create_capture_triggers(oid, text) is
    'Puts the four capture triggers on one table or partition, ENABLE ALWAYS. Needs ownership of it.';

create function audit.partitions_of(relation oid)
    returns setof oid
    language sql
    stable
begin atomic
    select relid::oid from pg_catalog.pg_partition_tree(relation::regclass)
    union
    select relation;
end;
comment on function audit.partitions_of(oid) is 'A table and all partitions below it.';

create function audit.is_tracked(relation oid)
    returns boolean
    language sql
    stable
begin atomic
    select exists (
        select from pg_catalog.pg_trigger t
        join pg_catalog.pg_proc p on p.oid = t.tgfoid
        where t.tgrelid = relation and p.pronamespace = 'audit'::regnamespace and p.proname ~ '^capture_[0-9]+$');
end;
comment on function audit.is_tracked(oid) is 'Whether a table carries capture triggers of the log.';

create function audit.admit_to_schema(role_name name)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
begin
    execute format('grant usage on schema audit to %I', role_name);
end
$function$;
comment on function audit.admit_to_schema(name) is
    'Grants usage of schema audit in the name of the schema''s owner: a grant in another name would outlast DROP OWNED.';

create function audit.let_owner_attach(tracked_id bigint, relation oid)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    function_name constant text := 'capture_' || tracked_id;
    owner constant name := (select r.rolname from pg_class c join pg_roles r on r.oid = c.relowner where c.oid = relation);
begin
    if has_schema_privilege(owner, 'audit', 'usage')
       and has_function_privilege(owner, format('audit.%I()', function_name), 'execute')
       and has_function_privilege(owner, 'audit.create_capture_triggers(oid, text)', 'execute') then
        return;
    end if;
    perform audit.admit_to_schema(owner);
    execute format('grant execute on function audit.%I(), audit.create_capture_triggers(oid, text), audit.partitions_of(oid) to %I',
                   function_name, owner);
end
$function$;
comment on function audit.let_owner_attach(bigint, oid) is
    'Gives a tracked table''s owner what it takes to put its triggers on partitions that come later.';

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

create function audit.find_tracking(relation oid)
    returns audit.tracked_table
    language sql
    stable
    set search_path = pg_catalog, pg_temp
begin atomic
    select t.*
    from audit.tracked_table t
    join pg_catalog.pg_class c on c.oid = relation
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    cross join lateral (select audit.tracked_relation(t) as oid) carrier
    cross join lateral (select (t.table_schema, t.table_name) = (n.nspname, c.relname) as is_same) name
    where carrier.oid = relation
       or carrier.oid is null and (name.is_same or t.relation_oid = relation)
    order by carrier.oid is null, not name.is_same, t.id
    limit 1;
end;
comment on function audit.find_tracking(oid) is
    'The settings whose triggers the table carries; else those of its name or number, if no other table carries theirs: a name may have passed to another table unseen. Null: none.';

create function audit.free_table_name(relation oid, tracked_id bigint)
    returns void
    language sql
    volatile
    set search_path = pg_catalog, pg_temp
begin atomic
    update audit.tracked_table t
    set table_name = format('%s (%s)', t.table_name, t.id)
    where t.id in (
        select o.id
        from audit.tracked_table o
        join pg_catalog.pg_class c on c.oid = relation
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where o.id is distinct from tracked_id and (o.table_schema, o.table_name) = (n.nspname, c.relname)
        for update of o skip locked);
end;
comment on function audit.free_table_name(oid, bigint) is
    'Settings of another table, or of one that is gone, give up the name of this one, which passed to it unseen. What table they belong to is found when they are followed.';

create function audit.store_tracking(relation oid, settings jsonb)
    returns text
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set quote_all_identifiers = 'off'
as $function$
declare
    schema_name constant text := (select n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation);
    relation_name constant text := (select relname from pg_class where oid = relation);
    known audit.tracked_table;
    tracked audit.tracked_table;
    function_name text;
begin
    perform audit.require_owner(relation);
    -- Checked here and by the table's constraints, whoever calls: names of events are what readers trust.
    perform audit.refuse_bad_events(relation, nullif(settings -> 'events', 'null'), nullif(settings -> 'column_events', 'null'));
    -- One at a time: the grants below write to the schema's own row. An advisory lock would be anybody's to take.
    lock table audit.tracked_table in share update exclusive mode;
    if not exists (select from audit.day_partition where is_beyond) then
        perform audit.prepare_days();
    end if;

    known := audit.find_tracking(relation);
    perform audit.free_table_name(relation, known.id);
    if known.id is null then
        insert into audit.tracked_table (table_schema, table_name, kind, max_value_bytes, missing_actor, resource_id_columns, relation_oid)
        values (schema_name, relation_name, 'resource', 65536, 'system', null, relation)
        returning * into tracked;
    else
        tracked := known;
    end if;
    update audit.tracked_table t
    set table_schema = schema_name,
        table_name = relation_name,
        kind = settings ->> 'kind',
        resource_type = settings ->> 'resource_type',
        resource_type_column = settings ->> 'resource_type_column',
        resource_id_columns = (select array_agg(e) from jsonb_array_elements_text(nullif(settings -> 'resource_id_columns', 'null')) e),
        resource_name_column = settings ->> 'resource_name_column',
        subject_column = settings ->> 'subject_column',
        workspace = settings ->> 'workspace',
        workspace_column = settings ->> 'workspace_column',
        workspace_setting = settings ->> 'workspace_setting',
        events = nullif(settings -> 'events', 'null'),
        column_events = nullif(settings -> 'column_events', 'null'),
        soft_delete_column = settings ->> 'soft_delete_column',
        excluded_columns = array(select jsonb_array_elements_text(settings -> 'excluded_columns')),
        redacted_columns = array(select jsonb_array_elements_text(settings -> 'redacted_columns')),
        max_value_bytes = (settings ->> 'max_value_bytes')::integer,
        missing_actor = settings ->> 'missing_actor'
    where t.id = tracked.id
    returning * into tracked;

    function_name := 'capture_' || tracked.id;
    perform audit.compile_tracking(tracked.id, relation);
    -- Capture runs as a role that may insert entries and nothing else. To give it a function takes CREATE on the schema,
    -- for as long as this transaction has not ended: nobody else ever sees it granted.
    if (select proowner from pg_proc where oid = audit.capture_function(tracked.id)) <> 'audit_capture'::regrole then
        grant create on schema audit to audit_capture;
        execute format('alter function audit.%I() owner to audit_capture', function_name);
        revoke create on schema audit from audit_capture;
    end if;
    perform audit.let_owner_attach(tracked.id, relation);

    if known.id is null then
        perform audit.write_event('tracking_enabled', format('%I.%I', schema_name, relation_name), tracked.workspace, settings);
    elsif to_jsonb(known) - '{compiled_digest,column_numbers,column_types,relation_oid,readable_paths}'::text[]
          <> (select to_jsonb(t) - '{compiled_digest,column_numbers,column_types,relation_oid,readable_paths}'::text[] from audit.tracked_table t where t.id = tracked.id) then
        perform audit.write_event('tracking_changed', format('%I.%I', schema_name, relation_name), tracked.workspace, settings);
    end if;
    return function_name;
end
$function$;
comment on function audit.store_tracking(oid, jsonb) is
    'For enable_tracking: keeps the settings, compiles the capture function and records the event. Raises 42501 unless the caller owns the table. Returns the function''s name.';

create function audit.is_as_compiled(tracked audit.tracked_table)
    returns boolean
    language sql
    stable
begin atomic
    select exists (
        select from pg_catalog.pg_proc p
        where p.oid = audit.capture_function(tracked.id) and md5(p.prosrc) = tracked.compiled_digest and p.prosecdef
          and p.proconfig @> array['search_path=pg_catalog, pg_temp', 'row_security=on']);
end;
comment on function audit.is_as_compiled(audit.tracked_table) is
    'Whether a table''s capture function is still what compile_tracking made of it. False too when there is none.';

create function audit.compile_tracking(tracked_id bigint, relation oid)
    returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set quote_all_identifiers = 'off'
as $function$
declare
    tracked audit.tracked_table;
    body text;
    paths text[];
    function_name constant text := 'capture_' || tracked_id;
    is_new constant boolean := audit.capture_function(tracked_id) is null;
begin
    -- Two compilations of one table at once would end in "tuple concurrently updated".
    select * into strict tracked from audit.tracked_table where id = tracked_id for update;
    -- First, so that the event trigger which the commands below fire finds nothing left to do, and so that the numbers of a
    -- restored table's columns are not taken for those of the table it was.
    update audit.tracked_table t
    set readable_paths = audit.readable_paths(tracked, relation),
        relation_oid = relation,
        column_numbers = coalesce((select jsonb_object_agg(a.attname, a.attnum)
                          from pg_attribute a
                          where a.attrelid = relation and a.attnum > 0 and not a.attisdropped), '{}'),
        column_types = audit.types_by_number(relation)
    where t.id = tracked_id
    returning t.readable_paths into paths;
    perform audit.keep_lookups(tracked_id, relation, paths);
    body := audit.function_sql(tracked, relation);
    if md5(body) = tracked.compiled_digest and relation = tracked.relation_oid and audit.is_as_compiled(tracked) then
        return false;
    end if;
    update audit.tracked_table t
    set compiled_digest = md5(body)
    where t.id = tracked_id;
    execute format($sql$
create or replace function audit.%I()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    %s
as %L$sql$, function_name,
        (select string_agg(format('set %s = %L', split_part(n, ' = ', 1), split_part(n, ' = ', 2)), ' ') from unnest(audit.needed_settings(tracked, relation)) n),
        body);
    if is_new then
        execute format('revoke all on function audit.%I() from public', function_name);
    end if;
    execute format('comment on function audit.%I() is %L', function_name,
                   format('Captures %I.%I. Compiled by audit.enable_tracking; compiled anew when the table changes.',
                          tracked.table_schema, tracked.table_name));
    return true;
end
$function$;
comment on function audit.compile_tracking(bigint, oid) is
    'Makes a tracked table''s capture function from its settings and the catalogue as they are now. Returns whether it changed.';

create function audit.remove_tracking(relation oid)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set quote_all_identifiers = 'off'
as $function$
declare
    tracked audit.tracked_table;
begin
    perform audit.require_owner(relation);
    tracked := audit.find_tracking(relation);
    if tracked.id is not null then
        delete from audit.tracked_table t where t.id = tracked.id;
        execute format('drop function if exists audit.%I()', 'capture_' || tracked.id);
        perform audit.keep_lookups(tracked.id, relation, '{}');
        perform audit.keep_told_shape(tracked.id, null);
        delete from audit.rewritten_table r where r.tracked_table_id = tracked.id;
        perform audit.write_event('tracking_disabled', format('%I.%I', tracked.table_schema, tracked.table_name), tracked.workspace, null);
    end if;
end
$function$;
comment on function audit.remove_tracking(oid) is
    'For disable_tracking: drops the capture function and the settings and records the event. Raises 42501 unless the caller owns the table.';
