"""Which partitions of the log the plans of a request name, and which they really read.

Named are those that are left in EXPLAIN; read are those that were scanned when the statements ran, by the transaction's
own statistics, in which functions that the statements call count too. It must not assert anything.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import Any, NamedTuple

import psycopg

from ..servers import Connection
from .questions import Questions
from .recording import BEGINNING, Transaction, get, recorded, running

# Seconds: what takes longer is not asked again to be explained.
LONGEST = 5.0
_PARTITION = re.compile(r"(entry|change)_(\d{8}|beyond)")
_SCANS = "select relname, coalesce(seq_scan, 0) + coalesce(idx_scan, 0) from pg_stat_xact_user_tables"


class Touched(NamedTuple):
    """How many partitions the plans of a request name, and how many they read."""

    named: int
    read: int

    def __str__(self) -> str:
        return f"{self.named} / {self.read}"


async def touched(url: str, key: str, questions: Questions) -> dict[str, Touched | None]:
    """For each request the partitions that it touches; None for one that is not known or takes too long."""
    found: dict[str, Touched | None] = {}
    async with running(url) as app:
        for question, path in questions.items():
            if path is None:
                found[question] = None
                continue
            # The first time the app may note that somebody reads.
            begun = time.perf_counter()
            await get(app, path, key)
            if time.perf_counter() - begun > LONGEST:
                found[question] = None
                continue
            with recorded() as transactions:
                await get(app, path, key)
            found[question] = touched_by(url, transactions)
    return found


def touched_by(url: str, transactions: list[Transaction]) -> Touched | None:
    """The partitions that these transactions touch when they are sent again; None when one takes too long."""
    named: set[str] = set()
    read: set[str] = set()
    for transaction in transactions:
        with psycopg.connect(url, prepare_threshold=None) as connection:
            connection.read_only = True
            try:
                for query, parameters in transaction:
                    if BEGINNING in query or not query.lstrip().lower().startswith((b"select", b"with")):
                        connection.execute(query, parameters)
                        continue
                    before = scans(connection)
                    plan = connection.execute(b"explain (format json) " + query, parameters).fetchone()
                    assert plan is not None
                    named |= set(filter(_is_partition, nodes(plan[0][0]["Plan"])))
                    planned = scans(connection)
                    connection.execute(query, parameters)
                    done = scans(connection)
                    # Planning looks into an index now and then; it does so twice here.
                    of_planning = planned - before
                    read |= {name for name in done if done[name] - planned[name] > of_planning[name]}
            except psycopg.errors.QueryCanceled:
                return None
    return Touched(len(named), len({name for name in read if _is_partition(name)}))


def scans(connection: Connection) -> Counter[str]:
    """How many scans of each table this transaction began."""
    return Counter(dict(connection.execute(_SCANS).fetchall()))


def nodes(plan: dict[str, Any]) -> list[str]:
    """The tables that a plan reads."""
    below = [name for child in plan.get("Plans", []) for name in nodes(child)]
    return [plan["Relation Name"], *below] if "Relation Name" in plan else below


def _is_partition(name: str) -> bool:
    return _PARTITION.fullmatch(name) is not None
