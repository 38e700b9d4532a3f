"""DDL beside writers and other DDL: no write fails or lacks a column in the log, nobody waits because of the log."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.conftest import Database, TestServer
from tests.reading import shared_database
from tests.trail import Connection, count, own_events, trail

WRITERS = 4
ROUND = 20
ROUNDS = 4


class Writer:
    """Writes rows of its own until it is told to end, and keeps what the server says it wrote."""

    def __init__(self, url: str, number: int, ended: threading.Event) -> None:
        self.rows: dict[tuple[str, str], Any] = {}
        self.changed: list[tuple[str, int]] = []
        self.failures: list[BaseException] = []
        self._url, self._number, self._ended = url, number, ended
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            with psycopg.connect(self._url, autocommit=True) as connection:
                connection.execute("set plan_cache_mode = force_generic_plan")
                for turn in itertools.count():
                    if self._ended.is_set() and turn:
                        break
                    self._write(connection, self._number + WRITERS * ROUND * turn)
        except BaseException as error:
            self.failures.append(error)

    def _write(self, connection: Connection, key: int) -> None:
        """Write one row, two by one statement, change one and delete two, some of it in one transaction."""
        keys = [key, key + WRITERS, key + 2 * WRITERS]
        insert = "insert into document (id, workspace_id, fixed) values "
        returning = " returning id, row_to_json(document)"
        self._note("INSERT", connection.execute(f"{insert}(%s, 'acme', 0){returning}".encode(), keys[:1], prepare=True))
        with connection.transaction():
            found = connection.execute(f"{insert}(%s, 'acme', 0), (%s, 'acme', 0){returning}".encode(), keys[1:])
            self._note("INSERT", found)
            connection.execute("update document set fixed = 1 where id = %s", keys[:1], prepare=True)
            self.changed.append(("UPDATE", key))
        for gone in keys[:2]:
            query = f"delete from document where id = %s{returning}"
            self._note("DELETE", connection.execute(query.encode(), [gone], prepare=True))

    def _note(self, operation: str, found: psycopg.Cursor[tuple[Any, ...]]) -> None:
        for key, row in found:
            self.rows[operation, str(key)] = row


@contextmanager
def writers(database: Database) -> Iterator[list[Writer]]:
    """Run the writers while the block runs DDL."""
    ended = threading.Event()
    found = [Writer(database.url("app_owner"), number, ended) for number in range(WRITERS)]
    try:
        yield found
    finally:
        ended.set()
        for writer in found:
            writer.thread.join()


@pytest.fixture
def owner(database: Database) -> Connection:
    owner = database.connect("app_owner")
    owner.execute("create table document (id integer primary key, workspace_id text, fixed integer)")
    owner.execute("select audit.enable_tracking('document')")
    owner.execute("set lock_timeout = '2s'")
    return owner


def logged(db: Connection) -> dict[tuple[str, str], Any]:
    """Return every row that the log shows as inserted or deleted, from entries of one row and of several."""
    query = (
        "select e.operation, coalesce(c.resource_id, e.resource_id), coalesce(c.after, c.before, e.after, e.before)"
        " from audit.entry e left join audit.change c on c.entry_id = e.id"
        " where e.operation in ('INSERT', 'DELETE')"
    )
    found = db.execute(query.encode()).fetchall()
    assert len(found) == len({(operation, key) for operation, key, _ in found})
    return {(operation, key): row for operation, key, row in found}


COLUMNS = [
    "alter table document add a integer default 5",
    "alter table document add b text",
    "alter table document rename a to c",
    "alter table document alter c type bigint",
    "alter table document alter b type varchar(9), alter b set default 'b'",
    "alter table document rename b to a",
    "alter table document alter c type text using c || '!'",
    "alter table document drop c, add c integer default 7",
    "alter table document drop a",
    "alter table document alter c drop default, drop constraint document_pkey, add primary key (id)",
    "alter table document drop c",
]

UPKEEP = [
    "create index concurrently i on document (fixed)",
    "reindex index concurrently i",
    "reindex table concurrently document",
    "vacuum full document",
    "cluster document using document_pkey",
    "vacuum (freeze, analyze) document",
    "drop index concurrently i",
    "alter table document set (fillfactor = 50), alter fixed set statistics 5",
    "alter table document add constraint positive check (fixed >= 0) not valid",
    "alter table document validate constraint positive",
    (
        "create trigger t before update on document for each row execute function suppress_redundant_updates_trigger();"
        " alter table document disable trigger t; drop trigger t on document"
    ),
]


@pytest.mark.parametrize("ddl", [COLUMNS + COLUMNS, UPKEEP], ids=["columns", "upkeep"])
@pytest.mark.parametrize("follows", ["followed", "unfollowed"])
def test_every_write_beside_ddl_is_in_the_log_with_every_column_it_had(
    database: Database, db: Connection, owner: Connection, ddl: list[str], follows: str
) -> None:
    if follows == "unfollowed":
        db.execute("alter event trigger audit_follow_ddl disable; alter event trigger audit_follow_drop disable")
    warnings: list[str | None] = []
    owner.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
    with writers(database) as found:
        for command in ddl:
            for statement in command.split("; "):
                owner.execute(statement.encode())
    assert [failure for writer in found for failure in writer.failures] == []
    written = {key: row for writer in found for key, row in writer.rows.items()}
    assert logged(db) == written
    updated = sorted(key for writer in found for _, key in writer.changed)
    query = "select resource_id::integer, before, after from audit.entry where operation = 'UPDATE' order by 1"
    assert db.execute(query).fetchall() == [(key, {"fixed": 0}, {"fixed": 1}) for key in updated]
    assert warnings == []


def test_ddl_of_many_sessions_at_once_fails_by_nothing_of_ours(database: Database, db: Connection) -> None:
    owner = database.connect("app_owner")
    owner.execute("create table folder (id integer primary key, name text); insert into folder values (1, 'F')")
    owner.execute("grant select on folder to audit_capture")
    columns = "id integer primary key, workspace_id text, folder_id integer references folder"
    for table in ("one", "two", "three", "four"):
        owner.execute(f"create table {table} ({columns})".encode())
    for table in ("one", "two", "four"):
        owner.execute(f"select audit.enable_tracking('{table}', resource_name_column => 'folder_id.name')".encode())

    def alter(table: str, name: str, key: int) -> Iterator[str]:
        yield f"alter table {table} add {name} integer default 5"
        yield f"alter table {table} rename {name} to {name}_2"
        yield f"insert into {table} (id, workspace_id, folder_id) values ({key}, 'acme', 1)"
        yield f"alter table {table} drop {name}_2; delete from {table} where id = {key}"

    def alter_folder() -> Iterator[str]:
        yield "alter table folder add a integer"
        yield "alter table folder rename a to b"
        yield "alter table folder drop b"

    def grant() -> Iterator[str]:
        yield "grant select on four to app_user, audit_capture; grant usage on schema public to app_user"
        yield "revoke select on four from app_user, audit_capture; revoke usage on schema public from app_user"

    def track() -> Iterator[str]:
        yield "select audit.enable_tracking('three', resource_name_column => 'folder_id.name')"
        yield "insert into three values (1, 'acme', 1); delete from three"
        yield "select audit.disable_tracking('three')"

    def maintain() -> Iterator[str]:
        yield "select audit.maintain()"

    failures: list[str] = []
    warnings: list[str | None] = []

    def run(user: str, statements: Callable[[], Iterator[str]]) -> None:
        try:
            with psycopg.connect(database.url(user), autocommit=True) as connection:
                connection.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
                for _ in range(ROUNDS):
                    for statement in statements():
                        connection.execute(statement.encode())
        except BaseException as error:
            failures.append(f"{statements}: {error}")

    work: list[tuple[str, Callable[[], Iterator[str]]]] = [
        ("app_owner", lambda: alter("one", "a", 1)),
        ("app_owner", lambda: alter("one", "b", 2)),
        ("app_owner", lambda: alter("two", "a", 1)),
        ("app_owner", alter_folder),
        ("postgres", grant),
        ("app_owner", track),
        ("postgres", maintain),
    ]
    threads = [threading.Thread(target=run, args=item) for item in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert warnings == []
    db.execute("select audit.maintain()")
    assert count(db, "select count(*) from audit.check() where problem <> 'owner_can_log_in'") == 0
    assert count(db, "select count(*) from audit.entry where table_name in ('one', 'two')") == 3 * ROUNDS * 2
    assert count(db, "select count(*) from audit.entry where table_name = 'three'") == ROUNDS * 2


# Two open transactions, each with its DDL: neither waits for the other through the log


DDL = {
    "alter": "alter table {0} add a integer",
    "rewrite": "alter table {0} alter n type bigint",
    "another owner": "alter table {0} owner to {1}",
    "drop": "drop table {0}",
    "alter the parent": "alter table {0}_folder add a integer",
    "grant on the parent": "grant update on {0}_folder to audit_capture",
    "attach in a new schema": "create table fresh.{0}_part partition of {0}_all for values from (0) to (10)",
    "track again": "select audit.enable_tracking('{0}', workspace => 'w')",
    "track": "select audit.enable_tracking('{0}_folder', workspace => 'w')",
    "track no more": "select audit.disable_tracking('{0}')",
    "rename a schema": "alter schema {0}_schema rename to {0}_another",
    "upkeep": "select audit.maintain()",
}

# The verbs of tracking wait their turn: what they grant stands in rows that all tables share, and they want settings
# that nobody else is following (after a schema's new name, all that look names up are followed).
WAITS = {
    ("track", "track"),
    ("track", "track again"),
    ("track again", "track"),
    ("track again", "track again"),
    ("another owner", "track"),
    ("rename a schema", "track again"),
    ("rename a schema", "track no more"),
    ("upkeep", "track again"),
    ("upkeep", "track no more"),
}


@pytest.fixture(scope="module")
def shared(server: TestServer) -> Iterator[tuple[Connection, Connection, list[str | None]]]:
    with shared_database(server) as database:
        db = database.connect()
        db.execute("create schema fresh")
        for side in ("left", "right"):
            name = f"{side}_table"
            db.execute(f"create type {name}_mood as enum ('sad'); create schema {name}_schema".encode())
            db.execute(f"create table {name}_folder (id integer primary key, name text)".encode())
            db.execute(f"grant select on {name}_folder to audit_capture".encode())
            db.execute(
                f"create table {name} (id integer primary key, workspace_id text, n integer, mood {name}_mood,"
                f" folder_id integer references {name}_folder)".encode()
            )
            db.execute(f"create table {name}_all (id integer, workspace_id text) partition by range (id)".encode())
            db.execute(f"select audit.enable_tracking('{name}', resource_name_column => 'folder_id.name')".encode())
            db.execute(f"select audit.enable_tracking('{name}_all', resource_id_columns => '{{id}}')".encode())
        warnings: list[str | None] = []
        one, two = database.connect(), database.connect()
        two.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
        yield one, two, warnings


@pytest.fixture
def sessions(
    shared: tuple[Connection, Connection, list[str | None]],
) -> Iterator[tuple[Connection, Connection, list[str | None]]]:
    """Two sessions, whose transactions are rolled back, and the warnings that the second one gets."""
    yield shared
    shared[0].execute("rollback")
    shared[1].execute("rollback")
    shared[2].clear()


@pytest.mark.parametrize("second", DDL)
@pytest.mark.parametrize("first", DDL)
def test_two_transactions_do_not_wait_for_each_other_through_the_log(
    sessions: tuple[Connection, Connection, list[str | None]], first: str, second: str
) -> None:
    one, two, warnings = sessions
    one.execute("begin")
    one.execute(DDL[first].format("left_table", "app_user").encode())
    two.execute("begin; set local lock_timeout = '150ms'")
    try:
        two.execute(DDL[second].format("right_table", "rival").encode())
        waited = False
    except psycopg.errors.LockNotAvailable:
        waited = True
    assert (waited, warnings) == ((first, second) in WAITS, [])


def test_two_transactions_that_attach_partitions_in_a_new_schema_both_have_them_captured(
    database: Database, db: Connection
) -> None:
    db.execute("create schema fresh authorization app_owner")
    one, two = database.connect("app_owner"), database.connect("app_owner")
    for table in ("a", "b"):
        one.execute(f"create table {table} (id integer, workspace_id text) partition by range (id)".encode())
        one.execute(f"select audit.enable_tracking('{table}', resource_id_columns => '{{id}}')".encode())
    one.execute("begin; create table fresh.a_1 partition of a for values from (0) to (10)")
    two.execute("begin; create table fresh.b_1 partition of b for values from (0) to (10)")
    two.execute("insert into fresh.b_1 values (1, 'acme'), (2, 'acme'); commit")
    one.execute("insert into fresh.a_1 values (1, 'acme'); commit")
    two.execute("truncate fresh.b_1")
    assert trail(db, "operation, table_name, row_count, context") == [
        ("INSERT", "b", 2, None),
        ("INSERT", "a", 1, None),
        ("TRUNCATE", "b", 2, {"details": {"partition": "fresh.b_1"}}),
    ]


def test_a_table_dropped_while_another_transaction_holds_its_settings_leaves_its_entry(
    database: Database, db: Connection
) -> None:
    owner = database.connect("app_owner")
    owner.execute("create table document (id integer primary key, workspace_id text)")
    owner.execute("select audit.enable_tracking('document')")
    db.execute("begin; select from audit.tracked_table for update")
    owner.execute("set lock_timeout = '2s'; drop table document")
    db.execute("commit")
    assert own_events(db) == [("tracking_enabled", "public.document"), ("table_dropped", "public.document")]
    found = db.execute("select problem, mend from audit.check()").fetchall()
    assert found == [("table_missing", "delete from audit.tracked_table where id = 1")]


def test_two_tables_that_get_new_owners_at_once_are_both_followed(database: Database, db: Connection) -> None:
    one, two = database.connect(), database.connect()
    for table in ("a", "b"):
        one.execute(f"create table {table} (id integer primary key, workspace_id text)".encode())
        one.execute(f"select audit.enable_tracking('{table}')".encode())
    one.execute("begin; alter table a owner to app_user; alter table a add x integer")
    two.execute("begin; alter table b owner to rival; alter table b add x integer; commit")
    one.execute("commit; select audit.maintain()")
    query = (
        "select c.relname from pg_class c join audit.tracked_table t on t.relation_oid = c.oid where"
        " has_function_privilege(c.relowner, 'audit.capture_' || t.id || '()', 'execute') order by 1"
    )
    assert db.execute(query).fetchall() == [("a",), ("b",)]
    assert count(db, "select count(*) from audit.check() where problem = 'function_stale'") == 0
