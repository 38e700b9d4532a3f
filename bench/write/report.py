"""The figures as a table, what they say about the goals, and as JSON.

It must not measure: it takes the costs of every round and works with their medians.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from .measure import Cost
from .systems import System
from .workloads import Workload

Costs = Mapping[tuple[str, str], Sequence[Cost]]

COLUMNS = ["CPU, µs", "of untracked", "added", "of ours", "WAL, B", "of untracked", "added", "of ours"]
COLUMNS += ["log, B", "of ours", "rows/s", "of untracked"]
HEAD = f"| workload | system | {' | '.join(COLUMNS)} |\n| --- | --- |{' ---: |' * len(COLUMNS)}"


def medians(costs: Costs) -> dict[tuple[str, str], Cost]:
    """The median of each figure over the rounds, each figure by itself."""
    return {key: Cost(*(median(figures) for figures in zip(*rounds, strict=True))) for key, rounds in costs.items()}


def table(costs: Costs, systems: Sequence[System], workloads: Sequence[Workload]) -> str:
    """A line for each workload and system, as Markdown: `added` is over untracked, `of ours` compares what is added."""
    middle = medians(costs)
    lines = [HEAD]
    for workload in workloads:
        plain, ours = middle.get((workload.key, "untracked")), middle.get((workload.key, "ours"))
        for position, system in enumerate(systems):
            cost = middle.get((workload.key, system.key))
            if cost is None:
                continue
            cells = [workload.title if position == 0 else "", system.title]
            for name in ("cpu", "wal"):
                value = getattr(cost, name)
                cells.append(number(value))
                if plain is None:
                    cells += ["", "", ""]
                    continue
                base = getattr(plain, name)
                added = ours and getattr(ours, name) - base
                cells += [ratio(value, base), number(value - base), ratio(value - base, added)]
                if system.key == "untracked":
                    cells[-2:] = ["", ""]
            cells += [number(cost.log), ratio(cost.log, ours and ours.log) if cost.log else ""]
            cells += [f"{cost.rate:,.0f}", ratio(cost.rate, plain and plain.rate)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def number(value: float) -> str:
    return f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def ratio(value: float, base: float | None) -> str:
    return f"{value / base:.2f}" if base else ""


@dataclass(frozen=True)
class Goal:
    """What is added is to be at most `factor` times that of the cheapest peer (or of the floor) in these workloads."""

    title: str
    figure: str
    workloads: tuple[str, ...]
    factor: float
    against: str = "peers"


ONE_ROW = tuple(f"{operation}-{clients}" for clients in (1, 8) for operation in ("insert", "update", "delete"))
BULK_UPDATE, WIDE = ("update-10000", "update-100000"), ("wide-1", "wide-10000")
# Eight clients store the same as one, and their log is extended by more pages than they need at once.
STORED = (*ONE_ROW[:3], "insert-100000", *BULK_UPDATE, "delete-10000", *WIDE)
GOALS = (
    Goal("one-row transactions: at most the cheapest peer's CPU", "cpu", ONE_ROW, 1),
    Goal("bulk UPDATE: at most the cheapest peer's CPU", "cpu", BULK_UPDATE, 1),
    Goal("bulk UPDATE: at most 1.5 times the floor's CPU", "cpu", BULK_UPDATE, 1.5, "floor"),
    Goal("the wide row: at most half the cheapest peer's CPU", "cpu", WIDE, 0.5),
    Goal("WAL: at most 40 % of the cheapest peer's bytes", "wal", STORED, 0.4),
    Goal("log: at most 40 % of the cheapest peer's bytes", "log", STORED, 0.4),
)


def verdicts(costs: Costs, systems: Sequence[System]) -> list[tuple[Goal, str, float, str, float, bool]]:
    """(goal, workload, ours added, cheapest, its added, met) for every goal and workload that was measured."""
    middle = medians(costs)
    found = []
    for goal in GOALS:
        rivals = [s for s in systems if (s.is_peer if goal.against == "peers" else s.key == goal.against)]
        for workload in goal.workloads:
            plain, ours = middle.get((workload, "untracked")), middle.get((workload, "ours"))
            added = {
                rival.title: getattr(cost, goal.figure) - getattr(plain, goal.figure)
                for rival in rivals
                if plain and (cost := middle.get((workload, rival.key)))
            }
            if plain is None or ours is None or not added:
                continue
            cheapest = min(added, key=lambda title: added[title])
            mine = getattr(ours, goal.figure) - getattr(plain, goal.figure)
            found.append((goal, workload, mine, cheapest, added[cheapest], mine <= goal.factor * added[cheapest]))
    return found


def goals(costs: Costs, systems: Sequence[System]) -> str:
    """One line for each goal and workload: met or missed, with both figures and the factor between them."""
    lines = []
    for goal, workload, mine, cheapest, theirs, met in verdicts(costs, systems):
        factor = f"{mine / theirs:.2f}" if theirs > 0 else "none: the other adds nothing"
        lines.append(
            f"{'met   ' if met else 'MISSED'} {goal.title}; {workload}: "
            f"{number(mine)} against {number(theirs)} ({cheapest}), factor {factor}"
        )
    return "\n".join(lines)
