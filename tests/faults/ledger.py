"""What a transaction of a writer must leave in the log, kept in Python's memory.

It must not read the log: the ledger is what the log is compared with.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

Row = dict[str, Any]
Key = tuple[Any, ...]
# The rows of each table by their key, as one writer knows its own.
Rows = dict[str, dict[Key, Row]]

# The primary key of each table; memo has none, and its rows are told apart by a text that the writers never use twice.
KEYS = {"document": ("id",), "permission": ("id",), "measure": ("day", "number"), "scratch": ("id",)}
EVENTS = {"INSERT": "resource_created", "UPDATE": "resource_updated", "DELETE": "resource_deleted"}
PERMISSION_EVENTS = {"INSERT": "permission_granted", "UPDATE": "permission_changed", "DELETE": "permission_revoked"}


class State(Enum):
    """How a transaction ended, as far as its writer knows."""

    OPEN = "open"
    COMMITTING = "in doubt"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"


class Change(NamedTuple):
    """One row that a statement wrote; before is None for a new row, after for one that is gone."""

    table: str
    before: Row | None
    after: Row | None

    @property
    def operation(self) -> str:
        return "INSERT" if self.before is None else "DELETE" if self.after is None else "UPDATE"


class Entry(NamedTuple):
    """An entry as the ledger and the log are compared: `rows` are JSON texts, sorted."""

    table: str
    operation: str
    event: str
    workspace: str
    row_count: int
    rows: tuple[str, ...] = ()


@dataclass
class Transaction:
    """A writer's transaction: the entries that it must leave when it commits, and its rows as they are then."""

    request_id: str
    rows: Rows
    entries: list[Entry] = field(default_factory=list)
    state: State = State.OPEN

    def write(self, changes: Sequence[Change]) -> None:
        """Note what one statement wrote."""
        self.entries += entries_of(changes)
        for table in {change.table for change in changes}:
            self.rows[table] = dict(self.rows.get(table, {}))
        for change in changes:
            if change.before is not None:
                del self.rows[change.table][key_of(change.table, change.before)]
        for change in changes:
            if change.after is not None:
                self.rows[change.table][key_of(change.table, change.after)] = change.after

    def truncate(self, table: str) -> None:
        """Note a TRUNCATE: an entry in each workspace that had rows."""
        counts = Counter(str(row["workspace_id"]) for row in self.rows.pop(table, {}).values())
        self.entries += [Entry(table, "TRUNCATE", "resource_deleted", name, rows) for name, rows in counts.items()]

    def savepoint(self) -> tuple[Rows, list[Entry]]:
        return dict(self.rows), list(self.entries)

    def roll_back_to(self, savepoint: tuple[Rows, list[Entry]]) -> None:
        self.rows, self.entries = savepoint


def primary_key(table: str) -> tuple[str, ...]:
    """The columns of a table's primary key; those of memo, which has none, are none."""
    return KEYS.get(table.partition("_")[0], ())


def key_of(table: str, row: Row) -> Key:
    return tuple(row[column] for column in primary_key(table) or ("text",))


def entries_of(changes: Iterable[Change]) -> list[Entry]:
    """The entries of one statement: one for each table, workspace, event and operation in which rows really changed."""
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for change in changes:
        if change.before == change.after:
            continue
        events = PERMISSION_EVENTS if change.table == "permission" else EVENTS
        row = change.after or change.before or {}
        group = (change.table, change.operation, events[change.operation], str(row["workspace_id"]))
        groups.setdefault(group, []).append(logged_row(change))
    return [Entry(*group, len(rows), tuple(sorted(rows))) for group, rows in groups.items()]


def logged_row(change: Change) -> str:
    """One changed row as the log must have it: resource_id, row_key, before and after."""
    table, before, after = change
    now = after or before or {}
    if before is not None and after is not None and primary_key(table):
        names = [name for name in before if before[name] != after[name]]
        before, after = {name: before[name] for name in names}, {name: after[name] for name in names}
    row_key = _key_text(table, change.before or now)
    resource_id = str(now["document_id"]) if table == "permission" else _key_text(table, now)
    return row_text(resource_id, row_key if row_key != resource_id else None, before, after)


def row_text(resource_id: str | None, row_key: str | None, before: Row | None, after: Row | None) -> str:
    return json.dumps([resource_id, row_key, before, after], sort_keys=True)


def _key_text(table: str, row: Row) -> str | None:
    columns = primary_key(table)
    if not columns:
        return None
    return str(row[columns[0]]) if len(columns) == 1 else json.dumps([row[column] for column in columns])
