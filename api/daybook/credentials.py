"""Credentials are the API keys as requests carry them, and the reader that a valid one stands for.

A key is never logged or stored: only its SHA-256 leaves this module.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from .errors import NotAuthenticated, PermissionDenied

READING_ROLES = frozenset({"admin", "auditor"})
NO_TOKEN = "Invalid token header. No credentials provided."
INVALID_TOKEN = "Invalid token."

_KEY = re.compile(r"daybook_[A-Za-z0-9_-]{43}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads: what a valid key says, and by the database's clock from when on."""

    key_prefix: str
    key_name: str
    workspace_id: str
    role: str
    retention_days: int
    moment: datetime

    def since(self, days: int) -> datetime:
        """The first moment of the last so many times 24 hours, never before retention."""
        try:
            return self.moment - timedelta(days=min(days, self.retention_days))
        except OverflowError:
            return datetime.min.replace(tzinfo=UTC)

    @property
    def oldest(self) -> datetime:
        """The first moment that retention still shows."""
        return self.since(self.retention_days)

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


def key_digest(key: str) -> bytes:
    """The SHA-256 under which a key is stored. Raises NotAuthenticated for what cannot be a key."""
    if not _KEY.fullmatch(key):
        raise NotAuthenticated(INVALID_TOKEN)
    return hashlib.sha256(key.encode("ascii")).digest()
