"""Exports turns all entries that meet a filter into NDJSON or CSV, piece by piece, compressed where that is asked for.

It holds no query; what an entry looks like stands in answers.py. Its pieces are bounded, however large a value is.
"""

from __future__ import annotations

import csv
import hashlib
import re
import zlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

import msgspec

from .answers import write_entry, write_moment
from .database import Row
from .parameters import EXPANSIONS
from .queries import LARGE, Export, Large

Pieces = AsyncGenerator[bytes, None]

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


# Bytes that short lines are gathered to before they are sent.
ENOUGH = 65_536
# What stands for a large value until it is read. No JSON that the log holds and no text of PostgreSQL has a NUL; the
# comma makes csv quote the cell.
_HELD = b"\0"
_HELD_CELL = "\0,"

# RFC 9110, 12.4.2 and 12.5.3: a coding and its weight.
_CODING = re.compile(r"([!#$%&'*+.^_`|~0-9a-z-]+)(?:[ \t]*;[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?")
_COMPRESSION_LEVEL = 1


async def write_ndjson(export: Export, base: str, expand: frozenset[str]) -> Pieces:
    """One entry a line as the lists write it; a last line says how many and the SHA-256 of all lines before it.

    An export without that line was cut short.
    """
    large: list[Large] = []

    def hold(value: Large) -> msgspec.Raw:
        large.append(value)
        return msgspec.Raw(_HELD)

    encode = msgspec.json.Encoder(enc_hook=hold).encode

    def write_line(row: Row, changes: Sequence[Row]) -> bytes:
        return encode(write_entry(row, base, expand, {row["id"]: changes})) + b"\n"

    digest = hashlib.sha256()
    async with aclosing(_pieces(export, write_line, large, _HELD)) as pieces:
        async for piece in pieces:
            digest.update(piece)
            yield piece
    manifest = {"manifest": {"entries": export.count, "sha256": digest.hexdigest()}}
    yield msgspec.json.encode(manifest) + b"\n"


async def write_csv(export: Export) -> Pieces:
    """A header and one entry a line (RFC 4180), values that a spreadsheet would compute with a quote before them.

    The rows of bulk entries are not in it.
    """
    large: list[Large] = []

    def write_line(row: Row, _: Sequence[Row]) -> bytes:
        large.extend(row[name] for name in LARGE if isinstance(row[name], Large))
        return _csv_line(_cell(read(row)) for read in CSV_COLUMNS.values())

    yield _csv_line(CSV_COLUMNS)
    async with aclosing(_pieces(export, write_line, large, _HELD_CELL.encode(), double=b'"')) as pieces:
        async for piece in pieces:
            yield piece


async def _pieces(
    export: Export,
    write_line: Callable[[Row, Sequence[Row]], bytes],
    large: list[Large],
    mark: bytes,
    double: bytes = b"",
) -> Pieces:
    """The lines of an export in pieces of ENOUGH or somewhat more, with the `large` values of each where `mark` stands.

    In these a sign may have to be doubled.
    """
    held: list[bytes] = []
    size = 0
    async for batch in export.batches:
        for row, changes in batch:
            held.append(write_line(row, changes))
            if large:
                first, *others = held.pop().split(mark)
                held.append(first)
                for value, text in zip(large, others, strict=True):
                    yield b"".join(held)
                    async with aclosing(export.read(value)) as pieces:
                        async for piece in pieces:
                            yield piece.replace(double, 2 * double) if double else piece
                    held = [text]
                large.clear()
                size = 0
            size += len(held[-1])
            if size >= ENOUGH:
                yield b"".join(held)
                held, size = [], 0
    if held:
        yield b"".join(held)


class _Echo:
    """What csv writes its line to, and gets it back from."""

    def write(self, line: str) -> str:
        return line


_csv = csv.writer(_Echo())


def _csv_line(cells: Iterable[str]) -> bytes:
    # It returns what `write` does.
    return cast(str, _csv.writerow(cells)).encode("utf-8")


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return "'" + text if text.startswith(_FORMULA) else text


def _json(value: msgspec.Raw | Large | None) -> str | None:
    """A stored value as its text where it is one, else as JSON."""
    if value is None:
        return None
    if isinstance(value, Large):
        return _HELD_CELL
    text = bytes(value).decode("utf-8")
    return msgspec.json.decode(text, type=str) if text.startswith('"') else text


async def compress(pieces: Pieces) -> Pieces:
    """The pieces as one gzip stream (RFC 1952), which ends with its checksum when they came to their end."""
    stream = zlib.compressobj(_COMPRESSION_LEVEL, wbits=31)
    async with aclosing(pieces):
        async for piece in pieces:
            if compressed := stream.compress(piece):
                yield compressed
    yield stream.flush()


def takes_gzip(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a client would rather have gzip than no coding, by its Accept-Encoding (RFC 9110, 12.5.3).

    Without one it is not asked for. What is no coding with a weight is left out.
    """
    text = ",".join(value.decode("latin-1") for name, value in headers if name.lower() == b"accept-encoding")
    codings = (_CODING.fullmatch(part.strip(" \t").lower()) for part in text.split(","))
    weights = {found[1]: float(found[2] or 1) for found in codings if found}
    # The older name of gzip (8.4.1.3).
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0)))
    return gzip > 0 and gzip >= weights.get("identity", weights.get("*", 0))
