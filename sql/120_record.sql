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
