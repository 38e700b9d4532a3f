"""Histogram is the days of the log as bars: an SVG without styles or scripts of its own, and the same as a table.

It counts nothing: the numbers are those of the overview.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from ..addresses import Pairs
from ..catalogue import LOG_TYPES, OTHER, type_of
from ..parameters import Listing
from ..queries import Overview
from .frame import Frame
from .narrowing import without_page

LABELS = {**{name: kind.label for name, kind in LOG_TYPES.items()}, OTHER: "Other events"}
# In the SVG's own units; each day is STEP wide.
HEIGHT, STEP, BAR = 80, 10, 8


@dataclass(frozen=True, slots=True)
class Day:
    """One day: its number of entries by log type, and the address of its entries."""

    day: date
    x: int
    total: int
    numbers: Sequence[tuple[str, int]]
    address: str

    @property
    def label(self) -> str:
        """The day and its number, as the bar says it."""
        number = f"{self.total:,} {'entry' if self.total == 1 else 'entries'}"
        return f"{self.day:%a} {self.day.day} {self.day:%b}: {number}"


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
    numbers: dict[str, dict[str, int]] = {}
    for date_of, event, number in overview.days:
        if _is_asked_for(event, *events):
            of_day = numbers.setdefault(date_of, {})
            log_type = type_of(event)
            of_day[log_type] = of_day.get(log_type, 0) + number
    kept = without_page(query, "from", "until", "days", "created_after", "created_before")
    # Written once for all days.
    address = frame.link("", [*kept, ("from", "0000-00-00"), ("until", "0000-00-00")])
    days = []
    for index in range((last - first).days + 1):
        day = first + timedelta(days=index)
        of_day = numbers.get(day.isoformat(), {})
        # A day without entries leads nowhere.
        days.append(
            Day(
                day,
                index * STEP,
                sum(of_day.values()),
                [(name, of_day[name]) for name in LABELS if name in of_day],
                address.replace("0000-00-00", day.isoformat()) if of_day else "",
            )
        )
    highest = max((day.total for day in days), default=0)
    return Histogram(
        len(days) * STEP,
        _paths(days, highest),
        days,
        highest,
        sum(day.total for day in days),
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


def _paths(days: Sequence[Day], highest: int) -> list[tuple[str, str, str]]:
    """Each log type with its label and the outline of its bars, the first at the bottom."""
    outlines: dict[str, list[str]] = {name: [] for name in LABELS}
    for day in days:
        below = 0.0
        for name, number in day.numbers:
            # What is there can be seen.
            height = max(number / highest * HEIGHT, 1.0)
            top = max(HEIGHT - below - height, 0)
            outlines[name].append(f"M{day.x + 1} {top:.1f}h{BAR}V{HEIGHT - below:.1f}h-{BAR}z")
            below = HEIGHT - top
    return [(name, LABELS[name], "".join(outline)) for name, outline in outlines.items() if outline]
