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

create function audit.changed_columns_of_row_sql(columns jsonb)
    returns text
    language sql
    immutable
    parallel safe
begin atomic
    -- One expression for all that have an equality of their own. The others are compared as one row first: forming a row for
    -- each of them is what costs.
    with own as (
        select e.c ->> 'changed' as changed, e.c ->> 'name' as name, e.p, (e.c -> 'is_image')::boolean as is_image
        from jsonb_array_elements(columns) with ordinality e(c, p)
    )
    select format('audit_changed := array_remove(array[%s]::integer[], null);',
                  string_agg(format('case when %s then %s end', changed, p), ', ' order by p) filter (where not is_image))
        || case when bool_or(is_image) then format($sql$
            if record_image_ne(row(%s), row(%s)) then
                audit_changed := audit_changed || array_remove(array[%s]::integer[], null);
            end if;$sql$,
            string_agg(format('audit_o.%I', name), ', ' order by p) filter (where is_image),
            string_agg(format('audit_n.%I', name), ', ' order by p) filter (where is_image),
            string_agg(format('case when %s then %s end', changed, p), ', ' order by p) filter (where is_image)) else '' end
    from own;
end;
comment on function audit.changed_columns_of_row_sql(jsonb) is
    'The code that puts the places of the changed columns of a row into audit_changed.';

create function audit.changed_values_sql(columns jsonb, first integer, last integer)
    returns text
    language plpgsql
    immutable
    parallel safe
    set search_path = pg_catalog, pg_temp
as $function$
declare
    middle constant integer := (first + last) / 2;
begin
    if first = last then
        return format($sql$
                audit_before := coalesce(audit_before, '{}') || jsonb_build_object(%1$L, %2$s);
                audit_after := coalesce(audit_after, '{}') || jsonb_build_object(%1$L, %3$s);$sql$,
            columns -> first - 1 ->> 'name', columns -> first - 1 ->> 'before', columns -> first - 1 ->> 'after');
    end if;
    return format($sql$
            if audit_place <= %s then%s
            else%s
            end if;$sql$, middle, audit.changed_values_sql(columns, first, middle), audit.changed_values_sql(columns, middle + 1, last));
end
$function$;
comment on function audit.changed_values_sql(jsonb, integer, integer) is
    'The code that adds the values of the column at audit_place, which lies from first to last, to audit_before and audit_after. It halves its way: only what changed is evaluated, of how many columns ever.';

create function audit.single_row_sql(pieces jsonb, operation text, table_schema text, table_name text, actor_check text)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
-- Code for the records audit_o and audit_n, of few statements: starting an expression is what costs a one-row transaction. Of
-- an UPDATE only the columns that changed are turned into jsonb.
declare
    columns constant jsonb := pieces -> 'columns';
    side constant jsonb := case when operation = 'DELETE' then pieces -> 'old' else pieces -> 'new' end;
    has_key constant boolean := (pieces -> 'has_key')::boolean;
    code text := '';
    before_sql text := 'null';
    after_sql text := 'null';
begin
    if operation <> 'INSERT' then
        before_sql := audit.object_sql(columns, 'before');
    end if;
    if operation <> 'DELETE' then
        after_sql := audit.object_sql(columns, 'after');
    end if;
    if operation = 'UPDATE' and columns = '[]' then
        return $sql$
            return null;$sql$;
    elsif operation = 'UPDATE' then
        code := format($sql$
            select * into audit_o from audit_old_rows;
            %s
            if audit_changed = '{}' then
                return null;
            end if;$sql$, audit.changed_columns_of_row_sql(columns));
        if has_key then
            code := code || format($sql$
            foreach audit_place in array audit_changed loop%s
            end loop;$sql$, audit.changed_values_sql(columns, 1, jsonb_array_length(columns)));
            before_sql := 'audit_before';
            after_sql := 'audit_after';
        end if;
    end if;
    return code || format($sql$
            audit_given := audit.given_actor();
            if not audit.actor_is_plain(audit_given) then
                audit_actor := audit.read_actor_context();
                audit_context := audit_actor.context;
            elsif audit.has_context(audit_given) then
                audit_context := audit.plain_context();
            end if;%1$s
            audit_instant := audit.write_instant();
            insert into audit.entry (
                id, created_at, workspace_id, event, operation, table_schema, table_name, resource_type, resource_id,
                resource_name, row_key, actor_type, actor_id, actor_name, row_count, before, after, request_id, context,
                database_user, transaction_id)
            values (
                audit.new_entry_id_at(audit_instant), audit.moment_at(audit_instant), %2$s, %3$s, %4$L, %5$s, %6$s,
                %7$s, %8$s, %9$s, nullif((%10$s) collate "C", (%8$s) collate "C"),
                coalesce(audit_actor.actor_type, audit.plain_actor_type()), coalesce(audit_actor.actor_id, current_setting('audit.actor_id')),
                coalesce(audit_actor.actor_name, nullif(current_setting('audit.actor_name', true), ''), current_setting('audit.actor_id')),
                1, %11$s, %12$s,
                case when audit_actor.actor_id is null then nullif(current_setting('audit.request_id', true), '') else audit_actor.request_id end,
                %13$s, session_user, pg_current_xact_id());
            return null;$sql$,
        actor_check, side ->> 'workspace', audit.row_event_sql(pieces, operation, null), operation, table_schema, table_name,
        side ->> 'resource_type', side ->> 'resource_id', side ->> 'resource_name',
        case when operation = 'INSERT' then pieces -> 'new' ->> 'row_key' else pieces -> 'old' ->> 'row_key' end,
        before_sql, after_sql,
        case when side ->> 'subject_id' = 'null::text' then 'audit_context'
             else format($sql$case when %1$s is null then audit_context
                     else coalesce(audit_context, '{}')
                         || jsonb_build_object('subject', jsonb_build_object('id', %1$s, 'name', %2$s)) end$sql$,
                         side ->> 'subject_id', side ->> 'subject_name') end);
end
$function$;
comment on function audit.single_row_sql(jsonb, text, text, text, text) is
    'The code of a compiled function that writes the entry of one changed row, whose new values (of a DELETE the old ones) it has read.';

create function audit.table_has_shape(relation oid, shape text)
    returns boolean
    language plpgsql
    -- It is not. So it becomes a part of a plan, and a plan that reads a table''s transition table is made anew whenever that
    -- table is altered: the question costs a write nothing until then.
    immutable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    is_so boolean;
begin
    execute format('select %s = $2', audit.shape_sql('$1')) into is_so using relation, shape;
    return is_so;
end
$function$;
comment on function audit.table_has_shape(oid, text) is
    'Whether a table has a fingerprint. For a compiled function''s query of its transition table, and for nothing else.';

create function audit.needed_settings(tracked audit.tracked_table, relation oid)
    returns text[]
    language sql
    stable
begin atomic
    -- What stands in a capture function stands in every entry it writes: a setting more is a microsecond more for each row. The
    -- log's policies hold, and how a value is written must not depend on who writes it: but most types are written in one way.
    select array['row_security = on'] || case
        -- The parent of a lookup has columns of its own, and its owner functions that must not be called when a query is planned.
        when bool_or(not t.is_fixed and (t.oid <> 'timestamptz'::regtype or t.is_read_as_text))
             or concat(tracked.resource_name_column, tracked.workspace_column, tracked.subject_column, tracked.resource_type_column) like '%.%'
        then array['timezone = UTC', 'datestyle = ISO, YMD', 'intervalstyle = postgres', 'extra_float_digits = 1', 'bytea_output = hex',
                   'constraint_exclusion = off', 'jit = off']
        when bool_or(t.oid = 'timestamptz'::regtype) then array['timezone = UTC']
        else '{}' end
    from (
        select b.oid, a.attname, b.is_fixed or b.oid in ('date'::regtype, 'timestamp'::regtype) and not r.is_read_as_text as is_fixed,
               r.is_read_as_text
        from pg_catalog.pg_attribute a
        cross join lateral (
            select e.oid, e.typtype = 'e'
                or e.oid in ('boolean'::regtype, 'smallint'::regtype, 'integer'::regtype, 'bigint'::regtype, 'numeric'::regtype,
                             'text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'name'::regtype, 'uuid'::regtype,
                             'json'::regtype, 'jsonb'::regtype, 'oid'::regtype) as is_fixed
            from pg_catalog.pg_type b
            join pg_catalog.pg_type e on e.oid = case when b.typcategory = 'A' and b.typelem <> 0 then b.typelem else b.oid end
            where b.oid = audit.base_type(a.atttypid)) b
        cross join lateral (
            select a.attname = any(array[tracked.resource_name_column, tracked.workspace_column, tracked.subject_column,
                                         tracked.resource_type_column]
                                   || tracked.resource_id_columns || audit.primary_key_columns(relation)) as is_read_as_text) r
        where a.attrelid = relation and a.attnum > 0 and not a.attisdropped) t;
end;
comment on function audit.needed_settings(audit.tracked_table, oid) is
    'What a capture function sets for itself beside its search_path: name = value each. Less than all of audit.take_settings(), which those statements set that hold any number of rows, or read a table altered behind a stale function.';

create function audit.take_settings()
    returns text[]
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $function$
declare
    -- How values are written; that no function of a table's owner is called when a query is planned; and how many rows are paired,
    -- which is most of what they cost: hashed in memory, not sorted on disk. Compiling a plan that runs once takes longer than
    -- running it.
    wanted constant text[] := array[
        'timezone', 'UTC', 'datestyle', 'ISO, YMD', 'intervalstyle', 'postgres', 'extra_float_digits', '1', 'bytea_output', 'hex',
        'constraint_exclusion', 'off', 'enable_hashjoin', 'on', 'enable_mergejoin', 'off', 'jit', 'off', 'work_mem', '16MB'];
    known text;
    changed text[] := '{}';
begin
    for place in 1 .. cardinality(wanted) by 2 loop
        known := current_setting(wanted[place]);
        if known <> wanted[place + 1] and (wanted[place] <> 'work_mem' or pg_size_bytes(known) < 16777216) then
            changed := changed || array[wanted[place], known];
            perform set_config(wanted[place], wanted[place + 1], true);
        end if;
    end loop;
    return changed;
end
$function$;
comment on function audit.take_settings() is
    'Sets for the transaction what a capture statement over any number of rows needs. Returns what it changed, for audit.give_settings_back; an error puts it back by itself.';

create function audit.give_settings_back(changed text[])
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $function$
begin
    for place in 1 .. cardinality(changed) by 2 loop
        perform set_config(changed[place], changed[place + 1], true);
    end loop;
end
$function$;
comment on function audit.give_settings_back(text[]) is 'Puts back what audit.take_settings() changed.';

create function audit.passes_its_rows(relation oid, trigger_name name, operation text)
    returns boolean
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
begin
    -- A trigger that somebody else made of a capture function may not pass the rows: their names would mean a temporary table or
    -- view of the caller's, which must not be read with these rights.
    return to_regclass('pg_temp.audit_new_rows') is null and to_regclass('pg_temp.audit_old_rows') is null
        or exists (select from pg_catalog.pg_trigger t
                   where t.tgrelid = relation and t.tgname = trigger_name
                     and (operation = 'DELETE' or t.tgnewtable = 'audit_new_rows')
                     and (operation = 'INSERT' or t.tgoldtable = 'audit_old_rows'));
end
$function$;
comment on function audit.passes_its_rows(oid, name, text) is
    'Whether a trigger''s transition tables are what their names mean in this session. For sessions with temporary tables: in others nothing else can be meant.';

create function audit.first_row_sql(variable text, source text, is_current text default null)
    returns text
    language sql
    immutable
    parallel safe
    -- A column of the table may have any name, but hardly these.
return format($sql$
            select *, exists (select from %2$s offset 1) as "audit: there are more"%3$s into %1$s from %2$s limit 1;$sql$,
    variable, source, coalesce(', ' || is_current || ' as "audit: it is current"', ''));
comment on function audit.first_row_sql(text, text, text) is
    'The code that reads the first row of a transition table into a record, with whether there are more. is_current: an expression to read with it.';

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
    table_schema constant text := coalesce(quote_literal(pieces ->> 'table_schema'), 'tg_table_schema');
    table_name constant text := coalesce(quote_literal(pieces ->> 'table_name'), 'tg_table_name');
    -- Of all columns, virtual ones included: rows have them.
    column_names constant text[] := array(select a.attname::text from pg_attribute a where a.attrelid = relation and a.attnum > 0 and not a.attisdropped order by a.attnum);
    lookup_check text;
    lookup_probe text := '';
    actor_check text := '';
    unpaired_check text := '';
    current_sql text;
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

    current_sql := format('coalesce(audit.table_has_shape(%s, %L) and %s, false)', relation, table_shape, lookup_check);
    if tracked.missing_actor = 'refuse' then
        actor_check := $sql$
    -- Whose actor is plain has one.
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
            audit_is_unpaired := (select count(*) from audit_old_rows) <> (select count(*) from audit_new_rows);
        end if;$sql$;
    end if;

    return format($sql$
#variable_conflict use_variable
declare
    -- None has a value to begin with: each would be an expression more for every write.
    audit_actor audit.actor_context;
    audit_given text;
    audit_context jsonb;
    audit_instant bigint;
    audit_is_alone boolean;
    audit_o record;
    audit_n record;
    audit_changed integer[];
    audit_place integer;
    audit_before jsonb;
    audit_after jsonb;
    audit_moment timestamptz;
    audit_pieces jsonb;
    audit_columns text[];
    audit_settings text[];
    audit_is_current boolean;
    audit_is_unpaired boolean;
    audit_shape text;
    audit_types oid[];
    audit_follows_lookups boolean;
begin
    -- What nearly every write is: READ COMMITTED, on the table this was compiled for. A transaction of one row pays for each
    -- statement that runs here.
    if tg_relid = %4$s and %21$s
       and current_setting('transaction_isolation') in ('read committed', 'read uncommitted')
       and (pg_my_temp_schema() = 0 or audit.passes_its_rows(tg_relid, tg_name, tg_op)) then
        -- Queries without parameters, so that each has one plan.
        if tg_op = 'DELETE' then%22$s
            if not found then
                return null;
            end if;
            audit_is_current := audit_o."audit: it is current";
            audit_is_alone := not audit_o."audit: there are more";
        else%23$s
            if not found then
                return null;
            end if;
            audit_is_current := audit_n."audit: it is current";
            audit_is_alone := not audit_n."audit: there are more";
        end if;
    else
        if tg_op = 'TRUNCATE' then
            -- A partitioned table holds no rows of its own: TRUNCATE fires the triggers of its partitions too.
            -- Not by its one row: a transaction with an old snapshot that truncates twice finds that twice.
            if exists (select from pg_catalog.pg_class where oid = tg_relid and relkind = 'p') then
                return null;
            end if;
            audit_actor := audit.read_actor_context();%5$s
            audit_moment := audit.write_moment();
            audit_settings := audit.take_settings();
            audit_is_current := audit.count_is_exact(tg_relid);
            -- An estimate reads no column, and may be the word of a snapshot that is older than the settings.
            execute audit.truncate_sql(case when audit_is_current then audit.capture_pieces(%3$s, tg_relid) else %10$L::jsonb end,
                                       tg_relid, audit_is_current)
            using audit_moment, audit_actor, %1$s, %2$s;
            perform audit.give_settings_back(audit_settings);
            return null;
        end if;
        if pg_my_temp_schema() <> 0 and not audit.passes_its_rows(tg_relid, tg_name, tg_op) then
            raise exception 'trigger %% on %%.%% does not pass its rows to the log', tg_name, tg_table_schema, tg_table_name
                using errcode = 'insufficient_privilege',
                      hint = 'Drop that trigger; audit.enable_tracking makes those that capture needs.';
        end if;
        if tg_op = 'DELETE' then%24$s
            audit_is_alone := not audit_o."audit: there are more";
        else%25$s
            audit_is_alone := not audit_n."audit: there are more";
        end if;%9$s
        if not found and audit_is_unpaired is not true then
            return null;
        end if;
        -- Not current: the table was changed and this function was not compiled anew. Its fragments are then asked for afresh.
        if current_setting('transaction_isolation') in ('read committed', 'read uncommitted') then
            -- A partition, or the table after a restore, has another number.
            audit_is_current := coalesce(%19$s = %20$L and %11$s, false);
        else
            -- The snapshot may be older than another session's ALTER TABLE: it shows the catalogue as it was, the rows are what is.
            audit_follows_lookups := true;
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
    end if;

    if audit_is_alone and audit_is_current and audit_is_unpaired is not true then
        if tg_op = 'UPDATE' then%8$s
        elsif tg_op = 'INSERT' then%6$s
        else%7$s
        end if;
    end if;

    audit_pieces := case when audit_is_current then %10$L::jsonb
                         else audit.capture_pieces(%3$s, tg_relid, audit_shape, audit_types, coalesce(audit_follows_lookups, true)) end;
    audit_settings := audit.take_settings();
    if audit_is_unpaired then
        audit_actor := audit.read_actor_context();%5$s
        audit_moment := audit.write_moment();
        execute audit.bulk_sql(audit_pieces, 'DELETE', null) using audit_moment, audit_actor, %1$s, %2$s;
        audit_moment := audit.write_moment();
        execute audit.bulk_sql(audit_pieces, 'INSERT', null) using audit_moment, audit_actor, %1$s, %2$s;
        perform audit.give_settings_back(audit_settings);
        return null;
    end if;
    -- Planned each time: the plan that fitted one row would take minutes for many.
    if tg_op = 'UPDATE' then
        execute audit.changed_columns_sql(audit_pieces) into audit_columns;
    end if;
    if tg_op <> 'UPDATE' or cardinality(audit_columns) > 0 then
        audit_actor := audit.read_actor_context();%5$s
        audit_moment := audit.write_moment();
        execute audit.bulk_sql(audit_pieces, tg_op, audit_columns)
        using audit_moment, audit_actor, %1$s, %2$s;
    end if;
    perform audit.give_settings_back(audit_settings);
    return null;
end
$sql$,
        table_schema,
        table_name,
        tracked.id,
        relation::text,
        actor_check,
        audit.single_row_sql(pieces, 'INSERT', table_schema, table_name, actor_check),
        audit.single_row_sql(pieces, 'DELETE', table_schema, table_name, actor_check),
        audit.single_row_sql(pieces, 'UPDATE', table_schema, table_name, actor_check),
        unpaired_check,
        pieces::text,
        lookup_check,
        audit.row_shape_sql('audit_old_rows'),
        audit.row_shape_sql('audit_new_rows'),
        (select '{' || coalesce(string_agg(to_json(n)::text || ':null', ',' order by p), '') || '}' from unnest(column_names) with ordinality c(n, p)),
        audit.row_types_sql('audit_old_rows', column_names),
        audit.row_types_sql('audit_new_rows', column_names),
        audit.row_types(relation),
        coalesce(lookup_probe, ''),
        audit.shape_sql('tg_relid'),
        table_shape,
        case when is_partitioned then 'tg_op in (''INSERT'', ''DELETE'')' else 'tg_op <> ''TRUNCATE''' end,
        audit.first_row_sql('audit_o', 'audit_old_rows', current_sql),
        audit.first_row_sql('audit_n', 'audit_new_rows', current_sql),
        audit.first_row_sql('audit_o', 'audit_old_rows'),
        audit.first_row_sql('audit_n', 'audit_new_rows'));
end
$function$;
comment on function audit.function_sql(audit.tracked_table, oid) is 'The body of a tracked table''s compiled trigger function.';
