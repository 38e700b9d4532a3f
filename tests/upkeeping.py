"""What tests do with upkeep: let it come to its end, close days, make days past."""

from __future__ import annotations

import time
from typing import Any

import psycopg

Connection = psycopg.Connection[Any]


def settle(db: Connection) -> None:
    """Let the watermark and the counts pass everything that is committed now.

    Another test's transaction holds the watermark back for a while: it is the cluster's.
    """
    row = db.execute("select clock_timestamp()").fetchone()
    assert row is not None
    deadline = time.monotonic() + 60
    while True:
        moved = db.execute("select audit.advance_watermark()").fetchone()
        assert moved is not None
        if moved[0] is not None and moved[0] >= row[0]:
            break
        assert time.monotonic() < deadline, "something holds the watermark back"
    count_all(db)


def count_all(db: Connection) -> None:
    """Let the counts reach the watermark."""
    before = None
    while (counted := db.execute("select audit.advance_counts()").fetchone()) != before:
        before = counted


def close_days(db: Connection) -> list[str]:
    """Close all days that can be, each in one go; return their names, newest first."""
    days = [row[0] for row in db.execute("select day_name from audit.days_to_close()").fetchall()]
    for day in days:
        while db.execute("select audit.close_day(%s)", [day]).fetchone() != (None,):
            pass
    return days
