"""What tests over a real socket share: the server in a process of its own, and requests written byte by byte.

It must not hold an expectation.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.conftest import Database
from tests.reading import ADMIN

AUTHORIZATION = f"Authorization: Bearer {ADMIN}"

PROGRAM = """
import json, sys
from daybook import protocol
from daybook.app import serve
from daybook.settings import Settings
url, port, environment, bounds = sys.argv[1:]
for name, value in json.loads(bounds).items():
    setattr(protocol, name, value)
settings = Settings.from_environment({"DAYBOOK_DATABASE_URL": url, **json.loads(environment)})
serve(settings, "127.0.0.1", int(port), lambda: print("ready", flush=True))
"""


@contextmanager
def served(
    database: Database,
    user: str = "reader",
    *,
    bounds: Mapping[str, float] | None = None,
    stderr: int | None = subprocess.PIPE,
    **environment: str,
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The server in a process of its own, and its port, once it answers.

    `bounds` are constants of protocol.py by name, `environment` settings of the app. A server that may say more than a
    pipe holds needs another `stderr`: None is that of the test.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = [database.url(user), str(port), json.dumps(environment), json.dumps(bounds or {})]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env={**os.environ, "PYTHONPATH": "api"},
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process, port
        finally:
            process.terminate()
            process.wait(20)


def sent(port: int, request: bytes) -> str:
    """The whole answer to these bytes."""
    with opened_connection(port) as connection:
        connection.sendall(request)
        return read_to_the_end(connection)


def head(method: str, path: str, *headers: str) -> bytes:
    """The head of a request on a connection that ends with its answer."""
    return head_that_stays(method, path, "Connection: close", *headers)


def head_that_stays(method: str, path: str, *headers: str) -> bytes:
    """The head of a request on a connection that may go on after its answer."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: log.example", *headers, "", ""]).encode("latin-1")


def opened_connection(port: int) -> socket.socket:
    """A connection to the server; whoever waits on it for ten seconds has waited too long."""
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def read_to_the_end(connection: socket.socket) -> str:
    """Everything that the server sends until it closes."""
    with connection.makefile("rb") as answer:
        return answer.read().decode("latin-1")
