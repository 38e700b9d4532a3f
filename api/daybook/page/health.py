"""Health is what the page says of the log itself when something is wrong: in plain words, with the command to run.

Readers of a workspace learn that something is wrong, never what: the details are for `daybook status`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from .. import queries
from ..database import Database

# Seconds for which what was found out is believed: it changes slowly, and costs as much as half a page.
BELIEVED = 30.0


@dataclass(frozen=True, slots=True)
class Warning:  # noqa: A001 - what the page shows
    """What is wrong, what that means, and the command that says more."""

    title: str
    text: str
    command: str


# By what queries.find_troubles finds, the most serious first.
WARNINGS = {
    "altered": Warning(
        "The log does not fit its seals.",
        "The last verification found entries that were changed, removed or added after they were written.",
        "daybook verify",
    ),
    "bypassed": Warning(
        "A tracked table can be changed past the log.",
        "A trigger of the log is missing, disabled or replaced, so that this page may not show every change.",
        "daybook status",
    ),
    "late": Warning(
        "The log's upkeep is late.",
        "Nothing is lost, new changes are still written down; but old days are not dropped, and counting gets slower.",
        "daybook maintain",
    ),
}


@dataclass(slots=True)
class Watch:
    """What is known of the log's health, asked for at most once in a while.

    Whatever else readers are to be told becomes a column there and an entry of WARNINGS.
    """

    database: Database
    _asked_at: float = field(default=float("-inf"))
    _found: Sequence[Warning] = ()

    async def warnings(self) -> Sequence[Warning]:
        """What is wrong now. Raises Unreadable."""
        now = time.monotonic()
        if now - self._asked_at > BELIEVED:
            # Others that ask meanwhile get what was known.
            self._asked_at = now
            self._found = await self._ask()
        return self._found

    async def _ask(self) -> Sequence[Warning]:
        troubles = await queries.find_troubles(self.database)
        return [warning for name, warning in WARNINGS.items() if name in troubles]
