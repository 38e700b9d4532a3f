-- The watermark: a moment below which every entry is final. Cursors, frozen walks, counts and closing stop at it.

set search_path = pg_catalog, pg_temp;

create table audit.watermark (
    only_row boolean not null default true,
    moment timestamptz,
    moved_at timestamptz,
    next_moment timestamptz,
    noted xid8,
    counted_until timestamptz,
    indexed_from timestamptz,
    constraint watermark_has_one_row primary key (only_row),
    constraint only_row_is_true check (only_row)
);
comment on table audit.watermark is
    'The watermark, one row from the first upkeep on: no transaction can add an entry below moment any more. Written by audit.advance_watermark() and audit.advance_counts().';
comment on column audit.watermark.only_row is 'Always true: keeps the table at one row.';
comment on column audit.watermark.moment is 'The watermark. Null: upkeep has published none yet.';
comment on column audit.watermark.moved_at is 'When the watermark was published. Null: never.';
comment on column audit.watermark.next_moment is 'The floor that becomes the watermark once every older transaction has ended. Null: none is under way.';
comment on column audit.watermark.noted is
    'A transaction id taken after the floor was seen by everybody: when all older transactions have ended, next_moment is final. Null: not taken yet.';
comment on column audit.watermark.counted_until is
    'The counts of audit.daily_activity hold every entry below this moment and none from it on. Null: nothing is counted yet.';
comment on column audit.watermark.indexed_from is
    'audit.open_entry holds every entry of a workspace from this moment up to counted_until. Null: none.';

create function audit.raise_floor(moment timestamptz)
    returns timestamptz
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    wanted constant bigint := (extract(epoch from moment) * 1000000)::bigint;
    floor bigint;
begin
    select last_value into strict floor from audit.floor;
    if floor < wanted then
        -- Two at once could set it back: each by what it read before the other wrote.
        lock table audit.watermark in share row exclusive mode;
        select last_value into strict floor from audit.floor;
        floor := greatest(floor, wanted);
        perform setval('audit.floor', floor);
    end if;
    return timestamptz '1970-01-01 00:00:00+00' + floor * interval '1 microsecond';
end
$function$;
comment on function audit.raise_floor(timestamptz) is
    'Raises the least created_at that a new entry may take to this moment, at once and for everybody; never lowers it. Returns what it is now.';

create function audit.advance_watermark()
    returns timestamptz
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    -- Whoever read an older floor has a transaction id by then (audit.write_moment takes it first). An id that is taken only
    -- now, when the floor stands in a committed row, is greater than all of those; one that was taken before tells nothing.
    comes_after constant boolean := pg_current_xact_id_if_assigned() is null;
    state audit.watermark;
begin
    lock table audit.watermark in share row exclusive mode;
    insert into audit.watermark default values on conflict do nothing;
    select * into strict state from audit.watermark;
    -- From the future: the log was restored into a cluster that counts transactions anew.
    if state.noted > pg_snapshot_xmax(pg_current_snapshot()) then
        state.noted := null;
    end if;
    if state.noted is null and state.next_moment is not null and comes_after then
        state.noted := pg_current_xact_id();
    end if;
    -- xmax in place of xmin would pass while a writer is open.
    if state.noted is not null and pg_snapshot_xmin(pg_current_snapshot()) >= state.noted then
        state.moment := state.next_moment;
        state.moved_at := clock_timestamp();
        state.next_moment := null;
    end if;
    if state.next_moment is null then
        state.noted := null;
        state.next_moment := audit.raise_floor(clock_timestamp());
    end if;
    update audit.watermark w
    set moment = state.moment, moved_at = state.moved_at, next_moment = state.next_moment, noted = state.noted;
    return state.moment;
end
$function$;
comment on function audit.advance_watermark() is
    'Takes the next step: sets a floor; in a later transaction notes a transaction id; publishes the floor as the watermark once every older transaction in the cluster has ended. So a call in each of two transactions moves it when nothing holds it back. It must be the first in its transaction that takes an id, else it notes none. Waits for nobody. Returns the watermark.';

create function audit.watermark_holder()
    returns jsonb
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    -- pg_locks tells everybody's transactions to every role, pg_stat_activity does not.
    select jsonb_build_object(
        'process', l.pid, 'prepared', p.gid, 'user', coalesce(a.usename, p.owner),
        'database', coalesce(a.datname, p.database), 'application', a.application_name)
    from audit.watermark w
    join pg_catalog.pg_locks l
        on l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.granted and l.pid is distinct from pg_backend_pid()
       -- Older than the note, whatever the count has wrapped around to.
       and age(l.transactionid) > age(w.noted::xid)
    left join pg_catalog.pg_stat_activity a on a.pid = l.pid
    left join pg_catalog.pg_prepared_xacts p on l.pid is null and p.transaction = l.transactionid
    order by age(l.transactionid) desc
    limit 1;
end;
comment on function audit.watermark_holder() is
    'Who holds the watermark back: process, prepared (name of a prepared transaction), user, database, application of the oldest transaction. Null: nobody.';
