"""Leaves turns entries and their changed rows into digests, and digests into blocks: the format of docs/integrity.md.

It calls no function of schema audit, and nothing in it may change: what is sealed must be found again years later.
"""

from __future__ import annotations

import hashlib
import heapq
import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

# The columns in the order in which they are digested: all that the tables have.
ENTRY_COLUMNS = (
    "id", "created_at", "workspace_id", "event", "operation", "table_schema", "table_name", "resource_type",
    "resource_id", "resource_name", "row_key", "actor_type", "actor_id", "actor_name", "row_count", "before", "after",
    "request_id", "context", "database_user", "transaction_id",
)  # fmt: skip
CHANGE_COLUMNS = (
    "entry_id", "created_at", "workspace_id", "resource_id", "resource_name", "row_key", "before", "after",
)  # fmt: skip
# What each digest is of, as its first byte (as RFC 6962, 2.1 has it for the first two): none can be taken for another.
LEAF, NODE, CHANGE, CHANGES, BLOCK, SIGNED = (bytes([number]) for number in range(6))
EMPTY_ROOT = hashlib.sha256().digest()
# A block ends after so many leaves, or with the last one of the same moment: what bounds memory and proofs.
MOST_LEAVES = 32_768
# Digests of one entry's changed rows kept in memory; more are sorted on disk.
MOST_DIGESTS = 100_000
# A shorter stretch of a day is looked up by the index of each workspace, a longer one read through.
LOOKED_UP = timedelta(hours=1)
MEMORY_FOR_SORTING = "64MB"
# The binary form of COPY (PostgreSQL's manual, SQL commands, COPY): timestamps count from 2000 on.
_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_TRAILER = b"\xff\xff"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Connection = psycopg.Connection[Any]
_sha256 = hashlib.sha256


class Leaf(NamedTuple):
    """The digest of one entry with its changed rows. `key` is moment and id, which order leaves."""

    key: bytes
    digest: bytes
    entries: int
    changes: int

    @property
    def id(self) -> bytes:
        """The 16 bytes of the entry's id."""
        return self.key[8:]


@dataclass(frozen=True, slots=True)
class Block:
    """What the digest of a block covers; bounds are UTC, the lower one inside."""

    sequence: int
    lower_bound: datetime
    upper_bound: datetime
    sealed_at: datetime
    entries: int
    changes: int
    root: bytes
    previous_digest: bytes

    @property
    def digest(self) -> bytes:
        """SHA-256 over all of it."""
        moments = (
            (moment - _UNIX_EPOCH) // _MICROSECOND for moment in (self.lower_bound, self.upper_bound, self.sealed_at)
        )
        numbers = struct.pack(">6q", self.sequence, *moments, self.entries, self.changes)
        return _sha256(BLOCK + self.previous_digest + numbers + self.root).digest()


@dataclass(slots=True)
class Tree:
    """The leaves of a block as they come: at most MOST_LEAVES and those of the last one's moment."""

    digests: list[bytes] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    entries: int = 0
    changes: int = 0

    def add(self, leaf: Leaf) -> None:
        """Add the next leaf."""
        self.digests.append(leaf.digest)
        self.keys.append(leaf.key)
        self.entries += leaf.entries
        self.changes += leaf.changes

    @property
    def entry_keys(self) -> bytes:
        """For each leaf its id and the first four bytes of its digest."""
        return b"".join(
            piece for key, digest in zip(self.keys, self.digests, strict=True) for piece in (key[8:], digest[:4])
        )

    def root(self) -> bytes:
        """The root of the tree (RFC 6962, 2.1)."""
        return root_of(self.digests)


def root_of(digests: list[bytes]) -> bytes:
    """The root over these leaves; level by level, the odd one of a level going up as it is."""
    if not digests:
        return EMPTY_ROOT
    while len(digests) > 1:
        pairs = iter(digests)
        level = [_sha256(NODE + left + right).digest() for left, right in zip(pairs, pairs)]  # noqa: B905
        if len(digests) % 2:
            level.append(digests[-1])
        digests = level
    return digests[0]


def path_of(digests: list[bytes], number: int) -> list[tuple[bool, bytes]]:
    """What leads from a leaf up to the root: each sibling, and whether it stands on the left."""
    path = []
    while len(digests) > 1:
        sibling = number ^ 1
        if sibling < len(digests):
            path.append((sibling < number, digests[sibling]))
        pairs = iter(digests)
        level = [_sha256(NODE + left + right).digest() for left, right in zip(pairs, pairs)]  # noqa: B905
        if len(digests) % 2:
            level.append(digests[-1])
        digests, number = level, number // 2
    return path


def key_of_moment(moment: datetime) -> bytes:
    """What the keys of all leaves from this moment on do not come before."""
    return ((moment - _EPOCH) // _MICROSECOND).to_bytes(8, "big", signed=True)


def moment_of_key(key: bytes) -> datetime:
    """The moment of a leaf."""
    return _EPOCH + int.from_bytes(key[:8], "big", signed=True) * _MICROSECOND


def prepare(connection: Connection) -> None:
    """Make a connection give rows in the one form that is digested, and sort them in memory where that is enough."""
    connection.execute("select pg_catalog.set_config('client_encoding', 'UTF8', false)")
    connection.execute("select pg_catalog.set_config('work_mem', %s, false)", [MEMORY_FOR_SORTING])
    # Both cores have work already.
    connection.execute("select pg_catalog.set_config('max_parallel_workers_per_gather', '0', false)")


def read_leaves(
    of_entries: Connection, of_changes: Connection, partition: str | None, lower: datetime, upper: datetime
) -> Iterator[Leaf]:
    """The leaves of a stretch of a day partition of audit.entry, in their order, from two connections at once.

    The stretch is [lower, upper). Without a partition there are none. Raises psycopg.errors.UndefinedTable.
    """
    if partition is None:
        return iter(())
    name_of_changes = "change" + partition.removeprefix("entry")
    entries = read_rows(of_entries, _entries_query(partition, lower, upper))
    changes = read_rows(of_changes, _changes_query(name_of_changes, lower, upper))
    return _merged(entries, _by_entry(changes))


def _entries_query(partition: str, lower: datetime, upper: datetime) -> sql.Composed:
    """Every entry of the stretch. A short one by the index on (workspace_id, created_at), workspace by workspace."""
    names = {
        "table": sql.Identifier("audit", partition),
        "columns": sql.SQL(", ").join(sql.Identifier("e", name) for name in ENTRY_COLUMNS),
        "lower": sql.Literal(lower),
        "upper": sql.Literal(upper),
    }
    within = "e.created_at >= {lower} and e.created_at < {upper}"
    if upper - lower > LOOKED_UP:
        query = "select {columns} from {table} e where " + within
    else:
        query = f"""
            with recursive workspace(id) as (
                (select e.workspace_id from {{table}} e
                 where e.workspace_id is not null order by e.workspace_id limit 1)
                union all
                select (select e.workspace_id from {{table}} e
                        where e.workspace_id > w.id order by e.workspace_id limit 1)
                from workspace w
                where w.id is not null
            )
            select {{columns}} from (
                select e.* from workspace w
                cross join lateral (select * from {{table}} e where e.workspace_id = w.id and {within}) e
                where w.id is not null
                union all
                select e.* from {{table}} e where e.workspace_id is null and {within}) e"""
    return sql.SQL(query + " order by e.created_at, e.id").format(**names)


def _changes_query(partition: str, lower: datetime, upper: datetime) -> sql.Composed:
    """Every changed row of the stretch; of a short one by block ranges of their entries' ids, which hold the moment."""
    query = "select {columns} from {table} c where c.created_at >= {lower} and c.created_at < {upper}"
    if upper - lower <= LOOKED_UP:
        query += " and c.entry_id >= {first} and c.entry_id < {end}"
    return sql.SQL(query + " order by c.created_at, c.entry_id").format(
        table=sql.Identifier("audit", partition),
        columns=sql.SQL(", ").join(sql.Identifier("c", name) for name in CHANGE_COLUMNS),
        lower=sql.Literal(lower),
        upper=sql.Literal(upper),
        first=sql.Literal(_first_id(lower)),
        end=sql.Literal(_first_id(upper)),
    )


def _first_id(moment: datetime) -> str:
    """The least id of an entry of this moment (audit.new_entry_id)."""
    milliseconds, microseconds = divmod((moment - _UNIX_EPOCH) // _MICROSECOND, 1000)
    digits = f"{milliseconds:012x}7{microseconds:03x}" + "0" * 16
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def read_rows(connection: Connection, query: sql.Composed) -> Iterator[bytes]:
    """The rows of a query in the binary form of COPY, which sends each in a message of its own (manual, 55.7)."""
    statement = sql.SQL("copy ({}) to stdout (format binary)").format(query)
    with connection.cursor().copy(statement) as copy:
        pieces = iter(copy)
        first = bytes(next(pieces, b""))
        if first.startswith(_SIGNATURE):
            first = first[19 + int.from_bytes(first[15:19], "big") :]
        if first and first != _TRAILER:
            yield first
        for piece in pieces:
            if len(piece) > 2:
                yield bytes(piece)


def _by_entry(rows: Iterable[bytes]) -> Iterator[tuple[bytes, bytes, int]]:
    """For each entry with changed rows its key, their digest, and their number."""
    key, digests = b"", _Digests()
    for row in rows:
        # Two bytes say how many columns, four before each how long it is: 16 bytes of id, 8 of moment.
        row_key = row[26:34] + row[6:22]
        if row_key != key:
            if digests.number:
                yield key, digests.digest(), digests.number
            key, digests = row_key, _Digests()
        digests.add(_sha256(CHANGE + row).digest())
    if digests.number:
        yield key, digests.digest(), digests.number


class _Digests:
    """The digests of one entry's changed rows, in their own order: that of rows on disk is nobody's promise."""

    def __init__(self) -> None:
        self.number = 0
        self._kept: list[bytes] = []
        self._sorted: list[Any] = []

    def add(self, digest: bytes) -> None:
        self.number += 1
        self._kept.append(digest)
        if len(self._kept) == MOST_DIGESTS:
            file = tempfile.TemporaryFile()  # noqa: SIM115 - closed once it is read
            file.write(b"".join(sorted(self._kept)))
            self._sorted.append(file)
            self._kept = []

    def digest(self) -> bytes:
        with ExitStack() as files:
            runs = [_read_run(files.enter_context(file)) for file in self._sorted]
            whole = _sha256(CHANGES)
            for digest in heapq.merge(*runs, sorted(self._kept)):
                whole.update(digest)
            return whole.digest()


def _read_run(file: Any) -> Iterator[bytes]:
    file.seek(0)
    while digest := file.read(32):
        yield digest


def _merged(entries: Iterator[bytes], changes: Iterator[tuple[bytes, bytes, int]]) -> Iterator[Leaf]:
    """Leaves by their keys. Rows without an entry are a leaf too, and two entries of one key are one together."""
    group = next(changes, None)
    row = next(entries, None)
    while row is not None:
        key = row[26:34] + row[6:22]
        following = next(entries, None)
        number = 1
        if following is not None and following[6:34] == row[6:34]:
            same = [row]
            while following is not None and following[6:34] == row[6:34]:
                same.append(following)
                following = next(entries, None)
            row, number = b"".join(sorted(same)), len(same)
        while group is not None and group[0] < key:
            yield Leaf(group[0], _sha256(LEAF + group[1]).digest(), 0, group[2])
            group = next(changes, None)
        if group is not None and group[0] == key:
            yield Leaf(key, _sha256(LEAF + row + group[1]).digest(), number, group[2])
            group = next(changes, None)
        else:
            yield Leaf(key, _sha256(LEAF + row).digest(), number, 0)
        row = following
    while group is not None:
        yield Leaf(group[0], _sha256(LEAF + group[1]).digest(), 0, group[2])
        group = next(changes, None)
