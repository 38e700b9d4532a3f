-- Upkeep in one call, for pg_cron and psql. "daybook maintain" takes the same steps, each in a transaction of its own, and
-- detaches concurrently, which no function can.

set search_path = pg_catalog, pg_temp;

create function audit.days_past_retention()
    returns table (partition_name text)
    language sql
    stable
begin atomic
    select d.partition_name
    from audit.day_partition d
    where d.log_table = 'entry' and not d.is_beyond
      and d.upper_bound <= audit.dropped_until() and not audit.day_is_held(d.partition_name)
      and audit.day_awaits_seal(d.partition_name) is not true
    union all
    -- Detached by a run that did not live to drop it.
    select c.relname::text
    from pg_catalog.pg_class c
    where c.relnamespace = 'audit'::regnamespace and c.relkind = 'r' and not c.relispartition
      and c.relname ~ '^entry_[0-9]{8}$'
      and audit.day_start(to_date(right(c.relname, 8), 'YYYYMMDD') + 1) <= audit.dropped_until()
      and not audit.day_is_held(c.relname::text) and audit.day_awaits_seal(c.relname::text) is not true
    order by 1;
end;
comment on function audit.days_past_retention() is 'The day partitions of audit.entry that may be dropped now, oldest first: past retention, below an oldest_day that was moved five minutes ago or earlier, not on hold, sealed where sealing is done.';

create function audit.note_upkeep(problem text)
    returns void
    language sql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    update audit.upkeep
    set last_run_at = clock_timestamp(),
        last_problem = problem;
end;
comment on function audit.note_upkeep(text) is 'Notes that upkeep ran, and the problem it met; null: none.';

create function audit.note_check()
    returns boolean
    language sql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    update audit.upkeep u
    set is_bypassed = exists (select from audit.check() c where c.severity = 'bypass')
    returning u.is_bypassed;
end;
comment on function audit.note_check() is
    'Notes whether audit.check() lists a bypass now, for readers who may not see its findings. Returns it.';

create function audit.take_upkeep_turn()
    returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
begin
    -- A lock that strangers cannot take, as they could an advisory one. It hinders neither reading nor writing the table, and
    -- takes no transaction id.
    lock table audit.upkeep in share update exclusive mode nowait;
    return true;
exception
    when lock_not_available then
        return false;
end
$function$;
comment on function audit.take_upkeep_turn() is
    'Whether the current transaction may do upkeep: true for one at a time, until it ends.';

create function audit.maintain()
    returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '100ms'
as $function$
declare
    days_made integer := 0;
    days_dropped text[] := '{}';
    compiled integer := 0;
    problems text[] := '{}';
    counts jsonb := '{}';
    day_name text;
    tracked_id bigint;
    detail text;
    counted_until timestamptz;
    day_closed text;
    step text;
begin
    if not audit.take_upkeep_turn() then
        return jsonb_build_object('ran', false);
    end if;
    -- One step a run: the next one takes another transaction.
    begin
        perform audit.advance_watermark();
        loop
            step := counted_until;
            counted_until := audit.advance_counts();
            exit when counted_until::text is not distinct from step;
        end loop;
        -- One day a run: whatever is made here stays locked until the end.
        select d.day_name into day_closed from audit.days_to_close() d limit 1;
        while day_closed is not null loop
            step := audit.close_day(day_closed);
            exit when step is null or step = 'closed';
        end loop;
    exception when others then
        day_closed := null;
        problems := problems || format('watermark, counts, closing: %s', sqlerrm);
    end;
    -- What takes long comes before what takes locks: these are held until the transaction ends.
    for tracked_id in select id from audit.tracked_table order by id loop
        begin
            compiled := compiled + audit.follow_table(tracked_id, 'audit.maintain')::integer;
        exception when others then
            problems := problems || format('tracked table number %s: %s', tracked_id, sqlerrm);
        end;
    end loop;
    for day_name in select partition_name from audit.days_past_retention() loop
        counts := counts || jsonb_build_object(day_name, audit.count_day(day_name));
    end loop;
    begin
        days_made := audit.prepare_days(5);
    exception
        when lock_not_available then
            problems := problems || 'days ahead: the log was busy; the next run tries again'::text;
        when others then
            problems := problems || format('days ahead: %s', sqlerrm);
    end;
    for day_name in select partition_name from audit.days_past_retention() loop
        begin
            perform audit.drop_day(day_name, counts -> day_name);
            days_dropped := days_dropped || day_name;
        exception
            when lock_not_available then
                problems := problems || format('%s: a reader holds it; the next run drops it', day_name);
                exit;
            when others then
                -- The detail names what depends on it.
                get stacked diagnostics detail = pg_exception_detail;
                problems := problems || format('%s: %s', day_name, concat_ws('; ', sqlerrm, nullif(detail, '')));
        end;
    end loop;
    -- After the drops, which go by what was committed before: whoever reads by the bound that was loses no day.
    perform audit.move_oldest_day();
    begin
        perform audit.note_check();
    exception when others then
        problems := problems || format('check: %s', sqlerrm);
    end;
    perform audit.note_upkeep(nullif(array_to_string(problems, '; '), ''));
    return jsonb_build_object('ran', true, 'days_made', days_made, 'days_dropped', to_jsonb(days_dropped),
                              'days_closed', to_jsonb(array_remove(array[day_closed], null)),
                              'functions_compiled', compiled, 'problem', nullif(array_to_string(problems, '; '), ''));
end
$function$;
comment on function audit.maintain() is
    'Makes days ahead, drops days past retention, compiles stale capture functions. One transaction; several at once are safe, one works. Moves the watermark on, counts, closes a day. Differs from "daybook maintain": it drops days under a short lock on the log instead of detaching them concurrently, closes one day a run, freezes none, and the watermark lags by a run. It seals nothing: run "daybook seal" beside it. Returns what it did.';

create function audit.upkeep_is_late()
    returns boolean
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select coalesce(u.last_run_at, u.installed_at) < clock_timestamp() - interval '36 hours'
        or not exists (select from audit.day_partition d
                       where not d.is_beyond and d.upper_bound > clock_timestamp() + interval '2 days')
    from audit.upkeep u;
end;
comment on function audit.upkeep_is_late() is
    'Whether upkeep has not run for 36 hours or fewer than two days stand ready: what /healthz answers 503 for.';

create function audit.is_bypassed()
    returns boolean
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select u.is_bypassed from audit.upkeep u;
end;
comment on function audit.is_bypassed() is
    'Whether upkeep last found that changes of a tracked table can pass the log by. What it found, audit.check() tells those who may know.';

create function audit.upkeep_status()
    returns jsonb
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select jsonb_build_object(
        'version', (select version_num from audit.schema_version),
        'last_run_at', u.last_run_at,
        'last_problem', u.last_problem,
        'is_late', audit.upkeep_is_late(),
        'prepared_until', (select max(audit.utc_day(upper_bound)) - 1 from audit.day_partition where log_table = 'entry' and not is_beyond),
        'oldest_day', (select min(audit.utc_day(lower_bound)) from audit.day_partition where log_table = 'entry' and not is_beyond),
        'retention_days', u.retention_days,
        'watermark', (select moment from audit.watermark),
        'watermark_held_by', audit.watermark_holder(),
        'counted_until', (select w.counted_until from audit.watermark w),
        'days_to_close', (select count(*) from audit.days_to_close()),
        'integrity', audit.integrity(),
        'days_held', (select coalesce(jsonb_agg(h.day order by h.day), '[]') from audit.day_hold h),
        'entries_beyond', (select count(*) from audit.entry e
                           where e.created_at >= (select lower_bound from audit.day_partition where log_table = 'entry' and is_beyond)))
    from audit.upkeep u;
end;
comment on function audit.upkeep_status() is
    'The state of upkeep as one object: version, last_run_at, last_problem, is_late, prepared_until (last day that stands ready), oldest_day, retention_days, watermark, watermark_held_by, counted_until, days_to_close, integrity (as audit.integrity() tells it), days_held (the days on hold), entries_beyond (entries past the prepared days).';
