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
