"""Ways past the log: what resists, and what audit.check() and `daybook status` say of the rest.

It must not mend anything but by the statement that the check gives, as it stands.
"""

import json
import time
from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest
from psycopg import sql

from daybook.commands import main
from tests.conftest import Database
from tests.trail import Connection, trail

OPERATIONS = """
insert into document values (1, 'acme', 'one');
insert into document values (11, 'acme', 'two'), (12, 'acme', 'three');
update document set title = 'four' where id = 1;
update document set title = 'five';
update document set id = 21 where id = 1;
delete from document where id = 21;
truncate document_2;
insert into document_1 values (2, 'acme', 'six');
delete from document_1;
"""
ENTRIES = [
    ("INSERT", 1),
    ("INSERT", 2),
    ("UPDATE", 1),
    ("UPDATE", 3),
    ("UPDATE", 1),
    ("DELETE", 1),
    ("TRUNCATE", 2),
    ("INSERT", 1),
    ("DELETE", 1),
]


@pytest.fixture
def document(db: Connection) -> Connection:
    """A tracked table with three partitions, the last of which is partitioned again."""
    db.execute("create table document (id integer primary key, workspace_id text, title text) partition by range (id)")
    db.execute("create table document_1 partition of document for values from (0) to (10)")
    db.execute("create table document_2 partition of document for values from (10) to (20)")
    db.execute(
        "create table document_3 partition of document for values from (20) to (30) partition by range (id);"
        " create table document_4 partition of document_3 for values from (20) to (30)"
    )
    db.execute("select audit.enable_tracking('document')")
    return db


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
    """`daybook` is run by a DBA."""
    monkeypatch.setenv("DAYBOOK_DATABASE_URL", database.url("dba"))


Finding = dict[str, str]


def findings(capsys: pytest.CaptureFixture[str]) -> tuple[int, list[Finding]]:
    """The exit code of `daybook status` and what it found, which it prints as text and as JSON."""
    code = main(["status"])
    text = capsys.readouterr().out
    assert main(["status", "--json"]) == code
    printed = json.loads(capsys.readouterr().out)
    assert printed["is_well"] is (code == 0)
    found = printed["findings"] + [row for table in printed["tracked_tables"] for row in table["findings"]]
    assert [row for row in found if f"{row['problem']} on {row['object_name']}" not in text] == []
    assert [row for row in found if f"mend: {row['mend']}" not in text] == []
    return code, [row for row in found if row["problem"] != "owner_is_superuser"]


def mend(db: Connection, found: list[Finding]) -> None:
    for finding in found:
        db.execute(finding["mend"].encode())


# What resists: ENABLE ALWAYS


def test_session_replication_role_skips_no_operation(document: Connection) -> None:
    document.execute("set session_replication_role = replica")
    document.execute(OPERATIONS.encode())
    with document.cursor().copy("copy document from stdin") as copy:
        copy.write(b"3\tacme\tseven\n")
    assert trail(document, "operation, row_count") == [*ENTRIES, ("INSERT", 1)]


@pytest.mark.parametrize(
    "setting",
    [
        "alter role app_user in database {} set session_replication_role = replica",
        "alter database {} set session_replication_role = replica",
    ],
)
def test_session_replication_role_of_a_role_or_database_skips_no_operation(
    database: Database, document: Connection, setting: str
) -> None:
    document.execute(sql.SQL(setting).format(sql.Identifier(database.name)))
    document.execute("grant all on document, document_1, document_2 to app_user")
    user = database.connect("app_user")
    assert user.execute("show session_replication_role").fetchone() == ("replica",)
    user.execute(OPERATIONS.encode())
    assert trail(document, "operation, row_count") == ENTRIES
    assert trail(document, "database_user") == [("app_user",)] * len(ENTRIES)


# What is listed


@pytest.mark.usefixtures("login")
@pytest.mark.parametrize(
    ("damage", "found", "left"),
    [
        ("alter table document disable trigger audit_update", ["trigger_disabled"], 5 + 1),
        ("alter table document disable trigger all", ["trigger_disabled"] * 5, 3),
        ("alter table document disable trigger user", ["trigger_disabled"] * 5, 3),
        # Ordinary triggers, which replica mode skips, since somebody switched all of them off and on again.
        (
            (
                "alter table document disable trigger all; alter table document enable trigger all;"
                " set session_replication_role = replica"
            ),
            ["trigger_not_always"] * 5,
            3,
        ),
        ("alter table document enable replica trigger audit_insert", ["trigger_not_always"], 7),
        ("drop trigger audit_delete on document", ["trigger_missing"], 8),
        ("alter table document_2 disable trigger audit_truncate", ["trigger_disabled"], 8),
        (
            "drop trigger audit_insert on document_1; drop trigger audit_delete on document_1",
            ["partition_untracked"] * 2,
            7,
        ),
        (
            (
                "create or replace trigger audit_update after update on document referencing old table as"
                " audit_old_rows new table as audit_new_rows for each statement when (false)"
                " execute function audit.capture_1()"
            ),
            ["trigger_missing"],
            6,
        ),
        (
            (
                "create function nothing() returns trigger language plpgsql as 'begin return null; end';"
                " create or replace trigger audit_update after update on document for each statement"
                " execute function nothing()"
            ),
            ["trigger_missing"],
            6,
        ),
        ("drop function audit.capture_1() cascade", ["function_missing"], 0),
        (
            (
                "create or replace function audit.capture_1() returns trigger language plpgsql security definer"
                " set search_path = pg_catalog, pg_temp set row_security = on as 'begin return null; end'"
            ),
            ["function_replaced"],
            0,
        ),
        ("alter function audit.capture_1() security invoker", ["function_replaced"], 9),
        ("alter function audit.capture_1() owner to postgres", ["function_replaced"], 9),
        ("alter function audit.capture_1() reset search_path", ["function_replaced"], 9),
    ],
)
def test_a_way_past_the_log_is_listed_and_its_mend_closes_it(
    document: Connection, capsys: pytest.CaptureFixture[str], damage: str, found: list[str], left: int
) -> None:
    assert findings(capsys) == (0, [])
    document.execute(damage.encode())
    document.execute(OPERATIONS.encode())
    assert len(trail(document)) == left
    code, listed = findings(capsys)
    assert (code, [finding["problem"] for finding in listed]) == (1, found)
    mend(document, listed)
    assert findings(capsys) == (0, [])
    document.execute(OPERATIONS.encode())
    assert trail(document, "operation, row_count")[left:] == ENTRIES


@pytest.mark.usefixtures("login")
@pytest.mark.parametrize("partition", ["document_5", "document_6"])
def test_a_leaf_without_triggers_is_listed(
    document: Connection, capsys: pytest.CaptureFixture[str], partition: str
) -> None:
    document.execute("alter event trigger audit_follow_partitions disable")
    document.execute(
        "create table document_5 partition of document for values from (30) to (40) partition by range (id);"
        " create table document_6 partition of document_5 for values from (30) to (40)"
    )
    document.execute("alter event trigger audit_follow_partitions enable always")
    document.execute(f"insert into {partition} values (31, 'acme', 'unseen')".encode())
    assert trail(document) == []
    code, listed = findings(capsys)
    problems = [(finding["problem"], finding["object_name"]) for finding in listed]
    assert (code, problems) == (
        1,
        [("partition_untracked", "public.document_5")] * 4 + [("partition_untracked", "public.document_6")] * 4,
    )
    mend(document, listed)
    assert findings(capsys) == (0, [])
    document.execute(f"delete from {partition}".encode())
    assert trail(document, "operation, resource_id") == [("DELETE", "31")]


@pytest.mark.usefixtures("login")
def test_a_stale_function_is_listed_though_it_captures(
    document: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    document.execute("alter event trigger audit_follow_ddl disable; alter table document add stars integer")
    document.execute("alter event trigger audit_follow_ddl enable always")
    document.execute("insert into document values (1, 'acme', 'one', 5)")
    assert trail(document, "after ->> 'stars'") == [("5",)]
    code, listed = findings(capsys)
    assert (code, [finding["problem"] for finding in listed]) == (1, ["function_stale"])
    mend(document, listed)
    assert findings(capsys) == (0, [])


@pytest.mark.usefixtures("login")
def test_event_triggers_that_are_off_are_listed_with_what_turns_them_on(
    document: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    document.execute("alter event trigger audit_follow_partitions enable; alter event trigger audit_guard_drop disable")
    _, listed = findings(capsys)
    assert [finding["object_name"] for finding in listed] == ["audit_follow_partitions", "audit_guard_drop"]
    mend(document, listed)
    assert findings(capsys) == (0, [])


@pytest.mark.usefixtures("login")
def test_an_unlogged_table_is_listed(document: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    document.execute("alter table document_1 set unlogged; alter table document_4 set unlogged")
    _, listed = findings(capsys)
    assert [(finding["problem"], finding["object_name"]) for finding in listed] == [
        ("table_unlogged", "public.document")
    ]
    mend(document, listed)
    assert findings(capsys) == (0, [])


# Inheritance


@pytest.fixture
def family(db: Connection) -> Connection:
    """A tracked parent, and below it a child with a column of its own and a grandchild."""
    db.execute("create table document (id integer primary key, workspace_id text, title text, secret text)")
    db.execute("create table report (pages integer) inherits (document); create table annual () inherits (report)")
    db.execute(
        "select audit.enable_tracking('document', resource_name_column => 'title', excluded_columns => '{secret}')"
    )
    return db


def test_a_write_through_the_parent_is_captured_with_the_rows_of_its_children(family: Connection) -> None:
    family.execute("insert into document values (1, 'acme', 'one')")
    family.execute("insert into report values (2, 'acme', 'two', 's', 10); insert into annual values (3, 'acme', 'x')")
    family.execute("update document set title = 'same', secret = 't'")
    family.execute("delete from document where id > 1")
    row = {"id": 2, "workspace_id": "acme", "title": "same"}
    assert trail(family, "operation, row_count") == [("INSERT", 1), ("UPDATE", 3), ("DELETE", 2)]
    changes = "select resource_id, before, after from audit.change order by created_at, resource_id"
    assert family.execute(changes.encode()).fetchall() == [
        ("1", {"title": "one"}, {"title": "same"}),
        ("2", {"title": "two"}, {"title": "same"}),
        ("3", {"title": "x"}, {"title": "same"}),
        ("2", row, None),
        ("3", {**row, "id": 3}, None),
    ]


@pytest.mark.usefixtures("login")
def test_a_child_of_a_tracked_table_that_is_not_tracked_is_listed(
    family: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    family.execute("insert into report values (2, 'acme', 'two', 's', 10); insert into annual values (3, 'acme', 'x')")
    assert trail(family) == []
    code, listed = findings(capsys)
    assert (code, [(finding["problem"], finding["object_name"]) for finding in listed]) == (
        1,
        [("child_untracked", "public.report"), ("child_untracked", "public.annual")],
    )
    mend(family, listed)
    assert findings(capsys) == (0, [])
    family.execute("update report set pages = 11, secret = 'u' where id = 2")
    family.execute("update document set title = 'both'")
    family.execute("truncate document")
    assert trail(family, "table_name, operation, row_count, resource_type, resource_id, resource_name, after") == [
        # Without a key of its own: whole rows.
        ("report", "UPDATE", 1, "document", "2", "two", {"id": 2, "pages": 11, "title": "two", "workspace_id": "acme"}),
        ("document", "UPDATE", 2, "document", None, None, None),
        ("report", "TRUNCATE", 1, "document", None, None, None),
        ("annual", "TRUNCATE", 1, "document", None, None, None),
    ]


@pytest.mark.usefixtures("login")
def test_a_child_that_cannot_be_tracked_as_its_parent_is_listed_with_the_end_of_its_inheritance(
    db: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    # A foreign key is not inherited, and so the workspace of a child's row cannot be looked up.
    db.execute("create table team (id integer primary key, workspace text)")
    db.execute("create table document (id integer primary key, team_id integer references team)")
    db.execute("create table report () inherits (document); grant select on team to audit_capture")
    db.execute("select audit.enable_tracking('document', workspace_column => 'team_id.workspace')")
    code, listed = findings(capsys)
    assert (code, [(finding["problem"], finding["mend"]) for finding in listed]) == (
        1,
        [("child_untracked", "alter table public.report no inherit public.document")],
    )
    mend(db, listed)
    assert findings(capsys) == (0, [])


@pytest.mark.usefixtures("login")
def test_a_parent_through_which_a_tracked_table_is_written_is_listed(
    db: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    db.execute("create table thing (id integer); create table base (workspace_id text) inherits (thing)")
    db.execute("create table kid (title text, primary key (id)) inherits (base); create table other () inherits (base)")
    db.execute("select audit.enable_tracking('kid')")
    db.execute("insert into kid values (1, 'acme', 'one'); delete from thing")
    assert trail(db, "operation, table_name") == [("INSERT", "kid")]
    code, listed = findings(capsys)
    # base has the columns that it takes, thing has no workspace.
    assert (code, [(finding["problem"], finding["mend"]) for finding in listed]) == (
        1,
        [
            (
                "parent_untracked",
                (
                    "select audit.enable_tracking('public.base', resource_type => 'kid', resource_id_columns => '{id}',"
                    " workspace_column => 'workspace_id')"
                ),
            ),
            ("parent_untracked", "alter table public.base no inherit public.thing"),
        ],
    )
    mend(db, listed)
    code, listed = findings(capsys)
    assert [(finding["problem"], finding["object_name"]) for finding in listed] == [("child_untracked", "public.other")]
    mend(db, listed)
    assert findings(capsys) == (0, [])
    db.execute("insert into kid values (2, 'acme', 'two'); delete from base; delete from thing")
    assert trail(db, "operation, table_name, resource_type, resource_id") == [
        ("INSERT", "kid", "kid", "1"),
        ("INSERT", "kid", "kid", "2"),
        ("DELETE", "base", "kid", "2"),
    ]


# Rules


def test_a_rule_that_swallows_a_write_is_no_way_past_the_log_for_no_row_changes(document: Connection) -> None:
    document.execute("insert into document values (1, 'acme', 'one')")
    document.execute("create rule quiet as on delete to document do instead nothing")
    document.execute("delete from document")
    assert document.execute("select count(*) from document").fetchone() == (1,)
    assert trail(document, "operation") == [("INSERT",)]
    assert document.execute("select problem from audit.check() where severity = 'bypass'").fetchall() == []


def test_what_a_rule_writes_instead_is_captured_where_it_is_written(document: Connection) -> None:
    document.execute("create table kept (id integer primary key, workspace_id text, title text)")
    document.execute("select audit.enable_tracking('kept')")
    document.execute(
        "create rule keep as on insert to document where new.id < 5 do instead insert into kept values (new.*)"
    )
    document.execute("insert into document values (1, 'acme', 'one'), (6, 'acme', 'six')")
    assert sorted(trail(document, "operation, table_name, resource_id")) == [
        ("INSERT", "document", "6"),
        ("INSERT", "kept", "1"),
    ]


# The owner


@pytest.fixture
def owner(db: Connection, database: Database) -> Iterator[str]:
    """A login with a hostile name in audit_writer, who may make tables in the schema sales."""
    name = f'Own"er of {database.name}'
    given = f"{name}_tables"
    db.execute(
        sql.SQL("create role {0} login; grant audit_writer to {0}; create schema sales authorization {0}").format(
            sql.Identifier(name)
        )
    )
    yield name
    for role in (name, given):
        with suppress(psycopg.errors.UndefinedObject):
            drop = sql.SQL("drop owned by {0} cascade; drop role {0}").format(sql.Identifier(role))
            db.execute(drop)


@pytest.mark.usefixtures("login")
def test_an_application_that_owns_its_tables_is_listed_and_writes_on_when_it_owns_them_no_more(
    db: Connection, database: Database, owner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    application = psycopg.connect(database.url(), user=owner, autocommit=True)
    application.execute("set search_path = sales; grant usage on schema sales to audit_capture")
    application.execute(
        """
        create table folder (id serial primary key, workspace_id text, name text);
        create table "Grant" (id bigint generated always as identity, workspace_id text,
            folder_id integer not null references folder on delete cascade) partition by list (workspace_id);
        create table grant_1 partition of "Grant" for values in ('acme');
        create table document (id integer primary key, workspace_id text);
        alter table document enable row level security;
        grant select (id, name) on folder to audit_capture;
        select audit.enable_tracking('folder');
        select audit.enable_tracking('"Grant"', 'permission', resource_id_columns => '{folder_id}',
            resource_name_column => 'folder_id.name');
        select audit.enable_tracking('document')
        """
    )
    code, listed = findings(capsys)
    assert (code, [(finding["problem"], finding["object_name"]) for finding in listed]) == (
        1,
        [
            ("owner_can_log_in", 'sales."Grant"'),
            ("owner_can_log_in", "sales.document"),
            ("owner_can_log_in", "sales.folder"),
        ],
    )
    mend(db, listed)
    assert findings(capsys) == (0, [])

    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        application.execute("insert into \"Grant\" (workspace_id, folder_id) values ('acme', 99)")
    application.execute("insert into folder (workspace_id, name) values ('acme', 'one'), ('acme', 'two')")
    application.execute(
        "insert into grant_1 (id, workspace_id, folder_id) overriding system value values (7, 'acme', 1)"
    )
    application.execute("insert into \"Grant\" (workspace_id, folder_id) values ('acme', 2)")
    application.execute("insert into document values (1, 'acme')")
    application.execute("update document set id = 2")
    application.execute("delete from folder where id = 2")
    application.execute('truncate "Grant"')
    assert trail(db, "operation, table_name, row_count, resource_id, resource_name, database_user") == [
        ("INSERT", "folder", 2, None, None, owner),
        ("INSERT", "Grant", 1, "1", "one", owner),
        ("INSERT", "Grant", 1, "2", "two", owner),
        ("INSERT", "document", 1, "1", None, owner),
        ("UPDATE", "document", 1, "2", None, owner),
        ("DELETE", "folder", 1, "2", None, owner),
        ("DELETE", "Grant", 1, "2", None, owner),
        ("TRUNCATE", "Grant", 1, None, None, owner),
    ]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        application.execute("alter table document disable trigger all")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        application.execute("drop trigger audit_insert on grant_1")
    application.close()


# Logical replication


@pytest.fixture
def published(database: Database, db: Connection, empty_database: Database) -> Iterator[Connection]:
    """A tracked, partitioned table that a subscription fills from another database of the same server."""
    columns = "id integer primary key, workspace_id text, title text"
    publisher = empty_database.connect()
    publisher.execute(f"create table document ({columns}); insert into document values (1, 'acme', 'copied')".encode())
    publisher.execute("create publication documents for table document")
    db.execute(f"create table document ({columns}) partition by range (id)".encode())
    db.execute("create table document_1 partition of document for values from (0) to (10)")
    db.execute("select audit.enable_tracking('document')")
    # A subscription that makes its own slot would wait for its own transaction, in the same server.
    slot = f"documents_of_{database.name}"
    publisher.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
    db.execute(
        sql.SQL(
            "create subscription documents connection {} publication documents"
            " with (create_slot = false, slot_name = {})"
        ).format(sql.Literal(empty_database.url()), sql.Identifier(slot))
    )
    yield publisher
    db.execute("alter subscription documents disable")
    db.execute("alter subscription documents set (slot_name = none)")
    db.execute("drop subscription documents")
    wait_for(publisher, f"select not active from pg_replication_slots where slot_name = '{slot}'")
    publisher.execute("select pg_drop_replication_slot(%s)", [slot])


def wait_for(connection: Connection, query: str) -> None:
    """Ask until the answer is yes."""
    end = time.monotonic() + 60
    while connection.execute(query.encode()).fetchone() != (True,):
        assert time.monotonic() < end, f"not within 60 seconds: {query}"
        time.sleep(0.05)


@pytest.mark.usefixtures("login")
def test_a_subscription_that_writes_to_a_tracked_table_is_listed(
    db: Connection, published: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_for(db, "select every(srsubstate = 'r') from pg_subscription_rel")
    published.execute("insert into document values (2, 'acme', 'applied')")
    published.execute("update document set title = 'changed' where id = 1")
    wait_for(db, "select (select array_agg(id || title order by id) from document) = '{1changed,2applied}'")
    # The first copy is a COPY, which fires statement triggers; the apply worker fires none, ENABLE ALWAYS or not.
    assert trail(db, "operation, after ->> 'title'") == [("INSERT", "copied")]
    code, listed = findings(capsys)
    assert (code, [(finding["problem"], finding["object_name"], finding["mend"]) for finding in listed]) == (
        1,
        [("written_by_subscription", "public.document", "alter subscription documents disable")],
    )
    mend(db, listed)
    assert findings(capsys) == (0, [])
