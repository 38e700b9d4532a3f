-- The mends of audit.check() that are more than a line: text that a superuser can execute as it stands.

set search_path = pg_catalog, pg_temp;

create function audit.tracking_sql(tracked audit.tracked_table, relation oid, target oid)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    columns constant text[] := array(select attname from pg_attribute where attrelid = target and attnum > 0 and not attisdropped and attgenerated <> 'v');
    id_columns constant text[] := coalesce(tracked.resource_id_columns, audit.primary_key_columns(relation));
    path text;
    arguments text;
begin
    foreach path in array array_remove(
        array[tracked.resource_type_column, tracked.soft_delete_column, tracked.workspace_column, tracked.resource_name_column, tracked.subject_column]
        || id_columns
        || array(select jsonb_array_elements_text(e.value) from jsonb_each(tracked.column_events) e), null)
    loop
        if path <> all(columns) and (path not like '%.%' or (audit.find_lookup(target, path)).problem is not null) then
            return null;
        end if;
    end loop;
    select string_agg(format(', %s => %L', a.name, a.value), '' order by a.position) into arguments
    from unnest(
        array['kind', 'resource_type', 'resource_type_column', 'resource_id_columns', 'resource_name_column', 'subject_column',
              'workspace', 'workspace_column', 'workspace_setting', 'events', 'column_events', 'soft_delete_column',
              'excluded_columns', 'redacted_columns', 'max_value_bytes', 'missing_actor'],
        array[nullif(tracked.kind, 'resource'), coalesce(tracked.resource_type, nullif(tracked.table_name, 'audit_log')),
              tracked.resource_type_column, id_columns::text, tracked.resource_name_column, tracked.subject_column,
              tracked.workspace, tracked.workspace_column, tracked.workspace_setting, tracked.events::text, tracked.column_events::text,
              tracked.soft_delete_column,
              nullif(array(select c from unnest(tracked.excluded_columns) c where c = any(columns))::text, '{}'),
              nullif(array(select c from unnest(tracked.redacted_columns) c where c = any(columns))::text, '{}'),
              nullif(tracked.max_value_bytes, 65536)::text, nullif(tracked.missing_actor, 'system')]
    ) with ordinality a(name, value, position)
    where a.value is not null;
    return format('select audit.enable_tracking(%L%s)', target::regclass, arguments);
end
$function$;
comment on function audit.tracking_sql(audit.tracked_table, oid, oid) is
    'The statement that tracks target as relation is tracked, under the same resource_type and keys. Null: target lacks a column or lookup that it would take.';

create function audit.owner_change_sql(relations oid[], owner oid)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    owner_name constant name := (select rolname from pg_roles where oid = owner);
    new_owner name := owner_name || '_tables';
    statements text;
begin
    if octet_length(owner_name) > 56 or exists (select from pg_roles where rolname = new_owner and (rolcanlogin or rolsuper)) then
        new_owner := 'tables_of_' || owner;
    end if;
    -- Of several tables each brings the whole of it along: the first one makes the role.
    statements := format('do %L', format(
        'begin if not exists (select from pg_catalog.pg_roles where rolname = %L) then create role %I nologin; end if; end',
        new_owner, new_owner));
    -- Foreign keys are checked as the table's owner, and whoever alters it later, after SET ROLE, may have to track it too.
    select statements || string_agg(format('; grant usage on schema %s to %I', s.namespace, new_owner), '')
           || case when pg_has_role(owner, 'audit_writer', 'member') then format('; grant audit_writer to %I', new_owner) else '' end
    into statements
    from (select distinct relnamespace::regnamespace as namespace from pg_class where oid = any(relations) order by 1) s;

    select statements || string_agg(format(
        '; alter table %1$s owner to %2$I; grant select, insert, update, delete, truncate on %1$s to %3$I', c.oid::regclass, new_owner, owner_name)
        -- A serial column's sequence goes with the table.
        || coalesce((select string_agg(format('; grant usage, select on sequence %s to %I', d.objid::regclass, owner_name), '' order by d.refobjsubid)
                     from pg_depend d join pg_class q on q.oid = d.objid and q.relkind = 'S'
                     where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
                       and d.refobjid = c.oid and d.deptype in ('a', 'i')), '')
        -- As the owner he was not held to the policies, unless they are forced.
        || case when c.relrowsecurity and not c.relforcerowsecurity
                then format('; create policy as_before on %s to %I using (true) with check (true)', c.oid::regclass, owner_name)
                else '' end, '' order by p.position)
    into statements
    from unnest(relations) with ordinality p(oid, position)
    join pg_class c on c.oid = p.oid;
    return statements;
end
$function$;
comment on function audit.owner_change_sql(oid[], oid) is
    'The statements that give tables to a role that cannot log in, made when missing, and leave their former owner what an application needs.';
