"""Writes of a transaction whose snapshot is older than another session's DDL: none fails, none lacks a column.

Such a transaction reads the catalogue as it was, and writes rows as the table is now.
"""

from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from tests.conftest import Database
from tests.trail import Connection, changes, own_events, trail

TRIGGERS = ("audit_follow_ddl", "audit_follow_drop", "audit_follow_partitions", "audit_follow_rewrite")


@dataclass(frozen=True)
class Case:
    """A DDL command, what a new row is in the log then, and the old row 1: none when the command rewrote it.

    A rewritten table looks empty to an older snapshot, as the manual says of ALTER TABLE.
    """

    ddl: str
    new: dict[str, Any]
    old: dict[str, Any] | None
    table: str = "document"


NEW: dict[str, Any] = {"title": None, "stars": None}
OLD = {"title": "T", "stars": 1}

CASES = {
    "add": Case("alter table document add note text", {**NEW, "note": None}, {**OLD, "note": None}),
    "add with a default": Case("alter table document add a integer default 5", {**NEW, "a": 5}, {**OLD, "a": 5}),
    "add of a new type": Case(
        "create type mood as enum ('sad', 'glad'); alter table document add mood mood default 'glad'",
        {**NEW, "mood": "glad"},
        {**OLD, "mood": "glad"},
    ),
    "add with a volatile default": Case(
        "alter table document add a text default 'at ' || (clock_timestamp() > '2000-01-01')::text",
        {**NEW, "a": "at true"},
        None,
    ),
    "add several": Case(
        "alter table document add a integer default 1; alter table document add b jsonb default '{\"k\": 1}';"
        " alter table document add c text default 'c'",
        {**NEW, "a": 1, "b": {"k": 1}, "c": "c"},
        {**OLD, "a": 1, "b": {"k": 1}, "c": "c"},
    ),
    "drop": Case("alter table document drop title", {"stars": None}, {"stars": 1}),
    "drop and add": Case(
        "alter table document drop title; alter table document add title integer default 3",
        {"stars": None, "title": 3},
        {"stars": 1, "title": 3},
    ),
    "rename": Case(
        "alter table document rename title to name", {"name": None, "stars": None}, {"name": "T", "stars": 1}
    ),
    "swap names": Case(
        "alter table document rename title to x; alter table document rename stars to title;"
        " alter table document rename x to stars",
        NEW,
        {"title": 1, "stars": "T"},
    ),
    "retype": Case(
        "alter table document alter stars type text, alter stars set default 's'", {**NEW, "stars": "s"}, None
    ),
    "retype without a rewrite": Case("alter table document alter title type varchar", NEW, OLD),
    "retype to a type of the application": Case(
        "create type mood as enum ('sad', 'glad');"
        " alter table document alter stars type mood using 'sad', alter stars set default 'glad'",
        {**NEW, "stars": "glad"},
        None,
    ),
    "retype to json": Case(
        "alter table document alter stars type json using to_json(stars), alter stars set default '{\"a\":  1}'",
        {**NEW, "stars": '{"a":  1}'},
        None,
    ),
    "rename a secret": Case("alter table document rename secret to hidden", NEW, OLD),
    "rename a secret to a name that was known": Case(
        "alter table document drop title; alter table document rename secret to title", {"stars": None}, {"stars": 1}
    ),
    "rename the table": Case("alter table document rename to report", NEW, OLD, table="report"),
    "rename the table and add": Case(
        "alter table document rename to report; alter table report add a integer default 5",
        {**NEW, "a": 5},
        {**OLD, "a": 5},
        table="report",
    ),
    "rename a type": Case("alter type shade rename to tint; alter type tint rename value 'dark' to 'dim'", NEW, OLD),
    "all at once": Case(
        "alter table document add a integer default 5, drop title, alter stars type bigint, alter stars set default 7;"
        " alter table document rename a to b",
        {"stars": 7, "b": 5},
        None,
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def document(db: Connection) -> Connection:
    db.execute("create type shade as enum ('dark', 'light'); create table bystander (id integer)")
    db.execute(
        "create table document (id integer primary key, workspace_id text, title text, stars integer,"
        " secret text default 'hush', shade shade)"
    )
    db.execute("select audit.enable_tracking('document', excluded_columns => '{secret,shade}')")
    db.execute("insert into document values (1, 'acme', 'T', 1, 'hush', 'dark')")
    return db


@pytest.fixture
def writer(database: Database, document: Connection) -> Connection:
    """A session that wrote before, in a transaction that has its snapshot and holds no lock on the table."""
    writer = database.connect()
    writer.execute("set plan_cache_mode = force_generic_plan")
    writer.execute("insert into document (id, workspace_id) values (9, 'acme')")
    writer.execute("begin isolation level repeatable read; select from bystander")
    return writer


FIRST: list[tuple[Any, ...]] = [
    ("INSERT", "document", "1", None, {"id": 1, "workspace_id": "acme", **OLD}),
    ("INSERT", "document", "9", None, {"id": 9, "workspace_id": "acme", **NEW}),
]

WHAT = "operation, table_name, resource_id, before, after"


def write(writer: Connection, table: str) -> None:
    """Insert, change and delete one row and two; then the row that was there before."""
    for statement in (
        "insert into {} (id, workspace_id) values (2, 'acme')",
        "insert into {} (id, workspace_id) values (3, 'acme'), (4, 'acme')",
        "update {} set workspace_id = 'globex' where id = 2",
        "update {} set workspace_id = 'globex' where id in (3, 4)",
        "delete from {} where id = 2",
        "delete from {} where id in (3, 4)",
        "update {} set workspace_id = 'globex' where id = 1",
        "delete from {} where id = 1",
    ):
        writer.execute(statement.format(table).encode())
    writer.execute("commit")


def expected(case: Case) -> list[tuple[Any, ...]]:
    change = ({"workspace_id": "acme"}, {"workspace_id": "globex"})
    entries: list[tuple[Any, ...]] = [
        ("INSERT", case.table, "2", None, {"id": 2, "workspace_id": "acme", **case.new}),
        ("INSERT", case.table, None, None, None),
        ("UPDATE", case.table, "2", *change),
        ("UPDATE", case.table, None, None, None),
        ("DELETE", case.table, "2", {"id": 2, "workspace_id": "globex", **case.new}, None),
        ("DELETE", case.table, None, None, None),
    ]
    of_old: list[tuple[Any, ...]] = [
        ("UPDATE", case.table, "1", *change),
        ("DELETE", case.table, "1", {"id": 1, "workspace_id": "globex", **(case.old or {})}, None),
    ]
    return FIRST + entries + (of_old if case.old else [])


def expected_changes(case: Case) -> list[tuple[Any, ...]]:
    inserted = [(str(key), None, {"id": key, "workspace_id": "acme", **case.new}) for key in (3, 4)]
    changed = [(str(key), {"workspace_id": "acme"}, {"workspace_id": "globex"}) for key in (3, 4)]
    deleted = [(str(key), {"id": key, "workspace_id": "globex", **case.new}, None) for key in (3, 4)]
    return inserted + changed + deleted


def test_writes_go_on_with_every_column(document: Connection, writer: Connection, case: Case) -> None:
    document.execute(case.ddl.encode())
    write(writer, case.table)
    assert (trail(document, WHAT), changes(document)) == (expected(case), expected_changes(case))


def test_writes_go_on_with_every_column_where_nobody_follows(
    document: Connection, writer: Connection, case: Case
) -> None:
    for trigger in TRIGGERS:
        document.execute(f"alter event trigger {trigger} disable".encode())
    document.execute(case.ddl.encode())
    write(writer, case.table)
    assert (trail(document, WHAT), changes(document)) == (expected(case), expected_changes(case))


def test_writes_of_a_serializable_transaction_go_on_with_every_column(document: Connection, writer: Connection) -> None:
    writer.execute("commit; begin isolation level serializable; select from bystander")
    document.execute(CASES["all at once"].ddl.encode())
    write(writer, "document")
    found = (trail(document, WHAT), changes(document))
    assert found == (expected(CASES["all at once"]), expected_changes(CASES["all at once"]))


def test_copy_and_truncate_go_on(document: Connection, writer: Connection) -> None:
    document.execute("alter table document add a integer default 5; alter table document drop title")
    with writer.cursor().copy("copy document (id, workspace_id) from stdin") as copy:
        copy.write("2\tacme\n3\tacme\n")
    writer.execute("truncate document; commit")
    assert trail(document, "operation, workspace_id, context->'details'")[2:] == [
        ("INSERT", "acme", None),
        ("TRUNCATE", None, {"row_count_is_estimated": True}),
    ]
    assert changes(document, "resource_id, after") == [
        (str(key), {"id": key, "workspace_id": "acme", "stars": None, "a": 5}) for key in (2, 3)
    ]


def test_a_table_is_truncated_twice(document: Connection, writer: Connection) -> None:
    # The snapshot sees the catalogue's row of before, which it may, and its own transaction's.
    document.execute("alter table document add a integer")
    writer.execute("truncate document")
    writer.execute("truncate document; commit")
    assert trail(document, "operation, row_count")[2:] == [("TRUNCATE", 0)] * 2


def test_a_table_that_is_tracked_since_is_captured(document: Connection, writer: Connection) -> None:
    document.execute("create table fresh (id integer primary key, workspace_id text, a integer default 5)")
    document.execute("select audit.enable_tracking('fresh')")
    writer.execute("insert into fresh (id, workspace_id) values (1, 'acme')")
    writer.execute("insert into fresh (id, workspace_id) values (2, 'acme'), (3, 'acme'); commit")
    assert trail(document, "table_name, after")[2:] == [
        ("fresh", {"id": 1, "workspace_id": "acme", "a": 5}),
        ("fresh", None),
    ]
    assert changes(document, "after") == [({"id": key, "workspace_id": "acme", "a": 5},) for key in (2, 3)]


@pytest.mark.parametrize("follows", ["followed", "unfollowed"])
@pytest.mark.parametrize(
    "ddl",
    [
        "alter table folder rename name to title",
        "alter table folder drop name",
        "alter table folder add size integer default 5",
        "alter table folder rename to binder",
        "drop table folder cascade",
        "revoke select on folder from audit_capture",
        "alter table note rename folder_id to f",
        "alter table note drop constraint in_folder",
    ],
)
def test_a_lookup_fails_no_write(document: Connection, writer: Connection, ddl: str, follows: str) -> None:
    writer.execute("commit")
    document.execute(
        "create table folder (id integer primary key, name text); insert into folder values (1, 'Reports')"
    )
    document.execute(
        "create table note (id integer primary key, workspace_id text,"
        " folder_id integer constraint in_folder references folder)"
    )
    document.execute("grant select on folder to audit_capture")
    document.execute("select audit.enable_tracking('note', resource_name_column => 'folder_id.name')")
    writer.execute("insert into note values (1, 'acme', 1)")
    writer.execute("begin isolation level repeatable read; select from bystander")
    if follows == "unfollowed":
        document.execute("alter event trigger audit_follow_ddl disable; alter event trigger audit_follow_drop disable")
    document.execute(ddl.encode())
    writer.execute("insert into note values (2, 'acme', 1)")
    writer.execute("insert into note values (3, 'acme', 1), (4, 'acme', 1); commit")
    # The name may be missing; it is never another one.
    found = trail(document, "resource_id, resource_name")[2:] + changes(document, "resource_id, resource_name")
    assert {value for _, value in found} <= {"Reports", None}
    assert [key for key, _ in found] == ["1", "2", None, "3", "4"]


@pytest.mark.parametrize("follows", ["followed", "unfollowed"])
@pytest.mark.parametrize(
    ("ddl", "columns"),
    [
        ("alter table part add a integer default 5", {"title": None, "a": 5}),
        ("alter table part drop title", {}),
        ("alter table part rename title to name", {"name": None}),
        ("alter table part alter title type varchar", {"title": None}),
    ],
)
def test_writes_to_a_partitioned_table_and_its_leaves_go_on(
    document: Connection, writer: Connection, ddl: str, columns: dict[str, Any], follows: str
) -> None:
    writer.execute("commit")
    document.execute("create table part (id integer, workspace_id text, title text) partition by range (id)")
    document.execute(
        "create table low (title text, gone text, id integer, workspace_id text); alter table low drop gone"
    )
    document.execute("alter table part attach partition low for values from (0) to (10)")
    document.execute("select audit.enable_tracking('part', resource_id_columns => '{id}')")
    writer.execute("begin isolation level repeatable read; select from bystander")
    if follows == "unfollowed":
        for trigger in TRIGGERS:
            document.execute(f"alter event trigger {trigger} disable".encode())
    document.execute(ddl.encode())
    writer.execute("insert into part (id, workspace_id) values (1, 'acme')")
    writer.execute("insert into low (id, workspace_id) values (2, 'acme')")
    writer.execute("insert into part (id, workspace_id) values (3, 'acme'), (4, 'acme')")
    writer.execute("delete from low where id = 1")
    writer.execute("delete from part where id in (3, 4); commit")
    rows = [{"id": key, "workspace_id": "acme", **columns} for key in range(5)]
    assert trail(document, WHAT)[2:] == [
        ("INSERT", "part", "1", None, rows[1]),
        ("INSERT", "part", "2", None, rows[2]),
        ("INSERT", "part", None, None, None),
        ("DELETE", "part", "1", rows[1], None),
        ("DELETE", "part", None, None, None),
    ]
    assert changes(document, "resource_id, before, after") == [
        ("3", None, rows[3]),
        ("4", None, rows[4]),
        ("3", rows[3], None),
        ("4", rows[4], None),
    ]


@pytest.mark.parametrize("follows", ["followed", "unfollowed"])
def test_a_partition_that_came_since_is_captured_through_its_table(
    document: Connection, writer: Connection, follows: str
) -> None:
    writer.execute("commit")
    document.execute(
        "create table part (id integer primary key, workspace_id text, title text) partition by range (id)"
    )
    document.execute("select audit.enable_tracking('part')")
    writer.execute("begin isolation level repeatable read; select from bystander")
    if follows == "unfollowed":
        for trigger in TRIGGERS:
            document.execute(f"alter event trigger {trigger} disable".encode())
    document.execute("create table high partition of part for values from (10) to (20)")
    writer.execute("insert into part values (10, 'acme', 'H'); update part set title = 'I' where id = 10; commit")
    assert trail(document, "table_name, resource_id, before, after")[2:] == [
        ("part", "10", None, {"id": 10, "workspace_id": "acme", "title": "H"}),
        ("part", "10", {"title": "H"}, {"title": "I"}),
    ]


def test_a_table_that_took_the_place_of_a_tracked_one_is_not_captured(document: Connection, writer: Connection) -> None:
    document.execute("drop table document; create table document (id integer primary key, other text)")
    writer.execute("insert into document values (1, 'x'); commit")
    assert trail(document, WHAT) == FIRST


def test_a_write_that_waited_for_ddl_in_the_same_statement_goes_on(
    database: Database, document: Connection, writer: Connection
) -> None:
    other = database.connect(autocommit=False)
    other.execute("alter table document add a integer default 5")
    writer.execute("set local lock_timeout = '100ms'; savepoint s")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        writer.execute("insert into document (id, workspace_id) values (2, 'acme')")
    writer.execute("rollback to s")
    other.commit()
    writer.execute("insert into document (id, workspace_id) values (2, 'acme'); commit")
    assert trail(document, WHAT) == [
        *FIRST,
        ("INSERT", "document", "2", None, {"id": 2, "workspace_id": "acme", **NEW, "a": 5}),
    ]


# DDL of such a transaction: another session altered the table since its snapshot, and then it does so itself.

ALTERATIONS = {
    "swap names": (
        "alter table document add a integer",
        (
            "alter table document rename title to x; alter table document rename stars to title;"
            " alter table document rename x to stars"
        ),
        [
            {"renamed_columns": {"title": "x"}},
            {"renamed_columns": {"stars": "title"}},
            {"renamed_columns": {"x": "stars"}},
        ],
    ),
    "rename what was renamed": (
        "alter table document rename title to name",
        "alter table document rename name to label",
        [{"renamed_columns": {"name": "label"}}],
    ),
    "add with a default": (
        "alter table document add a integer",
        "alter table document add b integer default 5; alter table document add c integer",
        [{"added_columns": ["b"], "filled_columns": {"b": 5}}, {"added_columns": ["c"]}],
    ),
    "add a name that was dropped": (
        "alter table document drop title",
        "alter table document add title integer default 5",
        [{"added_columns": ["title"], "filled_columns": {"title": 5}}],
    ),
    "drop": (
        "alter table document add a integer; alter table document drop title",
        "alter table document drop stars, drop a",
        [{"dropped_columns": ["a", "stars"]}],
    ),
    "retype": (
        "alter table document add a integer",
        "alter table document alter stars type bigint",
        [
            {
                "retyped_columns": {"stars": {"from": "integer", "to": "bigint"}},
                "rewritten_columns": ["stars"],
                "rewritten": True,
            }
        ],
    ),
    "rename the table": (
        "alter table document rename title to name",
        "alter table document rename to report",
        [{"former_name": "public.document"}],
    ),
    "rename a column of a renamed table": (
        "alter table document rename to report",
        "alter table report rename title to name",
        [{"renamed_columns": {"title": "name"}}],
    ),
    "rename what was truncated": (
        "truncate document",
        "alter table document rename to report; alter table report rename title to name",
        [{"former_name": "public.document"}, {"renamed_columns": {"title": "name"}}],
    ),
    "retype what was truncated": (
        "truncate document",
        "alter table document alter stars type bigint",
        [
            {
                "retyped_columns": {"stars": {"from": "integer", "to": "bigint"}},
                "rewritten_columns": ["stars"],
                "rewritten": True,
            }
        ],
    ),
    "nothing that the log knows": (
        "alter table document add a integer",
        "alter table document alter stars set default 5",
        [],
    ),
    "add a secret": (
        "alter table document rename secret to hidden",
        "alter table document drop hidden; alter table document add hidden text default 'hush'",
        [{"dropped_columns": ["hidden"]}, {"added_columns": ["hidden"], "rewritten_columns": ["hidden"]}],
    ),
}


def told(connection: Connection) -> list[dict[str, Any]]:
    """Return what the alterations say, without the parts in which nothing happened."""
    found = own_events(connection, "event, context -> 'details'")
    return [
        {name: value for name, value in details.items() if value not in ({}, []) and name != "command"}
        for event, details in found
        if event == "table_altered"
    ]


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_its_own_ddl_is_told_at_once_and_once(document: Connection, writer: Connection, alteration: str) -> None:
    before, ddl, expected = ALTERATIONS[alteration]
    document.execute(before.encode())
    others = told(document)
    warnings: list[str | None] = []
    writer.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
    for command in ddl.split(";"):
        writer.execute(command.encode())
    writer.execute("commit")
    assert (told(document)[len(others) :], warnings) == (expected, [])
    document.execute("select audit.maintain()")
    assert told(document)[len(others) :] == expected
    checked = document.execute("select problem from audit.check() where problem <> 'owner_is_superuser'").fetchall()
    left = document.execute("select proname from pg_proc where proname like 'told%1'").fetchall()
    assert (checked, left) == ([], [])


@pytest.mark.parametrize("snapshot", ["before the first", "between"])
def test_what_one_older_transaction_told_another_does_not_tell_again(
    database: Database, document: Connection, writer: Connection, snapshot: str
) -> None:
    second = database.connect()
    begin = "begin isolation level serializable; select from bystander"
    if snapshot == "before the first":
        second.execute(begin)
    document.execute("alter table document add a integer")
    others = told(document)
    if snapshot == "between":
        second.execute(begin)
    writer.execute("alter table document rename title to name; commit")
    second.execute("alter table document rename name to label")
    second.execute("alter table document add b integer default 5; commit")
    expected = [
        {"renamed_columns": {"title": "name"}},
        {"renamed_columns": {"name": "label"}},
        {"added_columns": ["b"], "filled_columns": {"b": 5}},
    ]
    assert told(document)[len(others) :] == expected
    document.execute("alter table document rename label to title")
    document.execute("select audit.maintain()")
    assert told(document)[len(others) :] == [*expected, {"renamed_columns": {"label": "title"}}]


def test_what_was_told_is_forgotten_with_the_tracking(document: Connection, writer: Connection) -> None:
    document.execute("alter table document add a integer")
    writer.execute("alter table document rename title to name; commit")
    kept = "select count(*) from pg_proc where pronamespace = 'audit'::regnamespace and proname ~ '^told_[0-9]+$'"
    assert document.execute(kept).fetchone() == (1,)
    document.execute("select audit.disable_tracking('document')")
    assert document.execute(kept).fetchone() == (0,)


def test_what_it_did_is_told_once_when_rolled_back_and_done_again(document: Connection, writer: Connection) -> None:
    document.execute("alter table document add a integer")
    others = told(document)
    writer.execute("savepoint s; alter table document rename title to name; rollback to s")
    writer.execute("alter table document rename title to label; commit")
    document.execute("select audit.maintain()")
    assert told(document)[len(others) :] == [{"renamed_columns": {"title": "label"}}]
    assert document.execute("select resource_type, excluded_columns from audit.tracked_table").fetchall() == [
        (None, ["secret", "shade"])
    ]
