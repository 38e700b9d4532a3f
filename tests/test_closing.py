"""Closing days: only what is final, step by step, felt by nobody, and done once."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from daybook.upkeep import maintain

from .conftest import Database
from .reading import add_changes, add_entry, today
from .test_counts import count_until, make_log
from .upkeep import close_days, eventually, settle

Connection = psycopg.Connection[Any]
INDEXES = ["actor", "event", "request", "row", "type", "words"]
CHANGE_INDEXES = ["entry", "resource", "row", "words"]


@pytest.fixture
def document(db: Connection) -> Connection:
    db.execute("create table document (id integer primary key, workspace_id text)")
    db.execute("select audit.enable_tracking('document')")
    db.execute("grant all on document to app_user")
    return db


def yesterday(log_table: str = "entry") -> str:
    return f"{log_table}_{today(hours=-24):%Y%m%d}"


def to_close(db: Connection) -> list[str]:
    return [row[0] for row in db.execute("select day_name from audit.days_to_close()").fetchall()]


def reading_indexes(db: Connection, partition: str) -> list[str]:
    query = "select indexname from pg_indexes where schemaname = 'audit' and tablename = %s and indexname like %s"
    found = db.execute(query, [partition, partition + r"\_%"]).fetchall()
    known = {*INDEXES, *CHANGE_INDEXES}
    return sorted(name for row in found if (name := row[0].removeprefix(partition + "_")) in known)


def test_a_day_is_closed_when_nobody_can_write_into_it_any_more(document: Connection, database: Database) -> None:
    # The clock, as the floor moves it: two transactions are open over midnight, one wrote before it, one after.
    day = f"entry_{today():%Y%m%d}"
    with (
        database.connect("app_user", autocommit=False) as early,
        database.connect("app_user", autocommit=False) as late,
    ):
        document.execute("select audit.raise_floor(%s)", [today(hours=24, milliseconds=-5)])
        early.execute("insert into document values (1, 'acme')")
        late.execute("select * from document")
        document.execute("select audit.raise_floor(%s)", [today(hours=24, milliseconds=5)])
        late.execute("insert into document values (2, 'acme')")
        late.commit()
        for _ in range(4):
            document.execute("select audit.advance_watermark()")
            document.execute("select audit.advance_counts()")
        assert day not in to_close(document)
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=f"day partition {day} cannot be closed"):
            document.execute("select audit.close_day(%s)", [day])
        early.commit()
    settle(document)
    assert to_close(document)[0] == day
    assert close_days(document)[0] == day
    counted = document.execute(
        "select (day - audit.utc_day(now())), sum(entries) from audit.daily_activity"
        " where workspace_id = 'acme' group by 1 order by 1"
    ).fetchall()
    # The other stands in the day that is open.
    assert counted == [(0, 1)]
    assert document.execute("select tableoid::regclass::text from audit.entry where resource_id = '1'").fetchone() == (
        f"audit.{day}",
    )


def test_a_closed_day_has_its_indexes_and_hours(db: Connection) -> None:
    make_log(db, seed=1, a_day=(1200, 0, 100))
    count_until(db, today())
    assert close_days(db) == [f"entry_{today(hours=-24 * number):%Y%m%d}" for number in (1, 2, 3)]
    for number in (1, 2, 3):
        assert reading_indexes(db, f"entry_{today(hours=-24 * number):%Y%m%d}") == INDEXES
        assert reading_indexes(db, f"change_{today(hours=-24 * number):%Y%m%d}") == CHANGE_INDEXES
    # Where a workspace has few entries a day, its hours are not worth keeping.
    hours = db.execute(
        "select distinct workspace_id, audit.utc_day(starts_at) - audit.utc_day(now()) from audit.activity_total"
        " where part in ('hour', 'hour_actor')"
    ).fetchall()
    assert hours == [("acme", -3)]
    same = """
        select (select sum(entries) from audit.activity_total where workspace_id = 'acme' and part = %s),
               (select sum(entries) from audit.activity_total
                where workspace_id = 'acme' and part = %s and starts_at < %s)"""
    for part in ("hour", "hour_actor"):
        row = db.execute(same, [part, part.replace("hour", "day"), today(hours=-48)]).fetchone()
        assert row is not None
        assert row[0] == row[1] > 500


@pytest.mark.parametrize("killed_at", [4, 10])
def test_a_close_that_was_killed_goes_on_and_is_done_once(database: Database, db: Connection, killed_at: int) -> None:
    make_log(db, seed=1, a_day=(700,))
    count_until(db, today())
    with database.connect("postgres", autocommit=False) as killed:
        for number in range(killed_at + 1):
            killed.execute("select audit.close_day(%s)", [yesterday()])
            if number < killed_at:
                killed.commit()
        # The last step dies before it is committed.
        killed.rollback()
    assert yesterday() in to_close(db)
    steps = []
    while (step := db.execute("select audit.close_day(%s)", [yesterday()]).fetchone()) != (None,):
        assert step is not None
        steps.append(step[0])
    assert len(steps) == 11 - killed_at
    assert steps[-1] == "closed"
    assert reading_indexes(db, yesterday()) == INDEXES
    assert to_close(db) == []
    doubled = "select max(n) from (select count(*) n from audit.activity_total group by part, starts_at, {}) x"
    row = db.execute(doubled.format("workspace_id, event, resource_type, actor_id").encode()).fetchone()
    assert row == (1,)
    assert db.execute("select count(*) from audit.closed_day").fetchone() == (1,)


def test_writers_and_readers_do_not_wait_for_a_close(document: Connection, database: Database) -> None:
    make_log(document, seed=1, a_day=(20,))
    with database.connect("app_user", autocommit=False) as writer, database.connect("dba", autocommit=False) as reader:
        writer.execute("insert into document values (1, 'acme')")
        found = reader.execute("select count(*) from audit.entry").fetchone()
        count_until(document, today())
        document.execute("set lock_timeout = '100ms'")
        with document.transaction():
            while document.execute("select audit.close_day(%s)", [yesterday()]).fetchone() != (None,):
                pass
            # While the locks of all steps are held.
            writer.execute("set local lock_timeout = '100ms'; insert into document values (2, 'acme')")
            writer.commit()
            assert reader.execute("select count(*) from audit.entry").fetchone() in (found, (found[0] + 2,))  # type: ignore[index]


def test_a_value_longer_than_an_index_holds_leaves_that_index_out(db: Connection) -> None:
    # No value that capture writes is so long and so hard to compress.
    long = db.execute("select string_agg(md5(n::text), '') from generate_series(1, 100) n").fetchone()
    assert long is not None
    add_entry(db, today(hours=-2), resource_type=long[0], request_id=long[0])
    count_until(db, today())
    close_days(db)
    lacks = db.execute("select lacks from audit.closed_day where day_name = %s", [yesterday()]).fetchone()
    assert lacks == ([f"{yesterday()}_type", f"{yesterday()}_request"],)
    assert reading_indexes(db, yesterday()) == ["actor", "event", "row", "words"]


def test_closed_days_are_frozen_when_no_older_snapshot_is_open(database: Database, db: Connection) -> None:
    with database.connect("postgres", autocommit=False) as reader:
        reader.execute("begin isolation level repeatable read; select from audit.upkeep")
        add_changes(db, add_entry(db, today(hours=-2), row_count=3), range(3))
        settle(db)
        run = maintain(database.url("maintainer"))
        assert run.problem is None
        assert run.days_closed == [yesterday()]
        # Not everybody sees the entry yet.
        assert db.execute("select frozen_at from audit.closed_day").fetchone() == (None,)
    for _ in range(20):
        maintain(database.url("maintainer"))
        row = db.execute("select frozen_at is not null from audit.closed_day").fetchone()
        if row == (True,):
            break
    assert row == (True,)


def test_a_service_takes_one_step_a_run(database: Database, db: Connection) -> None:
    settle(db)
    assert to_close(db) == [yesterday()]
    for number in range(10):
        assert maintain(database.url("maintainer"), look_for_stale=False, in_service=True).days_closed == []
        assert len(reading_indexes(db, yesterday()) + reading_indexes(db, yesterday("change"))) == number + 1
    assert maintain(database.url("maintainer"), look_for_stale=False, in_service=True).days_closed == [yesterday()]


def test_under_pg_cron_a_run_closes_one_day(db: Connection) -> None:
    make_log(db, seed=1, a_day=(3, 3))
    count_until(db, today())
    runs = [db.execute("select audit.maintain() -> 'days_closed'").fetchone() for _ in range(3)]
    older = f"entry_{today(hours=-48):%Y%m%d}"
    assert runs == [([yesterday()],), ([older],), ([],)]


def test_the_watermark_moves_under_pg_cron_too(db: Connection) -> None:
    def moved() -> object:
        db.execute("select audit.maintain()")
        row = db.execute("select moment from audit.watermark").fetchone()
        return row and row[0]

    assert eventually(moved)
    assert db.execute("select counted_until = moment from audit.watermark").fetchone() == (True,)
