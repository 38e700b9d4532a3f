"""`python -m bench.seal`: entries sealed and verified a second, against COPY of the same rows, and what writers lose.

The log is that of bench.read, filled by COPY and kept in a folder. Its seals are thrown away by a superuser and made
anew in each round. For the writers a server of its own is started: windows in which nobody seals and windows in which
what was written before is sealed take turns. It must not assert anything.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from statistics import median

import psycopg

from daybook.seals import Sealer, seal
from daybook.signing import make_key, read_signing_key
from daybook.upkeep import maintain

from .read.contents import CHANGE_COLUMNS, ENTRY_COLUMNS
from .read.generate import Log, prepare_folder, ready
from .servers import cpu_time, processes, started

WRITERS = 2
SCHEMA = """
create table document (id bigint generated always as identity primary key, workspace_id text, title text);
select audit.enable_tracking('document', resource_name_column => 'title');
create role upkeep login in role audit_maintainer;
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.seal", description=__doc__)
    parser.add_argument("--postgres", type=int, metavar="VERSION", help="major version of the server (newest)")
    parser.add_argument("--entries", type=int, default=1_000_000, help="entries of the log (1,000,000)")
    parser.add_argument("--data", type=Path, default=Path("/tmp/pg-daybook-bench-seal"), help="folder of the log")
    parser.add_argument("--as-it-is", action="store_true", help="take the log that is there, whatever version of sql/")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of sealing, COPY and verifying (3)")
    parser.add_argument("--windows", type=int, default=12, help="windows of each kind for the writers (12); 0: none")
    parser.add_argument("--seconds", type=float, default=4, help="length of a window (4)")
    options = parser.parse_args()
    if options.entries:
        prepare_folder(options.data)
        with ready(options.data, options.entries, options.postgres, as_it_is=options.as_it_is) as log:
            report_log(log, options.rounds, options.data)
    if options.windows:
        report_writers(options.postgres, options.windows, options.seconds)


# The log


def report_log(log: Log, rounds: int, folder: Path) -> None:
    """Seal, copy and verify in turns, and print the medians."""
    key = folder / "bench.key"
    key.unlink(missing_ok=True)
    make_key(key)
    sealer = Sealer(read_signing_key(key))
    rates: dict[str, list[float]] = {"seal": [], "copy": [], "verify": [], "one process": []}
    peaks: list[int] = []
    size = 0
    for _ in range(rounds):
        with psycopg.connect(log.url, autocommit=True) as connection:
            connection.execute("set session_replication_role = replica")
            connection.execute("delete from audit.seal")
            connection.execute("vacuum full audit.seal")
            rows = count(connection, "select count(*) from audit.entry")
            begun = time.perf_counter()
            done = seal(log.url, sealer)
            rates["seal"].append(done.entries / (time.perf_counter() - begun))
            size = count(connection, "select pg_total_relation_size('audit.seal')")
            rates["copy"].append(rows / timed(lambda: copy(log.url)))
            seconds, peaks = run_verify(log.url)
            rates["verify"].append(rows / seconds)
            rates["one process"].append(rows / run_verify(log.url, "1")[0])
        print(" ".join(f"{name} {values[-1]:,.0f}" for name, values in rates.items()), flush=True)
    some, part = run_verify(log.url, share=True)
    print(f"\n{rows:,} entries, {done.changes:,} changed rows, {done.blocks} blocks; medians of {rounds} rounds")
    for name, values in rates.items():
        print(f"{name:<12} {median(values):>10,.0f} entries/s")
    print(f"verify / copy: {median(rates['verify']) / median(rates['copy']):.2f}")
    print(f"seals in the database: {size / rows:.1f} bytes an entry")
    print(f"peak memory of verify and its processes, MB: {' '.join(f'{peak / 1024:.0f}' for peak in peaks)}")
    print(f"the same, last ten days alone ({some:.1f} s): {' '.join(f'{peak / 1024:.0f}' for peak in part)}")


def count(connection: psycopg.Connection[tuple[object, ...]], query: str) -> int:
    """The number that a query gives."""
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(str(row[0]))


def timed(act: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def copy(url: str) -> None:
    """Plain COPY of all entries and changes, as text, to a client that throws it away."""
    with psycopg.connect(url, autocommit=True) as connection:
        for columns, table in ((ENTRY_COLUMNS, "entry"), (CHANGE_COLUMNS, "change")):
            with connection.cursor().copy(f"copy (select {columns} from audit.{table}) to stdout".encode()) as rows:
                for _ in rows:
                    pass


PROGRAM = """
import sys
from datetime import datetime, timedelta, timezone
from daybook.verification import verify
if __name__ == "__main__":
    since = datetime.now(timezone.utc) - timedelta(days=10) if sys.argv[3] else None
    result = verify(sys.argv[1], processes=int(sys.argv[2]) or None, since=since)
    assert result.fits, result.misfits
"""


def run_verify(url: str, processes: str = "0", *, share: bool = False) -> tuple[float, list[int]]:
    """Seconds that verifying takes in a process of its own, and the peak memory of it and its children in kB."""
    program = Path(f"/tmp/pg-daybook-bench-verify-{os.getpid()}.py")
    program.write_text(PROGRAM)
    peaks: dict[int, int] = {}
    begun = time.perf_counter()
    with subprocess.Popen([sys.executable, str(program), url, processes, "yes" * share], env=environment()) as process:
        while process.poll() is None:
            for number in family(process.pid):
                peaks[number] = max(peaks.get(number, 0), peak_of(number))
            time.sleep(0.05)
    seconds = time.perf_counter() - begun
    program.unlink()
    if process.returncode:
        raise SystemExit("verify failed")
    return seconds, [peak for peak in peaks.values() if peak > 30_000]


def environment() -> dict[str, str]:
    """The environment in which daybook is found."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "api")}


def family(process: int) -> list[int]:
    """A process and its children."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []
    return [process, *(int(child) for child in children)]


def peak_of(process: int) -> int:
    """The peak memory of a process in kB (proc(5), status)."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


# The writers


@dataclass
class Window:
    """What the writers did in one window: transactions, and their backends' CPU time in nanoseconds."""

    writes: int
    cpu: int


@dataclass
class Kind:
    """Windows of one kind."""

    name: str
    act: Callable[[], object]
    windows: list[Window] = field(default_factory=list)


def report_writers(version: int | None, number: int, seconds: float) -> None:
    """Windows without and with sealing in turns; print what a transaction cost and how many there were."""
    with started(version) as cluster, psycopg.connect(cluster.url(), autocommit=True) as connection:
        connection.execute(SCHEMA.encode())
        url = cluster.url(user="upkeep")
        maintain(url)

        def seal_now() -> None:
            with psycopg.connect(url, autocommit=True) as upkeep:
                for _ in range(2):
                    upkeep.execute("select audit.advance_watermark()")
            done = seal(url, Sealer())
            sealed.append(done.entries)

        sealed: list[int] = []
        kinds = [Kind("nobody seals", lambda: None), Kind("sealing", seal_now)]
        with processes(write, cluster.url(), WRITERS) as pipes:
            for turn in range(number + 1):
                for kind in kinds if turn % 2 else reversed(kinds):
                    window = measure(pipes, kind.act, seconds)
                    if turn:
                        kind.windows.append(window)
        print(f"\nPostgreSQL {cluster.server.version}, {WRITERS} writers, {number} windows of {seconds:.0f} s each")
        print(f"sealed in a window: {median(sealed):,.0f} entries")
    rates = [median(w.writes / seconds for w in kind.windows) for kind in kinds]
    costs = [median(w.cpu / w.writes / 1000 for w in kind.windows) for kind in kinds]
    for kind, rate, cost in zip(kinds, rates, costs, strict=True):
        print(f"{kind.name:<14} {rate:>8,.0f} transactions/s, {cost:>7.1f} µs of backend CPU each")
    slower, dearer = (100 * (values[1] / values[0] - 1) for values in (rates, costs))
    print(f"sealing: {slower:+.1f} % transactions/s, {dearer:+.1f} % CPU")


def measure(pipes: list[Pipe], act: Callable[[], object], seconds: float) -> Window:
    """Let the writers write for so long, and act at the beginning."""
    end = time.monotonic() + seconds
    for pipe in pipes:
        pipe.send(end)
    act()
    found = [pipe.recv() for pipe in pipes]
    return Window(sum(writes for writes, _ in found), sum(cpu for _, cpu in found))


def write(url: str, pipe: Pipe) -> None:
    """Write one row after the other, with a breath between, as an application's requests would come."""
    with psycopg.connect(url, autocommit=True) as connection:
        pipe.send("ready")
        while (end := pipe.recv()) is not None:
            writes, before = 0, cpu_time(connection)
            while time.monotonic() < end:
                connection.execute("insert into document (workspace_id, title) values ('acme', 'Plan')", prepare=True)
                writes += 1
                time.sleep(0.001)
            pipe.send((writes, cpu_time(connection) - before))


if __name__ == "__main__":
    main()
