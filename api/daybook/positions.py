"""Positions are places in the log that outlive a request: where a cursor stands, and the watermark of a frozen walk.

As texts they are opaque to clients. Nothing here reads the database.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INSTANT = timedelta(microseconds=1)


class Position(NamedTuple):
    """A place in the order of the log: after the entry of this moment and id."""

    moment: datetime
    id: UUID

    @classmethod
    def at(cls, moment: datetime) -> Position:
        """The place before all entries of a moment."""
        milliseconds, microseconds = divmod((moment - EPOCH) // _INSTANT, 1000)
        return cls(moment, UUID(int=milliseconds << 80 | 7 << 76 | microseconds << 64))

    @classmethod
    def of(cls, entry_id: str) -> Position | None:
        """The place of an entry, whose id carries its moment (RFC 9562, 5.7); None for what is no such id."""
        try:
            found = UUID(entry_id)
        except ValueError:
            return None
        return cls._carried_by(found) if str(found) == entry_id.lower() else None

    @classmethod
    def read(cls, text: str) -> Position:
        """The place that a text of `write` names. Raises ValueError."""
        found = cls._carried_by(UUID(bytes=_decoded(text, 16)))
        if found is None:
            raise ValueError
        return found

    def write(self) -> str:
        """The place as a text of 22 characters: the id, which carries the moment."""
        return _encoded(self.id.bytes)

    @classmethod
    def _carried_by(cls, entry_id: UUID) -> Position | None:
        milliseconds, microseconds = entry_id.int >> 80, entry_id.int >> 64 & 0xFFF
        if entry_id.version not in (7, None) or entry_id.int >> 76 & 0xF != 7 or microseconds > 999:
            return None
        try:
            return cls(EPOCH + timedelta(milliseconds=milliseconds, microseconds=microseconds), entry_id)
        except OverflowError:
            return None


class Frozen(NamedTuple):
    """A walk over pages that stays as it was: nothing from the watermark on, and the days before it was asked for."""

    watermark: datetime
    asked_at: datetime

    @classmethod
    def read(cls, text: str, workspace_id: str) -> Frozen:
        """The walk that a text of `write` names, in the workspace it was made for. Raises ValueError."""
        raw = _decoded(text, 24)
        moments = [int.from_bytes(raw[start : start + 8], "big") * _INSTANT for start in (0, 8)]
        try:
            found = cls(*(EPOCH + moment for moment in moments))
        except OverflowError:
            raise ValueError from None
        if found.write(workspace_id) != text:
            raise ValueError
        return found

    def write(self, workspace_id: str) -> str:
        """The walk as a text of 32 characters that tells when it was altered."""
        moments = b"".join(((moment - EPOCH) // _INSTANT).to_bytes(8, "big") for moment in self)
        return _encoded(moments + hashlib.sha256(moments + workspace_id.encode("utf-8", "replace")).digest()[:8])


def _encoded(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _decoded(text: str, length: int) -> bytes:
    try:
        raw = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (Error, UnicodeEncodeError):
        raise ValueError from None
    # More than one text can stand for the same bytes; the one that was given out counts.
    if len(raw) != length or _encoded(raw) != text:
        raise ValueError
    return raw
