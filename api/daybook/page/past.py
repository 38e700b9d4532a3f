"""Past rebuilds what a resource was at a moment from its entries alone, and says what they do not tell.

It goes by what the reader may read; for DBAs audit.row_as_of knows more (renamed tables and columns). It knows no
query.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from ..database import Row
from ..queries import SHOWN_COLUMNS, History
from ..sentences import Stored, show, stored_values
from .differences import Side, write_side

# Type, text and length of a value; a type of None: the column is not there.
Value = tuple[str | None, str | None, int | None]
Place = tuple[datetime, UUID]


@dataclass(slots=True)
class Life:
    """What is known of one row at the moment: `exists` None: nothing tells.

    `is_whole`: every column is known, because the row came or went within what is kept.
    """

    table: str
    row_key: str | None
    name: str = ""
    # The ids by which it belongs where it belongs: they need not be said.
    ids: set[str | None] = field(default_factory=set)
    exists: bool | None = None
    is_whole: bool = False
    values: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToldRow:
    """A row as the page shows it: its columns with their values, and the table it stands in."""

    table: str
    name: str
    columns: Sequence[tuple[str, Side]]
    is_whole: bool


@dataclass(frozen=True, slots=True)
class State:
    """What a resource was: `own` is its own row, None: it was not there, or nothing tells; the others belong to it.

    `gaps` are sentences on what is not known.
    """

    own: ToldRow | None
    exists: bool | None
    others: Sequence[ToldRow]
    gaps: Sequence[str]


def rebuild(history: History, place: Place | None, ids: Iterable[str] = ()) -> State:
    """The state right after an entry; None: after all that are there. `ids` need not be said of what belongs to it."""
    groups: dict[tuple[str, str | None], list[Row]] = {}
    for change in history.changes:
        groups.setdefault((_table(change), change["row_key"]), []).append(change)
    lives = [_live(key, changes, history.truncations, place) for key, changes in groups.items()]
    own = next((life for life in lives if life.row_key is None), None)
    others = [life for life in lives if life.row_key is not None and life.exists]
    return State(
        _tell(own) if own is not None and own.exists else None,
        own.exists if own is not None else None,
        [_tell(life, ids) for life in others],
        list(_gaps(history, own, others)),
    )


def _table(row: Row) -> str:
    return f"{row['table_schema']}.{row['table_name']}"


def _live(key: tuple[str, str | None], changes: Sequence[Row], truncations: Iterable[Row], place: Place | None) -> Life:
    life = Life(*key)
    reached = [change for change in changes if place is None or (change["created_at"], change["id"]) <= place]
    for change in reached:
        _follow(life, change)
    if reached and life.exists:
        last = reached[-1]["created_at"]
        until = place[0] if place else None
        if any(
            _table(row) == key[0] and row["created_at"] > last and (until is None or row["created_at"] <= until)
            for row in truncations
        ):
            life.exists = False
    # What was not told before the moment, the next changes tell by what they replaced.
    for change in changes[len(reached) :]:
        if life.exists is False:
            break
        if change["operation"] == "INSERT":
            if life.exists is None:
                life.exists = False
            break
        life.exists = True
        life.name = life.name or _name(change)
        for column, value in _side(change, 0):
            life.values.setdefault(column, value)
        if change["operation"] == "DELETE":
            life.is_whole = True
            break
    return life


def _follow(life: Life, change: Row) -> None:
    """What a change made of the row."""
    life.name = _name(change) or life.name
    life.ids.add(change["subject_id"])
    if change["operation"] == "INSERT":
        life.values, life.is_whole = {}, True
    for column, value in _side(change, 0):
        life.values.setdefault(column, value)
    if change["operation"] == "DELETE":
        life.exists, life.is_whole = False, True
        return
    life.exists = True
    life.values.update(_side(change, 1))


def _name(change: Row) -> str:
    return change["subject_name"] or change["subject_id"] or ""


def _side(change: Row, side: int) -> Iterable[tuple[str, Value]]:
    values: list[Stored] = stored_values(change)
    for stored in values[:SHOWN_COLUMNS]:
        value: Any = stored[1 + 3 * side : 4 + 3 * side]
        if value[0] is not None:
            yield stored[0], value


def _tell(life: Life, ids: Iterable[str] = ()) -> ToldRow:
    name = life.name or life.row_key or ""
    unsaid = {*ids, *life.ids, life.row_key} if life.row_key is not None else set()
    columns = [
        (show(column), write_side(*value)) for column, value in sorted(life.values.items()) if value[1] not in unsaid
    ]
    return ToldRow(show(life.table), show(name), columns, life.is_whole)


def _gaps(history: History, own: Life | None, others: Sequence[Life]) -> Iterable[str]:
    if history.is_cut:
        yield "It has changed more often than is read at once; the oldest changes are left out."
    if own is None:
        yield "No change of its own is within what the log keeps, so only what belongs to it is known."
    elif own.exists and not own.is_whole:
        yield (
            "It is older than what the log keeps: only columns that have changed since are known, the others are as "
            "they are in the application."
        )
    if any(not life.is_whole for life in others):
        yield "Some permissions or roles are older than what the log keeps: of these only what has changed is known."
    lives = [*([own] if own is not None and own.exists else []), *others]
    if any(
        value[1] is not None and (value[2] or 0) > len(value[1]) for life in lives for value in life.values.values()
    ):
        yield "Long values are cut here; the entries hold them whole."
