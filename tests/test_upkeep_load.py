"""Upkeep beside eight writers and a reader: no write fails, nothing is lost, and what cannot be done now is done later.

It must not time anything; what a writer waits for is measured by bench/upkeep.py.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel

from daybook import upkeep
from daybook.upkeep import maintain, status
from tests.conftest import Database
from tests.trail import Connection, count, own_events
from tests.upkeep import (
    TODAY,
    be_dead,
    day_name,
    days,
    eventually,
    in_background,
    make_past,
    pass_retention,
    put_entries,
    waiting,
)

AHEAD = 6
PREPARED = [(2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, None)]


@pytest.fixture
def document(db: Connection) -> Connection:
    db.execute("create table document (id integer generated always as identity primary key, workspace_id text)")
    db.execute("grant select, insert on document to app_user")
    db.execute("select audit.enable_tracking('document')")
    db.execute(f"update audit.upkeep set days_ahead = {AHEAD}".encode())
    return db


@pytest.fixture(params=["daybook maintain", "audit.maintain()"])
def run(request: pytest.FixtureRequest, database: Database, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Upkeep in each of its two ways, less patient; tells whether it had its turn, what it dropped and its problem."""
    monkeypatch.setattr(upkeep, "LOCK_ATTEMPTS", 3)
    monkeypatch.setattr(upkeep, "DETACH_TIMEOUT", "200ms")
    monkeypatch.setattr(upkeep, "FINALIZE_TIMEOUT", "50ms")

    def by_command() -> tuple[bool, list[str], str | None]:
        done = maintain(database.url("maintainer"))
        return done.ran, done.days_dropped, done.problem

    def by_function() -> tuple[bool, list[str], str | None]:
        with psycopg.connect(database.url("maintainer"), autocommit=True) as connection:
            row = connection.execute("select audit.maintain()").fetchone()
        assert row is not None
        return row[0]["ran"], row[0].get("days_dropped", []), row[0].get("problem")

    return by_command if request.param == "daybook maintain" else by_function


@contextmanager
def writers(database: Database, number: int = 8) -> Iterator[Callable[[], int]]:
    """Writers of one row and then two, until the block is left; gives how often they have, raises what failed."""
    stop = threading.Event()
    written = [0] * number

    def write(writer: int) -> None:
        with psycopg.connect(database.url("app_user"), autocommit=True) as connection:
            while not stop.wait(0.01):
                connection.execute("insert into document (workspace_id) values ('acme')")
                connection.execute("insert into document (workspace_id) values ('acme'), ('globex')")
                written[writer] += 1

    with ThreadPoolExecutor(number) as threads:
        done = [threads.submit(write, writer) for writer in range(number)]
        try:
            yield lambda: sum(written)
        finally:
            stop.set()
    for writer in done:
        writer.result()


def lost_or_invented(db: Connection) -> list[tuple[Any, ...]]:
    """The documents whose insertion is not in the log exactly once, and what the log has beside them."""
    return db.execute(
        "select coalesce(d.id::text, l.resource_id), l.times from document d full join ("
        " select resource_id, count(*) as times from ("
        "  select resource_id from audit.entry where event = 'resource_created' and row_count = 1"
        "  union all select c.resource_id from audit.change c join audit.entry e on e.id = c.entry_id"
        "  and e.table_name is not null) rows group by resource_id) l on l.resource_id = d.id::text"
        " where l.times is distinct from 1 or d.id is null"
    ).fetchall()


def test_days_come_and_go_under_writers_and_a_reader(database: Database, document: Connection, run: Any) -> None:
    be_dead(document, 1)
    make_past(document, 93, 91)
    pass_retention(document)
    reader = database.connect("dba", autocommit=False)
    reader.isolation_level = IsolationLevel.REPEATABLE_READ
    with writers(database) as written:
        eventually(lambda: written() > 20)
        promised = reader.execute("select count(*) from audit.entry where event = 'resource_updated'").fetchone()
        ran, dropped, problem = run()
        assert (ran, dropped) == (True, [])
        assert "days ahead: the log was busy; the next run tries again" in problem
        assert f"{day_name(document, 93)}: a reader holds it; the next run drops it" in problem
        before = written()
        eventually(lambda: written() > before + 20)
        assert (
            reader.execute("select count(*) from audit.entry where event = 'resource_updated'").fetchone() == promised
        )
        reader.rollback()
        eventually(lambda: run()[2] is None)
        before = written()
        eventually(lambda: written() > before + 20)
    assert lost_or_invented(document) == []
    assert days(document) == [(-1, 2), *PREPARED]
    assert days(document, "change") == days(document)
    assert own_events(document) == [("day_dropped", day_name(document, ago)) for ago in (93, 92, 91)]


def test_upkeep_dead_for_60_days_fails_nothing_and_sorts_it_out_under_load(
    database: Database, document: Connection, run: Any
) -> None:
    be_dead(document, 30)
    put_entries(document, f"audit.day_start({TODAY} - n) from generate_series(1, 30) n")
    with writers(database) as written:
        eventually(lambda: written() > 20)
        state = status(database.url("dba"))
        assert (state.is_late, state.is_well, state.entries_beyond > 50) == (True, False, True)
        assert database.connect("reader").execute("select audit.upkeep_is_late()").fetchone() == (True,)
        eventually(lambda: run()[2] is None)
        before = written()
        eventually(lambda: written() > before + 20)
        state = status(database.url("dba"))
        assert (state.is_late, state.entries_beyond, state.last_problem) == (False, 0, None)
    assert lost_or_invented(document) == []
    assert days(document) == [(-30, 2), *PREPARED]
    assert count(document, "select count(*) from audit.entry where event = 'resource_updated'") == 30


def test_of_many_runners_one_works_at_a_time(database: Database, document: Connection, run: Any) -> None:
    be_dead(document, 1)
    make_past(document, 94, 91)
    pass_retention(document)
    with writers(database) as written:
        with ThreadPoolExecutor(6) as threads:
            runs = [result for _ in range(3) for result in threads.map(lambda _: run(), range(6))]
        before = written()
        eventually(lambda: written() > before)
    assert [ran for ran, _, _ in runs].count(True) >= 3
    eventually(lambda: run()[2] is None)
    assert lost_or_invented(document) == []
    assert days(document) == [(-1, 2), *PREPARED]
    assert sorted(own_events(document)) == [("day_dropped", day_name(document, ago)) for ago in (94, 93, 92, 91)]


# The check by which ..._beyond is split


def test_the_check_on_what_stands_beyond_never_fails_a_write(database: Database, document: Connection) -> None:
    be_dead(document, 1)
    app = database.connect("app_user")
    app.execute("set audit.split_from = '2020-01-01'; set audit.split_to = '2020-01-02'")
    app.execute("insert into document (workspace_id) values ('acme')")
    app.execute("insert into document (workspace_id) values ('acme'), ('acme')")
    put_entries(document, "unnest('{3026-03-14, 200000-01-01}'::timestamptz[])")
    assert lost_or_invented(document) == []
    assert count(document, "select count(*) from audit.entry_beyond where event <> 'tracking_enabled'") == 4


def test_a_session_settings_of_such_names_do_not_mislead_upkeep(database: Database, document: Connection) -> None:
    be_dead(document, 1)
    document.execute("insert into document (workspace_id) values ('acme')")
    maintainer = database.connect("maintainer")
    maintainer.execute("set audit.split_from = 'infinity'; set audit.split_to = '2020-01-02'")
    assert maintainer.execute("select audit.maintain() ->> 'problem'").fetchone() == (None,)
    assert days(document) == [(-1, 2), *PREPARED]


def test_what_came_in_past_the_new_bound_since_upkeep_looked_is_not_split_away(
    database: Database, document: Connection
) -> None:
    be_dead(document, 1)
    document.execute("insert into document (workspace_id) values ('acme')")
    reader = database.connect("dba", autocommit=False)
    reader.execute("select count(*) from audit.entry")
    with in_background(lambda: maintain(database.url("maintainer"))) as results:
        eventually(lambda: waiting(document, "PgSleep"))
        put_entries(document, f"audit.day_start({TODAY} + 4)")
        reader.rollback()
    assert results[0].problem == "days ahead: entries came in past the days to be made"
    assert days(document) == [(-1, None)]
    assert maintain(database.url("maintainer")).problem is None
    assert days(document) == [(-1, 6), (6, 7), (7, None)]
    assert count(document, f"select count(*) from audit.entry where created_at = audit.day_start({TODAY} + 4)") == 1


def test_what_stands_beyond_is_not_sorted_out_by_an_older_snapshot(database: Database, document: Connection) -> None:
    be_dead(document, 1)
    document.execute("insert into document (workspace_id) values ('acme')")
    maintainer = database.connect("maintainer", autocommit=False)
    maintainer.isolation_level = IsolationLevel.REPEATABLE_READ
    with pytest.raises(psycopg.errors.InvalidTransactionState, match="READ COMMITTED"):
        maintainer.execute("select audit.prepare_days()")
