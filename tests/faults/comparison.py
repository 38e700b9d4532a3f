"""Whether the log equals what committed: replayed from nothing, and held against the writers' ledgers.

It must not take the log's word for anything that the tables or the ledgers can say.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import psycopg

from tests.faults.ledger import Entry, Row, State, Transaction, key_of, primary_key, row_text
from tests.faults.writers import Writer

Connection = psycopg.Connection[tuple[Any, ...]]
# Shown of each kind of problem: one lost table would be thousands.
SHOWN = 5

ENTRIES = """
select id::text, request_id, table_name, operation, event, workspace_id, row_count, resource_id, row_key, before, after
from audit.entry where operation <> 'EVENT' order by
"""
# A clock that steps back gives what is written next earlier moments: then the server's own numbers tell the order.
BY_CLOCK, BY_SERVER = "created_at, id", "transaction_id, cmin::text::bigint, created_at, id"
CHANGES = "select entry_id::text, workspace_id, resource_id, row_key, before, after from audit.change"


class LogRow(NamedTuple):
    """A changed row as the log has it."""

    resource_id: str | None
    row_key: str | None
    before: Row | None
    after: Row | None


class LogEntry(NamedTuple):
    """An entry of the log with its rows."""

    request_id: str | None
    entry: Entry
    rows: list[LogRow]


class Found(NamedTuple):
    """What a comparison found: the problems, and how many transactions in doubt turned out to be committed."""

    problems: list[str]
    kept: int
    entries: int


def compare(connection: Connection, writers: Sequence[Writer], order: str = BY_CLOCK) -> Found:
    """Compare the whole log with all that the writers ever did, and settle what was in doubt."""
    problems: list[str] = []
    log = _read_log(connection, problems, order)
    by_request: dict[str | None, list[Entry]] = {}
    for entry in log:
        by_request.setdefault(entry.request_id, []).append(entry.entry)
    kept = 0
    for writer in writers:
        for transaction in writer.ledger:
            found = by_request.pop(transaction.request_id, [])
            if transaction.state is State.COMMITTING:
                # All or nothing: the log decides, and the tables must agree below.
                transaction.state = State.COMMITTED if found else State.ROLLED_BACK
                if found:
                    writer.rows = transaction.rows
                    kept += 1
            problems += _judge(transaction, found)
    problems += [f"entries that nobody wrote: request {name}: {found[:2]}" for name, found in by_request.items()]

    tables = sorted({entry.entry.table for entry in log} | {table for writer in writers for table in writer.rows})
    replayed = replay(log, problems)
    for table in tables:
        real = _read_table(connection, table)
        problems += _differences(f"{table}: the log replayed", replayed.get(table, Counter()), real)
        rows = (row for writer in writers for row in writer.rows.get(table, {}).values())
        problems += _differences(f"{table}: the ledgers", Counter(map(_text, rows)), real)
    problems += _look_at_guards(connection)
    return Found(problems, kept, len(log))


def _judge(transaction: Transaction, found: list[Entry]) -> Iterator[str]:
    expected = transaction.entries if transaction.state is State.COMMITTED else []
    missing, extra = Counter(expected) - Counter(found), Counter(found) - Counter(expected)
    label = f"transaction {transaction.request_id} ({transaction.state.value})"
    for what, entries in (("lost", missing), ("invented", extra)):
        for entry in entries:
            yield f"{label}: {what}: {str(entry)[:300]}"


def _read_log(connection: Connection, problems: list[str], order: str) -> list[LogEntry]:
    rows: dict[str, list[LogRow]] = {}
    workspaces: dict[str, set[str]] = {}
    for entry_id, workspace, *row in connection.execute(CHANGES):
        rows.setdefault(entry_id, []).append(LogRow(*row))
        workspaces.setdefault(entry_id, set()).add(workspace)
    log = []
    for entry_id, request_id, *head, resource_id, row_key, before, after in connection.execute(
        f"{ENTRIES} {order}".encode()
    ):
        table, operation, event, workspace, row_count = head
        entry_rows = rows.pop(entry_id, [])
        if row_count == 1 and operation != "TRUNCATE":
            entry_rows.append(LogRow(resource_id, row_key, before, after))
        if operation != "TRUNCATE" and len(entry_rows) != row_count:
            problems.append(f"entry {entry_id} says {row_count} rows and has {len(entry_rows)}")
        if workspaces.get(entry_id, {workspace}) != {workspace}:
            problems.append(f"entry {entry_id} of {workspace} has rows of {workspaces[entry_id]}")
        texts = tuple(sorted(row_text(*entry_row) for entry_row in entry_rows))
        log.append(LogEntry(request_id, Entry(table, operation, event, workspace, row_count, texts), entry_rows))
    problems += [f"rows of an entry that is not there: {entry_id}" for entry_id in list(rows)[:SHOWN]]
    return log


def replay(log: Sequence[LogEntry], problems: list[str]) -> dict[str, "Counter[str]"]:
    """Rebuild every table from nothing; the rows as JSON texts, with how often each is there."""
    keyed: dict[str, dict[str, Row]] = {}
    keyless: dict[str, Counter[str]] = {}
    for _, entry, rows in log:
        if entry.operation == "TRUNCATE":
            keyed.pop(entry.table, None)
        elif primary_key(entry.table):
            _replay_rows(keyed.setdefault(entry.table, {}), entry, rows, problems)
        else:
            table = keyless.setdefault(entry.table, Counter())
            table.subtract(_text(row.before) for row in rows if row.before is not None)
            table.update(_text(row.after) for row in rows if row.after is not None)
    return keyless | {table: Counter(map(_text, rows.values())) for table, rows in keyed.items()}


def _replay_rows(table: dict[str, Row], entry: Entry, rows: list[LogRow], problems: list[str]) -> None:
    # All old rows first: a statement may give one row the key that another one had.
    old = []
    for row in rows:
        key = row.row_key or row.resource_id or ""
        old.append({} if row.before is None else table.pop(key, None))
        if old[-1] is None or any(old[-1].get(name) != value for name, value in (row.before or {}).items()):
            problems.append(f"{entry.table}: {entry.operation} of row {key} does not fit the entries before it")
    for row, before in zip(rows, old, strict=True):
        if row.after is not None and before is not None:
            after = {**before, **row.after}
            table[_own_key(entry.table, after)] = after


def _own_key(table: str, row: Row) -> str:
    key = key_of(table, row)
    return str(key[0]) if len(key) == 1 else json.dumps(list(key))


def _read_table(connection: Connection, table: str) -> "Counter[str]":
    return Counter(_text(row) for (row,) in connection.execute(f"select to_jsonb(t) from {table} t".encode()))


def _text(row: Row) -> str:
    return json.dumps(row, sort_keys=True)


def _differences(what: str, rebuilt: "Counter[str]", real: "Counter[str]") -> Iterator[str]:
    for sign, rows in (("has a row too many", rebuilt - real), ("lacks a row", real - rebuilt)):
        for row in list(rows)[:SHOWN]:
            yield f"{what} {sign} ({len(rows)} such): {row[:200]}"


def _look_at_guards(connection: Connection) -> Iterator[str]:
    for row in connection.execute("select problem, object_name, detail from audit.check()"):
        yield f"audit.check(): {row}"
    for statement in (
        "update audit.entry set event = 'x_changed'",
        "delete from audit.entry",
        "truncate audit.entry",
        "update audit.change set row_key = 'x'",
        "delete from audit.change",
        "truncate audit.change",
        "alter table audit.entry disable trigger all",
        "drop table audit.change cascade",
    ):
        try:
            with connection.transaction(force_rollback=True):
                connection.execute("set local role audit_owner")
                connection.execute(statement.encode())
            yield f"not refused: {statement}"
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState):
            # The latter while the witness looks: PostgreSQL refuses before the guards are asked.
            pass
