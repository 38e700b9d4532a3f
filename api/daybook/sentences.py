"""Sentences turns entries into what the page says of them, and every text from the log into something safe to show.

It knows no HTML and no query.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby

import msgspec

from .database import Row
from .queries import SHOWN_CHARACTERS, SHOWN_COLUMNS

# What an event did: to the resource, and with the other party of a permission or role where there is one.
PHRASES = {
    "resource_created": "created {resource}",
    "resource_updated": "updated {resource}",
    "resource_deleted": "deleted {resource}",
    "resource_restored": "restored {resource}",
    "documentation_updated": "updated the documentation of {resource}",
    "permission_granted": "granted a permission on {resource}[ to {subject}]",
    "permission_changed": "changed a permission on {resource}[ of {subject}]",
    "permission_revoked": "revoked a permission on {resource}[ from {subject}]",
    "role_assigned": "gave {resource} [the role {subject}|a role]",
    "role_changed": "changed [the role {subject}|a role] of {resource}",
    "role_unassigned": "took [the role {subject}|a role] from {resource}",
    "tracking_enabled": "started tracking {resource}",
    "tracking_changed": "changed the tracking of {resource}",
    "tracking_disabled": "stopped tracking {resource}",
    "table_altered": "altered the tracked table {resource}",
    "table_dropped": "dropped the tracked table {resource}",
    "day_dropped": "dropped the day {resource} from the log",
    "day_held": "put the day {resource} of the log on hold",
    "day_released": "released the day {resource} of the log",
    "key_created": "created the key {resource}",
    "key_revoked": "revoked the key {resource}",
    "log_viewed": "viewed the log",
    "log_exported": "exported the log",
    "log_write_denied": "tried to write to the log and was refused",
    "seal_failed": "found a broken seal: {resource}",
}
# The page's log types: which events each shows.
LOG_TYPES = {
    "resource": ("Resources", ("resource_*",)),
    "documentation": ("Documentation", ("documentation_*",)),
    "permission": ("Permissions", ("permission_*",)),
    "role": ("Roles", ("role_*",)),
    "upkeep": (
        "Access and upkeep",
        (
            *("tracking_*", "table_altered", "table_dropped", "day_dropped", "day_held", "day_released"),
            *("key_*", "log_*", "seal_*"),
        ),
    ),
}

LONGEST_NAME = 200
LONGEST_LINKED = 500
# Control characters and what changes the order or hides the presence of others (Unicode TR 36, section 2.10.3).
_DECEPTIVE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]|[\ud800-\udfff]"
)
_PIECE = re.compile(r"\{(resource|subject)\}")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a sentence; `kind` says what it names: actor, resource, subject, or nothing (plain words).

    `id` is what the page's filter finds it by; None: it cannot be filtered by.
    """

    text: str
    kind: str = ""
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Value:
    """One column before and after, as text; None where there was nothing."""

    column: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Line:
    """An entry as the page shows it."""

    id: str
    moment: str
    day: str
    time: str
    event: str
    pieces: Sequence[Piece]
    row_count: int
    values: Sequence[Value]
    more_values: bool
    has_rows: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class ChangedRow:
    """A row of a bulk entry as the page shows it."""

    name: str
    values: Sequence[Value]
    more_values: bool


def show(text: str, longest: int = LONGEST_NAME) -> str:
    """A text from the log, cut, with characters that deceive the eye written out as their numbers."""
    visible = _DECEPTIVE.sub(lambda match: f"⟦U+{ord(match[0]):04X}⟧", text[:longest])
    return visible + ("…" if len(text) > longest else "")


def by_day(rows: Sequence[Row]) -> list[tuple[str, list[Line]]]:
    """The entries under the UTC day each belongs to, in their order."""
    days = groupby(rows, key=lambda row: _day(row["created_at"].astimezone(UTC)))
    return [(day, [write_line(row) for row in rows]) for day, rows in days]


def write_line(row: Row) -> Line:
    """An entry as the page shows it."""
    moment: datetime = row["created_at"].astimezone(UTC)
    values, more = _values(row)
    return Line(
        id=str(row["id"]),
        moment=moment.isoformat(),
        day=_day(moment),
        time=f"{moment:%H:%M:%S}",
        event=row["event"],
        pieces=list(_pieces(row)),
        row_count=row["row_count"],
        values=values,
        more_values=more,
        has_rows=row["row_count"] > 1 and row["operation"] != "TRUNCATE",
        reason=show(row["reason"], SHOWN_CHARACTERS) if row["reason"] else None,
    )


def _day(moment: datetime) -> str:
    return f"{moment:%A}, {moment.day} {moment:%B %Y}"


def write_row(row: Row) -> ChangedRow:
    """A row of a bulk entry as the page shows it."""
    values, more = _values(row)
    name = row["resource_name"] or row["resource_id"] or "a row without a key"
    beside = f" ({show(row['resource_id'])})" if row["resource_name"] and row["resource_id"] else ""
    return ChangedRow(show(name) + beside, values, more)


def _pieces(row: Row) -> Iterator[Piece]:
    yield Piece(show(row["actor_name"]), "actor", _linked(row["actor_id"]))
    yield Piece(" ")
    subject = row["subject_name"] or row["subject_id"]
    named: Mapping[str, list[Piece]] = {
        "resource": list(_resource(row)),
        "subject": [Piece(show(subject), "subject")] if subject else [],
    }
    phrase = PHRASES.get(row["event"]) or _phrase_of(row["event"])
    # [with the other party|without it]
    phrase = re.sub(r"\[([^|\]]*)\|?([^\]]*)\]", r"\1" if subject else r"\2", phrase)
    for number, text in enumerate(_PIECE.split(phrase)):
        if number % 2:
            yield from named[text]
        elif text:
            yield Piece(text)


def _resource(row: Row) -> Iterator[Piece]:
    """`the document Revenue KPIs`, `12 rows of document`, `all 12 rows of document`."""
    kind = show(row["resource_type"]).replace("_", " ")
    name = row["resource_name"] or row["resource_id"]
    count = f"{row['row_count']:,}"
    if row["operation"] == "TRUNCATE":
        yield Piece(f"all {count} rows of {kind}" if row["row_count"] != 1 else f"the only row of {kind}")
        return
    if name is None:
        yield Piece(f"{count} rows of {kind}" if row["row_count"] > 1 else f"a {kind}")
        return
    if row["resource_type"] != "audit_log":
        yield Piece(f"the {kind} ")
    yield Piece(show(name), "resource", _linked(row["resource_id"]))
    if row["row_count"] > 1:
        yield Piece(f" ({count} rows)")


def _phrase_of(event: str) -> str:
    """`document_exported` reads `exported a document: …`, whatever the application calls its events."""
    words = show(event).replace("{", "(").replace("}", ")").replace("[", "(").replace("]", ")").split("_")
    return f"{words[-1]} {' '.join(words[:-1])}".strip() + ": {resource}"


def _linked(found: str | None) -> str | None:
    """An id that may stand in an address: a longer one is shown without a link."""
    return found if found is not None and len(found) <= LONGEST_LINKED else None


def _values(row: Row) -> tuple[list[Value], bool]:
    if row["values"] is None:
        return [], False
    values = msgspec.json.decode(bytes(row["values"]), type=list[tuple[str, str | None, str | None]])
    return [
        Value(show(column), _shown(before), _shown(after)) for column, before, after in values[:SHOWN_COLUMNS]
    ], len(values) > SHOWN_COLUMNS


def _shown(text: str | None) -> str | None:
    return None if text is None else show(text, SHOWN_CHARACTERS)
