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
