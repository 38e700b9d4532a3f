-- What could slip past the log: each finding with the statement that mends it.

set search_path = pg_catalog, pg_temp;

create function audit.check()
    returns table (severity text, problem text, object_name text, detail text, mend text)
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
    set quote_all_identifiers = 'off'
as $function$
declare
    tracked audit.tracked_table;
    relation oid;
    table_label text;
    path text;
    target audit.lookup;
    missing text;
begin
    for tracked in select * from audit.tracked_table t order by t.table_schema, t.table_name loop
        table_label := format('%I.%I', tracked.table_schema, tracked.table_name);
        relation := coalesce(audit.tracked_relation(tracked), (
            select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where n.nspname = tracked.table_schema and c.relname = tracked.table_name));
        if relation is null then
            return query select 'bypass', 'table_missing', table_label,
                'The tracked table is gone and its settings stayed.'::text,
                format('delete from audit.tracked_table where id = %s', tracked.id);
            continue;
        end if;
        if audit.tracked_relation(tracked) is null
           and (audit.find_tracking(coalesce(pg_partition_root(relation), relation))).id <> tracked.id then
            return query select 'warning', 'settings_left', table_label,
                'The table is captured by other settings, as a partition or under its new name.'::text,
                format('delete from audit.tracked_table where id = %s', tracked.id);
            continue;
        end if;

        return query
        select 'bypass'::text,
               case when t.oid is null and part.oid <> relation then 'partition_untracked'
                    when t.oid is null then 'trigger_missing'
                    when t.tgenabled = 'D' then 'trigger_disabled'
                    else 'trigger_not_always' end,
               part.oid::regclass::text,
               case when t.oid is null then format('Trigger %s is missing: its writes leave no entry.', expected.name)
                    when t.tgenabled = 'D' then format('Trigger %s is disabled: its writes leave no entry.', expected.name)
                    else format('Trigger %s is not ENABLE ALWAYS: session_replication_role can skip it.', expected.name) end,
               case when t.oid is null
                    then format('select audit.create_capture_triggers(%L::regclass, %L)', part.oid::regclass, 'capture_' || tracked.id)
                    else format('alter table %s enable always trigger %I', part.oid::regclass, expected.name) end
        from audit.partitions_of(relation) part(oid)
        cross join unnest(array['audit_insert', 'audit_update', 'audit_delete', 'audit_truncate']) expected(name)
        left join pg_trigger t
            on t.tgrelid = part.oid and t.tgname = expected.name
           and t.tgfoid = audit.capture_function(tracked.id)
        where t.tgenabled is distinct from 'A';

        return query
        select 'bypass'::text, 'parent_untracked'::text, h.inhparent::regclass::text,
               format('A write to it reaches %s and leaves no entry.', table_label),
               format('select audit.enable_tracking(%L), or end the inheritance', h.inhparent::regclass)
        from pg_inherits h
        where h.inhrelid = relation
          and not exists (select from pg_trigger t join pg_proc p on p.oid = t.tgfoid
                          where t.tgrelid = h.inhparent and p.pronamespace = 'audit'::regnamespace and p.proname ~ '^capture_[0-9]+$');

        if md5(audit.function_sql(tracked, relation)) is distinct from tracked.compiled_digest then
            return query select 'warning', 'function_stale', table_label,
                'The table changed and its capture function did not: writes are captured, more slowly.'::text,
                'select audit.maintain()'::text;
        end if;

        foreach path in array array_remove(array[tracked.workspace_column, tracked.resource_name_column, tracked.subject_column,
                                                 tracked.resource_type_column, tracked.soft_delete_column]
                                           || coalesce(tracked.resource_id_columns, '{}'), null) loop
            if exists (select from pg_attribute a where a.attrelid = relation and a.attname = path and a.attnum > 0 and not a.attisdropped) then
                continue;
            end if;
            target := audit.find_lookup(relation, path);
            return query select 'warning', 'column_unreadable', table_label,
                format('%s cannot be read: %s. Its entries go without it.', path, target.problem),
                coalesce(target.mend, format('select audit.enable_tracking(%L, …) with columns that exist', table_label))
            where target.problem is not null;
        end loop;

        if (select relrowsecurity from pg_class where oid = relation)
           and not exists (select from pg_policy where polrelid = relation and polname = 'audit_capture_counts') then
            return query select 'warning', 'truncate_not_counted', table_label,
                'The table has row-level security: a TRUNCATE is logged with an estimated number of rows.'::text,
                format('create policy audit_capture_counts on %s for select to audit_capture using (true)', table_label);
        end if;

        return query
        select 'warning', 'owner_can_log_in', table_label,
               format('Its owner %s can log in: who writes as the owner can also disable the triggers.', r.rolname),
               format('alter table %s owner to a role that cannot log in', table_label)
        from pg_class c join pg_roles r on r.oid = c.relowner
        where c.oid = relation and (r.rolcanlogin or r.rolsuper);
    end loop;

    return query
    select 'bypass'::text, 'day_detached'::text, format('audit.%I', c.relname),
           'Retention keeps this day, but it is no part of the log: its entries are not seen.'::text,
           format('as superuser: alter table audit.%s attach partition audit.%I for values from (…) to (…)', split_part(c.relname, '_', 1), c.relname)
    from pg_class c
    where c.relnamespace = 'audit'::regnamespace and c.relkind = 'r'
      and (not c.relispartition or exists (select from pg_inherits i where i.inhrelid = c.oid and i.inhdetachpending))
      and c.relname ~ '^(entry|change)_([0-9]{8}|beyond)$'
      and (c.relname like '%beyond'
           or to_date(right(c.relname, 8), 'YYYYMMDD') >= audit.utc_day(clock_timestamp()) - (select retention_days from audit.upkeep));

    return query
    select 'warning'::text, 'owners_lost'::text, 'schema audit'::text,
           format('%s functions of the log run as superuser %s, and with them casts that the application made: it was restored without its owners.',
                  count(*), min(r.rolname)),
           'restore again, without --no-owner'::text
    from pg_proc p join pg_roles r on r.oid = p.proowner
    where p.pronamespace = 'audit'::regnamespace and p.prosecdef and r.rolsuper
      and p.proname not in ('keep_lookups', 'admit_to_schema') and p.proname !~ '^lookup_[0-9]+_'
    having count(*) > 0;

    for missing, path in
        select expected.name, expected.consequence
        from (values
            ('audit_follow_ddl', 'after DDL capture goes on more slowly until upkeep compiles it anew'),
            ('audit_follow_rewrite', 'DDL that rewrites the rows of a tracked table can leave no entry'),
            ('audit_follow_drop', 'a dropped table keeps its settings'),
            ('audit_follow_partitions', 'new partitions are not tracked'),
            ('audit_guard_alteration', 'the owner of the log can take its guards away'),
            ('audit_guard_rewrite', 'the owner of the log can rewrite entries'),
            ('audit_guard_drop', 'the owner of the log can drop its days')) expected(name, consequence)
        left join pg_event_trigger e on e.evtname = expected.name
        where e.evtenabled is distinct from 'A'
    loop
        return query select 'warning', case when missing like 'audit_guard%' then 'log_not_guarded' else 'ddl_not_followed' end,
            missing, format('The event trigger is missing or not ENABLE ALWAYS: %s.', path),
            -- A superuser runs no function that another role could alter.
            case when exists (select from pg_proc p join pg_roles r on r.oid = p.proowner
                              where p.pronamespace = 'audit'::regnamespace and p.proname = 'create_event_triggers' and r.rolsuper)
                 then 'as superuser: select audit.create_event_triggers()'
                 else 'install again with a superuser' end;
    end loop;
end
$function$;
comment on function audit.check() is
    'Lists what could slip past the log (severity bypass) or weakens it (warning), each with the statement that mends it. No row: all is well.';
