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
