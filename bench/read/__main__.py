"""`make bench-read`: fill two logs, and measure what reading costs in each, all taking turns.

It must not assert anything.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import psycopg

from daybook import keys

from . import export, floor, generate, measure, page, plans, writes
from .contents import LARGEST
from .generate import Log
from .measure import Target
from .questions import questions
from .serving import App, served

PARTS = ("requests", "page", "floor", "export", "writes")
NOTHING = "nothing"


def main() -> None:
    """Make both logs ready and print the tables."""
    parser = argparse.ArgumentParser(prog="make bench-read", description=__doc__)
    parser.add_argument("--postgres", type=int, metavar="VERSION", help="major version of the server (newest)")
    parser.add_argument("--small", type=int, default=200_000, metavar="N", help="entries of the small log (200000)")
    parser.add_argument("--large", type=int, default=20_000_000, metavar="N", help="entries of the large (20000000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in which all take turns (5)")
    parser.add_argument("--seconds", type=float, default=0.4, help="each request's turn in a round, in seconds (0.4)")
    parser.add_argument("--questions", nargs="+", metavar="TEXT", help="of the requests those whose names hold a text")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="keep the logs there, and use those that are there")
    parser.add_argument("--as-it-is", action="store_true", help="use logs that were made with another version of sql/")
    parser.add_argument("--keep", action="store_true", help="keep the logs where no folder was given, too")
    parser.add_argument("--whole-export", action="store_true", help="export the large log whole, not a part of it")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=(*PARTS, NOTHING),
        default=PARTS,
        metavar="PART",
        help=f"{', '.join(PARTS)}; {NOTHING} only makes the logs ready",
    )
    options = parser.parse_args()
    # Servers and folders are cleared away however the run ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with ExitStack() as stack:
        folder = options.data
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="pg-daybook-bench-"))
            if not options.keep:
                stack.callback(shutil.rmtree, folder)
        generate.prepare_folder(folder)
        print(f"The logs are in {folder}", flush=True)
        logs = [
            stack.enter_context(generate.ready(folder, entries, options.postgres, as_it_is=options.as_it_is))
            for entries in dict.fromkeys((options.small, options.large))
        ]
        apps = [stack.enter_context(served(log.reader_url, new_key(log))) for log in logs]
        print(f"\nPostgreSQL {logs[0].cluster.server.version}, {options.rounds} rounds\n", flush=True)
        if "requests" in options.only:
            print("## Requests: p50 / p99 in ms by clients; partitions that the plans name / read\n", flush=True)
            asyncio.run(measure_requests(logs, apps, options.rounds, options.seconds, options.questions or [""]))
        if "page" in options.only:
            print("\n## The web page against the JSON of the same entries\n", flush=True)
            page.compare(logs, apps, options.rounds)
        if "floor" in options.only:
            print("\n## The first page against its floor\n", flush=True)
            asyncio.run(floor.compare(logs, apps, options.rounds))
        if "export" in options.only:
            print("\n## Exports against COPY of the same rows\n", flush=True)
            export.compare(logs, apps, options.rounds, whole=options.whole_export)
        if "writes" in options.only:
            print("\n## One-row writes of a tracked table\n", flush=True)
            writes.compare(logs, apps, options.rounds)


def new_key(log: Log) -> str:
    """A key of the largest workspace's administrator."""
    with psycopg.connect(log.url) as connection:
        return keys.create_key(connection, LARGEST, "bench", "admin")


async def measure_requests(logs: list[Log], apps: list[App], rounds: int, turn: float, wanted: list[str]) -> None:
    """Print how long each request takes that is wanted, which partitions it touches, and what was asked less often."""
    smallest = min(log.entries for log in logs)
    targets = []
    for log, app in zip(logs, apps, strict=True):
        every = await questions(app, log.entries, smallest, log.planted)
        chosen = {name: path for name, path in every.items() if any(text in name for text in wanted)}
        targets.append(Target(f"{log.entries:,}", log, app, chosen))
    touched = {
        (question, target.name): found
        for target in targets
        for question, found in (await plans.touched(target.log.reader_url, target.app.key, target.questions)).items()
    }
    measured, caps = await measure.measure(targets, rounds, turn)
    measure.print_table(targets, measured, touched)
    print("\nAsked for less often:", *(list(caps.sentences()) or ["nothing"]), sep="\n- ", flush=True)


if __name__ == "__main__":
    main()
