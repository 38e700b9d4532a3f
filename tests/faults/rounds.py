"""Rounds: writers at work, a kill -9 at a random moment, recovery, and the comparison of log and ledgers.

It must not send a signal to any process but those of the cluster that it made itself.
"""

import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from daybook import witness
from daybook.postgres import Cluster, Server
from daybook.schema import migrate
from tests.faults.comparison import compare
from tests.faults.ledger import State
from tests.faults.writers import Writer, create_tables

# Transactions with a written but uncommitted change at the moment of the kill, for a round to count.
OPEN_NEEDED = 8
DATABASE = "faults"

SETTINGS: dict[str, str | int] = {
    "synchronous_commit": "on",
    # A killed process takes nothing with it that it handed to the operating system, so fsync has nothing to add here.
    # full_page_writes has: Linux can end a killed process's write() between two pages of memory, and leave half of a
    # page of PostgreSQL's as it was.
    "fsync": "off",
    "full_page_writes": "on",
    # Small, so that kills meet checkpoints, vacuum and the growing of files too.
    "shared_buffers": "16MB",
    "max_wal_size": "32MB",
    "min_wal_size": "32MB",
    "autovacuum_naptime": "1s",
    "log_min_messages": "fatal",
    # For the witness.
    "wal_level": "logical",
}


@dataclass(frozen=True)
class Round:
    """What a round was and what it found."""

    number: int
    kill: str
    seconds: float
    committed: int
    open: int
    in_doubt: int
    kept: int
    entries: int
    witnessed: int
    recovery: float
    problems: list[str]

    @property
    def counts(self) -> bool:
        return self.open >= OPEN_NEEDED


def run(server: Server, rounds: int, writers: int, seed: int) -> Iterator[Round]:
    """Run rounds on a new cluster until so many count; those that do not are yielded too.

    Raises RuntimeError when too few transactions are open again and again, or when a writer fails before the kill.
    """
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="pg-daybook-faults-", dir=_folder()) as folder:
        Path(folder).chmod(0o755)
        with Cluster(server, Path(folder) / "cluster", settings=SETTINGS) as cluster:
            with psycopg.connect(cluster.url(), autocommit=True) as connection:
                connection.execute(f"create database {DATABASE}".encode())
            migrate(cluster.url(DATABASE))
            with psycopg.connect(cluster.url(DATABASE), autocommit=True) as connection:
                create_tables(connection, writers)
                witness.start(connection, lambda _: None)
            at_work = [Writer(number, chance.randrange(2**32)) for number in range(writers)]
            counted = 0
            for number in range(1, 3 * rounds + 1):
                done = _round(number, cluster, at_work, chance)
                yield done
                counted += done.counts
                if counted == rounds or done.problems:
                    return
            raise RuntimeError(
                f"only {counted} of {3 * rounds} rounds had {OPEN_NEEDED} open transactions; add writers"
            )


def _folder() -> Path:
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and os.access(memory, os.W_OK) else Path("/tmp")


def _round(number: int, cluster: Cluster, writers: list[Writer], chance: random.Random) -> Round:
    ready, stop = threading.Barrier(len(writers) + 1), threading.Event()
    known = [len(writer.ledger) for writer in writers]
    url = cluster.url(DATABASE)
    threads = [threading.Thread(target=writer.work, args=(url, ready, stop), daemon=True) for writer in writers]
    threads.append(threading.Thread(target=_upkeep, args=(url, stop), daemon=True))
    for thread in threads:
        thread.start()
    ready.wait(30)
    seconds = chance.uniform(0.2, 1.5)
    one_backend = chance.random() < 0.4
    time.sleep(seconds)
    begun = _kill_a_backend(cluster, stop, chance) if one_backend else _kill_all(cluster, stop, chance)
    for thread in threads:
        thread.join(30)
    for writer in writers:
        if writer.error is not None:
            raise RuntimeError(f"writer {writer.number} failed before the kill") from writer.error
    if not one_backend:
        # The lock on the folder is all that is left to give up. The socket's lock would count for as long as nobody has
        # asked for the killed postmaster's end.
        cluster.stop()
        for file in cluster.socket_folder.glob(".s.PGSQL.*"):
            file.unlink()
        cluster.start()
    new = [transaction for writer, first in zip(writers, known, strict=True) for transaction in writer.ledger[first:]]
    states = [transaction.state for transaction in new]
    still_open = sum(transaction.state is State.OPEN and bool(transaction.entries) for transaction in new)
    with _connected(url) as connection:
        recovery = time.monotonic() - begun
        found = compare(connection, writers)
        misfits: list[str] = []
        witnessed = witness.run(connection, lambda misfit: misfits.append(f"the witness: {misfit}"))
        # An empty table that is truncated leaves no entry.
        misfits = [misfit for misfit in misfits if ": doubtful: TRUNCATE of public.scratch_" not in misfit]
    return Round(
        number=number,
        kill="a backend" if one_backend else "the server",
        seconds=seconds,
        committed=states.count(State.COMMITTED),
        open=still_open,
        in_doubt=states.count(State.COMMITTING),
        kept=found.kept,
        entries=found.entries,
        witnessed=witnessed.rows,
        recovery=recovery,
        problems=[*found.problems, *misfits],
    )


def _upkeep(url: str, stop: threading.Event) -> None:
    """Upkeep at work beside the writers, as a service would be."""
    with suppress(psycopg.OperationalError), closing(psycopg.connect(url, autocommit=True)) as connection:
        while not stop.wait(0.2):
            connection.execute("select audit.maintain()")


def _kill_all(cluster: Cluster, stop: threading.Event, chance: random.Random) -> float:
    """Kill the postmaster and all its children in any order. It is halted first, so that it neither sees nor forks."""
    postmaster = _postmaster(cluster)
    os.kill(postmaster, signal.SIGSTOP)
    processes = [postmaster, *_children(postmaster)]
    chance.shuffle(processes)
    stop.set()
    for process in processes:
        _kill(process)
    begun = time.monotonic()
    _wait_until_gone(processes)
    return begun


def _kill_a_backend(cluster: Cluster, stop: threading.Event, chance: random.Random) -> float:
    """Kill one backend that writes: the postmaster ends all others and recovers by itself."""
    postmaster = _postmaster(cluster)
    with psycopg.connect(cluster.url(DATABASE)) as connection:
        query = "select pid from pg_stat_activity where datname = %s and pid <> pg_backend_pid() order by backend_start"
        backends = [pid for (pid,) in connection.execute(query, [DATABASE])]
    children = _children(postmaster)
    victim = chance.choice(backends)
    stop.set()
    _kill(victim)
    begun = time.monotonic()
    _wait_until_gone(children)
    return begun


def _postmaster(cluster: Cluster) -> int:
    return int((cluster.data / "postmaster.pid").read_text().splitlines()[0])


def _children(parent: int) -> list[int]:
    lines = ((int(path.name), _stat(int(path.name))) for path in Path("/proc").iterdir() if path.name.isdigit())
    return [process for process, stat in lines if stat and int(stat[1]) == parent]


def _stat(process: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat from the state on, None when the process is gone (proc(5))."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _wait_until_gone(processes: list[int]) -> None:
    """Wait until none runs any more; one whose end nobody has asked for yet (Z) runs no more either."""
    end = time.monotonic() + 30
    while any((stat := _stat(process)) and stat[0] != "Z" for process in processes):
        if time.monotonic() > end:
            raise RuntimeError("a killed server process does not end")
        time.sleep(0.005)


def _connected(url: str) -> psycopg.Connection[tuple[object, ...]]:
    end = time.monotonic() + 60
    while True:
        try:
            return psycopg.connect(url, autocommit=True)
        except psycopg.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
