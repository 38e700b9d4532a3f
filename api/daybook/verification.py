"""Verification computes the digests of all blocks again, from the rows as they are now, and names what does not fit.

It calls no function of schema audit but the one that notes the result, and believes nothing that the database says of
itself: a superuser who forges entries can forge seals and functions too.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import psycopg
from psycopg import Connection, sql
from psycopg.errors import InsufficientPrivilege, UndefinedTable

from .database import connect
from .digests import COLUMNS, Seal, read_digests
from .leaves import Leaf, Tree, key_of_moment, prepare, read_leaves
from .signing import PublicKey, SealError

Kind = Literal["changed", "missing", "added", "reordered", "truncated", "replaced", "unsigned"]
# What is named of what does not fit; the rest is counted.
MOST_MISFITS = 1000
# Fewer entries are computed in this process: starting others takes longer.
WORTH_PROCESSES = 100_000


@dataclass(frozen=True, slots=True)
class Misfit:
    """One thing that does not fit; `block` is a sequence number, `entry_id` a UUID where one can be named."""

    kind: Kind
    detail: str
    block: int | None = None
    entry_id: str | None = None
    workspace_id: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The object that `verify --json` prints and the database keeps."""
        return {name: getattr(self, name) for name in ("kind", "block", "entry_id", "workspace_id", "detail")}


@dataclass(frozen=True, slots=True)
class Dropped:
    """Blocks of a day that retention dropped; `is_told` when its day_dropped entry stands and fits."""

    first: int
    last: int
    lower_bound: datetime
    upper_bound: datetime
    entries: int
    is_told: bool


@dataclass(slots=True)
class Result:
    """What was computed again, and what did not fit."""

    blocks: int = 0
    entries: int = 0
    changes: int = 0
    verified_from: datetime | None = None
    verified_until: datetime | None = None
    sealed_until: datetime | None = None
    signed: int = 0
    kept: int = 0
    dropped: list[Dropped] = field(default_factory=list)
    misfits: list[Misfit] = field(default_factory=list)
    misfit_count: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether everything does."""
        return not self.misfit_count

    def meet(self, *misfits: Misfit) -> None:
        """Note misfits: the first of them by name."""
        self.misfit_count += len(misfits)
        self.misfits += misfits[: max(0, MOST_MISFITS - len(self.misfits))]

    def as_json(self) -> dict[str, Any]:
        """The object that `verify --json` prints."""
        moments = {
            name: _isoformat(getattr(self, name)) for name in ("verified_from", "verified_until", "sealed_until")
        }
        return {
            "fits": self.fits,
            **{name: getattr(self, name) for name in ("blocks", "entries", "changes")},
            **moments,
            "signatures": self.signed,
            "kept_digests": self.kept,
            "dropped": [
                {
                    "blocks": [day.first, day.last],
                    "from": _isoformat(day.lower_bound),
                    "until": _isoformat(day.upper_bound),
                    "entries": day.entries,
                    "is_told": day.is_told,
                }
                for day in self.dropped
            ],
            "misfit_count": self.misfit_count,
            "misfits": [misfit.as_json() for misfit in self.misfits],
            "notes": self.notes,
        }


def _isoformat(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z") if moment else None


@dataclass(frozen=True, slots=True)
class Partition:
    """A day partition of audit.entry, as the catalogue bounds it."""

    name: str
    lower_bound: datetime
    upper_bound: datetime


@dataclass(slots=True)
class Stretch:
    """Blocks that follow each other and lie in one partition (none: it is gone)."""

    partition: Partition | None
    first: int
    last: int
    lower_bound: datetime
    upper_bound: datetime
    entries: int
    changes: int
    last_digest: bytes
    dropped_at: datetime | None

    def takes(self, seal: Seal, partition: Partition | None, dropped_at: datetime | None) -> bool:
        """Whether a block goes on with it; if so, it does now."""
        if partition is not self.partition or (partition is None and dropped_at != self.dropped_at):
            return False
        self.last, self.upper_bound, self.last_digest = seal.sequence, seal.upper_bound, seal.digest
        self.entries += seal.entries
        self.changes += seal.changes
        return True


def verify(
    conninfo: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    digests: Path | None = None,
    public_keys: Sequence[PublicKey] = (),
    processes: int | None = None,
    on_progress: Callable[[int, int], object] = lambda *_: None,
) -> Result:
    """Compute the blocks between two moments again; the chain of seals is looked at whole.

    `digests` is a file or folder of digests that were kept elsewhere. With `public_keys` each block must be signed by
    one of them or be kept there. `processes` is how many compute (as many as there are cores); `on_progress` gets how
    many entries are done and how many there are. The login is a member of audit_dba or audit_maintainer, or a
    superuser. Raises SealError for digests that cannot be read, and psycopg.Error.
    """
    kept = _read_kept(digests) if digests else None
    result = Result()
    with connect(conninfo, autocommit=True) as connection:
        become_reader(connection)
        partitions = _partitions(connection)
        chain = _Chain(result, {key.fingerprint: key for key in public_keys}, kept)
        stretches = list(_stretches(connection, chain, partitions))
        chain.finish()
        asked = [
            stretch
            for stretch in stretches
            if (since is None or stretch.upper_bound > since) and (until is None or stretch.lower_bound < until)
        ]
        standing = [stretch for stretch in asked if stretch.partition]
        _compute(conninfo, standing, result, processes, on_progress)
        _look_again(connection, [stretch for stretch in standing if not stretch.partition])
        gone = [stretch for stretch in stretches if not stretch.partition]
        _judge_dropped(connection, gone, partitions, asked, result)
        if stretches and (since is None or stretches[0].lower_bound > since):
            _look_before(connection, partitions, stretches[0].lower_bound, result)
    _find_moved(result)
    if standing:
        result.verified_from, result.verified_until = standing[0].lower_bound, standing[-1].upper_bound
    return result


def note(conninfo: str, result: Result) -> str | None:
    """Have the database note a result; return why it did not."""
    misfits = json.dumps([misfit.as_json() for misfit in result.misfits])
    try:
        with connect(conninfo) as connection:
            connection.execute(
                "select audit.note_verification(%s, %s, %s, %s, %s, %s)",
                [
                    result.verified_from,
                    result.verified_until,
                    result.blocks,
                    result.entries,
                    result.misfit_count,
                    misfits,
                ],
            )
    except psycopg.Error as error:
        return error.diag.message_primary or str(error).strip()
    return None


def become_reader(connection: Connection[Any]) -> None:
    """Make a connection see every entry, or raise InsufficientPrivilege: with less all would seem to be missing."""
    row = connection.execute(
        "select pg_catalog.pg_has_role(r.oid, 'usage'), pg_catalog.pg_has_role(o.oid, 'member')"
        " from pg_catalog.pg_roles r, pg_catalog.pg_roles o where r.rolname = 'audit_dba' and o.rolname = 'audit_owner'"
    ).fetchone()
    if row is None:
        raise UndefinedTable
    if not row[0]:
        if not row[1]:
            raise InsufficientPrivilege("the login may not read all of the log")
        connection.execute("set role audit_owner")
    prepare(connection)


def _partitions(connection: Connection[Any]) -> list[Partition]:
    """The partitions of audit.entry, from the catalogue: a view could leave some out."""
    rows = connection.execute(
        """
        select c.relname::pg_catalog.text,
               (pg_catalog.regexp_match(b.expression, 'FROM \\(''([^'']+)''\\)'))[1]::pg_catalog.timestamptz,
               (pg_catalog.regexp_match(b.expression, 'TO \\(''([^'']+)''\\)'))[1]::pg_catalog.timestamptz
        from pg_catalog.pg_inherits i
        join pg_catalog.pg_class c on c.oid = i.inhrelid
        join pg_catalog.pg_class p on p.oid = i.inhparent
        join pg_catalog.pg_namespace n on n.oid = p.relnamespace
        cross join lateral (select pg_catalog.pg_get_expr(c.relpartbound, c.oid) as expression) b
        where n.nspname = 'audit' and p.relname = 'entry' and c.relkind = 'r'
        union all
        -- Past retention, detached by upkeep and not dropped yet.
        select c.relname::pg_catalog.text, d.start, d.start + interval '1 day'
        from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        cross join lateral (
            select case when c.relname ~ '^entry_[0-9]{8}$'
                   then pg_catalog.to_date(pg_catalog.right(c.relname, 8), 'YYYYMMDD')::timestamp at time zone 'UTC' end
                   as start) d
        where n.nspname = 'audit' and c.relkind = 'r' and not c.relispartition
          and d.start < (select u.oldest_day::timestamp at time zone 'UTC' from audit.upkeep u)
        order by 2"""
    ).fetchall()
    end = datetime.max.replace(tzinfo=UTC)
    return [
        Partition(name, lower.astimezone(UTC), upper.astimezone(UTC) if upper else end) for name, lower, upper in rows
    ]


def _stretches(connection: Connection[Any], chain: _Chain, partitions: list[Partition]) -> Iterator[Stretch]:
    """All blocks in their order, those of a partition together."""
    borders = [partition.lower_bound for partition in partitions]
    stretch: Stretch | None = None
    for seal, dropped_at in _seals(connection):
        chain.follow(seal)
        number = bisect_right(borders, seal.lower_bound) - 1
        partition = partitions[number] if number >= 0 and seal.lower_bound < partitions[number].upper_bound else None
        if stretch is None or not stretch.takes(seal, partition, dropped_at):
            if stretch:
                yield stretch
            stretch = Stretch(
                partition, seal.sequence, seal.sequence, seal.lower_bound, seal.upper_bound, seal.entries,
                seal.changes, seal.digest, dropped_at,
            )  # fmt: skip
    if stretch:
        yield stretch


def _seals(connection: Connection[Any]) -> Iterator[tuple[Seal, datetime | None]]:
    with connection.transaction(), connection.cursor("seals") as cursor:
        cursor.itersize = 2000
        cursor.execute(f"select {COLUMNS}, dropped_at from audit.seal order by sequence".encode())
        for row in cursor:
            yield Seal(*row[:-1]), row[-1]


def _read_kept(place: Path) -> dict[int, set[bytes]]:
    """The digests that were kept of each block: more than one where the chain was replaced in between."""
    kept: dict[int, set[bytes]] = {}
    for seal in read_digests(place):
        kept.setdefault(seal.sequence, set()).add(seal.digest if seal.fits else b"")
    if not kept:
        raise SealError(f"{place} holds no digest")
    return kept


class _Chain:
    """The chain of seals as it is read: numbers, bounds, digests, signatures, and what was kept elsewhere."""

    def __init__(self, result: Result, keys: Mapping[bytes, PublicKey], kept: dict[int, set[bytes]] | None) -> None:
        self._result = result
        self._keys = keys
        self._kept = kept
        self._last: Seal | None = None
        self._unsigned: list[int] = []
        self._unkept: list[int] = []

    def follow(self, seal: Seal) -> None:
        """Look at the next seal."""
        last, number = self._last, seal.sequence
        self._last = seal
        expected = last.sequence + 1 if last else 1
        if number != expected:
            self._result.meet(Misfit("missing", f"the seals of blocks {expected} to {number - 1} are gone", expected))
        elif last and seal.previous_digest != last.digest:
            self._result.meet(Misfit("replaced", "its seal does not follow the one before", number))
        if last and number == expected and seal.lower_bound != last.upper_bound:
            self._result.meet(Misfit("replaced", "it does not begin where the block before ends", number))
        if not seal.fits:
            self._result.meet(Misfit("replaced", "its seal was altered: the digest is not of what it says", number))
        self._compare(seal)
        self._result.sealed_until = seal.upper_bound

    def _compare(self, seal: Seal) -> None:
        kept = self._kept.get(seal.sequence) if self._kept is not None else None
        if kept is not None:
            self._result.kept += 1
            if kept != {seal.digest}:
                self._result.meet(Misfit("replaced", "its seal is not the one that was kept elsewhere", seal.sequence))
        elif self._kept is not None:
            self._unkept.append(seal.sequence) if len(self._unkept) < 2 else self._unkept.__setitem__(1, seal.sequence)
        if not self._keys:
            return
        key = self._keys.get(seal.key_fingerprint or b"")
        if key and seal.signature and key.holds(seal.signature, seal.digest):
            self._result.signed += 1
        elif seal.signature is None:
            if kept is None:
                self._unsigned.append(seal.sequence)
        else:
            what = "its signature does not hold" if key else "it is signed by a key that was not given"
            self._result.meet(Misfit("replaced", what, seal.sequence))

    def finish(self) -> None:
        """Say what the end of the chain shows."""
        last = self._last.sequence if self._last else 0
        if self._unsigned:
            first = self._unsigned[0]
            what = f"{len(self._unsigned)} blocks from block {first} on are neither signed nor kept elsewhere"
            self._result.meet(Misfit("unsigned", what, first))
        if self._kept is not None:
            beyond = sorted(number for number in self._kept if number > last)
            if beyond:
                what = f"blocks {beyond[0]} to {beyond[-1]} were kept elsewhere and are gone: the log was set back"
                self._result.meet(Misfit("truncated", what, beyond[0]))
            if self._unkept:
                self._result.notes.append(f"blocks {self._unkept[0]} to {self._unkept[-1]} are not all kept elsewhere")
        if not self._keys and self._last and self._last.signature:
            self._result.notes.append("signatures were not looked at: no public key was given")


def _compute(
    conninfo: str,
    stretches: list[Stretch],
    result: Result,
    processes: int | None,
    on_progress: Callable[[int, int], object],
) -> None:
    """Compute the blocks again, those of each partition in one go, in several processes where that is worth it."""
    count = sum(stretch.entries for stretch in stretches)
    on_progress(0, count)
    done = 0

    def add(stretch: Stretch, part: Result | None) -> None:
        nonlocal done
        if part is None:
            stretch.partition = None
            return
        result.blocks += part.blocks
        result.entries += part.entries
        result.changes += part.changes
        result.misfit_count += part.misfit_count - len(part.misfits)
        result.meet(*part.misfits)
        done += part.entries
        on_progress(min(done, count), count)

    workers = min(processes or os.cpu_count() or 1, len(stretches))
    if workers < 2 or (processes is None and count < WORTH_PROCESSES):
        with ExitStack() as opened:
            connections = _open(opened, conninfo)
            for stretch in stretches:
                add(stretch, compute(connections, stretch))
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=_begin_process, initargs=(conninfo,)) as pool:
        # A few at a time, so that an interrupted run ends soon.
        waiting = iter(stretches)
        running: dict[Future[Result | None], Stretch] = {}
        try:
            while True:
                for stretch in islice(waiting, 2 * workers - len(running)):
                    running[pool.submit(_compute_in_process, stretch)] = stretch
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    add(running.pop(future), future.result())
        finally:
            for future in running:
                future.cancel()


_of_process: list[Connection[Any]] = []


def _begin_process(conninfo: str) -> None:
    # Interrupted with its parent, a process ends without a word.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _of_process.extend(_open(ExitStack(), conninfo))


def _compute_in_process(stretch: Stretch) -> Result | None:
    return compute(_of_process, stretch)


def _open(opened: ExitStack, conninfo: str) -> list[Connection[Any]]:
    """The three connections that computing takes: for entries, for changes, for seals."""
    connections = [opened.enter_context(connect(conninfo, autocommit=True)) for _ in range(3)]
    for connection in connections:
        become_reader(connection)
    return connections


def compute(connections: Sequence[Connection[Any]], stretch: Stretch) -> Result | None:
    """Compute the blocks of one partition again, and compare them with their seals; None when it is gone by now."""
    result = Result()
    assert stretch.partition
    name, lower, upper = stretch.partition.name, stretch.lower_bound, stretch.upper_bound
    query = f"select {COLUMNS} from audit.seal where sequence between %s and %s order by sequence"
    seals = [Seal(*row) for row in connections[2].execute(query.encode(), [stretch.first, stretch.last]).fetchall()]
    try:
        leaves = _Ahead(read_leaves(connections[0], connections[1], name, lower, upper))
        for seal in seals:
            tree = leaves.until(key_of_moment(seal.upper_bound))
            result.blocks += 1
            result.entries += tree.entries
            result.changes += tree.changes
            if (tree.entries, tree.changes, tree.root()) != (seal.entries, seal.changes, seal.root):
                result.meet(*_misfits(connections[2], name, seal, tree))
        leaves.finish()
    except UndefinedTable:
        return None
    return result


class _Ahead:
    """Leaves, taken a block at a time."""

    def __init__(self, leaves: Iterator[Leaf]) -> None:
        self._leaves = leaves
        self._next = next(leaves, None)

    def until(self, end: bytes) -> Tree:
        """The leaves before this key."""
        tree = Tree()
        leaf = self._next
        while leaf is not None and leaf.key < end:
            tree.add(leaf)
            leaf = next(self._leaves, None)
        self._next = leaf
        return tree

    def finish(self) -> None:
        """Read to the end, so that the connections can be asked again."""
        for _ in self._leaves:
            pass


def _misfits(connection: Connection[Any], partition: str, seal: Seal, tree: Tree) -> list[Misfit]:
    """What of a block does not fit, by the keys of its entries that were kept beside its seal."""
    row = connection.execute("select entry_keys from audit.seal where sequence = %s", [seal.sequence]).fetchone()
    sealed = _pieces(row[0] if row and row[0] else b"")
    found = _pieces(tree.entry_keys)
    common = [entry for entry in found if entry in sealed]
    order = {entry: number for number, entry in enumerate(entry for entry in sealed if entry in found)}
    kinds: dict[bytes, Kind] = {entry: "missing" for entry in sealed if entry not in found}
    kinds |= {entry: "added" for entry in found if entry not in sealed}
    for number, entry in enumerate(common):
        if found[entry] != sealed[entry]:
            kinds[entry] = "changed" if order[entry] == number else "reordered"
    if not kinds:
        counts = f"{seal.entries} entries and {seal.changes} changed rows were sealed, there are {tree.entries} and"
        what = f"its digest is another, by an entry that cannot be named: {counts} {tree.changes}"
        return [Misfit("changed", what, seal.sequence)]
    rows = connection.execute(
        sql.SQL("select id, workspace_id from {} where id = any(%s)").format(sql.Identifier("audit", partition)),
        [[UUID(bytes=entry) for entry in kinds]],
    ).fetchall()
    workspaces = {entry.bytes: workspace for entry, workspace in rows}
    said = {
        "missing": "it was sealed and is gone",
        "added": "it was not there when its block was sealed",
        "changed": "it or one of its changed rows is not as it was sealed",
        "reordered": "it is not as it was sealed, and stands elsewhere in its block",
    }
    return [
        Misfit(kind, said[kind], seal.sequence, str(UUID(bytes=entry)), workspaces.get(entry))
        for entry, kind in kinds.items()
    ]


def _pieces(entry_keys: bytes) -> dict[bytes, bytes]:
    return {entry_keys[at : at + 16]: entry_keys[at + 16 : at + 20] for at in range(0, len(entry_keys), 20)}


def _judge_dropped(
    connection: Connection[Any], gone: list[Stretch], partitions: list[Partition], asked: list[Stretch], result: Result
) -> None:
    """Tell days that retention dropped from those that somebody else did, the newest first.

    Retention leaves an entry with the day's last digest. Once that entry has been dropped as well, it is believed when
    the day that held it was dropped with such an entry.
    """
    told = _told(connection)
    believed: list[Stretch] = []
    days: list[Dropped] = []
    for stretch in reversed(gone):
        if not stretch.entries and not stretch.changes and not stretch.dropped_at:
            # No day stood there, nothing was lost.
            continue
        entries = told.get(stretch.last_digest.hex())
        is_told = entries == stretch.entries
        if is_told or _was_dropped_with(stretch.dropped_at, partitions, believed):
            believed.append(stretch)
        if stretch not in asked:
            continue
        if stretch in believed and (is_told or entries is None):
            days.append(
                Dropped(stretch.first, stretch.last, stretch.lower_bound, stretch.upper_bound, stretch.entries, is_told)
            )
            continue
        what = f"blocks {stretch.first} to {stretch.last}, {stretch.lower_bound:%Y-%m-%d}, {stretch.entries} entries: "
        if entries is not None:
            what += f"when retention dropped them they were {entries}"
        else:
            what += "their day is gone, and no entry says that retention dropped it"
        result.meet(Misfit("missing", what, stretch.first))
    result.dropped = days[::-1]


def _look_again(connection: Connection[Any], dropped_meanwhile: list[Stretch]) -> None:
    """When these days were dropped, which stood when this run began."""
    for stretch in dropped_meanwhile:
        query = "select max(dropped_at) from audit.seal where sequence between %s and %s"
        row = connection.execute(query, [stretch.first, stretch.last]).fetchone()
        stretch.dropped_at = row[0] if row else None


def _told(connection: Connection[Any]) -> dict[str, int]:
    """The entries of each day that was dropped, by its last digest, as its day_dropped entry has it."""
    rows = connection.execute(
        "select context -> 'details' ->> 'digest', (context -> 'details' ->> 'entries')::pg_catalog.int8"
        " from audit.entry where workspace_id is null and resource_type = 'audit_log' and event = 'day_dropped'"
    ).fetchall()
    return {digest: entries for digest, entries in rows if digest}


def _was_dropped_with(dropped_at: datetime | None, partitions: list[Partition], believed: list[Stretch]) -> bool:
    """Whether the entry about a day dropped then was in a day that was itself dropped."""
    if dropped_at is None or any(day.lower_bound <= dropped_at < day.upper_bound for day in partitions):
        return False
    return any(day.lower_bound <= dropped_at < day.upper_bound for day in believed)


def _look_before(connection: Connection[Any], partitions: list[Partition], border: datetime, result: Result) -> None:
    """Entries before the first block were added since: it began with the oldest day."""
    for partition in partitions:
        if partition.lower_bound >= border:
            break
        row = connection.execute(
            sql.SQL("select count(*) from {} where created_at < %s").format(sql.Identifier("audit", partition.name)),
            [border],
        ).fetchone()
        if row and row[0]:
            what = f"{row[0]} entries stand before the first block, in {partition.name}"
            result.meet(Misfit("added", what))


def _find_moved(result: Result) -> None:
    """An entry that is gone from one block and was added to another stands elsewhere."""
    gone = {misfit.entry_id: misfit for misfit in result.misfits if misfit.kind == "missing" and misfit.entry_id}
    came = {misfit.entry_id for misfit in result.misfits if misfit.kind == "added" and misfit.entry_id in gone}
    moved = [
        replace(misfit, kind="reordered", detail=f"it was sealed in block {gone[misfit.entry_id].block}")
        if misfit.kind == "added" and misfit.entry_id in came
        else misfit
        for misfit in result.misfits
        if not (misfit.kind == "missing" and misfit.entry_id in came)
    ]
    result.misfit_count -= len(result.misfits) - len(moved)
    result.misfits = moved
