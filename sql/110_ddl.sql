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

create function audit.types_by_number(relation oid)
    returns jsonb
    language sql
    stable
begin atomic
    select coalesce(jsonb_object_agg(a.attnum, jsonb_build_array(a.atttypid::bigint, a.atttypmod)), '{}')
    from pg_catalog.pg_attribute a
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped;
end;
comment on function audit.types_by_number(oid) is 'The types of a table''s columns by their numbers, each as OID and modifier: names would tell a renamed type as another one.';

create function audit.retyped_columns(tracked audit.tracked_table, relation oid)
    returns jsonb
    language sql
    stable
    set search_path = pg_catalog, pg_temp
begin atomic
    select jsonb_object_agg(a.attname, jsonb_build_object(
        'from', format_type((before.value ->> 0)::bigint::oid, (before.value ->> 1)::integer),
        'to', format_type(a.atttypid, a.atttypmod)))
    from jsonb_each(tracked.column_types) before
    join pg_catalog.pg_attribute a on a.attrelid = relation and a.attnum = before.key::smallint and not a.attisdropped
    -- After a restore types of the application have other OIDs.
    where relation = tracked.relation_oid and before.value <> jsonb_build_array(a.atttypid::bigint, a.atttypmod);
end;
comment on function audit.retyped_columns(audit.tracked_table, oid) is
    'Columns whose types are not what they were when the settings were last compiled, from and to. Null: none.';

create function audit.filled_columns(tracked audit.tracked_table, relation oid, added jsonb)
    returns jsonb
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
    -- As in a capture function: how a value is written must not depend on who alters the table.
    set timezone = 'UTC'
    set datestyle = 'ISO, YMD'
    set intervalstyle = 'postgres'
    set extra_float_digits = '1'
    set bytea_output = 'hex'
as $function$
declare
    filled jsonb;
    known record;
    value jsonb;
begin
    for known in
        -- A partitioned table holds no rows: its partitions know the value. The type's output function makes the text.
        select distinct on (a.attname) a.attname as name, audit.base_type(a.atttypid) as type_oid, array_to_string(a.attmissingval, '') as written
        from audit.partitions_of(relation) p(oid)
        join pg_attribute a on a.attrelid = p.oid
        where a.atthasmissing and not a.attisdropped and added ? a.attname::text
          and a.attname <> all(tracked.excluded_columns || tracked.redacted_columns)
        order by a.attname
    loop
        -- Reading a text as a type of the application could run checks and casts of its owner.
        execute format('select %s from (select $1::%s as value) audit_v',
                       audit.value_sql('audit_v.value', case when audit.is_core_type(known.type_oid) then known.type_oid else 'text'::regtype end,
                                       tracked.max_value_bytes),
                       -- With a modifier of -1: plain character and bit would be of length 1.
                       format_type(case when audit.is_core_type(known.type_oid) then known.type_oid else 'text'::regtype end, -1))
        into value using known.written;
        filled := coalesce(filled, '{}') || jsonb_build_object(known.name, value);
    end loop;
    return filled;
end
$function$;
comment on function audit.filled_columns(audit.tracked_table, oid, jsonb) is
    'The constants that existing rows show in columns which were added with a default, as capture writes values. Excluded and redacted columns are left out. Null: none.';

create function audit.rewritten_columns(relation oid, retyped jsonb, added jsonb, filled jsonb, rewritten_since xid, is_by_type boolean)
    returns jsonb
    language sql
    stable
    set search_path = pg_catalog, pg_temp
begin atomic
    select jsonb_agg(distinct a.attname)
    from pg_catalog.pg_attribute a
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and not coalesce(filled ? a.attname::text, false)
      and case
          when added ? a.attname::text then a.atthasdef or a.attidentity <> ''
          -- Which columns a command rewrote no trigger is told: those that its transaction altered are more, never fewer.
          else coalesce(retyped ? a.attname::text, false)
              or coalesce((is_by_type or a.attgenerated <> '') and age(a.xmin) <= age(rewritten_since), false)
      end;
end;
comment on function audit.rewritten_columns(oid, jsonb, jsonb, jsonb, xid, boolean) is
    'Columns whose values in existing rows may be others since a DDL command, or came with it, without the log knowing them. Null: none.';

create function audit.columns_of_now(relation oid)
    returns jsonb
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    columns jsonb := '{}';
    name text;
begin
    -- Asked by number, the server tells a column's name as it is now, however old the snapshot. A dropped one keeps its number.
    for number in 1 .. 1600 loop
        name := (pg_identify_object_as_address('pg_class'::regclass, relation, number)).object_names[3];
        exit when name is null;
        if name <> format('........pg.dropped.%s........', number) then
            columns := columns || jsonb_build_object(name, number);
        end if;
    end loop;
    return columns;
end
$function$;
comment on function audit.columns_of_now(oid) is 'The numbers of a table''s columns by their names, as they are now and not as the snapshot shows them.';

create function audit.told_function(tracked_id bigint)
    returns oid
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
begin
    return to_regprocedure(format('audit.told_%s()', tracked_id));
end
$function$;
comment on function audit.told_function(bigint) is 'The function in which audit.keep_told_shape keeps a table''s shape. Null: there is none.';

create function audit.told_shape(tracked_id bigint, relation oid)
    returns jsonb
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    told jsonb;
begin
    if audit.told_function(tracked_id) is not null then
        execute format('select audit.%I()', 'told_' || tracked_id) into told;
    end if;
    return case when (told ->> 'relation')::bigint::oid = relation then told end;
end
$function$;
comment on function audit.told_shape(bigint, oid) is
    'The table as audit.tell_alteration last told it: columns by name, types of those that were retyped by number, names of secret ones, the table''s name. Null: it told nothing since the settings were brought up to the table.';

create function audit.keep_told_shape(tracked_id bigint, shape jsonb)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $function$
-- In a function: the server knows functions as they are now, and rows of a table only as old as the snapshot.
declare
    function_name constant text := 'told_' || tracked_id;
begin
    if shape is null then
        if audit.told_function(tracked_id) is not null then
            execute format('drop function audit.%I()', function_name);
        end if;
        return;
    end if;
    execute format('create or replace function audit.%I() returns jsonb language sql immutable set search_path = pg_catalog, pg_temp as %L',
                   function_name, format('select %L::jsonb', shape));
    execute format('revoke all on function audit.%I() from public', function_name);
    execute format('comment on function audit.%I() is %L', function_name,
                   'What the log told last of a tracked table by a transaction with an old snapshot. Upkeep drops it.');
end
$function$;
comment on function audit.keep_told_shape(bigint, jsonb) is
    'Keeps what audit.tell_alteration told for whoever alters the table next, and for upkeep. Null: forgets it.';

create function audit.compiled_columns(tracked_id bigint, relation oid)
    returns jsonb
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    written text := substring(pg_get_functiondef(audit.capture_function(tracked_id)) from '(?n)^ +if audit_shape = (E?''(?:[^'']|'''')*'') then$');
    numbers integer[];
begin
    written := replace(case when written like 'E%' then replace(substr(written, 2), '\\', '\') else written end, '''''', '''');
    -- Names in their order. What this transaction has dropped was there then, and what it has added comes last.
    select array_agg(c.number order by c.number) into numbers
    from (select value::integer as number from jsonb_each_text(audit.columns_of_now(relation))
          union
          select a.attnum from pg_attribute a
          where a.attrelid = relation and a.attnum > 0 and a.attisdropped and age(a.xmin) <= age(pg_current_xact_id()::xid)) c;
    return (select jsonb_object_agg(k.name, numbers[k.position])
            from json_object_keys(substr(written, 2, length(written) - 2)::json) with ordinality k(name, position)
            -- Fewer are there where nobody followed a DROP.
            having count(*) <= cardinality(numbers));
end
$function$;
comment on function audit.compiled_columns(bigint, oid) is
    'The numbers by name of the columns for which a table''s function is compiled now, whoever compiled it. Only for a transaction that has altered the table. Null: the function does not say.';

create function audit.is_behind(tracked_id bigint)
    returns boolean
    language sql
    stable
    set search_path = pg_catalog, pg_temp
begin atomic
    -- Of what another session replaced an old snapshot shows the former row, and two rows once this transaction replaces it too.
    select current_setting('transaction_isolation') in ('repeatable read', 'serializable')
       and (exists (
               select
               from unnest(array[audit.capture_function(tracked_id), audit.told_function(tracked_id)]) f(oid)
               left join pg_catalog.pg_proc p on p.oid = f.oid
               where f.oid is not null
               group by f.oid
               having count(p.oid) <> 1
                   or not bool_and(strpos(pg_get_functiondef(f.oid), p.prosrc) > 0)
                   or f.oid = audit.told_function(tracked_id) and bool_or(age(p.xmin) <= age(pg_current_xact_id()::xid)))
            -- TRUNCATE or CREATE INDEX is enough, which nobody follows.
            or exists (
               select from audit.tracked_table t
               join pg_catalog.pg_class c on c.oid = t.relation_oid
               where t.id = tracked_id
               having count(*) > 1));
end;
comment on function audit.is_behind(bigint) is
    'Whether another session changed what the catalogue says of a tracked table since the snapshot of this transaction. Only for a transaction that has altered it too.';

create function audit.tell_alteration(tracked_id bigint, command text)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set quote_all_identifiers = 'off'
    set lock_timeout = '100ms'
as $function$
-- Of the catalogue an old snapshot shows this transaction what it did itself, and else what was: what others did they have told.
declare
    tracked audit.tracked_table;
    relation oid;
    own constant xid := pg_current_xact_id()::xid;
    names text[];
    told jsonb;
    columns jsonb;
    shape_before jsonb;
    renamed jsonb;
    added jsonb;
    dropped jsonb;
    retyped jsonb;
    retyped_types jsonb;
    secrets text[];
    filled jsonb;
    former_name text;
    rewritten_by text;
    is_by_type boolean;
begin
    select * into tracked from audit.tracked_table where id = tracked_id;
    -- By number alone: of a table that both altered the catalogue shows two rows under the name.
    select g.tgrelid into relation from pg_trigger g
    where g.tgrelid = tracked.relation_oid and g.tgfoid = audit.capture_function(tracked_id);
    if relation is null then
        return;
    end if;
    names := (pg_identify_object_as_address('pg_class'::regclass, relation, 0)).object_names;
    columns := audit.columns_of_now(relation);
    told := audit.told_shape(tracked_id, relation);
    shape_before := coalesce(told -> 'columns', audit.compiled_columns(tracked_id, relation), tracked.column_numbers);
    tracked.column_types := tracked.column_types || coalesce(told -> 'types', '{}');
    -- Only a rename or a move writes to the type of the table's rows.
    if told is not null or exists (select from pg_type t where t.typrelid = relation and age(t.xmin) <= age(own)) then
        former_name := coalesce(told ->> 'name', format('%I.%I', tracked.table_schema, tracked.table_name));
        former_name := nullif(former_name, format('%I.%I', names[1], names[2]));
    end if;

    select coalesce(jsonb_object_agg(b.key, c.key), '{}') into renamed
    from jsonb_each(shape_before) b join jsonb_each(columns) c on c.value = b.value
    where c.key <> b.key;
    select coalesce(jsonb_agg(c.key order by c.key), '[]') into added
    from jsonb_each(columns) c where c.value not in (select b.value from jsonb_each(shape_before) b);
    select coalesce(jsonb_agg(b.key order by b.key), '[]') into dropped
    from jsonb_each(shape_before) b where b.value not in (select c.value from jsonb_each(columns) c);
    select jsonb_object_agg(a.attname, jsonb_build_object(
               'from', format_type((t.value ->> 0)::bigint::oid, (t.value ->> 1)::integer),
               'to', format_type(a.atttypid, a.atttypmod))),
           jsonb_object_agg(a.attnum, jsonb_build_array(a.atttypid::bigint, a.atttypmod))
    into retyped, retyped_types
    from jsonb_each(tracked.column_types) t
    join pg_attribute a on a.attrelid = relation and a.attnum = t.key::smallint and not a.attisdropped and age(a.xmin) <= age(own)
    where t.value <> jsonb_build_array(a.atttypid::bigint, a.atttypmod);
    with noted as (
        delete from audit.rewritten_table r where r.tracked_table_id = tracked_id returning r.by_command, r.is_by_type)
    select min(noted.by_command), bool_or(noted.is_by_type) into rewritten_by, is_by_type from noted;
    if former_name is null and retyped is null and rewritten_by is null and added = '[]' and dropped = '[]' and renamed = '{}' then
        return;
    end if;

    -- A secret column may have another name than the settings say, and a name stays secret when its column is dropped.
    secrets := array(
        select n.key
        from unnest(tracked.excluded_columns || tracked.redacted_columns) s(name)
        join (select * from jsonb_each(shape_before) union select * from jsonb_each(columns)) n on n.value = tracked.column_numbers -> s.name
        union
        select jsonb_array_elements_text(told -> 'secrets'));
    tracked.excluded_columns := tracked.excluded_columns || secrets;
    perform audit.keep_told_shape(tracked_id, jsonb_build_object(
        'relation', relation::bigint, 'columns', columns, 'name', format('%I.%I', names[1], names[2]), 'secrets', secrets,
        'types', coalesce(told -> 'types', '{}') || coalesce(retyped_types, '{}')));
    filled := audit.filled_columns(tracked, relation, added);
    perform audit.write_event('table_altered', format('%I.%I', names[1], names[2]), tracked.workspace,
        jsonb_build_object('command', coalesce(rewritten_by, command), 'renamed_columns', renamed, 'added_columns', added, 'dropped_columns', dropped)
        || jsonb_strip_nulls(jsonb_build_object(
            'former_name', former_name,
            'retyped_columns', retyped,
            'rewritten_columns', audit.rewritten_columns(relation, retyped, added, filled, case when rewritten_by is not null then own end, is_by_type),
            'rewritten', case when rewritten_by is not null then true end))
        || case when filled is null then '{}' else jsonb_build_object('filled_columns', filled) end);
end
$function$;
comment on function audit.tell_alteration(bigint, text) is
    'Records as table_altered what a transaction did to a tracked table that another session has altered since its snapshot, when it can neither read nor write the settings as they are. These, and the compiled function, upkeep brings up to the table.';

create function audit.follow_table(tracked_id bigint, command text)
    returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set quote_all_identifiers = 'off'
    set lock_timeout = '100ms'
as $function$
declare
    tracked audit.tracked_table;
    relation oid;
    renamed jsonb;
    shape_before jsonb;
    retyped jsonb;
    added jsonb;
    dropped jsonb;
    filled jsonb;
    rewritten_by text;
    rewritten_since xid;
    is_by_type boolean;
    told jsonb;
    former_name text;
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
    former_name := format('%I.%I', tracked.table_schema, tracked.table_name);
    -- The number of a dropped column is never given again: where one is in use this is another table, which a restore gave the
    -- same number, and its columns' numbers tell nothing of renames.
    if exists (select from pg_attribute a
               where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
                 and a.attnum not in (select n.value::smallint from jsonb_each_text(shape_before) n)
                 and a.attnum < (select max(n.value::smallint) from jsonb_each_text(shape_before) n)) then
        tracked.relation_oid := 0;
    end if;
    is_restored := relation <> tracked.relation_oid;
    -- What a transaction with an older snapshot told, but could not bring into the settings.
    told := case when not is_restored then audit.told_shape(tracked_id, relation) end;
    tracked.column_types := tracked.column_types || coalesce(told -> 'types', '{}');
    retyped := audit.retyped_columns(tracked, relation);
    select coalesce(jsonb_object_agg(n.key, a.attname), '{}') into renamed
    from jsonb_each_text(tracked.column_numbers) n
    join pg_attribute a on a.attrelid = relation and a.attnum = n.value::smallint and not a.attisdropped
    where a.attname <> n.key and not is_restored;

    perform audit.free_table_name(relation, tracked_id);
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
    if told is not null then
        shape_before := told -> 'columns';
        former_name := told ->> 'name';
        select former_name <> format('%I.%I', n.nspname, c.relname) into is_renamed
        from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation;
        select coalesce(jsonb_object_agg(n.key, a.attname), '{}') into renamed
        from jsonb_each_text(shape_before) n
        join pg_attribute a on a.attrelid = relation and a.attnum = n.value::smallint and not a.attisdropped
        where a.attname <> n.key;
    end if;
    perform audit.keep_told_shape(tracked_id, null);
    begin
        perform audit.let_owner_attach(tracked_id, relation);
    exception when lock_not_available or internal_error then
        -- Another transaction lets an owner in, too: upkeep does it after both.
        null;
    end;
    with noted as (
        delete from audit.rewritten_table r where r.tracked_table_id = tracked_id returning r.by_command, r.is_by_type, r.xmin)
    select min(noted.by_command), bool_or(noted.is_by_type),
           -- In a later transaction nothing tells which columns it was.
           case when bool_and(age(noted.xmin) <= age(pg_current_xact_id()::xid)) then pg_current_xact_id()::xid else '2'::xid end
    into rewritten_by, is_by_type, rewritten_since from noted;
    if is_renamed or retyped is not null or rewritten_by is not null or is_changed then
        select * into tracked from audit.tracked_table where id = tracked_id;
        -- A restore gives a table another number and closes the gaps of dropped columns; what it compiles anew was not altered.
        select coalesce(jsonb_agg(k order by k), '[]') into added
        from jsonb_object_keys(tracked.column_numbers) k
        where case when is_restored then not shape_before ? k else shape_before -> k is distinct from tracked.column_numbers -> k end
          and k not in (select r.value from jsonb_each_text(renamed) r);
        select coalesce(jsonb_agg(k order by k), '[]') into dropped
        from jsonb_object_keys(shape_before) k
        where case when is_restored then not tracked.column_numbers ? k else shape_before -> k is distinct from tracked.column_numbers -> k end
          and not renamed ? k;
        if is_renamed or retyped is not null or rewritten_by is not null or added <> '[]' or dropped <> '[]' or renamed <> '{}'
           or (not is_restored and command = 'ALTER TABLE') then
            filled := audit.filled_columns(tracked, relation, added);
            perform audit.write_event('table_altered', format('%I.%I', tracked.table_schema, tracked.table_name), tracked.workspace,
                jsonb_build_object('command', coalesce(rewritten_by, command), 'renamed_columns', renamed, 'added_columns', added,
                    'dropped_columns', dropped)
                || jsonb_strip_nulls(jsonb_build_object(
                    'former_name', case when is_renamed then former_name end,
                    'retyped_columns', retyped,
                    'rewritten_columns', audit.rewritten_columns(relation, retyped, added, filled, case when rewritten_by is not null then rewritten_since end, is_by_type),
                    'rewritten', case when rewritten_by is not null then true end))
                -- Not stripped: a null within a constant is a part of it.
                || case when filled is null then '{}' else jsonb_build_object('filled_columns', filled) end);
        end if;
    end if;
    return is_changed;
end
$function$;
comment on function audit.follow_table(bigint, text) is
    'Brings settings and capture function of one tracked table up to its table as it is now. A real change, and a rewrite of its rows, is recorded as table_altered by the given command. Returns whether the function changed.';

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
    is_lookup boolean;
    told_as text;
begin
    for tracked_id, is_lookup in
        select t.id,
               t.relation_oid <> all(touched)
               and exists (select from pg_constraint f
                           where f.conrelid = t.relation_oid and f.contype = 'f' and f.confrelid = any(touched))
        from audit.tracked_table t
        left join pg_class c on c.oid = t.relation_oid
        left join pg_namespace n on n.oid = c.relnamespace
        where t.relation_oid = any(touched)
           -- A rename in a parent, however far, or in the type of a typed table, renames the columns of those that inherit it.
           or exists (with recursive parent(oid) as (
                          select h.inhparent from pg_inherits h where h.inhrelid = t.relation_oid
                          union
                          select h.inhparent from parent join pg_inherits h on h.inhrelid = parent.oid)
                      select from parent where parent.oid = any(touched))
           or (command = 'ALTER TYPE' and c.reloftype <> 0)
           or exists (select from audit.rewritten_table r where r.tracked_table_id = t.id)
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
            -- A table whose lookup reads differently now was not altered.
            told_as := case when is_lookup then command || ' of a lookup''s table' else command end;
            if audit.is_behind(tracked_id) then
                perform audit.tell_alteration(tracked_id, told_as);
            else
                begin
                    perform audit.follow_table(tracked_id, told_as);
                exception when others then
                    if current_setting('transaction_isolation') not in ('repeatable read', 'serializable') then
                        raise;
                    end if;
                    -- Another session wrote to the settings since this transaction's snapshot.
                    perform audit.tell_alteration(tracked_id, told_as);
                end;
            end if;
        exception when others then
            raise warning 'pg_daybook could not follow % for tracked table number %: %', command, tracked_id, sqlerrm
                using hint = 'Writes go on. "select * from audit.check()" shows what to do.';
        end;
    end loop;
exception when others then
    raise warning 'pg_daybook could not follow %: %', command, sqlerrm
        using hint = 'Writes go on. "select * from audit.check()" shows what to do.';
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

create function audit.follow_rewrite()
    returns event_trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    root constant oid := coalesce(pg_partition_root(pg_event_trigger_table_rewrite_oid()), pg_event_trigger_table_rewrite_oid());
begin
    -- 4: the server's own number for columns of another type or expression.
    insert into audit.rewritten_table (tracked_table_id, by_command, is_by_type)
    select t.id, tg_tag, pg_event_trigger_table_rewrite_reason() & 4 <> 0
    from audit.tracked_table t
    where exists (select from pg_trigger g join pg_proc p on p.oid = g.tgfoid
                  where g.tgrelid = root and p.pronamespace = 'audit'::regnamespace and p.proname = 'capture_' || t.id);
exception when others then
    raise warning 'pg_daybook could not record that % rewrites %: %', tg_tag, root::regclass, sqlerrm;
end
$function$;
comment on function audit.follow_rewrite() is
    'Event trigger: notes that a DDL command rewrites the rows of a tracked table, which no trigger of the table sees.';

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
            -- Never a wait here either: settings that another transaction holds stay, and audit.check() lists them.
            perform from audit.tracked_table where id = tracked.id for update skip locked;
            if found then
                delete from audit.tracked_table where id = tracked.id;
                execute format('drop function if exists audit.%I()', 'capture_' || tracked.id);
                perform audit.keep_lookups(tracked.id, null, '{}');
                perform audit.keep_told_shape(tracked.id, null);
                delete from audit.rewritten_table r where r.tracked_table_id = tracked.id;
            end if;
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
            where not exists (select from pg_trigger t
                              where t.tgrelid = tree.relid and t.tgfoid = tracked.function_oid and t.tgparentid = 0)
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

create function audit.follow_identity()
    returns event_trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
-- Belongs to the superuser who installs: a table and the publication that it is in have different owners.
declare
    relation oid;
    published oid;
begin
    -- Of tables that the witness looks at the WAL keeps old rows whole. From 18 on the server refuses UPDATE and DELETE of those where
    -- a virtual generated column, which cannot be published, is a part of the row: a migration that adds one must not break later
    -- writes because of us.
    for relation, published in
        with recursive member(relid, root) as (
            select root.oid, root.oid
            from pg_event_trigger_ddl_commands() d
            cross join lateral (select coalesce(pg_partition_root(d.objid::regclass)::oid, d.objid) as oid) root
            where d.classid = 'pg_class'::regclass
              and exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
                          where r.prrelid = root.oid and p.pubname = 'daybook_witness')
            union
            select i.inhrelid, m.root from member m join pg_inherits i on i.inhparent = m.relid and not i.inhdetachpending
        )
        select c.oid, m.root
        from member m
        join pg_class c on c.oid = m.relid
        where c.relkind = 'r' and c.relreplident = 'f'
          and exists (select from pg_attribute a where a.attrelid = c.oid and a.attgenerated = 'v' and not a.attisdropped)
    loop
        begin
            execute format('alter table only %s replica identity default', relation::regclass);
            if not exists (select from pg_index i where i.indrelid = relation and i.indisprimary) then
                execute format('alter publication daybook_witness drop table %s', published::regclass);
            end if;
            raise warning 'the witness compares old values of % no longer: it has a virtual generated column', relation::regclass
                using hint = '"daybook witness --start" takes in what can be compared.';
        exception when others then
            raise warning 'pg_daybook could not give % back its replica identity: %', relation::regclass, sqlerrm
                using hint = '"daybook witness --stop" does: UPDATE and DELETE of the table are refused until then.';
        end;
    end loop;
end
$function$;
comment on function audit.follow_identity() is
    'Event trigger: a table that the witness looks at keeps its old rows whole no longer, once it has a virtual generated column.';
