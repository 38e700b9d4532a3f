"""`make bench`: what a write costs without a log, with ours, and with others, in one run, as one table.

Every system has a database of its own on one server and shows first that it records every change. Then they take
turns: each workload is done by each system in each round; medians are printed. CPU is the backends' own (first field of
/proc/<pid>/schedstat), WAL is pg_current_wal_insert_lsn() with full_page_writes off, the log's bytes are
pg_relation_size of its tables, their toast and indexes: wall time on a shared machine means little. It must not assert
anything about cost.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
from pathlib import Path

from .servers import started
from .write.chart import chart
from .write.clients import Clients
from .write.measure import PATIENCE, measure, prove, seconds_with_kept_plan, set_up
from .write.report import goals, table
from .write.systems import SYSTEMS
from .write.workloads import WORKLOADS, Sizes

SETTINGS: dict[str, str | int] = {
    "full_page_writes": "off",
    "max_connections": 150,
    "max_wal_size": "4GB",
    "shared_buffers": "1GB",
}


def main() -> None:
    """Set up, prove, measure and print."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that the server is stopped.
    systems = [system for system in SYSTEMS if not options.systems or system.key in options.systems]
    workloads = [workload for workload in WORKLOADS if not options.only or workload.key in options.only]
    sizes = Sizes()
    with (
        started(options.postgres, more=SETTINGS, migrated=False) as cluster,
        Clients(max(workload.clients for workload in WORKLOADS)) as clients,
    ):
        subjects, failures = set_up(cluster, systems, sizes)
        for subject in subjects:
            changes = prove(subject, clients)
            if subject.system.recorded:
                print(f"{subject.system.title}: all of {changes} changes recorded", flush=True)
        kept = {s.system.title: seconds_with_kept_plan(s, sizes) for s in subjects if s.system.keeps_plan}
        costs = measure(subjects, workloads, clients, options.rounds, sizes, options.minutes)
    systems = [subject.system for subject in subjects]
    version = cluster.server.version
    times = {workload.key: 1 if workload.is_bulk else sizes.times for workload in WORKLOADS}
    done = max(len(rounds) // times[key] for (key, _), rounds in costs.items())
    print(
        f"\nPostgreSQL {version}, medians of {done} rounds, one-row work {sizes.times} times in each, per changed row\n"
    )
    print(table(costs, systems, workloads))
    for system in systems:
        if system.stores:
            print(f"\n{system.title} stores {system.stores}")
    for title, problem in failures.items():
        print(f"\n{title}: not measured, it could not be set up here: {problem}")
    for title, seconds in kept.items():
        took = f"took {seconds:.1f} s" if seconds else f"was not done after {PATIENCE} s"
        print(
            f"\n{title}: a session's first write makes the plan for all. After one row, an UPDATE of {sizes.few:,} "
            f"{took}; its bulk figures are of plans made anew (discard plans)"
        )
    for (workload, key), rounds in costs.items():
        if len(rounds) < done * times[workload]:
            print(f"\n{key}, {workload}: {len(rounds)} rounds, for it is slow")
    print(f"\n{goals(costs, systems)}")
    if options.chart:
        options.chart.write_text(chart(version, costs, systems, workloads))
    if options.json:
        found = [
            {"workload": workload, "system": key, "rounds": [cost._asdict() for cost in rounds]}
            for (workload, key), rounds in costs.items()
        ]
        options.json.write_text(json.dumps({"postgres": version, "costs": found}, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--postgres", type=int, metavar="VERSION", help="major version of the server (newest)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (5)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no round that would end later (none)")
    for option, keys in (
        ("--only", [workload.key for workload in WORKLOADS]),
        ("--systems", [system.key for system in SYSTEMS]),
    ):
        name = option.strip("-").removesuffix("s").upper().replace("ONLY", "WORKLOAD")
        parser.add_argument(option, nargs="+", choices=keys, metavar=name, help=f"of {', '.join(keys)} (all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of every round too")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw the main figures as SVG")
    return parser.parse_args()


if __name__ == "__main__":
    main()
