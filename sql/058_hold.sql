-- Days that are not dropped: those that retention keeps, and those that somebody put on hold.

set search_path = pg_catalog, pg_temp;

create table audit.day_hold (
    day date not null,
    reason text not null,
    held_at timestamptz not null default clock_timestamp(),
    held_by text collate "C" not null default session_user,
    constraint day_is_held_once primary key (day),
    constraint reason_is_given check (reason <> '' and length(reason) <= 2000)
);
comment on table audit.day_hold is
    'The days on hold: kept after retention until they are released. Written by audit.hold_day and audit.release_day only.';
comment on column audit.day_hold.day is 'The UTC day; its whole partition is kept. Never null.';
comment on column audit.day_hold.reason is 'Why, as its holder said. Never null.';
comment on column audit.day_hold.held_at is 'When it was put on hold, or its reason replaced. Never null.';
comment on column audit.day_hold.held_by is 'The login role (session_user) that did. Never null.';

create function audit.dropped_until()
    returns timestamptz
    language sql
    stable
begin atomic
    -- Who read by the bound before may be reading still.
    select case when u.oldest_day_since <= clock_timestamp() - interval '5 minutes'
           then audit.day_start(least(u.oldest_day, audit.utc_day(clock_timestamp()) - u.retention_days))
           else '-infinity' end
    from audit.upkeep u;
end;
comment on function audit.dropped_until() is
    'The end of what may be dropped now: below retention and below the oldest_day that was moved five minutes ago or earlier. -infinity: nothing.';

create function audit.day_is_held(day_name text)
    returns boolean
    language sql
    stable
begin atomic
    select exists (
        select
        from audit.day_hold h
        left join audit.day_partition d on d.log_table = 'entry' and d.partition_name = day_name
        where case when d.partition_oid is not null
            then audit.day_start(h.day) >= d.lower_bound and audit.day_start(h.day) < d.upper_bound
            -- Detached, only its last day is known: a day before it that stands nowhere else may be in it.
            else h.day <= to_date(right(day_name, 8), 'YYYYMMDD') and not exists (
                select from audit.day_partition other
                where other.log_table = 'entry'
                  and audit.day_start(h.day) >= other.lower_bound and audit.day_start(h.day) < other.upper_bound) end);
end;
comment on function audit.day_is_held(text) is 'Whether any day of a day partition of audit.entry is on hold.';

create function audit.move_oldest_day()
    returns date
    language sql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    update audit.upkeep u
    set oldest_day = wanted.day,
        oldest_day_since = case when wanted.day is distinct from u.oldest_day then clock_timestamp() else u.oldest_day_since end
    from (
        select greatest(kept.day, least(
            case when kept.day < s.oldest_day then s.oldest_day end,
            -- Back as far as days stand: what is dropped stays dropped.
            case when kept.day < s.oldest_day then (
                select audit.utc_day(min(d.lower_bound))
                from audit.day_partition d
                where d.log_table = 'entry' and not d.is_beyond and not d.detach_pending) end)) as day
        from audit.upkeep s
        cross join lateral (select audit.utc_day(clock_timestamp()) - s.retention_days as day) kept
    ) wanted
    returning u.oldest_day;
end;
comment on function audit.move_oldest_day() is
    'Moves oldest_day to what retention_days says: forward, or back as far as days stand. Returns it. The days below it are dropped by a later run.';

create function audit.hold_day(day date, reason text)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
#variable_conflict use_column
declare
    held_partition text;
begin
    if nullif(trim(hold_day.reason), '') is null or length(hold_day.reason) > 2000 then
        raise exception 'reason: % is on hold for a reason of 1 to 2000 characters', coalesce(to_char(hold_day.day, 'YYYY-MM-DD'), 'a day')
            using errcode = 'invalid_parameter_value', hint = 'Such as the case that it is kept for.';
    end if;
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'days are put on hold in a READ COMMITTED transaction only'
            using errcode = 'invalid_transaction_state', hint = 'Another one does not see which days were dropped since it began.';
    end if;
    -- A run of upkeep may be about to drop it: afterwards the day is there or not.
    lock table audit.upkeep in share update exclusive mode;
    lock table audit.day_hold in row exclusive mode;
    select partition_name into held_partition
    from audit.day_partition
    where log_table = 'entry' and not detach_pending
      and audit.day_start(hold_day.day) >= lower_bound and audit.day_start(hold_day.day) < upper_bound
      and hold_day.day <= audit.utc_day(clock_timestamp());
    if held_partition is null then
        raise exception 'there is no day % in the log', coalesce(to_char(hold_day.day, 'YYYY-MM-DD'), 'null')
            using errcode = 'undefined_object',
                  hint = 'It was dropped, never was, or has not come yet: audit.day_partition lists the days.';
    end if;
    insert into audit.day_hold (day, reason) values (hold_day.day, hold_day.reason)
    on conflict (day) do update
    set reason = excluded.reason, held_at = excluded.held_at, held_by = excluded.held_by;
    perform audit.write_event('day_held', to_char(hold_day.day, 'YYYY-MM-DD'), null,
                              jsonb_build_object('reason', hold_day.reason, 'partition', held_partition));
end
$function$;
comment on function audit.hold_day(date, text) is
    'Puts a UTC day on hold: its partition, of several days the whole, is not dropped until audit.release_day. Once more replaces the reason. Waits for the run of upkeep at work; raises 42704 for a day that is not there.';

create function audit.release_day(day date)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
#variable_conflict use_column
declare
    released audit.day_hold;
begin
    delete from audit.day_hold where day = release_day.day returning * into released;
    if not found then
        raise exception 'day % is not on hold', coalesce(to_char(release_day.day, 'YYYY-MM-DD'), 'null')
            using errcode = 'undefined_object', hint = 'audit.day_hold lists the days on hold.';
    end if;
    perform audit.write_event('day_released', to_char(released.day, 'YYYY-MM-DD'), null,
                              jsonb_build_object('reason', released.reason, 'held_by', released.held_by, 'held_at', released.held_at));
end
$function$;
comment on function audit.release_day(date) is
    'Ends a hold: the next run of upkeep drops the day if it is past retention. Raises 42704 for a day that is not on hold.';
