-- The fragments of SQL that capture one table, read from its settings and the catalogue. Everything after this is text alone:
-- the compiled function holds the fragments as literals; one whose table changed behind its back asks for them afresh, so
-- that both ways run the same statements.

set search_path = pg_catalog, pg_temp;

create function audit.side_pieces(tracked audit.tracked_table, relation oid, columns audit.row_column[], follows_lookups boolean, alias text)
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
            else format('nullif(%s, '''')', audit.column_or_lookup_sql(alias, tracked.id, relation, columns, follows_lookups, tracked.workspace_column, 'bounded')) end,
        'resource_type', case
            when tracked.resource_type_column is null then format('%L::text', default_type)
            else format('coalesce(nullif(nullif(%s, ''''), ''audit_log''), %L)', audit.column_or_lookup_sql(alias, tracked.id, relation, columns, follows_lookups, tracked.resource_type_column, 'short'), default_type) end,
        'resource_id', audit.key_sql(alias, columns, coalesce(tracked.resource_id_columns, key_columns)),
        'resource_name', audit.column_or_lookup_sql(alias, tracked.id, relation, columns, follows_lookups, tracked.resource_name_column, 'short'),
        'row_key', audit.key_sql(alias, columns, key_columns),
        'subject_id', audit.column_or_lookup_sql(alias, tracked.id, relation, columns, follows_lookups, split_part(tracked.subject_column, '.', 1), 'bounded'),
        'subject_name', case when tracked.subject_column like '%.%'
            then audit.column_or_lookup_sql(alias, tracked.id, relation, columns, follows_lookups, tracked.subject_column, 'short') else 'null::text' end);
end
$function$;
comment on function audit.side_pieces(audit.tracked_table, oid, audit.row_column[], boolean, text) is
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

create function audit.secret_row_columns(tracked audit.tracked_table, relation oid, columns audit.row_column[])
    returns text[]
    language sql
    stable
begin atomic
    -- Asked by number, the server tells a column's name as it is now, however old the snapshot.
    with secret as (
        select s.name, n.number, (pg_identify_object_as_address('pg_catalog.pg_class'::regclass, relation, n.number)).object_names[3] as now
        from unnest(tracked.excluded_columns || tracked.redacted_columns) s(name)
        cross join lateral (select (tracked.column_numbers ->> s.name)::integer as number) n
    )
    select coalesce(array_agg(c.name), '{}')
    from unnest(columns) c
    where exists (select from secret where relation = tracked.relation_oid and secret.now = c.name and secret.now <> secret.name)
       or not tracked.column_numbers ? c.name
          and exists (select from secret
                      where secret.number is not null and not exists (select from unnest(columns) d where d.name = secret.name));
end;
comment on function audit.secret_row_columns(audit.tracked_table, oid, audit.row_column[]) is
    'Like audit.unfollowed_columns, of columns that the catalogue may not show to this transaction.';

create function audit.capture_pieces(
    tracked_id bigint, relation oid, row_shape text default null, row_types oid[] default null, follows_lookups boolean default true)
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
    row_columns audit.row_column[];
    root constant oid := coalesce(pg_partition_root(relation), relation);
    is_partitioned boolean;
begin
    select * into strict tracked from audit.tracked_table where id = tracked_id;
    -- As they are now: the settings may not have followed a rename yet.
    select n.nspname, c.relname, c.relkind = 'p' into tracked.table_schema, tracked.table_name, is_partitioned
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = root;

    if row_types is null then
        row_columns := audit.table_columns(relation);
        secret := audit.unfollowed_columns(tracked, root);
    else
        -- Whose collation may have changed is compared by its bytes.
        select array_agg(row(k.name, row_types[k.position], (select 0 from pg_type t where t.oid = row_types[k.position] and t.typcollation = 0))::audit.row_column
                         order by k.position)
        into row_columns
        from json_object_keys(row_shape::json) with ordinality k(name, position)
        where not exists (select from pg_attribute a where a.attrelid = relation and a.attname = k.name and a.attgenerated = 'v');
        secret := audit.secret_row_columns(tracked, root, row_columns);
    end if;
    -- A jsonb object holds 256 MB, and a bytea becomes twice as long in it: many values under a generous limit must not fail
    -- the write.
    tracked.max_value_bytes := least(tracked.max_value_bytes, 120000000 / greatest(cardinality(row_columns), 1));
    select jsonb_agg(jsonb_build_object(
        'name', a.name,
        'is_image', e.is_image,
        'changed', case when e.is_image then format('record_image_ne(row(audit_o.%1$I), row(audit_n.%1$I))', a.name)
                        else format('audit_o.%1$I is distinct from audit_n.%1$I', a.name) end,
        'before', case
            when a.name = any(tracked.redacted_columns) then '''{"redacted": true}''::jsonb'
            else audit.value_sql(format('audit_o.%I', a.name), a.type_oid, tracked.max_value_bytes) end,
        'after', case
            when a.name = any(tracked.redacted_columns) then '''{"redacted": true}''::jsonb'
            else audit.value_sql(format('audit_n.%I', a.name), a.type_oid, tracked.max_value_bytes) end)
        order by a.position)
    into columns
    from unnest(row_columns) with ordinality a(name, type_oid, collation_oid, position)
    -- Its collation is null when it is not known.
    cross join lateral (
        select not coalesce(a.collation_oid is not null and audit.equality_is_identity(audit.base_type(a.type_oid), a.collation_oid), false)
            as is_image) e
    where a.name <> all(tracked.excluded_columns)
      and a.name <> all(secret);

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
        'old', audit.side_pieces(tracked, relation, row_columns, follows_lookups, 'audit_o'),
        'new', audit.side_pieces(tracked, relation, row_columns, follows_lookups, 'audit_n'),
        'events', events,
        'column_events', coalesce((
            select jsonb_agg(jsonb_build_object('event', e.key, 'columns', e.value) order by e.key)
            from jsonb_each(coalesce(tracked.column_events, '{}')) e), '[]'),
        'soft_delete', soft_delete);
end
$function$;
comment on function audit.capture_pieces(bigint, oid, text, oid[], boolean) is
    'The SQL fragments that capture a tracked table, from its settings and the catalogue as they are now. The relation may be a partition of it. A transaction that may see the catalogue older than its rows gives names and types of the rows'' columns; without follows_lookups nothing is looked up.';
