"""The watermark: below it nothing is added any more, whoever is writing; the status names who holds it back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import pytest
from psycopg import Connection

from .conftest import Database
from .upkeep import eventually, settle


@pytest.fixture
def document(db: Connection[Any]) -> Connection[Any]:
    db.execute("create table document (id integer primary key, workspace_id text, title text)")
    db.execute("select audit.enable_tracking('document')")
    db.execute("grant all on document to app_user")
    return db


@pytest.fixture
def writer(database: Database, document: Connection[Any]) -> Iterator[Connection[Any]]:
    with database.connect("app_user", autocommit=False) as connection:
        yield connection


def watermark(db: Connection[Any]) -> datetime | None:
    row = db.execute("select moment from audit.watermark").fetchone()
    return row[0] if row else None


def advance(db: Connection[Any], times: int = 4) -> datetime | None:
    for _ in range(times):
        db.execute("select audit.advance_watermark()")
    return watermark(db)


def holder_of(db: Connection[Any], key: str, value: object) -> dict[str, Any] | None:
    """Who holds the watermark back, when it is this one."""
    row = db.execute("select audit.watermark_holder()").fetchone()
    return row[0] if row and row[0] and row[0][key] == value else None


def newest(connection: Connection[Any]) -> datetime:
    row = connection.execute("select max(created_at) from audit.entry").fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment


def test_there_is_none_before_the_first_upkeep(db: Connection[Any]) -> None:
    assert watermark(db) is None


def test_it_passes_what_is_committed(document: Connection[Any]) -> None:
    document.execute("insert into document values (1, 'acme')")
    settle(document)
    moment = watermark(document)
    assert moment is not None
    assert moment > newest(document)


@pytest.mark.parametrize(
    "writes",
    [
        ["insert into document values (1, 'acme')"],
        ["insert into document values (1, 'acme')", "savepoint s", "update document set title = 'x'", "rollback to s"],
        ["savepoint s", "insert into document values (1, 'acme')", "rollback to s", "insert into document values (2)"],
        ["truncate document"],
    ],
)
def test_an_open_writer_holds_it_back(document: Connection[Any], writer: Connection[Any], writes: list[str]) -> None:
    document.execute("insert into document values (0, 'acme')")
    settle(document)
    for statement in writes:
        writer.execute(statement.encode())
    before = watermark(document)
    row = document.execute("select clock_timestamp()").fetchone()
    assert row is not None
    # One floor may have been under way, older than the writer; none after it becomes the watermark.
    assert (advance(document) or row[0]) <= row[0]
    # Others of the cluster may be older, and end.
    holder = eventually(lambda: holder_of(document, "process", writer.info.backend_pid))
    assert (holder["user"], holder["prepared"]) == ("app_user", None)
    writer.commit()
    settle(document)
    moment = watermark(document)
    assert moment is not None
    assert before is not None
    assert moment > newest(document) >= before


def test_a_prepared_transaction_holds_it_back(document: Connection[Any], writer: Connection[Any]) -> None:
    settle(document)
    before = watermark(document)
    name = f"two phases {document.info.dbname}"
    writer.execute("insert into document values (1, 'acme')")
    writer.execute(f"prepare transaction '{name}'".encode())
    assert before is not None
    advance(document)
    settled = watermark(document)
    advance(document)
    assert watermark(document) == settled
    assert eventually(lambda: holder_of(document, "prepared", name))["process"] is None
    document.execute(f"commit prepared '{name}'".encode())
    assert settled is not None
    assert newest(document) > settled
    settle(document)
    moment = watermark(document)
    assert moment is not None
    assert moment > newest(document)


def test_a_clock_that_steps_back_writes_nothing_below_it(document: Connection[Any], writer: Connection[Any]) -> None:
    # As if upkeep had run an hour ahead of the clock that writers read now.
    document.execute("select audit.raise_floor(clock_timestamp() + interval '1 hour')")
    settle(document)
    settled = watermark(document)
    writer.execute("insert into document values (1, 'acme')")
    writer.commit()
    assert settled is not None
    assert newest(document) >= settled
    assert advance(document, 8) == settled


def test_an_id_that_was_taken_before_the_floor_proves_nothing(document: Connection[Any], database: Database) -> None:
    with database.connect("postgres", autocommit=False) as early:
        early.execute("insert into document values (1, 'acme')")
        # Whoever takes an id now has a greater one, and may still read the floor that is.
        document.execute("select audit.advance_watermark()")
        early.execute("select audit.advance_watermark()")
        early.commit()
    assert document.execute("select noted, moment from audit.watermark").fetchone() == (None, None)


def test_a_moment_is_taken_after_a_transaction_id(document: Connection[Any]) -> None:
    with document.transaction():
        row = document.execute("select audit.write_moment() is not null, pg_current_xact_id_if_assigned()").fetchone()
        assert row is not None
        assert document.execute("select pg_current_xact_id_if_assigned() is not null").fetchone() == (True,)


def test_a_note_of_another_cluster_is_taken_anew(document: Connection[Any]) -> None:
    settle(document)
    document.execute("update audit.watermark set noted = '999999999999', next_moment = clock_timestamp()")
    before = watermark(document)
    settle(document)
    moment = watermark(document)
    assert moment is not None
    assert before is not None
    assert moment > before


def test_the_floor_is_never_lowered(db: Connection[Any]) -> None:
    db.execute("select audit.raise_floor('2100-01-01')")
    row = db.execute("select audit.raise_floor('2000-01-01') at time zone 'UTC'").fetchone()
    assert row == (datetime(2100, 1, 1),)


@pytest.mark.parametrize("seed", range(2))
def test_what_lies_below_it_stays_as_it_is(document: Connection[Any], database: Database, seed: int) -> None:
    draw = random.Random(seed)
    below: dict[datetime, set[Any]] = {}
    prepared: list[str] = []
    key = 0
    with ExitStack() as stack:
        writers = [stack.enter_context(database.connect("app_user", autocommit=False)) for _ in range(5)]
        for step in range(400):
            writer = draw.choice(writers)
            what = draw.choice(["write"] * 4 + ["commit", "commit", "rollback", "savepoint", "prepare", "advance"])
            if what == "write":
                key += 1
                writer.execute("insert into document values (%s, 'acme')", [key])
            elif what == "savepoint":
                key += 1
                with writer.transaction(force_rollback=True):
                    writer.execute("insert into document values (%s, 'acme')", [key])
            elif what == "prepare" and writer.info.transaction_status:
                name = f"{document.info.dbname} {step}"
                writer.execute(f"prepare transaction '{name}'".encode())
                prepared.append(name)
            elif what in ("commit", "rollback"):
                getattr(writer, what)()
                if prepared and draw.random() < 0.5:
                    document.execute(f"{what} prepared '{prepared.pop(0)}'".encode())
            elif what == "advance":
                advance(document, 2)
                moment = watermark(document)
                if moment is not None and moment not in below:
                    below[moment] = entries_below(document, moment)
        for writer in writers:
            writer.commit()
    for name in prepared:
        document.execute(f"commit prepared '{name}'".encode())
    # However seldom it moved beside other tests' transactions: now it does.
    for _ in range(3):
        settle(document)
        moment = watermark(document)
        assert moment is not None
        below[moment] = entries_below(document, moment)
        key += 1
        document.execute("insert into document values (%s, 'acme')", [key])
    assert len(below) >= 3
    for moment, entries in below.items():
        assert entries_below(document, moment) == entries


def entries_below(db: Connection[Any], moment: datetime) -> set[Any]:
    return {row[0] for row in db.execute("select id from audit.entry where created_at < %s", [moment]).fetchall()}
