-- The two verbs: turning tracking on and off, with the caller's rights, who must own the table.

set search_path = pg_catalog, pg_temp;

create function audit.enable_tracking(
    target regclass,
    kind text default 'resource',
    resource_type text default null,
    resource_type_column text default null,
    resource_id_columns text[] default null,
    resource_name_column text default null,
    subject_column text default null,
    workspace text default null,
    workspace_column text default null,
    workspace_setting text default null,
    events jsonb default null,
    column_events jsonb default null,
    soft_delete_column text default null,
    excluded_columns text[] default null,
    redacted_columns text[] default null,
    max_value_bytes integer default 65536,
    missing_actor text default 'system')
    returns void
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
declare
    relation constant oid := target;
    relation_kind constant "char" := (select relkind from pg_class where oid = target);
    function_name text;
    partition oid;
    foreign_partition text;
    shown_column text;
    foreign_key text;
begin
    if target is null then
        raise exception 'target: name the table to track'
            using errcode = 'null_value_not_allowed', hint = 'select audit.enable_tracking(''public.document'')';
    end if;
    if relation_kind not in ('r', 'p') or (select relpersistence from pg_class where oid = relation) = 't' then
        raise exception '% is no ordinary or partitioned table', target
            using errcode = 'wrong_object_type', hint = 'Views, foreign, temporary and materialised tables cannot be tracked.';
    end if;
    if not pg_has_role(current_user, (select relowner from pg_class where oid = relation), 'usage') then
        raise exception 'must be owner of table %', target
            using errcode = 'insufficient_privilege',
                  hint = 'Tracking is turned on and off by the table''s owner or a superuser.';
    end if;
    if (select relnamespace from pg_class where oid = relation) in ('audit'::regnamespace, 'pg_catalog'::regnamespace) then
        raise exception '% cannot be tracked', target
            using errcode = 'wrong_object_type', hint = 'The log does not track itself or the catalogue.';
    end if;
    if (select relispartition from pg_class where oid = relation) then
        raise exception '% is a partition', target
            using errcode = 'wrong_object_type',
                  hint = format('Track %s: its partitions come with it.', pg_partition_root(target));
    end if;
    select p.oid::regclass into foreign_partition
    from audit.partitions_of(relation) p(oid) join pg_class c on c.oid = p.oid where c.relkind = 'f';
    if foreign_partition is not null then
        raise exception 'partition % is a foreign table', foreign_partition
            using errcode = 'wrong_object_type',
                  hint = 'PostgreSQL collects no changed rows there, and every write to the table would fail.';
    end if;
    if kind is null or kind not in ('resource', 'permission', 'role') then
        raise exception 'kind: % is none of resource, permission, role', coalesce(quote_literal(kind), 'null')
            using errcode = 'invalid_parameter_value', hint = 'kind => ''resource''';
    end if;
    if missing_actor is null or missing_actor not in ('system', 'refuse') then
        raise exception 'missing_actor: % is neither system nor refuse', coalesce(quote_literal(missing_actor), 'null')
            using errcode = 'invalid_parameter_value', hint = 'missing_actor => ''system''';
    end if;
    if resource_type = 'audit_log' or length(resource_type) > 200 then
        raise exception 'resource_type: % is the log itself, or longer than 200 characters', left(resource_type, 20)
            using errcode = 'invalid_parameter_value', hint = 'resource_type => ''document''';
    end if;
    if max_value_bytes is null or max_value_bytes not between 64 and 16777216 then
        raise exception 'max_value_bytes: % is not between 64 and 16777216', coalesce(max_value_bytes::text, 'null')
            using errcode = 'invalid_parameter_value', hint = 'max_value_bytes => 65536';
    end if;
    if kind <> 'resource' and coalesce(cardinality(resource_id_columns), 0) = 0 then
        raise exception 'resource_id_columns: required for kind %', kind
            using errcode = 'invalid_parameter_value',
                  hint = case kind when 'permission' then 'Name the columns of what the permission is for.'
                                   else 'Name the columns of the member who gets the role.' end;
    end if;
    perform audit.refuse_unknown_columns(relation, 'resource_type_column', array[resource_type_column]::text[])
    where resource_type_column is not null;
    perform audit.refuse_unknown_columns(relation, 'resource_id_columns', resource_id_columns);
    perform audit.refuse_unknown_columns(relation, 'excluded_columns', excluded_columns);
    perform audit.refuse_unknown_columns(relation, 'redacted_columns', redacted_columns);
    perform audit.refuse_unknown_columns(relation, 'soft_delete_column', array[soft_delete_column])
    where soft_delete_column is not null;
    perform audit.refuse_bad_events(relation, events, column_events);
    perform audit.refuse_unusable_path(relation, 'resource_name_column', resource_name_column);
    perform audit.refuse_unusable_path(relation, 'subject_column', subject_column);
    if soft_delete_column = any(excluded_columns) then
        raise exception 'soft_delete_column: % is excluded', soft_delete_column
            using errcode = 'invalid_parameter_value', hint = 'Take it out of excluded_columns.';
    end if;

    if num_nonnulls(workspace, workspace_column, workspace_setting) > 1 then
        raise exception 'workspace, workspace_column and workspace_setting: give exactly one'
            using errcode = 'invalid_parameter_value';
    elsif num_nonnulls(workspace, workspace_column, workspace_setting) = 0 then
        if not exists (select from pg_attribute where attrelid = relation and attname = 'workspace_id' and not attisdropped) then
            raise exception 'table % has no column workspace_id: say where its workspace comes from', target
                using errcode = 'undefined_column',
                      hint = 'workspace => ''site'', workspace_column => ''team_id'' or ''document_id.workspace_id'', or workspace_setting => ''app.workspace''';
        end if;
        workspace_column := 'workspace_id';
    end if;
    if workspace = '' or (workspace_setting is not null and workspace_setting !~ '^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)+$') then
        raise exception 'workspace, workspace_setting: an empty name or no custom setting'
            using errcode = 'invalid_parameter_value', hint = 'workspace_setting => ''app.workspace''';
    end if;
    perform audit.refuse_unusable_path(relation, 'workspace_column', workspace_column);
    select name into shown_column
    from unnest(excluded_columns || redacted_columns) name
    where name = any(coalesce(resource_id_columns, audit.primary_key_columns(relation))
                     || audit.primary_key_columns(relation) || resource_type_column
                     || split_part(resource_name_column, '.', 1) || split_part(subject_column, '.', 1)
                     || split_part(workspace_column, '.', 1));
    if shown_column is not null then
        raise exception 'excluded_columns, redacted_columns: % is shown elsewhere in the entry', shown_column
            using errcode = 'invalid_parameter_value',
                  hint = 'A column that makes the key, resource, name, subject or workspace cannot be kept secret.';
    end if;
    if workspace_column like '%.%' then
        select c.conname into foreign_key
        from pg_constraint c
        join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
        where c.conrelid = relation and c.contype = 'f' and (c.confdeltype in ('c', 'n', 'd') or c.condeferrable)
          and a.attname = split_part(workspace_column, '.', 1);
        if foreign_key is not null then
            raise warning 'workspace_column: through foreign key % a row can be written while its parent is gone or not yet there; its entry will have no workspace', foreign_key
                using hint = 'Keep the workspace in a column of the table itself.';
        end if;
    end if;

    if (select relrowsecurity from pg_class where oid = relation)
       and not exists (select from pg_policy where polrelid = relation and polname = 'audit_capture_counts') then
        execute format('create policy audit_capture_counts on %s for select to audit_capture using (true)', target);
    end if;

    perform audit.show_ownership(relation);
    function_name := audit.store_tracking(relation, jsonb_build_object(
        'kind', kind, 'resource_type', resource_type, 'resource_type_column', resource_type_column,
        'resource_id_columns', resource_id_columns, 'resource_name_column', resource_name_column,
        'subject_column', subject_column, 'workspace', workspace, 'workspace_column', workspace_column,
        'workspace_setting', workspace_setting, 'events', events, 'column_events', column_events,
        'soft_delete_column', soft_delete_column, 'excluded_columns', coalesce(excluded_columns, '{}'),
        'redacted_columns', coalesce(redacted_columns, '{}'), 'max_value_bytes', max_value_bytes,
        'missing_actor', missing_actor));
    perform audit.hide_ownership(relation);
    for partition in select audit.partitions_of(relation) loop
        perform audit.create_capture_triggers(partition, function_name);
    end loop;
end
$function$;
comment on function audit.enable_tracking(regclass, text, text, text, text[], text, text, text, text, text, jsonb, jsonb, text, text[], text[], integer, text) is
    'Tracks a table: from now on every change of it is an entry, written in the same transaction. Called again it replaces the settings. Needs ownership of the table; the arguments are described in docs/tracking.md.';

create function audit.disable_tracking(target regclass)
    returns void
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
declare
    partition oid;
    trigger_name text;
begin
    if target is null then
        raise exception 'target: name the table'
            using errcode = 'null_value_not_allowed', hint = 'select audit.disable_tracking(''public.document'')';
    end if;
    perform audit.show_ownership(target);
    for partition in select audit.partitions_of(target) loop
        for trigger_name in
            select t.tgname
            from pg_trigger t
            join pg_proc p on p.oid = t.tgfoid
            where t.tgrelid = partition and t.tgparentid = 0 and p.pronamespace = 'audit'::regnamespace and p.proname like 'capture\_%'
        loop
            execute format('drop trigger %I on %s', trigger_name, partition::regclass);
        end loop;
    end loop;
    if exists (select from pg_policy where polrelid = target and polname = 'audit_capture_counts') then
        execute format('drop policy audit_capture_counts on %s', target);
    end if;
    perform audit.remove_tracking(target);
    perform audit.hide_ownership(target);
end
$function$;
comment on function audit.disable_tracking(regclass) is
    'Stops tracking a table; its entries stay. Nothing happens when it is not tracked. Needs ownership of the table.';
