"""Upkeep makes, closes, drops days, moves the watermark, counts, seals, compiles what went stale; status tells of it.

It must not hold a lock that a writer waits for longer than LOCK_TIMEOUT.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg import Connection, sql
from psycopg.errors import LockNotAvailable, ObjectNotInPrerequisiteState
from psycopg.rows import class_row

from .database import connect
from .seals import Sealer, is_due, seal
from .signing import SealError

LOCK_TIMEOUT = "100ms"
LOCK_ATTEMPTS = 20
# A service counts stretches of this length at least; reading counts the rest by itself.
COUNTED_IN_SERVICE = "1 minute"
# Days made under one lock: each takes some milliseconds.
MOST_DAYS = 3
# Waiting for readers of a day that is detached concurrently holds nobody up. What a run before could not finish is
# tried for less long: the rest of upkeep waits its turn.
DETACH_TIMEOUT = "10s"
FINALIZE_TIMEOUT = "1s"
# Warnings to act on all the same: an application that could switch its triggers off, a function left behind by DDL.
NOT_WELL = ("owner_can_log_in", "function_stale")


@dataclass(slots=True)
class Run:
    """What one run did; `ran` is false when another run was at work."""

    ran: bool = True
    days_made: int = 0
    days_closed: list[str] = field(default_factory=list)
    days_dropped: list[str] = field(default_factory=list)
    blocks_sealed: int = 0
    functions_compiled: int = 0
    problem: str | None = None

    def meet(self, problem: str) -> None:
        """Note a problem beside those met before: one step's trouble is no reason to leave the others out."""
        self.problem = f"{self.problem}; {problem}" if self.problem else problem

    def as_json(self) -> dict[str, Any]:
        """Return the run as the object that `maintain --json` prints."""
        return asdict(self)


class Finding(NamedTuple):
    """A row of audit.check()."""

    severity: str
    problem: str
    object_name: str
    detail: str
    mend: str


@dataclass(frozen=True, slots=True)
class TrackedTable:
    """A tracked table and what the check found about it."""

    table: str
    kind: str
    findings: list[Finding]


@dataclass(frozen=True, slots=True)
class Status:
    """How upkeep and tracking stand; times are UTC, days are whole UTC days."""

    version: str | None
    last_run_at: datetime | None
    last_problem: str | None
    is_late: bool
    prepared_until: str | None
    oldest_day: str | None
    retention_days: int
    watermark: datetime | None
    watermark_held_by: dict[str, Any] | None
    counted_until: datetime | None
    days_to_close: int
    integrity: dict[str, Any]
    days_held: list[str]
    entries_beyond: int
    tracked_tables: list[TrackedTable]
    findings: list[Finding]

    @property
    def is_well(self) -> bool:
        """False when upkeep is late, a write could slip past the log, one of NOT_WELL was found, or a seal is amiss."""
        every = [*self.findings, *(finding for table in self.tracked_tables for finding in table.findings)]
        sealed = not self.integrity["problem"] and not self.integrity["misfits"]
        return (
            not self.is_late
            and sealed
            and not any(finding.severity == "bypass" or finding.problem in NOT_WELL for finding in every)
        )

    def as_json(self) -> dict[str, Any]:
        """Return the status as the object that `status --json` prints."""
        return {
            **{name: getattr(self, name) for name in self.__slots__ if name not in ("tracked_tables", "findings")},
            **{name: _isoformat(getattr(self, name)) for name in ("last_run_at", "watermark", "counted_until")},
            "tracked_tables": [
                {"table": table.table, "kind": table.kind, "findings": [row._asdict() for row in table.findings]}
                for table in self.tracked_tables
            ],
            "findings": [row._asdict() for row in self.findings],
            "is_well": self.is_well,
        }


def _isoformat(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def maintain(
    conninfo: str, look_for_stale: bool = True, *, in_service: bool = False, sealer: Sealer | None = None
) -> Run:
    """Do one run of upkeep, each step in a transaction of its own. Several at once are safe: one works.

    `look_for_stale` compares every capture function with its table, which takes some milliseconds for each, and freezes
    closed days: a service that runs every second asks for it once a minute. `in_service` leaves what takes long to the
    runs that follow, so that the watermark moves on: one step of closing, counts and seals once a minute. `sealer` says
    how blocks are sealed: without one they are neither signed nor kept elsewhere. The login is a member
    of audit_maintainer, or a superuser. Raises psycopg.OperationalError when the database cannot be reached and
    psycopg.errors.InsufficientPrivilege when the login may not.
    """
    # The turn is held by a transaction of its own: not every step can be taken in one.
    with connect(conninfo) as holder, connect(conninfo, autocommit=True) as connection:
        turn = holder.execute("select audit.take_upkeep_turn()").fetchone()
        if not (turn and turn[0]):
            return Run(ran=False)
        run = Run()
        _prepare_days(connection, run)
        _advance(connection, run, COUNTED_IN_SERVICE if in_service else "0")
        # Before days are closed and dropped: one is dropped only once it was sealed.
        _seal(conninfo, connection, run, sealer or Sealer(), in_service)
        _close_days(connection, run, only_one_step=in_service)
        if look_for_stale:
            _freeze_days(connection, run)
        _drop_days(connection, run)
        # After the drops, which go by what was committed before: whoever reads by the bound that was loses no day.
        connection.execute("select audit.move_oldest_day()")
        if look_for_stale:
            _compile(connection, run)
            _note_check(connection, run)
        connection.execute("select audit.note_upkeep(%s)", [run.problem])
        # A closed connection gives its locks back a moment later, and the next run would find them taken.
        holder.rollback()
        return run


def _note_check(connection: Connection[Any], run: Run) -> None:
    """Note whether anything passes the log by: readers are told that much of audit.check()."""
    try:
        connection.execute("select audit.note_check()")
    except psycopg.errors.DatabaseError as error:
        run.meet(f"check: {_sentence(connection, error)}")


def _prepare_days(connection: Connection[Any], run: Run) -> None:
    _set_lock_timeout(connection, LOCK_TIMEOUT)
    try:
        while made := _value(connection, "select audit.prepare_days(%s, %s)", [LOCK_ATTEMPTS, MOST_DAYS]):
            run.days_made += made
    except LockNotAvailable:
        run.meet("days ahead: the log was busy; the next run tries again")
    except psycopg.errors.DatabaseError as error:
        run.meet(f"days ahead: {_sentence(connection, error)}")


def _advance(connection: Connection[Any], run: Run, at_least: str) -> None:
    """Move the watermark and the counts on; `at_least` is the stretch that is worth counting."""
    _set_lock_timeout(connection, LOCK_TIMEOUT)
    try:
        # The first call sets a floor, the second, when no older transaction is open, publishes it.
        for _ in range(2):
            connection.execute("select audit.advance_watermark()")
        counted, before = _counted_until(connection, at_least), None
        while counted != before:
            counted, before = _counted_until(connection, at_least), counted
    except psycopg.errors.DatabaseError as error:
        run.meet(f"watermark and counts: {_sentence(connection, error)}")


def _counted_until(connection: Connection[Any], at_least: str) -> datetime | None:
    row = connection.execute("select audit.advance_counts(%s::interval)", [at_least]).fetchone()
    return row[0] if row else None


def _seal(conninfo: str, connection: Connection[Any], run: Run, sealer: Sealer, in_service: bool) -> None:
    problem = None
    try:
        if in_service and not is_due(connection):
            return
        run.blocks_sealed = seal(conninfo, sealer, in_service=in_service).blocks
    except SealError as error:
        problem = str(error)
    except psycopg.errors.DatabaseError as error:
        problem = _sentence(connection, error)
    if problem:
        run.meet(f"sealing: {problem}")
    connection.execute("select audit.note_sealing(%s)", [problem])


def _close_days(connection: Connection[Any], run: Run, *, only_one_step: bool) -> None:
    _set_lock_timeout(connection, LOCK_TIMEOUT)
    for (day,) in connection.execute("select day_name from audit.days_to_close()").fetchall():
        try:
            step = None
            while step != "closed":
                row = connection.execute("select audit.close_day(%s)", [day]).fetchone()
                step = row[0] if row else None
                if step == "closed":
                    run.days_closed.append(day)
                if step is None or only_one_step:
                    break
        except psycopg.errors.DatabaseError as error:
            run.meet(f"closing {day}: {_sentence(connection, error)}")
        if only_one_step:
            return


def _freeze_days(connection: Connection[Any], run: Run) -> None:
    """Freeze closed days, so that no vacuum comes by later on; beside an older snapshot a later run does it."""
    days = connection.execute(
        "select day_name from audit.closed_day where frozen_at is null order by day_name desc"
    ).fetchall()
    for (day,) in days:
        names = (day, day.replace("entry_", "change_", 1))
        tables = sql.SQL(", ").join(sql.Identifier("audit", name) for name in names)
        _set_lock_timeout(connection, LOCK_TIMEOUT)
        try:
            # No function can vacuum, so the login becomes the owner for this one command.
            connection.execute("set role audit_owner")
            try:
                connection.execute(sql.SQL("vacuum (freeze, analyze, skip_locked) {}").format(tables))
            finally:
                connection.execute("reset role")
            is_frozen = _value(connection, "select audit.note_frozen(%s)::integer", [day])
        except psycopg.errors.DatabaseError as error:
            run.meet(f"freezing {day}: {_sentence(connection, error)}")
            return
        if not is_frozen:
            # An older snapshot is open: the other days fare no better now.
            return


def _drop_days(connection: Connection[Any], run: Run) -> None:
    days = [row[0] for row in connection.execute("select partition_name from audit.days_past_retention()").fetchall()]
    for day in days:
        try:
            for partition in (day, day.replace("entry_", "change_", 1)):
                _detach(connection, partition)
            _set_lock_timeout(connection, LOCK_TIMEOUT)
            connection.execute("select audit.drop_day(%s)", [day])
        except (LockNotAvailable, ObjectNotInPrerequisiteState):
            run.meet(f"{day}: a reader holds it; the next run drops it")
            return
        except psycopg.errors.DatabaseError as error:
            run.meet(f"{day}: {_sentence(connection, error)}")
            continue
        run.days_dropped.append(day)


def _detach(connection: Connection[Any], partition: str) -> None:
    row = connection.execute(
        "select log_table, detach_pending from audit.day_partition where partition_name = %s", [partition]
    ).fetchone()
    if row is None:
        return
    _set_lock_timeout(connection, FINALIZE_TIMEOUT if row[1] else DETACH_TIMEOUT)
    # No function can detach concurrently, so the login becomes the owner for this one command.
    connection.execute("set role audit_owner")
    try:
        connection.execute(
            sql.SQL("alter table audit.{} detach partition audit.{} {}").format(
                sql.Identifier(row[0]), sql.Identifier(partition), sql.SQL("finalize" if row[1] else "concurrently")
            )
        )
    finally:
        connection.execute("reset role")


def _compile(connection: Connection[Any], run: Run) -> None:
    _set_lock_timeout(connection, LOCK_TIMEOUT)
    for (tracked_id,) in connection.execute("select id from audit.tracked_table order by id").fetchall():
        try:
            run.functions_compiled += _value(
                connection, "select audit.follow_table(%s, 'daybook maintain')::integer", [tracked_id]
            )
        except psycopg.errors.DatabaseError as error:
            run.meet(f"tracked table number {tracked_id}: {_sentence(connection, error)}")


def _sentence(connection: Connection[Any], error: psycopg.Error) -> str:
    """What one step met, for the run's problem; a lost connection ends the run instead."""
    if connection.closed:
        raise error
    # The detail names what depends on a day that cannot be dropped, for one.
    return "; ".join(filter(None, (error.diag.message_primary or str(error), error.diag.message_detail)))


def _set_lock_timeout(connection: Connection[Any], timeout: str) -> None:
    connection.execute("select set_config('lock_timeout', %s, false)", [timeout])


def _value(connection: Connection[Any], query: str, parameters: list[Any] | None = None) -> int:
    row = connection.execute(query, parameters).fetchone()
    return int(row[0]) if row else 0


def status(conninfo: str) -> Status:
    """Read how upkeep and tracking stand. The login is a member of audit_dba or audit_maintainer."""
    with connect(conninfo, autocommit=True) as connection:
        connection.read_only = True
        row = connection.execute("select audit.upkeep_status()").fetchone()
        assert row is not None
        state: dict[str, Any] = row[0]
        findings = connection.cursor(row_factory=class_row(Finding)).execute("select * from audit.check()").fetchall()
        tables = connection.execute(
            "select format('%I.%I', table_schema, table_name), kind from audit.tracked_table order by 1"
        ).fetchall()
    names = {name for name, _ in tables}
    return Status(
        version=state["version"],
        last_run_at=_moment(state["last_run_at"]),
        last_problem=state["last_problem"],
        is_late=state["is_late"],
        prepared_until=state["prepared_until"],
        oldest_day=state["oldest_day"],
        retention_days=state["retention_days"],
        watermark=_moment(state["watermark"]),
        watermark_held_by=state["watermark_held_by"],
        counted_until=_moment(state["counted_until"]),
        days_to_close=state["days_to_close"],
        integrity=state["integrity"],
        days_held=state["days_held"],
        entries_beyond=state["entries_beyond"],
        tracked_tables=[
            TrackedTable(name, kind, [row for row in findings if row.object_name == name]) for name, kind in tables
        ],
        findings=[row for row in findings if row.object_name not in names],
    )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
