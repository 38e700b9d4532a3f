"""Rounds: writers at work, a fault at a random moment, and all that must hold once it is over.

It must not send a signal to any process but those of the cluster that it made itself.
"""

import logging
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from daybook import upkeep, witness
from daybook.postgres import Cluster, Server, free_port
from daybook.schema import migrate
from tests.faults.kinds import KINDS, Clock
from tests.faults.ledger import State
from tests.faults.scene import DATABASE, Scene, below, examine, keep_up, let_writers_end, make_sealer
from tests.faults.writers import Writer, create_tables
from tests.reading import ADMIN, add_key

# Transactions with a written but uncommitted change at the moment of the fault, for a round to count.
OPEN_NEEDED = 8
# A new cluster after so many rounds: each compares the whole log.
ROUNDS_OF_A_CLUSTER = 30
# Rounds that do not count, in a row: then something is amiss.
MOST_VOID = 20

# It would tell of each connection that a fault broke.
logging.getLogger("psycopg").setLevel(logging.ERROR)

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
    # Compiling would take longer than upkeep does.
    "jit": "off",
    "log_min_messages": "fatal",
    # For the witness.
    "wal_level": "logical",
}


@dataclass(frozen=True)
class Round:
    """What a round was and what it found; `void` says why it does not count."""

    kind: str
    number: int
    way: str
    seconds: float
    committed: int
    open: int
    in_doubt: int
    kept: int
    entries: int
    witnessed: int
    examined_in: float
    void: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def counts(self) -> bool:
        return not self.void


def run(server: Server, kinds: Sequence[str], rounds: int, writers: int, seed: int) -> Iterator[Round]:
    """Run rounds of each kind until so many of it count; those that do not are yielded too. A problem ends the run.

    Kinds that cannot be tried here are left out: KINDS says why. Raises RuntimeError when too few transactions are open
    again and again, or when a writer fails before the fault.
    """
    chance = random.Random(seed)
    todo = {name: rounds for name in kinds if not KINDS[name].hindrance()}
    while any(todo.values()):
        # A clock that was ahead is behind afterwards: such rounds have clusters of their own.
        names = [name for name, left in todo.items() if left and name != "clock"] or ["clock"]
        with _cluster(server, writers, chance, Clock if names == ["clock"] else None) as scene:
            void = 0
            for number in range(ROUNDS_OF_A_CLUSTER):
                names = [name for name in names if todo[name]]
                if not names:
                    break
                name = names[number % len(names)]
                done = _round(name, rounds - todo[name] + 1, scene)
                yield done
                if done.problems:
                    return
                todo[name] -= done.counts
                void = 0 if done.counts else void + 1
                if void == MOST_VOID:
                    raise RuntimeError(f"{void} rounds in a row did not count, the last: {name}: {done.void}")


@contextmanager
def _cluster(server: Server, writers: int, chance: random.Random, make_clock: type[Clock] | None) -> Iterator[Scene]:
    """A new cluster with a log, tables, a key for seals and the witness's slot."""
    with tempfile.TemporaryDirectory(prefix="pg-daybook-faults-", dir=_folder()) as name:
        folder = Path(name)
        folder.chmod(0o755)
        clock = make_clock(folder / "clock") if make_clock else None
        cluster = Cluster(server, folder / "cluster", tcp="trust", port=free_port(), settings=SETTINGS)
        with ExitStack() as running:
            with _environment(clock.environment() if clock else {}):
                running.enter_context(cluster)
            with psycopg.connect(cluster.url(), autocommit=True) as connection:
                connection.execute(f"create database {DATABASE}".encode())
            migrate(cluster.url(DATABASE))
            with psycopg.connect(cluster.url(DATABASE), autocommit=True) as connection:
                create_tables(connection, writers)
                connection.execute("create role faults_reader login in role audit_reader")
                add_key(connection, ADMIN, "acme", "admin")
                witness.start(connection, lambda _: None)
            at_work = [Writer(number, chance.randrange(2**32)) for number in range(writers)]
            scene = Scene(cluster, folder, at_work, chance, make_sealer(folder), clock=clock)
            upkeep.maintain(cluster.url(DATABASE), sealer=scene.sealer)
            yield scene


@contextmanager
def _environment(more: dict[str, str]) -> Iterator[None]:
    """What a cluster that is started meanwhile has in its environment besides."""
    os.environ.update(more)
    try:
        yield
    finally:
        for name in more:
            del os.environ[name]


def _folder() -> Path:
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and os.access(memory, os.W_OK) else Path("/tmp")


def _round(name: str, number: int, scene: Scene) -> Round:
    kind, writers = KINDS[name], scene.writers
    scene.begin()
    with scene.connected() as connection:
        earlier = below(connection)
    known = [len(writer.ledger) for writer in writers]
    seconds = scene.chance.uniform(0.2, 1.5)
    with kind.fault(scene) as strike:
        ready = threading.Barrier(len(writers) + 1)
        threads = [
            threading.Thread(target=writer.work, args=(scene.url, ready, scene.stop), daemon=True) for writer in writers
        ]
        if kind.upkeep:
            threads.append(threading.Thread(target=keep_up, args=(scene,), daemon=True))
        for thread in threads:
            thread.start()
        with suppress(threading.BrokenBarrierError):
            ready.wait(30)
        time.sleep(seconds)
        way = strike()
        scene.stop.set()
        for thread in threads:
            thread.join(60)
        for writer in writers:
            if writer.error is not None:
                raise RuntimeError(f"writer {writer.number} failed of itself in a round of {name}") from writer.error
    new = [transaction for writer, first in zip(writers, known, strict=True) for transaction in writer.ledger[first:]]
    states = [transaction.state for transaction in new]
    still_open = sum(transaction.state is State.OPEN and bool(transaction.entries) for transaction in new)
    opened = still_open if scene.open is None else scene.open
    begun = time.monotonic()
    with scene.connected() as connection:
        let_writers_end(connection)
        found, witnessed = examine(scene, connection, earlier)
    return Round(
        kind=name,
        number=number,
        way="; ".join(filter(None, (way, scene.told))),
        seconds=seconds,
        committed=states.count(State.COMMITTED),
        open=opened,
        in_doubt=states.count(State.COMMITTING),
        kept=found.kept,
        entries=found.entries,
        witnessed=witnessed,
        examined_in=time.monotonic() - begun,
        void=f"{opened} transactions were open" if opened < OPEN_NEEDED else scene.void,
        problems=scene.problems,
    )
