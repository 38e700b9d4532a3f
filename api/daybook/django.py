"""Names the request's user as the actor of what a Django application writes.

It must not be imported without Django, touch the session or the user before something is written, or log a query.
"""

import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Any
from uuid import uuid4

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.db import connections, transaction
from django.db.backends.signals import connection_created
from django.http import HttpRequest
from psycopg.pq import TransactionStatus

from daybook.actors import setting_statement, setting_text
from daybook.signatures import SIGNATURE, current_key

_SETTINGS = ("actor_id", "actor_name", "actor_type", "request_id", "ip", "user_agent", SIGNATURE)
_UNSET = dict.fromkeys(_SETTINGS, "")


class ActorMiddleware:
    """Name the request's user as the actor, once in each transaction, before the first statement that can write.

    A write outside any transaction runs in an `atomic()` of its own: there the settings of a transaction would be
    forgotten before it. What only reads is sent as it is. A request without a user leaves the actor `system`; its
    request id (`X-Request-ID`), address and user agent stand in the context all the same.

    It may stand anywhere in MIDDLEWARE; put first it also covers what the others write, the session for example.
    Where a key is set (`DAYBOOK_ACTOR_KEY`) a request's user is signed in the same statement; a request without an id
    then gets a random one. `DAYBOOK_DATABASES` lists the aliases that it watches; default: all on PostgreSQL.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._asynchronous = iscoroutinefunction(get_response)
        if self._asynchronous:
            markcoroutinefunction(self)
        connection_created.connect(_watch_created, dispatch_uid=__name__)

    def __call__(self, request: HttpRequest) -> Any:
        if self._asynchronous:
            return self._respond(request)
        _watch()
        with _performing(request):
            return self.get_response(request)

    async def _respond(self, request: HttpRequest) -> Any:
        # In the thread in which Django sends queries: each has connections of its own.
        await sync_to_async(_watch)()
        with _performing(request):
            response: Awaitable[Any] = self.get_response(request)
            return await response


class _Performer:
    """Who stands behind the request, looked up when the first write asks."""

    def __init__(self, request: HttpRequest) -> None:
        self.asked = False
        self._request = request
        self._user: Any = None
        self._settings: dict[str, str] | None = None

    def settings(self) -> dict[str, str]:
        """Return the settings to hold; a login or logout during the request changes them."""
        user = getattr(self._request, "user", None)
        if self._settings is None or user is not self._user:
            self.asked = True  # looking up the user sends queries, which must not ask again
            try:
                self._settings = _user_settings(user) | _request_settings(self._request)
            finally:
                self.asked = False
            if self._settings.get("actor_id") and current_key() is not None:
                # What is signed holds for one request.
                self._settings.setdefault("request_id", uuid4().hex)
            self._user = user
        return self._settings


_performer: ContextVar[_Performer | None] = ContextVar("daybook_performer", default=None)


@contextmanager
def _performing(request: HttpRequest) -> Iterator[None]:
    token = _performer.set(_Performer(request))
    try:
        yield
    finally:
        _performer.reset(token)


def _user_settings(user: Any) -> dict[str, str]:
    if user is None or not user.is_authenticated or user.pk is None:
        return {}
    full_name = user.get_full_name() if hasattr(user, "get_full_name") else ""
    name = full_name or user.get_username()
    return {"actor_id": setting_text(user.pk), "actor_name": setting_text(name), "actor_type": "user"}


def _request_settings(request: HttpRequest) -> dict[str, str]:
    given = {
        "request_id": request.headers.get("X-Request-ID"),
        "ip": request.META.get("REMOTE_ADDR"),
        "user_agent": request.headers.get("User-Agent"),
    }
    return {name: setting_text(value) for name, value in given.items() if value}


# The connections


def _watched(connection: Any) -> bool:
    aliases = getattr(settings, "DAYBOOK_DATABASES", None)
    return connection.vendor == "postgresql" and (aliases is None or connection.alias in aliases)


def _watch() -> None:
    """Watch this thread's connections."""
    for alias in connections:
        _watch_created(connection=connections[alias])


def _watch_created(connection: Any, **_: Any) -> None:
    wrappers = connection.execute_wrappers
    if _watched(connection) and not any(isinstance(wrapper, _Watch) for wrapper in wrappers):
        # First, because connection.execute_wrapper() takes away the last one when its block ends.
        wrappers.insert(0, _Watch())


class _Watch:
    """The execute wrapper of one connection: knows what its open transaction holds."""

    def __init__(self) -> None:
        self._held: dict[str, str] | None = {}  # None: not known
        self._savepoints = False
        self._outlives_savepoints = False
        self._fresh_until = 0.0

    def __call__(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
        connection = context["connection"]
        status = connection.connection.info.transaction_status
        if status == TransactionStatus.IDLE:
            self._held, self._savepoints = {}, False
        performer = _performer.get()
        if performer is None and self._held == {}:
            self._savepoints = True  # for all that is known
            return execute(sql, params, many, context)
        if performer is not None and performer.asked:
            return execute(sql, params, many, context)
        kind = _kind(_text(sql, connection))
        wanted = performer.settings() if performer and kind not in (_Kind.READ, _Kind.ROLLBACK) else {}
        if status == TransactionStatus.IDLE and connection.get_autocommit():
            if kind is not _Kind.WRITE or not wanted:
                return execute(sql, params, many, context)
            with transaction.atomic(using=connection.alias):
                self._hold(connection, wanted)
                return execute(sql, params, many, context)
        if kind in (_Kind.SAVEPOINT, _Kind.WRITE, _Kind.ALONE) and not _broken(connection, status):
            self._hold(connection, wanted)
        result = execute(sql, params, many, context)
        if kind is _Kind.SAVEPOINT:
            self._savepoints = True
        elif kind is _Kind.ROLLBACK and not self._outlives_savepoints:
            self._held = None
        return result

    def _hold(self, connection: Any, wanted: dict[str, str]) -> None:
        key = current_key() if wanted.get("actor_id") else None
        if wanted == self._held and (key is None or time.monotonic() < self._fresh_until):
            return
        due = wanted if self._held == {} else _UNSET | wanted
        if key is not None:
            self._fresh_until = time.monotonic() + key.lifetime / 2
            due = due | {SIGNATURE: key.sign(due)}
        # A cursor of the driver's own: Django counts and logs the application's queries only.
        with connection.wrap_database_errors, connection.connection.cursor() as cursor:
            cursor.execute(setting_statement(tuple(due)), list(due.values()))
        self._outlives_savepoints = not self._savepoints
        self._held = wanted


def _broken(connection: Any, status: int) -> bool:
    """Whether Django or PostgreSQL refuses the statement anyway, with an error that is theirs to give."""
    return bool(connection.needs_rollback) or status == TransactionStatus.INERROR


# The statements


class _Kind(Enum):
    READ = "writes nothing that is tracked"
    WRITE = "may write"
    ALONE = "may write, and may refuse to run inside a transaction"
    SAVEPOINT = "what is set after it may be taken back"
    ROLLBACK = "takes back what was set after a savepoint"


_KINDS = {
    **dict.fromkeys(("insert", "update", "delete", "merge", "truncate", "copy", "execute"), _Kind.WRITE),
    **dict.fromkeys(("create", "alter", "drop", "grant", "revoke", "comment"), _Kind.WRITE),
    **dict.fromkeys(("call", "reindex"), _Kind.ALONE),
    "savepoint": _Kind.SAVEPOINT,
    "rollback": _Kind.ROLLBACK,
}
_START = re.compile(r"(?:[\s;(]|--[^\n]*(?:\n|$)|/\*.*?\*/)*", re.DOTALL)
_NO_LETTER = re.compile(r"[^a-z]")
_CHANGES = re.compile(r"\b(?:insert|update|delete|merge)\b")
_CALLS = re.compile(r"\w\s*\(")
_FROM_TABLE = re.compile(r"\bfrom\b(?!\s+[\w.\"]+\s*\()")
_REFUSES_TRANSACTION = re.compile(r"\w+\s+(?:database|tablespace|subscription|system)\b|.*\bconcurrently\b", re.DOTALL)
_ENDS_TRANSACTION = re.compile(r"\b(?:commit|rollback)\b")


def _kind(sql: str) -> _Kind:
    """Judge a statement by its text, so that none that Django sends in autocommit fails for being in an `atomic()`.

    A SELECT over a table is a read, also when it calls a function that writes: no text tells.
    """
    text = _START.sub("", sql, count=1).lower()
    verb = _NO_LETTER.split(text, maxsplit=1)[0]
    kind = _KINDS.get(verb, _Kind.READ)
    if verb == "select":
        kind = _Kind.WRITE if _CALLS.search(text) and not _FROM_TABLE.search(text) else _Kind.READ
    elif verb in ("with", "explain"):
        kind = _Kind.WRITE if _CHANGES.search(text) else _Kind.READ
    elif verb == "do":
        kind = _Kind.ALONE if _ENDS_TRANSACTION.search(text) else _Kind.WRITE
    elif verb in ("create", "alter", "drop") and _REFUSES_TRANSACTION.match(text):
        kind = _Kind.ALONE
    return kind


def _text(sql: Any, connection: Any) -> str:
    if isinstance(sql, bytes):
        return sql.decode("utf-8", "replace")
    return sql if isinstance(sql, str) else str(sql.as_string(connection.connection))
