-- The compiled trigger function of a tracked table: one function for its four operations.

set search_path = pg_catalog, pg_temp;

create function audit.capture_function(tracked_id bigint)
    returns oid
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
begin
    return to_regprocedure(format('audit.capture_%s()', tracked_id));
end
$function$;
comment on function audit.capture_function(bigint) is 'The compiled trigger function of a tracked table. Null: there is none.';

create function audit.truncate_sql(pieces jsonb, relation oid, is_exact boolean)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    details constant jsonb := nullif(jsonb_strip_nulls(jsonb_build_object(
        'row_count_is_estimated', case when not is_exact then true end,
        'partition', (select format('%I.%I', n.nspname, c.relname)
                      from pg_class c join pg_namespace n on n.oid = c.relnamespace
                      where c.oid = relation and c.relispartition limit 1))), '{}');
begin
    -- $1 created_at, $2 actor, $3 table_schema, $4 table_name
    return format($sql$
insert into audit.entry (
    id, created_at, workspace_id, event, operation, table_schema, table_name, resource_type,
    actor_type, actor_id, actor_name, row_count, request_id, context, database_user, transaction_id)
select audit.new_entry_id($1), $1, g.workspace_id, %1$L, 'TRUNCATE', $3, $4, %2$L,
       ($2).actor_type, ($2).actor_id, ($2).actor_name, g.row_count, ($2).request_id, %3$s,
       session_user, pg_current_xact_id()
from (%4$s) g
$sql$, pieces -> 'events' ->> 'TRUNCATE', pieces -> 'new' ->> 'default_type',
        case when details is null then '($2).context'
             else format($sql$coalesce(($2).context, '{}') || %L::jsonb$sql$, jsonb_build_object('details', details)) end,
        case when is_exact
             then format('select %s collate "C" as workspace_id, count(*) as row_count from only %s audit_n group by 1',
                         pieces -> 'new' ->> 'workspace', relation::regclass)
             else format('select %L::text as workspace_id, max(greatest(reltuples, 0))::bigint as row_count from pg_class where oid = %s',
                         pieces -> 'new' ->> 'constant_workspace', relation) end);
end
$function$;
comment on function audit.truncate_sql(jsonb, oid, boolean) is
    'The statement that counts a table before TRUNCATE empties it: one entry for each workspace. Not exact: one entry with the planner''s estimate, and it says so.';

create function audit.count_is_exact(relation oid)
    returns boolean
    language sql
    stable
begin atomic
    select has_table_privilege(current_user, c.oid, 'select')
       and has_schema_privilege(current_user, c.relnamespace, 'usage')
       and current_setting('transaction_isolation') in ('read committed', 'read uncommitted')
       and (not row_security_active(c.oid)
            -- Beside "true" the planner drops every other permissive policy, but may call immutable functions in them first:
            -- none may hold anything of the owner's.
            or (exists (select from pg_catalog.pg_policy p
                        where p.polrelid = c.oid and p.polname = 'audit_capture_counts' and p.polcmd in ('r', '*')
                          and to_regrole('audit_capture') = any(p.polroles) and pg_get_expr(p.polqual, p.polrelid) = 'true')
                and not exists (select from pg_catalog.pg_policy p
                                left join pg_catalog.pg_depend d
                                    on d.classid = 'pg_policy'::regclass and d.objid = p.oid
                                   and not (d.refclassid = 'pg_class'::regclass and d.refobjid = p.polrelid)
                                where p.polrelid = c.oid and (not p.polpermissive or d.objid is not null))))
       and not audit.runs_code_when_read(c.oid)
    from pg_catalog.pg_class c
    where c.oid = relation;
end;
comment on function audit.count_is_exact(oid) is
    'Whether the current role sees every row of a table in its newest state, and counting it runs no function of the table''s owner, so that a TRUNCATE of it can be counted.';

create function audit.single_row_sql(pieces jsonb, operation text)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
-- Code for the records audit_o and audit_n: expressions that need no table are evaluated without running a query, and of an
-- UPDATE only the columns that changed are turned into jsonb.
declare
    side constant jsonb := case when operation = 'DELETE' then pieces -> 'old' else pieces -> 'new' end;
    has_key constant boolean := (pieces -> 'has_key')::boolean;
    code text := '';
begin
    if operation = 'INSERT' then
        code := format('audit_after := %s;', audit.object_sql(pieces -> 'columns', 'after'));
    elsif operation = 'DELETE' then
        code := format('audit_before := %s;', audit.object_sql(pieces -> 'columns', 'before'));
    else
        select coalesce(string_agg(format($sql$
            if %s then
                audit_changed := audit_changed || %L::text;%s
            end if;$sql$, c ->> 'changed', c ->> 'name',
            case when has_key then format($sql$
                audit_before := coalesce(audit_before, '{}') || jsonb_build_object(%1$L, %2$s);
                audit_after := coalesce(audit_after, '{}') || jsonb_build_object(%1$L, %3$s);$sql$,
                c ->> 'name', c ->> 'before', c ->> 'after') else '' end), '' order by p), '')
            || $sql$
            if audit_changed is null then
                return null;
            end if;$sql$
        into code
        from jsonb_array_elements(pieces -> 'columns') with ordinality e(c, p);
        if not has_key then
            code := code || format($sql$
            audit_before := %s;
            audit_after := %s;$sql$, audit.object_sql(pieces -> 'columns', 'before'), audit.object_sql(pieces -> 'columns', 'after'));
        end if;
    end if;
    return code || format($sql$
            audit_event := %1$s;
            audit_workspace := %2$s;
            audit_resource_type := %3$s;
            audit_resource_id := %4$s;
            audit_resource_name := %5$s;
            audit_row_key := nullif((%6$s) collate "C", audit_resource_id collate "C");$sql$,
        audit.row_event_sql(pieces, operation, null), side ->> 'workspace', side ->> 'resource_type', side ->> 'resource_id',
        side ->> 'resource_name',
        case when operation = 'INSERT' then pieces -> 'new' ->> 'row_key' else pieces -> 'old' ->> 'row_key' end)
        || case when side ->> 'subject_id' = 'null::text' then '' else format($sql$
            audit_subject := %1$s;
            if audit_subject is not null then
                audit_context := jsonb_build_object('subject', jsonb_build_object('id', audit_subject, 'name', %2$s));
            end if;$sql$, side ->> 'subject_id', side ->> 'subject_name') end;
end
$function$;
comment on function audit.single_row_sql(jsonb, text) is
    'The code of a compiled function that reads one changed row from its records into the variables of its entry.';

create function audit.function_sql(tracked audit.tracked_table, relation oid)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    pieces constant jsonb := audit.capture_pieces(tracked.id, relation);
    is_partitioned constant boolean := (select relkind = 'p' from pg_class where oid = relation);
    table_shape constant text := audit.table_shape(relation);
    -- Of all columns, virtual ones included: rows have them.
    column_names constant text[] := array(select a.attname::text from pg_attribute a where a.attrelid = relation and a.attnum > 0 and not a.attisdropped order by a.attnum);
    lookup_check text;
    lookup_probe text := '';
    actor_check text := '';
    unpaired_check text := '';
begin
    -- Names, not OIDs, for the parents of lookups: the text must hold after a restore, and a parent that is gone reads as
    -- changed. What one asks of a column is asked only once it is known to be there.
    select coalesce(string_agg(format(
        'case when %1$s = %2$L then has_schema_privilege(%3$L, ''usage'') and has_column_privilege(%4$s, %5$L, ''select'') '
        'and has_column_privilege(%4$s, %6$L, ''select'') and not row_security_active(%4$s) and %7$s else false end',
        audit.shape_sql(n.parent_oid), audit.table_shape(l.parent), n.schema_name, n.parent_oid, l.parent_key, l.parent_column,
        case when audit.lookups_run_as_owner()
             -- Null, and so not current, when the function is gone.
             then format('(select c.relowner from pg_catalog.pg_class c where c.oid = %s) = %s and has_function_privilege(%s, ''execute'')',
                         n.parent_oid, n.parent_owner,
                         (select f.oid from pg_proc f where f.pronamespace = 'audit'::regnamespace
                          and f.proname = audit.lookup_name(tracked.id, p.path)))
             else 'not ' || audit.runs_code_when_read_sql(n.parent_oid, n.is_partitioned) end), ' and '), 'true'),
           -- Once, with no key: a snapshot may be older than what happened to the parent.
           format($sql$
        begin
            %s
        exception when syntax_error_or_access_rule_violation then
            audit_follows_lookups := false;
        end;$sql$, string_agg(format('perform %s from (select null::%s as %I) audit_k;',
            audit.column_or_lookup_sql('audit_k', tracked.id, relation, audit.table_columns(relation), true, p.path, 'short'),
            (select a.atttypid::regtype from pg_attribute a where a.attrelid = relation and a.attname = split_part(p.path, '.', 1)),
            split_part(p.path, '.', 1)), ' '))
    into lookup_check, lookup_probe
    from unnest(audit.readable_paths(tracked, relation)) p(path)
    cross join lateral audit.find_lookup(relation, p.path) l
    cross join lateral (
        -- By the catalogue: to_regclass raises where the schema may not be used.
        select s.nspname as schema_name, c.relkind = 'p' as is_partitioned, c.relowner as parent_owner,
               format('(select c.oid from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace '
                      'where n.nspname = %L and c.relname = %L and c.relkind = %L)', s.nspname, c.relname, c.relkind) as parent_oid
        from pg_class c join pg_namespace s on s.oid = c.relnamespace where c.oid = l.parent) n;

    if tracked.missing_actor = 'refuse' then
        actor_check := $sql$
    if audit_actor.actor_type = 'system' then
        raise exception 'a write to %.% needs an actor', tg_table_schema, tg_table_name
            using errcode = 'insufficient_privilege',
                  hint = 'select audit.set_actor(id, name) in the same transaction, before the write.';
    end if;$sql$;
    end if;
    actor_check := actor_check || audit.signed_actor_sql(tracked.signed_actor);
    if is_partitioned then
        -- A BEFORE trigger of the partition that a row moves into can suppress it: then old and new rows do not pair up.
        unpaired_check := $sql$
    if tg_op = 'UPDATE' then
        audit_is_paired := (select count(*) from audit_old_rows) = (select count(*) from audit_new_rows);
    end if;$sql$;
    end if;

    return format($sql$
#variable_conflict use_variable
declare
    audit_schema text := %1$s;
    audit_table text := %2$s;
    audit_actor audit.actor_context;
    audit_moment timestamptz;
    audit_changed text[];
    audit_rows integer;
    audit_o record;
    audit_n record;
    audit_event text;
    audit_workspace text;
    audit_resource_type text;
    audit_resource_id text;
    audit_resource_name text;
    audit_row_key text;
    audit_subject text;
    audit_before jsonb;
    audit_after jsonb;
    audit_context jsonb;
    audit_pieces jsonb;
    audit_is_current boolean;
    audit_is_paired boolean := true;
    audit_shape text;
    audit_types oid[];
    audit_follows_lookups boolean := true;
begin
    if tg_op = 'TRUNCATE' then
        -- A partitioned table holds no rows of its own: TRUNCATE fires the triggers of its partitions too.
        -- Not by its one row: a transaction with an old snapshot that truncates twice finds that twice.
        if exists (select from pg_catalog.pg_class where oid = tg_relid and relkind = 'p') then
            return null;
        end if;
        audit_actor := audit.read_actor_context();%5$s
        audit_moment := audit.write_moment();
        audit_is_current := audit.count_is_exact(tg_relid);
        -- An estimate reads no column, and may be the word of a snapshot that is older than the settings.
        execute audit.truncate_sql(case when audit_is_current then audit.capture_pieces(%3$s, tg_relid) else %10$L::jsonb end,
                                   tg_relid, audit_is_current)
        using audit_moment, audit_actor, audit_schema, audit_table;
        return null;
    end if;
    -- A trigger that somebody else made of this function may not pass the rows: their names would mean a temporary table or view
    -- of the caller's, which must not be read with these rights.
    if (to_regclass('pg_temp.audit_new_rows') is not null or to_regclass('pg_temp.audit_old_rows') is not null)
       and not exists (select from pg_catalog.pg_trigger t
                       where t.tgrelid = tg_relid and t.tgname = tg_name
                         and (tg_op = 'DELETE' or t.tgnewtable = 'audit_new_rows')
                         and (tg_op = 'INSERT' or t.tgoldtable = 'audit_old_rows')) then
        raise exception 'trigger %% on %%.%% does not pass its rows to the log', tg_name, tg_table_schema, tg_table_name
            using errcode = 'insufficient_privilege',
                  hint = 'Drop that trigger; audit.enable_tracking makes those that capture needs.';
    end if;%9$s

    if tg_op = 'DELETE' then
        select count(*) into audit_rows from (select from audit_old_rows limit 2) s;
    else
        select count(*) into audit_rows from (select from audit_new_rows limit 2) s;
    end if;
    if audit_rows = 0 and audit_is_paired then
        return null;
    end if;
    -- False when the table was changed and this function was not compiled anew: its fragments are then asked for afresh.
    if current_setting('transaction_isolation') in ('read committed', 'read uncommitted') then
        audit_is_current := coalesce(%4$s and %11$s, false);
    else
        -- The snapshot may be older than another session's ALTER TABLE: it shows the catalogue as it was, the rows are what is.
        if tg_op = 'DELETE' then
            audit_shape := %12$s;
            if audit_shape = %14$L then
                audit_types := %15$s;
            end if;
        else
            audit_shape := %13$s;
            if audit_shape = %14$L then
                audit_types := %16$s;
            end if;
        end if;%18$s
        audit_is_current := coalesce(audit_types = %17$L::oid[] and audit_follows_lookups and %11$s, false);
        if not audit_is_current and audit_types is null then
            execute 'select ' || audit.row_types_sql(case tg_op when 'DELETE' then 'audit_old_rows' else 'audit_new_rows' end,
                                                     array(select json_object_keys(audit_shape::json)))
            into audit_types;
        end if;
    end if;

    if audit_rows = 1 and audit_is_paired and audit_is_current then
        if tg_op = 'INSERT' then
            select * into audit_n from audit_new_rows;
            %6$s
        elsif tg_op = 'DELETE' then
            select * into audit_o from audit_old_rows;
            %7$s
        else
            select * into audit_o from audit_old_rows;
            select * into audit_n from audit_new_rows;
            %8$s
        end if;
        audit_actor := audit.read_actor_context();%5$s
        audit_moment := audit.write_moment();
        insert into audit.entry (
            id, created_at, workspace_id, event, operation, table_schema, table_name, resource_type, resource_id,
            resource_name, row_key, actor_type, actor_id, actor_name, row_count, before, after, request_id, context,
            database_user, transaction_id)
        values (
            audit.new_entry_id(audit_moment), audit_moment, audit_workspace, audit_event, tg_op, audit_schema, audit_table,
            audit_resource_type, audit_resource_id, audit_resource_name, audit_row_key,
            audit_actor.actor_type, audit_actor.actor_id, audit_actor.actor_name, 1, audit_before, audit_after,
            audit_actor.request_id,
            case when audit_context is null then audit_actor.context else coalesce(audit_actor.context, '{}') || audit_context end,
            session_user, pg_current_xact_id());
        return null;
    end if;

    audit_pieces := case when audit_is_current then %10$L::jsonb
                         else audit.capture_pieces(%3$s, tg_relid, audit_shape, audit_types, audit_follows_lookups) end;
    if not audit_is_paired then
        audit_actor := audit.read_actor_context();%5$s
        audit_moment := audit.write_moment();
        execute audit.bulk_sql(audit_pieces, 'DELETE', null) using audit_moment, audit_actor, audit_schema, audit_table;
        audit_moment := audit.write_moment();
        execute audit.bulk_sql(audit_pieces, 'INSERT', null) using audit_moment, audit_actor, audit_schema, audit_table;
        return null;
    end if;
    -- Planned each time: the plan that fitted one row would take minutes for many.
    if tg_op = 'UPDATE' then
        execute audit.changed_columns_sql(audit_pieces) into audit_changed;
        if cardinality(audit_changed) = 0 then
            return null;
        end if;
    end if;
    audit_actor := audit.read_actor_context();%5$s
    audit_moment := audit.write_moment();
    execute audit.bulk_sql(audit_pieces, tg_op, audit_changed)
    using audit_moment, audit_actor, audit_schema, audit_table;
    return null;
end
$sql$,
        coalesce(quote_literal(pieces ->> 'table_schema'), 'tg_table_schema'),
        coalesce(quote_literal(pieces ->> 'table_name'), 'tg_table_name'),
        tracked.id,
        format('%s = %L', audit.shape_sql('tg_relid'), table_shape),
        actor_check,
        audit.single_row_sql(pieces, 'INSERT'),
        audit.single_row_sql(pieces, 'DELETE'),
        audit.single_row_sql(pieces, 'UPDATE'),
        unpaired_check,
        pieces::text,
        lookup_check,
        audit.row_shape_sql('audit_old_rows'),
        audit.row_shape_sql('audit_new_rows'),
        (select '{' || coalesce(string_agg(to_json(n)::text || ':null', ',' order by p), '') || '}' from unnest(column_names) with ordinality c(n, p)),
        audit.row_types_sql('audit_old_rows', column_names),
        audit.row_types_sql('audit_new_rows', column_names),
        audit.row_types(relation),
        coalesce(lookup_probe, ''));
end
$function$;
comment on function audit.function_sql(audit.tracked_table, oid) is 'The body of a tracked table''s compiled trigger function.';
