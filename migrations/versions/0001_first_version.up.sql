-- What must hold before anything is created: a server that is new enough, and a schema that is ours to fill.

-- In each file: what a name means must not depend on who could create functions where the installer looks first.
set search_path = pg_catalog, pg_temp;

do $requirements$
begin
    if current_setting('server_version_num')::integer < 150000 then
        raise exception 'pg_daybook needs PostgreSQL 15 or newer; this server is %', current_setting('server_version')
            using errcode = 'feature_not_supported',
                  hint = 'Upgrade the server, then install again.';
    end if;
    if to_regclass('audit.tracked_table') is not null and to_regclass('audit.entry') is not null then
        raise exception 'pg_daybook is installed in this database already'
            using errcode = 'duplicate_schema',
                  hint = 'Run "daybook migrate" to bring it up to date.';
    end if;
    -- Alembic's version table may stand alone in the schema: a downgrade leaves it, an upgrade makes it first.
    if exists (select from pg_catalog.pg_class
               where relnamespace = to_regnamespace('audit')
                 and relname not in ('schema_version', 'schema_version_pkc'))
       or exists (select from pg_catalog.pg_proc where pronamespace = to_regnamespace('audit')) then
        raise exception 'a schema named audit exists already and is not pg_daybook''s'
            using errcode = 'duplicate_schema',
                  hint = 'Rename that schema, or install pg_daybook into another database.';
    end if;
end
$requirements$;

-- The roles of the log. Roles belong to the whole cluster: they are made when missing and never dropped.

set search_path = pg_catalog, pg_temp;

do $roles$
declare
    role_name text;
begin
    foreach role_name in array array[
        'audit_owner', 'audit_capture', 'audit_reader', 'audit_dba', 'audit_maintainer', 'audit_writer']
    loop
        if not exists (select from pg_catalog.pg_roles where rolname = role_name) then
            -- A maintainer becomes the owner by SET ROLE only, never by inheritance.
            execute format('create role %I nologin %s', role_name,
                           case role_name when 'audit_maintainer' then 'noinherit' else 'inherit' end);
        end if;
    end loop;

    -- Whoever installs must be able to give objects to these two; a superuser can already.
    foreach role_name in array array['audit_owner', 'audit_capture'] loop
        if not pg_has_role(current_user, role_name, 'usage') then
            execute format('grant %I to %I', role_name, current_user);
        end if;
    end loop;

    if not exists (select from pg_catalog.pg_auth_members m
                   where m.roleid = 'audit_capture'::regrole and m.member = 'audit_owner'::regrole) then
        grant audit_capture to audit_owner;
    end if;
    if not exists (select from pg_catalog.pg_auth_members m
                   where m.roleid = 'audit_owner'::regrole and m.member = 'audit_maintainer'::regrole) then
        grant audit_owner to audit_maintainer;
    end if;
end
$roles$;

create schema if not exists audit;

comment on schema audit is
    'pg_daybook: the audit log of this database. Who did what, when, to what, written by triggers in the transaction that made the change.';

-- What the log knows about itself: its settings, its upkeep and its version.

set search_path = pg_catalog, pg_temp;

create table if not exists audit.schema_version (
    version_num character varying(32) not null,
    constraint schema_version_pkc primary key (version_num)
);
comment on table audit.schema_version is
    'The version of this schema, one row, in the form Alembic keeps it; "daybook migrate" goes on from here.';
comment on column audit.schema_version.version_num is
    'Number of the last migration that this schema contains. Never null.';

create table audit.upkeep (
    only_row boolean not null default true,
    retention_days integer not null default 90,
    days_ahead integer not null default 30,
    installed_at timestamptz not null default clock_timestamp(),
    last_run_at timestamptz,
    last_problem text,
    oldest_day date,
    oldest_day_since timestamptz,
    is_bypassed boolean not null default false,
    constraint upkeep_has_one_row primary key (only_row),
    constraint only_row_is_true check (only_row),
    constraint retention_is_between_a_day_and_ten_years check (retention_days between 1 and 3650),
    constraint days_ahead_is_between_a_day_and_a_year check (days_ahead between 1 and 366)
);
insert into audit.upkeep default values;

create function audit.replace_upkeep()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
begin
    delete from audit.upkeep;
    return new;
end
$function$;
comment on function audit.replace_upkeep() is
    'Trigger on audit.upkeep: a new row takes the place of the one that is there, so that the row of a dump comes into a log that was installed before.';
create trigger row_is_replaced
    before insert on audit.upkeep
    for each row execute function audit.replace_upkeep();

comment on table audit.upkeep is
    'Settings and state of the log''s upkeep, one row. retention_days and days_ahead are changed here, as audit_owner; the rest is written by audit.maintain().';
comment on column audit.upkeep.only_row is 'Always true: keeps the table at one row.';
comment on column audit.upkeep.retention_days is 'Whole UTC days an entry is kept, 1 to 3650. Never null.';
comment on column audit.upkeep.days_ahead is 'Day partitions made ahead of today, 1 to 366. Never null.';
comment on column audit.upkeep.installed_at is 'When the log was installed in this database. Never null.';
comment on column audit.upkeep.last_run_at is 'When upkeep last finished. Null: it never ran.';
comment on column audit.upkeep.last_problem is 'What the last run could not do, in a sentence. Null: nothing.';
comment on column audit.upkeep.oldest_day is 'First UTC day that retention still keeps; days below it are dropped by a later run. Null: upkeep never ran.';
comment on column audit.upkeep.oldest_day_since is 'When oldest_day was last moved: the days below it are dropped five minutes later at the earliest. Null: upkeep never ran.';
comment on column audit.upkeep.is_bypassed is 'Whether audit.check() last listed a bypass: what readers of a workspace are told of it. Never null.';

create sequence audit.floor as bigint minvalue 0 start 0;
comment on sequence audit.floor is
    'The least created_at a new entry may take, in microseconds since 1970-01-01 UTC. Outside transactions on purpose: every writer sees it at once, and a clock that steps back cannot go below it.';

-- The log itself: entries, the changed rows of bulk entries, and the refusal to alter either.

set search_path = pg_catalog, pg_temp;

create table audit.entry (
    id uuid not null,
    created_at timestamptz not null,
    workspace_id text collate "C",
    event text collate "C" not null,
    operation text collate "C" not null,
    table_schema text collate "C",
    table_name text collate "C",
    resource_type text collate "C" not null,
    resource_id text collate "C",
    resource_name text,
    row_key text collate "C",
    actor_type text collate "C" not null,
    actor_id text collate "C" not null,
    actor_name text not null,
    row_count bigint not null,
    before jsonb,
    after jsonb,
    request_id text collate "C",
    context jsonb,
    database_user text collate "C" not null,
    transaction_id xid8 not null
    -- No checks: the server reads them anew for each insert, an eighth of what a one-row write pays, and nobody inserts here
    -- but the log's own functions.
) partition by range (created_at);

comment on table audit.entry is
    'The log. One statement on one tracked table gives one entry for each (workspace, event, operation) in which it really changed rows. Partitioned by UTC day on created_at; rows are only ever inserted.';
comment on column audit.entry.id is
    'UUID version 7: 48 bits are the milliseconds of created_at, the next 12 its microseconds within them, the rest random. Sorts as created_at does. Never null.';
comment on column audit.entry.created_at is
    'When the change was written down: the clock at the statement''s end, never below audit.floor. Partition key. Never null.';
comment on column audit.entry.workspace_id is 'The tenant the entry belongs to. Null: system-wide, seen by DBAs only.';
comment on column audit.entry.event is 'What happened, noun_pastparticiple. Never null.';
comment on column audit.entry.operation is
    'INSERT, UPDATE, DELETE or TRUNCATE as in TG_OP; EVENT for what the application or the log itself recorded. Never null.';
comment on column audit.entry.table_schema is 'Schema of the tracked table, as it was then. Null: not about a table.';
comment on column audit.entry.table_name is 'Name of the tracked table, as it was then. Null: not about a table.';
comment on column audit.entry.resource_type is 'Kind of the thing affected. Never null.';
comment on column audit.entry.resource_id is
    'The thing affected: its key as text, a composite key as a JSON array. Null: several things, or a table without a key.';
comment on column audit.entry.resource_name is 'Name of the thing as it was then. Null: unknown, or several things.';
comment on column audit.entry.row_key is
    'The changed row''s own key before the statement. Null: the same as resource_id, several rows, or a table without a key.';
comment on column audit.entry.actor_type is 'user, service or system. Never null.';
comment on column audit.entry.actor_id is 'Who did it; system when no actor was named. Never null.';
comment on column audit.entry.actor_name is 'Name of the actor as it was then; the id when no name was given. Never null.';
comment on column audit.entry.row_count is
    'Rows that really changed. 1: before and after stand here. More: they stand in audit.change, save for TRUNCATE, which keeps none. 0: an event. Never null.';
comment on column audit.entry.before is
    'Values before: the whole row for DELETE, the changed columns for UPDATE. Null: INSERT, several rows, or an event.';
comment on column audit.entry.after is
    'Values after: the whole row for INSERT, the changed columns for UPDATE. Null: DELETE, several rows, or an event.';
comment on column audit.entry.request_id is 'The application''s request. Null: not named.';
comment on column audit.entry.context is
    'What else the application said: reason, ip, user_agent, metadata; subject (the other party of a permission or role); details of an event; invalid (values that were malformed or too long). Null: nothing.';
comment on column audit.entry.database_user is 'The login role (session_user), whatever actor was named. Never null.';
comment on column audit.entry.transaction_id is
    'The transaction that wrote the entry. Information only: ids do not survive a dump. Never null.';

create table audit.change (
    entry_id uuid not null,
    created_at timestamptz not null,
    workspace_id text collate "C",
    resource_id text collate "C",
    resource_name text,
    row_key text collate "C",
    before jsonb,
    after jsonb
) partition by range (created_at);

comment on table audit.change is
    'The changed rows of entries that hold several. Partitioned by UTC day like audit.entry; rows are only ever inserted.';
comment on column audit.change.entry_id is 'The entry this row belongs to. Never null.';
comment on column audit.change.created_at is 'The entry''s created_at: names the day partition of both. Never null.';
comment on column audit.change.workspace_id is 'The entry''s workspace. Null: system-wide.';
comment on column audit.change.resource_id is 'The thing affected by this row''s change. Null: a table without a key.';
comment on column audit.change.resource_name is 'Name of the thing as it was then. Null: unknown.';
comment on column audit.change.row_key is
    'The changed row''s own key before the statement. Null: the same as resource_id, or a table without a key.';
comment on column audit.change.before is 'Values before, as in audit.entry. Null: INSERT.';
comment on column audit.change.after is 'Values after, as in audit.entry. Null: DELETE.';

create function audit.refuse_alteration()
    returns trigger
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
begin
    raise exception 'the audit log is only ever added to: % on %.% is refused', tg_op, tg_table_schema, tg_table_name
        using errcode = 'insufficient_privilege',
              hint = 'Whole days are dropped by upkeep ("daybook maintain") once they are past retention.';
end
$function$;
comment on function audit.refuse_alteration() is
    'Trigger on entries and changes: refuses UPDATE, DELETE and TRUNCATE, the owner''s included.';

create trigger entry_is_never_altered
    before update or delete on audit.entry
    for each row execute function audit.refuse_alteration();
create trigger entry_is_never_truncated
    before truncate on audit.entry
    for each statement execute function audit.refuse_alteration();
create trigger change_is_never_altered
    before update or delete on audit.change
    for each row execute function audit.refuse_alteration();
create trigger change_is_never_truncated
    before truncate on audit.change
    for each statement execute function audit.refuse_alteration();

-- A body in SQL-standard form is bound to its functions when it is created, so it needs no search_path; it is inlined.
create function audit.new_entry_id_at(instant bigint)
    returns uuid
    language sql
    volatile
    parallel safe
return (
    -- 48 bits of milliseconds, the version 7, 12 bits of microseconds. The second half of a random UUID already carries the
    -- variant bits of RFC 9562.
    lpad(to_hex((instant / 1000 << 16) + 28672 + instant % 1000), 16, '0') || substr(gen_random_uuid()::text, 20))::uuid;
comment on function audit.new_entry_id_at(bigint) is
    'A new UUID version 7 (RFC 9562, 5.7) whose first 60 bits hold the given instant: microseconds since 1970.';

create function audit.moment_at(instant bigint)
    returns timestamptz
    language sql
    -- As + is for intervals: declared immutable it would not be inlined.
    stable
    parallel safe
return timestamptz '1970-01-01 00:00:00+00' + instant * interval '1 microsecond';
comment on function audit.moment_at(bigint) is 'The moment of an instant, which is given in microseconds since 1970.';

create function audit.new_entry_id(created_at timestamptz)
    returns uuid
    language sql
    volatile
    parallel safe
return audit.new_entry_id_at((extract(epoch from created_at) * 1000000)::bigint);
comment on function audit.new_entry_id(timestamptz) is
    'A new UUID version 7 (RFC 9562, 5.7) whose first 60 bits hold the given moment to the microsecond.';

create function audit.entry_moment(id uuid)
    returns timestamptz
    language sql
    immutable
    parallel safe
return timestamptz '1970-01-01 00:00:00+00'
    + ('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint * interval '1 millisecond'
    + ('x' || substr(id::text, 16, 3))::bit(12)::bigint * interval '1 microsecond';
comment on function audit.entry_moment(uuid) is
    'The created_at that an entry''s id carries: finds the entry''s day partition from its id alone. Null for null.';

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

-- An index of the days that are not closed, beside them: upkeep makes it of what is final, so that reading is fast and writers,
-- whose days carry two indexes, pay nothing. Whatever stands in these tables stands in the log too.

set search_path = pg_catalog, pg_temp;

create table audit.open_entry (
    workspace_id text collate "C" not null,
    created_at timestamptz not null,
    id uuid not null,
    event text collate "C" not null,
    resource_type text collate "C" not null,
    actor_id text collate "C" not null,
    request_id text collate "C",
    constraint open_entry_is_indexed_once primary key (workspace_id, created_at, id)
);
create index open_entry_by_event on audit.open_entry (workspace_id, event, created_at, id);
create index open_entry_by_type on audit.open_entry (workspace_id, resource_type, created_at, id);
create index open_entry_by_actor on audit.open_entry (workspace_id, actor_id, created_at, id);
create index open_entry_by_request on audit.open_entry (request_id, created_at, id) where request_id is not null;
comment on table audit.open_entry is
    'The entries of workspaces from audit.watermark.indexed_from up to counted_until, by what lists ask for. Below indexed_from days are closed, or soon will be. Written by audit.advance_counts() and audit.close_day().';
comment on column audit.open_entry.workspace_id is 'The entry''s workspace. Never null.';
comment on column audit.open_entry.created_at is 'The entry''s created_at. Never null.';
comment on column audit.open_entry.id is 'The entry. Never null.';
comment on column audit.open_entry.event is 'Its event. Never null.';
comment on column audit.open_entry.resource_type is 'Its kind of resource. Never null.';
comment on column audit.open_entry.actor_id is 'Its actor. Never null.';
comment on column audit.open_entry.request_id is 'Its request. Null: not named.';

create table audit.open_words (
    workspace_id text collate "C" not null,
    created_at timestamptz not null,
    id uuid not null,
    words tsvector
);
create index open_words_by_word on audit.open_words using gin (words) with (gin_pending_list_limit = 65536);
create index open_words_left_out on audit.open_words (workspace_id, created_at) where words is null;
comment on table audit.open_words is
    'The words of the entries in audit.open_entry, as audit.entry_words gives them: a row for each entry, and one for each changed row of a bulk entry. Read by audit.search() only.';
comment on column audit.open_words.workspace_id is 'The entry''s workspace. Never null.';
comment on column audit.open_words.created_at is 'The entry''s created_at. Never null.';
comment on column audit.open_words.id is 'The entry that is found by these words. Never null.';
comment on column audit.open_words.words is
    'The words. Null: the changed rows of this bulk entry are too many to be indexed here, a search reads them.';

create function audit.forget_indexed(until timestamptz)
    returns void
    language sql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    -- At once: whoever reads by an older border has the older snapshot too.
    delete from audit.open_entry e where e.created_at < until;
    delete from audit.open_words w where w.created_at < until;
    update audit.watermark set indexed_from = until;
end;
comment on function audit.forget_indexed(timestamptz) is
    'Takes what lies below a moment out of the index of the open days, and notes that nothing there is in it.';

create function audit.index_stretch(indexed_from timestamptz, indexed_to timestamptz)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set plan_cache_mode = 'force_custom_plan'
    set jit = 'off'
    -- How many changed rows there are no estimate tells.
    set enable_nestloop = off
as $function$
declare
    -- So many take a second or less; a longer stretch takes longer in any case.
    most_rows constant bigint := 20000 * ceil(extract(epoch from indexed_to - indexed_from) / 3600);
    day constant date := audit.utc_day(indexed_from);
begin
    execute format($sql$
        with read as materialized (
            select f.* from (%s) f where f.workspace_id is not null
        ), kept as (
            insert into audit.open_entry (workspace_id, created_at, id, event, resource_type, actor_id, request_id)
            select workspace_id, created_at, id, event, resource_type, actor_id, request_id from read
        ), bulk as materialized (
            -- The smaller entries come first; the rest waits until the day is closed.
            select workspace_id, created_at, id, sum(row_count) over (order by row_count, id) <= $5 as is_indexed
            from read where row_count > 1 and operation <> 'TRUNCATE'
        ), chosen as materialized (
            select created_at, id from bulk where is_indexed
        )
        insert into audit.open_words (workspace_id, created_at, id, words)
        select workspace_id, created_at, id, audit.entry_words(resource_name, actor_name, before, after) from read
        union all
        select workspace_id, created_at, id, null from bulk where not is_indexed
        union all
        select c.workspace_id, c.created_at, c.entry_id, audit.entry_words(c.resource_name, null, c.before, c.after)
        from audit.change c
        where (select true from chosen limit 1)
          and c.created_at >= $1 and c.created_at < $2 and c.workspace_id is not null
          and c.entry_id >= (select x.id from chosen x order by x.id limit 1)
          and c.entry_id <= (select x.id from chosen x order by x.id desc limit 1)
          and (c.entry_id, c.created_at) in (select x.id, x.created_at from chosen x)
        $sql$, audit.stretch_sql(false))
    using indexed_from, indexed_to, audit.day_start(day), audit.day_start(day + 1), most_rows;
    -- Sorted in at once; else a search would look through what was added one by one, until a vacuum comes by.
    perform gin_clean_pending_list('audit.open_words_by_word'::regclass);
exception
    when program_limit_exceeded then
        -- A value is longer than an index holds: of these entries each is read.
        perform audit.forget_indexed(indexed_to);
end
$function$;
comment on function audit.index_stretch(timestamptz, timestamptz) is
    'Puts the entries of a stretch of one UTC day, all of them final, into the index of the open days. A value that no index can hold leaves all of it up to there out.';

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

-- Seals: a chained, signable digest over each block of entries, and what verifying them found. Digests are computed outside the
-- database: whoever could alter entries could alter a function that says that they fit.

set search_path = pg_catalog, pg_temp;

create table audit.seal (
    sequence bigint not null,
    lower_bound timestamptz not null,
    upper_bound timestamptz not null,
    sealed_at timestamptz not null,
    entries bigint not null,
    changes bigint not null,
    root bytea not null,
    previous_digest bytea not null,
    digest bytea not null,
    key_fingerprint bytea,
    signature bytea,
    entry_keys bytea,
    dropped_at timestamptz,
    constraint block_is_sealed_once primary key (sequence),
    constraint block_begins_once unique (lower_bound),
    constraint block_has_a_length check (lower_bound < upper_bound and isfinite(lower_bound) and isfinite(upper_bound)),
    constraint digests_have_32_bytes check (
        length(root) = 32 and length(previous_digest) = 32 and length(digest) = 32 and length(key_fingerprint) = 32),
    constraint signature_has_64_bytes_and_a_key check (
        (signature is null) = (key_fingerprint is null) and length(signature) = 64)
);
comment on table audit.seal is
    'The seals, one for each block of entries, chained by their digests; docs/integrity.md defines these. Rows are only ever inserted; seals of dropped days stay.';
comment on column audit.seal.sequence is 'Number of the block, from 1 on without gaps. Never null.';
comment on column audit.seal.lower_bound is 'First moment of the block: the upper_bound of the one before. Never null.';
comment on column audit.seal.upper_bound is 'First moment that the block no longer holds: a watermark, or the end of a UTC day, which no block reaches over. Never null.';
comment on column audit.seal.sealed_at is 'When it was sealed, by the clock of whoever sealed. Never null.';
comment on column audit.seal.entries is 'Entries of the block. Never null.';
comment on column audit.seal.changes is 'Changed rows in audit.change of the block. Never null.';
comment on column audit.seal.root is 'Root of the Merkle tree (RFC 6962) over the block''s entries. Never null.';
comment on column audit.seal.previous_digest is 'Digest of the block before; 32 random bytes for the first, which tell this chain from others. Never null.';
comment on column audit.seal.digest is 'SHA-256 over previous_digest and all columns before it. Never null.';
comment on column audit.seal.key_fingerprint is 'SHA-256 of the public key that the signature holds by. Null: not signed.';
comment on column audit.seal.signature is 'Ed25519 signature of the digest. Null: not signed.';
comment on column audit.seal.entry_keys is
    'For each leaf its id and the first four bytes of its digest: a help to name the entry that does not fit; no digest covers it. Null: the day was dropped.';
comment on column audit.seal.dropped_at is 'When retention dropped the day of the block. Null: it stands.';

create trigger seal_is_never_altered
    before update on audit.seal
    for each row
    when ((old.sequence, old.lower_bound, old.upper_bound, old.sealed_at, old.entries, old.changes, old.root, old.previous_digest,
           old.digest, old.key_fingerprint, old.signature)
          is distinct from (new.sequence, new.lower_bound, new.upper_bound, new.sealed_at, new.entries, new.changes, new.root,
                            new.previous_digest, new.digest, new.key_fingerprint, new.signature)
          or new.entry_keys is not null or new.dropped_at is null or old.dropped_at is not null)
    execute function audit.refuse_alteration();
create trigger seal_is_never_deleted
    before delete on audit.seal
    for each row execute function audit.refuse_alteration();
create trigger seal_is_never_truncated
    before truncate on audit.seal
    for each statement execute function audit.refuse_alteration();

create table audit.sealing (
    only_row boolean not null default true,
    problem text,
    problem_since timestamptz,
    constraint sealing_has_one_row primary key (only_row),
    constraint only_row_is_true check (only_row)
);
comment on table audit.sealing is 'What sealing could not do, one row from the first trouble on. Written by audit.note_sealing().';
comment on column audit.sealing.only_row is 'Always true: keeps the table at one row.';
comment on column audit.sealing.problem is 'What the last run met, in a sentence. Null: nothing.';
comment on column audit.sealing.problem_since is 'When it was first met. Null: nothing was.';

create table audit.verification (
    finished_at timestamptz not null,
    verified_by text collate "C" not null default session_user,
    verified_from timestamptz,
    verified_until timestamptz,
    blocks bigint not null,
    entries bigint not null,
    misfit_count bigint not null,
    misfits jsonb not null,
    constraint verification_is_noted_once primary key (finished_at)
);
comment on table audit.verification is 'What the last hundred runs of "daybook verify" found. Written by audit.note_verification().';
comment on column audit.verification.finished_at is 'When it was done. Never null.';
comment on column audit.verification.verified_by is 'The login role (session_user) that verified. Never null.';
comment on column audit.verification.verified_from is 'Lower bound of the first block that was computed again. Null: there was none.';
comment on column audit.verification.verified_until is 'Upper bound of the last one. Null: there was none.';
comment on column audit.verification.blocks is 'Blocks that were computed again. Never null.';
comment on column audit.verification.entries is 'Entries that were. Never null.';
comment on column audit.verification.misfit_count is 'How much did not fit; 0: all is well. Never null.';
comment on column audit.verification.misfits is
    'The first thousand misfits, an array of objects: kind, block, entry_id, workspace_id, detail; each but kind and detail may be null. Never null.';

create function audit.sealed_until()
    returns timestamptz
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select s.upper_bound from audit.seal s order by s.sequence desc limit 1;
end;
comment on function audit.sealed_until() is 'The end of the last sealed block. Null: nothing is sealed.';

create function audit.seal_bounds(least_length interval default '0', least_idle_length interval default '0')
    returns table (partition_name text, lower_bound timestamptz, upper_bound timestamptz)
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    with sealed as (
        select coalesce(audit.sealed_until(),
                        (select min(d.lower_bound) from audit.day_partition d where d.log_table = 'entry' and not d.detach_pending)) as until
    ), next as (
        select s.until, least(w.moment, audit.day_start(audit.utc_day(s.until) + 1)) as upper_bound,
               w.moment >= audit.day_start(audit.utc_day(s.until) + 1) as ends_day
        from sealed s
        cross join audit.watermark w
    )
    -- Asked once a second, and seldom with a row: the partition is looked up for that alone.
    select (select d.partition_name from audit.day_partition d
            where d.log_table = 'entry' and n.until >= d.lower_bound and n.until < d.upper_bound),
           n.until, n.upper_bound
    from next n
    where n.upper_bound > n.until
      and (n.ends_day or n.upper_bound - n.until >= least_idle_length
           or (n.upper_bound - n.until >= least_length
               -- Nothing is written: what there was is counted, and upkeep counts before it seals.
               and exists (select from audit.daily_activity a where a.day = audit.utc_day(n.until))));
end;
comment on function audit.seal_bounds(interval, interval) is
    'What is to be sealed next: from the end of the last block to the watermark, at most to the end of that UTC day, and the day partition of audit.entry that it lies in (null: none stands). No row: nothing, or less than least_length (least_idle_length on a day without entries) while the day goes on.';

create function audit.add_seal(
    sequence bigint,
    lower_bound timestamptz,
    upper_bound timestamptz,
    sealed_at timestamptz,
    entries bigint,
    changes bigint,
    root bytea,
    previous_digest bytea,
    digest bytea,
    key_fingerprint bytea,
    signature bytea,
    entry_keys bytea)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
#variable_conflict use_column
declare
    last_seal audit.seal;
begin
    -- No reader and no writer of entries waits for it: two that seal at once would fork the chain.
    lock table audit.seal in share row exclusive mode;
    select * into last_seal from audit.seal order by sequence desc limit 1;
    if add_seal.sequence <> coalesce(last_seal.sequence, 0) + 1
       or add_seal.previous_digest <> last_seal.digest
       or add_seal.lower_bound <> last_seal.upper_bound
       or add_seal.upper_bound > audit.day_start(audit.utc_day(add_seal.lower_bound) + 1)
       or (select w.moment >= add_seal.upper_bound from audit.watermark w) is not true then
        raise exception 'block % does not follow block %', add_seal.sequence, coalesce(last_seal.sequence, 0)
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'Another run may have sealed meanwhile; the next one goes on.';
    end if;
    insert into audit.seal (sequence, lower_bound, upper_bound, sealed_at, entries, changes, root, previous_digest, digest,
                            key_fingerprint, signature, entry_keys)
    values (add_seal.sequence, add_seal.lower_bound, add_seal.upper_bound, add_seal.sealed_at, add_seal.entries, add_seal.changes,
            add_seal.root, add_seal.previous_digest, add_seal.digest, add_seal.key_fingerprint, add_seal.signature, add_seal.entry_keys);
end
$function$;
comment on function audit.add_seal(bigint, timestamptz, timestamptz, timestamptz, bigint, bigint, bytea, bytea, bytea, bytea, bytea, bytea) is
    'Adds the seal of the next block; arguments as the columns of audit.seal. Raises 55000 for one that does not follow the last, spans two UTC days or reaches over the watermark.';

create function audit.note_sealing(problem text)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
begin
    if problem is not distinct from (select s.problem from audit.sealing s) then
        return;
    end if;
    insert into audit.sealing as s (problem, problem_since)
    values (note_sealing.problem, case when note_sealing.problem is not null then clock_timestamp() end)
    on conflict on constraint sealing_has_one_row do update
    set problem = excluded.problem, problem_since = excluded.problem_since;
    if problem is not null then
        perform audit.write_event('seal_failed', 'seal', null, jsonb_build_object(
            'problem', problem, 'sealed_until', audit.sealed_until()));
    end if;
end
$function$;
comment on function audit.note_sealing(text) is
    'Notes what sealing could not do (null: it went well). A trouble leaves one seal_failed entry, however often it is met.';

create function audit.blocks_of_day(day_name text)
    returns table (first_block bigint, last_block bigint, digest bytea)
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    with block as (
        select s.sequence, s.digest
        from audit.seal s
        left join audit.day_partition d on d.log_table = 'entry' and d.partition_name = day_name
        where s.dropped_at is null
          and s.upper_bound <= coalesce(d.upper_bound, audit.day_start(to_date(right(day_name, 8), 'YYYYMMDD') + 1))
          -- Detached, only its last day is known: what stands in no other partition was in it.
          and s.lower_bound >= coalesce(d.lower_bound, '-infinity')
          and not exists (select from audit.day_partition other
                          where other.log_table = 'entry' and other.partition_name <> day_name
                            and s.lower_bound >= other.lower_bound and s.lower_bound < other.upper_bound)
    )
    select min(b.sequence), max(b.sequence), (select l.digest from block l order by l.sequence desc limit 1)
    from block b;
end;
comment on function audit.blocks_of_day(text) is
    'The first and last block of a day partition of audit.entry, and the last one''s digest. Nulls: none of it is sealed.';

create function audit.day_awaits_seal(day_name text)
    returns boolean
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select coalesce((select d.upper_bound from audit.day_partition d where d.log_table = 'entry' and d.partition_name = day_name),
                    audit.day_start(to_date(right(day_name, 8), 'YYYYMMDD') + 1)) > audit.sealed_until();
end;
comment on function audit.day_awaits_seal(text) is
    'Whether a day partition of audit.entry is sealed before it is dropped and is not sealed yet. Null, as good as false: nothing was ever sealed.';

create function audit.forget_seals(day_name text)
    returns void
    language sql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    update audit.seal s
    -- One moment for all of them.
    set dropped_at = (select clock_timestamp()), entry_keys = null
    from audit.blocks_of_day(day_name) b
    where s.sequence between b.first_block and b.last_block and s.dropped_at is null;
end;
comment on function audit.forget_seals(text) is 'Notes with the seals of a day that it is dropped now. They stay.';

create function audit.note_verification(
    verified_from timestamptz,
    verified_until timestamptz,
    blocks bigint,
    entries bigint,
    misfit_count bigint,
    misfits jsonb)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
#variable_conflict use_column
begin
    lock table audit.verification in share row exclusive mode;
    insert into audit.verification (finished_at, verified_from, verified_until, blocks, entries, misfit_count, misfits)
    values (clock_timestamp(), note_verification.verified_from, note_verification.verified_until, note_verification.blocks,
            note_verification.entries, note_verification.misfit_count, note_verification.misfits);
    delete from audit.verification v
    where v.finished_at < (select finished_at from audit.verification order by finished_at desc offset 99 limit 1);
end
$function$;
comment on function audit.note_verification(timestamptz, timestamptz, bigint, bigint, bigint, jsonb) is
    'Notes what a run of "daybook verify" found; arguments as the columns of audit.verification.';

create function audit.integrity()
    returns jsonb
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select jsonb_build_object(
        'blocks', coalesce(s.sequence, 0),
        'sealed_until', s.upper_bound,
        'sealed_at', s.sealed_at,
        'is_signed', s.signature is not null,
        'problem', p.problem,
        'verified_at', v.finished_at,
        'verified_from', v.verified_from,
        'verified_until', v.verified_until,
        'misfits', v.misfit_count)
    from (select) always
    left join lateral (select * from audit.seal order by sequence desc limit 1) s on true
    left join lateral (select * from audit.verification order by finished_at desc limit 1) v on true
    left join audit.sealing p on true;
end;
comment on function audit.integrity() is
    'How the seals stand, as one object: blocks, sealed_until, sealed_at, is_signed (of the last block), problem (of sealing), verified_at, verified_from, verified_until, misfits (of the last verification). Null: never.';

create function audit.workspace_misfits()
    returns jsonb
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select coalesce(jsonb_agg(jsonb_build_object('kind', m ->> 'kind', 'entry_id', m ->> 'entry_id', 'block', m -> 'block')
                              order by m -> 'block', m ->> 'entry_id'), '[]')
    from (select * from audit.verification order by finished_at desc limit 1) v
    cross join jsonb_array_elements(v.misfits) m
    where m ->> 'workspace_id' = current_setting('audit.reader_workspace', true);
end;
comment on function audit.workspace_misfits() is
    'Of the last verification''s misfits those of the workspace that the transaction names (audit.reader_workspace), an array of objects: kind, entry_id, block.';

-- Who acts, and in what context: the settings that the application names in its transaction.

set search_path = pg_catalog, pg_temp;

create function audit.set_actor(id text, name text default null, type text default 'user')
    returns void
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
begin
    if id = 'system' then
        raise exception '"system" is what no user did; it cannot be named as an actor'
            using errcode = 'invalid_parameter_value',
                  hint = 'Name the user or service, or set no actor at all.';
    end if;
    if nullif(id, '') is not null and (type is null or type not in ('user', 'service')) then
        raise exception 'an actor''s type is user or service, not %', coalesce(quote_literal(type), 'null')
            using errcode = 'invalid_parameter_value',
                  hint = 'select audit.set_actor(''42'', ''Ada Lovelace'', ''user'')';
    end if;
    perform set_config('audit.actor_id', coalesce(id, ''), true),
            set_config('audit.actor_name', coalesce(name, ''), true),
            set_config('audit.actor_type', case when nullif(id, '') is null then '' else type end, true);
end
$function$;
comment on function audit.set_actor(text, text, text) is
    'Names the actor of the current transaction. A null or empty id: system. Holds until the transaction ends.';

create function audit.set_context(
    request_id text default null,
    reason text default null,
    ip text default null,
    user_agent text default null,
    metadata jsonb default null)
    returns void
    language sql
    security invoker
begin atomic
    select set_config('audit.request_id', coalesce(request_id, ''), true),
           set_config('audit.reason', coalesce(reason, ''), true),
           set_config('audit.ip', coalesce(ip, ''), true),
           set_config('audit.user_agent', coalesce(user_agent, ''), true),
           set_config('audit.metadata', coalesce(metadata::text, ''), true);
end;
comment on function audit.set_context(text, text, text, text, jsonb) is
    'Names the context of the current transaction''s changes. Null: none. Holds until the transaction ends.';

create type audit.actor_context as (
    actor_type text,
    actor_id text,
    actor_name text,
    request_id text,
    context jsonb
);
comment on type audit.actor_context is 'Who acts and in what context, as an entry stores it.';

-- The one place that judges what the application set. It never raises: a bad value is kept, cut, under context.invalid.
create function audit.read_actor_context()
    returns audit.actor_context
    language plpgsql
    stable
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
declare
    longest_id constant integer := 200;
    longest_text constant integer := 1000;
    longest_metadata constant integer := 65536;
    actor_id text := nullif(btrim(current_setting('audit.actor_id', true)), '');
    actor_name text := nullif(current_setting('audit.actor_name', true), '');
    actor_type text := nullif(current_setting('audit.actor_type', true), '');
    request_id text := nullif(current_setting('audit.request_id', true), '');
    reason text := nullif(current_setting('audit.reason', true), '');
    ip text := nullif(current_setting('audit.ip', true), '');
    user_agent text := nullif(current_setting('audit.user_agent', true), '');
    metadata_text text := nullif(current_setting('audit.metadata', true), '');
    metadata jsonb;
    invalid jsonb;
    context jsonb;
    given constant text := concat(actor_id, actor_name, actor_type, request_id, reason, ip, user_agent, metadata_text);
begin
    if given = '' then
        return row('system'::text, 'system'::text, 'system'::text, null::text, null::jsonb);
    else
        -- Connection options can carry bytes that are no text: stored, they would fail every later reader. Nothing is written
        -- in here, so it takes no subtransaction id.
        begin
            perform convert_to(given, getdatabaseencoding());
        exception
            when data_exception then
                return row('system'::text, 'system'::text, 'system'::text, null::text,
                           '{"invalid": {"encoding": "actor and context hold bytes that are no text"}}'::jsonb);
        end;
    end if;
    if actor_id = 'system' then
        invalid := jsonb_build_object('actor_id', actor_id);
        actor_id := null;
    elsif length(actor_id) > longest_id then
        invalid := jsonb_build_object('actor_id', left(actor_id, longest_text));
        actor_id := left(actor_id, longest_id);
    end if;
    if actor_id is null then
        actor_type := 'system';
        actor_name := 'system';
        actor_id := 'system';
    else
        if actor_type is null then
            actor_type := 'user';
        elsif actor_type not in ('user', 'service') then
            invalid := coalesce(invalid, '{}') || jsonb_build_object('actor_type', left(actor_type, longest_text));
            actor_type := 'user';
        end if;
        if actor_name is null or btrim(actor_name) = '' then
            actor_name := actor_id;
        elsif btrim(actor_name) = 'system' then
            -- Nobody is called what no user did.
            invalid := coalesce(invalid, '{}') || jsonb_build_object('actor_name', actor_name);
            actor_name := actor_id;
        elsif length(actor_name) > longest_text then
            invalid := coalesce(invalid, '{}') || jsonb_build_object('actor_name', left(actor_name, longest_text));
            actor_name := left(actor_name, longest_id);
        end if;
    end if;
    if request_id is not null and length(request_id) > longest_id then
        invalid := coalesce(invalid, '{}') || jsonb_build_object('request_id', left(request_id, longest_text));
        request_id := null;
    end if;

    if reason is not null then
        if length(reason) > longest_text then
            invalid := coalesce(invalid, '{}') || jsonb_build_object('reason', left(reason, longest_text));
        else
            context := jsonb_build_object('reason', reason);
        end if;
    end if;
    if ip is not null then
        -- The shape only: a name, a port or a list of proxies is no address.
        if length(ip) <= 64 and ip ~ '^([0-9]{1,3}([.][0-9]{1,3}){3}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[0-9A-Za-z._-]+)?)$' then
            context := coalesce(context, '{}') || jsonb_build_object('ip', ip);
        else
            invalid := coalesce(invalid, '{}') || jsonb_build_object('ip', left(ip, longest_text));
        end if;
    end if;
    if user_agent is not null then
        if length(user_agent) > longest_text then
            invalid := coalesce(invalid, '{}') || jsonb_build_object('user_agent', left(user_agent, longest_text));
        else
            context := coalesce(context, '{}') || jsonb_build_object('user_agent', user_agent);
        end if;
    end if;
    if metadata_text is not null then
        if octet_length(metadata_text) <= longest_metadata then
            -- Entered only when metadata is set, and writes nothing, so that it takes no subtransaction id.
            begin
                metadata := metadata_text::jsonb;
            exception
                when data_exception or program_limit_exceeded then
                    metadata := null;
            end;
        end if;
        if metadata is null then
            invalid := coalesce(invalid, '{}') || jsonb_build_object('metadata', left(metadata_text, longest_text));
        else
            context := coalesce(context, '{}') || jsonb_build_object('metadata', metadata);
        end if;
    end if;
    if invalid is not null then
        context := coalesce(context, '{}') || jsonb_build_object('invalid', invalid);
    end if;
    return row(actor_type, actor_id, actor_name, request_id, context);
end
$function$;
comment on function audit.read_actor_context() is
    'What the application named in this transaction, judged: malformed or too long values stand, cut, under context.invalid.';

-- What most transactions name needs no judging: a compiled function sees that by one look, and writes the settings as they are.
-- These bodies are inlined, so none may use a subquery.
create function audit.given_actor()
    returns text
    language sql
    stable
return concat(current_setting('audit.actor_id', true), e'\n', current_setting('audit.actor_name', true), e'\n',
              current_setting('audit.actor_type', true), e'\n', current_setting('audit.request_id', true), e'\n',
              current_setting('audit.ip', true), e'\n', current_setting('audit.reason', true), e'\n',
              current_setting('audit.user_agent', true), e'\n', current_setting('audit.metadata', true));
comment on function audit.given_actor() is
    'The settings that name the actor and the context, a line each, for audit.actor_is_plain and audit.has_context.';

create function audit.actor_is_plain(given text)
    returns boolean
    language sql
    stable
return given ~ e'^[!-~]([ -~]*[!-~])?\n([!-~]([ -~]*[!-~])?)?\n(user|service)?\n[ -~]*\n([0-9]{1,3}([.][0-9]{1,3}){3})?\n[ -~]*\n[ -~]*\n$'
    -- Bytes that are no text can read as ASCII, two for one character.
    and octet_length(given) = length(given)
    -- Nobody is called what no user did.
    and strpos(given, 'system') = 0
    -- Together no longer than the shortest of their limits.
    and octet_length(given) <= 1000
    and octet_length(concat(current_setting('audit.actor_id', true), current_setting('audit.request_id', true))) <= 200;
comment on function audit.actor_is_plain(text) is
    'Whether audit.given_actor() names an actor, and nothing that audit.read_actor_context() would cut, refuse or have to read: plain ASCII, short, no metadata, an address of version 4 or none.';

create function audit.has_context(given text)
    returns boolean
    language sql
    immutable
    parallel safe
return right(given, 4) <> e'\n\n\n\n';
comment on function audit.has_context(text) is 'Whether audit.given_actor() names anything for an entry''s context.';

create function audit.plain_actor_type()
    returns text
    language sql
    stable
return coalesce(nullif(current_setting('audit.actor_type', true), ''), 'user');
comment on function audit.plain_actor_type() is 'The type of an actor that audit.actor_is_plain().';

create function audit.plain_context()
    returns jsonb
    language sql
    stable
return jsonb_strip_nulls(jsonb_build_object(
    'reason', nullif(current_setting('audit.reason', true), ''),
    'ip', nullif(current_setting('audit.ip', true), ''),
    'user_agent', nullif(current_setting('audit.user_agent', true), '')));
comment on function audit.plain_context() is 'The context beside an actor that audit.actor_is_plain(), where audit.has_context().';

create function audit.write_instant()
    returns bigint
    language sql
    volatile
-- The transaction id comes first: the watermark waits for the ids that were taken before a floor was seen. A clock's seconds as
-- a double precision number are exact to the microsecond until the year 2242.
return case when pg_current_xact_id() is not null
    then greatest((date_part('epoch', clock_timestamp()) * 1000000)::bigint, pg_sequence_last_value('audit.floor'::regclass)) end;
comment on function audit.write_instant() is
    'The created_at of an entry written now, in microseconds since 1970: the clock, never below audit.floor. Takes a transaction id first.';

create function audit.write_moment()
    returns timestamptz
    language sql
    volatile
return audit.moment_at(audit.write_instant());
comment on function audit.write_moment() is
    'The created_at of an entry written now: the clock, never below audit.floor. Takes a transaction id first.';

create function audit.insert_event(
    event text, resource_type text, resource_id text, resource_name text, workspace_id text, details jsonb)
    returns uuid
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
declare
    moment constant timestamptz := audit.write_moment();
    actor audit.actor_context := audit.read_actor_context();
    entry_id constant uuid := audit.new_entry_id(moment);
begin
    -- The log's own events fail nothing: an actor whose proof is missing is not named. audit.record refuses before this.
    if actor.actor_type <> 'system' and exists (select from audit.signing_login s where s.login = session_user)
       and audit.signature_problem(actor.actor_type) is not null then
        actor := row('system'::text, 'system'::text, 'system'::text, actor.request_id,
                     coalesce(actor.context, '{}') || jsonb_build_object('invalid',
                         coalesce(actor.context -> 'invalid', '{}') || jsonb_build_object('unsigned_actor_id', actor.actor_id)));
    end if;
    insert into audit.entry (
        id, created_at, workspace_id, event, operation, resource_type, resource_id, resource_name,
        actor_type, actor_id, actor_name, row_count, request_id, context, database_user, transaction_id)
    values (
        entry_id, moment, nullif(workspace_id, ''), event, 'EVENT', resource_type, resource_id, resource_name,
        actor.actor_type, actor.actor_id, actor.actor_name, 0, actor.request_id,
        case when details is null then actor.context
             else coalesce(actor.context, '{}') || jsonb_build_object('details', details) end,
        session_user, pg_current_xact_id());
    return entry_id;
end
$function$;
comment on function audit.insert_event(text, text, text, text, text, jsonb) is
    'Writes an entry that no write of a table made, by the transaction''s actor; details stand in context. Returns its id.';

create function audit.write_event(event text, subject_name text, workspace_id text, details jsonb)
    returns uuid
    language sql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select audit.insert_event(event, 'audit_log', subject_name, subject_name, workspace_id, details);
end;
comment on function audit.write_event(text, text, text, jsonb) is
    'Writes one of the log''s own events (resource_type audit_log). For the log''s own functions. Returns the entry''s id.';

-- Which tables are tracked, and how: one row each, written by enable_tracking and disable_tracking only.

set search_path = pg_catalog, pg_temp;

create table audit.tracked_table (
    id bigint generated always as identity,
    table_schema text collate "C" not null,
    table_name text collate "C" not null,
    kind text collate "C" not null,
    resource_type text collate "C",
    resource_type_column text,
    resource_id_columns text[],
    resource_name_column text,
    subject_column text,
    workspace text collate "C",
    workspace_column text,
    workspace_setting text,
    events jsonb,
    column_events jsonb,
    soft_delete_column text,
    excluded_columns text[] not null default '{}',
    redacted_columns text[] not null default '{}',
    max_value_bytes integer not null,
    missing_actor text collate "C" not null,
    signed_actor boolean not null default false,
    enabled_at timestamptz not null default clock_timestamp(),
    relation_oid oid not null,
    column_numbers jsonb not null default '{}',
    column_types jsonb not null default '{}',
    compiled_digest text,
    readable_paths text[] not null default '{}',
    constraint tracked_table_has_a_number primary key (id),
    constraint table_is_tracked_once unique (table_schema, table_name),
    constraint kind_is_known check (kind in ('resource', 'permission', 'role')),
    constraint permission_and_role_name_their_resource check (kind = 'resource' or resource_id_columns is not null),
    constraint workspace_comes_from_one_place check (num_nonnulls(workspace, workspace_column, workspace_setting) <= 1),
    constraint max_value_bytes_is_bounded check (max_value_bytes between 64 and 16777216),
    constraint resource_type_is_not_the_log check (resource_type <> 'audit_log' and length(resource_type) <= 200),
    constraint workspace_is_given check (workspace <> '' and octet_length(workspace) <= 2000),
    constraint workspace_setting_is_custom check (workspace_setting like '%.%'),
    constraint missing_actor_is_known check (missing_actor in ('system', 'refuse'))
);

comment on table audit.tracked_table is
    'The tracked tables and their settings, as audit.enable_tracking was told. Change them by calling it again.';
comment on column audit.tracked_table.id is 'Number of the compiled capture function audit.capture_<id>. Never null.';
comment on column audit.tracked_table.table_schema is 'Schema of the table; follows a rename. Never null.';
comment on column audit.tracked_table.table_name is 'Name of the table; follows a rename. Never null.';
comment on column audit.tracked_table.kind is 'resource, permission or role. Never null.';
comment on column audit.tracked_table.resource_type is 'resource_type of the entries. Null: the table''s name.';
comment on column audit.tracked_table.resource_type_column is 'Column that names each row''s resource_type. Null: none.';
comment on column audit.tracked_table.resource_id_columns is 'Columns that make resource_id. Null: the primary key.';
comment on column audit.tracked_table.resource_name_column is 'Column, or fk_column.column, that gives resource_name. Null: none.';
comment on column audit.tracked_table.subject_column is 'Column, or fk_column.column, that names the other party of a permission or role. Null: none.';
comment on column audit.tracked_table.workspace is 'The workspace of every entry, when it is a constant. Null: it is not.';
comment on column audit.tracked_table.workspace_column is 'Column, or fk_column.column, that holds the workspace. Null: another source, or the column was dropped.';
comment on column audit.tracked_table.workspace_setting is 'Custom setting that holds the workspace. Null: another source.';
comment on column audit.tracked_table.events is 'Event names that replace the kind''s, by operation. Null: the kind''s.';
comment on column audit.tracked_table.column_events is 'Event names by the columns they belong to; where several fit, the first by name. Null: none.';
comment on column audit.tracked_table.soft_delete_column is 'Column whose change from null means deleted, and back restored. Null: none.';
comment on column audit.tracked_table.excluded_columns is 'Columns that are not stored at all. Never null.';
comment on column audit.tracked_table.redacted_columns is 'Columns stored as a marker that still shows that they changed. Never null.';
comment on column audit.tracked_table.max_value_bytes is 'A longer value is stored as its size and SHA-256. Never null.';
comment on column audit.tracked_table.missing_actor is 'system: a write without an actor is marked system; refuse: it fails. Never null.';
comment on column audit.tracked_table.signed_actor is 'Whether a write wants a signed actor, as audit.require_signed_actor was told. Never null.';
comment on column audit.tracked_table.enabled_at is 'When tracking was turned on first. Never null.';
comment on column audit.tracked_table.relation_oid is 'OID of the table when it was last compiled; another one after a restore. Never null.';
comment on column audit.tracked_table.column_numbers is 'Column names and their numbers when last compiled: shows a rename. Never null.';
comment on column audit.tracked_table.column_types is 'Column numbers and the OIDs and modifiers of their types when last compiled: shows what was retyped. Never null.';
comment on column audit.tracked_table.readable_paths is 'The lookups (fk_column.column) that could be read when last compiled. Never null.';
comment on column audit.tracked_table.compiled_digest is 'MD5 of the compiled function''s text. Null: not compiled.';

-- A note that only grows: to mark the settings' own row would wait for whoever compiles them, with the table locked.
create table audit.rewritten_table (
    tracked_table_id bigint not null,
    by_command text not null,
    is_by_type boolean not null
);
comment on table audit.rewritten_table is
    'Tracked tables whose rows a DDL command rewrites, one row a rewrite, from its beginning until table_altered is recorded: at the end of the command, else by upkeep. Mostly empty.';
comment on column audit.rewritten_table.tracked_table_id is 'Number of the tracked table. Never null.';
comment on column audit.rewritten_table.is_by_type is 'Whether values were made anew by ALTER COLUMN … TYPE; else only columns that came with the command, or generated ones, have other values. Never null.';
comment on column audit.rewritten_table.by_command is 'The command''s tag, such as ALTER TABLE. Never null.';

create function audit.own_events()
    returns text[]
    language sql
    immutable
    parallel safe
return array[
    'tracking_enabled', 'tracking_changed', 'tracking_disabled', 'table_altered', 'table_dropped', 'day_dropped',
    'day_held', 'day_released', 'key_created', 'key_revoked', 'log_viewed', 'log_exported', 'log_write_denied', 'seal_failed'];
comment on function audit.own_events() is 'The events that only the log itself writes.';

create function audit.kind_events(kind text)
    returns jsonb
    language sql
    immutable
    parallel safe
return case kind
    when 'resource' then jsonb '{"INSERT": "resource_created", "UPDATE": "resource_updated", "DELETE": "resource_deleted", "TRUNCATE": "resource_deleted", "RESTORE": "resource_restored"}'
    when 'permission' then jsonb '{"INSERT": "permission_granted", "UPDATE": "permission_changed", "DELETE": "permission_revoked", "TRUNCATE": "permission_revoked", "RESTORE": "permission_granted"}'
    when 'role' then jsonb '{"INSERT": "role_assigned", "UPDATE": "role_changed", "DELETE": "role_unassigned", "TRUNCATE": "role_unassigned", "RESTORE": "role_assigned"}'
end;
comment on function audit.kind_events(text) is
    'The events of a kind by operation; RESTORE is a soft deletion taken back. Null for an unknown kind.';

create function audit.is_event_name(event text)
    returns boolean
    language sql
    immutable
    parallel safe
return event ~ '^[a-z][a-z0-9]*(_[a-z0-9]+)+$' and length(event) <= 63;
comment on function audit.is_event_name(text) is
    'Whether a text has the form of an event, noun_pastparticiple in lower case, at most 63 characters. Null for null.';

-- Signed actors: proof that the application itself named the actor, for tables and logins that demand it. HMAC-SHA256
-- (RFC 2104) by core functions alone.

set search_path = pg_catalog, pg_temp;

create table audit.actor_key (
    id text collate "C" not null,
    name text not null,
    inner_key bytea not null,
    outer_key bytea not null,
    created_at timestamptz not null default clock_timestamp(),
    constraint actor_key_is_known_by_its_id primary key (id),
    constraint actor_key_id_has_eight_digits check (id ~ '^[0-9a-f]{8}$'),
    constraint actor_key_has_a_name check (name <> '' and length(name) <= 500),
    constraint keys_fill_a_block check (octet_length(inner_key) = 64 and octet_length(outer_key) = 64)
);
comment on table audit.actor_key is
    'Keys by which the application signs actors; all of them are valid. Whoever reads one can sign: nobody is granted the two columns that hold it.';
comment on column audit.actor_key.id is 'Names the key in signatures and entries: 8 hexadecimal digits. Never null.';
comment on column audit.actor_key.name is 'What the key is for. Never null.';
comment on column audit.actor_key.inner_key is 'The key padded for the inner hash (xor 0x36), so that a check is two hashes and no more. Never null.';
comment on column audit.actor_key.outer_key is 'The key padded for the outer hash (xor 0x5c). Never null.';
comment on column audit.actor_key.created_at is 'When the key was made. Never null.';

create table audit.signing_login (
    login text collate "C" not null,
    constraint login_signs_once primary key (login)
);
comment on table audit.signing_login is
    'Logins (session_user) whose writes to any tracked table, and whose recorded events, want a signed actor.';
comment on column audit.signing_login.login is 'Name of the login. Never null.';

create function audit.pad_key(key bytea, filler integer)
    returns bytea
    language plpgsql
    immutable
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
declare
    padded bytea := decode(repeat(lpad(to_hex(filler), 2, '0'), 64), 'hex');
begin
    for position in 0 .. octet_length(key) - 1 loop
        padded := set_byte(padded, position, get_byte(key, position) # filler);
    end loop;
    return padded;
end
$function$;
comment on function audit.pad_key(bytea, integer) is
    'A key of at most 64 bytes, filled up with zeros and xored with the filler: what HMAC puts before a hash of SHA-256.';

create function audit.add_actor_key(name text)
    returns text
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    -- Made here, so that it stands in no statement, parameter or log: results are not logged. A UUID has 122 random bits.
    key constant bytea := sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
    key_id constant text := left(encode(uuid_send(gen_random_uuid()), 'hex'), 8);
begin
    insert into audit.actor_key (id, name, inner_key, outer_key)
    values (key_id, add_actor_key.name, audit.pad_key(key, 54), audit.pad_key(key, 92));
    perform audit.write_event('key_created', key_id, null, jsonb_build_object('signs', 'actors', 'name', add_actor_key.name));
    return format('actor-%s-%s@%s', key_id, rtrim(translate(encode(key, 'base64'), '+/', '-_'), '='), current_database());
end
$function$;
comment on function audit.add_actor_key(text) is
    'Makes a key by which the application signs actors in this database, and returns its text: it is never shown again. Leaves an entry.';

create function audit.revoke_actor_key(id text)
    returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
begin
    delete from audit.actor_key k where k.id = revoke_actor_key.id;
    if not found then
        return false;
    end if;
    perform audit.write_event('key_revoked', id, null, '{"signs": "actors"}');
    return true;
end
$function$;
comment on function audit.revoke_actor_key(text) is
    'Deletes a key that signs actors: what it signed is refused from now on. Leaves an entry. False: there is no such key.';

create function audit.signature_problem(actor_type text)
    returns text
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    signature constant text := current_setting('audit.signature', true);
    ends constant text := substr(signature, 10, 10);
    fits boolean;
begin
    if actor_type = 'system' then
        return 'is not named';
    elsif nullif(signature, '') is null then
        return 'is not signed';
    end if;
    -- The settings as they were sent, not as they are read: one text, one meaning. No text of PostgreSQL holds a zero byte, so
    -- fields cannot run into each other. Digests of both are compared: how far they agree tells nothing of the right one.
    select sha256(convert_to(signature, 'UTF8')) = sha256(convert_to(k.id || '.' || ends || '.' || encode(
               sha256(k.outer_key || sha256(k.inner_key || '\x646179626f6f6b206163746f72203100'::bytea
                   || convert_to(current_database()::text, 'UTF8') || '\x00'::bytea
                   || convert_to(ends, 'UTF8') || '\x00'::bytea
                   || convert_to(coalesce(current_setting('audit.actor_type', true), ''), 'UTF8') || '\x00'::bytea
                   || convert_to(coalesce(current_setting('audit.actor_id', true), ''), 'UTF8') || '\x00'::bytea
                   || convert_to(coalesce(current_setting('audit.actor_name', true), ''), 'UTF8') || '\x00'::bytea
                   || convert_to(coalesce(current_setting('audit.request_id', true), ''), 'UTF8'))), 'hex'), 'UTF8'))
    into fits
    from audit.actor_key k
    where k.id = left(signature, 8);
    if not coalesce(fits, false) then
        return 'has a signature that does not fit';
    end if;
    -- When the client's statement arrived: one that works for an hour is not refused at its end.
    if ends::bigint <= extract(epoch from statement_timestamp()) then
        return 'has a signature that has expired';
    end if;
    return null;
end
$function$;
comment on function audit.signature_problem(text) is
    'What is wrong with this transaction''s actor where a signed one is demanded, given its type as audit.read_actor_context judges it (setting audit.signature: key id, end in seconds since 1970, HMAC-SHA256; docs/signed-actors.md). Null: nothing.';

create function audit.refuse_unsigned_actor(actor_type text, place text)
    returns void
    language plpgsql
    stable
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
declare
    problem constant text := audit.signature_problem(actor_type);
begin
    if problem is not null then
        raise exception 'a write to % needs a signed actor: the actor %', place, problem
            using errcode = 'insufficient_privilege',
                  constraint = 'actor_is_signed',
                  hint = 'The helpers of daybook sign with DAYBOOK_ACTOR_KEY; the actor is named in the same transaction, before the write.';
    end if;
end
$function$;
comment on function audit.refuse_unsigned_actor(text, text) is
    'Raises 42501, with the constraint name actor_is_signed, unless this transaction''s actor is named and signed.';

create function audit.signed_actor_sql(signed_actor boolean)
    returns text
    language sql
    stable
begin atomic
    select case when signed_actor or exists (select from audit.signing_login) then format($sql$
    if %saudit.signature_problem(coalesce(audit_actor.actor_type, audit.plain_actor_type())) is not null then
        perform audit.refuse_unsigned_actor(coalesce(audit_actor.actor_type, audit.plain_actor_type()), format('%%I.%%I', tg_table_schema, tg_table_name));
    end if;$sql$,
        case when signed_actor then ''
             else format('session_user = any(%L::name[]) and ', array(select login from audit.signing_login order by login)) end)
        else '' end;
end;
comment on function audit.signed_actor_sql(boolean) is
    'What a compiled function does about signatures: nothing, as long as neither its table nor a login demands one.';

create function audit.store_signed_actor(relation oid, required boolean)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    tracked audit.tracked_table;
begin
    perform audit.require_owner(relation);
    tracked := audit.find_tracking(relation);
    if tracked.id is null then
        raise exception 'table % is not tracked', relation::regclass
            using errcode = 'object_not_in_prerequisite_state', hint = 'Call audit.enable_tracking first.';
    end if;
    update audit.tracked_table t set signed_actor = required where t.id = tracked.id and t.signed_actor <> required;
    if found then
        perform audit.compile_tracking(tracked.id, relation);
        perform audit.write_event('tracking_changed', format('%I.%I', tracked.table_schema, tracked.table_name), tracked.workspace,
                                  jsonb_build_object('signed_actor', required));
    end if;
end
$function$;
comment on function audit.store_signed_actor(oid, boolean) is
    'For require_signed_actor: keeps the demand and compiles the capture function. Raises 42501 unless the caller owns the table.';

create function audit.require_signed_actor(target regclass, required boolean default true)
    returns void
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
begin
    if target is null or required is null then
        raise exception 'target, required: name the table, and true or false'
            using errcode = 'null_value_not_allowed', hint = 'select audit.require_signed_actor(''public.document'')';
    end if;
    perform audit.show_ownership(target);
    perform audit.store_signed_actor(target, required);
    perform audit.hide_ownership(target);
end
$function$;
comment on function audit.require_signed_actor(regclass, boolean) is
    'Demands a signed actor of every write to a tracked table, or no longer. Needs ownership of the table. Calling enable_tracking again does not lift it.';

create function audit.require_signed_actor_of(login name, required boolean default true)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    tracked audit.tracked_table;
    relation oid;
begin
    if required and not exists (select from pg_roles r where r.rolname = login and r.rolcanlogin) then
        raise exception 'there is no login %', coalesce(quote_ident(login), 'null')
            using errcode = 'undefined_object', hint = 'Name the role that the application logs in as, not a group.';
    end if;
    if required then
        insert into audit.signing_login (login) values (require_signed_actor_of.login) on conflict do nothing;
    else
        delete from audit.signing_login s where s.login = require_signed_actor_of.login;
    end if;
    if not found then
        return;
    end if;
    for tracked in select * from audit.tracked_table order by id loop
        relation := audit.tracked_relation(tracked);
        if relation is not null then
            perform audit.compile_tracking(tracked.id, relation);
        end if;
    end loop;
    perform audit.write_event('tracking_changed', login, null, jsonb_build_object('login', login, 'signed_actor', required));
end
$function$;
comment on function audit.require_signed_actor_of(name, boolean) is
    'Demands a signed actor of whatever a login (session_user) writes to tracked tables and records, or no longer.';

-- What a column's value becomes: the jsonb of before and after, the text of keys and names, and when it counts as changed.
-- No cast of the application is run: its owner would run with it, as the capturing role.

set search_path = pg_catalog, pg_temp;

create function audit.base_type(type_oid oid)
    returns oid
    language sql
    stable
begin atomic
    with recursive looked_through as (
        select t.oid, t.typbasetype from pg_catalog.pg_type t where t.oid = type_oid
        union all
        select t.oid, t.typbasetype from looked_through d join pg_catalog.pg_type t on t.oid = d.typbasetype
    )
    select oid from looked_through where typbasetype = 0;
end;
comment on function audit.base_type(oid) is 'The type below a domain, through domains of domains; the type itself when it is none.';

create function audit.is_core_type(type_oid oid)
    returns boolean
    language sql
    immutable
    parallel safe
return type_oid < 16384;
comment on function audit.is_core_type(oid) is
    'Whether the type came with the server (OIDs below FirstNormalObjectId): no application can attach a cast to it that capture would run.';

create function audit.equality_is_identity(type_oid oid, collation_oid oid)
    returns boolean
    language sql
    stable
begin atomic
    select exists (
        select
        from pg_catalog.pg_type t
        join pg_catalog.pg_opclass c
            on c.opcdefault
           and c.opcmethod = (select oid from pg_catalog.pg_am where amname = 'btree')
           and c.opcintype = case when t.oid = 'varchar'::regtype then 'text'::regtype::oid else t.oid end
        join pg_catalog.pg_amproc p
            on p.amprocfamily = c.opcfamily and p.amproclefttype = c.opcintype
           and p.amprocrighttype = c.opcintype and p.amprocnum = 4
        -- Implicit casts that somebody gave a type of the application could make its = ambiguous, or become part of it.
        where t.oid = type_oid and audit.is_core_type(t.oid)
          -- Its class says equalimage, but char without a length keeps the trailing blanks that its = does not see.
          and t.oid <> 'bpchar'::regtype
          and c.opcnamespace = 'pg_catalog'::regnamespace
          and p.amproc::text in ('btequalimage', 'btvarstrequalimage'))
        and coalesce((select collisdeterministic from pg_catalog.pg_collation where oid = collation_oid), true);
end;
comment on function audit.equality_is_identity(oid, oid) is
    'Whether equal values of the type are also the same bytes (its btree class says equalimage, manual 67.5, and the collation is deterministic), so that a plain comparison misses no change.';

create function audit.value_sql(value text, type_oid oid, max_bytes integer)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    base constant oid := audit.base_type(type_oid);
    cut constant text :=
        'jsonb_build_object(''cut'', true, ''bytes'', octet_length(%1$s), ''sha256'', encode(sha256(%2$s), ''hex''))';
    as_text text;
begin
    if audit.is_core_type(base) and (select typlen from pg_type where oid = base) > 0 then
        return format('to_jsonb(%s)', value);
    elsif base = 'bytea'::regtype then
        return format('case when octet_length(%1$s) > %2$s then %3$s else to_jsonb(%1$s) end',
                      value, max_bytes, format(cut, value, value));
    elsif base in ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype) then
        return format('case when octet_length(%1$s) > %2$s then %3$s else to_jsonb(%1$s) end',
                      value, max_bytes, format(cut, value, format('convert_to(%s, getdatabaseencoding())', value)));
    end if;

    -- A type of the application goes through its output function: to_jsonb and ::text would run casts that its owner made.
    -- json too, by its text: \u0000 in it makes to_jsonb raise, and its white space is part of its value.
    if audit.is_core_type(base) and base not in ('json'::regtype, 'json[]'::regtype) then
        as_text := format('(%s)::text', value);
        -- The text is made only where it could be too long: no compression shrinks a value 256-fold, but a number can have any
        -- number of zeros that are not stored.
        return format('case when %2$soctet_length(%3$s) > %4$s then %5$s else to_jsonb(%1$s) end',
                      value,
                      case when coalesce((select nullif(typelem, 0) from pg_type where oid = base and typcategory = 'A'), base)
                                in ('numeric'::regtype, 'jsonb'::regtype, 'numrange'::regtype, 'nummultirange'::regtype) then ''
                           else format('pg_column_size(%s) > %s and ', value, max_bytes / 256) end,
                      as_text, max_bytes,
                      format(cut, as_text, format('convert_to(%s, getdatabaseencoding())', as_text)));
    end if;
    as_text := format('format(''%%s'', %s)', value);
    return format('case when %1$s is not distinct from null then null '
                  'when pg_column_size(%1$s) > %2$s and octet_length(%3$s) > %4$s then %5$s else to_jsonb(%3$s) end',
                  value, max_bytes / 256, as_text, max_bytes,
                  format(cut, as_text, format('convert_to(%s, getdatabaseencoding())', as_text)));
end
$function$;
comment on function audit.value_sql(text, oid, integer) is
    'The SQL that turns a column reference of a type into the jsonb an entry stores, cut above max_bytes.';

create function audit.text_sql(value text, type_oid oid)
    returns text
    language sql
    stable
begin atomic
    select case
        when audit.is_core_type(audit.base_type(type_oid)) then format('(%s)::text', value)
        else format('case when not (%1$s is not distinct from null) then format(''%%s'', %1$s) end', value)
    end;
end;
comment on function audit.text_sql(text, oid) is 'The SQL that turns a column reference of a type into text, running no cast of the application.';

create function audit.bounded_sql(value text)
    returns text
    language sql
    immutable
    parallel safe
    -- A btree holds 2704 bytes: a longer id must not fail the write.
return format('case when octet_length(%1$s) > 2000 then left(%1$s, 200) || ''…'' || encode(sha256(convert_to(%1$s, getdatabaseencoding())), ''hex'') else %1$s end', value);
comment on function audit.bounded_sql(text) is
    'The SQL that keeps a text as it is up to 2000 bytes, and a longer one by its beginning and SHA-256, so that it still tells things apart.';

create type audit.row_column as (
    name text,
    type_oid oid,
    collation_oid oid
);
comment on type audit.row_column is
    'A column as a table''s rows have it. Its collation is null when it is not known: then only identity tells what changed.';

create function audit.table_columns(relation oid)
    returns audit.row_column[]
    language sql
    stable
begin atomic
    select coalesce(array_agg(row(a.attname, a.atttypid, a.attcollation)::audit.row_column order by a.attnum), '{}')
    from pg_catalog.pg_attribute a
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attgenerated <> 'v';
end;
comment on function audit.table_columns(oid) is 'The columns of a table that its rows hold, as the catalogue says: all but virtual ones.';

create function audit.key_sql(alias text, columns audit.row_column[], key_columns text[])
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    parts text[];
    is_short boolean;
begin
    if key_columns is null or cardinality(key_columns) = 0 then
        return 'null::text';
    end if;
    select array_agg(
        case when cardinality(key_columns) > 1 and audit.is_core_type(audit.base_type(c.type_oid)) then format('%s.%I', alias, c.name)
             -- Written as the column's value is, so that the one can be told from the other.
             when audit.base_type(c.type_oid) in ('timestamp'::regtype, 'timestamptz'::regtype, 'real'::regtype, 'double precision'::regtype)
             then format('(to_jsonb(%s.%I) #>> ''{}'')', alias, c.name)
             else audit.text_sql(format('%s.%I', alias, c.name), c.type_oid) end
        order by k.position),
        bool_and(t.typlen > 0)
    into parts, is_short
    from unnest(key_columns) with ordinality k(name, position)
    join unnest(columns) c on c.name = k.name
    left join pg_type t on t.oid = c.type_oid;
    if parts is null or cardinality(parts) < cardinality(key_columns) then
        return 'null::text';
    end if;
    if is_short and cardinality(key_columns) = 1 then
        return parts[1];
    end if;
    return audit.bounded_sql(case when cardinality(key_columns) = 1 then parts[1]
                                  else format('jsonb_build_array(%s)::text', array_to_string(parts, ', ')) end);
end
$function$;
comment on function audit.key_sql(text, audit.row_column[], text[]) is
    'The SQL that turns a row''s key columns into the text of resource_id and row_key. A column that is gone makes it null.';

create function audit.primary_key_columns(relation oid)
    returns text[]
    language sql
    stable
begin atomic
    select array_agg(a.attname::text order by k.position)
    from pg_catalog.pg_index i
    cross join lateral unnest(i.indkey::smallint[]) with ordinality k(number, position)
    join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
    where i.indrelid = relation and i.indisprimary and k.position <= i.indnkeyatts;
end;
comment on function audit.primary_key_columns(oid) is 'Columns of a table''s primary key in its order. Null: it has none.';

-- fk_column.column: a name or workspace that stands in another table, whether capture may read it there, and the functions that
-- read it. Planning a query on a table runs functions of its owner (those of expression indexes, for one), and whether it would
-- cannot be known beforehand: a snapshot may be older than an index. So a lookup runs as its parent's owner, who gains nothing.

set search_path = pg_catalog, pg_temp;

create function audit.runs_code_when_read_sql(relation text, is_partitioned boolean)
    returns text
    language sql
    immutable
    parallel safe
return format(
    '(exists (select from pg_catalog.pg_index i where i.indrelid %1$s and (i.indexprs is not null or i.indpred is not null)) '
    'or exists (select from pg_catalog.pg_statistic_ext s where s.stxrelid %1$s and s.stxexprs is not null) '
    'or exists (select from pg_catalog.pg_partitioned_table p where p.partrelid %1$s and p.partexprs is not null))',
    format(case when is_partitioned then 'in (select relid from pg_catalog.pg_partition_tree(%s::regclass))' else '= %s' end, relation));
comment on function audit.runs_code_when_read_sql(text, boolean) is
    'The SQL that asks whether planning a query on a table would run functions of its owner: those in index expressions and predicates, extended statistics and partition keys.';

create function audit.runs_code_when_read(relation oid)
    returns boolean
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    answer boolean;
begin
    execute 'select ' || audit.runs_code_when_read_sql('$1', (select relkind = 'p' from pg_class where oid = relation))
    into answer using relation;
    return answer;
end
$function$;
comment on function audit.runs_code_when_read(oid) is
    'Whether planning a query on the table would run functions of its owner as the capturing role.';

create type audit.lookup as (
    parent oid,
    parent_key text,
    parent_column text,
    key_operator text,
    problem text,
    mend text
);
comment on type audit.lookup is
    'Where fk_column.column leads: the parent table, its key, the wanted column, the key''s equality operator; or the problem with it and the statement that mends it, where one does.';

create function audit.lookups_run_as_owner()
    returns boolean
    language sql
    stable
begin atomic
    -- By name: that function is made below.
    select exists (
        select from pg_catalog.pg_proc p
        join pg_catalog.pg_roles r on r.oid = p.proowner
        where p.pronamespace = 'audit'::regnamespace and p.proname = 'keep_lookups' and r.rolsuper);
end;
comment on function audit.lookups_run_as_owner() is
    'Whether lookups run as the owners of the tables they read, which takes a superuser who installed the log; else as the capturing role.';

create function audit.compares_without_casts(key_type oid, fk_type oid, key_operator oid)
    returns boolean
    language sql
    stable
begin atomic
    -- Two of the server's own types (a domain is what it is based on), the very types that the operator was made for, or one
    -- type for which the server's own operator is polymorphic. Elsewhere the parser could find somebody's implicit cast, or an
    -- operator that fits a domain better.
    select o.oprleft = key_type and o.oprright = fk_type
        or n.nspname = 'pg_catalog'
           and (audit.is_core_type(audit.base_type(key_type)) and audit.is_core_type(audit.base_type(fk_type))
                or key_type = fk_type and (select typtype = 'p' from pg_catalog.pg_type where oid = o.oprright))
    from pg_catalog.pg_operator o
    join pg_catalog.pg_namespace n on n.oid = o.oprnamespace
    where o.oid = key_operator;
end;
comment on function audit.compares_without_casts(oid, oid, oid) is
    'Whether the operator compares a key and a foreign key''s column of these types without a cast or operator that the owner of a type made.';

create function audit.find_lookup(relation oid, path text)
    returns audit.lookup
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    fk_column constant text := split_part(path, '.', 1);
    wanted constant text := substr(path, length(split_part(path, '.', 1)) + 2);
    found_lookup audit.lookup;
    parent_name text;
    owner name;
begin
    select c.confrelid, key_column.attname, value_column.attname,
           format('operator(%I.%s)', n.nspname, o.oprname),
           case when not has_schema_privilege('audit_capture', n.oid, 'usage')
                then format('audit_capture may not use schema %I of the key''s operator', n.nspname)
                when not audit.compares_without_casts(key_column.atttypid, a.atttypid, o.oid)
                then format('column %I and the key it refers to are compared by way of a cast or operator that capture must not run', fk_column)
                when a.attcollation <> key_column.attcollation
                then format('column %I and the key it refers to have different collations', fk_column) end,
           case when not has_schema_privilege('audit_capture', n.oid, 'usage')
                then format('grant usage on schema %I to audit_capture', n.nspname) end
    into found_lookup
    from pg_constraint c
    join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
    join pg_attribute key_column on key_column.attrelid = c.confrelid and key_column.attnum = c.confkey[1]
    join pg_operator o on o.oid = c.conpfeqop[1]
    join pg_namespace n on n.oid = o.oprnamespace
    left join pg_attribute value_column
        on value_column.attrelid = c.confrelid and value_column.attname = wanted
       and value_column.attnum > 0 and not value_column.attisdropped and value_column.attgenerated <> 'v'
    where c.conrelid = relation and c.contype = 'f' and cardinality(c.conkey) = 1 and a.attname = fk_column
    order by (value_column.attname is null), c.oid
    limit 1;

    if found_lookup.parent is null then
        found_lookup.problem := format('column %I has no foreign key of one column to follow', fk_column);
        return found_lookup;
    end if;
    if found_lookup.problem is not null then
        return found_lookup;
    end if;
    found_lookup.mend := null;
    parent_name := found_lookup.parent::regclass::text;
    select r.rolname into owner from pg_class c join pg_roles r on r.oid = c.relowner where c.oid = relation;
    if found_lookup.parent_column is null then
        found_lookup.problem := format('table %s has no column %I to look up', parent_name, wanted);
    elsif not has_schema_privilege('audit_capture', (select relnamespace from pg_class where oid = found_lookup.parent), 'usage') then
        found_lookup.problem := format('audit_capture may not use the schema of %s', parent_name);
        found_lookup.mend := format('grant usage on schema %s to audit_capture',
                                    (select relnamespace::regnamespace from pg_class where oid = found_lookup.parent));
    elsif not (has_column_privilege('audit_capture', found_lookup.parent, found_lookup.parent_key, 'select')
               and has_column_privilege('audit_capture', found_lookup.parent, found_lookup.parent_column, 'select')) then
        found_lookup.problem := format('audit_capture may not read %s', parent_name);
        found_lookup.mend := format('grant select (%I, %I) on %s to audit_capture',
                                    found_lookup.parent_key, found_lookup.parent_column, parent_name);
    elsif not (has_column_privilege(owner, found_lookup.parent, found_lookup.parent_key, 'select')
               and has_column_privilege(owner, found_lookup.parent, found_lookup.parent_column, 'select')) then
        -- The log would tell him what the parent's owner does not.
        found_lookup.problem := format('owner %I may not read %s', owner, parent_name);
        found_lookup.mend := format('grant select (%I, %I) on %s to %I',
                                    found_lookup.parent_key, found_lookup.parent_column, parent_name, owner);
    elsif (select relrowsecurity from pg_class where oid = found_lookup.parent) then
        found_lookup.problem := format('table %s has row-level security', parent_name);
    elsif not audit.lookups_run_as_owner() and audit.runs_code_when_read(found_lookup.parent) then
        found_lookup.problem := format('table %s has an index, statistics or partitions on expressions, which capture must not run', parent_name);
    end if;
    return found_lookup;
end
$function$;
comment on function audit.find_lookup(oid, text) is
    'Follows fk_column.column over a foreign key of one column; problem says why capture cannot use it, null when it can.';

create function audit.readable_paths(tracked audit.tracked_table, relation oid)
    returns text[]
    language sql
    stable
begin atomic
    select coalesce(array_agg(distinct p.path order by p.path), '{}')
    from unnest(array[tracked.workspace_column, tracked.resource_name_column, tracked.subject_column]) p(path)
    where p.path like '%.%' and (audit.find_lookup(relation, p.path)).problem is null;
end;
comment on function audit.readable_paths(audit.tracked_table, oid) is 'The lookups of a tracked table that capture can read now.';

create function audit.lookup_body(relation oid, path text)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    target constant audit.lookup := audit.find_lookup(relation, path);
begin
    return (
        select format('begin return (select %s from %s %I.%I audit_p where audit_p.%I %s $1); end',
                      audit.text_sql(format('audit_p.%I', a.attname), a.atttypid),
                      case c.relkind when 'p' then '' else 'only' end, n.nspname, c.relname, target.parent_key, target.key_operator)
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace
        join pg_attribute a on a.attrelid = c.oid and a.attname = target.parent_column
        where c.oid = target.parent and target.problem is null);
end
$function$;
comment on function audit.lookup_body(oid, text) is
    'The body of the function that looks fk_column.column up, given the foreign key''s value. Null when it cannot be looked up.';

create function audit.lookup_name(tracked_id bigint, path text)
    returns text
    language sql
    immutable
    parallel safe
return format('lookup_%s_%s', tracked_id, left(md5(path), 8));
comment on function audit.lookup_name(bigint, text) is 'The name of the function that looks a path of a tracked table up.';

create function audit.keep_lookups(tracked_id bigint, relation oid, paths text[])
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
-- As the superuser who installed the log: nobody else can give a function to a table's owner. So it calls what is his alone, and
-- writes no other text than lookup_body's.
declare
    path text;
    function_name text;
    body text;
    key_type oid;
    parent_owner oid;
    outdated regprocedure;
begin
    if not audit.lookups_run_as_owner() then
        return;
    end if;
    for outdated in
        select p.oid
        from pg_proc p
        where p.pronamespace = 'audit'::regnamespace and p.proname ~ format('^lookup_%s_', tracked_id)
          and not exists (
              select from unnest(paths) w(path)
              join pg_attribute a on a.attrelid = relation and a.attname = split_part(w.path, '.', 1)
              where p.proname = audit.lookup_name(tracked_id, w.path) and p.proargtypes[0] = a.atttypid)
    loop
        execute format('drop function %s', outdated);
    end loop;
    foreach path in array paths loop
        function_name := audit.lookup_name(tracked_id, path);
        body := audit.lookup_body(relation, path);
        select a.atttypid into key_type
        from pg_attribute a where a.attrelid = relation and a.attname = split_part(path, '.', 1);
        select c.relowner into parent_owner from pg_class c where c.oid = (audit.find_lookup(relation, path)).parent;
        continue when body is null or exists (
            select from pg_proc p
            where p.pronamespace = 'audit'::regnamespace and p.proname = function_name
              and p.prosrc = body and p.proowner = parent_owner and has_function_privilege('audit_capture', p.oid, 'execute'));
        execute format('create or replace function audit.%I(audit_key %s) returns text language plpgsql stable security definer set search_path = pg_catalog, pg_temp as %L',
                       function_name, key_type::regtype, body);
        execute format('alter function audit.%I owner to %s', function_name, parent_owner::regrole);
        execute format('revoke all on function audit.%I from public, %s', function_name, parent_owner::regrole);
        execute format('grant execute on function audit.%I to audit_capture', function_name);
        execute format('comment on function audit.%I is %L', function_name,
                       format('Looks up %s for tracked table number %s, as the owner of the table that it reads.', path, tracked_id));
    end loop;
end
$function$;
comment on function audit.keep_lookups(bigint, oid, text[]) is
    'Makes the functions that look these paths of a tracked table up, each owned by the owner of the table it reads, and drops its other ones.';

create function audit.column_or_lookup_sql(alias text, tracked_id bigint, relation oid, columns audit.row_column[],
                                           follows_lookups boolean, path text, length text)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
-- length: bounded keeps what tells things apart, short the first 500 characters, which is enough for a name.
declare
    target audit.lookup;
    type_oid oid;
    value text;
begin
    if path is null then
        return 'null::text';
    end if;
    select c.type_oid into type_oid from unnest(columns) c where c.name = path;
    if found then
        value := audit.text_sql(format('%s.%I', alias, path), type_oid);
        return case when (select typlen from pg_type where oid = type_oid) > 0 then value
                    when length = 'short' then format('left(%s, 500)', value)
                    else audit.bounded_sql(value) end;
    end if;
    if path not like '%.%' or not follows_lookups then
        return 'null::text';
    end if;
    target := audit.find_lookup(relation, path);
    -- Checked when tracking was turned on; what has become unreadable since must not fail a write, audit.check() tells.
    if target.problem is not null then
        return 'null::text';
    end if;
    select atttypid into type_oid
    from pg_attribute where attrelid = target.parent and attname = target.parent_column;
    if audit.lookups_run_as_owner() then
        value := format('audit.%I(%s.%I)', audit.lookup_name(tracked_id, path), alias, split_part(path, '.', 1));
        return case
            -- One that reads what has become another table since must not fail a write; the next compilation makes it anew.
            when not exists (select from pg_proc p
                             where p.pronamespace = 'audit'::regnamespace and p.proname = audit.lookup_name(tracked_id, path)
                               and p.prosrc = audit.lookup_body(relation, path)
                               -- What a new owner's table runs when it is read is not run as its former owner.
                               and p.proowner = (select relowner from pg_class where oid = target.parent)
                               -- For another type the parser could find somebody's implicit cast.
                               and p.proargtypes[0] = (select c.type_oid from unnest(columns) c where c.name = split_part(path, '.', 1))
                               and has_function_privilege('audit_capture', p.oid, 'execute')) then 'null::text'
            when length = 'short' then format('left(%s, 500)', value)
            else audit.bounded_sql(value) end;
    end if;
    if not exists (select from unnest(columns) c
                   join pg_attribute a on a.attrelid = relation and a.attname = c.name and a.atttypid = c.type_oid
                   where c.name = split_part(path, '.', 1)) then
        return 'null::text';
    end if;
    value := audit.text_sql(format('audit_p.%I', target.parent_column), type_oid);
    return format('(select %s from %s %s audit_p where audit_p.%I %s %s.%I)',
                  case when length = 'short' then format('left(%s, 500)', value) else audit.bounded_sql(value) end,
                  case when (select relkind from pg_class where oid = target.parent) = 'p' then '' else 'only' end,
                  target.parent::regclass,
                  target.parent_key, target.key_operator, alias, split_part(path, '.', 1));
end
$function$;
comment on function audit.column_or_lookup_sql(text, bigint, oid, audit.row_column[], boolean, text, text) is
    'The SQL for a column''s text, or for fk_column.column looked up in the parent, of limited length. Null text where neither can be had.';

create function audit.shape_sql(relation text)
    returns text
    language sql
    immutable
    parallel safe
    -- In full, and each name with its length: whoever could make another table look the same would have code that was compiled
    -- for other types run over his own. In the order of the catalogue's index, which spares a sort.
return format(
    '(select string_agg(concat(s.atttypid, '' '', s.attcollation, '' '', length(s.attname), '' '', s.attname), '','') '
    'from (select atttypid, attcollation, attname from pg_catalog.pg_attribute '
    'where attrelid = %s and attnum > 0 and not attisdropped order by attnum) s)', relation);
comment on function audit.shape_sql(text) is
    'The SQL of a table''s fingerprint: the names, types and collations of its columns in their order. Null for a table without columns.';

create function audit.table_shape(relation oid)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    shape text;
begin
    execute 'select ' || audit.shape_sql('$1') into shape using relation;
    return shape;
end
$function$;
comment on function audit.table_shape(oid) is 'A table''s fingerprint, which its compiled function compares before each use. Another one after a restore, where types of the application have other OIDs: upkeep compiles anew.';

create function audit.row_shape_sql(rows text)
    returns text
    language sql
    immutable
    parallel safe
    -- Of a row of nulls, which calls no cast of any type. The inner select makes it a row: an outer join's whole row would be null.
    -- Its name is none that a column can have by chance: a column would come first.
return format('(select row_to_json("audit row of a transition table")::text from (select r.* from (select) d left join %s r on false) '
              '"audit row of a transition table")', rows);
comment on function audit.row_shape_sql(text) is
    'The SQL of the names of a transition table''s columns in their order, as keys of a JSON object. Unlike the catalogue, which a transaction sees as old as its snapshot, rows are what they are now.';

create function audit.row_types_sql(rows text, names text[])
    returns text
    language sql
    immutable
    parallel safe
return format('(select array[%s]::oid[] from (select) d left join %s r on false)',
              (select string_agg(format('pg_typeof(r.%I)', n.name), ', ' order by n.position)
               from unnest(names) with ordinality n(name, position)), rows);
comment on function audit.row_types_sql(text, text[]) is 'The SQL of the types of these columns of a transition table.';

create function audit.row_types(relation oid)
    returns oid[]
    language sql
    stable
begin atomic
    select array(select a.atttypid from pg_catalog.pg_attribute a where a.attrelid = relation and a.attnum > 0 and not a.attisdropped order by a.attnum);
end;
comment on function audit.row_types(oid) is 'The types of all columns of a table in their order, which its compiled function compares with those of its rows where the catalogue may be older than they are.';

-- The fragments of SQL that capture one table, read from its settings and the catalogue. Everything after this is text alone:
-- the compiled function holds the fragments as literals; one whose table changed behind its back asks for them afresh, so
-- that both ways run the same statements.

set search_path = pg_catalog, pg_temp;

create function audit.side_pieces(tracked audit.tracked_table, relation oid, columns audit.row_column[], follows_lookups boolean, alias text)
    returns jsonb
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    key_columns constant text[] := audit.primary_key_columns(relation);
    -- audit_log is the log itself, whatever a table is called.
    default_type constant text := coalesce(tracked.resource_type, nullif(tracked.table_name, 'audit_log'),
                                           tracked.table_schema || '.' || tracked.table_name);
begin
    return jsonb_build_object(
        'default_type', default_type,
        'constant_workspace', tracked.workspace,
        'workspace', case
            when tracked.workspace is not null then format('%L::text', tracked.workspace)
            when tracked.workspace_setting is not null then format('nullif(left(current_setting(%L, true), 200), '''')', tracked.workspace_setting)
            else format('nullif(%s, '''')', audit.column_or_lookup_sql(alias, tracked.id, relation, columns, follows_lookups, tracked.workspace_column, 'bounded')) end,
        'resource_type', case
            when tracked.resource_type_column is null then format('%L::text', default_type)
            else format('coalesce(nullif(nullif(%s, ''''), ''audit_log''), %L)', audit.column_or_lookup_sql(alias, tracked.id, relation, columns, follows_lookups, tracked.resource_type_column, 'short'), default_type) end,
        'resource_id', audit.key_sql(alias, columns, coalesce(tracked.resource_id_columns, key_columns)),
        'resource_name', audit.column_or_lookup_sql(alias, tracked.id, relation, columns, follows_lookups, tracked.resource_name_column, 'short'),
        'row_key', audit.key_sql(alias, columns, key_columns),
        'subject_id', audit.column_or_lookup_sql(alias, tracked.id, relation, columns, follows_lookups, split_part(tracked.subject_column, '.', 1), 'bounded'),
        'subject_name', case when tracked.subject_column like '%.%'
            then audit.column_or_lookup_sql(alias, tracked.id, relation, columns, follows_lookups, tracked.subject_column, 'short') else 'null::text' end);
end
$function$;
comment on function audit.side_pieces(audit.tracked_table, oid, audit.row_column[], boolean, text) is
    'The SQL fragments that read one side (old or new) of a changed row, under the given alias.';

create function audit.unfollowed_columns(tracked audit.tracked_table, relation oid)
    returns text[]
    language sql
    stable
begin atomic
    select coalesce(array_agg(a.attname::text), '{}')
    from pg_catalog.pg_attribute a
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
      and case
          -- The same table as when it was compiled: its column numbers tell what was renamed.
          when relation = tracked.relation_oid then exists (
              select from jsonb_each_text(tracked.column_numbers) n
              where n.value::smallint = a.attnum and n.key <> a.attname
                and n.key = any(tracked.excluded_columns || tracked.redacted_columns))
          -- Another one, after a restore: a column that was not known then may be the secret one that is missing now.
          else not tracked.column_numbers ? a.attname::text
              and exists (
                  select from unnest(tracked.excluded_columns || tracked.redacted_columns) s(name)
                  where tracked.column_numbers ? s.name
                    and not exists (select from pg_catalog.pg_attribute b
                                    where b.attrelid = relation and b.attname = s.name and not b.attisdropped))
      end;
end;
comment on function audit.unfollowed_columns(audit.tracked_table, oid) is
    'Columns that are, or may be, excluded or redacted ones under a new name which nobody has told the settings: not stored.';

create function audit.secret_row_columns(tracked audit.tracked_table, relation oid, columns audit.row_column[])
    returns text[]
    language sql
    stable
begin atomic
    -- Asked by number, the server tells a column's name as it is now, however old the snapshot.
    with secret as (
        select s.name, n.number, (pg_identify_object_as_address('pg_catalog.pg_class'::regclass, relation, n.number)).object_names[3] as now
        from unnest(tracked.excluded_columns || tracked.redacted_columns) s(name)
        cross join lateral (select (tracked.column_numbers ->> s.name)::integer as number) n
    )
    select coalesce(array_agg(c.name), '{}')
    from unnest(columns) c
    where exists (select from secret where relation = tracked.relation_oid and secret.now = c.name and secret.now <> secret.name)
       or not tracked.column_numbers ? c.name
          and exists (select from secret
                      where secret.number is not null and not exists (select from unnest(columns) d where d.name = secret.name));
end;
comment on function audit.secret_row_columns(audit.tracked_table, oid, audit.row_column[]) is
    'Like audit.unfollowed_columns, of columns that the catalogue may not show to this transaction.';

create function audit.capture_pieces(
    tracked_id bigint, relation oid, row_shape text default null, row_types oid[] default null, follows_lookups boolean default true)
    returns jsonb
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    tracked audit.tracked_table;
    columns jsonb;
    events jsonb;
    soft_delete jsonb;
    secret text[];
    row_columns audit.row_column[];
    root constant oid := coalesce(pg_partition_root(relation), relation);
    is_partitioned boolean;
begin
    select * into strict tracked from audit.tracked_table where id = tracked_id;
    -- As they are now: the settings may not have followed a rename yet.
    select n.nspname, c.relname, c.relkind = 'p' into tracked.table_schema, tracked.table_name, is_partitioned
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = root;

    if row_types is null then
        row_columns := audit.table_columns(relation);
        secret := audit.unfollowed_columns(tracked, root);
    else
        -- Whose collation may have changed is compared by its bytes.
        select array_agg(row(k.name, row_types[k.position], (select 0 from pg_type t where t.oid = row_types[k.position] and t.typcollation = 0))::audit.row_column
                         order by k.position)
        into row_columns
        from json_object_keys(row_shape::json) with ordinality k(name, position)
        where not exists (select from pg_attribute a where a.attrelid = relation and a.attname = k.name and a.attgenerated = 'v');
        secret := audit.secret_row_columns(tracked, root, row_columns);
    end if;
    -- A jsonb object holds 256 MB, and a bytea becomes twice as long in it: many values under a generous limit must not fail
    -- the write.
    tracked.max_value_bytes := least(tracked.max_value_bytes, 120000000 / greatest(cardinality(row_columns), 1));
    select jsonb_agg(jsonb_build_object(
        'name', a.name,
        'is_image', e.is_image,
        'changed', case when e.is_image then format('record_image_ne(row(audit_o.%1$I), row(audit_n.%1$I))', a.name)
                        else format('audit_o.%1$I is distinct from audit_n.%1$I', a.name) end,
        'before', case
            when a.name = any(tracked.redacted_columns) then '''{"redacted": true}''::jsonb'
            else audit.value_sql(format('audit_o.%I', a.name), a.type_oid, tracked.max_value_bytes) end,
        'after', case
            when a.name = any(tracked.redacted_columns) then '''{"redacted": true}''::jsonb'
            else audit.value_sql(format('audit_n.%I', a.name), a.type_oid, tracked.max_value_bytes) end)
        order by a.position)
    into columns
    from unnest(row_columns) with ordinality a(name, type_oid, collation_oid, position)
    -- Its collation is null when it is not known.
    cross join lateral (
        select not coalesce(a.collation_oid is not null and audit.equality_is_identity(audit.base_type(a.type_oid), a.collation_oid), false)
            as is_image) e
    where a.name <> all(tracked.excluded_columns)
      and a.name <> all(secret);

    events := audit.kind_events(tracked.kind) || coalesce(tracked.events, '{}');
    if tracked.soft_delete_column is not null
       and exists (select from jsonb_array_elements(columns) c where c ->> 'name' = tracked.soft_delete_column) then
        soft_delete := jsonb_build_object(
            'column', tracked.soft_delete_column,
            'deleted', format('audit_o.%1$I is not distinct from null and not (audit_n.%1$I is not distinct from null)', tracked.soft_delete_column),
            'restored', format('audit_n.%1$I is not distinct from null and not (audit_o.%1$I is not distinct from null)', tracked.soft_delete_column));
    end if;

    return jsonb_build_object(
        -- Null: as the trigger says, which on a partition would be the partition's.
        'table_schema', case when is_partitioned then tracked.table_schema end,
        'table_name', case when is_partitioned then tracked.table_name end,
        'columns', coalesce(columns, '[]'),
        'has_key', audit.primary_key_columns(relation) is not null,
        'old', audit.side_pieces(tracked, relation, row_columns, follows_lookups, 'audit_o'),
        'new', audit.side_pieces(tracked, relation, row_columns, follows_lookups, 'audit_n'),
        'events', events,
        'column_events', coalesce((
            select jsonb_agg(jsonb_build_object('event', e.key, 'columns', e.value) order by e.key)
            from jsonb_each(coalesce(tracked.column_events, '{}')) e), '[]'),
        'soft_delete', soft_delete);
end
$function$;
comment on function audit.capture_pieces(bigint, oid, text, oid[], boolean) is
    'The SQL fragments that capture a tracked table, from its settings and the catalogue as they are now. The relation may be a partition of it. A transaction that may see the catalogue older than its rows gives names and types of the rows'' columns; without follows_lookups nothing is looked up.';

-- Statements of any number of rows: from the fragments to the one statement that writes entries and changes.

set search_path = pg_catalog, pg_temp;

create function audit.object_sql(columns jsonb, side text)
    returns text
    language sql
    immutable
    parallel safe
    -- A function takes 100 arguments: 50 pairs at most in one call.
return coalesce((
    select string_agg(format('jsonb_build_object(%s)', chunk.pairs), ' || ' order by chunk.number)
    from (
        select (c.position - 1) / 50 as number,
               string_agg(format('%L, %s', c.value ->> 'name', c.value ->> side), ', ' order by c.position) as pairs
        from jsonb_array_elements(columns) with ordinality c(value, position)
        group by 1
    ) chunk), '''{}''::jsonb');
comment on function audit.object_sql(jsonb, text) is 'The SQL of a jsonb object of the given columns; side is before or after.';

create function audit.changed_object_sql(columns jsonb, side text)
    returns text
    language sql
    stable
begin atomic
    -- Mostly every row changes the same columns; the rest is put together column by column.
    select case when count(*) = 1 then audit.object_sql(columns, side)
                else format('case when %s then %s else %s end',
                            string_agg(format('(%s)', c ->> 'changed'), ' and '), audit.object_sql(columns, side),
                            string_agg(format('case when %s then jsonb_build_object(%L, %s) else ''{}''::jsonb end',
                                              c ->> 'changed', c ->> 'name', c ->> side), ' || ')) end
    from jsonb_array_elements(columns) c;
end;
comment on function audit.changed_object_sql(jsonb, text) is
    'The SQL of a jsonb object of those of the given columns that changed in the row; side is before or after. Of one column: it did, or the row is not read.';

create function audit.row_event_sql(pieces jsonb, operation text, changed_columns text[])
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
-- changed_columns null: code for one row, which finds the places of its changed columns in the variable audit_changed;
-- otherwise SQL for a statement that is known to have changed these columns in some row.
declare
    event_sql constant text := format('%L::text', pieces -> 'events' ->> operation);
    soft_delete constant jsonb := pieces -> 'soft_delete';
    branches text := '';
    column_event jsonb;
    others text;
begin
    if operation <> 'UPDATE' then
        return event_sql;
    end if;
    if soft_delete <> 'null' and (changed_columns is null or soft_delete ->> 'column' = any(changed_columns)) then
        branches := format(' when %s then %L when %s then %L',
            soft_delete ->> 'deleted', pieces -> 'events' ->> 'DELETE',
            soft_delete ->> 'restored', pieces -> 'events' ->> 'RESTORE');
    end if;
    for column_event in select c from jsonb_array_elements(pieces -> 'column_events') c loop
        if changed_columns is null then
            branches := branches || format(' when audit_changed <@ %L::integer[] then %L',
                array(select p from jsonb_array_elements(pieces -> 'columns') with ordinality e(c, p)
                      where column_event -> 'columns' ? (c ->> 'name')), column_event ->> 'event');
        elsif changed_columns && array(select jsonb_array_elements_text(column_event -> 'columns')) then
            select string_agg(c ->> 'changed', ' or ') into others
            from jsonb_array_elements(pieces -> 'columns') c
            where c ->> 'name' = any(changed_columns) and not column_event -> 'columns' ? (c ->> 'name');
            branches := branches || format(' when %s then %L',
                case when others is null then 'true' else format('not (%s)', others) end, column_event ->> 'event');
        end if;
    end loop;
    return case when branches = '' then event_sql else format('case%s else %s end', branches, event_sql) end;
end
$function$;
comment on function audit.row_event_sql(jsonb, text, text[]) is
    'The SQL of a changed row''s event: soft deletion first, then column events, then the kind''s.';

create function audit.row_sql(pieces jsonb, operation text, changed_columns text[])
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    side constant jsonb := case when operation = 'DELETE' then pieces -> 'old' else pieces -> 'new' end;
    columns constant jsonb := pieces -> 'columns';
    changed jsonb;
    row_changed text;
    before_sql text := 'null::jsonb';
    after_sql text := 'null::jsonb';
    source text;
begin
    if operation = 'INSERT' then
        after_sql := audit.object_sql(columns, 'after');
        source := 'audit_new_rows audit_n';
    elsif operation = 'DELETE' then
        before_sql := audit.object_sql(columns, 'before');
        source := 'audit_old_rows audit_o';
    else
        select jsonb_agg(c order by p), string_agg(c ->> 'changed', ' or ') into changed, row_changed
        from jsonb_array_elements(columns) with ordinality e(c, p)
        where c ->> 'name' = any(changed_columns);
        if (pieces -> 'has_key')::boolean then
            before_sql := audit.changed_object_sql(changed, 'before');
            after_sql := audit.changed_object_sql(changed, 'after');
        else
            before_sql := audit.object_sql(columns, 'before');
            after_sql := audit.object_sql(columns, 'after');
        end if;
        source := audit.pair_sql() || ' where ' || row_changed;
    end if;

    return format(
        'select %s collate "C" as workspace_id, %s collate "C" as event, %s collate "C" as resource_type, '
        '%s collate "C" as resource_id, %s as resource_name, nullif((%s) collate "C", (%s) collate "C") as row_key, '
        '%s as subject_id, %s as subject_name, %s as before, %s as after from %s',
        side ->> 'workspace', audit.row_event_sql(pieces, operation, changed_columns), side ->> 'resource_type',
        side ->> 'resource_id', side ->> 'resource_name',
        case when operation = 'INSERT' then pieces -> 'new' ->> 'row_key' else pieces -> 'old' ->> 'row_key' end,
        side ->> 'resource_id',
        side ->> 'subject_id', side ->> 'subject_name', before_sql, after_sql, source);
end
$function$;
comment on function audit.row_sql(jsonb, text, text[]) is
    'The SELECT that turns the transition tables of an operation into one row for each row that really changed. changed_columns: those that an UPDATE changed in any row.';

create function audit.pair_sql()
    returns text
    language sql
    immutable
    parallel safe
    -- Both transition tables list a statement's rows in one order; a key may have changed, so it cannot pair them.
return '(select row_number() over () as "audit position of a row in its transition table", r.* from audit_old_rows r) audit_o '
    'join (select row_number() over () as "audit position of a row in its transition table", r.* from audit_new_rows r) audit_n '
    'on audit_o."audit position of a row in its transition table" = audit_n."audit position of a row in its transition table"';
comment on function audit.pair_sql() is 'The FROM items that pair the old and new rows of an UPDATE by their position.';

create function audit.changed_columns_sql(pieces jsonb)
    returns text
    language sql
    stable
begin atomic
    select coalesce(format('select array_remove(array[%s]::text[], null) from %s',
                           string_agg(format('case when bool_or(%s) then %L end', c ->> 'changed', c ->> 'name'), ', '),
                           audit.pair_sql()), 'select ''{}''::text[]')
    from jsonb_array_elements(pieces -> 'columns') c;
end;
comment on function audit.changed_columns_sql(jsonb) is
    'The SELECT of the columns that an UPDATE really changed in any row.';

create function audit.bulk_sql(pieces jsonb, operation text, changed_columns text[])
    returns text
    language sql
    stable
begin atomic
    -- $1 created_at, $2 actor, $3 table_schema, $4 table_name
    select format($sql$
with audit_row as materialized (
    %1$s
), audit_group as materialized (
    select audit.new_entry_id($1) as id, r.workspace_id, r.event, count(*) as row_count,
           case when min(r.resource_type) = max(r.resource_type) then min(r.resource_type) else %2$L end as resource_type,
           count(r.resource_id) = count(*) and min(r.resource_id) = max(r.resource_id) as is_one_resource,
           min(r.resource_id) as resource_id, min(r.resource_name) as resource_name,
           case when count(r.subject_id) = count(*) and min(r.subject_id) = max(r.subject_id) then min(r.subject_id) end as subject_id,
           min(r.subject_name) as subject_name
    from audit_row r
    group by r.workspace_id, r.event
), audit_stored as (
    insert into audit.change (entry_id, created_at, workspace_id, resource_id, resource_name, row_key, before, after)
    select g.id, $1, r.workspace_id, r.resource_id, r.resource_name, r.row_key, r.before, r.after
    from audit_row r
    join audit_group g
        on g.event = r.event and coalesce(g.workspace_id, '') = coalesce(r.workspace_id, '')
    where g.row_count > 1
)
insert into audit.entry (
    id, created_at, workspace_id, event, operation, table_schema, table_name, resource_type, resource_id, resource_name,
    row_key, actor_type, actor_id, actor_name, row_count, before, after, request_id, context, database_user, transaction_id)
select g.id, $1, g.workspace_id, g.event, %3$L, $3, $4, g.resource_type,
       case when g.is_one_resource then g.resource_id end, case when g.is_one_resource then g.resource_name end,
       r.row_key, ($2).actor_type, ($2).actor_id, ($2).actor_name, g.row_count, r.before, r.after, ($2).request_id,
       case when g.subject_id is null then ($2).context
            else coalesce(($2).context, '{}') || jsonb_build_object('subject', jsonb_build_object('id', g.subject_id, 'name', g.subject_name)) end,
       session_user, pg_current_xact_id()
from audit_group g
left join audit_row r
    on g.row_count = 1 and r.event = g.event and coalesce(r.workspace_id, '') = coalesce(g.workspace_id, '')
$sql$, audit.row_sql(pieces, operation, changed_columns), pieces -> 'new' ->> 'default_type', operation);
end;
comment on function audit.bulk_sql(jsonb, text, text[]) is
    'The statement that writes what a statement of any number of rows changed: an entry for each workspace and event, and the rows of those that hold several.';

-- The compiled trigger function of a tracked table: one function for its four operations.

set search_path = pg_catalog, pg_temp;

create function audit.capture_function(tracked_id bigint)
    returns oid
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
begin
    return to_regprocedure(format('audit.capture_%s()', tracked_id));
end
$function$;
comment on function audit.capture_function(bigint) is 'The compiled trigger function of a tracked table. Null: there is none.';

create function audit.truncate_sql(pieces jsonb, relation oid, is_exact boolean)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    details constant jsonb := nullif(jsonb_strip_nulls(jsonb_build_object(
        'row_count_is_estimated', case when not is_exact then true end,
        'partition', (select format('%I.%I', n.nspname, c.relname)
                      from pg_class c join pg_namespace n on n.oid = c.relnamespace
                      where c.oid = relation and c.relispartition limit 1))), '{}');
begin
    -- $1 created_at, $2 actor, $3 table_schema, $4 table_name
    return format($sql$
insert into audit.entry (
    id, created_at, workspace_id, event, operation, table_schema, table_name, resource_type,
    actor_type, actor_id, actor_name, row_count, request_id, context, database_user, transaction_id)
select audit.new_entry_id($1), $1, g.workspace_id, %1$L, 'TRUNCATE', $3, $4, %2$L,
       ($2).actor_type, ($2).actor_id, ($2).actor_name, g.row_count, ($2).request_id, %3$s,
       session_user, pg_current_xact_id()
from (%4$s) g
$sql$, pieces -> 'events' ->> 'TRUNCATE', pieces -> 'new' ->> 'default_type',
        case when details is null then '($2).context'
             else format($sql$coalesce(($2).context, '{}') || %L::jsonb$sql$, jsonb_build_object('details', details)) end,
        case when is_exact
             then format('select %s collate "C" as workspace_id, count(*) as row_count from only %s audit_n group by 1',
                         pieces -> 'new' ->> 'workspace', relation::regclass)
             else format('select %L::text as workspace_id, max(greatest(reltuples, 0))::bigint as row_count from pg_class where oid = %s',
                         pieces -> 'new' ->> 'constant_workspace', relation) end);
end
$function$;
comment on function audit.truncate_sql(jsonb, oid, boolean) is
    'The statement that counts a table before TRUNCATE empties it: one entry for each workspace. Not exact: one entry with the planner''s estimate, and it says so.';

create function audit.count_is_exact(relation oid)
    returns boolean
    language sql
    stable
begin atomic
    select has_table_privilege(current_user, c.oid, 'select')
       and has_schema_privilege(current_user, c.relnamespace, 'usage')
       and current_setting('transaction_isolation') in ('read committed', 'read uncommitted')
       and (not row_security_active(c.oid)
            -- Beside "true" the planner drops every other permissive policy, but may call immutable functions in them first:
            -- none may hold anything of the owner's.
            or (exists (select from pg_catalog.pg_policy p
                        where p.polrelid = c.oid and p.polname = 'audit_capture_counts' and p.polcmd in ('r', '*')
                          and to_regrole('audit_capture') = any(p.polroles) and pg_get_expr(p.polqual, p.polrelid) = 'true')
                and not exists (select from pg_catalog.pg_policy p
                                left join pg_catalog.pg_depend d
                                    on d.classid = 'pg_policy'::regclass and d.objid = p.oid
                                   and not (d.refclassid = 'pg_class'::regclass and d.refobjid = p.polrelid)
                                where p.polrelid = c.oid and (not p.polpermissive or d.objid is not null))))
       and not audit.runs_code_when_read(c.oid)
    from pg_catalog.pg_class c
    where c.oid = relation;
end;
comment on function audit.count_is_exact(oid) is
    'Whether the current role sees every row of a table in its newest state, and counting it runs no function of the table''s owner, so that a TRUNCATE of it can be counted.';

create function audit.changed_columns_of_row_sql(columns jsonb)
    returns text
    language sql
    immutable
    parallel safe
begin atomic
    -- One expression for all that have an equality of their own. The others are compared as one row first: forming a row for
    -- each of them is what costs.
    with own as (
        select e.c ->> 'changed' as changed, e.c ->> 'name' as name, e.p, (e.c -> 'is_image')::boolean as is_image
        from jsonb_array_elements(columns) with ordinality e(c, p)
    )
    select format('audit_changed := array_remove(array[%s]::integer[], null);',
                  string_agg(format('case when %s then %s end', changed, p), ', ' order by p) filter (where not is_image))
        || case when bool_or(is_image) then format($sql$
            if record_image_ne(row(%s), row(%s)) then
                audit_changed := audit_changed || array_remove(array[%s]::integer[], null);
            end if;$sql$,
            string_agg(format('audit_o.%I', name), ', ' order by p) filter (where is_image),
            string_agg(format('audit_n.%I', name), ', ' order by p) filter (where is_image),
            string_agg(format('case when %s then %s end', changed, p), ', ' order by p) filter (where is_image)) else '' end
    from own;
end;
comment on function audit.changed_columns_of_row_sql(jsonb) is
    'The code that puts the places of the changed columns of a row into audit_changed.';

create function audit.changed_values_sql(columns jsonb, first integer, last integer)
    returns text
    language plpgsql
    immutable
    parallel safe
    set search_path = pg_catalog, pg_temp
as $function$
declare
    middle constant integer := (first + last) / 2;
begin
    if first = last then
        return format($sql$
                audit_before := coalesce(audit_before, '{}') || jsonb_build_object(%1$L, %2$s);
                audit_after := coalesce(audit_after, '{}') || jsonb_build_object(%1$L, %3$s);$sql$,
            columns -> first - 1 ->> 'name', columns -> first - 1 ->> 'before', columns -> first - 1 ->> 'after');
    end if;
    return format($sql$
            if audit_place <= %s then%s
            else%s
            end if;$sql$, middle, audit.changed_values_sql(columns, first, middle), audit.changed_values_sql(columns, middle + 1, last));
end
$function$;
comment on function audit.changed_values_sql(jsonb, integer, integer) is
    'The code that adds the values of the column at audit_place, which lies from first to last, to audit_before and audit_after. It halves its way: only what changed is evaluated, of how many columns ever.';

create function audit.single_row_sql(pieces jsonb, operation text, table_schema text, table_name text, actor_check text)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
-- Code for the records audit_o and audit_n, of few statements: starting an expression is what costs a one-row transaction. Of
-- an UPDATE only the columns that changed are turned into jsonb.
declare
    columns constant jsonb := pieces -> 'columns';
    side constant jsonb := case when operation = 'DELETE' then pieces -> 'old' else pieces -> 'new' end;
    has_key constant boolean := (pieces -> 'has_key')::boolean;
    code text := '';
    before_sql text := 'null';
    after_sql text := 'null';
begin
    if operation <> 'INSERT' then
        before_sql := audit.object_sql(columns, 'before');
    end if;
    if operation <> 'DELETE' then
        after_sql := audit.object_sql(columns, 'after');
    end if;
    if operation = 'UPDATE' and columns = '[]' then
        return $sql$
            return null;$sql$;
    elsif operation = 'UPDATE' then
        code := format($sql$
            select * into audit_o from audit_old_rows;
            %s
            if audit_changed = '{}' then
                return null;
            end if;$sql$, audit.changed_columns_of_row_sql(columns));
        if has_key then
            code := code || format($sql$
            foreach audit_place in array audit_changed loop%s
            end loop;$sql$, audit.changed_values_sql(columns, 1, jsonb_array_length(columns)));
            before_sql := 'audit_before';
            after_sql := 'audit_after';
        end if;
    end if;
    return code || format($sql$
            audit_given := audit.given_actor();
            if not audit.actor_is_plain(audit_given) then
                audit_actor := audit.read_actor_context();
                audit_context := audit_actor.context;
            elsif audit.has_context(audit_given) then
                audit_context := audit.plain_context();
            end if;%1$s
            audit_instant := audit.write_instant();
            insert into audit.entry (
                id, created_at, workspace_id, event, operation, table_schema, table_name, resource_type, resource_id,
                resource_name, row_key, actor_type, actor_id, actor_name, row_count, before, after, request_id, context,
                database_user, transaction_id)
            values (
                audit.new_entry_id_at(audit_instant), audit.moment_at(audit_instant), %2$s, %3$s, %4$L, %5$s, %6$s,
                %7$s, %8$s, %9$s, nullif((%10$s) collate "C", (%8$s) collate "C"),
                coalesce(audit_actor.actor_type, audit.plain_actor_type()), coalesce(audit_actor.actor_id, current_setting('audit.actor_id')),
                coalesce(audit_actor.actor_name, nullif(current_setting('audit.actor_name', true), ''), current_setting('audit.actor_id')),
                1, %11$s, %12$s,
                case when audit_actor.actor_id is null then nullif(current_setting('audit.request_id', true), '') else audit_actor.request_id end,
                %13$s, session_user, pg_current_xact_id());
            return null;$sql$,
        actor_check, side ->> 'workspace', audit.row_event_sql(pieces, operation, null), operation, table_schema, table_name,
        side ->> 'resource_type', side ->> 'resource_id', side ->> 'resource_name',
        case when operation = 'INSERT' then pieces -> 'new' ->> 'row_key' else pieces -> 'old' ->> 'row_key' end,
        before_sql, after_sql,
        case when side ->> 'subject_id' = 'null::text' then 'audit_context'
             else format($sql$case when %1$s is null then audit_context
                     else coalesce(audit_context, '{}')
                         || jsonb_build_object('subject', jsonb_build_object('id', %1$s, 'name', %2$s)) end$sql$,
                         side ->> 'subject_id', side ->> 'subject_name') end);
end
$function$;
comment on function audit.single_row_sql(jsonb, text, text, text, text) is
    'The code of a compiled function that writes the entry of one changed row, whose new values (of a DELETE the old ones) it has read.';

create function audit.table_has_shape(relation oid, shape text)
    returns boolean
    language plpgsql
    -- It is not. So it becomes a part of a plan, and a plan that reads a table''s transition table is made anew whenever that
    -- table is altered: the question costs a write nothing until then.
    immutable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    is_so boolean;
begin
    execute format('select %s = $2', audit.shape_sql('$1')) into is_so using relation, shape;
    return is_so;
end
$function$;
comment on function audit.table_has_shape(oid, text) is
    'Whether a table has a fingerprint. For a compiled function''s query of its transition table, and for nothing else.';

create function audit.needed_settings(tracked audit.tracked_table, relation oid)
    returns text[]
    language sql
    stable
begin atomic
    -- What stands in a capture function stands in every entry it writes: a setting more is a microsecond more for each row. The
    -- log's policies hold, and how a value is written must not depend on who writes it: but most types are written in one way.
    select array['row_security = on'] || case
        -- The parent of a lookup has columns of its own, and its owner functions that must not be called when a query is planned.
        when bool_or(not t.is_fixed and (t.oid <> 'timestamptz'::regtype or t.is_read_as_text))
             or concat(tracked.resource_name_column, tracked.workspace_column, tracked.subject_column, tracked.resource_type_column) like '%.%'
        then array['timezone = UTC', 'datestyle = ISO, YMD', 'intervalstyle = postgres', 'extra_float_digits = 1', 'bytea_output = hex',
                   'constraint_exclusion = off', 'jit = off']
        when bool_or(t.oid = 'timestamptz'::regtype) then array['timezone = UTC']
        else '{}' end
    from (
        select b.oid, a.attname, b.is_fixed or b.oid in ('date'::regtype, 'timestamp'::regtype) and not r.is_read_as_text as is_fixed,
               r.is_read_as_text
        from pg_catalog.pg_attribute a
        cross join lateral (
            select e.oid, e.typtype = 'e'
                or e.oid in ('boolean'::regtype, 'smallint'::regtype, 'integer'::regtype, 'bigint'::regtype, 'numeric'::regtype,
                             'text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'name'::regtype, 'uuid'::regtype,
                             'json'::regtype, 'jsonb'::regtype, 'oid'::regtype) as is_fixed
            from pg_catalog.pg_type b
            join pg_catalog.pg_type e on e.oid = case when b.typcategory = 'A' and b.typelem <> 0 then b.typelem else b.oid end
            where b.oid = audit.base_type(a.atttypid)) b
        cross join lateral (
            select a.attname = any(array[tracked.resource_name_column, tracked.workspace_column, tracked.subject_column,
                                         tracked.resource_type_column]
                                   || tracked.resource_id_columns || audit.primary_key_columns(relation)) as is_read_as_text) r
        where a.attrelid = relation and a.attnum > 0 and not a.attisdropped) t;
end;
comment on function audit.needed_settings(audit.tracked_table, oid) is
    'What a capture function sets for itself beside its search_path: name = value each. Less than all of audit.take_settings(), which those statements set that hold any number of rows, or read a table altered behind a stale function.';

create function audit.take_settings()
    returns text[]
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $function$
declare
    -- How values are written; that no function of a table's owner is called when a query is planned; and how many rows are paired,
    -- which is most of what they cost: hashed in memory, not sorted on disk. Compiling a plan that runs once takes longer than
    -- running it.
    wanted constant text[] := array[
        'timezone', 'UTC', 'datestyle', 'ISO, YMD', 'intervalstyle', 'postgres', 'extra_float_digits', '1', 'bytea_output', 'hex',
        'constraint_exclusion', 'off', 'enable_hashjoin', 'on', 'enable_mergejoin', 'off', 'jit', 'off', 'work_mem', '16MB'];
    known text;
    changed text[] := '{}';
begin
    for place in 1 .. cardinality(wanted) by 2 loop
        known := current_setting(wanted[place]);
        if known <> wanted[place + 1] and (wanted[place] <> 'work_mem' or pg_size_bytes(known) < 16777216) then
            changed := changed || array[wanted[place], known];
            perform set_config(wanted[place], wanted[place + 1], true);
        end if;
    end loop;
    return changed;
end
$function$;
comment on function audit.take_settings() is
    'Sets for the transaction what a capture statement over any number of rows needs. Returns what it changed, for audit.give_settings_back; an error puts it back by itself.';

create function audit.give_settings_back(changed text[])
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $function$
begin
    for place in 1 .. cardinality(changed) by 2 loop
        perform set_config(changed[place], changed[place + 1], true);
    end loop;
end
$function$;
comment on function audit.give_settings_back(text[]) is 'Puts back what audit.take_settings() changed.';

create function audit.passes_its_rows(relation oid, trigger_name name, operation text)
    returns boolean
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
begin
    -- A trigger that somebody else made of a capture function may not pass the rows: their names would mean a temporary table or
    -- view of the caller's, which must not be read with these rights.
    return to_regclass('pg_temp.audit_new_rows') is null and to_regclass('pg_temp.audit_old_rows') is null
        or exists (select from pg_catalog.pg_trigger t
                   where t.tgrelid = relation and t.tgname = trigger_name
                     and (operation = 'DELETE' or t.tgnewtable = 'audit_new_rows')
                     and (operation = 'INSERT' or t.tgoldtable = 'audit_old_rows'));
end
$function$;
comment on function audit.passes_its_rows(oid, name, text) is
    'Whether a trigger''s transition tables are what their names mean in this session. For sessions with temporary tables: in others nothing else can be meant.';

create function audit.first_row_sql(variable text, source text, is_current text default null)
    returns text
    language sql
    immutable
    parallel safe
    -- A column of the table may have any name, but hardly these.
return format($sql$
            select *, exists (select from %2$s offset 1) as "audit: there are more"%3$s into %1$s from %2$s limit 1;$sql$,
    variable, source, coalesce(', ' || is_current || ' as "audit: it is current"', ''));
comment on function audit.first_row_sql(text, text, text) is
    'The code that reads the first row of a transition table into a record, with whether there are more. is_current: an expression to read with it.';

create function audit.function_sql(tracked audit.tracked_table, relation oid)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    pieces constant jsonb := audit.capture_pieces(tracked.id, relation);
    is_partitioned constant boolean := (select relkind = 'p' from pg_class where oid = relation);
    table_shape constant text := audit.table_shape(relation);
    table_schema constant text := coalesce(quote_literal(pieces ->> 'table_schema'), 'tg_table_schema');
    table_name constant text := coalesce(quote_literal(pieces ->> 'table_name'), 'tg_table_name');
    -- Of all columns, virtual ones included: rows have them.
    column_names constant text[] := array(select a.attname::text from pg_attribute a where a.attrelid = relation and a.attnum > 0 and not a.attisdropped order by a.attnum);
    lookup_check text;
    lookup_probe text := '';
    actor_check text := '';
    unpaired_check text := '';
    current_sql text;
begin
    -- Names, not OIDs, for the parents of lookups: the text must hold after a restore, and a parent that is gone reads as
    -- changed. What one asks of a column is asked only once it is known to be there.
    select coalesce(string_agg(format(
        'case when %1$s = %2$L then has_schema_privilege(%3$L, ''usage'') and has_column_privilege(%4$s, %5$L, ''select'') '
        'and has_column_privilege(%4$s, %6$L, ''select'') and not row_security_active(%4$s) and %7$s else false end',
        audit.shape_sql(n.parent_oid), audit.table_shape(l.parent), n.schema_name, n.parent_oid, l.parent_key, l.parent_column,
        case when audit.lookups_run_as_owner()
             -- Null, and so not current, when the function is gone.
             then format('(select c.relowner from pg_catalog.pg_class c where c.oid = %s) = %s and has_function_privilege(%s, ''execute'')',
                         n.parent_oid, n.parent_owner,
                         (select f.oid from pg_proc f where f.pronamespace = 'audit'::regnamespace
                          and f.proname = audit.lookup_name(tracked.id, p.path)))
             else 'not ' || audit.runs_code_when_read_sql(n.parent_oid, n.is_partitioned) end), ' and '), 'true'),
           -- Once, with no key: a snapshot may be older than what happened to the parent.
           format($sql$
        begin
            %s
        exception when syntax_error_or_access_rule_violation then
            audit_follows_lookups := false;
        end;$sql$, string_agg(format('perform %s from (select null::%s as %I) audit_k;',
            audit.column_or_lookup_sql('audit_k', tracked.id, relation, audit.table_columns(relation), true, p.path, 'short'),
            (select a.atttypid::regtype from pg_attribute a where a.attrelid = relation and a.attname = split_part(p.path, '.', 1)),
            split_part(p.path, '.', 1)), ' '))
    into lookup_check, lookup_probe
    from unnest(audit.readable_paths(tracked, relation)) p(path)
    cross join lateral audit.find_lookup(relation, p.path) l
    cross join lateral (
        -- By the catalogue: to_regclass raises where the schema may not be used.
        select s.nspname as schema_name, c.relkind = 'p' as is_partitioned, c.relowner as parent_owner,
               format('(select c.oid from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace '
                      'where n.nspname = %L and c.relname = %L and c.relkind = %L)', s.nspname, c.relname, c.relkind) as parent_oid
        from pg_class c join pg_namespace s on s.oid = c.relnamespace where c.oid = l.parent) n;

    current_sql := format('coalesce(audit.table_has_shape(%s, %L) and %s, false)', relation, table_shape, lookup_check);
    if tracked.missing_actor = 'refuse' then
        actor_check := $sql$
    -- Whose actor is plain has one.
    if audit_actor.actor_type = 'system' then
        raise exception 'a write to %.% needs an actor', tg_table_schema, tg_table_name
            using errcode = 'insufficient_privilege',
                  hint = 'select audit.set_actor(id, name) in the same transaction, before the write.';
    end if;$sql$;
    end if;
    actor_check := actor_check || audit.signed_actor_sql(tracked.signed_actor);
    if is_partitioned then
        -- A BEFORE trigger of the partition that a row moves into can suppress it: then old and new rows do not pair up.
        unpaired_check := $sql$
        if tg_op = 'UPDATE' then
            audit_is_unpaired := (select count(*) from audit_old_rows) <> (select count(*) from audit_new_rows);
        end if;$sql$;
    end if;

    return format($sql$
#variable_conflict use_variable
declare
    -- None has a value to begin with: each would be an expression more for every write.
    audit_actor audit.actor_context;
    audit_given text;
    audit_context jsonb;
    audit_instant bigint;
    audit_is_alone boolean;
    audit_o record;
    audit_n record;
    audit_changed integer[];
    audit_place integer;
    audit_before jsonb;
    audit_after jsonb;
    audit_moment timestamptz;
    audit_pieces jsonb;
    audit_columns text[];
    audit_settings text[];
    audit_is_current boolean;
    audit_is_unpaired boolean;
    audit_shape text;
    audit_types oid[];
    audit_follows_lookups boolean;
begin
    -- What nearly every write is: READ COMMITTED, on the table this was compiled for. A transaction of one row pays for each
    -- statement that runs here.
    if tg_relid = %4$s and %21$s
       and current_setting('transaction_isolation') in ('read committed', 'read uncommitted')
       and (pg_my_temp_schema() = 0 or audit.passes_its_rows(tg_relid, tg_name, tg_op)) then
        -- Queries without parameters, so that each has one plan.
        if tg_op = 'DELETE' then%22$s
            if not found then
                return null;
            end if;
            audit_is_current := audit_o."audit: it is current";
            audit_is_alone := not audit_o."audit: there are more";
        else%23$s
            if not found then
                return null;
            end if;
            audit_is_current := audit_n."audit: it is current";
            audit_is_alone := not audit_n."audit: there are more";
        end if;
    else
        if tg_op = 'TRUNCATE' then
            -- A partitioned table holds no rows of its own: TRUNCATE fires the triggers of its partitions too.
            -- Not by its one row: a transaction with an old snapshot that truncates twice finds that twice.
            if exists (select from pg_catalog.pg_class where oid = tg_relid and relkind = 'p') then
                return null;
            end if;
            audit_actor := audit.read_actor_context();%5$s
            audit_moment := audit.write_moment();
            audit_settings := audit.take_settings();
            audit_is_current := audit.count_is_exact(tg_relid);
            -- An estimate reads no column, and may be the word of a snapshot that is older than the settings.
            execute audit.truncate_sql(case when audit_is_current then audit.capture_pieces(%3$s, tg_relid) else %10$L::jsonb end,
                                       tg_relid, audit_is_current)
            using audit_moment, audit_actor, %1$s, %2$s;
            perform audit.give_settings_back(audit_settings);
            return null;
        end if;
        if pg_my_temp_schema() <> 0 and not audit.passes_its_rows(tg_relid, tg_name, tg_op) then
            raise exception 'trigger %% on %%.%% does not pass its rows to the log', tg_name, tg_table_schema, tg_table_name
                using errcode = 'insufficient_privilege',
                      hint = 'Drop that trigger; audit.enable_tracking makes those that capture needs.';
        end if;
        if tg_op = 'DELETE' then%24$s
            audit_is_alone := not audit_o."audit: there are more";
        else%25$s
            audit_is_alone := not audit_n."audit: there are more";
        end if;%9$s
        if not found and audit_is_unpaired is not true then
            return null;
        end if;
        -- Not current: the table was changed and this function was not compiled anew. Its fragments are then asked for afresh.
        if current_setting('transaction_isolation') in ('read committed', 'read uncommitted') then
            -- A partition, or the table after a restore, has another number.
            audit_is_current := coalesce(%19$s = %20$L and %11$s, false);
        else
            -- The snapshot may be older than another session's ALTER TABLE: it shows the catalogue as it was, the rows are what is.
            audit_follows_lookups := true;
            if tg_op = 'DELETE' then
                audit_shape := %12$s;
                if audit_shape = %14$L then
                    audit_types := %15$s;
                end if;
            else
                audit_shape := %13$s;
                if audit_shape = %14$L then
                    audit_types := %16$s;
                end if;
            end if;%18$s
            audit_is_current := coalesce(audit_types = %17$L::oid[] and audit_follows_lookups and %11$s, false);
            if not audit_is_current and audit_types is null then
                execute 'select ' || audit.row_types_sql(case tg_op when 'DELETE' then 'audit_old_rows' else 'audit_new_rows' end,
                                                         array(select json_object_keys(audit_shape::json)))
                into audit_types;
            end if;
        end if;
    end if;

    if audit_is_alone and audit_is_current and audit_is_unpaired is not true then
        if tg_op = 'UPDATE' then%8$s
        elsif tg_op = 'INSERT' then%6$s
        else%7$s
        end if;
    end if;

    audit_pieces := case when audit_is_current then %10$L::jsonb
                         else audit.capture_pieces(%3$s, tg_relid, audit_shape, audit_types, coalesce(audit_follows_lookups, true)) end;
    audit_settings := audit.take_settings();
    if audit_is_unpaired then
        audit_actor := audit.read_actor_context();%5$s
        audit_moment := audit.write_moment();
        execute audit.bulk_sql(audit_pieces, 'DELETE', null) using audit_moment, audit_actor, %1$s, %2$s;
        audit_moment := audit.write_moment();
        execute audit.bulk_sql(audit_pieces, 'INSERT', null) using audit_moment, audit_actor, %1$s, %2$s;
        perform audit.give_settings_back(audit_settings);
        return null;
    end if;
    -- Planned each time: the plan that fitted one row would take minutes for many.
    if tg_op = 'UPDATE' then
        execute audit.changed_columns_sql(audit_pieces) into audit_columns;
    end if;
    if tg_op <> 'UPDATE' or cardinality(audit_columns) > 0 then
        audit_actor := audit.read_actor_context();%5$s
        audit_moment := audit.write_moment();
        execute audit.bulk_sql(audit_pieces, tg_op, audit_columns)
        using audit_moment, audit_actor, %1$s, %2$s;
    end if;
    perform audit.give_settings_back(audit_settings);
    return null;
end
$sql$,
        table_schema,
        table_name,
        tracked.id,
        relation::text,
        actor_check,
        audit.single_row_sql(pieces, 'INSERT', table_schema, table_name, actor_check),
        audit.single_row_sql(pieces, 'DELETE', table_schema, table_name, actor_check),
        audit.single_row_sql(pieces, 'UPDATE', table_schema, table_name, actor_check),
        unpaired_check,
        pieces::text,
        lookup_check,
        audit.row_shape_sql('audit_old_rows'),
        audit.row_shape_sql('audit_new_rows'),
        (select '{' || coalesce(string_agg(to_json(n)::text || ':null', ',' order by p), '') || '}' from unnest(column_names) with ordinality c(n, p)),
        audit.row_types_sql('audit_old_rows', column_names),
        audit.row_types_sql('audit_new_rows', column_names),
        audit.row_types(relation),
        coalesce(lookup_probe, ''),
        audit.shape_sql('tg_relid'),
        table_shape,
        case when is_partitioned then 'tg_op in (''INSERT'', ''DELETE'')' else 'tg_op <> ''TRUNCATE''' end,
        audit.first_row_sql('audit_o', 'audit_old_rows', current_sql),
        audit.first_row_sql('audit_n', 'audit_new_rows', current_sql),
        audit.first_row_sql('audit_o', 'audit_old_rows'),
        audit.first_row_sql('audit_n', 'audit_new_rows'));
end
$function$;
comment on function audit.function_sql(audit.tracked_table, oid) is 'The body of a tracked table''s compiled trigger function.';

-- Who may turn tracking on: the table's owner, proved by what only an owner can do.

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
begin
    execute format('create trigger audit_ownership before truncate on %s for each statement execute function audit.prove_ownership()',
                   relation::regclass);
    -- TRIGGER can be granted; ENABLE ALWAYS takes the owner.
    execute format('alter table %s enable always trigger audit_ownership', relation::regclass);
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
    execute format('drop trigger audit_ownership on %s', relation::regclass);
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

-- What enable_tracking refuses, naming the argument and the way out.

set search_path = pg_catalog, pg_temp;

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
    if target.problem is not null then
        raise exception '%: %', argument, target.problem
            using errcode = case when target.problem ~ '^(audit_capture|owner .*) may not' then 'insufficient_privilege'
                                 when target.problem like '%no column%' then 'undefined_column'
                                 else 'feature_not_supported' end,
                  hint = coalesce(target.mend, 'Use a column of the table itself.');
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

-- What enable_tracking needs done: triggers with the caller's rights; settings and function, with the log's own, in definer
-- functions that want proof of ownership.

set search_path = pg_catalog, pg_temp;

create function audit.create_capture_triggers(relation oid, function_name text)
    returns void
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
declare
    definition text;
    trigger_name text;
    schema_name text;
    lock_timeout_before constant text := current_setting('lock_timeout');
    -- Qualified: nothing that can be tracked lies on this function's search_path.
    target constant text := relation::regclass;
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
    -- MERGE on a partitioned table hands on the row that it inserted last as the new row of an update that follows, unless its
    -- partitions have a BEFORE ROW trigger for INSERT (PostgreSQL 15 to 18). This one never fires; partitions have it from here.
    if (select c.relkind = 'p' and not c.relispartition from pg_class c where c.oid = relation) then
        execute format('create or replace trigger audit_merge before insert on %s for each row when (false) execute function audit.%I()',
                       target, function_name);
        execute format('alter table %s enable always trigger audit_merge', target);
    end if;
    -- TRUNCATE is counted by the capturing role: it reads what it captures anyway, and nothing else of the schema.
    if not has_table_privilege('audit_capture', relation, 'select') then
        execute format('grant select on %s to audit_capture', target);
    end if;
    select n.nspname into schema_name
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid = relation and pg_has_role(current_user, n.nspowner, 'usage')
      and not has_schema_privilege('audit_capture', n.oid, 'usage');
    if schema_name is not null then
        -- Another transaction that grants in this schema is not waited for: DDL must not meet it in a deadlock over the log. What it
        -- grants serves here too; else a TRUNCATE is counted by estimate.
        begin
            perform set_config('lock_timeout', '100ms', true);
            execute format('grant usage on schema %I to audit_capture', schema_name);
            perform set_config('lock_timeout', lock_timeout_before, true);
        exception when lock_not_available or internal_error then
            null;
        end;
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

create function audit.is_tracked(relation oid)
    returns boolean
    language sql
    stable
begin atomic
    select exists (
        select from pg_catalog.pg_trigger t
        join pg_catalog.pg_proc p on p.oid = t.tgfoid
        where t.tgrelid = relation and p.pronamespace = 'audit'::regnamespace and p.proname ~ '^capture_[0-9]+$');
end;
comment on function audit.is_tracked(oid) is 'Whether a table carries capture triggers of the log.';

create function audit.admit_to_schema(role_name name)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
begin
    execute format('grant usage on schema audit to %I', role_name);
end
$function$;
comment on function audit.admit_to_schema(name) is
    'Grants usage of schema audit in the name of the schema''s owner: a grant in another name would outlast DROP OWNED.';

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
    perform audit.admit_to_schema(owner);
    execute format('grant execute on function audit.%I(), audit.create_capture_triggers(oid, text), audit.partitions_of(oid) to %I',
                   function_name, owner);
end
$function$;
comment on function audit.let_owner_attach(bigint, oid) is
    'Gives a tracked table''s owner what it takes to put its triggers on partitions that come later.';

create function audit.tracked_relation(tracked audit.tracked_table)
    returns oid
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    candidate oid;
begin
    -- The trigger is the proof: a name may have passed to another table, an OID does not survive a restore.
    foreach candidate in array array[
        tracked.relation_oid,
        (select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname = tracked.table_schema and c.relname = tracked.table_name)]
    loop
        if exists (
            select from pg_trigger t
            where t.tgrelid = candidate and t.tgfoid = audit.capture_function(tracked.id)) then
            return candidate;
        end if;
    end loop;
    return null;
end
$function$;
comment on function audit.tracked_relation(audit.tracked_table) is
    'The table that carries the capture triggers of these settings. Null: none does.';

create function audit.find_tracking(relation oid)
    returns audit.tracked_table
    language sql
    stable
    set search_path = pg_catalog, pg_temp
begin atomic
    select t.*
    from audit.tracked_table t
    join pg_catalog.pg_class c on c.oid = relation
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    cross join lateral (select audit.tracked_relation(t) as oid) carrier
    cross join lateral (select (t.table_schema, t.table_name) = (n.nspname, c.relname) as is_same) name
    where carrier.oid = relation
       or carrier.oid is null and (name.is_same or t.relation_oid = relation)
    order by carrier.oid is null, not name.is_same, t.id
    limit 1;
end;
comment on function audit.find_tracking(oid) is
    'The settings whose triggers the table carries; else those of its name or number, if no other table carries theirs: a name may have passed to another table unseen. Null: none.';

create function audit.free_table_name(relation oid, tracked_id bigint)
    returns void
    language sql
    volatile
    set search_path = pg_catalog, pg_temp
begin atomic
    update audit.tracked_table t
    set table_name = format('%s (%s)', t.table_name, t.id)
    where t.id in (
        select o.id
        from audit.tracked_table o
        join pg_catalog.pg_class c on c.oid = relation
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where o.id is distinct from tracked_id and (o.table_schema, o.table_name) = (n.nspname, c.relname)
        for update of o skip locked);
end;
comment on function audit.free_table_name(oid, bigint) is
    'Settings of another table, or of one that is gone, give up the name of this one, which passed to it unseen. What table they belong to is found when they are followed.';

create function audit.store_tracking(relation oid, settings jsonb)
    returns text
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set quote_all_identifiers = 'off'
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
    -- One at a time: the grants below write to the schema's own row. An advisory lock would be anybody's to take.
    lock table audit.tracked_table in share update exclusive mode;
    if not exists (select from audit.day_partition where is_beyond) then
        perform audit.prepare_days();
    end if;

    known := audit.find_tracking(relation);
    perform audit.free_table_name(relation, known.id);
    if known.id is null then
        insert into audit.tracked_table (table_schema, table_name, kind, max_value_bytes, missing_actor, resource_id_columns, relation_oid)
        values (schema_name, relation_name, 'resource', 65536, 'system', null, relation)
        returning * into tracked;
    else
        tracked := known;
    end if;
    update audit.tracked_table t
    set table_schema = schema_name,
        table_name = relation_name,
        kind = settings ->> 'kind',
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
    if (select proowner from pg_proc where oid = audit.capture_function(tracked.id)) <> 'audit_capture'::regrole then
        grant create on schema audit to audit_capture;
        execute format('alter function audit.%I() owner to audit_capture', function_name);
        revoke create on schema audit from audit_capture;
    end if;
    perform audit.let_owner_attach(tracked.id, relation);

    if known.id is null then
        perform audit.write_event('tracking_enabled', format('%I.%I', schema_name, relation_name), tracked.workspace, settings);
    elsif to_jsonb(known) - '{compiled_digest,column_numbers,column_types,relation_oid,readable_paths}'::text[]
          <> (select to_jsonb(t) - '{compiled_digest,column_numbers,column_types,relation_oid,readable_paths}'::text[] from audit.tracked_table t where t.id = tracked.id) then
        perform audit.write_event('tracking_changed', format('%I.%I', schema_name, relation_name), tracked.workspace, settings);
    end if;
    return function_name;
end
$function$;
comment on function audit.store_tracking(oid, jsonb) is
    'For enable_tracking: keeps the settings, compiles the capture function and records the event. Raises 42501 unless the caller owns the table. Returns the function''s name.';

create function audit.is_as_compiled(tracked audit.tracked_table)
    returns boolean
    language sql
    stable
begin atomic
    select exists (
        select from pg_catalog.pg_proc p
        where p.oid = audit.capture_function(tracked.id) and md5(p.prosrc) = tracked.compiled_digest and p.prosecdef
          and p.proconfig @> array['search_path=pg_catalog, pg_temp', 'row_security=on']);
end;
comment on function audit.is_as_compiled(audit.tracked_table) is
    'Whether a table''s capture function is still what compile_tracking made of it. False too when there is none.';

create function audit.compile_tracking(tracked_id bigint, relation oid)
    returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set quote_all_identifiers = 'off'
as $function$
declare
    tracked audit.tracked_table;
    body text;
    paths text[];
    function_name constant text := 'capture_' || tracked_id;
    is_new constant boolean := audit.capture_function(tracked_id) is null;
begin
    -- Two compilations of one table at once would end in "tuple concurrently updated".
    select * into strict tracked from audit.tracked_table where id = tracked_id for update;
    -- First, so that the event trigger which the commands below fire finds nothing left to do, and so that the numbers of a
    -- restored table's columns are not taken for those of the table it was.
    update audit.tracked_table t
    set readable_paths = audit.readable_paths(tracked, relation),
        relation_oid = relation,
        column_numbers = coalesce((select jsonb_object_agg(a.attname, a.attnum)
                          from pg_attribute a
                          where a.attrelid = relation and a.attnum > 0 and not a.attisdropped), '{}'),
        column_types = audit.types_by_number(relation)
    where t.id = tracked_id
    returning t.readable_paths into paths;
    perform audit.keep_lookups(tracked_id, relation, paths);
    body := audit.function_sql(tracked, relation);
    if md5(body) = tracked.compiled_digest and relation = tracked.relation_oid and audit.is_as_compiled(tracked) then
        return false;
    end if;
    update audit.tracked_table t
    set compiled_digest = md5(body)
    where t.id = tracked_id;
    execute format($sql$
create or replace function audit.%I()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    %s
as %L$sql$, function_name,
        (select string_agg(format('set %s = %L', split_part(n, ' = ', 1), split_part(n, ' = ', 2)), ' ') from unnest(audit.needed_settings(tracked, relation)) n),
        body);
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
    set quote_all_identifiers = 'off'
as $function$
declare
    tracked audit.tracked_table;
begin
    perform audit.require_owner(relation);
    tracked := audit.find_tracking(relation);
    if tracked.id is not null then
        delete from audit.tracked_table t where t.id = tracked.id;
        execute format('drop function if exists audit.%I()', 'capture_' || tracked.id);
        perform audit.keep_lookups(tracked.id, relation, '{}');
        perform audit.keep_told_shape(tracked.id, null);
        delete from audit.rewritten_table r where r.tracked_table_id = tracked.id;
        perform audit.write_event('tracking_disabled', format('%I.%I', tracked.table_schema, tracked.table_name), tracked.workspace, null);
    end if;
end
$function$;
comment on function audit.remove_tracking(oid) is
    'For disable_tracking: drops the capture function and the settings and records the event. Raises 42501 unless the caller owns the table.';

-- The two verbs: turning tracking on and off, with the caller's rights, who must own the table.

set search_path = pg_catalog, pg_temp;

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
    foreign_partition text;
    shown_column text;
    foreign_key text;
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
    select p.oid::regclass into foreign_partition
    from audit.partitions_of(relation) p(oid) join pg_class c on c.oid = p.oid where c.relkind = 'f';
    if foreign_partition is not null then
        raise exception 'partition % is a foreign table', foreign_partition
            using errcode = 'wrong_object_type',
                  hint = 'PostgreSQL collects no changed rows there, and every write to the table would fail.';
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
    select name into shown_column
    from unnest(excluded_columns || redacted_columns) name
    where name = any(coalesce(resource_id_columns, audit.primary_key_columns(relation))
                     || audit.primary_key_columns(relation) || resource_type_column
                     || split_part(resource_name_column, '.', 1) || split_part(subject_column, '.', 1)
                     || split_part(workspace_column, '.', 1));
    if shown_column is not null then
        raise exception 'excluded_columns, redacted_columns: % is shown elsewhere in the entry', shown_column
            using errcode = 'invalid_parameter_value',
                  hint = 'A column that makes the key, resource, name, subject or workspace cannot be kept secret.';
    end if;
    if workspace_column like '%.%' then
        select c.conname into foreign_key
        from pg_constraint c
        join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
        where c.conrelid = relation and c.contype = 'f' and (c.confdeltype in ('c', 'n', 'd') or c.condeferrable)
          and a.attname = split_part(workspace_column, '.', 1);
        if foreign_key is not null then
            raise warning 'workspace_column: through foreign key % a row can be written while its parent is gone or not yet there; its entry will have no workspace', foreign_key
                using hint = 'Keep the workspace in a column of the table itself.';
        end if;
    end if;

    if (select relrowsecurity from pg_class where oid = relation)
       and not exists (select from pg_policy where polrelid = relation and polname = 'audit_capture_counts') then
        execute format('create policy audit_capture_counts on %s for select to audit_capture using (true)', target);
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
            where t.tgrelid = partition and t.tgparentid = 0 and p.pronamespace = 'audit'::regnamespace and p.proname like 'capture\_%'
        loop
            execute format('drop trigger %I on %s', trigger_name, partition::regclass);
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

-- Following DDL: functions are compiled anew in the transaction that changes their table, partitions get their triggers,
-- a dropped table loses its settings. Nothing here may fail the application's DDL: what cannot be followed is a warning,
-- the compiled function notices by itself, and audit.check() lists it.

set search_path = pg_catalog, pg_temp;

create function audit.rename_columns(names text[], renamed jsonb)
    returns text[]
    language sql
    immutable
    parallel safe
return (select array_agg(coalesce(renamed ->> n.name, n.name) order by n.position)
        from unnest(names) with ordinality n(name, position));
comment on function audit.rename_columns(text[], jsonb) is 'Names of columns after a rename, given as an object from old to new. Null for no names.';

create function audit.rename_path(path text, renamed jsonb)
    returns text
    language sql
    immutable
    parallel safe
return case
    when renamed ? path then renamed ->> path
    when renamed ? split_part(path, '.', 1)
        then (renamed ->> split_part(path, '.', 1)) || substr(path, length(split_part(path, '.', 1)) + 1)
    else path end;
comment on function audit.rename_path(text, jsonb) is 'A column or fk_column.column after a rename, given as an object from old to new.';

create function audit.types_by_number(relation oid)
    returns jsonb
    language sql
    stable
begin atomic
    select coalesce(jsonb_object_agg(a.attnum, jsonb_build_array(a.atttypid::bigint, a.atttypmod)), '{}')
    from pg_catalog.pg_attribute a
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped;
end;
comment on function audit.types_by_number(oid) is 'The types of a table''s columns by their numbers, each as OID and modifier: names would tell a renamed type as another one.';

create function audit.retyped_columns(tracked audit.tracked_table, relation oid)
    returns jsonb
    language sql
    stable
    set search_path = pg_catalog, pg_temp
begin atomic
    select jsonb_object_agg(a.attname, jsonb_build_object(
        'from', format_type((before.value ->> 0)::bigint::oid, (before.value ->> 1)::integer),
        'to', format_type(a.atttypid, a.atttypmod)))
    from jsonb_each(tracked.column_types) before
    join pg_catalog.pg_attribute a on a.attrelid = relation and a.attnum = before.key::smallint and not a.attisdropped
    -- After a restore types of the application have other OIDs.
    where relation = tracked.relation_oid and before.value <> jsonb_build_array(a.atttypid::bigint, a.atttypmod);
end;
comment on function audit.retyped_columns(audit.tracked_table, oid) is
    'Columns whose types are not what they were when the settings were last compiled, from and to. Null: none.';

create function audit.filled_columns(tracked audit.tracked_table, relation oid, added jsonb)
    returns jsonb
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
    -- As in a capture function: how a value is written must not depend on who alters the table.
    set timezone = 'UTC'
    set datestyle = 'ISO, YMD'
    set intervalstyle = 'postgres'
    set extra_float_digits = '1'
    set bytea_output = 'hex'
as $function$
declare
    filled jsonb;
    known record;
    value jsonb;
begin
    for known in
        -- A partitioned table holds no rows: its partitions know the value. The type's output function makes the text.
        select distinct on (a.attname) a.attname as name, audit.base_type(a.atttypid) as type_oid, array_to_string(a.attmissingval, '') as written
        from audit.partitions_of(relation) p(oid)
        join pg_attribute a on a.attrelid = p.oid
        where a.atthasmissing and not a.attisdropped and added ? a.attname::text
          and a.attname <> all(tracked.excluded_columns || tracked.redacted_columns)
        order by a.attname
    loop
        -- Reading a text as a type of the application could run checks and casts of its owner.
        execute format('select %s from (select $1::%s as value) audit_v',
                       audit.value_sql('audit_v.value', case when audit.is_core_type(known.type_oid) then known.type_oid else 'text'::regtype end,
                                       tracked.max_value_bytes),
                       -- With a modifier of -1: plain character and bit would be of length 1.
                       format_type(case when audit.is_core_type(known.type_oid) then known.type_oid else 'text'::regtype end, -1))
        into value using known.written;
        filled := coalesce(filled, '{}') || jsonb_build_object(known.name, value);
    end loop;
    return filled;
end
$function$;
comment on function audit.filled_columns(audit.tracked_table, oid, jsonb) is
    'The constants that existing rows show in columns which were added with a default, as capture writes values. Excluded and redacted columns are left out. Null: none.';

create function audit.rewritten_columns(relation oid, retyped jsonb, added jsonb, filled jsonb, rewritten_since xid, is_by_type boolean)
    returns jsonb
    language sql
    stable
    set search_path = pg_catalog, pg_temp
begin atomic
    select jsonb_agg(distinct a.attname)
    from pg_catalog.pg_attribute a
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and not coalesce(filled ? a.attname::text, false)
      and case
          when added ? a.attname::text then a.atthasdef or a.attidentity <> ''
          -- Which columns a command rewrote no trigger is told: those that its transaction altered are more, never fewer.
          else coalesce(retyped ? a.attname::text, false)
              or coalesce((is_by_type or a.attgenerated <> '') and age(a.xmin) <= age(rewritten_since), false)
      end;
end;
comment on function audit.rewritten_columns(oid, jsonb, jsonb, jsonb, xid, boolean) is
    'Columns whose values in existing rows may be others since a DDL command, or came with it, without the log knowing them. Null: none.';

create function audit.columns_of_now(relation oid)
    returns jsonb
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    columns jsonb := '{}';
    name text;
begin
    -- Asked by number, the server tells a column's name as it is now, however old the snapshot. A dropped one keeps its number.
    for number in 1 .. 1600 loop
        name := (pg_identify_object_as_address('pg_class'::regclass, relation, number)).object_names[3];
        exit when name is null;
        if name <> format('........pg.dropped.%s........', number) then
            columns := columns || jsonb_build_object(name, number);
        end if;
    end loop;
    return columns;
end
$function$;
comment on function audit.columns_of_now(oid) is 'The numbers of a table''s columns by their names, as they are now and not as the snapshot shows them.';

create function audit.told_function(tracked_id bigint)
    returns oid
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
begin
    return to_regprocedure(format('audit.told_%s()', tracked_id));
end
$function$;
comment on function audit.told_function(bigint) is 'The function in which audit.keep_told_shape keeps a table''s shape. Null: there is none.';

create function audit.told_shape(tracked_id bigint, relation oid)
    returns jsonb
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    told jsonb;
begin
    if audit.told_function(tracked_id) is not null then
        execute format('select audit.%I()', 'told_' || tracked_id) into told;
    end if;
    return case when (told ->> 'relation')::bigint::oid = relation then told end;
end
$function$;
comment on function audit.told_shape(bigint, oid) is
    'The table as audit.tell_alteration last told it: columns by name, types of those that were retyped by number, names of secret ones, the table''s name. Null: it told nothing since the settings were brought up to the table.';

create function audit.keep_told_shape(tracked_id bigint, shape jsonb)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $function$
-- In a function: the server knows functions as they are now, and rows of a table only as old as the snapshot.
declare
    function_name constant text := 'told_' || tracked_id;
begin
    if shape is null then
        if audit.told_function(tracked_id) is not null then
            execute format('drop function audit.%I()', function_name);
        end if;
        return;
    end if;
    execute format('create or replace function audit.%I() returns jsonb language sql immutable set search_path = pg_catalog, pg_temp as %L',
                   function_name, format('select %L::jsonb', shape));
    execute format('revoke all on function audit.%I() from public', function_name);
    execute format('comment on function audit.%I() is %L', function_name,
                   'What the log told last of a tracked table by a transaction with an old snapshot. Upkeep drops it.');
end
$function$;
comment on function audit.keep_told_shape(bigint, jsonb) is
    'Keeps what audit.tell_alteration told for whoever alters the table next, and for upkeep. Null: forgets it.';

create function audit.compiled_columns(tracked_id bigint, relation oid)
    returns jsonb
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    written text := substring(pg_get_functiondef(audit.capture_function(tracked_id)) from '(?n)^ +if audit_shape = (E?''(?:[^'']|'''')*'') then$');
    numbers integer[];
begin
    written := replace(case when written like 'E%' then replace(substr(written, 2), '\\', '\') else written end, '''''', '''');
    -- Names in their order. What this transaction has dropped was there then, and what it has added comes last.
    select array_agg(c.number order by c.number) into numbers
    from (select value::integer as number from jsonb_each_text(audit.columns_of_now(relation))
          union
          select a.attnum from pg_attribute a
          where a.attrelid = relation and a.attnum > 0 and a.attisdropped and age(a.xmin) <= age(pg_current_xact_id()::xid)) c;
    return (select jsonb_object_agg(k.name, numbers[k.position])
            from json_object_keys(substr(written, 2, length(written) - 2)::json) with ordinality k(name, position)
            -- Fewer are there where nobody followed a DROP.
            having count(*) <= cardinality(numbers));
end
$function$;
comment on function audit.compiled_columns(bigint, oid) is
    'The numbers by name of the columns for which a table''s function is compiled now, whoever compiled it. Only for a transaction that has altered the table. Null: the function does not say.';

create function audit.is_behind(tracked_id bigint)
    returns boolean
    language sql
    stable
    set search_path = pg_catalog, pg_temp
begin atomic
    -- Of what another session replaced an old snapshot shows the former row, and two rows once this transaction replaces it too.
    select current_setting('transaction_isolation') in ('repeatable read', 'serializable')
       and (exists (
               select
               from unnest(array[audit.capture_function(tracked_id), audit.told_function(tracked_id)]) f(oid)
               left join pg_catalog.pg_proc p on p.oid = f.oid
               where f.oid is not null
               group by f.oid
               having count(p.oid) <> 1
                   or not bool_and(strpos(pg_get_functiondef(f.oid), p.prosrc) > 0)
                   or f.oid = audit.told_function(tracked_id) and bool_or(age(p.xmin) <= age(pg_current_xact_id()::xid)))
            -- TRUNCATE or CREATE INDEX is enough, which nobody follows.
            or exists (
               select from audit.tracked_table t
               join pg_catalog.pg_class c on c.oid = t.relation_oid
               where t.id = tracked_id
               having count(*) > 1));
end;
comment on function audit.is_behind(bigint) is
    'Whether another session changed what the catalogue says of a tracked table since the snapshot of this transaction. Only for a transaction that has altered it too.';

create function audit.tell_alteration(tracked_id bigint, command text)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set quote_all_identifiers = 'off'
    set lock_timeout = '100ms'
as $function$
-- Of the catalogue an old snapshot shows this transaction what it did itself, and else what was: what others did they have told.
declare
    tracked audit.tracked_table;
    relation oid;
    own constant xid := pg_current_xact_id()::xid;
    names text[];
    told jsonb;
    columns jsonb;
    shape_before jsonb;
    renamed jsonb;
    added jsonb;
    dropped jsonb;
    retyped jsonb;
    retyped_types jsonb;
    secrets text[];
    filled jsonb;
    former_name text;
    rewritten_by text;
    is_by_type boolean;
begin
    select * into tracked from audit.tracked_table where id = tracked_id;
    -- By number alone: of a table that both altered the catalogue shows two rows under the name.
    select g.tgrelid into relation from pg_trigger g
    where g.tgrelid = tracked.relation_oid and g.tgfoid = audit.capture_function(tracked_id);
    if relation is null then
        return;
    end if;
    names := (pg_identify_object_as_address('pg_class'::regclass, relation, 0)).object_names;
    columns := audit.columns_of_now(relation);
    told := audit.told_shape(tracked_id, relation);
    shape_before := coalesce(told -> 'columns', audit.compiled_columns(tracked_id, relation), tracked.column_numbers);
    tracked.column_types := tracked.column_types || coalesce(told -> 'types', '{}');
    -- Only a rename or a move writes to the type of the table's rows.
    if told is not null or exists (select from pg_type t where t.typrelid = relation and age(t.xmin) <= age(own)) then
        former_name := coalesce(told ->> 'name', format('%I.%I', tracked.table_schema, tracked.table_name));
        former_name := nullif(former_name, format('%I.%I', names[1], names[2]));
    end if;

    select coalesce(jsonb_object_agg(b.key, c.key), '{}') into renamed
    from jsonb_each(shape_before) b join jsonb_each(columns) c on c.value = b.value
    where c.key <> b.key;
    select coalesce(jsonb_agg(c.key order by c.key), '[]') into added
    from jsonb_each(columns) c where c.value not in (select b.value from jsonb_each(shape_before) b);
    select coalesce(jsonb_agg(b.key order by b.key), '[]') into dropped
    from jsonb_each(shape_before) b where b.value not in (select c.value from jsonb_each(columns) c);
    select jsonb_object_agg(a.attname, jsonb_build_object(
               'from', format_type((t.value ->> 0)::bigint::oid, (t.value ->> 1)::integer),
               'to', format_type(a.atttypid, a.atttypmod))),
           jsonb_object_agg(a.attnum, jsonb_build_array(a.atttypid::bigint, a.atttypmod))
    into retyped, retyped_types
    from jsonb_each(tracked.column_types) t
    join pg_attribute a on a.attrelid = relation and a.attnum = t.key::smallint and not a.attisdropped and age(a.xmin) <= age(own)
    where t.value <> jsonb_build_array(a.atttypid::bigint, a.atttypmod);
    with noted as (
        delete from audit.rewritten_table r where r.tracked_table_id = tracked_id returning r.by_command, r.is_by_type)
    select min(noted.by_command), bool_or(noted.is_by_type) into rewritten_by, is_by_type from noted;
    if former_name is null and retyped is null and rewritten_by is null and added = '[]' and dropped = '[]' and renamed = '{}' then
        return;
    end if;

    -- A secret column may have another name than the settings say, and a name stays secret when its column is dropped.
    secrets := array(
        select n.key
        from unnest(tracked.excluded_columns || tracked.redacted_columns) s(name)
        join (select * from jsonb_each(shape_before) union select * from jsonb_each(columns)) n on n.value = tracked.column_numbers -> s.name
        union
        select jsonb_array_elements_text(told -> 'secrets'));
    tracked.excluded_columns := tracked.excluded_columns || secrets;
    perform audit.keep_told_shape(tracked_id, jsonb_build_object(
        'relation', relation::bigint, 'columns', columns, 'name', format('%I.%I', names[1], names[2]), 'secrets', secrets,
        'types', coalesce(told -> 'types', '{}') || coalesce(retyped_types, '{}')));
    filled := audit.filled_columns(tracked, relation, added);
    perform audit.write_event('table_altered', format('%I.%I', names[1], names[2]), tracked.workspace,
        jsonb_build_object('command', coalesce(rewritten_by, command), 'renamed_columns', renamed, 'added_columns', added, 'dropped_columns', dropped)
        || jsonb_strip_nulls(jsonb_build_object(
            'former_name', former_name,
            'retyped_columns', retyped,
            'rewritten_columns', audit.rewritten_columns(relation, retyped, added, filled, case when rewritten_by is not null then own end, is_by_type),
            'rewritten', case when rewritten_by is not null then true end))
        || case when filled is null then '{}' else jsonb_build_object('filled_columns', filled) end);
end
$function$;
comment on function audit.tell_alteration(bigint, text) is
    'Records as table_altered what a transaction did to a tracked table that another session has altered since its snapshot, when it can neither read nor write the settings as they are. These, and the compiled function, upkeep brings up to the table.';

create function audit.follow_table(tracked_id bigint, command text)
    returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set quote_all_identifiers = 'off'
    set lock_timeout = '100ms'
as $function$
declare
    tracked audit.tracked_table;
    relation oid;
    renamed jsonb;
    shape_before jsonb;
    retyped jsonb;
    added jsonb;
    dropped jsonb;
    filled jsonb;
    rewritten_by text;
    rewritten_since xid;
    is_by_type boolean;
    told jsonb;
    former_name text;
    is_changed boolean;
    is_renamed boolean;
    is_restored boolean;
begin
    -- Never a wait: another transaction that holds the row may wait for the very table that is being altered here. What is left
    -- out now shows in the fingerprint at the next write, and upkeep compiles it.
    select * into tracked from audit.tracked_table where id = tracked_id for update skip locked;
    relation := audit.tracked_relation(tracked);
    if tracked.id is null or relation is null then
        return false;
    end if;
    shape_before := tracked.column_numbers;
    former_name := format('%I.%I', tracked.table_schema, tracked.table_name);
    -- The number of a dropped column is never given again: where one is in use this is another table, which a restore gave the
    -- same number, and its columns' numbers tell nothing of renames.
    if exists (select from pg_attribute a
               where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
                 and a.attnum not in (select n.value::smallint from jsonb_each_text(shape_before) n)
                 and a.attnum < (select max(n.value::smallint) from jsonb_each_text(shape_before) n)) then
        tracked.relation_oid := 0;
    end if;
    is_restored := relation <> tracked.relation_oid;
    -- What a transaction with an older snapshot told, but could not bring into the settings.
    told := case when not is_restored then audit.told_shape(tracked_id, relation) end;
    tracked.column_types := tracked.column_types || coalesce(told -> 'types', '{}');
    retyped := audit.retyped_columns(tracked, relation);
    select coalesce(jsonb_object_agg(n.key, a.attname), '{}') into renamed
    from jsonb_each_text(tracked.column_numbers) n
    join pg_attribute a on a.attrelid = relation and a.attnum = n.value::smallint and not a.attisdropped
    where a.attname <> n.key and not is_restored;

    perform audit.free_table_name(relation, tracked_id);
    update audit.tracked_table t
    set table_schema = n.nspname,
        table_name = c.relname,
        resource_type_column = audit.rename_path(t.resource_type_column, renamed),
        resource_id_columns = audit.rename_columns(t.resource_id_columns, renamed),
        resource_name_column = audit.rename_path(t.resource_name_column, renamed),
        subject_column = audit.rename_path(t.subject_column, renamed),
        workspace_column = audit.rename_path(t.workspace_column, renamed),
        soft_delete_column = audit.rename_path(t.soft_delete_column, renamed),
        -- A name whose column was dropped stays: should it come back, it is still excluded.
        excluded_columns = coalesce(audit.rename_columns(t.excluded_columns, renamed), '{}')
            || case when is_restored then audit.unfollowed_columns(tracked, relation) else '{}' end,
        redacted_columns = coalesce(audit.rename_columns(t.redacted_columns, renamed), '{}'),
        column_events = (
            select jsonb_object_agg(e.key, to_jsonb(audit.rename_columns(array(select jsonb_array_elements_text(e.value)), renamed)))
            from jsonb_each(t.column_events) e)
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where t.id = tracked_id and c.oid = relation
    returning (t.table_schema, t.table_name) is distinct from (tracked.table_schema, tracked.table_name) into is_renamed;

    is_changed := audit.compile_tracking(tracked_id, relation);
    if told is not null then
        shape_before := told -> 'columns';
        former_name := told ->> 'name';
        select former_name <> format('%I.%I', n.nspname, c.relname) into is_renamed
        from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation;
        select coalesce(jsonb_object_agg(n.key, a.attname), '{}') into renamed
        from jsonb_each_text(shape_before) n
        join pg_attribute a on a.attrelid = relation and a.attnum = n.value::smallint and not a.attisdropped
        where a.attname <> n.key;
    end if;
    perform audit.keep_told_shape(tracked_id, null);
    begin
        perform audit.let_owner_attach(tracked_id, relation);
    exception when lock_not_available or internal_error then
        -- Another transaction lets an owner in, too: upkeep does it after both.
        null;
    end;
    with noted as (
        delete from audit.rewritten_table r where r.tracked_table_id = tracked_id returning r.by_command, r.is_by_type, r.xmin)
    select min(noted.by_command), bool_or(noted.is_by_type),
           -- In a later transaction nothing tells which columns it was.
           case when bool_and(age(noted.xmin) <= age(pg_current_xact_id()::xid)) then pg_current_xact_id()::xid else '2'::xid end
    into rewritten_by, is_by_type, rewritten_since from noted;
    if is_renamed or retyped is not null or rewritten_by is not null or is_changed then
        select * into tracked from audit.tracked_table where id = tracked_id;
        -- A restore gives a table another number and closes the gaps of dropped columns; what it compiles anew was not altered.
        select coalesce(jsonb_agg(k order by k), '[]') into added
        from jsonb_object_keys(tracked.column_numbers) k
        where case when is_restored then not shape_before ? k else shape_before -> k is distinct from tracked.column_numbers -> k end
          and k not in (select r.value from jsonb_each_text(renamed) r);
        select coalesce(jsonb_agg(k order by k), '[]') into dropped
        from jsonb_object_keys(shape_before) k
        where case when is_restored then not tracked.column_numbers ? k else shape_before -> k is distinct from tracked.column_numbers -> k end
          and not renamed ? k;
        if is_renamed or retyped is not null or rewritten_by is not null or added <> '[]' or dropped <> '[]' or renamed <> '{}'
           or (not is_restored and command = 'ALTER TABLE') then
            filled := audit.filled_columns(tracked, relation, added);
            perform audit.write_event('table_altered', format('%I.%I', tracked.table_schema, tracked.table_name), tracked.workspace,
                jsonb_build_object('command', coalesce(rewritten_by, command), 'renamed_columns', renamed, 'added_columns', added,
                    'dropped_columns', dropped)
                || jsonb_strip_nulls(jsonb_build_object(
                    'former_name', case when is_renamed then former_name end,
                    'retyped_columns', retyped,
                    'rewritten_columns', audit.rewritten_columns(relation, retyped, added, filled, case when rewritten_by is not null then rewritten_since end, is_by_type),
                    'rewritten', case when rewritten_by is not null then true end))
                -- Not stripped: a null within a constant is a part of it.
                || case when filled is null then '{}' else jsonb_build_object('filled_columns', filled) end);
        end if;
    end if;
    return is_changed;
end
$function$;
comment on function audit.follow_table(bigint, text) is
    'Brings settings and capture function of one tracked table up to its table as it is now. A real change, and a rewrite of its rows, is recorded as table_altered by the given command. Returns whether the function changed.';

create function audit.follow_tables(touched oid[], command text)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    tracked_id bigint;
    -- As pg_restore and psql with a dump set it, and hardly anybody else.
    is_restoring constant boolean := not current_setting('check_function_bodies')::boolean;
    is_lookup boolean;
    told_as text;
begin
    for tracked_id, is_lookup in
        select t.id,
               t.relation_oid <> all(touched)
               and exists (select from pg_constraint f
                           where f.conrelid = t.relation_oid and f.contype = 'f' and f.confrelid = any(touched))
        from audit.tracked_table t
        left join pg_class c on c.oid = t.relation_oid
        left join pg_namespace n on n.oid = c.relnamespace
        where t.relation_oid = any(touched)
           -- A rename in a parent, however far, or in the type of a typed table, renames the columns of those that inherit it.
           or exists (with recursive parent(oid) as (
                          select h.inhparent from pg_inherits h where h.inhrelid = t.relation_oid
                          union
                          select h.inhparent from parent join pg_inherits h on h.inhrelid = parent.oid)
                      select from parent where parent.oid = any(touched))
           or (command = 'ALTER TYPE' and c.reloftype <> 0)
           or exists (select from audit.rewritten_table r where r.tracked_table_id = t.id)
           or (n.nspname, c.relname) is distinct from (t.table_schema::name, t.table_name::name)
           or (concat(t.workspace_column, t.resource_name_column, t.subject_column) like '%.%'
               -- A schema, extension or operator that moved stands in the compiled text; what else made a lookup readable or
               -- unreadable (GRANT names no object) shows in the lookup itself.
               and (command in ('ALTER SCHEMA', 'ALTER EXTENSION', 'ALTER OPERATOR')
                    or (command <> 'ALTER TABLE' and audit.readable_paths(t, t.relation_oid) <> t.readable_paths)
                    or exists (select from pg_constraint f
                               where f.conrelid = t.relation_oid and f.contype = 'f' and f.confrelid = any(touched))))
        order by t.id
    loop
        -- Where the log is an extension this runs while its tables are restored: what a lookup reads is not there yet. A table
        -- that came in a restore is compiled anew by upkeep, or by the first command of another session.
        continue when is_restoring and exists (
            select from audit.tracked_table t where t.id = tracked_id and audit.tracked_relation(t) is distinct from t.relation_oid);
        begin
            -- A table whose lookup reads differently now was not altered.
            told_as := case when is_lookup then command || ' of a lookup''s table' else command end;
            if audit.is_behind(tracked_id) then
                perform audit.tell_alteration(tracked_id, told_as);
            else
                begin
                    perform audit.follow_table(tracked_id, told_as);
                exception when others then
                    if current_setting('transaction_isolation') not in ('repeatable read', 'serializable') then
                        raise;
                    end if;
                    -- Another session wrote to the settings since this transaction's snapshot.
                    perform audit.tell_alteration(tracked_id, told_as);
                end;
            end if;
        exception when others then
            raise warning 'pg_daybook could not follow % for tracked table number %: %', command, tracked_id, sqlerrm
                using hint = 'Writes go on. "select * from audit.check()" shows what to do.';
        end;
    end loop;
exception when others then
    raise warning 'pg_daybook could not follow %: %', command, sqlerrm
        using hint = 'Writes go on. "select * from audit.check()" shows what to do.';
end
$function$;
comment on function audit.follow_tables(oid[], text) is
    'Follows a DDL command: the given relations, the tables that look names or workspaces up in them, and those that the command moved.';

create function audit.follow_ddl()
    returns event_trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    touched oid[];
begin
    select coalesce(array_agg(objid), '{}') into touched
    from pg_event_trigger_ddl_commands()
    where classid = 'pg_class'::regclass and schema_name is distinct from 'pg_temp';
    perform audit.follow_tables(touched, tg_tag);
end
$function$;
comment on function audit.follow_ddl() is 'Event trigger: compiles capture functions anew when their tables, or those they look things up in, change.';

create function audit.follow_rewrite()
    returns event_trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    root constant oid := coalesce(pg_partition_root(pg_event_trigger_table_rewrite_oid()), pg_event_trigger_table_rewrite_oid());
begin
    -- 4: the server's own number for columns of another type or expression.
    insert into audit.rewritten_table (tracked_table_id, by_command, is_by_type)
    select t.id, tg_tag, pg_event_trigger_table_rewrite_reason() & 4 <> 0
    from audit.tracked_table t
    where exists (select from pg_trigger g join pg_proc p on p.oid = g.tgfoid
                  where g.tgrelid = root and p.pronamespace = 'audit'::regnamespace and p.proname = 'capture_' || t.id);
exception when others then
    raise warning 'pg_daybook could not record that % rewrites %: %', tg_tag, root::regclass, sqlerrm;
end
$function$;
comment on function audit.follow_rewrite() is
    'Event trigger: notes that a DDL command rewrites the rows of a tracked table, which no trigger of the table sees.';

create function audit.follow_drop()
    returns event_trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set quote_all_identifiers = 'off'
as $function$
declare
    tracked audit.tracked_table;
    touched oid[];
begin
    for tracked in
        -- By number or by name: after a restore the number is another one, after a rename nobody followed the name.
        select t.*
        from pg_event_trigger_dropped_objects() d
        join audit.tracked_table t
            on t.relation_oid = d.objid or (t.table_schema, t.table_name) = (d.schema_name, d.object_name)
        where d.classid = 'pg_class'::regclass and d.objsubid = 0 and d.object_type = 'table' and not d.is_temporary
          -- The proof: no table carries its triggers any more.
          and not exists (select from pg_trigger g where g.tgfoid = audit.capture_function(t.id))
    loop
        begin
            -- Never a wait here either: settings that another transaction holds stay, and audit.check() lists them.
            perform from audit.tracked_table where id = tracked.id for update skip locked;
            if found then
                delete from audit.tracked_table where id = tracked.id;
                execute format('drop function if exists audit.%I()', 'capture_' || tracked.id);
                perform audit.keep_lookups(tracked.id, null, '{}');
                perform audit.keep_told_shape(tracked.id, null);
                delete from audit.rewritten_table r where r.tracked_table_id = tracked.id;
            end if;
            perform audit.write_event('table_dropped', format('%I.%I', tracked.table_schema, tracked.table_name), tracked.workspace,
                                      jsonb_build_object('command', tg_tag));
        exception when others then
            raise warning 'pg_daybook could not end the tracking of %.%: %', tracked.table_schema, tracked.table_name, sqlerrm
                using hint = '"select * from audit.check()" shows what to do.';
        end;
    end loop;
    select coalesce(array_agg(objid), '{}') into touched
    from pg_event_trigger_dropped_objects()
    where classid = 'pg_class'::regclass and not is_temporary;
    -- ALTER TABLE is followed at its end, when the whole command is done.
    if tg_tag <> 'ALTER TABLE' and touched <> '{}' then
        perform audit.follow_tables(touched, tg_tag);
    end if;
end
$function$;
comment on function audit.follow_drop() is 'Event trigger: a dropped tracked table loses its settings and leaves an entry.';

create function audit.follow_partitions()
    returns event_trigger
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
-- Runs as whoever gives the DDL command: only a table's owner may put triggers on it.
declare
    tracked record;
    members oid[];
    partition oid;
    trigger_name name;
begin
    for tracked in
        select distinct root.oid as root, p.oid as function_oid, p.proname::text as function_name
        from pg_event_trigger_ddl_commands() d
        cross join lateral (select coalesce(pg_partition_root(d.objid::regclass)::oid, d.objid) as oid) root
        join pg_trigger t on t.tgrelid = root.oid and t.tgname = 'audit_insert'
        join pg_proc p on p.oid = t.tgfoid
        join pg_namespace n on n.oid = p.pronamespace and n.nspname = 'audit'
        join pg_class c on c.oid = root.oid and c.relkind = 'p'
        where d.classid = 'pg_class'::regclass and p.proname like 'capture\_%'
    loop
        -- By the catalogue: pg_partition_tree() locks each partition, and so meets in a deadlock with DDL on another one.
        with recursive tree(relid) as (
            select tracked.root
            union all
            select i.inhrelid from tree join pg_inherits i on i.inhparent = tree.relid and not i.inhdetachpending
        )
        select array_agg(relid) into members from tree;
        for partition in
            select relid from unnest(members) tree(relid)
            where not exists (select from pg_trigger t
                              where t.tgrelid = tree.relid and t.tgfoid = tracked.function_oid and t.tgparentid = 0)
        loop
            begin
                perform audit.create_capture_triggers(partition, tracked.function_name);
            exception when others then
                raise warning 'pg_daybook could not put its triggers on partition %: %', partition::regclass, sqlerrm
                    using hint = '"select * from audit.check()" shows what to do.';
            end;
        end loop;
        -- A partition that was detached is a table of its own.
        for partition, trigger_name in
            select t.tgrelid, t.tgname from pg_trigger t
            where t.tgfoid = tracked.function_oid
              and t.tgrelid <> all(members)
        loop
            begin
                execute format('drop trigger %I on %s', trigger_name, partition::regclass);
            exception when others then
                raise warning 'pg_daybook could not take its triggers off %: %', partition::regclass, sqlerrm;
            end;
        end loop;
    end loop;
end
$function$;
comment on function audit.follow_partitions() is 'Event trigger: new partitions of a tracked table get its triggers, detached ones lose them.';

create function audit.follow_identity()
    returns event_trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
-- Belongs to the superuser who installs: a table and the publication that it is in have different owners.
declare
    relation oid;
    published oid;
begin
    -- Of tables that the witness looks at the WAL keeps old rows whole. From 18 on the server refuses UPDATE and DELETE of those where
    -- a virtual generated column, which cannot be published, is a part of the row: a migration that adds one must not break later
    -- writes because of us.
    for relation, published in
        with recursive member(relid, root) as (
            select root.oid, root.oid
            from pg_event_trigger_ddl_commands() d
            cross join lateral (select coalesce(pg_partition_root(d.objid::regclass)::oid, d.objid) as oid) root
            where d.classid = 'pg_class'::regclass
              and exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
                          where r.prrelid = root.oid and p.pubname = 'daybook_witness')
            union
            select i.inhrelid, m.root from member m join pg_inherits i on i.inhparent = m.relid and not i.inhdetachpending
        )
        select c.oid, m.root
        from member m
        join pg_class c on c.oid = m.relid
        where c.relkind = 'r' and c.relreplident = 'f'
          and exists (select from pg_attribute a where a.attrelid = c.oid and a.attgenerated = 'v' and not a.attisdropped)
    loop
        begin
            execute format('alter table only %s replica identity default', relation::regclass);
            if not exists (select from pg_index i where i.indrelid = relation and i.indisprimary) then
                execute format('alter publication daybook_witness drop table %s', published::regclass);
            end if;
            raise warning 'the witness compares old values of % no longer: it has a virtual generated column', relation::regclass
                using hint = '"daybook witness --start" takes in what can be compared.';
        exception when others then
            raise warning 'pg_daybook could not give % back its replica identity: %', relation::regclass, sqlerrm
                using hint = '"daybook witness --stop" does: UPDATE and DELETE of the table are refused until then.';
        end;
    end loop;
end
$function$;
comment on function audit.follow_identity() is
    'Event trigger: a table that the witness looks at keeps its old rows whole no longer, once it has a virtual generated column.';

-- What is no write, the application records itself.

set search_path = pg_catalog, pg_temp;

create function audit.record(
    event text,
    resource_type text,
    resource_id text default null,
    resource_name text default null,
    workspace_id text default null,
    details jsonb default null)
    returns uuid
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
begin
    if not coalesce(audit.is_event_name(event), false) then
        raise exception 'event % is not of the form noun_pastparticiple', coalesce(quote_literal(event), 'null')
            using errcode = 'invalid_parameter_value',
                  hint = 'Lower-case words joined by underscores, at most 63 characters, such as dashboard_viewed.';
    end if;
    if event = any(audit.own_events()) then
        raise exception 'event % belongs to the log itself', event
            using errcode = 'insufficient_privilege', hint = 'Choose another name, such as dashboard_viewed.';
    end if;
    if exists (select from unnest(array['resource', 'permission', 'role']) k(kind)
               cross join lateral jsonb_each_text(audit.kind_events(k.kind)) e where e.value = event)
       or exists (select from audit.tracked_table t
                  where exists (select from jsonb_each_text(t.events) e where e.value = event) or t.column_events ? event) then
        raise exception 'event % is written by tracked tables only', event
            using errcode = 'insufficient_privilege', hint = 'Choose another name, such as dashboard_viewed.';
    end if;
    if nullif(resource_type, '') is null or resource_type = 'audit_log' or length(resource_type) > 200 then
        raise exception 'resource_type: %', case when nullif(resource_type, '') is null then 'is required'
                                                 when resource_type = 'audit_log' then 'audit_log is the log itself'
                                                 else 'is longer than 200 characters' end
            using errcode = 'invalid_parameter_value', hint = 'The kind of the thing, such as dashboard.';
    end if;
    if octet_length(resource_id) > 2000 or length(resource_name) > 500 or octet_length(workspace_id) > 2000 or octet_length(details::text) > 65536 then
        raise exception 'resource_id and workspace_id take 2000 bytes, resource_name 500 characters, details 65536 bytes'
            using errcode = 'string_data_right_truncation';
    end if;
    if exists (select from audit.signing_login s where s.login = session_user) then
        perform audit.refuse_unsigned_actor((audit.read_actor_context()).actor_type, 'the log');
    end if;
    return audit.insert_event(event, resource_type, resource_id, resource_name, workspace_id, details);
end
$function$;
comment on function audit.record(text, text, text, text, text, jsonb) is
    'Records what is no write of a tracked table: viewed, signed in, exported. In the caller''s transaction, by its actor; workspace null: system-wide. Refuses the events of the log and of tracked tables. Returns the entry''s id.';

-- What readers see: views over the log. They run with the reader's own rights, so that row-level security holds, and are no
-- security barriers, which would lose the ordered append over the days.

set search_path = pg_catalog, pg_temp;

create view audit.timeline
    with (security_invoker = true)
as
select id, created_at, workspace_id, event, operation, table_schema, table_name, resource_type, resource_id, resource_name,
       row_key, actor_type, actor_id, actor_name, row_count, before, after, request_id, context, database_user, transaction_id
from audit.entry;

create view audit.timeline_change
    with (security_invoker = true)
as
select entry_id, created_at, workspace_id, resource_id, resource_name, row_key, before, after
from audit.change;

comment on view audit.timeline is 'The entries that the reader may see: a DBA all, the REST app those of the workspace named in its transaction. Give created_at a range, so that only its days are read.';
comment on view audit.timeline_change is 'The changed rows of bulk entries that the reader may see. Give created_at the entry''s own, so that only its day is read.';

do $column_comments$
declare
    item record;
begin
    -- One source: a view's column means what the table's means.
    for item in
        select v.relname as view_name, a.attname, d.description
        from pg_catalog.pg_class v
        join pg_catalog.pg_class t on t.relnamespace = v.relnamespace
            and t.relname = case v.relname when 'timeline' then 'entry' else 'change' end
        join pg_catalog.pg_attribute a on a.attrelid = t.oid and a.attnum > 0
        join pg_catalog.pg_description d on d.objoid = t.oid and d.objsubid = a.attnum and d.classoid = 'pg_catalog.pg_class'::regclass
        where v.relnamespace = 'audit'::regnamespace and v.relname in ('timeline', 'timeline_change')
        order by 1, a.attnum
    loop
        execute format('comment on column audit.%I.%I is %L', item.view_name, item.attname, item.description);
    end loop;
end
$column_comments$;

create function audit.retention_days()
    returns integer
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select retention_days from audit.upkeep;
end;
comment on function audit.retention_days() is 'Whole UTC days an entry is kept, for readers.';

-- The history of one row, told from the log alone: its changes, and what it was at a moment.

set search_path = pg_catalog, pg_temp;

create type audit.table_span as (
    table_schema text,
    table_name text,
    since timestamptz,
    until timestamptz,
    key_columns text[],
    key_is_resource_id boolean
);
comment on type audit.table_span is
    'A time in which a table had one name and its key columns had these: since is inside, until is not.';

create type audit.row_change as (
    entry_id uuid,
    created_at timestamptz,
    transaction_id xid8,
    operation text,
    key_before text,
    key_after text,
    before jsonb,
    after jsonb
);
comment on type audit.row_change is
    'One change of one row: its key before (null for INSERT) and after (null for DELETE and TRUNCATE). Of TRUNCATE, and of ALTER (an alteration of the table), after holds the entry''s details.';

create function audit.table_spans(schema_name text, relation_name text)
    returns audit.table_span[]
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    spans audit.table_span[] := '{}';
    span audit.table_span;
    alteration record;
    relation constant oid := (select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
                              where n.nspname = schema_name and c.relname = relation_name and c.relkind in ('r', 'p'));
begin
    span := row(schema_name, relation_name, '-infinity', 'infinity', audit.primary_key_columns(relation), null);
    select t.resource_id_columns is null or t.resource_id_columns = span.key_columns into span.key_is_resource_id
    from audit.tracked_table t
    where t.table_schema = schema_name and t.table_name = relation_name;
    if not found then
        -- As it was tracked last.
        select e.context -> 'details' -> 'resource_id_columns' = 'null' into span.key_is_resource_id
        from audit.entry e
        where e.resource_type = 'audit_log' and e.resource_id = format('%I.%I', schema_name, relation_name)
          and e.event in ('tracking_enabled', 'tracking_changed')
        order by e.created_at desc, e.id desc
        limit 1;
    end if;
    if relation is null then
        select max(e.created_at) into span.until
        from audit.entry e
        where e.resource_type = 'audit_log' and e.resource_id = format('%I.%I', schema_name, relation_name)
          and e.event = 'table_dropped';
        span.until := coalesce(span.until, 'infinity');
    end if;
    loop
        -- Back to the last moment at which the name or the key's columns were others, or the name another table's.
        select e.created_at, e.event, e.context -> 'details' as details into alteration
        from audit.entry e
        where e.resource_type = 'audit_log' and e.resource_id = format('%I.%I', span.table_schema, span.table_name)
          and e.created_at < span.until
          and (e.event = 'table_dropped'
               or e.event = 'table_altered'
                  and (e.context -> 'details' ? 'former_name'
                       or exists (select from jsonb_each_text(e.context -> 'details' -> 'renamed_columns') r
                                  where r.value = any(span.key_columns))))
        order by e.created_at desc, e.id desc
        limit 1;
        span.since := coalesce(alteration.created_at, '-infinity');
        spans := array_append(spans, span);
        exit when alteration.event is distinct from 'table_altered';
        span.until := span.since;
        if alteration.details ? 'former_name' then
            span.table_schema := (parse_ident(alteration.details ->> 'former_name'))[1];
            span.table_name := (parse_ident(alteration.details ->> 'former_name'))[2];
        end if;
        span.key_columns := array(
            select coalesce((select r.key from jsonb_each_text(alteration.details -> 'renamed_columns') r where r.value = k.name), k.name)
            from unnest(span.key_columns) with ordinality k(name, position) order by k.position);
    end loop;
    return spans;
end
$function$;
comment on function audit.table_spans(text, text) is
    'The names that a table had in the log, newest first, back to where it was made; of a dropped table, from its end.';

create function audit.key_after(change audit.row_change, resource_id text, span audit.table_span)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
-- change.key_before is known. An UPDATE that leaves the key alone stores no column of it.
declare
    key text;
begin
    if span.key_columns is null or not (change.after ?| span.key_columns) or change.before @> (
        select jsonb_object_agg(name, change.after -> name) from unnest(span.key_columns) name where change.after ? name) then
        return change.key_before;
    elsif span.key_is_resource_id then
        return resource_id;
    elsif cardinality(span.key_columns) = 1 then
        execute format('select %s', audit.bounded_sql('$1')) into key using change.after ->> span.key_columns[1];
        return key;
    end if;
    select jsonb_agg(coalesce(change.after -> c.name, change.key_before::jsonb -> (c.position - 1)::integer) order by c.position)::text into key
    from unnest(span.key_columns) with ordinality c(name, position);
    return key;
end
$function$;
comment on function audit.key_after(audit.row_change, text, audit.table_span) is
    'The key of a row after an UPDATE, as row_key and resource_id write it.';

create function audit.row_changes(spans audit.table_span[], key text)
    returns setof audit.row_change
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    touched record;
    change audit.row_change;
begin
    for touched in
        select e.id, e.created_at, e.transaction_id, e.operation, r.resource_id, r.row_key, r.before,
               case when e.operation = 'TRUNCATE' then e.context -> 'details' else r.after end as after, s as span
        from unnest(spans) s
        join audit.entry e
            on e.table_schema = s.table_schema and e.table_name = s.table_name and e.created_at >= s.since and e.created_at < s.until
        left join audit.change c on e.row_count > 1 and c.entry_id = e.id and c.created_at = e.created_at
        -- One row stands in the entry, several beside it; TRUNCATE keeps none, and by an estimate may count none.
        left join lateral (
            select e.resource_id, e.row_key, e.before, e.after where e.row_count = 1
            union all
            select c.resource_id, c.row_key, c.before, c.after where e.row_count > 1) r on true
        where e.operation = 'TRUNCATE'
           or e.operation in ('INSERT', 'UPDATE', 'DELETE')
              and (r.resource_id = key or r.row_key = key or e.operation = 'UPDATE' and r.after ?| s.key_columns)
        order by 2, 1
    loop
        change := row(touched.id, touched.created_at, touched.transaction_id, touched.operation,
                      case when touched.operation <> 'INSERT' then coalesce(touched.row_key, touched.resource_id) end, null,
                      touched.before, touched.after);
        if touched.operation = 'INSERT' then
            change.key_after := coalesce(touched.row_key, touched.resource_id);
        elsif touched.operation = 'UPDATE' then
            change.key_after := audit.key_after(change, touched.resource_id, touched.span);
        elsif touched.operation = 'TRUNCATE' then
            change.key_before := key;
        end if;
        if key in (change.key_before, change.key_after) then
            return next change;
        end if;
    end loop;
end
$function$;
comment on function audit.row_changes(audit.table_span[], text) is
    'The changes, oldest first, that found or left a row under this key, and the TRUNCATEs of its table.';

create function audit.alter_row_image(image jsonb, details jsonb)
    returns jsonb
    language sql
    immutable
    parallel safe
return (
    select coalesce(jsonb_object_agg(coalesce(details -> 'renamed_columns' ->> c.key, c.key), c.value), '{}')
    from jsonb_each(image) c
    where not coalesce(details -> 'dropped_columns' ? c.key, false)
      and not coalesce(details -> 'rewritten_columns' ? coalesce(details -> 'renamed_columns' ->> c.key, c.key), false))
    || (select coalesce(jsonb_object_agg(a.name, coalesce(details -> 'filled_columns' -> a.name, 'null')), '{}')
        from jsonb_array_elements_text(details -> 'added_columns') a(name)
        where not coalesce(details -> 'rewritten_columns' ? a.name, false));
comment on function audit.alter_row_image(jsonb, jsonb) is
    'A row after an alteration of its table: renamed, without dropped columns, with added ones as far as the log knows their values.';

create function audit.row_image(spans audit.table_span[], key text, moment timestamptz, is_inclusive boolean)
    returns jsonb
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    items audit.row_change[];
    item audit.row_change;
    n integer;
    first_item integer := 0;
    skipped integer[] := '{}';
    is_found boolean;
    image jsonb;
    -- Columns after the moment: by their name then, the name at the moment; null for those that came later.
    names jsonb := '{}';
begin
    -- The entries of one statement have one moment: at it a row leaves its key before another takes it.
    select array_agg(i.item order by (i.item).created_at, (i.item).key_after is not distinct from key, (i.item).entry_id) into items
    from (
        select c as item from audit.row_changes(spans, key) c
        union all
        select row(e.id, e.created_at, e.transaction_id, 'ALTER', null, null, null, e.context -> 'details')::audit.row_change
        from unnest(spans) s
        join audit.entry e
            on e.resource_type = 'audit_log' and e.event = 'table_altered' and e.resource_id = format('%I.%I', s.table_schema, s.table_name)
           and e.created_at >= s.since and e.created_at < s.until
    ) i;
    n := (select count(*) from unnest(items) i where i.created_at < moment or i.created_at = moment and is_inclusive);

    -- Back to where the row came under this key.
    for position in reverse n .. 1 loop
        item := items[position];
        if item.operation = 'ALTER' then
            continue;
        elsif item.operation = 'TRUNCATE' then
            -- Of one partition: perhaps not the row's. It is not, when the next change finds it.
            select i.operation in ('UPDATE', 'DELETE') and i.key_before = key into is_found
            from unnest(items) with ordinality i(entry_id, created_at, transaction_id, operation, key_before, key_after, before, after, place)
            where i.place > position and i.operation not in ('ALTER', 'TRUNCATE')
            order by i.place
            limit 1;
            continue when item.after ? 'partition' and is_found;
            return null;
        elsif item.key_after is distinct from key then
            -- MERGE tells its insertions before its deletions: this one may be of the row that stood there before.
            if position > 1 and items[position - 1].transaction_id = item.transaction_id and items[position - 1].key_after = key
               and items[position - 1].operation <> 'ALTER' and not (items[position - 1].after @> item.before) then
                skipped := array_append(skipped, position);
                continue;
            end if;
            return null;
        elsif item.key_before is distinct from key then
            first_item := position;
            exit;
        end if;
    end loop;

    if first_item = 0 and not exists (
        -- Older than the log: it was there if the first change found it.
        select from (select i from unnest(items) with ordinality u(entry_id, created_at, transaction_id, operation, key_before, key_after, before, after, position)
                     cross join lateral (select u.operation, u.key_before) i
                     where u.operation <> 'ALTER' order by u.position limit 1) f
        where (f.i).operation in ('UPDATE', 'DELETE') and (f.i).key_before = key) then
        return null;
    end if;
    image := '{}';
    for position in greatest(first_item, 1) .. n loop
        item := items[position];
        if item.operation = 'ALTER' then
            image := audit.alter_row_image(image, item.after);
        elsif item.operation = 'UPDATE' and item.key_before is distinct from key then
            image := audit.row_image(spans, item.key_before, item.created_at, false) || item.after;
        elsif item.operation <> 'TRUNCATE' and position <> all(skipped) then
            image := image || item.after;
        end if;
    end loop;

    -- What no change up to the moment tells, the next one does by its before.
    for position in n + 1 .. coalesce(cardinality(items), 0) loop
        item := items[position];
        if item.operation = 'ALTER' then
            names := names
                || (select coalesce(jsonb_object_agg(a.name, null), '{}')
                    from jsonb_array_elements_text(coalesce(item.after -> 'added_columns', '[]') || coalesce(item.after -> 'rewritten_columns', '[]')) a(name))
                || (select coalesce(jsonb_object_agg(r.value, case when names ? r.key then names -> r.key else to_jsonb(r.key) end), '{}')
                    from jsonb_each_text(item.after -> 'renamed_columns') r);
        else
            continue when item.operation = 'TRUNCATE' and item.after ? 'partition';
            exit when item.operation not in ('UPDATE', 'DELETE') or item.key_before <> key;
            image := (select coalesce(jsonb_object_agg(case when names ? b.key then names ->> b.key else b.key end, b.value), '{}')
                      from jsonb_each(item.before) b
                      where not names ? b.key or names -> b.key <> 'null') || image;
            exit when item.key_after is distinct from key;
        end if;
    end loop;
    return image;
end
$function$;
comment on function audit.row_image(audit.table_span[], text, timestamptz, boolean) is
    'The row that stood under a key at a moment, or just before it; null when none did.';

create function audit.row_history(table_schema text, table_name text, key text)
    returns table (
        entry_id uuid, created_at timestamptz, event text, operation text, key_before text, key_after text, before jsonb, after jsonb,
        actor_type text, actor_id text, actor_name text, request_id text, database_user text)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
-- Not in the standard's form: that would bind the log's columns to it, and hold back migrations.
as $function$
    select c.entry_id, c.created_at, e.event, c.operation, c.key_before, c.key_after, c.before, c.after,
           e.actor_type, e.actor_id, e.actor_name, e.request_id, e.database_user
    from audit.row_changes(audit.table_spans(table_schema, table_name), key) c
    join audit.entry e on e.id = c.entry_id and e.created_at = c.created_at
    order by c.created_at, c.entry_id;
$function$;
comment on function audit.row_history(text, text, text) is
    'The history of a row of a table that may be gone: every change that found or left a row under this key (as resource_id and row_key write it), oldest first, under earlier names of the table too, and the TRUNCATEs of the table.';

create function audit.row_history(target regclass, key text)
    returns table (
        entry_id uuid, created_at timestamptz, event text, operation text, key_before text, key_after text, before jsonb, after jsonb,
        actor_type text, actor_id text, actor_name text, request_id text, database_user text)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
begin atomic
    select h.*
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    cross join lateral audit.row_history(n.nspname::text, c.relname::text, key) h
    where c.oid = coalesce(pg_partition_root(target)::oid, target)
    order by h.created_at, h.entry_id;
end;
comment on function audit.row_history(regclass, text) is
    'The history of a row: every change that found or left one under this key (as resource_id and row_key write it), oldest first, under earlier names of the table too, and the TRUNCATEs of the table. A partition is its whole table.';

create function audit.row_as_of(table_schema text, table_name text, key text, moment timestamptz)
    returns jsonb
    language sql
    stable
    set search_path = pg_catalog, pg_temp
return audit.row_image(audit.table_spans(table_schema, table_name), key, moment, true);
comment on function audit.row_as_of(text, text, text, timestamptz) is
    'The row of a table that may be gone which stood under a key at a moment, as before and after write it. Null: none did, or the log does not reach back. A column of which the log says nothing is left out.';

create function audit.row_as_of(target regclass, key text, moment timestamptz)
    returns jsonb
    language sql
    stable
    set search_path = pg_catalog, pg_temp
begin atomic
    select audit.row_as_of(n.nspname::text, c.relname::text, key, moment)
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.oid = coalesce(pg_partition_root(target)::oid, target);
end;
comment on function audit.row_as_of(regclass, text, timestamptz) is
    'The row that stood under a key at a moment, as before and after write it. Null: none did, or the log does not reach back. A column of which the log says nothing (the row is older than the log and it never changed) is left out.';

-- Reading is recorded: who reads leaves an entry, before he gets the day's first answer.

set search_path = pg_catalog, pg_temp;

create table audit.reading (
    workspace_id text collate "C" not null,
    reader_id text collate "C" not null,
    last_used_at timestamptz,
    viewed_on date,
    write_denied_on date,
    constraint reader_is_noted_once primary key (workspace_id, reader_id)
);
comment on table audit.reading is
    'Who read the log last when: one row for each reader of a workspace, and one with empty texts for whoever tried to write without being known.';
comment on column audit.reading.workspace_id is 'The workspace that is read. Empty: whoever is not known. Never null.';
comment on column audit.reading.reader_id is
    'Prefix of the API key, or the id that another authenticator gave. Empty: whoever is not known. Never null.';
comment on column audit.reading.last_used_at is 'When the reader read last, to five minutes. Null: never.';
comment on column audit.reading.viewed_on is 'UTC day of the reader''s last log_viewed entry. Null: none yet.';
comment on column audit.reading.write_denied_on is 'UTC day of the reader''s last log_write_denied entry. Null: none yet.';

create function audit.reading_is_noted(workspace_id text, reader_id text)
    returns boolean
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select exists (
        select from audit.reading r
        where r.workspace_id = reading_is_noted.workspace_id
          and r.reader_id = reading_is_noted.reader_id
          and r.viewed_on = audit.utc_day(clock_timestamp())
          and r.last_used_at > clock_timestamp() - interval '5 minutes');
end;
comment on function audit.reading_is_noted(text, text) is
    'Whether a reader may be answered without note_reading: today''s log_viewed stands, and the last use is noted to five minutes.';

create type audit.reader as (
    workspace_id text,
    id text,
    name text,
    type text,
    ip text,
    user_agent text
);
comment on type audit.reader is
    'Who reads: the workspace, the id (a key''s prefix, or what another authenticator gave), the name, user or service, and from where.';

create function audit.write_reading_event(event text, reader audit.reader, details jsonb)
    returns void
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
begin
    -- The reader is the actor. These hold until the transaction ends, which is the app's own.
    perform set_config('audit.actor_id', coalesce(reader.id, ''), true),
            set_config('audit.actor_name', coalesce(reader.name, ''), true),
            set_config('audit.actor_type', coalesce(reader.type, ''), true),
            audit.set_context(ip => reader.ip, user_agent => reader.user_agent);
    perform audit.insert_event(event, 'audit_log', nullif(reader.id, ''), nullif(reader.name, ''), reader.workspace_id, details);
end
$function$;
comment on function audit.write_reading_event(text, audit.reader, jsonb) is
    'Writes an entry of which a reader of the log is the actor and the resource.';

create function audit.note_reading(reader audit.reader)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    moment timestamptz;
    noted audit.reading;
begin
    insert into audit.reading (workspace_id, reader_id) values (reader.workspace_id, reader.id) on conflict do nothing;
    -- Of several first requests one records; the others wait here for it and find it done.
    select * into strict noted from audit.reading r
    where r.workspace_id = reader.workspace_id and r.reader_id = reader.id
    for update;
    -- Read after the wait: midnight may have passed in it.
    moment := clock_timestamp();
    if noted.viewed_on is distinct from audit.utc_day(moment) then
        perform audit.write_reading_event('log_viewed', reader, null);
    elsif noted.last_used_at > moment - interval '5 minutes' then
        return;
    end if;
    update audit.reading r
    set last_used_at = moment, viewed_on = audit.utc_day(moment)
    where r.workspace_id = reader.workspace_id and r.reader_id = reader.id;
end
$function$;
comment on function audit.note_reading(audit.reader) is
    'Notes that a reader reads: one log_viewed entry for each reader and UTC day, the last use at most every five minutes. Commit it before the answer; needs READ COMMITTED.';

create function audit.note_export(reader audit.reader, filter jsonb, row_count bigint)
    returns void
    language sql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select audit.write_reading_event('log_exported', reader, jsonb_build_object('filter', filter, 'row_count', row_count));
end;
comment on function audit.note_export(audit.reader, jsonb, bigint) is
    'Records one export: log_exported with its filter and the number of entries. Commit it before the first byte is sent.';

create function audit.note_denied_write(reader audit.reader, method text, path text)
    returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
declare
    today date;
    noted audit.reading;
begin
    insert into audit.reading (workspace_id, reader_id)
    values (coalesce(reader.workspace_id, ''), coalesce(reader.id, '')) on conflict do nothing;
    select * into strict noted from audit.reading r
    where r.workspace_id = coalesce(reader.workspace_id, '') and r.reader_id = coalesce(reader.id, '')
    for update;
    today := audit.utc_day(clock_timestamp());
    if noted.write_denied_on = today then
        return false;
    end if;
    update audit.reading r
    set write_denied_on = today
    where r.workspace_id = noted.workspace_id and r.reader_id = noted.reader_id;
    perform audit.write_reading_event('log_write_denied', reader,
        jsonb_build_object('method', left(method, 20), 'path', left(path, 200)));
    return true;
end
$function$;
comment on function audit.note_denied_write(audit.reader, text, text) is
    'Records that somebody tried to write through the REST app: the first of a UTC day for each reader, and the first of whoever is not known (no id, no workspace: seen by DBAs). Returns whether it was that.';

-- Search by words: in the names of an entry and its changed values. Indexes answer, on closed days their
-- own, on open days the one that upkeep keeps beside them; what has neither yet is read.

set search_path = pg_catalog, pg_temp;

create function audit.entry_words(resource_name text, actor_name text, before jsonb, after jsonb)
    returns tsvector
    language sql
    immutable
    parallel safe
    -- Dear: what is cheap is asked first.
    cost 1000
-- Values without their keys. Cut, because a tsvector holds a megabyte at most and more is an error.
return to_tsvector('pg_catalog.simple'::regconfig, left(
    coalesce(resource_name, '') || ' ' || coalesce(actor_name, '')
    || coalesce((select string_agg(' ' || left(v #>> '{}', 100000), '')
                 from jsonb_path_query(before, 'strict $.** ? (@.type() == "string" || @.type() == "number")') v), '')
    || coalesce((select string_agg(' ' || left(v #>> '{}', 100000), '')
                 from jsonb_path_query(after, 'strict $.** ? (@.type() == "string" || @.type() == "number")') v), ''),
    100000));
comment on function audit.entry_words(text, text, jsonb, jsonb) is
    'The words by which an entry or a changed row is found: its names and the values before and after, without the columns'' names; of these texts the first 100,000 characters. Changing it wants every index named …_words made anew.';

create type audit.search_hit as (
    id uuid,
    created_at timestamptz,
    event text,
    resource_type text,
    resource_id text,
    resource_name text,
    actor_id text,
    actor_name text,
    request_id text,
    row_count bigint
);
comment on type audit.search_hit is 'An entry that audit.search found: what lists filter and sort by.';

create function audit.search(words text, since timestamptz, until timestamptz)
    returns setof audit.search_hit
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
    -- The plan must know the days.
    set plan_cache_mode = 'force_custom_plan'
    set jit = 'off'
as $function$
declare
    -- Never an argument: what a reader may see is his transaction's alone.
    workspace constant text := current_setting('audit.reader_workspace', true);
    query constant tsquery := plainto_tsquery('pg_catalog.simple', words);
    indexed_from timestamptz;
    indexed_until timestamptz;
    stretch record;
    ids uuid[];
begin
    select greatest(since, b.indexed_from), least(until, b.counted_until) into indexed_from, indexed_until
    from audit.reading_bounds() b
    where b.indexed_from < least(until, b.counted_until) and since < b.counted_until;

    -- Before and after what upkeep has indexed beside the open days; all, where it has indexed nothing.
    for stretch in
        select * from (values (since, coalesce(indexed_from, until), false), (coalesce(indexed_until, until), until, true))
                      s (lower, upper, is_recent)
        where s.lower < s.upper
    loop
        return query
        with touched as materialized (
            select distinct c.created_at, c.entry_id
            from audit.change c
            where c.workspace_id = workspace and c.created_at >= stretch.lower and c.created_at < stretch.upper
              -- No index tells the recent ones from the others of an open day: they are looked for only where there are any.
              and (not stretch.is_recent or exists (
                  select from audit.entry e
                  where e.workspace_id = workspace and e.created_at >= stretch.lower and e.created_at < stretch.upper
                    and e.row_count > 1))
              and audit.entry_words(c.resource_name, null, c.before, c.after) @@ query
        )
        select e.id, e.created_at, e.event, e.resource_type, e.resource_id, e.resource_name, e.actor_id, e.actor_name,
               e.request_id, e.row_count
        from audit.entry e
        where e.workspace_id = workspace and e.created_at >= stretch.lower and e.created_at < stretch.upper
          and audit.entry_words(e.resource_name, e.actor_name, e.before, e.after) @@ query
        union all
        -- OFFSET 0: one by one, each in the day that its moment names. Those that hold the words themselves are found above.
        select found.*
        from touched
        cross join lateral (
            select e.id, e.created_at, e.event, e.resource_type, e.resource_id, e.resource_name, e.actor_id, e.actor_name,
                   e.request_id, e.row_count
            from audit.entry e
            where e.workspace_id = workspace and e.created_at >= stretch.lower and e.created_at < stretch.upper
              and e.created_at = touched.created_at and e.id = touched.entry_id
              and not audit.entry_words(e.resource_name, e.actor_name, e.before, e.after) @@ query
            offset 0) found;
    end loop;

    if indexed_from is null then
        return;
    end if;
    select array_agg(w.id) into ids
    from audit.open_words w
    where w.workspace_id = workspace and w.created_at >= indexed_from and w.created_at < indexed_until and w.words is null;
    return query
    select e.id, e.created_at, e.event, e.resource_type, e.resource_id, e.resource_name, e.actor_id, e.actor_name,
           e.request_id, e.row_count
    from (
        select w.created_at, w.id
        from audit.open_words w
        where w.workspace_id = workspace and w.created_at >= indexed_from and w.created_at < indexed_until
          and w.words @@ query
        union
        select c.created_at, c.entry_id
        from audit.change c
        where ids is not null and c.workspace_id = workspace and c.entry_id = any(ids)
          and c.created_at >= indexed_from and c.created_at < indexed_until
          and audit.entry_words(c.resource_name, null, c.before, c.after) @@ query
    ) hit
    join audit.entry e on e.created_at = hit.created_at and e.id = hit.id
    where e.workspace_id = workspace and e.created_at >= indexed_from and e.created_at < indexed_until;
end
$function$;
comment on function audit.search(text, timestamptz, timestamptz) is
    'The entries of the workspace that the transaction names (audit.reader_workspace), within a stretch of time, that hold every one of the words, in an entry''s own values or in those of one of its rows.';

-- API keys: only their SHA-256 is stored.

set search_path = pg_catalog, pg_temp;

create table audit.api_key (
    prefix text collate "C" not null,
    digest bytea not null,
    workspace_id text collate "C" not null,
    name text not null,
    role text collate "C" not null,
    created_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz,
    lifetime interval,
    revoked_at timestamptz,
    constraint api_key_is_known_by_its_prefix primary key (prefix),
    constraint digest_belongs_to_one_key unique (digest),
    constraint digest_is_sha256 check (octet_length(digest) = 32),
    constraint prefix_has_eight_characters check (prefix ~ '^[A-Za-z0-9_-]{8}$'),
    constraint role_is_known check (role in ('admin', 'auditor', 'member')),
    constraint workspace_and_name_are_given check (workspace_id <> '' and name <> '')
);
comment on table audit.api_key is 'Keys of the REST app. A key itself is shown once, when it is made, and stored nowhere.';
comment on column audit.api_key.prefix is 'The first 8 characters after daybook_: names the key in lists and logs. Never null.';
comment on column audit.api_key.digest is 'SHA-256 of the whole key. Never null.';
comment on column audit.api_key.workspace_id is 'The workspace that the key reads. Never null.';
comment on column audit.api_key.name is 'What the key is for, or whose it is. Never null.';
comment on column audit.api_key.role is 'admin and auditor read everything of the workspace, member nothing. Never null.';
comment on column audit.api_key.created_at is 'When the key was made. Never null.';
comment on column audit.api_key.expires_at is 'From when the key is no longer valid. Null: it does not expire.';
comment on column audit.api_key.lifetime is
    'For how long the key was made; rotation, which may end it sooner, leaves it. Null: for ever.';
comment on column audit.api_key.revoked_at is 'When the key was revoked. Null: it was not.';

create function audit.same_digest(one bytea, other bytea)
    returns boolean
    language sql
    volatile
begin atomic
    -- Where a comparison of the digests of both with a fresh salt stops says nothing about either of them.
    select sha256(one || salt) = sha256(other || salt)
    from (select uuid_send(gen_random_uuid()) as salt) s;
end;
comment on function audit.same_digest(bytea, bytea) is
    'Whether two digests are equal, in a time that does not depend on where they differ. Null for null.';

create function audit.key_is_valid(key audit.api_key)
    returns boolean
    language sql
    stable
begin atomic
    select (key).revoked_at is null and ((key).expires_at is null or (key).expires_at > clock_timestamp());
end;
comment on function audit.key_is_valid(audit.api_key) is 'Whether a key is neither revoked nor expired at this moment.';

create function audit.find_key(key_prefix text, key_digest bytea)
    returns table (prefix text, name text, workspace_id text, role text, is_noted boolean)
    language sql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select k.prefix, k.name, k.workspace_id, k.role, audit.reading_is_noted(k.workspace_id, k.prefix)
    from audit.api_key k
    where k.prefix = key_prefix and audit.same_digest(k.digest, key_digest) and audit.key_is_valid(k);
end;
comment on function audit.find_key(text, bytea) is
    'The valid key with this prefix and SHA-256: one row, or none when it is unknown, revoked or expired. is_noted: it needs no note_reading before its answer.';

create function audit.create_key(prefix text, digest bytea, workspace_id text, name text, role text, expires_at timestamptz default null)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
begin
    insert into audit.api_key (prefix, digest, workspace_id, name, role, expires_at, lifetime)
    values (prefix, digest, workspace_id, name, role, expires_at, expires_at - clock_timestamp());
    perform audit.write_event('key_created', prefix, workspace_id,
        jsonb_build_object('name', name, 'role', role, 'expires_at', expires_at));
end
$function$;
comment on function audit.create_key(text, bytea, text, text, text, timestamptz) is
    'Stores a key by its SHA-256 and records key_created in its workspace. Raises 23514 for an unknown role or a bad prefix.';

create function audit.revoke_key(prefix text)
    returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
#variable_conflict use_column
declare
    revoked audit.api_key;
begin
    update audit.api_key k
    set revoked_at = clock_timestamp()
    where k.prefix = revoke_key.prefix and k.revoked_at is null
    returning * into revoked;
    if revoked.prefix is null then
        return false;
    end if;
    perform audit.write_event('key_revoked', revoked.prefix, revoked.workspace_id,
        jsonb_build_object('name', revoked.name, 'role', revoked.role));
    return true;
end
$function$;
comment on function audit.revoke_key(text) is
    'Revokes a key from the next request on and records key_revoked. Returns false when there is no such key or it was revoked already.';

create function audit.rotate_key(
    old_prefix text, prefix text, digest bytea, overlap interval, expires_at timestamptz default null)
    returns table (old_key_ends_at timestamptz, new_key_ends_at timestamptz)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
#variable_conflict use_column
declare
    moment constant timestamptz := clock_timestamp();
    old_key audit.api_key;
begin
    if overlap is null or overlap < interval '0' then
        raise exception 'overlap: % is no span of time from 0 on', coalesce(overlap::text, 'null')
            using errcode = 'invalid_parameter_value', hint = 'overlap => ''24 hours''';
    end if;
    select * into old_key from audit.api_key k where k.prefix = rotate_key.old_prefix for update;
    if old_key.prefix is null or not audit.key_is_valid(old_key) then
        return;
    end if;
    old_key_ends_at := least(old_key.expires_at, moment + overlap);
    -- A key that was made for some time is replaced by one for as long.
    new_key_ends_at := coalesce(rotate_key.expires_at, moment + old_key.lifetime);
    insert into audit.api_key (prefix, digest, workspace_id, name, role, expires_at, lifetime)
    values (rotate_key.prefix, rotate_key.digest, old_key.workspace_id, old_key.name, old_key.role, new_key_ends_at,
            new_key_ends_at - moment);
    perform audit.write_event('key_created', rotate_key.prefix, old_key.workspace_id,
        jsonb_build_object('name', old_key.name, 'role', old_key.role, 'expires_at', new_key_ends_at,
                           'replaces', old_key.prefix, 'replaced_key_ends_at', old_key_ends_at));
    if overlap = interval '0' then
        perform audit.revoke_key(old_key.prefix);
    else
        update audit.api_key k set expires_at = old_key_ends_at where k.prefix = old_key.prefix;
    end if;
    return next;
end
$function$;
comment on function audit.rotate_key(text, text, bytea, interval, timestamptz) is
    'Replaces a valid key by a new one of the same workspace, name and role; both are valid for the overlap, then the old one ends. expires_at null: as long as the old one was made for. Records key_created, which names the key it replaces. Returns when both end (null: never), or no row when there is no such valid key.';

create function audit.list_keys(beginning text default '')
    returns table (
        prefix text, name text, workspace_id text, role text, created_at timestamptz, expires_at timestamptz,
        revoked_at timestamptz, last_used_at timestamptz)
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select k.prefix, k.name, k.workspace_id, k.role, k.created_at, k.expires_at, k.revoked_at, r.last_used_at
    from audit.api_key k
    left join audit.reading r on r.workspace_id = k.workspace_id and r.reader_id = k.prefix
    where starts_with(k.prefix, list_keys.beginning)
    order by k.created_at, k.prefix;
end;
comment on function audit.list_keys(text) is
    'The keys whose prefix begins so, without their digests, oldest first; last_used_at to five minutes, null when never.';

-- Sessions of the page: opened with an API key, and ended with it.

set search_path = pg_catalog, pg_temp;

create table audit.page_session (
    prefix text collate "C" not null,
    digest bytea not null,
    key_prefix text collate "C" not null,
    opened_at timestamptz not null default clock_timestamp(),
    ends_at timestamptz not null,
    constraint page_session_is_known_by_its_prefix primary key (prefix),
    constraint digest_is_sha256 check (octet_length(digest) = 32),
    constraint session_belongs_to_a_key foreign key (key_prefix) references audit.api_key on delete cascade
);
create index page_session_by_key on audit.page_session (key_prefix, opened_at);
comment on table audit.page_session is
    'Sessions of the page, at most 20 for each key. The browser''s cookie is a secret of its own; only its SHA-256 is stored.';
comment on column audit.page_session.prefix is 'The first 8 characters of the cookie''s secret. Never null.';
comment on column audit.page_session.digest is 'SHA-256 of the cookie''s secret. Never null.';
comment on column audit.page_session.key_prefix is 'The key that opened the session; it ends when the key does. Never null.';
comment on column audit.page_session.opened_at is 'When somebody signed in. Never null.';
comment on column audit.page_session.ends_at is 'When the session ends if nobody signs out. Never null.';

create function audit.find_session(session_prefix text, session_digest bytea)
    returns table (prefix text, name text, workspace_id text, role text, is_noted boolean)
    language sql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select k.prefix, k.name, k.workspace_id, k.role, audit.reading_is_noted(k.workspace_id, k.prefix)
    from audit.page_session s
    join audit.api_key k on k.prefix = s.key_prefix
    where s.prefix = session_prefix and audit.same_digest(s.digest, session_digest)
      and s.ends_at > clock_timestamp() and audit.key_is_valid(k);
end;
comment on function audit.find_session(text, bytea) is
    'The valid key that opened this session of the page, as find_key gives it: none when the session or the key has ended.';

create function audit.open_session(key_prefix text, key_digest bytea, prefix text, digest bytea)
    returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
begin
    if not exists (select from audit.find_key(open_session.key_prefix, open_session.key_digest)) then
        return false;
    end if;
    delete from audit.page_session s
    where s.key_prefix = open_session.key_prefix
      and (s.ends_at <= clock_timestamp()
           or s.prefix in (select o.prefix from audit.page_session o
                           where o.key_prefix = open_session.key_prefix
                           order by o.opened_at desc offset 19));
    insert into audit.page_session (prefix, digest, key_prefix, ends_at)
    select open_session.prefix, open_session.digest, k.prefix,
           least(k.expires_at, clock_timestamp() + interval '12 hours')
    from audit.api_key k where k.prefix = open_session.key_prefix;
    return true;
end
$function$;
comment on function audit.open_session(text, bytea, text, bytea) is
    'Opens a session of the page for a valid key, for 12 hours at most; the key''s oldest ones above 20 end. Returns false when the key is not valid.';

create function audit.close_session(prefix text, digest bytea)
    returns void
    language sql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    delete from audit.page_session s where s.prefix = close_session.prefix and audit.same_digest(s.digest, close_session.digest);
end;
comment on function audit.close_session(text, bytea) is 'Ends a session of the page: its cookie is worth nothing from now on.';

-- The mends of audit.check() that are more than a line: text that a superuser can execute as it stands.

set search_path = pg_catalog, pg_temp;

create function audit.tracking_sql(tracked audit.tracked_table, relation oid, target oid)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    columns constant text[] := array(select attname from pg_attribute where attrelid = target and attnum > 0 and not attisdropped and attgenerated <> 'v');
    id_columns constant text[] := coalesce(tracked.resource_id_columns, audit.primary_key_columns(relation));
    path text;
    arguments text;
begin
    foreach path in array array_remove(
        array[tracked.resource_type_column, tracked.soft_delete_column, tracked.workspace_column, tracked.resource_name_column, tracked.subject_column]
        || id_columns
        || array(select jsonb_array_elements_text(e.value) from jsonb_each(tracked.column_events) e), null)
    loop
        if path <> all(columns) and (path not like '%.%' or (audit.find_lookup(target, path)).problem is not null) then
            return null;
        end if;
    end loop;
    select string_agg(format(', %s => %L', a.name, a.value), '' order by a.position) into arguments
    from unnest(
        array['kind', 'resource_type', 'resource_type_column', 'resource_id_columns', 'resource_name_column', 'subject_column',
              'workspace', 'workspace_column', 'workspace_setting', 'events', 'column_events', 'soft_delete_column',
              'excluded_columns', 'redacted_columns', 'max_value_bytes', 'missing_actor'],
        array[nullif(tracked.kind, 'resource'), coalesce(tracked.resource_type, nullif(tracked.table_name, 'audit_log')),
              tracked.resource_type_column, id_columns::text, tracked.resource_name_column, tracked.subject_column,
              tracked.workspace, tracked.workspace_column, tracked.workspace_setting, tracked.events::text, tracked.column_events::text,
              tracked.soft_delete_column,
              nullif(array(select c from unnest(tracked.excluded_columns) c where c = any(columns))::text, '{}'),
              nullif(array(select c from unnest(tracked.redacted_columns) c where c = any(columns))::text, '{}'),
              nullif(tracked.max_value_bytes, 65536)::text, nullif(tracked.missing_actor, 'system')]
    ) with ordinality a(name, value, position)
    where a.value is not null;
    return format('select audit.enable_tracking(%L%s)', target::regclass, arguments);
end
$function$;
comment on function audit.tracking_sql(audit.tracked_table, oid, oid) is
    'The statement that tracks target as relation is tracked, under the same resource_type and keys. Null: target lacks a column or lookup that it would take.';

create function audit.owner_change_sql(relations oid[], owner oid)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $function$
declare
    owner_name constant name := (select rolname from pg_roles where oid = owner);
    new_owner name := owner_name || '_tables';
    statements text;
begin
    if octet_length(owner_name) > 56 or exists (select from pg_roles where rolname = new_owner and (rolcanlogin or rolsuper)) then
        new_owner := 'tables_of_' || owner;
    end if;
    -- Of several tables each brings the whole of it along: the first one makes the role.
    statements := format('do %L', format(
        'begin if not exists (select from pg_catalog.pg_roles where rolname = %L) then create role %I nologin; end if; end',
        new_owner, new_owner));
    -- Foreign keys are checked as the table's owner, and whoever alters it later, after SET ROLE, may have to track it too.
    select statements || string_agg(format('; grant usage on schema %s to %I', s.namespace, new_owner), '')
           || case when pg_has_role(owner, 'audit_writer', 'member') then format('; grant audit_writer to %I', new_owner) else '' end
    into statements
    from (select distinct relnamespace::regnamespace as namespace from pg_class where oid = any(relations) order by 1) s;

    select statements || string_agg(format(
        '; alter table %1$s owner to %2$I; grant select, insert, update, delete, truncate on %1$s to %3$I', c.oid::regclass, new_owner, owner_name)
        -- A serial column's sequence goes with the table.
        || coalesce((select string_agg(format('; grant usage, select on sequence %s to %I', d.objid::regclass, owner_name), '' order by d.refobjsubid)
                     from pg_depend d join pg_class q on q.oid = d.objid and q.relkind = 'S'
                     where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
                       and d.refobjid = c.oid and d.deptype in ('a', 'i')), '')
        -- As the owner he was not held to the policies, unless they are forced.
        || case when c.relrowsecurity and not c.relforcerowsecurity
                then format('; create policy as_before on %s to %I using (true) with check (true)', c.oid::regclass, owner_name)
                else '' end, '' order by p.position)
    into statements
    from unnest(relations) with ordinality p(oid, position)
    join pg_class c on c.oid = p.oid;
    return statements;
end
$function$;
comment on function audit.owner_change_sql(oid[], oid) is
    'The statements that give tables to a role that cannot log in, made when missing, and leave their former owner what an application needs.';

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

-- The event triggers, all of them: those that follow DDL and those that guard the log. They belong to no schema, so a dump of single
-- schemas leaves them out, and this makes them again.

set search_path = pg_catalog, pg_temp;

create function audit.create_event_triggers()
    returns void
    language plpgsql
    security invoker
    set search_path = pg_catalog, pg_temp
as $function$
declare
    wanted record;
begin
    for wanted in
        select *
        from (values
            ('audit_follow_ddl', 'ddl_command_end', array[
                'ALTER TABLE', 'ALTER SCHEMA', 'ALTER TYPE', 'GRANT', 'REVOKE', 'CREATE INDEX', 'CREATE STATISTICS',
                'ALTER EXTENSION', 'ALTER OPERATOR'],
                'Keeps the capture functions up to their tables.'),
            ('audit_follow_rewrite', 'table_rewrite', null,
                'Records that DDL rewrites the rows of a tracked table.'),
            ('audit_follow_drop', 'sql_drop', null,
                'Ends the tracking of dropped tables.'),
            ('audit_follow_partitions', 'ddl_command_end', array['ALTER TABLE', 'CREATE TABLE', 'CREATE SCHEMA'],
                'Keeps the triggers on the partitions of tracked tables.'),
            ('audit_follow_identity', 'ddl_command_end', array['ALTER TABLE', 'CREATE TABLE'],
                'Keeps tables that the witness looks at open to UPDATE and DELETE.'),
            ('audit_guard_alteration', 'ddl_command_end', array[
                'ALTER TABLE', 'ALTER SCHEMA', 'CREATE TRIGGER', 'ALTER TRIGGER', 'CREATE RULE', 'ALTER RULE',
                'CREATE POLICY', 'ALTER POLICY', 'ALTER FUNCTION', 'ALTER ROUTINE',
                'CREATE TABLE', 'CREATE VIEW', 'ALTER VIEW'],
                'Keeps the log''s guards in place.'),
            ('audit_guard_rewrite', 'table_rewrite', null,
                'Keeps entries from being rewritten by DDL.'),
            ('audit_guard_drop', 'sql_drop', null,
                'Keeps the log and the days that retention keeps.')) w(name, event, tags, comment)
    loop
        if not exists (select from pg_event_trigger where evtname = wanted.name) then
            execute format('create event trigger %I on %s %s execute function audit.%I()', wanted.name, wanted.event,
                           (select format('when tag in (%s)', string_agg(quote_literal(t.tag), ', '))
                            from unnest(wanted.tags) t(tag) having count(*) > 0),
                           substr(wanted.name, length('audit_') + 1));
            execute format('comment on event trigger %I is %L', wanted.name, wanted.comment);
        end if;
        execute format('alter event trigger %I enable always', wanted.name);
    end loop;
end
$function$;
comment on function audit.create_event_triggers() is
    'Makes the log''s event triggers that are missing, and enables all of them, ALWAYS. Takes a superuser. For after a restore of single schemas.';

do $event_triggers$
begin
    if (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then
        perform audit.create_event_triggers();
    else
        raise notice 'event triggers need a superuser and were left out: after DDL on a tracked table capture goes on more slowly until "daybook maintain" compiles it anew, and the owner of the log is held back by its triggers alone, which he can disable';
    end if;
end
$event_triggers$;

-- Every owner, grant and policy of the log, on one page. Application roles get nothing here; the owner of a tracked table gets,
-- from enable_tracking, what it takes to attach partitions later.

set search_path = pg_catalog, pg_temp;

-- Owners: everything belongs to audit_owner, save what holds him back, which stays with the superuser who installs: the guards,
-- the schema, whose owner could drop them, and what runs with that superuser's rights. Compiled capture functions are given to audit_capture when they are made.
do $owners$
declare
    item record;
    installer_is_superuser constant boolean := (select rolsuper from pg_catalog.pg_roles where rolname = current_user);
begin
    if not installer_is_superuser then
        alter schema audit owner to audit_owner;
    end if;
    grant usage, create on schema audit to audit_owner with grant option;
    for item in
        select c.oid::regclass::text as name,
               case c.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end as kind
        from pg_catalog.pg_class c
        where c.relnamespace = 'audit'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
          -- An identity column's sequence follows its table.
          and not exists (select from pg_catalog.pg_depend d
                          where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'i' and c.relkind = 'S')
    loop
        execute format('alter %s %s owner to audit_owner', item.kind, item.name);
    end loop;
    for item in
        select p.oid::regprocedure::text as name
        from pg_catalog.pg_proc p where p.pronamespace = 'audit'::regnamespace
          and not (installer_is_superuser and p.proname in (
              'refuse_alteration', 'guard_alteration', 'guard_rewrite', 'guard_drop', 'follow_identity', 'create_event_triggers', 'admit_to_schema',
              'keep_lookups', 'lookup_body', 'lookup_name', 'find_lookup', 'lookups_run_as_owner', 'runs_code_when_read',
              'runs_code_when_read_sql', 'compares_without_casts', 'text_sql', 'base_type', 'is_core_type', 'entry_words'))
    loop
        execute format('alter function %s owner to audit_owner', item.name);
    end loop;
    alter type audit.actor_context owner to audit_owner;
    alter type audit.lookup owner to audit_owner;
    alter type audit.row_column owner to audit_owner;
    alter type audit.table_span owner to audit_owner;
    alter type audit.row_change owner to audit_owner;
    alter type audit.reader owner to audit_owner;
    alter type audit.search_hit owner to audit_owner;
end
$owners$;

-- PUBLIC has nothing.
revoke all on schema audit from public;
revoke all on all tables in schema audit from public;
revoke all on all sequences in schema audit from public;
revoke all on all functions in schema audit from public;
revoke all on type audit.actor_context, audit.lookup, audit.reader, audit.row_column, audit.table_span, audit.row_change,
    audit.search_hit from public;

-- audit_owner: puts the refusal of alterations on new days, lets the owners of tracked tables in, has lookups made.
grant execute on function
    audit.refuse_alteration(), audit.admit_to_schema(name), audit.keep_lookups(bigint, oid, text[]), audit.lookup_body(oid, text),
    audit.lookup_name(bigint, text), audit.find_lookup(oid, text), audit.lookups_run_as_owner(), audit.runs_code_when_read(oid),
    audit.runs_code_when_read_sql(text, boolean), audit.compares_without_casts(oid, oid, oid), audit.text_sql(text, oid),
    audit.base_type(oid), audit.is_core_type(oid), audit.entry_words(text, text, jsonb, jsonb)
    to audit_owner;

-- Row-level security: enabled, not forced (forced, capture itself would fail). The workspace is the one that the reader's own
-- transaction names, read once for a query: as a bare call it would be made for each row.
alter table audit.entry enable row level security;
alter table audit.change enable row level security;
alter table audit.daily_activity enable row level security;
alter table audit.activity_total enable row level security;
alter table audit.open_entry enable row level security;
alter table audit.open_words enable row level security;
create policy reader_sees_own_workspace on audit.entry for select to audit_reader
    using (workspace_id = (select current_setting('audit.reader_workspace', true)));
create policy reader_sees_own_workspace on audit.change for select to audit_reader
    using (workspace_id = (select current_setting('audit.reader_workspace', true)));
create policy reader_sees_own_workspace on audit.daily_activity for select to audit_reader
    using (workspace_id = (select current_setting('audit.reader_workspace', true)));
create policy reader_sees_own_workspace on audit.activity_total for select to audit_reader
    using (workspace_id = (select current_setting('audit.reader_workspace', true)));
create policy reader_sees_own_workspace on audit.open_entry for select to audit_reader
    using (workspace_id = (select current_setting('audit.reader_workspace', true)));
create policy dba_sees_everything on audit.entry for select to audit_dba using (true);
create policy dba_sees_everything on audit.change for select to audit_dba using (true);
create policy dba_sees_everything on audit.daily_activity for select to audit_dba using (true);
create policy dba_sees_everything on audit.activity_total for select to audit_dba using (true);
create policy dba_sees_everything on audit.open_entry for select to audit_dba using (true);
create policy dba_sees_everything on audit.open_words for select to audit_dba using (true);
create policy capture_inserts on audit.entry for insert to audit_capture with check (true);
create policy capture_inserts on audit.change for insert to audit_capture with check (true);

-- audit_capture: inserts entries and nothing else.
grant usage on schema audit to audit_capture;
grant insert on audit.entry, audit.change to audit_capture;
grant select on audit.floor to audit_capture;
grant usage on type audit.actor_context to audit_capture;
grant execute on function
    audit.new_entry_id(timestamptz), audit.new_entry_id_at(bigint), audit.moment_at(bigint), audit.write_moment(), audit.write_instant(),
    audit.read_actor_context(), audit.given_actor(), audit.actor_is_plain(text), audit.has_context(text), audit.plain_actor_type(),
    audit.plain_context(), audit.passes_its_rows(oid, name, text), audit.take_settings(), audit.give_settings_back(text[]),
    audit.split_edge(text), audit.table_has_shape(oid, text), audit.shape_sql(text),
    audit.capture_pieces(bigint, oid, text, oid[], boolean), audit.row_types_sql(text, text[]), audit.changed_columns_sql(jsonb), audit.pair_sql(), audit.object_sql(jsonb, text),
    audit.row_event_sql(jsonb, text, text[]), audit.row_sql(jsonb, text, text[]), audit.bulk_sql(jsonb, text, text[]),
    audit.refuse_unsigned_actor(text, text), audit.signature_problem(text),
    audit.truncate_sql(jsonb, oid, boolean), audit.count_is_exact(oid), audit.runs_code_when_read(oid),
    audit.runs_code_when_read_sql(text, boolean), audit.changed_object_sql(jsonb, text)
    to audit_capture;

-- audit_writer: an application's role that owns tables to track, or records events.
grant usage on schema audit to audit_writer;
grant execute on function
    audit.set_actor(text, text, text), audit.set_context(text, text, text, text, jsonb),
    audit.record(text, text, text, text, text, jsonb),
    audit.enable_tracking(regclass, text, text, text, text[], text, text, text, text, text, jsonb, jsonb, text, text[], text[], integer, text),
    audit.disable_tracking(regclass), audit.require_signed_actor(regclass, boolean), audit.store_signed_actor(oid, boolean),
    audit.prove_ownership(), audit.show_ownership(oid), audit.hide_ownership(oid),
    audit.primary_key_columns(oid), audit.refuse_unknown_columns(oid, text, text[]), audit.refuse_unusable_path(oid, text, text),
    audit.refuse_bad_events(oid, jsonb, jsonb), audit.find_lookup(oid, text), audit.lookups_run_as_owner(),
    audit.compares_without_casts(oid, oid, oid), audit.base_type(oid), audit.is_core_type(oid),
    audit.runs_code_when_read(oid), audit.runs_code_when_read_sql(text, boolean), audit.own_events(), audit.is_event_name(text),
    audit.store_tracking(oid, jsonb), audit.remove_tracking(oid),
    audit.partitions_of(oid), audit.create_capture_triggers(oid, text)
    to audit_writer;
grant usage on type audit.lookup to audit_writer;

-- audit_reader: the REST app, in the workspace named in its transaction.
grant usage on schema audit to audit_reader;
grant select on audit.entry, audit.change, audit.timeline, audit.timeline_change, audit.daily_activity, audit.activity_total,
    audit.open_entry
    to audit_reader;
grant execute on function
    audit.find_key(text, bytea), audit.find_session(text, bytea), audit.open_session(text, bytea, text, bytea),
    audit.close_session(text, bytea), audit.reading_is_noted(text, text), audit.note_reading(audit.reader),
    audit.note_export(audit.reader, jsonb, bigint), audit.note_denied_write(audit.reader, text, text),
    audit.retention_days(), audit.upkeep_is_late(), audit.is_bypassed(), audit.entry_moment(uuid), audit.reading_bounds(),
    audit.activity_digest(text[]), audit.search(text, timestamptz, timestamptz),
    audit.integrity(), audit.workspace_misfits()
    to audit_reader;
grant usage on type audit.reader, audit.search_hit to audit_reader;

-- audit_dba: reads everything, partitions included (granted where they are made), save the digests of keys.
grant usage on schema audit to audit_dba;
grant select on audit.entry, audit.change, audit.timeline, audit.timeline_change, audit.day_partition,
    audit.tracked_table, audit.rewritten_table, audit.upkeep, audit.day_hold, audit.reading, audit.schema_version, audit.floor,
    audit.watermark, audit.daily_activity, audit.activity_total, audit.closed_day, audit.open_entry, audit.open_words,
    audit.seal, audit.sealing, audit.verification
    to audit_dba;
grant select (prefix, workspace_id, name, role, created_at, expires_at, lifetime, revoked_at) on audit.api_key to audit_dba;
grant select (id, name, created_at) on audit.actor_key to audit_dba;
grant select on audit.signing_login to audit_dba;
grant select (prefix, key_prefix, opened_at, ends_at) on audit.page_session to audit_dba;
grant execute on function
    audit.check(), audit.upkeep_status(), audit.list_keys(text), audit.retention_days(), audit.upkeep_is_late(), audit.is_bypassed(), audit.entry_moment(uuid),
    audit.day_start(date), audit.utc_day(timestamptz), audit.days_past_retention(), audit.dropped_until(), audit.day_is_held(text), audit.watermark_holder(), audit.reading_bounds(),
    audit.reading_indexes(), audit.entry_words(text, text, jsonb, jsonb), audit.days_to_close(),
    audit.row_history(regclass, text), audit.row_history(text, text, text),
    audit.row_as_of(regclass, text, timestamptz), audit.row_as_of(text, text, text, timestamptz),
    audit.row_image(audit.table_span[], text, timestamptz, boolean), audit.row_changes(audit.table_span[], text),
    audit.alter_row_image(jsonb, jsonb), audit.key_after(audit.row_change, text, audit.table_span), audit.table_spans(text, text),
    audit.primary_key_columns(oid), audit.bounded_sql(text),
    audit.integrity(), audit.sealed_until(), audit.seal_bounds(interval, interval), audit.day_awaits_seal(text), audit.blocks_of_day(text),
    audit.note_verification(timestamptz, timestamptz, bigint, bigint, bigint, jsonb)
    to audit_dba;
grant usage on type audit.table_span, audit.row_change to audit_dba;

-- audit_maintainer: upkeep and keys; becomes audit_owner by SET ROLE for what functions cannot do.
grant usage on schema audit to audit_maintainer;
grant select on audit.day_partition, audit.tracked_table, audit.upkeep, audit.day_hold, audit.watermark, audit.closed_day,
    audit.seal, audit.sealing, audit.verification
    to audit_maintainer;
grant execute on function
    audit.take_upkeep_turn(), audit.maintain(), audit.prepare_days(integer, integer), audit.advance_watermark(), audit.watermark_holder(),
    audit.advance_counts(interval), audit.recount(), audit.days_to_close(), audit.close_day(text), audit.note_frozen(text),
    audit.drop_day(text, jsonb), audit.count_day(text), audit.days_past_retention(), audit.dropped_until(), audit.day_is_held(text),
    audit.move_oldest_day(), audit.hold_day(date, text), audit.release_day(date), audit.note_upkeep(text), audit.note_check(),
    audit.follow_table(bigint, text), audit.check(), audit.upkeep_status(), audit.upkeep_is_late(), audit.is_bypassed(), audit.retention_days(),
    audit.day_start(date), audit.utc_day(timestamptz),
    audit.create_key(text, bytea, text, text, text, timestamptz), audit.rotate_key(text, text, bytea, interval, timestamptz),
    audit.revoke_key(text), audit.list_keys(text),
    audit.integrity(), audit.sealed_until(), audit.seal_bounds(interval, interval), audit.day_awaits_seal(text), audit.blocks_of_day(text),
    audit.add_seal(bigint, timestamptz, timestamptz, timestamptz, bigint, bigint, bytea, bytea, bytea, bytea, bytea, bytea),
    audit.note_sealing(text), audit.note_verification(timestamptz, timestamptz, bigint, bigint, bigint, jsonb),
    audit.add_actor_key(text), audit.revoke_actor_key(text), audit.require_signed_actor_of(name, boolean)
    to audit_maintainer;
grant select (id, name, created_at) on audit.actor_key to audit_maintainer;
grant select on audit.signing_login to audit_maintainer;

-- The first days. As an extension none are made here: a restore runs this script before it brings the days of the dump;
-- enable_tracking and maintain() make them when they are missing.

set search_path = pg_catalog, pg_temp;

do $first_days$
declare
    member text;
begin
    if exists (select from pg_catalog.pg_extension where extname = 'pg_daybook') then
        -- Not schema_version, which the script fills.
        -- Not the page's sessions: a parallel restore may bring them before their keys. Who was signed in signs in again.
        foreach member in array array['audit.upkeep', 'audit.day_hold', 'audit.tracked_table', 'audit.actor_key', 'audit.signing_login', 'audit.api_key', 'audit.reading', 'audit.floor',
                                          'audit.watermark', 'audit.daily_activity', 'audit.activity_total', 'audit.closed_day',
                                          'audit.open_entry', 'audit.open_words', 'audit.seal', 'audit.sealing', 'audit.verification'] loop
            perform pg_catalog.pg_extension_config_dump(member::regclass, '');
        end loop;
        perform pg_catalog.pg_extension_config_dump(pg_get_serial_sequence('audit.tracked_table', 'id')::regclass, '');
    else
        perform audit.prepare_days();
    end if;
end
$first_days$;
