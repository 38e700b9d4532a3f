"""Requests to the app while faults come, and whether an answer that looks whole is right.

It must not take a broken connection for a problem: an answer that is visibly cut short says so itself.
"""

import csv
import hashlib
import http.client
import io
import json
import threading
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

from tests.exporting import CSV, NDJSON
from tests.reading import AS_ADMIN, WORKSPACE

LIST = f"{WORKSPACE}?page_size=50"
HEALTH = "/healthz"


def judge_ndjson(content: bytes) -> str:
    """What is wrong with an export that claims to be whole."""
    head, _, last = content.rstrip(b"\n").rpartition(b"\n")
    head += b"\n" if head else b""
    try:
        manifest = json.loads(last)["manifest"]
        lines = [json.loads(line) for line in head.splitlines()]
    except (ValueError, KeyError, TypeError):
        return f"an export that ends as a whole one has no manifest, or a line that is none: {last[:100]!r}"
    if (manifest["entries"], manifest["sha256"]) != (len(lines), hashlib.sha256(head).hexdigest()):
        return f"an export of {len(lines)} lines says {manifest}"
    if len({line["id"] for line in lines}) != len(lines):
        return "an export has an entry twice"
    return ""


def judge_csv(content: bytes) -> str:
    """What is wrong with a CSV whose answer came to its end."""
    csv.field_size_limit(2**30)
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    if any(None in row or None in row.values() for row in rows):
        return "a row of a CSV is cut"
    if len({row["id"] for row in rows}) != len(rows):
        return "a CSV has an entry twice"
    return ""


def judge_file(path: Path) -> str:
    """What is wrong with a file of `daybook export`."""
    return judge_ndjson(path.read_bytes())


def ask(port: int, path: str) -> tuple[int, bytes]:
    """An answer: its status and its whole body. Raises OSError or http.client.HTTPException when it is cut short."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", path, headers={} if path == HEALTH else AS_ADMIN)
        answer = connection.getresponse()
        try:
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise CutShortError(answer.status) from error


class CutShortError(OSError):
    """An answer whose head came and whose body did not come whole."""

    def __init__(self, status: int) -> None:
        super().__init__(f"an answer {status} was cut short")
        self.status = status


class Asking:
    """Threads that ask the app again and again, until they are told to stop."""

    def __init__(self, port: int, paths: tuple[str, ...] = (LIST, NDJSON, CSV, LIST)) -> None:
        self.port = port
        self.answers: Counter[str] = Counter()
        self.exports = 0
        self.problems: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(path,), daemon=True) for path in paths]

    def __enter__(self) -> "Asking":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, path: str) -> None:
        while not self._stop.is_set():
            status = None
            try:
                status, body = ask(self.port, path)
            except CutShortError as cut:
                self.answers["cut short"] += 1
                status = cut.status
            except (OSError, http.client.HTTPException):
                self.answers["none"] += 1
                self._stop.wait(0.02)
            else:
                self.answers[str(status)] += 1
                self._judge(path, status, body)
            if status == 200 and path in (NDJSON, CSV):
                self.exports += 1

    def _judge(self, path: str, status: int, body: bytes) -> None:
        if status == 503:
            return
        if status != 200:
            self.problems.append(f"{path} was answered {status}: {body[:200]!r}")
            return
        problem = ""
        with suppress(UnicodeDecodeError):
            problem = "not decoded"
            problem = judge_ndjson(body) if path == NDJSON else judge_csv(body) if path == CSV else _judge_list(body)
        if problem:
            self.problems.append(f"{path}: {problem}")


def _judge_list(body: bytes) -> str:
    try:
        json.loads(body)
    except ValueError:
        return f"an answer is no JSON: {body[:100]!r}"
    return ""
