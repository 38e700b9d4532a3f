"""Catalogue is the one place where events have their sentences: those of the log, and those that a file adds.

It knows no entry, no HTML and no query; sentences.py fills in what an entry holds.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

# What an event did. `{resource}` and `{subject}`, the other party, name what it is about; `{level}` is what a
# permission is called; `{after.column}`, `{before.column}` and `{details.key}` are values of the entry. What stands in
# brackets is said when all it names is there, else what stands behind its bar.
PHRASES = {
    "resource_created": "created {resource}",
    "resource_updated": "updated {resource}",
    "resource_deleted": "deleted {resource}",
    "resource_restored": "restored {resource}",
    "documentation_updated": "updated the documentation of {resource}",
    "permission_granted": "granted [{level}|a permission] on {resource}[ to {subject}]",
    "permission_changed": "changed a permission on {resource}[ of {subject}][ to {level}]",
    "permission_revoked": "revoked [{level}|a permission] on {resource}[ from {subject}]",
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
    "key_created": "created the key [{details.name} |]{resource}",
    "key_revoked": "revoked the key [{details.name} |]{resource}",
    "log_viewed": "viewed the log",
    "log_exported": "exported the log",
    "log_write_denied": "tried to write to the log and was refused",
    "seal_failed": "found a broken seal: {resource}",
}
# The columns that hold what a permission is called, in tables that are tracked as permissions.
LEVELS = ("level", "permission", "privilege", "access")


@dataclass(frozen=True, slots=True)
class LogType:
    """A kind of events that the page filters and colours by: its label, and the events (`*` ends a beginning)."""

    label: str
    events: tuple[str, ...]

    def holds(self, event: str) -> bool:
        """Whether an event belongs to it."""
        return any(event.startswith(name[:-1]) if name.endswith("*") else event == name for name in self.events)


LOG_TYPES = {
    "resource": LogType("Resources", ("resource_*",)),
    "documentation": LogType("Documentation", ("documentation_*",)),
    "permission": LogType("Permissions", ("permission_*",)),
    "role": LogType("Roles", ("role_*",)),
    "upkeep": LogType(
        "Access and upkeep",
        (
            *("tracking_*", "table_altered", "table_dropped", "day_dropped", "day_held", "day_released"),
            *("key_*", "log_*", "seal_*"),
        ),
    ),
}
# What none of them holds: events that an application records or names itself.
OTHER = "other"

_EVENT = re.compile(r"[a-z][a-z0-9_]{0,62}")
_NAME = re.compile(r"resource|subject|level|(?:before|after|details)\.[^{}\[\]|]{1,63}")
_TOKEN = re.compile(r"\{([^{}\[\]|]*)\}|\[([^\[\]|]*)(?:\|([^\[\]|]*))?\]|([^{}\[\]]+)|(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Name:
    """A place in a phrase for something that the entry holds."""

    name: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A part of a phrase that is said when the entry holds all it names, and the part that is said otherwise."""

    said: tuple[str | Name, ...]
    otherwise: tuple[str | Name, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What the entry has to hold."""
        return tuple(part.name for part in self.said if isinstance(part, Name))


Phrase = tuple[str | Name | Choice, ...]


def parse_phrase(text: str) -> Phrase:
    """The parts of a phrase. Raises ValueError with the rest of a sentence that says what is wrong."""
    parts: list[str | Name | Choice] = []
    for match in _TOKEN.finditer(text):
        name, said, otherwise, words, wrong = match.groups()
        if name is not None:
            parts.append(_named(name))
        elif said is not None:
            choice = Choice(_simple(said), _simple(otherwise or ""))
            if not choice.names:
                raise ValueError(f"has brackets that name nothing: {match[0]}")
            parts.append(choice)
        elif words is not None:
            parts.append(words)
        else:
            raise ValueError(f"has a {wrong} without its counterpart")
    return tuple(parts)


def _simple(text: str) -> tuple[str | Name, ...]:
    return tuple(part for part in parse_phrase(text) if not isinstance(part, Choice))


def _named(name: str) -> Name:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"names {{{name}}}; it may name resource, subject, level, before.COLUMN, after.COLUMN and details.KEY"
        )
    return Name(name)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The phrases of events, and the labels that menus give them."""

    phrases: Mapping[str, Phrase] = field(default_factory=lambda: {e: parse_phrase(p) for e, p in PHRASES.items()})
    labels: Mapping[str, str] = field(default_factory=dict)

    def __hash__(self) -> int:
        """Cheap: there is one of them in an app, and what is remembered of a row is remembered by it too."""
        return hash((len(self.phrases), len(self.labels)))

    def phrase(self, event: str) -> Phrase:
        """What an event says; one that is not known says itself: `document_exported` reads `exported document: …`."""
        known = self.phrases.get(event)
        if known is not None:
            return known
        words = re.sub(r"[{}\[\]|]", "", event).split("_")
        return (f"{words[-1]} {' '.join(words[:-1])}".strip() + ": ", Name("resource"))

    def label(self, event: str) -> str:
        """An event's name in menus: `Dashboard exported`."""
        return self.labels.get(event) or event.replace("_", " ").capitalize()


@lru_cache(maxsize=4096)
def type_of(event: str) -> str:
    """The log type that an event belongs to."""
    return next((name for name, kind in LOG_TYPES.items() if kind.holds(event)), OTHER)


def read_catalogue(path: str) -> Catalogue:
    """The catalogue with what a TOML file adds: tables `sentences` and `labels`, by event. Raises ValueError.

    The error's text goes on after the setting's name.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"names the file {path}, which cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"names the file {path}, which is no TOML in UTF-8: {error}.") from None
    unknown = sorted(set(content) - {"sentences", "labels"})
    if unknown:
        raise ValueError(
            f"names the file {path}, in which nothing but [sentences] and [labels] may stand: {unknown[0]}."
        )
    own = Catalogue()
    phrases, labels = dict(own.phrases), dict(own.labels)
    for table, event, text in _texts(path, content):
        if table == "labels":
            labels[event] = text
            continue
        try:
            phrases[event] = parse_phrase(text)
        except ValueError as error:
            raise ValueError(f"names the file {path}, whose sentence for {event} {error}.") from None
    return Catalogue(phrases, labels)


def _texts(path: str, content: Mapping[str, object]) -> list[tuple[str, str, str]]:
    found = []
    for table, entries in content.items():
        if not isinstance(entries, dict):
            raise ValueError(f"names the file {path}, in which {table} is no table.")
        for event, text in entries.items():
            if not _EVENT.fullmatch(event):
                raise ValueError(f"names the file {path}, in which {event!r} is no event such as dashboard_exported.")
            if not isinstance(text, str) or not text.strip() or len(text) > 500:
                raise ValueError(f"names the file {path}, in which {event} has no text of 1 to 500 characters.")
            found.append((table, event, text))
    return found
