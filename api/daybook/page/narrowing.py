"""Narrowing is what the timeline is narrowed by: the filters in its address, as words that can be taken away, as menus.

It knows no SQL; clauses and sentences of the lists' own filters stand in filters.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta

from ..addresses import Pairs
from ..answers import write_moment
from ..catalogue import LOG_TYPES, Catalogue, type_of
from ..credentials import Reader
from ..database import Row
from ..filters import sentences
from ..parameters import FILTERS, Form, Listing, event_filters, parse_filters, parse_page, parse_page_size, parse_window
from ..queries import Overview
from ..sentences import name_kind, show
from .frame import FRAME, Frame

PERIODS = {"1": "Last 24 hours", "7": "Last 7 days", "30": "Last 30 days", "90": "Last 90 days"}
# The page's own parameters; it takes those of the lists too, from links.
OWN = ("user", "resource", "type", "from", "until")
# What the form has a field for; everything else that narrows is kept beside it.
FIELDS = ("user", "resource", "type", "event", "resource_type", "q", "days", "from", "until")
_ONE_EVENT = re.compile("[a-z0-9_]+")


@dataclass(frozen=True, slots=True)
class Chip:
    """One active filter in words, and the address without it."""

    text: str
    without: str


@dataclass(frozen=True, slots=True)
class Choice:
    """An entry of a menu; `count` None: it is not known."""

    value: str
    label: str
    count: int | None
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class Menus:
    """What the form's menus offer."""

    types: Sequence[Choice]
    events: Sequence[Choice]
    kinds: Sequence[Choice]
    periods: Sequence[Choice]


def parse_page_listing(query: Pairs, reader: Reader) -> Listing:
    """What the page's filters ask for, and those of the lists. Raises WrongParameters, then InvalidPage."""
    form = Form(query)
    listing = parse_window(form, reader)
    given = {"performer": form.take("user", str, None), "resource": form.take("resource", str, None)}
    events: tuple[str, ...] = form.take("type", _log_type, ())
    first, last = form.take("from", _day, None), form.take("until", _day, None)
    if first and last and last < first:
        form.wrong["until"] = ["Give a day that is not before the first one."]
    filters = parse_filters(form)
    if events and "event" in filters:
        form.wrong["type"] = ["Give either a log type or events."]
    elif events:
        filters.pop("not_reading", None)
        filters |= event_filters(events)
    form.refuse_wrong()
    lower = max(listing.lower, _start(first)) if first else listing.lower
    upper = min(listing.upper, _start(last) + timedelta(days=1)) if last else listing.upper
    return replace(
        listing,
        lower=lower,
        upper=max(upper, lower),
        page=parse_page(query),
        page_size=parse_page_size(query),
        filters=filters | {name: value for name, value in given.items() if value is not None},
    )


def _log_type(text: str) -> tuple[str, ...]:
    if text not in LOG_TYPES:
        raise ValueError("There is no such log type.")
    return LOG_TYPES[text].events


def _day(text: str) -> date:
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = date.min
    # The last days of the calendar have no end that could be sent.
    if not date(1, 1, 2) <= found <= date(9998, 12, 31) or len(text) != 10:
        raise ValueError("Give a day such as 2026-03-14.")
    return found


def _start(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def is_narrowed(query: Pairs) -> bool:
    """Whether anything but the usual period narrows the list."""
    return any(name in (*OWN, *FILTERS) and value and (name, value) != ("days", "90") for name, value in query)


def without_page(query: Pairs, *names: str) -> list[tuple[str, str]]:
    """The parameters that narrow, save the page and these names."""
    return [pair for pair in query if pair[1] and pair[0] not in ("page", "page_size", FRAME, "key", *names)]


def write_chips(
    query: Pairs, listing: Listing, frame: Frame, catalogue: Catalogue, rows: Sequence[Row] = ()
) -> list[Chip]:
    """The active filters in words; `rows` are entries that meet them, from which ids get their names."""
    given = {name: value for name, value in query if value}
    said = {name: sentence for name, sentence in sentences(listing.filters) if name in given}
    texts = {name: show(sentence) for name, sentence in said.items()}
    if "user" in given:
        texts["user"] = show(f"done by {given['user']}")
    if "resource" in given:
        texts["resource"] = show(f"touches the resource {given['resource']}")
    if "type" in given:
        texts["type"] = f"log type: {LOG_TYPES[given['type']].label}"
    if "performer_id" in texts and rows:
        texts["performer_id"] = show(f"done by {rows[0]['actor_name']}")
    if "resource_id" in texts:
        named = next((row["resource_name"] for row in rows if row["resource_id"] == given["resource_id"]), None)
        texts["resource_id"] = show(f"touches the resource {named}") if named else texts["resource_id"]
    if "event" in texts and _ONE_EVENT.fullmatch(given["event"]):
        texts["event"] = show(f"event: {catalogue.label(given['event'])}")
    if "resource_type" in texts:
        texts["resource_type"] = f"kind of resource: {name_kind(given['resource_type'])}"
    if given.get("days", "90") != "90":
        texts["days"] = "in the last 24 hours" if given["days"] == "1" else show(f"in the last {given['days']} days")
    if "created_after" in given:
        texts["created_after"] = f"not before {write_moment(listing.lower)}"
    if "created_before" in given:
        texts["created_before"] = f"before {write_moment(listing.upper)}"
    if "as_of" in given:
        texts["as_of"] = "as the log stood when the walk began"
    chips = [Chip(text, frame.link("", without_page(query, name))) for name, text in texts.items()]
    days = _days_in_words(given.get("from"), given.get("until"))
    return [*chips, Chip(days, frame.link("", without_page(query, "from", "until")))] if days else chips


def _days_in_words(first: str | None, last: str | None) -> str:
    if first and last:
        return f"on {_in_words(first)}" if first == last else f"from {_in_words(first)} to {_in_words(last)}"
    return f"since {_in_words(first)}" if first else f"until {_in_words(last)}" if last else ""


def _in_words(text: str) -> str:
    day = date.fromisoformat(text)
    return f"{day.day} {day:%B %Y}"


def write_menus(query: Pairs, overview: Overview | None, catalogue: Catalogue) -> Menus:
    """What the form's menus offer, with the numbers of the overview."""
    given = {name: value for name, value in query if value}
    events, types, kinds = _sums(overview.kinds if overview else {})
    chosen_type, chosen_event, chosen_kind = (given.get(name, "") for name in ("type", "event", "resource_type"))
    days = given.get("days", "90")
    known = bool(overview and overview.is_whole)
    return Menus(
        [
            Choice(name, kind.label, types.get(name, 0) if known and name != "upkeep" else None, name == chosen_type)
            for name, kind in LOG_TYPES.items()
        ],
        _choices(events, chosen_event, catalogue.label, known),
        _choices(kinds, chosen_kind, name_kind, known),
        [Choice(value, label, None, value == days) for value, label in PERIODS.items()]
        + ([] if days in PERIODS else [Choice(days, f"Last {days} days", None, True)]),
    )


def _sums(numbers: Mapping[tuple[str, str], int]) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    events: dict[str, int] = {}
    types: dict[str, int] = {}
    kinds: dict[str, int] = {}
    for (event, kind), number in numbers.items():
        events[event] = events.get(event, 0) + number
        kinds[kind] = kinds.get(kind, 0) + number
        log_type = type_of(event)
        types[log_type] = types.get(log_type, 0) + number
    return events, types, kinds


def _choices(numbers: Mapping[str, int], chosen: str, name: Callable[[str], str], known: bool) -> list[Choice]:
    found = [
        Choice(value, show(name(value)), number if known else None, value == chosen)
        for value, number in sorted(numbers.items(), key=lambda item: (-item[1], item[0]))[:100]
    ]
    if chosen and chosen not in numbers:
        found.insert(0, Choice(chosen, show(name(chosen)), None, True))
    return found
