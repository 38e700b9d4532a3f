"""Seals adds blocks to the chain of seals, up to the watermark, and has their digests kept elsewhere.

It holds no lock that capture waits for: it reads day partitions, and locks the table of seals alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psycopg import Connection
from psycopg.errors import ObjectNotInPrerequisiteState

from .database import connect
from .digests import COLUMNS, Keeper, Seal
from .leaves import MOST_LEAVES, Block, Leaf, Tree, moment_of_key, prepare, read_leaves
from .signing import SealError, SigningKey, read_signing_key

# A service seals stretches of this length at least, and on a day without entries of that one.
SEALED_IN_SERVICE, SEALED_WHEN_IDLE = "1 minute", "1 hour"
# Seconds after which a service leaves further days to the runs that follow.
LONGEST_IN_SERVICE = 2.0
_KEPT_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Sealer:
    """How blocks are sealed: with which key (None: not signed), and where digests are kept (None: nowhere)."""

    key: SigningKey | None = None
    keeper: Keeper | None = None

    @classmethod
    def of(cls, key_file: Path | None, digests: str | None) -> Sealer:
        """The sealer of these settings. Raises SealError."""
        return cls(read_signing_key(key_file) if key_file else None, Keeper(digests) if digests else None)


@dataclass(slots=True)
class Sealed:
    """What one run sealed; `until` is the end of the last block, sealed by whichever run."""

    blocks: int = 0
    entries: int = 0
    changes: int = 0
    until: datetime | None = None


def seal(
    conninfo: str, sealer: Sealer, *, in_service: bool = False, on_progress: Callable[[Sealed], object] = lambda _: None
) -> Sealed:
    """Seal all that is final and not sealed. Several at once are safe: one goes on, the others end.

    `in_service` seals no stretch shorter than SEALED_IN_SERVICE and leaves what takes long to the runs that follow. The
    login is a member of audit_maintainer, or a superuser. Raises SealError when the chain is not the one that this key
    signed or that was kept elsewhere, and psycopg.Error.
    """
    done = Sealed()
    least = [SEALED_IN_SERVICE, SEALED_WHEN_IDLE] if in_service else ["0", "0"]
    begun = time.monotonic()
    with ExitStack() as connections:
        connection = connections.enter_context(connect(conninfo, autocommit=True))
        last = _find_seal(connection, "order by sequence desc limit 1")
        _refuse_another_chain(connection, sealer, last)
        keeps = sealer.keeper if sealer.keeper and sealer.keeper.remembers else None
        if keeps:
            _keep_up(connection, keeps)
        done.until = last.upper_bound if last else None
        readers: list[Connection[Any]] = []
        while stretch := connection.execute("select * from audit.seal_bounds(%s, %s)", least).fetchone():
            if not readers:
                readers = [_reader(connections, conninfo) for _ in range(2)]
            partition, lower, upper = stretch
            leaves = read_leaves(readers[0], readers[1], partition, lower, upper)
            for block, entry_keys in _blocks(leaves, last, lower, upper):
                last = _sealed(sealer, block)
                try:
                    _add(connection, last, entry_keys)
                except ObjectNotInPrerequisiteState:
                    return done
                if sealer.keeper:
                    sealer.keeper.keep([last])
                done.blocks += 1
                done.entries += block.entries
                done.changes += block.changes
                done.until = block.upper_bound
                on_progress(done)
            if in_service and time.monotonic() - begun > LONGEST_IN_SERVICE:
                break
    return done


def is_due(connection: Connection[Any]) -> bool:
    """Whether a service has something to seal by now."""
    query = "select from audit.seal_bounds(%s, %s)"
    return connection.execute(query, [SEALED_IN_SERVICE, SEALED_WHEN_IDLE]).fetchone() is not None


def _reader(connections: ExitStack, conninfo: str) -> Connection[Any]:
    connection = connections.enter_context(connect(conninfo, autocommit=True))
    # No role but the owner reads all of the log and may be taken by upkeep's login.
    connection.execute("set role audit_owner")
    prepare(connection)
    return connection


def _blocks(
    leaves: Iterator[Leaf], last: Seal | None, lower: datetime, upper: datetime
) -> Iterator[tuple[Block, bytes]]:
    """The blocks of a stretch, chained, each with the keys of its entries."""
    sequence = last.sequence + 1 if last else 1
    # Random, so that no two logs have one chain.
    previous = last.digest if last else os.urandom(32)
    tree = Tree()
    for leaf in leaves:
        if len(tree.keys) >= MOST_LEAVES and leaf.key[:8] != tree.keys[-1][:8]:
            border = moment_of_key(leaf.key)
            block = _block(tree, sequence, previous, lower, border)
            yield block, tree.entry_keys
            sequence, previous, lower, tree = sequence + 1, block.digest, border, Tree()
        tree.add(leaf)
    yield _block(tree, sequence, previous, lower, upper), tree.entry_keys


def _block(tree: Tree, sequence: int, previous: bytes, lower: datetime, upper: datetime) -> Block:
    return Block(sequence, lower, upper, datetime.now(UTC), tree.entries, tree.changes, tree.root(), previous)


def _sealed(sealer: Sealer, block: Block) -> Seal:
    digest = block.digest
    signed = (sealer.key.public.fingerprint, sealer.key.sign(digest)) if sealer.key else (None, None)
    return Seal(
        block.sequence, block.lower_bound, block.upper_bound, block.sealed_at, block.entries, block.changes, block.root,
        block.previous_digest, digest, *signed,
    )  # fmt: skip


def _add(connection: Connection[Any], seal: Seal, entry_keys: bytes) -> None:
    connection.execute("select audit.add_seal(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %b)", [*seal, entry_keys])


def _find_seal(connection: Connection[Any], which: str, parameters: list[Any] | None = None) -> Seal | None:
    query = f"select {COLUMNS} from audit.seal {which}"
    row = connection.execute(query.encode(), parameters).fetchone()
    return Seal(*row) if row else None


def _refuse_another_chain(connection: Connection[Any], sealer: Sealer, last: Seal | None) -> None:
    """A forger's chain must not be gone on with: what this key signs would cover it."""
    if last and not last.fits:
        raise SealError(f"block {last.sequence}, the last one, was altered: its digest is not of what it says")
    if (
        last and sealer.key and last.signature and last.key_fingerprint == sealer.key.public.fingerprint
        and not sealer.key.public.holds(last.signature, last.digest)
    ):  # fmt: skip
        raise SealError(f"block {last.sequence}, the last one, was altered: its signature is not this key's")
    kept = sealer.keeper.last() if sealer.keeper and sealer.keeper.remembers else None
    if kept is None:
        return
    found = _find_seal(connection, "where sequence = %s", [kept.sequence])
    place = sealer.keeper.place if sealer.keeper else ""
    if found is None:
        raise SealError(
            f"{place} keeps block {kept.sequence}, and the database ends with block {last.sequence if last else 0}:"
            " it was set back. If that was a restore, keep the digests that were, and name another place"
        )
    if found.digest != kept.digest:
        raise SealError(f"block {kept.sequence} is not the one that {place} keeps: the chain was replaced")


def _keep_up(connection: Connection[Any], keeper: Keeper) -> None:
    """Keep what an earlier run sealed and did not live to keep."""
    last = keeper.last()
    sequence = last.sequence if last else 0
    while True:
        query = f"select {COLUMNS} from audit.seal where sequence > %s order by sequence limit {_KEPT_AT_ONCE}"
        seals = [Seal(*row) for row in connection.execute(query.encode(), [sequence]).fetchall()]
        if not seals:
            return
        keeper.keep(seals)
        sequence = seals[-1].sequence
