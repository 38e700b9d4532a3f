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
