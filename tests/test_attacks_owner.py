"""The owner of a tracked table brings types, policies, triggers and parents of his own, and gets his own entry."""

import psycopg
import pytest

from tests.conftest import Database
from tests.loot import bait, lay, stolen
from tests.trail import Connection, changes, count, own_events, trail


@pytest.fixture
def owner(database: Database) -> Connection:
    """The login that owns the tables, with a loot of its own."""
    return lay(database.connect("app_owner"))


@pytest.fixture
def parent(owner: Connection) -> Connection:
    """A parent that capture may read, and a child that looks names up in it."""
    owner.execute("create table parent (id integer primary key, name text)")
    owner.execute("grant select on parent to audit_capture")
    owner.execute("insert into parent values (1, 'Reports')")
    owner.execute("create table child (id integer primary key, up integer references parent, workspace_id text)")
    owner.execute("select audit.enable_tracking('child', resource_name_column => 'up.name')")
    return owner


def test_the_loot_shows_whose_rights_were_had(db: Connection, owner: Connection) -> None:
    bait(owner, "ev()", "integer", "1")
    owner.execute("select ev()")
    assert stolen(db, "app_owner") == []
    db.execute("select ev()")
    assert stolen(db, "app_owner") == [("postgres",)]


# Types


@pytest.mark.parametrize("context", ["", "as assignment", "as implicit"])
@pytest.mark.parametrize(
    ("target", "result"),
    [
        ("json", "'1'"),
        ("jsonb", "'1'"),
        ("text", "'x'"),
        ("varchar", "'x'"),
        ("bytea", "'x'"),
        ("integer", "1"),
        ("boolean", "true"),
        ("text[]", "'{x}'"),
    ],
)
def test_no_cast_of_his_is_run(db: Connection, owner: Connection, target: str, result: str, context: str) -> None:
    owner.execute("create type mood as enum ('fine', 'bad')")
    owner.execute("create domain moody as mood")
    owner.execute("create type pair as (m mood, d moody)")
    owner.execute("create type span as range (subtype = mood)")
    owner.execute(
        "create table trap (id mood primary key, d moody, many mood[], p pair, s span, workspace_id mood, a integer)"
    )
    owner.execute(
        "select audit.enable_tracking('trap', resource_name_column => 'd', subject_column => 'id',"
        " resource_type_column => 'd', soft_delete_column => 'd')"
    )
    bait(owner, "steal(mood)", target, result)
    owner.execute(f"create cast (mood as {target}) with function steal(mood) {context}".encode())
    owner.execute("insert into trap values ('fine', 'bad', '{fine}', '(fine,bad)', '[fine,bad]', 'fine')")
    owner.execute("insert into trap values ('bad', 'bad', '{fine}', '(fine,bad)', '[fine,bad]', 'fine')")
    owner.execute("update trap set d = null, many = '{bad}', p = '(bad,bad)', s = '[bad,bad]', workspace_id = 'bad'")
    owner.execute("delete from trap where a is null")
    owner.execute("insert into trap values ('fine')")
    owner.execute("update trap set id = 'bad', d = 'bad'")
    owner.execute("truncate trap")
    assert stolen(db, "app_owner") == []
    assert trail(db, "operation, row_count, workspace_id") == [
        ("INSERT", 1, "fine"),
        ("INSERT", 1, "fine"),
        ("UPDATE", 2, "bad"),
        ("DELETE", 2, "bad"),
        ("INSERT", 1, None),
        ("UPDATE", 1, None),
        ("TRUNCATE", 1, None),
    ]


@pytest.mark.parametrize("follows", [True, False])
@pytest.mark.parametrize("rows", ["('fine')", "('fine'), ('bad')"])
def test_no_cast_of_his_is_run_for_a_snapshot_older_than_his_type(
    database: Database, db: Connection, owner: Connection, rows: str, follows: bool
) -> None:
    owner.execute("create type mood as enum ('fine', 'bad')")
    owner.execute("create table trap (id text, workspace_id text); create table unrelated (id integer)")
    owner.execute("select audit.enable_tracking('trap', resource_id_columns => '{id}', resource_name_column => 'id')")
    if not follows:
        db.execute("alter event trigger audit_follow_ddl disable")
    bait(owner, "steal(mood)", "text", "'x'")
    owner.execute("create cast (mood as text) with function steal(mood) as implicit")
    old = database.connect("app_owner", autocommit=False)
    old.execute("set transaction isolation level repeatable read; select from unrelated")
    owner.execute("alter table trap alter id type mood using id::mood, add column many mood[] default '{fine}'")
    old.execute(f"insert into trap (id) values {rows}".encode())
    old.execute("update trap set many = '{bad}'")
    old.execute("delete from trap")
    old.commit()
    assert stolen(db, "app_owner") == []
    assert trail(db, "operation") == [("INSERT",), ("UPDATE",), ("DELETE",)]


def test_an_implicit_cast_fails_no_write_of_the_table_that_has_the_type(db: Connection, owner: Connection) -> None:
    owner.execute("create type mood as enum ('fine', 'bad')")
    owner.execute("create table trap (id integer primary key, m mood, workspace_id text)")
    owner.execute("select audit.enable_tracking('trap')")
    bait(owner, "steal(mood)", "text", "'x'")
    owner.execute("create cast (mood as text) with function steal(mood) as implicit")
    owner.execute("insert into trap values (1, 'fine', 'acme'), (2, 'fine', 'acme')")
    owner.execute("update trap set m = 'bad' where id = 1")
    owner.execute("update trap set m = 'bad'")
    assert stolen(db, "app_owner") == []
    assert trail(db, "operation, resource_id, row_count") == [
        ("INSERT", None, 2),
        ("UPDATE", "1", 1),
        ("UPDATE", "2", 1),
    ]


def test_what_domains_defaults_checks_and_generated_columns_run_has_the_writers_rights(
    database: Database, db: Connection, owner: Connection
) -> None:
    bait(owner, "ev(integer)", "integer", "$1", "immutable")
    owner.execute("create domain checked as integer check (ev(value) > 0)")
    owner.execute("create domain twice as checked check (ev(value) > 0)")
    owner.execute(
        "create table trap (id twice primary key, a integer default ev(1),"
        " b integer generated always as (ev(2)) stored, workspace_id text, check (ev(3) > 0))"
    )
    owner.execute("select audit.enable_tracking('trap')")
    owner.execute("grant insert, update, delete on trap to app_user; grant select on trap to app_user")
    user = database.connect("app_user")
    user.execute("insert into trap (id, workspace_id) values (1, 'acme'), (2, 'acme')")
    user.execute("update trap set a = 5 where id = 1")
    user.execute("delete from trap")
    assert stolen(db, "app_owner") == [("app_user",)]
    assert trail(db, "operation, row_count") == [("INSERT", 2), ("UPDATE", 1), ("DELETE", 2)]


def test_equality_that_an_operator_of_his_decides_hides_no_change(db: Connection, owner: Connection) -> None:
    owner.execute("create type mood as enum ('fine', 'bad')")
    bait(owner, "same(mood, mood)", "boolean", "true")
    owner.execute("create operator public.= (leftarg = mood, rightarg = mood, function = same)")
    owner.execute("create table trap (id integer primary key, m mood, workspace_id text)")
    owner.execute("select audit.enable_tracking('trap')")
    owner.execute("insert into trap values (1, 'fine', 'acme')")
    owner.execute("update trap set m = 'bad'")
    assert stolen(db, "app_owner") == []
    assert trail(db, "operation, after ->> 'm'") == [("INSERT", "fine"), ("UPDATE", "bad")]


def test_a_class_of_operators_is_not_his_to_make(owner: Connection) -> None:
    owner.execute("create type mood as enum ('fine')")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="must be superuser to create an operator class"):
        owner.execute("create operator class mine default for type mood using btree as operator 3 =(anyenum, anyenum)")


# Lookups


def test_a_foreign_key_that_compares_through_his_cast_is_not_followed(db: Connection, owner: Connection) -> None:
    owner.execute("create type mood as enum ('1')")
    bait(owner, "steal(mood)", "integer", "1")
    owner.execute("create cast (mood as integer) with function steal(mood) as implicit")
    owner.execute("create table parent (id integer primary key, name text)")
    owner.execute("grant select on parent to audit_capture")
    owner.execute("create table child (id integer primary key, up mood references parent, workspace_id text)")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="by way of a cast or operator that capture must not"):
        owner.execute("select audit.enable_tracking('child', resource_name_column => 'up.name')")


def test_a_foreign_key_that_compares_through_his_operator_is_not_followed(db: Connection, owner: Connection) -> None:
    db.execute("create extension citext")
    db.execute("grant usage on schema public to audit_capture")
    owner.execute("create domain mine as citext")
    bait(owner, "same(citext, mine)", "boolean", "true")
    owner.execute("create operator public.= (leftarg = citext, rightarg = mine, function = same)")
    owner.execute("create table parent (id citext primary key, name text)")
    owner.execute("grant select on parent to audit_capture")
    owner.execute("create table child (id integer primary key, up mine references parent, workspace_id text)")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="by way of a cast or operator that capture must not"):
        owner.execute("select audit.enable_tracking('child', resource_name_column => 'up.name')")


def test_a_foreign_key_between_an_extensions_own_types_is_followed(db: Connection, owner: Connection) -> None:
    db.execute("create extension citext")
    owner.execute("create table parent (id citext primary key, name text)")
    owner.execute("grant select on parent to audit_capture")
    owner.execute("insert into parent values ('a', 'Reports')")
    owner.execute("create table child (id integer primary key, up citext references parent, workspace_id text)")
    owner.execute("select audit.enable_tracking('child', resource_name_column => 'up.name')")
    owner.execute("insert into child values (1, 'A', 'acme')")
    assert trail(db, "resource_name") == [("Reports",)]


def test_a_foreign_key_between_enums_and_domains_is_followed(db: Connection, owner: Connection) -> None:
    owner.execute("create type mood as enum ('fine'); create domain number as integer")
    owner.execute(
        "create table parent (id mood primary key, name text); create table base (id number primary key, w text)"
    )
    owner.execute("grant select on parent, base to audit_capture")
    owner.execute("insert into parent values ('fine', 'Reports'); insert into base values (1, 'acme')")
    owner.execute("create table child (id integer primary key, up mood references parent, b bigint references base)")
    owner.execute("select audit.enable_tracking('child', resource_name_column => 'up.name', workspace_column => 'b.w')")
    owner.execute("insert into child values (1, 'fine', 1)")
    assert trail(db, "resource_name, workspace_id") == [("Reports", "acme")]


def test_a_foreign_key_between_two_collations_is_not_followed(owner: Connection) -> None:
    owner.execute('create table parent (id text collate "C" primary key, name text)')
    owner.execute("grant select on parent to audit_capture")
    owner.execute('create table child (id integer primary key, up text collate "POSIX" references parent, w text)')
    with pytest.raises(
        psycopg.errors.FeatureNotSupported, match="up and the key it refers to have different collations"
    ):
        owner.execute("select audit.enable_tracking('child', workspace_column => 'up.name')")


@pytest.mark.parametrize(
    "trap",
    [
        "create index on parent (id) where ev(1) = 1",
        "create index on parent ((ev(id)))",
        "create index on parent (name) include (id) where ev(2) > 0",
        "create statistics stats on (ev(id)), id from parent",
        "create policy p on parent using (ev(1) = 1); alter table parent enable row level security",
        "alter table parent add check (ev(id) = id)",
        "alter table parent add column g integer generated always as (ev(id)) stored",
        "alter table parent alter name set default ev(1)::text",
        "create rule r as on update to parent do also select ev(1)",
        "create table heir () inherits (parent); create index on heir (id) where ev(1) = 1",
        "create table parent_up () inherits (parent); alter table parent_up add check (ev(1) = 1)",
        "alter table parent alter name type mood using 'fine'",
    ],
)
def test_a_parent_with_code_in_it_is_not_run(db: Connection, parent: Connection, trap: str) -> None:
    parent.execute("create type mood as enum ('fine')")
    bait(parent, "steal(mood)", "text", "'x'")
    parent.execute("create cast (mood as text) with function steal(mood) as assignment")
    bait(parent, "ev(integer)", "integer", "$1", "immutable")
    parent.execute(trap.encode())
    parent.execute("insert into child values (1, 1, 'acme'), (2, 1, 'acme')")
    parent.execute("insert into child values (3, 1, 'acme')")
    parent.execute("update child set id = id + 10")
    parent.execute("truncate child")
    parent.execute("select audit.enable_tracking('parent', workspace => 'acme')")
    parent.execute("insert into child values (4, 1, 'acme')")
    parent.execute("truncate parent, child")
    assert stolen(db, "app_owner") == []
    assert trail(db, "operation") == [
        ("INSERT",),
        ("INSERT",),
        ("UPDATE",),
        ("TRUNCATE",),
        ("INSERT",),
        ("TRUNCATE",),
        ("TRUNCATE",),
    ]


def test_a_parent_with_code_in_it_is_not_run_where_ddl_is_not_followed(db: Connection, parent: Connection) -> None:
    db.execute("drop event trigger audit_follow_ddl; drop event trigger audit_follow_drop")
    bait(parent, "ev(integer)", "text", "'x'", "immutable")
    parent.execute("create index on parent (id) where ev(1) = 'x'")
    parent.execute("insert into child values (1, 1, 'acme')")
    assert stolen(db, "app_owner") == []
    # Read as the owner, whose code it is.
    assert trail(db, "resource_name") == [("Reports",)]


def test_a_view_in_a_parents_place_is_not_read_where_ddl_is_not_followed(db: Connection, parent: Connection) -> None:
    db.execute("drop event trigger audit_follow_ddl; drop event trigger audit_follow_drop")
    bait(parent, "ev()", "text", "'x'")
    parent.execute("drop table parent cascade")
    parent.execute("create view parent as select 1 as id, ev() as name")
    parent.execute("grant select on parent to audit_capture")
    parent.execute("insert into child values (1, 1, 'acme')")
    assert stolen(db, "app_owner") == []
    assert trail(db, "resource_name") == [(None,)]


def test_a_view_in_a_parents_place_is_not_read_where_another_session_hinders_the_compilation(
    database: Database, db: Connection, owner: Connection
) -> None:
    db.execute("create schema shelf authorization app_owner")
    bait(owner, "ev()", "text", "'x'")
    owner.execute("create table shelf.parent (id integer primary key, name text)")
    owner.execute("grant usage on schema shelf to audit_capture; grant select on shelf.parent to audit_capture")
    owner.execute("create table child (id integer primary key, up integer references shelf.parent, workspace_id text)")
    owner.execute("select audit.enable_tracking('child', resource_name_column => 'up.name')")
    other = database.connect("app_owner", autocommit=False)
    other.execute("revoke usage on schema shelf from audit_capture")
    owner.execute("drop table shelf.parent cascade")
    owner.execute("create view shelf.parent as select 1 as id, ev() as name")
    owner.execute("grant select on shelf.parent to audit_capture")
    other.rollback()
    owner.execute("insert into child values (1, 1, 'acme')")
    assert stolen(db, "app_owner") == []
    assert trail(db, "resource_name") == [(None,)]


def test_the_function_behind_enable_tracking_looks_nothing_up_that_the_owner_may_not_read(
    database: Database, db: Connection
) -> None:
    db.execute("create table payroll (id integer primary key, salary text)")
    db.execute("insert into payroll values (1, '100,000')")
    db.execute("grant select on payroll to audit_capture; grant references on payroll to app_owner")
    owner = database.connect("app_owner", autocommit=False)
    owner.execute("create table spy (id integer primary key, pid integer references payroll)")
    owner.execute("select audit.show_ownership('spy'::regclass)")
    owner.execute(
        """select audit.store_tracking('spy'::regclass, '{"kind": "resource", "workspace": "acme","""
        """ "resource_name_column": "pid.salary", "excluded_columns": [], "redacted_columns": [],"""
        """ "max_value_bytes": 65536, "missing_actor": "system"}')"""
    )
    owner.execute("select audit.create_capture_triggers('spy'::regclass, 'capture_1')")
    owner.execute("insert into spy values (1, 1)")
    owner.commit()
    assert trail(db, "resource_id, resource_name") == [("1", None)]


# TRUNCATE


@pytest.mark.parametrize(
    "policy",
    [
        "create policy audit_capture_counts on trap for select to audit_capture using (ev(1) = 1)",
        "create policy audit_capture_counts on trap for select to audit_capture using (true and ev(1) = 1)",
        "create policy zzz on trap using (ev(1) = 1)",
        "create policy aaa on trap to audit_capture using (ev(id) = 1)",
        "create policy zzz on trap as restrictive using (ev(1) = 1)",
        "create policy zzz on trap using (query_to_xml('select public.ev(1)', true, true, '') is not null)",
        "create policy zzz on trap using (exists (select from baited))",
        (
            "create policy audit_capture_counts on trap for update to audit_capture using (true);"
            " create policy zzz on trap using (query_to_xml('select public.ev(1)', true, true, '') is not null)"
        ),
    ],
)
def test_no_policy_of_his_is_run_when_a_truncate_is_counted(db: Connection, owner: Connection, policy: str) -> None:
    bait(owner, "ev(integer)", "integer", "$1", "immutable")
    owner.execute("create view baited as select ev(1); grant select on baited to public")
    owner.execute("create table trap (id integer primary key, workspace_id text)")
    owner.execute("alter table trap enable row level security")
    owner.execute(policy.encode())
    owner.execute("select audit.enable_tracking('trap')")
    owner.execute("insert into trap values (1, 'acme')")
    owner.execute("truncate trap")
    assert stolen(db, "app_owner") == []
    assert trail(db, "operation") == [("INSERT",), ("TRUNCATE",)]


# Triggers of his own making


@pytest.mark.parametrize(
    "trigger",
    [
        "create trigger forged after insert on trap for each statement execute function audit.capture_1()",
        "create trigger forged before insert on trap for each statement execute function audit.capture_1()",
        "create trigger forged before insert on trap for each row execute function audit.capture_1()",
        "create trigger forged after insert on trap for each row execute function audit.capture_1('x', 'y')",
        (
            "create constraint trigger forged after insert on trap deferrable initially deferred"
            " for each row execute function audit.capture_1()"
        ),
        (
            "create trigger forged after insert on trap referencing new table as other"
            " for each statement execute function audit.capture_1()"
        ),
        (
            "create view window_on_it as select * from trap; create trigger forged instead of insert on window_on_it"
            " for each row execute function audit.capture_1(); insert into window_on_it values (2)"
        ),
        (
            "create table free (like trap); create trigger forged after insert on free"
            " for each row execute function audit.capture_1(); insert into free values (3)"
        ),
    ],
)
def test_a_trigger_that_passes_no_rows_reads_no_temporary_view_in_their_place(
    db: Connection, owner: Connection, trigger: str
) -> None:
    bait(owner, "ev()", "integer", "1")
    owner.execute("create table trap (id integer primary key, workspace_id text)")
    owner.execute("select audit.enable_tracking('trap')")
    owner.execute("create temporary view audit_new_rows as select ev() as id, 'acme'::text as workspace_id")
    owner.execute("create temporary view audit_old_rows as select ev() as id, 'acme'::text as workspace_id")
    owner.execute("grant select on audit_new_rows, audit_old_rows to public")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"trigger forged on .* does not pass its rows"):
        owner.execute(f"{trigger}; insert into trap values (1, 'acme')".encode())
    assert stolen(db, "app_owner") == []
    assert trail(db) == []


def test_temporary_tables_with_the_names_of_captured_rows_change_nothing(db: Connection, owner: Connection) -> None:
    owner.execute("create table trap (id integer primary key, workspace_id text)")
    owner.execute("select audit.enable_tracking('trap')")
    owner.execute("create temporary table audit_new_rows (id integer, workspace_id text)")
    owner.execute("create temporary table audit_old_rows (id integer, workspace_id text)")
    owner.execute("insert into audit_new_rows values (7, 'x'); insert into audit_old_rows values (8, 'x')")
    owner.execute("insert into trap values (1, 'acme')")
    owner.execute("update trap set id = 2")
    owner.execute("delete from trap")
    owner.execute("truncate trap")
    assert trail(db, "operation, workspace_id, resource_id, row_count") == [
        ("INSERT", "acme", "1", 1),
        ("UPDATE", "acme", "2", 1),
        ("DELETE", "acme", "2", 1),
    ]


@pytest.mark.parametrize(
    "trigger",
    [
        "after insert on trap referencing new table as audit_new_rows for each row",
        "after update on trap referencing new table as audit_old_rows old table as audit_new_rows for each statement",
        "after truncate on trap for each statement",
    ],
)
def test_more_triggers_on_his_own_table_write_of_that_table_only(
    db: Connection, owner: Connection, trigger: str
) -> None:
    owner.execute("create table trap (id integer primary key, workspace_id text)")
    owner.execute("select audit.enable_tracking('trap')")
    owner.execute(f"create trigger more {trigger} execute function audit.capture_1()".encode())
    owner.execute("insert into trap values (1, 'acme'), (2, 'acme')")
    owner.execute("update trap set id = id + 2")
    owner.execute("truncate trap")
    written = db.execute("select distinct table_name, workspace_id from audit.entry where operation <> 'EVENT'")
    assert written.fetchall() == [("trap", "acme")]


@pytest.mark.parametrize(
    "attack",
    [
        "create trigger forged after insert on own for each row execute function audit.capture_1()",
        "select audit.create_capture_triggers('own'::regclass, 'capture_1')",
        "alter function audit.capture_1() owner to rival",
        "create or replace function audit.capture_1() returns trigger language plpgsql as 'begin return null; end'",
        "drop function audit.capture_1()",
        "create trigger forged after insert on trap for each row execute function audit.prove_ownership()",
        "select audit.show_ownership('trap'::regclass)",
        "select audit.store_tracking('trap'::regclass, '{}')",
        "select audit.remove_tracking('trap'::regclass)",
        "select audit.enable_tracking('trap')",
        "select audit.disable_tracking('trap')",
        "alter table trap disable trigger audit_insert",
        "drop trigger audit_insert on trap",
        "create table audit.mine (a integer)",
        "create trigger forged before insert on audit.entry for each row execute function audit.prove_ownership()",
        "create table heir () inherits (audit.tracked_table)",
        "create table part partition of audit.entry for values from ('2001-01-01') to ('2001-01-02')",
        "create policy mine on audit.entry using (true)",
        "create rule mine as on insert to audit.entry do instead nothing",
        "create index on audit.entry (event)",
        "create statistics mine on event, operation from audit.entry",
        "comment on table audit.entry is 'x'",
        "security label on table audit.entry is 'x'",
        "alter default privileges for role audit_owner grant select on tables to rival",
        "grant select on audit.entry to rival",
        "create event trigger mine on ddl_command_end execute function audit.follow_ddl()",
        "alter event trigger audit_follow_ddl disable",
        "create publication mine for table audit.entry",
        "begin; lock table audit.entry in access share mode",
    ],
)
def test_another_owner_has_no_part_in_it(database: Database, db: Connection, owner: Connection, attack: str) -> None:
    db.execute("grant create on schema public to rival")
    owner.execute("create table trap (id integer primary key, workspace_id text)")
    owner.execute("select audit.enable_tracking('trap')")
    rival = database.connect("rival")
    rival.execute("create table own (id integer primary key, workspace_id text)")
    with pytest.raises(psycopg.Error) as refusal:
        rival.execute(attack.encode())
    assert refusal.value.sqlstate in ("42501", "22023", "0A000", "42P17")
    assert own_events(db) == [("tracking_enabled", "public.trap")]


def test_a_trigger_that_takes_the_place_of_capture_is_a_finding(
    database: Database, db: Connection, owner: Connection
) -> None:
    # Whoever holds TRIGGER on a table can do that: nobody but its owner should.
    owner.execute("create table trap (id integer primary key, workspace_id text)")
    owner.execute("select audit.enable_tracking('trap')")
    owner.execute("grant trigger on trap to app_user")
    owner.execute("create function nothing() returns trigger language plpgsql as 'begin return null; end'")
    database.connect("app_user").execute(
        "create or replace trigger audit_insert after insert on trap for each statement execute function nothing()"
    )
    found = db.execute("select severity, problem from audit.check() where severity = 'bypass'").fetchall()
    assert found == [("bypass", "trigger_missing")]


# Names and settings


HOSTILE = """x"y'z\\e%s$sql$%1$s;--"""


def test_names_are_names_whatever_they_hold(db: Connection, owner: Connection) -> None:
    quoted = psycopg.sql.Identifier(HOSTILE)
    table = psycopg.sql.Identifier(HOSTILE, HOSTILE)
    db.execute(psycopg.sql.SQL("create schema {} authorization app_owner").format(quoted))
    owner.execute(
        psycopg.sql.SQL("create table {} ({} integer primary key, workspace_id text, audit_n text, {} text)").format(
            table, quoted, psycopg.sql.Identifier("a.b")
        )
    )
    owner.execute("select audit.enable_tracking(%s::regclass)", [table.as_string()])
    owner.execute(psycopg.sql.SQL("insert into {} values (1, 'acme', 'n', 'dot')").format(table))
    owner.execute(psycopg.sql.SQL("update {} set workspace_id = 'other'").format(table))
    owner.execute(psycopg.sql.SQL("insert into {} values (2, 'acme'), (3, 'acme')").format(table))
    owner.execute(psycopg.sql.SQL("update {} set {} = {} + 10").format(table, quoted, quoted))
    owner.execute(psycopg.sql.SQL("truncate {}").format(table))
    assert trail(db, "operation, table_schema, table_name, resource_type, workspace_id, row_count, after") == [
        (
            "INSERT",
            HOSTILE,
            HOSTILE,
            HOSTILE,
            "acme",
            1,
            {HOSTILE: 1, "workspace_id": "acme", "audit_n": "n", "a.b": "dot"},
        ),
        ("UPDATE", HOSTILE, HOSTILE, HOSTILE, "other", 1, {"workspace_id": "other"}),
        ("INSERT", HOSTILE, HOSTILE, HOSTILE, "acme", 2, None),
        ("UPDATE", HOSTILE, HOSTILE, HOSTILE, "acme", 2, None),
        ("UPDATE", HOSTILE, HOSTILE, HOSTILE, "other", 1, {HOSTILE: 11}),
        ("TRUNCATE", HOSTILE, HOSTILE, HOSTILE, "acme", 2, None),
        ("TRUNCATE", HOSTILE, HOSTILE, HOSTILE, "other", 1, None),
    ]
    assert db.execute("select problem from audit.check()").fetchall() == [("owner_can_log_in",)]


def test_a_renamed_table_with_a_hostile_name_is_followed(db: Connection, owner: Connection) -> None:
    owner.execute("create table trap (id integer primary key, workspace_id text)")
    owner.execute("select audit.enable_tracking('trap')")
    owner.execute(psycopg.sql.SQL("alter table trap rename to {}").format(psycopg.sql.Identifier(HOSTILE)))
    owner.execute(
        psycopg.sql.SQL("alter table {0} rename column workspace_id to {0}").format(psycopg.sql.Identifier(HOSTILE))
    )
    owner.execute(psycopg.sql.SQL("insert into {} values (1, 'acme')").format(psycopg.sql.Identifier(HOSTILE)))
    assert trail(db, "table_name, workspace_id, after") == [(HOSTILE, "acme", {"id": 1, HOSTILE: "acme"})]


@pytest.mark.parametrize(
    "arguments",
    [
        "workspace_setting => 'app.x''; drop table audit.entry; --'",
        "workspace_setting => 'role'",
        "workspace_setting => 'app.x) from audit.api_key --'",
        """events => '{"INSERT": "x_y''; drop table audit.entry; --"}'""",
        """events => '{"INSERT": "key_created"}'""",
        """events => '{"INSERT": "tracking_disabled"}'""",
        """events => '{"EVENT": "x_created"}'""",
        """column_events => '{"day_dropped": ["id"]}'""",
        """column_events => '{"x_created": ["id''; --"]}'""",
        "resource_type => 'audit_log'",
        "resource_type_column => 'id); --'",
        "resource_name_column => 'id.id); --'",
        "kind => 'resource''; --'",
    ],
)
def test_a_hostile_setting_is_refused(owner: Connection, arguments: str) -> None:
    owner.execute("create table trap (id integer primary key, workspace_id text)")
    with pytest.raises(psycopg.Error) as refusal:
        owner.execute(f"select audit.enable_tracking('trap', {arguments})".encode())
    assert refusal.value.sqlstate in ("22023", "42703", "0A000")


def test_a_hostile_constant_is_a_constant(db: Connection, owner: Connection) -> None:
    owner.execute("create table trap (id integer primary key)")
    owner.execute("select audit.enable_tracking('trap', workspace => %s, resource_type => %s)", [HOSTILE, HOSTILE])
    owner.execute("insert into trap values (1)")
    owner.execute("truncate trap")
    assert trail(db, "operation, workspace_id, resource_type") == [
        ("INSERT", HOSTILE, HOSTILE),
        ("TRUNCATE", HOSTILE, HOSTILE),
    ]


def test_a_session_that_quotes_every_name_writes_names_as_the_others_do(db: Connection, owner: Connection) -> None:
    owner.execute("set quote_all_identifiers = on")
    owner.execute("create table trap (id integer primary key, workspace_id text)")
    owner.execute("select audit.enable_tracking('trap')")
    owner.execute("alter table trap add column title text")
    owner.execute("select audit.disable_tracking('trap')")
    owner.execute("select audit.enable_tracking('trap')")
    owner.execute("drop table trap")
    assert own_events(db) == [
        ("tracking_enabled", "public.trap"),
        ("table_altered", "public.trap"),
        ("tracking_disabled", "public.trap"),
        ("tracking_enabled", "public.trap"),
        ("table_dropped", "public.trap"),
    ]


def test_a_table_called_as_the_log_is_not_taken_for_it(db: Connection, owner: Connection) -> None:
    owner.execute("create table audit_log (id integer primary key, kind text, workspace_id text)")
    owner.execute("select audit.enable_tracking('audit_log', resource_type_column => 'kind')")
    owner.execute("insert into audit_log values (1, null, 'acme')")
    owner.execute("insert into audit_log values (2, 'audit_log', 'acme')")
    owner.execute("insert into audit_log values (3, 'report', 'acme')")
    assert trail(db, "resource_id, resource_type") == [
        ("1", "public.audit_log"),
        ("2", "public.audit_log"),
        ("3", "report"),
    ]


def test_columns_whose_names_run_together_make_different_fingerprints(db: Connection) -> None:
    db.execute("create table one (a text, b text); create table two (ab text); create table three (b text, a text)")
    shapes = "select count(distinct audit.table_shape(c)) from unnest('{one,two,three}'::regclass[]) c"
    assert count(db, shapes) == 3


# Others' sessions


def test_the_login_stands_in_the_entry_though_a_definer_function_wrote(
    database: Database, db: Connection, owner: Connection
) -> None:
    owner.execute("create table trap (id integer primary key, workspace_id text)")
    owner.execute("select audit.enable_tracking('trap')")
    owner.execute(
        "create function write() returns void language sql security definer as"
        " $$ insert into trap values (1, 'acme') $$"
    )
    database.connect("app_user").execute("select write()")
    assert trail(db, "database_user") == [("app_user",)]


@pytest.mark.parametrize("command", ["analyze bait", "reindex table bait", "refresh materialized view copy"])
def test_what_an_owner_makes_a_superuser_run_writes_of_his_own_tables_only(
    database: Database, db: Connection, owner: Connection, command: str
) -> None:
    # The login in such an entry is the superuser's: his session wrote it.
    db.execute("grant create on schema public to rival")
    rival = database.connect("rival")
    rival.execute("create table theirs (id integer primary key, workspace_id text)")
    rival.execute("select audit.enable_tracking('theirs')")
    owner.execute("create table trap (id serial primary key, workspace_id text)")
    owner.execute("select audit.enable_tracking('trap')")
    owner.execute("create table bait (a integer); insert into bait values (1)")
    owner.execute(
        "create function go() returns integer language plpgsql as $$ begin if session_user <> 'app_owner' then"
        " perform public.grab(); insert into public.trap (workspace_id) values ('acme');"
        " begin insert into public.theirs values (1, 'acme'); exception when insufficient_privilege then null; end;"
        " begin perform audit.disable_tracking('public.theirs'); exception when insufficient_privilege then null; end;"
        " end if; return 1; end $$"
    )
    owner.execute(
        "create function idx(integer) returns integer language plpgsql immutable as $$ begin return public.go(); end $$"
    )
    owner.execute("create index on bait (idx(a)); create materialized view copy as select idx(a) from bait")
    db.execute(command.encode())
    assert stolen(db, "app_owner") == []
    written = db.execute("select distinct table_name, database_user from audit.entry where operation <> 'EVENT'")
    assert written.fetchall() == [("trap", "postgres")]
    assert own_events(db) == [("tracking_enabled", "public.theirs"), ("tracking_enabled", "public.trap")]
    assert changes(db) == []


def test_a_login_without_rights_cannot_stop_upkeep(database: Database, db: Connection) -> None:
    database.connect("app_user").execute("select pg_advisory_lock(hashtext('pg_daybook'), hashtext('upkeep'))")
    assert db.execute("select audit.maintain() ->> 'ran'").fetchone() == ("true",)
