"""How long each request takes in a small and a large log, at one and at many clients, all taking turns.

It must not assert anything.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from statistics import median

from .generate import Log
from .plans import Touched
from .questions import Questions
from .serving import Answer, App, ask_for, ask_once

CLIENTS = (1, 16)
# An answer that took longer is asked for once a round by one client, and by many in the first only.
SLOW = 1.0
# One that took even longer is asked for once in all by one client; many would only wait for the time-out.
VERY_SLOW = 5.0


@dataclass(frozen=True, slots=True)
class Target:
    """A log, the app that serves it, and what is asked of it."""

    name: str
    log: Log
    app: App
    questions: Questions


@dataclass(slots=True)
class Times:
    """What one request took in one log by so many clients: a p50 and a p99 for each round, in milliseconds."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    found: str = "-"

    def add(self, answers: Sequence[Answer]) -> None:
        """Add a round."""
        taken = sorted(answer.seconds * 1000 for answer in answers)
        self.p50.append(median(taken))
        self.p99.append(taken[min(len(taken) - 1, int(len(taken) * 0.99))])
        self.statuses.update(answer.status for answer in answers)

    def __str__(self) -> str:
        if not self.p50:
            return "-"
        failed = self.statuses.total() - self.statuses[200]
        worst = max(status for status in self.statuses)
        note = f" ({worst}: {failed / self.statuses.total():.0%})" if failed else ""
        return f"{median(self.p50):.1f} / {median(self.p99):.1f}{note}"


Measured = dict[tuple[str, int, str], Times]


@dataclass(slots=True)
class Caps:
    """The requests, as (question, log), that were asked for less often than the others, so that a run ends."""

    slow: set[tuple[str, str]] = field(default_factory=set)
    very_slow: set[tuple[str, str]] = field(default_factory=set)

    def note(self, question: str, log: str, seconds: float) -> None:
        """Note how long an answer took."""
        if seconds > VERY_SLOW:
            self.very_slow.add((question, log))
        elif seconds > SLOW:
            self.slow.add((question, log))

    def allow(self, question: str, log: str, clients: int, number: int) -> bool:
        """Whether so many clients ask in the round of this number, the first being 0."""
        if (question, log) in self.very_slow:
            return clients == 1 and number == 0
        return (question, log) not in self.slow or clients == 1 or number == 0

    def sentences(self) -> Iterator[str]:
        """What was asked for less often, and how often."""
        for caps, sentence in (
            (self.slow, f"over {SLOW:g} s: once a round by one client, by {CLIENTS[-1]} in the first round only"),
            (self.very_slow, f"over {VERY_SLOW:g} s: once in all, by one client"),
        ):
            for question, log in sorted(caps):
                yield f"{question}, in {log} entries: {sentence}"


async def measure(targets: Sequence[Target], rounds: int, turn: float) -> tuple[Measured, Caps]:
    """The times of each (request, number of clients, log); each is asked for `turn` seconds in a round."""
    measured: Measured = defaultdict(Times)
    caps = Caps()
    for target in targets:
        for question, asked in target.questions.items():
            if asked is not None:
                answer = await ask_once(target.app, asked)
                count = answer.json().get("count")
                measured[question, 1, target.name].found = "-" if count is None else f"{count:,}"
                caps.note(question, target.name, answer.seconds)
    for number in range(rounds):
        # Who is first in one round is last in the next.
        turns = list(targets) if number % 2 == 0 else list(reversed(targets))
        for question in targets[0].questions:
            for clients in CLIENTS:
                for target in turns:
                    path = target.questions[question]
                    if path is None or not caps.allow(question, target.name, clients, number):
                        continue
                    is_capped = (question, target.name) in caps.slow | caps.very_slow
                    answers = await ask_for(target.app, path, clients, 0 if is_capped else turn)
                    measured[question, clients, target.name].add(answers)
                    if clients == 1:
                        caps.note(question, target.name, median(answer.seconds for answer in answers))
    return measured, caps


def print_table(targets: Sequence[Target], measured: Measured, plans: dict[tuple[str, str], Touched | None]) -> None:
    """Print what was measured, with the partitions that each request's plans name and read."""
    names = [target.name for target in targets]
    columns = list(chain.from_iterable([f"{name}, {clients}" for name in names] + ["ratio"] for clients in CLIENTS))
    heads = ["request", *(f"found in {name}" for name in names), *columns, *(f"partitions, {name}" for name in names)]
    print("| " + " | ".join(heads) + " |")
    print("| --- |" + " ---: |" * (len(heads) - 1))
    for question in targets[0].questions:
        cells = [question, *(measured[question, 1, name].found for name in names)]
        for clients in CLIENTS:
            times = [measured[question, clients, name] for name in names]
            cells += [*map(str, times), ratio(times[0], times[-1])]
        cells += [str(plans.get((question, name)) or "-") for name in names]
        print("| " + " | ".join(cells) + " |", flush=True)


def ratio(small: Times, large: Times) -> str:
    """How many times the small log's p50 the large one's is; nothing unless both were answered."""
    if not (small.p50 and large.p50) or {*small.statuses, *large.statuses} != {200}:
        return "-"
    return f"{median(large.p50) / median(small.p50):.2f}"
