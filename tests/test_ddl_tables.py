"""DDL on whole tables: keys, dropping and making again, swapping names, schemas, copies, extensions."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Database
from tests.trail import Connection, changes, count, own_events, trail

Write = Callable[[str], object]


@pytest.fixture
def document(db: Connection) -> Connection:
    db.execute("create table document (id integer primary key, workspace_id text, title text not null)")
    db.execute("select audit.enable_tracking('document')")
    db.execute("insert into document values (1, 'acme', 'A'), (2, 'acme', 'B')")
    return db


@pytest.fixture
def writer(database: Database, document: Connection) -> Connection:
    """Another session, which wrote before: it keeps plans of the capture function."""
    writer = database.connect()
    writer.execute("set plan_cache_mode = force_generic_plan")
    writer.execute("insert into document values (3, 'acme', 'C')")
    writer.execute("update document set title = 'D' where id = 3")
    writer.execute("delete from document where id = 3")
    return writer


WARM = [
    ("INSERT", None, None, None),
    ("INSERT", "3", None, {"id": 3, "workspace_id": "acme", "title": "C"}),
    ("UPDATE", "3", {"title": "C"}, {"title": "D"}),
    ("DELETE", "3", {"id": 3, "workspace_id": "acme", "title": "D"}, None),
]

A = {"id": 1, "workspace_id": "acme", "title": "A"}
E = {"id": 5, "workspace_id": "acme", "title": "E"}


@pytest.mark.parametrize(
    ("ddl", "entries"),
    [
        (
            # Without a key whole rows are stored.
            "alter table document drop constraint document_pkey",
            [
                ("INSERT", None, None, E),
                ("UPDATE", None, A, A | {"title": "a"}),
                ("DELETE", None, A | {"title": "a"}, None),
            ],
        ),
        (
            "alter table document drop constraint document_pkey, add primary key (title)",
            [
                ("INSERT", "E", None, E),
                ("UPDATE", "a", {"title": "A"}, {"title": "a"}),
                ("DELETE", "a", A | {"title": "a"}, None),
            ],
        ),
        (
            "alter table document drop constraint document_pkey; alter table document add primary key (title, id)",
            [
                ("INSERT", '["E", 5]', None, E),
                ("UPDATE", '["a", 1]', {"title": "A"}, {"title": "a"}),
                ("DELETE", '["a", 1]', A | {"title": "a"}, None),
            ],
        ),
        (
            (
                "create unique index other on document (title);"
                " alter table document drop constraint document_pkey, add constraint k primary key using index other"
            ),
            [
                ("INSERT", "E", None, E),
                ("UPDATE", "a", {"title": "A"}, {"title": "a"}),
                ("DELETE", "a", A | {"title": "a"}, None),
            ],
        ),
        (
            "alter table document alter id type numeric(4, 1)",
            [
                ("INSERT", "5.0", None, E | {"id": 5.0}),
                ("UPDATE", "1.0", {"title": "A"}, {"title": "a"}),
                ("DELETE", "1.0", A | {"id": 1.0, "title": "a"}, None),
            ],
        ),
        (
            (
                "alter table document replica identity nothing; alter table document drop constraint document_pkey;"
                " alter table document add primary key (id)"
            ),
            [
                ("INSERT", "5", None, E),
                ("UPDATE", "1", {"title": "A"}, {"title": "a"}),
                ("DELETE", "1", A | {"title": "a"}, None),
            ],
        ),
    ],
)
def test_a_changed_key_is_the_key_of_the_next_entry(
    document: Connection, writer: Connection, ddl: str, entries: list[tuple[Any, ...]]
) -> None:
    document.execute(ddl.encode())
    writer.execute("insert into document values (5, 'acme', 'E')")
    writer.execute("update document set title = 'a' where id = 1")
    writer.execute("delete from document where id = 1")
    assert trail(document, "operation, resource_id, before, after") == WARM + entries


def test_a_key_that_changed_unseen_is_the_old_one_until_upkeep(document: Connection, writer: Connection) -> None:
    document.execute("alter event trigger audit_follow_ddl disable")
    document.execute("alter table document drop constraint document_pkey, add primary key (title)")
    writer.execute("insert into document values (5, 'acme', 'E')")
    found = "select problem from audit.check() where problem = 'function_stale'"
    assert document.execute(found).fetchall() == [("function_stale",)]
    document.execute("select audit.maintain()")
    writer.execute("update document set title = 'a' where id = 1")
    assert trail(document, "operation, resource_id, row_key, before, after")[len(WARM) :] == [
        ("INSERT", "5", None, None, E),
        ("UPDATE", "a", "A", {"title": "A"}, {"title": "a"}),
    ]


@pytest.mark.parametrize("event_trigger", ["audit_follow_ddl", "audit_follow_drop"])
def test_a_key_whose_column_is_dropped_is_no_key(document: Connection, writer: Connection, event_trigger: str) -> None:
    document.execute(f"alter event trigger {event_trigger} disable".encode())
    document.execute("alter table document drop column id")
    writer.execute("update document set title = 'a' where title = 'A'")
    row = {"workspace_id": "acme", "title": "A"}
    assert trail(document, "operation, resource_id, before, after") == [
        *WARM,
        ("UPDATE", None, row, row | {"title": "a"}),
    ]


def test_a_dropped_table_can_be_rolled_back(document: Connection, writer: Connection) -> None:
    document.execute("begin; insert into document values (6, 'acme', 'F'); drop table document; rollback")
    document.execute(
        "begin; savepoint s; drop table document; rollback to s; insert into document values (7, 'acme', 'G')"
    )
    document.execute("commit")
    writer.execute("delete from document where id = 7")
    assert trail(document, "operation, resource_id")[len(WARM) :] == [("INSERT", "7"), ("DELETE", "7")]


# A table that is dropped and made again


@pytest.fixture
def plain(db: Connection) -> Connection:
    db.execute("create table document (id integer primary key, workspace_id text, title text)")
    db.execute("select audit.enable_tracking('document', excluded_columns => '{title}')")
    db.execute("insert into document values (1, 'acme', 'A')")
    return db


AGAIN = "create table document (id text primary key, workspace_id text, stars integer)"


@pytest.mark.parametrize(
    "ddl",
    [
        f"drop table document; {AGAIN}",
        f"begin; insert into document values (2, 'acme', 'B'); drop table document; {AGAIN}; commit",
        f"do $$ begin drop table document; {AGAIN}; end $$",
    ],
)
def test_a_table_made_again_under_its_name_is_another_table(database: Database, plain: Connection, ddl: str) -> None:
    writer = database.connect()
    writer.execute("insert into document values (7, 'acme', 'G')", prepare=True)
    for statement in ddl.split("; ") if ddl.startswith("begin") else [ddl]:
        plain.execute(statement.encode())
    writer.execute("insert into document values ('8', 'acme', 8)")
    plain.execute("select audit.enable_tracking('document')")
    writer.execute("insert into document values ('9', 'acme', 9)")
    assert [entry for entry in trail(plain, "resource_id, after") if entry[0] != "2"] == [
        ("1", {"id": 1, "workspace_id": "acme"}),
        ("7", {"id": 7, "workspace_id": "acme"}),
        ("9", {"id": "9", "workspace_id": "acme", "stars": 9}),
    ]
    assert own_events(plain, "event") == [("tracking_enabled",), ("table_dropped",), ("tracking_enabled",)]
    assert count(plain, "select count(*) from pg_proc where proname ~ '^capture_[0-9]'") == 1


def test_a_table_made_again_where_nobody_saw_it_dropped_is_found_and_can_be_tracked(plain: Connection) -> None:
    plain.execute("alter event trigger audit_follow_drop disable")
    plain.execute(f"drop table document; {AGAIN}".encode())
    plain.execute("insert into document values ('8', 'acme', 8)")
    query = "select problem, object_name from audit.check() where severity = 'bypass' and problem <> 'ddl_not_followed'"
    assert set(plain.execute(query).fetchall()) == {("trigger_missing", "public.document")}
    plain.execute("select audit.enable_tracking('document')")
    plain.execute("insert into document values ('9', 'acme', 9)")
    assert trail(plain, "resource_id, after")[1:] == [("9", {"id": "9", "workspace_id": "acme", "stars": 9})]
    assert plain.execute(query).fetchall() == []


def test_a_table_that_goes_with_its_schema_or_owner_ends_its_tracking(db: Connection) -> None:
    db.execute("create schema one; create schema two; create role leaver")
    db.execute("create table one.document (id integer primary key, workspace_id text)")
    db.execute(
        "create table two.thing (id integer primary key, workspace_id text); alter table two.thing owner to leaver"
    )
    db.execute("select audit.enable_tracking('two.thing'); select audit.enable_tracking('one.document')")
    db.execute("drop owned by leaver; drop role leaver")
    db.execute("drop schema one cascade")
    assert own_events(db)[2:] == [("table_dropped", "two.thing"), ("table_dropped", "one.document")]
    assert count(db, "select count(*) from audit.tracked_table") == 0


def test_dropping_what_is_not_tracked_is_none_of_the_logs_business(plain: Connection) -> None:
    plain.execute("create schema other; create table other.document (id integer); create view seen as select 1")
    plain.execute("create temporary table document (id integer)")
    plain.execute("drop schema other cascade; drop view seen; drop table document")
    plain.execute("insert into document values (2, 'acme', 'B')")
    assert own_events(plain)[1:] == []
    assert trail(plain, "resource_id") == [("1",), ("2",)]


# Tables that change places


SWAP = (
    "alter table document rename to passing; alter table other rename to document; alter table passing rename to other"
)


@pytest.fixture(params=["in one transaction", "one by one"])
def swap(request: pytest.FixtureRequest, db: Connection) -> Connection:
    db.execute("create table document (id integer primary key, workspace_id text, a text)")
    db.execute("create table other (id integer primary key, workspace_id text, b text)")
    db.execute("select audit.enable_tracking('document', excluded_columns => '{a}')")
    db.execute("select audit.enable_tracking('other')")
    return db


def test_two_tracked_tables_change_names(swap: Connection) -> None:
    swap.execute(SWAP.encode())
    swap.execute("insert into document values (1, 'acme', 'x'); insert into other values (2, 'acme', 'hush')")
    assert trail(swap, "table_name, resource_type, after") == [
        ("document", "document", {"id": 1, "workspace_id": "acme", "b": "x"}),
        ("other", "other", {"id": 2, "workspace_id": "acme"}),
    ]
    assert count(swap, "select count(*) from audit.check() where problem not like 'owner%'") == 0


def test_two_tracked_tables_that_changed_names_unseen_are_told_apart_by_upkeep(swap: Connection) -> None:
    swap.execute("alter event trigger audit_follow_ddl disable")
    swap.execute(SWAP.encode())
    swap.execute("insert into document values (1, 'acme', 'x'); insert into other values (2, 'acme', 'hush')")
    swap.execute("select audit.maintain()")
    swap.execute("insert into document values (3, 'acme', 'x'); insert into other values (4, 'acme', 'hush')")
    assert trail(swap, "table_name, resource_type, after") == [
        # The type that readers know it by is the old name until then.
        ("document", "other", {"id": 1, "workspace_id": "acme", "b": "x"}),
        ("other", "document", {"id": 2, "workspace_id": "acme"}),
        ("document", "document", {"id": 3, "workspace_id": "acme", "b": "x"}),
        ("other", "other", {"id": 4, "workspace_id": "acme"}),
    ]
    assert swap.execute("select last_problem from audit.upkeep").fetchall() == [(None,)]
    query = "select table_name, excluded_columns from audit.tracked_table order by 1"
    assert swap.execute(query).fetchall() == [("document", []), ("other", ["a"])]
    assert count(swap, "select count(*) from audit.check() where problem = 'function_stale'") == 0


def test_a_new_table_that_took_an_old_ones_name_unseen_gets_settings_of_its_own(plain: Connection) -> None:
    plain.execute("alter event trigger audit_follow_ddl disable")
    plain.execute("create table fresh (id integer primary key, workspace_id text, title text)")
    plain.execute("alter table document rename to old; alter table fresh rename to document")
    plain.execute("select audit.enable_tracking('document')")
    plain.execute("insert into document values (2, 'acme', 'heard'); insert into old values (3, 'acme', 'hush')")
    assert trail(plain, "table_name, after")[1:] == [
        ("document", {"id": 2, "workspace_id": "acme", "title": "heard"}),
        ("old", {"id": 3, "workspace_id": "acme"}),
    ]


def test_a_table_that_was_renamed_unseen_is_known_by_its_triggers(plain: Connection) -> None:
    plain.execute("alter event trigger audit_follow_ddl disable; alter table document rename to report")
    plain.execute("select audit.enable_tracking('report', excluded_columns => '{title}', resource_type => 'doc')")
    plain.execute("insert into report values (2, 'acme', 'hush')")
    plain.execute("alter table report rename to paper; select audit.disable_tracking('paper')")
    plain.execute("insert into paper values (3, 'acme', 'x')")
    assert trail(plain, "table_name, resource_type, after")[1:] == [
        ("report", "doc", {"id": 2, "workspace_id": "acme"}),
    ]
    assert own_events(plain) == [
        ("tracking_enabled", "public.document"),
        ("tracking_changed", "public.report"),
        ("tracking_disabled", "public.report"),
    ]
    assert count(plain, "select count(*) from audit.tracked_table") == 0
    assert count(plain, "select count(*) from pg_proc where proname ~ '^capture_[0-9]'") == 0


def test_ending_the_tracking_of_one_table_leaves_another_that_had_its_name(plain: Connection) -> None:
    plain.execute("alter event trigger audit_follow_ddl disable")
    plain.execute("alter table document rename to old; create table document (id integer primary key)")
    plain.execute("select audit.disable_tracking('document')")
    plain.execute("insert into old values (2, 'acme', 'hush')")
    assert trail(plain, "table_name, after")[1:] == [("old", {"id": 2, "workspace_id": "acme"})]
    assert own_events(plain)[1:] == []


# Schemas


def test_two_schemas_change_names(db: Connection) -> None:
    db.execute("create schema blue; create schema green")
    db.execute("create table blue.document (id integer primary key, workspace_id text, a text)")
    db.execute("create table green.document (id integer primary key, workspace_id text, b text)")
    db.execute("select audit.enable_tracking('blue.document', excluded_columns => '{a}')")
    db.execute("select audit.enable_tracking('green.document')")
    db.execute("begin; insert into blue.document values (1, 'acme', 'hush'); alter schema blue rename to passing")
    db.execute("alter schema green rename to blue; alter schema passing rename to green")
    db.execute(
        "insert into blue.document values (2, 'acme', 'x'); insert into green.document values (3, 'acme', 'hush')"
    )
    db.execute("commit")
    assert trail(db, "table_schema, after") == [
        ("blue", {"id": 1, "workspace_id": "acme"}),
        ("blue", {"id": 2, "workspace_id": "acme", "b": "x"}),
        ("green", {"id": 3, "workspace_id": "acme"}),
    ]
    assert own_events(db, "event, resource_id, context->'details'->>'command'")[2:] == [
        ("table_altered", "passing.document", "ALTER SCHEMA"),
        ("table_altered", "blue.document", "ALTER SCHEMA"),
        ("table_altered", "green.document", "ALTER SCHEMA"),
    ]


# Copies and extensions


def test_copies_of_a_tracked_table_are_tables_of_their_own(plain: Connection) -> None:
    plain.execute("create table one as select * from document; select * into two from document")
    plain.execute("create table three (like document including all); create temporary table four as table document")
    plain.execute("create materialized view five as select * from document; create view six as table document")
    plain.execute("insert into one values (2); insert into two values (2); insert into three values (2)")
    plain.execute(
        "insert into four values (2); refresh materialized view five; insert into six values (2, 'acme', 'B')"
    )
    assert trail(plain, "table_name, resource_id") == [("document", "1"), ("document", "2")]
    assert own_events(plain)[1:] == []


def test_a_table_that_an_extension_owns_is_captured_like_any_other(plain: Connection) -> None:
    plain.execute("alter extension plpgsql add table document")
    plain.execute("alter table document add stars integer")
    plain.execute("insert into document values (2, 'acme', 'B', 5)")
    plain.execute("alter extension plpgsql drop table document")
    plain.execute("alter table document rename stars to rating")
    plain.execute("insert into document values (3, 'acme', 'B', 5)")
    assert trail(plain, "after")[1:] == [
        ({"id": 2, "workspace_id": "acme", "stars": 5},),
        ({"id": 3, "workspace_id": "acme", "rating": 5},),
    ]


def test_disabled_triggers_are_enabled_again_by_the_checks_mend(document: Connection) -> None:
    document.execute("alter table document disable trigger user; alter table document enable trigger user")
    document.execute("insert into document values (4, 'acme', 'D')")
    found = document.execute("select problem, mend from audit.check() where severity = 'bypass'").fetchall()
    assert [problem for problem, _ in found] == ["trigger_not_always"] * 4
    for _, mend in found:
        document.execute(mend.encode())
    document.execute("set session_replication_role = replica; insert into document values (5, 'acme', 'E')")
    assert trail(document, "resource_id") == [(None,), ("4",), ("5",)]
    assert changes(document, "resource_id") == [("1",), ("2",)]
    assert count(document, "select count(*) from audit.check() where severity = 'bypass'") == 0
