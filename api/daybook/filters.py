"""Filters is the one table of what a list can be narrowed by: each filter's clause, and its sentence for people.

How its text is read stands in parameters.py; the statements that it becomes a part of, in queries.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .counts import Indexed


class Filter(NamedTuple):
    """A filter over the columns of audit.timeline; its value is bound under the filter's name.

    `is_counted`: audit.daily_activity has the columns it asks for, so its lists need not be counted. `is_touching`: a
    bulk entry meets it through one of its rows too, and the clause holds for audit.timeline_change as well.
    `is_indexed`: audit.open_entry has the columns it asks for, and an index for them.
    `sentence` says it to people, its value in the braces; empty: it is not worth saying.
    """

    clause: str
    sentence: str
    is_counted: bool = False
    is_touching: bool = False
    is_indexed: bool = False


# None names the workspace: that is row-level security's alone, from the transaction's own setting, and said twice it
# costs a test for each day. From when to when is no filter here: it says which days are read at all.
FILTERS = {
    "event": Filter(
        "(event = any(%(event)s) or event like any(%(event_beginnings)s))",
        "the event is {}",
        is_counted=True,
        is_indexed=True,
    ),
    "not_reading": Filter(r"event not like 'log\_%%'", "", is_counted=True),
    "performer_id": Filter("actor_id = %(performer_id)s", "done by {}", is_counted=True, is_indexed=True),
    "performer": Filter("%(performer)s in (actor_id, actor_name)", "done by {}"),
    "resource_type": Filter(
        "resource_type = %(resource_type)s", "the kind of resource is {}", is_counted=True, is_indexed=True
    ),
    "resource_id": Filter("resource_id = %(resource_id)s", "touches the resource {}", is_touching=True),
    "resource": Filter("%(resource)s in (resource_id, resource_name)", "touches the resource {}", is_touching=True),
    "request_id": Filter("request_id = %(request_id)s", "belongs to the request {}", is_indexed=True),
    # What holds the words, audit.search finds: see `source`.
    "q": Filter("true", "holds the words {}"),
}
# Without names' beginnings, which no index serves.
_EVENTS = "event = any(%(event)s)"
# As an index has them in order.
_ONE_EVENT = "event = (%(event)s::text[])[1]"


class Tail(NamedTuple):
    """How a part of a list ends: what its entries lie after, their order, and how many of them are wanted at most."""

    condition: str = "true"
    order: str = ""
    limit: str = ""


# A count, an export, a page, a cursor's step. Each part goes as far as the whole may: none knows what the others have.
ALL = Tail()
NEWEST_FIRST = Tail(order="order by created_at desc, id desc")
PAGE = NEWEST_FIRST._replace(limit="limit %(limit)s::bigint + %(offset)s")
STEP = Tail("(created_at, id) > (%(moment)s, %(id)s)", "order by created_at, id", "limit %(limit)s")


def within(lower: str, upper: str) -> str:
    """The clause that an entry lies between two moments, the values of these names."""
    return f"created_at >= %({lower})s and created_at < %({upper})s"


WITHIN = within("lower", "upper")


def clauses(filters: Mapping[str, Any], *, is_indexed: bool = False) -> str:
    """What an entry has to meet, save for the filters that its rows can meet for it.

    `is_indexed` leaves out what audit.open_entry has not.
    """
    wanted = (
        _clause(name, filters)
        for name in filters
        if name in FILTERS and not FILTERS[name].is_touching and (not is_indexed or _is_indexed(name))
    )
    return " and ".join(["true", *wanted])


def _is_indexed(name: str) -> bool:
    return FILTERS[name].is_indexed or name == "not_reading"


def _clause(name: str, filters: Mapping[str, Any]) -> str:
    if name != "event" or filters.get("event_beginnings") or "event_beginnings" not in filters:
        return FILTERS[name].clause
    return _ONE_EVENT if len(filters["event"]) == 1 else _EVENTS


def are_indexed(filters: Mapping[str, Any]) -> bool:
    """Whether what upkeep indexes beside the open days serves these filters; words have an index of their own."""
    found = [FILTERS[name] for name in filters if name in FILTERS]
    return "q" not in filters and any(f.is_indexed for f in found) and not any(f.is_touching for f in found)


def entries(columns: str, filters: Mapping[str, Any], indexed: Indexed | None = None, tail: Tail = ALL) -> str:
    """The SELECT of the entries within `lower` and `upper` that meet the filters.

    An entry is touched through its own resource or through one of its rows; the two parts have no entry in common.
    `indexed`, a part of what lies within, is read by that index: its bounds are bound as `indexed_from` and
    `indexed_until`. Only then the `tail` is made a part of it.
    """
    if indexed is not None and are_indexed(filters):
        return _by_parts(columns, filters, tail)
    source = "audit.search(%(q)s, %(lower)s, %(upper)s)" if "q" in filters else "audit.timeline"
    where = f"{WITHIN} and {clauses(filters)}"
    touching = " and ".join(FILTERS[name].clause for name in filters if name in FILTERS and FILTERS[name].is_touching)
    if not touching:
        return f"select {columns} from {source} where {where}"
    return f"""
        select {columns} from {source} where {where} and ({touching})
        union all
        select {columns} from {source} where {where} and ({touching}) is not true and row_count > 1
        and (id, created_at) in (
            select entry_id, created_at from audit.timeline_change where {WITHIN} and {touching})"""


def _by_parts(columns: str, filters: Mapping[str, Any], tail: Tail) -> str:
    """The entries above, in and below the indexed stretch."""
    stretch = within("indexed_from", "indexed_until")
    above, below = (
        f"select {columns} from audit.timeline where {within(*edges)} and {clauses(filters)} and {tail.condition}"
        f" {tail.order} {tail.limit}"
        for edges in (("indexed_until", "upper"), ("lower", "indexed_from"))
    )
    is_enough = all(_is_indexed(name) for name in filters if name in FILTERS)
    found = f"from audit.open_entry where {stretch} and {clauses(filters, is_indexed=True)} and {tail.condition}"
    if is_enough and tail == ALL:
        return f"({above}) union all (select {columns} {found}) union all ({below})"
    # In the index's own order, and no further than wanted, where nothing is left to be asked of the entries. OFFSET 0:
    # one by one; no estimate tells how many there are.
    limit = tail.limit if is_enough else ""
    return f"""
        ({above})
        union all
        (select {columns}
         from (select entry.*
               from (select created_at as found_at, id as found_id {found} {tail.order} {limit}) as found
               cross join lateral (
                   select * from audit.timeline
                   where {stretch} and created_at = found.found_at and id = found.found_id offset 0) as entry) as entry
         where {clauses(filters)} {tail.order} {tail.limit})
        union all
        ({below})"""


def are_counted(filters: Mapping[str, Any]) -> bool:
    """Whether the counts hold all that the filters ask for."""
    return all(FILTERS[name].is_counted for name in filters if name in FILTERS)


def sentences(filters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The name of each filter that is worth saying, and its sentence."""
    for name, value in filters.items():
        if name in FILTERS and FILTERS[name].sentence:
            # Of events those that are named by their beginning are patterns, kept beside the others.
            beginnings = [pattern[:-1].replace("\\_", "_") + "*" for pattern in filters.get(f"{name}_beginnings", ())]
            shown = ", ".join([*value, *beginnings]) if isinstance(value, list) else str(value)
            yield name, FILTERS[name].sentence.format(shown)
