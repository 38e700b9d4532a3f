"""Authentication finds out who reads: by an API key, by a session of the page, or by a host application's own word.

It holds no SQL and keeps no answer: what it found out holds for one request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

from . import queries
from .attempts import Attempts
from .credentials import INVALID_TOKEN, Reader, Secret, Visitor, bearer_key, key_secret, new_session, session_secret
from .database import Database
from .errors import NotAuthenticated

Headers = Iterable[tuple[bytes, bytes]]

# Characters of an actor's id that an entry keeps.
LONGEST_ID = 200


class Identity(NamedTuple):
    """What another authenticator says of who asks.

    `id` names the reader in the log (200 characters at most, no blanks around them, not `system`) and must tell readers
    of one workspace apart, the keys' prefixes included (`user:42`); `role` is `admin` or `auditor`, who read everything
    of the workspace, or anything else, which reads nothing.
    """

    id: str
    name: str
    workspace_id: str
    role: str

    def require_nameable(self) -> None:
        """Raise ValueError for a reader whom the log would name otherwise, or as the system."""
        if self.id != self.id.strip() or not 0 < len(self.id) <= LONGEST_ID or self.id == "system":
            raise ValueError("an authenticator's id is empty, `system`, too long or has blanks around it")
        if not self.workspace_id:
            raise ValueError("an authenticator names no workspace")


# Asked first with each request's headers, their names in lower case. None: not known to it, so the log's own keys are
# asked. It may raise NotAuthenticated for a token that is its own and not valid.
Authenticator = Callable[[Mapping[str, str]], Awaitable[Identity | None]]


class Authentication:
    """Who reads, for each request anew: what ended a moment ago no longer reads."""

    def __init__(self, database: Database, authenticator: Authenticator | None = None) -> None:
        self._database = database
        self._authenticator = authenticator
        self._attempts = Attempts()

    async def reader(self, headers: Headers, visitor: Visitor) -> Reader:
        """Who a request of the REST API comes from, and may read. Raises NotAuthenticated, then PermissionDenied."""
        reader = await self._known_elsewhere(headers, visitor)
        if reader is None:
            reader = await self._reader_of_key(key_secret(bearer_key(headers)), visitor)
        reader.require_reading()
        return reader

    async def page_reader(self, headers: Headers, session: str, visitor: Visitor) -> Reader:
        """Who a request of the page comes from, and may read. Raises NotAuthenticated, then PermissionDenied."""
        reader = await self._known_elsewhere(headers, visitor)
        if reader is None:
            reader = await queries.find_reader_of_session(self._database, session_secret(session), visitor)
        if reader is None:
            raise NotAuthenticated
        reader.require_reading()
        return reader

    async def sign_in(self, key: str, visitor: Visitor) -> str:
        """Open a session of the page with a key that may read, and return its secret.

        Raises NotAuthenticated, then PermissionDenied.
        """
        secret = key_secret(key)
        (await self._reader_of_key(secret, visitor)).require_reading()
        session = new_session()
        if not await queries.open_session(self._database, secret, session_secret(session)):
            raise NotAuthenticated(INVALID_TOKEN)
        return session

    async def sign_out(self, session: str) -> None:
        """End a session of the page; what is none is none afterwards."""
        try:
            secret = session_secret(session)
        except NotAuthenticated:
            return
        await queries.close_session(self._database, secret)

    async def recognise(self, headers: Headers, visitor: Visitor) -> Reader | None:
        """Who a request comes from that is refused anyhow: None when that is not known."""
        try:
            reader = await self._known_elsewhere(headers, visitor)
            return reader or await queries.find_reader(self._database, key_secret(bearer_key(headers)), visitor)
        except NotAuthenticated:
            return None

    async def _reader_of_key(self, secret: Secret, visitor: Visitor) -> Reader:
        reader = await queries.find_reader(self._database, secret, visitor)
        if reader is None:
            await self._attempts.hold_back(visitor.address, secret.prefix)
            raise NotAuthenticated(INVALID_TOKEN)
        return reader

    async def _known_elsewhere(self, headers: Headers, visitor: Visitor) -> Reader | None:
        if self._authenticator is None:
            return None
        named: dict[str, str] = {}
        for name, value in headers:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            named[key] = f"{named[key]}, {text}" if key in named else text
        identity = await self._authenticator(named)
        if identity is None:
            return None
        identity.require_nameable()
        return await queries.read_reader(self._database, identity, visitor)
