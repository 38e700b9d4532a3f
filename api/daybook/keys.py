"""Keys of the REST app: made here, shown once, kept in the database as a digest.

It must not decide who may read: the app asks the database for a key's role and workspace at each request.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from psycopg import Connection, DataError
from psycopg.abc import Buffer
from psycopg.errors import UniqueViolation
from psycopg.rows import class_row, tuple_row
from psycopg.types.datetime import TimestamptzLoader

from .credentials import MARK, PREFIX_LENGTH, key_secret

Role = Literal["admin", "auditor", "member"]
ROLES: tuple[Role, ...] = ("admin", "auditor", "member")
KEY_LENGTH = 43

_TYPED = re.compile(rf"(?:{MARK})?([A-Za-z0-9_-]{{{PREFIX_LENGTH}}})", re.ASCII)
_TYPED_KEY = re.compile(
    rf"{MARK}([A-Za-z0-9_-]{{{PREFIX_LENGTH}}})[A-Za-z0-9_-]{{{KEY_LENGTH - PREFIX_LENGTH}}}", re.ASCII
)


class Key(NamedTuple):
    """A key as it is listed: everything but the key itself."""

    prefix: str
    name: str
    workspace_id: str
    role: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class Rotated(NamedTuple):
    """A key that takes another's place: the key itself, and when the old and the new one end; None: never."""

    key: str
    old_key_ends_at: datetime | None
    new_key_ends_at: datetime | None


def create_key(
    connection: Connection[Any], workspace: str, name: str, role: Role, expires: datetime | None = None
) -> str:
    """Make a key for a workspace and return it: `daybook_` and 43 characters base64url (256 random bits).

    Raises psycopg.errors.CheckViolation for an empty workspace or name.
    """
    values = {"workspace": workspace, "name": name, "role": role, "expires": expires}
    query = "select audit.create_key(%(prefix)s, %(digest)s, %(workspace)s, %(name)s, %(role)s, %(expires)s)"
    return _store_new(connection, query, values)[0]


def rotate_key(
    connection: Connection[Any], prefix: str, overlap: timedelta, expires: datetime | None = None
) -> Rotated | None:
    """Make a key that takes the place of the one with this prefix; both are valid for the overlap.

    The new key is of the same workspace, name and role; without `expires` it is valid as long as the old one was made
    for. None when there is no such valid key.
    """
    values = {"old": prefix, "overlap": overlap, "expires": expires}
    query = "select * from audit.rotate_key(%(old)s, %(prefix)s, %(digest)s, %(overlap)s, %(expires)s)"
    key, row = _store_new(connection, query, values)
    return Rotated(key, *row) if row else None


def _store_new(
    connection: Connection[Any], query: str, values: Mapping[str, object]
) -> tuple[str, tuple[Any, ...] | None]:
    """Make a key and store it by this query, which takes its prefix and digest; return it with the query's row."""
    cursor = connection.cursor(row_factory=tuple_row)
    cursor.adapters.register_loader("timestamptz", _MomentLoader)
    while True:
        key = MARK + secrets.token_urlsafe(32)
        if key[len(MARK)] == "-":
            # Whoever revokes it types the prefix: it must not look like an option.
            continue
        try:
            with connection.transaction():
                cursor.execute(query.encode(), {**values, **key_secret(key)._asdict()})
        except UniqueViolation:
            # Another key begins with the same 48 bits.
            continue
        return key, cursor.fetchone()


def revoke_key(connection: Connection[Any], prefix: str) -> bool:
    """Revoke the key with this prefix of 8 characters; False when there is none, or it was revoked already."""
    row = connection.execute("select audit.revoke_key(%s)", [prefix]).fetchone()
    return bool(row and row[0])


def list_keys(connection: Connection[Any], beginning: str = "") -> list[Key]:
    """Return the keys whose prefix begins so, oldest first, their moments in UTC; `last_used_at` to five minutes."""
    cursor = connection.cursor(row_factory=class_row(Key))
    cursor.adapters.register_loader("timestamptz", _MomentLoader)
    return cursor.execute("select * from audit.list_keys(%s)", [beginning]).fetchall()


class _MomentLoader(TimestamptzLoader):
    """PostgreSQL's moments reach farther than Python's: what lies beyond is Python's first or last."""

    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data).astimezone(UTC)
        except (DataError, OverflowError):
            text = bytes(data)
            bound = datetime.min if text.startswith((b"-", b"0001")) or text.endswith(b"BC") else datetime.max
            return bound.replace(tzinfo=UTC)


def parse_prefix(text: str) -> str:
    """Read a key's prefix, with or without `daybook_`, or a whole key, as the prefix. Raises ValueError otherwise."""
    typed = _TYPED_KEY.fullmatch(text) or _TYPED.fullmatch(text)
    if typed is None:
        # What was typed may be most of a key: it is not repeated.
        raise ValueError(f"give the key's first {PREFIX_LENGTH} characters after {MARK}, as key list shows them")
    return typed[1]


def parse_expiry(text: str, now: datetime | None = None) -> datetime:
    """Read `90d`, `12h` or an ISO 8601 date or time (UTC when it names no zone). Raises ValueError otherwise."""
    now = now or datetime.now(UTC)
    if span := re.fullmatch(r"([0-9]{1,5})([dh])", text):
        moment = now + (timedelta(days=int(span[1])) if span[2] == "d" else timedelta(hours=int(span[1])))
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{text!r} is neither a time such as 2027-01-31 nor a span such as 90d or 12h") from None
        try:
            moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        except OverflowError:
            raise ValueError(f"{text!r} lies beyond the last day of the calendar, 9999-12-31") from None
    if moment <= now:
        raise ValueError(f"{text!r} is in the past")
    return moment
