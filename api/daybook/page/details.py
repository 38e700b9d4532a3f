"""Details are one entry: its values side by side, its context, its rows a page at a time, and itself as JSON.

Whatever an entry holds, a page of it is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import Response, get
from litestar.enums import MediaType
from litestar.params import Parameter

from .. import answers, queries
from ..addresses import parse_query
from ..credentials import Reader
from ..database import Database, Row
from ..parameters import EXPANSIONS, parse_page, parse_page_size
from ..routes import AnyRequest, TheDatabase, TheReader, TheSettings, asked_by
from ..sentences import name_age, name_row, show, stored_values, write_line
from .differences import Budget, Field, write_fields
from .frame import PATH, Frame, Paging, headers, render
from .states import require_kept

EntryId = Annotated[str, Parameter()]


@get(PATH + "/entry/{entry_id:str}", include_in_schema=False)
async def show_entry(
    request: AnyRequest, reader: TheReader, database: TheDatabase, settings: TheSettings, entry_id: EntryId
) -> Response[bytes]:
    """One entry with a page of its rows."""
    require_kept(entry_id, reader)
    query = parse_query(request.scope["query_string"])
    frame = Frame.of(request, settings)
    entry = await queries.find_entry(database, reader, entry_id, for_page=True)
    page, page_size = parse_page(query), parse_page_size(query)
    found = await queries.find_changes(database, reader, entry, page, page_size, for_page=True)
    values = stored_values(entry)
    budget = Budget()
    is_bulk = entry["row_count"] > 1 or entry["operation"] == "TRUNCATE"
    line = write_line(entry, settings.catalogue, values)
    return render(
        "entry.html",
        frame,
        settings,
        reader=reader,
        line=line,
        age=name_age(line.moment, reader.moment),
        is_bulk=is_bulk,
        fields=[] if is_bulk else write_fields(values[: queries.SHOWN_COLUMNS], budget),
        more_columns=not is_bulk and len(values) > queries.SHOWN_COLUMNS,
        rows=[_row(row, entry, frame, budget) for row in found.rows] if is_bulk else [],
        facts=_facts(entry),
        links=_links(entry, frame),
        json=frame.entry(line.id, "/json"),
        found=found,
        paging=Paging.of(found, frame.entry(line.id).partition("?")[0], query),
    )


def _row(row: Row, entry: Row, frame: Frame, budget: Budget) -> tuple[str, str, str | None, list[Field], bool]:
    values = stored_values(row)
    resource_id = row["resource_id"]
    linked = resource_id is not None and len(resource_id) <= 500 and entry["resource_type"] != "audit_log"
    address = frame.resource(entry["resource_type"], resource_id) if linked else None
    shown = write_fields(values[: queries.SHOWN_COLUMNS], budget)
    return *name_row(row), address, shown, len(values) > queries.SHOWN_COLUMNS


def _facts(entry: Row) -> list[tuple[str, str]]:
    """What is known of an entry beside its values: labels and texts, of what is there."""
    table = f"{entry['table_schema']}.{entry['table_name']}" if entry["table_name"] else None
    actor = (
        entry["actor_name"]
        if entry["actor_name"] == entry["actor_id"]
        else f"{entry['actor_name']} ({entry['actor_id']})"
    )
    facts = {
        "Done by": f"{actor}, {entry['actor_type']}",
        "Reason": entry["reason"],
        "Request": entry["request_id"],
        "IP address": entry["ip"],
        "User agent": entry["user_agent"],
        "Metadata": entry["metadata"],
        "Recorded with it": entry["told"],
        "Not understood": entry["invalid"],
        "Event": entry["event"],
        "Table": table,
        "Row": entry["row_key"],
        "Rows changed": f"{entry['row_count']:,}" if entry["operation"] != "EVENT" else None,
        "Database login": entry["database_user"],
        "Transaction": str(entry["transaction_id"]) if entry["transaction_id"] is not None else None,
        "Entry": str(entry["id"]),
    }
    return [(label, show(text, queries.SHOWN_CHARACTERS)) for label, text in facts.items() if text]


def _links(entry: Row, frame: Frame) -> Sequence[tuple[str, str]]:
    """What else there is to see: of the same request, by the same user, of the same resource."""
    links = []
    if entry["request_id"] and len(entry["request_id"]) <= 500:
        links.append(("Everything in the same request", frame.filtered(request_id=entry["request_id"])))
    if len(entry["actor_id"]) <= 500:
        links.append((f"Everything by {show(entry['actor_name'], 60)}", frame.filtered(performer_id=entry["actor_id"])))
    resource_id = entry["resource_id"]
    if resource_id and len(resource_id) <= 500 and entry["resource_type"] != "audit_log":
        name = show(entry["resource_name"] or resource_id, 60)
        links.append((f"History of {name}", frame.resource(entry["resource_type"], resource_id)))
    return links


@get(PATH + "/entry/{entry_id:str}/json", include_in_schema=False)
async def show_entry_as_json(
    request: AnyRequest, reader: TheReader, database: TheDatabase, settings: TheSettings, entry_id: EntryId
) -> Response[bytes]:
    """One entry with all that is known of it, as the REST app answers it."""
    require_kept(entry_id, reader)
    written = await _as_json(database, reader, entry_id, asked_by(request, settings).base)
    return Response(written, media_type=MediaType.JSON, headers=headers(settings))


async def _as_json(database: Database, reader: Reader, entry_id: str, base: str) -> bytes:
    entry = await queries.find_entry(database, reader, entry_id)
    changes = await queries.first_changes(database, reader, [entry])
    body: Any = answers.write_entry(entry, base, frozenset(EXPANSIONS), changes)
    return msgspec.json.format(msgspec.json.encode(body), indent=2)
