-- Statements of any number of rows: from the fragments to the one statement that writes entries and changes.

set search_path = pg_catalog, pg_temp;

create function audit.object_sql(columns jsonb, side text)
    returns text
    language sql
    immutable
    parallel safe
    -- A function takes 100 arguments: 50 pairs at most in one call.
return coalesce((
    select string_agg(format('jsonb_build_object(%s)', chunk.pairs), ' || ' order by chunk.number)
    from (
        select (c.position - 1) / 50 as number,
               string_agg(format('%L, %s', c.value ->> 'name', c.value ->> side), ', ' order by c.position) as pairs
        from jsonb_array_elements(columns) with ordinality c(value, position)
        group by 1
    ) chunk), '''{}''::jsonb');
comment on function audit.object_sql(jsonb, text) is 'The SQL of a jsonb object of the given columns; side is before or after.';

create function audit.changed_object_sql(columns jsonb, side text)
    returns text
    language sql
    stable
begin atomic
    -- Mostly every row changes the same columns; the rest is put together column by column.
    select case when count(*) = 1 then audit.object_sql(columns, side)
                else format('case when %s then %s else %s end',
                            string_agg(format('(%s)', c ->> 'changed'), ' and '), audit.object_sql(columns, side),
                            string_agg(format('case when %s then jsonb_build_object(%L, %s) else ''{}''::jsonb end',
                                              c ->> 'changed', c ->> 'name', c ->> side), ' || ')) end
    from jsonb_array_elements(columns) c;
end;
comment on function audit.changed_object_sql(jsonb, text) is
    'The SQL of a jsonb object of those of the given columns that changed in the row; side is before or after. Of one column: it did, or the row is not read.';

create function audit.row_event_sql(pieces jsonb, operation text, changed_columns text[])
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
-- changed_columns null: code for one row, which finds the places of its changed columns in the variable audit_changed;
-- otherwise SQL for a statement that is known to have changed these columns in some row.
declare
    event_sql constant text := format('%L::text', pieces -> 'events' ->> operation);
    soft_delete constant jsonb := pieces -> 'soft_delete';
    branches text := '';
    column_event jsonb;
    others text;
begin
    if operation <> 'UPDATE' then
        return event_sql;
    end if;
    if soft_delete <> 'null' and (changed_columns is null or soft_delete ->> 'column' = any(changed_columns)) then
        branches := format(' when %s then %L when %s then %L',
            soft_delete ->> 'deleted', pieces -> 'events' ->> 'DELETE',
            soft_delete ->> 'restored', pieces -> 'events' ->> 'RESTORE');
    end if;
    for column_event in select c from jsonb_array_elements(pieces -> 'column_events') c loop
        if changed_columns is null then
            branches := branches || format(' when audit_changed <@ %L::integer[] then %L',
                array(select p from jsonb_array_elements(pieces -> 'columns') with ordinality e(c, p)
                      where column_event -> 'columns' ? (c ->> 'name')), column_event ->> 'event');
        elsif changed_columns && array(select jsonb_array_elements_text(column_event -> 'columns')) then
            select string_agg(c ->> 'changed', ' or ') into others
            from jsonb_array_elements(pieces -> 'columns') c
            where c ->> 'name' = any(changed_columns) and not column_event -> 'columns' ? (c ->> 'name');
            branches := branches || format(' when %s then %L',
                case when others is null then 'true' else format('not (%s)', others) end, column_event ->> 'event');
        end if;
    end loop;
    return case when branches = '' then event_sql else format('case%s else %s end', branches, event_sql) end;
end
$function$;
comment on function audit.row_event_sql(jsonb, text, text[]) is
    'The SQL of a changed row''s event: soft deletion first, then column events, then the kind''s.';

create function audit.row_sql(pieces jsonb, operation text, changed_columns text[])
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    side constant jsonb := case when operation = 'DELETE' then pieces -> 'old' else pieces -> 'new' end;
    columns constant jsonb := pieces -> 'columns';
    changed jsonb;
    row_changed text;
    before_sql text := 'null::jsonb';
    after_sql text := 'null::jsonb';
    source text;
begin
    if operation = 'INSERT' then
        after_sql := audit.object_sql(columns, 'after');
        source := 'audit_new_rows audit_n';
    elsif operation = 'DELETE' then
        before_sql := audit.object_sql(columns, 'before');
        source := 'audit_old_rows audit_o';
    else
        select jsonb_agg(c order by p), string_agg(c ->> 'changed', ' or ') into changed, row_changed
        from jsonb_array_elements(columns) with ordinality e(c, p)
        where c ->> 'name' = any(changed_columns);
        if (pieces -> 'has_key')::boolean then
            before_sql := audit.changed_object_sql(changed, 'before');
            after_sql := audit.changed_object_sql(changed, 'after');
        else
            before_sql := audit.object_sql(columns, 'before');
            after_sql := audit.object_sql(columns, 'after');
        end if;
        source := audit.pair_sql() || ' where ' || row_changed;
    end if;

    return format(
        'select %s collate "C" as workspace_id, %s collate "C" as event, %s collate "C" as resource_type, '
        '%s collate "C" as resource_id, %s as resource_name, nullif((%s) collate "C", (%s) collate "C") as row_key, '
        '%s as subject_id, %s as subject_name, %s as before, %s as after from %s',
        side ->> 'workspace', audit.row_event_sql(pieces, operation, changed_columns), side ->> 'resource_type',
        side ->> 'resource_id', side ->> 'resource_name',
        case when operation = 'INSERT' then pieces -> 'new' ->> 'row_key' else pieces -> 'old' ->> 'row_key' end,
        side ->> 'resource_id',
        side ->> 'subject_id', side ->> 'subject_name', before_sql, after_sql, source);
end
$function$;
comment on function audit.row_sql(jsonb, text, text[]) is
    'The SELECT that turns the transition tables of an operation into one row for each row that really changed. changed_columns: those that an UPDATE changed in any row.';

create function audit.pair_sql()
    returns text
    language sql
    immutable
    parallel safe
    -- Both transition tables list a statement's rows in one order; a key may have changed, so it cannot pair them.
return '(select row_number() over () as "audit position of a row in its transition table", r.* from audit_old_rows r) audit_o '
    'join (select row_number() over () as "audit position of a row in its transition table", r.* from audit_new_rows r) audit_n '
    'on audit_o."audit position of a row in its transition table" = audit_n."audit position of a row in its transition table"';
comment on function audit.pair_sql() is 'The FROM items that pair the old and new rows of an UPDATE by their position.';

create function audit.changed_columns_sql(pieces jsonb)
    returns text
    language sql
    stable
begin atomic
    select coalesce(format('select array_remove(array[%s]::text[], null) from %s',
                           string_agg(format('case when bool_or(%s) then %L end', c ->> 'changed', c ->> 'name'), ', '),
                           audit.pair_sql()), 'select ''{}''::text[]')
    from jsonb_array_elements(pieces -> 'columns') c;
end;
comment on function audit.changed_columns_sql(jsonb) is
    'The SELECT of the columns that an UPDATE really changed in any row.';

create function audit.bulk_sql(pieces jsonb, operation text, changed_columns text[])
    returns text
    language sql
    stable
begin atomic
    -- $1 created_at, $2 actor, $3 table_schema, $4 table_name
    select format($sql$
with audit_row as materialized (
    %1$s
), audit_group as materialized (
    select audit.new_entry_id($1) as id, r.workspace_id, r.event, count(*) as row_count,
           case when min(r.resource_type) = max(r.resource_type) then min(r.resource_type) else %2$L end as resource_type,
           count(r.resource_id) = count(*) and min(r.resource_id) = max(r.resource_id) as is_one_resource,
           min(r.resource_id) as resource_id, min(r.resource_name) as resource_name,
           case when count(r.subject_id) = count(*) and min(r.subject_id) = max(r.subject_id) then min(r.subject_id) end as subject_id,
           min(r.subject_name) as subject_name
    from audit_row r
    group by r.workspace_id, r.event
), audit_stored as (
    insert into audit.change (entry_id, created_at, workspace_id, resource_id, resource_name, row_key, before, after)
    select g.id, $1, r.workspace_id, r.resource_id, r.resource_name, r.row_key, r.before, r.after
    from audit_row r
    join audit_group g
        on g.event = r.event and coalesce(g.workspace_id, '') = coalesce(r.workspace_id, '')
    where g.row_count > 1
)
insert into audit.entry (
    id, created_at, workspace_id, event, operation, table_schema, table_name, resource_type, resource_id, resource_name,
    row_key, actor_type, actor_id, actor_name, row_count, before, after, request_id, context, database_user, transaction_id)
select g.id, $1, g.workspace_id, g.event, %3$L, $3, $4, g.resource_type,
       case when g.is_one_resource then g.resource_id end, case when g.is_one_resource then g.resource_name end,
       r.row_key, ($2).actor_type, ($2).actor_id, ($2).actor_name, g.row_count, r.before, r.after, ($2).request_id,
       case when g.subject_id is null then ($2).context
            else coalesce(($2).context, '{}') || jsonb_build_object('subject', jsonb_build_object('id', g.subject_id, 'name', g.subject_name)) end,
       session_user, pg_current_xact_id()
from audit_group g
left join audit_row r
    on g.row_count = 1 and r.event = g.event and coalesce(r.workspace_id, '') = coalesce(g.workspace_id, '')
$sql$, audit.row_sql(pieces, operation, changed_columns), pieces -> 'new' ->> 'default_type', operation);
end;
comment on function audit.bulk_sql(jsonb, text, text[]) is
    'The statement that writes what a statement of any number of rows changed: an entry for each workspace and event, and the rows of those that hold several.';
