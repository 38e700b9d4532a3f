"""Exports turns all entries that meet a filter into NDJSON or CSV, piece by piece.

It holds no query; what an entry looks like stands in answers.py.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from .answers import write_entry, write_moment
from .database import Row
from .parameters import EXPANSIONS
from .queries import Export

# What a CSV holds of each entry, and where it stands in the row of the database.
CSV_COLUMNS: Mapping[str, Callable[[Row], Any]] = {
    "id": lambda row: row["id"],
    "created_at": lambda row: write_moment(row["created_at"]),
    "event": lambda row: row["event"],
    "operation": lambda row: row["operation"],
    "resource_type": lambda row: row["resource_type"],
    "resource_id": lambda row: row["resource_id"],
    "resource_name": lambda row: row["resource_name"],
    "row_key": lambda row: row["row_key"],
    "row_count": lambda row: row["row_count"],
    "before": lambda row: _json(row["before"]),
    "after": lambda row: _json(row["after"]),
    "performer_id": lambda row: row["actor_id"],
    "performer_name": lambda row: row["actor_name"],
    "actor_type": lambda row: row["actor_type"],
    "request_id": lambda row: row["request_id"],
    "reason": lambda row: _json(row["reason"]),
    "ip": lambda row: _json(row["ip"]),
    "subject": lambda row: _json(row["subject"]),
    "database_user": lambda row: row["database_user"],
    "table_schema": lambda row: row["table_schema"],
    "table_name": lambda row: row["table_name"],
}
CSV_EXPANSIONS = frozenset(EXPANSIONS)
# A cell that begins so is a formula to a spreadsheet (OWASP, CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


async def write_ndjson(export: Export, base: str, expand: frozenset[str]) -> AsyncGenerator[bytes, None]:
    """One entry a line as the lists write it; a last line says how many and the SHA-256 of all lines before it.

    An export without that line was cut short.
    """
    digest = hashlib.sha256()
    async for rows, changes in export.batches:
        lines = _lines(rows, base, expand, changes)
        digest.update(lines)
        yield lines
    manifest = {"manifest": {"entries": export.count, "sha256": digest.hexdigest()}}
    yield msgspec.json.encode(manifest) + b"\n"


def _lines(rows: Sequence[Row], base: str, expand: frozenset[str], changes: Mapping[UUID, Sequence[Row]]) -> bytes:
    return b"".join(msgspec.json.encode(write_entry(row, base, expand, changes)) + b"\n" for row in rows)


async def write_csv(export: Export) -> AsyncGenerator[bytes, None]:
    """A header and one entry a line (RFC 4180), values that a spreadsheet would compute with a quote before them.

    The rows of bulk entries are not in it.
    """
    yield _csv_lines([list(CSV_COLUMNS)])
    async for rows, _ in export.batches:
        yield _csv_lines([[_cell(read(row)) for read in CSV_COLUMNS.values()] for row in rows])


def _csv_lines(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8")


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return "'" + text if text.startswith(_FORMULA) else text


def _json(value: msgspec.Raw | None) -> str | None:
    """A stored value as its text where it is one, else as JSON."""
    if value is None:
        return None
    text = bytes(value).decode("utf-8")
    return msgspec.json.decode(text, type=str) if text.startswith('"') else text
