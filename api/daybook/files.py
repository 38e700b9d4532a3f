"""Files writes an export to a file or wherever else bytes go, straight from the database: what `daybook export` does.

It holds no query and no format, and prints nothing but the progress bar.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal, TextIO

from . import queries
from .addresses import Pairs
from .authentication import Identity
from .credentials import Reader, Visitor
from .database import Database
from .exports import CSV_EXPANSIONS, compress, write_csv, write_ndjson
from .parameters import given_filters, parse_listing
from .settings import Settings

NAME = "daybook export"
FORMATS = ("ndjson", "csv")
# Seconds between two looks of the progress bar.
_PACE = 0.1
_BAR = 30


class ExportError(Exception):
    """An export cannot be made, or its file not be written; the text is a sentence."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be exported, and for whom: `login` is the database login, `name` the one shown beside it."""

    workspace_id: str
    login: str
    name: str
    format: Literal["ndjson", "csv"]
    gzip: bool
    query: Pairs


@contextmanager
def whole_file(path: Path, *, replaces: bool) -> Iterator[BinaryIO]:
    """A new file which gets its name when the block has ended well and is gone when it has not; its owner's alone.

    Raises ExportError when a file of that name stands there, unless this one `replaces` it, or it cannot be written.
    """
    # Where it leads to: a link is not replaced by what it names.
    target = path.resolve()
    _refuse_taken(path, target, replaces)
    try:
        number, name = tempfile.mkstemp(prefix=f".{target.name[:50]}.", suffix=".part", dir=target.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    temporary = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(number)
        _give_name(temporary, target, replaces)
    except FileExistsError:
        raise _taken(path) from None
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _refuse_taken(path: Path, target: Path, replaces: bool) -> None:
    if target.exists() and not target.is_file():
        raise ExportError(f"{path} is no ordinary file; --output - writes to standard output")
    if target.exists() and not replaces:
        raise _taken(path)


def _taken(path: Path) -> ExportError:
    return ExportError(f"{path} is there already; --force replaces it")


def _give_name(temporary: Path, target: Path, replaces: bool) -> None:
    if not replaces:
        # Unlike a rename, a link never takes the place of what came there meanwhile.
        try:
            os.link(temporary, target)
            return
        except FileExistsError:
            raise
        except OSError:
            # A file system without links.
            if target.exists():
                raise FileExistsError from None
    temporary.replace(target)


def _unwritable(path: Path, error: OSError) -> ExportError:
    return ExportError(f"cannot write to {path}: {error.strerror or error}")


async def export(
    settings: Settings, order: Order, write: Callable[[bytes], object], on_progress: Callable[[int, int], object]
) -> int:
    """Write an export, recorded as each is, and return the number of its entries; `on_progress` gets done and all.

    Raises WrongParameters, Unreadable, ExportError for a login that the log cannot name, and what `write` raises;
    CancelledError after SIGTERM or SIGHUP.
    """
    database = Database(
        settings.conninfo,
        pool_size=1,
        patience=settings.pool_timeout,
        statement_timeout=settings.statement_timeout,
        application_name=NAME,
    )
    identity = _identity(order)
    await database.open()
    try:
        with _ended_by_signals():
            reader = replace(await queries.read_reader(database, identity, Visitor(None, NAME)), type="service")
            return await _write(settings, order, database, reader, write, on_progress)
    finally:
        await database.close()


async def _write(
    settings: Settings,
    order: Order,
    database: Database,
    reader: Reader,
    write: Callable[[bytes], object],
    on_progress: Callable[[int, int], object],
) -> int:
    listing = parse_listing(order.query, reader, paged=False)
    is_csv = order.format == "csv"
    asked = replace(listing, expand=CSV_EXPANSIONS) if is_csv else listing
    with_changes = not is_csv and "changes" in listing.expand
    given = given_filters(order.query)
    async with queries.exporting(database, reader, asked, given, with_changes=with_changes) as whole:
        counted = replace(whole, batches=_counted(whole, on_progress))
        pieces = write_csv(counted) if is_csv else write_ndjson(counted, _base(settings), listing.expand)
        async with aclosing(compress(pieces) if order.gzip else pieces) as written:
            async for piece in written:
                write(piece)
        return whole.count


def _identity(order: Order) -> Identity:
    identity = Identity(order.login, order.name, order.workspace_id, "auditor")
    try:
        identity.require_nameable()
    except ValueError:
        raise ExportError(f"the log cannot name the database login {order.login!r}; use another") from None
    return identity


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP cancel this task, unless whoever started the process has them ignored (nohup)."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in heard:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])


async def _counted(
    export: queries.Export, on_progress: Callable[[int, int], object]
) -> AsyncGenerator[Sequence[queries.Exported], None]:
    done = 0
    on_progress(done, export.count)
    async for batch in export.batches:
        yield batch
        done += len(batch)
        on_progress(done, export.count)


def _base(settings: Settings) -> str:
    """Where the app would serve by these settings: absolute URLs begin so."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return settings.public_url or f"http://{host}:{settings.port}"


@contextmanager
def quiet() -> Iterator[None]:
    """What the app logs of a failure is said by the command, in a sentence of its own."""
    silence = logging.NullHandler()
    loggers = [logging.getLogger(name) for name in ("daybook", "psycopg")]
    for logger in loggers:
        logger.addHandler(silence)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(silence)


class Progress:
    """A bar on a terminal, and nothing anywhere else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_shown = stream.isatty()
        self._next_look = 0.0

    def __call__(self, done: int, count: int) -> None:
        """Show how far an export is."""
        if not self._is_shown or (time.monotonic() < self._next_look and done < count):
            return
        self._next_look = time.monotonic() + _PACE
        share = done / count if count else 1.0
        bar = "#" * int(_BAR * share)
        self._say(f"\r[{bar:.<{_BAR}}] {share:4.0%}  {done:,} of {count:,} entries")

    def clear(self) -> None:
        """Take the bar away."""
        if self._is_shown:
            self._say("\r\x1b[K")

    def _say(self, text: str) -> None:
        # Nobody may be there to see it.
        with suppress(OSError):
            self._stream.write(text)
            self._stream.flush()
