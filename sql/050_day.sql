-- Day partitions: whole UTC days, made ahead; past the prepared days …_beyond reaches to infinity.

set search_path = pg_catalog, pg_temp;

create function audit.day_start(day date)
    returns timestamptz
    language sql
    immutable
    parallel safe
return day::timestamp at time zone 'UTC';
comment on function audit.day_start(date) is 'The first instant of a UTC day.';

create function audit.utc_day(moment timestamptz)
    returns date
    language sql
    immutable
    parallel safe
return (moment at time zone 'UTC')::date;
comment on function audit.utc_day(timestamptz) is 'The UTC day that holds a moment.';

-- Bounds come from the catalogue, never from a name: a partition may span several days.
create view audit.day_partition
    with (security_invoker = true)
as
select
    parent.relname::text as log_table,
    partition.relname::text as partition_name,
    partition.oid as partition_oid,
    (regexp_match(bound.expression, 'FROM \(''([^'']+)''\)'))[1]::timestamptz as lower_bound,
    coalesce((regexp_match(bound.expression, 'TO \(''([^'']+)''\)'))[1], 'infinity')::timestamptz as upper_bound,
    partition.relname like '%\_beyond' as is_beyond,
    inheritance.inhdetachpending as detach_pending
from pg_catalog.pg_inherits inheritance
join pg_catalog.pg_class parent on parent.oid = inheritance.inhparent
join pg_catalog.pg_class partition on partition.oid = inheritance.inhrelid
cross join lateral (select pg_get_expr(partition.relpartbound, partition.oid) as expression) bound
where parent.relnamespace = to_regnamespace('audit')
  and parent.relname in ('entry', 'change');
comment on view audit.day_partition is 'The partitions of audit.entry and audit.change with their bounds, as the catalogue holds them.';
comment on column audit.day_partition.log_table is 'entry or change.';
comment on column audit.day_partition.partition_name is 'Name of the partition, in schema audit.';
comment on column audit.day_partition.partition_oid is 'OID of the partition.';
comment on column audit.day_partition.lower_bound is 'First instant it holds.';
comment on column audit.day_partition.upper_bound is 'First instant it no longer holds; infinity for …_beyond.';
comment on column audit.day_partition.is_beyond is 'True for the partition past the prepared days.';
comment on column audit.day_partition.detach_pending is 'True when a concurrent detach was interrupted; upkeep finishes it.';

create function audit.split_edge(edge text)
    returns timestamptz
    language plpgsql
    immutable
    parallel safe
    set search_path = pg_catalog, pg_temp
    set timezone = 'UTC'
    set datestyle = 'ISO, YMD'
as $function$
begin
    -- Declared immutable although it reads a setting: so ATTACH, which proves by constants, takes it for what it is at that moment.
    return coalesce(
        case when current_user = 'audit_owner' then nullif(current_setting('audit.split_' || edge, true), '')::timestamptz end,
        case edge when 'from' then timestamptz '-infinity' else 'infinity' end);
end
$function$;
comment on function audit.split_edge(text) is
    'An edge (from, to) of the check on …_beyond: infinite, so that no entry ever fails it, save for audit.prepare_days() while it splits.';

create function audit.create_partition(log_table text, partition_name text)
    returns void
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
declare
    index text;
begin
    -- LIKE and a later ATTACH lock the parent far less than PARTITION OF would.
    execute format('create table audit.%I (like audit.%I including defaults including constraints including storage)',
                   partition_name, log_table);
    -- Each day has indexes of its own. Were they parts of indexes of the log, ATTACH would make them, and where the log is an
    -- extension a restore attaches the days before it makes their indexes.
    foreach index in array case log_table
        when 'entry' then array[
            '(workspace_id, created_at, id)',
            '(resource_id, created_at) where resource_id is not null']
        -- Time-ordered ids lie together on disk, so block ranges find an entry's rows at a fraction of a btree's cost to writers.
        else array[
            'using brin (entry_id) with (pages_per_range = 16)',
            'using brin (resource_id text_bloom_ops) with (pages_per_range = 16)'] end
    loop
        execute format('create index on audit.%I ', partition_name) || index;
    end loop;
    if log_table = 'change' then
        -- An index of block ranges made on an empty table summarizes its first range: every row that falls into it would write
        -- the summary anew. Vacuum summarizes ranges that are full.
        perform brin_desummarize_range(i.indexrelid::regclass, 0)
        from pg_index i
        where i.indrelid = format('audit.%I', partition_name)::regclass;
    end if;
    if partition_name like '%\_beyond%' then
        -- What prepare_days splits it by. Not valid: no plan looks at it.
        execute format('create index on audit.%I (created_at)', partition_name);
        execute format('alter table audit.%I add constraint stands_before_new_beyond check (created_at >= audit.split_edge(''from'') and created_at < audit.split_edge(''to'')) not valid',
                       partition_name);
    end if;
    -- Neither grants, comments nor TRUNCATE triggers come with LIKE or ATTACH.
    execute format('create trigger %I before truncate on audit.%I for each statement execute function audit.refuse_alteration()',
                   log_table || '_is_never_truncated', partition_name);
    execute format('alter table audit.%I owner to audit_owner', partition_name);
    execute format('revoke all on audit.%I from public', partition_name);
    execute format('grant select on audit.%I to audit_dba', partition_name);
    execute format('comment on table audit.%I is %L', partition_name,
                   format('Day partition of audit.%s; columns as there.', log_table));
end
$function$;
comment on function audit.create_partition(text, text) is
    'Makes a table in the form of entry or change, not yet attached, with the indexes, guards and grants of a partition.';

create function audit.create_day(day date)
    returns void
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
declare
    log_table text;
    partition_name text;
begin
    foreach log_table in array array['entry', 'change'] loop
        partition_name := log_table || to_char(day, '_YYYYMMDD');
        if to_regclass(format('audit.%I', partition_name)) is null then
            perform audit.create_partition(log_table, partition_name);
            execute format('alter table audit.%I attach partition audit.%I for values from (%L) to (%L)',
                           log_table, partition_name, audit.day_start(day), audit.day_start(day + 1));
        end if;
    end loop;
end
$function$;
comment on function audit.create_day(date) is
    'Makes and attaches the partitions of one UTC day that no partition covers yet. Nothing happens when a partition of its name stands.';

create function audit.newest_beyond()
    returns timestamptz
    language plpgsql
    volatile
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
declare
    newest timestamptz;
begin
    -- By the index that each of them has, and planned now: they are other tables after each split.
    execute 'select greatest((select max(created_at) from audit.entry_beyond), (select max(created_at) from audit.change_beyond))'
    into newest;
    return newest;
end
$function$;
comment on function audit.newest_beyond() is 'The newest created_at past the prepared days. Null: nothing stands there.';

create function audit.prepare_days(attempts integer default 1, most_days integer default null)
    returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set timezone = 'UTC'
    set datestyle = 'ISO, YMD'
    -- Whoever calls: no writer waits longer.
    set lock_timeout = '100ms'
as $function$
declare
    today constant date := audit.utc_day(clock_timestamp());
    wanted_until date;
    beyond_from date;
    new_beyond_from date;
    log_table text;
    day date;
    beyond_name text;
    moment_index text;
    days_made integer := 0;
    newest timestamptz;
begin
    -- One at a time; writers and readers go on.
    lock table audit.entry in share update exclusive mode;
    select today + days_ahead + 1 into strict wanted_until from audit.upkeep;
    select audit.utc_day(lower_bound) into beyond_from
    from audit.day_partition where is_beyond and day_partition.log_table = 'entry';

    if beyond_from is null then
        for day in select generate_series(today - 1, wanted_until - 1, interval '1 day')::date loop
            perform audit.create_day(day);
            days_made := days_made + 1;
        end loop;
        foreach log_table in array array['entry', 'change'] loop
            beyond_name := log_table || '_beyond';
            perform audit.create_partition(log_table, beyond_name);
            execute format('alter table audit.%I attach partition audit.%I for values from (%L) to (maxvalue)',
                           log_table, beyond_name, audit.day_start(wanted_until));
        end loop;
    elsif beyond_from < wanted_until then
        newest := audit.newest_beyond();
        -- Rows stand past the prepared days, or will before this transaction ends: that stretch becomes one partition of
        -- several days and keeps its rows where they are.
        new_beyond_from := case
            when newest is not null or beyond_from <= today
            then greatest(audit.utc_day(newest), today) + 2 end;

        -- Splitting takes a few days' time by itself.
        wanted_until := least(wanted_until, case when new_beyond_from is null then beyond_from + most_days
                                                 when most_days is not null then new_beyond_from + 1 end);
        if new_beyond_from is not null then
            if current_setting('transaction_isolation') <> 'read committed' then
                raise exception 'entries past the prepared days are sorted out in a READ COMMITTED transaction only'
                    using errcode = 'invalid_transaction_state',
                          hint = 'Another one does not see what was written since it began.';
            end if;
            -- The scan that ATTACH would make with every writer waiting, under a lock that hinders none. To them the check stays
            -- infinite: here, for now, it is the new bounds, and it is so again when ATTACH asks.
            perform set_config('audit.split_from', audit.day_start(beyond_from)::text, true),
                    set_config('audit.split_to', audit.day_start(new_beyond_from)::text, true);
            foreach log_table in array array['entry', 'change'] loop
                execute format('alter table audit.%I validate constraint stands_before_new_beyond', log_table || '_beyond');
            end loop;
        end if;

        -- New tables first, so that the parent is locked for the swap alone.
        foreach log_table in array array['entry', 'change'] loop
            for day in select generate_series(coalesce(new_beyond_from, beyond_from), wanted_until - 1, interval '1 day')::date loop
                perform audit.create_partition(log_table, log_table || to_char(day, '_YYYYMMDD'));
            end loop;
            if new_beyond_from is not null then
                perform audit.create_partition(log_table, log_table || '_beyond_next');
            end if;
        end loop;
        for attempt in 1..attempts loop
            begin
                -- In the order in which writers lock.
                lock table only audit.entry, audit.change, audit.entry_beyond, audit.change_beyond in access exclusive mode;
                exit;
            exception
                when lock_not_available then
                    if attempt = attempts then
                        raise;
                    end if;
            end;
            -- The lock is given back: the writers that queued behind it go first.
            perform pg_sleep(0.05 * least(attempt, 10));
        end loop;
        -- Nobody writes now. What came in since the check was validated is seen by the index.
        newest := audit.newest_beyond();
        if newest >= coalesce(audit.day_start(new_beyond_from), '-infinity') then
            raise exception 'entries came in past the days to be made'
                using errcode = 'serialization_failure', hint = 'The next run goes by them.';
        end if;
        foreach log_table in array array['entry', 'change'] loop
            beyond_name := log_table || '_beyond';
            if new_beyond_from is not null then
                -- The row trigger that came with ATTACH goes with DETACH; its rows must not be without for a moment.
                execute format('create trigger day_is_never_altered before update or delete on audit.%I for each row execute function audit.refuse_alteration()',
                               beyond_name);
            end if;
            execute format('alter table audit.%I detach partition audit.%I', log_table, beyond_name);
            if new_beyond_from is not null then
                execute format('alter table audit.%I attach partition audit.%I for values from (%L) to (%L)',
                               log_table, beyond_name, audit.day_start(beyond_from), audit.day_start(new_beyond_from));
                execute format('alter table audit.%I drop constraint stands_before_new_beyond', beyond_name);
                for moment_index in
                    select i.indexrelid::regclass::text
                    from pg_index i
                    join pg_attribute a on a.attrelid = i.indrelid and a.attname = 'created_at'
                    where i.indrelid = format('audit.%I', beyond_name)::regclass and i.indkey::text = a.attnum::text
                loop
                    execute 'drop index ' || moment_index;
                end loop;
                -- Named after its last day: even without its bounds nobody takes it for older than it is.
                execute format('alter table audit.%I rename to %I', beyond_name, log_table || to_char(new_beyond_from - 1, '_YYYYMMDD'));
                execute format('alter table audit.%I rename to %I', log_table || '_beyond_next', beyond_name);
            end if;
            for day in select generate_series(coalesce(new_beyond_from, beyond_from), wanted_until - 1, interval '1 day')::date loop
                execute format('alter table audit.%I attach partition audit.%I for values from (%L) to (%L)',
                               log_table, log_table || to_char(day, '_YYYYMMDD'), audit.day_start(day), audit.day_start(day + 1));
            end loop;
            execute format('alter table audit.%I attach partition audit.%I for values from (%L) to (maxvalue)',
                           log_table, beyond_name,
                           audit.day_start(greatest(wanted_until, new_beyond_from)));
        end loop;
        perform set_config('audit.split_from', '', true), set_config('audit.split_to', '', true);
        days_made := wanted_until - coalesce(new_beyond_from, beyond_from);
    end if;

    -- Below the oldest partition no entry could be stored: a clock that steps back must not get there.
    perform audit.raise_floor((select min(lower_bound) from audit.day_partition where not is_beyond));
    return greatest(days_made, 0);
end
$function$;
comment on function audit.prepare_days(integer, integer) is
    'Makes the day partitions from yesterday to days_ahead ahead of today, splitting …_beyond in this one transaction. Returns the number of days made. Takes the log''s lock for some milliseconds and waits 100 ms for it, as often as attempts says; then 55P03. most_days keeps the lock short: no more days are made, one when …_beyond is split; null: all.';

create function audit.count_day(day_name text)
    returns jsonb
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    change_name constant text := regexp_replace(day_name, '^entry_', 'change_');
    entries bigint := 0;
    changes bigint := 0;
    blocks record;
begin
    if day_name !~ '^entry_[0-9]{8}$' or to_regclass(format('audit.%I', day_name)) is null then
        raise exception 'there is no day partition %', day_name
            using errcode = 'undefined_table',
                  hint = 'select partition_name from audit.day_partition names them.';
    end if;
    execute format('select count(*) from audit.%I', day_name) into entries;
    if to_regclass(format('audit.%I', change_name)) is not null then
        execute format('select count(*) from audit.%I', change_name) into changes;
    end if;
    select * into blocks from audit.blocks_of_day(day_name);
    return jsonb_build_object('entries', entries, 'changes', changes, 'digest', encode(blocks.digest, 'hex'))
        || case when blocks.digest is null then '{}'
                else jsonb_build_object('blocks', jsonb_build_array(blocks.first_block, blocks.last_block)) end;
end
$function$;
comment on function audit.count_day(text) is 'What a day partition of audit.entry and its changes hold, as day_dropped tells it: entries, changes, digest (of its last seal; null: not sealed) and blocks (its first and last; only when sealed).';

create function audit.drop_day(day_name text, counts jsonb default null)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '100ms'
as $function$
declare
    change_name constant text := regexp_replace(day_name, '^entry_', 'change_');
    content constant jsonb := coalesce(counts, audit.count_day(day_name));
    day audit.day_partition;
begin
    -- Whoever puts a day on hold has done so, or waits until the day is gone.
    lock table audit.day_hold in share mode;
    -- A partition detached beforehand has no bounds any more; its name still says its last day.
    select * into day from audit.day_partition where partition_name = day_name;
    if coalesce(day.upper_bound, audit.day_start(to_date(right(day_name, 8), 'YYYYMMDD') + 1)) > audit.dropped_until() then
        raise exception 'day partition % is not past retention', day_name
            using errcode = 'insufficient_privilege',
                  hint = 'Only days older than retention_days and oldest_day in audit.upkeep are dropped, five minutes after oldest_day_since at the earliest.';
    end if;
    if audit.day_is_held(day_name) then
        raise exception 'day partition % is on hold', day_name
            using errcode = 'insufficient_privilege',
                  hint = 'audit.day_hold says why; audit.release_day(day) ends it.';
    end if;
    if audit.day_awaits_seal(day_name) then
        raise exception 'day partition % is not sealed yet', day_name
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'A log that was sealed once drops no day before its seal: run daybook seal, or daybook maintain.';
    end if;
    if day.partition_oid is not null then
        -- In the order in which writers lock.
        lock table only audit.entry, audit.change in access exclusive mode;
    end if;
    perform audit.write_event('day_dropped', day_name, null, content);
    perform audit.forget_seals(day_name);
    if to_regclass(format('audit.%I', change_name)) is not null then
        execute format('drop table audit.%I', change_name);
    end if;
    execute format('drop table audit.%I', day_name);
    perform audit.forget_day(day_name);
end
$function$;
comment on function audit.drop_day(text, jsonb) is
    'Drops the partitions of one day that is past retention, sealed where sealing is done, and not on hold, and leaves a day_dropped entry with what it held: counts as count_day gives them, counted here when null.';
