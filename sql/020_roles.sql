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
