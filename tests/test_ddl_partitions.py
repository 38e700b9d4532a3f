"""DDL on partitions of a tracked table: attached at any depth they are captured, detached in any way no more."""

import threading
from typing import Any

import psycopg
import pytest

from tests.conftest import Database
from tests.trail import Connection, changes, count, own_events, trail

FUNCTIONS = (
    "select c.relname from pg_class c where exists (select from pg_trigger t join pg_proc p on p.oid = t.tgfoid"
    " where t.tgrelid = c.oid and p.proname ~ '^capture_[0-9]+$') order by 1"
)


@pytest.fixture
def owner(database: Database) -> Connection:
    """The session of the tables' owner, who is no superuser."""
    owner = database.connect("app_owner")
    owner.execute(
        "create table document (id integer, workspace_id text, title text, primary key (id)) partition by range (id)"
    )
    owner.execute("create table low partition of document for values from (0) to (10)")
    owner.execute("create table high partition of document for values from (10) to (30) partition by range (id)")
    owner.execute("create table high_1 partition of high for values from (10) to (20)")
    owner.execute("select audit.enable_tracking('document')")
    return owner


@pytest.fixture
def writer(database: Database, owner: Connection) -> Connection:
    """Another session, which wrote before and keeps its plans."""
    writer = database.connect("app_owner")
    writer.execute("set plan_cache_mode = force_generic_plan")
    writer.execute("insert into document values (1, 'acme', 'A')")
    writer.execute("update high_1 set title = 'B'")
    return writer


def tracked_tables(connection: Connection) -> list[str]:
    return [name for (name,) in connection.execute(FUNCTIONS).fetchall()]


def whole(db: Connection) -> list[tuple[Any, ...]]:
    """Return what the log holds of one row each, and the rows of bulk entries."""
    return trail(db, "operation, table_name, resource_id, coalesce(after, before)") + changes(db, "resource_id, after")


FIRST = ("INSERT", "document", "1", {"id": 1, "workspace_id": "acme", "title": "A"})
ALL = ["document", "high", "high_1", "low"]


@pytest.mark.parametrize(
    ("ddl", "names"),
    [
        ("create table high_2 partition of high for values from (20) to (30)", ["high_2"]),
        ("create table rest partition of document default", ["rest"]),
        (
            (
                "create table top partition of document for values from (30) to (90) partition by list (id);"
                " create table top_1 partition of top for values in (31) partition by range (id);"
                " create table top_2 partition of top_1 default"
            ),
            ["top", "top_1", "top_2"],
        ),
        (
            (
                "create table other (title text, gone integer, workspace_id text, id integer not null);"
                " alter table other drop gone; alter table document attach partition other for values from (30) to (40)"
            ),
            ["other"],
        ),
        (
            (
                "create table other (id integer primary key, workspace_id text, title text) partition by range (id);"
                " create table other_1 partition of other for values from (30) to (35);"
                " create table other_2 (like other_1 including all);"
                " alter table other attach partition other_2 for values from (35) to (40);"
                " alter table document attach partition other for values from (30) to (40)"
            ),
            ["other", "other_1", "other_2"],
        ),
        (
            (
                "create table other (like document including all); select audit.enable_tracking('other');"
                " alter table document attach partition other for values from (30) to (40)"
            ),
            ["other"],
        ),
    ],
)
def test_whatever_becomes_a_partition_is_tracked(owner: Connection, ddl: str, names: list[str]) -> None:
    owner.execute(ddl.encode())
    assert tracked_tables(owner) == sorted(ALL + names)


def test_a_table_that_is_attached_is_captured_from_then_on(
    db: Connection, owner: Connection, writer: Connection
) -> None:
    # Other columns' order, a hole where one was dropped, rows of its own.
    writer.execute("create table other (title text, gone integer, workspace_id text, id integer not null)")
    writer.execute("insert into other values ('before', 1, 'acme', 30); alter table other drop gone")
    owner.execute("begin; alter table document attach partition other for values from (30) to (40)")
    owner.execute("insert into document values (31, 'acme', 'within'); commit")
    writer.execute("insert into other (id, workspace_id, title) values (32, 'acme', 'leaf')")
    writer.execute("update document set title = 'all' where id = 30")
    writer.execute("update document set id = 2 where id = 31")
    writer.execute("insert into other (id, workspace_id) values (33, 'acme'), (34, 'acme')")
    assert whole(db) == [
        FIRST,
        ("INSERT", "document", "31", {"id": 31, "workspace_id": "acme", "title": "within"}),
        ("INSERT", "document", "32", {"id": 32, "workspace_id": "acme", "title": "leaf"}),
        ("UPDATE", "document", "30", {"title": "all"}),
        ("UPDATE", "document", "2", {"id": 2}),
        ("INSERT", "document", None, None),
        ("33", {"id": 33, "workspace_id": "acme", "title": None}),
        ("34", {"id": 34, "workspace_id": "acme", "title": None}),
    ]


@pytest.mark.parametrize(
    ("ddl", "left"),
    [
        ("alter table document detach partition low", ["document", "high", "high_1"]),
        ("alter table document detach partition low concurrently", ["document", "high", "high_1"]),
        ("alter table high detach partition high_1", ["document", "high", "low"]),
        ("alter table high detach partition high_1 concurrently", ["document", "high", "low"]),
        ("alter table document detach partition high", ["document", "low"]),
        ("alter table document detach partition high concurrently", ["document", "low"]),
        ("drop table low", ["document", "high", "high_1"]),
        ("drop table high", ["document", "low"]),
    ],
)
def test_whatever_is_a_partition_no_more_is_not_tracked(
    db: Connection, owner: Connection, writer: Connection, ddl: str, left: list[str]
) -> None:
    owner.execute(ddl.encode())
    assert tracked_tables(owner) == left
    writer.execute("create table if not exists low (id integer, workspace_id text, title text)")
    writer.execute("create table if not exists high_1 (id integer, workspace_id text, title text)")
    statements = ["insert into low values (2, 'acme', 'L')", "insert into high_1 values (11, 'acme', 'H')"]
    for statement in statements:
        writer.execute(statement.encode())
    entries = {
        "low": ("INSERT", "document", "2", {"id": 2, "workspace_id": "acme", "title": "L"}),
        "high_1": ("INSERT", "document", "11", {"id": 11, "workspace_id": "acme", "title": "H"}),
    }
    assert whole(db) == [FIRST, *(entry for name, entry in entries.items() if name in left)]
    query = "select problem from audit.check() where problem <> 'owner_can_log_in'"
    assert db.execute(query).fetchall() == []


def test_a_detachment_that_was_interrupted_and_finalized(
    database: Database, db: Connection, owner: Connection, writer: Connection
) -> None:
    reader = database.connect("app_owner", autocommit=False)
    reader.execute("set transaction isolation level repeatable read")
    reader.execute("select count(*) from document")
    owner.execute("set lock_timeout = '300ms'")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        owner.execute("alter table document detach partition low concurrently")
    # It is pending now: the parent passes its rows by, the partition takes them, and all of them are in the log.
    writer.execute("insert into low values (2, 'acme', 'pending')")
    reader.rollback()
    owner.execute("alter table document detach partition low finalize")
    writer.execute("insert into low values (3, 'acme', 'gone')")
    writer.execute("insert into document values (11, 'acme', 'H')")
    assert whole(db) == [
        FIRST,
        ("INSERT", "document", "2", {"id": 2, "workspace_id": "acme", "title": "pending"}),
        ("INSERT", "document", "11", {"id": 11, "workspace_id": "acme", "title": "H"}),
    ]
    assert tracked_tables(owner) == ["document", "high", "high_1"]


def test_a_partition_that_comes_back_is_captured_again(db: Connection, owner: Connection, writer: Connection) -> None:
    owner.execute("begin; alter table document detach partition low; insert into low values (2, 'acme', 'apart')")
    owner.execute("alter table low alter title type varchar(20); alter table low alter title type text")
    owner.execute("alter table document attach partition low for values from (0) to (10); commit")
    writer.execute("delete from low where id = 2")
    assert whole(db) == [FIRST, ("DELETE", "document", "2", {"id": 2, "workspace_id": "acme", "title": "apart"})]


@pytest.mark.parametrize(
    ("ddl", "row"),
    [
        ("alter table document add stars integer default 5", {"title": None, "stars": 5}),
        ("alter table document drop title", {}),
        ("alter table document rename title to name", {"name": None}),
        ("alter table document alter title type integer using 7", {"title": None}),
        ("alter table document alter title set default 'd'; alter table only low alter title set default 'l'", None),
        ("alter table low rename to lowest; alter table lowest set schema other", {"title": None}),
        ("alter table document set schema other; alter table low set schema other", {"title": None}),
        ("alter table low set unlogged; alter table low set (fillfactor = 50)", {"title": None}),
        ("alter table document drop constraint document_pkey, add primary key (id)", {"title": None}),
    ],
)
@pytest.mark.parametrize("follows", ["followed", "unfollowed"])
def test_writes_to_the_table_and_to_its_leaves_go_on(
    db: Connection, owner: Connection, writer: Connection, ddl: str, row: dict[str, Any] | None, follows: str
) -> None:
    if follows == "unfollowed":
        for trigger in ("audit_follow_ddl", "audit_follow_drop", "audit_follow_partitions", "audit_follow_rewrite"):
            db.execute(f"alter event trigger {trigger} disable".encode())
    db.execute(
        "create schema other; grant all on schema other to app_owner; alter role app_owner in database"
        f" {db.info.dbname} set search_path = public, other".encode()
    )
    owner.execute("set search_path = public, other")
    writer.execute("set search_path = public, other")
    owner.execute(ddl.encode())
    # The table and the leaf by whatever they are called now.
    name, leaf = (
        str(found)
        for (found,) in owner.execute(
            "select c.oid::regclass::text from pg_class c where c.relname = any('{document,report,low,lowest}')"
            " and c.relkind in ('p', 'r') order by c.relkind"
        ).fetchall()
    )
    writer.execute(f"insert into {name} (id, workspace_id) values (2, 'acme')".encode())
    writer.execute(f"insert into {leaf} (id, workspace_id) values (3, 'acme')".encode())
    writer.execute(f"update {name} set workspace_id = 'globex' where id = 3".encode())
    writer.execute(f"insert into {leaf} (id, workspace_id) values (4, 'acme'), (5, 'acme')".encode())
    table = name.rpartition(".")[2]
    values = [row] * 3 if row is not None else [{"title": "d"}, {"title": "l"}, {"title": "l"}]
    assert whole(db) == [
        FIRST,
        ("INSERT", table, "2", {"id": 2, "workspace_id": "acme", **values[0]}),
        ("INSERT", table, "3", {"id": 3, "workspace_id": "acme", **values[1]}),
        ("UPDATE", table, "3", {"workspace_id": "globex"}),
        ("INSERT", table, None, None),
        ("4", {"id": 4, "workspace_id": "acme", **values[2]}),
        ("5", {"id": 5, "workspace_id": "acme", **values[2]}),
    ]


RENAME = "alter table document rename to report; alter table low rename to document"


def test_a_renamed_tables_partitions_are_captured_under_its_new_name(
    db: Connection, owner: Connection, writer: Connection
) -> None:
    owner.execute(RENAME.encode())
    writer.execute("insert into report values (2, 'acme', 'L'); insert into document values (3, 'acme', 'L')")
    assert trail(db, "table_name, resource_type, resource_id")[1:] == [
        ("report", "report", "2"),
        ("report", "report", "3"),
    ]


def test_a_renamed_tables_partitions_are_captured_under_its_old_name_until_upkeep_where_nobody_follows(
    db: Connection, owner: Connection, writer: Connection
) -> None:
    db.execute("alter event trigger audit_follow_ddl disable")
    owner.execute(RENAME.encode())
    writer.execute("insert into report values (2, 'acme', 'L')")
    db.execute("select audit.maintain()")
    writer.execute("insert into document values (3, 'acme', 'L')")
    assert trail(db, "table_name, resource_type, resource_id")[1:] == [
        ("document", "document", "2"),
        ("report", "report", "3"),
    ]


def test_a_tracked_table_that_becomes_a_partition_is_captured_once(
    db: Connection, owner: Connection, writer: Connection
) -> None:
    owner.execute("create table other (like document including all); select audit.enable_tracking('other')")
    writer.execute("insert into other values (30, 'acme', 'O')")
    owner.execute("alter table document attach partition other for values from (30) to (40)")
    writer.execute("insert into other values (31, 'acme', 'O')")
    writer.execute("insert into document values (32, 'acme', 'O')")
    assert trail(db, "table_name, resource_id")[1:] == [("other", "30"), ("document", "31"), ("document", "32")]
    query = "select severity, problem, object_name, mend from audit.check() where problem <> 'owner_can_log_in'"
    found = db.execute(query).fetchall()
    assert found == [("warning", "settings_left", "public.other", "delete from audit.tracked_table where id = 2")]
    db.execute(found[0][3].encode())
    assert db.execute(query).fetchall() == []


def test_a_partition_that_nobody_saw_coming_is_captured_through_the_table_and_found_by_the_check(
    db: Connection, owner: Connection, writer: Connection
) -> None:
    db.execute("alter event trigger audit_follow_partitions disable")
    owner.execute("create table top partition of document for values from (30) to (40)")
    writer.execute("insert into document values (31, 'acme', 'T')")
    query = "select distinct problem, object_name from audit.check() where severity = 'bypass'"
    assert db.execute(query).fetchall() == [("partition_untracked", "public.top")]
    for (mend,) in db.execute("select mend from audit.check() where severity = 'bypass'").fetchall():
        owner.execute(mend.encode())
    writer.execute("insert into top values (32, 'acme', 'T')")
    assert whole(db) == [
        FIRST,
        ("INSERT", "document", "31", {"id": 31, "workspace_id": "acme", "title": "T"}),
        ("INSERT", "document", "32", {"id": 32, "workspace_id": "acme", "title": "T"}),
    ]


def test_a_partition_that_nobody_saw_going_is_captured_under_its_own_name(
    db: Connection, owner: Connection, writer: Connection
) -> None:
    db.execute("alter event trigger audit_follow_partitions disable")
    owner.execute("alter table document detach partition low; alter table low add stars integer default 5")
    writer.execute("insert into low values (2, 'acme', 'L')")
    writer.execute("insert into low values (3, 'acme', 'L'), (4, 'acme', 'L')")
    found = trail(db, "operation, resource_id, row_count, after")[1:]
    assert found == [
        ("INSERT", "2", 1, {"id": 2, "workspace_id": "acme", "title": "L", "stars": 5}),
        ("INSERT", None, 2, None),
    ]


def test_partitions_come_and_go_beside_writers(database: Database, db: Connection, owner: Connection) -> None:
    def write(number: int) -> None:
        try:
            with psycopg.connect(database.url("app_owner"), autocommit=True) as connection:
                while not ended.is_set() or written[number] == 0:
                    key = number + 4 * (written[number] % 2)
                    connection.execute("insert into document values (%s, 'acme', 'W')", [key])
                    connection.execute("delete from low where id = %s", [key])
                    written[number] += 1
        except BaseException as error:
            failures.append(error)

    ended = threading.Event()
    failures: list[BaseException] = []
    written = [0, 0, 0, 0]
    threads = [threading.Thread(target=write, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            owner.execute("create table top partition of document for values from (30) to (40)")
            owner.execute("create table high_2 (like high_1 including all)")
            owner.execute("alter table high attach partition high_2 for values from (20) to (30)")
            owner.execute("alter table high detach partition high_2 concurrently")
            owner.execute("drop table high_2; alter table document detach partition top; drop table top")
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert failures == []
    query = "select (after->>'id')::integer % 4, count(*) from audit.entry where operation = 'INSERT' group by 1"
    assert sorted(db.execute(query.encode()).fetchall()) == list(enumerate(written))
    assert count(db, "select count(*) from audit.entry where operation = 'DELETE'") == sum(written)
    assert own_events(db, "event") == [("tracking_enabled",)]
