"""Proofs writes what shows that an entry stands in a sealed block, to be checked without a database.

docs/integrity.md has the lines that check one.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import Connection, sql

from .database import connect
from .digests import COLUMNS, Seal
from .leaves import CHANGE_COLUMNS, ENTRY_COLUMNS, Tree, path_of, read_leaves, read_rows
from .signing import SealError
from .verification import become_reader

FORMAT = "pg_daybook proof 1"
# Columns whose binary form is no text.
_BINARY = frozenset({"id", "entry_id", "created_at", "row_count", "transaction_id"})


def moment_of_id(entry_id: UUID) -> datetime:
    """The created_at that an entry's id holds (audit.entry_moment)."""
    milliseconds, microseconds = entry_id.int >> 80, (entry_id.int >> 64) & 0xFFF
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds, microseconds=microseconds)


def prove(conninfo: str, entry_id: UUID) -> dict[str, Any]:
    """The proof that this entry stands in its block: the entry, its changed rows, the path to the root, the seal.

    The login is a member of audit_dba or audit_maintainer, or a superuser. Raises SealError when there is no such
    entry, when it is not sealed, or when its block does not fit.
    """
    with connect(conninfo, autocommit=True) as first, connect(conninfo, autocommit=True) as second:
        become_reader(first)
        become_reader(second)
        moment = _moment(first, entry_id)
        seal, partition = _seal_of(first, moment)
        tree = Tree()
        for leaf in read_leaves(first, second, partition, seal.lower_bound, seal.upper_bound):
            tree.add(leaf)
        number = next((n for n, key in enumerate(tree.keys) if key[8:] == entry_id.bytes), None)
        if number is None:
            raise SealError(f"there is no entry {entry_id}")
        if tree.root() != seal.root:
            raise SealError(f"block {seal.sequence} does not fit its seal; daybook verify says what was altered")
        rows = [
            list(_read(first, table, partition.replace("entry", name, 1), columns, entry_id, moment))
            for table, name, columns in (("id", "entry", ENTRY_COLUMNS), ("entry_id", "change", CHANGE_COLUMNS))
        ]
    return {
        "format": FORMAT,
        "entry_id": str(entry_id),
        "entries": [_fields(row, ENTRY_COLUMNS) for row in sorted(rows[0])],
        "changes": [_fields(row, CHANGE_COLUMNS) for row in rows[1]],
        "path": [{"left" if is_left else "right": digest.hex()} for is_left, digest in path_of(tree.digests, number)],
        "seal": seal.as_json(),
    }


def _moment(connection: Connection[Any], entry_id: UUID) -> datetime:
    """When the entry was written: what its id holds, if the entry says so too."""
    moment = moment_of_id(entry_id)
    found = connection.execute(
        "select from audit.entry where id = %s and created_at = %s", [entry_id, moment]
    ).fetchone()
    if found is None:
        raise SealError(f"there is no entry {entry_id}")
    return moment


def _seal_of(connection: Connection[Any], moment: datetime) -> tuple[Seal, str]:
    row = connection.execute(
        f"select {COLUMNS} from audit.seal where lower_bound <= %s and upper_bound > %s".encode(), [moment, moment]
    ).fetchone()
    if row is None:
        raise SealError("the entry is not sealed yet; daybook seal does it once it is final")
    partition = connection.execute(
        "select c.relname from audit.entry e join pg_catalog.pg_class c on c.oid = e.tableoid"
        " where e.created_at = %s limit 1",
        [moment],
    ).fetchone()
    assert partition
    return Seal(*row), partition[0]


def _read(
    connection: Connection[Any], key: str, table: str, columns: tuple[str, ...], entry_id: UUID, moment: datetime
) -> Iterator[bytes]:
    query = sql.SQL("select {} from {} where {} = {} and created_at = {}").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.Identifier("audit", table),
        sql.Identifier(key),
        sql.Literal(entry_id),
        sql.Literal(moment),
    )
    return read_rows(connection, query)


def _fields(row: bytes, columns: tuple[str, ...]) -> dict[str, Any]:
    """The columns of a row in their order: null, a text, or bytes in hexadecimal."""
    fields: dict[str, Any] = {}
    at = 2
    for name in columns:
        length = int.from_bytes(row[at : at + 4], "big", signed=True)
        at += 4
        value = row[at : at + max(length, 0)]
        at += len(value)
        fields[name] = None if length < 0 else _shown(name, value)
    return fields


def _shown(name: str, value: bytes) -> dict[str, str]:
    try:
        return {"hex": value.hex()} if name in _BINARY else {"text": value.decode("utf-8")}
    except UnicodeDecodeError:
        # A database that knows no encoding keeps any bytes.
        return {"hex": value.hex()}
