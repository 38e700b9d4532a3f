"""Upkeep killed before any of its statements, or within one, is finished by the next run.

It must not time anything: a kill comes before a statement that is named by its number, or while it is seen to wait.
"""

from itertools import count as numbers
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel

from daybook import upkeep
from daybook.database import connect
from daybook.upkeep import maintain
from tests.conftest import Database
from tests.trail import Connection, count, own_events, trail
from tests.upkeep import be_dead, day_name, days, eventually, in_background, make_past, pass_retention, waiting

STANDING = [(-5, 2), (2, 3), (3, 4), (4, 5), (5, None)]


@pytest.fixture
def document(db: Connection) -> Connection:
    db.execute("create table document (id integer generated always as identity primary key, workspace_id text)")
    db.execute("select audit.enable_tracking('document')")
    return db


class Watch:
    """Upkeep's connections as tests see them: each statement with its lock time-out, one of them killed beforehand."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch, kill_before: int | None = None) -> None:
        self.statements: list[tuple[str, str]] = []
        self._kill_before = kill_before
        self._executioner = database.connect()
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(upkeep, "connect", self.connect)

    def connect(self, conninfo: str, *, autocommit: bool = False) -> Connection:
        connection = connect(conninfo, autocommit=autocommit)
        execute = connection.execute

        def watched(query: Any, *arguments: Any) -> Any:
            text = query if isinstance(query, str) else query.as_string(connection)
            timeout = str(execute("select current_setting('lock_timeout')").fetchall()[0][0])
            self.statements.append((text, timeout))
            if len(self.statements) == self._kill_before:
                self._executioner.execute("select pg_terminate_backend(%s, 10000)", [connection.info.backend_pid])
            return execute(query, *arguments)

        self._monkeypatch.setattr(connection, "execute", watched)
        return connection


def neglect(db: Connection) -> None:
    """A day to drop, three to make, and entries that stand past the prepared ones; nothing is left of a run before."""
    db.execute("update audit.upkeep set days_ahead = 4")
    be_dead(db, 5)
    make_past(db, 91, 91)
    # Closing has tests of its own.
    db.execute("insert into audit.closed_day select %s, now(), now() on conflict do nothing", [day_name(db, 91)])
    pass_retention(db)
    db.execute("insert into document (workspace_id) values ('acme')")
    db.execute("insert into document (workspace_id) values ('acme'), ('acme')")


def state(db: Connection) -> tuple[Any, ...]:
    """All that upkeep leaves behind: days, tables, indexes and checks of the newest, entries."""
    tables = "select count(*) from pg_class where relnamespace = 'audit'::regnamespace and relkind = 'r'"
    indexes = (
        "select count(*) from pg_index i join pg_class c on c.oid = i.indrelid"
        " where c.relnamespace = 'audit'::regnamespace and c.relkind = 'r'"
    )
    checks = "select count(*) from pg_constraint where conname = 'stands_before_new_beyond'"
    return (
        days(db),
        days(db, "change") == days(db),
        [count(db, query) for query in (tables, indexes, checks)],
        own_events(db, "event, resource_id"),
        trail(db, "row_count"),
        count(db, "select count(*) from audit.change"),
    )


def test_upkeep_killed_before_each_statement_ends_where_it_would_have(
    database: Database, document: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    neglect(document)
    assert maintain(database.url("maintainer")).problem is None
    expected = state(document)
    assert expected[0] == STANDING
    assert expected[1:2] + expected[3:] == (
        True,
        [("day_dropped", day_name(document, 91))],
        [(1,), (2,)],
        2,
    )
    found = {}
    for number in numbers(1):
        neglect(document)
        watch = Watch(database, monkeypatch, kill_before=number)
        try:
            maintain(database.url("maintainer"))
            break
        except psycopg.OperationalError:
            monkeypatch.setattr(upkeep, "connect", connect)
        assert maintain(database.url("maintainer")).problem is None
        found[number, watch.statements[-1][0]] = state(document)
    assert len(found) >= 20
    assert {step: after for step, after in found.items() if after != expected} == {}


def locks(db: Connection, pid: int) -> set[tuple[str, str, bool]]:
    """The locks of a backend on the log: table, mode, whether it has it."""
    found = db.execute(
        "select relation::regclass::text, mode, granted from pg_locks where pid = %s and locktype = 'relation'"
        " and relation in (select oid from pg_class where relname ~ '^(entry|change)(_beyond)?$')",
        [pid],
    )
    return {(str(table), str(mode), bool(granted)) for table, mode, granted in found}


@pytest.mark.parametrize("reader_stays", [True, False])
def test_a_detach_killed_while_it_waits_for_a_reader_is_finished(
    database: Database, db: Connection, monkeypatch: pytest.MonkeyPatch, reader_stays: bool
) -> None:
    make_past(db, 92, 91)
    pass_retention(db)
    reader = database.connect("dba", autocommit=False)
    reader.isolation_level = IsolationLevel.REPEATABLE_READ
    reader.execute("select count(*) from audit.entry")
    with in_background(lambda: maintain(database.url("maintainer"))) as results:
        pid = eventually(lambda: waiting(db, "virtualxid"))
        # However long it waits: a writer asks for ROW EXCLUSIVE, which these do not refuse.
        assert {mode for _, mode, _ in locks(db, pid)} <= {"ShareUpdateExclusiveLock", "AccessShareLock"}
        assert count(db, "select count(*) from audit.day_partition where detach_pending") == 1
        db.execute("select pg_terminate_backend(%s, 10000)", [pid])
    assert isinstance(results[0], psycopg.OperationalError)
    if reader_stays:
        monkeypatch.setattr(upkeep, "FINALIZE_TIMEOUT", "50ms")
        assert f"{day_name(db, 92)}: a reader holds it" in str(maintain(database.url("maintainer")).problem)
        assert reader.execute("select count(*) from audit.entry").fetchone() == (2,)
    reader.rollback()
    run = maintain(database.url("maintainer"))
    assert (run.days_dropped, run.problem) == ([day_name(db, 92), day_name(db, 91)], None)
    assert days(db)[0] == days(db, "change")[0] == (-1, 0)
    assert [event for event, _ in own_events(db)] == ["day_dropped", "day_dropped"]


def test_maintain_killed_while_it_waits_leaves_everything_as_it_was(database: Database, document: Connection) -> None:
    neglect(document)
    before = state(document)
    reader = database.connect("dba", autocommit=False)
    reader.execute("select count(*) from audit.entry")
    maintainer = database.connect("maintainer")
    with in_background(lambda: maintainer.execute("select audit.maintain()")) as results:
        pid = eventually(lambda: waiting(document, "PgSleep"))
        document.execute("select pg_terminate_backend(%s, 10000)", [pid])
    assert isinstance(results[0], psycopg.OperationalError)
    assert state(document) == before
    reader.rollback()
    assert database.connect("maintainer").execute("select audit.maintain() -> 'problem'").fetchone() == (None,)
    assert state(document)[0] == STANDING
    assert own_events(document) == [("day_dropped", day_name(document, 91))]


# What a writer may have to wait for


def test_each_statement_that_locks_the_log_gives_up_after_100_milliseconds(
    database: Database, document: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    neglect(document)
    watch = Watch(database, monkeypatch)
    maintain(database.url("maintainer"))
    patient = {text for text, timeout in watch.statements if timeout == "10s"}
    day = day_name(document, 91)[5:]
    assert {text.replace(day, "") for text in patient if "alter" in text} >= {
        'alter table audit."entry" detach partition audit."entry" concurrently',
        'alter table audit."change" detach partition audit."change" concurrently',
    }
    assert {text for text in patient if not text.endswith(" concurrently")} == {
        "set role audit_owner",
        "reset role",
        "select set_config('lock_timeout', %s, false)",
        "select log_table, detach_pending from audit.day_partition where partition_name = %s",
    }
    assert ("select audit.prepare_days(%s, %s)", "100ms") in watch.statements
    assert ("select audit.drop_day(%s)", "100ms") in watch.statements
    own = document.execute(
        "select proname from pg_proc where pronamespace = 'audit'::regnamespace"
        " and 'lock_timeout=100ms' = any(proconfig) order by 1"
    ).fetchall()
    assert own == [("drop_day",), ("follow_table",), ("maintain",), ("prepare_days",), ("tell_alteration",)]


def test_looking_at_what_stands_beyond_hinders_no_writer(database: Database, document: Connection) -> None:
    neglect(document)
    reader = database.connect("dba", autocommit=False)
    reader.execute("select count(*) from audit.entry")
    with in_background(lambda: maintain(database.url("maintainer"))) as results:
        # It has looked, and could not have the log for the swap: it goes on trying.
        pid = eventually(lambda: waiting(document, "PgSleep"))
        held = eventually(lambda: {lock for lock in locks(document, pid) if waiting(document, "PgSleep") == pid})
        reader.rollback()
    assert {mode for table, mode, _ in held if table in ("audit.entry_beyond", "audit.change_beyond")} == {
        "AccessShareLock",
        "ShareUpdateExclusiveLock",
    }
    assert {mode for _, mode, _ in held} <= {"AccessShareLock", "ShareUpdateExclusiveLock"}
    assert results[0].problem is None
    assert days(document) == STANDING
