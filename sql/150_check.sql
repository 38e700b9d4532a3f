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

        if audit.capture_function(tracked.id) is null then
            return query select 'bypass', 'function_missing', table_label,
                'Its capture function is gone and its triggers with it: its writes leave no entry.'::text,
                format('select audit.compile_tracking(%1$s, %2$L::regclass); alter function audit.%3$I() owner to audit_capture; '
                       'select audit.create_capture_triggers(p, %3$L) from audit.partitions_of(%2$L::regclass) p',
                       tracked.id, relation::regclass, 'capture_' || tracked.id);
            continue;
        end if;

        return query
        select 'bypass', 'function_replaced', table_label,
               'Its capture function is not the one that was compiled: what its writes leave is anybody''s guess.'::text,
               format('alter function %1$s owner to audit_capture; select audit.compile_tracking(%2$s, %3$L::regclass)',
                      p.oid::regprocedure, tracked.id, relation::regclass)
        from pg_proc p
        where p.oid = audit.capture_function(tracked.id)
          and (p.proowner <> 'audit_capture'::regrole or not audit.is_as_compiled(tracked));

        -- Each as create_capture_triggers makes it: a WHEN or other transition tables would leave rows out.
        return query
        select 'bypass'::text,
               case when g.oid is null and part.oid <> relation then 'partition_untracked'
                    when g.oid is null then 'trigger_missing'
                    when g.tgenabled = 'D' then 'trigger_disabled'
                    else 'trigger_not_always' end,
               part.oid::regclass::text,
               case when g.oid is null and t.oid is null then format('Trigger %s is missing: its writes leave no entry.', expected.name)
                    when g.oid is null then format('Trigger %s is not the log''s: its writes leave no entry.', expected.name)
                    when g.tgenabled = 'D' then format('Trigger %s is disabled: its writes leave no entry.', expected.name)
                    else format('Trigger %s is not ENABLE ALWAYS: session_replication_role can skip it.', expected.name) end,
               case when g.oid is null
                    then case when t.oid is null then '' else format('drop trigger %I on %s; ', expected.name, part.oid::regclass) end
                         || format('select audit.create_capture_triggers(%L::regclass, %L)', part.oid::regclass, 'capture_' || tracked.id)
                    else format('alter table %s enable always trigger %I', part.oid::regclass, expected.name) end
        from audit.partitions_of(relation) part(oid)
        cross join (values ('audit_insert', 4, null, 'audit_new_rows'), ('audit_update', 16, 'audit_old_rows', 'audit_new_rows'),
                           ('audit_delete', 8, 'audit_old_rows', null), ('audit_truncate', 34, null, null), ('audit_merge', 7, null, null)) expected(name, kind, old_rows, new_rows)
        left join pg_trigger t on t.tgrelid = part.oid and t.tgname = expected.name
        left join pg_trigger g
            on g.oid = t.oid and g.tgfoid = audit.capture_function(tracked.id) and g.tgtype = expected.kind
           and (g.tgqual is not null) = (expected.name = 'audit_merge') and g.tgattr = ''
           and g.tgoldtable is not distinct from expected.old_rows::name and g.tgnewtable is not distinct from expected.new_rows::name
        where g.tgenabled is distinct from 'A'
          and (expected.name <> 'audit_merge' or exists (select from pg_class c where c.oid = part.oid and c.relkind = 'p' and not c.relispartition))
        order by part.oid <> relation, part.oid::regclass::text, expected.name;

        -- Inheritance: triggers fire for the table that a statement names.
        return query
        with recursive above(oid, child) as (
            select inhparent, inhrelid from pg_inherits where inhrelid = relation
            union
            select h.inhparent, h.inhrelid from above a join pg_inherits h on h.inhrelid = a.oid
        )
        select 'bypass', 'parent_untracked', a.oid::regclass::text,
               format('A write to it reaches %s and leaves no entry.', table_label),
               coalesce(audit.tracking_sql(tracked, relation, a.oid),
                        format(case when (select relispartition from pg_class where oid = a.child) then 'alter table %2$s detach partition %1$s'
                                    else 'alter table %1$s no inherit %2$s' end, a.child::regclass, a.oid::regclass))
        from above a
        where not audit.is_tracked(a.oid);
        return query
        with recursive below(oid, parent) as (
            select inhrelid, inhparent from pg_inherits where inhparent = relation
            union
            select h.inhrelid, h.inhparent from below b join pg_inherits h on h.inhparent = b.oid
        )
        select 'bypass', 'child_untracked', b.oid::regclass::text,
               format('It inherits from %s, and a write that names it leaves no entry.', table_label),
               coalesce(audit.tracking_sql(tracked, relation, b.oid),
                        format('alter table %s no inherit %s', b.oid::regclass, b.parent::regclass))
        from below b
        where not audit.is_tracked(b.oid) and (select relkind from pg_class where oid = relation) = 'r';

        return query
        select 'bypass', 'written_by_subscription', part.oid::regclass::text,
               format('Subscription %s writes to it, and its apply worker fires no statement triggers: these writes leave no entry.', s.subname),
               format('alter subscription %I disable', s.subname)
        from audit.partitions_of(relation) part(oid)
        join pg_subscription_rel r on r.srrelid = part.oid
        join pg_subscription s on s.oid = r.srsubid
        where s.subenabled;

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
        select 'warning', case when r.rolsuper then 'owner_is_superuser' else 'owner_can_log_in' end, table_label,
               format(case when r.rolsuper then 'Its owner %s is a superuser: who writes as the owner can switch anything off.'
                           else 'Its owner %s can log in: who writes as the owner can also disable the triggers.' end, r.rolname),
               audit.owner_change_sql(array_agg(part.oid order by part.oid <> relation, part.oid), r.oid)
        from audit.partitions_of(relation) part(oid)
        join pg_class c on c.oid = part.oid
        join pg_roles r on r.oid = c.relowner
        where r.rolcanlogin or r.rolsuper
        group by r.oid, r.rolname, r.rolsuper;

        return query
        select 'warning', 'table_unlogged', table_label,
               'Part of it is unlogged: a crash of the server empties that, and leaves no entry.'::text,
               string_agg(format('alter table %s set logged', c.oid::regclass), '; ')
        from audit.partitions_of(relation) part(oid)
        join pg_class c on c.oid = part.oid
        where c.relpersistence = 'u' and c.relkind = 'r'
        having count(*) > 0;
    end loop;

    return query
    select 'bypass'::text, 'day_detached'::text, format('audit.%I', c.relname),
           'Retention keeps this day, but it is no part of the log: its entries are not seen.'::text,
           case when c.relispartition then format('alter table audit.%s detach partition audit.%I finalize', split_part(c.relname, '_', 1), c.relname)
                -- Named after its last day: of several days the first is for who attaches it to say.
                else format('alter table audit.%s attach partition audit.%I for values from (%L) to (%L)', split_part(c.relname, '_', 1), c.relname,
                            coalesce(audit.day_start(to_date(nullif(right(c.relname, 8), '_beyond'), 'YYYYMMDD'))::text, '…'),
                            coalesce(audit.day_start(to_date(nullif(right(c.relname, 8), '_beyond'), 'YYYYMMDD') + 1)::text, 'infinity')) end
    from pg_class c
    where c.relnamespace = 'audit'::regnamespace and c.relkind = 'r'
      and (not c.relispartition or exists (select from pg_inherits i where i.inhrelid = c.oid and i.inhdetachpending))
      and c.relname ~ '^(entry|change)_([0-9]{8}|beyond)$'
      and (c.relname like '%beyond'
           or to_date(right(c.relname, 8), 'YYYYMMDD') >= (
                select least(u.oldest_day, audit.utc_day(clock_timestamp()) - u.retention_days) from audit.upkeep u)
           or audit.day_is_held('entry' || right(c.relname, 9)));

    return query
    select 'warning'::text, 'owners_lost'::text, 'schema audit'::text,
           format('%s functions of the log run as superuser %s, and with them casts that the application made: it was restored without its owners.',
                  count(*), min(r.rolname)),
           'restore again, without --no-owner'::text
    from pg_proc p join pg_roles r on r.oid = p.proowner
    where p.pronamespace = 'audit'::regnamespace and p.prosecdef and r.rolsuper
      and p.proname not in ('keep_lookups', 'admit_to_schema', 'follow_identity') and p.proname !~ '^(lookup_[0-9]+_|capture_[0-9]+$)'
    having count(*) > 0;

    for missing, path in
        select expected.name, expected.consequence
        from (values
            ('audit_follow_ddl', 'after DDL capture goes on more slowly until upkeep compiles it anew'),
            ('audit_follow_rewrite', 'DDL that rewrites the rows of a tracked table can leave no entry'),
            ('audit_follow_drop', 'a dropped table keeps its settings'),
            ('audit_follow_partitions', 'new partitions are not tracked'),
            ('audit_follow_identity', 'a migration beside the witness can leave a table that refuses UPDATE'),
            ('audit_guard_alteration', 'the owner of the log can take its guards away'),
            ('audit_guard_rewrite', 'the owner of the log can rewrite entries'),
            ('audit_guard_drop', 'the owner of the log can drop its days')) expected(name, consequence)
        left join pg_event_trigger e
            on e.evtname = expected.name and e.evtfoid = to_regproc('audit.' || substr(expected.name, length('audit_') + 1))
        where e.evtenabled is distinct from 'A'
    loop
        return query select 'warning', case when missing like 'audit_guard%' then 'log_not_guarded' else 'ddl_not_followed' end,
            missing, format('The event trigger is missing or not ENABLE ALWAYS: %s.', path),
            -- A superuser runs no function that another role could alter.
            case when exists (select from pg_proc p join pg_roles r on r.oid = p.proowner
                              where p.pronamespace = 'audit'::regnamespace and p.proname = 'create_event_triggers' and r.rolsuper)
                 then 'select audit.create_event_triggers()'
                 else 'install again with a superuser' end;
    end loop;
end
$function$;
comment on function audit.check() is
    'Lists what could slip past the log (severity bypass) or weakens it (warning), each with the statement that mends it. No row: all is well.';
