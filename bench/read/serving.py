"""The app in a process of its own, and a light client that asks it from one or many connections.

It must not judge an answer.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from daybook.postgres import free_port

LONGEST_START = 60.0
# Longer than the app itself takes to give up.
LONGEST_ANSWER = 60.0


@dataclass(frozen=True, slots=True)
class App:
    """A server that answers on this port of 127.0.0.1, and the key it is asked with."""

    process_id: int
    port: int
    key: str = field(repr=False)

    def request(self, path: str) -> bytes:
        """A GET of this path and query, as bytes."""
        lines = (f"GET {path} HTTP/1.1", "Host: log.example", f"Authorization: Bearer {self.key}", "", "")
        return "\r\n".join(lines).encode("ascii")


class Answer(NamedTuple):
    """An answer with its status, how many seconds it took, and its body."""

    status: int
    seconds: float
    body: bytes

    def json(self) -> dict[str, object]:
        """The body read as a JSON object; an empty one for any other."""
        try:
            return msgspec.json.decode(self.body, type=dict[str, object])
        except msgspec.DecodeError:
            return {}


@contextmanager
def served(url: str, key: str, program: Sequence[str] = ("daybook", "serve"), **environment: str) -> Iterator[App]:
    """`python -m <program> --port …` on this database, once it listens."""
    port = free_port()
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    with subprocess.Popen(
        [sys.executable, "-m", *program, "--port", str(port)],
        env={**surroundings, "DAYBOOK_DATABASE_URL": url, **environment},
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            wait_until_it_listens(process, port)
            yield App(process.pid, port, key)
        finally:
            process.terminate()
            process.wait(20)


def wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    """Return once somebody takes connections there. Raises RuntimeError when the process ends, or takes too long."""
    deadline = time.monotonic() + LONGEST_START
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"The server on port {port} did not start (exit code {process.returncode}).")


class Client(asyncio.Protocol):
    """One connection that is kept open and asked again and again."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._body_at = -1
        self._end = -1
        self._waiting: asyncio.Future[None] | None = None

    @classmethod
    async def connected(cls, app: App) -> Client:
        """A connection to this app."""
        _, client = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", app.port)
        return client

    async def ask(self, request: bytes) -> Answer:
        """Send a request and wait for its answer to the last byte."""
        assert self._transport is not None
        self._received.clear()
        self._body_at = self._end = -1
        self._waiting = asyncio.get_running_loop().create_future()
        begun = time.perf_counter()
        self._transport.write(request)
        async with asyncio.timeout(LONGEST_ANSWER):
            await self._waiting
        seconds = time.perf_counter() - begun
        return Answer(int(self._received[9:12]), seconds, bytes(self._received[self._body_at :]))

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._body_at < 0:
            self._body_at = self._received.find(b"\r\n\r\n") + 4
            if self._body_at < 4:
                self._body_at = -1
                return
            head = bytes(self._received[: self._body_at]).lower()
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            self._end = self._body_at + int(length) if length else -1
        whole = len(self._received) >= self._end if self._end >= 0 else self._received.endswith(b"0\r\n\r\n")
        if whole and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error or ConnectionError("The server closed the connection."))


async def ask_once(app: App, path: str) -> Answer:
    """Ask on a connection of its own."""
    client = await Client.connected(app)
    try:
        return await client.ask(app.request(path))
    finally:
        client.close()


async def ask_for(app: App, path: str, clients: int, seconds: float) -> list[Answer]:
    """Ask the same from so many connections at once, each again and again for so long, and at least once.

    The bodies of the answers are left out.
    """
    request = app.request(path)
    connections = [await Client.connected(app) for _ in range(clients)]
    deadline = time.perf_counter() + seconds
    answers: list[Answer] = []

    async def keep_asking(client: Client) -> None:
        while True:
            answers.append((await client.ask(request))._replace(body=b""))
            if time.perf_counter() >= deadline:
                return

    try:
        await asyncio.gather(*map(keep_asking, connections))
    finally:
        for client in connections:
            client.close()
    return answers
