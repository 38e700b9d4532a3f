"""Histogram is the days of the log as bars: an SVG without styles or scripts of its own, and the same as a table.

It counts nothing: the numbers are those of the overview.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache

from ..addresses import Pairs
from ..catalogue import LOG_TYPES, OTHER, type_of
from ..parameters import Listing
from ..queries import Overview
from .frame import Frame
from .narrowing import without_page

LABELS = {**{name: kind.label for name, kind in LOG_TYPES.items()}, OTHER: "Other events"}
EPOCH = date(1970, 1, 1).toordinal()
# In the SVG's own units; each day is STEP wide.
HEIGHT, STEP, BAR = 80, 10, 8


@dataclass(frozen=True, slots=True)
class Day:
    """One day: its number of entries, that of each log type as the histogram has them, and their address."""

    day: date
    x: int
    total: int
    numbers: Sequence[int]
    address: str

    @property
    def label(self) -> str:
        """The day and its number, as the bar says it."""
        return f"{name_of(self.day)}: {self.total:,} {'entry' if self.total == 1 else 'entries'}"


@lru_cache(maxsize=1000)
def name_of(day: date) -> str:
    """A day in short: Sat 14 Mar."""
    return f"{day:%a} {day.day} {day:%b}"


@dataclass(frozen=True, slots=True)
class Histogram:
    """The bars as one path for each log type, the days over them, oldest first, and what the axes say."""

    width: int
    paths: Sequence[tuple[str, str, str]]
    days: Sequence[Day]
    highest: int
    total: int
    is_whole: bool
    # Where the days of the list begin and how wide they are; None: it has them all.
    chosen: tuple[int, int] | None


def draw(
    overview: Overview, listing: Listing, now: datetime, oldest: datetime, query: Pairs, frame: Frame
) -> Histogram:
    """The histogram of the days that are kept; of a list that is found by reading, of its own days."""
    last = now.date()
    first = max((oldest if overview.is_whole else listing.lower).date(), last - timedelta(days=400))
    if overview.is_whole and oldest != oldest.replace(hour=0, minute=0, second=0, microsecond=0):
        # Of the day in which retention begins a part is shown only.
        first = min(first + timedelta(days=1), last)
    events = listing.filters.get("event"), listing.filters.get("event_beginnings")
    start = first.toordinal() - EPOCH
    length = last.toordinal() - EPOCH - start + 1
    # Of each log type a number a day.
    numbers: dict[str, list[int]] = {}
    for event, of_event in overview.days.items():
        if _is_asked_for(event, *events):
            of_type = numbers.setdefault(type_of(event), [0] * length)
            for number_of_day, number in of_event.items():
                if 0 <= number_of_day - start < length:
                    of_type[number_of_day - start] += number
    numbers = {name: numbers[name] for name in LABELS if any(numbers.get(name, ()))}
    totals = list(map(sum, zip(*numbers.values(), strict=True))) if numbers else [0] * length
    kept = without_page(query, "from", "until", "days", "created_after", "created_before")
    # Written once for all days.
    address = frame.link("", [*kept, ("from", "0000-00-00"), ("until", "0000-00-00")])
    days = []
    for index, total in enumerate(totals):
        day = first + timedelta(days=index)
        # A day without entries leads nowhere.
        leads_to = address.replace("0000-00-00", day.isoformat()) if total else ""
        days.append(Day(day, index * STEP, total, [of_type[index] for of_type in numbers.values()], leads_to))
    highest = max(totals)
    return Histogram(
        len(days) * STEP,
        _paths(numbers, highest),
        days,
        highest,
        sum(totals),
        overview.is_whole,
        _chosen(listing, first, last),
    )


def _chosen(listing: Listing, first: date, last: date) -> tuple[int, int] | None:
    lower = max(listing.lower.date(), first)
    upper = min((listing.upper - timedelta(microseconds=1)).date(), last)
    if (lower, upper) == (first, last) or upper < lower:
        return None
    return (lower - first).days * STEP, ((upper - lower).days + 1) * STEP


def _is_asked_for(event: str, names: object, beginnings: object) -> bool:
    """Whether an event meets the filter, as its clause in filters.py has it."""
    if names is None:
        return True
    assert isinstance(names, list)
    assert isinstance(beginnings, list)
    return event in names or any(event.startswith(pattern[:-1].replace("\\_", "_")) for pattern in beginnings)


def _paths(numbers: Mapping[str, Sequence[int]], highest: int) -> list[tuple[str, str, str]]:
    """Each log type with its label and the outline of its bars, the first at the bottom."""
    paths = []
    tops = [float(HEIGHT)] * len(next(iter(numbers.values()), ()))
    for name, of_type in numbers.items():
        outline = []
        for index, number in enumerate(of_type):
            if number:
                bottom = tops[index]
                # What is there can be seen.
                top = tops[index] = max(bottom - max(number / highest * HEIGHT, 1.0), 0)
                outline.append(f"M{index * STEP + 1} {top:.1f}h{BAR}V{bottom:.1f}h-{BAR}z")
        paths.append((name, LABELS[name], "".join(outline)))
    return paths
