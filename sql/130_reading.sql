-- What readers see: views over the log. They run with the reader's own rights, so that row-level security holds, and are no
-- security barriers, which would lose the ordered append over the days.

set search_path = pg_catalog, pg_temp;

create view audit.timeline
    with (security_invoker = true)
as
select id, created_at, workspace_id, event, operation, table_schema, table_name, resource_type, resource_id, resource_name,
       row_key, actor_type, actor_id, actor_name, row_count, before, after, request_id, context, database_user, transaction_id
from audit.entry;

create view audit.timeline_change
    with (security_invoker = true)
as
select entry_id, created_at, workspace_id, resource_id, resource_name, row_key, before, after
from audit.change;

comment on view audit.timeline is 'The entries that the reader may see: a DBA all, the REST app those of the workspace named in its transaction. Give created_at a range, so that only its days are read.';
comment on view audit.timeline_change is 'The changed rows of bulk entries that the reader may see. Give created_at the entry''s own, so that only its day is read.';

do $column_comments$
declare
    item record;
begin
    -- One source: a view's column means what the table's means.
    for item in
        select v.relname as view_name, a.attname, d.description
        from pg_catalog.pg_class v
        join pg_catalog.pg_class t on t.relnamespace = v.relnamespace
            and t.relname = case v.relname when 'timeline' then 'entry' else 'change' end
        join pg_catalog.pg_attribute a on a.attrelid = t.oid and a.attnum > 0
        join pg_catalog.pg_description d on d.objoid = t.oid and d.objsubid = a.attnum and d.classoid = 'pg_catalog.pg_class'::regclass
        where v.relnamespace = 'audit'::regnamespace and v.relname in ('timeline', 'timeline_change')
        order by 1, a.attnum
    loop
        execute format('comment on column audit.%I.%I is %L', item.view_name, item.attname, item.description);
    end loop;
end
$column_comments$;

create function audit.retention_days()
    returns integer
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select retention_days from audit.upkeep;
end;
comment on function audit.retention_days() is 'Whole UTC days an entry is kept, for readers.';
