"""Denials records that somebody tried to write: after the refusal was sent, once a day for each who tried.

It must not hold up an answer; what it cannot record in time is dropped, for it was refused all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from hashlib import sha256

from litestar.types import HTTPScope

from . import queries
from .authentication import Authentication
from .credentials import Visitor
from .database import Database

logger = logging.getLogger("daybook")

MOST_AT_ONCE = 4
MOST_REMEMBERED = 1000
# Seconds that the end of the app waits for what is being recorded.
PATIENCE = 5


class Denials:
    """Refused writes on their way into the log."""

    def __init__(
        self, database: Database, authentication: Authentication, visitor_of: Callable[[HTTPScope], Visitor]
    ) -> None:
        self._database = database
        self._authentication = authentication
        self._visitor_of = visitor_of
        self._tasks: set[asyncio.Task[None]] = set()
        # What was recorded lately, so that a flood of writes asks the database nothing. The log's own bound is the
        # database's, by its day.
        self._recorded: set[bytes] = set()
        self._forget_at = 0.0

    def note(self, scope: HTTPScope) -> None:
        """Record a refused write, in a moment."""
        now = asyncio.get_running_loop().time()
        if now >= self._forget_at or len(self._recorded) >= MOST_REMEMBERED:
            self._recorded.clear()
            self._forget_at = now + 60
        credentials = [value for name, value in scope["headers"] if name.lower() in (b"authorization", b"cookie")]
        sender = sha256(b"\n".join(credentials)).digest()
        if sender in self._recorded or len(self._tasks) >= MOST_AT_ONCE:
            return
        self._recorded.add(sender)
        task = asyncio.create_task(self._record(scope))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait for what is being recorded."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE)

    async def _record(self, scope: HTTPScope) -> None:
        try:
            visitor = self._visitor_of(scope)
            try:
                reader = await self._authentication.recognise(scope["headers"], visitor)
            except Exception as error:
                # Whoever cannot be recognised is recorded as nobody known.
                logger.warning("who tried to write could not be found out: %s", type(error).__name__)
                reader = None
            await queries.note_denied_write(self._database, reader, visitor, scope["method"], scope["path"])
        except Exception as error:
            logger.warning("a refused write could not be recorded: %s", type(error).__name__)
