"""Answers are the bodies of the REST app: their shapes, in the order of their keys, and how rows become them.

Nothing here reads the database; stored JSON passes through unparsed, so that no number changes on its way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from .addresses import Pairs, page_link, with_parameter
from .database import Row
from .queries import SHOWN_CHANGES, Facets, Found, Integrity, Step, own_changes

ENTRY_PATH = "/api/v1/notification/entry/"

Moment = Annotated[str, Meta(description="RFC 3339 in UTC, with Z; microseconds only when they are not zero.")]
Address = Annotated[str, Meta(description="An absolute URL.")]
Values = dict[str, Any]


class Performer(Struct):
    """Who did it, as named then; `system` for what no user did."""

    id: str
    name: str


class Actor(Struct):
    """Who did it, with its kind: user, service or system."""

    type: str
    id: str
    name: str


class Resource(Struct):
    """The thing affected, as it was named then, and the tracked table it stands in."""

    type: str
    id: str | None
    name: str | None
    table_schema: str | None
    table_name: str | None


class Change(Struct):
    """One changed row; `row_key` is its own key where that is not the resource's id."""

    resource_id: str | None
    resource_name: str | None
    row_key: str | None
    before: Values | None
    after: Values | None


class Changes(Struct):
    """How many rows changed, the first of them, and where to find all when these are not all."""

    row_count: int
    rows: list[Change]
    url: Address | None


class Context(Struct):
    """What the application said of its transaction, what the log added, and the login that wrote."""

    request_id: str | None
    reason: Any
    ip: Any
    user_agent: Any
    metadata: Any
    subject: Any
    details: Any
    invalid: Any
    database_user: str
    transaction_id: str


class Entry(Struct):
    """One line of the log; the keys after `performer` are there when `expand` asks for them."""

    id: str
    created_at: Moment
    event: str
    resource_id: str | None
    resource_type: str
    performer: Performer
    changes: Changes | UnsetType = UNSET
    context: Context | UnsetType = UNSET
    actor: Actor | UnsetType = UNSET
    resource: Resource | UnsetType = UNSET


class Links(Struct):
    """The neighbouring pages; null at the edges."""

    next: Address | None
    previous: Address | None


class Numbers(Struct):
    """The number of this page and of its neighbours; null at the edges."""

    page: int
    next_page: int | None
    previous_page: int | None


class Place(Struct):
    """The numbers of a page; a cursor's step has none, and says where to go on."""

    page: int | None
    next_page: int | None
    previous_page: int | None
    cursor: str | UnsetType = UNSET


class EntryPage(Struct):
    """One page of entries, newest first; `count` is how many there are on all pages.

    A cursor's step goes forward, oldest first: nobody has counted what is to come, and nothing lies before it.
    """

    count: int | None
    next: Address | None
    previous: Address | None
    results: list[Entry]
    links: Links
    meta: Place
    total_pages: int | None


class ChangePage(Struct):
    """One page of the changed rows of an entry; `count` is how many there are on all pages."""

    count: int
    next: Address | None
    previous: Address | None
    results: list[Change]
    links: Links
    meta: Numbers
    total_pages: int


class EventCount(Struct):
    """How many entries an event has."""

    event: str
    count: int


class ResourceTypeCount(Struct):
    """How many entries a kind of resource has."""

    resource_type: str
    count: int


class PerformerCount(Struct):
    """How many entries somebody has; the name is one that was used."""

    id: str
    name: str
    count: int


class DayCount(Struct):
    """How many entries a UTC day has."""

    day: Annotated[str, Meta(description="A date by ISO 8601.")]
    count: int


class FacetPage(Struct):
    """How many entries there are in all, and of each event, kind of resource, performer and day; most first.

    The performers are the first hundred.
    """

    count: int
    events: list[EventCount]
    resource_types: list[ResourceTypeCount]
    performers: list[PerformerCount]
    days: list[DayCount]


class SealedMisfit(Struct):
    """An entry of the workspace that is not as it was sealed."""

    kind: Annotated[str, Meta(description="changed, missing, added or reordered.")]
    entry_id: str | None


class Verified(Struct):
    """What the last verification of the whole log found: `fits` tells of all of it, `misfits` of this workspace."""

    finished_at: Moment
    age_seconds: int
    verified_from: Moment | None
    verified_until: Moment | None
    fits: bool
    misfits: list[SealedMisfit]


class IntegrityAnswer(Struct):
    """How the seals stand: null where nothing was sealed, or verified, yet."""

    blocks: int
    sealed_until: Moment | None
    sealed_at: Moment | None
    is_signed: bool
    verification: Verified | None


class Health(Struct):
    """The app answers and the log can be read."""

    status: str


class Detail(Struct):
    """Why the request was not answered."""

    detail: str


def write_moment(moment: datetime) -> str:
    """A moment in UTC by RFC 3339, with Z; microseconds only when they are not zero."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def entry_page(
    found: Found, base: str, path: str, query: Pairs, expand: frozenset[str], changes: Mapping[UUID, Sequence[Row]]
) -> EntryPage:
    """The body for a page of entries; `changes` are the first rows of the bulk entries among them."""
    entries = [write_entry(row, base, expand, changes) for row in found.rows]
    paging = _paging(found, base + path, query)
    numbers: Numbers = paging.pop("meta")
    meta = Place(numbers.page, numbers.next_page, numbers.previous_page)
    return EntryPage(**paging, meta=meta, results=entries)


def entry_step(
    step: Step, base: str, path: str, query: Pairs, expand: frozenset[str], changes: Mapping[UUID, Sequence[Row]]
) -> EntryPage:
    """The body for a cursor's step."""
    cursor = step.position.write()
    following = None if step.is_last else page_link(base + path, with_parameter(query, "cursor", cursor), 1)
    return EntryPage(
        count=None,
        next=following,
        previous=None,
        results=[write_entry(row, base, expand, changes) for row in step.rows],
        links=Links(following, None),
        meta=Place(None, None, None, cursor),
        total_pages=None,
    )


def facet_page(facets: Facets) -> FacetPage:
    """The body for the facets."""
    return FacetPage(
        facets.count,
        [EventCount(row["value"], row["count"]) for row in facets.events],
        [ResourceTypeCount(row["value"], row["count"]) for row in facets.resource_types],
        [PerformerCount(row["value"], row["name"], row["count"]) for row in facets.performers],
        [DayCount(row["value"], row["count"]) for row in facets.days],
    )


def integrity_answer(integrity: Integrity) -> IntegrityAnswer:
    """The body for the state of the seals."""
    row = integrity.row
    verified = None
    if row["verified_at"]:
        verified = Verified(
            write_moment(row["verified_at"]),
            max(0, int((row["moment"] - row["verified_at"]).total_seconds())),
            _moment(row["verified_from"]),
            _moment(row["verified_until"]),
            row["misfit_count"] == 0,
            [SealedMisfit(misfit["kind"], misfit["entry_id"]) for misfit in integrity.misfits],
        )
    sealed = (_moment(row["sealed_until"]), _moment(row["sealed_at"]))
    return IntegrityAnswer(row["blocks"], *sealed, bool(row["is_signed"]), verified)


def _moment(moment: datetime | None) -> str | None:
    return write_moment(moment) if moment else None


def change_page(found: Found, base: str, path: str, query: Pairs) -> ChangePage:
    """The body for a page of an entry's changed rows."""
    return ChangePage(**_paging(found, base + path, query), results=[_change(row) for row in found.rows])


def write_entry(row: Row, base: str, expand: frozenset[str], changes: Mapping[UUID, Sequence[Row]]) -> Entry:
    """One entry with the keys that `expand` names."""
    return Entry(
        id=str(row["id"]),
        created_at=write_moment(row["created_at"]),
        event=row["event"],
        resource_id=row["resource_id"],
        resource_type=row["resource_type"],
        performer=Performer(row["actor_id"], row["actor_name"]),
        changes=_changes(row, base, changes) if "changes" in expand else UNSET,
        context=_context(row) if "context" in expand else UNSET,
        actor=Actor(row["actor_type"], row["actor_id"], row["actor_name"]) if "actor" in expand else UNSET,
        resource=_resource(row) if "resource" in expand else UNSET,
    )


def changes_path(entry_id: UUID) -> str:
    """The path under which all changed rows of an entry are listed."""
    return f"{ENTRY_PATH}{entry_id}/changes/"


def _paging(found: Found, url: str, query: Pairs) -> dict[str, Any]:
    next_page = found.page + 1 if found.page < found.total_pages else None
    previous_page = found.page - 1 if found.page > 1 else None
    links = Links(page_link(url, query, next_page), page_link(url, query, previous_page))
    return {
        "count": found.count,
        "next": links.next,
        "previous": links.previous,
        "links": links,
        "meta": Numbers(found.page, next_page, previous_page),
        "total_pages": found.total_pages,
    }


def _changes(row: Row, base: str, changes: Mapping[UUID, Sequence[Row]]) -> Changes:
    rows = changes.get(row["id"]) or own_changes(row)
    more = len(rows) > SHOWN_CHANGES
    shown = [_change(change) for change in rows[:SHOWN_CHANGES]]
    return Changes(row["row_count"], shown, base + changes_path(row["id"]) if more else None)


def _change(row: Row) -> Change:
    return Change(row["resource_id"], row["resource_name"], row["row_key"], row["before"], row["after"])


def _context(row: Row) -> Context:
    return Context(**{name: row[name] for name in Context.__struct_fields__})


def _resource(row: Row) -> Resource:
    return Resource(
        row["resource_type"], row["resource_id"], row["resource_name"], row["table_schema"], row["table_name"]
    )
