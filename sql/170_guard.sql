-- The log against its own owner: what his rights would let him do to entries by DDL is refused by event triggers, which
-- belong to the superuser who installs, as do their functions. Superusers pass: dumps, restores and downgrades are theirs.

set search_path = pg_catalog, pg_temp;

create function audit.guard_alteration()
    returns event_trigger
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
declare
    -- Calls nothing else of the log: its owner could replace that.
    -- By the catalogue: to_regclass raises where the schema may not be used, and everybody's DDL comes by here.
    parents constant oid[] := array(
        select (select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
                where n.nspname = 'audit' and c.relname = log_table)
        from unnest(array['entry', 'change']) log_table);
    commanded constant oid[] := array(
        select coalesce((select t.tgrelid from pg_trigger t where t.oid = c.objid and c.classid = 'pg_trigger'::regclass), c.objid)
        from pg_event_trigger_ddl_commands() c);
    kept_from date;
    problem text;
    day_table text;
    split_at timestamptz;
    holds_rows boolean;
begin
    if (select rolsuper from pg_roles where rolname = current_user) then
        return;
    end if;
    -- A lookup runs as its owner, the parent's: turned into a function of the invoker it would run as the capturing role.
    select format('function %s as it is', c.object_identity) into problem
    from pg_event_trigger_ddl_commands() c
    join pg_proc p on c.object_type = 'function' and p.oid = c.objid
    where p.proname ~ '^lookup_[0-9]+_[0-9a-f]{8}$' and p.prosrc like 'begin return (select % audit_p %'
    limit 1;

    -- The rest is the log's own, which only its owner can alter; and only he may ask what is asked from here on.
    if problem is null and (
        not pg_has_role('audit_owner', 'usage')
        or (tg_tag <> 'ALTER SCHEMA' and array_position(parents, null) is null and not exists (
            select from pg_event_trigger_ddl_commands() c
            where c.object_identity like '%audit.%' or c.objid = any(parents)
               or exists (select from pg_inherits i where i.inhrelid = c.objid and i.inhparent = any(parents))))) then
        return;
    end if;

    if problem is null then
        select format('%s %s as it is', c.object_type, c.object_identity) into problem
        from pg_event_trigger_ddl_commands() c
        where (c.object_type = 'policy' and c.object_identity ~ ' on audit\.(entry|change)(_\w+)?$')
           or (c.object_type = 'table column' and c.object_identity ~ '^audit\.(entry|change)(_\w+)?\.')
        limit 1;
    end if;
    if problem is null and array_position(parents, null) is not null then
        problem := 'audit.entry and audit.change where they are';
    end if;
    if problem is null then
        with log_table as (
            select p.oid, true as is_parent from unnest(parents) p(oid)
            union all
            -- Upkeep alters tables while every writer waits, so only what this command, or one before it in the transaction, can
            -- have altered is looked at: what it names, and whose row of the catalogue is as young as the transaction. The
            -- triggers of all of them are altered through the log itself, which is looked at always.
            select c.oid, false
            from pg_inherits i
            join pg_class c on c.oid = i.inhrelid
            where i.inhparent = any(parents)
              and (tg_tag not in ('ALTER TABLE', 'CREATE TABLE', 'CREATE TRIGGER') or c.oid = any(commanded) or age(c.xmin) <= age(pg_current_xact_id()::xid))
        )
        select case
            when c.relnamespace <> 'audit'::regnamespace or case
                when t.is_parent then c.relname not in ('entry', 'change')
                when c.relname ~ '^(entry|change)_beyond$' then false
                -- A day is named after its last one, and what retention may drop is told by the name.
                else c.relname !~ '^(entry|change)_[0-9]{8}$'
                    or (to_date(right(c.relname, 8), 'YYYYMMDD') + 1)::timestamp at time zone 'UTC' is distinct from
                       (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)'))[1]::timestamptz end
                then format('the name of %s', c.oid::regclass)
            when c.relrowsecurity <> t.is_parent or c.relforcerowsecurity
                then format('the row-level security of %s', c.oid::regclass)
            -- BEFORE UPDATE OR DELETE for each row and BEFORE TRUNCATE, none of them disabled or narrowed by WHEN or columns.
            when (select count(distinct g.tgtype) from pg_trigger g
                  where g.tgrelid = c.oid and g.tgfoid = to_regproc('audit.refuse_alteration') and g.tgtype in (27, 34)) <> 2
              or exists (select from pg_trigger g where g.tgrelid = c.oid and g.tgfoid = to_regproc('audit.refuse_alteration')
                         and (g.tgenabled not in ('O', 'A') or g.tgqual is not null or g.tgattr <> ''))
                then format('the triggers of %s that refuse UPDATE, DELETE and TRUNCATE', c.oid::regclass)
            when exists (select from pg_trigger g where g.tgrelid = c.oid and not g.tgisinternal
                         and g.tgfoid is distinct from to_regproc('audit.refuse_alteration'))
              or exists (select from pg_rewrite r where r.ev_class = c.oid)
                then format('%s free of other triggers and of rules', c.oid::regclass)
            -- ATTACH believes a check: one that calls a function could make it hide rows outside the bounds.
            when not t.is_parent and exists (
                select from pg_constraint k
                join pg_depend d on d.classid = 'pg_constraint'::regclass and d.objid = k.oid
                where k.conrelid = c.oid and k.contype = 'c' and d.refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass)
                  and not (k.conname = 'stands_before_new_beyond' and c.relname ~ '^(entry|change)_beyond$'))
                then format('%s free of checks that call functions', c.oid::regclass)
            end
        into problem
        from log_table t
        join pg_class c on c.oid = t.oid
        order by 1
        limit 1;
    end if;
    if problem is null then
        -- As its owner's, a view would be read past row-level security.
        select format('view %s as one of who reads it (security_invoker)', c.oid::regclass) into problem
        from pg_class c
        where c.oid = any(commanded) and c.relnamespace = 'audit'::regnamespace and c.relkind in ('v', 'm')
          and coalesce(c.reloptions, '{}') && '{security_invoker=true,security_invoker=on}' is false
        limit 1;
    end if;
    if problem is null then
        select least(u.oldest_day, (clock_timestamp() at time zone 'UTC')::date - u.retention_days) into kept_from from audit.upkeep u;
        for day_table in
            select c.relname from pg_class c
            where c.relnamespace = 'audit'::regnamespace and c.relkind = 'r' and not c.relispartition
              and (c.relname like 'entry\_%' or c.relname like 'change\_%')
              and case
                  -- Upkeep takes it out for a moment, with a row trigger of its own when there are rows.
                  when c.relname ~ '^(entry|change)_beyond$' then not exists (
                      select from pg_trigger g where g.tgrelid = c.oid and g.tgfoid = to_regproc('audit.refuse_alteration')
                      and g.tgtype = 27 and g.tgenabled in ('O', 'A') and g.tgqual is null and g.tgattr = '')
                  else c.relname ~ '^(entry|change)_[0-9]{8}$' and to_date(right(c.relname, 8), 'YYYYMMDD') >= kept_from end
              -- Days that are being made have no page yet.
              and pg_relation_size(c.oid) > 0
              and has_table_privilege(c.oid, 'select')
        loop
            execute format('select exists (select from audit.%I)', day_table) into holds_rows;
            if holds_rows then
                problem := format('day partition %s in the log: retention keeps it', day_table);
            end if;
        end loop;
    end if;
    if problem is null then
        -- Upkeep's own check, while it splits: what it let ATTACH believe is looked up here.
        for day_table, split_at in
            select c.relname, (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)'))[1]::timestamptz
            from pg_constraint k
            join pg_class c on c.oid = k.conrelid
            where c.relispartition and k.conname = 'stands_before_new_beyond' and k.connamespace = 'audit'::regnamespace
        loop
            execute format('select exists (select from audit.%I where created_at >= %L)', day_table, split_at) into holds_rows;
            if holds_rows then
                problem := format('entries of %s within its bounds', day_table);
            end if;
        end loop;
    end if;
    if problem is null then
        for day_table in
            select c.relname from pg_class c
            where c.relnamespace = 'audit'::regnamespace and c.relkind = 'r' and not c.relispartition
              and (c.relname like 'entry\_%' or c.relname like 'change\_%')
              and c.relname ~ '^(entry|change)_[0-9]{8}$' and has_table_privilege(c.oid, 'select')
              and exists (select from audit.day_hold)
        loop
            execute format($held$select exists (
                select from audit.day_hold h
                where exists (select from audit.%I where created_at >= h.day::timestamp at time zone 'UTC'
                                                     and created_at < (h.day + 1)::timestamp at time zone 'UTC'))$held$, day_table)
            into holds_rows;
            if holds_rows then
                problem := format('day partition %s in the log: it is on hold', day_table);
            end if;
        end loop;
    end if;

    if problem is not null then
        raise exception 'the audit log is only ever added to: % would not leave %', tg_tag, problem
            using errcode = 'insufficient_privilege',
                  hint = 'Upkeep ("daybook maintain") makes and drops days; what else must change takes a superuser.';
    end if;
end
$function$;
comment on function audit.guard_alteration() is
    'Event trigger: refuses what would take the log''s guards away (triggers, row-level security, policies), rename its columns, take a day out that retention keeps or that is on hold, let a check call functions, make a view that runs as its owner, or alter a lookup.';

create function audit.guard_rewrite()
    returns event_trigger
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
declare
    rewritten text;
begin
    if (select rolsuper from pg_roles where rolname = current_user) then
        return;
    end if;
    select c.oid::regclass into rewritten
    from pg_class c
    where c.oid = pg_event_trigger_table_rewrite_oid()
      and c.relnamespace = 'audit'::regnamespace and c.relname ~ '^(entry|change)(_|$)';
    if rewritten is not null then
        raise exception 'the audit log is only ever added to: % would rewrite %', tg_tag, rewritten
            using errcode = 'insufficient_privilege', hint = 'A change that rewrites entries takes a superuser.';
    end if;
end
$function$;
comment on function audit.guard_rewrite() is 'Event trigger: refuses to rewrite entries by ALTER TABLE.';

create function audit.guard_drop()
    returns event_trigger
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
declare
    dropped record;
    day_name text;
begin
    if (select rolsuper from pg_roles where rolname = current_user) then
        return;
    end if;
    for dropped in
        select d.object_type, d.object_identity, d.address_names[2] as table_name
        from pg_event_trigger_dropped_objects() d
        where d.object_type in ('table', 'trigger', 'policy', 'rule', 'table column')
          and d.address_names[1] = 'audit' and d.address_names[2] ~ '^(entry|change)(_|$)'
    loop
        if dropped.object_type <> 'table' then
            -- What goes with its table is judged by the table.
            continue when to_regclass(format('audit.%I', dropped.table_name)) is null;
        elsif dropped.table_name ~ '^(entry|change)_[0-9]{8}$' then
            day_name := 'entry' || right(dropped.table_name, 9);
            continue when exists (
                    select from audit.upkeep u
                    where to_date(right(day_name, 8), 'YYYYMMDD')
                            < least(u.oldest_day, (clock_timestamp() at time zone 'UTC')::date - u.retention_days)
                      and u.oldest_day_since <= clock_timestamp() - interval '5 minutes')
                -- Each day on hold still stands.
                and not exists (
                    select from audit.day_hold h
                    where h.day <= to_date(right(day_name, 8), 'YYYYMMDD') and not exists (
                        select from pg_inherits i
                        join pg_class c on c.oid = i.inhrelid
                        cross join lateral (select pg_get_expr(c.relpartbound, c.oid) as expression) bound
                        where i.inhparent = to_regclass('audit.' || split_part(dropped.table_name, '_', 1))
                          and h.day::timestamp at time zone 'UTC' >= (regexp_match(bound.expression, 'FROM \(''([^'']+)''\)'))[1]::timestamptz
                          and h.day::timestamp at time zone 'UTC'
                              < coalesce((regexp_match(bound.expression, 'TO \(''([^'']+)''\)'))[1], 'infinity')::timestamptz))
                -- Not without its trace: drop_day writes it first, in this transaction.
                and exists (select from audit.entry e
                            where e.created_at > now() - interval '1 day' and e.workspace_id is null
                              and e.event = 'day_dropped' and e.resource_id = day_name
                              and e.transaction_id = pg_current_xact_id());
        end if;
        raise exception 'the audit log is only ever added to: % would drop % %', tg_tag, dropped.object_type, dropped.object_identity
            using errcode = 'insufficient_privilege',
                  hint = 'Days past retention are dropped by upkeep ("daybook maintain"), with an entry that says so.';
    end loop;
end
$function$;
comment on function audit.guard_drop() is
    'Event trigger: refuses to drop the log, its guards and its days, save a day past retention and not on hold whose day_dropped entry stands in the same transaction.';
