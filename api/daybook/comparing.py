"""What became of the rows of a transaction, as the WAL has it, held against what the log tells of it.

It must not write, nor hold more than a bounded number of changed rows in memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import Connection, ServerCursor

from .decoding import (
    UNCHANGED,
    Begin,
    Change,
    Commit,
    Relation,
    Truncate,
    Type,
    Value,
    Values,
    key_text,
    read_json,
    read_message,
    says,
)
from .publishing import INSERTS, PUBLICATION, WitnessError, read_notes

REDACTED = {"redacted": True}
FETCH = 2_000


class Misfit(NamedTuple):
    """What does not fit in one transaction: kind is unlogged, invented, altered, miscounted, tampered or doubtful."""

    kind: str
    xid: int
    committed_at: datetime
    what: str

    def __str__(self) -> str:
        return f"{self.committed_at:%Y-%m-%d %H:%M:%S.%f} UTC, transaction {self.xid}: {self.kind}: {self.what}"


@dataclass(slots=True)
class Outcome:
    """What a run compared, and what it could not."""

    transactions: int = 0
    rows: int = 0
    entries: int = 0
    misfits: int = 0
    # Updates of rows whose old values the WAL does not hold, without an entry: they may have changed nothing.
    unproved: int = 0
    # Changed rows and entries of tables that are not tracked now, or not looked at, or were not yet.
    not_compared: int = 0
    position: str = ""


@dataclass(slots=True)
class Tracked:
    """A tracked table as its settings and the catalogue are now."""

    oid: int
    schema: str
    name: str
    keys: tuple[str, ...]
    excluded: frozenset[str]
    redacted: frozenset[str]
    columns: frozenset[str]
    generated: frozenset[str]
    # Whether its changes are published, those of insertions at least; whether updates and deletions are.
    published: bool
    in_full: bool
    # The first transaction id that was not yet given out when it was taken in.
    since: int

    def is_looked_at(self, operation: str, xid: int) -> bool:
        """Whether what such a transaction did to it is in the WAL that the witness gets."""
        # Ids of the WAL have 32 bits: those before `since` are the 2^31 behind it.
        is_early = (xid - self.since) & 0xFFFF_FFFF >= 2**31
        return self.published and not is_early and (self.in_full or operation in ("INSERT", "TRUNCATE"))


@dataclass(slots=True)
class Table:
    """A published table as it was at this place of the WAL."""

    name: str
    columns: dict[str, Type]
    # Positions of the key's columns; empty: it has none, or none by the names of today.
    keys: tuple[int, ...]
    tracked: Tracked


@dataclass(slots=True)
class LogRow:
    """A changed row as the log tells it."""

    entry_id: str
    oid: int
    operation: str
    key: str | None
    shown_key: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None


@dataclass(slots=True)
class LogEntry:
    """An entry of several rows, while its rows are counted."""

    oid: int
    operation: str
    row_count: int
    # Else its rows are counted alone.
    is_compared: bool
    found: int = 0


class TooManyError(Exception):
    """More rows of one transaction wait for their counterpart than may be held."""


class Messages:
    """The rows of a scrollable cursor, each with its number, from any of them on."""

    def __init__(self, cursor: ServerCursor[Any]) -> None:
        self._cursor = cursor
        self._held: list[Any] = []
        self._next = 0

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        while True:
            if not self._held:
                self._held = self._cursor.fetchmany(FETCH)[::-1]
                if not self._held:
                    return
            (data,) = self._held.pop()
            self._next += 1
            yield self._next - 1, data

    def rewind(self, number: int) -> None:
        """Go on with the row of this number."""
        self._cursor.scroll(number, mode="absolute")
        self._held, self._next = [], number

    @property
    def next(self) -> int:
        return self._next


class Comparison:
    """What is known of tables and types during a run, and the comparison of one transaction after another."""

    def __init__(
        self, connection: Connection[Any], outcome: Outcome, tell: Callable[[Misfit], object], most_pending: int
    ) -> None:
        self.connection = connection
        self.outcome = outcome
        self.tell = tell
        self.most_pending = most_pending
        name = connection.info.parameter_status("server_encoding") or "UTF8"
        self.encoding = "utf-8" if name in ("UTF8", "SQL_ASCII") else name.replace("WIN", "cp").replace("EUC_", "euc_")
        self.tracked = {tracked.oid: tracked for tracked in read_tracked(connection)}
        self.names = {(t.schema, t.name): t.oid for t in self.tracked.values()}
        self.tables: dict[int, Table | None] = {}
        self.log: dict[int, tuple[str, list[str]]] = {}
        self.types: dict[int, Type] = {}

    def meet(self, relation: Relation) -> None:
        """Note how a table looks from here on."""
        if relation.schema == "audit":
            self.log[relation.oid] = (relation.name, [column.name for column in relation.columns])
            return
        self.names[relation.schema, relation.name] = relation.oid
        tracked = self.tracked.get(relation.oid)
        if tracked is None:
            self.tables[relation.oid] = None
            return
        names = [column.name for column in relation.columns]
        keys = tuple(names.index(key) for key in tracked.keys if key in names)
        columns = {column.name: self.type(column.type_oid) for column in relation.columns}
        kinds = [columns[key] for key in tracked.keys if key in columns]
        # An array within a composite key is written as JSON; nobody has one.
        is_plain = len(keys) == len(tracked.keys) and (len(keys) == 1 or not any(kind.element for kind in kinds))
        known = keys if is_plain else ()
        self.tables[relation.oid] = Table(f"{relation.schema}.{relation.name}", columns, known, tracked)

    def type(self, oid: int) -> Type:
        """Return a type, with domains looked through; one that is gone is the application's: it is compared as text."""
        if oid not in self.types:
            row = self.connection.execute(
                "select typbasetype, case when typcategory = 'A' and typsubscript = 'array_subscript_handler'::regproc"
                " then typelem end from pg_catalog.pg_type where oid = %s",
                [oid],
            ).fetchone()
            if row is None:
                self.types[oid] = Type(2**31)
            elif row[0]:
                self.types[oid] = self.type(row[0])
            else:
                self.types[oid] = Type(oid, self.type(row[1]) if row[1] else None)
        return self.types[oid]

    def transaction(self, begin: Begin, messages: Messages) -> int:
        """Compare one transaction, in parts when it is large. Returns the position after it."""
        first = messages.next
        parts = 1
        while True:
            left = _Left()
            try:
                for part in range(parts):
                    if part:
                        messages.rewind(first)
                    end = _Part(self, begin.xid, part, parts, left).compare(messages)
                break
            except TooManyError:
                parts *= 4
                messages.rewind(first)
        self.outcome.transactions += 1
        self.outcome.rows += left.rows
        self.outcome.entries += left.entries
        self.outcome.not_compared += left.not_compared
        for kind, what in _Verdict(self, begin.xid, left).misfits():
            self.outcome.misfits += 1
            self.tell(Misfit(kind, begin.xid, begin.committed_at, what))
        return end


def read_tracked(connection: Connection[Any]) -> Iterator[Tracked]:
    rows = connection.execute(
        """
        select c.oid::bigint, t.table_schema, t.table_name, coalesce(audit.primary_key_columns(c.oid), '{}'),
               t.excluded_columns, t.redacted_columns,
               array(select a.attname::text from pg_attribute a
                     where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
               array(select a.attname::text from pg_attribute a where a.attrelid = c.oid and a.attgenerated <> ''),
               p.names is not null, coalesce(%s = any(p.names), false)
        from audit.tracked_table t
        join pg_namespace n on n.nspname = t.table_schema
        join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
        cross join lateral (
            select array_agg(p.pubname::text) as names
            from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
            where r.prrelid = c.oid and p.pubname in (%s, %s)) p
        """,
        [PUBLICATION, PUBLICATION, INSERTS],
    )
    since = read_notes(connection)["since"]
    for oid, schema, name, keys, excluded, redacted, columns, generated, published, in_full in rows:
        yield Tracked(
            oid,
            schema,
            name,
            tuple(keys),
            frozenset(excluded),
            frozenset(redacted),
            frozenset(columns),
            frozenset(generated),
            published,
            in_full,
            since.get(str(oid), 0),
        )


@dataclass(slots=True)
class _Left:
    """What found no counterpart in a transaction, and what else was counted in it."""

    changes: list[tuple[str | None, Change]] = field(default_factory=list)
    told: list[LogRow] = field(default_factory=list)
    truncated: set[int] = field(default_factory=set)
    truncations_told: dict[int, bool] = field(default_factory=dict)
    tampered: list[str] = field(default_factory=list)
    miscounted: list[str] = field(default_factory=list)
    rows: int = 0
    entries: int = 0
    not_compared: int = 0


class _Part:
    """One pass over a transaction, which looks at the rows whose keys fall into this part."""

    def __init__(self, comparison: Comparison, xid: int, part: int, parts: int, left: _Left) -> None:
        self.comparison = comparison
        self.xid = xid
        self.part, self.parts = part, parts
        self.left = left
        self.pending: dict[tuple[int, str, str | None], list[Change]] = {}
        self.told: list[LogRow] = []
        self.entries: dict[str, LogEntry] = {}
        self.early: dict[str, list[tuple[dict[str, Value], int]]] = {}
        self.held = 0

    def compare(self, messages: Messages) -> int:
        """Read the transaction to its end; what has no counterpart goes to `left`. Returns the position after it."""
        for _, data in messages:
            message = read_message(data, self.comparison.encoding)
            if isinstance(message, Change):
                if message.oid in self.comparison.log:
                    self._log_change(message)
                else:
                    self._change(message)
            elif isinstance(message, Relation):
                self.comparison.meet(message)
            elif isinstance(message, Truncate):
                self._truncate(message)
            elif isinstance(message, Commit):
                self._end()
                return message.end
        raise WitnessError("the server sent half of a transaction")

    def _is_mine(self, oid: int, key: str | None) -> bool:
        text = f"{oid} {key}".encode("utf-8", "surrogateescape")
        return self.parts == 1 or zlib.crc32(text) % self.parts == self.part

    def _hold(self, count: int) -> None:
        self.held += count
        # More parts than these would not make less of it: rows without a key.
        if self.held > self.comparison.most_pending and self.parts < 4096:
            raise TooManyError

    def _change(self, change: Change) -> None:
        table = self.comparison.tables.get(change.oid)
        if table is None or not table.tracked.is_looked_at(change.operation, self.xid):
            self.left.not_compared += self.part == 0
            return
        if change.operation == "UPDATE" and change.whole and not _changed(table, change):
            return
        key = _key(table, change.new if change.old is None else change.old, self.comparison)
        if not self._is_mine(change.oid, key):
            return
        self.left.rows += 1
        self.pending.setdefault((change.oid, change.operation, key), []).append(change)
        self._hold(1)

    def _log_change(self, change: Change) -> None:
        name, columns = self.comparison.log[change.oid]
        if change.operation != "INSERT" or change.new is None:
            if self.part == 0:
                self.left.tampered.append(f"{change.operation} on audit.{name}")
            return
        values = dict(zip(columns, change.new, strict=True))
        if name.startswith("entry"):
            self._entry(values)
        else:
            self._row_of_entry(values)

    def _entry(self, values: dict[str, Value]) -> None:
        self.left.entries += self.part == 0
        operation = str(values["operation"])
        if operation == "EVENT":
            return
        place = (str(values["table_schema"]), str(values["table_name"]))
        oid = self.comparison.names.get(place, 0)
        table = self.comparison.tracked.get(oid)
        # An update that moves rows to another partition inserts them: of that it is looked at.
        looked_at = "INSERT" if operation == "UPDATE" else operation
        is_compared = not oid or (table is not None and table.is_looked_at(looked_at, self.xid))
        self.left.not_compared += self.part == 0 and not is_compared
        count = int(str(values["row_count"]))
        if not is_compared and (operation == "TRUNCATE" or count == 1):
            return
        if operation == "TRUNCATE":
            partition = "partition" in ((_object(values["context"]) or {}).get("details") or {})
            self.left.truncations_told[oid] = self.left.truncations_told.get(oid, True) and partition
        elif count == 1:
            self._told(values, str(values["id"]), oid, operation)
        else:
            entry = self.entries[str(values["id"])] = LogEntry(oid, operation, count, is_compared)
            for row, _ in self.early.pop(str(values["id"]), []):
                self._told_of(entry, row)

    def _row_of_entry(self, values: dict[str, Value]) -> None:
        entry = self.entries.get(str(values["entry_id"]))
        if entry is None:
            self.early.setdefault(str(values["entry_id"]), []).append((values, 0))
            self._hold(1)
        else:
            self._told_of(entry, values)

    def _told_of(self, entry: LogEntry, values: dict[str, Value]) -> None:
        entry.found += 1
        if entry.is_compared:
            self._told(values, str(values["entry_id"]), entry.oid, entry.operation)

    def _told(self, values: dict[str, Value], entry_id: str, oid: int, operation: str) -> None:
        table = self.comparison.tables.get(oid)
        own = values["row_key"] if values["row_key"] is not None else values["resource_id"]
        shown = own if isinstance(own, str) else None
        key = shown if table is not None and table.keys else None
        if not self._is_mine(oid, key):
            return
        told = LogRow(entry_id, oid, operation, key, shown, _object(values["before"]), _object(values["after"]))
        candidates = self.pending.get((oid, operation, key), [])
        for number, change in enumerate(candidates):
            if table is not None and not _differences(self.comparison, table, change, told):
                del candidates[number]
                if not candidates:
                    del self.pending[oid, operation, key]
                self.held -= 1
                return
        self.told.append(told)
        self._hold(1)

    def _truncate(self, message: Truncate) -> None:
        for oid in message.oids:
            if oid in self.comparison.log:
                self.left.tampered.append(f"TRUNCATE on audit.{self.comparison.log[oid][0]}")
            elif self.comparison.tables.get(oid) is not None:
                self.left.truncated.add(oid)

    def _end(self) -> None:
        for (_, _, key), changes in self.pending.items():
            self.left.changes += [(key, change) for change in changes]
        self.left.told += self.told
        if self.part == 0:
            for entry_id, entry in self.entries.items():
                if entry.found != entry.row_count:
                    self.left.miscounted.append(
                        f"entry {entry_id} says {entry.row_count} rows and has {entry.found} in audit.change"
                    )
            for entry_id, rows in self.early.items():
                self.left.miscounted.append(f"{len(rows)} rows in audit.change, but no entry {entry_id}")


def _object(value: Value) -> dict[str, Any] | None:
    if not isinstance(value, str):
        return None
    found = read_json(value)
    return found if isinstance(found, dict) else {}


def _key(table: Table, values: Values | None, comparison: Comparison) -> str | None:
    if values is None or not table.keys:
        return None
    kinds = list(table.columns.values())
    parts = [(values[number], kinds[number]) for number in table.keys]
    texts = [(text, kind) for text, kind in parts if isinstance(text, str)]
    return key_text(texts, comparison.encoding) if len(texts) == len(parts) else None


def _changed(table: Table, change: Change) -> set[str]:
    """The columns that an update with its old row really changed, save those that are excluded."""
    assert change.old is not None
    assert change.new is not None
    names = zip(table.columns, change.old, change.new, strict=True)
    return {name for name, before, after in names if before != after} - table.tracked.excluded


def _differences(comparison: Comparison, table: Table, change: Change, told: LogRow) -> list[str]:
    """Name the columns in which what the log tells is not what happened to the row."""
    wrong: list[str] = []
    if change.new is not None:
        wrong += _wrong(comparison, table, change.new, told.after)
    if change.old is not None and change.whole:
        wrong += _wrong(comparison, table, change.old, told.before)
    if (told.before is None, told.after is None) != (change.operation == "INSERT", change.operation == "DELETE"):
        return wrong or ["before, after"]
    if change.operation == "INSERT":
        must = set(table.columns)
    elif not change.whole:
        must = set()
    else:
        must = set(table.columns) if change.operation == "DELETE" else _changed(table, change)
    must = (must - table.tracked.excluded) & table.tracked.columns
    for side in (told.before, told.after):
        if side is not None:
            wrong += must - side.keys()
    return sorted(set(wrong))


def _wrong(comparison: Comparison, table: Table, values: Values, side: dict[str, Any] | None) -> list[str]:
    """The columns of one side of an entry whose values are not those of the row, or which the row has not."""
    row = dict(zip(table.columns, values, strict=True))
    return [name for name, stored in (side or {}).items() if not _is_right(comparison, table, row, name, stored)]


def _is_right(comparison: Comparison, table: Table, row: dict[str, Value], name: str, stored: Any) -> bool:
    if name not in row:
        # What is generated is not in the WAL's rows; neither is what was dropped since known to have been.
        return name in table.tracked.generated or name not in table.tracked.columns
    if stored == REDACTED and name in table.tracked.redacted:
        return True
    value = row[name]
    if value is UNCHANGED:
        return True
    if not isinstance(value, str):
        return stored is None
    return says(stored, value, table.columns[name], comparison.encoding)


class _Verdict:
    """What of a transaction is left is paired as far as it belongs together, and the rest told."""

    def __init__(self, comparison: Comparison, xid: int, left: _Left) -> None:
        self.comparison = comparison
        self.xid = xid
        self.left = left
        self.by_key: dict[tuple[int, str, str | None], list[Change]] = {}
        for key, change in left.changes:
            self.by_key.setdefault((change.oid, change.operation, key), []).append(change)

    def misfits(self) -> Iterator[tuple[str, str]]:
        told = [row for row in self.left.told if not self._is_move(row) and not self._is_late(row)]
        for row in told:
            tracked = self.comparison.tracked.get(row.oid)
            if tracked is not None and not tracked.is_looked_at(row.operation, self.xid):
                self._take_moved(row)
                self.comparison.outcome.not_compared += 1
            else:
                yield self._misfit_of(row)
        for (oid, operation, key), changes in self.by_key.items():
            table = self.comparison.tables[oid]
            assert table is not None
            for change in changes:
                if operation == "UPDATE" and not change.whole:
                    self.comparison.outcome.unproved += 1
                else:
                    yield "unlogged", f"{operation} of {_row_name(table.name, key)} has no entry"
        yield from (("miscounted", what) for what in self.left.miscounted)
        yield from (("tampered", what) for what in self.left.tampered)
        yield from self._truncations()

    def _is_late(self, told: LogRow) -> bool:
        """Whether the row's change came after what the log tells of it."""
        table = self.comparison.tables.get(told.oid)
        for number, change in enumerate(self.by_key.get((told.oid, told.operation, told.key), [])):
            if table is not None and not _differences(self.comparison, table, change, told):
                self._take((told.oid, told.operation, told.key), number)
                return True
        return False

    def _is_move(self, told: LogRow) -> bool:
        """Whether an update moved its row to another partition: the WAL has a deletion and an insertion."""
        table = self.comparison.tables.get(told.oid)
        if table is None or told.operation != "UPDATE" or told.after is None:
            return False
        for number, gone in enumerate(self.by_key.get((told.oid, "DELETE", told.key), [])):
            if gone.old is None or _wrong(self.comparison, table, gone.old, told.before):
                continue
            for place in self._places_of(told, table):
                for position, come in enumerate(self.by_key[place]):
                    moved = Change("UPDATE", told.oid, gone.old, come.new, gone.whole)
                    if not _differences(self.comparison, table, moved, told):
                        self._take((told.oid, "DELETE", told.key), number)
                        self._take(place, position)
                        return True
        return False

    def _take_moved(self, told: LogRow) -> None:
        """Where insertions alone are published: the one by which an update moved its row, if it did."""
        table = self.comparison.tables.get(told.oid)
        for number, come in enumerate(self.by_key.get((told.oid, "INSERT", told.key), [])):
            if table is not None and come.new is not None and not _wrong(self.comparison, table, come.new, told.after):
                self._take((told.oid, "INSERT", told.key), number)
                return

    def _places_of(self, told: LogRow, table: Table) -> list[tuple[int, str, str | None]]:
        """Where the row that came may stand: under the same key, or, when that changed, under any."""
        names = list(table.columns)
        if any(names[number] in (told.after or {}) for number in table.keys):
            return [place for place in self.by_key if place[:2] == (told.oid, "INSERT")]
        place = (told.oid, "INSERT", told.key)
        return [place] if place in self.by_key else []

    def _take(self, place: tuple[int, str, str | None], number: int) -> None:
        del self.by_key[place][number]
        if not self.by_key[place]:
            del self.by_key[place]

    def _misfit_of(self, told: LogRow) -> tuple[str, str]:
        table = self.comparison.tables.get(told.oid)
        changes = self.by_key.get((told.oid, told.operation, told.key), [])
        if table is not None and changes:
            columns = ", ".join(_differences(self.comparison, table, changes[0], told))
            self._take((told.oid, told.operation, told.key), 0)
            what = f"{told.operation} of {_row_name(table.name, told.shown_key)} differs in {columns}"
            return "altered", f"{what}; entry {told.entry_id}"
        name = table.name if table is not None else self._name(told.oid)
        what = f"{told.operation} of {_row_name(name, told.shown_key)} did not happen in this transaction"
        return "invented", f"{what}; entry {told.entry_id}"

    def _name(self, oid: int) -> str:
        tracked = self.comparison.tracked.get(oid)
        return f"{tracked.schema}.{tracked.name}" if tracked else "a table that is not there"

    def _truncations(self) -> Iterator[tuple[str, str]]:
        for oid in self.left.truncated - self.left.truncations_told.keys():
            what = f"TRUNCATE of {self._name(oid)} has no entry: the table was empty, or its triggers were off"
            yield "doubtful", what
        for oid, of_partitions in self.left.truncations_told.items():
            # A partition's own TRUNCATE is not published.
            if oid not in self.left.truncated and not of_partitions:
                yield "invented", f"TRUNCATE of {self._name(oid)} did not happen"


def _row_name(table: str, key: str | None) -> str:
    return f"a row of {table}" if key is None else f"{table} {key}"
