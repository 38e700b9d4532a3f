-- Turning tracking on and off. The public functions run with the caller's rights, who must own the table; what needs the log's
-- own rights stands in definer functions that check ownership again.

set search_path = pg_catalog, pg_temp;

create function audit.prove_ownership()
    returns trigger
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
begin
    return null;
end
$function$;
comment on function audit.prove_ownership() is
    'Does nothing: a trigger that calls it, made ENABLE ALWAYS in this transaction, proves that the caller owns the table.';

create function audit.show_ownership(relation oid)
    returns void
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
declare
    target constant text := (select format('%I.%I', n.nspname, c.relname)
                             from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation);
begin
    execute format('create trigger audit_ownership before truncate on %s for each statement execute function audit.prove_ownership()', target);
    -- TRIGGER can be granted; ENABLE ALWAYS takes the owner.
    execute format('alter table %s enable always trigger audit_ownership', target);
end
$function$;
comment on function audit.show_ownership(oid) is
    'Makes the trigger that require_owner asks for, with the caller''s rights. Raises 42501 unless the caller owns the table.';

create function audit.hide_ownership(relation oid)
    returns void
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
begin
    execute format('drop trigger audit_ownership on %s',
                   (select format('%I.%I', n.nspname, c.relname)
                    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation));
end
$function$;
comment on function audit.hide_ownership(oid) is 'Takes the trigger of show_ownership away again.';

create function audit.require_owner(relation oid)
    returns void
    language plpgsql
    stable
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
declare
    own_transaction constant bigint := pg_current_xact_id()::text::bigint;
    made_by bigint;
begin
    -- No role name can be trusted here: inside a definer function current_user is the log's owner, and session_user may be a
    -- superuser whose ANALYZE runs somebody's index function. What only the owner could have done a moment ago is proof.
    select xmin::text::bigint into made_by
    from pg_trigger t
    where t.tgrelid = relation and t.tgname = 'audit_ownership' and t.tgenabled = 'A'
      and t.tgfoid = 'audit.prove_ownership()'::regprocedure;
    -- Visible and still in progress: made by this transaction or a subtransaction of it, whose ids are never less.
    if made_by is null or made_by < own_transaction % 4294967296
       or pg_xact_status((own_transaction - own_transaction % 4294967296 + made_by)::text::xid8) <> 'in progress' then
        raise exception 'must be owner of table %', relation::regclass
            using errcode = 'insufficient_privilege',
                  hint = 'Call audit.enable_tracking or audit.disable_tracking as the table''s owner or a superuser.';
    end if;
end
$function$;
comment on function audit.require_owner(oid) is
    'Raises 42501 unless this transaction has shown, by show_ownership, that it acts for the table''s owner.';

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
    if target.problem is null
       and not (has_column_privilege(target.parent, target.parent_key, 'select')
                and has_column_privilege(target.parent, target.parent_column, 'select')) then
        raise exception '%: you may not read %', argument, target.parent::regclass
            using errcode = 'insufficient_privilege', hint = 'A lookup shows what it reads: its owner must let you select it first.';
    end if;
    if target.problem is not null then
        raise exception '%: %', argument, target.problem
            using errcode = case when target.problem like 'audit_capture may not%' then 'insufficient_privilege'
                                 when target.problem like '%no column%' then 'undefined_column'
                                 else 'feature_not_supported' end,
                  hint = case
                      when target.problem like 'audit_capture may not use%' then
                          format('grant usage on schema %s to audit_capture',
                                 (select relnamespace::regnamespace from pg_class where oid = target.parent))
                      when target.problem like 'audit_capture may not read%' then
                          format('grant select (%I, %I) on %s to audit_capture',
                                 target.parent_key, target.parent_column, target.parent::regclass)
                      else 'Use a column of the table itself.' end;
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

create function audit.create_capture_triggers(relation oid, function_name text)
    returns void
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
declare
    definition text;
    trigger_name text;
    target constant text := (select format('%I.%I', n.nspname, c.relname)
                             from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation);
begin
    foreach definition in array array[
        'audit_insert after insert on %s referencing new table as audit_new_rows',
        'audit_update after update on %s referencing old table as audit_old_rows new table as audit_new_rows',
        'audit_delete after delete on %s referencing old table as audit_old_rows',
        'audit_truncate before truncate on %s']
    loop
        trigger_name := split_part(definition, ' ', 1);
        if exists (select from pg_trigger t join pg_proc p on p.oid = t.tgfoid
                   where t.tgrelid = relation and t.tgname = trigger_name
                     and not (p.pronamespace = 'audit'::regnamespace and p.proname ~ '^capture_[0-9]+$')) then
            raise exception 'table % has a trigger % of its own', target, trigger_name
                using errcode = 'duplicate_object', hint = 'Rename that trigger; pg_daybook needs the name.';
        end if;
        execute format('create or replace trigger ' || definition || ' for each statement execute function audit.%I()',
                       target, function_name);
        execute format('alter table %s enable always trigger %I', target, trigger_name);
    end loop;
    -- TRUNCATE is counted by the capturing role: it reads what it captures anyway, and nothing else of the schema.
    if not has_table_privilege('audit_capture', relation, 'select') then
        execute format('grant select on %s to audit_capture', target);
    end if;
end
$function$;
comment on function audit.create_capture_triggers(oid, text) is
    'Puts the four capture triggers on one table or partition, ENABLE ALWAYS. Needs ownership of it.';

create function audit.partitions_of(relation oid)
    returns setof oid
    language sql
    stable
begin atomic
    select relid::oid from pg_catalog.pg_partition_tree(relation::regclass)
    union
    select relation;
end;
comment on function audit.partitions_of(oid) is 'A table and all partitions below it.';

create function audit.let_owner_attach(tracked_id bigint, relation oid)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    function_name constant text := 'capture_' || tracked_id;
    owner constant name := (select r.rolname from pg_class c join pg_roles r on r.oid = c.relowner where c.oid = relation);
begin
    if has_schema_privilege(owner, 'audit', 'usage')
       and has_function_privilege(owner, format('audit.%I()', function_name), 'execute')
       and has_function_privilege(owner, 'audit.create_capture_triggers(oid, text)', 'execute') then
        return;
    end if;
    execute format('grant usage on schema audit to %I', owner);
    execute format('grant execute on function audit.%I(), audit.create_capture_triggers(oid, text), audit.partitions_of(oid) to %I',
                   function_name, owner);
end
$function$;
comment on function audit.let_owner_attach(bigint, oid) is
    'Gives a tracked table''s owner what it takes to put its triggers on partitions that come later.';

create function audit.store_tracking(relation oid, settings jsonb)
    returns text
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    schema_name constant text := (select n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation);
    relation_name constant text := (select relname from pg_class where oid = relation);
    known audit.tracked_table;
    tracked audit.tracked_table;
    function_name text;
begin
    perform audit.require_owner(relation);
    -- Checked here and by the table's constraints, whoever calls: names of events are what readers trust.
    perform audit.refuse_bad_events(relation, nullif(settings -> 'events', 'null'), nullif(settings -> 'column_events', 'null'));
    -- One at a time: the grants below write to the schema's own row.
    perform pg_advisory_xact_lock(hashtext('pg_daybook'), hashtext('tracking'));
    if not exists (select from audit.day_partition where is_beyond) then
        perform audit.prepare_days();
    end if;

    select * into known from audit.tracked_table t
    where (t.table_schema, t.table_name) = (schema_name, relation_name);
    if known.id is null then
        insert into audit.tracked_table (table_schema, table_name, kind, max_value_bytes, missing_actor, resource_id_columns, relation_oid)
        values (schema_name, relation_name, 'resource', 65536, 'system', null, relation)
        returning * into tracked;
    else
        tracked := known;
    end if;
    update audit.tracked_table t
    set kind = settings ->> 'kind',
        resource_type = settings ->> 'resource_type',
        resource_type_column = settings ->> 'resource_type_column',
        resource_id_columns = (select array_agg(e) from jsonb_array_elements_text(nullif(settings -> 'resource_id_columns', 'null')) e),
        resource_name_column = settings ->> 'resource_name_column',
        subject_column = settings ->> 'subject_column',
        workspace = settings ->> 'workspace',
        workspace_column = settings ->> 'workspace_column',
        workspace_setting = settings ->> 'workspace_setting',
        events = nullif(settings -> 'events', 'null'),
        column_events = nullif(settings -> 'column_events', 'null'),
        soft_delete_column = settings ->> 'soft_delete_column',
        excluded_columns = array(select jsonb_array_elements_text(settings -> 'excluded_columns')),
        redacted_columns = array(select jsonb_array_elements_text(settings -> 'redacted_columns')),
        max_value_bytes = (settings ->> 'max_value_bytes')::integer,
        missing_actor = settings ->> 'missing_actor'
    where t.id = tracked.id
    returning * into tracked;

    function_name := 'capture_' || tracked.id;
    perform audit.compile_tracking(tracked.id, relation);
    -- Capture runs as a role that may insert entries and nothing else. To give it a function takes CREATE on the schema,
    -- for as long as this transaction has not ended: nobody else ever sees it granted.
    if (select proowner from pg_proc where oid = to_regprocedure(format('audit.%I()', function_name))) <> 'audit_capture'::regrole then
        grant create on schema audit to audit_capture;
        execute format('alter function audit.%I() owner to audit_capture', function_name);
        revoke create on schema audit from audit_capture;
    end if;
    perform audit.let_owner_attach(tracked.id, relation);

    if known.id is null then
        perform audit.write_event('tracking_enabled', format('%I.%I', schema_name, relation_name), tracked.workspace, settings);
    elsif to_jsonb(known) - '{compiled_digest,column_numbers,relation_oid,readable_paths}'::text[]
          <> (select to_jsonb(t) - '{compiled_digest,column_numbers,relation_oid,readable_paths}'::text[] from audit.tracked_table t where t.id = tracked.id) then
        perform audit.write_event('tracking_changed', format('%I.%I', schema_name, relation_name), tracked.workspace, settings);
    end if;
    return function_name;
end
$function$;
comment on function audit.store_tracking(oid, jsonb) is
    'For enable_tracking: keeps the settings, compiles the capture function and records the event. Raises 42501 unless the caller owns the table. Returns the function''s name.';

create function audit.compile_tracking(tracked_id bigint, relation oid)
    returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    tracked audit.tracked_table;
    body text;
    function_name constant text := 'capture_' || tracked_id;
    is_new constant boolean := to_regprocedure(format('audit.%I()', function_name)) is null;
begin
    -- Two compilations of one table at once would end in "tuple concurrently updated".
    select * into strict tracked from audit.tracked_table where id = tracked_id for update;
    body := audit.function_sql(tracked, relation);
    if md5(body) = tracked.compiled_digest and relation = tracked.relation_oid and not is_new then
        return false;
    end if;
    -- First, so that the event trigger which the commands below fire finds nothing left to do.
    update audit.tracked_table t
    set compiled_digest = md5(body),
        readable_paths = audit.readable_paths(tracked, relation),
        relation_oid = relation,
        column_numbers = coalesce((select jsonb_object_agg(a.attname, a.attnum)
                          from pg_attribute a
                          where a.attrelid = relation and a.attnum > 0 and not a.attisdropped), '{}')
    where t.id = tracked_id;
    -- The settings stand for the caller's: how a value is written must not depend on who writes it.
    execute format($sql$
create or replace function audit.%I()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set timezone = 'UTC'
    set datestyle = 'ISO, YMD'
    set intervalstyle = 'postgres'
    set extra_float_digits = '1'
    set bytea_output = 'hex'
    set row_security = 'on'
    set constraint_exclusion = 'off'
    set enable_hashjoin = 'on'
    set enable_mergejoin = 'on'
    set jit = 'off'
as %L$sql$, function_name, body);
    if is_new then
        execute format('revoke all on function audit.%I() from public', function_name);
    end if;
    execute format('comment on function audit.%I() is %L', function_name,
                   format('Captures %I.%I. Compiled by audit.enable_tracking; compiled anew when the table changes.',
                          tracked.table_schema, tracked.table_name));
    return true;
end
$function$;
comment on function audit.compile_tracking(bigint, oid) is
    'Makes a tracked table''s capture function from its settings and the catalogue as they are now. Returns whether it changed.';

create function audit.remove_tracking(relation oid)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    tracked audit.tracked_table;
begin
    perform audit.require_owner(relation);
    delete from audit.tracked_table t
    using pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid = relation and t.table_schema = n.nspname and t.table_name = c.relname
    returning t.* into tracked;
    if tracked.id is not null then
        execute format('drop function if exists audit.%I()', 'capture_' || tracked.id);
        perform audit.write_event('tracking_disabled', format('%I.%I', tracked.table_schema, tracked.table_name), tracked.workspace, null);
    end if;
end
$function$;
comment on function audit.remove_tracking(oid) is
    'For disable_tracking: drops the capture function and the settings and records the event. Raises 42501 unless the caller owns the table.';

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
    cascading text;
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

    select name into cascading
    from unnest(excluded_columns || redacted_columns) name
    where name = any(coalesce(resource_id_columns, audit.primary_key_columns(relation))
                     || audit.primary_key_columns(relation) || resource_type_column
                     || split_part(resource_name_column, '.', 1) || split_part(subject_column, '.', 1)
                     || split_part(workspace_column, '.', 1));
    if cascading is not null then
        raise exception 'excluded_columns, redacted_columns: % is shown elsewhere in the entry', cascading
            using errcode = 'invalid_parameter_value',
                  hint = 'A column that makes the key, resource, name, subject or workspace cannot be kept secret.';
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
    if workspace_column like '%.%' then
        select c.conname into cascading
        from pg_constraint c
        join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
        where c.conrelid = relation and c.contype = 'f' and c.confdeltype in ('c', 'n', 'd')
          and a.attname = split_part(workspace_column, '.', 1);
        if cascading is not null then
            raise warning 'workspace_column: foreign key % acts on rows whose parent is already gone; their entries will have no workspace', cascading
                using hint = 'Keep the workspace in a column of the table itself.';
        end if;
    end if;

    if (select relrowsecurity from pg_class where oid = relation)
       and not exists (select from pg_policy where polrelid = relation and polname = 'audit_capture_counts') then
        execute format('create policy audit_capture_counts on %s for select to audit_capture using (true)', target);
    end if;
    if not has_schema_privilege('audit_capture', (select relnamespace from pg_class where oid = relation), 'usage')
       and pg_has_role(current_user, (select nspowner from pg_namespace n join pg_class c on c.relnamespace = n.oid where c.oid = relation), 'usage') then
        execute format('grant usage on schema %I to audit_capture',
                       (select nspname from pg_namespace n join pg_class c on c.relnamespace = n.oid where c.oid = relation));
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
            where t.tgrelid = partition and p.pronamespace = 'audit'::regnamespace and p.proname like 'capture\_%'
        loop
            execute format('drop trigger %I on %s', trigger_name,
                           (select format('%I.%I', n.nspname, c.relname) from pg_class c
                            join pg_namespace n on n.oid = c.relnamespace where c.oid = partition));
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
