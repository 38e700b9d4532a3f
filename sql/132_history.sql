-- The history of one row, told from the log alone: its changes, and what it was at a moment.

set search_path = pg_catalog, pg_temp;

create type audit.table_span as (
    table_schema text,
    table_name text,
    since timestamptz,
    until timestamptz,
    key_columns text[],
    key_is_resource_id boolean
);
comment on type audit.table_span is
    'A time in which a table had one name and its key columns had these: since is inside, until is not.';

create type audit.row_change as (
    entry_id uuid,
    created_at timestamptz,
    transaction_id xid8,
    operation text,
    key_before text,
    key_after text,
    before jsonb,
    after jsonb
);
comment on type audit.row_change is
    'One change of one row: its key before (null for INSERT) and after (null for DELETE and TRUNCATE). Of TRUNCATE, and of ALTER (an alteration of the table), after holds the entry''s details.';

create function audit.table_spans(schema_name text, relation_name text)
    returns audit.table_span[]
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    spans audit.table_span[] := '{}';
    span audit.table_span;
    alteration record;
    relation constant oid := (select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
                              where n.nspname = schema_name and c.relname = relation_name and c.relkind in ('r', 'p'));
begin
    span := row(schema_name, relation_name, '-infinity', 'infinity', audit.primary_key_columns(relation), null);
    select t.resource_id_columns is null or t.resource_id_columns = span.key_columns into span.key_is_resource_id
    from audit.tracked_table t
    where t.table_schema = schema_name and t.table_name = relation_name;
    if not found then
        -- As it was tracked last.
        select e.context -> 'details' -> 'resource_id_columns' = 'null' into span.key_is_resource_id
        from audit.entry e
        where e.resource_type = 'audit_log' and e.resource_id = format('%I.%I', schema_name, relation_name)
          and e.event in ('tracking_enabled', 'tracking_changed')
        order by e.created_at desc, e.id desc
        limit 1;
    end if;
    if relation is null then
        select max(e.created_at) into span.until
        from audit.entry e
        where e.resource_type = 'audit_log' and e.resource_id = format('%I.%I', schema_name, relation_name)
          and e.event = 'table_dropped';
        span.until := coalesce(span.until, 'infinity');
    end if;
    loop
        -- Back to the last moment at which the name or the key's columns were others, or the name another table's.
        select e.created_at, e.event, e.context -> 'details' as details into alteration
        from audit.entry e
        where e.resource_type = 'audit_log' and e.resource_id = format('%I.%I', span.table_schema, span.table_name)
          and e.created_at < span.until
          and (e.event = 'table_dropped'
               or e.event = 'table_altered'
                  and (e.context -> 'details' ? 'former_name'
                       or exists (select from jsonb_each_text(e.context -> 'details' -> 'renamed_columns') r
                                  where r.value = any(span.key_columns))))
        order by e.created_at desc, e.id desc
        limit 1;
        span.since := coalesce(alteration.created_at, '-infinity');
        spans := array_append(spans, span);
        exit when alteration.event is distinct from 'table_altered';
        span.until := span.since;
        if alteration.details ? 'former_name' then
            span.table_schema := (parse_ident(alteration.details ->> 'former_name'))[1];
            span.table_name := (parse_ident(alteration.details ->> 'former_name'))[2];
        end if;
        span.key_columns := array(
            select coalesce((select r.key from jsonb_each_text(alteration.details -> 'renamed_columns') r where r.value = k.name), k.name)
            from unnest(span.key_columns) with ordinality k(name, position) order by k.position);
    end loop;
    return spans;
end
$function$;
comment on function audit.table_spans(text, text) is
    'The names that a table had in the log, newest first, back to where it was made; of a dropped table, from its end.';

create function audit.key_after(change audit.row_change, resource_id text, span audit.table_span)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
-- change.key_before is known. An UPDATE that leaves the key alone stores no column of it.
declare
    key text;
begin
    if span.key_columns is null or not (change.after ?| span.key_columns) or change.before @> (
        select jsonb_object_agg(name, change.after -> name) from unnest(span.key_columns) name where change.after ? name) then
        return change.key_before;
    elsif span.key_is_resource_id then
        return resource_id;
    elsif cardinality(span.key_columns) = 1 then
        execute format('select %s', audit.bounded_sql('$1')) into key using change.after ->> span.key_columns[1];
        return key;
    end if;
    select jsonb_agg(coalesce(change.after -> c.name, change.key_before::jsonb -> (c.position - 1)::integer) order by c.position)::text into key
    from unnest(span.key_columns) with ordinality c(name, position);
    return key;
end
$function$;
comment on function audit.key_after(audit.row_change, text, audit.table_span) is
    'The key of a row after an UPDATE, as row_key and resource_id write it.';

create function audit.row_changes(spans audit.table_span[], key text)
    returns setof audit.row_change
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    touched record;
    change audit.row_change;
begin
    for touched in
        select e.id, e.created_at, e.transaction_id, e.operation, r.resource_id, r.row_key, r.before,
               case when e.operation = 'TRUNCATE' then e.context -> 'details' else r.after end as after, s as span
        from unnest(spans) s
        join audit.entry e
            on e.table_schema = s.table_schema and e.table_name = s.table_name and e.created_at >= s.since and e.created_at < s.until
        left join audit.change c on e.row_count > 1 and c.entry_id = e.id and c.created_at = e.created_at
        -- One row stands in the entry, several beside it; TRUNCATE keeps none, and by an estimate may count none.
        left join lateral (
            select e.resource_id, e.row_key, e.before, e.after where e.row_count = 1
            union all
            select c.resource_id, c.row_key, c.before, c.after where e.row_count > 1) r on true
        where e.operation = 'TRUNCATE'
           or e.operation in ('INSERT', 'UPDATE', 'DELETE')
              and (r.resource_id = key or r.row_key = key or e.operation = 'UPDATE' and r.after ?| s.key_columns)
        order by 2, 1
    loop
        change := row(touched.id, touched.created_at, touched.transaction_id, touched.operation,
                      case when touched.operation <> 'INSERT' then coalesce(touched.row_key, touched.resource_id) end, null,
                      touched.before, touched.after);
        if touched.operation = 'INSERT' then
            change.key_after := coalesce(touched.row_key, touched.resource_id);
        elsif touched.operation = 'UPDATE' then
            change.key_after := audit.key_after(change, touched.resource_id, touched.span);
        elsif touched.operation = 'TRUNCATE' then
            change.key_before := key;
        end if;
        if key in (change.key_before, change.key_after) then
            return next change;
        end if;
    end loop;
end
$function$;
comment on function audit.row_changes(audit.table_span[], text) is
    'The changes, oldest first, that found or left a row under this key, and the TRUNCATEs of its table.';

create function audit.alter_row_image(image jsonb, details jsonb)
    returns jsonb
    language sql
    immutable
    parallel safe
return (
    select coalesce(jsonb_object_agg(coalesce(details -> 'renamed_columns' ->> c.key, c.key), c.value), '{}')
    from jsonb_each(image) c
    where not coalesce(details -> 'dropped_columns' ? c.key, false)
      and not coalesce(details -> 'rewritten_columns' ? coalesce(details -> 'renamed_columns' ->> c.key, c.key), false))
    || (select coalesce(jsonb_object_agg(a.name, coalesce(details -> 'filled_columns' -> a.name, 'null')), '{}')
        from jsonb_array_elements_text(details -> 'added_columns') a(name)
        where not coalesce(details -> 'rewritten_columns' ? a.name, false));
comment on function audit.alter_row_image(jsonb, jsonb) is
    'A row after an alteration of its table: renamed, without dropped columns, with added ones as far as the log knows their values.';

create function audit.row_image(spans audit.table_span[], key text, moment timestamptz, is_inclusive boolean)
    returns jsonb
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    items audit.row_change[];
    item audit.row_change;
    n integer;
    first_item integer := 0;
    skipped integer[] := '{}';
    is_found boolean;
    image jsonb;
    -- Columns after the moment: by their name then, the name at the moment; null for those that came later.
    names jsonb := '{}';
begin
    -- The entries of one statement have one moment: at it a row leaves its key before another takes it.
    select array_agg(i.item order by (i.item).created_at, (i.item).key_after is not distinct from key, (i.item).entry_id) into items
    from (
        select c as item from audit.row_changes(spans, key) c
        union all
        select row(e.id, e.created_at, e.transaction_id, 'ALTER', null, null, null, e.context -> 'details')::audit.row_change
        from unnest(spans) s
        join audit.entry e
            on e.resource_type = 'audit_log' and e.event = 'table_altered' and e.resource_id = format('%I.%I', s.table_schema, s.table_name)
           and e.created_at >= s.since and e.created_at < s.until
    ) i;
    n := (select count(*) from unnest(items) i where i.created_at < moment or i.created_at = moment and is_inclusive);

    -- Back to where the row came under this key.
    for position in reverse n .. 1 loop
        item := items[position];
        if item.operation = 'ALTER' then
            continue;
        elsif item.operation = 'TRUNCATE' then
            -- Of one partition: perhaps not the row's. It is not, when the next change finds it.
            select i.operation in ('UPDATE', 'DELETE') and i.key_before = key into is_found
            from unnest(items) with ordinality i(entry_id, created_at, transaction_id, operation, key_before, key_after, before, after, place)
            where i.place > position and i.operation not in ('ALTER', 'TRUNCATE')
            order by i.place
            limit 1;
            continue when item.after ? 'partition' and is_found;
            return null;
        elsif item.key_after is distinct from key then
            -- MERGE tells its insertions before its deletions: this one may be of the row that stood there before.
            if position > 1 and items[position - 1].transaction_id = item.transaction_id and items[position - 1].key_after = key
               and items[position - 1].operation <> 'ALTER' and not (items[position - 1].after @> item.before) then
                skipped := array_append(skipped, position);
                continue;
            end if;
            return null;
        elsif item.key_before is distinct from key then
            first_item := position;
            exit;
        end if;
    end loop;

    if first_item = 0 and not exists (
        -- Older than the log: it was there if the first change found it.
        select from (select i from unnest(items) with ordinality u(entry_id, created_at, transaction_id, operation, key_before, key_after, before, after, position)
                     cross join lateral (select u.operation, u.key_before) i
                     where u.operation <> 'ALTER' order by u.position limit 1) f
        where (f.i).operation in ('UPDATE', 'DELETE') and (f.i).key_before = key) then
        return null;
    end if;
    image := '{}';
    for position in greatest(first_item, 1) .. n loop
        item := items[position];
        if item.operation = 'ALTER' then
            image := audit.alter_row_image(image, item.after);
        elsif item.operation = 'UPDATE' and item.key_before is distinct from key then
            image := audit.row_image(spans, item.key_before, item.created_at, false) || item.after;
        elsif item.operation <> 'TRUNCATE' and position <> all(skipped) then
            image := image || item.after;
        end if;
    end loop;

    -- What no change up to the moment tells, the next one does by its before.
    for position in n + 1 .. coalesce(cardinality(items), 0) loop
        item := items[position];
        if item.operation = 'ALTER' then
            names := names
                || (select coalesce(jsonb_object_agg(a.name, null), '{}')
                    from jsonb_array_elements_text(coalesce(item.after -> 'added_columns', '[]') || coalesce(item.after -> 'rewritten_columns', '[]')) a(name))
                || (select coalesce(jsonb_object_agg(r.value, case when names ? r.key then names -> r.key else to_jsonb(r.key) end), '{}')
                    from jsonb_each_text(item.after -> 'renamed_columns') r);
        else
            continue when item.operation = 'TRUNCATE' and item.after ? 'partition';
            exit when item.operation not in ('UPDATE', 'DELETE') or item.key_before <> key;
            image := (select coalesce(jsonb_object_agg(case when names ? b.key then names ->> b.key else b.key end, b.value), '{}')
                      from jsonb_each(item.before) b
                      where not names ? b.key or names -> b.key <> 'null') || image;
            exit when item.key_after is distinct from key;
        end if;
    end loop;
    return image;
end
$function$;
comment on function audit.row_image(audit.table_span[], text, timestamptz, boolean) is
    'The row that stood under a key at a moment, or just before it; null when none did.';

create function audit.row_history(table_schema text, table_name text, key text)
    returns table (
        entry_id uuid, created_at timestamptz, event text, operation text, key_before text, key_after text, before jsonb, after jsonb,
        actor_type text, actor_id text, actor_name text, request_id text, database_user text)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
-- Not in the standard's form: that would bind the log's columns to it, and hold back migrations.
as $function$
    select c.entry_id, c.created_at, e.event, c.operation, c.key_before, c.key_after, c.before, c.after,
           e.actor_type, e.actor_id, e.actor_name, e.request_id, e.database_user
    from audit.row_changes(audit.table_spans(table_schema, table_name), key) c
    join audit.entry e on e.id = c.entry_id and e.created_at = c.created_at
    order by c.created_at, c.entry_id;
$function$;
comment on function audit.row_history(text, text, text) is
    'The history of a row of a table that may be gone: every change that found or left a row under this key (as resource_id and row_key write it), oldest first, under earlier names of the table too, and the TRUNCATEs of the table.';

create function audit.row_history(target regclass, key text)
    returns table (
        entry_id uuid, created_at timestamptz, event text, operation text, key_before text, key_after text, before jsonb, after jsonb,
        actor_type text, actor_id text, actor_name text, request_id text, database_user text)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
begin atomic
    select h.*
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    cross join lateral audit.row_history(n.nspname::text, c.relname::text, key) h
    where c.oid = coalesce(pg_partition_root(target)::oid, target)
    order by h.created_at, h.entry_id;
end;
comment on function audit.row_history(regclass, text) is
    'The history of a row: every change that found or left one under this key (as resource_id and row_key write it), oldest first, under earlier names of the table too, and the TRUNCATEs of the table. A partition is its whole table.';

create function audit.row_as_of(table_schema text, table_name text, key text, moment timestamptz)
    returns jsonb
    language sql
    stable
    set search_path = pg_catalog, pg_temp
return audit.row_image(audit.table_spans(table_schema, table_name), key, moment, true);
comment on function audit.row_as_of(text, text, text, timestamptz) is
    'The row of a table that may be gone which stood under a key at a moment, as before and after write it. Null: none did, or the log does not reach back. A column of which the log says nothing is left out.';

create function audit.row_as_of(target regclass, key text, moment timestamptz)
    returns jsonb
    language sql
    stable
    set search_path = pg_catalog, pg_temp
begin atomic
    select audit.row_as_of(n.nspname::text, c.relname::text, key, moment)
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.oid = coalesce(pg_partition_root(target)::oid, target);
end;
comment on function audit.row_as_of(regclass, text, timestamptz) is
    'The row that stood under a key at a moment, as before and after write it. Null: none did, or the log does not reach back. A column of which the log says nothing (the row is older than the log and it never changed) is left out.';
