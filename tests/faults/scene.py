"""The scene of a round: a cluster with a log, writers, upkeep and seals, and what is asked once a fault is over.

It must not know any kind of fault.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from daybook import upkeep, verification, witness
from daybook.digests import Keeper
from daybook.postgres import Cluster
from daybook.seals import Sealer
from daybook.signing import make_key, read_public_key, read_signing_key
from tests.faults.comparison import BY_CLOCK, Found, compare
from tests.faults.ledger import State
from tests.faults.writers import Writer

Connection = psycopg.Connection[Any]

DATABASE = "faults"
# Seconds that whatever must come about has for it: the machine may be busy with much else.
PATIENCE = 120.0
SHOWN = 5


@dataclass
class Scene:
    """What a kind of fault has at hand. `problems` is what the round found."""

    cluster: Cluster
    folder: Path
    writers: list[Writer]
    chance: random.Random
    sealer: Sealer
    stop: threading.Event = field(default_factory=threading.Event)
    problems: list[str] = field(default_factory=list)
    # Ledgers of what was written beside the writers.
    others: list[Writer] = field(default_factory=list)
    # Of the offset of the server's clock; None: it has the machine's.
    clock: Any = None
    # Transactions with a change that is written and not committed, when the fault came; None: counted at the end.
    open: int | None = None
    # Why the round does not count, whatever was open.
    void: str = ""
    # What more there is to tell of the round.
    told: str = ""
    order: str = BY_CLOCK
    url: str = ""

    def begin(self) -> None:
        """Forget the round before."""
        self.stop, self.problems, self.open = threading.Event(), [], None
        self.void, self.told, self.order, self.url = "", "", BY_CLOCK, self.cluster.url(DATABASE)
        for writer in self.writers:
            writer.forgives, writer.failed = (), Counter()

    @property
    def key_file(self) -> Path:
        return self.folder / "seal.key"

    @property
    def digests(self) -> Path:
        return self.folder / "digests.ndjson"

    @property
    def environment(self) -> dict[str, str]:
        """That of the product's commands."""
        return {
            "DAYBOOK_DATABASE_URL": self.cluster.url(DATABASE),
            "DAYBOOK_SEAL_KEY_FILE": str(self.key_file),
            "DAYBOOK_SEAL_DIGESTS": str(self.digests),
        }

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """A superuser's connection, in autocommit, as soon as the server takes one."""
        end = time.monotonic() + 2 * PATIENCE
        while True:
            try:
                connection = psycopg.connect(self.cluster.url(DATABASE), autocommit=True)
                break
            except psycopg.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
        with connection:
            yield connection

    def note_open(self) -> None:
        """Count the transactions that are open now with a change that is written: the fault comes next."""
        self.open = open_of(self.writers)

    def go_on(self, least: float = 0.1, most: float = 0.5) -> None:
        """Let the writers go on for a while: with the fault, or after it."""
        time.sleep(self.chance.uniform(least, most))

    def forgive(self, *errors: type[psycopg.Error]) -> None:
        """From now on these end a transaction of a writer, and not the round."""
        for writer in self.writers:
            writer.forgives = errors

    def failed(self) -> int:
        """How often writers failed in this round, by what was forgiven."""
        return sum(writer.failed.total() for writer in self.writers)

    def committed(self) -> int:
        """How many transactions were ever answered."""
        return sum(done.state is State.COMMITTED for writer in self.writers for done in list(writer.ledger))

    def eventually(self, what: str, ask: Callable[[], bool]) -> None:
        """Wait for something to be so; a problem of the round when it never is."""
        end = time.monotonic() + PATIENCE
        while not ask():
            if time.monotonic() > end:
                self.problems.append(f"never came about: {what}")
                return
            time.sleep(0.02)


def make_sealer(folder: Path) -> Sealer:
    """A sealer with a key of its own, that keeps its digests in a file."""
    make_key(folder / "seal.key")
    return Sealer(read_signing_key(folder / "seal.key"), Keeper(str(folder / "digests.ndjson")))


def open_of(writers: Iterable[Writer]) -> int:
    last = [writer.ledger[-1] for writer in writers if writer.ledger]
    return sum(transaction.state is State.OPEN and bool(transaction.entries) for transaction in last)


def keep_up(scene: Scene) -> None:
    """Upkeep beside the writers as a service would be, sealing all that it may each time."""
    while not scene.stop.wait(0.2):
        # Whatever the fault is: it comes by again.
        with suppress(psycopg.Error):
            upkeep.maintain(scene.cluster.url(DATABASE), False, sealer=scene.sealer)


# What is asked after each round


@dataclass(frozen=True)
class Below:
    """What lies below the watermark."""

    moment: datetime | None
    entries: int
    changes: int


def below(connection: Connection, moment: datetime | None = None) -> Below:
    """What lies below the watermark as it is, or as it was."""
    if moment is None:
        row = connection.execute("select moment from audit.watermark").fetchone()
        moment = row[0] if row else None
    counts = [
        connection.execute(f"select count(*) from audit.{table} where created_at < %s".encode(), [moment]).fetchall()
        for table in ("entry", "change")
    ]
    return Below(moment, counts[0][0][0], counts[1][0][0])


def let_writers_end(connection: Connection) -> None:
    """Wait until the server has noticed that they are gone, and has taken back what they had not committed."""
    others = "select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"  # noqa: E501
    end = time.monotonic() + PATIENCE
    while connection.execute(others).rowcount:
        if time.monotonic() > end:
            raise RuntimeError("connections of writers do not end")
        time.sleep(0.01)


def examine(scene: Scene, connection: Connection, earlier: Below) -> tuple[Found, int]:
    """Ask all that must hold after a fault, whichever it was; return what the comparison and the witness saw."""
    found = compare(connection, [*scene.writers, *scene.others], scene.order)
    scene.problems += found.problems
    misfits: list[str] = []
    witnessed = witness.run(connection, lambda misfit: misfits.append(f"the witness: {misfit}"))
    # An empty table that is truncated leaves no entry.
    scene.problems += [misfit for misfit in misfits if ": doubtful: TRUNCATE of public.scratch_" not in misfit]
    if earlier.moment and (now := below(connection, earlier.moment)) != earlier:
        scene.problems.append(f"what lay below the watermark changed: {earlier} is {now}")
    scene.problems += look_at_upkeep(scene, connection, earlier.moment)
    scene.problems += look_at_seals(scene, connection)
    return found, witnessed.rows


def look_at_upkeep(scene: Scene, connection: Connection, earlier: datetime | None) -> Iterator[str]:
    """The next run ends without a problem, and the watermark passes all that is written."""
    newest = value(connection, "select max(created_at) from audit.entry")
    run = upkeep.maintain(scene.cluster.url(DATABASE), sealer=scene.sealer)
    if run.problem or not run.ran:
        yield f"upkeep: {run.problem or 'another run is at work'}"
    end = time.monotonic() + PATIENCE
    # Autovacuum's transactions hold the watermark back as any other's.
    while not (moment := value(connection, "select moment from audit.watermark")) or moment <= newest:
        if time.monotonic() > end:
            yield f"the watermark stays at {moment}, and the newest entry is of {newest}"
            return
        time.sleep(0.05)
        upkeep.maintain(scene.cluster.url(DATABASE), False, sealer=scene.sealer)
    if earlier and moment <= earlier:
        yield f"the watermark was {earlier} and is {moment}"
    late = value(connection, "select audit.upkeep_status() ->> 'is_late'")
    if late != "false":
        yield "upkeep is late"


def look_at_seals(scene: Scene, connection: Connection) -> Iterator[str]:
    """All that is final is sealed, and everything that was sealed verifies, by key and by the digests kept outside."""
    # The run before may have sealed up to an earlier watermark.
    upkeep.maintain(scene.cluster.url(DATABASE), False, sealer=scene.sealer)
    newest = value(connection, "select max(created_at) from audit.entry where operation <> 'EVENT'")
    key = read_public_key(scene.key_file)
    result = verification.verify(scene.cluster.url(DATABASE), digests=scene.digests, public_keys=[key], processes=1)
    yield from (f"verify: {misfit.kind}: {misfit.detail}" for misfit in result.misfits[:SHOWN])
    if result.sealed_until is None or (newest and result.sealed_until <= newest):
        yield f"sealed until {result.sealed_until}, and the newest entry is of {newest}"
    if not result.blocks == result.signed == result.kept:
        yield f"of {result.blocks} blocks {result.signed} are signed, {result.kept} are kept"


def value(connection: Connection, query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None
