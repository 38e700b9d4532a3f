"""Days come and go by upkeep; what upkeep neglects fails no write."""

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from daybook.upkeep import Run, maintain, status
from tests.conftest import Database
from tests.trail import Connection, count, own_events, trail
from tests.upkeep import TODAY, be_dead, days, make_past, pass_retention


@pytest.fixture
def document(db: Connection) -> Connection:
    db.execute("create table document (id integer generated always as identity primary key, workspace_id text)")
    db.execute("select audit.enable_tracking('document')")
    return db


PREPARED: list[tuple[int, int | None]] = [*((day, day + 1) for day in range(-1, 31)), (31, None)]


def test_days_stand_ready_from_yesterday_to_thirty_ahead(db: Connection) -> None:
    assert days(db) == PREPARED
    assert days(db, "change") == PREPARED


def test_upkeep_makes_the_next_days(database: Database, db: Connection) -> None:
    db.execute("update audit.upkeep set days_ahead = 33")
    assert maintain(database.url("maintainer")).days_made == 3
    assert days(db) == [*PREPARED[:-1], (31, 32), (32, 33), (33, 34), (34, None)]
    assert maintain(database.url("maintainer")).days_made == 0


def test_a_partition_has_the_guards_and_grants_of_the_first(db: Connection) -> None:
    db.execute("update audit.upkeep set days_ahead = 31")
    db.execute("select audit.maintain()")
    guards = (
        "select (select count(*) from pg_trigger t where t.tgrelid = p.partition_oid),"
        " has_table_privilege('audit_dba', p.partition_oid, 'select'),"
        " has_table_privilege('audit_reader', p.partition_oid, 'select'),"
        " (select relowner::regrole::text from pg_class where oid = p.partition_oid)"
        " from audit.day_partition p group by 1, 2, 3, 4"
    )
    assert db.execute(guards.encode()).fetchall() == [(2, True, False, "audit_owner")]


def test_rows_past_the_prepared_days_are_kept_and_become_a_partition_of_several_days(document: Connection) -> None:
    # Upkeep was dead for 60 days: the prepared ones lie behind, and entries stand in ..._beyond.
    be_dead(document, 30)
    document.execute("insert into document (workspace_id) values ('acme'), ('acme')")
    document.execute("select audit.maintain()")
    document.execute("insert into document (workspace_id) values ('acme'), ('acme')")
    assert days(document) == [(-30, 2), *((day, day + 1) for day in range(2, 31)), (31, None)]
    assert days(document, "change") == days(document)
    assert trail(document, "row_count") == [(2,), (2,)]
    assert count(document, "select count(*) from audit.change") == 4
    assert count(document, "select (audit.maintain()->>'days_made')::integer") == 0


@pytest.mark.parametrize("login", ["maintainer", "postgres"])
def test_days_past_retention_are_dropped_and_leave_an_entry_each(
    database: Database, db: Connection, login: str
) -> None:
    make_past(db, 94)
    pass_retention(db)
    with ThreadPoolExecutor() as threads:
        runs = list(threads.map(maintain, [database.url(login)] * 2))
    assert sorted(day for run in runs for day in run.days_dropped) == [
        row[0]
        for row in db.execute(
            f"select to_char({TODAY} - n, '\"entry_\"YYYYMMDD') from generate_series(94, 91, -1) n".encode()
        )
    ]
    assert days(db) == [*((day, day + 1) for day in range(-90, -1)), *PREPARED]
    assert days(db, "change") == days(db)
    # Its digest is told in test_seal.py: whether it was sealed is for the watermark to say, the cluster's.
    counts = "event, context->'details'->'entries', context->'details'->'changes'"
    assert own_events(db, counts) == [("day_dropped", 1, 2)] * 4


def test_audit_maintain_drops_the_same_days(db: Connection) -> None:
    make_past(db, 92)
    pass_retention(db)
    row = db.execute("select audit.maintain()").fetchone()
    assert row is not None
    assert len(row[0]["days_dropped"]) == 2
    assert days(db) == [*((day, day + 1) for day in range(-90, -1)), *PREPARED]


def test_a_shorter_retention_drops_more(database: Database, db: Connection) -> None:
    make_past(db, 5)
    db.execute("update audit.upkeep set retention_days = 3")
    pass_retention(db)
    assert len(maintain(database.url("maintainer")).days_dropped) == 2
    assert days(db)[0] == (-3, -2)


def test_a_detach_that_was_killed_half_way_is_finished(database: Database, db: Connection) -> None:
    make_past(db, 92)
    pass_retention(db)
    name = db.execute(f"select to_char({TODAY} - 92, 'YYYYMMDD')".encode()).fetchone()
    assert name is not None
    db.execute(f"alter table audit.change detach partition audit.change_{name[0]}".encode())
    db.execute(f"alter table audit.entry detach partition audit.entry_{name[0]}".encode())
    assert f"entry_{name[0]}" in maintain(database.url("maintainer")).days_dropped
    assert count(db, f"select count(*) from pg_class where relname like '%{name[0]}%'") == 0


def test_a_day_that_is_not_past_retention_cannot_be_dropped(database: Database, db: Connection) -> None:
    make_past(db, 2)
    name = db.execute(f"select to_char({TODAY} - 2, '\"entry_\"YYYYMMDD')".encode()).fetchone()
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="is not past retention"):
        database.connect("maintainer").execute("select audit.drop_day(%s)", name)


def test_one_steps_trouble_leaves_the_others_their_turn(database: Database, document: Connection) -> None:
    make_past(document, 92)
    pass_retention(document)
    document.execute("update audit.upkeep set days_ahead = 31")
    document.execute(
        f"do $$ begin execute format('create table audit.entry_%s ()', to_char({TODAY} + 31, 'YYYYMMDD'));"
        " end $$".encode()
    )
    document.execute("update audit.tracked_table set table_name = 'gone', relation_oid = 1")
    run = maintain(database.url("maintainer"))
    assert len(run.days_dropped) == 2
    assert run.problem is not None
    assert "already exists" in run.problem
    row = document.execute("select audit.maintain()->>'problem', (select last_problem from audit.upkeep)").fetchone()
    assert row is not None
    assert "already exists" in row[0]
    assert "already exists" in row[1]


def test_a_day_that_a_dba_detached_is_kept_until_it_is_past_retention(database: Database, db: Connection) -> None:
    make_past(db, 3)
    name = db.execute(f"select to_char({TODAY} - 3, '\"entry_\"YYYYMMDD')".encode()).fetchone()
    assert name is not None
    db.execute(f"alter table audit.entry detach partition audit.{name[0]}".encode())
    assert maintain(database.url("maintainer")).problem is None
    assert count(db, f"select count(*) from audit.{name[0]}") == 1


def test_a_service_looks_for_stale_functions_less_often_than_it_runs(database: Database, document: Connection) -> None:
    document.execute("alter event trigger audit_follow_ddl disable; alter table document add title text")
    assert maintain(database.url("maintainer"), look_for_stale=False).functions_compiled == 0
    assert maintain(database.url("maintainer")).functions_compiled == 1


def test_a_service_ends_by_a_signal(database: Database) -> None:
    environment = {"DAYBOOK_DATABASE_URL": database.url("maintainer"), "PYTHONPATH": "api", "PATH": ""}
    command = [sys.executable, "-m", "daybook", "maintain", "--every", "100ms", "--json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        runs = [json.loads(service.stdout.readline())["ran"] for _ in range(3)]
        service.send_signal(signal.SIGTERM)
        assert (runs, service.wait(timeout=10)) == ([True] * 3, 0)


def test_many_runners_at_once_are_safe_and_one_works(database: Database, db: Connection) -> None:
    with db.transaction():
        db.execute("select audit.take_upkeep_turn()")
        assert maintain(database.url("maintainer")) == Run(ran=False)
        assert database.connect("maintainer").execute("select audit.maintain()").fetchone() == ({"ran": False},)


def test_upkeep_waits_for_nobody_long(database: Database, db: Connection) -> None:
    db.execute("update audit.upkeep set days_ahead = 31")
    reader = database.connect("dba", autocommit=False)
    reader.execute("select count(*) from audit.entry")
    row = db.execute("select audit.maintain()->>'problem'").fetchone()
    assert row == ("days ahead: the log was busy; the next run tries again",)
    assert days(db) == PREPARED


def test_status_tells_how_upkeep_stands(database: Database, document: Connection) -> None:
    maintain(database.url("maintainer"))
    state = status(database.url("dba"))
    ahead = document.execute(f"select ({TODAY} + 30)::text, ({TODAY} - 1)::text".encode()).fetchone()
    assert (state.version, state.last_problem, state.is_late, state.retention_days, state.entries_beyond) == (
        "0001",
        None,
        False,
        90,
        0,
    )
    assert (state.prepared_until, state.oldest_day) == ahead
    assert [(table.table, table.kind) for table in state.tracked_tables] == [("public.document", "resource")]
    assert state.is_well


def daybook(database: Database, *arguments: str, user: str = "maintainer") -> subprocess.CompletedProcess[str]:
    environment = {"DAYBOOK_DATABASE_URL": database.url(user), "PYTHONPATH": "api", "PATH": ""}
    return subprocess.run(
        [sys.executable, "-m", "daybook", *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_late_upkeep_makes_status_exit_with_1(database: Database, db: Connection) -> None:
    db.execute("update audit.upkeep set last_run_at = clock_timestamp() - interval '3 days'")
    result = daybook(database, "status", "--json")
    assert (result.returncode, json.loads(result.stdout)["is_late"]) == (1, True)
    assert daybook(database, "maintain").returncode == 0
    assert daybook(database, "status").returncode == 0


def test_a_bypassed_table_makes_status_exit_with_1_and_name_the_mend(database: Database, document: Connection) -> None:
    document.execute("alter table document disable trigger audit_update")
    result = daybook(database, "status")
    assert result.returncode == 1
    assert "mend: alter table public.document enable always trigger audit_update" in result.stdout
