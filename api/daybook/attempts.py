"""Attempts slows down who keeps trying keys that are not valid: by address, and by the prefix that is tried.

It must not delay a valid key, nor remember a key: it knows addresses and prefixes, in this process alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from ipaddress import ip_address

from .errors import Unreadable

# Times are in seconds.
FREE_ATTEMPTS = 5
FIRST_DELAY = 0.25
LONGEST_DELAY = 5.0
FORGOTTEN_AFTER = 900.0
MOST_REMEMBERED = 10_000
MOST_WAITING = 100


class Attempts:
    """The failed attempts of the last quarter of an hour."""

    def __init__(self) -> None:
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._waiting = 0

    async def hold_back(self, address: str | None, prefix: str) -> None:
        """Note a failed attempt and wait before it is answered: not at all at first, then ever longer.

        Raises Unreadable, with Retry-After, when too many wait already.
        """
        delay = self.fail(address, prefix)
        if not delay:
            return
        if self._waiting >= MOST_WAITING:
            raise Unreadable("Too many requests with invalid keys. Please try again later.")
        self._waiting += 1
        try:
            await asyncio.sleep(delay)
        finally:
            self._waiting -= 1

    def fail(self, address: str | None, prefix: str) -> float:
        """Note a failed attempt; return the seconds to wait: doubled with each, by whichever failed more often."""
        now = time.monotonic()
        failures = max(self._count(f"address {_network(address)}", now), self._count(f"prefix {prefix}", now))
        if failures <= FREE_ATTEMPTS:
            return 0
        # The exponent is bounded too: a count has no end.
        return min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures - FREE_ATTEMPTS - 1, 20))

    def _count(self, name: str, now: float) -> int:
        count, last = self._failed.pop(name, (0, now))
        count = 1 if now - last > FORGOTTEN_AFTER else count + 1
        self._failed[name] = (count, now)
        if len(self._failed) > MOST_REMEMBERED:
            self._failed.popitem(last=False)
        return count


def _network(address: str | None) -> str:
    """One sender's address; of IPv6 the first 64 bits, which is what one sender has (RFC 6177)."""
    try:
        number = ip_address(address or "")
    except ValueError:
        return ""
    return str(number) if number.version == 4 else str(int(number) >> 64)
