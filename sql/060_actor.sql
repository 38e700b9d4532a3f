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
