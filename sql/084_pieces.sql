-- The fragments of SQL that capture one table, read from its settings and the catalogue. Everything after this is text alone:
-- the compiled function holds the fragments as literals; one whose table changed behind its back asks for them afresh, so
-- that both ways run the same statements.

set search_path = pg_catalog, pg_temp;

create function audit.side_pieces(tracked audit.tracked_table, relation oid, alias text)
    returns jsonb
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    key_columns constant text[] := audit.primary_key_columns(relation);
    -- audit_log is the log itself, whatever a table is called.
    default_type constant text := coalesce(tracked.resource_type, nullif(tracked.table_name, 'audit_log'),
                                           tracked.table_schema || '.' || tracked.table_name);
begin
    return jsonb_build_object(
        'default_type', default_type,
        'constant_workspace', tracked.workspace,
        'workspace', case
            when tracked.workspace is not null then format('%L::text', tracked.workspace)
            when tracked.workspace_setting is not null then format('nullif(left(current_setting(%L, true), 200), '''')', tracked.workspace_setting)
            else format('nullif(%s, '''')', audit.column_or_lookup_sql(alias, tracked.id, relation, tracked.workspace_column, 'bounded')) end,
        'resource_type', case
            when tracked.resource_type_column is null then format('%L::text', default_type)
            else format('coalesce(nullif(nullif(%s, ''''), ''audit_log''), %L)', audit.column_or_lookup_sql(alias, tracked.id, relation, tracked.resource_type_column, 'short'), default_type) end,
        'resource_id', audit.key_sql(alias, relation, coalesce(tracked.resource_id_columns, key_columns)),
        'resource_name', audit.column_or_lookup_sql(alias, tracked.id, relation, tracked.resource_name_column, 'short'),
        'row_key', audit.key_sql(alias, relation, key_columns),
        'subject_id', audit.column_or_lookup_sql(alias, tracked.id, relation, split_part(tracked.subject_column, '.', 1), 'bounded'),
        'subject_name', case when tracked.subject_column like '%.%'
            then audit.column_or_lookup_sql(alias, tracked.id, relation, tracked.subject_column, 'short') else 'null::text' end);
end
$function$;
comment on function audit.side_pieces(audit.tracked_table, oid, text) is
    'The SQL fragments that read one side (old or new) of a changed row, under the given alias.';

create function audit.unfollowed_columns(tracked audit.tracked_table, relation oid)
    returns text[]
    language sql
    stable
begin atomic
    select coalesce(array_agg(a.attname::text), '{}')
    from pg_catalog.pg_attribute a
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
      and case
          -- The same table as when it was compiled: its column numbers tell what was renamed.
          when relation = tracked.relation_oid then exists (
              select from jsonb_each_text(tracked.column_numbers) n
              where n.value::smallint = a.attnum and n.key <> a.attname
                and n.key = any(tracked.excluded_columns || tracked.redacted_columns))
          -- Another one, after a restore: a column that was not known then may be the secret one that is missing now.
          else not tracked.column_numbers ? a.attname::text
              and exists (
                  select from unnest(tracked.excluded_columns || tracked.redacted_columns) s(name)
                  where tracked.column_numbers ? s.name
                    and not exists (select from pg_catalog.pg_attribute b
                                    where b.attrelid = relation and b.attname = s.name and not b.attisdropped))
      end;
end;
comment on function audit.unfollowed_columns(audit.tracked_table, oid) is
    'Columns that are, or may be, excluded or redacted ones under a new name which nobody has told the settings: not stored.';

create function audit.capture_pieces(tracked_id bigint, relation oid)
    returns jsonb
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    tracked audit.tracked_table;
    columns jsonb;
    events jsonb;
    soft_delete jsonb;
    secret text[];
    root constant oid := coalesce(pg_partition_root(relation), relation);
    is_partitioned boolean;
begin
    select * into strict tracked from audit.tracked_table where id = tracked_id;
    -- As they are now: the settings may not have followed a rename yet.
    select n.nspname, c.relname, c.relkind = 'p' into tracked.table_schema, tracked.table_name, is_partitioned
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = root;

    secret := audit.unfollowed_columns(tracked, root);
    select jsonb_agg(jsonb_build_object(
        'name', a.attname,
        'changed', case
            when audit.equality_is_identity(audit.base_type(a.atttypid), a.attcollation)
                then format('audit_o.%1$I is distinct from audit_n.%1$I', a.attname)
            else format('record_image_ne(row(audit_o.%1$I), row(audit_n.%1$I))', a.attname) end,
        'before', case
            when a.attname = any(tracked.redacted_columns) then '''{"redacted": true}''::jsonb'
            else audit.value_sql(format('audit_o.%I', a.attname), a.atttypid, tracked.max_value_bytes) end,
        'after', case
            when a.attname = any(tracked.redacted_columns) then '''{"redacted": true}''::jsonb'
            else audit.value_sql(format('audit_n.%I', a.attname), a.atttypid, tracked.max_value_bytes) end)
        order by a.attnum)
    into columns
    from pg_attribute a
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
      and a.attgenerated <> 'v'
      and a.attname <> all(tracked.excluded_columns)
      and a.attname <> all(secret);

    events := audit.kind_events(tracked.kind) || coalesce(tracked.events, '{}');
    if tracked.soft_delete_column is not null
       and exists (select from jsonb_array_elements(columns) c where c ->> 'name' = tracked.soft_delete_column) then
        soft_delete := jsonb_build_object(
            'column', tracked.soft_delete_column,
            'deleted', format('audit_o.%1$I is not distinct from null and not (audit_n.%1$I is not distinct from null)', tracked.soft_delete_column),
            'restored', format('audit_n.%1$I is not distinct from null and not (audit_o.%1$I is not distinct from null)', tracked.soft_delete_column));
    end if;

    return jsonb_build_object(
        -- Null: as the trigger says, which on a partition would be the partition's.
        'table_schema', case when is_partitioned then tracked.table_schema end,
        'table_name', case when is_partitioned then tracked.table_name end,
        'columns', coalesce(columns, '[]'),
        'has_key', audit.primary_key_columns(relation) is not null,
        'old', audit.side_pieces(tracked, relation, 'audit_o'),
        'new', audit.side_pieces(tracked, relation, 'audit_n'),
        'events', events,
        'column_events', coalesce((
            select jsonb_agg(jsonb_build_object('event', e.key, 'columns', e.value) order by e.key)
            from jsonb_each(coalesce(tracked.column_events, '{}')) e), '[]'),
        'soft_delete', soft_delete);
end
$function$;
comment on function audit.capture_pieces(bigint, oid) is
    'The SQL fragments that capture a tracked table, from its settings and the catalogue as they are now. The relation may be a partition of it.';
