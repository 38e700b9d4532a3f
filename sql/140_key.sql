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
