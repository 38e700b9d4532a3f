"""pgoutput's messages as objects (manual 55.9, protocol version 1), and what their texts are as the log writes them.

It must not compare anything, and not ask the database anything.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
# OIDs of pg_type that are the same in every server (pg_type.dat).
BOOL, BYTEA, JSONB, BPCHAR, INET, TIMESTAMP, TIMESTAMPTZ = 16, 17, 3802, 1042, 869, 1114, 1184
FLOATS, JSONS = (700, 701), (114, 199)
NUMBERS = (20, 21, 23, 26, 1700, *FLOATS)
FIRST_OF_APPLICATIONS = 16384
LONGEST_KEY = 2000


class Unchanged:
    """Stands for a value that was stored apart (TOAST) and did not change: the message leaves it out."""


UNCHANGED = Unchanged()
# A column's text, None for null.
Value = str | Unchanged | None
Values = list[Value]


class Column(NamedTuple):
    """A column as a relation message tells it; `type_oid` is that of the column, a domain's too."""

    name: str
    type_oid: int


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction begins; its changes follow, then its Commit."""

    xid: int
    committed_at: datetime


@dataclass(frozen=True, slots=True)
class Commit:
    """A transaction ends; `end` is the position (LSN) after it."""

    end: int


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as it is from here on."""

    oid: int
    schema: str
    name: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A changed row. `old` is None when the table's identity does not give it; `whole`: it is not the key alone."""

    operation: str
    oid: int
    old: Values | None
    new: Values | None
    whole: bool


@dataclass(frozen=True, slots=True)
class Truncate:
    """Tables that were emptied."""

    oids: tuple[int, ...]


Message = Begin | Commit | Relation | Change | Truncate


TEXT, NULL = b"tn"
_read_short, _read_integer = struct.Struct(">h").unpack_from, struct.Struct(">i").unpack_from


class _Reader:
    def __init__(self, data: bytes, encoding: str) -> None:
        self.data, self.encoding, self.at = data, encoding, 1

    def take(self, form: str) -> Any:
        values = struct.unpack_from(f">{form}", self.data, self.at)
        self.at += struct.calcsize(f">{form}")
        return values[0]

    def text(self) -> str:
        end = self.data.index(b"\0", self.at)
        found = self.data[self.at : end].decode(self.encoding, "surrogateescape")
        self.at = end + 1
        return found

    def values(self) -> Values:
        # Nearly all the time of a run is spent here.
        data, encoding = self.data, self.encoding
        values: Values = []
        at = self.at + 2
        for _ in range(_read_short(data, self.at)[0]):
            kind = data[at]
            at += 1
            if kind == TEXT:
                end = at + 4 + _read_integer(data, at)[0]
                values.append(data[at + 4 : end].decode(encoding, "surrogateescape"))
                at = end
            else:
                values.append(None if kind == NULL else UNCHANGED)
        self.at = at
        return values


def read_message(data: bytes, encoding: str) -> Message | None:
    """Return a message of pgoutput; None for one that says nothing of rows. encoding: Python's name of the server's."""
    reader = _Reader(data, encoding)
    kind = data[:1]
    if kind == b"B":
        reader.take("q")
        microseconds = reader.take("q")
        return Begin(reader.take("I"), EPOCH + timedelta(microseconds=microseconds))
    if kind == b"C":
        reader.take("b")
        reader.take("q")
        return Commit(reader.take("q"))
    if kind == b"R":
        oid, schema, name = reader.take("I"), reader.text(), reader.text()
        reader.take("c")
        columns = [_column(reader) for _ in range(reader.take("h"))]
        return Relation(oid, schema, name, tuple(columns))
    if kind in (b"I", b"U", b"D"):
        return _change(kind, reader)
    if kind == b"T":
        count = reader.take("i")
        reader.take("b")
        return Truncate(tuple(reader.take("I") for _ in range(count)))
    return None


def _column(reader: _Reader) -> Column:
    reader.take("b")
    name, type_oid = reader.text(), reader.take("I")
    reader.take("i")
    return Column(name, type_oid)


def _change(kind: bytes, reader: _Reader) -> Change:
    oid, mark = reader.take("I"), reader.take("c")
    old, whole = None, False
    if mark in (b"K", b"O"):
        old, whole = reader.values(), mark == b"O"
        mark = reader.take("c") if kind == b"U" else b""
    new = reader.values() if mark == b"N" else None
    if old is not None and new is not None and whole:
        new = [before if after is UNCHANGED else after for before, after in zip(old, new, strict=True)]
    return Change({b"I": "INSERT", b"U": "UPDATE", b"D": "DELETE"}[kind], oid, old, new, whole)


# Values: the text of a type's output function, and the JSON that an entry holds. The session that decodes must have the
# settings of a capture function (sql/096_settings.sql): UTC, ISO, hex.


class Number(NamedTuple):
    """A JSON number by its own text, which no float may round."""

    text: str


def read_json(text: str) -> Any:
    """Return JSON as Python's objects, its numbers as they are written."""
    return json.loads(text, parse_float=Number, parse_int=Number)


class Type(NamedTuple):
    """A type with its domains looked through; `element` is the type of an array's elements, None for no array."""

    oid: int
    element: Type | None = None


def says(stored: Any, text: str, kind: Type, encoding: str) -> bool:
    """Whether the JSON in an entry says what a value's text says."""
    if _is_equal(stored, text, kind):
        return True
    if isinstance(stored, dict) and stored.keys() == {"cut", "bytes", "sha256"}:
        raw = bytes.fromhex(text[2:]) if kind.oid == BYTEA else text.encode(encoding, "surrogateescape")
        return bool(stored["bytes"] == Number(str(len(raw))) and stored["sha256"] == hashlib.sha256(raw).hexdigest())
    return False


def _is_equal(stored: Any, text: str, kind: Type) -> bool:
    if kind.oid >= FIRST_OF_APPLICATIONS or kind.oid in JSONS:
        return bool(stored == text)
    if kind.element is not None:
        return isinstance(stored, list) and _is_same_array(stored, _read_array(text), kind.element)
    if kind.oid == JSONB:
        return bool(stored == read_json(text))
    if kind.oid == BOOL:
        return stored is (text == "t")
    if kind.oid in NUMBERS and not _is_special(text):
        if not isinstance(stored, Number):
            return False
        return Decimal(stored.text) == Decimal(text) if kind.oid in FLOATS else stored.text == text
    return bool(stored == _written(text, kind))


def _is_special(text: str) -> bool:
    return text in ("NaN", "Infinity", "-Infinity")


def _written(text: str, kind: Type) -> str:
    """A text as JSON writes it: times by ISO 8601."""
    if kind.oid in (TIMESTAMP, TIMESTAMPTZ):
        body, before_christ, _ = text.partition(" BC")
        zone = ":00" if kind.oid == TIMESTAMPTZ and re.search(r"[+-][0-9]{2}$", body) else ""
        return body.replace(" ", "T", 1) + zone + before_christ
    return text


def _is_same_array(stored: list[Any], read: list[Any], element: Type) -> bool:
    return len(stored) == len(read) and all(
        _is_same_array(mine, theirs, element)
        if isinstance(mine, list) and isinstance(theirs, list)
        else mine is None and theirs is None
        if mine is None or theirs is None
        else isinstance(theirs, str) and _is_equal(mine, theirs, element)
        for mine, theirs in zip(stored, read, strict=True)
    )


_ARRAY_TOKEN = re.compile(r'[{},]|"((?:[^"\\]|\\.)*)"|((?:[^{},"\\]|\\.)+)', re.DOTALL)


def _read_array(text: str) -> list[Any]:
    """Return an array's text (manual 8.15.6) as lists, elements as texts, null as None. Its bounds are lost."""
    if "{" not in text:
        return list(text.split())
    levels: list[list[Any]] = [[]]
    for token in _ARRAY_TOKEN.finditer(text[text.index("{") :]):
        if token[0] == "{":
            levels.append([])
        elif token[0] == "}":
            done = levels.pop()
            levels[-1].append(done)
        elif token[0] != ",":
            bare = token[2] if token[1] is None else None
            written = re.sub(r"\\(.)", r"\1", token[1] or bare or "", flags=re.DOTALL)
            levels[-1].append(None if bare == "NULL" else written)
    return list(levels[0][0])


def key_text(values: list[tuple[str, Type]], encoding: str) -> str:
    """Return a row's key as `resource_id` and `row_key` write it, from the texts of its columns."""
    if len(values) == 1:
        written = _cast_text(*values[0])
    else:
        written = "[" + ", ".join(_json_text(text, kind) for text, kind in values) + "]"
    raw = written.encode(encoding, "surrogateescape")
    return written if len(raw) <= LONGEST_KEY else f"{written[:200]}…{hashlib.sha256(raw).hexdigest()}"


def _cast_text(text: str, kind: Type) -> str:
    """A value as its cast to text writes it, numbers and times as JSON does."""
    if kind.oid == BOOL:
        return "true" if text == "t" else "false"
    if kind.oid == BPCHAR:
        return text.rstrip(" ")
    if kind.oid == INET and "/" not in text:
        return f"{text}/128" if ":" in text else f"{text}/32"
    return _number(text, kind) or _written(text, kind)


def _number(text: str, kind: Type) -> str | None:
    if kind.oid in FLOATS and not _is_special(text):
        return format(Decimal(text), "f")
    return None


def _json_text(text: str, kind: Type) -> str:
    if kind.oid == JSONB:
        return text
    if kind.oid == BOOL:
        return "true" if text == "t" else "false"
    if kind.oid in NUMBERS and not _is_special(text):
        return _number(text, kind) or text
    return json.dumps(_written(text, kind), ensure_ascii=False)
