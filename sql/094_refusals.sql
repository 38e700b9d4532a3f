-- What enable_tracking refuses, naming the argument and the way out.

set search_path = pg_catalog, pg_temp;

create function audit.refuse_unknown_columns(relation oid, argument text, columns text[])
    returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    unknown text;
begin
    select name into unknown
    from unnest(columns) name
    where not exists (
        select from pg_attribute a
        where a.attrelid = relation and a.attname = name and a.attnum > 0 and not a.attisdropped and a.attgenerated <> 'v')
    limit 1;
    if unknown is not null then
        raise exception '%: table % has no column %', argument, relation::regclass, quote_ident(unknown)
            using errcode = 'undefined_column',
                  hint = 'Columns are named as in the catalogue, without quotes.';
    end if;
end
$function$;
comment on function audit.refuse_unknown_columns(oid, text, text[]) is
    'Raises 42703 for the first name that is no column of the table, naming the argument that brought it.';

create function audit.refuse_unusable_path(relation oid, argument text, path text)
    returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    target audit.lookup;
begin
    if path is null or exists (select from pg_attribute a where a.attrelid = relation and a.attname = path
                               and a.attnum > 0 and not a.attisdropped) then
        return;
    end if;
    perform audit.refuse_unknown_columns(relation, argument, array[split_part(path, '.', 1)]);
    target := audit.find_lookup(relation, path);
    if target.problem is not null then
        raise exception '%: %', argument, target.problem
            using errcode = case when target.problem ~ '^(audit_capture|owner .*) may not' then 'insufficient_privilege'
                                 when target.problem like '%no column%' then 'undefined_column'
                                 else 'feature_not_supported' end,
                  hint = coalesce(target.mend, 'Use a column of the table itself.');
    end if;
end
$function$;
comment on function audit.refuse_unusable_path(oid, text, text) is
    'Raises unless the path is a column of the table or fk_column.column that capture can look up.';

create function audit.refuse_bad_events(relation oid, events jsonb, column_events jsonb)
    returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    item record;
begin
    if jsonb_typeof(events) <> 'object' or jsonb_typeof(column_events) <> 'object' then
        raise exception 'events and column_events are JSON objects'
            using errcode = 'invalid_parameter_value',
                  hint = 'events => ''{"INSERT": "dashboard_created"}'', column_events => ''{"documentation_updated": ["description"]}''';
    end if;
    for item in select key, value from jsonb_each(coalesce(events, '{}')) loop
        if item.key not in ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE') then
            raise exception 'events: unknown operation %', item.key
                using errcode = 'invalid_parameter_value',
                      hint = 'The operations are INSERT, UPDATE, DELETE and TRUNCATE.';
        end if;
        if jsonb_typeof(item.value) <> 'string' then
            raise exception 'events: the event of % is a string, not %', item.key, item.value
                using errcode = 'invalid_parameter_value';
        end if;
    end loop;
    for item in select key, value from jsonb_each(coalesce(column_events, '{}')) loop
        if jsonb_typeof(item.value) <> 'array' or item.value = '[]'
           or exists (select from jsonb_array_elements(item.value) e where jsonb_typeof(e) <> 'string') then
            raise exception 'column_events: the columns of % are a list of names', item.key
                using errcode = 'invalid_parameter_value';
        end if;
        perform audit.refuse_unknown_columns(relation, 'column_events',
            (select array_agg(e) from jsonb_array_elements_text(item.value) e));
    end loop;
    for item in
        select value as event from jsonb_each_text(coalesce(events, '{}'))
        union select key from jsonb_each(coalesce(column_events, '{}'))
    loop
        if item.event = any(audit.own_events()) then
            raise exception 'event % belongs to the log itself', item.event
                using errcode = 'invalid_parameter_value';
        elsif not coalesce(audit.is_event_name(item.event), false) then
            raise exception 'event % is not of the form noun_pastparticiple', quote_literal(item.event)
                using errcode = 'invalid_parameter_value',
                      hint = 'Lower-case words joined by underscores, at most 63 characters, such as dashboard_published.';
        end if;
    end loop;
end
$function$;
comment on function audit.refuse_bad_events(oid, jsonb, jsonb) is
    'Raises 22023 or 42703 for events and column_events that enable_tracking cannot use.';
