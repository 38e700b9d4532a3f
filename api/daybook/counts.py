"""Counts is the arithmetic of a list's length: which stretches of time the counts know, and which have to be counted.

It knows neither SQL nor HTTP. A stretch holds the moments from `lower` up to `upper`, that one excluded; all are UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
_INSTANT = timedelta(microseconds=1)
# After every entry, and still a moment that can be sent and calculated with.
END = datetime(9999, 12, 31, tzinfo=UTC)


class Indexed(NamedTuple):
    """The stretch of the open days that upkeep has indexed beside them, in audit.open_entry."""

    lower: datetime
    upper: datetime

    def within(self, lower: datetime, upper: datetime) -> Indexed | None:
        """What of it lies between two moments; None: nothing."""
        found = Indexed(max(lower, self.lower), min(upper, self.upper))
        return found if found.lower < found.upper else None


class Activity(NamedTuple):
    """What the counts hold of the entries that meet a list's filters: entries by the start of their day and hour.

    Hours are there for some days only. `counted_until`: no entry from there on is counted; None: none at all.
    """

    counted_until: datetime | None
    days: Mapping[datetime, int]
    hours: Mapping[datetime, int]
    indexed: Indexed | None = None

    def knows_day(self, stretch: Stretch) -> bool:
        """Whether a stretch is a day, or what of it is counted so far."""
        counted = self.counted_until or stretch.lower
        return stretch.lower == day_of(stretch.lower) and stretch.upper == min(stretch.lower + DAY, counted)


class Piece(NamedTuple):
    """A part of a stretch that has to be counted by reading it; `sign` -1: and subtracted."""

    sign: int
    lower: datetime
    upper: datetime


@dataclass(slots=True)
class Stretch:
    """Some moments in a row and their number of entries: what is known of it, and what is to be counted."""

    lower: datetime
    upper: datetime
    known: int
    pieces: tuple[Piece, ...] = ()
    # The day or hour whose count `known` is; None: it is no such count.
    counted_as: Literal["day", "hour"] | None = None

    @property
    def at_least(self) -> int:
        """Entries that there are for certain."""
        return 0 if self.pieces else self.known


class Window(NamedTuple):
    """Where the entries of a page lie: between two moments, so many from the newest on left out."""

    lower: datetime
    upper: datetime
    offset: int


def day_of(moment: datetime) -> datetime:
    """The start of the UTC day that holds a moment."""
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def stretches(lower: datetime, upper: datetime, activity: Activity) -> list[Stretch]:
    """The stretches that make up the time between two moments, newest first: whole days are known, edges are not."""
    counted = activity.counted_until
    if counted is None or counted <= lower:
        return [_uncounted(lower, upper)] if lower < upper else []
    found = [_uncounted(counted, upper)] if upper > counted else []
    upper = min(upper, counted)
    while upper > lower:
        day = day_of(upper - _INSTANT)
        first, last = max(day, lower), min(day + DAY, counted)
        if (first, upper) == (day, last):
            found.append(Stretch(first, upper, activity.days.get(day, 0), (), "day"))
        else:
            found += _part_of_day(first, upper, day, last, activity)
        upper = first
    return found


def hours_of(day: Stretch, hours: Mapping[datetime, int]) -> list[Stretch]:
    """The hours of a day, newest first; the day itself when the counts do not hold them all."""
    starts = [day.lower + number * HOUR for number in range(24)]
    if sum(hours.get(start, 0) for start in starts) != day.known:
        return [day]
    return [
        Stretch(start, min(start + HOUR, day.upper), hours.get(start, 0), (), "hour")
        for start in reversed(starts)
        if start < day.upper
    ]


def _uncounted(lower: datetime, upper: datetime) -> Stretch:
    return Stretch(lower, upper, 0, (Piece(1, lower, upper),))


def _part_of_day(
    lower: datetime, upper: datetime, day: datetime, last: datetime, activity: Activity
) -> Iterable[Stretch]:
    """A part of a day whose counts reach up to `last`, newest first."""
    entries = activity.days.get(day, 0)
    if entries == 0:
        return [Stretch(lower, upper, 0)]
    if sum(activity.hours.get(day + number * HOUR, 0) for number in range(24)) == entries:
        return _by_hours(lower, upper, last, activity.hours)
    if (upper - lower) * 2 <= last - day:
        return [_uncounted(lower, upper)]
    # Less has to be read of what is left out.
    left_out = ((day, lower), (upper, last))
    pieces = tuple(Piece(-1, *edge) for edge in left_out if edge[0] < edge[1])
    return [Stretch(lower, upper, entries, pieces, "day")]


def _by_hours(lower: datetime, upper: datetime, last: datetime, hours: Mapping[datetime, int]) -> Iterator[Stretch]:
    while upper > lower:
        hour = (upper - _INSTANT).replace(minute=0, second=0, microsecond=0)
        first, entries = max(hour, lower), hours.get(hour, 0)
        if (first, upper) == (hour, min(hour + HOUR, last)):
            yield Stretch(first, upper, entries, (), "hour")
        else:
            yield _uncounted(first, upper) if entries else Stretch(first, upper, 0)
        upper = first


def with_counts(found: Iterable[Stretch], numbers: Iterable[int]) -> list[Stretch]:
    """The same stretches, their pieces counted: `numbers` in the order of the stretches and of their pieces."""
    counted = iter(numbers)
    return [
        replace(each, known=each.known + sum(piece.sign * next(counted) for piece in each.pieces), pieces=())
        if each.pieces
        else each
        for each in found
    ]


def newest(found: Sequence[Stretch], entries: int) -> Window:
    """Where the newest so many entries lie, as far as is known for certain."""
    return Window(_reached(found, entries), found[0].upper, 0)


def located(found: Sequence[Stretch], offset: int, entries: int) -> Window:
    """Where so many entries lie after the newest `offset`; all stretches have been counted."""
    passed = 0
    for number, each in enumerate(found):
        if passed + each.known > offset:
            return Window(_reached(found[number:], offset - passed + entries), each.upper, offset - passed)
        passed += each.known
    return Window(found[-1].lower, found[-1].lower, 0)


def holding(found: Sequence[Stretch], offset: int) -> int | None:
    """The number of the stretch that holds the entry after the newest `offset`; None: there are not so many."""
    passed = 0
    for number, each in enumerate(found):
        passed += each.known
        if passed > offset:
            return number
    return None


def oldest_until(found: Sequence[Stretch], entries: int) -> datetime:
    """Up to where to read for the oldest so many entries, as far as is known for certain.

    The oldest stretch counts for nothing: the reader has seen a part of it.
    """
    passed = 0
    for each in reversed(found[:-1]):
        passed += each.at_least
        if passed >= entries:
            return each.upper
    return found[0].upper


def _reached(found: Sequence[Stretch], entries: int) -> datetime:
    passed, lower = 0, found[0].upper
    for each in found:
        passed += each.at_least
        # What holds none for certain is not read at the end of all.
        lower = each.lower if each.known or each.pieces else lower
        if passed >= entries:
            break
    return lower
