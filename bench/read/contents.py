"""What the generated entries are: skewed workspaces, events, performers and resources, words, and some planted facts.

Rows come in the binary form of COPY. Each column is drawn from a list that was drawn beforehand and is gone through
again and again; the lists' lengths are different primes, so that no two columns repeat together. Nothing here knows a
database.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, cycle
from math import isqrt
from struct import Struct
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

LARGEST = "acme"
WORKSPACES = 40
SHARE_OF_LARGEST = 0.6
# In the largest workspace, and in each of the others.
PERFORMERS, PERFORMERS_ELSEWHERE = 300, 20
# One entry in so many is a bulk entry.
BULK_EVERY = 50
COMMON_WORD, RARE_WORD, NO_WORD = "revenue", "heliotrope", "quagga"
COMMON_EVENT, RARE_EVENT, NO_EVENT = "resource_updated", "resource_restored", "resource_vanished"
COMMON_PERFORMER, RARE_PERFORMER = "user-00-001", "user-00-299"
RESOURCE_TYPE = "dashboard"
CHOSEN_RESOURCE = "dashboard-chosen"
ENTRIES_OF_CHOSEN, ENTRIES_WITH_RARE_WORD = 500, 20
# Of the chosen resource's entries one in so many is a bulk entry that touches it by one of its rows.
CHOSEN_BULK_EVERY = 25

ENTRY_COLUMNS = (
    "id, created_at, workspace_id, event, operation, table_schema, table_name, resource_type, resource_id,"
    " resource_name, row_key, actor_type, actor_id, actor_name, row_count, before, after, request_id, context,"
    " database_user, transaction_id"
)
CHANGE_COLUMNS = "entry_id, created_at, workspace_id, resource_id, resource_name, row_key, before, after"
COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TRAILER = b"\xff\xff"

# Weight in thousandths, event, operation, resource type (and table).
_KINDS = (
    (295, "resource_updated", "UPDATE", "document"),
    (140, "resource_updated", "UPDATE", "dashboard"),
    (100, "resource_updated", "UPDATE", "dataset"),
    (85, "resource_created", "INSERT", "document"),
    (40, "resource_created", "INSERT", "dashboard"),
    (25, "resource_deleted", "DELETE", "document"),
    (90, "documentation_updated", "UPDATE", "dataset"),
    (40, "documentation_updated", "UPDATE", "glossary_term"),
    (70, "permission_granted", "INSERT", "document"),
    (20, "permission_changed", "UPDATE", "document"),
    (30, "permission_revoked", "DELETE", "document"),
    (15, "role_assigned", "INSERT", "member"),
    (5, "role_changed", "UPDATE", "member"),
    (4, "role_unassigned", "DELETE", "member"),
    (1, "resource_restored", "UPDATE", "document"),
    (39, "resource_viewed", "EVENT", "dashboard"),
    # The log's own, which lists leave out.
    (1, "log_viewed", "EVENT", "audit_log"),
)
_SYLLABLES = re.findall("..", "bacodifeguhajokilumenopaqerasotevawoxeyuzi")
_KNOWN_WORDS = "the of plan data report quarterly customer table owner field weekly source review north sales"
_PEOPLE = ("Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Frances", "Niklaus", "Radia", "Ken")
_NAMES = 4_999

_NULL = b"\xff\xff\xff\xff"
_EPOCH = 946_684_800_000_000  # 2000-01-01, from which COPY counts, in microseconds since 1970
_HEAD = Struct("!hiQQiq")
_XID = Struct("!iQ")


class Planted(NamedTuple):
    """An entry that a question asks for; `moment` is in microseconds since 1970."""

    id: str
    moment: int
    request_id: str
    row_count: int


class _Kind(NamedTuple):
    """What an entry's kind decides: the fields from event to resource_type, and where the others are drawn from."""

    fields: bytes
    resource: bytes
    values: Iterator[bytes]
    context: Iterator[bytes]
    has_row_key: bool


class Contents:
    """The rows of a log of so many entries: the same each time, save for their days and the random part of their ids.

    `planted` and `changes` (how many rows bulk entries have) are complete after the last day.
    """

    def __init__(self, entries: int) -> None:
        self.planted: dict[str, Planted] = {}
        self.changes = 0
        self._largest_bulk = min(1_000_000, entries // 2)
        self._random = random.Random(entries)
        self._lengths = _primes(100_003)
        self._words = _vocabulary(3_000)
        self._word_weights = list(accumulate(_zipf(len(self._words))))
        rest = [weight * (1 - SHARE_OF_LARGEST) / sum(_zipf(WORKSPACES - 1)) for weight in _zipf(WORKSPACES - 1)]
        self._workspaces = self._drawn(range(WORKSPACES), [SHARE_OF_LARGEST, *rest])
        self._workspace_fields = [_text(name) for name in (LARGEST, *(f"workspace-{n:02}" for n in range(1, 40)))]
        self._names = [_text(" ".join(self._sentence(3)).title()) for _ in range(_NAMES)]
        resources = max(20, entries // 40)
        self._resources = self._drawn(
            range(resources), _zipf(resources, 0.7), max(100_003, min(entries // 20, 999_983))
        )
        self._performers = self._drawn(range(PERFORMERS), _zipf(PERFORMERS))
        self._actors = [[_actor(place, n) for n in range(PERFORMERS)] for place in range(WORKSPACES)]
        self._kinds = self._drawn(self._make_kinds(), [weight for weight, *_ in _KINDS])
        self._bulk_rows = self._drawn(range(2, 21), [1 / size for size in range(2, 21)])
        self._changed = cycle([_json(self._values(0)) + _json(self._values(0)) for _ in range(next(self._lengths))])
        self._roles = self._plant(entries)

    def day(self, first: int, count: int, start: int, end: int) -> tuple[Iterator[bytes], list[bytes]]:
        """The entries of a day in pieces: `count` from number `first` on, between two moments in microseconds.

        The second value holds the day's changes once all entries were taken.
        """
        changes: list[bytes] = []
        return self._rows(first, count, start, end, changes), changes

    def _plant(self, entries: int) -> dict[int, str]:
        """The numbers of the entries that have a part to play, all of them the largest workspace's.

        The oldest day lies in part before "the last 90 times 24 hours": nothing is planted there.
        """
        begin = entries // 50

        def spread(wanted: int) -> list[int]:
            wanted = min(wanted, entries // 10)
            return [begin + int((n + 0.5) * (entries - begin) / wanted) for n in range(wanted)]

        roles = {number + 1: "rare word" for number in spread(ENTRIES_WITH_RARE_WORD)}
        roles |= {
            number: "chosen" if place % CHOSEN_BULK_EVERY else "chosen bulk"
            for place, number in enumerate(spread(ENTRIES_OF_CHOSEN))
        }
        free = (number for number in range(entries // 2, entries) if number not in roles)
        return {**roles, next(free): "largest bulk", next(free): "middle"}

    def _rows(self, first: int, count: int, start: int, end: int, changes: list[bytes]) -> Iterator[bytes]:
        pieces: list[bytes] = []
        step = (end - start) // max(1, count)
        head, xid, bits, draw = _HEAD.pack, _XID.pack, self._random.getrandbits, self._random.random
        workspaces, kinds, resources, performers = self._workspaces, self._kinds, self._resources, self._performers
        names, actors, fields, roles = self._names, self._actors, self._workspace_fields, self._roles
        for number in range(first, first + count):
            moment = start + (number - first) * step + int(draw() * step)
            milliseconds, microseconds = divmod(moment, 1000)
            # Version 7 and the variant of RFC 9562, as audit.new_entry_id() writes them.
            high, low = milliseconds << 16 | 0x7000 | microseconds, 1 << 63 | bits(62)
            begun = head(21, 16, high, low, 8, moment - _EPOCH)
            place, kind, resource, performer = next(workspaces), next(kinds), next(resources), next(performers)
            if number in roles or number % BULK_EVERY == 0:
                pieces.append(self._special(number, begun, place, kind, resource, performer, changes))
            else:
                resource_id = b"%b%02d%d" % (kind.resource, place, resource)
                pieces += (
                    begun,
                    fields[place],
                    kind.fields,
                    len(resource_id).to_bytes(4, "big"),
                    resource_id,
                    names[resource % _NAMES],
                    b"\0\0\0\x06%06d" % (number % 1_000_000) if kind.has_row_key else _NULL,
                    actors[place][performer],
                    next(kind.values),
                    b"\0\0\0\x0ereq-%010x" % (number >> 1),
                    next(kind.context),
                )
            pieces.append(xid(8, 1000 + number))
            if len(pieces) > 20_000:
                yield b"".join(pieces)
                pieces.clear()
        yield b"".join(pieces)

    def _special(
        self,
        number: int,
        begun: bytes,
        place: int,
        kind: _Kind,
        resource: int,
        performer: int,
        changes: list[bytes],
    ) -> bytes:
        """A bulk entry, whose rows are added to the changes, or one with a part to play; all but its last field."""
        role = self._roles.get(number)
        place = 0 if role else place
        is_bulk = role in (None, "chosen bulk", "largest bulk")
        row_count = 1
        if is_bulk:
            row_count = self._largest_bulk if role == "largest bulk" else next(self._bulk_rows)
            self._add_changes(begun, place, resource, row_count, changes, is_chosen=role == "chosen bulk")
        if role in ("largest bulk", "middle"):
            moment = int.from_bytes(begun[-8:], "big") + _EPOCH
            self.planted[role] = Planted(_uuid(begun[6:22]), moment, f"req-{number >> 1:010x}", row_count)
        fields, values, table = kind.fields, next(kind.values), "document"
        resource_id: str | None = f"{kind.resource.decode()}{place:02}{resource}"
        if is_bulk:
            values, resource_id = _bigint(row_count) + _NULL + _NULL, None
        elif role == "rare word":
            values = _bigint(1) + _json({"title": "before"}) + _json({"title": f"a {RARE_WORD} {COMMON_WORD} plan"})
        elif role == "chosen":
            values, resource_id, table = next(self._updates), CHOSEN_RESOURCE, RESOURCE_TYPE
        if role != "middle":
            fields = _texts("resource_updated", "UPDATE", "public", table, table)
        return b"".join(
            (
                begun,
                self._workspace_fields[place],
                fields,
                _NULL if resource_id is None else _text(resource_id),
                _NULL if resource_id is None else self._names[resource % _NAMES],
                _NULL,
                self._actors[place][performer],
                values,
                b"\0\0\0\x0ereq-%010x" % (number >> 1),
                next(kind.context),
            )
        )

    def _add_changes(
        self, begun: bytes, place: int, resource: int, rows: int, changes: list[bytes], *, is_chosen: bool
    ) -> None:
        common = b"\0\x08" + begun[2:] + self._workspace_fields[place]
        names, changed = self._names, self._changed
        for row in range(resource, resource + rows):
            resource_id = b"document-%02d%d" % (place, row)
            if is_chosen and row == resource:
                resource_id = CHOSEN_RESOURCE.encode()
            length = len(resource_id).to_bytes(4, "big")
            changes.append(b"".join((common, length, resource_id, names[row % _NAMES], _NULL, next(changed))))
        self.changes += rows

    def _drawn(self, values: Sequence[T], weights: Sequence[float], least: int = 0) -> Iterator[T]:
        length = next(_primes(least)) if least else next(self._lengths)
        return cycle(self._random.choices(values, cum_weights=list(accumulate(weights)), k=length))

    def _sentence(self, words: int) -> list[str]:
        return self._random.choices(self._words, cum_weights=self._word_weights, k=words)

    def _values(self, shape: int) -> dict[str, Any]:
        """Columns of a row: of one that changed (0), or all of it (1)."""
        number = self._random.randrange(100_000)
        some = {"title": " ".join(self._sentence(4)), "description": " ".join(self._sentence(9)), "version": number}
        more = {"state": self._random.choice(("draft", "final")), "stars": number % 5, "tags": self._sentence(2)}
        return {**some, **more} if shape else some

    def _make_kinds(self) -> list[_Kind]:
        one = _bigint(1)
        lengths = self._lengths
        updates = [one + _json(self._values(0)) + _json(self._values(0)) for _ in range(next(lengths))]
        inserts = [one + _NULL + _json(self._values(1)) for _ in range(next(lengths))]
        deletes = [one + _json(self._values(1)) + _NULL for _ in range(next(lengths))]
        self._updates = cycle(updates)
        values = {
            "UPDATE": self._updates,
            "INSERT": cycle(inserts),
            "DELETE": cycle(deletes),
            "EVENT": cycle([_bigint(0) + _NULL + _NULL]),
        }
        plain = cycle([_context(self._random, " ".join(self._sentence(5)), None) for _ in range(next(lengths))])
        granting = cycle(
            [_context(self._random, None, f"user-00-{self._random.randrange(300):03}") for _ in range(next(lengths))]
        )
        kinds = []
        for _, event, operation, resource in _KINDS:
            is_permission = event.startswith(("permission", "role"))
            table = _NULL + _NULL if operation == "EVENT" else _texts("public", resource)
            fields = _texts(event, operation) + table + _text(resource)
            context = granting if is_permission else plain
            kinds.append(_Kind(fields, f"{resource}-".encode(), values[operation], context, is_permission))
        return kinds


def _context(source: random.Random, reason: str | None, subject: str | None) -> bytes:
    """The fields context and database_user: a third of what is no permission has no context."""
    context: dict[str, Any] = {"ip": f"10.0.{source.randrange(4)}.{source.randrange(256)}"}
    if subject:
        context["subject"] = {"id": subject, "name": subject.replace("user", "User")}
    elif source.random() < 0.2:
        context["reason"] = reason
    elif source.random() < 0.4:
        return _NULL + _text("app")
    return _json(context) + _text("app")


def _actor(place: int, number: int) -> bytes:
    number = number if place == 0 else number % PERFORMERS_ELSEWHERE
    if number == 7:
        return _texts("system", "system", "system")
    kind = "service" if number == 3 else "user"
    return _texts(kind, f"user-{place:02}-{number:03}", f"{_PEOPLE[number % len(_PEOPLE)]} {place:02}{number:03}")


def _vocabulary(size: int) -> list[str]:
    made = [f"{a}{b}{c}" for a in _SYLLABLES for b in _SYLLABLES for c in _SYLLABLES]
    words = random.Random(0).sample(made, size)
    return [*_KNOWN_WORDS.split(), COMMON_WORD, *words][:size]


def _zipf(ranks: int, exponent: float = 1.0) -> list[float]:
    return [1 / rank**exponent for rank in range(1, ranks + 1)]


def _primes(least: int) -> Iterator[int]:
    number = least | 1
    while True:
        if all(number % divisor for divisor in range(3, isqrt(number) + 1, 2)):
            yield number
        number += 2


# Fields in the binary form of COPY


def _field(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def _text(value: str) -> bytes:
    return _field(value.encode())


def _texts(*values: str) -> bytes:
    return b"".join(map(_text, values))


def _bigint(value: int) -> bytes:
    return _field(value.to_bytes(8, "big"))


def _json(value: object) -> bytes:
    return _field(b"\x01" + json.dumps(value).encode())


def _uuid(value: bytes) -> str:
    text = value.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
