"""Credentials are the secrets as requests carry them: API keys and sessions of the page, and the reader one stands for.

A secret is never logged or stored: only its prefix and its SHA-256 leave this module.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from .errors import NotAuthenticated, PermissionDenied

READING_ROLES = frozenset({"admin", "auditor"})
NO_TOKEN = "Invalid token header. No credentials provided."
INVALID_TOKEN = "Invalid token."
MARK = "daybook_"
PREFIX_LENGTH = 8

_SECRET = r"[A-Za-z0-9_-]{43}"
_KEY = re.compile(MARK + _SECRET, re.ASCII)
_SESSION = re.compile(_SECRET, re.ASCII)


class Secret(NamedTuple):
    """What the database knows of a key or session: its first 8 characters, which are no secret, and its SHA-256."""

    prefix: str
    digest: bytes


class Visitor(NamedTuple):
    """Where a request comes from: the client's address and user agent as an entry keeps them. None: unknown."""

    address: str | None
    user_agent: str | None


@dataclass(slots=True)
class Reader:
    """Who reads: what a valid key says, and by the database's clock from when on.

    `id` is the key's prefix, or what another authenticator gave; `is_noted`: reading needs no note before its answer.
    `watermark`: below it every entry is final; None: upkeep has not said yet. `oldest_kept`: what lies before it may be
    dropped soon; None: nothing will. `horizon`: no entry comes after it.
    """

    id: str
    name: str
    type: str
    workspace_id: str
    role: str
    retention_days: int
    moment: datetime
    watermark: datetime | None
    oldest_kept: datetime | None
    horizon: datetime
    is_noted: bool
    visitor: Visitor

    def since(self, days: int, asked_at: datetime | None = None) -> datetime:
        """The first moment of the so many times 24 hours before one (None: now), never before retention."""
        try:
            since = (asked_at or self.moment) - timedelta(days=min(days, self.retention_days))
        except OverflowError:
            return self.oldest
        return max(since, self.oldest)

    @property
    def oldest(self) -> datetime:
        """The first moment that retention still shows."""
        try:
            oldest = self.moment - timedelta(days=self.retention_days)
        except OverflowError:
            oldest = datetime.min.replace(tzinfo=UTC)
        return max(oldest, self.oldest_kept or oldest)

    def require_reading(self) -> None:
        """Raise PermissionDenied unless the key's role reads its workspace."""
        if self.role not in READING_ROLES:
            raise PermissionDenied


def bearer_key(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The key of an `Authorization: Bearer` header (RFC 6750, 2.1). Raises NotAuthenticated."""
    sent = [value.decode("latin-1").split() for name, value in headers if name.lower() == b"authorization"]
    words = sent[0] if sent else []
    if not words or words[0].lower() != "bearer":
        raise NotAuthenticated
    if len(words) == 1:
        raise NotAuthenticated(NO_TOKEN)
    if len(words) > 2 or len(sent) > 1:
        raise NotAuthenticated(INVALID_TOKEN)
    return words[1]


def key_secret(key: str) -> Secret:
    """What the database knows of a key. Raises NotAuthenticated for what cannot be one."""
    if not _KEY.fullmatch(key):
        raise NotAuthenticated(INVALID_TOKEN)
    return Secret(key[len(MARK) :][:PREFIX_LENGTH], hashlib.sha256(key.encode("ascii")).digest())


def session_secret(session: str) -> Secret:
    """What the database knows of a session of the page. Raises NotAuthenticated for what cannot be one."""
    if not _SESSION.fullmatch(session):
        raise NotAuthenticated
    return Secret(session[:PREFIX_LENGTH], hashlib.sha256(session.encode("ascii")).digest())


def new_session() -> str:
    """A new session's secret: 43 characters base64url, 256 random bits."""
    return secrets.token_urlsafe(32)
