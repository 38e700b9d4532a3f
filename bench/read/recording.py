"""The statements that the app sends for a request, taken down at the driver, so that no bench drifts from the product.

The app runs in this process meanwhile. It must not know what any statement means.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from litestar import Litestar
from psycopg import AsyncCursor

from daybook.app import create_app
from daybook.database import BEGIN, COMMIT
from daybook.settings import Settings

# How the app's own transactions begin.
BEGINNING = b"set_config('role'"


class Statement(NamedTuple):
    """A statement as the app gave it to the driver, and its parameters."""

    query: bytes
    parameters: Any


Transaction = list[Statement]


class Response(NamedTuple):
    """What the app answered."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


@asynccontextmanager
async def running(url: str) -> AsyncIterator[Litestar]:
    """The app in this process, on this database."""
    app = create_app(Settings(database_url=url, pool_size=2))
    async with app.lifespan():
        yield app


@contextmanager
def recorded() -> Iterator[list[Transaction]]:
    """The transactions that any app in this process makes while the block runs."""
    transactions: list[Transaction] = []
    execute = AsyncCursor.execute

    async def executed(self: AsyncCursor[Any], query: Any, parameters: Any = None, **options: Any) -> Any:
        text = query if isinstance(query, bytes) else str(query).encode()
        if BEGINNING in text:
            transactions.append([])
        # Who sends these again has a transaction of his own.
        if transactions and text.decode() not in (BEGIN, COMMIT):
            transactions[-1].append(Statement(text, parameters))
        return await execute(self, query, parameters, **options)

    AsyncCursor.execute = executed  # type: ignore[assignment, method-assign]
    try:
        yield transactions
    finally:
        AsyncCursor.execute = execute  # type: ignore[method-assign]


async def get(app: Litestar, path: str, key: str) -> Response:
    """Ask the app for this path and query."""
    parts = urlsplit(path)
    headers = [(b"host", b"log.example"), (b"authorization", b"Bearer " + key.encode())]
    scope: Any = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": parts.path,
        "raw_path": parts.path.encode(),
        "root_path": "",
        "query_string": parts.query.encode(),
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    messages: list[dict[str, Any]] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)

    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in messages[1:])
    return Response(messages[0]["status"], list(messages[0]["headers"]), body)
