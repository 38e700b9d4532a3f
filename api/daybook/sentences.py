"""Sentences turns entries into what the page says of them, and every text from the log into something safe to show.

It knows no HTML and no query; what an event says stands in catalogue.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

import msgspec

from .catalogue import LEVELS, Catalogue, Choice, Name, Phrase, type_of
from .database import Row

LONGEST_NAME = 200
LONGEST_LINKED = 500
LONGEST_REASON = 500
# Control characters and what changes the order or hides the presence of others (Unicode TR 36, section 2.10.3).
_DECEPTIVE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]|[\ud800-\udfff]"
)


class Piece(NamedTuple):
    """A part of a sentence; `kind` says what it names: actor, resource, subject, value, or nothing (plain words).

    `id` is what the page finds it by; None: it cannot be looked for.
    """

    text: str
    kind: str = ""
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """An entry as the page says it; `marks` are what sets its actor apart from a user, each with its explanation."""

    id: str
    moment: datetime
    event: str
    log_type: str
    resource_type: str
    pieces: Sequence[Piece]
    marks: Sequence[tuple[str, str]]
    row_count: int
    has_rows: bool
    reason: str | None


# A column with the JSON type, the text as far as it was read, and the length of what was there before and after it.
Stored = tuple[str, str | None, str | None, int | None, str | None, str | None, int | None]


def show(text: str, longest: int = LONGEST_NAME) -> str:
    """A text from the log, cut, with characters that deceive the eye written out as their numbers."""
    cut = text if len(text) <= longest else text[:longest] + "…"
    # Most texts have none, and printable ASCII needs no look.
    if cut.isascii() and cut.isprintable():
        return cut
    return _DECEPTIVE.sub(lambda match: f"⟦U+{ord(match[0]):04X}⟧", cut)


def stored_values(row: Row) -> list[Stored]:
    """The values of a row that was read for the page."""
    return msgspec.json.decode(row["values"], type=list[Stored]) if row["values"] is not None else []


def by_day(lines: Sequence[Line]) -> list[tuple[str, str, list[Line]]]:
    """The lines under the UTC day that each belongs to, in their order: the date, its name in full, and they."""
    days: list[tuple[str, str, list[Line]]] = []
    for line in lines:
        day = line.moment.date().isoformat()
        if not days or days[-1][0] != day:
            days.append((day, name_day(line.moment), []))
        days[-1][2].append(line)
    return days


def name_day(moment: datetime) -> str:
    """A day in full: Saturday, 14 March 2026."""
    return f"{moment:%A}, {moment.day} {moment:%B %Y}"


def name_age(moment: datetime, now: datetime) -> str:
    """How long ago something was: `3 hours ago`; from two days on, and for what is to come, the date."""
    age = now - moment
    if age < timedelta(0) or age >= timedelta(days=2):
        return f"{moment.day} {moment:%b}" + (f" {moment.year}" if moment.year != now.year else "")
    if age < timedelta(minutes=1):
        return "just now"
    for unit, seconds in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        number = int(age.total_seconds() // seconds)
        if number:
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return "just now"


def write_line(row: Row, catalogue: Catalogue, values: Sequence[Stored] = ()) -> Line:
    """An entry as the page says it; `values` are those of its row that a sentence may name."""
    return Line(
        id=str(row["id"]),
        moment=row["created_at"].astimezone(UTC),
        event=row["event"],
        log_type=type_of(row["event"]),
        resource_type=row["resource_type"],
        pieces=list(_pieces(row, catalogue, values)),
        marks=list(_marks(row)),
        row_count=row["row_count"],
        has_rows=row["row_count"] > 1 and row["operation"] != "TRUNCATE",
        reason=show(row["reason"], LONGEST_REASON) if row["reason"] else None,
    )


def name_row(row: Row) -> tuple[str, str]:
    """The name of a row of a bulk entry, and its id where that is something else."""
    name, own = row["resource_name"] or row["resource_id"] or "a row without a key", row["resource_id"] or ""
    return show(name), show(own) if own != name else ""


def name_kind(resource_type: str) -> str:
    """A kind of resource in words."""
    return show(resource_type).replace("_", " ")


def _marks(row: Row) -> Iterator[tuple[str, str]]:
    login = show(row["database_user"])
    if row["actor_type"] == "system":
        yield "system", "No user was named for this change"
        yield f"login {login}", "All that is known of who did it is the database login"
    elif row["actor_type"] == "service":
        yield "service", "Done by a service, not by a person"


def _pieces(row: Row, catalogue: Catalogue, values: Sequence[Stored]) -> Iterator[Piece]:
    yield Piece(show(row["actor_name"]), "actor", _linked(row["actor_id"]))
    yield Piece(" ")
    phrase = catalogue.phrase(row["event"])
    named = _named(row, phrase, values)
    for part in phrase:
        if isinstance(part, Choice):
            chosen = part.said if all(named.get(name) for name in part.names) else part.otherwise
            for word in chosen:
                yield from _said(word, named)
        else:
            yield from _said(part, named)


def _said(part: str | Name, named: Mapping[str, Sequence[Piece]]) -> Sequence[Piece]:
    if isinstance(part, str):
        return [Piece(show(part))]
    return named.get(part.name) or [Piece("…")]


def _named(row: Row, phrase: Phrase, values: Sequence[Stored]) -> dict[str, list[Piece]]:
    """What a phrase may name of an entry; what the entry lacks is not there."""
    subject = row["subject_name"] or row["subject_id"]
    named = {"resource": list(_resource(row)), "subject": [Piece(show(subject), "subject")] if subject else []}
    for name in _wanted(phrase):
        text = _value(row, name, values)
        named[name] = [Piece(show(text), "value")] if text else []
    return named


@lru_cache(maxsize=1000)
def _wanted(phrase: Phrase) -> frozenset[str]:
    """What a phrase names beside the resource and the subject."""
    wanted = {name for part in phrase if isinstance(part, Choice) for name in part.names}
    wanted |= {part.name for part in phrase if isinstance(part, Name)}
    return frozenset(wanted - {"resource", "subject"})


def _value(row: Row, name: str, values: Sequence[Stored]) -> str | None:
    side, _, key = name.partition(".")
    if side == "details":
        found = msgspec.json.decode(row["details"]).get(key) if row["details"] is not None else None
        return found if isinstance(found, str) or found is None else msgspec.json.encode(found).decode()
    for column, before_type, before, _, after_type, after, _ in values:
        if side == "level" and column in LEVELS:
            return after if after_type == "string" else before if before_type == "string" else None
        if column == key and side == "before":
            return before
        if column == key and side == "after":
            return after
    return None


def _resource(row: Row) -> Iterator[Piece]:
    """`the document Revenue KPIs`, `1,284 dashboards`, `all 12 documents`."""
    count, kind = row["row_count"], name_kind(row["resource_type"])
    name = row["resource_name"] or row["resource_id"]
    many = f"{count:,} {_plural(kind) if count != 1 else kind}"
    if row["operation"] == "TRUNCATE":
        yield Piece(f"all {many}" if count != 1 else f"the only {kind}")
        return
    if name is None:
        yield Piece(many if count > 1 else f"a {kind}")
        return
    if row["resource_type"] != "audit_log":
        yield Piece(f"the {kind} ")
    yield Piece(show(name), "resource", _linked(row["resource_id"]))
    if count > 1:
        yield Piece(f" ({count:,} rows)")


def _plural(kind: str) -> str:
    if kind.endswith(("s", "x", "z", "ch", "sh")):
        return kind + "es"
    return kind[:-1] + "ies" if re.search("[^aeiou]y$", kind) else kind + "s"


def _linked(found: str | None) -> str | None:
    """An id that may stand in an address: a longer one is shown without a link."""
    return found if found is not None and len(found) <= LONGEST_LINKED else None
