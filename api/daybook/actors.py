"""Names who acts in the transactions begun inside a block, on psycopg and SQLAlchemy connections.

It must not begin or end a transaction, change the text of a statement, or leave a setting behind in a session.
"""

import json
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID, uuid4
from weakref import WeakKeyDictionary

import psycopg
import sqlalchemy
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from sqlalchemy import event, orm

from .signatures import SIGNATURE, ActorKey, current_key

if TYPE_CHECKING:
    # Imported by type checkers only: at run time it demands greenlet, which nobody else needs.
    from sqlalchemy.ext import asyncio

    Target: TypeAlias = (
        psycopg.Connection[Any]
        | psycopg.AsyncConnection[Any]
        | sqlalchemy.Connection
        | orm.Session
        | orm.scoped_session[Any]
        | asyncio.AsyncConnection
        | asyncio.AsyncSession
        | asyncio.async_scoped_session[Any]
    )
    _Target: TypeAlias = psycopg.BaseConnection[Any] | sqlalchemy.Connection | orm.Session

SETTINGS = ("actor_id", "actor_name", "actor_type", "request_id", "reason", "ip", "user_agent", "metadata", SIGNATURE)
TYPES = ("user", "service")

_UNSET = dict.fromkeys(SETTINGS, "")
_AUTOCOMMIT = (
    "this connection is in autocommit, where an actor is forgotten before the next statement runs; "
    "begin a transaction first (psycopg: with connection.transaction(): around the block), or turn autocommit off"
)


def actor(
    connection: "Target",
    id: str | int | UUID,  # noqa: A002
    name: str | None = None,
    *,
    type: str = "user",  # noqa: A002
    request_id: str | UUID | None = None,
    reason: str | None = None,
    ip: str | IPv4Address | IPv6Address | None = None,
    user_agent: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> "Block":
    """Return a block (`with` or `async with`) that names the actor of the transactions begun inside it.

    A transaction that is already open has the actor from its next statement on, and gets back what it had before with
    the first statement after the block. Entering and leaving send nothing: one statement is sent in a transaction,
    before its first one. A block inside another stands in its place, and keeps the context (`request_id` to `metadata`)
    that it does not give itself.

    connection: psycopg's Connection or AsyncConnection; SQLAlchemy's Connection, Session or scoped_session, or one of
        their asyncio counterparts.
    id: what the application knows the user or service by. `system` is refused.
    name: as people should read it; None: the id.
    type: `user` or `service`.
    metadata: anything that JSON can hold.

    Where a key is set (`DAYBOOK_ACTOR_KEY`) the actor is signed in the same statement, which is sent once more in a
    transaction that lasts longer than half of a signature's life. A signature holds for one request: a block without a
    `request_id`, its own or that of a block around it, then gets a random one.

    Raises ValueError for an argument that makes no sense, and for a connection in autocommit: there an actor would be
    forgotten before the next statement. psycopg's may be in autocommit when a transaction is open around the block.
    Raises SettingError when the key cannot be read.
    """
    settings = _actor(id, name, type) | _context(request_id, reason, ip, user_agent, metadata)
    if current_key() is not None:
        # Until it is sent: the request id, should none be given.
        settings[SIGNATURE] = uuid4().hex
    return Block(_bare(connection), settings)


class Block(AbstractContextManager[None], AbstractAsyncContextManager[None]):
    """Where an actor acts: what `daybook.actor` returns."""

    def __init__(self, target: "_Target", settings: dict[str, str]) -> None:
        self._target = target
        self._settings = settings
        self._leave: Callable[[], None] | None = None

    def __enter__(self) -> None:
        if self._leave is not None:
            raise RuntimeError("this block is entered already; call daybook.actor again for another one")
        if isinstance(self._target, orm.Session):
            self._leave = _follow_session(self._target, self._settings)
        elif isinstance(self._target, sqlalchemy.Connection):
            self._leave = _sqlalchemy_ledger(self._target).enter(self._settings)
        else:
            self._leave = _psycopg_ledger(self._target).enter(self._settings)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(exc_type, exc, traceback)


def _bare(given: Any) -> "_Target":
    """Return what sends the statements: the synchronous heart of SQLAlchemy's asyncio and scoped objects."""
    connection = given() if callable(given) and hasattr(given, "registry") else given
    connection = getattr(connection, "sync_session", getattr(connection, "sync_connection", connection))
    if isinstance(connection, psycopg.BaseConnection | orm.Session):
        return connection
    if not isinstance(connection, sqlalchemy.Connection):
        raise ValueError(f"an actor needs an open connection or session of psycopg or SQLAlchemy, not {given!r}")
    if connection.dialect.name != "postgresql":
        raise ValueError(f"an actor needs a connection to PostgreSQL, not to {connection.dialect.name}")
    return connection


def _actor(identity: object, name: object, kind: object) -> dict[str, str]:
    if isinstance(identity, bool) or not isinstance(identity, str | int | UUID):
        raise ValueError(f"an actor's id is a text, a number or a UUID, not {identity!r}")
    if not str(identity).strip():
        raise ValueError("an actor's id is empty; for what no user did, leave the block out: that is the actor system")
    if str(identity) == "system":
        raise ValueError('"system" is what no user did; it cannot be named as an actor: leave the block out')
    if name is not None and not isinstance(name, str):
        raise ValueError(f"an actor's name is a text or None, not {name!r}")
    if kind not in TYPES:
        raise ValueError(f"an actor's type is user or service, not {kind!r}")
    return {
        "actor_id": setting_text(identity),
        "actor_name": setting_text(name or ""),
        "actor_type": setting_text(kind),
    }


def _context(request_id: object, reason: object, ip: object, user_agent: object, metadata: object) -> dict[str, str]:
    given = {"request_id": request_id, "reason": reason, "ip": ip, "user_agent": user_agent}
    settings = {name: setting_text(value) for name, value in given.items() if value is not None}
    if metadata is not None:
        if not isinstance(metadata, Mapping):
            raise ValueError(f"metadata is a dict, not {metadata!r}")
        try:
            settings["metadata"] = json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"metadata cannot be written as JSON: {error}") from error
    return settings


def setting_text(value: object) -> str:
    """Return a value as PostgreSQL can hold it: no NUL, no half of a surrogate pair."""
    return str(value).replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


@lru_cache
def setting_statement(names: tuple[str, ...], placeholder: str = "%s", *, reads: bool = False) -> str:
    """Return the one statement that sets these settings until the transaction ends.

    placeholder: how the driver marks a parameter; `{}` in it becomes the setting's name.
    reads: the statement's row begins with what all SETTINGS were before, in their order.
    """
    sets = ", ".join(f"pg_catalog.set_config('audit.{name}', {placeholder.format(name)}, true)" for name in names)
    if not reads:
        return f"select {sets}"
    old = ", ".join(f"coalesce(pg_catalog.current_setting('audit.{name}', true), '') as {name}" for name in SETTINGS)
    return f"with before as materialized (select {old}) select before.*, {sets} from before"


class _Page:
    """One block's part of a ledger."""

    def __init__(self, settings: dict[str, str], under: dict[str, str]) -> None:
        self.settings = settings
        self.under = under  # what was still due beneath the block when it was entered
        self.before: dict[str, str] | None = None  # what the block replaces in this transaction; None: not known yet


class _Ledger:
    """What one connection's open transaction holds, and what is to be set in it before its next statement."""

    def __init__(self) -> None:
        self.pages: list[_Page] = []
        self.due: dict[str, str] = {}
        self.sending = False
        self._held: dict[str, str] = {}
        self._outlives_savepoints = False
        self._fresh_until = 0.0

    def enter(self, settings: dict[str, str]) -> Callable[[], None]:
        """Add a block's settings, and return what takes them away again."""
        if SIGNATURE in settings and not any("request_id" in page.settings for page in self.pages):
            settings = {"request_id": settings[SIGNATURE]} | settings
        page = _Page(settings, dict(self.due))
        self.pages.append(page)
        self.due = self.due | settings

        def leave() -> None:
            self.pages.remove(page)
            self.due = page.under if page.before is None else page.before

        return leave

    def begin(self) -> None:
        """Note that a transaction begins, in which nothing is set yet."""
        self.due = {}
        for page in self.pages:
            page.before = _UNSET | self.due
            self.due = self.due | page.settings
        self._held = dict(_UNSET)
        self._outlives_savepoints = True

    def end(self) -> None:
        """Note that no transaction is open."""
        self.due = {}

    def roll_back_to_savepoint(self) -> None:
        """Note that the server may have taken back what was set since a savepoint."""
        if not self._outlives_savepoints:
            self.due = self._held | self.due

    def outgoing(self) -> dict[str, str]:
        """Return what is due, signed as late as this: a block may last as long as the process."""
        key = self._key()
        if key is not None and self.due:
            self._fresh_until = time.monotonic() + key.lifetime / 2
            self.due = self.due | {SIGNATURE: key.sign(self._held | self.due)}
        return self.due

    def renew(self) -> None:
        """Make a signature due that has lived half of its life, should nothing else be."""
        if not self.due and self._held.get(SIGNATURE) and time.monotonic() > self._fresh_until and self._key():
            self.due = {SIGNATURE: ""}

    def _key(self) -> ActorKey | None:
        return current_key() if self.pages and SIGNATURE in self.pages[-1].settings else None

    @property
    def reads(self) -> bool:
        """Whether the next statement must say what the settings were before it."""
        return any(page.before is None for page in self.pages)

    def sent(self, row: tuple[str, ...] | None) -> None:
        """Note that what was due is set; `row`: what the settings were before, if that was asked."""
        if row is not None:
            self._held = dict(zip(SETTINGS, row, strict=True))
            self._outlives_savepoints = False
        for page in self.pages:
            if page.before is None:
                page.before = self._held | page.under
        self._outlives_savepoints = self._outlives_savepoints and self._held == _UNSET
        self._held = self._held | self.due
        self.due = {}


# psycopg has no event for a transaction's begin. Each of its commands goes through two generators of the connection,
# which the synchronous and the asynchronous one share: _exec_command (BEGIN, SAVEPOINT, ROLLBACK TO) and
# _start_query (before each statement of any cursor). While a block needs them, the connection has its own.

_LEDGER = "_daybook_ledger"


def _psycopg_ledger(connection: psycopg.BaseConnection[Any]) -> _Ledger:
    if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        raise ValueError(_AUTOCOMMIT)
    own = vars(connection)
    if _LEDGER not in own:
        own[_LEDGER] = _Ledger()
        _follow_psycopg(connection, own[_LEDGER])
    ledger: _Ledger = own[_LEDGER]
    return ledger


def _follow_psycopg(connection: psycopg.BaseConnection[Any], ledger: _Ledger) -> None:
    start, execute, own = connection._start_query, connection._exec_command, vars(connection)
    cursor: Any = psycopg.Cursor if isinstance(connection, psycopg.Connection) else psycopg.AsyncCursor

    def status() -> TransactionStatus:
        return connection.info.transaction_status

    def send() -> Generator[Any, Any, None]:
        ledger.renew()
        if not ledger.due or ledger.sending or status() in (TransactionStatus.IDLE, TransactionStatus.INERROR):
            return
        reads, due = ledger.reads, ledger.outgoing()
        ledger.sending = True
        try:
            sender = cursor(connection, row_factory=tuple_row)
            yield from sender._execute_gen(setting_statement(tuple(due), reads=reads), list(due.values()))
            if reads and connection._pipeline:
                yield from connection._pipeline._fetch_gen(flush=True)
        finally:
            ledger.sending = False
        ledger.sent(_first_row(sender) if reads else None)

    def start_query() -> Generator[Any, Any, None]:
        yield from start()
        if ledger.sending:
            return
        if status() == TransactionStatus.IDLE:
            ledger.end()
            if ledger.pages and connection.autocommit:
                raise ValueError(_AUTOCOMMIT)
        yield from send()
        if not ledger.pages and not ledger.due:
            for name in (_LEDGER, "_start_query", "_exec_command"):
                own.pop(name, None)

    def exec_command(command: Any, *arguments: Any, **options: Any) -> Generator[Any, Any, Any]:
        verb = command[:11] if isinstance(command, bytes) else b""
        if verb.startswith(b"SAVEPOINT"):
            yield from send()
        result = yield from execute(command, *arguments, **options)
        if verb.startswith(b"BEGIN"):
            ledger.begin()
        elif verb == b"ROLLBACK TO":
            ledger.roll_back_to_savepoint()
        return result

    own["_start_query"], own["_exec_command"] = start_query, exec_command


def _first_row(cursor: Any) -> tuple[str, ...]:
    encoding = cursor.connection.info.encoding
    values = (cursor.pgresult.get_value(0, column) or b"" for column in range(len(SETTINGS)))
    return tuple(value.decode("utf-8" if encoding == "ascii" else encoding, "replace") for value in values)


# SQLAlchemy tells of each statement, with its text.


def _sqlalchemy_ledger(connection: sqlalchemy.Connection) -> _Ledger:
    _refuse_autocommit(connection)
    own = vars(connection)
    if _LEDGER not in own:
        own[_LEDGER] = _Ledger()
        _follow_sqlalchemy(connection, own[_LEDGER])
    ledger: _Ledger = own[_LEDGER]
    return ledger


def _follow_sqlalchemy(connection: sqlalchemy.Connection, ledger: _Ledger) -> None:
    transaction = connection.get_transaction()

    def before_statement(connection: sqlalchemy.Connection, cursor: Any, statement: str, *_: Any) -> None:
        nonlocal transaction
        if ledger.sending:
            return
        if connection.get_transaction() is not transaction:
            transaction = connection.get_transaction()
            ledger.begin()
            if ledger.pages:
                _refuse_autocommit(connection)
        ledger.renew()
        verb = statement.lstrip()[:9].upper()
        if verb.startswith("ROLLBACK"):
            ledger.roll_back_to_savepoint()
        # SET TRANSACTION and LOCK must come before a transaction's first query, and write nothing.
        elif ledger.due and not verb.startswith(("SET ", "LOCK ")):
            send(connection)

    def send(connection: sqlalchemy.Connection) -> None:
        reads, due = ledger.reads, ledger.outgoing()
        ledger.sending = True
        try:
            statement = sqlalchemy.text(setting_statement(tuple(due), ":{}", reads=reads))
            options = {"stream_results": False, "yield_per": None}
            row = connection.execute(statement, due, execution_options=options).one()
        finally:
            ledger.sending = False
        ledger.sent(tuple(row[: len(SETTINGS)]) if reads else None)

    event.listen(connection, "before_cursor_execute", before_statement)


def _follow_session(session: orm.Session, settings: dict[str, str]) -> Callable[[], None]:
    """Enter the session's connections, those to come included, and return what leaves them."""
    # Weak: a session takes another connection for each transaction, and a block may last as long as the process.
    leaving: WeakKeyDictionary[sqlalchemy.Connection, Callable[[], None]] = WeakKeyDictionary()

    def enter(connection: sqlalchemy.Connection) -> None:
        if connection.dialect.name == "postgresql" and connection not in leaving:
            leaving[connection] = _sqlalchemy_ledger(connection).enter(settings)

    def begun(_: orm.Session, __: orm.SessionTransaction, connection: sqlalchemy.Connection) -> None:
        enter(connection)

    def leave() -> None:
        if event.contains(session, "after_begin", begun):
            event.remove(session, "after_begin", begun)
        for leave_connection in leaving.values():
            leave_connection()

    transaction = session.get_transaction()
    try:
        for connection in {used[0] for used in transaction._connections.values()} if transaction else ():
            enter(connection)
    except ValueError:
        leave()
        raise
    event.listen(session, "after_begin", begun)
    return leave


def _refuse_autocommit(connection: sqlalchemy.Connection) -> None:
    if getattr(connection.connection.dbapi_connection, "autocommit", False):
        raise ValueError(_AUTOCOMMIT)
