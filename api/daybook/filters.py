"""Filters is the one table of what a list can be narrowed by: each filter's clause, and its sentence for people.

How its text is read stands in parameters.py; the statements that it becomes a part of, in queries.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Filter(NamedTuple):
    """A filter over the columns of audit.timeline; its value is bound under the filter's name.

    `is_counted`: audit.daily_activity has the columns it asks for, so its lists need not be counted. `is_touching`: a
    bulk entry meets it through one of its rows too, and the clause holds for audit.timeline_change as well.
    `sentence` says it to people, its value in the braces; empty: it is not worth saying.
    """

    clause: str
    sentence: str
    is_counted: bool = False
    is_touching: bool = False


# None names the workspace: that is row-level security's alone, from the transaction's own setting, and said twice it
# costs a test for each day. From when to when is no filter here: it says which days are read at all.
FILTERS = {
    "event": Filter(
        "(event = any(%(event)s) or event like any(%(event_beginnings)s))", "the event is {}", is_counted=True
    ),
    "not_reading": Filter(r"event not like 'log\_%%'", "", is_counted=True),
    "performer_id": Filter("actor_id = %(performer_id)s", "done by {}", is_counted=True),
    "performer": Filter("%(performer)s in (actor_id, actor_name)", "done by {}"),
    "resource_type": Filter("resource_type = %(resource_type)s", "the kind of resource is {}", is_counted=True),
    "resource_id": Filter("resource_id = %(resource_id)s", "touches the resource {}", is_touching=True),
    "resource": Filter("%(resource)s in (resource_id, resource_name)", "touches the resource {}", is_touching=True),
    "request_id": Filter("request_id = %(request_id)s", "belongs to the request {}"),
    # What holds the words, audit.search finds: see `source`.
    "q": Filter("true", "holds the words {}"),
}
WITHIN = "created_at >= %(lower)s and created_at < %(upper)s"


def clauses(filters: Mapping[str, Any]) -> str:
    """What an entry has to meet, save for the filters that its rows can meet for it."""
    wanted = (FILTERS[name].clause for name in filters if name in FILTERS and not FILTERS[name].is_touching)
    return " and ".join(["true", *wanted])


def entries(columns: str, filters: Mapping[str, Any]) -> str:
    """The SELECT of the entries within `lower` and `upper` that meet the filters, without order.

    An entry is touched through its own resource or through one of its rows; the two parts have no entry in common.
    """
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
