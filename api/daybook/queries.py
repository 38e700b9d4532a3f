"""Queries holds every SELECT that the app sends, on the reading views and functions of schema audit.

It knows nothing of HTTP; rows leave it as the database gave them, stored JSON unparsed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from psycopg.types.json import Jsonb

from . import counts
from .credentials import Reader, Secret, Visitor
from .database import Connection, Database, Row, Snapshot, Statement
from .errors import InvalidPage, NotFound
from .filters import ALL, NEWEST_FIRST, PAGE, STEP, WITHIN, Tail, are_counted, are_indexed, clauses, entries, within
from .parameters import Listing, Page
from .positions import Position

if TYPE_CHECKING:
    from .authentication import Identity

SHOWN_CHANGES = 20
SHOWN_COLUMNS = 100
SHOWN_CHARACTERS = 500
# Of a value on an entry's own page.
READABLE_CHARACTERS = 10_000
# What bounds an export's memory, whatever entries hold: rows fetched at once, bytes of a value that comes with its row,
# and bytes of a piece of a larger one.
EXPORTED_AT_ONCE = 100
LARGEST_AT_ONCE = 32_768
PIECE = 262_144
# The columns that may hold values of any size.
LARGE = ("before", "after")

# Where a day holds more entries than these, the page is looked for among its hours.
MANY_A_DAY = 500
SHOWN_PERFORMERS = 100
# Days: more than retention can keep.
LONGEST_LOG = 4_000
# As the index of audit.daily_activity has it.
OF_ACTOR = "left(actor_id, 100) = left(%(performer_id)s, 100)"
# As the key of audit.activity_total has it.
OF_ACTOR_TOTAL = """digest = (
    select audit.activity_digest(array[current_setting('audit.reader_workspace', true), %(performer_id)s]))"""

COLUMNS = "id, created_at, event, resource_id, resource_type, actor_id, actor_name"
EXPANSIONS = {
    "changes": "row_count, operation, resource_name, row_key, before, after",
    "context": """
        request_id, context -> 'reason' as reason, context -> 'ip' as ip, context -> 'user_agent' as user_agent,
        context -> 'metadata' as metadata, context -> 'subject' as subject, context -> 'details' as details,
        context -> 'invalid' as invalid, database_user, transaction_id""",
    "actor": "actor_type",
    "resource": "resource_name, table_schema, table_name",
}
PAGE_COLUMNS = f"""
    {COLUMNS}, row_count, resource_name, row_key, operation, actor_type, database_user,
    left(context ->> 'reason', {SHOWN_CHARACTERS + 1}) as reason,
    context -> 'subject' ->> 'id' as subject_id, context -> 'subject' ->> 'name' as subject_name,
    case when jsonb_typeof(context -> 'details') = 'object' and length((context -> 'details')::text) <= 2000
         then context -> 'details' end as details"""
DETAIL_COLUMNS = f"""
    {PAGE_COLUMNS}, table_schema, table_name, request_id, transaction_id,
    left(context ->> 'ip', {SHOWN_CHARACTERS}) as ip, left(context ->> 'user_agent', {SHOWN_CHARACTERS}) as user_agent,
    left((context -> 'metadata')::text, {SHOWN_CHARACTERS + 1}) as metadata,
    left((context -> 'details')::text, {SHOWN_CHARACTERS + 1}) as told,
    left((context -> 'invalid')::text, {SHOWN_CHARACTERS + 1}) as invalid"""
CHANGE_COLUMNS = "resource_id, resource_name, row_key, before, after"


def _values(columns: int, characters: int, only: str = "true", order: str = "key") -> str:
    """Before and after, side by side for each column: so many columns and one more, the texts cut in the database.

    Of each side the JSON type (null: the column is not there), the text, and its length.
    """
    side = (
        f"jsonb_typeof({{0}}.value), left({{0}}.value #>> '{{{{}}}}', {characters}), length({{0}}.value #>> '{{{{}}}}')"
    )
    return f"""(
        select json_agg(json_build_array(key, {side.format("b")}, {side.format("a")}) order by {order})
        from (select key
              from (select jsonb_object_keys(case jsonb_typeof(before) when 'object' then before end)
                    union select jsonb_object_keys(case jsonb_typeof(after) when 'object' then after end)) as keys (key)
              where {only} order by {order} limit {columns + 1}) as shown
        left join lateral (select before -> key where before ? key) as b (value) on true
        left join lateral (select after -> key where after ? key) as a (value) on true)"""


# A line of the timeline tells the columns of an update, and those that sentences name, which come first. An entry's own
# page shows all, and of each value as much as can be read; that of a bulk entry has many rows.
_LINE_VALUES = _values(5, 120, "operation = 'UPDATE' or key = any(%(named)s)", "key = any(%(named)s) desc, key")
# Most others have none of them, which costs less to see.
LINE_VALUES = f"""
    case when operation = 'UPDATE' or before ?| %(named)s or after ?| %(named)s then {_LINE_VALUES} end as values"""
VALUES = _values(SHOWN_COLUMNS, READABLE_CHARACTERS) + " as values"
ROW_VALUES = _values(SHOWN_COLUMNS, SHOWN_CHARACTERS) + " as values"

_KEY = """
    k.prefix as id, k.name, 'service' as type, k.workspace_id, k.role, k.is_noted,
    audit.retention_days() as retention_days, now() as moment, b.watermark, b.oldest as oldest_kept, b.horizon"""
_FOUND = f"select {_KEY} from audit.{{}}(%(prefix)s, %(digest)s) as k, audit.reading_bounds() as b"
FIND_READER = _FOUND.format("find_key")
FIND_READER_OF_SESSION = _FOUND.format("find_session")
READ_READER = """
select audit.reading_is_noted(%(workspace_id)s, %(id)s) as is_noted,
       audit.retention_days() as retention_days, now() as moment, b.watermark, b.oldest as oldest_kept, b.horizon
from audit.reading_bounds() as b"""
_READER = """
    row(%(workspace_id)s::text, %(id)s::text, %(name)s::text, %(type)s::text, %(ip)s::text,
        %(user_agent)s::text)::audit.reader"""


@dataclass(frozen=True, slots=True)
class Found:
    """One page of rows: `count` is how many there are on all pages, `page` the number of this one."""

    count: int
    page: int
    page_size: int
    rows: Sequence[Row]

    @property
    def total_pages(self) -> int:
        """How many pages there are: an empty list has one."""
        return max(1, -(-self.count // self.page_size))


async def find_reader(database: Database, secret: Secret, visitor: Visitor) -> Reader | None:
    """The reader whose valid key this is."""
    return await _find_reader(database, FIND_READER, secret, visitor)


async def find_reader_of_session(database: Database, secret: Secret, visitor: Visitor) -> Reader | None:
    """The reader whose valid key opened this session of the page."""
    return await _find_reader(database, FIND_READER_OF_SESSION, secret, visitor)


async def _find_reader(database: Database, query: str, secret: Secret, visitor: Visitor) -> Reader | None:
    async with database.reading() as snapshot:
        [rows] = await snapshot.ask((query, secret._asdict()), is_last=True)
    return Reader(**rows[0], visitor=visitor) if rows else None


async def read_reader(database: Database, identity: Identity, visitor: Visitor) -> Reader:
    """The reader that another authenticator named."""
    async with database.reading() as snapshot:
        [[row]] = await snapshot.ask((READ_READER, identity._asdict()), is_last=True)
    return Reader(**identity._asdict(), **row, type="user", visitor=visitor)


async def open_session(database: Database, key: Secret, session: Secret) -> bool:
    """Open a session of the page for a key; False when the key is not valid."""
    values = {**session._asdict(), "key_prefix": key.prefix, "key_digest": key.digest}
    query = "select audit.open_session(%(key_prefix)s, %(key_digest)s, %(prefix)s, %(digest)s) as opened"
    async with database.noting() as connection:
        row = await (await connection.execute(query, values)).fetchone()
    return bool(row and row["opened"])


async def close_session(database: Database, session: Secret) -> None:
    """End a session of the page."""
    async with database.noting() as connection:
        await connection.execute("select audit.close_session(%(prefix)s, %(digest)s)", session._asdict())


async def _note_first(database: Database, reader: Reader) -> None:
    """Note that the reader reads, before anything is read. Raises Unreadable when it cannot be noted."""
    if reader.is_noted:
        return
    async with database.noting() as connection:
        await connection.execute(f"select audit.note_reading({_READER})".encode(), _reader_values(reader))
    reader.is_noted = True


async def note_denied_write(
    database: Database, reader: Reader | None, visitor: Visitor, method: str, path: str
) -> None:
    """Note that somebody tried to write; `reader` None: nobody knows who."""
    known = _reader_values(reader) if reader else dict.fromkeys(("workspace_id", "id", "name", "type"))
    # In ASCII, which every database's encoding holds: whoever tries to write chooses the path.
    shown = path.replace("\0", "").encode("ascii", "backslashreplace").decode("ascii")
    values = {**known, **_visitor_values(visitor), "method": method, "path": shown}
    query = f"select audit.note_denied_write({_READER}, %(method)s, %(path)s)"
    async with database.noting() as connection:
        await connection.execute(query.encode(), values)


def _reader_values(reader: Reader) -> dict[str, object]:
    named = {"workspace_id": reader.workspace_id, "id": reader.id, "name": reader.name, "type": reader.type}
    return {**named, **_visitor_values(reader.visitor)}


def _visitor_values(visitor: Visitor) -> dict[str, object]:
    return {"ip": visitor.address, "user_agent": visitor.user_agent}


@asynccontextmanager
async def _reading(database: Database, reader: Reader) -> AsyncIterator[Snapshot]:
    """What a workspace's reader sees: noted first, then read. Raises Unreadable when either fails."""
    await _note_first(database, reader)
    async with database.reading(reader.workspace_id) as snapshot:
        yield snapshot


class Large:
    """A value too large to come with its row: `before` or `after` of an entry, or of the row of it at `place`.

    No tuple and no dataclass, which msgspec would write as it is.
    """

    def __init__(self, column: str, entry_id: UUID, created_at: datetime, place: str | None) -> None:
        self.column = column
        self.entry_id = entry_id
        self.created_at = created_at
        self.place = place


# An entry, and the first rows of a bulk one.
Exported = tuple[Row, Sequence[Row]]


@dataclass(frozen=True, slots=True)
class Export:
    """All entries that meet the filters, in one snapshot: how many, and they themselves, newest first, in batches.

    Each entry comes with the first rows of a bulk one. Where a value is Large, `read` gives its JSON piece by piece.
    """

    count: int
    batches: AsyncIterator[Sequence[Exported]]
    read: Callable[[Large], AsyncGenerator[bytes, None]]


@asynccontextmanager
async def exporting(
    database: Database, reader: Reader, listing: Listing, given: Mapping[str, Sequence[str]], *, with_changes: bool
) -> AsyncIterator[Export]:
    """An export, recorded with the filter as it was `given` before its first entry is read.

    `with_changes` asks for the first rows of bulk entries too. Raises Unreadable when it cannot be read or recorded.
    """
    await _note_first(database, reader)
    async with database.exporting(reader.workspace_id) as connection:
        snapshot = Snapshot(connection)
        count = await _count(snapshot, listing)
        reading = _Reading(listing.filters, await _indexed(snapshot, listing))
        noted = {**_reader_values(reader), "filter": Jsonb(given, msgspec.json.encode), "row_count": count}
        async with database.noting() as noting:
            await noting.execute(f"select audit.note_export({_READER}, %(filter)s, %(row_count)s)".encode(), noted)
        async with aclosing(_exported(connection, listing, reading, with_changes)) as batches:
            yield Export(count, batches, lambda large: _read_large(connection, large))


async def _exported(
    connection: Connection, listing: Listing, reading: _Reading, with_changes: bool
) -> AsyncGenerator[Sequence[Exported], None]:
    columns = _columns(listing.expand)
    names = [column.rpartition(" as ")[2] for column in columns.split(", ")]
    whole, values = _whole_entries(columns, reading, listing.lower, listing.upper, NEWEST_FIRST)
    selecting = _without_large(f"select * from ({whole}) as entry order by created_at desc, id desc", names)
    async with connection.cursor(name="entries") as cursor:
        await cursor.execute(selecting.encode(), {**values, "largest": LARGEST_AT_ONCE})
        while rows := await cursor.fetchmany(EXPORTED_AT_ONCE):
            _mark_large(rows, "id")
            bulk = [row for row in rows if row["row_count"] > 1] if with_changes else []
            if not bulk:
                yield [(row, ()) for row in rows]
                continue
            async with aclosing(_exported_changes(connection, bulk)) as changes:
                ahead = await anext(changes, None)
                for row in rows:
                    own = []
                    while ahead is not None and ahead["entry_id"] == row["id"]:
                        own.append(ahead)
                        ahead = await anext(changes, None)
                    yield [(row, own)]


async def _exported_changes(connection: Connection, bulk: Sequence[Row]) -> AsyncGenerator[Row, None]:
    """The first rows of these bulk entries, in their order, one more of each than are shown."""
    moments = [entry["created_at"] for entry in bulk]
    values = {
        "ids": [entry["id"] for entry in bulk],
        "moments": moments,
        "first": min(moments),
        "last": max(moments),
        "largest": LARGEST_AT_ONCE,
    }
    # Not the view: a row of a table without a key is known by its place alone.
    first = f"""
        select wanted.id as entry_id, wanted.moment as created_at, found.*
        from unnest(%(ids)s::uuid[], %(moments)s::timestamptz[]) with ordinality as wanted (id, moment, number)
        cross join lateral (
            select {CHANGE_COLUMNS}, ctid as place
            from audit.change
            where created_at between %(first)s and %(last)s
              and entry_id = wanted.id and created_at = wanted.moment
            limit {SHOWN_CHANGES + 1}) as found
        order by wanted.number, {", ".join(_ORDER_OF_CHANGES)}"""
    selecting = _without_large(first, ["entry_id", "created_at", "place", *CHANGE_COLUMNS.split(", ")])
    async with connection.cursor(name="changes") as cursor:
        await cursor.execute(selecting.encode(), values)
        while rows := await cursor.fetchmany(EXPORTED_AT_ONCE):
            _mark_large(rows, "entry_id")
            for row in rows:
                yield row


def _without_large(selecting: str, names: Sequence[str]) -> str:
    """The same rows in the same order, with what is `largest` in bytes, or less, of `before` and `after`.

    Whether one is larger is told by its size as it is stored where that is enough: most large ones are not read for it.
    """
    values = [name for name in LARGE if name in names]
    if not values:
        return selecting
    sizes = [f"pg_column_size({v}) > %(largest)s or octet_length({v}::text) > %(largest)s as large_{v}" for v in values]
    kept = [f"case when not large_{name} then {name} end as {name}" if name in values else name for name in names]
    large = " || ".join(f"case when large_{name} then '{name} ' else '' end" for name in values)
    # Each size is computed once, after the order: OFFSET 0 keeps the parts from becoming one.
    return f"""
        select {", ".join(kept)}, {large} as large
        from (select *, {", ".join(sizes)} from ({selecting}) as ordered offset 0) as sized"""


def _mark_large(rows: Sequence[Row], entry_id: str) -> None:
    for row in rows:
        for column in row.pop("large", "").split():
            row[column] = Large(column, row[entry_id], row["created_at"], row.get("place"))


async def _read_large(connection: Connection, large: Large) -> AsyncGenerator[bytes, None]:
    """The JSON of a value, piece by piece; where a piece ends a character may be cut."""
    own = "audit.timeline where id = %(entry_id)s"
    of_row = "audit.change where entry_id = %(entry_id)s and ctid = %(place)s::tid"
    # The value is made text once; the pieces come in the order of their numbers, of which each has one row to go by.
    selecting = f"""
        select substring(value from number * {PIECE} + 1 for {PIECE}) as piece
        from (select convert_to({large.column}::text, 'UTF8') as value
              from {own if large.place is None else of_row} and created_at = %(created_at)s offset 0) as held
        cross join lateral generate_series(0, (octet_length(value) - 1) / {PIECE}) as number"""
    async with connection.cursor(name="pieces", binary=True) as cursor:
        await cursor.execute(selecting.encode(), vars(large))
        while row := await cursor.fetchone():
            yield row["piece"]


async def find_entries(database: Database, reader: Reader, listing: Listing) -> Found:
    """A page of entries, newest first. Raises InvalidPage past the end."""
    find = _find_counted if are_counted(listing.filters) else _find_by_words if "q" in listing.filters else _find_read
    async with _reading(database, reader) as snapshot:
        found = await find(snapshot, listing, _columns(listing.expand))
    if found.page > found.total_pages:
        raise InvalidPage
    return found


def _number_of(page: Page, count: int, page_size: int) -> int:
    """The number of a page of a list that has so many entries."""
    return max(1, -(-count // page_size)) if page == "last" else page


async def _find_counted(
    snapshot: Snapshot, listing: Listing, columns: str, activity: counts.Activity | None = None
) -> Found:
    """A page whose place the counts tell: of all days only those are read that hold its entries.

    `activity` is what they tell of the list, when it is known already.
    """
    page, page_size = listing.page, listing.page_size
    activity = activity or await _activity(snapshot, listing)
    found = counts.stretches(listing.lower, listing.upper, activity)
    if not found:
        return Found(0, 1 if page == "last" else page, page_size, [])
    counting = _counting(listing.filters, found, activity.indexed)
    reading = _Reading(listing.filters, activity.indexed)
    if page == 1:
        # Asked for together with what is left to count: where there are enough entries for certain, the page is.
        selecting = reading.select(columns, counts.newest(found, page_size), page_size)
        [counted, rows] = await snapshot.ask(counting, selecting, is_last=True)
        return Found(sum(each.known for each in _with_counts(found, counted)), 1, page_size, rows)
    [counted] = await snapshot.ask(counting)
    found = _with_counts(found, counted)
    count = sum(each.known for each in found)
    number = _number_of(page, count, page_size)
    offset = (number - 1) * page_size
    holding = counts.holding(found, offset)
    if holding is None:
        return Found(count, number, page_size, [])
    day = found[holding]
    if day.known > MANY_A_DAY and activity.knows_day(day):
        hours = (await _activity(snapshot, replace(listing, lower=day.lower, upper=day.upper))).hours
        found[holding : holding + 1] = counts.hours_of(day, hours)
    selecting = reading.select(columns, counts.located(found, offset, page_size), page_size)
    [rows] = await snapshot.ask(selecting, is_last=True)
    return Found(count, number, page_size, rows)


async def _indexed(snapshot: Snapshot, listing: Listing) -> counts.Indexed | None:
    """What upkeep has indexed beside the open days; None also where that serves none of the filters.

    Asked for in the snapshot that reads by it: upkeep takes closed days out of the index at once.
    """
    if not are_indexed(listing.filters):
        return None
    [[row]] = await snapshot.ask(("select indexed_from, counted_until from audit.reading_bounds()", {}))
    return _indexed_by(row)


def _indexed_by(row: Row) -> counts.Indexed | None:
    lower, upper = row["indexed_from"], row["counted_until"]
    return None if lower is None or upper is None else counts.Indexed(lower, upper)


async def _count(snapshot: Snapshot, listing: Listing) -> int:
    """How many entries there are: by the counts where they know, else by reading."""
    if not are_counted(listing.filters):
        reading = _Reading(listing.filters, await _indexed(snapshot, listing))
        [[row]] = await snapshot.ask(reading.count(listing.lower, listing.upper))
        return int(row["count"])
    activity = await _activity(snapshot, listing)
    found = counts.stretches(listing.lower, listing.upper, activity)
    [counted] = await snapshot.ask(_counting(listing.filters, found, activity.indexed))
    return sum(each.known for each in _with_counts(found, counted))


async def _find_read(snapshot: Snapshot, listing: Listing, columns: str) -> Found:
    """A page that is found by reading all that meets the filters."""
    whole = counts.Window(listing.lower, listing.upper, 0)
    reading = _Reading(listing.filters, await _indexed(snapshot, listing))
    counting = reading.count(listing.lower, listing.upper)
    if listing.page == "last":
        # Only this page must know the count before its rows can be asked for.
        [[counted]] = await snapshot.ask(counting)
        number = _number_of(listing.page, counted["count"], listing.page_size)
    else:
        number = listing.page
    window = whole._replace(offset=(number - 1) * listing.page_size)
    selecting = reading.select(columns, window, listing.page_size)
    if listing.page == "last":
        [rows] = await snapshot.ask(selecting, is_last=True)
    else:
        [[counted], rows] = await snapshot.ask(counting, selecting, is_last=True)
    return Found(counted["count"], number, listing.page_size, rows)


async def _find_by_words(snapshot: Snapshot, listing: Listing, columns: str) -> Found:
    """A page of what a search finds."""
    found, _ = await _search(snapshot, listing, columns)
    return found


async def _search(
    snapshot: Snapshot, listing: Listing, columns: str, hit: str = "id, created_at", more: str = ""
) -> tuple[Found, Row]:
    """A page of what a search finds: searched for once, then, in the days that the page names, the entries.

    `more` is selected of all that was found, of which `hit` are the columns; the row has it.
    """
    number, size = listing.page, listing.page_size
    values = {**listing.filters, "lower": listing.lower, "upper": listing.upper, "size": size}
    offset = "(select greatest(0, (count(*) - 1) / %(size)s) * %(size)s from hit)"
    if number != "last":
        offset, values["offset"] = "%(offset)s", (number - 1) * size
    searching = f"""
        with hit as materialized ({entries(hit, listing.filters)}),
        page as (select * from hit order by created_at desc, id desc limit %(size)s offset {offset})
        select (select count(*) from hit) as count, array(select id from page) as ids,
               array(select created_at from page) as moments{more}"""
    [[found]] = await snapshot.ask((searching, values))
    count, rows = found["count"], []
    if found["ids"]:
        selecting = f"""
            select {columns} from audit.timeline
            where created_at = any(%(moments)s) and id = any(%(ids)s)
            order by created_at desc, id desc"""
        [rows] = await snapshot.ask((selecting, {**listing.filters, **found}), is_last=True)
    return Found(count, _number_of(number, count, size), size, rows), found


@dataclass(frozen=True, slots=True)
class Step:
    """What a cursor comes by, oldest first: `position` is where it goes on, `is_last` that nothing is there now."""

    rows: Sequence[Row]
    position: Position
    is_last: bool


async def find_step(database: Database, reader: Reader, listing: Listing, position: Position) -> Step:
    """The entries after a cursor's position and below the watermark, oldest first."""
    lower = max(listing.lower, position.moment)
    upper = max(lower, min(listing.upper, reader.watermark or lower))
    if lower == upper:
        return Step([], position, is_last=True)
    async with _reading(database, reader) as snapshot:
        until = upper
        if are_counted(listing.filters):
            activity = await _activity(snapshot, replace(listing, lower=lower, upper=upper))
            until = counts.oldest_until(counts.stretches(lower, upper, activity), listing.page_size + 1)
            indexed = activity.indexed
        else:
            indexed = await _indexed(snapshot, listing)
        columns = "entry.*" if "q" in listing.filters else "*"
        whole, values = _whole_entries(columns, _Reading(listing.filters, indexed), lower, until, STEP)
        selecting = f"""
            select {_columns(listing.expand)}
            from ({whole}) as entry
            where (created_at, id) > (%(moment)s, %(id)s)
            order by created_at, id limit %(limit)s"""
        values = {**values, **position._asdict(), "limit": listing.page_size + 1}
        [rows] = await snapshot.ask((selecting, values), is_last=True)
    if len(rows) > listing.page_size:
        rows.pop()
        return Step(rows, Position(rows[-1]["created_at"], rows[-1]["id"]), is_last=False)
    # Nothing can come there any more: the cursor need not look there again.
    return Step(rows, Position.at(until), is_last=until == upper)


@dataclass(frozen=True, slots=True)
class Facets:
    """How many entries there are in all, and by event, kind of resource, performer and day: rows of value, name, count.

    Most first, days in their order; of performers the first SHOWN_PERFORMERS. Only performers have a name.
    """

    count: int
    events: Sequence[Row]
    resource_types: Sequence[Row]
    performers: Sequence[Row]
    days: Sequence[Row]


async def find_facets(database: Database, reader: Reader, listing: Listing) -> Facets:
    """How many entries there are of each kind, from the counts; listing.filters are all counted ones."""
    async with _reading(database, reader) as snapshot:
        activity = await _activity(snapshot, listing)
        if _is_narrowed(listing.filters):
            # Hours know either events or actors.
            activity = activity._replace(hours={})
        found = counts.stretches(listing.lower, listing.upper, activity)
        [rows] = await snapshot.ask(_facets_statement(listing.filters, found), is_last=True)
    of: dict[str, list[Row]] = {facet: [] for facet in ("event", "resource_type", "performer", "day")}
    for row in rows:
        of[row.pop("facet")].append(row)
    count = sum(row["count"] for row in of["event"])
    return Facets(count, of["event"], of["resource_type"], of["performer"][:SHOWN_PERFORMERS], of["day"])


def _is_narrowed(filters: Mapping[str, Any]) -> bool:
    return any(name not in ("not_reading", "event_beginnings") for name in filters)


def _facets_statement(filters: Mapping[str, Any], found: Sequence[counts.Stretch]) -> tuple[str, Mapping[str, Any]]:
    days = [counts.day_of(each.lower) for each in found if each.counted_as == "day"]
    hours = [each.lower for each in found if each.counted_as == "hour"]
    values: dict[str, Any] = {**filters, "days": days, "hours": hours}
    where, no_actor = clauses(filters), "null::text as actor_id, null::text as actor_name"
    counted = "select {}, (starts_at at time zone 'UTC')::date, entries from audit.activity_total where part = {}"
    if _is_narrowed(filters):
        parts = [
            f"""select event, resource_type, actor_id, actor_name, day, entries from audit.daily_activity
            where day = any(%(days)s::date[]) and {where}
                  {f"and {OF_ACTOR}" if "performer_id" in filters else ""}"""
        ]
    else:
        parts = [
            counted.format(what, f"'{part}{by}' and starts_at = any(%({part}s)s) and {where if not by else 'true'}")
            for part in ("day", "hour")
            for by, what in (
                ("", f"event, resource_type, {no_actor}"),
                ("_actor", "null::text, null::text, actor_id, actor_name"),
            )
        ]
    for number, piece in enumerate(piece for each in found for piece in each.pieces):
        values |= {f"lower_{number}": piece.lower, f"upper_{number}": piece.upper}
        parts.append(f"""
            select event, resource_type, actor_id, max(actor_name), (created_at at time zone 'UTC')::date,
                   {piece.sign} * count(*)
            from audit.timeline
            where created_at >= %(lower_{number})s and created_at < %(upper_{number})s and {where}
            group by 1, 2, 3, 5""")
    return (
        f"""
        with part (event, resource_type, actor_id, actor_name, day, entries) as ({" union all ".join(parts)}),
        facet (facet, value, name, count) as (
            select 'event', event, null, sum(entries)::bigint from part where event is not null group by 2
            union all
            select 'resource_type', resource_type, null, sum(entries)::bigint
            from part where resource_type is not null group by 2
            union all
            select 'performer', actor_id, max(actor_name), sum(entries)::bigint
            from part where actor_id is not null group by 2
            union all
            select 'day', day::text, null, sum(entries)::bigint from part where event is not null group by 2)
        select facet, value, name, count from facet where count <> 0
        order by facet, case facet when 'day' then value end, count desc, value""",
        values,
    )


async def _activity(snapshot: Snapshot, listing: Listing) -> counts.Activity:
    """What the counts hold of a list: its days, and the hours of the first and the last of them."""
    [[row]] = await snapshot.ask(_activity_statement(listing))
    return _read_activity(row)


def _read_activity(row: Row) -> counts.Activity:
    days_and_hours = _by_moment(row["days"]), _by_moment(row["hours"])
    return counts.Activity(row["counted_until"], *days_and_hours, _indexed_by(row))


def _activity_statement(listing: Listing) -> Statement:
    first, last = counts.day_of(listing.lower), counts.day_of(listing.upper)
    where = clauses(listing.filters)
    values = {**listing.filters, "first": first, "last": last}
    if listing.filters.keys() == {"performer_id", "not_reading"}:
        # Row by row: a workspace has many performers.
        counted = f"""
            select extract(epoch from starts_at)::bigint, entries from audit.activity_total
            where part = '{{}}_actor' and starts_at = any(%({{}})s) and {OF_ACTOR_TOTAL}"""
        days, hours = counted.format("day", "days"), counted.format("hour", "hours")
        values["days"] = [first + number * counts.DAY for number in range(min((last - first).days + 1, LONGEST_LOG))]
        values["hours"] = [day + number * counts.HOUR for day in {first, last} for number in range(24)]
    elif "performer_id" in listing.filters:
        days = f"""
            select extract(epoch from day)::bigint, sum(entries)::bigint from audit.daily_activity
            where day between %(first)s::date and %(last)s::date and {OF_ACTOR} and {where} group by 1"""
        hours = "select null, null where false"
    else:
        # Summed before the moments become numbers: those are fewer.
        counted = f"""
            select extract(epoch from starts_at)::bigint, entries
            from (select starts_at, sum(entries)::bigint from audit.activity_total
                  where part = '{{}}' and {where} and {{}} group by 1) as total (starts_at, entries)"""
        days = counted.format("day", "starts_at between %(first)s and %(last)s")
        hours = " union ".join(
            counted.format("hour", f"starts_at >= %({day})s and starts_at < %({day})s + interval '1 day'")
            for day in ("first", "last")
        )
    selecting = f"""
        select counted_until, indexed_from,
               (select string_agg(concat(start, ' ', entries), ' ') from ({days}) as d (start, entries)) as days,
               (select string_agg(concat(start, ' ', entries), ' ') from ({hours}) as h (start, entries)) as hours
        from audit.reading_bounds()"""
    return selecting, values


def _numbers(text: str | None) -> Iterator[tuple[int, int]]:
    """The pairs of a text `day number day number …`; JSON for each would cost several times that."""
    numbers = list(map(int, (text or "").split()))
    return zip(numbers[::2], numbers[1::2], strict=True)


def _by_moment(text: str | None) -> dict[datetime, int]:
    return {datetime.fromtimestamp(start, UTC): entries for start, entries in _numbers(text)}


def _counting(filters: Mapping[str, Any], found: Sequence[counts.Stretch], indexed: counts.Indexed | None) -> Statement:
    """The statement that counts the pieces that are left to count, in the order of the stretches."""
    values, counting = dict(filters), []
    for number, piece in enumerate(piece for each in found for piece in each.pieces):
        inside = indexed and indexed.within(piece.lower, piece.upper)
        # All that the counts know, the index beside the open days has too, in fewer bytes.
        parts = (
            [("timeline", piece.lower, piece.upper)]
            if inside is None
            else [
                ("timeline", piece.lower, inside.lower),
                ("open_entry", inside.lower, inside.upper),
                ("timeline", inside.upper, piece.upper),
            ]
        )
        summed = []
        for part, (source, lower, upper) in enumerate(parts):
            if lower < upper:
                names = f"lower_{number}_{part}", f"upper_{number}_{part}"
                values |= zip(names, (lower, upper), strict=True)
                summed.append(f"(select count(*) from audit.{source} where {within(*names)} and {clauses(filters)})")
        counting.append(" + ".join(summed))
    return f"select array[{', '.join(counting)}]::bigint[] as counts", values


def _with_counts(found: Sequence[counts.Stretch], counted: Sequence[Row]) -> list[counts.Stretch]:
    return counts.with_counts(found, counted[0]["counts"])


@dataclass(frozen=True, slots=True)
class _Reading:
    """Entries that meet filters, read by what upkeep has indexed where that helps."""

    filters: Mapping[str, Any]
    indexed: counts.Indexed | None

    def select(self, columns: str, window: counts.Window, limit: int) -> Statement:
        """The statement that selects the entries of a window, newest first."""
        indexed, values = self.cut(window.lower, window.upper)
        return select_statement(self.filters, columns, indexed), {**values, "offset": window.offset, "limit": limit}

    def count(self, lower: datetime, upper: datetime) -> Statement:
        """The statement that counts the entries between two moments."""
        indexed, values = self.cut(lower, upper)
        return count_statement(self.filters, indexed), values

    def cut(self, lower: datetime, upper: datetime) -> tuple[counts.Indexed | None, dict[str, Any]]:
        """What is indexed between two moments, and the values that statements name for it."""
        values = {**self.filters, "lower": lower, "upper": upper}
        inside = self.indexed.within(lower, upper) if self.indexed and are_indexed(self.filters) else None
        if inside is None:
            return None, values
        return inside, {**values, "indexed_from": inside.lower, "indexed_until": inside.upper}


def count_statement(filters: Mapping[str, Any], indexed: counts.Indexed | None = None) -> str:
    """The statement that counts the entries within `lower` and `upper`."""
    return f"select count(*) as count from ({entries('1', filters, indexed, ALL)}) as entry"


def select_statement(filters: Mapping[str, Any], columns: str = COLUMNS, indexed: counts.Indexed | None = None) -> str:
    """The statement that selects entries within `lower` and `upper`, newest first: `limit` of them after `offset`."""
    found = entries("*", filters, indexed, PAGE)
    return f"""
        select {columns}
        from ({found if indexed is None else f"select * from ({found}) as part"}
              order by created_at desc, id desc
              limit %(limit)s offset %(offset)s) as entry
        order by created_at desc, id desc"""


def _whole_entries(
    columns: str, reading: _Reading, lower: datetime, upper: datetime, tail: Tail
) -> tuple[str, dict[str, Any]]:
    """The SELECT of entries with any of their columns, also where a search finds them, which has some only."""
    indexed, values = reading.cut(lower, upper)
    if "q" not in reading.filters:
        return entries(columns, reading.filters, indexed, tail), values
    return (
        f"""
        select {columns} from ({entries("id as hit_id, created_at as hit_moment", reading.filters)}) as hit
        cross join lateral (
            select * from audit.timeline t where t.created_at = hit.hit_moment and t.id = hit.hit_id) as entry""",
        values,
    )


async def find_changes(
    database: Database, reader: Reader, entry: Row, page: Page, page_size: int, *, for_page: bool = False
) -> Found:
    """A page of an entry's changed rows, by resource id. Raises InvalidPage past the end."""
    if entry["row_count"] <= 1 or entry["operation"] == "TRUNCATE":
        return _only_page(own_changes(entry), page, page_size)
    count = entry["row_count"]
    pages = -(-count // page_size)
    number = pages if page == "last" else page
    if number > pages:
        raise InvalidPage
    # The second half is read from its end.
    offset, size = (number - 1) * page_size, min(page_size, count - (number - 1) * page_size)
    backwards = offset > count // 2
    values = {
        "id": entry["id"],
        "created_at": entry["created_at"],
        "limit": size,
        "offset": count - offset - size if backwards else offset,
    }
    columns = f"resource_id, resource_name, row_key, {ROW_VALUES}" if for_page else CHANGE_COLUMNS
    order = ", ".join(f"{key} desc nulls first" if backwards else key for key in _ORDER_OF_CHANGES)
    selecting = f"""
        select {columns}
        from (select * from audit.timeline_change
              where entry_id = %(id)s and created_at = %(created_at)s
              order by {order} limit %(limit)s offset %(offset)s) as change
        order by {", ".join(_ORDER_OF_CHANGES)}"""
    async with _reading(database, reader) as snapshot:
        [rows] = await snapshot.ask((selecting, values), is_last=True)
    return Found(count, number, page_size, rows)


def own_changes(entry: Row) -> list[Row]:
    """The changed row that stands in the entry itself: none for bulk entries, events and TRUNCATE."""
    return [entry] if entry["row_count"] == 1 and entry["operation"] not in ("EVENT", "TRUNCATE") else []


async def find_entry(database: Database, reader: Reader, entry_id: str, *, for_page: bool = False) -> Row:
    """The entry of this id with all that is known of it. Raises NotFound, whatever the reason."""
    position = Position.of(entry_id)
    if position is None or position.moment < reader.oldest:
        raise NotFound
    # Its moment names its day, and with the workspace finds it there.
    selecting = f"""
        select {f"{DETAIL_COLUMNS}, {VALUES}" if for_page else _columns(EXPANSIONS)}
        from audit.timeline where created_at = %(moment)s and id = %(id)s"""
    async with _reading(database, reader) as snapshot:
        [rows] = await snapshot.ask((selecting, position._asdict()), is_last=True)
    if not rows:
        raise NotFound
    return rows[0]


async def first_changes(database: Database, reader: Reader, entries: Iterable[Row]) -> dict[UUID, list[Row]]:
    """For each bulk entry among these its first rows, one more than are shown, in one query."""
    bulk = [(entry["id"], entry["created_at"]) for entry in entries if entry["row_count"] > 1]
    if not bulk:
        return {}
    values = {
        "ids": [entry_id for entry_id, _ in bulk],
        "moments": [moment for _, moment in bulk],
        "first": min(moment for _, moment in bulk),
        "last": max(moment for _, moment in bulk),
    }
    selecting = f"""
        select wanted.id as entry_id, found.*
        from unnest(%(ids)s::uuid[], %(moments)s::timestamptz[]) as wanted (id, moment)
        cross join lateral (
            select {CHANGE_COLUMNS}
            from audit.timeline_change
            where created_at between %(first)s and %(last)s
              and entry_id = wanted.id and created_at = wanted.moment
            limit {SHOWN_CHANGES + 1}) as found
        order by wanted.id, {", ".join(_ORDER_OF_CHANGES)}"""
    found: dict[UUID, list[Row]] = {entry_id: [] for entry_id, _ in bulk}
    async with _reading(database, reader) as snapshot:
        [rows] = await snapshot.ask((selecting, values), is_last=True)
    for row in rows:
        found[row.pop("entry_id")].append(row)
    return found


@dataclass(frozen=True, slots=True)
class Overview:
    """How many entries there are by event and day (of days since 1970), and by event and kind of resource.

    `is_whole`: of all days that are kept and all events, whatever time and events the list is narrowed to; else of the
    list alone.
    """

    days: Mapping[str, Mapping[int, int]]
    kinds: Mapping[tuple[str, str], int]
    is_whole: bool


async def find_timeline(
    database: Database, reader: Reader, listing: Listing, named: Sequence[str]
) -> tuple[Found, Overview]:
    """A page of entries as the web page shows them, with the overview. Raises InvalidPage past the end.

    `named` are columns whose values sentences say.
    """
    listing = replace(listing, filters={**listing.filters, "named": list(named)})
    columns = f"{PAGE_COLUMNS}, {LINE_VALUES}"
    async with _reading(database, reader) as snapshot:
        if are_counted(listing.filters):
            found, overview = await _find_with_overview(snapshot, reader, listing, columns)
        elif "q" in listing.filters:
            groups = _groups(_by_reading("hit"))
            found, row = await _search(snapshot, listing, columns, "*", f", {groups}")
            overview = _read_overview([row], is_whole=False)
        else:
            # What is found by reading is read once for both: the days add up to the count.
            reading = _Reading(listing.filters, await _indexed(snapshot, listing))
            indexed, values = reading.cut(listing.lower, listing.upper)
            groups = _groups(_by_reading(f"({entries('*', listing.filters, indexed)}) as entry"))
            [[row]] = await snapshot.ask((f"select {groups}", values))
            overview = _read_overview([row], is_whole=False)
            count = sum(overview.kinds.values())
            found = await _find_known(snapshot, listing, reading, columns, count)
    if found.page > found.total_pages:
        raise InvalidPage
    return found, overview


def _by_reading(source: str, where: str = "true") -> str:
    """The SELECT of the numbers of entries that have to be read, by day, event and kind of resource."""
    return f"""
        select (created_at at time zone 'UTC')::date, event, resource_type, count(*)
        from {source} where {where} group by 1, 2, 3"""


def _groups(source: str, where: str = "true") -> str:
    """An overview as one value, of a SELECT of day, event, kind of resource and number; `where` narrows that by day.

    The days of a group are one text, for `_numbers`.
    """
    return f"""
        (select json_agg(json_build_array(event, resource_type, days, n))
         from (select event, resource_type,
                      string_agg(concat(day - date '1970-01-01', ' ', n), ' ') filter (where {where}), sum(n)
               from ({source}) as part (day, event, resource_type, n)
               group by 1, 2) as found (event, resource_type, days, n)) as overview"""


def _read_overview(rows: Iterable[Row], *, is_whole: bool) -> Overview:
    days: dict[str, dict[int, int]] = {}
    kinds: dict[tuple[str, str], int] = {}
    for row in rows:
        groups = msgspec.json.decode(row["overview"] or b"[]", type=list[tuple[str, str, str | None, int]])
        for event, kind, text, number in groups:
            kinds[event, kind] = kinds.get((event, kind), 0) + number
            of_event = days.setdefault(event, {})
            for day, of_day in _numbers(text):
                of_event[day] = of_event.get(day, 0) + of_day
    return Overview(days, kinds, is_whole)


async def _find_with_overview(
    snapshot: Snapshot, reader: Reader, listing: Listing, columns: str
) -> tuple[Found, Overview]:
    """A page whose place the counts tell, with the overview of all days: of the first page in two round trips."""
    [[known], [counted]] = await snapshot.ask(_activity_statement(listing), _counted_overview(reader, listing))
    activity = _read_activity(known)
    since = _overview_since(reader, listing, activity.counted_until)
    found = counts.stretches(listing.lower, listing.upper, activity)
    if listing.page != 1 or not found:
        [[live]] = await snapshot.ask(since)
        page = await _find_counted(snapshot, listing, columns, activity)
    else:
        reading = _Reading(listing.filters, activity.indexed)
        selecting = reading.select(columns, counts.newest(found, listing.page_size), listing.page_size)
        counting = _counting(listing.filters, found, activity.indexed)
        [numbers, rows, [live]] = await snapshot.ask(counting, selecting, since, is_last=True)
        page = Found(sum(each.known for each in _with_counts(found, numbers)), 1, listing.page_size, rows)
    return page, _read_overview([counted, live], is_whole=True)


def _overview_filters(reader: Reader, listing: Listing) -> tuple[str, str, dict[str, Any]]:
    """What is in the overview, what of it counts by day, and the values: the days narrow by kind of resource too."""
    filters = {name: value for name, value in listing.filters.items() if name not in ("event", "event_beginnings")}
    where = clauses({name: value for name, value in filters.items() if name != "resource_type"})
    # The day in which retention begins is shown in part only, and is left out.
    values = {**filters, "first": counts.day_of(reader.oldest) + counts.DAY}
    return where, clauses({name: filters[name] for name in filters if name == "resource_type"}), values


def _counted_overview(reader: Reader, listing: Listing) -> Statement:
    where, by_day, values = _overview_filters(reader, listing)
    if "performer_id" in listing.filters:
        counted = f"""
            select day, event, resource_type, entries from audit.daily_activity
            where day >= %(first)s::date and {OF_ACTOR} and {where}"""
    else:
        counted = f"""
            select (starts_at at time zone 'UTC')::date, event, resource_type, entries from audit.activity_total
            where part = 'day' and starts_at >= %(first)s and {where}"""
    return f"select {_groups(counted, by_day)}", values


def _overview_since(reader: Reader, listing: Listing, counted_until: datetime | None) -> Statement:
    where, by_day, values = _overview_filters(reader, listing)
    lower = max(counted_until or values["first"], values["first"])
    live = _by_reading("audit.timeline", f"{WITHIN} and {where}")
    return f"select {_groups(live, by_day)}", {**values, "lower": lower, "upper": reader.horizon}


async def _find_known(snapshot: Snapshot, listing: Listing, reading: _Reading, columns: str, count: int) -> Found:
    """A page that is found by reading, whose list is known to have so many entries."""
    number = _number_of(listing.page, count, listing.page_size)
    offset = (number - 1) * listing.page_size
    if offset >= count:
        return Found(count, number, listing.page_size, [])
    window = counts.Window(listing.lower, listing.upper, offset)
    [rows] = await snapshot.ask(reading.select(columns, window, listing.page_size), is_last=True)
    return Found(count, number, listing.page_size, rows)


@dataclass(frozen=True, slots=True)
class History:
    """The changes of one resource's rows, oldest first, and when tables of its kind were emptied by TRUNCATE.

    `is_cut`: there were more changes than are read at once; the oldest are missing.
    """

    changes: Sequence[Row]
    truncations: Sequence[Row]
    is_cut: bool


MOST_STEPS = 500


async def find_history(
    database: Database, reader: Reader, resource_type: str, resource_id: str, lower: datetime, upper: datetime
) -> History:
    """What changed the rows that belong to a resource: its own, its permissions and roles."""
    values = {
        "resource_type": resource_type,
        "resource_id": resource_id,
        "lower": lower,
        "upper": upper,
        "limit": MOST_STEPS + 1,
    }
    told = "id, created_at, event, operation, table_schema, table_name"
    subject = "context -> 'subject' ->> 'name' as subject_name, context -> 'subject' ->> 'id' as subject_id"
    steps = f"""
        select {told}, resource_name, row_key, subject_name, subject_id, {ROW_VALUES}
        from (
            select {told}, {subject}, resource_name, row_key, before, after from audit.timeline
            where resource_id = %(resource_id)s and resource_type = %(resource_type)s and {WITHIN}
              and row_count = 1 and operation in ('INSERT', 'UPDATE', 'DELETE')
            union all
            select {", ".join(f"e.{column}" for column in told.split(", "))}, null, null, c.resource_name, c.row_key,
                   c.before, c.after
            from (select * from audit.timeline_change where resource_id = %(resource_id)s and {WITHIN}) as c
            cross join lateral (
                select * from audit.timeline t where t.created_at = c.created_at and t.id = c.entry_id
                  and t.resource_type = %(resource_type)s offset 0) as e
            order by created_at desc, id desc limit %(limit)s) as step
        order by created_at desc, id desc"""
    # These name no resource: looked for among the deletions, by their events unless the table has its own.
    emptied = f"""
        select created_at, table_schema, table_name from audit.timeline
        where event in ('resource_deleted', 'permission_revoked', 'role_unassigned')
          and operation = 'TRUNCATE' and resource_type = %(resource_type)s and {WITHIN}"""
    async with _reading(database, reader) as snapshot:
        [found, truncations] = await snapshot.ask((steps, values), (emptied, values), is_last=True)
    return History(found[MOST_STEPS - 1 :: -1], truncations, len(found) > MOST_STEPS)


async def count_entries(database: Database, reader: Reader, listing: Listing) -> int:
    """How many entries a list has, on all its pages."""
    async with _reading(database, reader) as snapshot:
        return await _count(snapshot, listing)


async def find_troubles(database: Database) -> set[str]:
    """What is wrong with the log itself: late, bypassed, altered. What more readers may learn becomes a column here."""
    query = """
        select audit.upkeep_is_late() as late, audit.is_bypassed() as bypassed,
               coalesce((audit.integrity() ->> 'misfits')::bigint, 0) > 0 as altered"""
    async with database.reading() as snapshot:
        [[row]] = await snapshot.ask((query, {}), is_last=True)
    return {name for name, is_so in row.items() if is_so}


FIND_INTEGRITY = """
select (i ->> 'blocks')::bigint as blocks, (i ->> 'sealed_until')::timestamptz as sealed_until,
       (i ->> 'sealed_at')::timestamptz as sealed_at, (i ->> 'is_signed')::boolean as is_signed,
       (i ->> 'verified_at')::timestamptz as verified_at, (i ->> 'verified_from')::timestamptz as verified_from,
       (i ->> 'verified_until')::timestamptz as verified_until, (i ->> 'misfits')::bigint as misfit_count,
       now() as moment
from audit.integrity() i"""
FIND_MISFITS = """
select m ->> 'kind' as kind, m ->> 'entry_id' as entry_id
from jsonb_array_elements(audit.workspace_misfits()) with ordinality as m (m, position) order by position"""


@dataclass(frozen=True, slots=True)
class Integrity:
    """How the seals stand: `row` has blocks, sealed_until, sealed_at, is_signed, verified_at, verified_from,
    verified_until, misfit_count and moment (now); moments are null where there is nothing. `misfits` are the
    workspace's own of the last verification: kind and entry_id.
    """

    row: Row
    misfits: Sequence[Row]


async def find_integrity(database: Database, reader: Reader) -> Integrity:
    """How the seals stand, and what of this workspace did not fit when they were verified last."""
    async with _reading(database, reader) as snapshot:
        [[row], misfits] = await snapshot.ask((FIND_INTEGRITY, {}), (FIND_MISFITS, {}), is_last=True)
    return Integrity(row, misfits)


async def upkeep_is_late(database: Database) -> bool:
    """Whether the log's upkeep has not run when it should have."""
    async with database.reading() as snapshot:
        [[row]] = await snapshot.ask(("select audit.upkeep_is_late() as late", {}), is_last=True)
    return bool(row["late"])


# By length first: numbers then stand in their own order. As the index of a closed day has it, and then to the end.
_ORDER_OF_CHANGES = (
    "length(resource_id)",
    "left(resource_id, 150)",
    "length(row_key)",
    "left(row_key, 150)",
    "resource_id",
    "row_key",
)


def _only_page(rows: Sequence[Row], page: Page, page_size: int) -> Found:
    if page not in (1, "last"):
        raise InvalidPage
    return Found(len(rows), 1, page_size, rows)


def _columns(expand: Iterable[str]) -> str:
    wanted = ", ".join([COLUMNS, *(EXPANSIONS[name] for name in EXPANSIONS if name in expand)])
    return ", ".join(dict.fromkeys(column.strip() for column in wanted.split(",")))
