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
