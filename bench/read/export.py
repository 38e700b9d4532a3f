"""Exports over HTTP against COPY … TO STDOUT of the same rows, and the memory that the app takes for them.

A large log is exported in part, by `days`, unless the whole is asked for. It must not assert anything.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import NamedTuple

import psycopg

from .contents import LARGEST, SHARE_OF_LARGEST
from .generate import DAYS, Log
from .loads import forget_peak, memory, peak_memory
from .questions import WORKSPACE
from .serving import App, ask_once, served

PATH = "/api/v1/notification/export."
# About so many entries of a log are exported when it holds more.
ENOUGH = 1_000_000
MEBIBYTE = 1024 * 1024

# The columns that the exports read of each entry.
COLUMNS = {
    "ndjson": "id, created_at, event, resource_id, resource_type, actor_id, actor_name",
    "csv": """
        id, created_at, event, operation, resource_type, resource_id, resource_name, row_key, row_count, before, after,
        actor_id, actor_name, actor_type, request_id, context -> 'reason', context -> 'ip', context -> 'subject',
        database_user, table_schema, table_name""",
}
BEGINNING = """
select set_config('role', 'audit_reader', true), set_config('search_path', 'pg_catalog, pg_temp', true),
       set_config('audit.reader_workspace', %s, true), set_config('plan_cache_mode', 'force_custom_plan', true)"""
COPYING = r"""
copy (select {columns} from audit.timeline where created_at >= '{since}' and event not like 'log\_%'
      order by created_at desc, id desc) to stdout"""


class Exported(NamedTuple):
    """What one export was: its status, entries, bytes and seconds, and the most memory of the app in bytes."""

    status: int
    entries: int
    size: int
    seconds: float
    memory: int = 0


@dataclass(slots=True)
class Rates:
    """Entries a second of each round, and the most memory of all in bytes."""

    entries: int = 0
    size: int = 0
    rates: list[float] = field(default_factory=list)
    memory: int = 0
    status: int = 200

    def add(self, exported: Exported, *, counts: bool) -> None:
        """Add a round; of the first, which warms the caches, only the memory counts."""
        self.entries, self.size, self.status = exported.entries, exported.size, exported.status
        self.memory = max(self.memory, exported.memory)
        if counts:
            self.rates.append(exported.entries / exported.seconds)


def compare(logs: Iterable[Log], apps: Iterable[App], rounds: int, *, whole: bool) -> None:
    """Print the rates of exports and of COPY, which take turns, and the memory that exports take."""
    print("| log | export | entries | MiB | entries/s | COPY, entries/s | of COPY | peak memory above idle, MiB |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for log, app in zip(logs, apps, strict=True):
        days = DAYS if whole else min(DAYS, max(1, int(DAYS * ENOUGH / (log.entries * SHARE_OF_LARGEST))))
        measured: dict[tuple[str, str], Rates] = defaultdict(Rates)
        with served(log.reader_url, app.key) as fresh:
            asyncio.run(ask_once(fresh, WORKSPACE))
            idle = memory(fresh.process_id)
            for number in range(rounds + 1):
                for form in COLUMNS:
                    for way, exported in (("export", export(fresh, form, days)), ("COPY", copy(log, form, days))):
                        measured[form, way].add(exported, counts=number > 0)
        for form in COLUMNS:
            exports, copies = measured[form, "export"], measured[form, "COPY"]
            if exports.status != 200:
                print(f"| {log.entries:,} | {form} | answered {exports.status} | | | | | |", flush=True)
                continue
            rate, best = median(exports.rates), median(copies.rates)
            print(
                f"| {log.entries:,} | {form}, {days} days | {exports.entries:,} | {exports.size / MEBIBYTE:,.0f} "
                f"| {rate:,.0f} | {best:,.0f} | {rate / best:.0%} | {(exports.memory - idle) / MEBIBYTE:,.0f} |",
                flush=True,
            )


def export(app: App, form: str, days: int) -> Exported:
    """One export to its end, its entries counted by their lines."""
    connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=600)
    headers = {"Authorization": f"Bearer {app.key}"}
    forget_peak(app.process_id)
    begun = time.perf_counter()
    connection.request("GET", f"{PATH}{form}?days={days}", headers=headers)
    answer = connection.getresponse()
    lines = size = 0
    end = b""
    while piece := answer.read1(1 << 18):
        lines += piece.count(b"\n")
        size += len(piece)
        end = (end + piece)[-300:]
    seconds = time.perf_counter() - begun
    connection.close()
    # A header, or the manifest.
    entries = lines - 1
    if answer.status == 200 and form == "ndjson":
        assert json.loads(end.splitlines()[-1])["manifest"]["entries"] == entries
    return Exported(answer.status, entries, size, seconds, peak_memory(app.process_id))


def copy(log: Log, form: str, days: int) -> Exported:
    """The same rows by COPY, read as the app's login reads them."""
    since = datetime.now(UTC) - timedelta(days=days)
    query = COPYING.format(columns=COLUMNS[form], since=since.isoformat())
    entries = size = 0
    with psycopg.connect(log.reader_url) as connection:
        connection.execute(BEGINNING, [LARGEST])
        begun = time.perf_counter()
        with connection.cursor().copy(query.encode()) as rows:
            for row in rows:
                entries += 1
                size += len(row)
        return Exported(200, entries, size, time.perf_counter() - begun)
