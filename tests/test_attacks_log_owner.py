"""The owner of the log, whom a maintainer may become, alters no entry, whatever is taken away first.

A superuser can do all of it: against him there are seals.
"""

import psycopg
import pytest

from tests.conftest import Database
from tests.trail import Connection, trail


@pytest.fixture
def owner(database: Database, db: Connection) -> Connection:
    """A maintainer's login that has become the owner, in a log of one entry and two changes."""
    db.execute("create table document (id integer primary key, workspace_id text)")
    db.execute("select audit.enable_tracking('document')")
    db.execute("insert into document values (1, 'acme'), (2, 'acme')")
    connection = database.connect("maintainer")
    connection.execute("set role audit_owner")
    return connection


REFUSED = [
    "update audit.entry set actor_id = 'x'",
    "update audit.{entry} set actor_id = 'x'",
    "update audit.change set after = null",
    "delete from audit.entry",
    "delete from audit.{entry}",
    "delete from audit.{change}",
    "truncate audit.entry",
    "truncate audit.{entry}",
    "truncate audit.change",
    "merge into audit.entry e using (values (1)) v on true when matched then delete",
    "insert into audit.entry select * from audit.entry on conflict do nothing; delete from audit.entry",
    # The guards, taken away first.
    "alter table audit.entry disable trigger entry_is_never_altered",
    "alter table audit.entry disable trigger all",
    "alter table audit.entry disable trigger user",
    "alter table audit.{entry} disable trigger all",
    "alter table audit.{entry} enable replica trigger entry_is_never_altered",
    "alter table audit.change disable trigger change_is_never_truncated",
    "drop trigger entry_is_never_altered on audit.entry",
    "drop trigger entry_is_never_truncated on audit.{entry}",
    "alter trigger entry_is_never_altered on audit.entry rename to x",
    "create or replace function audit.refuse_alteration() returns trigger language plpgsql as 'begin return new; end'",
    (
        "create or replace trigger entry_is_never_altered before update on audit.entry"
        " for each row execute function suppress_redundant_updates_trigger()"
    ),
    "alter function audit.refuse_alteration() rename to x",
    "alter function audit.refuse_alteration() set search_path = pg_temp",
    "drop function audit.refuse_alteration() cascade",
    "set session_replication_role = replica",
    "alter role audit_owner set session_replication_role = replica",
    "alter event trigger audit_follow_ddl disable",
    "drop event trigger audit_follow_drop",
    # The table, taken away or exchanged.
    "drop table audit.entry cascade",
    "drop table audit.{entry}",
    "drop table audit.{change}",
    "drop schema audit cascade",
    "drop owned by audit_owner cascade",
    "alter table audit.entry detach partition audit.{entry}",
    "alter table audit.change detach partition audit.{change}",
    "alter table audit.entry rename to x",
    "alter table audit.{entry} rename to x",
    "alter table audit.entry set schema public",
    "alter schema audit rename to x",
    "alter table audit.entry owner to audit_capture",
    (
        "create table audit.forged (like audit.entry including constraints); alter table audit.entry"
        " attach partition audit.forged for values from ('2001-01-01') to ('2001-01-02')"
    ),
    "create table audit.forged partition of audit.entry for values from ('2001-01-01') to ('2001-01-02')",
    # Columns, rewritten.
    "drop view audit.timeline; alter table audit.entry alter column actor_id type text using 'x'",
    "drop view audit.timeline; alter table audit.entry alter column row_count type integer using 0",
    "alter table audit.entry drop column after cascade",
    "alter table audit.entry rename column before to x",
    "alter table audit.entry add column x text default 'y'",
    "alter table audit.entry alter column actor_id set default 'x'",
    "alter table audit.entry alter column actor_id drop not null",
    "alter table audit.entry drop constraint operation_is_known",
    # New entries, suppressed or changed on their way.
    (
        "create function audit.swallow() returns trigger language plpgsql as 'begin return null; end';"
        " create trigger a before insert on audit.entry for each row execute function audit.swallow()"
    ),
    (
        "create function audit.swallow() returns trigger language plpgsql as 'begin return null; end';"
        " create trigger a before insert on audit.{entry} for each row execute function audit.swallow()"
    ),
    "create rule a as on insert to audit.entry do instead nothing",
    "create rule a as on insert to audit.{change} do instead nothing",
    "create rule a as on delete to audit.entry do instead update audit.entry set after = null",
    # Who sees it.
    "drop policy reader_sees_own_workspace on audit.entry",
    "alter policy reader_sees_own_workspace on audit.entry using (true)",
    "create policy x on audit.entry using (true)",
    "create policy x on audit.entry as restrictive for insert to audit_capture with check (false)",
    "alter policy capture_inserts on audit.entry with check (false)",
    "alter table audit.entry disable row level security",
    "alter table audit.entry force row level security",
    "alter table audit.{entry} enable row level security",
    "alter view audit.timeline set (security_invoker = false)",
]


@pytest.mark.parametrize("statement", REFUSED)
def test_the_owner_of_the_log_is_refused(owner: Connection, db: Connection, statement: str) -> None:
    today = db.execute("select to_char(clock_timestamp() at time zone 'UTC', 'YYYYMMDD')").fetchone() or ("",)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        owner.execute(statement.format(entry=f"entry_{today[0]}", change=f"change_{today[0]}").encode())
    db.execute("insert into document values (3, 'acme')")
    assert trail(db, "operation, resource_id, row_count, after") == [
        ("INSERT", None, 2, None),
        ("INSERT", "3", 1, {"id": 3, "workspace_id": "acme"}),
    ]
