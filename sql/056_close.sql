-- Closing: a day below the watermark, whose counts are complete, gets the indexes that reading wants and writers need not pay for.

set search_path = pg_catalog, pg_temp;

create table audit.closed_day (
    day_name text collate "C" not null,
    closed_at timestamptz not null,
    frozen_at timestamptz,
    lacks text[] not null default '{}',
    constraint day_is_closed_once primary key (day_name)
);
comment on table audit.closed_day is 'The days that upkeep has closed, by the name of their partition of audit.entry.';
comment on column audit.closed_day.day_name is 'Partition of audit.entry. Never null.';
comment on column audit.closed_day.closed_at is 'When it had all its reading indexes and counts. Never null.';
comment on column audit.closed_day.lacks is
    'Reading indexes it has not, because a value in it is longer than an index holds. Never null.';
comment on column audit.closed_day.frozen_at is 'When all its pages were found frozen, so that no vacuum has to come by again. Null: not yet.';

create function audit.reading_indexes()
    returns table (log_table text, suffix text, definition text)
    language sql
    immutable
    parallel safe
begin atomic
    values
        ('entry', 'event', '(workspace_id, event, created_at)'),
        ('entry', 'type', '(workspace_id, resource_type, created_at)'),
        ('entry', 'actor', '(workspace_id, actor_id, created_at)'),
        ('entry', 'request', '(request_id) where request_id is not null'),
        ('entry', 'row', '(row_key) where row_key is not null'),
        ('entry', 'words', 'using gin (audit.entry_words(resource_name, actor_name, before, after))'),
        ('change', 'entry',
         '(entry_id, length(resource_id), left(resource_id, 150), length(row_key), left(row_key, 150))'),
        ('change', 'resource', '(resource_id, created_at) where resource_id is not null'),
        ('change', 'row', '(row_key) where row_key is not null'),
        ('change', 'words', 'using gin (audit.entry_words(resource_name, null, before, after))');
end;
comment on function audit.reading_indexes() is 'The indexes of a closed day, beside those that every day has.';

create function audit.days_to_close()
    returns table (day_name text)
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select d.partition_name
    from audit.day_partition d, audit.watermark w
    where d.log_table = 'entry' and not d.is_beyond and not d.detach_pending
      and d.upper_bound <= w.counted_until
      -- What is dropped next is not worth it.
      and d.upper_bound > coalesce((select audit.day_start(u.oldest_day) from audit.upkeep u), '-infinity')
      and not exists (select from audit.closed_day c where c.day_name = d.partition_name)
    order by d.lower_bound desc;
end;
comment on function audit.days_to_close() is 'The days that can be closed and are not, newest first.';

create function audit.close_day(day_name text)
    returns text
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set jit = 'off'
as $function$
declare
    day audit.day_partition;
    missing record;
    lacks text[] := '{}';
begin
    select d.* into day
    from audit.day_partition d, audit.watermark w
    where d.log_table = 'entry' and d.partition_name = close_day.day_name
      and d.upper_bound <= w.counted_until;
    if day.partition_name is null then
        raise exception 'day partition % cannot be closed', day_name
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'The watermark and the counts must have passed its end: select * from audit.days_to_close().';
    end if;
    if exists (select from audit.closed_day c where c.day_name = day.partition_name) then
        return null;
    end if;
    -- Nobody writes into it any more, so the lock of a plain CREATE INDEX on this one table holds nobody up.
    for missing in
        select i.*, regexp_replace(day_name, '^entry', i.log_table) as day_table
        from audit.reading_indexes() i
        where to_regclass(format('audit.%I', regexp_replace(day_name, '^entry', i.log_table) || '_' || i.suffix)) is null
    loop
        continue when to_regclass(format('audit.%I', missing.day_table)) is null;
        begin
            execute format('create index %I on audit.%I ', missing.day_table || '_' || missing.suffix, missing.day_table)
                || missing.definition;
            return format('index %s_%s', missing.day_table, missing.suffix);
        exception
            when program_limit_exceeded then
                lacks := lacks || format('%s_%s', missing.day_table, missing.suffix);
        end;
    end loop;

    -- Where the day was counted piece by piece its hours stand already.
    delete from audit.activity_total t
    where t.part in ('hour', 'hour_actor') and t.starts_at >= day.lower_bound and t.starts_at < day.upper_bound;
    insert into audit.activity_total as t
        (workspace_id, part, starts_at, event, resource_type, actor_id, actor_name, entries, digest)
    with found as (
        select e.workspace_id, date_trunc('hour', e.created_at, 'UTC') as starts_at, e.event, e.resource_type, e.actor_id,
               max(e.actor_name) as actor_name, count(*) as entries
        from audit.entry e
        where e.created_at >= day.lower_bound and e.created_at < day.upper_bound
          -- Where a day holds few, reading them is as cheap as looking the hours up.
          and (e.workspace_id, date_trunc('day', e.created_at, 'UTC')) in (
              select many.workspace_id, many.starts_at
              from audit.activity_total many
              where many.part = 'day' and many.starts_at >= day.lower_bound and many.starts_at < day.upper_bound
              group by 1, 2 having sum(many.entries) > 500)
        group by 1, 2, 3, 4, 5
    )
    select workspace_id, 'hour', starts_at, event, resource_type, null, null, sum(entries),
           audit.activity_digest(array[workspace_id, event, resource_type])
    from found group by workspace_id, starts_at, event, resource_type
    union all
    select workspace_id, 'hour_actor', starts_at, null, null, actor_id, max(actor_name), sum(entries),
           audit.activity_digest(array[workspace_id, actor_id])
    from found where event not like 'log\_%' group by workspace_id, starts_at, actor_id;

    insert into audit.closed_day (day_name, closed_at, lacks) values (day.partition_name, clock_timestamp(), lacks);
    if exists (select from audit.watermark w where w.indexed_from < day.upper_bound) then
        perform audit.forget_indexed(day.upper_bound);
    end if;
    return 'closed';
end
$function$;
comment on function audit.close_day(text) is
    'Takes the next step of closing a day: one index, or the counts of its hours. Call it until it returns null. Returns what it did.';

create function audit.note_frozen(day_name text)
    returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    is_frozen boolean;
begin
    -- VACUUM (FREEZE) beside an older snapshot succeeds and freezes nothing.
    select bool_and(c.relallvisible >= c.relpages) into is_frozen
    from pg_class c
    where c.relnamespace = 'audit'::regnamespace
      and c.relname in (note_frozen.day_name, regexp_replace(note_frozen.day_name, '^entry', 'change'));
    if is_frozen then
        update audit.closed_day c set frozen_at = clock_timestamp() where c.day_name = note_frozen.day_name;
    end if;
    return coalesce(is_frozen, false);
end
$function$;
comment on function audit.note_frozen(text) is
    'Notes that a closed day is frozen, if its last vacuum found all its pages visible to everybody. Returns whether it is.';

create function audit.forget_day(day_name text)
    returns void
    language sql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    delete from audit.closed_day c where c.day_name = forget_day.day_name;
    -- A day was named after its last one; what stands in another partition, being on hold, keeps its counts.
    delete from audit.daily_activity a
    where a.day <= to_date(right(forget_day.day_name, 8), 'YYYYMMDD')
      and not exists (select from audit.day_partition d
                      where d.log_table = 'entry' and audit.day_start(a.day) >= d.lower_bound and audit.day_start(a.day) < d.upper_bound);
    delete from audit.activity_total t
    where t.starts_at < audit.day_start(to_date(right(forget_day.day_name, 8), 'YYYYMMDD') + 1)
      and not exists (select from audit.day_partition d
                      where d.log_table = 'entry' and t.starts_at >= d.lower_bound and t.starts_at < d.upper_bound);
end;
comment on function audit.forget_day(text) is 'Takes a dropped day out of the counts and the closed days.';
