-- Counts of the log, up to the watermark: a list knows how many entries it has without counting them.

set search_path = pg_catalog, pg_temp;

create table audit.daily_activity (
    workspace_id text collate "C",
    day date not null,
    event text collate "C" not null,
    resource_type text collate "C" not null,
    actor_type text collate "C" not null,
    actor_id text collate "C" not null,
    actor_name text not null,
    entries bigint not null,
    changed_rows bigint not null,
    digest bytea not null,
    constraint activity_is_counted_once primary key (day, digest)
);
-- An index takes 2704 bytes; what is longer than these characters is told apart by the rows.
create index daily_activity_by_actor on audit.daily_activity (workspace_id, left(actor_id, 100), day);
comment on table audit.daily_activity is
    'How many entries each workspace, UTC day, event, kind of resource and actor has: exact for every entry below audit.watermark.counted_until.';
comment on column audit.daily_activity.workspace_id is 'The workspace. Null: system-wide.';
comment on column audit.daily_activity.day is 'The UTC day. Never null.';
comment on column audit.daily_activity.event is 'The event. Never null.';
comment on column audit.daily_activity.resource_type is 'The kind of resource. Never null.';
comment on column audit.daily_activity.actor_type is 'user, service or system. Never null.';
comment on column audit.daily_activity.actor_id is 'The actor. Never null.';
comment on column audit.daily_activity.actor_name is 'A name the actor had on that day. Never null.';
comment on column audit.daily_activity.entries is 'Number of entries. Never null.';
comment on column audit.daily_activity.changed_rows is 'Sum of their row_count. Never null.';
comment on column audit.daily_activity.digest is 'SHA-256 of what the row counts, by which it is found again however long that is. Never null.';

-- The same numbers added up for reading: a page sums some hundred rows, whatever the number of actors.
create table audit.activity_total (
    workspace_id text collate "C",
    part text collate "C" not null,
    starts_at timestamptz not null,
    event text collate "C",
    resource_type text collate "C",
    actor_id text collate "C",
    actor_name text,
    entries bigint not null,
    digest bytea not null,
    constraint part_is_known check (part in ('day', 'hour', 'day_actor', 'hour_actor')),
    constraint total_is_counted_once primary key (starts_at, part, digest)
);
create index activity_total_by_workspace on audit.activity_total (workspace_id, part, starts_at);
comment on table audit.activity_total is
    'audit.daily_activity added up for reading: each day by event and resource type, each day by actor, and the same for the hours of closed days that hold many entries and of days that were counted piece by piece. audit.daily_activity is the table to query by hand.';
comment on column audit.activity_total.workspace_id is 'The workspace. Null: system-wide.';
comment on column audit.activity_total.part is 'day, hour: by event and resource type. day_actor, hour_actor: by actor, without the entries that reading leaves (log_*). Never null.';
comment on column audit.activity_total.starts_at is 'First instant of the UTC day or hour. Never null.';
comment on column audit.activity_total.event is 'The event. Null: by actor.';
comment on column audit.activity_total.resource_type is 'The kind of resource. Null: by actor.';
comment on column audit.activity_total.actor_id is 'The actor. Null: by event and resource type.';
comment on column audit.activity_total.actor_name is 'A name the actor had on that day. Null: by event and resource type.';
comment on column audit.activity_total.entries is 'Number of entries. Never null.';
comment on column audit.activity_total.digest is 'SHA-256 of what the row counts, by which it is found again however long that is. Never null.';

create function audit.activity_digest(parts text[])
    returns bytea
    language sql
    stable
    parallel safe
return sha256(convert_to(to_json(parts)::text, 'UTF8'));
comment on function audit.activity_digest(text[]) is 'The digest of what a row of the counts counts.';

create function audit.stretch_sql(is_whole_day boolean)
    returns text
    language sql
    immutable
    parallel safe
-- A whole day is read through. A part of one by the index of each workspace: no index has the moment alone, which
-- writers would pay for.
return case when is_whole_day
    then 'select e.* from audit.entry e where e.created_at >= $1 and e.created_at < $2'
    else $sql$
        with recursive workspace(id) as (
            (select e.workspace_id from audit.entry e
             where e.created_at >= $3 and e.created_at < $4 and e.workspace_id is not null
             order by e.workspace_id limit 1)
            union all
            select (select e.workspace_id from audit.entry e
                    where e.created_at >= $3 and e.created_at < $4 and e.workspace_id > w.id
                    order by e.workspace_id limit 1)
            from workspace w
            where w.id is not null
        )
        select e.* from workspace w
        -- OFFSET 0: whatever joins are allowed or cheap, by its index.
        cross join lateral (select * from audit.entry e
                            where e.workspace_id = w.id and e.created_at >= $1 and e.created_at < $2 offset 0) e
        where w.id is not null
        union all
        select e.* from audit.entry e
        where e.workspace_id is null and e.created_at >= $1 and e.created_at < $2
        $sql$ end;
comment on function audit.stretch_sql(boolean) is
    'A query for the entries from $1 up to $2, a whole UTC day or a part of the day that begins at $3 and ends at $4.';

create function audit.advance_counts(at_least interval default '0')
    returns timestamptz
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    -- Each call reads another stretch: only a plan made for it leaves the other days out.
    set plan_cache_mode = 'force_custom_plan'
    -- A plan that runs once is compiled for longer than it runs: seconds, where the server has JIT.
    set jit = 'off'
as $function$
declare
    state audit.watermark;
    counted_from timestamptz;
    day date;
    next_day timestamptz;
    counted_to timestamptz;
    is_whole_day boolean;
begin
    select * into state from audit.watermark for update;
    counted_from := coalesce(state.counted_until, (
        select min(lower_bound) from audit.day_partition where log_table = 'entry' and not is_beyond));
    day := audit.utc_day(counted_from);
    next_day := audit.day_start(day + 1);
    counted_to := least(state.moment, next_day);
    -- LEAST passes over nulls.
    if state.moment is null or counted_to <= counted_from
       or (counted_to < next_day and counted_to - counted_from < at_least) then
        return state.counted_until;
    end if;

    is_whole_day := counted_from = audit.day_start(day) and counted_to = next_day;
    execute format($sql$
        with found as (
            select f.workspace_id, case when not $5 then date_trunc('hour', f.created_at, 'UTC') end as hour, f.event, f.resource_type, f.actor_type,
                   f.actor_id, max(f.actor_name) as actor_name, count(*) as entries, sum(f.row_count) as changed_rows
            from (%1$s) f
            group by 1, 2, 3, 4, 5, 6
        ), by_actor as (
            insert into audit.daily_activity as a
                (workspace_id, day, event, resource_type, actor_type, actor_id, actor_name, entries, changed_rows, digest)
            select workspace_id, %2$L, event, resource_type, actor_type, actor_id, max(actor_name), sum(entries), sum(changed_rows),
                   audit.activity_digest(array[workspace_id, event, resource_type, actor_type, actor_id])
            from found group by workspace_id, event, resource_type, actor_type, actor_id
            on conflict on constraint activity_is_counted_once do update
            set entries = a.entries + excluded.entries, changed_rows = a.changed_rows + excluded.changed_rows,
                actor_name = excluded.actor_name
        )
        insert into audit.activity_total as t
            (workspace_id, part, starts_at, event, resource_type, actor_id, actor_name, entries, digest)
        select workspace_id, 'day', $3, event, resource_type, null, null, sum(entries),
               audit.activity_digest(array[workspace_id, event, resource_type])
        from found group by workspace_id, event, resource_type
        union all
        select workspace_id, 'day_actor', $3, null, null, actor_id, max(actor_name), sum(entries),
               audit.activity_digest(array[workspace_id, actor_id])
        from found where event not like 'log\_%%' group by workspace_id, actor_id
        -- The hours of a day that is read through are counted when it is closed.
        union all
        select workspace_id, 'hour', hour, event, resource_type, null, null, sum(entries),
               audit.activity_digest(array[workspace_id, event, resource_type])
        from found where hour is not null group by workspace_id, hour, event, resource_type
        union all
        select workspace_id, 'hour_actor', hour, null, null, actor_id, max(actor_name), sum(entries),
               audit.activity_digest(array[workspace_id, actor_id])
        from found where hour is not null and event not like 'log\_%%' group by workspace_id, hour, actor_id
        on conflict on constraint total_is_counted_once do update
        set entries = t.entries + excluded.entries, actor_name = excluded.actor_name
        $sql$, audit.stretch_sql(is_whole_day), day)
    using counted_from, counted_to, audit.day_start(day), next_day, is_whole_day;
    -- One border for both: what is counted on an open day is indexed, unless indexed_from says otherwise.
    update audit.watermark w
    set counted_until = counted_to, indexed_from = coalesce(state.indexed_from, counted_from);
    if counted_to = next_day and counted_to - counted_from > interval '1 hour' then
        -- This day is closed next, and gets indexes of its own.
        perform audit.forget_indexed(counted_to);
    else
        perform audit.index_stretch(counted_from, counted_to);
    end if;
    return counted_to;
end
$function$;
comment on function audit.advance_counts(interval) is
    'Counts and indexes the entries from where the counts end to the watermark, at most to the end of that UTC day, unless it is less than at_least and the day goes on. Call it until it returns the watermark. Returns where the counts end.';

create function audit.recount()
    returns void
    language sql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    delete from audit.daily_activity;
    delete from audit.activity_total;
    delete from audit.open_entry;
    delete from audit.open_words;
    update audit.watermark set counted_until = null, indexed_from = null;
end;
comment on function audit.recount() is
    'Forgets all counts and the index of the open days; upkeep makes them anew, reading goes on, more slowly. For a log whose entries were altered by a superuser.';

create function audit.reading_bounds()
    returns table (watermark timestamptz, counted_until timestamptz, indexed_from timestamptz, oldest timestamptz, horizon timestamptz)
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select w.moment, w.counted_until, w.indexed_from, audit.day_start(u.oldest_day),
           greatest(clock_timestamp(), timestamptz '1970-01-01 00:00:00+00' + f.last_value * interval '1 microsecond')
               + interval '1 day'
    from audit.upkeep u
    cross join audit.floor f
    left join audit.watermark w on true;
end;
comment on function audit.reading_bounds() is
    'Between which moments readers read: the watermark, where the counts end, from where up to there audit.open_entry holds all, the first instant that retention keeps (null: upkeep has not said yet), and one that no entry reaches unless a clock was more than a day ahead while upkeep did not run: the days made ahead need not be read.';
