"""The web page's first page against the JSON of the same entries: what rendering adds to reading.

The page is asked for as a browser asks, with a session's cookie and gzip. It must not assert anything.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median
from urllib.parse import urlencode

import psycopg

from .generate import Log
from .loads import cpu_of_process, cpu_of_readers, spent_since
from .questions import WORKSPACE
from .serving import Answer, App, ask_for, ask_once

PAGE = "/settings/audit-log"
TURN = 1.0


@dataclass(frozen=True, slots=True)
class Visitor(App):
    """The same server, asked by a browser that has signed in."""

    cookie: str = field(repr=False)

    def request(self, path: str) -> bytes:
        """A GET of this path and query, as bytes."""
        lines = (f"GET {path} HTTP/1.1", "Host: log.example", f"Cookie: {self.cookie}", "Accept-Encoding: gzip", "", "")
        return "\r\n".join(lines).encode("ascii")


@dataclass(slots=True)
class Costs:
    """What one answer took in each round: milliseconds (p50), and microseconds of CPU of the app and its backends."""

    milliseconds: list[float] = field(default_factory=list)
    app: list[float] = field(default_factory=list)
    database: list[float] = field(default_factory=list)
    size: int = 0


def compare(logs: list[Log], apps: list[App], rounds: int) -> None:
    """Print the first page of each log as JSON and as HTML, taking turns, and the ratio of their times."""
    print("| log | answer | p50, ms | app CPU, µs | database CPU, µs | bytes sent |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for log, app in zip(logs, apps, strict=True):
        costs = asyncio.run(measure(log, app, rounds))
        for name, cost in costs.items():
            figures = f"{median(cost.milliseconds):.1f} | {median(cost.app):,.0f} | {median(cost.database):,.0f}"
            print(f"| {log.entries:,} | {name} | {figures} | {cost.size:,} |")
        html, json = (median(costs[name].milliseconds) for name in ("HTML", "JSON"))
        print(f"| {log.entries:,} | ratio | {html / json:.2f} | | | |", flush=True)


async def measure(log: Log, app: App, rounds: int) -> dict[str, Costs]:
    """The costs of both answers over so many rounds."""
    visitor = Visitor(app.process_id, app.port, app.key, await signed_in(app))
    asked = {"JSON": (app, WORKSPACE), "HTML": (visitor, PAGE)}
    costs: dict[str, Costs] = defaultdict(Costs)
    with psycopg.connect(log.url, autocommit=True) as observer:
        for number in range(rounds + 1):
            for name, (asker, path) in asked.items():
                before, readers = cpu_of_process(app.process_id), cpu_of_readers(observer)
                answers = await ask_for(asker, path, 1, TURN)
                spent = spent_since(readers, cpu_of_readers(observer))
                if number:
                    cost = costs[name]
                    cost.milliseconds.append(median(answer.seconds for answer in answers) * 1000)
                    cost.app.append((cpu_of_process(app.process_id) - before) / len(answers) / 1000)
                    cost.database.append(spent / len(answers) / 1000)
        for name, (asker, path) in asked.items():
            costs[name].size = len(require_ok(await ask_once(asker, path)).body)
    return costs


async def signed_in(app: App) -> str:
    """The cookie of a new session."""
    form = urlencode({"key": app.key})
    lines = (
        f"POST {PAGE}/sign-in HTTP/1.1",
        "Host: log.example",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(form)}",
        "Connection: close",
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
    writer.write(("\r\n".join(lines) + "\r\n\r\n" + form).encode("ascii"))
    head = (await reader.read()).decode("latin-1")
    writer.close()
    for line in head.splitlines():
        name, _, value = line.partition(":")
        if name.lower() == "set-cookie":
            return value.partition(";")[0].strip()
    raise RuntimeError(f"The page did not let us sign in: {head.splitlines()[0]}")


def require_ok(answer: Answer) -> Answer:
    """The answer, unless it is an error."""
    if answer.status != 200:
        raise RuntimeError(f"The app answered {answer.status}.")
    return answer
