"""Setting systems up, proving that they record every change, and measuring the workloads in turns.

WAL is measured with full_page_writes off, so that a figure does not hang on how long ago a checkpoint was: it is what
the changes themselves write. Autovacuum is off; every round begins with an empty table, every
piece with an empty log, a checkpoint and a vacuumed table, outside of what is timed.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

import psycopg

from daybook.postgres import Cluster

from ..servers import Connection, cpu_time
from .clients import Runner, Task
from .systems import SetupError, System
from .tables import DOCUMENT, DOCUMENT_VALUES, WIDE, creation
from .workloads import FILL, SMALL, WORKLOADS, Sizes, Workload

# What takes more CPU than this for a statement is measured in fewer rounds, so that a run ends in time.
SLOW_SECONDS = 4.0
SLOW_ROUNDS = 2
PATIENCE = 10  # Seconds that a statement with a plan made for one row may take.


class Cost(NamedTuple):
    """What one piece cost: backend CPU in µs a row, WAL and log in bytes a row, rows a second."""

    cpu: float
    wal: float
    log: float
    rate: float


@dataclass
class Subject:
    """A system that is set up: its database, the session of the bulk statements, one that looks on."""

    system: System
    url: str
    session: Connection
    observer: Connection
    slow: set[str] = field(default_factory=set)


class RecordingError(Exception):
    """A system did not record what was changed; the message says which change."""


def set_up(cluster: Cluster, systems: Iterable[System], sizes: Sizes) -> tuple[list[Subject], dict[str, str]]:
    """Return the systems that can be set up here, each in a database of its own, and why the others cannot."""
    subjects, failures = [], {}
    for system in systems:
        name = "bench_" + system.key.replace("-", "_")
        with psycopg.connect(cluster.url(), autocommit=True) as connection:
            connection.execute(f"create database {name} template template0".encode())
        url = cluster.url(name)
        session = psycopg.connect(url, autocommit=True)
        for statement in creation(sizes.few):
            session.execute(statement.encode())
        try:
            system.install(url)
        except SetupError as problem:
            failures[system.title] = str(problem)
            session.close()
            continue
        session.execute("vacuum analyze")
        subjects.append(Subject(system, url, session, psycopg.connect(url, autocommit=True)))
    return subjects, failures


def prove(subject: Subject, clients: Runner, workloads: Sequence[Workload] = WORKLOADS, sizes: Sizes = SMALL) -> int:
    """Do every workload on a few rows and compare the log with the tables before and after; return the changes.

    Raises RecordingError when a change is missing, is there twice, or has other values.
    """
    subject.session.execute(f"truncate {DOCUMENT}".encode())
    empty_log(subject)
    subject.observer.execute("set jit = off")  # Looking at 80 empty partitions is not worth compiling.
    found = 0
    for workload in workloads:
        before = rows_of(subject, workload.table)
        run(subject, workload, clients, sizes, "proof", warm=True)
        run(subject, workload, clients, sizes, "proof")
        expected = changes(before, rows_of(subject, workload.table))
        if subject.system.recorded:
            found += len(expected)
            compare(subject.system, workload, expected, log_of(subject))
        if subject.system.nobody and number_of(subject.observer, subject.system.nobody):
            raise RecordingError(f"{subject.system.title}, {workload.title}: changes are recorded without their actor")
        empty_log(subject)
    return found


Values = dict[str, str | None]

# What is compared: columns whose text is the same in every way to store a row.
COMPARED = {DOCUMENT: ("title", "description", "owner_id", "state"), WIDE: ("number_3", "word_1", "word_2", "body")}


def rows_of(subject: Subject, table: str) -> dict[str, Values]:
    """The table's rows by key, with the columns that are compared, as text."""
    columns = COMPARED[table]
    texts = ", ".join(f"{column}::text" for column in columns)
    rows = subject.observer.execute(f"select id::text, {texts} from {table}".encode()).fetchall()
    return {key: dict(zip(columns, values, strict=True)) for key, *values in rows}


def changes(before: dict[str, Values], after: dict[str, Values]) -> dict[tuple[str, str], tuple[Values, Values]]:
    """What a log must hold, by (operation, key): the values before and after; of an UPDATE those that changed."""
    expected: dict[tuple[str, str], tuple[Values, Values]] = {}
    for key in before.keys() | after.keys():
        if key not in before:
            expected["INSERT", key] = {}, after[key]
        elif key not in after:
            expected["DELETE", key] = before[key], {}
        elif before[key] != after[key]:
            names = [name for name in before[key] if before[key][name] != after[key][name]]
            expected["UPDATE", key] = {n: before[key][n] for n in names}, {n: after[key][n] for n in names}
    return expected


def log_of(subject: Subject) -> list[tuple[str, str, str, Values, Values]]:
    """Everything the log holds: table, operation, key, and the compared columns before and after, as text."""
    rows = subject.observer.execute(
        f"""
        select r.table_name, r.operation, r.key,
               (select coalesce(jsonb_object_agg(key, value), '{{}}') from jsonb_each_text(r.before)),
               (select coalesce(jsonb_object_agg(key, value), '{{}}') from jsonb_each_text(r.after))
        from ({subject.system.recorded}) as r (table_name, operation, key, before, after)
        """.encode()
    ).fetchall()
    return [(table, operation, key, before, after) for table, operation, key, before, after in rows]


def compare(
    system: System,
    workload: Workload,
    expected: dict[tuple[str, str], tuple[Values, Values]],
    recorded: list[tuple[str, str, str, Values, Values]],
) -> None:
    """Raise RecordingError unless the log holds each expected change once, with these values, and nothing else."""
    where = f"{system.title}, {workload.title}"
    if len(recorded) != len(expected):
        raise RecordingError(f"{where}: {len(expected)} rows were changed, {len(recorded)} are recorded")
    for table, operation, key, before, after in recorded:
        if table != workload.table or (operation, key) not in expected:
            raise RecordingError(f"{where}: {operation} of row {key} of {table} is recorded, it did not happen")
        old, new = expected.pop((operation, key))
        if not old.items() <= before.items() and (operation != "UPDATE" or system.remembers_before):
            raise RecordingError(f"{where}: {operation} of row {key} is recorded with {before} before, it was {old}")
        if not new.items() <= after.items():
            raise RecordingError(f"{where}: {operation} of row {key} is recorded with {after} after, it is {new}")


def measure(
    subjects: Sequence[Subject],
    workloads: Sequence[Workload],
    clients: Runner,
    rounds: int,
    sizes: Sizes,
    minutes: float = math.inf,
) -> dict[tuple[str, str], list[Cost]]:
    """Return the costs of each (workload, system), a Cost a round; the systems take turns within each workload.

    No round is begun that would end after so many minutes, judged by the one before.
    """
    costs: dict[tuple[str, str], list[Cost]] = {}
    began = time.monotonic()
    for number in range(rounds):
        if number and (time.monotonic() - began) * (number + 1) / number > minutes * 60:
            break
        for subject in subjects:
            subject.session.execute(f"truncate {DOCUMENT}".encode())
            if FILL not in workloads or is_left_out(subject, FILL, number):
                fill(subject, sizes)
        for workload in workloads:
            print(f"round {number + 1}: {workload.title}", file=sys.stderr, flush=True)
            for time_number, subject in product(range(1 if workload.is_bulk else sizes.times), subjects):
                if is_left_out(subject, workload, number):
                    continue
                cost = piece(subject, workload, clients, sizes, f"round {number}", time_number)
                costs.setdefault((workload.key, subject.system.key), []).append(cost)
                if workload.is_bulk and workload.changed_rows(sizes) * cost.cpu > SLOW_SECONDS * 1_000_000:
                    subject.slow.add(workload.key)
    return costs


def is_left_out(subject: Subject, workload: Workload, number: int) -> bool:
    return workload.key in subject.slow and number >= SLOW_ROUNDS


def fill(subject: Subject, sizes: Sizes) -> None:
    """Fill the document table as the measured INSERT does, past every trigger that may be passed."""
    with subject.session.transaction():
        subject.session.execute("set local session_replication_role = replica")
        subject.session.execute(FILL.bulk_statement(sizes, "").encode())
    subject.session.execute(f"vacuum analyze {DOCUMENT}".encode())


def seconds_with_kept_plan(subject: Subject, sizes: Sizes) -> float | None:
    """Return what an UPDATE of few rows takes after one of one row in the same session; None for over PATIENCE."""
    warm_session(subject)
    began = time.perf_counter()
    try:
        with subject.session.transaction(force_rollback=True):
            subject.session.execute(f"set local statement_timeout = '{PATIENCE}s'".encode())
            subject.session.execute(f"update {WIDE} set word_1 = 'kept plan' where id <= {sizes.few}".encode())
    except psycopg.errors.QueryCanceled:
        return None
    return time.perf_counter() - began


def empty_log(subject: Subject) -> None:
    """Empty the log's tables; only those that hold anything, for a session's plans survive then."""
    query = f"select oid::regclass::text from ({subject.system.log}) as l (oid) where pg_relation_size(oid) > 0"
    tables = [name for (name,) in subject.observer.execute(query.encode())]
    if tables:
        with subject.observer.transaction():
            # Our own log refuses it otherwise; only a superuser may do so.
            subject.observer.execute("set local session_replication_role = replica")
            subject.observer.execute(f"truncate {', '.join(tables)} cascade".encode())
            # TRUNCATE summarizes the first range of an index of block ranges, as no day of the log has it.
            subject.observer.execute(
                "select brin_desummarize_range(i.indexrelid, 0) from pg_index i join pg_class c on c.oid = i.indexrelid"
                " join pg_am a on a.oid = c.relam where a.amname = 'brin' and i.indrelid = any(%s::regclass[])",
                [tables],
            )


def piece(
    subject: Subject, workload: Workload, clients: Runner, sizes: Sizes, value: str, time_number: int = 0
) -> Cost:
    """Empty the log, warm the sessions up, do one piece of work and return what it cost.

    The log is emptied so that no row finds room in a page that an earlier piece left, and its growth is its size.
    """
    empty_log(subject)
    run(subject, workload, clients, sizes, value, time_number, warm=True)
    subject.observer.execute("checkpoint")
    wal, log, clock = wal_position(subject), log_size(subject), time.perf_counter()
    cpu = run(subject, workload, clients, sizes, value, time_number)
    clock = time.perf_counter() - clock
    wal, log = wal_position(subject) - wal, log_size(subject) - log
    if workload.is_bulk:
        subject.observer.execute(f"vacuum analyze {workload.table}".encode())
    rows = workload.changed_rows(sizes)
    return Cost(cpu / 1000 / rows, wal / rows, log / rows, rows / clock)


def run(
    subject: Subject,
    workload: Workload,
    clients: Runner,
    sizes: Sizes,
    value: str,
    time_number: int = 0,
    *,
    warm: bool = False,
) -> int:
    """Do a workload, or what warms its sessions up; return the CPU of its backends in nanoseconds."""
    value = f"{workload.key}, {value}.{time_number}"
    if not workload.is_bulk:
        statement, takes_value = workload.row_statement()
        tasks = [
            Task(
                subject.url,
                subject.system.actor,
                statement,
                (f"{value}{', warm' if warm else ''}") if takes_value else None,
                workload.ids(sizes, client, time_number)[1 if warm else 0],
            )
            for client in range(workload.clients)
        ]
        return clients.run(tasks)
    if warm:
        return warm_session(subject)
    with subject.session.transaction():
        if subject.system.actor:
            subject.system.actor.name(subject.session)
        if subject.system.keeps_plan:
            subject.session.execute("discard plans")
        before = cpu_time(subject.session)
        subject.session.execute(workload.bulk_statement(sizes, value).encode())
    return cpu_time(subject.session) - before


def warm_session(subject: Subject) -> int:
    """Write one row of each kind and take it back: a session's first write reads the catalogue (trap 33)."""
    with subject.session.transaction(force_rollback=True):
        if subject.system.actor:
            subject.system.actor.name(subject.session)
        for statement in (
            f"insert into {DOCUMENT} select {DOCUMENT_VALUES} from (select 0) as source (n)",
            f"update {DOCUMENT} set state = 'warm' where id = 0",
            f"delete from {DOCUMENT} where id = 0",
            f"update {WIDE} set word_1 = 'warm' where id = 1",
        ):
            subject.session.execute(statement.encode())
    return 0


def wal_position(subject: Subject) -> int:
    return number_of(subject.observer, "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")


def log_size(subject: Subject) -> int:
    """Bytes of the log's tables, what is toasted and their indexes, without free-space maps (24 kB, however full)."""
    return number_of(
        subject.observer,
        f"""
        with log as (select oid from ({subject.system.log}) as l (oid)),
             kept as (select oid from log union select reltoastrelid from pg_class where oid in (select oid from log)),
             found as (select indexrelid from pg_index where indrelid in (select oid from kept))
        select coalesce(sum(pg_relation_size(oid)), 0)
        from (select oid from kept union select indexrelid from found) as part where oid <> 0
        """,
    )


def number_of(connection: Connection, query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])
