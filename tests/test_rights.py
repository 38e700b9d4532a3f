"""Who may do what: shown with real logins that try."""

import psycopg
import pytest

from tests.conftest import Database
from tests.loot import bait, lay, stolen
from tests.trail import Connection, count, trail


@pytest.fixture
def document(db: Connection) -> Connection:
    """Two workspaces with two entries each, one of them bulk."""
    db.execute("create table document (id integer primary key, workspace_id text, title text)")
    db.execute("select audit.enable_tracking('document')")
    for workspace, first in (("acme", 1), ("other", 11)):
        values = [first, workspace, first + 1, workspace]
        db.execute("insert into document values (%s, %s, 'T'), (%s, %s, 'T')", values)
        db.execute("update document set title = 'U' where id = %s", [first])
    return db


@pytest.mark.parametrize("user", ["app_user", "app_owner", "installer"])
@pytest.mark.parametrize(
    "statement",
    [
        "select * from audit.entry",
        "select * from audit.timeline",
        "select * from audit.tracked_table",
        "select * from audit.api_key",
        "insert into audit.entry select * from audit.entry",
        "delete from audit.entry",
        "select audit.maintain()",
        "select audit.write_event('log_viewed', 'x', null, null)",
        "select audit.find_key('x', 'x')",
        "select audit.create_key('x', 'x', 'x', 'x', 'admin')",
        "select audit.compile_tracking(1, 'document'::regclass)",
        "select audit.follow_table(1, 'x')",
        "select audit.drop_day('entry_20260314')",
        "select setval('audit.floor', 1)",
        "truncate audit.entry",
        "set role audit_owner",
        "set role audit_capture",
    ],
)
def test_application_roles_get_nothing(database: Database, document: Connection, user: str, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.connect(user).execute(statement.encode())


def test_a_reader_sees_the_workspace_named_in_the_transaction_and_no_other(
    database: Database, document: Connection
) -> None:
    reader = database.connect("reader", autocommit=False)
    reader.execute("select set_config('audit.reader_workspace', 'acme', true)")
    seen = reader.execute("select distinct workspace_id from audit.timeline").fetchall()
    seen_rows = reader.execute("select distinct workspace_id from audit.timeline_change").fetchall()
    assert (seen, seen_rows) == ([("acme",)], [("acme",)])


def test_a_reader_that_names_no_workspace_sees_nothing(database: Database, document: Connection) -> None:
    document.execute("select audit.record('system_started', 'server')")
    reader = database.connect("reader")
    assert count(reader, "select count(*) from audit.timeline") == 0
    assert count(reader, "select count(*) from audit.timeline_change") == 0


@pytest.mark.parametrize(
    "statement",
    [
        "select * from audit.entry_beyond",
        "select * from audit.api_key",
        "select * from audit.tracked_table",
        "insert into audit.entry select * from audit.entry",
        "update audit.entry set event = 'x'",
        "delete from audit.entry",
        "truncate audit.entry",
        "select audit.check()",
        "select audit.list_keys()",
        "set role audit_dba",
    ],
)
def test_a_reader_may_do_nothing_else(database: Database, document: Connection, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.connect("reader").execute(statement.encode())


def test_switching_row_security_off_shows_a_reader_nothing(database: Database, document: Connection) -> None:
    reader = database.connect("reader")
    reader.execute("set row_security = off")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute("select * from audit.timeline")


def test_a_dba_reads_everything_partitions_included(database: Database, document: Connection) -> None:
    dba = database.connect("dba")
    assert count(dba, "select count(*) from audit.timeline") == count(document, "select count(*) from audit.entry")
    today = document.execute("select to_char(clock_timestamp() at time zone 'UTC', 'YYYYMMDD')").fetchone()
    assert today is not None
    assert count(dba, f"select count(*) from audit.entry_{today[0]}") > 0
    assert dba.execute("select prefix, name from audit.api_key").fetchall() == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        dba.execute("select digest from audit.api_key")


@pytest.mark.parametrize(
    "statement",
    [
        "update audit.entry set event = 'x'",
        "delete from audit.entry",
        "truncate audit.entry",
        "truncate audit.entry_{today}",
        "update audit.entry_{today} set actor_id = 'x'",
        "update audit.change set before = null",
        "delete from audit.change",
        "truncate audit.change",
    ],
)
def test_not_even_the_owner_alters_an_entry(document: Connection, statement: str) -> None:
    today = document.execute("select to_char(clock_timestamp() at time zone 'UTC', 'YYYYMMDD')").fetchone()
    assert today is not None
    document.execute("set role audit_owner")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="the audit log is only ever added to"):
        document.execute(statement.format(today=today[0]).encode())


def test_capture_inserts_and_nothing_else(document: Connection) -> None:
    found = document.execute(
        "select c.relname, p.privilege from pg_class c, unnest(array['SELECT','INSERT','UPDATE','DELETE','TRUNCATE'])"
        " p(privilege) where c.relnamespace = 'audit'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')"
        " and has_table_privilege('audit_capture', c.oid, p.privilege) order by 1, 2"
    ).fetchall()
    assert found == [("change", "INSERT"), ("entry", "INSERT"), ("floor", "SELECT")]
    assert document.execute("select has_schema_privilege('audit_capture', 'audit', 'create')").fetchone() == (False,)
    owners = document.execute(
        "select distinct proowner::regrole::text, prosecdef from pg_proc"
        " where pronamespace = 'audit'::regnamespace and proname ~ '^capture_[0-9]+$'"
    ).fetchall()
    assert owners == [("audit_capture", True)]


def test_the_definer_functions_of_tracking_want_proof_of_ownership(database: Database, db: Connection) -> None:
    # A superuser's ANALYZE runs the index function of whoever owns a table, with the superuser as its session_user.
    db.execute("create table victim (id integer primary key, workspace_id text)")
    db.execute("select audit.enable_tracking('victim')")
    owner = database.connect("app_owner")
    owner.execute("create table bait (a integer)")
    owner.execute("insert into bait values (1)")
    owner.execute(
        "create function go() returns void language plpgsql as $$ begin if session_user <> 'app_owner' then"
        """ perform audit.store_tracking('public.victim'::regclass, '{"kind": "resource", "workspace": "evil","""
        """ "excluded_columns": [], "redacted_columns": [], "max_value_bytes": 65536, "missing_actor": "system"}');"""
        " end if; end $$"
    )
    owner.execute(
        "create function idx(integer) returns integer language plpgsql immutable as"
        " $$ begin perform public.go(); return $1; end $$"
    )
    owner.execute("create index on bait (idx(a))")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="must be owner of table"):
        db.execute("analyze bait")
    assert db.execute("select workspace from audit.tracked_table").fetchall() == [(None,)]


@pytest.mark.parametrize(
    "code", ["create index on loot_table (id) where ev() = 1", "create index on loot_table ((ev()))"]
)
def test_capture_plans_no_query_that_runs_the_owners_functions(database: Database, db: Connection, code: str) -> None:
    owner = lay(database.connect("app_owner"))
    bait(owner, "ev()", "integer", "1", "immutable")
    owner.execute("create table loot_table (id integer primary key, workspace_id text)")
    owner.execute("grant select on loot_table to audit_capture")
    owner.execute("create table kid (id integer primary key, up integer references loot_table, workspace_id text)")
    owner.execute("select audit.enable_tracking('loot_table')")
    owner.execute("select audit.enable_tracking('kid', resource_name_column => 'up.workspace_id')")
    owner.execute("insert into loot_table values (1, 'acme')")
    owner.execute(code.encode())
    owner.execute("insert into kid values (1, 1, 'acme')")
    owner.execute("truncate loot_table, kid")
    assert stolen(db, "app_owner") == []
    assert trail(db, "operation") == [("INSERT",), ("INSERT",), ("TRUNCATE",), ("TRUNCATE",)]


def test_the_settings_of_tracking_cannot_forge_the_logs_own_events(database: Database, db: Connection) -> None:
    owner = database.connect("app_owner", autocommit=False)
    owner.execute("create table forged (id integer primary key, workspace_id text)")
    owner.execute("select audit.show_ownership('forged'::regclass)")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="event day_dropped belongs to the log itself"):
        owner.execute(
            """select audit.store_tracking('forged'::regclass, '{"kind": "resource", "workspace": "x", "events":"""
            """ {"INSERT": "day_dropped"}, "excluded_columns": [], "redacted_columns": [], "max_value_bytes": 65536,"""
            """ "missing_actor": "system"}')"""
        )


def test_the_owner_of_a_type_gains_nothing_by_casts_of_his_own(database: Database, db: Connection) -> None:
    owner = database.connect("app_owner")
    owner.execute("create type mood as enum ('fine')")
    owner.execute("create table loot (who text)")
    owner.execute("grant insert on loot to public")
    owner.execute(
        "create function steal(mood) returns json language plpgsql as $$ begin"
        " insert into public.loot values (current_user); return '1'; end $$"
    )
    owner.execute("create cast (mood as json) with function steal(mood)")
    owner.execute(
        "create function steal_text(mood) returns text language plpgsql as $$ begin"
        " insert into public.loot values (current_user); return '1'; end $$"
    )
    owner.execute("create cast (mood as text) with function steal_text(mood) as assignment")
    owner.execute("create type pair as (m mood)")
    owner.execute(
        "create table trap (id mood primary key, workspace_id mood, many mood[], p pair,"
        " a integer, unique (workspace_id))"
    )
    owner.execute("select audit.enable_tracking('trap', resource_name_column => 'id', subject_column => 'id')")
    owner.execute("insert into trap values ('fine', 'fine', '{fine}', '(fine)')")
    owner.execute("update trap set a = 1")
    owner.execute("delete from trap")
    assert trail(db, "operation, workspace_id, resource_id") == [
        ("INSERT", "fine", "fine"),
        ("UPDATE", "fine", "fine"),
        ("DELETE", "fine", "fine"),
    ]
    assert db.execute("select who from loot").fetchall() == []


@pytest.fixture
def looked_up(database: Database, db: Connection) -> Connection:
    """The owner of a table `kid` that looks a name up in his `mine.parent`, whose functions tell who runs them."""
    db.execute("create schema mine authorization app_owner")
    owner = database.connect("app_owner")
    owner.execute("grant usage on schema mine to audit_capture")
    lay(owner)
    bait(owner, "ev()", "integer", "1", "immutable")
    owner.execute("create table mine.parent (id integer primary key, title text)")
    owner.execute("grant select on mine.parent to audit_capture")
    owner.execute("create table kid (id integer primary key, up integer references mine.parent, workspace_id text)")
    owner.execute("select audit.enable_tracking('kid', resource_name_column => 'up.title')")
    owner.execute("insert into mine.parent values (1, 'Ada')")
    return owner


@pytest.mark.parametrize(
    "code",
    ["create index on mine.parent (id) where ev() = 1", "create statistics mine.s on (ev() + id), id from mine.parent"],
)
def test_a_snapshot_older_than_the_owners_code_does_not_run_it_as_the_capturing_role(
    database: Database, looked_up: Connection, db: Connection, code: str
) -> None:
    # What a transaction sees of the catalogue is older than what its planner sees; and the event trigger, which would
    # have compiled anew, waits for nobody.
    older = database.connect("app_owner", autocommit=False)
    older.execute("set transaction isolation level repeatable read")
    older.execute("select 1 from kid")
    holder = database.connect("app_owner", autocommit=False)
    holder.execute("revoke usage on schema mine from audit_capture")
    looked_up.execute(code.encode())
    holder.rollback()
    older.execute("insert into kid values (1, 1, 'acme')")
    older.commit()
    assert stolen(db, "app_owner") == []
    assert trail(db, "workspace_id, resource_name") == [("acme", "Ada")]


def test_a_parent_with_an_index_on_an_expression_is_looked_up_as_its_owner(
    looked_up: Connection, db: Connection
) -> None:
    looked_up.execute("create index on mine.parent (lower(title))")
    looked_up.execute("create index on mine.parent (id) where ev() = 1")
    looked_up.execute("insert into kid values (1, 1, 'acme')")
    looked_up.execute("insert into kid values (2, 1, 'acme'), (3, 1, 'acme')")
    assert trail(db, "resource_name, row_count") == [("Ada", 1), (None, 2)]
    assert db.execute("select distinct resource_name from audit.change").fetchall() == [("Ada",)]
    assert stolen(db, "app_owner") == []


@pytest.mark.parametrize(
    "alteration",
    ["security invoker", "owner to app_user", "rename to mine", "set schema mine", "set role = 'x'", "volatile"],
)
def test_a_lookup_is_altered_by_nobody(looked_up: Connection, db: Connection, alteration: str) -> None:
    [(lookup, owner)] = db.execute(
        "select oid::regprocedure::text, proowner::regrole::text from pg_proc where proname ~ '^lookup_[0-9]+_'"
    ).fetchall()
    assert owner == "app_owner"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        looked_up.execute(f"alter function {lookup} {alteration}".encode())


@pytest.mark.parametrize("act", ["drop function {}", "revoke execute on function {} from audit_capture"])
def test_a_lookup_that_is_taken_away_fails_no_write(looked_up: Connection, db: Connection, act: str) -> None:
    [(lookup,)] = db.execute("select oid::regprocedure from pg_proc where proname ~ '^lookup_[0-9]+_'").fetchall()
    looked_up.execute("insert into kid values (1, 1, 'acme')")
    looked_up.execute(act.format(lookup).encode())
    looked_up.execute("insert into kid values (2, 1, 'acme')")
    looked_up.execute("insert into kid values (3, 1, 'acme'), (4, 1, 'acme')")
    assert trail(db, "workspace_id, resource_name, row_count") == [
        ("acme", "Ada", 1),
        ("acme", None, 1),
        ("acme", None, 2),
    ]
    db.execute("select audit.maintain()")
    looked_up.execute("insert into kid values (5, 1, 'acme')")
    assert trail(db, "resource_name")[-1] == ("Ada",)


def test_a_lookup_follows_its_parent_to_another_owner_and_ends_with_the_tracking(
    database: Database, looked_up: Connection, db: Connection
) -> None:
    owners = "select proowner::regrole::text from pg_proc where proname ~ '^lookup_[0-9]+_'"
    db.execute("grant usage on schema mine to installer; alter table mine.parent owner to installer")
    db.execute("grant select on mine.parent to app_owner")
    assert db.execute(owners.encode()).fetchall() == [("installer",)]
    looked_up.execute("insert into kid values (1, 1, 'acme')")
    assert trail(db, "resource_name") == [("Ada",)]
    looked_up.execute("select audit.disable_tracking('kid')")
    assert db.execute(owners.encode()).fetchall() == []
