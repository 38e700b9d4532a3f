"""Retention takes two runs, and a day on hold stays, whoever would drop it."""

from typing import Any

import psycopg
import pytest

from daybook.upkeep import maintain, status
from tests.conftest import Database
from tests.trail import Connection, count, own_events
from tests.upkeep import TODAY, day_name, days, let_readers_finish, make_past, pass_retention


@pytest.fixture(params=["daybook maintain", "audit.maintain()"])
def run(request: pytest.FixtureRequest, database: Database) -> Any:
    """Upkeep in each of its two ways; returns what it dropped, and the problem that it met."""
    maintainer = database.connect("maintainer")

    def by_command() -> tuple[list[str], str | None]:
        done = maintain(database.url("maintainer"))
        return done.days_dropped, done.problem

    def by_function() -> tuple[list[str], str | None]:
        row = maintainer.execute("select m -> 'days_dropped', m ->> 'problem' from audit.maintain() m").fetchone()
        assert row is not None
        return row[0], row[1]

    return by_command if request.param == "daybook maintain" else by_function


def kept(db: Connection) -> tuple[int, int]:
    """The oldest day that retention keeps, and the oldest that stands, as days from today."""
    return count(db, f"select oldest_day - {TODAY} from audit.upkeep"), days(db)[0][0]


# Two runs


def test_a_run_moves_the_oldest_day_and_a_later_one_drops(db: Connection, run: Any) -> None:
    make_past(db, 92, 91)
    assert run() == ([], None)
    assert kept(db) == (-90, -92)
    assert run() == ([], None)
    let_readers_finish(db)
    assert run() == ([day_name(db, 92), day_name(db, 91)], None)
    assert kept(db) == (-90, -1)


def test_a_daily_run_drops_what_the_one_before_announced(db: Connection, run: Any) -> None:
    make_past(db, 92, 91)
    db.execute(
        f"update audit.upkeep set oldest_day = {TODAY} - 91, oldest_day_since = now() - interval '1 day'".encode()
    )
    assert run() == ([day_name(db, 92)], None)
    assert kept(db) == (-90, -91)
    let_readers_finish(db)
    assert run() == ([day_name(db, 91)], None)


def test_retention_made_longer_before_the_drop_keeps_the_days(db: Connection, run: Any) -> None:
    make_past(db, 12, 2)
    db.execute("update audit.upkeep set retention_days = 5")
    run()
    let_readers_finish(db)
    db.execute("update audit.upkeep set retention_days = 10")
    assert run() == ([day_name(db, 12), day_name(db, 11)], None)
    assert kept(db) == (-10, -10)


def test_the_oldest_day_goes_back_no_further_than_days_stand(db: Connection, run: Any) -> None:
    make_past(db, 8, 2)
    db.execute("update audit.upkeep set retention_days = 5")
    pass_retention(db)
    run()
    db.execute("update audit.upkeep set retention_days = 90")
    run()
    assert kept(db) == (-5, -5)


def test_a_day_cannot_be_dropped_by_hand_while_readers_of_the_bound_before_may_read(
    database: Database, db: Connection
) -> None:
    make_past(db, 91, 91)
    db.execute("select audit.move_oldest_day()")
    maintainer = database.connect("maintainer")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="is not past retention"):
        maintainer.execute("select audit.drop_day(%s)", [day_name(db, 91)])
    maintainer.execute("set role audit_owner")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="would drop table"):
        drop_by_hand(maintainer, day_name(db, 91))
    let_readers_finish(db)
    drop_by_hand(maintainer, day_name(db, 91))
    assert days(db)[0] == (-1, 0)


def drop_by_hand(owner: Connection, day: str) -> None:
    """Drop a day as upkeep would, with its entry, but without asking it."""
    with owner.transaction():
        owner.execute("select audit.write_event('day_dropped', %s, null, null)", [day])
        owner.execute(f"drop table audit.{day.replace('entry', 'change')}, audit.{day}".encode())


# Holds


def hold(connection: Connection, ago: int, reason: str = "a lawsuit") -> None:
    connection.execute(f"select audit.hold_day({TODAY} - %s::integer, %s)".encode(), [ago, reason])


def release(connection: Connection, ago: int) -> None:
    connection.execute(f"select audit.release_day({TODAY} - %s::integer)".encode(), [ago])


def test_a_day_on_hold_stays_until_it_is_released(database: Database, db: Connection, run: Any) -> None:
    make_past(db, 93, 91)
    hold(database.connect("maintainer"), 92)
    pass_retention(db)
    assert run() == ([day_name(db, 93), day_name(db, 91)], None)
    assert days(db)[:2] == [(-92, -91), (-1, 0)]
    assert days(db, "change")[:2] == [(-92, -91), (-1, 0)]
    release(database.connect("maintainer"), 92)
    assert run() == ([day_name(db, 92)], None)


def test_a_partition_of_several_days_is_held_by_any_of_them(database: Database, db: Connection, run: Any) -> None:
    for table in ("entry", "change"):
        name = day_name(db, 91).replace("entry", table)
        db.execute(f"select audit.create_partition('{table}', '{name}')".encode())
        db.execute(
            f"do $$ begin execute format('alter table audit.{table} attach partition audit.{name} for values from (%L)"
            f" to (%L)', audit.day_start({TODAY} - 95), audit.day_start({TODAY} - 90)); end $$".encode()
        )
    hold(db, 93)
    pass_retention(db)
    assert run() == ([], None)
    owner = database.connect("maintainer")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="is on hold"):
        owner.execute("select audit.drop_day(%s)", [day_name(db, 91)])
    owner.execute("set role audit_owner")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="would drop table"):
        drop_by_hand(owner, day_name(db, 91))
    release(db, 93)
    assert run() == ([day_name(db, 91)], None)


def test_the_owner_of_the_log_can_neither_drop_nor_detach_a_day_on_hold(database: Database, db: Connection) -> None:
    make_past(db, 92, 91)
    hold(db, 91)
    pass_retention(db)
    owner = database.connect("maintainer")
    owner.execute("set role audit_owner")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="would drop table"):
        drop_by_hand(owner, day_name(db, 91))
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="it is on hold"):
        owner.execute(f"alter table audit.entry detach partition audit.{day_name(db, 91)}".encode())
    drop_by_hand(owner, day_name(db, 92))
    assert days(db)[0] == (-91, -90)


def test_a_day_on_hold_that_a_superuser_detached_is_kept_and_listed(db: Connection, run: Any) -> None:
    make_past(db, 91, 91)
    hold(db, 91)
    pass_retention(db)
    day = day_name(db, 91)
    db.execute(f"alter table audit.entry detach partition audit.{day}".encode())
    assert run()[0] == []
    assert count(db, f"select count(*) from audit.{day}") == 1
    found = db.execute("select object_name from audit.check() where problem = 'day_detached'").fetchall()
    assert found == [(f"audit.{day}",)]


def test_holding_again_replaces_the_reason_and_each_leaves_an_entry(database: Database, db: Connection) -> None:
    make_past(db, 2)
    maintainer = database.connect("maintainer")
    hold(maintainer, 2, "a lawsuit")
    hold(db, 2, "another")
    assert db.execute("select reason, held_by from audit.day_hold").fetchall() == [("another", "postgres")]
    release(maintainer, 2)
    day = str(db.execute(f"select ({TODAY} - 2)::text".encode()).fetchall()[0][0])
    said = "event, resource_id, database_user, context #>> '{details, reason}'"
    assert own_events(db, said) == [
        ("day_held", day, "maintainer", "a lawsuit"),
        ("day_held", day, "postgres", "another"),
        ("day_released", day, "maintainer", "another"),
    ]
    assert count(db, "select count(*) from audit.day_hold") == 0


def test_status_lists_the_days_on_hold(database: Database, db: Connection) -> None:
    make_past(db, 3)
    hold(db, 2)
    hold(db, 3)
    expected = [row[0] for row in db.execute(f"select ({TODAY} - n)::text from unnest('{{3,2}}'::int[]) n".encode())]
    assert status(database.url("dba")).days_held == expected


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (f"audit.hold_day({TODAY} - 50, 'a lawsuit')", "there is no day .* in the log"),
        (f"audit.hold_day({TODAY} + 1, 'a lawsuit')", "there is no day .* in the log"),
        ("audit.hold_day(null, 'a lawsuit')", "there is no day null in the log"),
        (f"audit.release_day({TODAY})", "day .* is not on hold"),
        ("audit.release_day(null)", "day null is not on hold"),
        (f"audit.hold_day({TODAY}, ' ')", "for a reason"),
        (f"audit.hold_day({TODAY}, null)", "for a reason"),
        (f"audit.hold_day({TODAY}, repeat('x', 2001))", "for a reason"),
    ],
)
def test_what_cannot_be_held_or_released_is_refused_with_a_sentence(
    database: Database, db: Connection, act: str, message: str
) -> None:
    with pytest.raises((psycopg.errors.UndefinedObject, psycopg.errors.InvalidParameterValue), match=message):
        database.connect("maintainer").execute(f"select {act}".encode())
    assert own_events(db) == []


def test_a_day_that_was_dropped_or_is_being_dropped_cannot_be_held(database: Database, db: Connection) -> None:
    make_past(db, 92, 91)
    pass_retention(db)
    db.execute(f"alter table audit.entry detach partition audit.{day_name(db, 91)}".encode())
    with pytest.raises(psycopg.errors.UndefinedObject):
        hold(db, 91)
    maintain(database.url("maintainer"))
    with pytest.raises(psycopg.errors.UndefinedObject):
        hold(db, 92)
    assert count(db, "select count(*) from audit.day_hold") == 0


def test_a_hold_waits_for_the_run_that_may_be_dropping_the_day(database: Database, db: Connection) -> None:
    make_past(db, 91, 91)
    with db.transaction():
        db.execute("select audit.take_upkeep_turn()")
        hurried = database.connect("maintainer")
        hurried.execute("set lock_timeout = '1ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            hold(hurried, 91)
    hold(hurried, 91)
    assert count(db, "select count(*) from audit.day_hold") == 1


def test_a_drop_waits_for_no_hold_that_is_not_committed_and_drops_nothing(database: Database, db: Connection) -> None:
    make_past(db, 91, 91)
    pass_retention(db)
    holder = database.connect("maintainer", autocommit=False)
    hold(holder, 91)
    with pytest.raises(psycopg.errors.LockNotAvailable):
        db.execute("select audit.drop_day(%s)", [day_name(db, 91)])
    holder.rollback()
    locks = "select mode from pg_locks where pid = pg_backend_pid() and relation = 'audit.day_hold'::regclass"
    with db.transaction(force_rollback=True):
        db.execute("select audit.drop_day(%s)", [day_name(db, 91)])
        assert ("ShareLock",) in db.execute(locks.encode()).fetchall()
    hold(db, 91)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="is on hold"):
        db.execute("select audit.drop_day(%s)", [day_name(db, 91)])
