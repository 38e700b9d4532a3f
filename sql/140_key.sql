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
comment on column audit.api_key.revoked_at is 'When the key was revoked. Null: it was not.';

create function audit.find_key(digest bytea)
    returns table (prefix text, name text, workspace_id text, role text)
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    -- Looked up by digest: how long it takes says nothing about the key.
    select k.prefix, k.name, k.workspace_id, k.role
    from audit.api_key k
    where k.digest = find_key.digest
      and k.revoked_at is null
      and (k.expires_at is null or k.expires_at > clock_timestamp());
end;
comment on function audit.find_key(bytea) is 'The valid key with this SHA-256: one row, or none when it is unknown, revoked or expired.';

create function audit.create_key(prefix text, digest bytea, workspace_id text, name text, role text, expires_at timestamptz default null)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $function$
begin
    insert into audit.api_key (prefix, digest, workspace_id, name, role, expires_at)
    values (prefix, digest, workspace_id, name, role, expires_at);
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

create function audit.list_keys()
    returns table (prefix text, name text, workspace_id text, role text, created_at timestamptz, expires_at timestamptz, revoked_at timestamptz)
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
begin atomic
    select k.prefix, k.name, k.workspace_id, k.role, k.created_at, k.expires_at, k.revoked_at
    from audit.api_key k
    order by k.created_at, k.prefix;
end;
comment on function audit.list_keys() is 'All keys without their digests, oldest first.';
